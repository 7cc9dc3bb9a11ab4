"""Two machines with the same service and rig, and the same id of an issue."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from farkit import OWNER, Fleet, body, commit, lines, order, post, runs, work
from peers import githttp

from outpost_core import wire
from outpost_core.types import Order
from outpost_testing.gitrig import GitRig

OTHER = "fedcba9876543210"
TOKEN = "my-t0ken-5512"


@pytest.fixture
def rig(tmp_path: Path) -> GitRig:
    (tmp_path / "town").mkdir()
    return GitRig(tmp_path / "town")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


@contextmanager
def served(folder: Path, token: str) -> Iterator[tuple[str, GitRig]]:
    """A rig over HTTP that asks for a token, and the folder beside it."""
    (folder / "town").mkdir(exist_ok=True)
    town = GitRig(folder / "town")
    with githttp.serving(folder / "served", "x-access-token", token) as server:
        path = server.repository("rig.git")
        town.git("push", "-q", "--mirror", str(path), cwd=town.path)
        (path / "HEAD").write_text("ref: refs/heads/main\n")
        yield f"{server.url}/rig.git", town


def of_other(mine: Order, **more: Any) -> dict[str, Any]:
    """The body of the other machine's request for the same order: its digest is equal."""
    yours = body(dataclasses.replace(mine, owner=OTHER), **more)
    assert yours["digest"] == wire.digest(mine)
    return {**yours, "grace": 0}


def test_neither_touches_what_the_other_has_ordered(rig: GitRig, fleet: Fleet) -> None:
    one = fleet()
    mine = work(rig, f"sleep 3; {commit('one')}")
    with one.client() as client:
        with client.stream("POST", "/work", json=body(mine)) as response:
            told = lines(response)
            while next(told)["status"] != "working":
                pass
            assert client.post("/work/r-1.1/stop", json=of_other(mine)).status_code == 409
            assert client.post("/work", json=of_other(mine)).status_code == 409
            for more in ({"attach": True}, {"take_over": "ab" * 8, "leg": 2}):
                answer = client.post("/work", json=of_other(mine, **more))
                assert answer.status_code == 503, "its own may run in another container"
                assert answer.json()["error"]["sent"] is False
            last = [*told][-1]
        assert last["status"] == "done"
        assert client.post("/work", json=of_other(mine)).status_code == 409
        assert client.post("/work", json=of_other(mine, attach=True)).status_code == 503
        assert client.request("DELETE", "/work/r-1.1", json=of_other(mine)).status_code == 409
        assert post(client, body(mine, attach=True))[-1]["result"] == last["result"]
        assert client.request("DELETE", "/work/r-1.1", json=body(mine)).json()["removed"]
        assert post(client, of_other(mine))[-1]["status"] == "done", "the place is free now"
    assert runs(rig) == 2


def test_also_where_nothing_is_on_record(fleet: Fleet) -> None:
    one = fleet(OUTPOST_SINGLE_INSTANCE="1")
    mine = order("r-1", "true", owner=OWNER)
    with one.client() as client:
        last = post(client, body(mine))[-1]
        assert client.post("/work", json=of_other(mine)).status_code == 409
        assert client.post("/work", json=of_other(mine, attach=True)).status_code == 503
        assert client.post("/work/r-1.1/stop", json=of_other(mine)).status_code == 409
        assert client.request("DELETE", "/work/r-1.1", json=of_other(mine)).status_code == 409
        assert post(client, body(mine, attach=True))[-1]["result"] == last["result"]


def test_unpushed_work_goes_to_whoever_has_ordered_it(rig: GitRig, fleet: Fleet) -> None:
    rig.hook("update", 'case "$1" in refs/outpost/*/records/*) ;; *) exit 1;; esac')
    one = fleet()
    mine = work(rig, commit("one"))

    def rescue(**whose: str) -> int:
        return client.get("/work/r-1.1/rescue", params=whose).status_code

    with one.client() as client:
        assert post(client, body(mine))[-1]["status"] == "failed"
        digest = wire.digest(mine)
        assert rescue(owner=OTHER, digest=digest) == 409
        assert rescue(owner=OWNER, digest="0" * 64) == 409
        assert rescue(owner=OWNER, digest=digest) == 200
        assert rescue() == 200


def test_neither_pushes_with_the_login_of_the_other(tmp_path: Path, fleet: Fleet) -> None:
    def kept() -> Mapping[Path, bytes]:
        logins = [*one.root.rglob("login.json"), *one.root.rglob("*login*")]
        return {each: each.read_bytes() for each in logins if each.is_file()}

    with served(tmp_path, TOKEN) as (url, town):
        go = tmp_path / "go"
        script = f"while [ ! -e {go} ]; do sleep 0.05; done; {commit('one')}"
        one, mine = fleet(), work(town, script, url=url)
        with one.client() as client:
            said = body(mine, git_credentials=TOKEN)
            with client.stream("POST", "/work", json=said) as response:
                told = lines(response)
                while next(told)["status"] != "working":
                    pass
                before = kept()
                assert any(TOKEN.encode() in each for each in before.values())
                for more in ({}, {"attach": True}, {"take_over": "ab" * 8}):
                    yours = of_other(mine, git_credentials="not-my-t0ken", **more)
                    assert client.post("/work", json=yours).status_code in (409, 503)
                yours = of_other(mine, git_credentials="not-my-t0ken")
                assert client.post("/work/r-1.1/stop", json=yours).status_code == 409
                assert client.request("DELETE", "/work/r-1.1", json=yours).status_code == 409
                assert kept() == before
                go.touch()
                last = [*told][-1]
            assert last["status"] == "done", last
            # nor does a question about a worker that is not here leave one behind
            unknown = body(dataclasses.replace(mine, attempt=2), git_credentials=TOKEN)
            assert client.post("/work/r-1.2/stop", json=unknown).status_code == 202
            assert not kept()
