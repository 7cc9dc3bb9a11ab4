"""A host must show a key that is trusted: pinned, known, or signed; all else is refused."""

from __future__ import annotations

import random
import re
import subprocess
import time
from pathlib import Path

import pytest
from hostkit import home, keygen, options, refused, said, server
from peers.sshd import Sshd

from outpost_core.errors import UnreachableError
from outpost_ssh.connection.knownhosts import speaks_of

__all__ = ["home", "server"]


def place(server: Sshd) -> str:
    return f"[{server.host}]:{server.port}"


def shown_by(server: Sshd) -> str:
    """Return the fingerprint as ssh-keygen shows it."""
    words = ["ssh-keygen", "-lf", server.folder / "host_key.pub"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[1]


def test_an_unknown_host_is_refused_with_its_fingerprint(server, tmp_path):
    error = refused(options(server, known_hosts=tmp_path / "nothing"))
    assert isinstance(error, UnreachableError)
    assert not error.sent
    assert "is not known here" in error.message
    assert shown_by(server) in error.message
    assert "outpost add ssh vm1 … --trust-on-first-use" in error.hint


def test_no_files_of_known_hosts_do_not_switch_verification_off(server, home):
    config = home / ".ssh/config"
    config.write_text(
        "UserKnownHostsFile none\nGlobalKnownHostsFile none\nStrictHostKeyChecking off\n"
    )
    config.chmod(0o600)
    error = refused(options(server, known_hosts=None, config=config))
    assert "is not known here" in error.message


def test_a_pinned_key_is_enough(server, tmp_path):
    made = options(server, known_hosts=tmp_path / "nothing", host_key=server.host_key)
    assert said(made) == "hello\n"


def test_a_pinned_key_wins_over_known_hosts(server, tmp_path):
    kind, value, *_ = Path(f"{keygen(tmp_path / 'other')}.pub").read_text().split()
    error = refused(options(server, host_key=f"{kind} {value}"))
    assert "has changed" in error.message
    assert "pinned as host_key" in error.message


def test_a_changed_key_is_refused_with_both_fingerprints_and_the_hint(server):
    before = shown_by(server)
    server.rekey()
    server.restart()
    error = refused(options(server))
    assert isinstance(error, UnreachableError)
    assert not error.sent
    for word in ("has changed", "reinstalled", "in between", before, shown_by(server)):
        assert word in error.message
    assert f"{server.known_hosts}:1" in error.message
    assert f"ssh-keygen -R '{place(server)}' -f {server.known_hosts}" in error.hint
    assert server.host_key in error.hint


def test_the_mend_of_a_changed_key_mends(server):
    server.rekey()
    server.restart()
    hint = refused(options(server)).hint
    command = hint.partition("ssh-keygen")[2].partition(";")[0]
    subprocess.run(f"ssh-keygen {command}", shell=True, check=True, capture_output=True)
    assert "is not known here" in refused(options(server)).message


def test_a_key_of_another_kind_than_the_known_one_is_a_change(server, tmp_path):
    words = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "ecdsa"]
    subprocess.run(words, check=True)
    kind, value, *_ = (tmp_path / "ecdsa.pub").read_text().split()
    server.known_hosts.write_text(f"{place(server)} {kind} {value}\n")
    assert "has changed" in refused(options(server)).message


def test_the_known_one_of_several_keys_is_asked_for(server, tmp_path):
    words = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "ecdsa"]
    subprocess.run(words, check=True)
    kind, value, *_ = (tmp_path / "ecdsa.pub").read_text().split()
    server.extra.append(f"HostKey {tmp_path / 'ecdsa'}")
    server.restart()
    server.known_hosts.write_text(f"{place(server)} {kind} {value}\n")
    assert said(options(server)) == "hello\n"


def test_hashed_names_are_found(server):
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", server.known_hosts], check=True,
                   capture_output=True)  # fmt: skip
    assert server.known_hosts.read_text().startswith("|1|")
    assert said(options(server)) == "hello\n"


def test_a_key_that_is_known_without_its_port_counts(server):
    server.known_hosts.write_text(f"{server.host} {server.host_key}\n")
    assert said(options(server)) == "hello\n"


