"""`outpost_shared.values.dataclass` does what the standard library's does, and only later."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any, ClassVar

import pytest

from outpost_shared import values


def kind(how: Callable[..., Any], name: str, **more: Any) -> Any:
    """Make a class of values with everything in it that ours have."""

    @how(frozen=True, **more)
    class Kind:
        """A class of values."""

        limit: ClassVar[int] = 7
        first: str
        second: int = 2
        many: Any = field(default_factory=lambda: [1, 2])
        hidden: str = field(default="h", repr=False, compare=False)
        made: tuple[int, ...] = field(default_factory=lambda: (8, 9), init=False)

        def twice(self) -> int:
            return 2 * self.second

    Kind.__qualname__ = Kind.__name__ = name
    globals()[name] = Kind
    return Kind


WAYS = [{"slots": False}, {"slots": True}, {"kw_only": True}, {"kw_only": True, "slots": True}]


@pytest.fixture(params=WAYS, ids=str)
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The same class, once by each decorator; neither was used before."""
    return kind(dataclasses.dataclass, "Same", **request.param), kind(
        values.dataclass, "Same", **request.param
    )


def test_values_are_shown_compared_and_hashed_alike(both: tuple[Any, Any]) -> None:
    shown = []
    for cls in both:
        one, same = cls(first="a", many=(3,)), cls(first="a", many=(3,), hidden="other")
        assert one == same
        assert hash(one) == hash(same)
        assert one != cls(first="b", many=(3,))
        assert one != "a"
        assert one.__eq__("a") is NotImplemented
        assert (one.made, one.twice(), one.limit) == ((8, 9), 4, 7)
        shown.append((repr(one), hash(one), dataclasses.asdict(one), dataclasses.astuple(one)))
    assert shown[0] == shown[1]


def test_each_has_a_default_of_its_own(both: tuple[Any, Any]) -> None:
    for cls in both:
        one, other = cls(first="a"), cls(first="a")
        assert one.many == other.many == [1, 2]
        assert one.many is not other.many


def test_signatures_and_mistakes_are_told_alike(both: tuple[Any, Any]) -> None:
    signatures, told = [], []
    for cls in both:
        said = inspect.signature(cls).parameters.values()
        signatures.append([(one.name, one.kind, one.annotation) for one in said])
        for given in ({}, {"first": "a", "other": 1}, {"first": "a", "made": 1}):
            with pytest.raises(TypeError) as caught:
                cls(**given)
            told.append(str(caught.value))
    assert signatures[0] == signatures[1]
    assert [text.rpartition(".")[2] for text in told[:3]] == [
        text.rpartition(".")[2] for text in told[3:]
    ]


def test_nothing_can_be_changed(both: tuple[Any, Any]) -> None:
    for cls in both:
        one = cls(first="a")
        for name in ("first", "other"):
            with pytest.raises((FrozenInstanceError, TypeError)):
                setattr(one, name, 1)
            with pytest.raises((FrozenInstanceError, TypeError)):
                delattr(one, name)
        assert cls.__dataclass_params__.frozen


def test_values_are_replaced_copied_and_pickled(both: tuple[Any, Any]) -> None:
    for cls in both:
        globals()["Same"] = cls
        one = cls(first="a", second=5)
        assert dataclasses.replace(one, first="b") == cls(first="b", second=5)
        assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
        named = [one.name for one in dataclasses.fields(one)]
        assert named == ["first", "second", "many", "hidden", "made"]
        assert cls.__match_args__ == both[0].__match_args__


def test_other_classes_stand_on_it(both: tuple[Any, Any]) -> None:
    shown = []
    for cls in both:

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Below(cls):  # type: ignore[misc, valid-type]
            """A class with one more."""

            more: int = 1

        class Plain(cls):  # type: ignore[misc, valid-type]
            def __init__(self, first: str) -> None:
                super().__init__(first=first)
                object.__setattr__(self, "own", first * 2)

        below, plain = Below(first="a", more=3), Plain("x")
        assert below == Below(first="a", more=3) != Below(first="a")
        with pytest.raises(FrozenInstanceError):
            below.more = 4
        assert (plain.first, plain.own, plain.second) == ("x", "xx", 2)
        if cls is both[1]:  # the standard one trips over its own slots here
            plain.another = 1
        with pytest.raises(FrozenInstanceError):
            plain.first = "y"
        shown.append((repr(below).rpartition(".")[2], [*inspect.signature(Below).parameters]))
    assert shown[0] == shown[1]


def test_what_a_class_says_itself_counts() -> None:
    @values.dataclass(frozen=True, kw_only=True, slots=True)
    class Told:
        """A class that looks at what it is given."""

        secret: str

        def __post_init__(self) -> None:
            if not self.secret:
                raise ValueError("empty")

        def __repr__(self) -> str:
            return "Told(…)"

    assert repr(Told(secret="x")) == "Told(…)"
    with pytest.raises(ValueError, match="empty"):
        Told(secret="")

    @values.dataclass(frozen=True, eq=False)
    class Distinct:
        """Each is another."""

        name: str

    assert Distinct("a") != Distinct("a")

    @values.dataclass(frozen=True)
    class Counted:
        """A class whose equality is its own."""

        name: str

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Counted)

        def __hash__(self) -> int:
            return 1

    assert Counted("a") == Counted("b")


def test_threads_that_make_the_first_object_at_once_each_have_one() -> None:
    for _ in range(20):
        cls = kind(values.dataclass, "Raced", kw_only=True, slots=True)
        start, made = threading.Barrier(6), []

        def work(start: Any = start, made: Any = made, cls: Any = cls) -> None:
            start.wait()
            made.append(cls(first="a"))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [cls(first="a")] * 6
