"""Who could change what is found at a path; state folders that nobody else can write."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from outpost_shared import private, volumes
from outpost_shared.access import NotPrivateError
from outpost_testing.users import ME, OTHER, as_user, give

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two other users")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[Path]:
    """A folder that every user can enter, below none of one user alone."""
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR", "/tmp")))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


# --- looking --------------------------------------------------------------------------------------


def test_what_is_missing_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    assert private.walk(str(tmp_path / "a" / "b")) == (str(tmp_path), ["a", "b"])
    with pytest.raises(FileNotFoundError):
        private.check(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_dots_and_links_are_followed_as_the_system_does(tmp_path: Path) -> None:
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    (tmp_path / "link").symlink_to("x/./y")
    (tmp_path / "file").write_text("")
    assert private.check(f"{tmp_path}/link/../../file") == str(tmp_path / "file")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        private.check(str(tmp_path / "loop"))


@pytest.mark.parametrize("bits", [0o777, 0o757, 0o702])
def test_a_folder_above_that_everybody_can_write_is_refused(tmp_path: Path, bits: int) -> None:
    deep = tmp_path / "open" / "in" / "it"
    deep.mkdir(parents=True)
    (tmp_path / "open").chmod(bits)
    (tmp_path / "link").symlink_to(deep)
    for path in (deep, deep / "missing", tmp_path / "link", deep / ".." / ".." / ".." / "open/in"):
        with pytest.raises(NotPrivateError, match="everybody can write it") as caught:
            private.walk(str(path))
        assert caught.value.path == str(tmp_path / "open")
        assert caught.value.hint == f"chmod go-w {tmp_path / 'open'}"
    (tmp_path / "open").chmod(bits | 0o1000)
    assert private.check(str(deep)) == str(deep)


@needs_root
def test_a_volume_that_root_says_is_ours_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes makes them; believed of root's folders, and of a list that is root's alone."""
    volume, listed = tmp_path / "volume", tmp_path / "etc" / "outpost" / "volumes"
    (volume / "in").mkdir(parents=True)
    volume.chmod(0o777)
    listed.parent.mkdir(parents=True)
    monkeypatch.setattr(volumes, "LIST", str(listed))
    with pytest.raises(NotPrivateError, match="everybody can write it"):
        private.check(str(volume / "in"))
    listed.write_text(f"/somewhere\n{volume}/in\n")
    with pytest.raises(NotPrivateError, match="everybody can write it"):
        private.check(str(volume / "in"))
    listed.write_text(f"/somewhere\n{volume}\n")
    assert private.check(str(volume / "in")) == str(volume / "in")
    for path, bits in ((listed, 0o666), (listed.parent, 0o777), (listed.parent.parent, 0o775)):
        kept = mode(path)
        path.chmod(bits)
        with pytest.raises(NotPrivateError, match="everybody can write it"):
            private.check(str(volume / "in"))
        path.chmod(kept)
    for theirs in (listed, volume):
        os.chown(theirs, OTHER, OTHER)
        with pytest.raises(NotPrivateError):
            private.check(str(volume / "in"))
        os.chown(theirs, 0, 0)
    listed.rename(tmp_path / "list")
    listed.symlink_to(tmp_path / "list")
    with pytest.raises(NotPrivateError, match="everybody can write it"):
        private.check(str(volume / "in"))


@needs_root
def test_a_link_of_somebody_else_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "mine").mkdir()
    (shared / "link").symlink_to(tmp_path / "mine")
    assert private.check(str(shared / "link")) == str(tmp_path / "mine")
    os.lchown(shared / "link", OTHER, OTHER)
    with pytest.raises(NotPrivateError, match=f"belongs to the user {OTHER}"):
        private.check(str(shared / "link"))


@needs_root
def test_of_a_group_only_one_without_others_is_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    folder.chmod(0o775)
    os.chown(folder, 0, 0)
    assert private.check(str(folder)) == str(folder)
    os.chown(folder, 0, OTHER)
    with pytest.raises(NotPrivateError, match=f"the group {OTHER} can write it"):
        private.check(str(folder))
    os.chown(folder, 0, 0)
    entries = "user::rwx,user:1:rwx,group::r-x,mask::rwx,other::r-x"
    try:
        done = subprocess.run(["setfacl", "-m", entries, str(folder)], capture_output=True)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        _put_list(folder)
    with pytest.raises(NotPrivateError, match="the group root can write it"):
        private.check(str(folder))


