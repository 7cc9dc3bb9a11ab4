"""Load: the backend is a well-formed plugin, and costs nothing until it is used."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from outpost_core.backend import OutpostOptions
from outpost_core.hookspecs import CAPABILITIES, TRAITS
from outpost_testing.registry import check
from outpost_testing.trial import expect

if TYPE_CHECKING:
    from outpost_testing.trial import Trial

#: SDKs that an outpost may need, and that must not be imported before it is used.
HEAVY: Final = ("asyncssh", "httpx", "httpcore", "kubernetes", "libtmux", "google", "grpc", "h2")


@check("load")
async def registers(trial: Trial) -> None:
    """An outpost object registers with pluggy: required hooks, right kinds, no specname."""
    trial.target.plugins().register_outpost(trial.another())


@check("load")
async def declares_what_it_has(trial: Trial) -> None:
    """Capabilities are known words, and the backend announces whatever its outposts can."""
    declared = trial.outpost.capabilities
    unknown = declared - CAPABILITIES.keys() - TRAITS.keys()
    expect(not unknown, f"Unknown: {sorted(unknown)}.")
    announced = trial.target.backend.capabilities
    silent = [c for c, hook in CAPABILITIES.items() if hasattr(trial.outpost, hook)]
    silent = [c for c in silent if c not in announced]
    expect(not silent, f"Implemented, and declared nowhere: {silent}.")
    more = declared - announced
    expect(not more, f"Declared by the outpost, not by its backend: {sorted(more)}.")


@check("load")
async def options_describe_themselves(trial: Trial) -> None:
    """The options dataclass inherits OutpostOptions, is frozen, and each field has a help text."""
    options = trial.target.backend.options_class
    expect(issubclass(options, OutpostOptions), f"{options.__name__} does not inherit it.")
    frozen = getattr(options, "__dataclass_params__").frozen  # noqa: B009 - typeshed lacks it
    expect(frozen, f"{options.__name__} is not frozen.")
    silent = [f.name for f in dataclasses.fields(options) if not f.metadata.get("help")]
    expect(not silent, f"No help: {silent}.")


@check("load")
async def building_opens_nothing(trial: Trial) -> None:
    """Building an outpost makes no file and imports no SDK; it happens when it is first used."""
    order = trial.order("true")
    before = trial.target.folder.exists()
    answer = await trial.answer(await trial.controller("load", order))
    heavy = sorted({name.partition(".")[0] for name in answer["modules"]} & set(HEAVY))
    expect(not heavy, f"Imported: {heavy}.")
    expect(before or not trial.target.folder.exists(), f"It made {trial.target.folder}.")


@check("load")
async def objects_are_distinct(trial: Trial) -> None:
    """Two objects of one outpost are different plugins, of the backend's type and name."""
    one, two = trial.another(), trial.another()
    expect(one is not two and one != two, "Two objects are equal: pluggy would refuse the second.")
    expect(one.name == trial.target.name, f"It calls itself {one.name!r}.")
    expect(one.type == trial.target.type, f"It says that its type is {one.type!r}.")


@check("load")
async def close_without_use(trial: Trial) -> None:
    """Closing an outpost that was never used, twice, is fine."""
    outpost = trial.another()
    if hasattr(outpost, "outpost_close"):
        await outpost.outpost_close()
        await outpost.outpost_close()
