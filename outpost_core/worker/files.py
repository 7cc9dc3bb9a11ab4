"""The worker's folder: what lies where, and how its small files are read and written.

::

    <root>/staging/           folders that are being made; what a crash left is swept
    <root>/workers/<id>/      one worker, private (0700)
    <root>/rigs/              shared bare mirrors

Everything here is imported by the lean supervisor: `os` and nothing heavier.
"""

from __future__ import annotations

import os
from _thread import get_ident

from outpost_core.worker.leanjson import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STAGING = "staging"
WORKERS = "workers"
RIGS = "rigs"
TRASH = "trash"  # made early: a full disk has no room for a folder

ORDER = "order.json"  # wire.to_json(order) with "digest" and "wire"; no value of a secret
LAUNCH = "launch.json"  # {"env", "root", "boot"} for the agent's environment; "rig": see `order`
SECRETS = "secrets.json"  # {name: value}; gone before the agent runs
CREDENTIALS = "git-credentials"  # user and password of the rig, for git's credential store
PROMPT = "prompt.md"
LOCK = "lock"  # flock of the supervisor or of the recovery
CLAIM = "supervisor.json"  # {"pid", "start", "boot", "at"}: this attempt has begun
STATE = "state.json"  # {"state", "detail", "updated_at", "phase", "usage", "agent": {pid, …}}
WORKSPACE = "workspace.json"  # what workspace.prepare returned
AGENT = "agent.json"  # how the agent ended, written before delivery
STOP = "stop.json"  # {"grace", "reason", "at"}: a stop was asked for
INPUT = "input"  # FIFO for nudges, interactive workers only
LOG = "output.log"
SCREEN = "screen"  # what an interactive agent's terminal showed at its end
RESULT = "result.json"  # wire.to_json(Result); written last
RESULT_ROOM = ".result.tmp"  # room for the result, taken from the start, for a full disk
DEBUG = "debug.log"  # tracebacks of defects, only when there was one
WORK = "work"
BROKEN = "broken-git-"  # beginning of the names of what was `work/.git`, and had to be made anew

#: Name of the secret that becomes CREDENTIALS and is not for the agent.
RIG_CREDENTIAL = "OUTPOST_RIG_CREDENTIAL"
#: ENOMEM, EIO, ENFILE, EMFILE: a file that cannot be read for these is not a missing one.
_TROUBLE = (12, 5, 23, 24)
#: Bytes of disk that are taken for the result of a worker before it begins.
ROOM = 8192


def load(folder: str, name: str) -> dict[str, Any] | None:
    """Return the JSON object in `folder/name`; None when it is missing or not whole.

    Raises:
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    try:
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            value = loads(file.read().decode("utf-8", "surrogateescape"))
    except OSError as error:
        if error.errno in _TROUBLE:
            raise
        return None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def root_of(folder: str) -> str:
    """Return the state root that a worker's folder is in."""
    return os.path.dirname(os.path.dirname(os.path.abspath(folder)))


def order(folder: str) -> dict[str, Any] | None:
    """Return the order as it is to be worked on; None when it is missing or not whole.

    Its rig is the one that `launch.json` names, where it names one: a repository of another
    machine is worked on through its copy here, while `order.json` stays what was ordered.
    """
    value = load(folder, ORDER)
    if value is not None and value.get("rig") is not None:
        here = (load(folder, LAUNCH) or {}).get("rig")
        value["rig"] = here or value["rig"]
        if here and (value.get("delivery") or {}).get("push_url"):
            value["delivery"]["push_url"] = ""  # from the copy, that machine brings it there
    return value


def store(folder: str, name: str, value: dict[str, Any], *, sync: bool = False) -> None:
    """Write a JSON object to `folder/name` so that readers see the old or the new one, whole.

    Args:
        folder: the worker's folder.
        name: one of the names above.
        value: what to write.
        sync: reach the disk before the new one shows.

    Raises:
        OSError: it could not be written; the old one stays.
    """
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{get_ident()}")
    try:
        write(temporary, dumps(value).encode("ascii"), sync=sync)
        os.rename(temporary, os.path.join(folder, name))
    except OSError:
        discard(temporary)
        raise


def store_once(folder: str, name: str, value: dict[str, Any], *, sync: bool = False) -> bool:
    """Write a JSON object to `folder/name`, whole, unless there is one: it never changes again.

    Any number of threads and processes may try at once; by `link`, one of them wins.

    Args:
        folder: the worker's folder.
        name: one of the names above, or of a backend's own.
        value: what to write.
        sync: reach the disk before it shows.

    Returns:
        Whether it is this one that stands there now.

    Raises:
        OSError: it could not be written.
    """
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{get_ident()}")
    try:
        write(temporary, dumps(value).encode("ascii"), sync=sync)
        os.link(temporary, os.path.join(folder, name))
    except FileExistsError:
        return False
    finally:
        discard(temporary)
    return True


def write(path: str, data: bytes, *, sync: bool = False) -> None:
    """Write a private file (0600).

    Raises:
        OSError: it could not be written.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` to a blocking descriptor.

    Raises:
        OSError: not all of it could be written.
    """
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def discard(path: str) -> None:
    """Remove a file; fine when it is not there or cannot be removed."""
    try:  # noqa: SIM105 - contextlib would have to be imported
        os.unlink(path)
    except OSError:
        pass


def sync_folder(path: str) -> None:
    """Bring the names in a folder to the disk.

    Raises:
        OSError: the disk said no.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def keep_room(folder: str) -> None:
    """Take disk space for the result now.

    Raises:
        OSError: there is no space even for that.
    """
    # written, not fallocate'd: four times cheaper, and takes the space just as well
    write(os.path.join(folder, RESULT_ROOM), b" " * ROOM)


def store_result(folder: str, result: dict[str, Any]) -> None:
    """Write `result.json`, the last and most precious file of a worker, into the kept room.

    Args:
        folder: the worker's folder.
        result: all keys of `types.Result`.

    Raises:
        OSError: not even the kept room could be used.
    """
    data = dumps(result).encode("ascii")
    path = os.path.join(folder, RESULT_ROOM)
    # not truncated before it is written: that would give the room away
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path, os.path.join(folder, RESULT))
