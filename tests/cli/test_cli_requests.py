"""Files of issues, and pull requests by the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outpost_core.errors import UsageError
from outpost_manager.orders import pullrequest
from outpost_manager.orders.making import OrderRequest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "from-file.md"
RIG = ("--rig", "https://example.com/a.git", "--on", "here")


def spawn(outpost, line: object, *words: str, code: int = 0):
    text = json.dumps(line) + "\n"
    return outpost.json("spawn", "--from-file", "-", *words, code=code, stdin=text)


@pytest.mark.parametrize("word", ["text", "body"])
def test_text_or_body_is_the_issues_text(outpost, word):
    spawn(outpost, {"issue": "x", "title": "T", word: "All of it."}, *RIG)
    order = outpost.here._world.orders["x.1"]
    assert order.issue.text == "All of it."
    assert "Work on issue x: T.\n\nAll of it.\n" in order.prompt


def test_text_alone_is_enough_and_both_words_are_too_much(outpost):
    spawn(outpost, {"issue": "x", "body": "All of it."}, *RIG)
    assert "All of it." in outpost.here._world.orders["x.1"].prompt
    error = spawn(outpost, {"issue": "y", "body": "a", "text": "b"}, *RIG, code=2)["error"]
    assert "same field" in error["message"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("titel", "title"), ("id", "issue"), ("description", "text"), ("repo", "rig"),
     ("label", "labels"), ("bodi", "body"), ("Timeout", "timeout")],
)  # fmt: skip
def test_a_wrong_field_is_refused_with_the_nearest_right_word(outpost, wrong, right):
    error = spawn(outpost, {"issue": "x", wrong: "1"}, *RIG, code=2)["error"]
    assert error["message"].startswith(f"<stdin>:1: unknown field '{wrong}'")
    assert error["hint"] == f"did you mean '{right}'?"
    assert outpost.json("workers", "--all")["workers"] == []


def test_the_page_names_every_field(outpost):
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    named = {word.strip(" `") for row in rows for word in row.split("|")[1].split(",")}
    fields = set(OrderRequest.__dataclass_fields__)
    assert named == fields | {"body"}
    text = outpost.ok("spawn", "--help")
    assert "text or body" in " ".join(text.split())


# --- pull requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rig", "program"),
    [
        ("https://github.com/a/b.git", "gh"),
        ("git@github.com:a/b.git", "gh"),
        ("ssh://git@github.example.com:22/a/b", "gh"),
        ("https://me@gitlab.com/a/b", "glab"),
        ("git@gitlab.example.com:a/b.git", "glab"),
        ("https://git-gitlab.example.com/a", "glab"),
    ],
)
def test_the_host_tells_the_command(outpost, rig, program):
    outpost.ok("spawn", "x", "--rig", rig, "--on", "here", "--pr", "--title", "T", "--", "true")
    command = outpost.here._world.orders["x.1"].delivery.pr_command
    assert command[0] == program
    assert "{branch}" in command


@pytest.mark.parametrize(
    "rig",
    ["https://example.com/github/gitlab.git", "https://mygithubs.example.com/a", "/srv/github.com",
     None],
)  # fmt: skip
def test_any_other_host_is_refused_before_anything_starts(outpost, rig):
    if rig is not None:
        with pytest.raises(UsageError, match="neither at GitHub nor"):
            pullrequest.command_for(rig)
    words = ("--no-rig",) if rig is None else ("--rig", "https://example.com/github/gitlab.git")
    error = outpost.json("spawn", "x", *words, "--pr", "--", "true", code=2)["error"]
    assert error["message"].startswith("--pr: ")
    assert outpost.json("workers", "--all")["workers"] == []


def test_a_configured_command_wins(outpost):
    outpost.config.write_text(
        outpost.config.read_text() + "defaults:\n  pr_command: [open-it, '{branch}']\n"
    )
    outpost.ok("spawn", "x", *RIG, "--pr", "--title", "T", "--", "true")
    assert outpost.here._world.orders["x.1"].delivery.pr_command == ("open-it", "{branch}")
    outpost.here._world.orders.clear()


def test_pr_works_for_real_with_a_tool_of_that_name(rig, outpost):
    """`gh` is a stand-in that prints what it was given, as the tool prints the URL at the end."""
    tools = outpost.folder / "tools"
    tools.mkdir()
    (tools / "gh").write_text('#!/bin/sh\necho "$@" >&2\necho https://github.com/a/b/pull/7\n')
    (tools / "gh").chmod(0o755)
    line = json.dumps({"issue": "x", "title": "T", "pr_command": list(pullrequest.GH)})
    (outpost.folder / "issues").write_text(line + "\n")
    outpost.config.write_text(
        f"outposts:\n  - {{name: local, type: local, mode: process, agent_path: ['{tools}']}}\n"
    )
    done = rig("spawn", "--from-file", str(outpost.folder / "issues"), "--rig", str(rig.bare),
               "--wait", "--json", "--", "sh", "-c", "echo a >a")  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    (one,) = json.loads(done.stdout)["spawned"]
    assert one["worker"]["pr_url"] == "https://github.com/a/b/pull/7"
