"""The tests' own relay is exactly as bad a line as it is told to be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from peers.relay import Relay, relay


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets, and `end` once that has ended."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
                sock.sendall(b"end")
            except OSError:
                pass

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def dial(line: Relay) -> socket.socket:
    return socket.create_connection((line.host, line.port), timeout=60)


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(65536)):
        data += more
    return data


def until_reset(sock: socket.socket) -> bytes:
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError:
        return data
    raise AssertionError(f"an orderly end after {len(data)} bytes")


def test_it_passes_on_what_it_gets(echo: int) -> None:
    with relay("127.0.0.1", echo) as line, dial(line) as sock:
        data = bytes(range(256)) * 4000
        threading.Thread(target=sock.sendall, args=(data,)).start()
        assert receive(sock, len(data)) == data
        assert line.passed("up") == line.passed("down") == len(data)


def test_latency_delays_each_way(echo: int) -> None:
    with relay("127.0.0.1", echo, latency=0.1) as line, dial(line) as sock:
        begun = time.monotonic()
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
        assert time.monotonic() - begun >= 0.2


def test_it_cuts_each_connection_after_exactly_so_many_bytes(echo: int) -> None:
    with relay("127.0.0.1", echo) as line:
        line.cut_after["down"] = 1234
        for _ in range(2):
            with dial(line) as sock:
                sock.sendall(b"x" * 5000)
                assert until_reset(sock) == b"x" * 1234
        line.cut_after["down"] = None
        with dial(line) as sock:
            sock.sendall(b"x" * 5000)
            assert receive(sock, 5000) == b"x" * 5000


def test_it_cuts_and_refuses_on_command(echo: int) -> None:
    with relay("127.0.0.1", echo) as line:
        with dial(line) as sock:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
            assert line.cut() == 1
            assert until_reset(sock) == b""
        line.refuse()
        with pytest.raises(ConnectionResetError), dial(line) as sock:
            sock.recv(1)
        line.refuse(False)
        with dial(line) as sock:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        assert line.lines == 2


def test_what_is_held_arrives_when_it_is_released(echo: int) -> None:
    with relay("127.0.0.1", echo) as line, dial(line) as sock:
        line.hold("down")
        sock.sendall(b"x")
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        deadline = time.monotonic() + 30
        while line.passed("up") < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert line.passed("up") == 1
        line.release("down")
        sock.settimeout(10)
        assert receive(sock, 1) == b"x"


def test_half_a_close_leaves_the_other_half(echo: int) -> None:
    with relay("127.0.0.1", echo) as line, dial(line) as sock:
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"
        line.half_close("up")
        assert receive(sock, 3) == b"end"
