import random

import pytest

from outpost_core.types import Agent, Issue, Json, Limits, Order
from outpost_manager.config.conditions import FIELDS, ConditionError, parse


def order(
    *,
    priority: int = 2,
    estimate: float | None = None,
    labels: tuple[str, ...] = (),
    kind: str = "task",
    rig: str | None = None,
    agent: str = "claude",
    cpu: float | None = None,
    memory: int | None = None,
    attempt: int = 1,
    context: dict[str, Json] | None = None,
) -> Order:
    return Order(
        issue=Issue(id="gt-1", priority=priority, estimate=estimate, labels=labels, kind=kind),
        agent=Agent(argv=("true",), name=agent),
        attempt=attempt,
        rig=rig,
        context=context or {},
        limits=Limits(cpu=cpu, memory=memory),
    )


def true_for(text: str, subject: Order) -> bool:
    return parse(text).matches(subject)


@pytest.mark.parametrize("priority", range(5))
def test_priorities_compare_by_number(priority: int) -> None:
    subject = order(priority=priority)
    assert true_for("priority >= P3", subject) is (priority >= 3)
    assert true_for("priority < 2", subject) is (priority < 2)
    assert true_for("P1 <= priority", subject) is (priority >= 1)
    assert true_for("priority == p2", subject) is (priority == 2)
    assert true_for("priority != P0", subject) is (priority != 0)
    assert true_for("priority in [P0, 4]", subject) is (priority in (0, 4))
    assert true_for("priority not in [P0, 4]", subject) is (priority not in (0, 4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("estimated_duration > 30m", True), ("estimated_duration <= 1h", True),
        ("30m < estimated_duration", True), ("estimated_duration == 3600", True),
        ("estimated_duration > 1h30m", False), ("memory >= 2GiB", True), ("memory < 2GB", False),
        ("cpu == 2", True), ("cpu > 1.5", True), ("attempt in [1, 2]", False),
        ("attempt == 3", True),
        ("type == bug", True), ("type != 'bug'", False), ('type in [bug, "task"]', True),
        ("agent not in [codex, gemini]", True), ("gastown in rig", True),
        ('rig == "https://github.com/x/gastown.git"', True), ("beads not in rig", True),
        ('"needs gpu" in labels', True), ("urgent in labels", True),
        ("urgent not in labels", False),
        ("labels == [urgent, 'needs gpu']", True), ("labels == urgent", False),
        ("labels == []", None),
    ],
)  # fmt: skip
def test_every_field_against_its_own_kind_of_value(text: str, expected: bool | None) -> None:
    subject = order(
        estimate=3600,
        memory=2 * 1024**3,
        cpu=2,
        attempt=3,
        kind="bug",
        rig="https://github.com/x/gastown.git",
        labels=("needs gpu", "urgent"),
    )
    if expected is None:
        with pytest.raises(ConditionError):
            parse(text)
    else:
        assert true_for(text, subject) is expected


@pytest.mark.parametrize("op", ["==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize(
    ("field", "value"), [("estimated_duration", "30m"), ("cpu", "1"), ("memory", "1GiB")]
)
def test_what_nobody_said_compares_as_false(field: str, value: str, op: str) -> None:
    assert not true_for(f"{field} {op} {value}", order())
    assert not true_for(f"{field} not in [{value}]", order())


def test_no_rig_is_empty_text() -> None:
    assert true_for("rig == ''", order())
    assert true_for("rig != 'x'", order())
    assert true_for("x not in rig", order())


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("context.k == gpu", "gpu", True), ("context.k != gpu", "cpu", True),
        ("context.k > 3", 10, True), ("context.k > 3", "10", True), ("context.k > 3", "ten", False),
        ("context.k < 0", -1, True), ("context.k >= 2GiB", "3GiB", True),
        ("context.k > 30m", "1h", True), ("context.k == true", True, True),
        ("context.k == true", "true", True), ("context.k == '5'", 5, False),
        ("context.k == '5'", "5", True), ("context.k in [a, 5]", 5, True),
        ("context.k not in [a, 5]", "b", True), ("context.k not in [a]", None, False),
        ("context.k != x", None, False), ("context.k == x", ["x"], False),
        ("x in context.k", ["x"], True), ("x in context.k", "axb", True),
        ("x in context.k", 3, False),
        ("x not in context.k", None, True),
    ],
)  # fmt: skip
def test_context_takes_the_kind_that_it_finds(text: str, value: Json, expected: bool) -> None:
    context = {} if value is None else {"k": value}
    assert true_for(text, order(context=context)) is expected


