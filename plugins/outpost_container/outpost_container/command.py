"""`outpost image build`: the container of workers, with the agents that one wants in it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from outpost_core.errors import UsageError
from outpost_manager.cli.session import Group, Session, command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from outpost_container.agents import Program
    from outpost_container.engine import Built
    from outpost_container.folder import Folder

BASE: Final = "docker.io/library/debian:bookworm-slim"
#: What `--json` answers.
SHAPE: Final[dict[str, Any]] = {
    "image": "the name that it can be run by",
    "id": "its id; null with --context",
    "size": "bytes; null with --context",
    "agents": ["each with its version, where one was asked for"],
    "version": "of Outpost in it",
    "digest": "16 hex digits: tells what of Outpost is in it, also as its label outpost.digest",
    "engine": "podman or docker; null with --context",
    "context": "the folder that was written with --context; else null",
    "pushed": "whether it was pushed",
    "seconds": "how long it took",
}

image = Group(
    "image",
    short_help="Build the container in which workers run.",
    help="Build the container in which workers run.\n\n"
    "\b\nExample:\n  outpost image build --agent claude --tag REGISTRY/outpost-worker --push",
)


@command("build")
@click.option(
    "--agent", "agents", multiple=True, metavar="AGENT[@VERSION]",
    help="Put the program of this agent in: claude or codex. Can be given more than once.",
)  # fmt: skip
@click.option(
    "--tag", metavar="NAME", help="Name of the image; outpost-worker:VERSION if not given."
)
@click.option(
    "--base", metavar="IMAGE", default=BASE, show_default=True,
    help="Begin from this Debian or Ubuntu, with Python 3.11 or newer.",
)  # fmt: skip
@click.option("--push", is_flag=True, help="Push it to the registry that its name begins with.")
@click.option("--platform", metavar="OS/CPU", help="For which machines, such as linux/amd64.")
@click.option(
    "--agents-from", metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="A node_modules with the agents; if not given, npm fetches them during the build.",
)  # fmt: skip
@click.option(
    "--ca", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificates that package registries are checked by during the build; nothing of it"
    " stays. If not given, those that this machine's programs are told to use.",
)  # fmt: skip
@click.option(
    "--engine",
    type=click.Choice(("podman", "docker")),
    help="What builds it, if not the one found.",
)
@click.option("--no-cache", is_flag=True, help="Do every step again.")
@click.option(
    "--context", metavar="FOLDER", type=click.Path(path_type=Path),
    help="Write the folder that it is built in, and build nothing.",
)  # fmt: skip
def build(
    session: Session,
    agents: tuple[str, ...],
    tag: str | None,
    base: str,
    push: bool,
    platform: str | None,
    agents_from: Path | None,
    ca: Path | None,
    engine: str | None,
    no_cache: bool,
    context: Path | None,
) -> None:
    """Build the container in which workers run, by podman or docker.

    \b
    Example:
      outpost image build --agent claude --agent codex
      outpost image build --agent claude --tag europe-docker.pkg.dev/my/repo/worker --push
    """
    # here: the help of all commands is shown without them
    import os
    import tempfile

    from outpost_container.agents import programs
    from outpost_container.engine import Engine
    from outpost_container.folder import lay_out

    wanted = programs(agents, agents_from)
    if push and (tag is None or "/" not in tag):
        raise UsageError(
            "--push needs a name that begins with a registry",
            hint="--tag europe-west4-docker.pkg.dev/PROJECT/REPOSITORY/outpost-worker",
        )
    began = time.monotonic()
    if context is not None:
        laid = lay_out(context)
        _answer(session, laid, wanted, tag, began, context=context)
        return
    builder = Engine.find(engine, session.note)
    with tempfile.TemporaryDirectory(prefix="outpost-image-") as work:
        laid = lay_out(Path(work) / "context")
        name = tag or f"outpost-worker:{laid.version}"
        built = builder.build(
            Path(work) / "context",
            tag=name,
            base=base,
            arguments=arguments(wanted, base, fetch=agents_from is None),
            labels=_labels(laid, wanted),
            secrets=_secrets(Path(work), ca, os.environ),
            contexts={} if agents_from is None else {"agents": agents_from},
            platform=platform or "",
            cache=not no_cache,
        )
    if push:
        builder.push(name)
    _answer(session, laid, wanted, name, began, built=built, engine=builder.name, pushed=push)


image.add_command(build)


def arguments(wanted: tuple[Program, ...], base: str, *, fetch: bool) -> dict[str, str]:
    """Return the arguments of the build.

    Args:
        wanted: the agents that go in.
        base: the image to begin from.
        fetch: whether npm fetches the agents.
    """
    found = {"BASE": base, "AGENTS": " ".join(program.agent for program in wanted)}
    if fetch:
        found["NPM_PACKAGES"] = " ".join(program.package for program in wanted)
    return found


def _labels(laid: Folder, wanted: tuple[Program, ...]) -> dict[str, str]:
    return {
        "org.opencontainers.image.version": laid.version,
        "outpost.agents": " ".join(map(str, wanted)),
        "outpost.digest": laid.digest,
    }


def _secrets(work: Path, ca: Path | None, environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that the build's steps see and the image does not."""
    from outpost_container import registries

    found: dict[str, Path] = {}
    if trusted := ca or registries.certificates(environ):
        found["ca"] = trusted
    if text := registries.settings(environ):
        found["settings"] = work / "settings"
        found["settings"].touch(0o600)
        found["settings"].write_text(text, encoding="utf-8")
    if npmrc := registries.npmrc(environ):
        found["npmrc"] = npmrc
    return found


def _answer(
    session: Session,
    laid: Folder,
    wanted: tuple[Program, ...],
    tag: str | None,
    began: float,
    *,
    context: Path | None = None,
    built: Built | None = None,
    engine: str | None = None,
    pushed: bool = False,
) -> None:
    seconds = round(time.monotonic() - began, 1)

    def data() -> dict[str, Any]:
        return {
            "image": tag,
            "id": built.id if built else None,
            "size": built.size if built else None,
            "agents": [str(program) for program in wanted],
            "version": laid.version,
            "digest": laid.digest,
            "engine": engine,
            "context": str(context) if context else None,
            "pushed": pushed,
            "seconds": seconds,
        }

    def lines() -> Iterator[str]:
        if context is not None:
            given = arguments(wanted, BASE, fetch=True)
            yield f"wrote {context}; build it with:"
            flags = " ".join(f"--build-arg {name}='{value}'" for name, value in given.items())
            yield f"  podman build --format docker {flags} {context}"
            return
        assert built is not None
        names = ", ".join(map(str, wanted)) or "no agent"
        done = "built and pushed" if pushed else "built"
        yield f"{done} {tag} with {names}: {built.size / 1e6:.0f} MB, {seconds:.0f} s"
        if not wanted:
            yield "  → put agents in with --agent claude, or your own: docs/guides/container.md"

    session.answer(data, lines)
