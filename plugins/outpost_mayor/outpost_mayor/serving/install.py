"""Having the system keep the mayor running: a systemd user unit, or a launchd agent on macOS.

Files of the user alone, written whole; secrets go into a file of mode 0600 beside the
configuration, and never into the unit. What is claimed to run was asked of the system.
"""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.errors import OutpostError, UsageError
from outpost_core.types import check_env_name
from outpost_shared import jsonfiles, plain, programs
from outpost_shared.paths import config_dir, home

#: Names of the unit and of the agent.
UNIT: Final = "outpost-mayor.service"
LABEL: Final = "dev.outpost.mayor"
#: The file of secrets, in the user's configuration folder.
SECRETS: Final = "mayor.env"
#: Seconds that a program of the system may take.
_PATIENCE: Final = 30.0
#: Seconds of silence after which systemd starts the mayor anew.
_WATCHDOG: Final = 60
_HEAD: Final = "# NAME=value, a line each: what agents, accounts and notify need of secrets.\n"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an installation writes and runs.

    Args:
        unit: the file that the system reads.
        text: what is in it.
        secrets: the file of secrets.
        names: the secrets that are written into it.
        commands: what is run then, each with its words.
    """

    unit: Path
    text: str
    secrets: Path
    names: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


def plan(
    program: Sequence[str],
    environ: Mapping[str, str],
    *,
    names: Sequence[str] = (),
    macos: bool = False,
) -> Plan:
    """Return what an installation would do; changes nothing.

    Args:
        program: the command line of the mayor, with absolute paths.
        environ: where `HOME`, `PATH` and the like are.
        names: variables whose values go from there into the file of secrets.
        macos: a launchd agent instead of a systemd unit.

    Raises:
        UsageError: there is no home folder, a name is none, or its variable is not set.
    """
    own, house = config_dir(environ), home(environ)
    if own is None or house is None:
        raise UsageError("nobody knows your home folder", hint="export HOME=FOLDER")
    for name in names:
        check_env_name(name)
        if not environ.get(name):
            raise UsageError(f"{name} is not set, so its value cannot be kept",
                             hint=f"export {name}=…, and run it again")  # fmt: skip
        if "\n" in environ[name] or "\0" in environ[name]:
            raise UsageError(f"the value of {name} has several lines; no environment file takes it")
    secrets = own / SECRETS
    path = programs.outside(environ.get("PATH", os.defpath))
    argv = [*program, "--env-file", str(secrets)]
    if macos:
        return Plan(
            unit=house / "Library" / "LaunchAgents" / f"{LABEL}.plist",
            text=_agent(argv, path, house), secrets=secrets, names=tuple(names),
            commands=(("launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}"),
                      ("launchctl", "bootstrap", f"gui/{os.getuid()}",
                       str(house / "Library" / "LaunchAgents" / f"{LABEL}.plist"))),
        )  # fmt: skip
    base = own.parent / "systemd" / "user"
    return Plan(
        unit=base / UNIT, text=_unit(argv, path), secrets=secrets, names=tuple(names),
        commands=(("systemctl", "--user", "daemon-reload"),
                  ("systemctl", "--user", "enable", UNIT),
                  ("systemctl", "--user", "restart", UNIT)),
    )  # fmt: skip


def _unit(argv: Sequence[str], path: str) -> str:
    """Return a unit of systemd.service(5).

    `KillMode=process`: a stop or restart of the mayor ends the mayor alone, and no worker that it
    started, which are in the same group of processes for systemd.
    """
    return f"""\
# Written by `outpost serve --install`; `outpost serve --uninstall` removes it.
[Unit]
Description=Outpost mayor
After=network-online.target

[Service]
Type=notify
ExecStart={" ".join(map(_quoted, argv))}
ExecReload=/bin/kill -HUP $MAINPID
Environment={_quoted(f"PATH={path}")}
WorkingDirectory=%h
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2 6
WatchdogSec={_WATCHDOG}
KillMode=process
OOMPolicy=continue
TasksMax=infinity
TimeoutStopSec=30

