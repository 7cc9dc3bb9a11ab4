"""Every command answers with the shape that is documented."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from outpost_core.types import Finding, State
from outpost_manager import jsonshapes, jsonviews
from outpost_manager.cli.app import COMMANDS

#: command → words that make it answer, after `prepare`.
CALLS: dict[str, tuple[str, ...]] = {
    "list": (),
    "status": (),
    "backends": (),
    "ping": (),
    "add": ("fake", "third", "--price", "2"),
    "remove": ("there",),
    "spawn": ("gt-9", "--no-rig", "--", "true"),
    "retry": ("gt-1",),
    "continue": ("gt-1", "more"),
    "explain": ("gt-9", "--no-rig", "--", "true"),
    "workers": ("--all",),
    "wait": ("gt-1",),
    "cost": (),
    "accounts": (),
    "show": ("gt-1",),
    "events": (),
    "logs": ("gt-1",),
    "attach": ("gt-2",),
    "peek": ("gt-2",),
    "nudge": ("gt-2", "hello"),
    "mail send": ("here:mayor/", "-s", "hello"),
    "mail inbox": (),
    "mail outbox": ("--all",),
    "mail flush": (),
    "mail drop": ("{letter}",),
    "stop": ("gt-2",),
    "clean": (),
    "doctor": (),
    "bootstrap": ("here",),
    "config check": (),
    "config show": (),
    "trust": ("--list",),
    "completion": ("bash",),
    "plugins": (),
    "plugin new": ("made", "--kind", "policy"),
}
#: they need real workers or real repositories, and are tested with the local outpost.
ELSEWHERE = {"demo", "diff", "checkout"}


def test_every_command_has_a_documented_shape():
    groups = {"config", "mail", "plugin"}
    commands = {name for name in COMMANDS if name not in groups}
    commands |= {"config check", "config show", "plugin new"}
    commands |= {f"mail {verb}" for verb in ("send", "inbox", "outbox", "flush", "drop")}
    assert set(jsonshapes.SHAPES) == commands
    assert set(CALLS) == commands - ELSEWHERE


def same_keys(documented: Any, answered: Any, where: str = "$") -> None:
    """Demand the documented keys, at every depth where both are objects or lists of them."""
    if isinstance(documented, dict) and isinstance(answered, dict):
        assert set(answered) == set(documented), where
        for key, value in documented.items():
            same_keys(value, answered[key], f"{where}.{key}")
    elif isinstance(documented, list) and isinstance(answered, list):
        for item in answered:
            same_keys(documented[0], item, f"{where}[]")


@pytest.mark.parametrize("name", CALLS)
def test_the_answer_has_the_documented_shape(outpost, name):
    outpost.spawn("gt-1")
    outpost.here.write("gt-1.1", b"out\n")
    outpost.here.finish("gt-1.1")
    outpost.spawn("gt-2")
    outpost.ok("workers")
    letter = outpost.json("mail", "send", "here:mayor/", "-s", "hi")["letter"]["id"]
    words = [word.format(letter=letter) for word in CALLS[name]]
    answer = outpost.json(*name.split(), *words)
    documented = dict(jsonshapes.SHAPES[name])
    if name == "logs":
        documented.pop("base64")
    same_keys(documented, answer)


def test_a_worker_is_exact(outpost):
    outpost.spawn("gt-1", "--title", "Fix it", "--priority", "P1")
    outpost.here.finish("gt-1.1")
    worker = outpost.json("show", "gt-1.1")["worker"]
    assert worker["id"] == "gt-1.1"
    assert worker["issue"] == "gt-1"
    assert worker["attempt"] == 1
    assert worker["outpost"] == "here"
    assert worker["status"] == "done"
    assert worker["exit_code"] == 0
    assert worker["signal"] is None
    assert worker["reason"] == "ok"
    assert worker["title"] == "Fix it"
    assert worker["priority"] == 1
    for key in ("created_at", "started_at", "finished_at", "updated_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker[key]), key
    assert worker["unreachable_since"] is None


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1767225599.9996, "2026-01-01T00:00:00.000Z"),
        (1767225600.25, "2026-01-01T00:00:00.250Z"),
        (None, None),
    ],
)
def test_moments(at, text):
    assert jsonviews.moment(at) == text


def test_states_are_the_documented_words():
    assert all(state.value in jsonshapes.WORKER["status"] for state in State)


def test_shapes_are_json():
    assert (
        json.loads(json.dumps(jsonviews.finding("git", Finding(check="git", ok=None))))["ok"]
        is None
    )
