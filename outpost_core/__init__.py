"""Outpost: run coding agents on issues of a git repository, wherever there is room.

One import for whoever writes a plugin: every name in `__all__` is meant for authors, and kept.

- hooks: `hookimpl` marks one; `API_VERSION` is what `OUTPOST_API = 1` in a module is compared with
- an outpost type: `Backend`, `OutpostOptions` with `option`, `Outpost`, `BuildContext`, `Dialogue`
- an agent: `AgentPreset`; a policy: `Assignment`, `Candidate`
- what is handed over: `Order` with `Issue`, `Agent`, `Limits`, `Delivery`, `Secrets`;
  `WorkerStatus` with `State`, `Result`, `Usage`; `Health`, `Facts`, `Finding`, `Step`, `Cleaned`,
  `Scale`, `Message`, `Event`
- errors: `OutpostError` and those below it; `digest` of an order, and ids of workers

The hooks themselves are described in `outpost_core.hookspecs`. Modules that are not named here are
Outpost's own and may change. Each name is loaded when it is first used, so that this import costs
nothing on the far side.
"""

from __future__ import annotations

# not from `typing`: that import alone would more than double the start of a worker
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # isort: off
    # fmt: off
    from outpost_core.hookspecs import API_VERSION as API_VERSION, hookimpl as hookimpl
    from outpost_core.backend import (
        Backend as Backend, BuildContext as BuildContext, Dialogue as Dialogue,
        Outpost as Outpost, OutpostOptions as OutpostOptions, option as option
    )
    from outpost_core.agents import AgentPreset as AgentPreset
    from outpost_core.types import (
        Agent as Agent, Assignment as Assignment, Candidate as Candidate, Cleaned as Cleaned,
        Delivery as Delivery, Event as Event, Explanation as Explanation, Facts as Facts,
        Finding as Finding, Health as Health, Issue as Issue, Json as Json, Limits as Limits,
        Message as Message, Order as Order, REASONS as REASONS, Result as Result,
        Scale as Scale, Secrets as Secrets, State as State, Step as Step, Usage as Usage,
        Verdict as Verdict, Worker as Worker, WorkerStatus as WorkerStatus,
        split_worker_id as split_worker_id, worker_id as worker_id
    )
    from outpost_core.wire import digest as digest
    from outpost_core.errors import (
        ConfigError as ConfigError, ConflictError as ConflictError, LedgerError as LedgerError,
        NotFoundError as NotFoundError, OutpostError as OutpostError,
        PlacementError as PlacementError, PluginError as PluginError,
        SpawnRefusedError as SpawnRefusedError, UnreachableError as UnreachableError,
        UnsupportedError as UnsupportedError, UsageError as UsageError,
        WorkerError as WorkerError
    )
    # fmt: on
    # isort: on

__version__ = "0.1.0"

#: Module → the names that it gives.
_NAMES = {
    "hookspecs": "API_VERSION hookimpl",
    "backend": "Backend BuildContext Dialogue Outpost OutpostOptions option",
    "agents": "AgentPreset",
    "types": (
        "Agent Assignment Candidate Cleaned Delivery Event Explanation Facts Finding Health "
        "Issue Json Limits Message Order REASONS Result Scale Secrets State Step Usage Verdict "
        "Worker WorkerStatus split_worker_id worker_id "
    ),
    "wire": "digest",
    "errors": (
        "ConfigError ConflictError LedgerError NotFoundError OutpostError PlacementError "
        "PluginError SpawnRefusedError UnreachableError UnsupportedError UsageError "
        "WorkerError "
    ),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"outpost_core.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'outpost_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
