"""Which command opens a pull request, told from where a repository is."""

from __future__ import annotations

from typing import Final

from outpost_core.errors import UsageError
from outpost_core.names import redact

#: GitHub's and GitLab's own tools; see `Delivery.pr_command` for what is replaced.
GH: Final = (
    *("gh", "pr", "create", "--head", "{branch}", "--base", "{base}"),
    *("--title", "{issue}: {title}", "--body", "Work on {issue}."),
)
GLAB: Final = (
    *("glab", "mr", "create", "--source-branch", "{branch}", "--target-branch", "{base}"),
    *("--title", "{issue}: {title}", "--description", "Work on {issue}.", "--yes"),
)


def host_of(rig: str) -> str:
    """Return the host of a rig's URL in lower case, or "" for a path."""
    scheme, found, rest = rig.partition("://")
    if found:
        machine = "" if scheme.lower() == "file" else rest.partition("/")[0].rpartition("@")[2]
        return machine.partition(":")[0].lower()
    if rig.startswith("/"):
        return ""
    host, colon, _ = rig.partition(":")
    return host.rpartition("@")[2].lower() if colon and "/" not in host else ""


def command_for(rig: str | None) -> tuple[str, ...]:
    """Return the command for a rig: `gh` for GitHub, `glab` for GitLab.

    A host counts as one of them when that word is a part of its name (`gitlab.example.com`).

    Raises:
        UsageError: it is neither; says what to configure.
    """
    if rig is None:
        raise UsageError("--pr: without a repository there is no pull request", hint="name --rig")
    words = set(host_of(rig).replace("-", ".").split("."))
    if "github" in words:
        return GH
    if "gitlab" in words:
        return GLAB
    raise UsageError(
        f"--pr: {redact(rig)} is neither at GitHub nor at GitLab, as far as its name says",
        hint="set defaults.pr_command in outposts.yaml to the command that opens a pull request",
    )
