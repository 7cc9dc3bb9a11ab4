"""Rescue: cleaning loses no work, names where it is, and moves nobody else's refs."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from outpost_core.types import Limits, State
from outpost_testing.checks.outcome import git, git_bytes, make_rig, rig_order
from outpost_testing.registry import add_check, check
from outpost_testing.trial import HOLD, CheckFailed, expect

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_testing.registry import CheckFunction
    from outpost_testing.trial import Trial

#: `shared`, since what is kept beside the remote is a path of the outpost's machine.
_NEEDS: Final = ("shared", "rig", "local_rig", "checkpoint", "clean")
#: Commits a file; an agent's name is none of these checks' business.
_ONE: Final = (
    "echo precious-1 >a; git add a;"
    " git -c user.name=kit -c user.email=kit@localhost commit --quiet -m work"
)
_SUBMODULE: Final = 'git -c protocol.file.allow=always submodule --quiet add "$CF_FOLDER/seed" sub'
#: Two ids of ledgers.
_A: Final = "aaaaaaaaaaaa"
_B: Final = "bbbbbbbbbbbb"
_EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

#: What each kind of work is, and how an agent makes it; every text of `precious-…` must be kept.
_FORMS: Final = {
    "untracked_files": (
        "Files that were never added are",
        "echo precious-1 >new.txt; mkdir 'a b'; echo precious-2 >'a b/c d'",
    ),
    "outside_of_a_sparse_checkout": (
        "What lies outside of a sparse checkout is",
        "git sparse-checkout set in; mkdir in out; echo precious-1 >in/a; echo precious-2 >out/b",
    ),
    "a_linked_worktree": (
        "Commits and files of a linked working tree inside the worker's own are",
        f"git worktree add --quiet -b side side; cd side; {_ONE}; echo precious-2 >b",
    ),
    "a_repository_inside": (
        "Commits and files of a repository inside the working tree are",
        f"git init --quiet inner; cd inner; {_ONE}; git rm --quiet a; echo precious-2 >b",
    ),
    "a_submodule": (
        "An edit in a submodule is",
        f"{_SUBMODULE}; echo precious-1 >>sub/README; echo precious-2 >sub/new",
    ),
}


def _rescues(script: str) -> CheckFunction:
    async def rescues(trial: Trial) -> None:
        rig = make_rig(trial)
        order = rig_order(trial, rig, f"set -e; {script}; echo made >$CF_FOLDER/made; exit 3")
        await _clean_keeps(trial, rig, order)

    return rescues


for _name, (_what, _script) in _FORMS.items():
    add_check(
        _rescues(_script),
        "rescue",
        f"of_{_name}",
        f"{_what} where clean says, or clean refuses.",
        needs=_NEEDS,
        patience=4.0,
    )


async def _clean_keeps(trial: Trial, rig: Path, order: Order) -> str:
    """Run an agent to its failure, clean it, and expect its work; returns where that is said."""
    result = await trial.end(order)
    made = (trial.folder / "made").exists()
    expect(made, f"The agent could not do its work: {(await trial.log(order))[-300:]!r}")
    expect(result.exit_code == 3, f"The agent exited {result.exit_code}: {result.message}")
    cleaned = await trial.outpost.outpost_clean(worker=order.worker, force=False)
    if not cleaned.removed:
        expect(cleaned.detail, "It was not removed, and nothing says why.")
        expect(order.worker in await trial.listed(), "It was refused, and the worker is gone.")
        trial.notes.append(f"refused: {cleaned.detail}")
        return ""
    expect(cleaned.rescued, f"It was removed with its work, and nothing was kept: {cleaned}.")
    said = [cleaned.rescued, *re.findall(r"also kept: ([^;]+)", cleaned.detail)]
    _expect_precious(trial, rig, said)
    where: str = cleaned.rescued
    return where


def _expect_precious(trial: Trial, rig: Path, said: list[str]) -> None:
    held = b"".join(_content(trial, rig, where) for where in said)
    for text in (b"precious-1", b"precious-2"):
        expect(text in held, f"{', '.join(said)} does not hold {text.decode()}.")


def _content(trial: Trial, rig: Path, where: str) -> bytes:
    """Return all that is kept in a place: a ref of the rig, or a path."""
    if where.startswith("refs/"):
        expect(_tip(rig, where), f"It names {where}, which the remote does not have.")
        return _fetched(trial, rig, rig, where)
    path = Path(where)
    expect(path.is_absolute() and path.exists(), f"It names {where}, and nothing is there.")
    return _read(trial, rig, path)


def _read(trial: Trial, rig: Path, path: Path) -> bytes:
    """Return what a bundle, an archive, a repository, a folder or a file holds."""
    if path.is_dir():
        found = [_read(trial, rig, below) for below in path.iterdir() if not below.is_symlink()]
        if (path / "HEAD").is_file() and (path / "objects").is_dir():
            found.append(_objects(path))
        return b"".join(found)
    content = path.read_bytes()
    if content.startswith(b"# v") and b" git bundle\n" in content[:20]:
        return _fetched(trial, rig, path, "refs/*")
    if tarfile.is_tarfile(path):
        folder = trial.folder / f"unpacked-{path.name}"
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
        return _read(trial, rig, folder)
    return content


def _fetched(trial: Trial, rig: Path, source: Path, ref: str) -> bytes:
    """Fetch a ref beside the rig's main branch, and return every object."""
    scratch = trial.folder / "scratch.git"
    if not scratch.exists():
        git("init", "--quiet", "--bare", str(scratch), folder=trial.folder)
        git("fetch", "--quiet", str(rig), "refs/heads/main:refs/heads/main", folder=scratch)
    goal = f"+{ref}:refs/kept/{ref.removeprefix('refs/')}"
    git("fetch", "--quiet", "--no-tags", str(source), goal, folder=scratch)
    return _objects(scratch)


