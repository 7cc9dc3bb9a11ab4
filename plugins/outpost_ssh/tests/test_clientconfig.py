"""What works of an OpenSSH client configuration, each line of it against a real sshd."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from pathlib import Path

from hostkit import agent, home, keygen, options, reached, refused, run, said, server
from peers.sshd import Sshd, sshd

from outpost_core.errors import UsageError
from outpost_manager.config import load_config
from outpost_ssh.connection.clientconfig import Destination, resolve
from outpost_ssh.options import SshOptions
from outpost_ssh.plugin import outpost_backends

__all__ = ["home", "server"]


def configured(home: Path, text: str) -> Path:
    path = home / ".ssh/config"
    path.write_text(text)
    path.chmod(0o600)
    return path


def whole(server: Sshd, name: str = "vm") -> str:
    """Return a configuration with all that is needed to reach the server by an alias."""
    return (
        f"Host {name}\n  HostName {server.host}\n  Port {server.port}\n  User {server.user}\n"
        f"  IdentityFile {server.key}\n  UserKnownHostsFile {server.known_hosts}\n"
    )


def alias(name: str = "vm") -> SshOptions:
    return SshOptions(host=name, connect_timeout=20.0)


def test_an_alias_gives_host_port_user_key_and_known_hosts(server, home):
    configured(home, whole(server))

    async def work() -> None:
        async with reached(alias()) as made:
            await made.connection()
            assert made.peer == f"{server.user}@{server.host}:{server.port}"

    run(work)


def test_options_win_over_the_configuration(server, home):
    configured(home, whole(server).replace(f"User {server.user}", "User nobody-here"))
    assert "nobody-here@" in refused(alias()).message
    assert said(SshOptions(host="vm", user=server.user, connect_timeout=20.0)) == "hello\n"


def test_another_configuration_can_be_named(server, home, tmp_path):
    configured(home, "Host vm\n  HostName 127.0.0.99\n")
    other = tmp_path / "ssh_config"
    other.write_text(whole(server))
    assert said(SshOptions(host="vm", config=other, connect_timeout=20.0)) == "hello\n"


def test_a_configuration_that_is_not_there_is_refused(home, tmp_path):
    error = refused(SshOptions(host="vm", config=tmp_path / "nothing"))
    assert isinstance(error, UsageError)
    assert str(tmp_path / "nothing") in error.message


def test_a_configuration_that_others_can_write_is_refused(server, home):
    configured(home, whole(server)).chmod(0o666)
    error = refused(alias())
    assert isinstance(error, UsageError)
    assert "others can write" in error.message


def test_a_mistake_in_the_configuration_is_told_with_its_line(home):
    path = configured(home, "Host vm\n  Port many\n")
    error = refused(alias())
    assert isinstance(error, UsageError)
    assert f"{path} line 2" in error.message


def test_an_included_file_counts(server, home):
    (home / ".ssh/more").write_text(whole(server))
    configured(home, "Include more\n")
    assert said(alias()) == "hello\n"


def test_keys_that_are_not_there_are_passed_over(server, home):
    configured(home, whole(server) + f"  IdentityFile {home}/nothing\n")
    assert said(alias()) == "hello\n"


def test_identity_agent_names_the_agent(server, home, monkeypatch):
    text = whole(server).replace(f"IdentityFile {server.key}", f"IdentityAgent {home}/agent")
    with agent(monkeypatch, home):
        subprocess.run(["ssh-add", "-q", server.key], check=True)
        monkeypatch.delenv("SSH_AUTH_SOCK")
        configured(home, text)
        assert said(alias()) == "hello\n"
        monkeypatch.setenv("SSH_AUTH_SOCK", f"{home}/agent")
        configured(home, text.replace(f"IdentityAgent {home}/agent", "IdentityAgent none"))
        assert "no key at all" in refused(alias()).message
        configured(home, text.replace(f"IdentityAgent {home}/agent", "IdentityAgent SSH_AUTH_SOCK"))
        assert said(alias()) == "hello\n"


def test_identities_only_keeps_other_keys_of_the_agent_back(server, home, monkeypatch):
    with agent(monkeypatch, home):
        subprocess.run(["ssh-add", "-q", server.key], check=True)
        wrong = keygen(home / "wrong")
        text = whole(server).replace(str(server.key), str(wrong))
        configured(home, text)
        assert said(alias()) == "hello\n"
        configured(home, text + "  IdentitiesOnly yes\n")
        assert "did not let us in" in refused(alias()).message


def test_a_public_identity_file_picks_a_key_of_the_agent(server, home, monkeypatch):
    with agent(monkeypatch, home):
        subprocess.run(["ssh-add", "-q", server.key], check=True)
        public = f"{server.key}.pub"
        (home / "k.pub").write_bytes(Path(public).read_bytes())
        text = whole(server).replace(str(server.key), f"{home}/k.pub")
        configured(home, text + "  IdentitiesOnly yes\n")
        assert said(alias()) == "hello\n"


def test_a_named_certificate_is_offered(server, home):
    ca, key = keygen(home / "ca"), keygen(home / "key")
    words = ["-s", ca, "-I", "me", "-n", server.user, f"{key}.pub"]
    subprocess.run(["ssh-keygen", "-q", *words], check=True)
    (home / "key-cert.pub").rename(home / "elsewhere.pub")
    server.extra.append(f"TrustedUserCAKeys {ca}.pub")
    server.restart()
    text = whole(server).replace(str(server.key), str(key))
    configured(home, text)
    assert "did not let us in" in refused(alias()).message
    configured(home, text + f"  CertificateFile {home}/elsewhere.pub\n")
    assert said(alias()) == "hello\n"


def test_connect_timeout_counts_where_the_option_is_not_given(home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        configured(home, f"Host vm\n  HostName 127.0.0.1\n  Port {port}\n  ConnectTimeout 1\n")
        assert "within 1s" in refused(SshOptions(host="vm")).message
        # the option that is written out counts, even where it says what is the default
        entry = load_config(
            _file(home, "connect_timeout: 8s"), {"ssh": outpost_backends()}
        ).outposts[0]
        assert Destination.of("vm", entry.options, None).connect_timeout == 8.0
        assert resolve(Destination.of("vm", entry.options, None)).timeout == 8.0
        entry = load_config(_file(home, "port: 22"), {"ssh": outpost_backends()}).outposts[0]
        assert resolve(Destination.of("vm", entry.options, None)).timeout == 1.0


def _file(home: Path, option: str) -> Path:
    file = home / "outposts.yaml"
    file.write_text(f"outposts:\n  - {{name: vm, type: ssh, host: vm, {option}}}\n")
    return file


# --- hosts in between -----------------------------------------------------------------------------


def test_a_second_real_host_is_gone_through(server, home, tmp_path):
    with sshd(tmp_path / "bastion") as bastion:
        configured(home, whole(bastion, "bastion") + whole(server) + "  ProxyJump bastion\n")

        async def work() -> None:
            async with reached(alias()) as made:
                assert (await made.script("echo $HOME", timeout=60)).stdout == f"{server.home}\n"
                assert "direct-tcpip" not in made.peer

        run(work)
        assert "Accepted publickey" in bastion.log.read_text()


def test_the_option_names_hosts_to_go_through(server, home, tmp_path):
    with sshd(tmp_path / "one") as one, sshd(tmp_path / "two") as two:
        configured(home, whole(one, "one") + whole(two, "two"))
        known = tmp_path / "known"
        known.write_text("".join(s.known_hosts.read_text() for s in (server, one, two)))
        made = options(server, proxy_jump="one,two", config=home / ".ssh/config", known_hosts=known)
        assert said(made) == "hello\n"
        for each in (one, two):
            assert "Accepted publickey" in each.log.read_text()


def test_two_hosts_share_the_connection_to_the_one_in_between(server, home, tmp_path):
    with sshd(tmp_path / "bastion") as bastion, sshd(tmp_path / "other") as other:
        jump = "  ProxyJump bastion\n"
        configured(
            home,
            whole(bastion, "bastion") + whole(server) + jump + whole(other, "other") + jump,
        )

        async def work() -> None:
            async with reached(alias()) as first, reached(alias("other")) as second:
                await asyncio.gather(first.connection(), second.connection())

        run(work)
        assert bastion.log.read_text().count("Accepted publickey") == 1


def test_a_host_in_between_must_be_known_too(server, home, tmp_path):
    with sshd(tmp_path / "bastion") as bastion:
        text = whole(bastion, "bastion").replace(str(bastion.known_hosts), "none")
        configured(home, text + whole(server) + "  ProxyJump bastion\n")
        error = refused(alias())
        assert f"{bastion.host}:{bastion.port} is not known here" in error.message
        assert "trust-on-first-use" not in error.hint


def test_a_target_that_the_host_in_between_cannot_reach_is_told(server, home, tmp_path):
    with sshd(tmp_path / "bastion") as bastion:
        configured(home, whole(bastion, "bastion") + whole(server) + "  ProxyJump bastion\n")
        server.stop()
        error = refused(alias())
        assert f"{bastion.host}:{bastion.port} could not connect to" in error.message


def test_the_end_of_the_host_in_between_ends_the_connection_through_it(server, home, tmp_path):
    with sshd(tmp_path / "bastion") as bastion:
        configured(home, whole(bastion, "bastion") + whole(server) + "  ProxyJump bastion\n")

        async def work() -> None:
            async with reached(alias()) as made:
                process = await made.open("sleep 60")
                bastion.drop_sessions()
                async with asyncio.timeout(5):
                    await process.wait_closed()
                assert (await made.script("echo again", timeout=60)).stdout == "again\n"

        run(work)


def test_a_host_that_is_reached_through_itself_is_refused(home):
    configured(home, "Host *\n  ProxyJump bastion\n")
    error = refused(alias("bastion"))
    assert isinstance(error, UsageError)
    assert "through itself" in error.message


def test_a_proxy_command_is_a_command_of_a_shell(server, home, tmp_path):
    with sshd(tmp_path / "bastion") as bastion:
        marker = tmp_path / "ran"
        command = (
            f"ssh -F none -i {bastion.key} -o UserKnownHostsFile={bastion.known_hosts}"
            f" -p {bastion.port} -W %h:%p {bastion.host} 2>>{marker}"
        )
        configured(home, whole(server) + f"  ProxyCommand {command}\n")
        assert said(alias()) == "hello\n"
        assert marker.exists()
    left = ["pgrep", "-f", str(bastion.known_hosts)]
    deadline = time.monotonic() + 60  # it ends because its standard input does
    while (code := subprocess.run(left, stdout=subprocess.DEVNULL).returncode) != 1:
        assert time.monotonic() < deadline, code
        time.sleep(0.05)


def test_what_a_proxy_command_says_is_told_when_it_fails(server, home):
    configured(home, whole(server) + "  ProxyCommand echo 'no \033[2Jtoken' >&2; exit 3\n")
    error = refused(alias())
    assert "ProxyCommand" in error.message
    assert "token" in error.message
    assert "\033" not in str(error)


def test_canonical_names_are_refused_with_a_word(server, home):
    configured(home, whole(server) + "  CanonicalizeHostname yes\n")
    error = refused(alias())
    assert isinstance(error, UsageError)
    assert "CanonicalizeHostname" in error.message


def test_relative_paths_are_relative_to_the_configuration_of_outposts(server, home, tmp_path):
    from outpost_core.backend import BuildContext
    from outpost_ssh.connection.host import remote_host

    (tmp_path / "here").mkdir()
    (tmp_path / "here/key").write_bytes(server.key.read_bytes())
    (tmp_path / "here/key").chmod(0o600)

    async def work() -> None:
        context = BuildContext(state_dir=Path("/nowhere"), config_dir=tmp_path / "here")
        made = remote_host("vm1", options(server, ssh_key=Path("key")), context)
        await made.connection()
        await made.aclose()

    run(work)
    assert os.getcwd() != str(tmp_path / "here")
