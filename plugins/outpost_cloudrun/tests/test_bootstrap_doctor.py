"""`outpost bootstrap` and `outpost doctor`, against the emulator and the real program."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulkit import IMAGE, options

from outpost_cloudrun import bootstrap, doctor
from outpost_cloudrun.admin import changes, specs
from outpost_cloudrun.admin.factory import open_admin
from outpost_cloudrun.options import Auth, CloudRunOptions, KeepWarm, Mode
from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.knobs import Image
from outpost_core.backend import BuildContext
from outpost_core.types import Finding, Step


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with emulating(tmp_path / "google", tokens=True, access_tokens=True) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def boot(said: CloudRunOptions, *agents: str, dry_run: bool = False) -> list[Step]:
    async def work() -> list[Step]:
        steps = bootstrap.bootstrap("burst", said, agents, dry_run=dry_run)
        return [step async for step in steps if step.state != "doing"]

    return asyncio.run(asyncio.wait_for(work(), 120))


def look(said: CloudRunOptions, rig: str | None = None) -> list[Finding]:
    return asyncio.run(asyncio.wait_for(doctor.examine("burst", said, rig), 120))


def finding(found: list[Finding], check: str) -> Finding:
    return next(each for each in found if each.check == check)


def states(steps: list[Step]) -> list[tuple[str, str]]:
    return [(step.name, step.state) for step in steps]


def test_a_service_is_deployed_read_back_and_asked(google: Emulator) -> None:
    said = options(google, max_workers=4, concurrency=2, env={"SPEED": "fast-word"})
    planned = boot(said, dry_run=True)
    assert ("service", "would") in states(planned)
    assert not google.cloud.services
    shown = "\n".join(step.detail for step in planned)
    assert "scaling.maxInstanceCount: 2" in shown
    assert f"image: {IMAGE}" in shown
    assert "env SPEED: a value" in shown
    assert "fast-word" not in shown
    done = boot(said)
    assert states(done) == [
        ("api", "ok"), ("changes", "ok"), ("service", "done"), ("invoke", "ok"),
        ("container", "ok"),
    ]  # fmt: skip
    again = boot(said)
    assert states(again) == [
        ("api", "ok"), ("service", "ok"), ("invoke", "ok"), ("container", "ok"),
    ]  # fmt: skip
    found = look(said, "https://example.com/rig.git")
    assert all(each.ok is not False for each in found), found
    assert finding(found, "container").ok
    assert finding(found, "clock").ok
    assert finding(found, "service").detail.startswith("worker at http")
    assert finding(found, "rig").hint.startswith("git at the worker has no login")


def test_only_what_is_different_is_changed_and_what_others_set_stays(google: Emulator) -> None:
    boot(options(google))
    (service,) = google.cloud.services.values()
    service.labels["team"] = "blue"
    service.template.annotations["who"] = "them"
    said = options(google, max_workers=3, keep_warm=KeepWarm.MIN_INSTANCES, memory=8 << 30)
    found = look(said)
    assert "not deployed yet" in finding(found, "configuration").detail
    planned = [step.detail for step in boot(said, dry_run=True) if step.state == "would"]
    assert "limits.memory: 4Gi → 8Gi" in "\n".join(planned)
    boot(said)
    (service,) = google.cloud.services.values()
    assert service.labels["team"] == "blue"
    assert service.template.annotations["who"] == "them"
    assert service.scaling.min_instance_count == 1
    assert boot(said, dry_run=True)[-1].state == "ok"


def test_without_an_image_the_one_that_is_there_stays_and_a_new_service_needs_one(
    google: Emulator,
) -> None:
    bare = options(google, image="")
    steps = boot(bare)
    assert steps[-1].state == "failed"
    assert "outpost image build" in steps[-1].hint
    boot(options(google))
    assert boot(bare)[1].state == "ok"


def test_an_agent_that_the_image_lacks_is_named(google: Emulator, tmp_path: Path) -> None:
    google.knobs.images[IMAGE] = Image(env={"PATH": "/usr/bin:/bin"})
    steps = boot(options(google), "codex")
    assert states(steps)[-1] == ("codex", "failed")
    assert "--agent codex" in steps[-1].hint


@pytest.mark.parametrize(
    ("turn", "what", "hint"),
    [
        ({"api_disabled": True}, "api", "gcloud services enable run.googleapis.com"),
        ({"denied": {"run.services.list"}}, "role", "roles/run"),
        ({"admin_per_minute": 0}, "quota", "quota"),
        ({"regions_away": {"us-central1"}}, "region", "us-central1"),
        ({"clock": 86400.0}, "clock", "timedatectl"),
    ],
)
def test_doctor_names_what_is_in_the_way(
    google: Emulator, monkeypatch: pytest.MonkeyPatch, turn: dict[str, Any], what: str, hint: str
) -> None:
    monkeypatch.setattr("outpost_cloudrun.admin.factory.PATIENCE", 0.3)
    if what == "clock":
        boot(options(google))
    for name, value in turn.items():
        setattr(google.knobs, name, value)
    found = look(options(google))
    wrong = finding(found, what)
    assert wrong.ok is False
    assert hint in wrong.hint


def test_doctor_says_that_nothing_is_deployed_yet(google: Emulator) -> None:
    missing = finding(look(options(google)), "service")
    assert missing.ok is False
    assert missing.hint == "outpost bootstrap burst"


def test_what_answers_and_is_not_outpost_is_named(google: Emulator) -> None:
    code = (
        "import http.server, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'hello')\n"
        "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    google.knobs.images[IMAGE] = Image(entrypoint=(sys.executable, "-c", code))
    steps = boot(options(google))
    assert states(steps)[-1] == ("container", "failed")


@pytest.mark.parametrize("mode", [Mode.JOB, Mode.INSTANCE])
def test_modes_without_a_service_are_tried_and_nothing_is_made(
    google: Emulator, mode: Mode
) -> None:
    said = options(google, mode=mode)
    steps = boot(said)
    assert states(steps) == [("api", "ok"), (mode.value, "ok")]
    assert finding(look(said), mode.value).ok
    google.knobs.images[IMAGE] = Image(missing=True)
    assert boot(said)[-1].state == "failed"
    assert finding(look(said), "image").ok is False
    assert not google.cloud.jobs
    assert not google.cloud.instances


def test_a_service_of_somebody_else_is_only_asked(google: Emulator, tmp_path: Path) -> None:
    boot(options(google))
    url = google.front("worker")
    said = CloudRunOptions(url=url, auth=Auth.METADATA)
    mine = CloudRunOutpost("mine", said, BuildContext(state_dir=tmp_path))
    assert "bootstrap" not in mine.capabilities, "there is nothing to deploy"
    assert finding(look(said), "container").ok


def test_a_change_of_somebody_else_meanwhile_is_not_undone(google: Emulator) -> None:
    boot(options(google))

    async def work() -> None:
        said = options(google, max_workers=7)
        from outpost_cloudrun.connection.identity import Identity
        from outpost_core.errors import ConflictError

        async with open_admin(said, Identity(said)) as admin:
            there = await bootstrap.look(said, admin)
            assert there is not None
            wanted = bootstrap.planned(said, there)
            await admin.patch_service("worker", {"labels": {"a": "b"}}, ("labels",))
            with pytest.raises(ConflictError):
                await bootstrap.deploy(said, admin, there, wanted)

    asyncio.run(work())


def test_what_is_not_configured_any_more_goes(google: Emulator) -> None:
    with_all = options(
        google, disk=2 << 30, vpc="net/sub", audience="https://a", bucket="outpost",
        secrets={"KEY": "projects/p/secrets/s:1"},
    )  # fmt: skip
    before = specs.service_body(with_all)
    after = changes.changed(before, specs.service_body(options(google)))
    assert "volumes" not in after["template"]
    assert "vpcAccess" not in after["template"]
    assert "customAudiences" not in after
    told = "\n".join(map(str, changes.differences(before, after)))
    assert "env KEY: secret projects/p/secrets/s:1 → nothing" in told
