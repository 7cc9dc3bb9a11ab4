"""The verbs by which a program in another language has its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from outpost_core.types import Agent, Issue, Order, Secrets
from outpost_exec.stdio.remote import spawn_params

SECRET = "s3cret-value"


def order(**fields: Any) -> Order:
    return Order(issue=Issue(id="gt-1"), agent=Agent(argv=("true",)), **fields)


def verb(*args: str, said: str = "") -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "outpost_worker", *args],
        input=said.encode(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert SECRET.encode() not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def test_publish_makes_once_and_adopts_then(tmp_path: Path) -> None:
    said = json.dumps(spawn_params(order(secrets=Secrets({"T": SECRET}))))
    code, first = verb("publish", str(tmp_path), said=said)
    assert (code, first["made"], first["begun"]) == (0, True, False)
    assert first["status"]["state"] == "queued"
    assert json.loads((Path(first["folder"]) / "secrets.json").read_text()) == {"T": SECRET}
    code, second = verb("publish", str(tmp_path), said=said)
    assert (code, second["made"], second["folder"]) == (0, False, first["folder"])
    subprocess.run(first["command"], check=True, timeout=60)
    _, third = verb("publish", str(tmp_path), said=said)
    assert third["begun"]
    assert third["status"]["state"] == "done"
    code, cleaned = verb("clean", first["folder"])
    assert (code, cleaned["removed"]) == (0, True)
    assert not Path(first["folder"]).exists()


def test_publish_tells_its_errors_as_the_protocol_has_them(tmp_path: Path) -> None:
    verb("publish", str(tmp_path), said=json.dumps(spawn_params(order())))
    other = json.dumps(spawn_params(order(prompt="else")))
    _, answer = verb("publish", str(tmp_path), said=other)
    assert answer["error"]["kind"] == "conflict"
    changed = json.dumps(spawn_params(order()) | {"digest": "0" * 64})
    _, answer = verb("publish", str(tmp_path), said=changed)
    assert answer["error"]["kind"] == "refused"
    for said in ("", "[]", "{}", '{"order":7}'):
        code, answer = verb("publish", str(tmp_path), said=said)
        assert (code, answer["error"]["kind"]) == (2, "usage")


def test_list_tells_every_worker_and_one_bad_one_hides_none(tmp_path: Path) -> None:
    assert verb("list", str(tmp_path / "nothing")) == (0, [])
    for issue in ("gt-1", "gt-2"):
        ordered = Order(issue=Issue(id=issue), agent=Agent(argv=("true",)))
        _, made = verb("publish", str(tmp_path), said=json.dumps(spawn_params(ordered)))
        subprocess.run(made["command"], check=True, timeout=60)
    result = tmp_path / "workers" / "gt-2.1" / "result.json"
    result.unlink()
    os.mkfifo(result)
    code, told = verb("list", str(tmp_path))
    states = {one["id"]: one["state"] for one in told}
    assert code == 0
    assert states["gt-1.1"] == "done"
    assert states["gt-2.1"] != "done"
