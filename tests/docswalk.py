"""Walking through a page of the documentation: what it tells a reader to type is typed.

The reader has a home of his own, a clone of a repository without beads, and an agent: a program
that is called `claude`, takes Claude Code's arguments, prints its records, and changes a file.
`gh` is a program that asks no network: it prints the two issues of a list, a token, or the address
of the pull request that it was told to open, where it would be told as GitHub's own wants it: flags
that it knows, both branches at the remote of the repository around it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

#: what stands for anything: within a line, or alone for any lines.
ANYTHING: Final = "…"
_FENCE: Final = re.compile(
    r"^(?:<!-- not typed: ([^\n]+) -->\n)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: What a line begins with that is typed.
_COMMAND: Final = re.compile(
    r"\$ |(sudo |python3? |pip |git |gcloud |kubectl |podman |docker |curl |outpost |export |tar )"
)
_CLAUDE: Final = """\
#!{python}
import json, os, sys, uuid
if sys.argv[1:] == ["--version"]:
    print("2.1.197 (Claude Code)")
    sys.exit()
session = str(uuid.uuid4())
def say(**record):
    print(json.dumps(record), flush=True)
if os.environ.get("ANTHROPIC_API_KEY") == "used-up":
    say(type="result", subtype="success", is_error=True, num_turns=1, session_id=session,
        result="Claude AI usage limit reached|{later}", total_cost_usd=0, usage={})
    sys.exit(1)
say(type="system", subtype="init", session_id=session, model="claude-sonnet-4-5", tools=["Edit"])
says = [{"type": "text", "text": "I have changed app.py."}]
say(type="assistant", session_id=session, message={"role": "assistant", "content": says})
with open("app.py", "a") as file:
    file.write(f"# {os.environ['OUTPOST_ISSUE']}, attempt {os.environ['OUTPOST_ATTEMPT']}\\n")
usage = {"input_tokens": 1200, "output_tokens": 340}
say(type="result", subtype="success", is_error=False, num_turns=2, result="I have changed app.py.",
    session_id=session, total_cost_usd=0.21, usage=usage)
"""
_GH: Final = """\
#!/bin/sh
case $1 in
issue) printf '%s\\n' '{"issue":"gh-7","title":"Login fails","body":"With an empty password."}' \
  '{"issue":"gh-9","title":"The start is slow","body":""}' ;;
pr)
  [ "$2" = create ] || exit 1
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
    --head) head=$2 ;; --base) base=$2 ;; --title) title=$2 ;; --body) body=$2 ;;
    *) echo "unknown flag: $1" >&2; exit 1 ;;
    esac
    shift 2
  done
  [ -n "$title" ] && [ -n "${body+said}" ] || { echo "--title and --body" >&2; exit 1; }
  git remote get-url origin >/dev/null || { echo "no git remotes found" >&2; exit 1; }
  for branch in "$head" ${base:+"$base"}; do
    git ls-remote --exit-code origin "refs/heads/$branch" >/dev/null ||
      { echo "pull request create failed: $branch is not there" >&2; exit 1; }
  done
  echo "https://github.com/me/app/pull/8" ;;
auth) [ "$2" = token ] && echo gho_word ;;
esac
"""
_IDENTITY: Final = (
    "[user]\n\tname = Ada\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n"
)


@dataclass(frozen=True)
class Typed:
    """A command of a page, and the lines that it shows below.

    Args:
        line: of the page.
        command: what is typed.
        shown: what it shows; empty where it shows nothing.
    """

    line: int
    command: str
    shown: tuple[str, ...]

    def meaning(self, called: Mapping[str, str]) -> Typed:
        """Return it with things of the page's own names called as they are here."""
        return replace(self, command=_renamed(self.command, called))


@dataclass(frozen=True)
class File:
    """A file of a page: the block's title names it.

    Args:
        line: of the page.
        name: where it goes, `~` being the home.
        text: what is in it.
    """

    line: int
    name: str
    text: str

    def meaning(self, called: Mapping[str, str]) -> File:
        """Return it with things of the page's own names called as they are here."""
        return replace(self, text=_renamed(self.text, called))


def _renamed(text: str, called: Mapping[str, str]) -> str:
    for own, ours in called.items():
        text = text.replace(own, ours)
    return text


def steps(page: Path, reason: str | None = None) -> Iterator[Typed | File]:
    """Yield what a page has a reader do, from top to bottom.

    Args:
        page: the page.
        reason: yield the blocks that are not typed for this reason, and no others.
    """
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        why, kind, title, block = match.groups()
        if (why or None) != reason:
            continue
        if title:
            yield File(line, title, block)
        elif kind == "console":
            yield from _typed(block, line)
        elif kind == "sh" or (kind == "bash" and block.startswith("export ")):
            # other scripts are run alone: tests/test_docs.py
            yield Typed(line, block.rstrip(), ())


def untyped(page: Path) -> list[str]:
    """Return why each block of a page that people copy is not typed, where a comment says so."""
    return [match[1] for match in _FENCE.finditer(page.read_text(encoding="utf-8")) if match[1]]


