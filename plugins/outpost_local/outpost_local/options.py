"""What can be configured about a local outpost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from outpost_core.backend import OutpostOptions, option
from outpost_core.errors import UsageError

#: What a local outpost can at most do; without tmux, `attach` is missing.
CAPABILITIES: Final = frozenset(
    (
        *("clean", "attach", "nudge", "peek", "mail", "inbox", "facts", "doctor", "bootstrap"),
        "changes",
        *("interactive", "checkpoint", "rig", "local_rig", "secrets"),
    )
)


class Mode(StrEnum):
    """How workers are started."""

    AUTO = "auto"
    TMUX = "tmux"
    PROCESS = "process"


class Fence(StrEnum):
    """Whether agents are fenced off from what is not their work."""

    AUTO = "auto"
    REQUIRED = "required"
    OFF = "off"


class _Fenced(Protocol):
    @property
    def fence_write(self) -> tuple[str, ...]: ...
    @property
    def fence_hide(self) -> tuple[str, ...]: ...
    @property
    def fence_show(self) -> tuple[str, ...]: ...


def check_fence(options: _Fenced) -> None:
    """Refuse paths of a fence that nobody could find.

    Raises:
        UsageError: one is relative.
    """
    for name in ("fence_write", "fence_hide", "fence_show"):
        for path in getattr(options, name):
            if path != "~" and not path.startswith(("/", "~/")):
                raise UsageError(
                    f"{name}: {path[:80]!a} does not say where it is",
                    hint="write the whole path, or one that begins with ~/",
                )


@dataclass(frozen=True, kw_only=True)
class LocalOptions(OutpostOptions):
    """Options of an outpost of type `local`; all of them may be left out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a path of the fence is relative; the configuration adds its line.
        """
        check_fence(self)

    def default_slots(self) -> tuple[int, str]:
        """Return how many agents this machine carries: by its cores and its memory."""
        from outpost_local import resources

        return resources.slots()

    mode: Mode = option(
        "tmux: for interactive workers and attach; process: no attach; auto: tmux if installed",
        default=Mode.AUTO,
    )
    memory_floor: int | None = option(
        "refuse to start a worker when less memory is available",
        default=None, min=0, unit="bytes", metavar="SIZE",
    )  # fmt: skip
    disk_floor: int = option(
        "refuse to start a worker when less disk space is free under the state folder",
        default=256 * 1024 * 1024, min=0, unit="bytes", metavar="SIZE",
    )  # fmt: skip
    town_path: Path | None = option(
        "the Gas Town workspace; agents get it as GT_ROOT and GT_TOWN_ROOT",
        default=None, metavar="FOLDER",
    )  # fmt: skip
    state_path: Path | None = option(
        "where workers and mirrors of repositories live, if not under Outpost's state folder",
        default=None, metavar="FOLDER",
    )  # fmt: skip
    agent_path: tuple[str, ...] = option(
        "folders searched for agents before those of PATH", default=(), metavar="FOLDER"
    )
    fence: Fence = option(
        "auto: agents are fenced off by what this machine has for it; required: a worker without a"
        " fence is refused; off: agents may do all that you may",
        default=Fence.AUTO,
    )
    fence_write: tuple[str, ...] = option(
        "further files and folders that agents may write", default=(), metavar="PATH"
    )
    fence_hide: tuple[str, ...] = option(
        "further files and folders that agents cannot see into", default=(), metavar="PATH"
    )
    fence_show: tuple[str, ...] = option(
        "files and folders that are hidden otherwise, and that agents may read",
        default=(), metavar="PATH",
    )  # fmt: skip
    pass_env: tuple[str, ...] = option(
        "names of environment variables that every agent here gets", default=(), metavar="NAME"
    )
