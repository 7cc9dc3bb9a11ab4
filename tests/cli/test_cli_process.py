"""What only a real process shows: signals, pipes, terminals, completion."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OUTPOST = [sys.executable, "-c", "from outpost_manager.cli import main; main()"]


def read_until(fd: int, wanted: bytes, seen: bytes = b"") -> bytes:
    """Read from a pipe or terminal until `wanted` is there."""
    deadline = time.monotonic() + 30
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        chunk = os.read(fd, 65536)
        assert chunk, seen
        seen += chunk
    return seen


def work_forever(outpost) -> None:
    outpost.config.write_text('outposts:\n  - {name: here, type: fake, output: "hello\\n"}\n')


def test_ctrl_c_while_waiting_leaves_the_worker(outpost):
    work_forever(outpost)
    process = outpost.start("spawn", "gt-1", "--no-rig", "--wait", "--", "x")
    seen = read_until(process.stderr.fileno(), b"gt-1.1: working\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in seen + err
    assert b"gt-1.1 keeps running." in err
    assert b"outpost logs -f gt-1.1" in err


def test_ctrl_c_while_following_leaves_the_worker(outpost):
    work_forever(outpost)
    process = outpost.start("spawn", "gt-1", "--no-rig", "--follow", "--", "x")
    assert read_until(process.stdout.fileno(), b"hello\n") == b"hello\n"
    read_until(process.stderr.fileno(), b"working")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"keeps running" in err


@pytest.mark.parametrize(
    "words", [("spawn", "a", "--no-rig", "--follow", "--", "x"), ("config", "show")]
)
def test_a_reader_that_goes_away_is_silent(outpost, words):
    line = "x" * 99 + "\\n"
    outpost.config.write_text(
        f'outposts:\n  - {{name: here, type: fake, run_for: 60s, output: "{line * 9000}"}}\n'
    )
    process = outpost.start(*words)
    assert process.stdout.read(10)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=30) == 141
    assert b"Traceback" not in err
    assert b"rror" not in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_long_output_is_complete(outpost, unbuffered):
    outpost.config.write_text(
        f'outposts:\n  - {{name: here, type: fake, run_for: 0.1s, output: "{"x" * 900_000}"}}\n'
    )
    words = ("spawn", "a", "--no-rig", "--follow", "--", "x")
    process = outpost.start(*words, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    out, _ = process.communicate(timeout=60)
    assert out == b"x" * 900_000


def test_exit_codes_of_the_real_program(outpost):
    def code(*words: str) -> int:
        return subprocess.run(
            [*OUTPOST, *words], capture_output=True, timeout=60, check=False
        ).returncode

    assert code("list") == 0
    assert code("list", "--nope") == 2
    assert code("nope") == 2
    assert code("--config", "missing.yaml", "list") == 2
    assert code("show", "nobody") == 4


@pytest.mark.parametrize("setting", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_will_do(outpost, setting):
    env = {**os.environ, "PYTHONIOENCODING": setting, "OUTPOST_STATE": str(outpost.state)}
    for words in (["list"], ["list", "--json"], ["--help"]):
        done = subprocess.run([*OUTPOST, *words], env=env, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""


def test_a_closed_or_full_output(outpost):
    env = {**os.environ, "OUTPOST_STATE": str(outpost.state)}
    words = ["sh", "-c", '"$@" >&-', "sh", *OUTPOST, "list"]
    assert subprocess.run(words, env=env, timeout=60, stderr=subprocess.PIPE).returncode == 0
    words[2] = '"$@" >/dev/full'
    full = subprocess.run(words, env=env, timeout=60, stderr=subprocess.PIPE)
    assert full.returncode == 1
    assert b"No space left" in full.stderr
    assert b"Traceback" not in full.stderr


def test_a_list_of_issues_without_end_is_refused(outpost):
    with open("/dev/zero", "rb") as endless:
        process = outpost.start("spawn", "--from-file", "-", "--", "x", stdin=endless)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"longer than" in err


def complete(outpost, *words: str) -> list[str]:
    """Return what bash is offered for the last of `words`."""
    process = outpost.start(
        env={
            **os.environ,
            "_OUTPOST_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(
                ["outpost", "--config", str(outpost.config), "--state", str(outpost.state), *words]
            ),
            "COMP_CWORD": str(len(words) + 4),
        }
    )
    out, err = process.communicate(timeout=30)
    assert err == b""
    return [line.split(",")[1] for line in out.decode().splitlines() if line]


def test_completion(outpost):
    for issue in ("gt-1", "gt-2", "other"):
        outpost.spawn(issue)
    outpost.here.finish("gt-2.1")
    outpost.ok("workers")
    assert complete(outpost, "sp") == ["spawn"]
    assert set(complete(outpost, "show", "gt")) == {"gt-1.1", "gt-2.1"}
    assert complete(outpost, "stop", "gt") == ["gt-1.1"]
    assert complete(outpost, "stop", "gt-1.1", "") == ["other.1"]
    assert complete(outpost, "status", "") == ["here", "there"]
    assert complete(outpost, "spawn", "x", "--on", "th") == ["there"]
    assert complete(outpost, "spawn", "x", "--agent", "co") == ["codex"]
    assert complete(outpost, "add", "f") == ["fake"]
    assert "--price" in complete(outpost, "add", "fake", "x", "--pr")
    assert complete(outpost, "backends", "") == ["fake"]
    assert complete(outpost, "conformance", "here", "--group", "lo") == ["load", "logs"]
    assert complete(outpost, "explain", "x", "--priority", "p")[0] == "P0"
    assert complete(outpost, "workers", "--issue", "gt") == ["gt-2", "gt-1"]
    assert complete(outpost, "spawn", "x", "--", "./scr") == ["./scr"]
    assert complete(outpost, "spawn", "x", "--rig", "../a") == ["../a"]


def test_completion_is_silent_when_something_is_wrong(outpost):
    outpost.config.write_text("outposts: [")
    assert complete(outpost, "status", "") == []
    assert complete(outpost, "show", "") == []
    assert not outpost.state.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(outpost, shell):
    assert "_OUTPOST_COMPLETE" in outpost.ok("completion", shell)


def test_bash_accepts_the_script(outpost, tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(outpost.ok("completion", "bash"))
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)


def on_a_terminal(outpost, *words: str) -> str:
    """Run with a terminal as standard output and error; return what it got."""
    main, side = pty.openpty()
    process = outpost.start(*words, stdout=side, stderr=side, stdin=side)
    os.close(side)
    seen = b""
    try:
        while chunk := os.read(main, 65536):
            seen += chunk
    except OSError:  # Linux says EIO when the other side has gone
        pass
    os.close(main)
    process.wait(timeout=30)
    return seen.decode()


def test_a_terminal_gets_colours_one_line_of_progress_and_no_foreign_commands(outpost):
    outpost.config.write_text(
        "outposts:\n  - {name: here, type: fake, run_for: 0.1s,"
        ' output: "\\x1b[32mgreen\\x1b[0m \\x1b]0;owned\\x07"}\n'
    )
    text = on_a_terminal(outpost, "spawn", "a", "--no-rig", "--follow", "--", "x")
    assert "\r\x1b[Ka: placing" in text
    assert "\x1b[32mgreen\x1b[0m \\x1b]0;owned\\x07" in text
    assert "\x1b]0;" not in text
    assert "owned\\x07\x1b[0m\r\n" in text
    assert "\x1b[32mdone" in text


def test_the_program_starts_without_the_heavy_modules(outpost):
    program = (
        "import sys\nfrom outpost_manager.cli.app import cli\n"
        "try:\n    cli.main(['list'], prog_name='outpost')\nexcept SystemExit:\n    pass\n"
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "OUTPOST_STATE": str(Path.cwd() / "state")},
    )  # fmt: skip
    assert not {"asyncio", "yaml", "libtmux", "email.parser"} & set(done.stderr.split())
