"""A world that is hostile wherever it may be: a program behind an outpost, a ledger of before that
believed it, a repository and a mailbox that strangers wrote.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peers import forked

from outpost_core import wire
from outpost_core.types import Agent, Delivery, Explanation, Issue, Order, Result, State, Verdict
from outpost_manager.ledger import Ledger

#: What a terminal would obey (clipboard, title, screen, colours that hide, a sixel, C1, DEL, BS),
#: a line that looks like our own, text that runs backwards, and what nobody sees.
EVIL = (
    "\x1b]52;c;ZXZpbA==\x07\x1b]0;owned\x07\x1b[2J\x1b[8mX\x1bPq#0\x1b\\\x9b31m\x9d0;t\x9c\x7f\x08"
    "\r\nFORGED line\t\u202eevil\u2066\u200b\u200f\u3164\U000e0041end"
)
#: The same for what JSON can say and UTF-8 cannot.
LONE = EVIL + "\ud800"

#: The hostile program: it greets politely, and everything that it says afterwards is evil.
PROGRAM = """\
import base64, json, sys, time
EVIL = json.load(open(sys.argv[1]))
hello = json.loads(sys.stdin.readline())["hello"]
METHODS = ["spawn", "list", "ping", "logs", "stop", "clean", "viewer", "nudge", "peek", "mail",
           "inbox", "facts", "doctor", "bye"]
def say(value):
    sys.stdout.write(json.dumps(value) + "\\n")
    sys.stdout.flush()
say({"outpost": 1, "hello": {"nonce": hello["nonce"], "server": EVIL, "methods": METHODS,
     "capabilities": ["interactive", "rig", "secrets"], "inflight": 8, "time": time.time()}})
sys.stderr.write(EVIL + "\\n")
sys.stderr.flush()
def status(name, state, **more):
    return {"id": name, "state": state, "detail": EVIL, "tree": EVIL,
            "usage": {"model": EVIL, "input_tokens": 3}, **more}
ENDED = {"state": "failed", "reason": EVIL, "message": EVIL, "branch": EVIL, "commit": EVIL,
         "pr_url": EVIL, "checkpoint": EVIL, "session": EVIL, "usage": {"model": EVIL}}
def answer(method, params):
    if method == "list":
        workers = [status("busy.1", "working"), status("far.1", "working"),
                   status("end.1", "failed", result=ENDED), status(EVIL, "working"),
                   status("odd.1", EVIL)]
        return {"workers": workers, "next": None}
    if method == "ping":
        return {"ok": False, "detail": EVIL, "hint": EVIL}
    if method == "logs":
        data = (EVIL.encode("utf-8", "replace") + b"\\xff\\xfe\\n")[params["offset"]:]
        return {"data": base64.b64encode(data).decode(), "end": True}
    if method == "peek":
        return {"text": EVIL}
    if method == "viewer":
        return {"argv": ["/bin/echo", EVIL]}
    if method == "clean":
        return {"removed": True, "rescued": EVIL, "detail": EVIL}
    if method == "facts":
        return {"programs": {word: EVIL for word in params["programs"]}}
    if method == "inbox":
        return {"messages": [{"to": EVIL, "subject": EVIL, "body": EVIL, "sender": EVIL,
                              "id": EVIL, "sent_at": 1}], "next": None}
    if method == "doctor":
        return {"findings": [{"check": EVIL, "ok": False, "detail": EVIL, "hint": EVIL}]}
    return None
for line in sys.stdin:
    asked = json.loads(line)
    if "method" not in asked:
        continue
    method = asked["method"]
    if method in ("spawn", "stop", "nudge", "mail"):
        error = {"kind": "refused" if method == "spawn" else "usage" if method == "mail"
                 else "internal", "message": EVIL, "hint": EVIL}
        say({"id": asked["id"], "error": error})
    else:
        say({"id": asked["id"], "result": answer(method, asked.get("params", {}))})
