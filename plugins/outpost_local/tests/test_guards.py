"""Memory and disk floors."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpost_core.errors import SpawnRefusedError
from outpost_local import resources

GIB = 1024**3


def machine(tmp_path: Path, limit: str) -> tuple[Path, Path]:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroup / "box").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8388608 kB\n")
    (proc / "self" / "cgroup").write_text("0::/box\n")
    (cgroup / "box" / "memory.max").write_text(limit)
    (cgroup / "box" / "memory.current").write_text(f"{3 * GIB}\n")
    (cgroup / "box" / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    return proc, cgroup


def test_available_memory_is_what_the_kernel_says(tmp_path):
    assert resources.available_memory(*machine(tmp_path, "max\n")) == 8 * GIB


def test_a_containers_limit_counts_without_its_cache(tmp_path):
    assert resources.available_memory(*machine(tmp_path, f"{4 * GIB}\n")) == 2 * GIB


def test_where_nobody_says_the_memory_is_unknown(tmp_path):
    assert resources.available_memory(tmp_path, tmp_path) is None


def test_this_machine_says_something():
    memory = resources.available_memory()
    assert memory is not None
    assert memory > 0


def test_below_a_floor_the_refusal_has_the_figures(tmp_path):
    with pytest.raises(SpawnRefusedError, match=r"GiB of memory is available.*floor of 1024.0 TiB"):
        resources.check(tmp_path, 1024**5, 0)
    with pytest.raises(SpawnRefusedError, match=r"of disk is free at .*floor of 1048576.0 TiB"):
        resources.check(tmp_path, None, 1024**6)
    resources.check(tmp_path, 1, 1)


def test_the_disk_is_measured_where_the_folder_will_be(tmp_path):
    assert resources.free_disk(tmp_path / "not" / "there") > 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1024, "1.0 KiB"), (3 * GIB // 2, "1.5 GiB")]
)
def test_sizes_are_written_for_people(count, text):
    assert resources.size(count) == text
