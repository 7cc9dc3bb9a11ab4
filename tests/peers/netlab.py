"""A small network of machines for tests, made of Linux namespaces, which leaves no trace.

Each host has an address, a process table, a boot, a home, and an sshd of its own; only the file
system is shared. All namespaces are anonymous and live as long as their processes, which die with
the test program however it ends: there is nothing to sweep. Needs root and Debian's `iproute2`,
`iptables`, `openssh-server`, and, for `Host.set_clock`, `faketime`.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from outpost_testing.processes import command_lines
from peers import MissingError
from peers.sshd import Sshd

NETWORK: Final = "10.77.0"
_BRIDGE: Final = "labbridge"
_CLONE_NEWNET: Final = 0x40000000
_TIMEOUT: Final = 30.0

# Process 1 of a host. It prepares what only this host is to see, and then reaps.
_INIT: Final = """
import os, signal, subprocess, sys
folder, boot_id, home, home_size = sys.argv[1:]
def run(*argv):
    subprocess.run(argv, check=True)
with open(folder + "/boot_id", "w") as file:
    file.write(boot_id + "\\n")
run("mount", "--bind", folder + "/boot_id", "/proc/sys/kernel/random/boot_id")
run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
own = folder + "/own"  # /etc, where the host's clock is set; not seen by anybody else
os.makedirs(own, exist_ok=True)
run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", own)
os.mkdir(own + "/upper")
os.mkdir(own + "/work")
run("mount", "-t", "overlay", "overlay", "-o",
    f"lowerdir=/etc,upperdir={own}/upper,workdir={own}/work", "/etc")
if home_size:
    run("mount", "-t", "tmpfs", "-o", "size=" + home_size, "tmpfs", home)
