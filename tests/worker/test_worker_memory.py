"""What the system says of memory, in each of the ways in which it says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpost_worker.folder import outcome
from outpost_worker.system import memory

UNIFIED = "0::/a/b\n"
APART = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "kills", "limit"),
    [
        (
            UNIFIED,
            {"a/b/memory.events": "low 0\noom 7\noom_kill 3\n", "a/b/memory.max": "536870912\n"},
            3,
            512 << 20,
        ),
        # as a container is shown it
        (UNIFIED, {"memory.events": "oom_kill 2\n", "memory.max": "max\n"}, 2, None),
        (
            APART,
            {
                "memory/a/b/memory.oom_control": "under_oom 0\noom_kill 1\n",
                "memory/a/b/memory.limit_in_bytes": "1048576\n",
            },
            1,
            1 << 20,
        ),
        (APART, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0, None),
        ("", {}, 0, None),  # a sandbox without control groups
        ("0::\n:::\nx\n", {"memory.events": "oom_kill many\n"}, 0, None),
    ],
)  # fmt: skip
def test_what_was_killed_and_what_there_is(
    tmp_path: Path, groups: str, files: dict[str, str], kills: int, limit: int | None
) -> None:
    write(tmp_path, {"proc/self/cgroup": groups, "fs/x": ""})
    write(tmp_path / "fs", files)
    where = (str(tmp_path / "proc"), str(tmp_path / "fs"))
    assert memory.kills(*where) == kills
    assert memory.limit(*where) == limit


def test_the_message_says_whether_it_was_the_agent() -> None:
    assert outcome.of_memory(None, 9, 512 << 20) == ": the memory here (512 MiB) was used up"
    assert outcome.of_memory(137, None, None) == ": the memory here was used up"
    assert outcome.of_memory(1, None, None).startswith("; meanwhile the memory here was used up")
