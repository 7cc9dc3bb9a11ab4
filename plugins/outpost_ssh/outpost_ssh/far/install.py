"""The first lines that run on a far machine: install our package there unless it is there, run it.

The text of this file is sent through the SSH channel and executed, so it stands alone, and it is
written for Python 3.4: an older Python than we need must still be able to say so. It answers in
lines that begin with a word that the caller chose, since a login shell may have printed anything.

What is installed is a folder by the address of its content, made aside and renamed into place:
killed anywhere, this leaves nothing that counts. `INSTALLED` lists every file with its size and
is looked at each time, so that a file that was lost or cut (a crash of the machine, a tidy cron
job) means to install again instead of a program that fails later.
"""

import binascii
import errno
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = (3, 11)
#: In an installed folder: `<size> <path>` of each file, written last.
INSTALLED = "installed"
#: Days after which a version that nobody has used is removed.
UNUSED = 30
#: Seconds after which what an unfinished installation left is removed.
ABANDONED = 86400.0
#: Largest package that is accepted, in bytes.
LARGEST = 64 << 20


class Unfit(Exception):  # noqa: N818
    """This machine cannot run us; the first argument is a code that the caller knows."""


class Installation:
    """One start of the far side.

    Args:
        source: the base64 text that this module came in, to hand it to a newer Python.
        word: what every line of ours begins with.
        address: of the package.
        entry: the file in it that is run.
        fault: in tests, the step after which to die.
    """

    def __init__(self, source: str, word: str, address: str, entry: str, fault: str) -> None:
        self.source = source
        self.word = word
        self.address = address
        self.entry = entry
        self.fault = fault
        self.umask = os.umask(0o077)

    def run(self) -> int:
        """Become the far server; returns only when that is not possible."""
        place = ""
        try:
            if not os.access("/proc/self/stat", os.R_OK):
                raise Unfit("system", os.uname()[0])
            if sys.version_info < OLDEST:
                self.hand_over()
            place = self.place()
            folder = os.path.join(place, self.address)
            if not is_whole(folder):
                self.install(place, folder)
            try:
                os.utime(folder)
            except OSError:  # read-only: nobody will remove it either
                pass
            self.say("ready", "%d.%d.%d" % sys.version_info[:3])
            os.umask(self.umask)
            program = sys.executable
            os.execv(program, [program, "-I", "-S", os.path.join(folder, self.entry)])
        except Unfit as error:
            self.say("unfit", *error.args)
        except OSError as error:
            code = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "folder"
            self.say("unfit", code, "%s: %s" % (error.filename or place, error.strerror))
        return 1

    def say(self, *words: str) -> None:
        """Write one line; it starts on a new one, whatever was printed before."""
        text = " ".join((self.word,) + words).replace("\n", " ")
        os.write(1, ("\n%s\n" % text).encode("ascii", "backslashreplace"))

    def step(self, name: str) -> None:
        """Die here when a test asked for it."""
        if name == self.fault:
            os.kill(os.getpid(), 9)

    def hand_over(self) -> None:
        """Continue in a newer Python.

        Raises:
            Unfit: there is none.
        """
        own = "%d.%d" % sys.version_info[:2]
        for program in newer():
            # a name may be a stub that only says that it is not installed
            if os.spawnv(os.P_WAIT, program, [program, "-I", "-S", "-c", ""]) == 0:
                code = "import base64,zlib;S=%r;exec(zlib.decompress(base64.b64decode(S)));%s" % (
                    self.source,
                    "Installation(S,%r,%r,%r,%r).run()"
                    % (self.word, self.address, self.entry, self.fault),
                )
                os.umask(self.umask)
                os.execv(program, [program, "-I", "-S", "-c", code])
        raise Unfit("old", own)

    def place(self) -> str:
        """Return the folder of all versions; make it when it is not there."""
        cache = os.environ.get("XDG_CACHE_HOME", "")
        if not cache.startswith("/"):
            cache = os.path.join(os.path.expanduser("~"), ".cache")
        place = os.path.join(cache, "outpost", "far")
        if os.path.isdir(place) and writable(os.stat(place)):
            # what is in it may be somebody else's by now: out of the way with it
            os.rename(place, "%s.open-%s" % (place, binascii.hexlify(os.urandom(4)).decode()))
        if not os.path.isdir(place):
            os.makedirs(place, 0o700, exist_ok=True)
        about = os.stat(place)
        if about.st_uid != os.geteuid():
            raise Unfit("unsafe", place)
        for path in (place, os.path.realpath(place)):
            if shared(path):
                raise Unfit("unsafe", shared(path))
        if about.st_mode & 0o077:
            os.chmod(place, 0o700)
        return place

    def install(self, place: str, folder: str) -> None:
        """Ask for the package and put it into `folder`; others may do the same meanwhile."""
        self.say("need")
        self.step("loader.asked")
        size, digest = read_line(256).split()
        made = os.path.join(place, ".new-%d-%s" % (os.getpid(), self.word[:8]))
        os.mkdir(made, 0o700)
        try:
            archive = os.path.join(made, ".zip")
            receive(archive, int(size), digest)
            self.step("loader.uploaded")
            unpack(archive, made)
            os.unlink(archive)
            self.step("loader.unpacked")
            compile_all(made)
            note_all(made)
            self.step("loader.noted")
            move(made, folder)
        finally:
            remove(made)
        self.step("loader.installed")
        sweep(place, self.address)


