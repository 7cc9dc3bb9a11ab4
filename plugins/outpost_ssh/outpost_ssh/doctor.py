"""`outpost doctor` of a far machine: the connection and files here, then what the far side says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError
from outpost_core.names import redact
from outpost_core.types import Finding
from outpost_local.setup.runner import StepResult, ask
from outpost_local.setup.steps import GIT, TMUX
from outpost_ssh.scripts import FarShell

if TYPE_CHECKING:
    from outpost_ssh.options import SshOptions
    from outpost_ssh.reach import Reach

#: Seconds of difference between the clocks that are worth a word, and that are wrong.
WORTH_SAYING: Final = 2.0
WRONG: Final = 60.0


async def examine(
    outpost: Reach,
    rig: str | None,
    far: Callable[[str | None], Awaitable[Sequence[Finding]]],
) -> list[Finding]:
    """Return what was found, here and there.

    Args:
        outpost: which.
        rig: whether it could be pushed to from there, too; a path of this machine is pushed here.
        far: asks the far side's own doctor.
    """
    found = _key(outpost)
    host = outpost.host()
    try:
        await host.connection()
    except OutpostError as error:
        hint = error.hint
        return [*found, Finding(check="line", ok=False, detail=error.message, hint=hint)]
    found.append(_trust(outpost.options, host.peer))
    here = rig is not None and rig.startswith("/")
    try:
        found.append(await _latency(outpost))
        found += [await _clock(outpost), await _package()]
        found += await far(None if here else rig)
    except OutpostError as error:
        found.append(Finding(check="far side", ok=False, detail=error.message, hint=error.hint))
        found += await _without_python(outpost)
    if here:
        detail = f"{redact(str(rig))} is of this machine: work comes here and is pushed from here"
        found.append(Finding(check="rig", ok=True, detail=detail))
    return found


def _key(outpost: Reach) -> list[Finding]:
    """Look at the key that is configured; a public one means what an agent holds."""
    if outpost.options.ssh_key is None:
        return []
    key = (outpost.context.config_dir or Path()) / outpost.options.ssh_key.expanduser()
    if not key.is_file():
        return [
            Finding(
                check="key",
                ok=False,
                detail=f"{key} is not there",
                hint=f"correct ssh_key, or make one: ssh-keygen -t ed25519 -f {key}",
            )
        ]
    if key.stat().st_mode & 0o077 and b"PRIVATE KEY" in key.read_bytes():
        detail = f"other users can read {key}"
        return [Finding(check="key", ok=False, detail=detail, hint=f"chmod 600 {key}")]
    return [Finding(check="key", ok=True, detail=str(key))]


def _trust(options: SshOptions, peer: str) -> Finding:
    if options.host_key is not None:
        return Finding(check="line", ok=True, detail=f"{peer}, by the pinned host key")
    where = options.known_hosts or Path("~/.ssh/known_hosts")
    return Finding(check="line", ok=True, detail=f"{peer}, known by {where}")


async def _latency(outpost: Reach) -> Finding:
    await outpost.call("ping")  # the first one may connect and upload
    begun = time.perf_counter()
    await outpost.call("ping")
    took = (time.perf_counter() - begun) * 1000
    return Finding(check="latency", ok=True, detail=f"a question takes {took:.1f} ms")


async def _clock(outpost: Reach) -> Finding:
    skew = (await outpost.client()).hello.skew
    side = "ahead" if skew > 0 else "behind"
    if abs(skew) <= WORTH_SAYING:
        return Finding(check="clock", ok=True, detail="as here")
    return Finding(
        check="clock",
        ok=None if abs(skew) <= WRONG else False,
        detail=f"{abs(skew):.0f} s {side}; ages are shown by the clock here",
        hint="sudo timedatectl set-ntp true there",
    )


async def _package() -> Finding:
    from outpost_ssh.package import package

    address = (await asyncio.to_thread(package)).address
    return Finding(check="package", ok=True, detail=f"version {address} runs there")


async def _without_python(outpost: Reach) -> list[Finding]:
    """Ask by shell scripts what the far side lacks, when it could not be started."""
    shell = FarShell(outpost.host())
    asked: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
        ("system", "system", ("look",)),
        ("python", "python", ("look", outpost.options.python)),
        ("git", "program", ("look", "git", "--version", GIT)),
        ("tmux", "program", ("look", "tmux", "-V", TMUX)),
        ("logout", "linger", ("look",)),
    )
    found = []
    for check, script, args in asked:
        try:
            found.append(_finding(check, await ask(shell, script, *args), outpost.name))
        except OutpostError as error:
            return [*found, Finding(check=check, ok=False, detail=error.message, hint=error.hint)]
    return found


def _finding(check: str, answer: StepResult, name: str) -> Finding:
    if answer.state == "ok":
        return Finding(check=check, ok=True, detail=answer.detail)
    needed = check in ("system", "python", "git")
    detail = answer.detail
    hint = answer.hint
    if answer.state == "would":
        detail, hint = "missing or too old there", f"outpost bootstrap {name} ({answer.detail})"
    return Finding(check=check, ok=False if needed else None, detail=detail, hint=hint)
