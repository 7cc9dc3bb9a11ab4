"""What outposts.yaml may say of a Cloud Run outpost: refused with the cause and the next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outpost_cloudrun.options import Billing, CloudRunOptions, KeepWarm, Mode
from outpost_cloudrun.outpost import CloudRunOutpost
from outpost_cloudrun.plugin import outpost_backends
from outpost_core.backend import BuildContext
from outpost_core.errors import ConfigError, UsageError
from outpost_manager.config import load_config, warnings

SEED = Path(__file__).parents[3] / "tests/data/outposts.yaml"
PLACE = {"project": "my-gcp-project", "region": "us-central1", "service": "gastown-worker"}
GIB = 1 << 30


def options(**said: Any) -> CloudRunOptions:
    return CloudRunOptions(**(PLACE | said))


def test_the_seed_loads_and_its_outpost_is_real() -> None:
    config = load_config(SEED, {"cloudrun": outpost_backends()})
    made = config.outposts[2].options
    assert made == CloudRunOptions(**PLACE, max_workers=20, cost_cap_hourly=5.0)
    assert (made.mode, made.billing, made.keep_warm) == (
        Mode.SERVICE, Billing.REQUEST, KeepWarm.NONE,
    )  # fmt: skip
    assert [text for text in warnings(config) if "max_agent_cost_usd" not in text] == []


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "nowhere": (dict.fromkeys(PLACE, ""), "project and region and service are missing", "url"),
    "no region": ({"region": ""}, "region is missing", "project, region and service"),
    "a name as project": ({"project": "My Project"}, "'My Project'", "gcloud projects list"),
    "a zone": ({"region": "us-central1-a"}, "us-central1-a", "zone"),
    "a service with capitals": ({"service": "Worker"}, "'Worker'", "a-z"),
    "a long service": ({"service": "w" * 50}, "service", "49"),
    "a job without a place": (
        {"project": "", "url": "https://w.run.app", "mode": "job"}, "project is missing", "url"),
    "a job at a url": (
        {"url": "https://w.run.app", "mode": "job", "image": "i"}, "mode is job", "take out url"),
    "a job without an image": ({"mode": "job"}, "image is missing", "outpost image build"),
    "a job for several": (
        {"mode": "job", "image": "i", "concurrency": 2}, "concurrency is 2", "mode: service"),
    "an instance kept warm": (
        {"mode": "instance", "image": "i", "keep_warm": KeepWarm.STREAM}, "keep_warm", "service"),
    "a url without a scheme": ({"url": "worker.example.com"}, "url", "https://"),
    "a url with a login": ({"url": "https://u:secret@h"}, "url", "without a login"),
    "a url with a bad port": ({"url": "https://h:99999999"}, "url", "https://HOST"),
    "a url in the clear": ({"url": "http://10.0.0.3:8080"}, "not encrypted", "https"),
    "an endpoint in the clear": ({"endpoint": "http://example.com"}, "endpoint", "https"),
    "three vCPUs": ({"cpu": 3.0}, "1, 2, 4, 6 and 8", "cpu: 4"),
    "a tiny part of a vCPU": ({"cpu": 0.12345, "memory": GIB // 4}, "finer", ""),
    "much memory for a vCPU": ({"cpu": 1.0, "memory": 8 * GIB}, "128MiB to 4GiB", "2 or 4 or 6"),
    "little memory for 4": ({"cpu": 4.0, "memory": GIB}, "2GiB to 16GiB", "cpu: 1 or 2"),
    "half a vCPU with 2 GiB": ({"cpu": 0.5, "memory": 2 * GIB}, "128MiB to 1GiB", "cpu: 1"),
    "a little vCPU for two": (
        {"cpu": 0.5, "memory": GIB, "concurrency": 2}, "less than one vCPU", "concurrency: 1"),
    "a little vCPU all the time": (
        {"cpu": 0.5, "memory": GIB, "billing": Billing.INSTANCE}, "vCPU", "billing: request"),
    "a little memory and a disk": ({"memory": GIB // 4, "disk": GIB}, "512MiB", "memory: 512MiB"),
    "an image's page": ({"image": "https://gcr.io/p/i"}, "image", "without https"),
    "an image that is a flag": ({"image": "--privileged"}, "image", "docker.pkg.dev"),
    "a stage": ({"launch_stage": "PREVIEW"}, "PREVIEW", "leave it out"),
    "a network alone": ({"vpc": "default"}, "vpc", "NETWORK/SUBNET"),
    "a variable's name": ({"env": {"A-B": "1"}}, "A-B", ""),
    "Cloud Run's variable": ({"env": {"PORT": "1"}}, "PORT", "another name"),
    "our variable": ({"env": {"OUTPOST_TOKEN": "x"}}, "OUTPOST_TOKEN", "option"),
    "a secret's value": ({"secrets": {"KEY": "sk-ant-123456"}}, "KEY", "projects/PROJECT/secrets"),
    "both": (
        {"env": {"A": "1"}, "secrets": {"A": "projects/p-1/secrets/s:1"}}, "A is under env", "one"),
    "a label": ({"labels": {"Team": "x"}}, "'Team'", "small letters"),
    "Google's label": ({"labels": {"goog-x": "1"}}, "goog-x", "another name"),
    "a bucket's address": ({"bucket": "gs://b"}, "bucket", "the name alone"),
    "a folder above": ({"bucket": "bbb/../x"}, "bucket", "my-bucket/outpost"),
    "a volume": ({"volume": "/share"}, "volume", "SERVER:/PATH"),
    "bucket and volume": ({"bucket": "bbb", "volume": "s:/p"}, "bucket and volume", "take one"),
    "a reference": ({"rig_reference": "rig.git"}, "rig_reference", "absolute"),
    "an account": ({"service_account": "me@gmail.com"}, "service_account", "gserviceaccount"),
    "no key": ({"auth": "service-account"}, "key_file is missing", "auth: auto"),
    "no token": ({"auth": "token", "url": "https://h"}, "key_file is missing", "OUTPOST_TOKEN"),
    "a token for nobody": ({"auth": "token", "key_file": Path("k")}, "url is missing", "url"),
    "a useless key": ({"auth": "gcloud", "key_file": Path("k")}, "not looked at", "key_file"),
    "no command": ({"git_credentials": ("",)}, "git_credentials is empty", "["),
    "a price": ({"prices": {"vcpu": "1"}}, "'vcpu'", "vcpu_second"),
    "no number": ({"prices": {"vcpu_second": "cheap"}}, "cheap", "0.000024"),
    "not a number": ({"prices": {"vcpu_second": "nan"}}, "nan", "0.000024"),
    "a price of a million": ({"prices": {"vcpu_second": "24000"}}, "24000", "pricing"),
    "a cap below what stands": (
        {"keep_warm": KeepWarm.MIN_INSTANCES, "cost_cap_hourly": 0.05}, "0.054 USD an hour",
        "raise the cap"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_refused_with_the_next_step(case: str) -> None:
    said, cause, step = WRONG[case]
    with pytest.raises(UsageError) as caught:
        options(**said)
    assert cause in caught.value.message
    assert step in caught.value.hint
    assert "secret" not in caught.value.message or "secret" not in str(said.get("url", ""))


@pytest.mark.parametrize(
    "said",
    [
        {"project": "example.com:old-project"},
        {"project": "123456789012"},
        {"region": "northamerica-northeast2"},
        {"mode": Mode.JOB, "image": "europe-west4-docker.pkg.dev/p/r/outpost@sha256:" + "a" * 64},
        {"url": "https://worker.example.com", "audience": "https://worker.example.com"},
        {"project": "", "region": "", "service": "", "url": "http://127.0.0.1:8080"},
        {"project": "", "service": "", "url": "https://w.run.app", "region": "europe-west2"},
        {"endpoint": "http://[::1]:9000"},
        {"cpu": 0.5, "memory": GIB, "image": "worker"},
        {"cpu": 8.0, "memory": 32 * GIB, "concurrency": 8},
        {"secrets": {"KEY": "projects/p-1/secrets/key/versions/3"}, "env": {"OUTPOST_AGENT": "x"}},
        {"labels": {"team": "a-1", "empty": ""}},
        {"bucket": "my-bucket"},
        {"bucket": "my-bucket/outpost/one"},
        {"volume": "10.0.0.2:/share", "vpc": "default/default"},
        {"url": "https://w.example.com", "auth": "token", "key_file": Path("token")},
        {"keep_warm": KeepWarm.MIN_INSTANCES, "cost_cap_hourly": 1.0},
        {"prices": {"vcpu_second": "0.00001", "million_requests": "0"}},
    ],
    ids=str,
)
def test_what_is_meant_is_taken(said: dict[str, Any]) -> None:
    assert options(**said).warnings(10.0) == {}


PROBABLY: list[tuple[dict[str, Any], str, str]] = [
    ({"keep_warm": KeepWarm.STREAM}, "keep_warm", "concurrency: 2"),
    ({"memory": GIB // 2}, "memory", "2GiB a worker"),
    ({"concurrency": 8}, "memory", "512MiB"),
    ({"env": {"ANTHROPIC_API_KEY": "sk"}}, "env", "secrets: {ANTHROPIC_API_KEY"),
    ({"volume": "10.0.0.2:/share"}, "volume", "vpc"),
    ({"url": "https://w.example.com", "auth": "none"}, "auth", "auth: auto"),
    ({"cost_cap_hourly": 0.01}, "cost_cap_hourly", "0.209 USD an hour"),
    ({"request_timeout": 30.0}, "request_timeout", "1h"),
]


@pytest.mark.parametrize(("said", "word", "text"), PROBABLY, ids=str)
def test_what_is_probably_a_mistake_is_warned_of(
    said: dict[str, Any], word: str, text: str
) -> None:
    found = options(**said).warnings(10.0)
    assert [*found] == [word]
    assert text in found[word]
    assert "sk" not in found[word].split()


def test_the_file_tells_the_line(tmp_path: Path) -> None:
    file = tmp_path / "outposts.yaml"
    place = "".join(f"    {word}: {value}\n" for word, value in PLACE.items())
    file.write_text(f"outposts:\n  - name: burst\n    type: cloudrun\n{place}    cpu: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {"cloudrun": outpost_backends()})
    assert caught.value.line == 7  # that of the option which is mistaken
    assert "cpu: 4" in caught.value.hint


def test_a_key_file_is_beside_the_configuration(tmp_path: Path) -> None:
    """A keeper runs in another folder than the command that has started it."""
    said = options(key_file=Path("key.json"))
    outpost = CloudRunOutpost("burst", said, BuildContext(state_dir=tmp_path, config_dir=tmp_path))
    assert outpost.options.key_file == tmp_path / "key.json"
    assert options(key_file=Path("~/k")).located(tmp_path).key_file == Path("~/k").expanduser()
