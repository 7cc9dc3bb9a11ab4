"""What a connection to an API server that failed means, in words."""

from __future__ import annotations

import ssl
from typing import Final

import aiohttp

from outpost_shared import border

#: Seconds until a connection stands.
CONNECT: Final = 10.0
#: What trying again does not change.
FINAL: Final = (
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.InvalidURL,
)


def cause(error: Exception) -> tuple[str, str, bool]:
    """Return what went wrong, the next step, and whether the request may have arrived."""
    said = border.line(str(error), 200)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "is not known by its name", "see `server` in the kubeconfig, and the network", False
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return (f"is not reached through the proxy: {said}",
                "see HTTPS_PROXY and NO_PROXY, or set `use_proxy: false`", False)  # fmt: skip
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (f"shows a certificate that is not trusted: {border.line(_verify(error), 200)}",
                "let your cluster's tool write the kubeconfig anew", False)  # fmt: skip
    if isinstance(error, aiohttp.ClientSSLError):
        return (f"cannot be spoken to by TLS: {said}", "see `server` in the kubeconfig", False)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"did not take a connection within {CONNECT:g} s", "see the network", False
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error.strerror or said
        return (f"takes no connection: {border.line(reason, 200).lower()}",
                "see whether the cluster runs", False)  # fmt: skip
    if isinstance(error, TimeoutError):
        return "gives no answer", "it stands still, or the network does; try again", True
    if isinstance(error, aiohttp.InvalidURL):
        return "has no URL that can be used", "see `server` in the kubeconfig", False
    return f"broke the connection: {said or type(error).__name__}", "try again", True


def _verify(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    return getattr(cause, "verify_message", "") if isinstance(cause, ssl.SSLError) else str(cause)
