"""A supervised SSH connection to a host: its configuration, its trust, and what can go wrong.

`link.Link` is what the rest uses; nothing here knows of workers.
"""
