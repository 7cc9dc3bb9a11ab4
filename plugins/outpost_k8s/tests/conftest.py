"""What tests of a real kubelet share; each file says which cluster it has: its fixture `lab`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from peers import containers
from peers.kubelab import Lab


@pytest.fixture(scope="module")
def image(lab: Lab) -> str:
    """The image of workers, at the cluster's node."""
    tag: str = lab.load_image(containers.image().tag, containers.base())
    return tag


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of the test's own."""
    with lab.namespace() as made:
        yield made
