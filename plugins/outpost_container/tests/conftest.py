"""The image of workers, built from this checkout, and a podman of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from peers import MissingError
from peers import containers as peer


@pytest.fixture(scope="session")
def plain() -> peer.Image:
    """The image without an agent."""
    return peer.image()


@pytest.fixture(scope="session")
def with_agents() -> peer.Image:
    """The image with the real Claude Code and Codex."""
    installed = peer.AGENTS / "node_modules"
    if not (installed / "@openai").is_dir():
        raise MissingError("the real agents are not installed: .ci/install-agents installs them")
    return peer.image("claude", "codex", node_modules=installed)


@pytest.fixture(scope="session")
def containers() -> Iterator[peer.Containers]:
    with peer.containers() as made:
        yield made