def test_lines_that_cannot_be_read_are_passed_over(server):
    text = server.known_hosts.read_text()
    server.known_hosts.write_bytes(b"nonsense\n\xff\xfe x\n@what is this\n" + text.encode())
    assert said(options(server)) == "hello\n"


def test_a_revoked_key_is_refused(server):
    text = server.known_hosts.read_text()
    server.known_hosts.write_text(f"@revoked * {server.host_key}\n{text}")
    error = refused(options(server))
    assert "@revoked" in error.message
    assert f"{server.known_hosts}:1" in error.message


def test_a_revoked_key_is_refused_by_name_without_port_too(server):
    text = server.known_hosts.read_text()
    server.known_hosts.write_text(f"@revoked {server.host} {server.host_key}\n{text}")
    assert "@revoked" in refused(options(server)).message


def signed(server: Sshd, folder: Path, name: str) -> Path:
    """Give the server a certificate, and return the authority."""
    ca = keygen(folder / "host_ca")
    words = ["-s", ca, "-I", "host", "-h", "-n", name, server.folder / "host_key.pub"]
    subprocess.run(["ssh-keygen", "-q", *words], check=True)
    server.extra.append(f"HostCertificate {server.folder}/host_key-cert.pub")
    server.restart()
    return ca


def test_a_host_that_a_trusted_authority_signed_is_trusted(server, tmp_path):
    ca = signed(server, tmp_path, server.host)
    line = Path(f"{ca}.pub").read_text()
    server.known_hosts.write_text(f"@cert-authority {place(server)} {line}")
    assert said(options(server)) == "hello\n"


def test_a_certificate_for_another_name_is_refused(server, tmp_path):
    ca = signed(server, tmp_path, "other.example")
    line = Path(f"{ca}.pub").read_text()
    server.known_hosts.write_text(f"@cert-authority {place(server)} {line}")
    assert isinstance(refused(options(server)), UnreachableError)


def test_a_certificate_of_an_unknown_authority_is_refused(server, tmp_path):
    signed(server, tmp_path, server.host)
    other = Path(f"{keygen(tmp_path / 'other')}.pub").read_text()
    server.known_hosts.write_text(f"@cert-authority {place(server)} {other}")
    assert "not signed by the authority" in refused(options(server)).message


def test_an_alias_for_keys_is_looked_up(server, home):
    server.known_hosts.write_text(f"myvm {server.host_key}\n")
    config = home / ".ssh/config"
    config.write_text("HostKeyAlias myvm\n")
    config.chmod(0o600)
    assert said(options(server, config=config)) == "hello\n"


@pytest.mark.parametrize(
    ("patterns", "name", "found"),
    [
        ("vm1", "vm1", True),
        ("VM1", "vm1", True),
        ("vm1", "vm12", False),
        ("a,vm1", "vm1", True),
        ("*.x", "a.x", True),
        ("*.x", "a.y", False),
        ("vm?", "vm1", True),
        ("*,!vm1", "vm1", False),
        ("!vm1,*", "vm2", True),
        ("[vm1]:22022", "[vm1]:22022", True),
        ("[vm1]:22022", "vm1", False),
        ("[*]:22022", "[vm1]:22022", True),
        ("[*]:22022", "v", False),
        ("vm.", "vmx", False),
        ("|1|bad", "vm1", False),
        ("|1|!!|!!", "vm1", False),
    ],
)
def test_the_names_of_a_line_are_read_as_openssh_does(patterns, name, found):
    assert speaks_of(patterns, name) is found


def test_a_hostile_line_takes_no_longer_than_it_is_long():
    began = time.monotonic()
    assert not speaks_of("*" + "a*" * 2000 + "b", "a" * 250)
    assert not speaks_of("*?" * 2000 + "b", "a" * 250)
    assert time.monotonic() - began < 5.0


def test_patterns_are_matched_as_regular_expressions_would():
    generator = random.Random(8)
    for _ in range(3000):
        pattern = "".join(generator.choices("ab*?", k=generator.randrange(1, 7)))
        name = "".join(generator.choices("ab", k=generator.randrange(1, 7)))
        shape = pattern.replace("*", ".*").replace("?", ".")
        assert speaks_of(pattern, name) is bool(re.fullmatch(shape, name)), (pattern, name)
