"""The worker's folder: what lies where, and how its small files are read and written.

::

    <root>/staging/           folders that are being made; what a crash left is swept
    <root>/workers/<id>/      one worker, private (0700)
    <root>/rigs/              shared bare mirrors

Everything here is imported by the lean supervisor: `os` and nothing heavier.
"""

from __future__ import annotations

import os

from outpost_shared import jsonfiles, plain
from outpost_shared.jsonfiles import MOST, parse, sync_folder
from outpost_shared.leanjson import dumps
from outpost_shared.plain import Broken, open_plain, write_all
from outpost_worker.folder import seal, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Broken", "open_plain", "parse", "sync_folder", "write_all"]

STAGING = "staging"
WORKERS = "workers"
RIGS = "rigs"
TRASH = "trash"  # made early: a full disk has no room for a folder

ORDER = "order.json"  # wire.to_json(order) with "digest" and "wire"; no value of a secret
LAUNCH = "launch.json"  # {"env", "root", "boot", …} for the agent's environment; see `truth`
SECRETS = "secrets.json"  # {name: value}; gone before the agent runs
CREDENTIALS = "git-credentials"  # user and password of the rig, for git's credential store
PROMPT = "prompt.md"  # in EXCHANGE
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
EXCHANGE = "exchange"  # what the agent is told of besides
BROKEN = "broken-git-"  # beginning of the names of what was `work/.git`, and had to be made anew

#: Bytes of disk that are taken for the result of a worker before it begins.
ROOM = 8192
#: Bytes that some of the files may have: those that say little, and the order with its texts.
_LIMITS = {CLAIM: 1 << 16, STATE: 1 << 18, STOP: 1 << 16, RESULT: 1 << 18, ORDER: 64 << 20}


def load(folder: str | int, name: str) -> dict[str, Any] | None:
    """Return the JSON object in `folder/name`; None when it is missing, not whole or broken.

    Raises:
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    try:
        return examine(folder, name)
    except Broken:
        return None


def examine(folder: str | int, name: str) -> dict[str, Any] | None:
    """Return the JSON object in `folder/name`; None when there is none.

    Args:
        folder: path or descriptor of the worker's folder.
        name: one of the names above.

    Raises:
        Broken: it is no plain file of ours, too large, or not a JSON object.
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    data = content(folder, name)
    return None if data is None else parse(name, data)


def content(folder: str | int, name: str) -> bytes | None:
    """Return what is in `folder/name`; None when there is none. Raises as `examine` does."""
    most = _LIMITS.get(name, MOST)
    if isinstance(folder, int):
        return plain.content(folder, name, most)
    return jsonfiles.content(folder, name, most)


def believed(folder: str, name: str) -> dict[str, Any] | None:
    """Return what the supervisor has left under a name of `seal.SIGNED`; None when there is none.

    Raises:
        Broken: it is no plain file of ours, or somebody else has written it.
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    try:
        at = plain.folder(folder)
    except FileNotFoundError:
        return None
    try:
        data = content(at, name)
        if data is None:
            return None
        try:
            own = sealed(folder, at)
        except Broken:
            value = parse(name, data)
            if name == RESULT and is_broken(value):
                return value
            raise
        return signed(own, name, data)
    finally:
        os.close(at)


def is_broken(result: dict[str, Any]) -> bool:
    """Whether a result says that its worker is broken: that is believed without a signature."""
    return result.get("state") == "lost" and result.get("reason") == "broken"


def signed(own: seal.Seal | None, name: str, data: bytes) -> dict[str, Any]:
    """Return what the content of a file says, which has to be signed where there is a seal.

    Raises:
        Broken: it is not signed, or is no JSON object.
    """
    return parse(name, data if own is None else own.unsign(name, data))


def sealed(folder: str, at: int) -> seal.Seal | None:
    """Return the seal of a worker; None for one of a version that made none.

    Raises:
        Broken: there is none although there should be.
        OSError: nobody can say.
    """
    try:
        about = examine(at, ORDER)
    except Broken:
        about = None
    return seal.of(folder, about, at)


def truth(folder: str) -> tuple[dict[str, Any], dict[str, Any], seal.Seal | None]:
    """Return what was ordered, as it is to be worked on, `launch.json`, and the seal of both.

    The rig is the one that `launch.json` names, where it names one: a repository of another
    machine is worked on through its copy here, while `order.json` stays what was ordered.

    Raises:
        Broken: one of the two is missing, or not what was published.
        OSError: nobody can say, since this process or its disk is in trouble.
    """
    at = plain.folder(folder)
    try:
        data = content(at, ORDER)
        if data is None:
            raise Broken(ORDER, "is missing")
        value = parse(ORDER, data)
        launch = content(at, LAUNCH)
        own = seal.of(folder, value, at)
        if own is not None:
            own.check(ORDER, data)
            own.check(LAUNCH, launch or b"")
        launched = {} if launch is None else parse(LAUNCH, launch)
        if own is None:
            launched.pop("reader", None)  # code: what is not sealed holds none
            launched.pop("record", None)  # nor commands
    finally:
        os.close(at)
    value["record"] = launched.get("record")
    left = (value["record"] or {}).get("timeout")
    if left is not None:  # of the time that it may run, its legs before have used some
        value["limits"]["timeout"] = left
    if value.get("rig") is not None:
        here = launched.get("rig")
        value["rig"] = here or value["rig"]
        if here and (value.get("delivery") or {}).get("push_url"):
            value["delivery"]["push_url"] = ""  # from the copy, that machine brings it there
    return value, launched, own


def root_of(folder: str) -> str:
    """Return the state root that a worker's folder is in."""
    return os.path.dirname(os.path.dirname(os.path.abspath(folder)))


