"""A ping that wakes nothing: one connection, to the proxy where one is between."""

from __future__ import annotations

import asyncio
import socket

import pytest

from outpost_cloudrun.keeper.knock import knock


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_behind_a_proxy_it_is_the_proxy_that_has_to_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:word@127.0.0.1:{port}")
        health = asyncio.run(knock("burst", "https://worker.invalid"))
    assert health.ok
    assert f"127.0.0.1:{port}" in health.detail
    assert "word" not in health.detail
    assert not asyncio.run(knock("burst", "https://worker.invalid")).ok  # the proxy is gone
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    odd = asyncio.run(knock("burst", "https://worker.invalid"))
    assert "http://HOST:PORT" in odd.detail


def test_what_cannot_be_reached_says_why_and_where_that_is_written() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert asyncio.run(knock("burst", url)).ok
    health = asyncio.run(knock("burst", url))
    assert not health.ok
    assert "Connection refused" in health.detail
    assert "Errno" not in health.detail
    assert "outposts.yaml" in health.hint
