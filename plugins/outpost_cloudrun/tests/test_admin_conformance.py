"""Modes job and instance keep what every outpost must keep.

Through the emulator of Google's side, with the real program in its containers, which are processes
of this machine. The line is cut by letting nothing in the region answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulkit import IMAGE
from keeperkit import runtime

from outpost_cloudrun.options import Auth, CloudRunOptions, Mode
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.knobs import Image
from outpost_testing import OutpostSuite, Target
from outpost_testing.registry import all_checks

REGION = "us-central1"


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("google")
    images = {IMAGE: Image(env={"OUTPOST_LOOK": "0.3"})}  # a stop is seen at once
    with emulating(folder, tokens=False, images=images) as running:
        yield running


@pytest.fixture
def kept(google: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in google.environment.items():
        monkeypatch.setenv(name, value)
    with runtime(monkeypatch) as run:
        yield run


def make_target(google: Emulator, mode: Mode, state: Path, **more: Any) -> Target:
    given: dict[str, Any] = {
        "project": "proj-1", "region": REGION, "service": "worker", "image": IMAGE,
        "endpoint": google.admin, "auth": Auth.NONE, "mode": mode, "warm_for": 0.0, **more,
    }  # fmt: skip
    given.setdefault("env", {"OUTPOST_FENCE": "off"})  # one machine stands for all containers

    def cut() -> None:
        google.knobs.regions_away.add(REGION)
        google.do(google.cut_instances)
        google.do(google.shut_admin)

    def restore() -> None:
        if REGION in google.knobs.regions_away:
            google.knobs.regions_away.discard(REGION)
            google.do(google.open_admin)

    return Target(
        type="cloudrun",
        provider="outpost_cloudrun.plugin",
        options=CloudRunOptions(**given),
        state=state,
        cut=cut,
        restore=restore,
        timeout=3600.0,
        within=60.0,
        spawns=3,  # each is a container with a program of its own
        listed=5,
        log_bytes=2_000_000,
    )


#: What a container that is started for one worker changes, be it by Google's Job or an instance.
STARTED = ("load", "spawn", "faults", "crash", "scale")
#: What differs between the two: how it is seen, and how it is ended.
SEEN = ("list", "stop")
#: What an agent says and does, as it gets here in another way than in mode service.
HEARD = (
    "security.forged_result_is_not_believed",
    "security.ids_do_not_escape",
    "security.nonsense_hides_no_other",
    "security.words_of_an_agent_are_plain",
)
#: What Google's Admin API could show of an order.
SECRETS = (
    "security.secret_arrives",
    "security.secret_in_no_answer",
    "security.secret_in_no_argv",
    "security.secret_in_no_file",
    "security.secret_in_no_ledger",
)


class TestJob(OutpostSuite):
    """All but what the container's program does by itself, which a service's does as well."""

    groups = (*STARTED, *SEEN, *HEARD, "security.claims_of_an_agent_can_be_true")

    @pytest.fixture
    def target(self, google: Emulator, kept: str, tmp_path: Path) -> Target:
        return make_target(google, Mode.JOB, tmp_path, bucket="outpost")


class TestInstance(OutpostSuite):
    """What a worker's own container changes; it is started as a Job's, and followed as a service's.

    How one is started, and killed meanwhile, is in `test_instance_course` as well.
    """

    groups = ("load", "crash", "scale", *SEEN, *HEARD, *SECRETS)

    @pytest.fixture
    def target(self, google: Emulator, kept: str, tmp_path: Path) -> Target:
        return make_target(google, Mode.INSTANCE, tmp_path)


def test_only_what_a_container_cannot_have_is_passed_over(google: Emulator, tmp_path: Path) -> None:
    lacking = {
        mode: {
            what
            for one in all_checks()
            for what in one.needs - make_target(google, mode, tmp_path).capabilities
        }
        for mode in (Mode.JOB, Mode.INSTANCE)
    }
    never = {"interactive", "nudge", "peek", "mail", "inbox", "local_rig"}
    never |= {"facts"}
    assert lacking == {Mode.JOB: {*never, "secrets"}, Mode.INSTANCE: never}
