"""The first file of the far server: `python -I -S boot.py`, run from the installed package."""

from __future__ import annotations

import sys

if not __package__:
    # last, so that no file of ours can stand before the standard library
    sys.path.append(__file__.rsplit("/", 3)[0])

if __name__ == "__main__":
    from outpost_ssh.far.serve import main

    sys.exit(main())
