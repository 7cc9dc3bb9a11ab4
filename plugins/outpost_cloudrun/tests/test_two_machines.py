"""Two machines with the same service and rig, and the same id of an issue."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path

from farkit import Fleet, body, commit, lines, post, work

from outpost_testing.gitrig import GitRig

OTHER = "fedcba9876543210"


def test_neither_stops_or_removes_what_the_other_has_ordered(tmp_path: Path) -> None:
    (tmp_path / "town").mkdir()
    rig = GitRig(tmp_path / "town")
    with ExitStack() as stack:
        one = Fleet(tmp_path, stack)()
        mine = work(rig, f"sleep 3; {commit('one')}")
        yours = {**body(dataclasses.replace(mine, owner=OTHER)), "grace": 0}
        with one.client() as client:
            with client.stream("POST", "/work", json=body(mine)) as response:
                told = lines(response)
                while next(told)["status"] != "working":
                    pass
                assert client.post("/work/r-1.1/stop", json=yours).status_code == 409
                last = [*told][-1]
            assert last["status"] == "done"
            assert client.request("DELETE", "/work/r-1.1", json=yours).status_code == 409
            assert post(client, body(mine, attach=True))[-1]["result"] == last["result"]
