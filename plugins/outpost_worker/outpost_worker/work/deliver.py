"""Bring the work home: commit what is left, push, and see it on the remote.

Every step can be done again after a crash: a commit that was made is found as the branch's tip, a
push that arrived answers "up to date", and what was seen is seen again.
"""

from __future__ import annotations

import os

from outpost_core.errors import OutpostError, WorkerError
from outpost_core.names import redact
from outpost_shared import faults
from outpost_shared.programs import git_env
from outpost_worker.repository import held
from outpost_worker.repository.changes import look
from outpost_worker.repository.changeset import Changes
from outpost_worker.repository.git import Done, persistently, surroundings
from outpost_worker.work import aside, checkpoint, submodules
from outpost_worker.work.committing import check, commit_all, refuse_half_done
from outpost_worker.work.repair import has_files, mend
from outpost_worker.work.target import claimed, lfs_used
from outpost_worker.work.workspace import from_mirror, repository

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from outpost_worker.record.standing import Standing
    from outpost_worker.repository.owngit import Own

    Report = Callable[[str], None]

#: Seconds that the pull-request command may take (`OUTPOST_PR_TIMEOUT`).
PR_TIMEOUT = float(os.environ.get("OUTPOST_PR_TIMEOUT", "120"))
_HEADS = "refs/heads/"
_KEPT = "the work is kept in "


def deliver(
    order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """Push the worker's work to its branch and return what was seen on the remote.

    The agent's processes must have ended. What it left uncommitted is committed without running
    any hook (as `git commit --no-verify`) and without signing: hooks are made for people, and
    may ask, reformat or refuse. Work on another branch or on a detached HEAD is delivered too.
    The remote's branch is never forced: when it went another way, the work goes to
    `<branch>-<attempt>`.

    Args:
        order: the order's JSON.
        folder: the worker's folder.
        workspace: what `workspace.prepare` returned.
        report: told what is being done.

    Returns:
        `reason` (`ok`, `nothing_to_commit`, or `filter_missing` when files are left that may be
        in no commit; the rest was delivered), `branch`, `commit`, `pr_url`, `message`, and
        `checkpoint`: where work is kept that was not delivered, None when there is none. The
        worker's checkpoint is taken off the rig once a delivery holds all of it.

    Raises:
        WorkerError: `commit_failed`, `push_failed`, `verify_failed`, `disk_full`, or `superseded`
            where another machine has the worker by now; the message says where the work is kept.
    """
    git = repository(order, folder)
    try:
        work = _find(git, order, folder, workspace)
        faults.point("worker.committed")
        standing = claimed(order, folder)
        if standing:
            standing.check()
        if work.commit is None or work.commit == workspace["remote_tip"]:
            _settle(git, order, folder, workspace, work)
            return _kept_back(order, folder, work, _nothing(workspace, work))
        if lfs_used(git, workspace):
            from outpost_worker.work import lfs

            lfs.upload(git, order, folder, workspace, work.commit, report)
        submodules.push(git, order, folder, workspace, work.commit, report)
        branch = _push_or_part(git, order, folder, workspace, work, report, standing)
        faults.point("worker.pushed")
        _verify(git, order, folder, branch, work.commit, report)
        faults.point("worker.verified")
    except WorkerError as error:
        # of a folder that is not the worker's any more, nothing can be kept as it stands
        kept = "" if error.reason == "broken" else _keep(order, folder, workspace)
        if kept:
            error.message += f"; {kept}"
        raise
    _settle(git, order, folder, workspace, work)
    pr_url = _pull_request(git, order, workspace, branch, work.notes, report)
    pushed = f"pushed {branch} at {work.commit[:12]}"
    done = {
        "reason": "ok",
        "branch": branch,
        "commit": work.commit,
        "pr_url": pr_url,
        "message": "; ".join([pushed, *work.notes]),
    }
    return _kept_back(order, folder, work, done)


def _kept_back(
    order: Mapping[str, Any], folder: str, work: _Work, done: dict[str, Any]
) -> dict[str, Any]:
    """Add where work is kept that was not delivered; some of it turns the reason."""
    done["checkpoint"] = checkpoint.place(order, folder)
    if work.refused:
        done["reason"] = "push_failed"
        done["message"] += f"; {work.refused}"
    if work.unfiltered:
        archive = held.keep(folder, work.unfiltered)
        done["reason"] = "filter_missing"
        done["checkpoint"] = done["checkpoint"] or archive
        done["message"] += f"; it is kept in {archive}, and pushed nowhere\n  → {held.MEND}"
    return done


def unpushed(folder: str, workspace: Mapping[str, Any]) -> bool:
    """Return whether the working tree or repository holds work that is kept nowhere else.

    Work on the rig's branches or in a checkpoint counts as kept; ignored files do not count.
    When it cannot be read, the answer is True.
    """
    try:
        return checkpoint.unsaved(folder, workspace)
    except WorkerError:
        return True


class _Work:
    """What is to be delivered.

    Attributes:
        commit: the commit, or None when there is nothing.
        notes: sentences for the result's message.
        rest: there may be more work than that commit holds.
        unfiltered: changed files that are in no commit since their filter is missing.
        before: the agent's HEAD, where `commit` is a commit of ours on top of it.
        own: that HEAD is work of the agent.
        refused: why the remote took the agent's own commits alone; "" where it took all.
    """

    def __init__(self, commit: str | None = None, *notes: str, rest: bool = False) -> None:
        self.commit = commit
        self.notes = list(notes)
        self.rest = rest
        self.unfiltered: list[str] = []
        self.before: str | None = None
        self.own = False
        self.refused = ""


def _find(git: Own, order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]) -> _Work:
    """Find the agent's work and commit what is in no commit."""
    changes, mended = mend(git, folder, workspace, strict=True)
    if submodules.commit(git, order, folder, workspace):
        changes = look(git)
    held.hold(git, folder, changes)
    work = _commit(git, order, folder, workspace, changes)
    if changes.unfiltered:
        work.notes.append(held.said(changes.unfiltered, changes.lacking))
        work.unfiltered = changes.unfiltered
    leaked = held.leaks(git, folder, workspace, changes.lacking, work.commit or "")
    if leaked:
        raise WorkerError(
            f"{', '.join(leaked[:5])}: the agent committed without the filter"
            f" {', '.join(sorted(changes.lacking))}, which is missing here, so nothing was pushed",
            reason="filter_missing",
            hint=held.MEND,
        )
    if git.has_others():
        work.rest = True
    if mended:
        work.notes.append(mended)
        work.rest = True
    if aside.stashes(git):
        work.notes.append("the agent left work in a stash")
        work.rest = True
    return work


