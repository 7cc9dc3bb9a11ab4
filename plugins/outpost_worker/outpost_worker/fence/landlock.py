"""Landlock: what the kernel lets a process and all its children do, without any rights needed.

Beside the namespaces it closes what they leave open: abstract sockets of others, and signals where
there is no process namespace. Where namespaces are refused, its file rules are the fence. They only
ever allow, so that what is to be hidden is left out: everything beside it is allowed by name.
"""

from __future__ import annotations

import os

from outpost_worker.fence import calls
from outpost_worker.fence.places import DEVICES, HIDE, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
#: All of ABI 1; REFER came with 2, TRUNCATE with 3, IOCTL_DEV with 5.
_FIRST = (1 << 13) - 1
_SINCE = {2: 1 << 13, 3: _TRUNCATE}
_SCOPE_SOCKETS = 1 << 0
_SCOPE_SIGNALS = 1 << 1
#: The first ABI with scopes.
SCOPES = 6

_OF_READING = _EXECUTE | _READ_FILE | _READ_DIR
#: What a rule for something that is no folder may say.
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
#: Names in one folder beside a hidden one that are allowed one by one; in a larger one, the folder
#: as a whole is left out.
_MOST = 4096


def version() -> int:
    """Return the ABI of Landlock in this kernel; 0 where there is none, or it is switched off."""
    try:
        return calls.call("syscall", calls.LANDLOCK_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def scope() -> bool:
    """Let this process and its children reach abstract sockets and processes of their own only.

    Returns:
        Whether the kernel has that.

    Raises:
        OSError: it has, and refuses it.
    """
    if version() < SCOPES:
        return False
    _restrict(_ruleset(0, _SCOPE_SOCKETS | _SCOPE_SIGNALS))
    return True


def restrict(rules: Sequence[tuple[str, str]]) -> None:
    """Allow this process and its children nothing but what the rules say.

    Args:
        rules: paths with `HIDE`, `READ` or `WRITE`, each after what it lies in.

    Raises:
        OSError: this kernel has no Landlock, or refuses it.
    """
    abi = version()
    handled = _FIRST
    for since, right in _SINCE.items():
        handled |= right if abi >= since else 0
    scopes = _SCOPE_SOCKETS | _SCOPE_SIGNALS if abi >= SCOPES else 0
    ruleset = _ruleset(handled, scopes)
    by_path = dict(rules)
    for path, kind in _allowed("/", READ, by_path):
        _allow(ruleset, path, _rights(path, kind, handled))
        if path == DEVICES:
            _allow(ruleset, f"{DEVICES}/shm", handled)
    _restrict(ruleset)


def _rights(path: str, kind: str, handled: int) -> int:
    if path == DEVICES:  # devices are written, and none is made or removed
        return _OF_READING | _WRITE_FILE
    return handled if kind == WRITE else _OF_READING


def _allowed(folder: str, kind: str, rules: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what to allow so that the deepest rule of each path counts.

    A rule of the kernel is for all that is below, and none can take back what another gives. So a
    folder in which something is to be less is not allowed itself, but what is in it, one by one.
    """
    kind = rules.get(folder, kind)
    below = [path for path in rules if path.startswith("/" if folder == "/" else f"{folder}/")]
    if kind != HIDE and all(_less(kind, rules[path]) is False for path in below):
        yield folder, kind
        for path in below:
            if rules[path] != HIDE:
                yield path, rules[path]
        return
    if not below:
        return
    names = {path[len(folder.rstrip("/")) + 1 :].partition("/")[0] for path in below}
    if kind != HIDE:
        try:
            listed = os.listdir(folder)
        except OSError:
            listed = []
        if len(listed) <= _MOST:
            names.update(listed)
    for name in sorted(names):
        path = f"{folder.rstrip('/')}/{name}"
        if path in rules or any(deep.startswith(f"{path}/") for deep in below):
            yield from _allowed(path, kind, rules)
        elif not os.path.islink(path):
            yield path, kind


def _less(above: str, below: str) -> bool:
    order = (HIDE, READ, WRITE)
    return order.index(below) < order.index(above)


def _ruleset(handled: int, scopes: int) -> int:
    about = b"".join(number.to_bytes(8, "little") for number in (handled, 0, scopes))
    size = len(about) if scopes else 8  # an older kernel does not know the rest
    return calls.call("syscall", calls.LANDLOCK_CREATE_RULESET, about, size, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # it went away
        return
    try:
        if not os.path.isdir(f"/proc/self/fd/{fd}"):
            rights &= _OF_A_FILE
        about = rights.to_bytes(8, "little") + fd.to_bytes(4, "little")
        calls.call("syscall", calls.LANDLOCK_ADD_RULE, ruleset, _PATH_BENEATH, about, 0)
    finally:
        os.close(fd)


def _restrict(ruleset: int) -> None:
    calls.forbid_new_rights()
    try:
        calls.call("syscall", calls.LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
