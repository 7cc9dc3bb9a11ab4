"""The verbs of a worker's command line that are not `run`: they may take their time to start."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from outpost_core import wire
from outpost_core.errors import OutpostError

_USAGE = """\
usage: python -m outpost_core.worker run FOLDER
       python -m outpost_core.worker recover FOLDER
       python -m outpost_core.worker stop FOLDER [--grace SECONDS]
       python -m outpost_core.worker status FOLDER
"""


def main(argv: list[str]) -> int:
    """Run `recover`, `stop` or `status`, print JSON, and return the exit code."""
    try:
        match argv:
            case ["recover", folder]:
                from outpost_core.worker.recover import recover

                # it goes on when the terminal or the connection that started it goes
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                print(wire.dumps(recover(Path(folder))))
            case ["stop", folder, *rest]:
                from outpost_core.worker.stop import request

                request(Path(os.path.abspath(folder)), _grace(rest))
            case ["status", folder]:
                from outpost_core.worker.status import read

                print(wire.dumps(read(Path(os.path.abspath(folder)))))
            case _:
                sys.stderr.write(_USAGE)
                return 2
    except OutpostError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _grace(rest: list[str]) -> float:
    match rest:
        case []:
            return 10.0
        case ["--grace", text]:
            try:
                return float(text)
            except ValueError:
                pass
    raise OutpostError(f"{' '.join(rest)} is not --grace SECONDS")
