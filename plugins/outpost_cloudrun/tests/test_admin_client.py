"""The Admin API's client: what it sends is what Google takes, and what answers mean."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from admingoogle import PROJECT, REGION, Google, RefusedError

from outpost_cloudrun.admin import names, specs
from outpost_cloudrun.admin.client import AdminClient
from outpost_cloudrun.admin.factory import open_admin
from outpost_cloudrun.options import Billing, CloudRunOptions, KeepWarm
from outpost_core.errors import (
    ConflictError,
    NotFoundError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)

IMAGE = "us-central1-docker.pkg.dev/proj-1/outpost/worker:1"


@pytest.fixture
def google() -> Iterator[Google]:
    server = Google()
    yield server
    server.close()


def options(google: Google, **more: Any) -> CloudRunOptions:
    given = {
        "project": PROJECT, "region": REGION, "service": "worker", "image": IMAGE,
        "endpoint": google.url, **more,
    }  # fmt: skip
    return CloudRunOptions(**given)


@asynccontextmanager
async def admin(google: Google, *, patience: float = 5.0) -> AsyncIterator[AdminClient]:
    async with open_admin(options(google), None, patience=patience) as client:
        yield client


def job(google: Google, **more: Any) -> dict[str, Any]:
    labels = names.worker_labels("gt-1.1", "ab" * 8, "c" * 64)
    return specs.job_body(options(google, **more), {"OUTPOST_ORDER": "x"}, labels, 7200.0)


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_everything_of_a_job_is_taken_by_googles_own_messages(google: Google) -> None:
    async def work() -> None:
        async with admin(google) as client:
            body = job(
                google, disk=10 << 30, bucket="bucket-1", memory=1536 << 20,
                rig_reference="/outpost/bucket/rig.git", vpc="net/sub",
                service_account="sa@proj-1.iam.gserviceaccount.com", env={"A": "b"},
                secrets={"KEY": "projects/p/secrets/s:3",
                         "OUTPOST_TOKEN": "projects/p/secrets/t:9"},
                labels={"team": "a"}, cpu=1.0,
            )  # fmt: skip
            made = await client.create_job("worker-gt-1", body)
            assert made is not None
            assert (await client.wait(made, 5)).failure is None
            found = await client.job("worker-gt-1")
            assert names.same_digest(found.labels, "c" * 64)
            assert not names.same_digest(found.labels, "d" * 64)
            (execution,) = await client.executions("worker-gt-1")
            assert execution.name == found.latest
            assert not execution.ended
            task = found.body["template"]["template"]
            assert task["maxRetries"] == 0
            assert task["timeout"] == "7200s"
            limits = task["containers"][0]["resources"]["limits"]
            assert limits == {"cpu": "1", "memory": "1536Mi"}
            (at,) = await client.tasks("worker-gt-1", execution.name)
            assert at.exit_code is None
            google.end("worker-gt-1")
            (at,) = await client.tasks("worker-gt-1", execution.name)
            assert at.exit_code == 0
            assert (await client.delete_job("worker-gt-1")) is not None
            assert (await client.delete_job("worker-gt-1")) is None
            with pytest.raises(NotFoundError, match="worker-gt-1") as missing:
                await client.job("worker-gt-1")
            assert REGION in missing.value.hint

    run(work())
    assert google.count("RunJob") == 0


def test_an_instance_is_created_once_and_never_started_again_by_google(google: Google) -> None:
    async def work() -> None:
        async with admin(google) as client:
            labels = names.worker_labels("gt-1.1", "", "c" * 64)
            body = specs.instance_body(options(google), {}, labels)
            assert await client.create_instance("w1", body) is not None
            assert await client.create_instance("w1", body) is None
            found = await client.instance("w1")
            assert found.url.endswith("/instances/w1")
            assert found.body["restartPolicy"] == "NEVER"
            assert found.body["launchStage"] == "BETA"
            assert [each.short for each in await client.instances()] == ["w1"]
            await client.stop_instance("w1")
            stopped = await client.instance("w1")
            assert stopped.failure is not None
            assert stopped.failure.reason == "INSTANCE_STOPPED"
            await client.start_instance("w1")
            assert (await client.instance("w1")).failure is None
            assert await client.delete_instance("w1") is not None
            assert await client.stop_instance("w1") is None

    run(work())


def test_a_service_is_deployed_with_every_option(google: Google) -> None:
    said = options(
        google, max_workers=20, concurrency=4, billing=Billing.INSTANCE, audience="https://a",
        keep_warm=KeepWarm.MIN_INSTANCES, request_timeout=1800.0,
    )  # fmt: skip

    async def work() -> None:
        async with admin(google) as client:
            with pytest.raises(NotFoundError):
                await client.service("worker")
            body = specs.service_body(said)
            await client.wait(await client.patch_service("worker", body, tuple(body)), 5)
            found = await client.service("worker")
            assert found.url.startswith("https://worker-")
            assert found.audiences == ("https://a",)
            assert found.body["scaling"] == {"minInstanceCount": 1, "maxInstanceCount": 5}
            template = found.body["template"]
            assert template["containers"][0]["resources"]["cpuIdle"] is False
            assert template["containers"][0]["ports"] == [{"name": "h2c", "containerPort": 8080}]
            assert template["timeout"] == "1800s"
            assert template["maxInstanceRequestConcurrency"] == 4
            with pytest.raises(ConflictError):
                await client.patch_service("worker", {**body, "etag": "0"})
            assert await client.allowed("services", "worker", ("run.routes.invoke", "x.y.z")) == {
                "run.routes.invoke"
            }

    run(work())


def test_lists_are_read_to_their_last_page(google: Google) -> None:
    async def work() -> None:
        async with admin(google) as client:
            for number in range(5):
                await client.create_job(f"j{number}", job(google))
            assert [each.short for each in await client.jobs()] == [f"j{n}" for n in range(5)]

    run(work())
    assert google.count("ListJobs") == 3


def test_googles_own_client_reads_what_was_created(google: Google) -> None:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import run_v2

    async def work() -> None:
        async with admin(google) as client:
            await client.create_job("j1", job(google))

    run(work())
    theirs = run_v2.JobsClient(
        credentials=AnonymousCredentials(), transport="rest",
        client_options={"api_endpoint": google.url},
    )  # fmt: skip
    (found,) = theirs.list_jobs(parent=f"projects/{PROJECT}/locations/{REGION}")
    assert found.start_execution_token == names.TOKEN
    assert found.template.template.max_retries == 0
    theirs.transport.close()


def test_a_question_is_asked_again_while_google_is_in_trouble(google: Google) -> None:
    answers = [429, 503, 500]

    def faults(name: str, _request: dict[str, Any]) -> None:
        if name == "GetJob" and answers:
            raise RefusedError(answers.pop(), "UNAVAILABLE", "busy")

    google.faults = faults

    async def work() -> None:
        async with admin(google, patience=30.0) as client:
            await client.create_job("j1", job(google))
            assert (await client.job("j1")).short == "j1"

    run(work())
    assert google.count("GetJob") == 4


def test_a_503_says_nothing_and_a_quota_on_creation_says_that_nothing_began(
    google: Google,
) -> None:
    def faults(name: str, _request: dict[str, Any]) -> None:
        if name == "CreateJob":
            raise RefusedError(429, "RESOURCE_EXHAUSTED", "Quota exceeded for jobs per minute")
        raise RefusedError(503, "UNAVAILABLE", "busy")

    google.faults = faults

    async def work() -> None:
        async with admin(google, patience=0.2) as client:
            with pytest.raises(UnreachableError) as unknown:
                await client.executions("j1")
            assert unknown.value.sent
            with pytest.raises(SpawnRefusedError, match="Quota exceeded") as refused:
                await client.create_job("j1", job(google))
            assert "quota" in refused.value.hint

    run(work())


def test_a_creation_that_may_have_happened_is_never_called_refused(google: Google) -> None:
    """The first try is done and not answered; later ones meet a quota."""

    def faults(name: str, _request: dict[str, Any]) -> bool:
        if google.count("CreateJob") > 1:
            raise RefusedError(429, "RESOURCE_EXHAUSTED", "Quota exceeded")
        return True

    google.faults = faults

    async def work() -> None:
        async with admin(google, patience=0.5) as client:
            with pytest.raises(UnreachableError) as unknown:
                await client.create_job("j1", job(google))
            assert unknown.value.sent
            google.faults = lambda _name, _request: None
            assert await client.create_job("j1", job(google)) is None  # it was there

    run(work())


def test_what_is_not_harmless_is_sent_once(google: Google) -> None:
    def faults(name: str, _request: dict[str, Any]) -> None:
        raise RefusedError(503, "UNAVAILABLE", "busy")

    google.faults = faults

    async def work() -> None:
        async with admin(google) as client:
            with pytest.raises(UnreachableError):
                await client.patch_service("worker", {})
            with pytest.raises(UnreachableError):
                await client.start_instance("w1")

    run(work())
    assert [name for name, _ in google.calls] == ["UpdateService", "StartInstance"]


def test_not_sent_is_told_apart(google: Google) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"

    async def work() -> None:
        async with open_admin(options(google, endpoint=nobody), None, patience=0.1) as client:
            with pytest.raises(UnreachableError) as unsent:
                await client.create_job("j1", job(google))
            assert not unsent.value.sent
            assert REGION in unsent.value.hint

    run(work())


_DISABLED = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}
_REFUSALS: list[tuple[int, dict[str, Any], str]] = [
    (403, {"message": "Permission 'run.jobs.create' denied"}, "roles/run.developer"),
    (
        403,
        {"message": "no", "details": [_DISABLED]},
        "gcloud services enable run.googleapis.com --project proj-1",
    ),
    (401, {"message": "who are you"}, "gcloud auth login"),
    (404, {"message": "no such location"}, REGION),
]


@pytest.mark.parametrize(("status", "error", "hint"), _REFUSALS)
def test_each_refusal_says_the_mend(
    google: Google, status: int, error: dict[str, Any], hint: str
) -> None:
    def faults(name: str, _request: dict[str, Any]) -> None:
        raise RefusedError(status, "X", **error)

    google.faults = faults

    async def work() -> None:
        async with admin(google) as client:
            with pytest.raises((SpawnRefusedError, NotFoundError)) as refused:
                await client.create_job("j1", job(google))
            assert hint in refused.value.hint

    run(work())
    assert len(google.calls) == 1


def test_a_wrong_field_is_named(google: Google) -> None:
    async def work() -> None:
        async with admin(google) as client:
            with pytest.raises(UsageError, match="memroy"):
                await client.create_job("j1", {"memroy": 1})

    run(work())


def test_a_refused_token_is_renewed_once(google: Google) -> None:
    class Tokens:
        asked: list[bool] = []  # noqa: RUF012 - of this test

        async def access_token(self, fresh: bool = False) -> str:
            self.asked.append(fresh)
            return "new" if fresh else "old"

    google.tokens = {"new"}
    tokens = Tokens()

    async def work() -> None:
        async with open_admin(options(google), tokens) as client:
            assert await client.jobs() == []
            google.tokens = {"another"}
            with pytest.raises(UnreachableError, match="401") as refused:
                await client.jobs()
            assert "gcloud auth login" in refused.value.hint

    run(work())
    assert tokens.asked == [False, True, False, True]


def test_an_operation_that_never_ends_is_given_up(google: Google) -> None:
    google.operations_end = False

    async def work() -> None:
        async with admin(google) as client:
            made = await client.create_job("j1", job(google))
            assert made is not None
            with pytest.raises(UnreachableError, match="had not ended after 1 s"):
                await client.wait(made, 1.0)

    run(work())


def test_an_operation_with_error_and_response_has_failed(google: Google) -> None:
    async def work() -> None:
        async with admin(google) as client:
            await client.create_job("j1", job(google))
            (execution,) = await client.executions("j1")
            cancelled = await client.cancel_execution("j1", execution.name)
            assert cancelled is not None
            assert cancelled.failure is not None
            assert cancelled.failure.code == 1
            ended = await client.execution("j1", execution.short)
            assert ended.cancelled == 1
            assert ended.condition("Completed").reason == "CANCELLED"
            assert await client.cancel_execution("gone", "x") is None

    run(work())


def test_googles_clock_is_seen(google: Google) -> None:
    google.clock = 86400.0

    async def work() -> None:
        async with admin(google) as client:
            await client.jobs()
            assert client.skew is not None
            assert 86390 < client.skew < 86410

    run(work())


@pytest.mark.parametrize("said", [b"<html>hello</html>", b"[1]", b'{"jobs": [1, {}], "x": NaN}'])
def test_an_answer_of_something_else_is_no_answer(google: Google, said: bytes) -> None:
    import http.server
    import threading

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: object) -> None:
            pass

    other = http.server.HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=other.serve_forever, args=(0.02,))
    thread.start()
    at = f"http://127.0.0.1:{other.server_port}"

    async def work() -> None:
        async with open_admin(options(google, endpoint=at), None) as client:
            if said.startswith(b"{"):
                assert [each.name for each in await client.jobs()] == [""]
            else:
                with pytest.raises(UnreachableError, match="no such thing"):
                    await client.jobs()

    try:
        run(work())
    finally:
        other.shutdown()
        other.server_close()
        thread.join()


def test_names_are_the_same_each_time_and_fit() -> None:
    long = "Gas.Town_" + "x" * 80
    made = names.worker_name("worker", f"{long}.12", "ab" * 8)
    assert made == names.worker_name("worker", f"{long}.12", "ab" * 8)
    assert made != names.worker_name("worker", f"{long}.12", "cd" * 8)
    assert names.worker_name("w", "a.b.1", "") != names.worker_name("w", "a-b.1", "")
    for service, worker in (("worker", f"{long}.12"), ("", "1.1"), ("w9", "Z--_..1")):
        name = names.worker_name(service, worker, "")
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?", name)
        assert len(name) + len(names.TOKEN) < 63
    assert len(names.label("x" * 200)) == 63
    assert names.label("A.b") != names.label("a.b")


def test_sizes_are_written_as_google_writes_them() -> None:
    assert [specs.cpu(cores) for cores in (0.08, 0.5, 1, 8)] == ["80m", "500m", "1", "8"]
    assert specs.memory(4 << 30) == "4Gi"
    assert specs.memory((512 << 20) + 1) == "513Mi"
