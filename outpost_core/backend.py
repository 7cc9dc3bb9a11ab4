"""What a backend package writes: its options, its factory, and a base for its outposts."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from outpost_core.errors import PluginError, UnsupportedError
from outpost_core.types import Order


@dataclass(frozen=True, kw_only=True)
class OutpostOptions:
    """Options that every outpost has; a backend's own options dataclass inherits them.

    Fields become keys of `outposts.yaml`, flags of `outpost add TYPE` and rows of the
    configuration reference. Supported types: str, int, float, bool, `Path`, `tuple[str, ...]`,
    `dict[str, str]`, `StrEnum`s, each also `| None`, and `object` for what JSON can say; `option()`
    adds help and checks.
    """

    max_workers: int | None = field(default=None, metadata={
        "help": "slots: workers at once; without it unlimited, or by cores and memory for a local"
        " outpost beside others", "min": 0})  # fmt: skip
    cost_cap_hourly: float | None = field(default=None, metadata={
        "help": "USD that may be reserved and spent here in any hour", "min": 0})  # fmt: skip

    def default_slots(self) -> tuple[int, str] | None:
        """Return the sensible `max_workers`, and where it comes from; None for no limit.

        It holds once there is a second outpost that can take what is over. Quick; asks nobody.
        """
        return None

    def standing_cost(self) -> float:
        """Return the USD an hour that the outpost costs without a worker; quick, asks nobody."""
        return 0.0

    def warnings(self, answer_timeout: float) -> Mapping[str, str]:  # noqa: ARG002
        """Return what is valid but probably a mistake, for `outpost config check`; pure.

        Args:
            answer_timeout: seconds that every outpost has for an answer (`defaults`).

        Returns:
            For the name of an option, what comes of its value, and what to write instead.
        """
        return {}


def option(
    help: str,  # noqa: A002 - reads well at the call
    *,
    default: Any = ...,
    min: float | None = None,  # noqa: A002
    max: float | None = None,  # noqa: A002
    unit: str = "",
    secret: bool = False,
    metavar: str = "",
    each: bool = False,
) -> Any:
    """Describe one field of an options dataclass.

    Args:
        help: one line for the reference and `--help`.
        default: its default; left out: required.
        min: smallest allowed number.
        max: largest allowed number.
        unit: `duration` accepts `30m` in YAML and gives seconds; `bytes` accepts `2GiB`.
        secret: never shown.
        metavar: what `--help` shows for the value.
        each: `outpost add` takes several values of it, and adds an outpost for each.
    """
    metadata = {"help": help, "min": min, "max": max, "unit": unit, "secret": secret}
    metadata |= {"metavar": metavar, "each": each}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What the manager hands to a factory.

    Args:
        state_dir: this outpost's own folder under the state folder, private, may not exist yet.
        config_dir: folder of `outposts.yaml`, to resolve relative paths; None without a file.
        trusts: whether the user has trusted a found file as it is now (`outpost trust`).
        ordered: finds the order of a worker in the ledger, for an outpost that knows nothing of it.
    """

    state_dir: Path
    config_dir: Path | None = None
    trusts: Callable[[Path], bool] = field(default=lambda _: False, repr=False, compare=False)
    ordered: Callable[[str], Awaitable[Order | None]] | None = field(default=None, compare=False)


class Dialogue(Protocol):
    """How a backend talks to the person who adds an outpost."""

    #: `--trust-on-first-use` was said: what is shown may be believed without a question.
    trust: bool

    def say(self, line: str) -> None:
        """Show one line."""

    def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question; False where nobody can be asked."""


Introduce: TypeAlias = Callable[[str, Any, "BuildContext", Dialogue], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One outpost type.

    Args:
        type: the word in `outposts.yaml`.
        options: dataclass that inherits `OutpostOptions`, or where it is: `module:Class`.
        build: `(name, options, context)` → the outpost object, or where that is: as text, it is
            imported when an outpost of the type is first used. Opens nothing.
        summary: one line for `outpost backends`.
        capabilities: what its outposts can at most do.
        introduce: `(name, options, context, dialogue)` → options to write besides the user's;
            called by `outpost add` before anything is written, to look at the place and pin its
            identity. Raises an OutpostError when it is not to be added.
    """

    type: str
    options: builtins.type[OutpostOptions] | str
    build: Callable[[str, Any, BuildContext], Outpost] | str
    summary: str
    capabilities: frozenset[str] = frozenset()
    introduce: Introduce | None = None

    @property
    def options_class(self) -> builtins.type[OutpostOptions]:
        """The dataclass of its options."""
        options = self.options
        return _found(options) if isinstance(options, str) else options

    def make(self, name: str, options: OutpostOptions, context: BuildContext) -> Outpost:
        """Build an outpost; see `build`."""
        build = _found(self.build) if isinstance(self.build, str) else self.build
        return build(name, options, context)


def _found(where: str) -> Any:
    """Import what `module:attribute` names; raises PluginError where that leads nowhere."""
    from importlib import import_module

    module, _, attribute = where.partition(":")
    found = import_module(module) if module and attribute else None
    if not hasattr(found, attribute):
        raise PluginError(f"{where!r} is no `module:name` of something that is there")
    return getattr(found, attribute)


class Outpost:
    """Base for outpost objects: identity, and nothing else.

    Subclasses add the hook methods, each marked with `@hookimpl`. Objects compare by identity
    (pluggy refuses two equal plugins), and hold no lazy property (pluggy evaluates them all).

    Args:
        name: the configured name.
        options: its validated options.
        context: where it may keep files.
    """

    type: ClassVar[str] = ""
    capabilities: frozenset[str] = frozenset()

    def __init__(self, name: str, options: OutpostOptions, context: BuildContext) -> None:
        self.name = name
        self.options = options
        self.context = context

    def kept_under(self) -> Path | None:
        """Return the folder of this machine under which kept work of its workers lies.

        None where they are on another machine, or nobody knows: then a path that it tells is never
        opened here.
        """
        return None

    async def viewer(self, worker: str) -> list[str]:
        """Return the argv that shows the worker on a terminal of the machine that it is on.

        For outposts that can be served to another machine; the caller runs it on a terminal.

        Raises:
            UnsupportedError: there is no such program.
        """
        raise UnsupportedError(f"{worker} cannot be shown on a terminal of {self.name}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"
