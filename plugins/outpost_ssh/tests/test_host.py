"""One connection a host, against a real sshd: shared, bounded, mended, and explained."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hostkit import (
    agent,
    home,
    keygen,
    listener,
    options,
    reached,
    refused,
    remote,
    run,
    said,
    server,
)
from peers.sshd import sshd

from outpost_core.errors import UnreachableError, UsageError
from outpost_ssh.connection import pool as pools
from outpost_ssh.connection.host import SHELL
from outpost_ssh.options import SshOptions

__all__ = ["home", "server"]

PACKAGE = Path(pools.__file__).parents[1]


# --- a connection ---------------------------------------------------------------------------------


def test_a_script_runs_with_its_arguments_untouched(server):
    words = ("a b", "'\"$(touch x)`id`\n;", "-n", "", "ünï")

    async def work() -> None:
        async with reached(options(server)) as made:
            done = await made.script('printf "<%s>" "$@"; cat; exit 7', *words, timeout=60)
            assert done.stdout == "".join(f"<{word}>" for word in words)
            assert done.code == 7
            assert made.peer == f"{server.user}@{server.host}:{server.port}"

    run(work)


def test_noise_of_the_login_shell_is_no_output_of_a_script(server):
    (server.home / ".bashrc").write_text("echo noise\necho more >&2\n")
    assert said(options(server)) == "hello\n"


def test_hosts_of_the_same_target_share_one_connection(server):
    async def work() -> None:
        first, second = remote(options(server)), remote(options(server), "other")
        assert await first.connection() is await second.connection()
        await first.aclose()
        assert (await second.script("echo on", timeout=60)).stdout == "on\n"
        await second.aclose()
        assert not pools.pool()._connections

    run(work)


def test_callers_at_once_wait_for_one_attempt(server):
    async def work() -> None:
        async with reached(options(server)) as made:
            found = await asyncio.gather(*(made.connection() for _ in range(20)))
            assert len(set(found)) == 1

    run(work)
    assert server.log.read_text().count("Accepted publickey") == 1


def test_a_caller_that_gives_up_does_not_end_the_attempt_of_others(server):
    async def work() -> None:
        async with reached(options(server)) as made:
            other = asyncio.create_task(made.connection())
            gives_up = asyncio.create_task(made.connection())
            await asyncio.sleep(0)
            gives_up.cancel()
            await other

    run(work)


def test_a_command_hears_at_once_that_the_connection_broke(server):
    async def work() -> None:
        async with reached(options(server)) as made:
            process = await made.open("echo $PPID; exec sleep 60")
            of_connection = int(await process.stdout.readline())
            waiting = asyncio.create_task(process.stdout.read(1))
            script = asyncio.create_task(made.script("sleep 60", timeout=60))
            await asyncio.sleep(0.2)
            os.kill(of_connection, signal.SIGKILL)
            async with asyncio.timeout(5):
                with contextlib.suppress(Exception):
                    assert await waiting == b""
                with pytest.raises(UnreachableError, match="broke") as caught:
                    await script
            assert caught.value.sent
            assert (await made.script("echo again", timeout=60)).stdout == "again\n"

    run(work)


def test_drop_ends_the_connection_and_the_next_use_connects(server):
    async def work() -> None:
        async with reached(options(server)) as made:
            first = await made.connection()
            process = await made.open("sleep 60")
            made.drop("on purpose")
            async with asyncio.timeout(5):
                await process.wait_closed()
            assert made.why == "on purpose"
            assert await made.connection() is not first

    run(work)


def test_sessions_are_at_most_eight_and_one_that_ends_makes_room(server):
    async def work() -> None:
        async with reached(options(server)) as made:
            open_ = [await made.open("cat") for _ in range(8)]
            ninth = asyncio.create_task(made.open("echo ninth"))
            await asyncio.sleep(0.2)
            assert not ninth.done()
            open_[0].stdin.write_eof()
            assert await (await ninth).stdout.read() == b"ninth\n"

    run(work)


def test_sessions_that_are_given_up_while_they_are_asked_for_are_no_longer_held(server):
    async def work() -> None:
        async with reached(options(server)) as made:
            connection = await made.connection()
            for _ in range(12):  # sshd allows ten
                asking = asyncio.create_task(made.open("cat"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                asking.cancel()
                await asyncio.wait({asking})
            assert [await (await made.open("echo")).stdout.read() for _ in range(8)] == [b"\n"] * 8
            assert await made.connection() is connection

    run(work)


def test_a_host_with_few_sessions_is_asked_again_until_one_is_free(tmp_path):
    with sshd(tmp_path / "few", max_sessions=2) as server:

        async def work() -> None:
            async with reached(options(server)) as made:
                done = await asyncio.gather(
                    *(made.script("sleep 0.1; echo $1", str(n), timeout=20) for n in range(6))
                )
                assert [each.stdout for each in done] == [f"{n}\n" for n in range(6)]

        run(work)


def test_a_host_whose_sessions_stay_taken_says_so(tmp_path):
    with sshd(tmp_path / "one", max_sessions=1) as server:

        async def work() -> None:
            async with reached(options(server, connect_timeout=0.6)) as made:
                await made.open("cat")
                with pytest.raises(UnreachableError, match="no further session") as caught:
                    await made.open("cat")
                assert "MaxSessions" in caught.value.hint
                assert not caught.value.sent

        run(work)


def test_a_host_that_resets_at_many_connects_is_tried_again(tmp_path):
    with sshd(tmp_path / "busy", max_startups="2:100:2") as server:

        async def work() -> None:
            # Different targets by their keepalive: each makes a connection of its own.
            hosts = [remote(options(server, keepalive=10.0 + n, connect_timeout=20.0))
                     for n in range(12)]  # fmt: skip
            try:
                await asyncio.gather(*(each.connection() for each in hosts))
            finally:
                for each in hosts:
                    await each.aclose()

        run(work)
        assert "MaxStartups" in server.log.read_text() or "drop connection" in (
            server.log.read_text()
        )


def test_hosts_that_never_answer_do_not_hold_up_others(server):
    def silent(peer: socket.socket) -> None:
        pass

    async def work() -> None:
        with contextlib.ExitStack() as stack:
            ports = [stack.enter_context(listener(silent)) for _ in range(8)]
            dead = [remote(options(server, port=port, connect_timeout=30.0)) for port in ports]
            tasks = [asyncio.create_task(each.connection()) for each in dead]
            await asyncio.sleep(0.2)
            async with asyncio.timeout(10), reached(options(server)) as made:
                await made.connection()
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *(each.aclose() for each in dead), return_exceptions=True)

    run(work)


def test_the_command_line_at_the_host_is_constant(server, tmp_path):
    seen = tmp_path / "seen"
    server.extra.append(
        f'ForceCommand printf "%s\\n" "$SSH_ORIGINAL_COMMAND" >> {seen}; exec sh -s'
    )
    server.restart()
    said(options(server), "echo secret-word")
    assert seen.read_text() == f"{SHELL}\n"


def test_the_agent_is_forwarded_only_where_that_is_asked_for(server, home, monkeypatch):
    with agent(monkeypatch, home):
        text = 'test -n "$SSH_AUTH_SOCK" && echo forwarded || echo not'
        assert said(options(server), text) == "not\n"
        assert said(options(server, forward_agent=True), text) == "forwarded\n"


def test_nothing_of_asyncssh_is_printed(server, capfd):
    (server.folder / "other").mkdir()
    refused(options(server, ssh_key=keygen(server.folder / "other/key")))
    assert capfd.readouterr() == ("", "")


def test_verification_cannot_be_switched_off_in_the_sources():
    for path in PACKAGE.rglob("*.py"):
        assert "known_hosts=None" not in path.read_text(), path
        assert "get_server_host_key" not in path.read_text(), path


def test_building_a_host_imports_no_asyncssh():
    code = (
        "import sys; from pathlib import Path; from outpost_core.backend import BuildContext\n"
        "from outpost_ssh.connection.host import remote_host\n"
        "from outpost_ssh.options import SshOptions\n"
        "remote_host('a', SshOptions(host='h'), BuildContext(state_dir=Path('/x')))\n"
        "assert 'asyncssh' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- failures -------------------------------------------------------------------------------------


def test_a_wrong_key_names_what_was_offered(server, tmp_path):
    key = keygen(tmp_path / "wrong")
    error = refused(options(server, ssh_key=key))
    assert isinstance(error, UnreachableError)
    assert not error.sent
    assert error.message.startswith(f"{server.user}@{server.host}:{server.port} did not let us in")
    assert str(key) in error.message
    assert "ssh-copy-id" in error.hint


def test_a_wrong_user_is_not_let_in(server):
    error = refused(options(server, user="nobody-here"))
    assert "nobody-here@" in error.message
    assert "right user" in error.hint


def test_no_key_at_all_is_said_so(server):
    error = refused(options(server, ssh_key=None))
    assert "no key at all" in error.message
    assert "ssh_key" in error.hint


def test_a_port_where_nothing_listens_is_said_so(server):
    server.stop()
    error = refused(options(server))
    assert f"{server.host}:{server.port} refused the connection" in error.message


def test_a_name_without_address_is_said_so(server):
    error = refused(options(server, host="no-such-host.invalid"))
    assert "no-such-host.invalid has no address" in error.message


def test_no_route_is_said_so():
    code = (
        "import asyncio, os\nfrom pathlib import Path\n"
        "from outpost_core.backend import BuildContext\nfrom outpost_core.errors import *\n"
        "from outpost_ssh.connection.host import remote_host\n"
        "from outpost_ssh.options import SshOptions\n"
        "async def work():\n"
        "    o = SshOptions(host='10.9.9.9', config=Path(os.devnull), user='steve')\n"
        "    try: await remote_host('a', o, BuildContext(state_dir=Path('/x'))).connection()\n"
        "    except UnreachableError as e: print(e.message)\n"
        "asyncio.run(work())\n"
    )
    words = ["unshare", "--net", sys.executable, "-c", code]  # a network with nothing in it
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("there is no way to 10.9.9.9:22: Network is unreachable")


def test_a_port_that_takes_connections_and_says_nothing_is_told(server):
    with listener(lambda peer: None) as port:
        error = refused(options(server, port=port, connect_timeout=0.4))
    assert "took the connection but said nothing within" in error.message


def test_what_is_no_ssh_server_is_told_and_its_words_cleaned(server):
    def answer(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 400 Bad \x1b[31mRequest\x07\r\n\r\n" * 3)
        peer.shutdown(socket.SHUT_RDWR)

    with listener(answer) as port:
        error = refused(options(server, port=port, connect_timeout=0.5))
    assert "127.0.0.1" in error.message
    assert str(error).replace("\n", "").isprintable()


def test_an_ssh_version_that_cannot_be_is_told(server):
    def answer(peer: socket.socket) -> None:
        peer.sendall(b"SSH-1.1-\x1b]0;own\x07ed\r\n")

    with listener(answer) as port:
        error = refused(options(server, port=port, connect_timeout=2.0))
    assert str(error).replace("\n", "").isprintable()
    assert "ersion" in error.message


def test_a_host_that_always_closes_is_told_with_the_tries(server):
    with listener(lambda peer: peer.close()) as port:
        error = refused(options(server, port=port, connect_timeout=1.0))
    assert "closed the connection before" in error.message
    assert "times within" in error.message
    assert "MaxStartups" in error.hint


def test_a_banner_of_the_host_is_shown_without_its_control_characters(server, tmp_path):
    banner = tmp_path / "banner"
    banner.write_bytes(b"\x1b[2Jgo \x07away\n")
    server.extra.append(f"Banner {banner}")
    server.restart()
    error = refused(options(server, ssh_key=keygen(tmp_path / "wrong")))
    assert "it said:" in error.message
    assert "away" in error.message
    assert "\x1b" not in str(error)


# --- keys -----------------------------------------------------------------------------------------


def test_a_missing_key_is_refused_before_anything_is_sent(server, tmp_path):
    error = refused(options(server, ssh_key=tmp_path / "nothing"))
    assert isinstance(error, UsageError)
    assert str(tmp_path / "nothing") in error.message


def test_a_key_that_others_can_read_is_refused(server):
    server.key.chmod(0o644)
    error = refused(options(server))
    assert isinstance(error, UsageError)
    assert "others can read it" in error.message
    assert error.hint == f"chmod 600 {server.key}"


def test_a_key_with_a_passphrase_needs_the_agent(server, home, monkeypatch):
    words = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "pass", "-f", server.key]
    subprocess.run(words, check=True)
    error = refused(options(server))
    assert "passphrase" in error.message
    assert error.hint == f"ssh-add {server.key}"
    with agent(monkeypatch, home):
        ask = home / "ask"
        ask.write_text("#!/bin/sh\necho pass\n")
        ask.chmod(0o700)
        more = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(
            ["ssh-add", "-q", server.key], check=True, env={**os.environ, **more},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert said(options(server)) == "hello\n"


def test_the_usual_keys_are_tried_when_none_is_named(server, home):
    (home / ".ssh/id_ed25519").write_bytes(server.key.read_bytes())
    (home / ".ssh/id_ed25519").chmod(0o600)
    assert said(options(server, ssh_key=None)) == "hello\n"


def test_keys_of_the_agent_are_tried_when_none_is_named(server, home, monkeypatch):
    with agent(monkeypatch, home):
        subprocess.run(["ssh-add", "-q", server.key], check=True)
        assert said(options(server, ssh_key=None)) == "hello\n"


def test_a_named_key_is_the_only_one_that_is_offered(server, home, monkeypatch, tmp_path):
    with agent(monkeypatch, home):
        subprocess.run(["ssh-add", "-q", server.key], check=True)  # it would be let in
        error = refused(options(server, ssh_key=keygen(tmp_path / "wrong")))
        assert "did not let us in" in error.message


def test_many_keys_of_the_agent_do_not_lock_out_the_named_one(server, home, monkeypatch):
    server.extra.append("MaxAuthTries 2")
    server.restart()
    with agent(monkeypatch, home):
        for number in range(5):
            subprocess.run(["ssh-add", "-q", keygen(home / f"k{number}")], check=True)
        assert said(options(server)) == "hello\n"
        error = refused(options(server, ssh_key=None))
        assert "too many keys" in error.message
        assert "ssh_key" in error.hint


def test_a_certificate_beside_the_key_is_offered(server, home):
    ca, key = keygen(home / "ca"), keygen(home / "key")
    words = ["-s", ca, "-I", "me", "-n", server.user, f"{key}.pub"]
    subprocess.run(["ssh-keygen", "-q", *words], check=True)
    server.extra.append(f"TrustedUserCAKeys {ca}.pub")
    server.restart()
    assert said(options(server, ssh_key=key)) == "hello\n"


# --- what must not get through --------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"host": "-oProxyCommand=touch x"},
        {"host": "a\nb"},
        {"host": "a b"},
        {"host": "a;b"},
        {"host": "$(id)"},
        {"host": "vm\x1b[2J"},
        {"host": "vm1\u0430"},
        {"host": ""},
        {"user": "-l"},
        {"user": "a b"},
        {"user": "a\nb"},
        {"user": "`id`"},
        {"proxy_jump": "-oProxyCommand=x"},
        {"proxy_jump": "a,,b"},
        {"proxy_jump": "a:99999"},
        {"proxy_jump": "a b"},
        {"python": "python3; id"},
        {"python": "-c"},
        {"python": "$(id)"},
        {"host_key": "ssh-ed25519 AAAA"},
        {"host_key": "nonsense"},
        {"town_url": "--upload-pack=id"},
    ],
)
def test_hostile_options_are_refused(more):
    with pytest.raises(UsageError) as caught:
        SshOptions(**{"host": "vm1", **more})
    assert caught.value.message.replace("\n", "").isprintable()


def test_a_hostile_option_in_the_file_is_told_with_its_line(tmp_path):
    from outpost_manager.config import load_config
    from outpost_ssh.plugin import outpost_backends

    path = tmp_path / "outposts.yaml"
    path.write_text("outposts:\n  - {name: vm1, type: ssh, host: '-oProxyCommand=x'}\n")
    with pytest.raises(UsageError, match="not the name of a host") as caught:
        load_config(path, {"ssh": outpost_backends()})
    assert f"{path}:2:" in str(caught.value)
