"""Security: repositories that mean harm. Nothing in an agent's repository runs, or leads astray,
what commits and pushes its work.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from outpost_core.errors import OutpostError
from outpost_core.types import Delivery, State
from outpost_testing.checks.outcome import git, make_rig, rig_order
from outpost_testing.registry import add_check, check
from outpost_testing.trial import expect

if TYPE_CHECKING:
    from pathlib import Path

    from outpost_testing.registry import CheckFunction
    from outpost_testing.trial import Trial

_NEEDS: Final = ("shared", "rig", "local_rig")

#: How an agent makes its working tree or its repository another one. `$CF_FOLDER/private` is a
#: folder of the user, `$CF_FOLDER/mine` a clone of theirs.
_ASTRAY: Final = {
    "a_tree_that_became_a_link": (
        "A working tree that became a link to a folder of the user",
        'w=${PWD##*/}; cd ..; mv "$w" old; ln -s "$CF_FOLDER/private" "$w"',
    ),
    "a_repository_that_became_a_link": (
        "A repository that became a link to one of the user's",
        'rm -rf .git; ln -s "$CF_FOLDER/mine/.git" .git; echo new >new',
    ),
    "a_repository_that_names_another": (
        "A repository that became a file which names one of the user's",
        'rm -rf .git; echo "gitdir: $CF_FOLDER/mine/.git" >.git; echo new >new',
    ),
    "a_repository_with_another_tree": (
        "A repository that names a folder of the user as its working tree",
        'git config core.worktree "$CF_FOLDER/private"; echo new >new',
    ),
    "a_repository_with_linked_parts": (
        "A repository whose index, refs and HEAD are links into one of the user's",
        (
            "for n in index refs HEAD logs packed-refs; do"
            ' rm -rf ".git/$n"; ln -s "$M/$n" ".git/$n"; done; echo new >new'
        ),
    ),
    "a_repository_with_a_common_folder": (
        "A repository that shares its refs with one of the user's",
        'echo "$CF_FOLDER/mine/.git" >.git/commondir; echo new >new',
    ),
}


def _goes_astray(told: str) -> CheckFunction:
    async def goes(trial: Trial) -> None:
        rig = make_rig(trial)
        private, mine = trial.folder / "private", trial.folder / "mine"
        private.mkdir()
        precious = f"precious-{secrets.token_hex(8)}"
        (private / "key").write_text(f"{precious}\n")
        git("clone", "--quiet", str(rig), str(mine), folder=trial.folder)
        (mine / "half").write_text(f"{precious}\n")
        git("add", "half", folder=mine)
        before = _state_of(mine)
        order = rig_order(trial, rig, "true")
        script = f'M="$CF_FOLDER/mine/.git"; {told}'
        for code, attempt in (("0", 1), ("3", 2)):
            again = trial.sh(
                f"{script}; exit {code}", issue=order.issue.id, attempt=attempt, rig=str(rig),
                delivery=order.delivery,
            )  # fmt: skip
            await trial.spawn(again)
            await trial.ended(again)
            if "clean" in trial.target.capabilities:
                with suppress(OutpostError):
                    await trial.outpost.outpost_clean(worker=again.worker, force=False)
        held = git("log", "--all", "-p", "--format=%H", folder=rig)
        expect(precious not in held, "What is the user's alone was pushed to the rig.")
        expect(_state_of(mine) == before, "The user's own repository was changed.")
        found = [path.name for path in private.iterdir()]
        expect(found == ["key"], f"The user's own folder has {found}.")

    return goes


def _state_of(clone: Path) -> dict[str, bytes]:
    """Return all that a repository keeps but its objects, byte for byte."""
    kept = {}
    for path in (clone / ".git").rglob("*"):
        name = str(path.relative_to(clone / ".git"))
        if path.is_file() and not name.startswith("objects/"):
            kept[name] = path.read_bytes()
    return kept


for _name, (_what, _script) in _ASTRAY.items():
    add_check(
        _goes_astray(_script),
        "security",
        f"of_{_name}",
        f"{_what} moves nothing of theirs, and nothing of theirs is pushed.",
        needs=_NEEDS,
        patience=4.0,
    )

#: What git runs because a repository's configuration says so, by when it does; `@P` is the program,
#: `@R` the rig, `@F` the check's folder.
_CONFIGS: Final = {
    "staging": (
        '[filter "kit"]\n clean = @P\n smudge = @P\n process = @P\n required = true\n'
        "[core]\n fsmonitor = @P\n attributesFile = @F/attributes\n"
    ),
    "a filter": '[filter "kit"]\n clean = @P\n',
    "an include": "[include]\n path = @F/included\n[core]\n attributesFile = @F/attributes\n",
    "a monitor": "[core]\n fsmonitor = @P\n",
    "hooks": "[core]\n hooksPath = @F\n",
    "showing": (
        "[core]\n pager = @P\n editor = @P\n[diff]\n external = @P\n"
        '[diff "kit"]\n textconv = @P\n command = @P\n[merge "kit"]\n driver = @P\n'
    ),
    "signing": (
        "[commit]\n gpgSign = true\n[tag]\n gpgSign = true\n[push]\n gpgSign = if-asked\n"
        "[gpg]\n program = @P\n[user]\n signingKey = kit\n"
    ),
    "pushing": (
        '[remote "origin"]\n receivepack = @P\n uploadpack = @P\n'
        '[remote "outpost"]\n receivepack = @P\n uploadpack = @P\n pushurl = "ext::@P"\n'
        "[protocol]\n allow = always\n"
    ),
    "another address": (
        '[protocol "ext"]\n allow = always\n[protocol]\n allow = always\n'
        '[url "ext::@P "]\n insteadOf = @R\n pushInsteadOf = @R\n'
    ),
    "logging in": (
        '[credential]\n helper = "!@P"\n[core]\n sshCommand = @P\n askPass = @P\n gitProxy = @P\n'
    ),
    "objects": (
        "[core]\n alternateRefsCommand = @P\n[uploadpack]\n packObjectsHook = @P\n"
        "[gc]\n auto = 1\n[maintenance]\n auto = true\n"
        '[lfs]\n standalonetransferagent = kit\n[lfs "customtransfer.kit"]\n path = @P\n'
    ),
}
_HOOKS: Final = (
    "pre-commit prepare-commit-msg commit-msg post-commit pre-push post-checkout post-index-change"
    " reference-transaction pre-auto-gc fsmonitor-watchman post-rewrite post-merge update"
    " pre-receive post-receive post-update proc-receive push-to-checkout sendemail-validate"
)


@check("security", needs=_NEEDS, patience=6.0)
async def configuration_of_a_repository_runs_nothing(trial: Trial) -> None:
    """Filters, hooks, commands and addresses that an agent writes into its repository's own
    configuration run nothing and lead nowhere, when its work is delivered, rescued and cleaned.
    """
    rig = make_rig(trial)
    program, ran = trial.folder / "program", trial.folder / "ran"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >>"{ran}"\n[ -t 0 ] || cat\n')
    program.chmod(0o755)
    (trial.folder / "included").write_text(f'[filter "more"]\n\tclean = {program}\n')
    (trial.folder / "attributes").write_text("* filter=more\n")
    for hook in _HOOKS.split():
        (trial.folder / hook).symlink_to(program)
    plant = (
        f'for h in {_HOOKS}; do cp "$CF_FOLDER/program" ".git/hooks/$h"; done; mkdir -p .git/info;'
        ' printf "* filter=kit diff=kit merge=kit\\n" | tee .git/info/attributes >.gitattributes;'
        ' printf "%s" "$1" >>.git/config; printf "%s" "$1" >.git/config.worktree;'
        " echo new >new; echo changed >>README; exit $2"
    )
    orders = {}
    for number, (what, config) in enumerate(_CONFIGS.items()):
        for mark, path in (("@P", program), ("@R", rig), ("@F", trial.folder)):
            config = config.replace(mark, str(path))
        orders[what] = rig_order(trial, rig, plant, args=(config, "03"[number % 2]))
    for order in orders.values():
        await trial.spawn(order)
    results = await trial.ended(*orders.values(), within=3 * trial.target.within)
    for (what, order), result in zip(orders.items(), results, strict=True):
        if result.state is State.DONE and result.branch:
            there = git("for-each-ref", "--format=%(objectname)", f"refs/heads/{result.branch}",
                        folder=rig)  # fmt: skip
            expect(there == result.commit, f"With {what} it is told as done, and nothing is there.")
        _ran_nothing(ran, "when the work was brought home")
        if "clean" in trial.target.capabilities:
            with suppress(OutpostError):
                await trial.outpost.outpost_clean(worker=order.worker, force=False)
            _ran_nothing(ran, f"when one with {what} was cleaned")


def _ran_nothing(ran: Path, when: str) -> None:
    said = ran.read_text()[:300] if ran.exists() else ""
    expect(not said, f"The agent's program ran {when}: {said}")


@check("security", needs=("rig",), patience=8.0)
async def names_that_look_like_options_run_nothing(trial: Trial) -> None:
    """A rig, a base or a branch that looks like an option or a command is refused or not found,
    and runs nothing.
    """
    rig, ran = make_rig(trial), trial.folder / "ran"
    touch = f"touch {ran}"
    rigs = (
        f"--upload-pack={touch};", f"ext::sh -c '{touch}'", f"-c core.sshCommand='{touch}'",
        f"ssh://-oProxyCommand={touch}/x", f"$({touch})", f"file://$({touch})", f"; {touch}",
    )  # fmt: skip
    orders = [
        trial.sh("exit 0", rig=text, delivery=Delivery(branch="kit/x", message="kit"))
        for text in rigs
    ]
    orders += [
        trial.sh(
            "exit 0", rig=str(rig), base=text, delivery=Delivery(branch="kit/x", message="kit")
        )
        for text in (f"--upload-pack={touch}", f"--output={ran}", f"$({touch})")
    ]
    orders += [
        trial.sh("echo x >x", rig=str(rig), delivery=Delivery(branch=text, message="kit"))
        for text in (f"--receive-pack={touch}", f"-o{ran}", f"x$({touch})", "../../x", "x..y")
    ]
    asked = []
    for order in orders:
        with suppress(OutpostError):
            await trial.spawn(order)
            asked.append(order)
    # some are asked for again and again, as a remote that may come back is
    for result in await trial.ended(*asked, within=5 * trial.target.within):
        expect(not (result.state is State.DONE and result.branch), f"One is done: {result}.")
    expect(not ran.exists(), "One of them ran a command, or wrote a file.")