def order(folder: str) -> dict[str, Any] | None:
    """Return the order as it is to be worked on; None when there is none that is believed.

    See `truth`.
    """
    try:
        return truth(folder)[0]
    except (Broken, FileNotFoundError):
        return None


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
    at = plain.folder(folder)
    try:
        plain.replace(at, name, _text(folder, at, name, value), sync=sync)
    finally:
        os.close(at)


def _text(folder: str, at: int, name: str, value: dict[str, Any]) -> bytes:
    """Return the JSON of a value, signed where others are to believe it."""
    data = dumps(value).encode("ascii")
    if name not in seal.SIGNED:
        return data
    try:
        own = sealed(folder, at)
    except Broken:  # nothing could prove it, so nothing is claimed
        return data
    return data if own is None else own.sign(name, data)


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
    at = plain.folder(folder)
    try:
        staged = plain.stage(at, name, _text(folder, at, name, value), sync=sync)
        try:
            os.link(staged, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
        except FileExistsError:
            return False
        finally:
            plain.drop(at, staged)
    finally:
        os.close(at)
    return True


def load_text(folder: str, name: str) -> str:
    """Return the text in `folder/name`, undecodable bytes included; "" when there is none."""
    try:
        data = content(folder, name)
    except Broken:
        return ""
    return (data or b"").decode("utf-8", "surrogateescape")


def write(path: str, data: bytes, *, sync: bool = False) -> None:
    """Write a private file (0600) in one step.

    Raises:
        OSError: it could not be written.
    """
    folder, name = os.path.split(path)
    at = plain.folder(folder)
    try:
        plain.replace(at, name, data, sync=sync)
    finally:
        os.close(at)


def make(path: str, data: bytes, *, sync: bool = False) -> None:
    """Write a new private file (0600) into a folder that nobody else sees yet.

    Raises:
        OSError: it could not be written.
    """
    folder, name = os.path.split(path)
    at = plain.folder(folder)
    try:
        plain.make(at, name, data, sync=sync)
    finally:
        os.close(at)


def discard(path: str) -> None:
    """Remove a file; fine when it is not there or cannot be removed."""
    folder, name = os.path.split(path)
    try:
        at = plain.folder(folder)
    except OSError:
        return
    plain.drop(at, name)
    os.close(at)


def open_own(path: str, flags: int) -> int:
    """Open a file of a worker's folder for writing, made where it is missing or is something else.

    Raises:
        OSError: it cannot be made.
    """
    folder, name = os.path.split(path)
    at = plain.folder(folder)
    try:
        return plain.own(at, name, flags)
    finally:
        os.close(at)


def make_fifo(path: str) -> int:
    """Make a FIFO in a worker's folder, in the place of whatever is there, and open it.

    Returns:
        its descriptor, open for both directions, so that it never ends when a writer goes.

    Raises:
        OSError: it cannot be made.
    """
    folder, name = os.path.split(path)
    at = plain.folder(folder)
    try:
        if not plain.is_fifo(at, name):
            plain.put_aside(at, name)
            os.mkfifo(name, 0o600, dir_fd=at)
        return plain.open_fifo(at, name, os.O_RDWR)
    finally:
        os.close(at)


def open_fifo(path: str) -> int:
    """Open a FIFO of ours in a worker's folder for writing.

    Raises:
        FileNotFoundError: there is none.
        Broken: it is something else.
        OSError: nobody reads from it (ENXIO), or nobody can say.
    """
    folder, name = os.path.split(path)
    at = plain.folder(folder)
    try:
        return plain.open_fifo(at, name, os.O_WRONLY)
    finally:
        os.close(at)


def keep_room(folder: str) -> None:
    """Take disk space for the result of a worker that is being published.

    Raises:
        OSError: there is no space even for that.
    """
    # written, not fallocate'd: four times cheaper, and takes the space just as well
    make(os.path.join(folder, RESULT_ROOM), b" " * ROOM)


def store_result(folder: str, result: dict[str, Any]) -> None:
    """Write `result.json`, the last and most precious file of a worker, into the kept room.

    What agents and tools said in it is made readable.

    Args:
        folder: the worker's folder.
        result: all keys of `types.Result`.

    Raises:
        OSError: not even the kept room could be used.
    """
    words.make_readable(result)
    at = plain.folder(folder)
    try:
        data = _text(folder, at, RESULT, result)
        # not truncated before it is written: that would give the room away
        fd = plain.own(at, RESULT_ROOM, os.O_WRONLY)
        try:
            write_all(fd, data)
            os.ftruncate(fd, len(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        plain.take_place(at, RESULT_ROOM, RESULT)
    finally:
        os.close(at)
