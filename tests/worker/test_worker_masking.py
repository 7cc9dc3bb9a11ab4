"""Secrets in a stream, and the small JSON."""

from __future__ import annotations

import json
import random

import pytest

from outpost_shared import leanjson
from outpost_worker.folder.masking import Masker


def _whole(values, data):
    masker = Masker(values)
    return masker.feed(data) + masker.close()


@pytest.mark.parametrize(
    ("values", "data", "shown"),
    [
        ([], b"abcdef", b"abcdef"),
        (["secret"], b"a secret!", b"a ***!"),
        (["secret"], b"secretsecret", b"******"),
        (["secret"], b"secre", b"secre"),
        (["abc"], b"too short: abc", b"too short: abc"),
        (["abcd", "abcdefgh"], b"abcdefg abcdefgh abcd", b"***efg *** ***"),
        (["aaaa"], b"aaaaaaaaa", b"******a"),
        (["bcde", "abcd"], b"abcde", b"***e"),
        (['q"u\\o'], rb'{"a":"q\"u\\o"} q"u\o', b'{"a":"***"} ***'),
        (["line one is long\nline two is long"], b"line two is long.", b"***."),
        (["pässwörd"], "«pässwörd»".encode(), "«***»".encode()),
    ],
)
def test_masking(values, data, shown):
    assert _whole(values, data) == shown
    masker = Masker(values)
    pieces = [masker.feed(data[n : n + 1]) for n in range(len(data))]
    assert b"".join(pieces) + masker.close() == shown


def test_the_same_however_it_is_cut():
    """Small alphabets make secrets overlap, nest and repeat as no real ones do."""
    chance = random.Random(1)
    for _ in range(400):
        values = ["".join(chance.choices("ab", k=chance.randint(4, 7))) for _ in range(3)]
        data = "".join(chance.choices("abc", weights=[6, 6, 1], k=60)).encode()
        shown = _whole(values, data)
        assert not any(value.encode() in shown for value in values)
        masker = Masker(values)
        pieces, rest = [], data
        while rest:
            cut = chance.randint(1, 9)
            pieces.append(masker.feed(rest[:cut]))
            rest = rest[cut:]
        assert b"".join(pieces) + masker.close() == shown


def test_nothing_is_held_that_cannot_be_a_secret():
    masker = Masker(["secret-value"])
    assert masker.feed(b"hello") == b"hello"
    assert masker.feed(b"is it se") == b"is it "
    assert masker.feed(b"t?") == b"set?"


VALUES = [
    None, True, 0, -1.5, 1e300, "", "é\n\"\\\u2028\udcff", [], {}, [1, [2, {"a": None}]],
    {"a": {"b": ["c", False]}, "é": "x" * 1000},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_small_json_is_json(value):
    text = leanjson.dumps(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert leanjson.loads(text) == value
    assert leanjson.loads(f" \n{json.dumps(value, indent=2)}\n") == value


@pytest.mark.parametrize("text", ["", " ", "{", "[1,]", "nul", "{} {}", '{"a"}', "'a'", '"\n"'])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        leanjson.loads(text)
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)


def test_what_has_no_shape_is_refused():
    with pytest.raises(TypeError):
        leanjson.dumps({"a": object()})


def test_without_the_c_parts_json_does_the_work():
    read, write = leanjson._plain()
    assert write({"a": [1, "é"]}) == leanjson.dumps({"a": [1, "é"]})
    assert read('{"a": 1}') == {"a": 1}
