"""A real OpenSSH server for tests: its own port, keys, log, and home, and gone afterwards.

It needs `sshd` and `ssh-keygen`, and works as root and as an ordinary user (who can then log in
as oneself only). Nothing of the account that runs it is read or written: every login has
`<folder>/home` as its HOME.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from peers import MissingError

START_LIMIT = 15.0
"""Seconds within which the server must listen."""

_PRIVILEGE_SEPARATION = Path("/run/sshd")


class Sshd:
    """One OpenSSH server and what a client needs to log in to it.

    Args:
        folder: Where all of its files are kept; it is made.
        port: Where it listens; None takes a free one and keeps it over restarts.
        address: The address that it listens on.
        max_sessions: Sessions that one connection may hold at once.
        max_startups: Connections that may be logging in at once, as sshd_config(5) writes it.
        extra: Further lines for its configuration. They come first, and so they win.
        home: HOME of every login; None is `<folder>/home`.
        env: Further variables of every login, such as PATH.
        within: A command that runs the server, such as `["ip", "netns", "exec", "x"]`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        address: str = "127.0.0.1",
        max_sessions: int = 10,
        max_startups: str = "10:30:100",
        extra: Sequence[str] = (),
        home: Path | None = None,
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.host = address
        self.port = port if port is not None else _free_port(address)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.home = home if home is not None else folder / "home"
        self.key = folder / "client_key"
        self.known_hosts = folder / "known_hosts"
        self.log = folder / "sshd.log"
        self.config = folder / "sshd_config"
        self.max_sessions = max_sessions
        self.max_startups = max_startups
        self.extra = list(extra)
        self.env = dict(env or {})
        self.within = list(within)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._left: set[tuple[int, str]] = set()  # sessions that outlived their server
        folder.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)
        _keygen(self.key)
        self.authorized_keys.write_text(self.key.with_suffix(".pub").read_text())
        self.authorized_keys.chmod(0o600)
        self.rekey(trusted=True)

    @property
    def authorized_keys(self) -> Path:
        """The file with the public keys that may log in; read at each login."""
        return self.folder / "authorized_keys"

    @property
    def host_key(self) -> str:
        """The server's public key, as `ssh-ed25519 AAAA…`."""
        kind, value, *_ = (self.folder / "host_key.pub").read_text().split()
        return f"{kind} {value}"

    @property
    def pid(self) -> int | None:
        """The process id of the server, or None while it does not run."""
        return None if self._daemon is None else _server_of(self._daemon.pid)

    def rekey(self, *, trusted: bool = False) -> None:
        """Gives the server another host key, from its next start on.

        Args:
            trusted: Whether `known_hosts` learns of it.
        """
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink(missing_ok=True)
        _keygen(self.folder / "host_key")
        if trusted:
            place = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
            self.known_hosts.write_text(f"{place} {self.host_key}\n")

    def start(self) -> None:
        """Starts the server and returns once it listens.

        Raises:
            RuntimeError: If it ends or does not listen in time; its log is quoted.
        """
        if self._daemon is not None:
            raise RuntimeError("this sshd runs already")
        program = _program("sshd")
        self._configure(program)
        if os.getuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [*self.within, program, "-D", "-e", "-f", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT
        while not self._listens():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"sshd did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self, *, sessions: bool = True) -> None:
        """Ends the server at once (SIGKILL), as a crash would.

        Args:
            sessions: Whether its connections end too, with the processes that they run. Real
                connections outlive a killed server. What has made itself a session of its own
                (`setsid`), such as the supervisor of a worker, is never ended.
        """
        daemon, self._daemon = self._daemon, None
        found = set(self._left)
        if daemon is not None:
            server = _server_of(daemon.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGSTOP)  # so that no connection begins unseen
                found |= _session_processes(server)
                os.kill(server, signal.SIGKILL)
            daemon.kill()
            daemon.wait()
        if sessions:
            _kill_all(found)
            found = set()
        self._left = found

    def stop(self) -> None:
        """Ends the server and everything that its connections run."""
        self.kill()

    def restart(self, *, sessions: bool = True) -> None:
        """Ends the server as `kill` does, and starts it again at the same port."""
        self.kill(sessions=sessions)
        self.start()

    def drop_sessions(self) -> int:
        """Ends all connections, and what they run; the server continues. Returns how many ended."""
        found = self._sessions()
        _kill_all(found)
        return len(found)

    def _sessions(self) -> set[tuple[int, str]]:
        return self._left | (set() if self.pid is None else _session_processes(self.pid))

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    def _configure(self, program: str) -> None:
        env = {"HOME": str(self.home), **self.env}
        lines = [
            *self.extra,
            f"ListenAddress {self.host}",
            f"Port {self.port}",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.authorized_keys}",
            "PidFile none",
            "StrictModes no",  # the folder may lie below one that others can write to, as /tmp
            "UsePAM no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PubkeyAuthentication yes",
            "PermitUserEnvironment no",
            "AllowAgentForwarding yes",
            "AllowTcpForwarding yes",
            "PrintMotd no",
            "PrintLastLog no",
            "UseDNS no",
            "LogLevel VERBOSE",
            f"MaxSessions {self.max_sessions}",
            f"MaxStartups {self.max_startups}",
            # One line: of several only the first counts.
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in env.items()),
        ]
        if _version(program) >= (9, 8):
            lines.append("PerSourcePenalties no")  # tests fail to log in on purpose
        self.config.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def sshd(
    folder: Path,
    *,
    port: int | None = None,
    address: str = "127.0.0.1",
    max_sessions: int = 10,
    max_startups: str = "10:30:100",
    extra: Sequence[str] = (),
    home: Path | None = None,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[Sshd]:
    """A server that runs within the `with` block. For the arguments see `Sshd`."""
    server = Sshd(
        folder,
        port=port,
        address=address,
        max_sessions=max_sessions,
        max_startups=max_startups,
        extra=extra,
        home=home,
        env=env,
        within=within,
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _program(name: str) -> str:
    # An ordinary user's PATH often lacks the folder that sshd is in; it must be run by full path.
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        raise MissingError(f"{name} is not installed; on Debian: apt-get install openssh-server")
    return found


def _version(program: str) -> tuple[int, int]:
    # Old versions know no -V: they complain, and name their version all the same.
    text = subprocess.run([program, "-V"], capture_output=True, text=True).stderr
    numbers = text.partition("OpenSSH_")[2].split("p")[0].split(",")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (ValueError, IndexError):
        return (0, 0)


def _keygen(path: Path) -> None:
    if not path.exists():
        subprocess.run(
            [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path],
            check=True,
            stdin=subprocess.DEVNULL,
        )


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _stat(pid: int) -> tuple[str, int, str] | None:
    """The name, the parent, and the start of a process; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return text[text.index("(") + 1 : text.rindex(")")], int(fields[1]), fields[19]


def _processes() -> tuple[dict[int, tuple[str, int, str] | None], dict[int, list[int]]]:
    """All processes, and the children of each."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    known = {pid: _stat(pid) for pid in numbers}
    children: dict[int, list[int]] = {}
    for pid, stat in known.items():
        if stat is not None:
            children.setdefault(stat[1], []).append(pid)
    return known, children


def _server_of(pid: int) -> int:
    """The server that was started through other commands, such as nsenter, from process `pid`."""
    known, children = _processes()
    todo = [pid]
    for candidate in todo:
        stat = known.get(candidate)
        if stat is not None and stat[0].startswith("sshd"):
            return candidate
        todo += children.get(candidate, [])
    return pid


def _session_processes(daemon: int) -> set[tuple[int, str]]:
    """The processes of all connections of a server, each with its start.

    They are the server's own processes, and all that runs in a session which one of them opened.
    """
    known, children = _processes()
    found: set[tuple[int, str]] = set()
    leaders: set[int] = set()
    todo = [(daemon, pid) for pid in children.get(daemon, [])]
    while todo:
        parent, pid = todo.pop()
        stat = known[pid]
        assert stat is not None
        above = known.get(parent)
        of_server = above is not None and above[0].startswith("sshd")
        if of_server:
            leaders.add(pid)
        with contextlib.suppress(ProcessLookupError):
            if of_server or os.getsid(pid) in leaders:
                found.add((pid, stat[2]))
        todo += [(pid, child) for child in children.get(pid, [])]
    return found


def _kill_all(processes: set[tuple[int, str]]) -> None:
    for pid, start in processes:
        stat = _stat(pid)
        if stat is not None and stat[2] == start:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