def _commit(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    changes: Changes,
) -> _Work:
    refuse_half_done(git, changes)
    tree, branch = os.path.join(folder, "work"), workspace["branch"]
    tips = None
    if changes.branch != branch:
        tips = _Tips(git, workspace)
        own = tips.local.get(branch)
        if own and not tips.holds_work(changes.head) and tips.holds_work(own):
            note = f"the agent left {changes.branch or 'a detached HEAD'} checked out"
            return _Work(own, note, rest=changes.dirty)
    if changes.dirty:
        head = commit_all(git, order, folder, tree, changes)
        rest = bool(check(git, tree, look(git), changes.held))
        if head != changes.head:
            work = _Work(head, *_said(changes, branch), rest=rest or changes.branch != branch)
            work.before = changes.head
            work.own = (tips or _Tips(git, workspace)).holds_work(changes.head)
            return work
    elif changes.blind:
        check(git, tree, changes, changes.held)
    tips = tips or _Tips(git, workspace)
    if tips.holds_work(changes.head):
        return _Work(changes.head, *_said(changes, branch), rest=changes.branch != branch)
    for name, tip in tips.local.items():
        if tips.holds_work(tip):
            return _Work(tip, f"the agent worked on the branch {name}", rest=True)
    return _Work()


def _said(changes: Changes, branch: str) -> list[str]:
    notes = []
    if changes.branch != branch:
        notes.append(f"the agent worked on {changes.branch or 'a detached HEAD'}")
    if changes.nested:
        some = ", ".join(changes.nested[:3])
        notes.append(f"{some}: git repositories inside the tree, delivered as plain files")
    return notes


