"""Which cluster is meant, and how it is logged in to."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from pathlib import Path

import pytest
import yaml
from apikit import Answer, Api, Request, Step, certificate, failure, kubeconfig, looped, reached

from outpost_core.errors import OutpostError, UnreachableError, UsageError
from outpost_k8s.api import certificates, config
from outpost_k8s.api.errors import DeniedError

THING = {"metadata": {"name": "a"}}


# --- which one --------------------------------------------------------------------------------


def test_the_first_file_that_names_a_thing_wins_as_with_kubectl(tmp_path: Path) -> None:
    one = kubeconfig(tmp_path, "https://one:1", name="one")
    folder = tmp_path / "other"
    folder.mkdir()
    two = kubeconfig(folder, "https://two:2", name="two", user={"tokenFile": "token"})
    again = kubeconfig(folder, "https://wrong:3", name="one")
    env = {"KUBECONFIG": f"{one}:/nowhere:{two}:{again}"}
    assert config.find(env=env).server == "https://one:1"
    found = config.find(context="two", env=env)
    assert (found.server, found.user, found.namespace) == ("https://two:2", "two-u", "default")
    assert found.login["tokenFile"] == str(folder / "token")
    assert config.contexts(env=env) == ["one", "two"]
    assert config.find(context="two", namespace="n", env=env).namespace == "n"
    assert config.find(kubeconfig=two, env=env).server == "https://two:2"


def test_the_usual_file_and_the_namespace_of_a_context(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "https://one:1")
    said = yaml.safe_load(path.read_text())
    said["contexts"][0]["context"]["namespace"] = "mine"
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(yaml.safe_dump(said))
    assert config.find(env={"HOME": str(tmp_path)}).namespace == "mine"


def test_a_pod_finds_its_own_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "ACCOUNT", tmp_path)
    env = {"HOME": "/nowhere", "KUBERNETES_SERVICE_HOST": "fd00::1"}
    with pytest.raises(UsageError, match="no kubeconfig"):
        config.find(env=env)
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("here")
    found = config.find(env=env)
    assert (found.server, found.namespace) == ("https://[fd00::1]:443", "here")
    with pytest.raises(UsageError, match="no context 'kind'"):
        config.find(context="kind", env=env)


MISTAKES = {
    "no file": (None, {}, "there is no kubeconfig", "kind export kubeconfig"),
    "no such context": ("test", {"context": "tset"}, "no context 'tset'", "did you mean 'test'?"),
    "no YAML": ("a: [b", {}, "test.kubeconfig:", "kubectl config view"),
    "no mapping": ("- a", {}, "is no mapping", ""),
    "empty": ("", {}, "has no current context", "context"),
    "no list": ("contexts: 7", {}, "`contexts` is no list", ""),
    "no name": ("clusters: [{cluster: {}}]", {}, "has no name", ""),
    "control characters": ("a: \x07", {}, "is no kubeconfig", ""),
    "no cluster": (
        "{current-context: a, contexts: [{name: a, context: {cluster: b}}]}",
        {}, "has the cluster 'b', which is not there", "",
    ),
    "no server": (
        "{current-context: a, contexts: [{name: a, context: {cluster: b}}], clusters: [{name: b}]}",
        {}, "has no URL as its `server`", "https://",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_file_and_what_helps(tmp_path: Path, name: str) -> None:
    text, options, said, hint = MISTAKES[name]
    path = tmp_path / "test.kubeconfig"
    if text == "test":
        kubeconfig(tmp_path, "https://one:1")
    elif text is not None:
        path.write_text(text)
    env = {"HOME": "/nowhere"} | ({"KUBECONFIG": str(path)} if text is not None else {})
    with pytest.raises(UsageError) as error:
        config.find(env=env, **options)
    assert said in error.value.message
    assert hint in error.value.hint
    assert text is None or str(path) in error.value.message


def test_files_that_are_named_and_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\$KUBECONFIG names /nowhere/k"):
        config.find(env={"KUBECONFIG": "/nowhere/k"})
    with pytest.raises(UsageError, match="/nowhere/k cannot be read: No such file"):
        config.find(kubeconfig=Path("/nowhere/k"))


# --- logging in -------------------------------------------------------------------------------


def plugin(folder: Path, script: str, **more: object) -> dict[str, object]:
    path = folder / "log-in"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{script}")
    path.chmod(0o700)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), **more}}


TOKEN = """
count = os.path.join(os.path.dirname(sys.argv[0]), "count")
with open(count, "a") as file: file.write("x")
number = os.path.getsize(count)
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["spec"] == {"interactive": False}, info
print(json.dumps({"apiVersion": info["apiVersion"], "kind": "ExecCredential",
    "status": {"token": f"t{number}" + os.environ.get("MORE", ""), **%s}}))
