"""`python -m outpost_core` is the command `outpost`, where its script is not on the PATH."""

from outpost_core.cli import main

main()
