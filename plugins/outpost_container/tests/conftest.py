"""The image of workers, built from this checkout, and a podman of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import MissingError
from peers import containers as peer

CHECKOUT = Path(__file__).parents[3]
AGENTS = Path(os.environ.get("OUTPOST_AGENTS_DIR") or CHECKOUT / ".cache" / "agents").absolute()


@pytest.fixture(scope="session")
def plain() -> peer.Image:
    """The image without an agent."""
    return peer.image()


@pytest.fixture(scope="session")
def with_agents() -> peer.Image:
    """The image with the real Claude Code and Codex."""
    installed = AGENTS / "node_modules"
    if not (installed / "@openai").is_dir():
        raise MissingError("the real agents are not installed: .ci/install-agents installs them")
    return peer.image("claude", "codex", node_modules=installed)


@pytest.fixture(scope="session")
def containers() -> Iterator[peer.Containers]:
    with peer.containers() as made:
        yield made
