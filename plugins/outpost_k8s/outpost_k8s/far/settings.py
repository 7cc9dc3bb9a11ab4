"""What the environment of the pod says, with the secrets taken out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outpost_core.errors import UsageError
from outpost_core.types import Secrets, check_env_name
from outpost_shared import private
from outpost_shared.access import NotPrivateError
from outpost_worker.container.hiding import hide

#: Where the Job mounts what it mounts; each can be elsewhere in tests.
_ORDER: Final = "/outpost/order"
_GIT: Final = "/outpost/git"
_TERMINATION: Final = "/dev/termination-log"
#: Beginnings of variables that say something to this program or come from the cluster, and so are
#: nothing that whoever configures the outpost wants agents to have.
_NOT_FOR_AGENTS: Final = ("OUTPOST_", "KUBERNETES_")
_OF_A_SHELL: Final = frozenset(("PWD", "OLDPWD", "SHLVL", "_", "HOSTNAME"))
_HEX: Final = frozenset("0123456789abcdef")
_DAY: Final = 86400.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What this program was told at its start.

    Args:
        root: the state folder, with the worker's folder in it.
        order: the folder of the order's Secret.
        git: the folder with what git logs in with from a Secret of the namespace.
        termination: the file that the cluster keeps of the container.
        pod: the pod's name.
        uid: the pod's UID, its hexadecimal digits.
        volume: where claims, results, logs and rescued work are kept; "" for on the rig alone.
        rig_reference: a mirror or bundle of the rig, or a folder of mirrors; "" for none.
        hosted: the rig is a repository of the machine that ordered, and travels to here.
        linger: seconds for which work that is nowhere else is waited to be fetched.
        fence: what keeps the agent to its work: `auto`, `required` or `off`.
        secrets: variables of the environment that are secrets for the agent.
        agent_env: variables of the environment for the agent that are none.
        look: seconds between two looks at the worker's record.
    """

    root: Path
    order: Path
    git: Path
    termination: Path
    pod: str
    uid: str
    volume: str = ""
    rig_reference: str = ""
    hosted: bool = False
    linger: float = _DAY
    fence: str = "auto"
    secrets: Secrets = field(default_factory=Secrets)
    agent_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    look: float = 10.0

    @property
    def hidden(self) -> list[str]:
        """The folders that no agent may look into."""
        return [str(self.order), str(self.git), *([self.volume] if self.volume else [])]


def take(environ: MutableMapping[str, str]) -> Settings:
    """Return what the environment says, and take the secrets out of it, for all who could look.

    Args:
        environ: this process's own; no child of it sees a secret from then on.

    Raises:
        UsageError: a variable says what cannot be.
    """
    names = environ.get("OUTPOST_SECRETS", "").replace(",", " ").split()
    secrets = {name: environ.pop(name) for name in dict.fromkeys(names) if environ.get(name)}
    hide(secrets)
    for name in names:
        check_env_name(name)
    return Settings(
        root=_root(environ),
        order=_folder(environ, "OUTPOST_ORDER_DIR", _ORDER),
        git=_folder(environ, "OUTPOST_GIT_DIR", _GIT),
        termination=_folder(environ, "OUTPOST_TERMINATION_LOG", _TERMINATION),
        pod=environ.get("OUTPOST_K8S_POD", ""),
        uid=_uid(environ),
        volume=_volume(environ),
        rig_reference=environ.get("OUTPOST_RIG_REFERENCE", ""),
        hosted=environ.get("OUTPOST_HOSTED", "") == "1",
        linger=_number(environ, "OUTPOST_LINGER", _DAY, 366 * _DAY),
        fence=_fence(environ),
        secrets=Secrets(secrets),
        agent_env=_for_agents(environ),
        look=_number(environ, "OUTPOST_LOOK", 10.0, 60.0),
    )


def _for_agents(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_NOT_FOR_AGENTS) and name not in _OF_A_SHELL
    }


def _root(environ: Mapping[str, str]) -> Path:
    """Return the state folder, which nobody else can write.

    Raises:
        UsageError: it is none.
    """
    root = environ.get("OUTPOST_ROOT", "")
    if not root.startswith("/"):
        raise UsageError(
            "OUTPOST_ROOT does not say where state is kept",
            hint="begin the container's program with outpost-enter, as the image does",
        )
    try:
        private.claim(root)
    except NotPrivateError as error:
        raise UsageError(f"{error.path}: {error.why}", hint=error.hint) from error
    except OSError as error:
        raise UsageError(f"{root} cannot be made: {error.strerror}") from error
    return Path(root)


def _folder(environ: Mapping[str, str], name: str, default: str) -> Path:
    return Path(os.path.abspath(environ.get(name) or default))  # noqa: PTH100 - follows no link


def _volume(environ: Mapping[str, str]) -> str:
    volume = environ.get("OUTPOST_VOLUME", "")
    if volume and not volume.startswith("/"):
        raise UsageError(f"OUTPOST_VOLUME is {volume[:80]!a}, and no absolute path")
    return volume


def _uid(environ: Mapping[str, str]) -> str:
    """Return the pod's UID as a claim has it.

    Raises:
        UsageError: there is none, so that two pods could be taken for one.
    """
    uid = environ.get("OUTPOST_K8S_UID", "").replace("-", "").lower()
    if not 8 <= len(uid) <= 64 or not _HEX.issuperset(uid):
        raise UsageError(f"OUTPOST_K8S_UID is {uid[:80]!a}, and not the UID of a pod")
    return uid


def _fence(environ: Mapping[str, str]) -> str:
    fence = environ.get("OUTPOST_FENCE") or "auto"
    if fence not in ("auto", "required", "off"):
        raise UsageError(f"OUTPOST_FENCE is {fence[:40]!a}", hint="one of auto, required, off")
    return fence


def _number(environ: Mapping[str, str], name: str, default: float, most: float) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise UsageError(f"{name} is {text[:40]!a}, and no number up to {most:g}")
    return value
