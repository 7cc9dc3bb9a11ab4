from dataclasses import replace

import pytest

from outpost_core.errors import PluginError
from outpost_core.types import Agent, Candidate, Issue, Order, Secrets, Verdict
from outpost_manager.config.conditions import parse
from outpost_manager.config.policy import (
    DefaultPolicy,
    Override,
    PolicyConfig,
    Ranking,
    assign,
    needs,
    normalise,
)

ALL = frozenset({"interactive", "rig", "local_rig", "secrets"})


def order(priority: int = 2, *, rig: str | None = None, interactive: bool = False) -> Order:
    return Order(
        issue=Issue(id="gt-1", priority=priority),
        agent=Agent(argv=("true",), interactive=interactive),
        rig=rig,
    )


def candidates(**changes: dict[str, object]) -> list[Candidate]:
    """Four outposts `vm`, `home` (local), `cloud`, `spare`, in file order."""
    types = {"vm": "ssh", "home": "local", "cloud": "cloudrun", "spare": "ssh"}
    return [
        replace(
            Candidate(name=name, type=kind, position=at, capabilities=ALL), **changes.get(name, {})
        )
        for at, (name, kind) in enumerate(types.items())
    ]


def override(text: str, *prefer: str) -> Override:
    return Override(condition=parse(text), text=text, prefer=prefer)


POLICY = PolicyConfig(
    default_preference=("home", "vm"),
    overrides=(override("priority >= P3", "cloud"), override("priority >= P2", "spare", "cloud")),
)


def test_local_goes_first_where_nothing_is_said() -> None:
    answer = assign(PolicyConfig(), order(), candidates())
    assert answer.ranked == ("home", "vm", "cloud", "spare")
    assert answer.first == "home"
    explanation = answer.explain()
    assert explanation.rule == "local first"
    assert [v.reason for v in explanation.verdicts] == ["local first", *["file order"] * 3]


def test_what_is_free_goes_before_what_charges_where_nothing_is_said() -> None:
    dear = {"vm": {"cost": 0.05}, "cloud": {"cost": 0.5, "agent_cost": 0.5}}
    answer = assign(PolicyConfig(), order(), candidates(**dear))
    assert answer.ranked == ("home", "cloud", "spare", "vm")
    assert [v.reason for v in answer.explain().verdicts] == [
        "local first", "free first", "free first", "file order",
    ]  # fmt: skip
    # one that is named goes where it is named, and of the others what is free
    assert assign(POLICY, order(0), candidates(**dear)).ranked == ("home", "vm", "cloud", "spare")
    only = PolicyConfig(default_preference=("spare",))
    assert assign(only, order(), candidates(**dear)).ranked == ("spare", "home", "cloud", "vm")
    # the same policy, another order: what it costs is looked at anew
    assert assign(only, order(), candidates()).ranked == ("spare", "vm", "home", "cloud")


def test_the_default_preference_goes_first_then_file_order() -> None:
    answer = assign(POLICY, order(0), candidates())
    assert answer.ranked == ("home", "vm", "cloud", "spare")
    assert [v.reason for v in answer.explain().verdicts] == [
        "default preference", "default preference", "file order", "file order",
    ]  # fmt: skip


def test_the_first_matching_override_counts_and_the_preference_follows() -> None:
    background = assign(POLICY, order(3), candidates()).explain()
    assert background.rule == "override 'priority >= P3'"
    assert background.verdicts == (
        Verdict(outpost="cloud", rank=1, eligible=True, reason="override 'priority >= P3'"),
        Verdict(outpost="home", rank=2, eligible=True, reason="default preference"),
        Verdict(outpost="vm", rank=3, eligible=True, reason="default preference"),
        Verdict(outpost="spare", rank=4, eligible=True, reason="file order"),
    )
    assert assign(POLICY, order(2), candidates()).ranked == ("spare", "cloud", "home", "vm")


def test_an_override_without_a_preference_falls_back_to_local_first() -> None:
    policy = PolicyConfig(overrides=(override("attempt == 1", "spare"),))
    assert assign(policy, order(), candidates()).ranked == ("spare", "home", "vm", "cloud")


