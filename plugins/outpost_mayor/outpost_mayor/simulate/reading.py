"""From the YAML of a workload to its facts; every mistake is told with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.options import OptionField, option_fields
from outpost_core.units import parse_duration
from outpost_manager.config.convert import OptionError, convert
from outpost_manager.config.read import reading
from outpost_manager.config.yamlnodes import Document, read_text
from outpost_mayor.retries.table import TABLE
from outpost_mayor.simulate.outposts import Simulated
from outpost_mayor.simulate.workload import Described, Mix, Outage, Spread, Stream

if TYPE_CHECKING:
    from outpost_manager.config.yamlnodes import Node

SECTIONS: Final = ("orders", "outposts", "outages")
#: The keys of an entry of `orders` that are not fields of `Stream`.
MIXED: Final = ("priority", "duration", "cost", "outcomes")
_SEED: Final = OptionField(name="seed", type=int, default=0, help="whatever is random follows it")
_STEP: Final = OptionField(
    name="step", type=float, unit="duration", default=1.0, min=0, max=86_400,
    help="what happens within so long is taken for simultaneous",
)  # fmt: skip
_NUMBER: Final = OptionField(name="value", type=float, required=True, min=0, max=1e9)
_LEVELS: Final = {f"P{level}": level for level in range(5)}
#: Orders of one workload at the most.
_MOST_ORDERS: Final = 5_000_000


@dataclass(frozen=True, kw_only=True)
class WorkloadFile:
    """What a file says.

    Args:
        workload: the work that comes.
        outposts: where it can go; none: where the configuration says.
        outages: when outposts do not answer.
        step: see `Simulation`.
    """

    workload: Described
    outposts: tuple[Simulated, ...] = ()
    outages: tuple[Outage, ...] = ()
    step: float = 1.0


def read_workload(path: Path) -> WorkloadFile:
    """Read a workload.

    Raises:
        ConfigError: the file cannot be read, or has a mistake.
    """
    return _Workload(Document(str(path), read_text(path))).file()


class _Workload:
    def __init__(self, document: Document) -> None:
        self.root = document.root
        self.reader = reading(document)

    def file(self) -> WorkloadFile:
        reader, root = self.reader, self.root
        said = reader.values(root, "a workload", (_SEED, _STEP), SECTIONS)
        return WorkloadFile(
            workload=Described(streams=self.orders(), seed=said.get("seed", 0)),
            outposts=self.outposts(),
            outages=self.outages(),
            step=said.get("step", 1.0),
        )

    def orders(self) -> list[tuple[Stream, Mix]]:
        reader, names, found = self.reader, list[str](), list[tuple[Stream, Mix]]()
        for item in reader.entries(self.root.get("orders"), "orders is a list of kinds of orders"):
            name = reader.name_of(item, "a kind of orders", names)
            names.append(name)
            what = f"the orders {name!r}"
            stream = Stream(**reader.values(item, what, option_fields(Stream), MIXED))
            if stream.every is not None and stream.rate is not None:
                raise reader.error(f"{what} come by every or by rate, not both", item)
            coming = stream.every is not None or stream.rate is not None
            if coming and stream.count is None and stream.end is None:
                hint = "say how many with count, or until when with end"
                raise reader.error(f"{what} never end", item, hint=hint)
            if stream.end is not None and stream.end <= stream.start:
                raise reader.error(f"{what} end before they begin", item.get("end") or item)
            if _many(stream) > _MOST_ORDERS:
                raise reader.error(f"{what} are more than {_MOST_ORDERS:,}", item)
            found.append((stream, self.mix(item, what)))
        if not found:
            raise reader.error(
                "a workload needs orders", self.root, hint="orders: and a list below it"
            )
        return found

    def mix(self, item: Node, what: str) -> Mix:
        said: dict[str, Any] = {}
        if (node := item.get("priority")) is not None:
            weights = self.weights(node, f"{what}: priority", _LEVELS)
            said["priority"] = {_LEVELS[level]: weight for level, weight in weights.items()}
        if (node := item.get("outcomes")) is not None:
            said["outcomes"] = self.weights(node, f"{what}: outcomes", TABLE)
        if (node := item.get("duration")) is not None:
            said["seconds"] = self.spread(node, f"{what}: duration", duration=True)
        if (node := item.get("cost")) is not None:
            said["cost"] = self.spread(node, f"{what}: cost", duration=False)
        return Mix(**said)

    def weights(self, node: Node, what: str, known: Mapping[str, object]) -> dict[str, float]:
        """Return words and their weights; one word alone is all of them."""
        from outpost_core.nearest import suggest

        found: dict[str, float] = {}
        pairs = node.entries if node.entries is not None else {node.text: (node, None)}
        if node.kind == "list":
            raise self.reader.error(f"{what} is a word, or a map of words to weights", node)
        for word, (mark, value) in pairs.items():
            if word not in known:
                hint = suggest(word, [*known])
                raise self.reader.error(f"{what}: {word[:80]!a} is not known", mark, hint=hint)
            found[word] = 1.0 if value is None else self.number(value, what)
        if not sum(found.values()) > 0:
            raise self.reader.error(f"{what}: no weight is more than 0", node)
        return found

    def spread(self, node: Node, what: str, *, duration: bool) -> Spread:
        if node.entries is None:
            return Spread(median=self.amount(node, what, duration=duration))
        self.reader.keys(node, what, ("median", "sigma", "most"))
        median, sigma, most = (node.get(key) for key in ("median", "sigma", "most"))
        if median is None:
            raise self.reader.error(f"{what} needs a median", node)
        spread = 0.0 if sigma is None else self.number(sigma, f"{what}: sigma")
        if spread > 5:
            assert sigma is not None
            raise self.reader.error(f"{what}: sigma is at most 5", sigma)
        return Spread(
            median=self.amount(median, what, duration=duration),
            sigma=spread,
            most=None if most is None else self.amount(most, what, duration=duration),
        )

    def amount(self, node: Node, what: str, *, duration: bool) -> float:
        if not duration:
            return self.number(node, what)
        try:
            return parse_duration(node.text)
        except ValueError as error:
            raise self.reader.error(f"{what}: {error}", node) from None

    def number(self, node: Node, what: str) -> float:
        try:
            return float(convert(_NUMBER, node))
        except OptionError:
            message = f"{what}: a number from 0 to 1,000,000,000 was expected"
            raise self.reader.error(message, node) from None

    def outposts(self) -> tuple[Simulated, ...]:
        reader, found = self.reader, dict[str, Simulated]()
        complaint = "outposts is a list, one '- name: …' an outpost"
        for item in reader.entries(self.root.get("outposts"), complaint):
            name = reader.name_of(item, "an outpost", found)
            values = reader.values(item, f"the outpost {name!r}", option_fields(Simulated))
            found[name] = Simulated(**values)
        return tuple(found.values())

    def outages(self) -> tuple[Outage, ...]:
        reader, found = self.reader, list[Outage]()
        for item in reader.entries(self.root.get("outages"), "outages is a list of times"):
            one = Outage(**reader.values(item, "an outage", option_fields(Outage)))
            if one.end <= one.start:
                raise reader.error("an outage ends before it begins", item.get("end") or item)
            found.append(one)
        return tuple(found)


def _many(stream: Stream) -> float:
    """Return how many orders a stream has at most, about."""
    if stream.every is None and stream.rate is None:
        return stream.count or 1
    span = (stream.end or float("inf")) - stream.start
    each = stream.every if stream.every is not None else 3600.0 / (stream.rate or 1.0)
    return min(span / each, stream.count or float("inf"))
