"""The town as it is here: where a clone of it comes from, and what git does not carry."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.errors import OutpostError
from outpost_core.names import check_rig, split_rig
from outpost_local.setup.runner import LOOK, WORK, SetupRun, StepResult, ask
from outpost_shared.programs import git_env

#: The most bytes of a town without a remote that are sent as a bundle.
MOST: Final = 64 << 20
#: Bytes of one piece; in base64 it stays well below what a shell takes as one word.
PIECE: Final = 96 << 10
#: The most bytes of a file of `config/` that is copied.
_MOST_CONFIG: Final = 256 << 10
#: Names of files that hold secrets, or that are of this machine alone.
_PRIVATE: Final = re.compile(
    r"outposts\.ya?ml|secret|token|credential|passw|passphrase|api_?key|auth|netrc|\.env"
    r"|\.(pem|key|p12|pfx|jks|gpg|asc)$|id_(rsa|dsa|ecdsa|ed25519)|(~|\.bak|\.swp|\.lock)$",
    re.IGNORECASE,
)
#: What only secrets look like, whatever their file is called.
_SECRET: Final = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|\b(sk|rk|pk)[-_](ant|live|test|proj)[-_]|\bgh[pousr]_\w{20}"
    rb"|\bgithub_pat_|\bxox[abpr]-|\bAKIA[0-9A-Z]{16}|\bAIza[\w-]{30}"
    rb"|(api_?key|token|secret|password)[\"']?\s*[:=]\s*[\"']?[\w/+.-]{12}",
    re.IGNORECASE,
)
#: Where a bundle lands, below HOME.
_ARRIVAL: Final = ".cache/outpost/town.bundle"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a town is cloned from.

    Args:
        url: an address that the far side reaches; "" for a bundle of `folder`.
        folder: the town here; None when there is none.
    """

    url: str = ""
    folder: Path | None = None


async def find_source(url: str | None, folder: Path | None) -> Source | None:
    """Return where the far town comes from; None when nothing says it.

    Args:
        url: what the configuration says.
        folder: the town here.

    Raises:
        UsageError: the address is dangerous.
    """
    if url:
        return Source(url=_without_password(url), folder=folder)
    if folder is None:
        return None
    said = await _git(folder, "remote", "get-url", "origin")
    if said and ("://" in said or ":" in said.partition("/")[0]) and not said.startswith("file:"):
        return Source(url=_without_password(said.strip()), folder=folder)
    if await _git(folder, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        return None
    return Source(folder=folder)


def _without_password(url: str) -> str:
    """Return an address without its password: it would be in git's argv and configuration."""
    return split_rig(check_rig(url))[0]


async def clone(run: SetupRun, path: str, source: Source | None) -> StepResult:
    """Have the town at `path`, cloned when it is not there.

    A clone is made beside it and renamed, so that there is all of it or nothing.
    """
    if source is None or source.url:
        return await run.ask("town", path, source.url if source else "")
    words = f"the town at {source.folder} (it has no remote)"
    looked = await ask(run.shell, "town", "look", path, words)
    if run.dry_run or looked.state != "would":
        return looked
    assert source.folder is not None, "a source without an address is a folder"
    with tempfile.TemporaryDirectory(prefix="outpost-town-") as folder:
        bundle = Path(folder) / "town.bundle"
        if await _git(source.folder, "bundle", "create", str(bundle), "HEAD", "--branches") is None:
            raise OutpostError(f"git cannot bundle {source.folder}", hint="git fsck there")
        size = bundle.stat().st_size
        if size > MOST:
            raise OutpostError(
                f"the town at {source.folder} has no remote and is {size >> 20} MiB",
                hint="give it a remote, and set town_url",
            )
        arrived = await _send(run, bundle)
    if arrived.state != "done":
        return arrived
    return await run.ask("town", path, words, arrived.facts["file"])


async def _send(run: SetupRun, bundle: Path) -> StepResult:
    answer = StepResult(state="failed")
    with bundle.open("rb") as file:
        offset = 0
        data = file.read(PIECE)
        while data:
            after = file.read(PIECE)
            text = base64.b64encode(data).decode()
            answer = await ask(
                run.shell, "receive", _ARRIVAL, str(offset), "more" if after else "last", text,
                timeout=WORK,
            )  # fmt: skip
            if answer.state != "done":
                return answer
            offset += len(data)
            data = after
    return answer


async def config(run: SetupRun, path: str, folder: Path) -> StepResult:
    """Copy files of the town's `config/` that git does not carry, where they are missing there.

    Secrets and `outposts.yaml` stay here; what is there is left alone.
    """
    files, kept_back = await _untracked(folder)
    done, left = [], ""
    for name, data in files.items():
        text = base64.b64encode(data).decode()
        answer = await ask(run.shell, "keep", run.mode, path, name, text, timeout=LOOK)
        if answer.state in ("failed", "skipped"):
            return answer
        if answer.state != "ok":
            done.append(name)
    if kept_back:
        left = f"; not copied: {', '.join(kept_back)}"
    if done:
        words = "copy " if run.dry_run else "copied "
        state = "would" if run.dry_run else "done"
        return StepResult(state=state, detail=words + ", ".join(done) + left)
    return StepResult(state="ok", detail="nothing besides what git carries" + left)


async def _untracked(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return what to copy from `config/`, and the names of what stays here."""
    said = await _git(folder, "ls-files", "-z", "--others", "--", "config")
    if said is None:  # no repository: nothing is tracked
        names = sorted(
            str(path.relative_to(folder)) for path in (folder / "config").rglob("*")
        )  # fmt: skip
    else:
        names = sorted(filter(None, said.split("\0")))
    files: dict[str, bytes] = {}
    kept_back = []
    for name in names:
        path = folder / name
        if path.is_symlink() or not path.is_file() or not name.isprintable():
            continue
        short = name.removeprefix("config/")
        if any(_PRIVATE.search(part) for part in Path(short).parts):
            kept_back.append(short)
            continue
        data = path.read_bytes() if path.stat().st_size <= _MOST_CONFIG else None
        if data is None or _SECRET.search(data):
            kept_back.append(short)
        else:
            files[name] = data
    return files, kept_back


async def _git(folder: Path, *words: str) -> str | None:
    """Return what git says in a folder; None when it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            "git", "-C", str(folder), "-c", "core.hooksPath=/dev/null",
            "-c", "core.fsmonitor=false", *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=git_env(os.environ, remote=False),
        )  # fmt: skip
    except OSError:
        return None
    out, _ = await process.communicate()
    return out.decode("utf-8", "surrogateescape") if process.returncode == 0 else None
