"""`python -m outpost_manager` is the command `outpost`, where its script is not on the PATH."""

import os
import sys


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - nothing may be imported before the path is right
    except OSError:  # it was removed
        return ""


# Python looks for modules and packages in the current folder first when it is started with `-m`:
# one that came with somebody's repository would be imported in the place of ours, or as a plugin.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", _here()):
    del sys.path[0]

from outpost_manager.cli import main  # noqa: E402

main()
