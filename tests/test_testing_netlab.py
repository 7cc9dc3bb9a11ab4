"""The tests' own network of machines does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers.netlab import Host, Lab, lab
from peers.sshd import Sshd

from outpost_testing.processes import mentioning, outliving

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path / "lab") as made:
        yield made


def say(host: Host, command: str) -> str:
    server: Sshd = host.sshd
    done = subprocess.run(
        [
            *("ssh", "-F", "none", "-i", str(server.key), "-o", "ConnectTimeout=1"),
            *("-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none"),
            *(f"{server.user}@{server.host}", command),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout or done.stderr


def test_each_host_has_its_address_its_home_its_processes_and_its_boot(net: Lab) -> None:
    hosts = [net.host(name) for name in ("one", "two", "three")]
    command = f'echo "$HOME"; cat {BOOT_ID}; tr "\\0" "\\n" < /proc/1/cmdline | grep /lab/'
    said = [say(host, command).split() for host in hosts]
    assert [words[0] for words in said] == [str(host.home) for host in hosts]
    assert len({words[1] for words in said}) == 3
    assert [words[2] for words in said] == [str(host.folder) for host in hosts]
    assert len({host.address for host in hosts}) == 3


def test_a_reboot_ends_all_processes_and_changes_the_boot_and_nothing_else(net: Lab) -> None:
    host = net.host("one")
    before = say(host, f"cat {BOOT_ID}")
    host.write("kept", "text")
    say(host, "setsid sleep 60 > /dev/null 2>&1 < /dev/null & true")
    deadline = time.monotonic() + 30
    while "sleep 60" not in host.processes().values():  # setsid is to become it
        assert time.monotonic() < deadline
        time.sleep(0.02)
    host.reboot()
    assert host.processes() == {}
    assert say(host, f"cat {BOOT_ID}") != before
    assert say(host, "cat ~/kept") == "text"


def test_a_cut_cable_is_silent_until_it_is_back(net: Lab) -> None:
    host, other = net.host("one"), net.host("two")
    host.cut()
    assert "timed out" in say(host, "echo hello")
    assert say(other, "echo hello") == "hello\n"
    host.restore()
    assert say(host, "echo hello") == "hello\n"


def test_dropped_packets_leave_both_ends_of_a_connection_open(net: Lab) -> None:
    host = net.host("one")
    with socket.create_connection((host.address, 22), timeout=60) as sock:
        assert sock.recv(4) == b"SSH-"
        host.drop()
        sock.settimeout(0.5)
        sock.send(b"SSH-2.0-test\r\n")
        sock.recv(1000)  # the rest of what had arrived before
        with pytest.raises(TimeoutError):
            sock.recv(1000)
        host.undrop()
        sock.settimeout(10)
        assert sock.recv(1000)


def test_a_hosts_clock_is_its_own(net: Lab) -> None:
    host, other = net.host("one"), net.host("two")
    host.set_clock("+1d")
    assert abs(int(say(host, "date +%s")) - time.time() - 86400) < 60
    assert abs(int(say(other, "date +%s")) - time.time()) < 60
    assert not Path("/etc/faketimerc").exists()


def test_a_home_of_its_own_can_be_full(net: Lab) -> None:
    host = net.host("one", home_size="1m")
    assert "No space left" in say(host, "head -c 2000000 /dev/zero > ~/big")
    assert host.path(host.home / "big").stat().st_size < 2000000


def test_the_network_of_the_machine_is_as_it_was(tmp_path: Path) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino, _links()
    with lab(tmp_path / "lab") as made:
        made.host("one")
        assert os.stat("/proc/thread-self/ns/net").st_ino != before[0]
    assert (os.stat("/proc/thread-self/ns/net").st_ino, _links()) == before


def _links() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


def test_a_killed_test_program_takes_its_hosts_along(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from peers.netlab import lab\n"
        "with lab(Path(sys.argv[1])) as net:\n"
        "    net.host('one'); print('up', flush=True); time.sleep(60)\n"
    )
    folder = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, env=env
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"up\n"
    assert mentioning(folder)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    assert outliving(folder, 10) == {}
