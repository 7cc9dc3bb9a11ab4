"""The calls of the kernel that a fence is made of, which Python 3.11 has no functions for.

`_ctypes` is what `ctypes` itself is made of; without its Python half it costs 0.5 ms, not 2.5.
Every function raises OSError with the kernel's number, or does what it says.
"""

from __future__ import annotations

import _ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
_SIGCHLD = 17

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

ATTR_RDONLY = 1
ATTR_NODEV = 4

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
_AMBIENT_CLEAR_ALL = 4

#: The same on every architecture: calls since 2018 have one number everywhere (but on Alpha).
_MOUNT_SETATTR = 442
_CLONE3 = 435
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446

#: The number of `keyctl`, which the C library has no function for, by machine.
_KEYCTL = {
    "x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "s390x": 280,
    "ppc64le": 271, "i686": 288, "armv7l": 311,
}  # fmt: skip
_JOIN_SESSION_KEYRING = 1

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
#: `_LINUX_CAPABILITY_VERSION_3`, for this thread.
_CAPABILITIES = (0x20080522).to_bytes(4, "little") + bytes(4)


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001
    _type_ = "i"


class _Function(_ctypes.CFuncPtr):
    _flags_ = 1 | 8  # C's way to call, and `errno` is kept
    _restype_ = _Int


class _Held(_ctypes.CFuncPtr):
    _flags_ = 1 | 4 | 8  # as above, and the interpreter stays locked: it is Python's own, or forks
    _restype_ = _Int


_libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
_functions: dict[str, Any] = {}


def call(name: str, *arguments: int | bytes | None, what: str = "") -> int:
    """Call a function of the C library and return what it returns.

    Args:
        name: the function.
        arguments: numbers of 32 bits, zero-ended bytes, None for a null pointer.
        what: the path or thing that it is about, for the error.

    Raises:
        OSError: it returned -1, or this C library has no such function.
    """
    function = _functions.get(name)
    if function is None:
        function = _functions[name] = _Function(_ctypes.dlsym(_libc, name))
    done: int = function(*arguments)
    if done == -1:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or name)
    return done


def fork(flags: int) -> int:
    """Fork as `os.fork` does, but with the child in new namespaces from its first moment on.

    That saves the process between, which would make the namespaces and fork again. This process
    must have one thread only.

    Raises:
        OSError: the system refuses it, or this Python does not let itself be forked so.
    """
    names = ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child", "syscall")
    before, in_parent, in_child, call = (_Held(_ctypes.dlsym(_libc, name)) for name in names)
    # flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
    about = b"".join(value.to_bytes(8, "little") for value in (flags, 0, 0, 0, _SIGCHLD, 0, 0, 0))
    before()
    child: int = call(_CLONE3, about, len(about))
    number = _ctypes.get_errno()
    if child == 0:
        in_child()
    else:
        in_parent()
    if child < 0:
        raise OSError(number, os.strerror(number), "clone3")
    return child


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    call("unshare", flags)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount; names that the kernel does not look at may be ""."""
    call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(kind),
        flags,
        os.fsencode(data),
        what=target,
    )


def attributes(path: str, *, put: int = 0, take: int = 0, whole: bool = False) -> None:
    """Change the attributes of a mount.

    Args:
        path: where it is mounted.
        put: what it gets.
        take: what it loses.
        whole: the mounts below it, too.
    """
    about = b"".join(number.to_bytes(8, "little") for number in (put, take, 0, 0))
    flags = _AT_RECURSIVE if whole else 0
    call(
        "syscall", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, about, len(about), what=path
    )


def prctl(option: int, value: int = 0) -> None:
    """Change something about this process."""
    call("prctl", option, value, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every right of root for good, in this namespace and for all that is executed."""
    number = 0
    while True:
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:  # that was the last one
            if number == 0:
                raise
            break
        number += 1
    prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    call("capset", _CAPABILITIES, bytes(24))


def forbid_new_rights() -> None:
    """Let no program that is executed from now on get more rights than we have."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def leave_keyring() -> None:
    """Get an empty session keyring, where the kernel has any: the caller's may hold pendings."""
    number = _KEYCTL.get(os.uname().machine)
    if number is None:
        return
    try:  # noqa: SIM105 - contextlib would have to be imported
        call("syscall", number, _JOIN_SESSION_KEYRING, None)
    except OSError:  # a kernel without keyrings, or a container that has none of them
        pass
