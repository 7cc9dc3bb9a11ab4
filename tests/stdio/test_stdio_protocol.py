"""Lines and JSON: what comes from another program is believed only after a look."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost_core import errors
from outpost_core.errors import (
    ConfigError,
    OutpostError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
    WorkerError,
)
from outpost_shared.protocol import (
    FrameError,
    Lines,
    clean,
    decode,
    error_from_json,
    error_to_json,
    frame,
)


class Chunks:
    """A stream that comes in the pieces that a test wants."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = [*chunks]
        self.reads = 0

    async def read(self, n: int) -> bytes:
        self.reads += 1
        return self.chunks.pop(0) if self.chunks else b""


async def read_all(lines: Lines) -> list[bytes]:
    found = []
    while (line := await lines.next()) is not None:
        found.append(line)
    return found


@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=12),
    st.lists(st.integers(1, 17), min_size=1, max_size=20),
)
def test_lines_are_the_same_however_the_stream_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    chunks = []
    while data:
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(data[:size])
        data = data[size:]
    assert asyncio.run(read_all(Lines(Chunks(*chunks)))) == lines


def test_a_line_of_just_the_limit_is_taken_and_a_longer_one_is_not() -> None:
    assert asyncio.run(read_all(Lines(Chunks(b"x" * 9 + b"\n"), 10))) == [b"x" * 9]
    with pytest.raises(FrameError, match="10 are allowed"):
        asyncio.run(read_all(Lines(Chunks(b"x" * 10 + b"\n"), 10)))


def test_a_line_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    stream = Chunks(*[b"x" * 1000] * 1000)
    with pytest.raises(FrameError, match="it sent a line of"):
        asyncio.run(read_all(Lines(stream, 10_000)))
    assert stream.reads == 10


def test_an_end_in_the_middle_of_a_line_is_no_clean_end() -> None:
    lines = Lines(Chunks(b'{"a":1}\n{"b":'))
    with pytest.raises(FrameError, match="in the middle of a line"):
        asyncio.run(read_all(lines))
    assert lines.rest == b'{"b":'


def test_a_long_line_in_many_pieces_is_looked_at_once() -> None:
    pieces = [b"x" * 100] * 5000
    (line,) = asyncio.run(read_all(Lines(Chunks(*pieces, b"\n"), 1 << 20)))
    assert len(line) == 500_000


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b'{"a":',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[1,2]",
        b"7",
        b"null",
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":1} {"b":2}',
        b'{"a":"' + b"\x01" + b'"}',
    ],
    ids=lambda line: repr(line[:16]),
)
def test_what_is_not_a_json_object_is_refused(line: bytes) -> None:
    with pytest.raises(FrameError, match=r"it sent|is no JSON|too large"):
        decode(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200)
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_every_object_arrives_as_it_was_in_one_line(value: dict) -> None:
    line = frame(value)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert decode(line[:-1]) == value


def test_bytes_that_were_no_utf8_arrive_too() -> None:
    value = {"prompt": b"a\xffb".decode("utf-8", "surrogateescape")}
    assert decode(frame(value)[:-1]) == value


@given(st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail_in_another_way(data: bytes) -> None:
    try:
        decode(data)
    except FrameError:
        return
    assert data.strip().startswith(b"{")


ALL_ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, OutpostError) and kind is not ConfigError
]


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_ours_arrives_as_what_it_was(kind: type[OutpostError]) -> None:
    more = {"reason": "push_failed"} if kind is WorkerError else {}
    error = error_from_json(error_to_json(kind("it failed", hint="do this", **more)))
    assert type(error) is kind
    assert (error.message, error.hint) == ("it failed", "do this")


def test_a_mistake_in_a_far_configuration_is_told_with_its_place() -> None:
    told = error_to_json(ConfigError("bad word", file="far.yaml", line=3))
    assert type(error_from_json(told)) is ConfigError


def test_whether_a_request_was_sent_and_the_reason_are_kept() -> None:
    unsent = error_from_json(error_to_json(UnreachableError("no", sent=False)))
    assert isinstance(unsent, UnreachableError)
    assert not unsent.sent
    failed = error_from_json(error_to_json(WorkerError("no", reason="disk_full")))
    assert isinstance(failed, WorkerError)
    assert failed.reason == "disk_full"


def test_an_error_of_a_subclass_is_told_as_the_nearest_of_the_table() -> None:
    class SpecialError(SpawnRefusedError):
        pass

    assert error_to_json(SpecialError("no"))["kind"] == "refused"


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        "no",
        {},
        {"kind": 7, "message": 8, "hint": []},
        {"kind": "SystemExit", "message": "x"},
        {"kind": "__class__", "message": "x"},
        {"kind": ["usage"], "message": "x"},
    ],
    ids=repr,
)
def test_an_odd_error_is_an_error_all_the_same(told: object) -> None:
    error = error_from_json(told)  # type: ignore[arg-type]
    assert type(error) is OutpostError
    assert error.message


def test_an_error_that_does_not_say_if_it_was_sent_may_have_been() -> None:
    error = error_from_json({"kind": "unreachable", "message": "x", "sent": "false"})
    assert isinstance(error, UnreachableError)
    assert error.sent


def test_a_peer_cannot_write_on_the_terminal_by_an_error() -> None:
    error = error_from_json({"kind": "usage", "message": "\x1b[2Jgone\x07\r\nnext", "hint": "\x9b"})
    assert isinstance(error, UsageError)
    assert error.message == "[2Jgone  \nnext"
    assert error.hint == ""
    assert len(clean("x" * 10_000)) == 4000
