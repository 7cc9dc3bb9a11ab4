"""The emulator as a program."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from test_emulator_admin import processes_of, until

from outpost_cloudrun.testing.control import shown, turn
from outpost_cloudrun.testing.knobs import Knobs

PARENT = "projects/proj-1/locations/us-central1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_says_where_it_is_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "outpost_cloudrun.testing", "--folder", str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    said = ""
    while "export STORAGE_EMULATOR_HOST=" not in said:
        line = running.stdout.readline()
        assert line, said
        said += line
    admin = re.findall(r"`endpoint`.*: (http\S+)", said)[0]
    knobs = re.findall(r"(http\S+)/knobs", said)[0]
    # the real program answers in a container of the service
    body = {"template": {"containers": [{"image": "any", "ports": [{"name": "h2c"}]}]}}
    url = f"{admin}/v2/{PARENT}/services/w?allowMissing=true"
    name = httpx.patch(url, json={**body, "invokerIamDisabled": True}).json()["name"]
    httpx.post(f"{admin}/v2/{name}:wait", json={})
    uri = httpx.get(f"{admin}/v2/{PARENT}/services/w").json()["uri"]
    assert httpx.get(f"{uri}/health", timeout=60).json()["ok"] is True
    assert len(processes_of(tmp_path)) >= 1
    answer = httpx.patch(f"{knobs}/knobs", json={"regions_away": ["us-central1"], "queue": 2})
    assert answer.json()["regions_away"] == ["us-central1"]
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{admin}/v2/{PARENT}/services/w")
    assert httpx.patch(f"{knobs}/knobs", json={"queue": "long"}).status_code == 400
    happened = httpx.get(f"{knobs}/journal?what=instance.started").json()
    assert len(happened) == 1
    running.send_signal(number)
    assert running.wait(60) == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    running.stdout.close()
    until(lambda: processes_of(tmp_path) == [])


def test_every_knob_can_be_shown_and_turned() -> None:
    knobs = Knobs()
    before = shown(knobs)
    turn(knobs, before)
    assert shown(knobs) == before
    for wrong in ({"quue": 1}, {"queue": True}, {"freeze": 1}, {"images": {}}, [1]):
        with pytest.raises(ValueError, match=r"knob|is"):
            turn(knobs, wrong)
    assert shown(knobs) == before