"""

#: A program that never says hello, and whose last words are evil.
DEAD = """\
import json, sys
EVIL = json.load(open(sys.argv[1]))
print(EVIL)
sys.stderr.write(EVIL)
sys.exit(3)
"""


def git(*words: str, cwd: Path) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    for who in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{who}_NAME": "t", f"GIT_{who}_EMAIL": "t@example.com"}
    return subprocess.run(
        ["git", *words], cwd=cwd, check=True, capture_output=True, text=True, env=env, timeout=60
    ).stdout.strip()


class World:
    """A folder with a configuration, a state and a repository, all of which strangers wrote in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "outposts.yaml"
        self.state = folder / "state"
        self.rig = folder / "rig"
        (folder / "evil.json").write_text(json.dumps(EVIL))
        (folder / "hostile.py").write_text(PROGRAM)
        (folder / "dead.py").write_text(DEAD)
        self.commit = self._repository()
        evil = str(folder / "evil.json")
        words = ["clean", "attach", "nudge", "peek", "mail", "inbox", "facts", "interactive",
                 "rig", "secrets"]  # fmt: skip
        self.config.write_text(
            json.dumps(
                {
                    "outposts": [
                        {
                            "name": "evil",
                            "type": "exec",
                            "command": [sys.executable, str(folder / "hostile.py"), evil],
                            "capabilities": words,
                        },
                        {
                            "name": "dead",
                            "type": "exec",
                            "command": [sys.executable, str(folder / "dead.py"), evil],
                        },
                    ]
                }
            )
        )  # fmt: skip
        self._ledger()
        self._town()

    def _town(self) -> None:
        """Make what a cloned repository may bring: a town whose configuration is evil."""
        self.town = self.folder / "town"
        (self.town / "mayor").mkdir(parents=True)
        (self.town / "config").mkdir()
        (self.town / "mayor" / "town.json").write_text("{}")
        text = json.dumps(EVIL.replace("\U000e0041", ""))
        (self.town / "mayor" / "rigs.json").write_text(
            f'{{"rigs": {{{text}: {{"git_url": {text}}}}}}}'
        )
        (self.town / "config" / "outposts.yaml").write_text(
            "outposts:\n  - name: e\n    type: exec\n"
            f"    command: [sh, -c, {text}]\n    options: {{a: {text}}}\n"
            f"policy: {{overrides: [{{condition: {text}, prefer: e}}]}}\n"
        )

    def _repository(self) -> str:
        self.rig.mkdir()
        git("init", "-q", "-b", "main", ".", cwd=self.rig)
        (self.rig / "one").write_text("1\n")
        git("add", "one", cwd=self.rig)
        git("commit", "-q", "-m", "one", cwd=self.rig)
        git("switch", "-q", "-c", "outpost/done", cwd=self.rig)
        (self.rig / "one").write_text(EVIL + "\n")
        (self.rig / ("file" + EVIL.replace("/", "")[:60])).write_text(EVIL)
        git("add", "-A", cwd=self.rig)
        git("commit", "-q", "-m", EVIL, cwd=self.rig)
        commit = git("rev-parse", "HEAD", cwd=self.rig)
        git("switch", "-q", "main", cwd=self.rig)
        return commit

    def _ledger(self) -> None:
        """Fill the ledger as one of before would have been, with what nobody had looked at."""
        ledger = Ledger(self.state)
        assert ledger.id
        ledger.close()
        now = time.time()
        good = Result(state=State.DONE, branch="outpost/done", commit=self.commit)
        bad = Result(
            state=State.FAILED, reason=LONE, message=LONE, branch=LONE, commit=LONE, pr_url=LONE,
            checkpoint=LONE, session=LONE, exit_code=3, log_bytes=4,
        )  # fmt: skip
        with sqlite3.connect(self.state / "ledger.db") as db:
            for issue, state, result in (
                ("busy", "working", None),
                ("done", "done", good),
                ("fail", "failed", bad),
                ("gone", "stopped", bad),
            ):
                worker, ended = f"{issue}.1", None if result is None else now
                db.execute(
                    "INSERT INTO workers (id, issue, attempt, outpost, digest, state, detail,"
                    " title, priority, rig, agent, created_at, reserved_at, spawned_at, started_at,"
                    " finished_at, ended_at, owner) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (worker, issue, 1, "evil", "", state, EVIL, EVIL, 2, EVIL, EVIL, now, now,
                     now, now, ended, ended, ""),
                )  # fmt: skip
                if result is not None:
                    body = wire.dumps(result)
                    db.execute("INSERT INTO results VALUES (?, ?)", (worker, body))
                verdict = Verdict(outpost=LONE, rank=1, eligible=True, reason=LONE)
                why = Explanation(rule=LONE, verdicts=(verdict,), attempts=((LONE, LONE),))
                db.execute(
                    "INSERT INTO events (worker, at, kind, outpost, data, body, explanation)"
                    " VALUES (?, ?, 'reserved', 'evil', ?, ?, ?)",
                    (worker, now, json.dumps({"reason": LONE}),
                     wire.dumps(self._order(issue)), wire.dumps(why)),
                )  # fmt: skip
            db.execute("INSERT INTO outposts VALUES ('dead', 0, ?, ?, NULL, ?)", (now, EVIL, now))
            for number, state in enumerate(("waiting", "failed")):
                db.execute(
                    "INSERT INTO outbox (id, outpost, recipient, subject, body, sender, priority,"
                    " written_at, tries, error, failed_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (f"letter{number}", "evil", EVIL, EVIL, EVIL, EVIL, 2, now, 1, EVIL,
                     now if state == "failed" else None),
                )  # fmt: skip

    def _order(self, issue: str) -> Order:
        return Order(
            issue=Issue(id=issue, title=LONE, text=LONE, labels=(LONE,), kind=LONE),
            agent=Agent(argv=("true", LONE), name=LONE),
            rig=str(self.rig),
            base="main" if issue == "done" else LONE,
            delivery=Delivery(branch=f"outpost/{issue}", message=LONE),
            prompt=LONE,
            context={"said": LONE},
        )

    def run(self, *words: str, cwd: Path | None = None, seconds: float = 60.0) -> str:
        """Run the real program on a real terminal; return every character that came out.

        Questions are answered with no.
        """
        main, side = pty.openpty()
        env = {
            **os.environ, "HOME": str(self.folder), "TERM": "xterm", "COLUMNS": "400",
            "LINES": "100", "PAGER": "cat", "GIT_PAGER": "cat", "GIT_CONFIG_GLOBAL": "/dev/null",
        }  # fmt: skip
        argv = ["--config", str(self.config), "--state", str(self.state), *words]
        process = forked.start(
            argv, env=env, cwd=cwd or self.folder, stdin=side, stdout=side, stderr=side,
            session=True,
        )  # fmt: skip
        os.close(side)
        seen, until = b"", time.monotonic() + seconds
        while time.monotonic() < until:
            if not select.select([main], [], [], 0.1)[0]:
                continue
            try:
                chunk = os.read(main, 65536)
            except OSError:  # everybody has closed the other side
                break
            if not chunk:
                break
            seen += chunk
            if seen.endswith(b"[y/N]: "):
                os.write(main, b"n\n")
        else:
            process.terminate()
        process.wait(30)
        os.close(main)
        return seen.decode("utf-8", "surrogateescape")


