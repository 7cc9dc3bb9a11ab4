import random

import pytest

from outpost_core.units import format_bytes, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800), ("2h", 7200), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400),
        ("500ms", 0.5), ("1m500ms", 60.5), (" 1h 30m ", 5400), ("90", 90), ("0", 0), (45, 45),
        (0.25, 0.25), ("1d2h3m4s5ms", 93784.005),
    ],
)  # fmt: skip
def test_durations_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "soon", "-5m", "30 mins", "5x", "30m1h", "1:30", "1h1h", "1e3", "m", "٣m", "9" * 70,
     "99999999d", -1, True, float("nan"), float("inf")],
)  # fmt: skip
def test_what_is_no_duration_is_told_how_to_write_one(text: str | float) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 * 1024**3), ("2Gi", 2 * 1024**3), ("500MB", 500_000_000), ("64kB", 64_000),
        ("1.5KiB", 1536), ("512B", 512), ("512", 512), (0, 0), (10.0, 10), ("1 MiB", 1024**2),
        ("9007199254740993B", 9007199254740993),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str | float, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "big", "2G", "2 gigs", "-1B", "1.B", "9" * 70, -1, True, float("inf")]
)
def test_what_is_no_size_is_told_how_to_write_one(text: str | float) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


def test_durations_read_back_as_they_were_shown() -> None:
    numbers = random.Random(1)
    for _ in range(2000):
        seconds = round(numbers.uniform(0, 10 ** numbers.randint(0, 7)), 3)
        assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)
    assert [format_duration(s) for s in (0, 0.25, 90, 5400, 90000)] == [
        "0s", "250ms", "1m30s", "1h30m", "1d1h",
    ]  # fmt: skip


def test_sizes_are_shown_to_a_tenth_of_their_unit() -> None:
    numbers = random.Random(2)
    for _ in range(2000):
        count = numbers.randint(0, 10 ** numbers.randint(1, 17))
        assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.05)
    shown = [format_bytes(n) for n in (0, 1023, 1024, 1536, 256 * 1024**2, 1024**2 - 1, 1024**6)]
    assert shown == ["0B", "1023B", "1KiB", "1.5KiB", "256MiB", "1MiB", "1024PiB"]


def test_only_amounts_are_shown() -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        format_duration(-1)
    with pytest.raises(ValueError, match="number of bytes"):
        format_bytes(-1)
