"""From a container of the Admin API to one that can be started."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from outpost_cloudrun.testing import rules
from outpost_cloudrun.testing.cloud import Cloud, project_of
from outpost_cloudrun.testing.containers import Mount, Spec
from outpost_cloudrun.testing.errors import GoogleError


def spec(
    cloud: Cloud,
    owner: str,
    container: Any,
    own: Mapping[str, str],
    volumes: Iterable[Any],
    *,
    port: int = 0,
) -> Spec:
    """Return what is to be started.

    Args:
        cloud: where it belongs.
        owner: name of the service, execution or instance.
        container: as it was configured.
        own: environment that Cloud Run sets.
        volumes: what it may mount.
        port: where it is to listen.

    Raises:
        GoogleError: a secret is not there.
    """
    given = cloud.knobs.next_env.pop(0) if cloud.knobs.next_env else {}
    env = {**given, **cloud.surroundings, **variables(cloud, owner, container), **own}
    if port:
        env["PORT"] = str(port)
    limits = container.resources.limits
    short = owner.rpartition("/")[2][:40]
    return Spec(
        id=f"{short}-{secrets.token_hex(4)}",
        image=container.image,
        command=tuple(container.command),
        args=tuple(container.args),
        env=env,
        memory=rules.memory(limits.get("memory", "512Mi")),
        cpu=rules.cpu(limits.get("cpu", "1")),
        port=port,
        mounts=tuple(_mounts(container, volumes)),
    )


def variables(cloud: Cloud, owner: str, container: Any) -> dict[str, str]:
    """Return the environment that was configured, secrets resolved.

    Raises:
        GoogleError: a secret is not there.
    """
    found = {}
    for each in container.env:
        if each.HasField("value_source"):
            reference = each.value_source.secret_key_ref
            found[each.name] = secret(cloud, project_of(owner), reference.secret, reference.version)
        else:
            found[each.name] = each.value
    return found


def secret(cloud: Cloud, project: str, name: str, version: str) -> str:
    """Return a version of a secret.

    Args:
        cloud: where it belongs.
        project: where a name without a project is looked for.
        name: `S` or `projects/P/secrets/S`.
        version: a number, or `latest`.

    Raises:
        GoogleError: it is not there.
    """
    whole = name if name.startswith("projects/") else f"projects/{project}/secrets/{name}"
    versions = cloud.secrets.get(whole, [])
    number = (
        len(versions) if version in ("", "latest") else int(version) if version.isdigit() else 0
    )
    if not 1 <= number <= len(versions):
        raise GoogleError(
            404, f"Secret {whole}/versions/{version or 'latest'} was not found", word="NOT_FOUND"
        )
    return versions[number - 1]


def _mounts(container: Any, volumes: Iterable[Any]) -> Iterator[Mount]:
    named = {volume.name: volume for volume in volumes}
    for mount in container.volume_mounts:
        volume = named[mount.name]
        if volume.HasField("nfs"):
            source = f"nfs/{volume.nfs.server}/{volume.nfs.path.strip('/')}"
            yield Mount(mount.mount_path, source, not volume.nfs.read_only)
        elif volume.HasField("gcs"):
            yield Mount(mount.mount_path, f"buckets/{volume.gcs.bucket}", not volume.gcs.read_only)
        else:
            yield Mount(mount.mount_path)
