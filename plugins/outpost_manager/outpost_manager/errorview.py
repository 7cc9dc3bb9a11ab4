"""The JSON of an error, the same in every answer."""

from __future__ import annotations

from typing import Any

from outpost_core.errors import ConfigError, OutpostError


def error_shape(error: BaseException) -> dict[str, Any]:
    """Return an error as `{"code", "type", "message", "hint", …}`."""
    if isinstance(error, OutpostError):
        shape: dict[str, Any] = {
            "code": error.exit_code,
            "type": getattr(error, "shown_as", type(error).__name__),
            "message": error.message,
            "hint": error.hint,
        }
        if isinstance(error, ConfigError):
            shape |= {"file": error.file, "line": error.line, "column": error.column}
        return shape
    if isinstance(error, RuntimeError) and "determine home directory" in str(error):
        return {
            "code": 2, "type": "UsageError", "message": "nobody knows your home folder: HOME is not"
            " set, and your user has no entry in passwd", "hint": "export HOME=FOLDER",
        }  # fmt: skip
    return {
        "code": 1,
        "type": type(error).__name__,
        "message": f"unexpected error: {_one_line(error)}",
        "hint": "OUTPOST_DEBUG=1 in the environment shows the traceback; please report it",
    }


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