#: What our own hand may do to a terminal: colours, and a line that changes.
_OURS = re.compile(r"\x1b\[(?:[0-2]|3[1-6])m|\r\x1b\[K|\r\n")
#: The same for a view on a screen of its own.
_SCREEN = re.compile(r"\x1b\[(?:\?1049[hl]|\?25[hl]|H|J|K)|\r")
#: What an agent may do: colour its text, and go back to the beginning of its line.
_AGENTS = re.compile(r"\x1b\[[0-9;:]*m|\r")


def foreign(seen: str, *, screen: bool = False, output: bool = False) -> set[str]:
    """Return the characters that no foreign text may bring to a terminal.

    Args:
        seen: what came out.
        screen: it was drawn on a screen of its own.
        output: it is an agent's output, or files of its work, which may have colours.
    """
    from outpost_shared.harmless import UNSEEN

    if screen:
        seen = _SCREEN.sub("", seen)
    if output:
        seen = _AGENTS.sub("", seen)
    rest = _OURS.sub("", seen)
    return {c for c in rest if not (c.isprintable() or c in "\t\n") or c in UNSEEN}


def forged(seen: str) -> list[str]:
    """Return the lines that foreign text has begun by itself."""
    return [line for line in re.split(r"[\r\n]+", _OURS.sub("\n", seen)) if line[:6] == "FORGED"]


def leaves(command: Any, ctx: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every command below a command of click."""
    import click

    if not isinstance(command, click.Group):
        return [path]
    found = []
    with ctx.scope(cleanup=False):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            below = click.Context(inner, parent=ctx, info_name=name)
            found += leaves(inner, below, (*path, name))
    return found
