"""Which values the Admin API refuses although its messages could hold them.

Google's messages know types and names; that an image has to be there, how long a name may be, or
what a timeout is at most stands in the reference of the API only. The rules are read from there
(https://cloud.google.com/run/docs/reference/rest/v2 and /quotas), ours by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from outpost_cloudrun.testing.errors import violation

#: Names of services and instances: at most 49 characters; of jobs: at most 63.
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_KEY: Final = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL: Final = re.compile(r"[-_a-z0-9]{0,63}")
_ENV: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MEMORY: Final = re.compile(r"(\d+)(Ki|Mi|Gi|k|M|G)?")
_CPU: Final = re.compile(r"\d+(\.\d+)?|\d+m")
_UNITS: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 10**3, "M": 10**6, "G": 10**9}
#: Environment variables that Cloud Run sets itself.
_RESERVED: Final = frozenset(
    ("PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION", "CLOUD_RUN_JOB", "CLOUD_RUN_EXECUTION")
)


def memory(text: str) -> int:
    """Return a quantity such as `4Gi` in bytes."""
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise violation("resources.limits.memory", f"'{text}' is not a quantity")
    return int(found[1]) * _UNITS.get(found[2] or "", 1)


def cpu(text: str) -> float:
    """Return a quantity such as `2` or `500m` in vCPUs."""
    if not _CPU.fullmatch(text):
        raise violation("resources.limits.cpu", f"'{text}' is not a quantity")
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


#: Stages of google.api.LaunchStage in which previews may be used: ALPHA, BETA.
_PREVIEW: Final = (2, 3)


def check_stage(resource: Any, newer: Iterable[str]) -> None:
    """Refuse a preview whose launch stage was not asked for.

    Args:
        resource: the service, job or instance.
        newer: paths of what the package does not know; an ephemeral disk among it is a preview.

    Raises:
        GoogleError: and why.
    """
    if any(path.endswith(".medium") for path in newer) and resource.launch_stage not in _PREVIEW:
        raise violation("launch_stage", "medium DISK of a volume needs BETA")


def check_service(field: str, name: str, service: Any) -> None:
    """Refuse a service that Google would refuse.

    Raises:
        GoogleError: and why.
    """
    _check_name(f"{field}_id", name, 49)
    _check_labels(f"{field}.labels", service.labels)
    template = service.template
    where = f"{field}.template"
    _check_labels(f"{where}.labels", template.labels)
    if template.HasField("timeout"):
        _check_seconds(f"{where}.timeout", template.timeout, 1, 3600)
    if not 0 <= template.max_instance_request_concurrency <= 1000:
        raise violation(f"{where}.max_instance_request_concurrency", "must be between 1 and 1000")
    least = max(template.scaling.min_instance_count, service.scaling.min_instance_count)
    most = template.scaling.max_instance_count or service.scaling.max_instance_count
    if least < 0 or most < 0 or (most and least > most):
        raise violation(f"{where}.scaling", "min_instance_count must be at most max_instance_count")
    _check_containers(where, template, jobs=False)
    for container in template.containers:
        vcpus = cpu(container.resources.limits.get("cpu", "1"))
        if vcpus < 1 and template.max_instance_request_concurrency > 1:
            raise violation(
                f"{where}.max_instance_request_concurrency",
                "must be 1 where a container has less than 1 CPU",
            )


def check_job(name: str, job: Any) -> None:
    """Refuse a job that Google would refuse.

    Raises:
        GoogleError: and why.
    """
    _check_name("job_id", name, 63)
    _check_labels("job.labels", job.labels)
    token = job.start_execution_token or job.run_execution_token
    if token:
        if len(name) + len(token) >= 63:
            raise violation(
                "job.start_execution_token", "job name and token must be fewer than 63 characters"
            )
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", token):
            raise violation("job.start_execution_token", "must be lower case letters and digits")
    template = job.template
    _check_labels("job.template.labels", template.labels)
    if not 0 <= template.task_count <= 10_000:
        raise violation("job.template.task_count", "must be between 1 and 10000")
    task = template.template
    check_task("job.template.template", task)
    _check_containers("job.template.template", task, jobs=True)


def check_task(field: str, task: Any) -> None:
    """Refuse limits of a task that Google would refuse.

    Raises:
        GoogleError: and why.
    """
    if task.HasField("timeout"):
        _check_seconds(f"{field}.timeout", task.timeout, 1, 168 * 3600)
    if not 0 <= task.max_retries <= 10:
        raise violation(f"{field}.max_retries", "must be between 0 and 10")


def check_instance(name: str, instance: Any) -> None:
    """Refuse an instance that Google would refuse.

    Raises:
        GoogleError: and why.
    """
    _check_name("instance_id", name, 49)
    _check_labels("instance.labels", instance.labels)
    _check_containers("instance", instance, jobs=False)


def _check_name(field: str, name: str, most: int) -> None:
    if not _NAME.fullmatch(name) or len(name) > most:
        raise violation(
            field,
            "only lowercase letters, digits and hyphens; must begin with a letter, and may not"
            f" end with a hyphen; must be at most {most} characters",
        )


def _check_labels(field: str, labels: Any) -> None:
    if len(labels) > 64:
        raise violation(field, "at most 64 labels")
    for key, value in labels.items():
        if any(
            word in key for word in ("run.googleapis.com", "cloud.googleapis.com", "knative.dev")
        ):
            raise violation(field, f"'{key}' is a reserved namespace")
        if not _LABEL_KEY.fullmatch(key) or not _LABEL.fullmatch(value):
            raise violation(
                field, f"'{key}={value}': lower case letters, digits, _ and -, at most 63 of them"
            )


def _check_seconds(field: str, duration: Any, least: int, most: int) -> None:
    seconds = duration.seconds + duration.nanos / 1e9
    if not least <= seconds <= most:
        raise violation(field, f"must be between {least} and {most} seconds")


def _check_containers(field: str, template: Any, *, jobs: bool) -> None:
    if not template.containers:
        raise violation(f"{field}.containers", "must contain exactly one container with a port")
    names = [volume.name for volume in template.volumes]
    if len(set(names)) != len(names):
        raise violation(f"{field}.volumes", "names must be unique")
    for number, container in enumerate(template.containers):
        _check_container(f"{field}.containers[{number}]", container, names, jobs=jobs)


def _check_container(field: str, container: Any, volumes: list[str], *, jobs: bool) -> None:
    if not container.image:
        raise violation(f"{field}.image", "image is required")
    _check_env(f"{field}.env", container.env)
    for mount in container.volume_mounts:
        if mount.name not in volumes or not mount.mount_path.startswith("/"):
            raise violation(f"{field}.volume_mounts", f"'{mount.name}' is no volume, or no path")
    _check_limits(f"{field}.resources.limits", container.resources.limits, jobs=jobs)


def _check_env(field: str, variables: Any) -> None:
    seen = set()
    for variable in variables:
        if not _ENV.fullmatch(variable.name) or variable.name in _RESERVED:
            raise violation(field, f"'{variable.name}' is not allowed or reserved")
        if variable.name in seen:
            raise violation(field, f"'{variable.name}' stands there twice")
        seen.add(variable.name)
        if len(variable.value) > 32 << 10:
            raise violation(field, f"'{variable.name}' is longer than 32 KiB")


def _check_limits(field: str, limits: Any, *, jobs: bool) -> None:
    if set(limits) - {"cpu", "memory", "nvidia.com/gpu"}:
        raise violation(field, "only cpu, memory and nvidia.com/gpu")
    vcpus, size = cpu(limits.get("cpu", "1")), memory(limits.get("memory", "512Mi"))
    if not 0.08 <= vcpus <= 8 or (vcpus > 1 and vcpus not in (2, 4, 6, 8)):
        raise violation(f"{field}.cpu", "must be 0.08 to 1, or 2, 4, 6 or 8")
    if jobs and vcpus < 1:
        raise violation(f"{field}.cpu", "must be at least 1 for a job")
    if not 128 << 20 <= size <= 32 << 30:
        raise violation(f"{field}.memory", "must be 128Mi to 32Gi")
    gib = 1 << 30
    # (https://cloud.google.com/run/docs/configuring/services/memory-limits)
    steps = ((24, 8), (16, 6), (8, 4), (4, 2), (1, 1), (0.5, 0.5))
    needed = next((least for most, least in steps if size > most * gib), 0.08)
    if vcpus < needed:
        raise violation(f"{field}.memory", f"this much memory needs at least {needed} CPU")
    if size < {4: 2, 6: 4, 8: 4}.get(int(vcpus), 0) * gib:
        raise violation(f"{field}.memory", "too little for that many CPUs")
