"""Packs the pause program as an image for containers: pauseimage.py PROGRAM ARCHITECTURE.

It takes the program's place, as PROGRAM.tar.
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

from kubelab.parts import PAUSE


def main() -> None:
    """Write an archive as `docker save` does, of one layer with one file."""
    program, architecture = Path(sys.argv[1]), sys.argv[2]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, "pause", program.read_bytes(), mode=0o755)
    layer = buffer.getvalue()
    config = json.dumps(
        {
            "architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
        }
    ).encode()  # fmt: skip
    name = f"{_digest(config)}.json"
    manifest = [{"Config": name, "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    with tarfile.open(program.with_suffix(".tar"), "w") as tar:
        _add(tar, name, config)
        _add(tar, "layer.tar", layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    program.unlink()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main()
