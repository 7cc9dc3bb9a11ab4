"""`python -m outpost_k8s.far`: runs the order of its pod, or serves it to whoever execs into it."""

from __future__ import annotations

import os
import sys

_USAGE = """\
usage: python -m outpost_k8s.far run      run the order of this pod to its end
       python -m outpost_k8s.far serve    answer what is asked about it, on its standard streams

Jobs are made by `outpost spawn`; see docs/guides/kubernetes.md.
"""


def main(argv: list[str]) -> int:
    """Run the program; returns the exit code."""
    from outpost_core.errors import OutpostError
    from outpost_k8s.far.settings import take

    try:
        if argv == ["run"]:
            from outpost_k8s.far.run import run

            return run(take(os.environ))
        if argv == ["serve"]:
            from outpost_k8s.far.serve import serve

            return serve(take(os.environ))
    except OutpostError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    wants_help = argv in (["--help"], ["-h"])
    (sys.stdout if wants_help else sys.stderr).write(_USAGE)
    return 0 if wants_help else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
