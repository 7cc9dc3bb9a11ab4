"""The emulated Admin API: Google's own client gets along with it, mistakes are refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from emulkit import IMAGE, PARENT, SERVER, client, container, deploy, emulated, job, service
from google.api_core import exceptions
from google.cloud import run_v2

from outpost_cloudrun.testing.emulator import Emulator
from outpost_cloudrun.testing.knobs import Image

#: A job's program: exits with its argument; `wait` waits for SIGTERM, `stay` does not heed it.
JOB = r"""
import os, signal, sys, time
word = sys.argv[1] if len(sys.argv) > 1 else "0"
print(word, os.environ.get("KEY"), os.environ["CLOUD_RUN_TASK_ATTEMPT"], flush=True)
if word == "wait": signal.signal(signal.SIGTERM, lambda *_: os._exit(3)); time.sleep(600)
if word == "stay": signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)
if word == "die": os.kill(os.getpid(), 9)
sys.exit(int(word))
"""


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Emulator]:
    with emulated(tmp_path / "google", JOB, grace=1.0) as running:
        yield running


def ended(google: Emulator, name: str) -> Any:
    google.journal.wait("execution.ended", name=name)
    return client(google, run_v2.ExecutionsClient).get_execution(name=name)


def test_a_job_begins_with_its_token_and_once(google: Emulator) -> None:
    jobs = client(google, run_v2.JobsClient)
    made = jobs.create_job(parent=PARENT, job=job("0", token="w1"), job_id="gt-1").result(60)
    assert made.latest_created_execution.name == "gt-1-w1"
    assert made.terminal_condition.state == run_v2.Condition.State.CONDITION_SUCCEEDED
    with pytest.raises(exceptions.Conflict, match="already exists"):
        jobs.create_job(parent=PARENT, job=job("0", token="w1"), job_id="gt-1")
    execution = ended(google, f"{PARENT}/jobs/gt-1/executions/gt-1-w1")
    assert (execution.succeeded_count, execution.failed_count) == (1, 0)
    assert execution.conditions[0].state == run_v2.Condition.State.CONDITION_SUCCEEDED
    assert len(google.journal.entries("task.started")) == 1
    [listed] = client(google, run_v2.ExecutionsClient).list_executions(parent=made.name)
    assert listed.name == execution.name
    [task] = client(google, run_v2.TasksClient).list_tasks(parent=execution.name)
    assert task.last_attempt_result.exit_code == 0
    gone = jobs.delete_job(name=made.name).result(60)
    assert gone.name == made.name
    with pytest.raises(exceptions.NotFound, match="does not exist"):
        jobs.get_job(name=made.name)


def test_a_task_that_fails_says_how(google: Emulator) -> None:
    jobs, tasks = client(google, run_v2.JobsClient), client(google, run_v2.TasksClient)
    for word, code, term in (("5", 5, 0), ("die", 0, 9)):
        jobs.create_job(parent=PARENT, job=job(word, token="w1", retries=1), job_id=f"j-{word}")
        execution = ended(google, f"{PARENT}/jobs/j-{word}/executions/j-{word}-w1")
        assert (execution.failed_count, execution.retried_count) == (1, 1)
        reason = execution.conditions[0].execution_reason
        assert reason == run_v2.Condition.ExecutionReason.NON_ZERO_EXIT_CODE
        [task] = tasks.list_tasks(parent=execution.name)
        result = task.last_attempt_result
        assert (result.exit_code, result.term_signal, task.retried) == (code, term, 1)


def test_a_cancelled_execution_is_no_success(google: Emulator) -> None:
    jobs, executions = (client(google, k) for k in (run_v2.JobsClient, run_v2.ExecutionsClient))
    for word, signalled in (("wait", 0), ("stay", 9)):
        jobs.create_job(parent=PARENT, job=job(word, token="w1"), job_id=f"j-{word}").result(60)
        name = f"{PARENT}/jobs/j-{word}/executions/j-{word}-w1"
        google.journal.wait("task.started", name=f"{name}/tasks/j-{word}-w1-task0")
        log = next((google.folder / "containers").glob(f"j-{word}-w1-*.log"))
        until(lambda: word in log.read_text())  # noqa: B023
        executions.cancel_execution(name=name).result(60)
        execution = ended(google, name)
        assert (execution.cancelled_count, execution.succeeded_count) == (1, 0)
        reason = execution.conditions[0].execution_reason
        assert reason == run_v2.Condition.ExecutionReason.CANCELLED
        [task] = client(google, run_v2.TasksClient).list_tasks(parent=name)
        assert task.last_attempt_result.term_signal == signalled
        with pytest.raises(exceptions.BadRequest, match="completed"):
            executions.cancel_execution(name=name)


def test_a_job_runs_again_with_overrides_and_ends_at_its_timeout(google: Emulator) -> None:
    jobs = client(google, run_v2.JobsClient)
    made = jobs.create_job(parent=PARENT, job=job("0"), job_id="shared").result(60)
    override = run_v2.RunJobRequest.Overrides.ContainerOverride(
        args=["wait"], env=[run_v2.EnvVar(name="KEY", value="v")]
    )
    request = run_v2.RunJobRequest(
        name=made.name,
        overrides=run_v2.RunJobRequest.Overrides(
            container_overrides=[override], timeout={"seconds": 1}
        ),
    )
    operation = jobs.run_job(request)
    name = operation.metadata.name
    assert name.startswith(f"{made.name}/executions/shared-")
    execution = ended(google, name)
    assert "timeout" in execution.conditions[0].message
    log = next((google.folder / "containers").glob("*.log"))
    assert log.read_text().startswith("wait v 0")


def test_values_of_secrets_reach_the_container(google: Emulator) -> None:
    google.cloud.secrets["projects/proj-1/secrets/key"] = ["one", "two"]
    jobs = client(google, run_v2.JobsClient)
    for version, value in (("1", "one"), ("latest", "two")):
        selector = run_v2.SecretKeySelector(secret="key", version=version)
        env = [run_v2.EnvVar(name="KEY", value_source=run_v2.EnvVarSource(secret_key_ref=selector))]
        made = jobs.create_job(
            parent=PARENT, job=job("0", token="w1", env=env), job_id=f"v-{value}"
        ).result(60)
        ended(google, f"{made.name}/executions/v-{value}-w1")
        log = next((google.folder / "containers").glob(f"v-{value}-w1-*.log"))
        assert log.read_text() == f"0 {value} 0\n"
    missing = run_v2.EnvVarSource(secret_key_ref=run_v2.SecretKeySelector(secret="no", version="1"))
    bad = job("0", env=[run_v2.EnvVar(name="KEY", value_source=missing)])
    with pytest.raises(exceptions.BadRequest, match="secrets/no"):
        jobs.create_job(parent=PARENT, job=bad, job_id="bad")


def test_a_service_is_written_masked_and_removed(google: Emulator) -> None:
    services = client(google, run_v2.ServicesClient)
    uri = deploy(google, service("w", most=3))
    assert uri == google.front("w")
    name = f"{PARENT}/services/w"
    changed = run_v2.Service(name=name, scaling=run_v2.ServiceScaling(max_instance_count=9))
    masked = run_v2.UpdateServiceRequest(service=changed, update_mask={"paths": ["scaling"]})
    result = services.update_service(masked).result(60)
    assert (result.scaling.max_instance_count, result.generation) == (9, 2)
    assert result.template.containers[0].image == IMAGE
    with pytest.raises(exceptions.NotFound):
        services.update_service(service=service("other"))
    stale = run_v2.Service(name=name, etag='"old"', template=result.template)
    with pytest.raises(exceptions.Conflict, match="etag"):
        services.update_service(service=stale)
    services.delete_service(name=name).result(60)
    with pytest.raises(LookupError):
        google.front("w")


def test_a_service_without_its_image_says_so(google: Emulator) -> None:
    google.knobs.images["gone"] = Image(missing=True)
    with pytest.raises(exceptions.GoogleAPICallError, match="Image 'gone' not found"):
        deploy(google, service("w", image="gone"))
    found = client(google, run_v2.ServicesClient).get_service(name=f"{PARENT}/services/w")
    assert found.terminal_condition.state == run_v2.Condition.State.CONDITION_FAILED


def test_an_instance_lives_until_it_is_stopped(tmp_path: Path) -> None:
    with emulated(tmp_path / "google", SERVER, grace=1.0) as google:
        instances = client(google, run_v2.InstancesClient)
        made = instances.create_instance(
            run_v2.CreateInstanceRequest(
                parent=PARENT, instance=run_v2.Instance(containers=[container()]), instance_id="w1"
            )
        ).result(60)
        assert httpx.get(f"{made.urls[0]}/hello").text == "/hello"
        with pytest.raises(exceptions.Conflict):  # names are shared with services
            deploy(google, service("w1"))
        instances.stop_instance(name=made.name).result(60)
        assert httpx.get(f"{made.urls[0]}/hello").status_code == 503
        raw = httpx.get(f"{google.admin}/v2/{made.name}").json()
        assert raw["terminalCondition"]["instanceReason"] == "INSTANCE_STOPPED"
        instances.start_instance(name=made.name).result(60)
        assert httpx.get(f"{made.urls[0]}/hello").text == "/hello"
        [listed] = instances.list_instances(parent=PARENT)
        assert listed.name == made.name
        instances.delete_instance(name=made.name).result(60)
        with pytest.raises(exceptions.NotFound):
            instances.get_instance(name=made.name)


@pytest.mark.parametrize(("policy", "starts"), [("NEVER", 1), ("ON_FAILURE", 2)])
def test_an_instance_that_died_is_started_again_unless_never(
    tmp_path: Path, policy: str, starts: int
) -> None:
    with emulated(tmp_path / "google", SERVER) as google:
        body = {
            "containers": [{"image": IMAGE}], "restartPolicy": policy, "launchStage": "BETA",
        }  # fmt: skip
        url = f"{google.admin}/v2/{PARENT}/instances?instanceId=w1"
        assert httpx.post(url, json=body).status_code == 200
        google.journal.wait("instance.ready")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{google.front('w1')}/exit?7").raise_for_status()
        google.journal.wait("instance.ended", code=7)
        google.journal.wait("instance.started", least=starts)
        raw = httpx.get(f"{google.admin}/v2/{PARENT}/instances/w1").json()
        assert raw["restartPolicy"] == policy
        if policy == "NEVER":
            assert raw["terminalCondition"]["instanceReason"] == "INSTANCE_NON_ZERO_EXIT_CODE"
        else:
            google.journal.wait("instance.ready", least=2)


CONTAINER = {"image": IMAGE}


def task(**more: Any) -> dict[str, Any]:
    return {"template": {"template": {"containers": [CONTAINER], **more}}}


MISTAKES = [
    # what Google's messages refuse
    ("POST", "jobs?jobId=k", {"template": {"template": {"containers": [{"memory": "4Gi"}]}}}),
    ("POST", "jobs?jobId=k", {"template": {"taskCount": "many"}}),
    ("POST", "jobs?job=k", {}),
    ("POST", "jobs/k:run", {"overrides": {"containerOverrides": [{"argv": ["x"]}]}}),
    ("POST", "jobs/k:start", {}),
    ("PATCH", "services/w", {"launchStage": "SOON"}),
    ("PATCH", "services/w", {"template": {"timeout": "1h"}}),
    ("POST", "instances?instanceId=i", {"containers": [CONTAINER], "restartPolicy": "SOMETIMES"}),
    ("GET", "jobs/k?pageSise=3", None),
    # what only the reference says
    ("POST", "jobs?jobId=k", task(containers=[{"args": ["no image"]}])),
    ("POST", "jobs?jobId=k", task(timeout="604801s")),
    ("POST", "jobs?jobId=k", task(maxRetries=11)),
    ("POST", "jobs?jobId=K_", task()),
    ("POST", f"jobs?jobId={'k' * 60}", {**task(), "startExecutionToken": "w12"}),
    ("POST", "jobs?jobId=k", {**task(), "labels": {"Key": "v"}}),
    ("POST", "jobs?jobId=k", {**task(), "labels": {"key": "V" * 64}}),
    ("POST", "jobs?jobId=k", task(containers=[{**CONTAINER, "env": [{"name": "PORT"}]}])),
    ("POST", "jobs?jobId=k", task(
        containers=[{**CONTAINER, "resources": {"limits": {"cpu": "3"}}}])),
    ("POST", "jobs?jobId=k", task(
        containers=[{**CONTAINER, "resources": {"limits": {"cpu": "1", "memory": "8Gi"}}}])),
    ("POST", "jobs?jobId=k", task(volumes=[{"name": "d", "emptyDir": {"medium": "DISK"}}])),
    ("PATCH", "services/w?allowMissing=true", {"template": {
        "containers": [CONTAINER], "timeout": "3601s"}}),
    ("PATCH", "services/w?allowMissing=true", {"template": {
        "containers": [CONTAINER], "maxInstanceRequestConcurrency": 1001}}),
    ("PATCH", f"services/{'w' * 50}?allowMissing=true", {"template": {"containers": [CONTAINER]}}),
    ("PATCH", "services/w?allowMissing=true&updateMask=scale", {"template": {
        "containers": [CONTAINER]}}),
]  # fmt: skip


def test_mistakes_are_refused_and_change_nothing(google: Emulator) -> None:
    deploy(google, service("w"))
    for verb, path, body in MISTAKES:
        answer = httpx.request(verb, f"{google.admin}/v2/{PARENT}/{path}", json=body)
        error = answer.json()["error"]
        assert answer.status_code in (400, 404), (verb, path, body, answer.text)
        assert error["code"] == answer.status_code, path
        assert error["status"] in ("INVALID_ARGUMENT", "NOT_FOUND"), path
    assert list(client(google, run_v2.JobsClient).list_jobs(parent=PARENT)) == []
    # and what is right is taken
    right = {**task(volumes=[{"name": "d", "emptyDir": {"medium": "DISK"}}]), "launchStage": "BETA"}
    url = f"{google.admin}/v2/{PARENT}/jobs"
    assert httpx.post(f"{url}?jobId=k", json=right).status_code == 200
    seen = httpx.get(f"{url}/k").json()
    assert seen["template"]["template"]["volumes"][0]["emptyDir"]["medium"] == "DISK"


def test_lists_have_pages(google: Emulator) -> None:
    jobs = client(google, run_v2.JobsClient)
    for number in range(5):
        jobs.create_job(parent=PARENT, job=job("0"), job_id=f"j{number}").result(60)
    pages = list(jobs.list_jobs(run_v2.ListJobsRequest(parent=PARENT, page_size=2)).pages)
    assert [len(page.jobs) for page in pages] == [2, 2, 1]
    answer = httpx.get(f"{google.admin}/v2/{PARENT}/jobs?pageToken=@@")
    assert answer.status_code == 400


def test_quotas_roles_and_trouble_have_googles_words(google: Emulator) -> None:
    jobs = client(google, run_v2.JobsClient)
    knobs = google.knobs
    knobs.most_jobs = 1
    jobs.create_job(parent=PARENT, job=job("0"), job_id="j1").result(60)
    with pytest.raises(exceptions.TooManyRequests, match="Quota exceeded"):
        jobs.create_job(parent=PARENT, job=job("0"), job_id="j2")
    knobs.denied.add("run.jobs.delete")
    with pytest.raises(exceptions.Forbidden, match=r"run\.jobs\.delete"):
        jobs.delete_job(name=f"{PARENT}/jobs/j1")
    knobs.api_disabled = True
    with pytest.raises(exceptions.Forbidden) as caught:
        jobs.get_job(name=f"{PARENT}/jobs/j1")
    assert caught.value.reason == "SERVICE_DISABLED"
    knobs.api_disabled = False
    knobs.admin_failures.append(503)
    assert httpx.get(f"{google.admin}/v2/{PARENT}/jobs").status_code == 503
    knobs.admin_per_minute = 0
    assert httpx.get(f"{google.admin}/v2/{PARENT}/jobs").json()["error"]["status"] == (
        "RESOURCE_EXHAUSTED"
    )
    knobs.admin_per_minute = None
    knobs.access_tokens = True
    assert httpx.get(f"{google.admin}/v2/{PARENT}/jobs").status_code == 401
    knobs.access_tokens = False
    knobs.regions_away.add("us-central1")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{google.admin}/v2/{PARENT}/jobs")
    other = PARENT.replace("us-central1", "europe-west4")
    assert httpx.get(f"{google.admin}/v2/{other}/jobs").json() == {}


def test_a_lost_answer_was_carried_out(google: Emulator) -> None:
    google.knobs.admin_lost_answers = 1
    body = {"template": {"template": {"containers": [CONTAINER]}}}
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"{google.admin}/v2/{PARENT}/jobs?jobId=k", json=body)
    assert httpx.get(f"{google.admin}/v2/{PARENT}/jobs/k").status_code == 200


def test_nothing_is_left(tmp_path: Path) -> None:
    with emulated(tmp_path / "google", JOB) as google:
        jobs = client(google, run_v2.JobsClient)
        jobs.create_job(parent=PARENT, job=job("stay", token="w1"), job_id="j").result(60)
        google.journal.wait("task.started")
        log = next((google.folder / "containers").glob("*.log"))
        until(lambda: "stay" in log.read_text())
    assert processes_of(google.folder) == []
    assert [each for each in (google.folder / "containers").iterdir() if each.is_dir()] == []


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that have something of a folder in their environment."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (proc / "environ").read_bytes():
                found.append((proc / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
