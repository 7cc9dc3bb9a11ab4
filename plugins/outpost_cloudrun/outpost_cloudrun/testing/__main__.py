"""Run the emulator as a program: `python -m outpost_cloudrun.testing --help`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from outpost_cloudrun.testing.control import Control
from outpost_cloudrun.testing.emulator import Emulator, emulating
from outpost_cloudrun.testing.podman import Podman


def main() -> None:
    """Emulate Cloud Run until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m outpost_cloudrun.testing",
        description="Cloud Run on this machine: Admin API, fronts, metadata and a bucket.",
    )
    parser.add_argument("--folder", type=Path, help="for logs and the journal (default: temporary)")
    parser.add_argument("--tls", action="store_true", help="nghttpx with TLS before services")
    parser.add_argument("--podman", metavar="IMAGE", help="run containers of this image by podman")
    said = parser.parse_args()
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with tempfile.TemporaryDirectory(prefix="outpost-cloudrun-") as temporary:
        folder = said.folder or Path(temporary)
        podman = Podman(image=said.podman) if said.podman else None
        try:
            with emulating(folder, tls=said.tls, podman=podman) as google:
                control = _control(google)
                _say(google, control)
                over.wait()
                google.do(control.server.close)
        except OSError as error:
            sys.exit(f"error: {error}")


def _control(google: Emulator) -> Control:
    async def open_it() -> Control:
        control = Control(google.cloud)
        await control.server.open()
        return control

    return google.do(open_it)


def _say(google: Emulator, control: Control) -> None:
    lines: list[tuple[str, Any]] = [
        ("# the option `endpoint` of an outpost", google.admin),
        ("# knobs and journal", f"{control.server.url}/knobs, /journal"),
        ("# what containers print", google.folder / "containers"),
        ("# a repository host for them", google.rigs.server.url),
    ]
    for what, where in lines:
        print(f"{what}: {where}")
    for name, value in google.environment.items():
        print(f"export {name}={value}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
