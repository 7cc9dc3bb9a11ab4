"""What the environment of the container says, with the secrets taken out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outpost_agents.presets import PRESETS
from outpost_core.errors import UsageError
from outpost_core.types import Secrets, check_env_name
from outpost_shared import paths, private
from outpost_shared.access import NotPrivateError
from outpost_worker.container.hiding import hide

#: Variables that are a secret of this program, and no business of an agent.
_OWN_SECRETS: Final = ("OUTPOST_TOKEN", "OUTPOST_GIT_CREDENTIALS")
#: Beginnings of variables that say something to this program or are set by Cloud Run, and so are
#: nothing that the owner of the container wants his agents to have.
_NOT_FOR_AGENTS: Final = ("OUTPOST_", "K_", "CLOUD_RUN_", "GCE_METADATA_", "STORAGE_EMULATOR_")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What this program was told at its start.

    Args:
        root: the state folder, with a folder for each worker.
        host: the address that it listens at.
        port: likewise.
        token: what callers have to show; "" for nothing.
        git_credentials: what git logs in with where an order brings nothing; "" for nothing.
        secrets: variables of the environment that are secrets for agents.
        agent_env: variables of the environment for agents that are none.
        agent: the preset of orders that name none.
        fence: what keeps agents to their work: `auto`, `required` or `off`.
        store: where claims, results and logs are kept: `gs://BUCKET`, perhaps with a folder, or a
            folder on a shared volume; "" for on the rigs.
        rig_reference: a read-only mirror or bundle of the rig in the container; "" for none.
        single: there is one instance at most, so that no claim is needed.
        service: the service's name; "" outside of Cloud Run.
        beat: seconds of silence after which a stream gets a heartbeat.
        look: seconds between two looks at the record of a worker that another instance has. One's
            own is looked at every 3 of these, with a beat every 10 while nobody follows the worker,
            and every 30 while somebody does.
        streams: how many streams there may be at once.
        life: seconds after its start when this program ends as by SIGTERM; None: when it is told.
    """

    root: Path
    host: str = "127.0.0.1"
    port: int = 8080
    token: str = field(default="", repr=False)
    git_credentials: str = field(default="", repr=False)
    secrets: Secrets = field(default_factory=Secrets)
    agent_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    agent: str = "claude"
    fence: str = "auto"
    store: str = ""
    rig_reference: str = ""
    single: bool = False
    service: str = ""
    beat: float = 15.0
    look: float = 3.0
    streams: int = 1000
    life: float | None = None


def take(environ: MutableMapping[str, str]) -> Settings:
    """Return what the environment says, and take the secrets out of it, for all who could look.

    Args:
        environ: this process's own; no child of it sees a secret from then on.

    Raises:
        UsageError: a variable says what cannot be.
    """
    named = environ.get("OUTPOST_SECRETS")
    names = (
        [name for preset in PRESETS.values() for name in preset.secrets]
        if named is None
        else [check_env_name(name) for name in named.replace(",", " ").split()]
    )
    own = {name: environ.pop(name, "") for name in _OWN_SECRETS}
    secrets = {name: environ.pop(name) for name in dict.fromkeys(names) if environ.get(name)}
    hide([*own, *secrets])
    open_to_all = bool(environ.get("K_SERVICE") or own["OUTPOST_TOKEN"])
    return Settings(
        root=_root(environ),
        host=environ.get("OUTPOST_BIND") or ("0.0.0.0" if open_to_all else "127.0.0.1"),  # noqa: S104
        port=int(_number(environ, "PORT", 8080, 65535)),
        token=own["OUTPOST_TOKEN"],
        git_credentials=own["OUTPOST_GIT_CREDENTIALS"],
        secrets=Secrets(secrets),
        agent_env=_for_agents(environ),
        agent=_one_of(environ, "OUTPOST_AGENT", "claude", sorted(PRESETS)),
        fence=_one_of(environ, "OUTPOST_FENCE", "auto", ("auto", "required", "off")),
        store=_store(environ),
        rig_reference=environ.get("OUTPOST_RIG_REFERENCE", ""),
        single=environ.get("OUTPOST_SINGLE_INSTANCE", "") == "1",
        service=environ.get("K_SERVICE", ""),
        beat=_number(environ, "OUTPOST_BEAT", 15.0, 3600.0),
        look=_number(environ, "OUTPOST_LOOK", 3.0, 4.5),
        streams=int(_number(environ, "OUTPOST_STREAMS", 1000, 100_000)),
        life=_number(environ, "OUTPOST_LIFE", 0.0, 1e9) or None,
    )


def _store(environ: Mapping[str, str]) -> str:
    """Return where records and logs are kept: a volume goes first, since it is the nearer one."""
    if volume := environ.get("OUTPOST_VOLUME", ""):
        if not volume.startswith("/"):
            raise UsageError(f"OUTPOST_VOLUME is {volume[:80]!a}, and no absolute path")
        return volume
    bucket = environ.get("OUTPOST_BUCKET", "")
    return f"gs://{bucket.removeprefix('gs://')}" if bucket else ""


def _for_agents(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_NOT_FOR_AGENTS) and name not in ("PORT", "PWD", "OLDPWD", "_")
    }


def _root(environ: Mapping[str, str]) -> Path:
    """Return the state folder, made and nobody else's: as asked, else at home, else in /tmp.

    Raises:
        UsageError: there is no place for one.
    """
    asked = environ.get("OUTPOST_ROOT", "")
    home = paths.home(environ)
    places = [Path(asked)] if asked else [Path(f"/tmp/outpost-{os.getuid()}")]  # noqa: S108
    if not asked and home is not None:
        places.insert(0, home / ".outpost-work")
    why = ""
    for place in places:
        root = place.absolute()
        try:
            private.claim(str(root))
        except NotPrivateError as error:
            why = why or f"{error.path}: {error.why}"
        except OSError as error:
            why = why or f"{root}: {error.strerror}"
        else:
            return root
    raise UsageError(
        f"there is no place for the folders of workers: {why}",
        hint="let OUTPOST_ROOT name a folder that this user alone can write",
    )


def _number(environ: Mapping[str, str], name: str, default: float, most: float) -> float:
    text = environ.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= most:
        raise UsageError(f"{name} is {text[:40]!a}, and no number up to {most:g}")
    return value


def _one_of(
    environ: Mapping[str, str], name: str, default: str, words: tuple[str, ...] | list[str]
) -> str:
    value = environ.get(name) or default
    if value not in words:
        raise UsageError(f"{name} is {value[:40]!a}", hint=f"one of {', '.join(words)}")
    return value
