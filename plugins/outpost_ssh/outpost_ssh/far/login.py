"""What the login of a far machine sets up for a person, and sshd for a command does not.

The shell that sshd starts for a command is no login shell: `~/.profile` is not read, so that
tmux, git or an agent in `~/.local/bin` would not be found. A login shell is asked once.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds after which a login shell is given up.
PATIENCE: Final = 5.0
#: Bytes of its output that are looked at.
_MOST: Final = 1 << 20
#: What belongs to one connection; agents outlive it, and shall not believe in it.
OF_THE_CONNECTION: Final = ("SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "SSH_ORIGINAL_COMMAND")
#: What a shell sets for itself.
_OF_THE_SHELL: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "_", "TERM"})


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a login shell makes of an environment.

    Args:
        environ: what sshd gave us.

    Returns:
        The variables of a login; `environ` where no shell tells them within five seconds. What
        belongs to the connection is in neither, and a forwarded agent's socket wins.
    """
    env = {name: value for name, value in environ.items() if name not in OF_THE_CONNECTION}
    told = _ask(env)
    for name in (*OF_THE_CONNECTION, *_OF_THE_SHELL):
        told.pop(name, None)
    forwarded = {name: env[name] for name in ("SSH_AUTH_SOCK",) if name in env}
    return {**env, **told, **forwarded}


def _ask(env: Mapping[str, str]) -> dict[str, str]:
    mark = f"outpost-{secrets.token_hex(8)}"
    script = f"printf '%s' {mark}; env -0; printf '%s' {mark}"
    try:
        process = subprocess.Popen(
            [_shell(env), "-lc", script],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return {}
    try:
        said = _read(process, mark.encode())
    finally:
        _end(process)  # a profile may have left something behind, or still be at it
    _, _, rest = said.partition(mark.encode())
    listed, end, _ = rest.partition(mark.encode())
    if not end:
        return {}
    found = (os.fsdecode(entry).partition("=") for entry in listed.split(b"\0"))
    return {name: value for name, equals, value in found if equals and name}


def _read(process: subprocess.Popen[bytes], mark: bytes) -> bytes:
    """Read until the mark has come twice; what a profile started may never let go of the pipe."""
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + PATIENCE
    while said.count(mark) < 2 and len(said) < _MOST:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            break
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            break
        said += data
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _shell(env: Mapping[str, str]) -> str:
    """Return the user's shell."""
    shell = env.get("SHELL", "")
    if not shell.startswith("/"):
        try:
            shell = pwd.getpwuid(os.getuid()).pw_shell
        except KeyError:
            shell = ""
    return shell or "/bin/sh"
