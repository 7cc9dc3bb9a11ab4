"""The default assignment policy, and why it decides as it does.

An order goes to the outposts that can take it now (hard limits), in this order: those of the
first override whose condition matches, those of `default_preference` (local ones when there is
none), the rest that charge nothing, the rest; each in file order. A decision costs microseconds
and is explained only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from outpost_core.errors import PluginError
from outpost_core.hookspecs import TRAITS, hookimpl
from outpost_core.nearest import suggest
from outpost_core.types import Assignment
from outpost_manager.config.origin import BUILT_IN, Origin

if TYPE_CHECKING:
    from outpost_core.types import Candidate, Explanation, Order, Verdict
    from outpost_manager.config.conditions import Condition

#: A cap is not missed by the rounding of binary fractions of a cent.
_EPSILON: Final = 1e-9
_DEFAULT: Final = "default preference"
_LOCAL: Final = "local first"
_FREE: Final = "free first"
_FILE: Final = "file order"
_MAX_PLANS: Final = 256
#: What an agent is called that is a bare command: whether it is installed is its user's business.
_BARE: Final = "command"

_identity = attrgetter("name", "position", "type")


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """Outposts that go first when a condition matches.

    Args:
        condition: when.
        text: the condition as it was written.
        prefer: names of outposts, best first.
        origin: where it was written.
    """

    condition: Condition
    text: str
    prefer: tuple[str, ...]
    origin: Origin = BUILT_IN


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The section `policy`.

    Args:
        default_preference: names of outposts, best first.
        overrides: the first one that matches an order counts.
    """

    default_preference: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    _plans: dict[object, _Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def plan(self, order: Order, candidates: tuple[Candidate, ...]) -> _Plan:
        """Return the order in which this policy would try the candidates, limits aside."""
        which = -1
        for number, override in enumerate(self.overrides):
            if override.condition.matches(order):
                which = number
                break
        charges = [candidate.cost > candidate.agent_cost for candidate in candidates]
        key = (which, *map(_identity, candidates), *charges)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make_plan(which, candidates)
        return plan

    def _make_plan(self, which: int, candidates: tuple[Candidate, ...]) -> _Plan:
        index = {candidate.name: at for at, candidate in enumerate(candidates)}
        reasons: dict[int, str] = {}
        rule = _DEFAULT if self.default_preference else _LOCAL
        if which >= 0:
            override = self.overrides[which]
            rule = f"override {override.text!r}"
            reasons.update((index[name], rule) for name in override.prefer if name in index)
        for name in self.default_preference:
            if name in index:
                reasons.setdefault(index[name], _DEFAULT)
        rest = sorted(range(len(candidates)), key=lambda at: candidates[at].position)
        charging = [at for at in rest if _charges(candidates[at])]
        if not self.default_preference:
            for at in rest:
                if candidates[at].type == "local":
                    reasons.setdefault(at, _LOCAL)
        if charging:
            for at in rest:
                if at not in charging:
                    reasons.setdefault(at, _FREE)
        for at in rest:
            reasons.setdefault(at, _FILE)
        return _Plan(rule, tuple(reasons), tuple(reasons.values()))


def _charges(candidate: Candidate) -> bool:
    """Whether the outpost itself, and not the agent alone, costs something."""
    return candidate.cost > candidate.agent_cost


class _Plan(NamedTuple):
    """A cached ordering of candidates."""

    rule: str
    indexes: tuple[int, ...]  # into the candidates, best first; left-out ones are not in it
    reasons: tuple[str, ...]  # one for each of indexes


class Ranking:
    """A decision: which outposts may take an order, best first.

    Worked out only as far as somebody asks: `first` stops at the first that can take it.
    """

    __slots__ = ("_candidates", "_needs", "_order", "_plan", "_ranked", "_wanted", "notes")

    def __init__(self, plan: _Plan, order: Order, candidates: tuple[Candidate, ...]) -> None:
        self._plan = plan
        self._order = order
        self._candidates = candidates
        self._needs = needs(order)
        self._wanted = requirements(order)
        self._ranked: tuple[str, ...] | None = None
        #: what went wrong while it was decided
        self.notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Ranking {self._order.worker} → {', '.join(self.ranked) or 'nowhere'}>"

    @property
    def first(self) -> str | None:
        """The best outpost that can take the order now, or None."""
        for at in self._plan.indexes:
            if not _obstacle(self._candidates[at], self._needs, self._wanted):
                return self._candidates[at].name
        return None

    @property
    def ranked(self) -> tuple[str, ...]:
        """Every outpost that can take the order now, best first."""
        if self._ranked is None:
            candidates, needed, wanted = self._candidates, self._needs, self._wanted
            self._ranked = tuple(
                [
                    candidate.name
                    for candidate in [candidates[at] for at in self._plan.indexes]
                    if not _obstacle(candidate, needed, wanted)
                ]
            )
        return self._ranked

    @property
    def considered(self) -> tuple[tuple[str, bool], ...]:
        """Every outpost that can take the order now, but for what it may not have; best first.

        Each with whether it is passed over for that.
        """
        chosen = [self._candidates[at] for at in self._plan.indexes]
        told = [(one.name, _obstacle(one, self._needs, self._wanted)) for one in chosen]
        asked = _LACKS - {"place"}
        return tuple([(name, why in asked) for name, why in told if not why or why in asked])

    def _remark(self, candidate: Candidate) -> str:
        """Say of an outpost that would take the order what may keep its agent from working."""
        program = self._wanted.program if self._wanted else ""
        facts = candidate.facts
        if not program or facts is None or self._order.secrets:  # its keys may come along
            return ""
        return (
            f"; no login of {program} was seen there" if facts.logins.get(program) is False else ""
        )

    def doubts(self, name: str) -> bool:
        """Whether it is not known if that outpost has what the order asks for."""
        facts = next((one.facts for one in self._candidates if one.name == name), None)
        wanted = self._wanted
        if wanted is None or wanted[:3] == ("", None, None):
            return False
        return facts is None or bool(wanted.program and wanted.program not in facts.programs)

    def explain(self) -> Explanation:
        """Say for each candidate where it stands and why; those that are eligible first."""
        from outpost_core.types import Explanation, Verdict

        eligible: list[Verdict] = []
        passed: list[Verdict] = []
        why = dict(zip(self._plan.indexes, self._plan.reasons, strict=True))
        left_out = [at for at in range(len(self._candidates)) if at not in why]
        for at in (*why, *left_out):
            candidate = self._candidates[at]
            obstacle = _obstacle(candidate, self._needs, self._wanted)
            if obstacle in _LACKS:
                assert self._wanted is not None
                reason = _lack(obstacle, candidate, self._wanted)
            elif obstacle:
                reason = _describe(obstacle, candidate, self._needs)
            elif at in why:
                reason = why[at] + self._remark(candidate)
            else:
                reason = f"not chosen: {self._plan.rule}"
            fits = not obstacle and at in why
            known = obstacle not in ("unavailable", "cannot")
            verdict = Verdict(
                outpost=candidate.name,
                rank=len(eligible) + 1 if fits else None,
                eligible=fits,
                reason=reason,
                machine_cost=candidate.cost - candidate.agent_cost if known else None,
                agent_cost=candidate.agent_cost if known and not candidate.uncounted else None,
            )
            (eligible if fits else passed).append(verdict)
        return Explanation(rule=self._plan.rule, verdicts=(*eligible, *passed), notes=self.notes)


class Requirements(NamedTuple):
    """What an order asks a place to have.

    Args:
        program: the agent's program; "" when it is a bare command, or is looked for elsewhere.
        cpu: cores, or None.
        memory: bytes, or None.
        place: the outpost that alone has the work that the order continues from, or "".
    """

    program: str
    cpu: float | None
    memory: int | None
    place: str = ""


def requirements(order: Order) -> Requirements | None:
    """Return what an order asks a place to have; None when that is nothing."""
    agent, limits = order.agent, order.limits
    program = ""
    if agent.name != _BARE and "PATH" not in order.env and "PATH" not in agent.env:
        program = agent.argv[0] if "{" not in agent.argv[0] else ""
    if not (program or order.resume_at) and limits.cpu is None and limits.memory is None:
        return None
    return Requirements(program, limits.cpu, limits.memory, order.resume_at)


def needs(order: Order) -> frozenset[str]:
    """Return the capabilities that an order asks of an outpost."""
    rig = order.rig
    key = (
        order.agent.interactive,
        rig is not None,
        rig is not None and rig.startswith("/"),
        bool(order.secrets),
    )
    return _NEEDS[key]


_NEEDS: Final = {
    (interactive, rig, local_rig, secrets): frozenset(
        name
        for name, wanted in (
            ("interactive", interactive),
            ("rig", rig),
            ("local_rig", local_rig),
            ("secrets", secrets),
        )
        if wanted
    )
    for interactive in (False, True)
    for rig in (False, True)
    for local_rig in (False, True)
    for secrets in (False, True)
}


def assign(policy: PolicyConfig, order: Order, candidates: Sequence[Candidate]) -> Ranking:
    """Decide where an order may go.

    Args:
        policy: preference and overrides.
        order: what is to be placed.
        candidates: every configured outpost, as it stands now; names are unique.
    """
    fixed = tuple(candidates)
    return Ranking(policy.plan(order, fixed), order, fixed)


def normalise(
    answer: Ranking | Assignment | Sequence[str] | None,
    order: Order,
    candidates: Sequence[Candidate],
    *,
    rule: str = "a policy plugin",
) -> Ranking:
    """Turn what `outpost_assign` answered into an `Ranking` that keeps the hard limits.

    Args:
        answer: an assignment, names of outposts (best first), or None for no opinion.
        order: what is to be placed.
        candidates: every configured outpost, as it stands now.
        rule: whose choice it is, for the explanation.

    Raises:
        PluginError: a name is not that of a candidate, or the answer is of another type.
    """
    fixed = tuple(candidates)
    if answer is None:
        return Ranking(PolicyConfig().plan(order, fixed), order, fixed)
    if isinstance(answer, Ranking):
        if answer._candidates == fixed:  # noqa: SLF001 - the very same fact sheets
            return answer
        plan = answer._plan  # noqa: SLF001 - of the same module
        known = answer._candidates  # noqa: SLF001
        named = [(known[at].name, why) for at, why in zip(plan.indexes, plan.reasons, strict=True)]
        rule = plan.rule
    elif isinstance(answer, str) or not isinstance(answer, Assignment | Sequence):
        raise PluginError(
            f"outpost_assign answered {type(answer).__name__}, not a list of outposts",
            hint="return an Assignment, a list of names, or None",
        )
    elif isinstance(answer, Assignment):
        why = answer.reason or rule
        rule = f"{rule}: {answer.reason}" if answer.reason else rule
        named = [(name, why) for name in answer.names]
    else:
        named = [(name, rule) for name in answer]
    index = {candidate.name: at for at, candidate in enumerate(fixed)}
    reasons: dict[int, str] = {}
    for name, why in named:
        if name not in index:
            raise PluginError(
                f"outpost_assign named {name!r}, which is no candidate",
                hint=suggest(str(name), index),
            )
        reasons.setdefault(index[name], why)
    return Ranking(_Plan(rule, tuple(reasons), tuple(reasons.values())), order, fixed)


class DefaultPolicy:
    """The policy that decides when no plugin does.

    Args:
        policy: the section `policy` of the configuration.
    """

    def __init__(self, policy: PolicyConfig) -> None:
        self.policy = policy

    @hookimpl(trylast=True)
    def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> Ranking:
        """Decide by overrides, preference and file order."""
        return assign(self.policy, order, candidates)


# --- hard limits -------------------------------------------------------------------------------


#: Obstacles that are told by `_lack`.
_LACKS: Final = frozenset({"program", "cpu", "memory", "place"})


def _obstacle(candidate: Candidate, needed: frozenset[str], wanted: Requirements | None) -> str:
    """Return what keeps the candidate from taking the order now, "" for nothing. Hot."""
    if not candidate.available:
        return "unavailable"
    if not needed <= candidate.capabilities:
        return "cannot"
    if wanted is not None and (lack := _lacks(candidate, wanted)):
        return lack
    slots = candidate.max_workers
    if slots is not None and candidate.active >= slots:
        return "full"
    cap = candidate.cost_cap_hourly
    if cap is not None:
        if candidate.uncounted:
            return "uncounted"
        if candidate.spent + candidate.cost > cap + _EPSILON:
            return "capped"
    return ""


def _lacks(candidate: Candidate, wanted: Requirements) -> str:
    """Return what the candidate does not have, "" for nothing.

    A program that nobody looked for counts as installed; cores and memory that nobody knows do not
    count as there.
    """
    if wanted.place and candidate.name != wanted.place:
        return "place"
    facts = candidate.facts
    if wanted.program and facts is not None and facts.programs.get(wanted.program) == "":
        return "program"
    if wanted.cpu is not None and (facts is None or (facts.cpus or 0.0) < wanted.cpu):
        return "cpu"
    if wanted.memory is not None and (facts is None or (facts.memory or 0) < wanted.memory):
        return "memory"
    return ""


def _lack(obstacle: str, candidate: Candidate, wanted: Requirements) -> str:
    """Say to a person what a candidate does not have."""
    if obstacle == "place":
        return f"the work that it continues from is kept at {wanted.place} alone"
    facts = candidate.facts
    if obstacle == "program":
        return f"{wanted.program} is not installed there"
    if obstacle == "cpu":
        if facts is None or facts.cpus is None:
            return f"nobody knows whether it has the {wanted.cpu:g} cores that were asked for"
        return f"has {facts.cpus:g} cores, and {wanted.cpu:g} were asked for"
    assert wanted.memory is not None
    asked = f"{wanted.memory / 2**30:.1f} GiB of memory"
    if facts is None or facts.memory is None:
        return f"nobody knows whether it has the {asked} that were asked for"
    return f"has {facts.memory / 2**30:.1f} GiB of memory, and {asked} were asked for"


def _describe(obstacle: str, candidate: Candidate, wanted: frozenset[str]) -> str:
    """Say an obstacle to a person."""
    if obstacle == "unavailable":
        return candidate.unavailable_reason or "unavailable"
    if obstacle == "cannot":
        lacking = [name for name in TRAITS if name in wanted - candidate.capabilities]
        way = "; the rig is a path of this machine: --rig URL names it for others"
        return f"cannot: {', '.join(lacking)}{way if 'local_rig' in lacking else ''}"
    if obstacle == "full":
        if candidate.max_workers == 0:
            return "closed: max_workers is 0"
        return f"full: {candidate.active} of {candidate.max_workers} workers"
    assert candidate.cost_cap_hourly is not None
    if obstacle == "uncounted":
        return f"its hourly cap could not be kept: {candidate.uncounted}"
    return (
        f"hourly cap: {_usd(candidate.spent)} of {_usd(candidate.cost_cap_hourly)} used,"
        f" this needs {_usd(candidate.cost)}"
    )


def _usd(amount: float) -> str:
    """Two digits, or as many as a smaller price needs."""
    if amount and abs(amount) < 0.01:
        return f"${amount:.6f}".rstrip("0")
    return f"${amount:.2f}"