class _Tips:
    """The local branches, newest first, and which commits count as work."""

    def __init__(self, git: Own, workspace: Mapping[str, Any]) -> None:
        self._git = git
        listed = git.must(
            *("for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname)"),
            *("refs/heads", "refs/remotes/origin"),
            doing="list the branches",
            reason="commit_failed",
        )
        refs: dict[str, str] = {}
        for line in listed.text.splitlines():
            tip, _, name = line.partition(" ")
            refs[name] = tip
        self.local = {
            name[len(_HEADS) :]: tip for name, tip in refs.items() if name.startswith(_HEADS)
        }
        upstream = refs.get(f"refs/remotes/origin/{workspace['base_branch']}")
        self._base = [known for known in (workspace["base_commit"], upstream) if known]

    def holds_work(self, commit: str | None) -> bool:
        """Whether a commit has something that the branch it started from does not have."""
        if commit is None or commit in self._base:
            return False
        return bool(self._git.run("rev-list", "--max-count=1", commit, "--not", *self._base).out)


def _nothing(workspace: Mapping[str, Any], work: _Work) -> dict[str, Any]:
    branch = workspace["branch"] if work.commit else None
    message = f"the agent changed nothing{' else' if work.unfiltered else ''}"
    if branch:
        message += f"; {branch} is on the rig already"
    message = "; ".join([message, *work.notes])
    return {
        "reason": "nothing_to_commit",
        "branch": branch,
        "commit": work.commit,
        "pr_url": None,
        "message": message,
    }


def _push_or_part(
    git: Own,
    order: Mapping[str, Any],
    folder: str,
    workspace: Mapping[str, Any],
    work: _Work,
    report: Report,
    standing: Standing | None,
) -> str:
    """Push the work; when the remote refuses our commit of what was left, the agent's own ones.

    Returns:
        The branch.

    Raises:
        WorkerError: the remote took neither; the message names the files of our commit.
    """
    try:
        return _push(git, order, workspace, work, report, standing)
    except WorkerError as error:
        if "[remote rejected]" not in error.message or not work.before:
            raise
        named = _offending(git, work, error.message)
        error.message += f"; refused with what the agent had left uncommitted: {named}"
        if not work.own:
            raise
        whole, work.commit = work.commit, work.before
        try:
            submodules.push(git, order, folder, workspace, work.before, report)
            branch = _push(git, order, workspace, work, report, standing)
        except WorkerError:
            work.commit = whole
            raise error from None
        work.refused, work.rest = error.message, True
        return branch


def _offending(git: Own, work: _Work, said: str) -> str:
    """Return those files of our commit that the remote speaks of; all where it names none."""
    listed = git.run("diff", "--name-only", "-z", "--no-renames", f"{work.before}..{work.commit}")
    paths = [path for path in os.fsdecode(listed.out).split("\0") if path]
    paths = [path for path in paths if path in said] or paths
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _push(
    git: Own,
    order: Mapping[str, Any],
    workspace: Mapping[str, Any],
    work: _Work,
    report: Report,
    standing: Standing | None,
) -> str:
    """Push to the branch, or beside it when it went another way; returns the branch."""
    wanted, commit = workspace["branch"], work.commit
    assert commit is not None
    beside = f"{wanted}-{order['attempt']}"
    for branch in (wanted, beside, f"{beside}-{commit[:8]}"):
        report(f"pushing {branch}")
        refspec = f"{commit}:{_HEADS}{branch}"
        done = persistently(lambda: _send(git, refspec, standing), report, "pushing")  # noqa: B023
        if done.code == 0 or (_went_on(done) and _contains(git, branch, commit)):
            if branch != wanted:
                work.notes.append(f"{wanted} on the rig has other work, which was left as it is")
            return branch
        if not _went_on(done):
            raise _push_error(git, done, branch)
    raise WorkerError(f"{wanted} and {beside} on the rig have other work", reason="push_failed")


def _send(git: Own, refspec: str, standing: Standing | None) -> Done:
    if standing:
        return standing.push(git, refspec)
    return git.run("push", "--porcelain", "--no-recurse-submodules", "outpost", refspec)


def _went_on(done: Done) -> bool:
    """Whether the remote's branch has commits that ours does not have."""
    return done.code != 0 and any(
        line.startswith(b"!") and b"[rejected]" in line for line in done.out.splitlines()
    )


def _push_error(git: Own, done: Done, branch: str) -> WorkerError:
    refused = [line for line in os.fsdecode(done.out).splitlines() if line.startswith("!")]
    answer = "".join(f" ({line.rpartition(chr(9))[2]})" for line in refused)
    error = git.error(done, f"push {branch}{answer}", "push_failed")
    error.hint = "push it by hand when the rig takes it again, or spawn the issue again"
    return error


