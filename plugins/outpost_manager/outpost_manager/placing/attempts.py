"""Further attempts at an issue, from the order that is written down: `retry` and `continue`.

Nothing has to be said again, and no folder has to be stood in: repository, agent, prompt, limits
and branch are those of the attempt before. Secrets are not written down, so that their values are
taken from the environment anew, by their names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from outpost_core.errors import ConflictError, NotFoundError, UsageError
from outpost_core.names import RIG_CREDENTIAL, split_rig
from outpost_core.types import Order, Secrets, State, Worker
from outpost_manager.config.accounts import secret_names
from outpost_manager.orders.making import PROMPT
from outpost_manager.orders.requests import Kept, kept_work
from outpost_manager.placing.pending import ASKED_FOR

if TYPE_CHECKING:
    from outpost_core.agents import AgentPreset
    from outpost_manager.config.accounts import AccountConfig
    from outpost_manager.ledger import AsyncLedger, Ledger

_SESSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}", re.ASCII)

#: What an agent is told that continues with its own session.
RESUMED: Final = """\
{text}

You are in a new working tree, at the commit of your earlier work, on the branch {branch}. Commit
your work with a message that says why. Do not push: that is done for you.
"""
#: What an agent is told that knows nothing of the attempt before.
CONTINUED: Final = """\
{text}

This continues with earlier work on issue {id}{title}. {before} You are in a working tree of the
repository, on the branch {branch}; `git log` and `git diff` show what is there. Run the project's
tests where there are any, and commit your work with a message that says why. Do not push: that is
done for you.

The task of the earlier attempt was:

