"""The far side: the program in the container, which takes work over HTTP."""
