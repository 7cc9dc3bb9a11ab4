"""Errors in the shapes of Google's servers."""

from __future__ import annotations

import json
from typing import Any, Final

#: Google's word for each status of HTTP (google.rpc.Code).
_WORDS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GoogleError(Exception):
    """An answer that is an error.

    Args:
        code: status of HTTP.
        message: for people.
        word: Google's word, where it is not the usual one of that status.
        details: further objects, each with its `@type`.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        word: str = "",
        details: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.word = word or _WORDS.get(code, "UNKNOWN")
        self.details = details or []

    def body(self) -> bytes:
        """Return the answer's body."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "status": self.word}
        if self.details:
            error["details"] = self.details
        return json.dumps({"error": error}, indent=2).encode()


def violation(field: str, description: str) -> GoogleError:
    """Return what is said of a field whose value is not allowed."""
    return GoogleError(
        400,
        f"Violation in {field}: {description}",
        details=[
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"field": field, "description": description}],
            }
        ],
    )


def api_disabled(project: str) -> GoogleError:
    """Return what is said while the Admin API is off in a project."""
    return GoogleError(
        403,
        "Cloud Run Admin API has not been used in project"
        f" {project} before or it is disabled. Enable it by visiting"
        f" https://console.developers.google.com/apis/api/run.googleapis.com/overview?project={project}"
        " then retry.",
        details=[
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SERVICE_DISABLED",
                "domain": "googleapis.com",
                "metadata": {"consumer": f"projects/{project}", "service": "run.googleapis.com"},
            }
        ],
    )


def denied(permission: str, resource: str) -> GoogleError:
    """Return what is said to a caller without a role."""
    return GoogleError(
        403,
        f"Permission '{permission}' denied on resource '{resource}' (or resource may not exist).",
    )
