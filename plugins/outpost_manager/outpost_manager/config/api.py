"""The section `api`: where the mayor is found besides its private socket."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core.backend import option
from outpost_core.errors import UsageError
from outpost_core.options import option_fields

if TYPE_CHECKING:
    from outpost_manager.config.reading import Reading
    from outpost_manager.config.yamlnodes import Node


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """The section `api`."""

    listen: str = option(
        "HOST:PORT where the mayor's API listens besides its private socket, and wants a token;"
        " nowhere if empty",
        default="",
    )
    tls_cert: str = option(
        "file of its certificate, PEM; needed where other machines reach the host", default=""
    )
    tls_key: str = option("file of the key of that certificate, without a passphrase", default="")

    @property
    def address(self) -> Address | None:
        """Where it listens; None for nowhere but the private socket.

        Raises:
            UsageError: it is none, or one that others reach without TLS.
        """
        return address(self.listen, self.tls_cert, self.tls_key) if self.listen else None


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the API listens besides its private socket.

    Args:
        host: a name or an IP address.
        port: 0 for a free one.
        cert: file of the certificate and what is above it, PEM; None for no TLS.
        key: file of its private key.
    """

    host: str
    port: int
    cert: Path | None = None
    key: Path | None = None

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "http" if self.cert is None else "https"

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def address(text: str, cert: str = "", key: str = "") -> Address:
    """Return the address that `HOST:PORT` says.

    Args:
        text: `127.0.0.1:8080`, `[::1]:8080`, `localhost:0`.
        cert: file of the certificate; "" for no TLS.
        key: file of its key.

    Raises:
        UsageError: it is none, or one that others reach without TLS.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(
            f"{text[:80]!a} is no address to listen at",
            hint="HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080",
        )
    if bool(cert) != bool(key):
        raise UsageError(
            f"TLS needs a certificate and its key, and the {'key' if cert else 'certificate'} is"
            " not said",
            hint="say both: tls_cert and tls_key",
        )
    found = Address(
        host=host,
        port=int(port),
        cert=Path(cert).expanduser() if cert else None,
        key=Path(key).expanduser() if key else None,
    )
    if not found.loopback and found.cert is None:
        raise UsageError(
            f"{host} can be reached by other machines, which is refused without TLS",
            hint="give a certificate and its key, or listen at 127.0.0.1 and let others come by"
            f" ssh -L {port}:127.0.0.1:{port}",
        )
    return found


def read_api(reader: Reading, node: Node | None) -> ApiConfig:
    """Read the section.

    Raises:
        ConfigError: it has a mistake.
    """
    if node is None or node.kind == "null":
        return ApiConfig()
    made = ApiConfig(**reader.values(node, "api", option_fields(ApiConfig)))
    reader.keep_origins("api", node)
    try:
        made.address  # noqa: B018 - it raises
    except UsageError as error:
        at = node.get("listen") or node
        raise reader.error(f"api: {error.message}", at, hint=error.hint) from None
    return made
