"""The container in which workers run: how it is built, and what is in it."""
