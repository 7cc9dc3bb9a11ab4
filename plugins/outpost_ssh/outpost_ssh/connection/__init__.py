"""A supervised SSH connection to a host: its configuration, its trust, and what can go wrong.

`host.RemoteHost` is what the rest uses; nothing here knows of workers.
"""