print("ready", flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
while True:
    signal.sigwait([signal.SIGCHLD])
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
"""


class Host:
    """One machine of the lab. Made by `Lab.host`.

    Attributes:
        name: its name.
        address: its IPv4 address.
        folder: its files.
        home: HOME of its logins.
        bin: the first folder of PATH of its logins, with a `python3`.
        sshd: its server, at port 22.
    """

    def __init__(
        self,
        lab: "Lab",
        name: str,
        number: int,
        *,
        home_size: str,
        env: Mapping[str, str],
        max_sessions: int,
        max_startups: str,
        extra: Sequence[str],
    ) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self.folder = lab.folder / name
        self.bin = self.folder / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "python3").symlink_to(Path(sys.executable).resolve())
        self.boots = 0
        self._home_size = home_size
        self._link = f"lab{number}"
        self._card = f"02:00:00:00:00:{number:02x}"
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0
        path = f"{self.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.sshd = Sshd(
            self.folder / "sshd",
            port=22,
            address=self.address,
            max_sessions=max_sessions,
            max_startups=max_startups,
            extra=extra,
            env={"PATH": path, **env},
        )
        self.home = self.sshd.home

    def boot(self) -> None:
        """Start the host and its sshd; returns once that listens."""
        self.boots += 1
        self._init = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--mount-proc"),
                *("--fork", "--kill-child=KILL"),
                *(sys.executable, "-I", "-S", "-c", _INIT),
                *(str(self.folder), str(uuid.uuid4()), str(self.home), self._home_size),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        outer = self._init.pid
        assert self._init.stdout is not None
        if self._init.stdout.readline() != b"ready\n":
            self.halt()
            raise RuntimeError(f"host {self.name} did not start; see the output above")
        self._pid = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
        # the same card after a reboot: others remember its address on the wire
        card = f"address {self._card} netns {self._pid}"
        _ip(*f"link add {self._link} type veth peer name eth0 {card}".split())
        _ip("link", "set", self._link, "master", _BRIDGE, "up")
        for command in (
            "link set lo up",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
        ):
            self.run("ip", *command.split())
        self.run("ip", "route", "add", "default", "via", f"{NETWORK}.1")
        self.sshd.within = self._enter()
        self.sshd.start()

    def halt(self) -> None:
        """End the host at once, with all of its processes, as by a loss of power."""
        init, self._init = self._init, None
        if init is None:
            return
        init.kill()  # takes process 1 along, and that takes all others
        init.wait()
        assert init.stdout is not None
        init.stdout.read()  # until process 1, which holds the other end, is gone
        init.stdout.close()
        self._pid = 0
        self.sshd.kill()
        with contextlib.suppress(subprocess.CalledProcessError):  # may be gone with its peer
            _ip("link", "del", self._link, quiet=True)

    def reboot(self) -> None:
        """End the host and all of its processes, and start it again with another boot id."""
        self.halt()
        self.boot()

    def cut(self) -> None:
        """Pull the cable: nothing gets through, and nobody is told."""
        _ip("link", "set", self._link, "down")

    def restore(self) -> None:
        """Undo `cut`."""
        _ip("link", "set", self._link, "up")

    def drop(self) -> None:
        """Drop all packets to and from the host by its firewall, as behind a dead NAT."""
        for chain in ("INPUT", "OUTPUT"):
            self.run("iptables", "-w", "-I", chain, "!", "-i" if chain == "INPUT" else "-o", "lo",
                     "-j", "DROP")  # fmt: skip

    def undrop(self) -> None:
        """Undo `drop`."""
        self.run("iptables", "-w", "-F")

    def set_clock(self, offset: str) -> None:
        """Set the wall clock for every process that starts from now on; restarts sshd.

        Args:
            offset: as faketime(1) has it, such as `+1d` or `-90m`.
        """
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not found:
            raise MissingError("libfaketime is not installed; on Debian: apt-get install faketime")
        self.run("sh", "-c", 'echo "$1" > /etc/faketimerc; echo "$2" > /etc/ld.so.preload',
                 "sh", offset, str(found[0]))  # fmt: skip
        self.sshd.restart()  # libfaketime must be in it from its start to be in what it runs

    def write(self, path: str, text: str) -> None:
        """Write a file below the home of its logins, such as `.bashrc`."""
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && printf %s "$2" > "$1"',
                 "sh", str(self.home / path), text)  # fmt: skip

    def path(self, path: Path) -> Path:
        """Return where this program finds a file of the host, also one in a home of its own."""
        return Path(f"/proc/{self._pid}/root") / path.relative_to("/")

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command on the host, as its root; returns what it printed on both outputs."""
        done = subprocess.run(
            [*self._enter(), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {argv}: {done.stdout}")
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Return what runs on the host besides its init and its sshd: pid here, command line."""
        try:
            space = Path(f"/proc/{self._pid}/ns/pid").readlink()
        except OSError:  # it does not run
            return {}
        found = {}
        for entry, arguments in command_lines():
            line = arguments.replace(b"\0", b" ").strip()
            if not line or line.startswith((b"sshd", b"/usr/sbin/sshd")):
                continue
            with contextlib.suppress(OSError):
                if (entry / "ns/pid").readlink() == space and int(entry.name) != self._pid:
                    found[int(entry.name)] = line.decode(errors="replace")
        return found

    def _enter(self) -> list[str]:
        spaces = ("--net", "--pid", "--mount", "--uts", "--ipc")
        return ["nsenter", f"--target={self._pid}", *spaces]


class Lab:
    """A network of hosts. This program's main thread is in it within the `with` block.

    Threads and processes that start within the block are in it too. It must be entered and left
    by the same thread.

    Args:
        folder: where the hosts keep their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self._before = -1

    def __enter__(self) -> Self:
        if os.getuid() != 0:
            raise MissingError("network namespaces need root: run these tests as root, as CI does")
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        needed = ("ip", "iptables", "nsenter", "unshare", "setpriv")
        missing = [name for name in needed if shutil.which(name, path=path) is None]
        if missing:
            raise MissingError(f"{', '.join(missing)} missing; scripts/setup test installs them")
        self._before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _libc("unshare", _CLONE_NEWNET)
        except OSError as error:
            os.close(self._before)
            raise MissingError(f"no network namespaces here (a container?): {error}") from error
        try:
            _ip("link", "set", "lo", "up")
            _ip("link", "add", _BRIDGE, "type", "bridge")
            _ip("addr", "add", f"{NETWORK}.1/24", "dev", _BRIDGE)
            _ip("link", "set", _BRIDGE, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for host in self.hosts.values():
                host.halt()
        finally:
            _libc("setns", self._before, _CLONE_NEWNET)
            os.close(self._before)

    def host(
        self,
        name: str,
        *,
        home_size: str = "",
        env: Mapping[str, str] | None = None,
        max_sessions: int = 10,
        max_startups: str = "10:30:100",
        extra: Sequence[str] = (),
    ) -> Host:
        """Start another host.

        Args:
            name: its name.
            home_size: size of a file system of its own for HOME, such as `40m`; "" for none.
            env: variables of its logins.
            max_sessions: as for `Sshd`.
            max_startups: as for `Sshd`.
            extra: as for `Sshd`.
        """
        host = Host(
            self,
            name,
            10 + len(self.hosts),
            home_size=home_size,
            env=env or {},
            max_sessions=max_sessions,
            max_startups=max_startups,
            extra=extra,
        )
        self.hosts[name] = host
        host.boot()
        return host


@contextlib.contextmanager
def lab(folder: Path | None = None) -> Iterator[Lab]:
    """A lab that is there within the `with` block.

    Args:
        folder: where the hosts keep their files; None for a folder that is removed at the end.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outpost-lab-")))
        yield stack.enter_context(Lab(folder))


def _ip(*argv: str, quiet: bool = False) -> None:
    stderr = subprocess.DEVNULL if quiet else None
    subprocess.run(
        ["ip", *argv], check=True, stdin=subprocess.DEVNULL, stderr=stderr, timeout=_TIMEOUT
    )


def _libc(name: str, *arguments: int) -> None:
    # `os.unshare` and `os.setns` are there from Python 3.12 on.
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