def _objects(repository: Path) -> bytes:
    return git_bytes("cat-file", "--batch-all-objects", "--batch", folder=repository)


def _tip(rig: Path, ref: str) -> str:
    return git("for-each-ref", "--format=%(objectname)", ref, folder=rig)


def _foreign(rig: Path, *refs: str) -> str:
    """Put somebody else's commit at refs of the rig, and return it."""
    git("hash-object", "-t", "tree", "-w", "/dev/null", folder=rig)
    commit = git("commit-tree", _EMPTY_TREE, "-m", "of somebody else", folder=rig)
    for ref in refs:
        git("update-ref", ref, commit, folder=rig)
    return commit


_MADE: Final = "echo precious-1 >a; echo precious-2 >b; echo made >$CF_FOLDER/made"
_WORK: Final = f"{_MADE}; exit 3"


@check("rescue", needs=_NEEDS, patience=6.0)
async def when_the_remote_refuses(trial: Trial) -> None:
    """Work that the remote does not take is outside of the worker's folder once that is cleaned,
    at the place that clean names; a worker whose end is not told for so long is not cleaned.
    """
    rig = make_rig(trial)
    hook = rig / "hooks" / "update"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o700)
    order = rig_order(trial, rig, _WORK)
    await trial.spawn(order)
    await trial.seen("made")
    try:
        await trial.ended(order, within=min(3.0, trial.target.within))
    except CheckFailed:
        cleaned = await trial.outpost.outpost_clean(worker=order.worker, force=False)
        expect(not cleaned.removed, f"It was removed before its end was told: {cleaned}.")
        trial.notes.append("its end is told when the remote takes its work")
        hook.unlink()
    await _clean_keeps(trial, rig, order)


@check("rescue", needs=_NEEDS, patience=4.0)
async def of_nothing_is_not_claimed(trial: Trial) -> None:
    """Where there is no unpushed work, clean names no rescue."""
    rig = make_rig(trial)
    for script in ("exit 0", "exit 3", "echo new >new.txt"):
        order = rig_order(trial, rig, script)
        await trial.end(order)
        cleaned = await trial.outpost.outpost_clean(worker=order.worker, force=False)
        expect(cleaned.removed, f"After {script!r} it was not removed: {cleaned.detail}.")
        expect(not cleaned.rescued, f"After {script!r} it claims {cleaned.rescued}.")
    refs = git("for-each-ref", "refs/outpost", folder=rig)
    expect(not refs, f"The remote has {refs}.")


