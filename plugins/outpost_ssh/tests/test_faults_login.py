"""Faults on the way in: each is told by its cause and its hint, as a user of the CLI sees it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from faultkit import World, ended, read, until, working

from outpost_core.errors import OutpostError, UnreachableError
from outpost_core.types import Health, State


def told(w: World, entry: dict[str, Any], code: int = 5) -> str:
    """Return what `outpost ping` says of an outpost that cannot be reached."""
    w.config(entry, name="outposts-state")
    done = w.cli("ping")
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return " ".join(said.split())


def test_another_host_key_is_refused_with_what_that_means(w: World) -> None:
    host = w.net.host("vm1")

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            old = host.sshd.host_key
            host.sshd.rekey()
            host.sshd.restart()
            answer = (await manager.ping())["vm1"]
            assert isinstance(answer, OutpostError)
            await manager.refresh()
            assert (await manager.find("gt-1")).state is State.WORKING
            said = await asyncio.to_thread(told, w, {**w.entry(host), "host_key": old}, 5)
            assert "another" in said or "changed" in said
            assert "attack" in said or "in between" in said or "reinstalled" in said
            w.go.touch()
        async with w.manager(w.entry(host)) as manager:  # with the new key
            assert (await ended(manager, "gt-1"))[0].state is State.DONE

    asyncio.run(main())


def test_a_host_key_in_known_hosts_that_changed_is_refused(w: World) -> None:
    host = w.net.host("vm1")
    entry = w.entry(host)
    del entry["host_key"]
    known = {**entry, "known_hosts": str(host.sshd.known_hosts)}
    assert "vm1" in told(w, known, 0)
    host.sshd.rekey()
    host.sshd.restart()
    said = told(w, known)
    assert str(host.sshd.known_hosts) in said
    empty = w.folder / "empty"
    empty.touch()
    said = told(w, {**entry, "known_hosts": str(empty)})
    assert "not known" in said or "unknown" in said


def test_a_wrong_key_and_a_wrong_user_are_told_apart_from_a_dead_host(w: World) -> None:
    host = w.net.host("vm1")
    stranger = w.folder / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    said = told(w, {**w.entry(host), "ssh_key": str(stranger)})
    assert "did not let us in" in said
    assert "stranger" in said
    said = told(w, {**w.entry(host), "user": "nobody-here"})
    assert "nobody-here@10.77.0.10:22 did not let us in" in said
    host.sshd.stop()
    said = told(w, w.entry(host))
    assert "10.77.0.10:22 refused the connection" in said


def test_no_route_no_answer_and_no_name_are_told_apart(w: World) -> None:
    host = w.net.host("vm1")
    entry = {**w.entry(host), "connect_timeout": "1s"}
    assert "there is no way to 10.99.0.1:22" in told(w, {**entry, "host": "10.99.0.1"})
    said = told(w, {**entry, "host": "nowhere.invalid"})
    assert "the name nowhere.invalid has no address" in said
    host.cut()
    assert "no answer from 10.77.0.10:22 within 1s" in told(w, entry)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", "10.77.0.10\nProxyCommand touch /tmp/pwned"),
        ("host", "-oProxyCommand=touch /tmp/pwned"),
        ("host", "10.77.0.10; touch /tmp/pwned"),
        ("user", "root\nx"),
        ("user", "-x"),
        ("proxy_jump", "-x"),
        ("python", "python3; touch /tmp/pwned"),
    ],
)
def test_what_cannot_be_a_name_is_refused_before_anybody_is_asked(
    w: World, option: str, value: str
) -> None:
    host = w.net.host("vm1")
    said = told(w, {**w.entry(host), option: value}, 2)
    assert option in said
    assert not Path("/tmp/pwned").exists()
    assert "Accepted" not in host.sshd.log.read_text()


def test_a_port_that_is_not_sshds_is_told(w: World) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = w.net.host("vm1")
        entry = {**w.entry(host), "host": "127.0.0.1", "port": silent.getsockname()[1]}
        said = told(w, {**entry, "connect_timeout": "1s"})
        assert "said nothing within 1s" in said


def test_two_sessions_a_connection_are_enough_for_everything(w: World) -> None:
    host = w.net.host("vm1", max_sessions=2)

    async def main() -> None:
        async with w.manager(w.entry(host)) as manager:
            orders = [w.order(f"gt-{i}", f"echo {i}; {w.waiting('echo end')}") for i in range(20)]
            answers = await manager.spawn_many(orders)
            assert not [answer for answer in answers if isinstance(answer, OutpostError)]
            logs = [
                asyncio.create_task(read(manager, order.worker, follow=True)) for order in orders
            ]
            views = await asyncio.gather(*(manager.ping() for _ in range(20)))
            assert all(isinstance(view["vm1"], Health) for view in views)
            w.go.touch()
            assert await asyncio.gather(*logs) == [b"%d\nend\n" % i for i in range(20)]
            await ended(manager, *(order.worker for order in orders))

    asyncio.run(main())
    assert [w.ran(f"gt-{i}") for i in range(20)] == [1] * 20


def test_sessions_that_others_took_are_waited_for(w: World) -> None:
    """With MaxSessions 1 a second channel is refused until the first is closed."""
    host = w.net.host("vm1", max_sessions=1)

    short = w.entry(host, connect_timeout="1s")

    async def main() -> None:
        async with w.manager({**short, "name": "a"}, {**short, "name": "b"}) as manager:
            assert isinstance((await manager.ping(["a"]))["a"], Health)
            answer = (await manager.ping(["b"]))["b"]
            assert isinstance(answer, UnreachableError)
            assert "session" in answer.message
            waiting = asyncio.create_task(manager.ping(["b"]))
            await manager.fleet.outpost("a").outpost_close()
            assert isinstance((await waiting)["b"], Health)

    asyncio.run(main())


def test_more_programs_than_may_log_in_at_once_all_get_in(w: World) -> None:
    """MaxStartups resets whoever comes too many; each tries again."""
    host = w.net.host("vm1", max_startups="1:80:3")
    entry = w.entry(host, connect_timeout="20s")
    config = w.config(entry, defaults={"answer_timeout": "25s"})
    programs = [
        subprocess.Popen(
            [str(w.outpost), "spawn", f"gt-{i}", "--no-rig", "--wait", "--",
             "/bin/sh", "-c", f"echo ran >> {w.marks}/gt-{i}"],
            env={**w.environ(), "OUTPOST_CONFIG": str(config),
                 "OUTPOST_STATE": str(w.folder / f"state-{i % 2}")},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(8)
    ]  # fmt: skip
    said = [program.communicate(timeout=60)[0] for program in programs]
    assert [program.returncode for program in programs] == [0] * 8, said
    assert [w.ran(f"gt-{i}") for i in range(8)] == [1] * 8
    assert "past MaxStartups" in host.sshd.log.read_text()


def test_a_host_behind_another_is_reached_again_when_either_was_restarted(w: World) -> None:
    jump, host = w.net.host("jump"), w.net.host("vm1")
    known = w.folder / "known"
    known.write_text("".join(f"{h.address} {h.sshd.host_key}\n" for h in (jump, host)))
    keys = jump.sshd.authorized_keys
    keys.write_text(keys.read_text() + host.sshd.authorized_keys.read_text())
    entry = w.entry(host, proxy_jump=f"root@{jump.address}", known_hosts=str(known))
    del entry["host_key"]

    async def main() -> None:
        async with w.manager(entry) as manager:
            await manager.spawn(w.order("gt-1", w.waiting()))
            await working(manager, "gt-1")
            for hop in (jump, host):
                await asyncio.to_thread(hop.sshd.restart)

                async def answers() -> bool:
                    return isinstance((await manager.ping())["vm1"], Health)

                await until(answers)
            jump.cut()
            assert isinstance((await manager.ping())["vm1"], OutpostError)
            jump.restore()
            w.go.touch()
            assert (await ended(manager, "gt-1"))[0].state is State.DONE

    asyncio.run(main())


def test_nothing_of_the_way_in_is_in_any_command_line_or_open_file(w: World) -> None:
    """Secrets and hostile words reach the worker, and nobody else."""
    host = w.net.host("vm1")
    secret = "hunter2-" + os.urandom(8).hex()

    async def main() -> None:
        from outpost_core.types import Secrets

        async with w.manager(w.entry(host)) as manager:
            script = w.waiting('printf %s "$TOKEN" | sha256sum; echo "$TOKEN"')
            order = w.order("gt-1", script, secrets=Secrets({"TOKEN": secret}))
            await manager.spawn(order)
            await working(manager, "gt-1")
            assert not [line for line in host.processes().values() if secret in line]
            assert secret not in Path(f"/proc/{os.getpid()}/cmdline").read_text()
            files = [path for path in host.home.rglob("*") if path.is_file()]
            files += [path for path in (w.folder / "state").rglob("*") if path.is_file()]
            assert files
            for path in files:
                assert path.stat().st_mode & 0o077 == 0 or secret.encode() not in path.read_bytes()
            w.go.touch()
            await ended(manager, "gt-1")
            digest = hashlib.sha256(secret.encode()).hexdigest()
            assert await read(manager, "gt-1") == f"{digest}  -\n***\n".encode()

    asyncio.run(main())
