"""The first file of a worker's process: `python -I -S boot.py VERB FOLDER`.

Isolated (`-I`) and without site-packages (`-S`) Python starts in 6 ms instead of 25; so the
packages are found from where this file is, and where they lie apart (in a checkout), by what
`-X outpost=FOLDER:FOLDER` says. Kept tiny: what is run by path is compiled every time.
"""

from __future__ import annotations

import sys

if not __package__:
    # last, so that no file of ours can stand before the standard library
    sys.path.append(__file__.rsplit("/", 2)[0])
    sys.path += filter(None, str(sys._xoptions.get("outpost", "")).split(":"))  # noqa: SLF001 - documented


def main(argv: list[str]) -> int:
    """Run one verb and return the exit code."""
    if len(argv) == 2 and argv[0] == "run":
        from outpost_worker.run.supervise import run

        return run(argv[1])
    if len(argv) == 4 and argv[0] == "warm":
        from outpost_worker.warm.server import serve

        return serve(argv[1], argv[2])
    from outpost_worker.verbs import main as other

    return other(argv)


if __name__ == "__main__":
    import os

    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # everything is written: taking the interpreter apart would only cost a millisecond
    os._exit(code)
