"""Outpost backend for SSH hosts: the local outpost, run on the far machine."""