def test_context_keys_may_hold_dots_and_dashes() -> None:
    assert true_for("context.team.a-b == x", order(context={"team.a-b": "x"}))


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "a field or a value was expected, not the end"),
        ("   ", 0, "not the end"),
        ("prioritty >= P3", 0, "did you mean 'priority'?"),
        ("P3 <= prioritty", 6, "did you mean 'priority'?"),
        ("zzz == 3", 0, "allowed: priority, estimated_duration"),
        ("priority >= P7", 12, "'P7' is not one of P0, P1, P2, P3, P4"),
        ("priority >= bug", 12, "not one of"),
        ("priority = P3", 9, "write '=='"),
        ("priority >= P3 && type == bug", 15, "write 'and'"),
        ("!(priority >= P3)", 0, "write 'not'"),
        ("priority >=", 11, "not the end"),
        ("(priority > 1", 0, "never closed"),
        ("priority > 1)", 12, "'and', 'or' or the end"),
        ("priority == 'x", 12, "this quote is never closed"),
        ("type > bug", 5, "text and has no order"),
        ("labels > 3", 7, "labels have no order"),
        ("labels in [a]", 7, "the other way round"),
        ("x in cpu", 2, "nothing is in cpu"),
        ("[x] in labels", 0, "one word was expected"),
        ("priority in P3", 12, "a list was expected"),
        ("priority in []", 12, "the list is empty"),
        ("priority in [P1", 15, "',' or ']'"),
        ("priority in [P1 P2]", 16, "',' or ']'"),
        ("priority in [P1,(]", 16, "a value was expected"),
        ("priority == [P1]", 12, "a list goes with 'in'"),
        ("priority not P3", 9, "'not in' was expected"),
        ("priority is P3", 9, "a comparison was expected"),
        ("priority", 8, "a comparison was expected"),
        ("1 < attempt < 3", 12, "'and', 'or' or the end"),
        ("type == agent", 8, 'write "agent" in quotes'),
        ("estimated_duration > 30 m", 24, "'and', 'or' or the end"),
        ("estimated_duration > long", 21, "is not a duration"),
        ("memory > 2G", 9, "is not a size"),
        ("cpu > many", 6, "is not a number"),
        ("context. == 3", 0, "a key was expected"),
        ("a == b", 0, "is not a field"),
        ("priority >= P3 and", 18, "not the end"),
        ("not", 3, "not the end"),
        ("priority ; P3", 9, "';' was not expected"),
        ("(" * 60, 40, "nested too deeply"),
        ("x" * 3000, 0, "longer than 2000"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, position: int, message: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse(text)
    assert caught.value.position == position
    assert message in caught.value.message


def test_and_or_not_and_parentheses_mean_what_they_mean_in_python() -> None:
    """Random expressions over three facts, against Python's own reading of them."""
    facts = {"a": "priority >= P3", "b": "type == bug", "c": "urgent in labels"}
    numbers = random.Random(3)

    def expression(depth: int) -> str:
        if depth == 0:
            return numbers.choice("abc")
        left, right = expression(depth - 1), expression(depth - 1)
        shape = numbers.choice(
            ["{l} and {r}", "{l} or {r}", "not {l}", "({l} or {r})", "not ({l})"]
        )
        return shape.format(l=left, r=right)

    for _ in range(300):
        text = expression(numbers.randint(1, 4))
        condition = parse(
            "".join(
                facts.get(char, char) if _alone(text, at) else char for at, char in enumerate(text)
            )
        )
        for bits in range(8):
            a, b, c = bool(bits & 1), bool(bits & 2), bool(bits & 4)
            subject = order(
                priority=4 if a else 0, kind="bug" if b else "task", labels=("urgent",) if c else ()
            )
            assert condition.matches(subject) is eval(text, {"a": a, "b": b, "c": c}), text


def _alone(text: str, at: int) -> bool:
    around = f" {text} "[at : at + 3]
    return not around[0].isalpha() and not around[2].isalpha()


def test_any_text_is_a_condition_or_a_condition_error() -> None:
    pieces = [*FIELDS, "P3", "30m", "'a'", '"', "(", ")", "[", "]", ",", "and", "or", "not", "in",
              "==", ">", "=", " ", "\n", "é", "\0", "context.k", "2GiB", "-1", "true",
              "cpu > 1", "context.k == 1", "context.KEY < 30m", "type in [a]"]  # fmt: skip
    numbers = random.Random(4)
    subject = order(context={"k": "1", "KEY": [1]})
    parsed = 0
    positions: list[tuple[int, int]] = []
    for _ in range(20000):
        text = " ".join(numbers.choices(pieces, k=numbers.randint(1, 5)))
        try:
            condition = parse(text)
        except ConditionError as error:
            positions.append((error.position, len(text)))
        else:
            parsed += 1
            assert condition.matches(subject) in (True, False)
    assert all(0 <= position <= length for position, length in positions)
    assert parsed > 50


def test_conditions_are_their_text() -> None:
    assert parse("attempt > 1") == parse("attempt > 1")
    assert parse("attempt > 1") != parse("attempt > 2")
    assert repr(parse("attempt > 1")) == "Condition(text='attempt > 1')"
