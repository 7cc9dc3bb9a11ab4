"""What the command line says of a Cloud Run outpost's money, and where it sends an order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from outpost_cloudrun.keeper import find
from outpost_core.backend import BuildContext
from outpost_core.discovery import Plugins
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session

PLACE = "type: cloudrun, project: my-gcp-project, region: us-central1"


class Empty(BaseHTTPRequestHandler):
    """A Google without jobs: more is not asked before an order is placed."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def outpost(folder: Path, config: str, *words: str) -> Any:
    file = folder / "outposts.yaml"
    file.write_text(config)
    env = {"HOME": str(folder), "PATH": os.environ["PATH"], "OUTPOST_STATE": str(folder / "state")}
    words = ("--config", str(file), "--json", *words)
    result = CliRunner().invoke(cli, words, obj=Session(Plugins.load()), env=env)
    assert result.exit_code in (0, 3), result.output  # 3: nobody takes it
    return json.loads(result.stdout)


def explain(folder: Path, config: str, *words: str) -> dict[str, tuple[int | None, Any, str]]:
    free = ("--no-rig", "--max-agent-cost", "0")
    answer = outpost(folder, config, "explain", "gt-1", *free, *words, "--", "true")
    (why,) = answer["explanations"]
    return {v["outpost"]: (v["rank"], v["machine_cost"], v["reason"]) for v in why["verdicts"]}


def test_explain_shows_what_each_would_cost_and_who_cannot_hold_it(
    tmp_path: Path, address: str
) -> None:
    config = (
        "outposts:\n"
        f"  - {{name: burst, {PLACE}, service: w, url: '{address}', cost_cap_hourly: 5}}\n"
        f"  - {{name: long, {PLACE}, service: l, mode: job, image: x, auth: none,"
        f" endpoint: '{address}'}}\n"
        f"  - {{name: mine, type: cloudrun, url: '{address}'}}\n"
    )
    second = {"burst": 0.000058, "long": 0.000044}
    found = explain(tmp_path, config, "--timeout", "30m")
    seconds = 1800 + 10 + 300
    assert [*found] == ["mine", "burst", "long"], "free capacity goes first"
    assert found["mine"] == (1, 0.0, "free first")
    assert found["burst"][:2] == (2, pytest.approx(seconds * second["burst"], rel=1e-3))
    assert found["long"][:2] == (3, pytest.approx(seconds * second["long"], rel=1e-3))
    found = explain(tmp_path, config, "--timeout", "2h")
    assert found["long"][:2] == (2, pytest.approx((7200 + 310) * second["long"], rel=1e-3))
    rank, cost, reason = found["burst"]
    assert (rank, cost) == (None, None)
    assert reason.startswith("the order may take 2h, and a service that is paid for by requests")
    assert "mode: job for 168h" in reason


def test_explain_asks_for_an_agent_without_starting_anything(tmp_path: Path, address: str) -> None:
    config = f"outposts:\n  - {{name: mine, type: cloudrun, auth: none, url: '{address}'}}\n"
    wanted = ("gt-1", "--title", "x", "--no-rig", "--max-agent-cost", "1", "--agent", "claude")
    (why,) = outpost(tmp_path, config, "explain", *wanted)["explanations"]
    assert [verdict["reason"] for verdict in why["verdicts"]] == ["claude is not installed there"]
    context = BuildContext(state_dir=tmp_path / "state" / "outposts" / "mine")
    assert not find.is_kept(context)
    (refused,) = outpost(tmp_path, config, "spawn", *wanted)["refused"]
    assert "claude is not installed there" in refused["error"]["message"]
    assert "for mine it has to be in the image" in refused["error"]["hint"]
    assert "outpost image build --agent claude" in refused["error"]["hint"]
    assert "npm" not in refused["error"]["hint"]


@pytest.mark.parametrize(
    ("more", "step"),
    [(("--url", "http://127.0.0.1:1"), "doctor"), (("--project", "my-gcp-project"), "bootstrap")],
)
def test_the_next_step_after_add_is_one_that_has_something_to_do(
    tmp_path: Path, more: tuple[str, ...], step: str
) -> None:
    if step == "bootstrap":
        more = (*more, "--region", "us-central1", "--service", "w")
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "OUTPOST_STATE": f"{tmp_path}/state"}
    words = ("--config", f"{tmp_path}/outposts.yaml", "add", "cloudrun", "mine", *more)
    said = CliRunner().invoke(
        cli, [*words, "--cost-cap-hourly", "5"], obj=Session(Plugins.load()), env=env
    )
    assert said.exit_code == 0, said.output
    assert f"→ outpost {step} mine" in said.output


def test_an_order_that_would_pass_the_cap_goes_elsewhere(tmp_path: Path, address: str) -> None:
    """What is paid to stay warm counts."""
    warm = f"{PLACE}, service: w, url: '{address}', keep_warm: min-instances, cost_cap_hourly: 0.15"
    config = f"outposts:\n  - {{name: burst, {warm}}}\n"
    assert explain(tmp_path, config, "--timeout", "20m")["burst"][0] == 1
    rank, cost, reason = explain(tmp_path, config, "--timeout", "30m")["burst"]
    assert (rank, cost) == (None, pytest.approx(0.1224, abs=0.0001))
    assert reason == "hourly cap: $0.05 of $0.15 used, this needs $0.12"
    (listed,) = outpost(tmp_path, config, "list")["outposts"]
    assert (listed["spent_usd"], listed["cost_cap_hourly"]) == (pytest.approx(0.054), 0.15)


def test_a_list_asks_nobody_and_loads_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "outposts.yaml"
    file.write_text(
        f"outposts:\n  - {{name: burst, {PLACE}, service: w, keep_warm: min-instances}}\n"
    )
    code = (
        "import sys\n"
        "from outpost_manager.cli.app import cli\n"
        "from outpost_manager.cli.session import Session\n"
        "from outpost_core.discovery import Plugins\n"
        "for words in (['--help'], ['list']):\n"
        f"    words = ['--config', {str(file)!r}, *words]\n"
        "    try:\n"
        "        cli.main(words, obj=Session(Plugins.load()))\n"
        "    except SystemExit as end:\n"
        "        assert not end.code\n"
        "print([m for m in ('httpx', 'h2', 'google', 'granian', 'cryptography')"
        " if m in sys.modules])\n"
    )
    env = {**os.environ, "HOME": str(tmp_path), "OUTPOST_STATE": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "$0.0540 an hour without a worker" in done.stdout
