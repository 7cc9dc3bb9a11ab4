"""What a worker needs on this machine, looked at one by one."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from outpost_agents.presets import PRESETS
from outpost_core.agents import AgentPreset, logged_in
from outpost_core.errors import OutpostError
from outpost_core.types import Finding
from outpost_local import fencing, resources
from outpost_local.options import LocalOptions, Mode
from outpost_shared import children
from outpost_worker.recovery import cleaning
from outpost_worker.system import fitness

#: What is said of an agent that is not there.
NOT_INSTALLED: Final = "not installed"
_TIMEOUT: Final = 5.0
_TMUX_NEEDED: Final = (3, 0)
#: The first tmux that can be told not to pass on what is wrapped to get past it.
_TMUX_CLOSED: Final = (3, 3)
_GIT_NEEDED: Final = (2, 25)


async def examine(
    root: Path,
    options: LocalOptions,
    path: str,
    rig: str | None = None,
    *,
    installs: Callable[[AgentPreset], str],
) -> list[Finding]:
    """Return the findings of `outpost doctor`.

    Args:
        root: the state root.
        options: the outpost's options.
        path: the PATH that agents get.
        rig: whether it can be pushed to, too.
        installs: the command that installs an agent, as whoever reads the findings can give it.
    """
    findings = await asyncio.gather(
        _tmux(options.mode), _git(path), _linger(), _rig(rig), _lfs(path)
    )
    return [
        *findings[:2],
        findings[4],
        _python(),
        _system(),
        await asyncio.to_thread(fencing.examine, options),
        _state(root),
        _memory(options.memory_floor),
        _disk(root, options.disk_floor),
        *await asyncio.to_thread(_leftovers, root),
        findings[2],
        *_town(options.town_path),
        *_agents(path, installs),
        *findings[3],
    ]


async def output(*argv: str) -> str | None:
    """Return what a command prints; None when it is missing, fails or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        text, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT)
    except TimeoutError:
        return None
    finally:
        await children.end(process)  # it may be ending by itself at this very moment
    return text.decode("utf-8", "replace").strip() if process.returncode == 0 else None


