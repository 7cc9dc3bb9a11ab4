"""`outpost bootstrap`: what a worker needs, brought by constant POSIX shell scripts.

The same scripts run on this machine and on a far one, where Python itself may be missing. Whatever
differs from machine to machine (names, paths, addresses) reaches them as positional parameters.
"""
