"""The checks of the conformance kit as one registry, run the same by pytest and by the CLI."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from outpost_testing.trial import CheckFailed, Trial

if TYPE_CHECKING:
    from outpost_testing.target import Target

GROUPS: Final = (
    "load",
    "spawn",
    "outcome",
    "agent",
    "rescue",
    "list",
    "logs",
    "stop",
    "crash",
    "faults",
    "security",
    "mail",
    "scale",
)

_MODULES: Final = (
    "load",
    "spawn",
    "outcome",
    "agent",
    "rescue",
    "listing",
    "logs",
    "stop",
    "crash",
    "security",
    "hostile",
    "hostilegit",
    "hostilewords",
    "fencing",
    "mail",
    "scale",
)

CheckFunction: TypeAlias = Callable[[Trial], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One demand on an outpost.

    Args:
        id: `<group>.<name>`.
        group: one of `GROUPS`.
        demand: what is demanded, one sentence.
        run: does it; raises `CheckFailed` when the demand is not met.
        needs: capabilities without which the check says nothing.
        patience: the check may take this many times the target's `within`.
    """

    id: str
    group: str
    demand: str
    run: CheckFunction
    needs: frozenset[str]
    patience: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What came of one check.

    Args:
        id: `<group>.<name>`.
        group: the check's group.
        status: `passed`, `failed` or `not declared`.
        detail: why it failed, what was measured, or which capability is not declared.
        seconds: how long it took.
        log: of a failed check, the last lines that its workers printed.
        kept: the folder of a failed check's files, where the target says that they stay.
    """

    id: str
    group: str
    status: str
    detail: str
    seconds: float
    log: str = ""
    kept: str = ""

    @property
    def ok(self) -> bool:
        """Whether the outpost keeps what it declares."""
        return self.status != "failed"


_registry: Final[dict[str, Check]] = {}


def add_check(
    function: CheckFunction,
    group: str,
    name: str,
    demand: str,
    *,
    needs: Iterable[str] = (),
    patience: float = 2.0,
) -> None:
    """Put a check into the registry.

    Args:
        function: the check.
        group: one of `GROUPS`.
        name: unique within the group.
        demand: one sentence.
        needs: capabilities, `shared` or `cut`, without which the check says nothing.
        patience: it may take this many times the target's `within`.
    """
    check_id = f"{group}.{name}"
    if group not in GROUPS or check_id in _registry:
        raise ValueError(f"{check_id}: unknown group, or a second check of that name")
    _registry[check_id] = Check(
        id=check_id,
        group=group,
        demand=demand,
        run=function,
        needs=frozenset(needs),
        patience=patience,
    )


def check(
    group: str, *, needs: Iterable[str] = (), patience: float = 2.0
) -> Callable[[CheckFunction], CheckFunction]:
    """Register an async function as a check under its own name; its docstring is the demand."""

    def register(function: CheckFunction) -> CheckFunction:
        demand = " ".join((function.__doc__ or "").split())
        name = getattr(function, "__name__", "")
        add_check(function, group, name, demand, needs=needs, patience=patience)
        return function

    return register


def all_checks() -> tuple[Check, ...]:
    """Return every check, group by group."""
    for module in _MODULES:
        import_module(f"outpost_testing.checks.{module}")
    return tuple(sorted(_registry.values(), key=lambda c: GROUPS.index(c.group)))


def run_check(check: Check, target: Target) -> CheckResult:
    """Run one check in an event loop of its own, and clean up what it started.

    With `target.keep`, the files and the ended workers of a check that fails stay.
    """
    began = time.monotonic()
    ran = _Ran()

    def result(status: str, detail: str = "") -> CheckResult:
        return CheckResult(
            id=check.id,
            group=check.group,
            status=status,
            detail=detail,
            seconds=time.monotonic() - began,
            log=ran.log,
            kept=str(folder) if folder and ran.kept else "",
        )

    folder: Path | None = None
    try:
        missing = check.needs - target.capabilities
        if missing:
            return result("not declared", f"{', '.join(sorted(missing))} is not declared")
        folder = Path(tempfile.mkdtemp(prefix="outpost-check-", dir=target.scratch))
        asyncio.run(_run(check, target, folder, ran))
    except (CheckFailed, TimeoutError) as error:
        return result("failed", f"{check.demand} {error}")
    except Exception as error:  # a defect of the outpost shows as any exception
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return result("failed", f"{check.demand} {type(error).__name__}: {error} ({place})")
    finally:
        if folder and not ran.kept:
            shutil.rmtree(folder, ignore_errors=True)
    return result("passed", "; ".join(ran.notes))


@dataclass(slots=True)
class _Ran:
    """What is known of a check besides whether it passed."""

    notes: list[str] = field(default_factory=list)
    log: str = ""
    kept: bool = False


async def _run(check: Check, target: Target, folder: Path, ran: _Ran) -> None:
    limit = check.patience * target.within
    trial = Trial(target, folder)
    ran.notes = trial.notes
    try:
        async with asyncio.timeout(limit):
            await check.run(trial)
    except Exception as error:
        ran.log, ran.kept = await trial.last_words(), target.keep
        if isinstance(error, TimeoutError):
            raise CheckFailed(f"It did not finish within {limit:g} s.") from None
        raise
    finally:
        left = await trial.close(clean=not ran.kept)
    if left:
        raise CheckFailed(f"After it, these could not be ended and cleaned: {', '.join(left)}.")


def run_suite(
    target: Target,
    *,
    groups: Iterable[str] | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Run the checks one after the other.

    Not from within a running event loop: each check has a loop of its own.

    Args:
        target: the backend under test.
        groups: only these groups; all when None.
        on_result: called after each check, so that what is known is known when the run is ended.

    Raises:
        ValueError: a group is unknown.
        PluginError: the target's type cannot be loaded.
    """
    wanted = set(GROUPS if groups is None else groups)
    if unknown := wanted - set(GROUPS):
        raise ValueError(f"no group {sorted(unknown)}; there are {', '.join(GROUPS)}")
    target.backend  # noqa: B018 - fails once and clearly, not in every check
    results = []
    try:
        for one in all_checks():
            if one.group in wanted:
                results.append(run_check(one, target))
                if on_result:
                    on_result(results[-1])
    finally:
        if target.temporary and not any(result.kept for result in results):
            shutil.rmtree(target.state, ignore_errors=True)
    return results