def version(text: str) -> tuple[int, int]:
    """Return major and minor of the first version in `text`; (0, 0) when there is none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


async def _tmux(mode: Mode) -> Finding:
    if mode is Mode.PROCESS:
        return Finding(check="tmux", ok=True, detail="not used: `mode: process`")
    said = await output("tmux", "-V") if shutil.which("tmux") else None
    if said is None:
        return Finding(
            check="tmux",
            ok=False if mode is Mode.TMUX else None,
            detail="not installed; workers run as detached processes, without attach"
            if mode is Mode.AUTO
            else "not installed",
            hint="sudo apt install tmux",
        )
    if version(said) < _TMUX_NEEDED:
        return Finding(
            check="tmux", ok=False, detail=f"{said} is too old", hint="install tmux 3.0 or newer"
        )
    if version(said) < _TMUX_CLOSED:
        return Finding(
            check="tmux",
            ok=None,
            detail=f"{said} passes on to your terminal what an agent wraps for it (DCS tmux;), "
            "when you attach",
            hint="install tmux 3.3 or newer, or look with: outpost logs -f WORKER",
        )
    return Finding(check="tmux", ok=True, detail=said)


async def _lfs(path: str) -> Finding:
    lfs = shutil.which("git-lfs", path=path)
    said = await output(lfs, "version") if lfs else None
    if said is None:
        return Finding(
            check="git-lfs",
            ok=None,
            detail="not installed; orders for repositories with large files are refused",
            hint="sudo apt install git-lfs",
        )
    return Finding(check="git-lfs", ok=True, detail=said.split(" ")[0])


async def _git(path: str) -> Finding:
    git = shutil.which("git", path=path)
    said = await output(git, "--version") if git else None
    if said is None:
        return Finding(check="git", ok=False, detail="not installed", hint="sudo apt install git")
    good = version(said) >= _GIT_NEEDED
    return Finding(
        check="git", ok=good, detail=said, hint="" if good else "install git 2.25 or newer"
    )


async def _linger() -> Finding:
    if not Path("/run/systemd/system").exists():  # noqa: ASYNC240 - never a slow disk
        return Finding(check="logout", ok=True, detail="no systemd here to end workers at logout")
    user = str(os.getuid())
    said = await output("loginctl", "show-user", user, "--property=Linger", "--value")
    if said == "yes":
        return Finding(check="logout", ok=True, detail="workers survive a logout (linger is on)")
    return Finding(
        check="logout",
        ok=None,
        detail="systemd may end workers when you log out (linger is off)",
        hint="loginctl enable-linger",
    )


async def _rig(rig: str | None) -> list[Finding]:
    if rig is None:
        return []
    from outpost_local.rigcheck import CHECK, push_rights

    try:
        return [await asyncio.to_thread(push_rights, rig)]
    except OutpostError as error:
        return [Finding(check=CHECK, ok=False, detail=error.message, hint=error.hint)]


def _python() -> Finding:
    return Finding(
        check="python", ok=True, detail=f"{platform.python_version()} ({sys.executable})"
    )


def _system() -> Finding:
    if why := fitness.unfit():
        hint = "mount /proc" if platform.system() == "Linux" else fitness.ELSEWHERE
        return Finding(check="system", ok=False, detail=why, hint=hint)
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        detail = f"{boot} is missing: a restart of this machine cannot be noticed"
        return Finding(check="system", ok=False, detail=detail, hint="let all of /proc be seen")
    return Finding(check="system", ok=True, detail=f"{platform.system()} {platform.release()}")


def _state(root: Path) -> Finding:
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            check="state",
            ok=False,
            detail=f"{there} cannot be written",
            hint="set OUTPOST_STATE or `state_path` to a folder of yours",
        )
    if there == root and root.stat().st_mode & 0o077:
        return Finding(
            check="state",
            ok=False,
            detail=f"other users can look into {root}",
            hint=f"chmod 700 {root}",
        )
    return Finding(check="state", ok=True, detail=str(root))


def _memory(floor: int | None) -> Finding:
    memory = resources.available_memory()
    if memory is None:
        return Finding(check="memory", ok=None, detail="the system does not say")
    detail = f"{resources.size(memory)} available"
    if floor is not None and memory < floor:
        return Finding(
            check="memory",
            ok=False,
            detail=f"{detail}, below the floor of {resources.size(floor)}",
            hint="end something, or lower `memory_floor`",
        )
    return Finding(check="memory", ok=True, detail=detail)


def _disk(root: Path, floor: int) -> Finding:
    try:
        disk = resources.free_disk(root)
    except OSError as error:
        return Finding(check="disk", ok=False, detail=f"{root}: {error.strerror}")
    detail = f"{resources.size(disk)} free at {root}"
    if disk < floor:
        return Finding(
            check="disk",
            ok=False,
            detail=f"{detail}, below the floor of {resources.size(floor)}",
            hint="outpost clean, or make room",
        )
    return Finding(check="disk", ok=True, detail=detail)


def _leftovers(root: Path) -> list[Finding]:
    """Try once more to remove what was discarded; name what nobody but its owner can remove."""
    left = cleaning.empty_trash(root)
    if not left:
        return []
    more = f", and {len(left) - 1} more" if len(left) > 1 else ""
    remover = "" if os.geteuid() == 0 else "sudo "
    return [
        Finding(
            check="leftovers",
            ok=False,
            detail=f"files of cleaned workers cannot be removed: {left[0]}{more}",
            hint=f"{remover}rm -rf {shlex.quote(str(root / cleaning.TRASH))}/*",
        )
    ]


def _town(town: Path | None) -> list[Finding]:
    if town is None:
        return []
    if (town.expanduser() / "mayor" / "town.json").is_file():
        return [Finding(check="town", ok=True, detail=str(town))]
    return [
        Finding(
            check="town",
            ok=False,
            detail=f"{town} is not a Gas Town workspace: mayor/town.json is missing",
            hint="correct `town_path`",
        )
    ]


def _agents(path: str, installs: Callable[[AgentPreset], str]) -> list[Finding]:
    findings = []
    for name, preset in PRESETS.items():
        argv = preset.headless or preset.interactive or (name,)
        found = shutil.which(argv[0], path=path)
        findings.append(
            _login(preset, found)
            if found
            else Finding(
                check=f"agent {name}", ok=None, detail=NOT_INSTALLED, hint=installs(preset)
            )
        )
    return findings


def _login(preset: AgentPreset, path: str) -> Finding:
    """Say where an agent is, and whether a login of it can be seen."""
    if logged_in(preset, os.environ) is not False:
        return Finding(check=f"agent {preset.name}", ok=True, detail=path)
    key = f", or set {preset.secrets[0]} where you type the order" if preset.secrets else ""
    return Finding(
        check=f"agent {preset.name}",
        ok=None,
        detail=f"{path}; no login of it was seen here",
        hint=f"{preset.login or 'log in'}{key}",
    )
