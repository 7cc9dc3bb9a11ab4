"""The workers of a state folder as an outpost: what `python -m outpost_worker serve` serves.

It needs no more than the far side itself, so that it can be served wherever a worker can run: in a
container, in a sandbox, on a machine without tmux.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from outpost_core.backend import BuildContext, Outpost, OutpostOptions
from outpost_core.types import Json
from outpost_worker.serving.folderoutpost import FolderOutpost


class ServedFolder(FolderOutpost):
    """Workers of this machine as detached processes, each in its folder.

    Args:
        name: what it is called, for messages.
        options: none.
        context: its `state_dir` is where the workers are.
        start: program and arguments that every supervisor is started with, such as
            `systemd-run --user --scope`; what they are given is executed, and they end with it.
    """

    type = "folder"

    def __init__(
        self, name: str, options: OutpostOptions, context: BuildContext, start: Sequence[str] = ()
    ) -> None:
        super().__init__(name, options, context)
        self._start_with = start

    def start_detached(self, argv: Sequence[str]) -> None:
        """Start a supervisor or a recovery, by what every one is started with."""
        super().start_detached([*self._start_with, *argv])


def outpost(root: Path, start: Sequence[str] = (), name: str = "") -> ServedFolder:
    """Return the outpost of a state folder; opens nothing.

    Args:
        root: the state folder.
        start: as of `ServedFolder`.
        name: what it is called.
    """
    context = BuildContext(state_dir=root)
    return ServedFolder(name or str(root), OutpostOptions(), context, start)


def serve(root: Path, start: Sequence[str]) -> int:
    """Serve the workers of a state folder on standard input and output; returns the exit code.

    Args:
        root: the state folder; made when it is missing.
        start: as of `ServedFolder`.
    """
    from outpost_core import __version__
    from outpost_worker.serving import server

    def build(name: str, options: Mapping[str, Json]) -> Outpost:
        del options  # whoever starts this says all that there is to say
        return outpost(root, start, name)

    return server.main(build, server=f"outpost-worker {__version__}")