def elsewhere(page: Path, root: Path) -> list[str]:
    """Return commands that are not typed since another page has them, which it has not.

    Args:
        page: one whose comments name other pages.
        root: what their paths begin at.
    """
    lost = []
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        other = (match[1] or "").rpartition(": ")[2]
        if other.endswith(".md"):
            there = {step.command for step in steps(root / other) if isinstance(step, Typed)}
            lost += [step.command for step in _typed(match[4], 0) if step.command not in there]
    return lost


def has_commands(page: Path) -> bool:
    """Whether a page has a reader type something."""
    return any(
        match[2] in ("console", "sh", "bash")
        for match in _FENCE.finditer(page.read_text(encoding="utf-8"))
    )


def escaped(page: Path) -> list[str]:
    """Return the lines that somebody would copy as commands out of blocks that are no commands."""
    found = []
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[2] == "text" and not match[3]:
            found += [line for line in match[4].splitlines() if _COMMAND.match(line)]
    return found


def _typed(block: str, line: int) -> Iterator[Typed]:
    command, at, shown = "", 0, list[str]()
    for number, text in enumerate(block.splitlines(), line + 1):
        if text.startswith("$ "):
            if command:
                yield Typed(at, command, tuple(shown))
            command, at, shown = text[2:], number, []
        elif command.endswith("\\"):
            command += f"\n{text}"
        else:
            shown.append(text)
    if command:
        yield Typed(at, command, tuple(shown))


def matches(shown: tuple[str, ...], said: str) -> bool:
    """Whether output is as a page shows it."""
    parts = [r"(?:.*\n)*?" if line == ANYTHING else f"{_line(line)}\n" for line in shown]
    return (
        re.fullmatch("".join(parts), "".join(f"{x.rstrip()}\n" for x in said.splitlines()))
        is not None
    )


def _line(line: str) -> str:
    return ".*".join(
        re.sub(r"(\\ )+", r"[ ]+", re.escape(part)) for part in line.rstrip().split(ANYTHING)
    )


class Reader:
    """Somebody who does what a page says.

    Args:
        folder: an empty one, which becomes his home.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.clone = folder / "app"
        self.homes: list[Path] = []
        programs = self.settle(folder)
        self.env = {
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
            "OUTPOST_KEEP": "0",
            "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin",
        }
        self.shell(
            "git init -q --bare app.git; git clone -q app.git app 2>/dev/null; cd app;"
            " echo 'print(\"hello\")' > app.py; git add .; git commit -qm 'Say hello';"
            " git push -q origin HEAD:main",
            self.home,
        )

    def settle(self, home: Path) -> Path:
        """Put what the reader has into a home, his own or that at a host; return its programs."""
        self.homes.append(home)
        programs = home / ".local" / "bin"
        programs.mkdir(parents=True)
        for name, text in {
            "claude": _CLAUDE.replace("{python}", sys.executable).replace(
                "{later}", str(int(time.time()) + 7200)
            ),
            "gh": _GH,
            "aider": "#!/bin/sh\nsort -o app.py app.py\necho '# sorted' >> app.py\n",
        }.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (home / ".gitconfig").write_text(_IDENTITY)
        (home / ".claude").mkdir()
        (home / ".claude" / ".credentials.json").write_text("{}")
        return programs

    def shell(self, command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Type a command in the clone, and return what came of it."""
        return subprocess.run(
            ["bash", "-c", command], cwd=cwd or self.clone, env=self.env, text=True, timeout=200,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def typed(self, command: str) -> str:
        """Type a command in the clone that has to work, and return what it answered."""
        done = self.shell(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def do(self, step: Typed | File, called: Mapping[str, str]) -> None:
        """Do a step; it has to do what the page shows. What is exported counts from then on.

        Args:
            step: of a page.
            called: what the page calls by a name of its own → what it is here.
        """
        step = step.meaning(called)
        if isinstance(step, File):
            target = self.home / step.name[2:] if step.name[:2] == "~/" else self.clone / step.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(step.text)
            return
        if step.command.startswith("export "):
            told = self.shell(f"set -e\n{step.command}\nenv -0").stdout
            self.env = dict(each.split("=", 1) for each in told.split("\0") if each)
            return
        done = self.shell(step.command)
        where = f"line {step.line}: {step.command}\n{done.stdout}"
        assert done.returncode == 0, where
        assert not step.shown or matches(step.shown, done.stdout), where

    def leave(self) -> None:
        """End what still works: every process whose home is one of the reader's."""
        homes = {f"HOME={home}".encode() for home in self.homes}
        deadline = time.monotonic() + 30
        while found := [pid for pid in _processes() if homes & _environment(pid)]:
            assert time.monotonic() < deadline, found
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environment(pid: int) -> set[bytes]:
    """Return the variables that a process began with; none of one that has ended, or is hidden."""
    try:
        return {*Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
    except OSError:
        return set()
