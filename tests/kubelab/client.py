"""Starts a lab, and speaks with its keeper."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from kubelab import guard, images
from kubelab.plan import Options, Plan

CHECKOUT: Final = Path(__file__).parents[2]
#: Seconds until a lab that starts is given up.
PATIENCE: Final = 240.0
_CALL: Final = 600.0


class LabError(Exception):
    """A lab does not start, or does not do what it was asked to."""


def tools() -> Path:
    """Return the folder with the programs of a lab, which are built first where they are not there.

    Raises:
        LabError: they cannot be had here.
    """
    built = subprocess.run([CHECKOUT / ".ci" / "kubelab"], capture_output=True, text=True)
    if built.returncode:
        raise LabError(f"its programs could not be built: {built.stderr.strip()[-1000:]}")
    return Path(built.stdout.strip())


def start(folder: Path, options: Options, *, leased: bool, programs: Path) -> "Client":
    """Start a lab, and return once it is ready.

    Args:
        folder: for all of its files; made here, gone when the lab has ended. Its path is short.
        options: what is chosen.
        leased: whether it ends with the last process that holds it.
        programs: what `tools` returned.

    Raises:
        LabError: it does not start.
    """
    folder.mkdir(mode=0o700, parents=True)
    Plan(folder=folder, tools=programs, options=options, leased=leased).save()
    log = Path(tempfile.mkstemp(prefix="kubelab-")[1])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-S", "-m", "kubelab.guard", folder],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, cwd="/",
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    client: Client | None = None
    try:
        client = _connect(process, folder, leased=leased)
        _wait(process, client)
    except BaseException as error:
        if client is not None:
            client.close()
        process.terminate()
        process.wait()
        if isinstance(error, LabError):
            raise LabError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from None
        raise
    finally:
        log.unlink()
    client.guard = process
    return client


def _connect(process: "subprocess.Popen[bytes]", folder: Path, *, leased: bool) -> "Client":
    """Return a connection to the keeper, once it listens."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return Client(folder, hold=leased)
        time.sleep(0.05)
    raise LabError("the lab ended while it started")


def _wait(process: "subprocess.Popen[bytes]", client: "Client") -> None:
    """Wait until the lab is ready."""
    deadline = time.monotonic() + PATIENCE
    while not (status := client.status())["ready"]:
        if process.poll() is not None:
            raise LabError("the lab ended while it started")
        if status["failed"] or time.monotonic() > deadline:
            told = "".join(
                f"\n--- {log.name}\n" + log.read_text(errors="replace")[-1500:]
                for log in sorted(client.folder.glob("*.log"))
            )
            raise LabError(f"the lab does not start: {status['failed'] or 'too slow'}{told}")
        time.sleep(0.05)


class Client:
    """A connection to the keeper of a lab.

    Args:
        folder: of the lab.
        hold: whether this connection keeps a leased lab alive.

    Raises:
        OSError: no keeper listens there.
    """

    def __init__(self, folder: Path, *, hold: bool = False) -> None:
        self.folder = folder
        self.guard: subprocess.Popen[bytes] | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(_CALL)
            self._socket.connect(str(folder / "control"))
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rw")
        self.plan = Plan.load(folder)
        if hold:
            self.call("hold")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a leased lab that nobody else holds ends."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()
        if self.guard is not None:
            self.guard.returncode = 0  # it may stay: it is not this process that ends the lab

    def call(self, do: str, **words: Any) -> Any:
        """Ask the keeper something.

        Raises:
            LabError: it could not do it, or has ended.
        """
        try:
            self._file.write(json.dumps({"do": do, **words}) + "\n")
            self._file.flush()
            answer = json.loads(self._file.readline() or '{"error": "the lab has ended"}')
        except OSError as error:
            raise LabError(f"the lab does not answer: {error}") from error
        if "error" in answer:
            raise LabError(f"{do}: {answer['error']}")
        return answer["ok"]

    def status(self) -> dict[str, Any]:
        """Return how the lab is: `ready`, `failed`, `holders`, `parts`, `restarts`."""
        found: dict[str, Any] = self.call("status")
        return found

    def run(self, *argv: str) -> str:
        """Run a program within the lab's namespaces; returns what it printed.

        Raises:
            LabError: it failed.
        """
        code, printed = self.call("run", argv=argv)
        if code:
            raise LabError(f"{' '.join(argv)} ended with {code}: {printed}")
        return str(printed)

    def load(self, tag: str, env: Mapping[str, str]) -> None:
        """Let pods have an image of the podman with these variables; see `images.load`."""
        images.load(self.plan, self.run, tag, env)

    def down(self) -> None:
        """End the lab, and return when nothing of it is left."""
        with contextlib.suppress(LabError):
            self.call("down")
        if self.guard is not None:
            self.guard.wait()
            guard.clean_up(self.plan)  # it has, unless it was killed
        self.close()
        deadline = time.monotonic() + PATIENCE
        while self.folder.exists():
            if time.monotonic() > deadline:
                raise LabError(f"{self.folder} is still there")
            time.sleep(0.05)
