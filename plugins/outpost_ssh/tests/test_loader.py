"""The loader installs a package once, whatever happens, and says plainly why it cannot."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpost_core.errors import UnreachableError, UsageError
from outpost_ssh import loader, package
from outpost_ssh.far import install

#: What the tests install: it says that it runs, and answers what it is sent.
ENTRY = b"""
import sys
print("started", sys.flags.isolated, sys.flags.no_site, flush=True)
print(sys.stdin.readline().strip()[::-1], flush=True)
"""
SMALL = package.Package(
    files={"outpost_ssh/far/boot.py": ENTRY, "outpost_ssh/far/other.py": b"x = 1\n" * 50000},
    address="ab" * 16,
)
#: Runs before the real Python, and has it believe that it is an old one.
OLD = """#!/bin/sh
exec {python} -I -S -c 'import sys; sys.version_info = (3, 6, 9, "final", 0)
exec(open(0, "rb", 0, closefd=False).readline())'
"""


class Far:
    """A far machine that is this one, with a home of its own and no SSH in between."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {"HOME": str(home), "PATH": os.environ["PATH"]}
        self.before = ""
        self.python = sys.executable

    @property
    def place(self) -> Path:
        return Path(self.env.get("XDG_CACHE_HOME", self.home / ".cache")) / "outpost" / "far"

    @property
    def folder(self) -> Path:
        return self.place / SMALL.address

    @contextlib.asynccontextmanager
    async def login(self) -> object:
        """Run the loader's command as sshd does."""
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", self.before + loader.command(self.python), env=self.env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin
        assert process.stdout

        async def ended() -> loader.Ended:
            assert process.stderr
            said = await process.stderr.read()
            return loader.Ended(status=await process.wait(), stderr=said.decode())

        try:
            yield (
                process,
                loader.Loader(
                    "vm1", "me@vm1:22", process.stdout, process.stdin, ended=ended, timeout=60
                ),
            )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()

    async def start(self) -> str:
        """Start what is installed there, and return what it says."""
        async with self.login() as (process, started):
            await started.start()
            process.stdin.write(b"hello\n")
            first, second = await process.stdout.readline(), await process.stdout.readline()
            return (first + second).decode()

    async def refused(self) -> UnreachableError:
        async with self.login() as (_, started):
            with pytest.raises(UnreachableError) as caught:
                await started.start()
        assert not caught.value.sent
        return caught.value


GOOD = "started 1 1\nolleh\n"


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    monkeypatch.setattr(package, "package", lambda: SMALL)
    return Far(tmp_path / "home")


def test_the_first_start_installs_and_the_next_finds_it(far: Far) -> None:
    assert asyncio.run(far.start()) == GOOD
    installed = far.folder.stat().st_ino
    assert asyncio.run(far.start()) == GOOD
    assert far.folder.stat().st_ino == installed
    assert [path.name for path in far.place.iterdir()] == [SMALL.address]


def test_everything_that_is_uploaded_is_private_under_any_umask(far: Far) -> None:
    far.before = "umask 0; "
    asyncio.run(far.start())
    paths = [far.place, *far.place.rglob("*")]
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_a_folder_that_others_can_read_is_closed(far: Far) -> None:
    far.place.mkdir(parents=True)
    far.place.chmod(0o755)
    asyncio.run(far.start())
    assert stat.S_IMODE(far.place.stat().st_mode) == 0o700


def test_what_others_could_have_put_there_is_not_run(far: Far, tmp_path: Path) -> None:
    asyncio.run(far.start())
    planted = f"open({str(tmp_path / 'ran')!r}, 'w')\n".encode().ljust(len(ENTRY), b"#")
    (far.folder / "outpost_ssh/far/boot.py").write_bytes(planted)  # in the size that is noted
    far.place.chmod(0o777)
    assert asyncio.run(far.start()).startswith("started")
    assert not (tmp_path / "ran").exists()
    assert stat.S_IMODE(far.place.stat().st_mode) == 0o700
    (aside,) = far.place.parent.glob("far.open-*")
    assert (aside / SMALL.address / "outpost_ssh/far/boot.py").read_bytes() == planted


@pytest.mark.parametrize("above", [".cache/outpost", ".cache", "."])
def test_a_folder_above_that_others_can_write_is_refused(far: Far, above: str) -> None:
    asyncio.run(far.start())
    (far.home / above).chmod(0o777)
    with pytest.raises(UnreachableError, match="others can write it") as caught:
        asyncio.run(far.start())
    assert f"chmod go-w {(far.home / above).resolve()}" in caught.value.hint
    (far.home / above).chmod(0o1777)
    assert asyncio.run(far.start()).startswith("started")


def test_the_umask_of_the_login_is_left_to_the_server(far: Far, tmp_path: Path) -> None:
    far.before = "umask 022; "
    asyncio.run(far.start())
    code = b"import os; print('%o' % os.umask(0), flush=True); print(flush=True)"
    (far.folder / "outpost_ssh/far/boot.py").write_bytes(code)
    listed = far.folder / install.INSTALLED
    text = listed.read_text().replace(f"{len(ENTRY)} outpost", f"{len(code)} outpost")
    listed.write_text(text)
    assert asyncio.run(far.start()) == "22\n\n"