def test_file_order_is_by_position_not_by_the_order_of_the_facts() -> None:
    facts = candidates()
    assert assign(POLICY, order(0), facts[::-1]).ranked == ("home", "vm", "cloud", "spare")
    moved = [replace(c, position=9 - c.position) for c in facts]
    assert assign(POLICY, order(0), moved).ranked == ("home", "vm", "spare", "cloud")


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {"available": False, "unavailable_reason": "unreachable: no route"},
            "unreachable: no route",
        ),
        ({"available": False}, "unavailable"),
        ({"active": 4, "max_workers": 4}, "full: 4 of 4 workers"),
        ({"active": 5, "max_workers": 4}, "full: 5 of 4 workers"),
        ({"max_workers": 0}, "closed: max_workers is 0"),
        (
            {"spent": 4.9, "cost": 0.2, "cost_cap_hourly": 5.0},
            "hourly cap: $4.90 of $5.00 used, this needs $0.20",
        ),
        (
            {"spent": 5.0, "cost": 0.0015, "cost_cap_hourly": 5.0},
            "hourly cap: $5.00 of $5.00 used, this needs $0.0015",
        ),
        (
            {"capabilities": frozenset({"rig"})},
            ("cannot: interactive, local_rig; "
            "the rig is a path of this machine: --rig URL names it for others"),
        ),
    ],
)  # fmt: skip
def test_a_hard_limit_passes_an_outpost_over_and_says_which(
    facts: dict[str, object], reason: str
) -> None:
    answer = assign(POLICY, order(0, rig="/srv/rig", interactive=True), candidates(home=facts))
    assert answer.first == "vm"
    assert answer.ranked == ("vm", "cloud", "spare")
    assert answer.explain().verdicts[-1] == Verdict(
        outpost="home", rank=None, eligible=False, reason=reason
    )


def test_limits_that_are_just_kept() -> None:
    facts = candidates(
        home={"active": 3, "max_workers": 4, "spent": 4.9, "cost": 0.1, "cost_cap_hourly": 5.0},
        vm={"spent": 0.1 + 0.2, "cost": 0.7, "cost_cap_hourly": 1.0},
    )
    assert assign(POLICY, order(0), facts).ranked == ("home", "vm", "cloud", "spare")


def test_nowhere_to_go() -> None:
    answer = assign(POLICY, order(), [replace(c, available=False) for c in candidates()])
    assert answer.first is None
    assert answer.ranked == ()
    assert not any(v.eligible for v in answer.explain().verdicts)
    assert assign(POLICY, order(), []).explain().verdicts == ()
    assert "nowhere" in repr(answer)


def test_what_an_order_needs() -> None:
    assert needs(order()) == frozenset()
    assert needs(order(rig="https://x/y")) == {"rig"}
    assert needs(order(rig="/srv/y", interactive=True)) == {"rig", "local_rig", "interactive"}
    assert needs(replace(order(), secrets=Secrets({"A": "b"}))) == {"secrets"}


def test_a_changed_set_of_outposts_is_ordered_anew() -> None:
    """Orderings are kept between decisions; none may outlive what it was made for."""
    policy = PolicyConfig(default_preference=("n7",), overrides=())
    for size in range(1, 300):
        facts = [Candidate(name=f"n{n}", type="ssh", position=n) for n in range(size)]
        want = [f"n{n}" for n in range(size)]
        if size > 7:
            want.insert(0, want.pop(7))
        assert assign(policy, order(), facts).ranked == tuple(want)
        assert assign(policy, order(), facts).ranked == tuple(want)


# --- what a third party answers


def test_names_from_a_plugin_keep_the_hard_limits() -> None:
    facts = candidates(cloud={"active": 1, "max_workers": 1})
    answer = normalise(["cloud", "spare", "spare", "home"], order(), facts)
    assert answer.ranked == ("spare", "home")
    explanation = answer.explain()
    assert explanation.rule == "a policy plugin"
    reasons = {v.outpost: v.reason for v in explanation.verdicts}
    assert reasons == {
        "spare": "a policy plugin",
        "home": "a policy plugin",
        "cloud": "full: 1 of 1 workers",
        "vm": "not chosen: a policy plugin",
    }


def test_an_assignment_over_other_facts_is_filtered_by_the_real_ones() -> None:
    wishful = [c for c in candidates() if c.name != "home"]
    real = candidates(vm={"available": False})
    answer = normalise(assign(POLICY, order(0), wishful), order(0), real)
    assert answer.ranked == ("cloud", "spare")
    assert answer.explain().rule == "default preference"


def test_the_default_answer_passes_unchanged() -> None:
    facts = candidates()
    answer = DefaultPolicy(POLICY).outpost_assign(order(), facts)
    assert isinstance(answer, Ranking)
    assert normalise(answer, order(), facts) is answer


def test_no_opinion_is_local_first() -> None:
    assert normalise(None, order(), candidates()).first == "home"


@pytest.mark.parametrize("answer", ["home", 3, {"home": 1}])
def test_an_answer_of_another_kind_is_an_error(answer: object) -> None:
    with pytest.raises(PluginError, match="not a list of outposts"):
        normalise(answer, order(), candidates())  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "hint"), [("hom", "did you mean 'home'?"), (None, "allowed: vm")])
def test_an_unknown_name_is_an_error_with_the_nearest(name: object, hint: str) -> None:
    with pytest.raises(PluginError, match="no candidate") as caught:
        normalise([name], order(), candidates())  # type: ignore[list-item]
    assert hint in caught.value.hint