{prompt}
"""


@dataclass(frozen=True, kw_only=True)
class Next:
    """A further attempt.

    Args:
        order: what is to be done.
        on: the outpost that it has to be at; None lets the policy choose.
        session: the agent's session that it continues with, or None.
    """

    order: Order
    on: str | None
    session: str | None = None


@dataclass(frozen=True, kw_only=True)
class Further:
    """Makes further attempts.

    Args:
        ledger: the record.
        environ: where secrets come from.
        presets: the agents by name.
        outposts: names of the configured outposts.
        branch: the template of branches (`defaults.branch`), "" for the usual one.
        can_clean: whether an outpost can forget a worker that never began.
        accounts: whose secrets need not be in the environment.
    """

    ledger: AsyncLedger
    environ: Mapping[str, str]
    presets: Mapping[str, AgentPreset]
    outposts: Sequence[str]
    branch: str
    can_clean: Callable[[str], bool]
    accounts: Sequence[AccountConfig] = ()

    async def failed(self, since: float | None = None) -> list[str]:
        """Return the issues, oldest first, whose last attempt failed or was lost.

        Left out are those whose files were cleaned, and those that were not ordered here.

        Args:
            since: only those that ended so many seconds ago, or later.
        """
        return await self.ledger.read(_failed, since)

    async def retry(self, ref: str, *, on: str | None = None, rig: str | None = None) -> Next:
        """Return the next attempt at an issue, with the same order.

        It starts from the work that was kept, if any. An attempt whose agent never began is tried
        again under its own number.

        Args:
            ref: an issue, or a worker.
            on: the outpost to use; None: as the order before was given.
            rig: the rig's URL with its password, where the order had one.

        Raises:
            NotFoundError: nothing was ordered here under that name.
            ConflictError: its last attempt still runs.
            UsageError: its work is delivered, or a secret is missing.
        """
        last, order = await self.ledger.read(_last, ref)
        _refuse_delivered(last)
        return Next(
            order=await self._order(order, self._number(last), self._secrets(order, rig)),
            on=on or await self._same_place(last),
        )

    async def by_itself(self, ref: str, *, of: str = "", resume: str = "") -> Next:
        """Return the next attempt at an issue as it waits in the queue: its secrets are names.

        It starts from the work that was kept, if any.

        Args:
            ref: an issue, or a worker.
            of: the attempt whose command and prompt it has; "" for the last one.
            resume: what the agent is told that continues with its own session, where it can and
                has one there; "" starts a new one.

        Raises:
            NotFoundError, ConflictError: as for `retry`.
            UsageError: its work is delivered.
        """
        last, before = await self.ledger.read(_last, ref)
        _refuse_delivered(last)
        before = (await self.ledger.order(of) if of else None) or before
        order = await self._order(before, self._number(last), before.secrets)
        session = None
        if resume and last.outpost in self.outposts:
            session = self._session(last, order)
        if session is None:
            return Next(order=order, on=await self._same_place(last))
        return Next(order=self._resuming(order, session, resume), on=last.outpost, session=session)

    def _number(self, last: Worker) -> int:
        """Return the number of the attempt after one; its own where its agent never began."""
        again = last.unbegun and self.can_clean(last.outpost)
        return last.attempt if again else last.attempt + 1

    def _resuming(self, order: Order, session: str, text: str) -> Order:
        """Return an order whose agent continues with its own session."""
        argv = resumed(self.presets[order.agent.name], order.agent.argv, session)
        assert argv is not None, "else there were no session"
        branch = order.delivery.branch if order.delivery is not None else ""
        prompt = RESUMED.format(text=text.strip(), branch=branch) if branch else text
        return replace(order, agent=replace(order.agent, argv=argv), prompt=prompt)

    async def go_on(
        self,
        ref: str,
        text: str,
        *,
        on: str | None = None,
        rig: str | None = None,
        fresh: bool = False,
    ) -> Next:
        """Return the next attempt at an issue, which continues with the work of the last one.

        It starts at the commit that was delivered and delivers to the same branch; where nothing
        was, at the work that was kept, else as the attempt before. The agent continues with its
        own session where it can and has one there.

        Args:
            ref: an issue, or a worker.
            text: what is to be done now.
            on: the outpost to use; None: where the session is, else as before.
            rig: as for `retry`.
            fresh: begin a new session of the agent, which is told what was done before.

        Raises:
            NotFoundError, ConflictError, UsageError: as for `retry`; or the text is empty.
        """
        if not text.strip():
            raise UsageError(
                "it is not said what is to be done", hint="outpost continue ISSUE TEXT"
            )
        last, before = await self.ledger.read(_last, ref)
        order = await self._order(before, last.attempt + 1, self._secrets(before, rig))
        result = last.result
        if order.delivery is not None and result is not None and result.commit and result.branch:
            order = replace(
                order,
                resume=result.commit,
                resume_at="",
                delivery=replace(order.delivery, branch=result.branch),
            )
        session = None
        if not fresh and on in (None, last.outpost) and last.outpost in self.outposts:
            session = self._session(last, order)
        branch = order.delivery.branch if order.delivery is not None else ""
        if session is not None:
            order = self._resuming(order, session, text)
            return Next(order=order, on=last.outpost, session=session)
        prompt = CONTINUED.format(
            text=text.strip(),
            id=order.issue.id,
            title=f": {order.issue.title}" if order.issue.title else "",
            before=_told(last),
            branch=branch or "(none)",
            prompt=before.prompt.strip() or "(it is not known)",
        )
        return Next(order=replace(order, prompt=prompt), on=on or await self._same_place(last))

    # --- inside -----------------------------------------------------------------------------

    async def _order(self, order: Order, attempt: int, secrets: Secrets) -> Order:
        kept, owner = Kept(), ""
        if order.rig:
            kept, owner = await self.ledger.read(_kept, order.issue.id, attempt)
        made = replace(
            order,
            attempt=attempt,
            resume=kept.ref,
            resume_at=kept.at,
            owner=owner,
            secrets=secrets,
        )
        return self._on_own_branch(order, made)

    def _on_own_branch(self, before: Order, order: Order) -> Order:
        """Give the attempt the branch that the template gives it, where that names attempts."""
        if order.delivery is None or before.delivery is None or "{attempt}" not in self.branch:
            return order
        old, new = (
            self.branch.replace("{issue}", one.issue.id).replace("{attempt}", str(one.attempt))
            for one in (before, order)
        )
        if before.delivery.branch != old:  # it was said by hand
            return order
        prompt = order.prompt
        if prompt == _usual_prompt(order, old):
            prompt = _usual_prompt(order, new)
        return replace(order, prompt=prompt, delivery=replace(order.delivery, branch=new))

    def _secrets(self, order: Order, rig: str | None) -> Secrets:
        values: dict[str, str] = {}
        missing = []
        for name in order.secrets:
            if name == RIG_CREDENTIAL:
                values[name] = _password(order, rig)
            elif name in self.environ:
                values[name] = self.environ[name]
            elif name in secret_names(self.accounts, order.agent.name):
                values[name] = ""  # read when the order is handed to its outpost
            else:
                missing.append(name)
        if missing:
            names = ", ".join(sorted(missing))
            raise UsageError(
                f"the order of {order.worker} has secrets that are not set in your environment:"
                f" {names}",
                hint=f"export {min(missing)}=… first; values of secrets are never kept",
            )
        return Secrets(values)

    async def _same_place(self, last: Worker) -> str | None:
        """Return the outpost, when it was the user who had named it."""
        why = await self.ledger.explanation(last.id)
        asked = why is not None and why.rule == ASKED_FOR + last.outpost
        return last.outpost if asked and last.outpost in self.outposts else None

    def _session(self, last: Worker, order: Order) -> str | None:
        """Return the session that the agent can continue with, where the last attempt was."""
        session = last.result.session if last.result is not None else None
        preset = self.presets.get(order.agent.name)
        if session is None or preset is None or order.agent.interactive:
            return None
        known = _SESSION.fullmatch(session) is not None
        return session if known and resumed(preset, order.agent.argv, session) else None


def _failed(ledger: Ledger, since: float | None) -> list[str]:
    """Return the issues whose last attempt failed or was lost; see `Further.failed`."""
    last: dict[str, Worker] = {}
    for worker in ledger.workers(cleaned=True):
        if worker.issue not in last or last[worker.issue].attempt < worker.attempt:
            last[worker.issue] = worker
    shown = {worker.id for worker in ledger.workers(active=False)}
    shown = ledger.ordered(shown)
    oldest = None if since is None else time.time() - since
    found = [
        worker
        for worker in last.values()
        if worker.state in (State.FAILED, State.LOST)
        and worker.id in shown
        and (oldest is None or (worker.finished_at or worker.created_at) >= oldest)
    ]
    return [worker.issue for worker in sorted(found, key=lambda w: w.created_at)]


def _last(ledger: Ledger, ref: str) -> tuple[Worker, Order]:
    """Return the last attempt at what a name means, and its order."""
    known = ref.isascii()  # an id is, and SQLite takes no lone surrogates
    named = ledger.worker(ref) if known else None
    attempts = ledger.attempts(named.issue if named is not None else ref) if known else []
    if not attempts:
        raise NotFoundError(
            f"there was no attempt at an issue {ref[:120]!a}",
            hint="outpost spawn starts the first; outpost workers --all shows what there was",
        )
    last = max(attempts, key=lambda worker: worker.attempt)
    if named is not None and named.attempt != last.attempt:
        raise UsageError(
            f"{named.id} is not the last attempt: that is {last.id}", hint=f"name {last.issue}"
        )
    if not last.state.terminal:
        raise ConflictError(
            f"{last.id} still runs at {last.outpost}",
            hint=f"outpost logs -f {last.id} follows it, outpost stop {last.id} ends it",
        )
    order = ledger.order(last.id)
    if order is None:
        raise NotFoundError(
            f"{last.id} was not ordered here, so its order is not known",
            hint=f"outpost spawn {last.issue} --again, with its repository",
        )
    return last, order


def _refuse_delivered(last: Worker) -> None:
    """Refuse another try of what has delivered its work."""
    if last.result is not None and last.result.commit is not None:
        raise UsageError(
            f"{last.id} is {last.state.value}, and its work is on {last.result.branch}",
            hint=f'outpost continue {last.issue} "what else to do" continues from there;'
            " spawn --again starts over",
        )


def _kept(ledger: Ledger, issue: str, attempt: int) -> tuple[Kept, str]:
    """Return what an attempt continues from, and whose refs its own work is kept under."""
    earlier = {worker.attempt: worker for worker in ledger.attempts(issue)}
    return kept_work(ledger, earlier, attempt), ledger.id


def _usual_prompt(order: Order, branch: str) -> str:
    issue = order.issue
    text = f"\n{issue.text.strip()}\n" if issue.text.strip() else ""
    title = f": {issue.title}" if issue.title else ""
    return PROMPT.format(id=issue.id, branch=branch, title=title, text=text)


def _password(order: Order, rig: str | None) -> str:
    """Return the credential of the order's rig, out of its URL as it was said anew.

    Raises:
        UsageError: it was not, or that is another rig.
    """
    url, secret = split_rig(rig or "")
    if secret and url == order.rig:
        return secret
    raise UsageError(
        f"the URL of {order.rig} held a password, which is not kept",
        hint="give that URL, with its password, to --rig",
    )


def resumed(preset: AgentPreset, argv: Sequence[str], session: str) -> tuple[str, ...] | None:
    """Return the command that continues with a session; None when there is none.

    What the order's command had besides the preset's own words (a model, say) it has again.
    """
    template, usual = preset.resume, preset.headless
    if template is None or usual is None:
        return None
    more = _besides(tuple(argv), _filled(preset, argv))  # it continued with a session itself
    if more is None:
        more = _besides(tuple(argv), usual)
    if more is None:
        return None
    words = _fill(template, session)
    at = (
        words.index("--")
        if "--" in words
        else next((number for number, word in enumerate(words) if "{prompt" in word), len(words))
    )
    return (*words[:at], *more, *words[at:])


def _fill(template: Sequence[str], session: str) -> tuple[str, ...]:
    return tuple(word.replace("{session}", session) for word in template)


def _filled(preset: AgentPreset, argv: Sequence[str]) -> tuple[str, ...]:
    """Return the resume command as `argv` has it: with the session of before."""
    template = preset.resume or ()
    place = next((n for n, word in enumerate(template) if "{session}" in word), None)
    if place is None:
        return ()
    before, after = template[place].split("{session}", 1)
    for word in argv:
        if word.startswith(before) and word.endswith(after):
            session = word[len(before) : len(word) - len(after) or None]
            candidate = _fill(template, session)
            if _SESSION.fullmatch(session) and _besides(tuple(argv), candidate) is not None:
                return candidate
    return ()


def _besides(argv: tuple[str, ...], usual: Sequence[str]) -> tuple[str, ...] | None:
    """Return the words that were put into `usual`, in one place; None when it is not that."""
    usual = tuple(usual)
    extra = len(argv) - len(usual)
    if not usual or extra < 0:
        return None
    for at in range(len(usual), -1, -1):
        if argv[:at] == usual[:at] and argv[at + extra :] == usual[at:]:
            return argv[at : at + extra]
    return None


def _told(last: Worker) -> str:
    """Return what an agent should know of the attempt before."""
    result = last.result
    if result is None:
        return ""
    said = " ".join(result.message.split())
    words = f"The earlier attempt ended as {last.state.value} ({result.reason})"
    words += f": {said[:500]}" if said else "."
    return words if words.endswith((".", "!", "?")) else words + "."