# --- refs of others -------------------------------------------------------------------------


@check("rescue", needs=_NEEDS, patience=6.0)
async def owners_are_apart(trial: Trial) -> None:
    """Workers of the same id that two ledgers ordered keep their work under two refs."""
    rig = make_rig(trial)
    first = rig_order(trial, rig, _WORK, owner=_A)
    where = await _clean_keeps(trial, rig, first)
    before = _tip(rig, where)
    script = "echo precious-1 >a; echo precious-2 >b; echo other >c; exit 3"
    second = trial.sh(
        script, issue=first.issue.id, rig=first.rig, delivery=first.delivery, owner=_B
    )
    other = await _clean_keeps(trial, rig, second)
    expect(where and other and where != other, f"Both are said to be at {where!r}.")
    expect(_tip(rig, where) == before, f"{where} of the first was overwritten or removed.")


@check("rescue", needs=_NEEDS, patience=6.0)
async def foreign_refs_stay(trial: Trial) -> None:
    """A checkpoint overwrites and removes no value that its worker did not put there; the work is
    kept elsewhere, at a place that is named.
    """
    rig = make_rig(trial)
    order = rig_order(trial, rig, _WORK, owner=_A)
    refs = [f"refs/outpost/{owner}{order.worker}" for owner in (f"{_A}/", f"{_B}/", "")]
    commit = _foreign(rig, *refs)
    result = await trial.end(order)
    _expect_foreign(rig, refs, commit)
    expect(result.checkpoint not in refs, f"It says that its work is at {result.checkpoint}.")
    await _clean_keeps(trial, rig, order)
    _expect_foreign(rig, refs, commit)


async def _moved(trial: Trial, script: str) -> tuple[Path, Order, str, str]:
    """Run an agent whose worker's ref gets somebody else's value meanwhile, to its end.

    Returns the rig, the order, the ref and the foreign commit.
    """
    rig = make_rig(trial)
    limits = Limits(grace=1.0, checkpoint_every=0.3)
    order = rig_order(trial, rig, script, owner=_A, limits=limits)
    ref = f"refs/outpost/{_A}/{order.worker}"
    await trial.spawn(order)
    await trial.seen("made")

    async def there() -> bool:
        return bool(_tip(rig, ref))

    try:
        await trial.until(there, "no checkpoint came", within=min(3.0, trial.target.within))
    except CheckFailed:  # an outpost may bring all home at the end: then the value is there first
        trial.notes.append(f"no checkpoint came to {ref} while the agent ran")
    commit = _foreign(rig, ref)
    trial.release()
    await trial.ended(order)
    return rig, order, ref, commit


@check("rescue", needs=_NEEDS, patience=6.0)
async def a_moved_ref_stays(trial: Trial) -> None:
    """A worker whose ref got somebody else's value does not remove it when it has delivered."""
    rig, order, ref, commit = await _moved(trial, f"{_MADE}; {HOLD}")
    result = (await trial.status(order)).result
    done = result is not None and result.state is State.DONE
    expect(done, f"It did not deliver its work: {result}.")
    _expect_foreign(rig, [ref], commit)


@check("rescue", needs=_NEEDS, patience=6.0)
async def a_moved_ref_is_not_lost(trial: Trial) -> None:
    """A worker whose ref got somebody else's value has unpushed work where it says; that value is
    at a ref too, at its own or at one beside it.
    """
    rig, order, ref, commit = await _moved(trial, f"{_MADE}; {HOLD}; exit 3")
    await _clean_keeps(trial, rig, order)
    there = git("for-each-ref", "--points-at", commit, "--format=%(refname)", folder=rig)
    expect(there, f"{commit}, which was at {ref}, is at no ref any more.")
    if there != ref:
        trial.notes.append(f"the value of {ref} is at {there} now")


def _expect_foreign(rig: Path, refs: list[str], commit: str) -> None:
    for ref in refs:
        there = _tip(rig, ref)
        expect(there == commit, f"{ref} had {commit}, it was overwritten and has {there!r}.")