def newer() -> "Iterator[str]":
    """Yield paths of Pythons that say in their name that they are new enough, newest first."""
    folders = os.environ.get("PATH", os.defpath).split(":")
    folders += [os.path.expanduser("~/.local/bin"), "/usr/local/bin", "/usr/bin", "/opt/bin"]
    for minor in range(OLDEST[1] + 19, OLDEST[1] - 1, -1):
        for folder in folders:
            path = os.path.join(folder, "python%d.%d" % (OLDEST[0], minor))
            if os.access(path, os.X_OK):
                yield path


def shared(path: str) -> str:
    """Return a folder above a path in which others could put something else; "" for none."""
    while path != "/":
        path = os.path.dirname(path)
        about = os.stat(path)
        if about.st_uid not in (0, os.geteuid()) or (
            writable(about) and not about.st_mode & 0o1000
        ):
            return path
    return ""


def writable(about: os.stat_result) -> bool:
    """Whether others can write what has this status; a group without others is nobody else."""
    if about.st_mode & 0o022 != 0o020:
        return bool(about.st_mode & 0o022)
    import grp
    import pwd

    try:
        me = pwd.getpwuid(os.geteuid()).pw_name
        members = set(grp.getgrgid(about.st_gid).gr_mem)
    except KeyError:
        return True
    members.update(user.pw_name for user in pwd.getpwall() if user.pw_gid == about.st_gid)
    return bool(members - {me})


def is_whole(folder: str) -> bool:
    """Whether every file of an installed version is there, in its size."""
    try:
        with open(os.path.join(folder, INSTALLED)) as file:
            *lines, last = file.read().split("\n")
        for line in lines:
            size, _, name = line.partition(" ")
            if os.stat(folder + "/" + name).st_size != int(size):
                return False
    except (OSError, ValueError):
        return False
    return last == "." and bool(lines)


def read_some(most: int) -> bytes:
    """Read up to `most` bytes of what the caller sends."""
    data = os.read(0, most)
    if not data:
        raise Unfit("cut")
    return data


def read_line(most: int) -> str:
    """Read one line, and nothing behind it."""
    line = b""
    while not line.endswith(b"\n"):
        line += read_some(1)
        if len(line) > most:
            raise Unfit("cut")
    return line.decode("ascii")


def receive(path: str, size: int, digest: str) -> None:
    """Read exactly `size` bytes into a file; all of them are read, even when the disk is full."""
    import hashlib

    if not 0 < size <= LARGEST:
        raise Unfit("cut")
    seen, failed = hashlib.sha256(), None
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while size:
            data = read_some(min(size, 65536))
            size -= len(data)
            seen.update(data)
            try:
                while data and failed is None:
                    data = data[os.write(fd, data) :]
            except OSError as error:
                failed = error
    finally:
        os.close(fd)
    if failed is not None:
        raise OSError(failed.errno, failed.strerror, path)
    if seen.hexdigest() != digest:
        raise Unfit("cut")


def unpack(archive: str, folder: str) -> None:
    """Extract the package."""
    import zipfile

    with zipfile.ZipFile(archive) as package:
        for name in package.namelist():
            parts = name.split("/")
            if not all(part.strip(".") for part in parts):
                raise Unfit("cut")
            path = os.path.join(folder, *parts)
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(package.read(name))


def compile_all(folder: str) -> None:
    """Compile every module, so that whatever starts from there starts quickly."""
    import compileall

    compileall.compile_dir(folder, quiet=2, ddir=None)


def note_all(folder: str) -> None:
    """Write the list of what is there."""
    lines = []
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            lines.append("%d %s" % (os.stat(path).st_size, os.path.relpath(path, folder)))
    text = "\n".join(sorted(lines) + ["."]).encode("ascii")
    fd = os.open(os.path.join(folder, INSTALLED), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text)


def move(made: str, folder: str) -> None:
    """Put a finished version into its place, where another may have come first."""
    for _ in range(8):
        try:
            os.rename(made, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if is_whole(folder):
            return
        aside = "%s.%s" % (made.replace(".new-", ".old-"), binascii.hexlify(os.urandom(4)).decode())
        try:
            os.rename(folder, aside)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        remove(aside)
    raise Unfit("damaged", folder)


def remove(folder: str) -> None:
    """Remove a folder as far as that goes."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def sweep(place: str, address: str) -> None:
    """Remove what was left unfinished, and versions that nobody has used for long."""
    now = time.time()
    for name in os.listdir(place):
        path = os.path.join(place, name)
        try:
            age = now - os.stat(path).st_mtime
        except OSError:  # another one sweeps too
            continue
        limit = ABANDONED if name.startswith(".") else UNUSED * 86400.0
        if name != address and age > limit and not in_use(path):
            remove(path)


def in_use(folder: str) -> bool:
    """Whether a process runs from a folder: a long worker loads parts of itself late."""
    mark = folder.encode() + b"/"
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                with open("/proc/%s/cmdline" % name, "rb") as file:
                    if mark in file.read():
                        return True
            except OSError:  # it has ended
                pass
    return False
