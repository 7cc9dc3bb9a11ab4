"""Screens of agents: which take a line of text, and which ask for something else."""

from __future__ import annotations

import pytest

from outpost_agents.dialogs import question

TRUST = """
╭────────────────────────────────────────────╮
│ Do you trust the files in this folder?     │
│                                            │
│ ❯ 1. Yes, proceed                          │
│   2. No, exit                              │
╰────────────────────────────────────────────╯
   Enter to confirm · Esc to cancel
"""
CODEX = """
  You are running Codex in /work/tree

› 1. Allow Codex to work in this folder without asking for approval
  2. No, ask me to approve edits and commands

  Press enter to continue
"""
READY = """
⏺ I have changed the two files. The tests pass:
  1. test_a
  2. test_b

╭────────────────────────────────────────────╮
│ >                                          │
╰────────────────────────────────────────────╯
  ? for shortcuts
"""


@pytest.mark.parametrize(
    ("screen", "asked"),
    [
        (TRUST, "Do you trust the files in this folder?"),
        (CODEX, "it shows a dialog"),
        ("Overwrite a.txt? (y/n)", "it shows a dialog"),
        ("Select login method:\n ❯ 1. Account", "Select login method:"),
        ("Continue?\n   1. Yes\n ❯ 2. No", "Continue?"),
        ("Are you sure (yes/no)", "it shows a dialog"),
        ("Password:", "Password:"),
        ("● 1. I read the files\n● 2. You may press enter to see more\n> ", ""),
        (READY, ""),
        ("", ""),
        ("$ ", ""),
    ],
)
def test_what_a_screen_asks(screen: str, asked: str) -> None:
    assert question(screen) == asked
