"""A rig that is a path of this machine: what is in it, what another machine lacks of it, and how
work comes into it.

Nothing here moves a branch by itself: work comes in by an ordinary `git push`, as the local outpost
would push it, so a branch that went another way, one that is checked out, and what the rig's own
hooks refuse stay as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from outpost_core.errors import OutpostError
from outpost_core.names import redact
from outpost_shared import children, private
from outpost_shared.programs import git_env
from outpost_worker.hosting.sentrefs import OWN, SentRefs
from outpost_worker.repository.git import read

_SETTINGS: Final = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false", "-c", "push.gpgSign=false", "-c", "push.followTags=false"),
    *("-c", "core.commitGraph=false", "-c", "core.multiPackIndex=false"),
    *("-c", "core.alternateRefsCommand=true"),
)
#: Flaws of old histories that hosting services take as well; work may contain such a history.
_OLD_FLAWS: Final = ",".join(
    f"{flaw}=warn"
    for flaw in (
        *("badTimezone", "missingSpaceBeforeDate", "missingSpaceBeforeEmail", "badDateOverflow"),
        *("zeroPaddedFilemode", "zeroPaddedDate", "missingEmail", "missingNameBeforeEmail"),
    )
)
#: Bytes of memory for taking in what another machine has packed: a few kilobytes of a pack can
#: stand for an object of any size.
MEMORY: Final = 4 << 30
#: Beginning of a ref under which an order's base travels that no branch or tag holds.
BASE: Final = "refs/outpost-base/"
_HEADS: Final = "refs/heads/"


class GitError(OutpostError):
    """git could not do something with a rig of this machine."""


class RefRefusedError(GitError):
    """The rig does not take a ref, and asking again will not help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GitEnd:
    """How a git command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """What it printed, without the last newline."""
        return os.fsdecode(self.out).rstrip("\n")

    @property
    def words(self) -> str:
        """The lines of its errors that say the cause."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        marked = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
        return redact("; ".join((marked or lines)[-4:]) or f"git ended with {self.code}")[-400:]


