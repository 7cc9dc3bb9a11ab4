"""What outposts.yaml may say of a Kubernetes outpost: refused with line, cause and next step."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from outpost_core.errors import ConfigError, UsageError
from outpost_k8s.options import K8sOptions
from outpost_k8s.plugin import outpost_backends
from outpost_manager.cli.app import cli
from outpost_manager.cli.session import Session
from outpost_manager.config import load_config, warnings

IMAGE = {"image": "registry.example:5000/team/outpost-worker:1.2"}
BACKENDS = {"k8s": outpost_backends()}


def options(**said: Any) -> K8sOptions:
    return K8sOptions(**(IMAGE | said))


RIGHT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a digest": {"image": "worker@sha256:" + "0" * 64},
    "an image of docker": {"image": "library/outpost_worker"},
    "an image of this machine": {"image": "localhost/outpost-test:abc_1"},
    "an image at an address": {"image": "10.0.0.1:5000/a/b.c-d__e/f:V_1@sha256:" + "a" * 64},
    "names with dots": {"service_account": "a.b", "volume": "data.v1", "runtime_class": "gvisor"},
    "a key of a Secret": {"secrets": {"KEY": "keys/.dockerconfigjson", "OTHER": "keys"}},
    "a fence": {"env": {"OUTPOST_FENCE": "required"}},
    "one class": {"priority_class": "batch"},
    "classes": {"priority_class": {"P0": "urgent", "P4": "", "default": "batch"}},
    "taints": {"tolerations": ("gpu=yes:NoSchedule", "a.example/b", "*")},
    "labels": {"labels": {"team": "a", "team.example/x_y": ""}, "node_selector": {"a": "b.c"}},
    "a folder of mirrors": {"rig_cache": "mirrors/a/b.git"},
    "a cap": {"cost_cap_hourly": 5.0, "prices": {"cpu_hour": "0.03"}, "volume": "work"},
    "a part of a pod": {"pod_template": {"spec": {"hostAliases": [{"ip": "10.0.0.1"}]}}},
}


@pytest.mark.parametrize("said", RIGHT.values(), ids=RIGHT)
def test_what_can_be_meant_is_taken(said: dict[str, Any]) -> None:
    options(**said)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no image": ({"image": ""}, "image is missing", "outpost image build"),
    "an image's address": ({"image": "https://registry.example/a"}, "image", "without https://"),
    "an image with capitals": ({"image": "registry.example/Team/x"}, "image", "registry.example"),
    "an image as an option": ({"image": "-v"}, "image", "registry.example"),
    "two tags": ({"image": "a:b:c"}, "image", "registry.example"),
    "a line break": ({"image": "a\n"}, "image", "registry.example"),
    "a context": ({"context": "a\x1b[2Jb"}, "context", "get-contexts"),
    "a namespace with capitals": ({"namespace": "Team"}, "namespace", "a-z"),
    "a namespace with a dot": ({"namespace": "a.b"}, "namespace", "a-z"),
    "a long namespace": ({"namespace": "a" * 64}, "namespace", "63"),
    "a pull policy": ({"image_pull_policy": "always"}, "image_pull_policy", "Always"),
    "a pull secret": ({"image_pull_secrets": ("a/b",)}, "image_pull_secrets", "dockerconfigjson"),
    "a service account": ({"service_account": "a_b"}, "service_account", "small letters"),
    "a runtime class": ({"runtime_class": "gVisor"}, "runtime_class", "small letters"),
    "a queue": ({"queue": "a.b"}, "queue", "LocalQueue"),
    "a volume": ({"volume": "../etc"}, "volume", "PersistentVolumeClaim"),
    "a cache above": ({"rig_cache": "mirrors/../etc"}, "rig_cache", "CLAIM/FOLDER"),
    "a cache that ends": ({"rig_cache": "mirrors/"}, "rig_cache", "CLAIM/FOLDER"),
    "one claim for both": ({"rig_cache": "x/a", "volume": "x"}, "rig_cache", "two claims"),
    "a variable": ({"env": {"A-B": "x"}}, "env: 'A-B'", "VARIABLE"),
    "a variable of ours": ({"env": {"OUTPOST_ROOT": "/"}}, "OUTPOST_ROOT", "another name"),
    "a secret of ours": ({"secrets": {"OUTPOST_FENCE": "a/b"}}, "OUTPOST_FENCE", "another name"),
    "the value of a secret": ({"secrets": {"KEY": "sk-ANT_x"}}, "secrets: KEY", "not the value"),
    "a secret with a long path": ({"secrets": {"KEY": "a/b/c"}}, "secrets: KEY", "SECRET/KEY"),
    "a secret's key": ({"secrets": {"KEY": "a/.."}}, "secrets: KEY", "SECRET/KEY"),
    "both": ({"secrets": {"A": "a/b"}, "env": {"A": "x"}}, "both say A", "take one"),
    "an empty command": ({"git_credentials": ("",)}, "git_credentials", "command"),
    "a git secret": ({"git_secret": "git"}, "git_secret", "SECRET/KEY"),
    "two logins": ({"git_secret": "a/b", "git_credentials": ("x",)}, "git_secret", "take one"),
    "a node's label": ({"node_selector": {"a b": "c"}}, "node_selector", "letters"),
    "a label's value": ({"labels": {"a": "b c"}}, "labels", "letters"),
    "a long label": ({"labels": {"a": "b" * 64}}, "labels", "63"),
    "a label of ours": ({"labels": {"outpost/worker": "x"}}, "labels", "another name"),
    "a label of Kueue": (
        {"labels": {"kueue.x-k8s.io/queue-name": "x"}}, "labels", "another name"),
    "many labels": ({"labels": {f"a{n}": "" for n in range(50)}}, "labels has 50", ""),
    "a toleration": ({"tolerations": ("gpu:Never",)}, "tolerations", "NoSchedule"),
    "a priority": ({"priority_class": {"P5": "x"}}, "priority_class: 'P5'", "P0"),
    "a class": ({"priority_class": {"P1": 7}}, "priority_class", "kubectl"),
    "a list of classes": ({"priority_class": ["a"]}, "priority_class", "kubectl"),
    "two prices": (
        {"price_per_hour": 1.0, "prices": {"cpu_hour": "1"}}, "price_per_hour", "take one"),
    "a price": ({"prices": {"cpu_hours": "1"}}, "cpu_hours", "cpu_hour"),
    "a cap without a price": ({"cost_cap_hourly": 5.0}, "cost_cap_hourly", "price_per_hour"),
    "a file as a pod": ({"pod_template": "pod.yaml"}, "pod_template", "spec"),
    "a pod that goes on": (
        {"pod_template": {"spec": {"restartPolicy": "Always"}}}, "restartPolicy", "leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_cannot_be_meant_is_refused(case: tuple[dict[str, Any], str, str]) -> None:
    said, message, hint = case
    with pytest.raises(UsageError) as caught:
        options(**said)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.message.isprintable()
    assert len(str(caught.value)) < 500


def test_the_file_tells_the_line_of_the_option(tmp_path: Path) -> None:
    file = tmp_path / "outposts.yaml"
    file.write_text(
        "outposts:\n  - name: cluster\n    type: k8s\n    image: a/b:1\n"
        "    pod_template:\n      spec:\n        restartPolicy: Always\n    tolerations: ['a b']\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file, BACKENDS)
    assert (caught.value.line, "tolerations" in caught.value.message) == (8, True)
    file.write_text(file.read_text().replace("'a b'", "gpu"))
    with pytest.raises(ConfigError) as caught:
        load_config(file, BACKENDS)
    assert (caught.value.line, "restartPolicy" in caught.value.message) == (6, True)


def test_a_part_of_a_pod_is_written_in_the_file_as_it_is_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "outposts.yaml"
    file.write_text(
        "outposts:\n  - name: cluster\n    type: k8s\n    image: a/b:1\n"
        "    priority_class: {P0: urgent}\n    pod_template:\n      spec:\n        containers:\n"
        "          - name: worker\n            resources: {limits: {nvidia.com/gpu: 1}}\n"
        "        shareProcessNamespace: false\n"
    )
    made = load_config(file, BACKENDS).outposts[0].options
    assert isinstance(made, K8sOptions)
    assert made.priority_class == {"P0": "urgent"}
    limits = {"limits": {"nvidia.com/gpu": 1}}
    assert made.pod_template == {
        "spec": {
            "containers": [{"name": "worker", "resources": limits}],
            "shareProcessNamespace": False,
        }
    }


def test_a_part_of_a_pod_can_be_given_to_the_command(tmp_path: Path) -> None:
    file = tmp_path / "outposts.yaml"
    pod = {"spec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["git"]}]}}
    said = [
        "--no-check",
        "--image",
        "a/b:1",
        "--priority-class",
        "batch",
        "--pod-template",
        json.dumps(pod),
    ]
    where = ["--config", str(file), "--state", str(tmp_path / "state")]
    done = CliRunner().invoke(
        cli, [*where, "add", "k8s", "cluster", *said], prog_name="outpost", obj=Session()
    )
    assert done.exit_code == 0, done.output
    made = load_config(file, BACKENDS).outposts[-1].options
    assert isinstance(made, K8sOptions)
    assert (made.pod_template, made.priority_class) == (pod, "batch")


ODD: dict[str, tuple[dict[str, Any], str, str]] = {
    "little memory": ({"memory": 512 << 20}, "memory", "2GiB"),
    "little disk": ({"ephemeral_storage": 512 << 20}, "ephemeral_storage", "10GiB"),
    "a secret as a variable": ({"env": {"API_TOKEN": "x"}}, "env", "secrets: {API_TOKEN"),
    "a short life": ({"ttl": 60.0}, "ttl", "a day"),
    "little patience": ({"patience": 10.0}, "patience", "15m"),
    "nothing waits": ({"linger": 0.0}, "linger", "volume"),
    "a low cap": ({"price_per_hour": 2.0, "cost_cap_hourly": 1.0}, "cost_cap_hourly", "2.000"),
    "the host's network": (
        {"pod_template": {"spec": {"hostNetwork": True}}}, "pod_template", "hostNetwork"),
    "a folder of the host": (
        {"pod_template": {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}},
        "pod_template", "hostPath of h"),
    "a privileged container": (
        {"pod_template": {"spec": {"initContainers": [
            {"name": "i", "image": "x", "securityContext": {"privileged": True}}]}}},
        "pod_template", "securityContext of i"),
    "a container that never ends": (
        {"pod_template": {"spec": {"containers": [{"name": "proxy", "image": "x"}]}}},
        "pod_template", "restartPolicy: Always"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD.values(), ids=ODD)
def test_what_is_probably_a_mistake_is_said(case: tuple[dict[str, Any], str, str]) -> None:
    said, option, word = case
    found = options(**said).warnings(5.0)
    assert [*found] == [option]
    assert word in found[option]


def test_what_people_write_is_no_mistake(tmp_path: Path) -> None:
    assert options().warnings(5.0) == {}
    file = tmp_path / "outposts.yaml"
    file.write_text(
        "outposts:\n  - {name: c, type: k8s, image: a/b:1, queue: team, price_per_hour: 0.1}\n"
    )
    assert not warnings(load_config(file, BACKENDS))


def test_paths_are_those_of_the_file(tmp_path: Path) -> None:
    assert options().located(tmp_path).kubeconfig is None
    assert options(kubeconfig=Path("k")).located(tmp_path).kubeconfig == tmp_path / "k"
    assert options(kubeconfig=Path("/k")).located(tmp_path).kubeconfig == Path("/k")
