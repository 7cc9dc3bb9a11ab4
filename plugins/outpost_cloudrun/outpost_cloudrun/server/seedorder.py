"""The order of a request that says no more than which issue of which repository is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from outpost_agents.presets import PRESETS
from outpost_cloudrun.server.settings import Settings
from outpost_core.errors import UsageError
from outpost_core.names import RIG_CREDENTIAL, split_rig
from outpost_core.types import Agent, Delivery, Issue, Json, Order, Secrets

#: How the issue is put to the agent.
_PROMPT: Final = """\
Work on issue {id}{title}.
{text}
You are in a working tree of the repository, on the branch {branch}. Make the change that the
issue asks for, run the project's tests where there are any, and commit your work with a message
that says why. Do not push: that is done for you.
"""
#: What the agent is told of an issue whose text did not come along.
_LOOK: Final = """
Read what it asks for with `bd show {id}`, or in .beads/issues.jsonl.{beads}
"""
_BRANCH: Final = "polecat/{issue}"


def seed_order(
    settings: Settings, issue: str, rig: str, beads: str, context: Mapping[str, Json]
) -> Order:
    """Return the order of a request with `issue_id`, `rig_url`, `beads_url` and `context` alone.

    Agent and credentials are those of the container. Of `context` these count, and all of it goes
    along as hints: `title`, `text` and `prompt` for what the agent is told, `base`, and `attempt`.

    Args:
        settings: of this program.
        issue: the issue's id.
        rig: URL of the repository; "" for none.
        beads: URL of the repository that holds the issues, for the agent to know.
        context: hints.

    Raises:
        UsageError: something in it is wrong.
    """
    preset = PRESETS[settings.agent]
    title, told, prompt = (_text(context, name) for name in ("title", "text", "prompt"))
    attempt = context.get("attempt", 1)
    if type(attempt) is not int or not 1 <= attempt < 1_000_000:
        raise UsageError("`attempt` of the context is not a number from 1 to 999999")
    branch = _BRANCH.replace("{issue}", issue)
    url, password = split_rig(rig)
    about = f" The issues are kept in {split_rig(beads)[0]}." if beads and beads != rig else ""
    text = f"\n{told.strip()}\n" if told.strip() else _LOOK.format(id=issue, beads=about)
    forwarded = {n: settings.agent_env[n] for n in preset.forward if n in settings.agent_env}
    return Order(
        issue=Issue(id=issue, title=title, text=told),
        attempt=attempt,
        agent=Agent(
            name=preset.name,
            argv=preset.headless or (),
            output=preset.output,
            env={**forwarded, **preset.env},
        ),
        rig=url or None,
        base=(_text(context, "base") or None) if url else None,
        delivery=Delivery(branch=branch, message=f"{issue}: {title or 'work by an agent'}")
        if url
        else None,
        prompt=prompt
        or _PROMPT.format(id=issue, title=f": {title}" if title else "", text=text, branch=branch),
        secrets=Secrets({RIG_CREDENTIAL: password} if password else {}),
        context=dict(context),
    )


def _text(context: Mapping[str, Json], name: str) -> str:
    value = context.get(name, "")
    if not isinstance(value, str):
        raise UsageError(f"`{name}` of the context is not text")
    return value
