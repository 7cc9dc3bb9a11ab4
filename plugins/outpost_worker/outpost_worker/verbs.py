"""The verbs of a worker's command line that are not `run`: they may take their time to start."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from outpost_core import wire
from outpost_core.errors import OutpostError, UsageError
from outpost_shared import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from outpost_core.types import Json

_USAGE = """\
usage: python -m outpost_worker publish ROOT <REQUEST
       python -m outpost_worker run FOLDER
       python -m outpost_worker recover FOLDER
       python -m outpost_worker stop FOLDER [--grace SECONDS]
       python -m outpost_worker status FOLDER
       python -m outpost_worker view FOLDER
       python -m outpost_worker list ROOT
       python -m outpost_worker logs ROOT WORKER OFFSET [--max BYTES] [--wait SECONDS]
       python -m outpost_worker serve [ROOT] [--start PROGRAM ARGUMENT ...]
       python -m outpost_worker clean FOLDER [--force]
       python -m outpost_worker fence
"""
#: Bytes of a log that `view` begins with.
_SHOWN = 64 * 1024


def main(argv: list[str]) -> int:
    """Run any verb but `run`, print JSON, and return the exit code."""
    try:
        match argv:
            case ["publish", root]:
                return _publish(Path(os.path.abspath(root)))
            case ["recover", folder]:
                from outpost_worker.recovery.recover import recover

                # it continues when the terminal or the connection that started it goes
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                print(wire.dumps(recover(Path(folder))))
            case ["stop", folder, *rest]:
                from outpost_worker.run.stop import request

                request(Path(os.path.abspath(folder)), _grace(rest))
            case ["status", folder]:
                from outpost_worker.folder.status import read

                print(wire.dumps(read(Path(os.path.abspath(folder)))))
            case ["list", root]:
                from outpost_worker.recovery.attend import Attendant

                told = Attendant(Path(os.path.abspath(root))).look()
                print("[{}]".format(",\n".join(map(wire.dumps, told))))
            case ["logs", root, worker, offset, *flags]:
                return _logs(Path(os.path.abspath(root)), worker, offset, flags)
            case ["serve", *words]:
                return _serve(words)
            case ["view", folder]:
                _view(Path(os.path.abspath(folder)))
            case ["fence"]:
                from outpost_worker.fence.probe import look

                print(json.dumps(look()))
            case ["clean", folder, *flags] if flags in ([], ["--force"]):
                from outpost_worker.recovery.cleaning import clean

                path = Path(os.path.abspath(folder))
                print(wire.dumps(clean(path.parent.parent, path, force=bool(flags))))
            case _:
                sys.stderr.write(_USAGE)
                return 2
    except OutpostError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _view(folder: Path) -> None:
    """Print the worker's log from shortly before its end on, until the worker has ended."""
    import asyncio

    from outpost_worker.folder import files, logs

    try:
        size = (folder / files.LOG).lstat().st_size
    except OSError:
        size = 0

    async def show() -> None:
        async for piece in logs.follow(folder, max(0, size - _SHOWN), follow=True):
            files.write_all(1, piece)

    asyncio.run(show())


def _publish(root: Path) -> int:
    """Make or adopt the worker of a `spawn` request, for programs in other languages.

    Reads the request's params (`order`, `secrets`, `digest`) from standard input. Prints its
    folder, whether it was made just now, whether it has begun, the argv that begins it, and its
    status; or an error as the protocol has it (see docs/reference/protocol.md).
    """
    from outpost_shared import protocol
    from outpost_worker.folder import publish, status
    from outpost_worker.serving import request

    secrets: dict[str, str] = {}
    try:
        try:
            params = protocol.decode(sys.stdin.buffer.read())
        except protocol.FrameError as error:
            raise UsageError(f"the request cannot be read: {error}") from None
        secrets = request.secrets_of(params)
        order = request.order_of(params, secrets)
        folder, made = publish.publish(root, order, programs.base_env(os.environ))
        found = status.read(folder)
        begun = status.started(folder)
        answer: dict[str, Json] = {"folder": str(folder), "made": made, "begun": begun}
        answer |= {"command": [*publish.command(folder)], "status": wire.to_json(found)}
    except OutpostError as error:
        request.mask(error, secrets)
        print(protocol.text({"error": protocol.error_to_json(error)}).decode())
        return error.exit_code
    print(protocol.text(answer).decode())
    return 0


def _serve(words: list[str]) -> int:
    """Serve a state folder: the one that is named, else the one that `type: exec` tells of."""
    from outpost_worker.serving.folder import serve

    at = words.index("--start") if "--start" in words else len(words)
    roots, start = words[:at], words[at + 1 :]
    root = roots[0] if roots else os.environ.get("OUTPOST_STATE_DIR", "")
    if len(roots) > 1 or not root or (at < len(words) and not start):
        sys.stderr.write(_USAGE)
        return 2
    return serve(Path(os.path.abspath(root)), start)


def _logs(root: Path, worker: str, offset: str, flags: list[str]) -> int:
    """Print a piece of a worker's log as the protocol's `logs` answers, or its error."""
    import asyncio

    from outpost_shared import protocol
    from outpost_worker.serving.folder import outpost
    from outpost_worker.serving.methods import Methods

    params: dict[str, Json] = {"worker": worker, "offset": _number(offset)}
    words = iter(flags)
    for flag in words:
        if flag not in ("--max", "--wait"):
            raise UsageError(f"{flag} is neither --max nor --wait")
        params[flag[2:]] = _number(next(words, ""))
    ask = Methods(outpost(root), {}, protocol.MAX_FRAME).get("logs")
    assert ask is not None, "every outpost has it"
    try:
        line, _ = protocol.packed({"": asyncio.run(ask(params))}, "", 0)  # type: ignore[arg-type]
        print(line.decode()[4:-2])
    except OutpostError as error:
        print(protocol.text({"error": protocol.error_to_json(error)}).decode())
        return error.exit_code
    return 0


def _number(word: str) -> float:
    try:
        return float(word) if not word.isdecimal() else int(word)
    except ValueError:
        raise UsageError(f"{ascii(word)[:80]} is not a number") from None


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
