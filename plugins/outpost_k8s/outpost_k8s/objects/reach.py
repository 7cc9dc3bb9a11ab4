"""Where workers may connect to, as the option `egress` and the NetworkPolicy say it. Pure.

A NetworkPolicy knows addresses and ports, no names of hosts: "git hosts and models" is every
public address at the ports of https and ssh.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from outpost_core.errors import UsageError

#: Addresses that are not public: those of the cluster and of the networks around it, and, of
#: 169.254.0.0/16 and fd00:ec2::254, where clouds hand out the logins of their machines.
PRIVATE: Final = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
)
PRIVATE_6: Final = ("fc00::/7", "fe80::/10")
#: https and ssh.
PORTS: Final = (443, 22)
_PLACE: Final = re.compile(r"(?:\[([0-9a-fA-F:]+)\](/\d{1,3})?|([^\[\]]+?))(?::(\d{1,5}))?")
_METADATA: Final = (
    ipaddress.ip_network("169.254.169.254/32"),
    ipaddress.ip_network("fd00:ec2::254/128"),
)


def place(text: str) -> tuple[str, int | None]:
    """Return network and port of `ADDRESS[/BITS][:PORT]`; None for every port.

    An IPv6 address with a port stands in brackets: `[fd00::1]:443`.

    Raises:
        UsageError: it is written otherwise.
    """
    plain = text
    port = None
    if text.count(":") == 1 or text.startswith("["):
        match = _PLACE.fullmatch(text)
        if match is None:
            raise _no_place(text)
        plain = match[1] + (match[2] or "") if match[1] else match[3]
        port = int(match[4]) if match[4] else None
    try:
        network = ipaddress.ip_network(plain)
    except ValueError:
        raise _no_place(text) from None
    if port is not None and not 0 < port < 65536:
        raise _no_place(text)
    return str(network), port


def reaches_metadata(text: str) -> bool:
    """Whether a place of the option `egress` is one where a cloud hands out logins."""
    network = ipaddress.ip_network(place(text)[0])
    return any(network.version == found.version and network.overlaps(found) for found in _METADATA)


def policy(egress: tuple[str, ...], selector: dict[str, str]) -> dict[str, Any]:
    """Return the spec of the NetworkPolicy of workers.

    Args:
        egress: the option.
        selector: labels of the pods that it is for.
    """
    rules: list[dict[str, Any]] = [
        {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]},
        {
            "to": [
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(PRIVATE)}},
                {"ipBlock": {"cidr": "::/0", "except": list(PRIVATE_6)}},
            ],
            "ports": [{"protocol": "TCP", "port": port} for port in PORTS],
        },
    ]
    for text in egress:
        network, port = place(text)
        rule: dict[str, Any] = {"to": [{"ipBlock": {"cidr": network}}]}
        if port is not None:
            rule["ports"] = [{"protocol": "TCP", "port": port}]
        rules.append(rule)
    return {
        "podSelector": {"matchLabels": selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [],
        "egress": rules,
    }


def _no_place(text: str) -> UsageError:
    return UsageError(
        f"egress: {text[:80]!a} is no place that a NetworkPolicy knows",
        hint="write an address or a network, perhaps with a port: 10.0.3.7:443, 10.1.0.0/16; it"
        " knows no names of hosts",
    )