"""


def by_token(*good: str) -> object:
    def decide(request: Request) -> Step:
        if request.headers.get("authorization") in [f"Bearer {token}" for token in good]:
            return Answer(body=THING)
        return failure(401, "Unauthorized")

    return decide


@looped
async def test_a_plugin_is_run_once_and_again_when_its_token_is_not_taken_any_more(
    tmp_path: Path,
) -> None:
    user = plugin(tmp_path, TOKEN % "{}", env=[{"name": "MORE", "value": "!"}])
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(by_token("t1!")))  # type: ignore[arg-type]
        path = kubeconfig(tmp_path, api.url, user=user)
        cluster = await stack.enter_async_context(reached(path))
        assert await cluster.get("/api") == THING
        assert await cluster.get("/api") == THING
        assert (tmp_path / "count").read_text() == "x"
        api._decide = by_token("t2!")  # type: ignore[assignment]
        assert await cluster.create("/api", THING) == THING
        assert (tmp_path / "count").read_text() == "xx"
        api._decide = by_token("none")  # type: ignore[assignment]
        with pytest.raises(DeniedError, match="Unauthorized") as error:
            await cluster.get("/api")
        assert (tmp_path / "count").read_text() == "xxx"
        assert "log in again" in error.value.hint
        assert "log-in" in error.value.hint
        assert not error.value.sent


@looped
async def test_a_token_is_renewed_before_it_ends(tmp_path: Path) -> None:
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 10))
    user = plugin(tmp_path, TOKEN % repr({"expirationTimestamp": soon}))
    async with Api(by_token("t1", "t2", "t3")) as api:  # type: ignore[arg-type]
        async with reached(kubeconfig(tmp_path, api.url, user=user)) as cluster:
            await cluster.get("/api")
            await cluster.get("/api")
        assert [one.headers["authorization"] for one in api.requests] == ["Bearer t1", "Bearer t2"]


PLUGINS = {
    "missing": ("", {"command": "/nowhere/gke", "installHint": "install\x1b it"}, "cannot be run",
                "install\\x1b it"),
    "fails": ("sys.exit('please log in\\x1b[31m')", {}, "ended with 1: please log in", "log in"),
    "says nothing": ("", {}, "said nothing that can be used", "log in"),
    "gives nothing": ("print('{\"status\": {}}')", {}, "neither a token nor a certificate", ""),
    "old version": ("", {"apiVersion": "client.authentication.k8s.io/v1alpha1"},
                    "needs a `command`", "anew"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLUGINS)
@looped
async def test_a_plugin_that_does_not_help_is_told_with_its_words(
    tmp_path: Path, name: str
) -> None:
    script, more, said, hint = PLUGINS[name]
    user = plugin(tmp_path, script, **more)
    async with Api([Answer(body=THING)]) as api:
        async with reached(kubeconfig(tmp_path, api.url, user=user)) as cluster:
            with pytest.raises(OutpostError) as error:
                await cluster.get("/api")
        assert api.requests == []
    assert said in error.value.message
    assert hint in error.value.hint
    assert "\x1b" not in str(error.value)
    if isinstance(error.value, UnreachableError):
        assert not error.value.sent


@looped
async def test_a_certificate_of_a_plugin_is_shown(tmp_path: Path) -> None:
    own, client = certificate(tmp_path, "own"), certificate(tmp_path, "client")
    status = {"clientCertificateData": client.certificate.read_text(),
              "clientKeyData": client.key.read_text()}  # fmt: skip
    user = plugin(tmp_path, f"print(json.dumps({{'status': {status!r}}}))")
    place = {"certificate-authority-data": own.data}
    async with (
        Api([Answer(body=THING)], own.server(client)) as api,
        reached(kubeconfig(tmp_path, api.url, cluster=place, user=user)) as cluster,
    ):
        assert await cluster.get("/api") == THING


@looped
async def test_a_token_file_that_was_renewed_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old\n")
    async with Api(by_token("old")) as api:  # type: ignore[arg-type]
        path = kubeconfig(tmp_path, api.url, user={"tokenFile": "token"})
        async with reached(path) as cluster:
            assert await cluster.get("/api") == THING
            api._decide = by_token("new")  # type: ignore[assignment]
            (tmp_path / "token").write_text("new\n")
            assert await cluster.get("/api") == THING
            api._decide = by_token("newest")  # type: ignore[assignment]
            path.write_text(path.read_text().replace("tokenFile: token", "token: newest"))
            assert await cluster.get("/api") == THING


@looped
async def test_who_acts_as_somebody_else_says_so_and_who_cannot_be_is_refused(
    tmp_path: Path,
) -> None:
    async with Api([Answer(body=THING)]) as api:
        for user, said in (
            ({"as": "jane", "token": "t"}, ""),
            ({"as": "jane", "as-groups": ["admins"]}, "as-groups"),
            ({"auth-provider": {"name": "gcp"}}, "auth-provider"),
            ({"tokenFile": "/nowhere"}, "cannot be read"),
            ({"client-certificate": "/nowhere"}, "/nowhere"),
            ({"client-certificate-data": base64.b64encode(b"x").decode(),
              "client-key-data": base64.b64encode(b"y").decode()}, "cannot be used"),
        ):  # fmt: skip
            async with reached(kubeconfig(tmp_path, api.url, user=user)) as cluster:
                if not said:
                    await cluster.get("/api")
                    assert api.requests.pop().headers["impersonate-user"] == "jane"
                    continue
                with pytest.raises(OutpostError) as error:
                    await cluster.get("/api")
                assert said in str(error.value)
        assert api.requests == []


def test_when_a_certificate_ends_is_read_from_it(tmp_path: Path) -> None:
    made = certificate(tmp_path, "c", days=30)
    ends = certificates.ends(made.certificate.read_bytes())
    assert ends is not None
    assert abs(ends - time.time() - 30 * 86400) < 3600
    for odd in (b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", b"x" * 99):
        assert certificates.ends(odd) is None


@looped
async def test_a_certificate_that_has_ended_is_the_cause_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, client = certificate(tmp_path, "own", days=9999), certificate(tmp_path, "client")
    user = {"client-certificate": str(client.certificate), "client-key": str(client.key)}
    place = {"certificate-authority-data": own.data}
    async with (
        Api([failure(401, "Unauthorized")], own.server()) as api,
        reached(kubeconfig(tmp_path, api.url, cluster=place, user=user)) as cluster,
    ):
        later = time.time() + 10 * 86400
        monkeypatch.setattr(time, "time", lambda: later)
        with pytest.raises(DeniedError) as error:
            await cluster.get("/api")
    assert "the certificate of user 'test-u' ended on" in error.value.hint


def test_nothing_of_a_login_is_in_what_is_printed(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "https://one:1", user={"token": "s3cret"})
    assert "s3cret" not in repr(config.find(kubeconfig=path))
    assert json.dumps(config.find(kubeconfig=path).how)