async def git(
    folder: Path,
    git_dir: Path,
    *args: str,
    text: bytes | None = None,
    source: IO[bytes] | None = None,
    out: IO[bytes] | None = None,
    memory: int = 0,
) -> GitEnd:
    """Run git on a repository and return how it ended; it is ended when the caller is cancelled.

    Args:
        folder: where it runs.
        git_dir: the repository; no other one is looked for.
        args: the command.
        text: what it reads.
        source: or a file that it reads from where that stands.
        out: where its output goes, instead of into the answer.
        memory: bytes that it may take, where the system can hold it to that; 0 for any number.

    Raises:
        GitError: git cannot be started.
    """
    env = {**git_env(os.environ, remote=False), "GIT_DIR": str(git_dir)}
    if args[0] in ("push", "fetch"):  # from one repository of this machine to another
        env["GIT_ALLOW_PROTOCOL"] = "file"
    try:
        child = await asyncio.create_subprocess_exec(
            *("git", *_SETTINGS, *args),
            cwd=folder,
            env=env,
            stdin=asyncio.subprocess.PIPE
            if text is not None
            else source or asyncio.subprocess.DEVNULL,
            stdout=out or asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror}", hint="install git here") from error
    try:
        if memory and hasattr(resource, "prlimit"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(child.pid, resource.RLIMIT_DATA, (memory, memory))
        said, err = await child.communicate(text)
    except BaseException:
        if child.returncode is None:
            children.signal_group(child.pid)
        await child.wait()
        raise
    return GitEnd(code=child.returncode or 0, out=said or b"", err=err.decode(errors="replace"))


class LocalRig:
    """A repository of this machine.

    Args:
        path: the rig as it was ordered.
        git_dir: its repository: the folder itself or the `.git` in it.
    """

    def __init__(self, path: str, git_dir: Path) -> None:
        self.path = path
        self.git_dir = git_dir
        self._objects = ""
        self._format = ""

    @classmethod
    def at(cls, path: str) -> LocalRig | None:
        """Return the repository at a path, found as git finds one to fetch from; else None."""
        for place in (f"{path}/.git", path, f"{path}.git/.git", f"{path}.git"):
            found = Path(place)
            if found.is_file() or ((found / "HEAD").exists() and (found / "objects").exists()):
                return cls(path, found)
        return None

    async def git(self, *args: str, text: bytes | None = None) -> GitEnd:
        """Run git in it."""
        return await git(Path("/"), self.git_dir, *args, text=text)

    async def must(self, *args: str, text: bytes | None = None) -> str:
        """Run git in it and return what it prints.

        Raises:
            GitError: it failed.
        """
        done = await self.git(*args, text=text)
        if done.code:
            raise GitError(
                f"{self.path} cannot be read: {done.words}", hint=f"git -C {self.path} fsck"
            )
        return done.text

    async def look(self) -> None:
        """Find out what does not change: where its objects are, and of which format.

        Raises:
            GitError: it cannot be used.
        """
        if not self._objects:
            asked = ("rev-parse", "--show-object-format", "--git-path", "objects")
            self._format, self._objects = (await self.must(*asked)).split("\n", 1)
            self._objects = str(Path("/", self._objects))

    # --- what another machine lacks -------------------------------------------------------------

    async def snapshot(self, extra: Iterable[tuple[str, str]] = ()) -> SentRefs:
        """Return branches, tags and kept work as they are now.

        Args:
            extra: further refs with their objects.

        Raises:
            GitError: it cannot be read.
        """
        await self.look()
        form = "--format=%(objectname) %(refname)"
        told, head = await asyncio.gather(
            self.must("for-each-ref", form, *(name.rstrip("/") for name in OWN)), self._head()
        )
        refs = {}
        for line in told.splitlines():
            value, _, name = line.partition(" ")
            refs[name] = value
        refs.update(extra)
        shallow = sorted((await self._shallow()).split())
        return SentRefs(format=self._format, head=head, refs=refs, shallow=shallow)

    async def _head(self) -> str:
        branch = await self.git("symbolic-ref", "--quiet", "HEAD")
        if not branch.code:
            return f"ref: {branch.text}" if branch.text.startswith(_HEADS) else ""
        commit = await self.git("rev-parse", "--quiet", "--verify", "HEAD^{commit}")
        return commit.text if not commit.code else ""

    async def _shallow(self) -> str:
        path = await self.must("rev-parse", "--git-path", "shallow")
        return await asyncio.to_thread(read, str(Path("/", path)))

    async def beside(self, base: str | None) -> list[tuple[str, str]]:
        """Return the ref under which an order's base has to travel besides branches and tags."""
        if not base or base == "HEAD" or base.startswith("-"):
            return []
        if base.startswith("refs/") and not base.startswith(OWN):
            found = await self.git("rev-parse", "--quiet", "--verify", base)
            return [(base, found.text)] if not found.code else []
        if len(base) in (40, 64) and set(base.lower()) <= set("0123456789abcdef"):
            found = await self.git("rev-parse", "--quiet", "--verify", base + "^{commit}")
            return [(BASE + found.text, found.text)] if not found.code else []
        return []

    async def present(self, objects: Sequence[str]) -> set[str]:
        """Return which of the objects are here."""
        if not objects:
            return set()
        text = "".join(f"{value}\n" for value in objects).encode()
        told = await self.must("cat-file", "--batch-check=%(objectname) %(objecttype)", text=text)
        return {line.split(" ")[0] for line in told.splitlines() if not line.endswith(" missing")}

    async def pack(self, sent: SentRefs, have: Sequence[str], file: Path) -> None:
        """Write what becomes of another machine's copy: the refs, then a pack of what it lacks.

        Args:
            sent: the refs.
            have: objects that are there with all that they need; those unknown here do no harm.
            file: where it goes; it appears when it is whole.

        Raises:
            GitError: it cannot be made.
            OSError: likewise.
        """
        there = await self.present([*sent.objects, *have])
        wanted = [value for value in sent.objects if value in there]
        whole = SentRefs(
            format=sent.format,
            head=sent.head,
            refs={name: value for name, value in sent.refs.items() if value in there},
            shallow=sent.shallow,
        )
        lines = [*(f"{v}\n" for v in wanted), *(f"^{v}\n" for v in have if v in there)]
        staged = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            with staged.open("wb") as out:
                out.write(head_line(whole))
                out.flush()
                done = await git(
                    Path("/"), self.git_dir, "pack-objects", "--revs", "--stdout", "--thin",
                    "--delta-base-offset", "-q", text="".join(lines).encode(), out=out,
                )  # fmt: skip
            if done.code:
                raise await self._unpackable(done)
            staged.rename(file)
        finally:
            staged.unlink(missing_ok=True)

    async def _unpackable(self, done: GitEnd) -> GitError:
        """Return the error for a repository of which no pack can be made."""
        wanted = r"^remote\..*\.(promisor|partialclonefilter)$"
        partial = (await self.git("config", "--get-regexp", wanted)).text
        if not partial:
            hint = f"git -C {self.path} fsck"
            return GitError(f"{self.path} cannot be packed: {done.words}", hint=hint)
        remote = partial.split(" ")[0][len("remote.") :].rpartition(".")[0]
        origin = redact((await self.git("config", f"remote.{remote}.url")).text)
        return GitError(
            f"{self.path} is a partial clone, which lacks objects that a worker needs:"
            f" {done.words}",
            hint=f"name where it was cloned from: --rig {origin or 'URL'}; or complete it:"
            f" git -C {self.path} fetch --refetch --no-filter",
        )

    # --- how work comes in ------------------------------------------------------------------------

    async def receive(self, folder: Path, pack: Path | None) -> None:
        """Make a repository aside that borrows from this one, with the objects of a pack in it.

        The objects are checked; the rig itself does not change.

        Args:
            folder: where; what is there is removed first.
            pack: from another machine; None for nothing.

        Raises:
            GitError: the pack is broken, or builds on what is not here.
        """
        await self.look()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        for name in ("objects/info", "objects/pack", "refs/heads", "hooks"):
            private.make(str(folder / name))
        sha256 = self._format == "sha256"
        config = f"[core]\n\trepositoryformatversion = {int(sha256)}\n\tbare = true\n"
        if sha256:
            config += "[extensions]\n\tobjectformat = sha256\n"
        (folder / "config").write_text(config)
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        (folder / "objects/info/alternates").write_text(_alternate(self._objects) + "\n")
        if shallow := await self._shallow():
            (folder / "shallow").write_text(shallow)
        if pack is None:
            return
        with pack.open("rb") as source:
            done = await git(
                folder, folder, "index-pack", "--stdin", "--fix-thin", f"--strict={_OLD_FLAWS}",
                source=source, memory=MEMORY,
            )  # fmt: skip
        if done.code:
            raise GitError(f"what came from there cannot be taken: {done.words}")

    async def push(self, aside: Path, commit: str, branches: Sequence[str]) -> str:
        """Bring a commit in under the first of the branches that takes it; returns that branch.

        Raises:
            RefRefusedError: the rig takes none of them.
            GitError: it could not be done this time.
        """
        for branch in branches:
            done = await self._push(aside, f"{commit}:{_HEADS}{branch}")
            if not done.code or await self.holds(branch, commit, aside):
                return branch
            answer = _answer(done)
            if not ("[rejected]" in answer or "checked out" in answer):
                # a lock is let go of; a branch in the place of a folder of branches stays
                for_now = "lock" in done.err and "cannot create" not in done.err
                # a disk that is full or read-only takes nothing, no kept ref either
                for_now = for_now or "unpacker error" in answer
                if "[remote rejected]" in answer and not for_now:
                    said = _said(done, answer)
                    raise RefRefusedError(f"{self.path} does not take {branch}: {said}")
                raise GitError(f"could not push {branch} to {self.path}: {_said(done, answer)}")
        raise RefRefusedError(f"{', '.join(branches)} in {self.path} have other work")

    async def keep(self, aside: Path, commit: str, ref: str, ours: Sequence[str] = ()) -> None:
        """Bring a commit in under a ref of Outpost's own; an unrelated one there is moved aside.

        Args:
            aside: where the commit is.
            commit: the commit.
            ref: the ref.
            ours: earlier values of it, which the commit takes the place of.

        Raises:
            GitError: it could not be done.
        """
        done = await self._push(aside, f"{commit}:{ref}")
        if done.code and "[rejected]" in _answer(done):
            old = (await self.git("rev-parse", "--quiet", "--verify", ref)).text
            if old:
                if old not in ours:
                    beside = f"{ref}-{old[:8]}"
                    await self._push(aside, f"{old}:{beside}")
                    # only what is seen there may be replaced here
                    if (await self.git("rev-parse", "--quiet", "--verify", beside)).text != old:
                        raise GitError(f"{ref} in {self.path} has other work, which stays")
                done = await self._push(aside, f"{commit}:{ref}", f"--force-with-lease={ref}:{old}")
        if done.code and not await self._fetch_in(aside, commit, ref, ours):
            why = _said(done, _answer(done))
            raise GitError(f"could not keep {ref} in {self.path}: {why}")

    async def _fetch_in(self, aside: Path, commit: str, ref: str, ours: Sequence[str]) -> bool:
        """Take a commit in by a fetch, which asks no hook that guards branches; see it there.

        A hook that refuses every push would otherwise keep the work out of the user's repository
        for ever, and its worker without an end.
        """
        old = (await self.git("rev-parse", "--quiet", "--verify", ref)).text
        if old and old != commit and old not in ours:
            return False
        where = Path("/")
        if (await git(where, aside, "update-ref", ref, commit)).code:
            return False
        quiet = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
        await self.git("fetch", *quiet, "--", str(aside), f"+{ref}:{ref}")
        return (await self.git("rev-parse", "--quiet", "--verify", ref)).text == commit

    async def drop(self, ref: str, ours: Sequence[str]) -> None:
        """Remove a ref of Outpost's own that is not needed any more, unless it is another's."""
        old = (await self.git("rev-parse", "--quiet", "--verify", ref)).text
        if old in ours:
            await self.git("update-ref", "--no-deref", "-d", ref, old)

    async def _push(self, aside: Path, refspec: str, *options: str) -> GitEnd:
        quiet = ("--porcelain", "--no-recurse-submodules", "--no-verify", *options)
        return await git(aside, aside, "push", *quiet, "--", self.path, refspec)

    async def holds(self, branch: str, commit: str, aside: Path | None = None) -> bool:
        """Whether a branch here is at a commit, or continued from it."""
        tip = await self.git("rev-parse", "--quiet", "--verify", _HEADS + branch)
        if tip.code or tip.text == commit:
            return not tip.code
        where = aside or self.git_dir
        ancestor = ("merge-base", "--is-ancestor", commit, tip.text)
        return not (await git(Path("/"), where, *ancestor)).code


def head_line(snapshot: SentRefs) -> bytes:
    """Return the first line of what is sent."""
    told = {
        "format": snapshot.format,
        "head": snapshot.head,
        "refs": dict(snapshot.refs),
        "shallow": list(snapshot.shallow),
    }
    return json.dumps(told, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def digest_of(snapshot: SentRefs) -> str:
    """Return the identity of a snapshot."""
    return hashlib.sha256(head_line(snapshot)).hexdigest()


def _alternate(path: str) -> str:
    """Return a path as a line of `alternates`, quoted where it has to be."""
    if path.startswith('"') or any(c < " " or c == "\x7f" for c in path):
        return json.dumps(path)
    return path


def _answer(done: GitEnd) -> str:
    lines = os.fsdecode(done.out).splitlines()
    return " ".join(line.rpartition("\t")[2] for line in lines if line.startswith("!"))


def _said(done: GitEnd, answer: str) -> str:
    remote = [line[7:].strip() for line in done.err.splitlines() if line.startswith("remote:")]
    told = "; ".join([answer, *remote][:4]) if answer else done.words
    return redact(told)[-400:]
