"""`python -m outpost_cloudrun.server`: takes work over HTTP until it is told to end."""

from __future__ import annotations

import os
import sys

_USAGE = """\
usage: python -m outpost_cloudrun.server          serve the work protocol on $PORT
       python -m outpost_cloudrun.server job      run the order in $OUTPOST_ORDER to its end
       python -m outpost_cloudrun.server --help   say this

See docs/reference/work-protocol.md for the protocol and the environment.
"""


def main(argv: list[str]) -> int:
    """Run the program; returns the exit code."""
    from outpost_core.errors import OutpostError

    try:
        if not argv:
            from outpost_cloudrun.server.serving import serve
            from outpost_cloudrun.server.settings import take

            return serve(take(os.environ))
        if argv == ["job"]:
            from outpost_cloudrun.server.job import body_of, run
            from outpost_cloudrun.server.settings import take

            body = body_of(os.environ)
            return run(take(os.environ), body)
        wants_help = argv in (["--help"], ["-h"])
        (sys.stdout if wants_help else sys.stderr).write(_USAGE)
        return 0 if wants_help else 2
    except OutpostError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
