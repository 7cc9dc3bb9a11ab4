"""Of the official client only what is used is imported, and whoever wants all of it gets that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from outpost_k8s.api import official

_LEAN = """
import sys
from outpost_k8s.api.official import official
from outpost_k8s.api.client import Cluster
parts = official()
parts.configuration()
beside = {"google", "kubernetes", "kubernetes.client", "pydantic", "requests", "urllib3"}
print(sorted(beside & sys.modules.keys()))
"""
_ALL_AFTERWARDS = """
import kubernetes
import kubernetes.aio.client.rest
assert kubernetes.client.CoreV1Api and kubernetes.config.load_kube_config
assert kubernetes.aio.client.Configuration is not None
assert kubernetes.aio.client.rest.RESTClientObject.__mro__[0] not in parts.rest.__mro__
"""
_ALL_BEFORE = """
import kubernetes
from kubernetes.aio.client.rest import RESTClientObject
from outpost_k8s.api.official import official
assert issubclass(official().rest, RESTClientObject)
assert kubernetes.client.CoreV1Api
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_but_what_is_used_is_imported_and_all_of_it_can_be_afterwards() -> None:
    assert run(_LEAN + _ALL_AFTERWARDS) == "[]"


def test_who_has_all_of_it_already_keeps_that() -> None:
    run(_ALL_BEFORE)


def test_what_a_pod_is_told_of_its_cluster_is_read_by_the_official_client() -> None:
    parts = official.official()
    with pytest.raises(parts.config_error):  # this is no pod
        parts.load_pod(client_configuration=parts.configuration())


def test_a_release_whose_modules_are_elsewhere_is_imported_whole() -> None:
    script = (
        "import sys\n"
        "from outpost_k8s.api import official\n"
        "official._AROUND = (*official._AROUND, 'kubernetes.is_no_more')\n"
        "parts = official.official()\n"
        "assert 'kubernetes.client' in sys.modules\n"
        "assert parts.configuration and parts.rest"
    )
    run(script)