def _put_list(folder: Path) -> None:
    """Give the user 1 write access by an access control list, as `setfacl -m u:1:rwx` does."""
    import struct

    def entry(tag: int, bits: int, who: int = 0xFFFFFFFF) -> bytes:
        return struct.pack("<HHI", tag, bits, who)

    acl = struct.pack("<I", 2) + b"".join(
        (entry(1, 7), entry(2, 7, 1), entry(4, 5), entry(0x10, 7), entry(0x20, 5))
    )
    try:
        os.setxattr(folder, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"this file system has no access control lists: {error}")


@needs_root
def test_in_a_user_namespace_the_owner_of_the_system_has_no_number(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """There `/` belongs to nobody, as in a toolbox; what is mine is mine still."""
    monkeypatch.setenv("TMPDIR", "/var/lib")  # a place that all can write is another matter
    open_place: Path = request.getfixturevalue("open_place")
    for name in ("mine", "tmp/theirs/mine"):
        (open_place / name).mkdir(parents=True)
        give(open_place / name, ME)
    (open_place / "tmp").chmod(0o1777)
    give(open_place / "tmp" / "theirs", OTHER)
    give(open_place / "tmp" / "theirs" / "mine", ME)
    libc = ctypes.CDLL(None, use_errno=True)

    def code() -> object:
        libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: or /proc/self is root's
        if libc.unshare(0x10000000):  # CLONE_NEWUSER
            return os.strerror(ctypes.get_errno())
        Path("/proc/self/uid_map").write_bytes(b"%d %d 1" % (ME, ME))
        assert os.stat("/").st_uid == 65534
        with pytest.raises(NotPrivateError, match="belongs to nobody"):
            private.check(str(open_place / "tmp" / "theirs" / "mine"))
        return private.check(str(open_place / "mine")), private.claim(str(open_place / "mine"))

    found = as_user(ME, code)
    if isinstance(found, str):
        pytest.skip(f"no user namespaces here: {found}")
    assert found == (str(open_place / "mine"), "")


# --- state folders -------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_a_new_one_is_private_with_all_that_was_missing_above(tmp_path: Path, umask: int) -> None:
    root = tmp_path / "a" / "b" / "state"
    before = os.umask(umask)
    try:
        assert private.claim(str(root)) == ""
        private.make(str(root / "c" / "d"))
        private.make_missing(str(root / "e" / "f"))
    finally:
        os.umask(before)
    for path in (tmp_path / "a", root.parent, root, *root.rglob("*")):
        assert mode(path) == 0o700, path


@needs_root
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_so_it_is_for_an_ordinary_user(open_place: Path, umask: int) -> None:
    (open_place / "home").mkdir()
    give(open_place / "home", ME)
    root = open_place / "home" / "a" / "state"

    def code() -> str:
        private.claim(str(root))
        private.make(str(root / "workers"))
        return private.claim(str(root))

    assert as_user(ME, code, umask=umask) == ""
    for path in (root.parent, root, root / "workers"):
        assert (mode(path), path.stat().st_uid) == (0o700, ME), path


@needs_root
@pytest.mark.parametrize("owner", [OTHER, 0])
def test_one_of_somebody_else_is_refused_also_of_root(open_place: Path, owner: int) -> None:
    (open_place / "state").mkdir(mode=0o700)
    give(open_place / "state", owner)
    with pytest.raises(NotPrivateError, match=f"and you are the user {ME}"):
        as_user(ME, lambda: private.claim(str(open_place / "state")))
    (open_place / "link").symlink_to("state")
    with pytest.raises(NotPrivateError, match="it belongs to"):
        as_user(ME, lambda: private.claim(str(open_place / "link")))
    if owner == OTHER:
        with pytest.raises(NotPrivateError, match=r"you are root \(0\)"):
            private.claim(str(open_place / "state"))


@needs_root
def test_one_in_a_folder_of_another_user_is_refused(open_place: Path) -> None:
    theirs = open_place / "theirs"
    (theirs / "state").mkdir(parents=True)
    give(theirs, OTHER)
    give(theirs / "state", ME)
    for path in (theirs / "state", theirs / "new"):
        with pytest.raises(NotPrivateError) as caught:
            as_user(ME, lambda path=path: private.claim(str(path)))  # type: ignore[misc]
        assert caught.value.path == str(theirs)


Plant = Callable[[Path], object]


def test_one_that_others_could_write_is_closed_when_all_in_it_is_ours(tmp_path: Path) -> None:
    root = tmp_path / "state"
    (root / "outposts" / "local").mkdir(parents=True)
    (root / "ledger.db").write_text("")
    (root / "ledger.db").chmod(0o600)
    for folder in (root, root / "outposts"):
        folder.chmod(0o777)
    assert private.claim(str(root), make=False) == (
        f"everybody could write {root}; nothing of others was in it, and it is closed to them now"
    )
    assert mode(root) == 0o700
    assert private.claim(str(root)) == ""


def test_one_that_is_for_more_than_state_is_not_closed_to_readers(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    assert private.claim(str(tmp_path / "state")) == ""
    assert mode(tmp_path / "state") == 0o700
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home" / "public_html").mkdir()
    assert private.claim(str(tmp_path / "home")) == ""
    assert mode(tmp_path / "home") == 0o755


def test_a_folder_that_is_shared_by_all_is_no_state_folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o1777)
    with pytest.raises(NotPrivateError, match="shared by all users"):
        private.claim(str(tmp_path / "state"))
    assert mode(tmp_path / "state") == 0o1777
    assert private.claim(str(tmp_path / "state" / "outpost")) == ""


@needs_root
@pytest.mark.parametrize("where", ["", "workers", "workers/x.1"])
def test_one_in_which_others_have_planted_something_is_refused(tmp_path: Path, where: str) -> None:
    root = tmp_path / "state"
    (root / "workers" / "x.1").mkdir(parents=True)
    for folder in (root, root / "workers", root / "workers" / "x.1"):
        folder.chmod(0o777)
    planted = root / where / "order.json"
    planted.write_text("{}")
    planted.chmod(0o600)
    give(planted, OTHER)
    with pytest.raises(NotPrivateError, match=f"order.json belongs to the user {OTHER}") as caught:
        private.claim(str(root))
    assert f"find {root} ! -user" in caught.value.hint
    assert mode(root) == 0o777, "nothing was changed"
    planted.unlink()
    assert private.claim(str(root)).startswith("everybody could write")


@needs_root
def test_what_is_planted_while_it_is_closed_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "state"
    (root / "workers").mkdir(parents=True)
    for folder in (root, root / "workers"):
        folder.chmod(0o777)
    real = os.chmod
    late = root / "workers" / "x.1"

    def plant(path: str, bits: int) -> None:
        if not late.exists():
            late.mkdir()
            give(late, OTHER)
        real(path, bits)

    monkeypatch.setattr(os, "chmod", plant)
    with pytest.raises(NotPrivateError, match=f"x.1 belongs to the user {OTHER}"):
        private.claim(str(root))
    assert (mode(root), mode(root / "workers")) == (0o777, 0o777), "refused the next time, too"


@needs_root
def test_a_way_into_a_folder_that_others_could_write_is_closed_too(tmp_path: Path) -> None:
    """The state folder is only readable for others, and one in it was open."""
    root = tmp_path / "state"
    (root / "workers").mkdir(parents=True, mode=0o755)
    root.chmod(0o755)
    (root / "workers").chmod(0o777)
    planted = root / "workers" / "x.1"
    planted.mkdir()
    give(planted, OTHER)
    with pytest.raises(NotPrivateError, match=f"x.1 belongs to the user {OTHER}"):
        private.claim(str(root))
    planted.rmdir()
    (root / "README").write_text("")  # it holds something else, too
    assert f"could write {root / 'workers'}" in private.claim(str(root))
    assert (mode(root), mode(root / "workers")) == (0o755, 0o700)
    assert private.claim(str(root)) == ""
    (root / "facts.json").write_text("")
    (root / "facts.json").chmod(0o666)
    with pytest.raises(NotPrivateError, match=r"facts\.json can be written by others"):
        private.claim(str(root))


def test_a_file_of_ours_that_others_could_write_is_refused_too(tmp_path: Path) -> None:
    root = tmp_path / "state"
    root.mkdir()
    root.chmod(0o777)
    (root / "ledger.db").write_text("")
    (root / "ledger.db").chmod(0o666)
    with pytest.raises(NotPrivateError, match="can be written by others"):
        private.claim(str(root))


def test_a_link_to_a_state_folder_is_fine_and_both_ends_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "state").symlink_to(tmp_path / "disk" / "deep" / "new")
    assert private.claim(str(tmp_path / "state")) == ""
    assert mode(tmp_path / "disk" / "deep" / "new") == 0o700
    (tmp_path / "disk").chmod(0o777)
    with pytest.raises(NotPrivateError):
        private.claim(str(tmp_path / "state"))


def test_a_folder_in_it_may_be_a_link_of_the_user_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "rigs").symlink_to(tmp_path / "large")
    private.make(str(tmp_path / "rigs"))
    assert mode(tmp_path / "large") == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        private.make(str(tmp_path / "file"))