[Install]
WantedBy=default.target
"""


def _quoted(word: str) -> str:
    """Return a word as systemd.syntax(7) has it: in quotes, `%` and `$` twice."""
    if any(c in word for c in "\n\r\0"):
        raise UsageError(f"{word[:80]!a} cannot stand in a unit of systemd")
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"'


def _agent(argv: Sequence[str], path: str, house: Path) -> str:
    log = house / "Library" / "Logs" / "outpost-mayor.log"
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": [*argv],
            "EnvironmentVariables": {"PATH": path},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "AbandonProcessGroup": True,
            "StandardErrorPath": str(log),
            "WorkingDirectory": str(house),
        }
    ).decode()


def install(made: Plan, environ: Mapping[str, str]) -> str:
    """Write the files, have the system start the mayor, and return how it says that it does.

    Raises:
        OutpostError: a file cannot be written, or the system does not run it.
    """
    try:
        for folder, mode in ((made.secrets.parent, 0o700), (made.unit.parent, 0o755)):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
        _keep_secrets(made, environ)
        _write(made.unit, made.text.encode())
    except OSError as error:
        raise OutpostError(f"{error.filename} cannot be written: {error.strerror}") from None
    first = made.commands[0][0]
    if shutil.which(first) is None:
        return f"{first} is not here: the files are written, and nothing was started"
    for argv in made.commands:
        code, said = _run(argv)
        if code and "bootout" not in argv:
            raise OutpostError(
                f"{' '.join(argv)} failed: {said}",
                hint="the files are written; see journalctl --user -u outpost-mayor",
            )
    return state(macos=first == "launchctl")


def uninstall(made: Plan) -> list[str]:
    """End the mayor, and remove what the system reads; workers and secrets stay.

    Returns:
        what was removed.
    """
    argv: tuple[str, ...] = made.commands[0]
    if argv[0] == "systemctl":
        argv = ("systemctl", "--user", "disable", "--now", UNIT)
    if shutil.which(argv[0]) is not None:
        _run(argv)
    try:
        made.unit.unlink()
    except FileNotFoundError:
        return []
    if argv[0] == "systemctl" and shutil.which("systemctl") is not None:
        _run(("systemctl", "--user", "daemon-reload"))
    return [str(made.unit)]


def state(*, macos: bool = False) -> str:
    """Return what the system says of the mayor: `active` and the like."""
    argv = ("launchctl", "print", f"gui/{os.getuid()}/{LABEL}") if macos else (
        "systemctl", "--user", "is-active", UNIT)  # fmt: skip
    code, said = _run(argv)
    if macos:
        found = re.search(r"state = (\w+)", said)
        return found[1] if found else "not there"
    return said or f"unknown ({code})"


def linger_hint() -> str:
    """Return how the mayor survives a logout; "" where it does, or nobody can say."""
    if shutil.which("loginctl") is None:
        return ""
    _, said = _run(("loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"))
    if said == "yes":
        return ""
    return "it ends with your last login; loginctl enable-linger has it stay"


def _run(argv: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            [*argv], capture_output=True, text=True, errors="replace", check=False,
            timeout=_PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()


def _keep_secrets(made: Plan, environ: Mapping[str, str]) -> None:
    """Write named values into the file of secrets; lines of other names stay as they are."""
    folder, name = str(made.secrets.parent), made.secrets.name
    before = jsonfiles.content(folder, name, 1 << 20)
    if before is not None and not made.names:
        return
    lines = [] if before is None else before.decode("utf-8", "surrogateescape").splitlines()
    kept = [line for line in lines if line.partition("=")[0].strip() not in made.names]
    text = "".join(f"{line}\n" for line in kept) if kept else _HEAD
    text += "".join(f"{each}={environ[each]}\n" for each in made.names)
    _write(made.secrets, text.encode("utf-8", "surrogateescape"))


def _write(path: Path, data: bytes) -> None:
    """Replace a file whole; nobody else can read it."""
    at = plain.folder(str(path.parent))
    try:
        plain.replace(at, path.name, data, sync=True)
    finally:
        os.close(at)
