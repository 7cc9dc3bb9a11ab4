"""Hostile text in every field that comes from elsewhere, through every command, on a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from hostilekit import EVIL, World, foreign, forged, leaves

from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session

ORDER = ("--no-rig", "--title", EVIL, "--label", EVIL, "--prompt", EVIL, "--context", f"a={EVIL}")
#: of what the user says himself, the lines are his own
LINE = EVIL.replace("\r\n", "")
#: every command, with the words that make it show as much as it can. A new command has to be
#: here, or `test_every_command_is_here` fails.
COMMANDS: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("spawn",): [
        ("spawn", "new", *ORDER, "--", "true", EVIL),
        ("spawn", "new2", "--wait", *ORDER, "--on", "evil", "--", "true", EVIL),
        ("spawn", "new3", "--follow", *ORDER, "--on", "dead", "--", "true", EVIL),
        ("spawn", EVIL, "--no-rig", "--", "true"),
        ("spawn", "done", "--no-rig", "--", "true"),
        ("spawn", "fail", "--rig", "RIG", "--base", EVIL, "--", "true"),
        ("spawn", "busy", "--wait", "--rig", EVIL, "--", "true"),
    ],
    ("retry",): [("retry", "fail"), ("retry", "--failed"), ("retry", EVIL)],
    ("continue",): [("continue", "done", EVIL), ("continue", "fail", EVIL)],
    ("explain",): [("explain", "new", *ORDER, "--", "true"), ("explain", EVIL, "--", "true")],
    ("events",): [("events",), ("events", "busy"), ("events", EVIL), ("events", "--after", "0")],
    ("wait",): [("wait", "fail", "gone", "done"), ("wait", "busy", "--timeout", "1s"),
                ("wait", EVIL)],
    ("workers",): [("workers",), ("workers", "--all"), ("workers", "--issue", EVIL)],
    ("show",): [("show", "busy"), ("show", "fail"), ("show", "far"), ("show", "end"),
                ("show", "odd"), ("show", EVIL)],
    ("diff",): [("diff", "done"), ("diff", "done", "--stat"), ("diff", "done", "--name-only"),
                ("diff", "fail"), ("diff", EVIL)],
    ("checkout",): [("checkout", "done"), ("checkout", "fail"), ("checkout", EVIL)],
    ("logs",): [("logs", "busy"), ("logs", "-f", "end"), ("logs", "fail"), ("logs", EVIL)],
    ("attach",): [("attach", "busy"), ("attach", "fail"), ("attach", EVIL)],
    ("peek",): [("peek", "busy"), ("peek", EVIL)],
    ("nudge",): [("nudge", "busy", EVIL), ("nudge", EVIL, "x")],
    ("mail", "send"): [("mail", "send", "evil:mayor/", "-s", "s", "-m", EVIL),
                       ("mail", "send", "dead:mayor/", "-s", "s", "-m", EVIL),
                       ("mail", "send", f"evil:{EVIL}", "-s", EVIL, "--from", EVIL),
                       ("mail", "send", EVIL, "-s", "x")],
    ("mail", "inbox"): [("mail", "inbox"), ("mail", "inbox", "evil", "--full"),
                        ("mail", "inbox", EVIL), ("mail", "inbox", "--identity", EVIL)],
    ("mail", "outbox"): [("mail", "outbox", "--all")],
    ("mail", "flush"): [("mail", "flush"), ("mail", "flush", EVIL)],
    ("mail", "drop"): [("mail", "drop", EVIL), ("mail", "drop", "letter0"),
                       ("mail", "drop", "letter1")],
    ("cost",): [("cost", "--by", by, "--forecast") for by in ("day", "outpost", "agent", "rig")],
    ("accounts",): [("accounts",), ("accounts", "--reset", EVIL)],
    ("stop",): [("stop", "busy"), ("stop", "--forget", "busy"), ("stop", "fail"), ("stop", EVIL)],
    ("clean",): [("clean", "--all", "--dry-run"), ("clean", "fail", "gone"), ("clean", "--all"),
                 ("clean", EVIL)],
    ("list",): [("list",), ("list", "--reset", EVIL)],
    ("status",): [("status",), ("status", "evil"), ("status", EVIL), ("status", "--watch")],
    ("ping",): [("ping",), ("ping", EVIL)],
    ("add", "exec"): [("add", "exec", EVIL, "--command", EVIL),
                      ("add", "exec", "more", "--command", EVIL)],
    ("add", "local"): [("add", "local", EVIL), ("add", "local", "more", "--max-workers", EVIL)],
    ("add", "ssh"): [("add", "ssh", "vm", "--host", EVIL, "--no-check"),
                     ("add", "ssh", "vm", "--host", "127.0.0.1", "--user", EVIL),
                     ("add", "ssh", "vm2", "--host", "127.0.0.1", "--port", "1")],
    ("add", "k8s"): [("add", "k8s", EVIL, "--image", "x", "--no-check"),
                     ("add", "k8s", "more", "--image", EVIL, "--no-check"),
                     ("add", "k8s", "more", "--image", "x", "--context", EVIL)],
    ("add", "cloudrun"): [("add", "cloudrun", EVIL, "--url", "http://127.0.0.1:1"),
                          ("add", "cloudrun", "more", "--url", EVIL),
                          ("add", "cloudrun", "more", "--project", "p-12345", "--region", EVIL)],
    ("image", "build"): [("image", "build", "--agent", EVIL),
                         ("image", "build", "--engine", EVIL)],
    ("queue", "add"): [("queue", "add", "q-1", *ORDER, "--", "true", EVIL),
                       ("queue", "add", "q-2", *ORDER, "--batch", EVIL, "--", "true"),
                       ("queue", "add", "q-3", "--no-rig", "--after", EVIL, "--", "true"),
                       ("queue", "add", "q-3", "--no-rig", "--not-before", EVIL, "--", "true"),
                       ("queue", "add", EVIL, "--no-rig", "--", "true")],
    ("queue", "list"): [("queue", "add", "q-9", *ORDER, "--", "true"), ("queue", "list"),
                        ("queue", "list", "--all", "--batch", EVIL)],
    ("queue", "show"): [("queue", "show", "q-1"), ("queue", "show", EVIL)],
    ("queue", "batches"): [("queue", "add", "q-8", *ORDER, "--batch", EVIL, "--", "true"),
                           ("queue", "batches"), ("queue", "batches", EVIL)],
    ("queue", "move"): [("queue", "move", "q-1", "P0"), ("queue", "move", EVIL, EVIL)],
    ("queue", "pause"): [("queue", "pause", "q-1"), ("queue", "pause", EVIL)],
    ("queue", "resume"): [("queue", "resume"), ("queue", "resume", EVIL)],
    ("queue", "remove"): [("queue", "remove", EVIL)],
    ("queue", "run"): [("queue", "run"), ("queue", "run", EVIL)],
    ("queue", "drain"): [("queue", "drain"), ("queue", "show", EVIL)],
    ("batch",): [("batch", EVIL), ("batch", EVIL, "--retry"), ("batch", EVIL, "--stop")],
    ("remove",): [("remove", EVIL), ("remove", "evil")],
    ("backends",): [("backends",), ("backends", EVIL)],
    ("plugins",): [("plugins",), ("plugins", EVIL)],
    ("plugin", "new"): [("plugin", "new", EVIL, "--kind", "agent"),
                        ("plugin", "new", "mine", "--kind", EVIL)],
    ("trust",): [("trust", "TOWN"), ("trust", "--yes", "TOWN"), ("trust", "--list"),
                 ("trust", "--revoke", "TOWN"), ("trust", EVIL)],
    ("bootstrap",): [("bootstrap", "evil"), ("bootstrap", EVIL),
                     ("bootstrap", "evil", "--agent", EVIL)],
    ("doctor",): [("doctor", "--no-rig"), ("doctor", "evil", "--no-rig"),
                  ("doctor", "evil", "--rig", EVIL), ("doctor", EVIL)],
    ("demo",): [],  # shows nothing but what it makes itself; tests/cli/test_cli_demo.py runs it
    ("config", "check"): [("config", "check"), ("--config", LINE, "config", "check")],
    ("config", "show"): [("config", "show")],
    ("conformance",): [("conformance", EVIL), ("conformance", "evil", "--group", EVIL),
                       ("conformance", "dead", "--group", "stop"),
                       ("conformance", "evil", "--group", "stop")],
    ("serve",): [("serve", "--status"), ("serve", EVIL), ("serve", "--env-file", EVIL),
                 ("serve", "--listen", EVIL), ("serve", "--tls-cert", EVIL)],
    ("schedule", "list"): [("schedule", "list"), ("schedule", EVIL)],
    ("schedule", "run"): [("schedule", "run", EVIL)],
    ("scale",): [("scale",), ("scale", "--dry-run"), ("scale", EVIL), ("scale", EVIL, "--to", "1"),
                 ("scale", "evil", "--to", "0", "--dry-run")],
    ("simulate",): [("simulate", EVIL), ("simulate", "--past", "30d", "--json"),
                    ("simulate", "--past", EVIL), ("simulate", "--past", "1d", "--compare", EVIL)],
    ("notify", "test"): [("notify", "test", EVIL), ("notify", "test")],
    ("token", "add"): [("token", "add", EVIL, "--role", "view"),
                       ("token", "add", "ada", "--role", EVIL)],
    ("token", "list"): [("token", "list"), ("token", "list", EVIL)],
    ("token", "remove"): [("token", "remove", EVIL)],
    ("completion",): [("completion", "bash"), ("completion", EVIL)],
}  # fmt: skip
#: whose answer is the agent's own output, or the files of its work.
OUTPUT = {("logs",), ("diff",)}
#: whose answer has foreign lines by its nature.
LINES = {("logs",), ("diff",), ("peek",), ("mail", "inbox"), ("spawn",), ("demo",)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in list(os.environ):
        if name.startswith("OUTPOST_") or name in ("NO_COLOR", "COLUMNS", "GT_ROOT"):
            monkeypatch.delenv(name)
    return World(tmp_path)


def test_every_command_is_here() -> None:
    ctx = click.Context(cli, obj=Session(), info_name="outpost")
    assert set(leaves(cli, ctx)) == set(COMMANDS)


def filled(world: World, words: tuple[str, ...]) -> list[str]:
    places = {"RIG": str(world.rig), "TOWN": str(world.town)}
    return [places.get(word, word) for word in words]


@pytest.mark.parametrize("path", [*COMMANDS], ids=" ".join)
def test_nothing_foreign_reaches_a_terminal_raw(world: World, path: tuple[str, ...]) -> None:
    said = ""
    for words in COMMANDS[path]:
        watch = "--watch" in words
        cwd = world.rig if path == ("checkout",) else None
        seen = world.run(*filled(world, words), cwd=cwd, seconds=5 if watch else 60)
        said += seen
        bad = foreign(seen, screen=watch, output=path in OUTPUT)
        assert not bad, (words, bad, seen)
        assert path in LINES or not forged(seen), (words, seen)
        assert "Traceback" not in seen
        assert "not valid YAML" not in seen, seen
        assert "unexpected error" not in seen, (words, seen)
    if said and path not in {("completion",), ("config", "show")}:
        assert "\\x1b" in said or "\\u202e" in said or path in OUTPUT, said


@pytest.mark.parametrize("path", [*COMMANDS], ids=" ".join)
def test_nor_with_json_which_says_it_all_the_same(world: World, path: tuple[str, ...]) -> None:
    for words in COMMANDS[path][:2]:  # the rest differs in what it is asked, not in how it answers
        if words[:2] == ("status", "--watch"):
            continue
        seen = world.run("--json", *filled(world, words))
        assert not foreign(seen), (words, seen)
        if path == ("workers",) and EVIL not in words:
            assert EVIL in [worker["title"] for worker in json.loads(seen)["workers"]]
