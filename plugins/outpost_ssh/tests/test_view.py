"""The far half of attach, alone, and what the near half knows of a terminal's state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from outpost_exec import attach
from outpost_exec.attach import view
from outpost_exec.attach.terminal import Traces


def asked(request: object) -> tuple[int, str]:
    """Give the far half a line on a terminal; return its exit code and what it printed."""
    line = request if isinstance(request, bytes) else json.dumps(request).encode()
    master, slave = os.openpty()
    mode = termios.tcgetattr(slave)
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    loader = "exec(open(0,'rb',0,closefd=False).readline())"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", loader], stdin=slave, stdout=slave, stderr=slave
    )
    os.write(master, attach.source().encode() + b"\n" + line + b"\n\n")  # its mark counts as seen
    code = process.wait(20)
    os.close(slave)
    said = b""
    try:
        while data := os.read(master, 65536):
            said += data
    except OSError:
        pass  # all of it was read, and nobody is left to say more
    os.close(master)
    return code, said.decode()


GOOD = {"argv": ["/bin/echo", "a b", "$HOME;"], "nonce": "0" * 32, "env": {}}


def test_a_good_request_becomes_its_program_and_no_shell_looks_at_its_words():
    code, said = asked(GOOD)
    assert code == 0
    assert said == f"{view.MARK}{'0' * 32}{view.END}a b $HOME;\r\n"


#: As tmux does when it starts: what its terminal has not passed on yet is discarded.
DISCARDS = "import os, termios; termios.tcflush(1, termios.TCOFLUSH); os.write(1, b'screen')"


def test_the_program_begins_once_its_mark_was_seen():
    """Else one that discards output takes the mark along, and nobody knows where it begins."""
    master, slave = os.openpty()
    mode = termios.tcgetattr(slave)
    mode[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", view.__file__], stdin=slave, stdout=slave, stderr=slave
    )
    request = {**GOOD, "argv": [sys.executable, "-c", DISCARDS]}
    os.write(master, json.dumps(request).encode() + b"\n")
    mark = f"{view.MARK}{'0' * 32}{view.END}".encode()
    seen = b""
    while mark not in seen:
        seen += os.read(master, 65536)
    assert seen == mark
    running = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert view.__file__.encode() in running, "it waits"
    os.write(master, b"\n")
    while b"screen" not in seen:
        seen += os.read(master, 65536)
    assert process.wait(20) == 0
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize(
    "request_",
    [
        b"not json",
        b"\xff\xfe",
        b"[" * 3000,
        [],
        {},
        {**GOOD, "argv": "/bin/echo"},
        {**GOOD, "argv": []},
        {**GOOD, "argv": ["/bin/echo", 7]},
        {**GOOD, "argv": ["/bin/echo", "a\0b"]},
        {**GOOD, "argv": {"0": "/bin/echo"}},
        {**GOOD, "nonce": "short"},
        {**GOOD, "nonce": None},
        {**GOOD, "env": {"LC_CTYPE": 7}},
        {**GOOD, "env": None},
        {**GOOD, "argv": ["/nowhere/echo"]},
    ],
)
def test_anything_else_is_refused_and_starts_nothing(request_):
    code, said = asked(request_)
    assert code == view.REFUSED
    assert said.startswith("outpost: ")
    assert "Traceback" not in said
    assert view.MARK not in said


def test_only_what_describes_a_terminal_is_taken_from_the_near_side():
    env = {"LD_PRELOAD": "/tmp/x.so", "COLORTERM": "truecolor", "TMUX": "x"}
    request = {**GOOD, "argv": ["/usr/bin/env"], "env": env}
    _, said = asked(request)
    assert "COLORTERM=truecolor" in said
    assert "LD_PRELOAD" not in said
    assert "TMUX=" not in said


def test_the_request_fits_a_terminal_that_cuts_lines():
    assert len(attach.source()) < 4000  # of 4,095


def test_a_terminal_that_was_told_nothing_is_left_alone():
    traces = Traces()
    traces.note(b"plain text\r\n")
    assert traces.undo() == b""


def test_what_the_program_itself_took_back_is_not_taken_back_again():
    traces = Traces()
    traces.note(b"\x1b[?1049h\x1b[?1000;1006h\x1b[?25l\x1b[?1006;1000l\x1b[?25h\x1b[?1049l")
    assert b"?" not in traces.undo()


def test_a_sequence_that_comes_in_pieces_is_seen():
    told = b"\x1b[?1002h text \x1b[?2004h\x1b[4 q"
    for cut in range(len(told)):
        traces = Traces()
        traces.note(told[:cut])
        traces.note(told[cut:])
        undo = traces.undo()
        assert b"\x1b[?1002l" in undo
        assert b"\x1b[?2004l" in undo
        assert b"\x1b[0 q" in undo


def test_the_other_screen_is_left_last():
    traces = Traces()
    traces.note(b"\x1b[?1049h\x1b[?1003h\x1b[?25l")
    assert traces.undo().endswith(b"\x1b[?1049l")
    assert b"\x1b[?25h" in traces.undo()
