"""What is used of the official client, without what its packages import beside that.

`import kubernetes` brings the machinery of its models, Google's logins, `requests`, and another
client that is not asynchronous: 0.3 s and 30 MiB before anything was asked (measured with 37.0.2).
The four modules that are used here take 5 ms. So while they are imported the packages around them
are empty; whoever imports `kubernetes` afterwards gets all of it, as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import socket
import sys
import weakref
from collections.abc import Coroutine, Iterator
from types import ModuleType
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp.client_proto import ResponseHandler

_PACKAGE: Final = "kubernetes"
#: Packages that our modules are in, those around them first.
_AROUND: Final = (
    _PACKAGE, f"{_PACKAGE}.aio", f"{_PACKAGE}.aio.client", f"{_PACKAGE}.aio.config",
    f"{_PACKAGE}.aio.utils",
)  # fmt: skip
#: A connection that is silent for so many seconds is asked whether the other side is there, again
#: each so many seconds, and is dead after so many questions: 30 s in all. Load balancers, too,
#: forget a line that is silent for minutes.
_KEEPALIVE: Final = (15, 5, 3)


class _Connector(aiohttp.TCPConnector):
    """A connector whose end is the end of all its connections.

    One that is given back to be closed waits for the other side to close it too, and then nobody
    waits for it: an API server that is stopped would keep it open for longer than we live.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._opened: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()

    async def _create_connection(
        self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        protocol = await super()._create_connection(req, traces, timeout)
        if protocol.transport is not None:
            self._opened.add(protocol.transport)
        return protocol

    def close(self, *, abort_ssl: bool = False) -> Coroutine[Any, Any, None]:
        """Close all connections, also those that wait for the other side."""
        closing = super().close(abort_ssl=abort_ssl)
        for transport in [*self._opened]:
            transport.abort()
        return closing


class Official(NamedTuple):
    """The parts of the official client.

    Attributes:
        configuration: class; where a cluster is, and the login.
        rest: class; connections and requests, with dead lines noticed.
        load_pod: fills a configuration with what a pod is told of its own cluster.
        config_error: class; what that raises.
    """

    configuration: Any
    rest: Any
    load_pod: Any
    config_error: type[Exception]


@functools.cache
def official() -> Official:
    """Return the parts of the official client."""
    if _PACKAGE not in sys.modules:
        with contextlib.suppress(ImportError, AttributeError), _empty_packages():
            return _parts()  # unless a release of it has its modules elsewhere
    return _parts()


def _parts() -> Official:
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.client.rest import RESTClientObject

    client: Any = sys.modules["kubernetes.aio.client"]
    if not hasattr(client, "Configuration"):  # the next module takes it from there
        client.Configuration = Configuration
    from kubernetes.aio.config.config_exception import ConfigException
    from kubernetes.aio.config.incluster_config import load_incluster_config

    class Rest(RESTClientObject):
        def _create_pool_manager(self) -> aiohttp.ClientSession:
            session: aiohttp.ClientSession = super()._create_pool_manager()
            # It would send a DELETE whose answer was lost again by itself, and tell nobody.
            session._retry_connection = False  # noqa: SLF001 - there is no option
            return session

        def _create_connector(self) -> aiohttp.TCPConnector:
            return _Connector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_socket)

    return Official(Configuration, Rest, load_incluster_config, ConfigException)


@contextlib.contextmanager
def _empty_packages() -> Iterator[None]:
    """Have packages of the official client that have modules and import nothing, for a moment."""
    try:
        for name in _AROUND:
            sys.modules[name] = _empty(name)
        yield
    finally:
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{_PACKAGE}.")]:
            del sys.modules[name]


def _empty(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ImportError(f"there is no {name}")
    return importlib.util.module_from_spec(spec)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket whose dead line the kernel notices."""
    family, kind, proto, *_ = address
    made = socket.socket(family=family, type=kind, proto=proto)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle, every, count = _KEEPALIVE
    for name, value in (
        ("TCP_KEEPIDLE", idle), ("TCP_KEEPALIVE", idle), ("TCP_KEEPINTVL", every),
        ("TCP_KEEPCNT", count), ("TCP_USER_TIMEOUT", (idle + every * count) * 1000),
    ):  # fmt: skip
        option = getattr(socket, name, None)  # each system has some of them
        if option is not None:
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setblocking(False)
    return made
