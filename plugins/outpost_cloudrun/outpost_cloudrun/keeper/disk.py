"""Trouble with this machine's disk, as an error that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outpost_core.errors import OutpostError


class NotWrittenError(OutpostError):
    """Something could not be written down here; it says nothing of the worker.

    Args:
        path: the file.
        error: what the disk said.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"{path} cannot be written: {error.strerror or error}",
            hint=f"see `df -h {path.parent}` and `df -i {path.parent}`, and make room: it goes on"
            " by itself then",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise what the disk says meanwhile as a `NotWrittenError`.

    Args:
        path: what is written, for the message.
    """
    try:
        yield
    except OSError as error:
        raise NotWrittenError(path, error) from error


def said(error: OSError) -> str:
    """Return what went wrong with which file, for people."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return ": ".join(filter(None, [name, error.strerror or str(error)]))