def _contains(git: Own, branch: str, commit: str, tip: str = "") -> bool:
    """Whether the remote's branch, or its `tip`, holds the commit: someone may have moved on."""
    seen = f"refs/remotes/origin/{branch}"
    fetched = git.run("fetch", "--quiet", "--no-tags", "outpost", f"+{_HEADS}{branch}:{seen}")
    ancestor = ("merge-base", "--is-ancestor", commit, tip or seen)
    return not fetched.code and not git.run(*ancestor).code


def _verify(
    git: Own, order: Mapping[str, Any], folder: str, branch: str, commit: str, report: Report
) -> None:
    report("looking at the rig")
    name = _HEADS + branch
    mirror = from_mirror(order, folder)
    done = persistently(
        lambda: mirror.run("ls-remote", "--", mirror.url, name), report, "looking at the rig"
    )
    seen = [line.split("\t")[0] for line in done.text.splitlines() if line.endswith("\t" + name)]
    if seen == [commit] or (seen and _contains(git, branch, commit, seen[0])):
        return
    # The push made git believe that the rig has the commit; without that, it counts as unpushed.
    git.run("update-ref", "-d", f"refs/remotes/origin/{branch}")
    if done.code:
        raise git.error(done, f"see {branch} on the rig after the push", "verify_failed")
    raise WorkerError(
        f"the push was answered, but {branch} on the rig is at {seen[0] if seen else 'nothing'}"
        f" instead of {commit}",
        reason="verify_failed",
        hint="look for a hook or a mirror on the rig that moves branches",
    )


def _settle(
    git: Own, order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any], work: _Work
) -> None:
    """Keep what the delivery does not hold; when it holds all, no checkpoint is needed any more."""
    kept = _keep(order, folder, workspace) if work.rest else ""
    checkpoint.discard(git, order, folder, workspace)
    if kept and (checkpoint.place(order, folder) or not kept.startswith(_KEPT)):
        work.notes.append(kept)


def _keep(order: Mapping[str, Any], folder: str, workspace: Mapping[str, Any]) -> str:
    """Save what is not on the rig and say where it is; "" when there is nothing."""
    try:
        saved = checkpoint.save(order, folder, workspace, final=True)
    except (OutpostError, OSError) as error:
        if not has_files(folder):
            return ""
        why = redact(str(error), order["rig"])
        return f"the work stays in {os.path.join(folder, 'work')} ({why})"
    places = [place for place in (saved["ref"] or saved["kept"], saved.get("archive")) if place]
    return _KEPT + " and ".join(places) if places else ""


def _pull_request(
    git: Own,
    order: Mapping[str, Any],
    workspace: Mapping[str, Any],
    branch: str,
    notes: list[str],
    report: Report,
) -> str | None:
    """Run the pull-request command; its failure is told and does not undo the delivery."""
    if not order["delivery"]["pr_command"]:
        return None
    import subprocess

    report("opening the pull request")
    values = {
        "{branch}": branch,
        "{base}": workspace["base_branch"] or "",
        "{title}": order["issue"]["title"],
        "{issue}": order["issue"]["id"],
    }
    argv = [_fill(word, values) for word in order["delivery"]["pr_command"]]
    # In the tree, git and what asks it (gh, glab) would read what the agent configured there.
    env = {**git_env(surroundings()), "GIT_DIR": git.git_dir, "GIT_WORK_TREE": git.work}
    printed = ""
    try:
        done = subprocess.run(
            argv,
            cwd=git.git_dir,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PR_TIMEOUT,
            check=False,
        )
        printed = done.stdout.decode(errors="replace")
        failed = f"ended with {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        failed = f"did not end within {PR_TIMEOUT:g} s"
    except OSError as error:
        failed = f"could not be run: {error.strerror}"
    if failed:
        last = redact(printed, order["rig"]).strip().rpartition("\n")[2][-300:]
        notes.append(f"the pull-request command {failed}" + (f": {last}" if last else ""))
    return _last_url(printed)


def _fill(word: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders in one pass, so that a title with `{branch}` in it stays."""
    parts = []
    while word:
        start, name = min(
            ((word.find(name), name) for name in values if name in word), default=(len(word), "")
        )
        parts += [word[:start], values.get(name, "")]
        word = word[start + len(name) :]
    return "".join(parts)


def _last_url(text: str) -> str | None:
    urls = [
        word[word.find("http") :].rstrip(".,;:!?)]}>'\"")
        for word in text.split()
        if "http://" in word or "https://" in word
    ]
    return urls[-1] if urls else None
