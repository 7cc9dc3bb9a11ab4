"""Whether the process that was written down still lives, with and without `/proc`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from outpost_shared import identity, process


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    identity._word.cache_clear()
    yield
    identity._word.cache_clear()


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS; `ps` continues to work, since its own `/proc` is there."""
    monkeypatch.setattr(process, "start_time", lambda pid: 0)
    monkeypatch.setattr(process, "boot_id", lambda: "")


def ended() -> int:
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_this_process_lives_and_another_start_is_another_process() -> None:
    word = identity.me()
    assert identity.alive(f"{word}/flush")
    assert not identity.alive(f"{word}1")
    assert not identity.alive("")
    assert not identity.alive("boot:x:1")


def test_without_proc_a_living_process_is_not_taken_for_a_dead_one(no_proc: None) -> None:
    word = identity.me()
    boot, pid, start = word.split(":")
    assert boot == ""
    assert start
    assert identity.alive(f"{word}/flush")
    assert not identity.alive(f":{pid}:MonJan1000000201")  # its pid was given anew
    assert not identity.alive(f":{ended()}:{start}")
    assert not identity.alive(f":{10**30}:{start}")


def test_what_ps_does_not_know_lives_as_long_as_there_is_such_a_process(
    no_proc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, gone = identity.me(), ended()
    identity._word.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    word = identity.me()
    assert word.endswith(":")
    for one in (word, known):
        assert identity.alive(one)
    assert not identity.alive(f":{gone}:")