def test_modules_are_compiled_by_the_installation(far: Far) -> None:
    asyncio.run(far.start())
    cached = far.folder / "outpost_ssh/far/__pycache__"
    tag = sys.implementation.cache_tag
    assert {path.name for path in cached.iterdir()} == {f"boot.{tag}.pyc", f"other.{tag}.pyc"}


@pytest.mark.parametrize("name", ["outpost_ssh/far/other.py", install.INSTALLED])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_installation_is_made_anew(far: Far, name: str, damage: str) -> None:
    asyncio.run(far.start())
    path = far.folder / name
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    assert asyncio.run(far.start()) == GOOD
    assert (far.folder / "outpost_ssh/far/other.py").read_bytes() == SMALL.files[
        "outpost_ssh/far/other.py"
    ]
    assert install.is_whole(str(far.folder))


@pytest.mark.parametrize(
    "step",
    ["loader.asked", "loader.uploaded", "loader.unpacked", "loader.noted", "loader.installed"],
)
def test_killed_at_any_step_the_next_start_works(
    far: Far, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTPOST_FAULT", step)
    said = asyncio.run(far.refused())
    assert "me@vm1:22 cannot be used" in said.message
    monkeypatch.delenv("OUTPOST_FAULT")
    assert asyncio.run(far.start()) == GOOD


def test_an_upload_that_stops_half_way_counts_for_nothing(far: Far) -> None:
    async def half() -> None:
        async with far.login() as (process, started):
            word = started._word
            process.stdin.write(loader._line(word, SMALL.address))
            await process.stdout.readuntil(f"{word} need\n".encode())
            data = SMALL.zipped()
            process.stdin.write(f"{len(data)} {'0' * 64}\n".encode() + data[: len(data) // 2])
            process.stdin.close()
            said = await process.stdout.read()
            assert f"{word} unfit cut".encode() in said

    asyncio.run(half())
    assert not far.folder.exists()
    assert not list(far.place.iterdir())
    assert asyncio.run(far.start()) == GOOD


def test_an_upload_with_a_wrong_byte_is_refused(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SMALL.zipped()

    async def send(self: loader.Loader) -> None:
        import hashlib

        digest = hashlib.sha256(data).hexdigest()
        self._writer.write(f"{len(data)} {digest}\n".encode() + data[:-1] + b"?")

    monkeypatch.setattr(loader.Loader, "_send_package", send)
    assert "cut short" in asyncio.run(far.refused()).message
    assert not list(far.place.iterdir())


def test_two_uploads_at_once_both_serve(far: Far) -> None:
    async def both() -> list[str]:
        return await asyncio.gather(*(far.start() for _ in range(4)))

    assert asyncio.run(both()) == [GOOD] * 4
    assert [path.name for path in far.place.iterdir()] == [SMALL.address]


def test_what_a_killed_upload_left_is_swept_a_day_later(far: Far) -> None:
    left, fresh = far.place / ".new-1-abcd", far.place / ".new-2-abcd"
    for path in (left, fresh):
        path.mkdir(parents=True)
    long_ago = time.time() - 2 * install.ABANDONED
    os.utime(left, (long_ago, long_ago))
    asyncio.run(far.start())
    assert not left.exists()
    assert fresh.exists()


def test_a_version_that_nobody_uses_goes_after_a_month(far: Far) -> None:
    long_ago = time.time() - 40 * 86400
    versions = {name: far.place / (name * 32) for name in "123"}
    for path in versions.values():
        path.mkdir(parents=True)
        os.utime(path, (long_ago, long_ago))
    os.utime(versions["1"])
    with running(versions["2"] / "boot.py"):
        asyncio.run(far.start())
    there = {path.name[0] for path in far.place.iterdir()}
    assert there == {"1", "2", SMALL.address[0]}


@contextlib.contextmanager
def running(path: Path) -> Iterator[None]:
    """A process that has a path among its arguments."""
    process = subprocess.Popen([sys.executable, "-c", "input()", str(path)], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.communicate(b"\n")


def test_using_a_version_keeps_it(far: Far) -> None:
    asyncio.run(far.start())
    long_ago = time.time() - 40 * 86400
    os.utime(far.folder, (long_ago, long_ago))
    asyncio.run(far.start())
    assert time.time() - far.folder.stat().st_mtime < 60


def test_noise_of_a_login_shell_is_skipped(far: Far) -> None:
    far.before = "echo 'Welcome to vm1'; printf 'no newline \\377'; echo 'oops' >&2; "
    assert asyncio.run(far.start()) == GOOD


def test_endless_noise_is_said_to_be_that(far: Far) -> None:
    far.before = "yes noise; "
    said = asyncio.run(far.refused())
    assert "does not stop printing" in said.message
    assert "noise" in said.message
    assert len(said.message) < 800


def test_a_python_that_is_not_there_is_named(far: Far) -> None:
    far.python = "python9.9"
    said = asyncio.run(far.refused())
    assert "its Python cannot be started" in said.message
    assert "python9.9" in said.message
    assert said.hint == "outpost bootstrap vm1"


def old_python(tmp_path: Path) -> Path:
    path = tmp_path / "python3"
    path.write_text(OLD.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_an_old_python_is_named_with_its_version(far: Far, tmp_path: Path, monkeypatch) -> None:
    far.python = str(old_python(tmp_path))
    monkeypatch.setattr(install, "newer", list)
    source = Path(install.__file__).read_text().replace("in newer():", "in ():")
    monkeypatch.setattr(loader, "_source", lambda: loader_text(source))
    said = asyncio.run(far.refused())
    assert "its Python is 3.6, and 3.11 or newer is needed" in said.message
    assert said.hint.startswith("outpost bootstrap vm1")


def loader_text(source: str) -> str:
    import base64
    import zlib

    return base64.b64encode(zlib.compress(source.encode(), 9)).decode()


def test_a_python_2_is_told_as_that(far: Far, tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho 'Unknown option: -I' >&2; exit 2\n")  # as 2.7.18 does
    path.chmod(0o755)
    far.python = str(path)
    assert "its Python is a Python 2" in asyncio.run(far.refused()).message


def test_an_old_python_hands_over_to_a_newer_one(far: Far, tmp_path: Path) -> None:
    far.python = str(old_python(tmp_path))
    newer = tmp_path / "bin"
    newer.mkdir()
    stub = newer / "python3.30"  # pyenv's stubs say only that they are not installed
    stub.write_text("#!/bin/sh\nexit 127\n")
    stub.chmod(0o755)
    (newer / "python3.29").symlink_to(sys.executable)
    far.env["PATH"] = f"{newer}:{far.env['PATH']}"
    assert asyncio.run(far.start()) == GOOD


def test_the_loader_is_written_for_python_3_4() -> None:
    text = Path(install.__file__).read_text()
    tree = ast.parse(text, feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(calls) > 10


def test_a_program_that_is_no_python_is_quoted(far: Far) -> None:
    far.python = "/bin/false"
    assert "ended with exit code 1" in asyncio.run(far.refused()).message


def test_a_home_that_cannot_be_written_is_told(far: Far) -> None:
    far.home.write_text("a file where the home should be")
    said = asyncio.run(far.refused())
    assert "its files cannot be written there" in said.message
    assert "XDG_CACHE_HOME" in said.hint


def test_a_full_disk_is_told_and_leaves_nothing(far: Far, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    far.env["XDG_CACHE_HOME"] = str(small)
    with mounted(small, "size=256k"):
        said = asyncio.run(far.refused())
        assert "no disk space is left there" in said.message
        assert not list(far.place.iterdir())
        (far.place / "x").write_bytes(b"")  # the room is free again


def test_a_read_only_disk_is_told(far: Far, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    far.env["XDG_CACHE_HOME"] = str(small)
    with mounted(small, "ro"):
        assert "Read-only file system" in asyncio.run(far.refused()).message


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, timeout=20
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


@pytest.mark.parametrize(
    "python", ["", "-c", "python3;id", "python3 -v", "$(id)", "a\nb", "~root/x", "pythön", "x'y"]
)
def test_a_python_that_a_shell_could_read_otherwise_is_refused(python: str) -> None:
    with pytest.raises(UsageError, match="python"):
        loader.command(python)


@pytest.mark.parametrize("python", ["python3", "/usr/bin/python3.11", "~/venv/bin/python3"])
def test_names_and_paths_of_pythons_are_taken(python: str) -> None:
    assert loader.command(python).startswith(f"exec {python} -I -S -c '")


def test_a_silent_machine_is_given_up(far: Far) -> None:
    far.before = "sleep 20; "

    async def wait() -> None:
        async with far.login() as (_, started):
            started._timeout = 0.2
            with pytest.raises(UnreachableError, match=r"did not answer within 0\.2 s"):
                await started.start()

    asyncio.run(wait())


def test_a_machine_that_is_not_linux_is_refused_before_anything_is_changed(
    far: Far, tmp_path: Path
) -> None:
    """The real reason on a Mac, told by a Python that is made to see what one sees there."""
    fake = tmp_path / "python3"
    fake.write_text(
        f"""#!/bin/sh
exec {sys.executable} -I -S -c 'import os
os.access = lambda path, mode: not path.startswith("/proc") and os.path.exists(path)
os.uname = lambda: ("Darwin", "mac", "23.1.0", "", "arm64")
exec(open(0, "rb", 0, closefd=False).readline())'
"""
    )
    fake.chmod(0o755)
    far.python = str(fake)
    error = asyncio.run(far.refused())
    assert "it runs Darwin, and workers need Linux, whose /proc" in error.message
    assert "nothing was changed there" in error.hint
    assert not far.home.exists()
