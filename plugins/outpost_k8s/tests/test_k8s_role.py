"""From `bootstrap` to a cleaned worker, with nothing but the Role that bootstrap made."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import k8snearkit
import pytest
from click.testing import CliRunner, Result
from peers import containers
from peers.kubelab import ApiError, Cluster

from outpost_core.types import Secrets, State
from outpost_k8s.objects import around
from outpost_k8s.outpost import K8sOutpost
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session

pytestmark = [pytest.mark.kube, pytest.mark.containers]


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Have a name for bootstrap to make a namespace of; it goes at the end."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    yield name
    try:
        cluster.admin.delete(f"/api/v1/namespaces/{name}")
    except ApiError as error:
        assert error.status == 404  # noqa: PT017 - it was never made


def command(folder: Path, *argv: str) -> Result:
    where = ["--config", str(folder / "outposts.yaml"), "--state", str(folder / "state")]
    return CliRunner().invoke(cli, [*where, *argv], prog_name="outpost", obj=Session())


def test_the_service_account_of_bootstrap_may_do_all_that_workers_need_and_no_more(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    image = cluster.load_image(containers.image().tag, containers.base())
    said = ("--image", image, "--image-pull-policy", "Never", "--namespace", namespace)
    size = ("--cpu", "0.1", "--memory", "256MiB", "--ephemeral-storage", "512MiB")
    done = command(
        tmp_path, "add", "k8s", "team", "--kubeconfig", str(cluster.kubeconfig), *said, *size
    )
    assert done.exit_code == 0, done.stderr
    assert "is not there; bootstrap makes it" in done.stderr
    done = command(tmp_path, "bootstrap", "team", "--agent", "claude")
    assert "restricted" not in done.stderr
    assert f"{image} has Outpost" in done.output, done.output
    done = command(tmp_path, "doctor", "team", "--json")
    findings = json.loads(done.stdout)
    assert [each for each in findings["findings"] if each["ok"] is False] == []

    asked = {"spec": {"expirationSeconds": 3600}}
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/{around.ACCOUNT}"
    token = cluster.admin.post(f"{account}/token", asked)["status"]["token"]
    login = cluster.target.as_bearer(token).write(tmp_path / "login", namespace)
    options = k8snearkit.options(
        cluster, namespace, kubeconfig=login, image=image, memory=256 << 20,
        ephemeral_storage=512 << 20, cpu=0.1,
    )  # fmt: skip
    short = k8snearkit.order("role-short", "echo out; id -u", secrets=Secrets({"KEY": "v4lue"}))
    long = k8snearkit.order("role-long", "echo begun; sleep 600")

    async def life(mine: K8sOutpost) -> None:
        await mine.outpost_spawn(order=short)
        await mine.outpost_spawn(order=long)
        found = await k8snearkit.listed(mine, "role-short.1", lambda s: s.state.terminal)
        assert found.state is State.DONE, found
        out = b"".join([piece async for piece in mine.outpost_logs("role-short.1", 0, False)])
        assert out == b"out\n10001\n"
        await k8snearkit.listed(mine, "role-long.1", lambda s: s.state is State.WORKING)
        async for piece in mine.outpost_logs("role-long.1", 0, True):
            assert piece == b"begun\n"
            break
        await mine.outpost_stop("role-long.1", 1.0)
        found = await k8snearkit.listed(mine, "role-long.1", lambda s: s.state.terminal)
        assert found.state is State.STOPPED, found
        for worker in ("role-short.1", "role-long.1"):
            await mine.outpost_clean(worker, True)
        assert await mine.outpost_list() == []

    k8snearkit.with_outpost(options, tmp_path / "kube", life)
    for kind in (k8snearkit.JOBS, k8snearkit.SECRETS):
        assert cluster.admin.get(kind.format(namespace))["items"] == []

    api = type(cluster.admin)(cluster.target.as_bearer(token))
    for forbidden in (
        "/api/v1/nodes", "/api/v1/namespaces/default/secrets", f"/api/v1/namespaces/{namespace}",
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    ):  # fmt: skip
        with pytest.raises(ApiError, match="403"):
            api.get(forbidden)
    with pytest.raises(ApiError, match="403"):
        api.post(f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "x"}})
