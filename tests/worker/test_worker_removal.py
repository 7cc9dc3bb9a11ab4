"""Trees of which nothing is known are removed as far as that can be done, and the rest is named."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import farcode
import pytest

from outpost_worker.system import removal

#: A user who is not root and whose files are not ours.
NOBODY = 65534
DEPTH = 3000


@pytest.fixture
def tree(tmp_path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    (made / "file").write_bytes(b"x" * 5000)
    yield made
    subprocess.run(["rm", "-rf", str(made)], timeout=60, check=False)


def deep(folder: Path, levels: int = DEPTH) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def as_nobody(folder: Path, script: str) -> str:
    """Run Python as a user without rights."""
    for above in (folder, *folder.parents):
        if above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    drop = f"import os, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    whole = f"import sys; sys.path[:0] = {farcode.ROOTS!r}\n{PRELOAD}{drop}{script}"
    ran = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


#: imported before the rights are given up: the user may not read where they lie
PRELOAD = "from outpost_worker.system import removal; import pwd, fcntl\n"


def test_a_tree_of_any_depth_goes_with_few_descriptors(tree):
    deep(tree)
    done = removal.remove(tree)
    assert (done.left, done.more, str(done)) == ([], 0, "")
    assert not tree.exists()
    assert done.bytes >= 5000


def test_names_that_are_not_utf_8_go_and_can_be_told(tree):
    os.mkdir(os.fsencode(tree) + b"/\xff\xfe\n\x1b[31m")
    assert removal.remove(tree).left == []
    assert not tree.exists()
    said = removal.shown(os.fsdecode(b"/a/\xff\n\x1b[31m"))
    assert said.isprintable()
    assert said.encode("utf-8")


def test_measuring_changes_nothing(tree):
    deep(tree, 10)
    assert removal.measure(tree) >= 5000
    assert (tree / "file").stat().st_size == 5000
    assert removal.measure(tree.parent / "none") == 0


def test_what_is_not_there_is_removed(tmp_path):
    assert removal.remove(tmp_path / "none" / "deeper").left == []
    assert removal.remove(tmp_path / "none").left == []


def test_a_link_is_removed_and_not_followed(tree, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tree)
    assert removal.remove(link).left == []
    assert not link.is_symlink()
    assert (tree / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make files of two users")
def test_what_another_user_owns_is_named_with_its_owner_and_the_rest_goes(tmp_path):
    tree = tmp_path / "tree"
    (tree / "a" / "theirs").mkdir(parents=True)
    (tree / "a" / "theirs" / "file").touch()
    (tree / "b").mkdir()
    (tree / "b" / "mine").touch()
    for path in (tmp_path, tree, tree / "a", tree / "b", tree / "b" / "mine"):
        os.chown(path, NOBODY, NOBODY)
    said = as_nobody(tmp_path, f"done = removal.remove({str(tree)!r}); print(done)")
    assert str(tree / "a" / "theirs" / "file") in said
    assert "Permission denied" in said
    assert "owner: root" in said
    assert not (tree / "b").exists()
    assert (tree / "a" / "theirs" / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_what_is_mounted_inside_is_neither_entered_nor_emptied(tree, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("stay")
    inside = tree / "a" / "mounted"
    inside.mkdir(parents=True)
    # the same file system, so its number is that of the tree
    subprocess.run(["mount", "--bind", str(outside), str(inside)], check=True, timeout=20)
    try:
        done = removal.remove(tree)
        assert "mounted" in str(done)
        assert "umount" in str(done)
        assert not (tree / "file").exists()
        assert (outside / "precious").read_text() == "stay"
    finally:
        subprocess.run(["umount", str(inside)], check=True, timeout=20)
    assert removal.remove(tree).left == []
    assert not tree.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount and to make a file immutable")
def test_an_immutable_file_is_named_as_one(tmp_path):
    disk = tmp_path / "disk"
    image = tmp_path / "image"
    disk.mkdir()
    tree = disk / "tree"
    mounted = False
    if not _can_fix(tmp_path):
        with image.open("wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=60)
        subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True, timeout=60)
        mounted = True
    try:
        tree.mkdir()
        (tree / "file").touch()
        (tree / "other").touch()
        _fix(tree / "file", True)
        done = removal.remove(tree)
        assert "immutable" in str(done), done
        assert str(tree / "file") in str(done)
        assert not (tree / "other").exists()
        _fix(tree / "file", False)
        assert removal.remove(tree).left == []
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True, timeout=20)


def _fix(path: Path, on: bool) -> None:
    with path.open("rb") as file:
        fcntl.ioctl(file, 0x40086602, (0x10 if on else 0).to_bytes(8, sys.byteorder))


def _can_fix(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    try:
        _fix(probe, True)
    except OSError:
        return False
    _fix(probe, False)
    return True
