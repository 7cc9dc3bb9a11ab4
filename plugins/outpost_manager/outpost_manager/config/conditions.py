"""The little language of `policy.overrides`: `priority >= P3 and not ("risky" in labels)`.

::

    condition  = and-term { "or" and-term }
    and-term   = factor { "and" factor }
    factor     = "not" factor | "(" condition ")" | operand operator operand
    operator   = "==" "!=" "<" "<=" ">" ">=" "in" "not in"
    operand    = field | word | "text" | 'text' | "[" operand { "," operand } "]"

One side of a comparison is a field, the other a value, which is read as the field's kind: `P3`
for `priority`, `30m` for `estimated_duration`, `2GiB` for `memory`, text elsewhere. Everything
is checked and compiled to closures when it is parsed; there is no eval.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from outpost_core.nearest import nearest, suggest
from outpost_core.types import Order
from outpost_core.units import parse_bytes, parse_duration

Test: TypeAlias = Callable[[Order], bool]
Kind: TypeAlias = Literal["priority", "duration", "bytes", "number", "text", "labels", "context"]

#: field → kind, how to read it from an order, what it is.
FIELDS: Final[dict[str, tuple[Kind, str, str]]] = {
    "priority": ("priority", "issue.priority", "P0 to P4; P0 is the highest"),
    "estimated_duration": ("duration", "issue.estimate", "30m, 2h; unknown: never true"),
    "labels": ("labels", "issue.labels", '"urgent" in labels'),
    "type": ("text", "issue.kind", "the issue's type: bug, feature, task, …"),
    "rig": ("text", "rig", 'URL or path; "gastown" in rig looks inside it'),
    "agent": ("text", "agent.name", "name of the agent"),
    "cpu": ("number", "limits.cpu", "cores asked for; unknown: never true"),
    "memory": ("bytes", "limits.memory", "2GiB; unknown: never true"),
    "attempt": ("number", "attempt", "1 for the first"),
    "context.KEY": ("context", "context", "a value of the order's context"),
}
_CONTEXT: Final = "context."
_MAX_TEXT: Final = 2000
_MAX_DEPTH: Final = 40

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<word>[\w.+/:@~%-]+)|(?P<op>==|!=|<=|>=|<|>|[()\[\],]))"""
)
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MEMBER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "in": lambda have, want: have in want,
    "not in": lambda have, want: have not in want,
}
_MIRROR: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_KEYWORDS: Final = frozenset({"and", "or", "not", "in"})
_FOREIGN: Final = {"=": "==", "&": "and", "|": "or", "!": "not"}


class ConditionError(ValueError):
    """A condition that cannot be understood.

    Args:
        message: what is wrong, and what to write instead.
        position: 0-based place of the mistake in the condition's text.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition. Two with the same text are equal.

    Args:
        text: as it was written.
    """

    text: str
    _test: Test = field(repr=False, compare=False)

    def matches(self, order: Order) -> bool:
        """Say whether the order meets the condition. Never raises."""
        return self._test(order)


def parse(text: str) -> Condition:
    """Parse and check a condition.

    Raises:
        ConditionError: it is not a condition; says what and where.
    """
    if len(text) > _MAX_TEXT:
        raise ConditionError(f"the condition is longer than {_MAX_TEXT} characters", 0)
    return Condition(text, _Parser(text).parse())


class _Token(NamedTuple):
    kind: str  # "text" (quoted), "word", "op", "end"
    text: str
    position: int


class _Field(NamedTuple):
    name: str
    kind: Kind
    get: Callable[[Order], Any]
    position: int


class _Value(NamedTuple):
    token: _Token
    items: tuple[_Token, ...] | None  # a list's items; None for a single value


