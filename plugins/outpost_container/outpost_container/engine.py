"""The program that builds images: podman or docker, whichever is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

ENGINES: Final = ("podman", "docker")
#: Lines of output that are told when a build fails.
_TOLD: Final = 15
#: How podman begins a stage, and docker a step of one: `[3/5] STEP 1/7: FROM … AS python`,
#: `#12 [python 3/8] RUN …`, `#9 [stage-3 2/7] RUN …`.
_STAGE: Final = re.compile(
    r"(?:\[\d+/\d+\] )?STEP 1/\d+: FROM \S+(?: AS (?P<podman>\w+))?"
    r"|#\d+ \[(?P<docker>\w+)\S* +\d+/\d+\]"
)
#: What the stages of the Containerfile do; what has no name there is the image itself.
_DOES: Final = {
    "npm": "fetching the agents",
    "agents": "",
    "picked": "taking out their programs",
    "python": "installing the far side of Outpost",
}
#: Words of the two when an image that is built from is not to be had.
_NO_BASE: Final = re.compile(
    r"initializing source docker://|failed to resolve source metadata|pull access denied"
    r"|image not known|no such image|short-name .* did not resolve|manifest unknown"
    r"|failed to do request|unable to pull|while pulling",
    re.IGNORECASE,
)
_NO_RIGHTS: Final = re.compile(r"unauthorized|denied|authentication required", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Built:
    """An image.

    Args:
        id: its id, as the engine has it.
        size: bytes.
    """

    id: str
    size: int


class Engine:
    """podman or docker.

    Args:
        name: which.
        path: the program.
        say: is told what is done.
    """

    def __init__(self, name: str, path: str, say: Callable[[str], None]) -> None:
        self.name = name
        self._path = path
        self._say = say

    @classmethod
    def find(cls, wanted: str | None, say: Callable[[str], None]) -> Engine:
        """Return the engine that is asked for, else the first that is there.

        Raises:
            UsageError: there is none.
        """
        for name in (wanted,) if wanted else ENGINES:
            if path := shutil.which(name):
                return cls(name, path, say)
        raise UsageError(
            f"{wanted} was not found" if wanted else "neither podman nor docker was found",
            hint="install one (apt-get install podman), or --context FOLDER: it writes what the"
            " image is built from, for a build elsewhere",
        )

    def build(
        self,
        context: Path,
        *,
        tag: str,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        secrets: Mapping[str, Path],
        contexts: Mapping[str, Path],
        platform: str = "",
        base: str,
        cache: bool = True,
    ) -> Built:
        """Build an image, and say what is done.

        Args:
            context: the folder with the Containerfile.
            tag: the name of the image.
            arguments: of the build.
            labels: of the image.
            secrets: files that are there during a step and in no layer, by their ids.
            contexts: folders that take the place of stages, by the names of those.
            platform: for which machine, such as `linux/amd64`; else for this one.
            base: what is begun from, for errors.
            cache: whether steps that were done before are taken from there.

        Raises:
            OutpostError: the build failed.
        """
        iid = context.with_name(f"{context.name}.id")
        argv = [self._path, "build", "--tag", tag, "--iidfile", str(iid)]
        argv += ["--file", str(context / "Containerfile")]
        if self.name == "podman":  # the older of its two formats, which every registry takes
            argv += ["--format", "docker"]
        argv += [f"--platform={platform}"] if platform else []
        argv += [] if cache else ["--no-cache"]
        for name, value in arguments.items():
            argv += ["--build-arg", f"{name}={value}"]
        for name, value in labels.items():
            argv += ["--label", f"{name}={value}"]
        for name, path in secrets.items():
            argv += ["--secret", f"id={name},src={path}"]
        for name, path in contexts.items():
            argv += ["--build-context", f"{name}={path}"]
        status, last = self._run([*argv, str(context)])
        if status:
            raise _failed(f"the image could not be built by {self.name}", last, base=base)
        made = iid.read_text(encoding="ascii").strip()
        size = self._ask("image", "inspect", "--format", "{{.Size}}", made)
        return Built(id=made, size=int(size) if size.isdecimal() else 0)

    def push(self, tag: str) -> None:
        """Push an image to the registry that its name begins with.

        Raises:
            OutpostError: it could not be pushed.
        """
        self._say(f"pushing {tag}")
        status, last = self._run([self._path, "push", tag])
        if status:
            text = "\n".join(last)
            registry = tag.partition("/")[0]
            hint = (
                f"log in first: {self.name} login {registry} (Artifact Registry: gcloud auth"
                f" configure-docker {registry})"
                if _NO_RIGHTS.search(text)
                else "the image is built: push it again when this is mended, by the same command"
            )
            raise OutpostError(_text(f"{tag} could not be pushed by {self.name}", last), hint=hint)

    def _run(self, argv: Sequence[str]) -> tuple[int, Sequence[str]]:
        """Run the engine; say what it does; return its exit code and its last lines."""
        last: deque[str] = deque(maxlen=_TOLD)
        said = ""
        environ = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            try:
                while line := process.stdout.readline(10_000):
                    if not line.strip():
                        continue
                    last.append(line.rstrip()[:500])
                    if stage := _STAGE.match(line):
                        name = stage["podman"] or stage["docker"] or ""
                        said = self._tell(_DOES.get(name, "putting the image together"), said)
            except BaseException:
                process.terminate()  # it takes away what it began
                raise
        return process.returncode, last

    def _tell(self, what: str, before: str) -> str:
        """Say what is done now, once; docker's stages take turns."""
        if what in ("", before):
            return before
        self._say(what)
        return what

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            [self._path, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip
        return done.stdout.strip()


def _text(what: str, last: Sequence[str]) -> str:
    return "\n".join([f"{what}; it said:", *(f"  {line}" for line in last)])


def _failed(what: str, last: Sequence[str], *, base: str) -> OutpostError:
    text = "\n".join(last)
    if _NO_BASE.search(text) and base.rpartition("/")[2].partition(":")[0] in text:
        return OutpostError(
            f"{base}, which the image begins from, cannot be had\n  {last[-1].strip()}",
            hint="is its registry reached, and are you logged in there? --base IMAGE begins from"
            " another Debian or Ubuntu",
        )
    return OutpostError(
        _text(what, last),
        hint="mend what it says, and run the command again: steps that were done are kept."
        " Package registries of a company: see --ca",
    )
