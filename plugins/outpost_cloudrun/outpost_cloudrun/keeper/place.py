"""Where the keeper of an outpost is found, and what it is told when it is started."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_cloudrun.options import CloudRunOptions
from outpost_core import __version__
from outpost_core.backend import BuildContext
from outpost_core.options import option_fields
from outpost_shared import keeping

if TYPE_CHECKING:
    from outpost_core.types import Json

#: What of the environment says who calls, and where: with another value there, the keeper that
#: runs makes way for one that knows it.
_ENVIRONMENT: Final = (
    *("HOME", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME"),
    *("GCE_METADATA_HOST", "GCE_METADATA_IP", "SSL_CERT_FILE", "STORAGE_EMULATOR_HOST"),
)


def lock_of(context: BuildContext) -> Path:
    """Return the path beside which the keeper's lock is: in the state folder that it writes to.

    Sockets are in a folder that a system may tidy; what keeps a second keeper from the records
    must not be.
    """
    return context.state_dir.absolute() / "keeper.sock"


def socket_of(context: BuildContext) -> Path | None:
    """Return the path of the keeper's socket; None where no keeper can be."""
    return keeping.socket_of({"cloudrun": str(context.state_dir.resolve())})


#: Method of a keeper: as `clean`, by the whole order, so that what a keeper does not know can be
#: looked for. `order`, `force`.
CLEAN: Final = "x-clean"
#: What of it a command says in its hello.
HELLO: Final = ("generation", "since")


def describe(
    name: str, options: CloudRunOptions, context: BuildContext, since: float
) -> dict[str, Json]:
    """Return all that a keeper has to know, as JSON; goes over its standard input alone.

    The environment is among it: the command that prints git's credentials and gcloud need what the
    user has set, and here nobody else can read it.

    Args:
        name: the outpost's name.
        options: its options.
        context: where it keeps its files.
        since: when the options were read.
    """
    base = context.config_dir
    said: dict[str, Json] = {
        "name": name,
        "options": {
            field.name: _plain(getattr(options, field.name))
            for field in option_fields(type(options))
        },
        "state": str(context.state_dir.absolute()),
        "base": None if base is None else str(base.absolute()),
    }
    known: dict[str, Json] = {"generation": _generation(said), "since": since}
    return {**said, **known, "environment": dict(os.environ)}


def understand(said: Mapping[str, Any]) -> tuple[str, CloudRunOptions, BuildContext]:
    """Return name, options and context of what `describe` said."""
    values: dict[str, Any] = {}
    for field in option_fields(CloudRunOptions):
        value = said["options"][field.name]
        if value is not None and (issubclass(field.type, StrEnum) or field.type is Path):
            value = field.type(value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    base = said["base"]
    context = BuildContext(
        state_dir=Path(said["state"]), config_dir=None if base is None else Path(base)
    )
    return str(said["name"]), CloudRunOptions(**values), context


def _plain(value: Any) -> Json:
    if isinstance(value, Path | StrEnum):
        return str(value)
    if isinstance(value, tuple):
        return [*value]
    plain: Json = value
    return plain


def _generation(said: Mapping[str, Json]) -> str:
    """Return a word for what a keeper was told and for its program; another one replaces it."""
    about = {
        "said": dict(said),
        "environment": {name: os.environ.get(name) for name in _ENVIRONMENT},
        "program": [__version__, sys.executable, __file__],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """How a keeper is found by who has a configuration in hand; see `find`.

    Args:
        said: what it is told.
        lock: beside which path its lock is.
        socket: where it listens; None where no keeper can be.
    """

    said: Mapping[str, Json]
    lock: Path
    socket: Path | None


def way_to(name: str, options: CloudRunOptions, context: BuildContext, since: float) -> Way:
    """Return how the keeper of an outpost is found; opens nothing. See `describe`."""
    said = describe(name, options, context, since)
    return Way(said=said, lock=lock_of(context), socket=socket_of(context))
