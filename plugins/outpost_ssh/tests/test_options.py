"""What is said of options that are valid but probably a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpost_manager.config import load_config, warnings
from outpost_ssh.plugin import outpost_backends


def told(folder: Path, entry: str, defaults: str = "") -> list[str]:
    file = folder / "outposts.yaml"
    file.write_text(
        f"outposts:\n  - name: vm1\n    type: ssh\n    host: h\n{entry}defaults:\n{defaults}"
    )
    return [
        one.replace(str(file), "FILE")
        for one in warnings(load_config(file, {"ssh": outpost_backends()}))
    ]


@pytest.mark.parametrize(
    ("entry", "defaults", "place", "said"),
    [
        ("    connect_timeout: 20s\n", "", "FILE:5:22", "take 20s, and answer_timeout ends"),
        ("    connect_timeout: 10s\n", "", "FILE:5:22", "take 10s, "),
        ("", "  answer_timeout: 3s\n", "FILE:2:5", "take 8s, "),
    ],
)
def test_a_host_that_is_given_up_before_its_cause_is_known_is_warned_of(
    tmp_path: Path, entry: str, defaults: str, place: str, said: str
) -> None:
    (warning,) = told(tmp_path, entry, defaults)
    assert warning.startswith(f"{place}: vm1: connecting may {said}")


@pytest.mark.parametrize(
    ("entry", "defaults"),
    [("", ""), ("    connect_timeout: 20s\n", "  answer_timeout: 21s\n")],
)
def test_a_host_whose_cause_is_known_in_time_is_not(
    tmp_path: Path, entry: str, defaults: str
) -> None:
    assert told(tmp_path, entry, defaults) == []