class _Parser:
    """Recursive descent over one condition, giving closures."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0
        self.depth = 0

    def parse(self) -> Test:
        test = self.any_of()
        if self.token.kind != "end":
            raise ConditionError(
                f"'and', 'or' or the end was expected, not {self.token.text!r}",
                self.token.position,
            )
        return test

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self, *texts: str) -> str | None:
        """Step over the token when it is one of these keywords or operators."""
        token = self.token
        if token.kind != "text" and token.text in texts:
            self.at += 1
            return token.text
        return None

    def any_of(self) -> Test:
        test = self.all_of()
        while self.take("or"):
            test = _either(test, self.all_of())
        return test

    def all_of(self) -> Test:
        test = self.factor()
        while self.take("and"):
            test = _both(test, self.factor())
        return test

    def factor(self) -> Test:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ConditionError("the condition is nested too deeply", self.token.position)
        try:
            start = self.token.position
            if self.take("not"):
                return _negated(self.factor())
            if self.take("("):
                test = self.any_of()
                if not self.take(")"):
                    raise ConditionError("this parenthesis is never closed", start)
                return test
            return self.comparison()
        finally:
            self.depth -= 1

    def comparison(self) -> Test:
        left = self.operand()
        at = self.token
        op = self.take(*_COMPARE, "in", "not")
        if op == "not":
            if not self.take("in"):
                raise ConditionError("'not in' was expected", at.position)
            op = "not in"
        if op is None:
            raise ConditionError(_no_operator(left, at), at.position)
        right = self.operand()
        if isinstance(left, _Field) and isinstance(right, _Field):
            raise ConditionError(
                f'a field is compared with a value; for the text write "{right.name}" in quotes',
                right.position,
            )
        if isinstance(left, _Field) and isinstance(right, _Value):
            return _field_first(left, op, right, at.position)
        assert isinstance(left, _Value)
        if isinstance(right, _Field):
            return _value_first(left, op, right, at.position)
        word = left.token if nearest(left.token.text, FIELDS) else right.token
        word = word if nearest(word.text, FIELDS) else left.token
        raise ConditionError(
            f"{word.text!r} is not a field; {suggest(word.text, FIELDS)}", word.position
        )

    def operand(self) -> _Field | _Value:
        token = self.token
        if token.kind == "word" and token.text not in _KEYWORDS:
            self.at += 1
            return _field(token) or _Value(token, None)
        if token.kind == "text":
            self.at += 1
            return _Value(token, None)
        if self.take("["):
            return _Value(token, self.items(token))
        what = "the end" if token.kind == "end" else repr(token.text)
        raise ConditionError(f"a field or a value was expected, not {what}", token.position)

    def items(self, start: _Token) -> tuple[_Token, ...]:
        items: list[_Token] = []
        while not self.take("]"):
            if items and not self.take(","):
                raise ConditionError("',' or ']' was expected in the list", self.token.position)
            if self.token.kind not in ("word", "text"):
                raise ConditionError("a value was expected in the list", self.token.position)
            items.append(self.token)
            self.at += 1
        if not items:
            raise ConditionError("the list is empty", start.position)
        return tuple(items)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise ConditionError(_bad_character(text[at]), at)
        kind = match.lastgroup or ""
        value = match[kind]
        tokens.append(_Token(kind, value[1:-1] if kind == "text" else value, match.start(kind)))
        at = match.end()
    tokens.append(_Token("end", "", end))
    return tokens


def _bad_character(char: str) -> str:
    if char in "'\"":
        return "this quote is never closed"
    if char in _FOREIGN:
        return f"{char!r} is not an operator here; write {_FOREIGN[char]!r}"
    return f"{char!r} was not expected"


def _no_operator(left: _Field | _Value, found: _Token) -> str:
    name = left.name if isinstance(left, _Field) else left.token.text
    what = "the end" if found.kind == "end" else repr(found.text)
    return f"a comparison was expected after {name!r} (==, !=, <, <=, >, >=, in), not {what}"


def _field(token: _Token) -> _Field | None:
    name = token.text
    if name.startswith(_CONTEXT):
        key = name.removeprefix(_CONTEXT)
        if not key:
            raise ConditionError("a key was expected after 'context.'", token.position)
        return _Field(name, "context", lambda order: order.context.get(key), token.position)
    if name not in FIELDS:
        return None
    kind, path, _ = FIELDS[name]
    return _Field(name, kind, operator.attrgetter(path), token.position)


# --- compiling one comparison ------------------------------------------------------------------


def _field_first(left: _Field, op: str, right: _Value, at: int) -> Test:
    """FIELD op VALUE."""
    if op in _MEMBER:
        if left.kind == "labels":
            raise ConditionError('write it the other way round: "urgent" in labels', at)
        if right.items is None:
            raise ConditionError(
                f"a list was expected after '{op}': {left.name} {op} [a, b]", right.token.position
            )
        if left.kind == "context":
            return _context_test(left.get, op, right.items)
        values = [_read(left, item) for item in right.items]
        return _known(left, _MEMBER[op], values)
    if left.kind == "labels":
        return _labels_equal(left, op, right, at)
    if right.items is not None:
        raise ConditionError(f"a list goes with 'in', not with {op!r}", right.token.position)
    if left.kind == "text" and op not in ("==", "!="):
        raise ConditionError(f"{left.name} is text and has no order: use ==, != or in", at)
    if left.kind == "context":
        return _context_test(left.get, op, (right.token,))
    return _known(left, _COMPARE[op], _read(left, right.token))


def _value_first(left: _Value, op: str, right: _Field, at: int) -> Test:
    """VALUE op FIELD: a mirrored comparison, or a look inside text or labels."""
    if op in _MIRROR:
        return _field_first(right, _MIRROR[op], left, at)
    if right.kind not in ("labels", "text", "context"):
        raise ConditionError(f"nothing is in {right.name}: it is no text and no list", at)
    if left.items is not None:
        raise ConditionError("one word was expected, not a list", left.token.position)
    word = left.token.text

    def inside(order: Order) -> bool:
        have = right.get(order)
        return isinstance(have, str | list | tuple) and word in have

    return inside if op == "in" else _negated(inside)


def _labels_equal(left: _Field, op: str, right: _Value, at: int) -> Test:
    if op not in ("==", "!="):
        raise ConditionError("labels have no order: use in, == or !=", at)
    want = frozenset(item.text for item in right.items or (right.token,))
    compare, get = _COMPARE[op], left.get
    return lambda order: compare(frozenset(get(order)), want)


def _known(left: _Field, compare: Callable[[Any, Any], bool], want: Any) -> Test:
    """Compare the field with `want`; an unknown number makes it false, a missing text is ""."""
    get = left.get
    if left.kind == "text":
        return lambda order: compare(get(order) or "", want)
    return lambda order: (have := get(order)) is not None and compare(have, want)


def _read(left: _Field, token: _Token) -> Any:
    """Read a value as the field's kind."""
    try:
        return _READERS[left.kind](token.text)
    except ValueError as error:
        raise ConditionError(f"{left.name}: {error}", token.position) from None


