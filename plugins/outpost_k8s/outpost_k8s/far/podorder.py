"""The order of the pod, as the Secret of its Job holds it; another program wrote that."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from outpost_core import wire
from outpost_core.errors import UsageError
from outpost_core.names import RIG_CREDENTIAL
from outpost_core.types import Order, Secrets
from outpost_k8s.far.settings import Settings
from outpost_shared.protocol import FrameError, decode
from outpost_worker.serving.request import secrets_of

#: Files of the Secret.
ORDER: Final = "order.json"
SECRETS: Final = "secrets.json"
CREDENTIALS: Final = "git-credentials"
#: A Secret has 1 MiB at most (kubernetes.io/docs/concepts/configuration/secret).
_MOST: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """What this pod is to do.

    Args:
        order: the order, with the values of its secrets.
        git_credentials: what git logs in with; "" for nothing.
    """

    order: Order
    git_credentials: str = field(default="", repr=False)


def read(settings: Settings) -> Ordered:
    """Return the order that is mounted.

    Raises:
        UsageError: there is none, or it is no order.
    """
    said = _content(settings.order / ORDER)
    if said is None:
        raise UsageError(
            f"there is no order at {settings.order / ORDER}",
            hint="Jobs are made by `outpost spawn`: the Secret of this one may be gone",
        )
    values = _content(settings.order / SECRETS)
    secrets = secrets_of({"secrets": _json(SECRETS, values)}) if values else {}
    order = wire.from_json(Order, _json(ORDER, said))
    if set(order.secrets) != set(secrets):
        raise UsageError(f"the names in {SECRETS} are not those of the order's secrets")
    if not order.agent.argv or not order.agent.argv[0]:
        raise UsageError("the agent's command is empty")
    if (order.rig is None) != (order.delivery is None):
        raise UsageError("an order has a `rig` and a `delivery`, or neither")
    return Ordered(
        order=dataclasses.replace(order, secrets=Secrets(secrets)),
        git_credentials=_credentials(settings, order),
    )


def _credentials(settings: Settings, order: Order) -> str:
    """Return what git logs in with: what came with the order goes before the namespace's own."""
    said = _content(settings.order / CREDENTIALS)
    if not said and RIG_CREDENTIAL not in order.secrets:  # else the rig's URL held a login
        try:
            # a Secret's keys are files, and its dot files are the kubelet's own
            found = sorted(p for p in settings.git.iterdir() if not p.name.startswith("."))
        except OSError:
            found = []
        said = _content(found[0]) if found else None
    return (said or b"").decode("utf-8", "surrogateescape").strip("\n")


def _json(name: str, data: bytes) -> dict[str, Any]:
    try:
        return decode(data)
    except (FrameError, RecursionError) as error:
        raise UsageError(f"{name} of the order cannot be read: {error}") from None


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST:
        raise UsageError(f"{path} has more than {_MOST} bytes")
    return data
