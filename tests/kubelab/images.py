"""Images of podman's for the pods of a lab, of which nothing is copied.

podman has each layer unpacked in a folder, as containerd would have it: containerd is told of the
image, and finds those folders where it expects its own. Layers of the same content are one.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from kubelab.cluster import ctr_argv
from kubelab.plan import Plan

_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"

#: Runs a program within the lab; returns what it printed, raises where it fails.
Run = Callable[..., str]


def load(plan: Plan, run: Run, tag: str, env: Mapping[str, str]) -> None:
    """Let pods have an image.

    Args:
        plan: the lab.
        run: runs a program in it.
        tag: the image's name, which pods use as well, with `imagePullPolicy: Never`.
        env: of the podman that has it.
    """
    ctr = ctr_argv(plan)
    digests = run(*ctr, "images", "ls", f"name=={tag}").splitlines()[1:]
    image = _inspect(tag, env)
    config = _config(image)
    manifest = _manifest(config)
    if any(f"sha256:{_digest(manifest)} " in line for line in digests):
        return
    parent = ""
    for diff, folder in zip(json.loads(config)["rootfs"]["diff_ids"], _folders(image), strict=True):
        chain = f"sha256:{_digest(f'{parent} {diff}'.encode())}" if parent else diff
        _adopt(plan, run, chain, parent, folder)
        parent = chain
    archive = plan.folder / f"image-{uuid.uuid4().hex[:8]}.tar"
    _write(archive, tag, config, manifest)
    run(*ctr, "images", "import", str(archive))
    archive.unlink()


def _adopt(plan: Plan, run: Run, chain: str, parent: str, folder: Path) -> None:
    """Have a folder as containerd's snapshot of that name, whose parent is there."""
    snapshots = [*ctr_argv(plan), "snapshots"]
    known = run(*snapshots, "ls").splitlines()
    if any(line.startswith(f"{chain} ") for line in known):
        return
    key = f"adopt-{uuid.uuid4().hex[:8]}"
    # without a label it could be taken away before an image is there that needs it
    run(*snapshots, "prepare", key, *([parent] if parent else []))
    mounts = run(*snapshots, "mounts", "/nowhere", key)
    place = _upper(mounts)
    run(*snapshots, "commit", chain, key)
    run(*snapshots, "label", chain, "containerd.io/gc.root=kubelab")
    shutil.rmtree(place)
    place.symlink_to(folder)


def _upper(mounts: str) -> Path:
    """Return the folder of a snapshot out of the command that would mount it."""
    for word in mounts.replace(",", " ").split():
        if word.startswith("upperdir="):
            return Path(word.removeprefix("upperdir="))
    # the lowest is a bind mount: mount -t bind FOLDER /nowhere -o rw,rbind
    return Path(next(word for word in mounts.split() if word.endswith("/fs")))


def _inspect(tag: str, env: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        ["podman", "image", "inspect", tag], env={**os.environ, **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise LookupError(f"podman has no image {tag}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def _folders(image: Mapping[str, Any]) -> list[Path]:
    """Return the folders of an image's layers, the lowest first."""
    driver = image["GraphDriver"]
    if driver["Name"] != "overlay":
        raise LookupError(f"podman's images are kept by {driver['Name']}, not by overlay")
    data = driver["Data"]
    lower = data.get("LowerDir", "")
    return [Path(one) for one in reversed([data["UpperDir"], *filter(None, lower.split(":"))])]


def _config(image: Mapping[str, Any]) -> bytes:
    """Return the image's configuration, byte by byte, whose digest is the image's id."""
    id_ = image["Id"].removeprefix("sha256:")
    name = "=" + base64.b64encode(f"sha256:{id_}".encode()).decode()
    top = _folders(image)[-1].parents[2]
    config = (top / "overlay-images" / id_ / name).read_bytes()
    if _digest(config) != id_:
        raise LookupError(f"the configuration of image {id_} is not what it should be")
    return config


def _manifest(config: bytes) -> bytes:
    layers = json.loads(config)["rootfs"]["diff_ids"]
    return json.dumps(
        {
            "schemaVersion": 2, "mediaType": _MANIFEST, "config": _named(_CONFIG, config),
            "layers": [{"mediaType": _LAYER, "digest": layer, "size": 1} for layer in layers],
        }
    ).encode()  # fmt: skip


def _write(archive: Path, tag: str, config: bytes, manifest: bytes) -> None:
    """Write an OCI archive without its layers, which are there already."""
    names = {"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag}
    entry = {**_named(_MANIFEST, manifest), "annotations": names}
    files = {f"blobs/sha256/{_digest(blob)}": blob for blob in (config, manifest)}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    files["oci-layout"] = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _named(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{_digest(blob)}", "size": len(blob)}


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()