def _priority(text: str) -> int:
    if re.fullmatch(r"[Pp]?[0-4]", text, re.ASCII):
        return int(text[-1])
    raise ValueError(f"{text!r} is not one of P0, P1, P2, P3, P4")


def _number(text: str) -> float:
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    raise ValueError(f"{text!r} is not a number")


_READERS: Final[dict[Kind, Callable[[str], Any]]] = {
    "priority": _priority,
    "duration": parse_duration,
    "bytes": parse_bytes,
    "number": _number,
    "text": str,
}


def _context_test(get: Callable[[Order], Any], op: str, want: tuple[_Token, ...]) -> Test:
    """Compare a context value, whose kind only the order tells; what does not fit is false."""

    def one(have: float | str, token: _Token, op: str) -> bool:
        known, value = _alike(have, token)
        if isinstance(known, str) is not isinstance(value, str):
            return op == "!="
        # Text has no order: "ten" is neither above nor below 3.
        return (op in ("==", "!=") or not isinstance(value, str)) and _COMPARE[op](known, value)

    def test(order: Order) -> bool:
        have = get(order)
        if have is None or isinstance(have, list | dict):
            return False
        if op in _COMPARE:
            return one(have, want[0], op)
        return any(one(have, token, "==") for token in want) == (op == "in")

    return test


def _alike(have: float | str, token: _Token) -> tuple[float | str, float | str]:
    """Return a context value and a condition's value as the same kind where that is possible.

    `--context` gives text and JSON gives numbers and booleans, so text is read as a number,
    duration or size where the condition has one without quotes.
    """
    if token.kind == "text":
        return have, token.text
    if isinstance(have, bool):
        return str(have).lower(), token.text
    for read in (_plain_number, parse_duration, parse_bytes):
        try:
            return read(have), read(token.text)
        except ValueError:
            continue
    return have, token.text


def _plain_number(value: float | str) -> float:
    return _number(value) if isinstance(value, str) else value


def _both(left: Test, right: Test) -> Test:
    return lambda order: left(order) and right(order)


def _either(left: Test, right: Test) -> Test:
    return lambda order: left(order) or right(order)


def _negated(test: Test) -> Test:
    return lambda order: not test(order)
