"""Write the reference pages from the code, or check that they are up to date.

Usage: python scripts/docs.py [--check]
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import clipages

from outpost_container.command import SHAPE as IMAGE
from outpost_core import hookspecs
from outpost_core.discovery import Plugins
from outpost_core.options import OptionField, option_fields
from outpost_core.types import REASONS
from outpost_k8s.near.codes import REASONS as KUBERNETES
from outpost_manager.config.accounts import AccountConfig
from outpost_manager.config.api import ApiConfig
from outpost_manager.config.budgets import BudgetConfig
from outpost_manager.config.model import AgentOptions, Defaults
from outpost_manager.config.notify import NotifyConfig
from outpost_manager.config.queue import QueueConfig
from outpost_manager.config.read import PRICE_FIELDS
from outpost_manager.config.retries import RetryOptions
from outpost_manager.config.scaling import ScalingConfig
from outpost_manager.config.schedules import ScheduleConfig
from outpost_manager.hints import HINTS
from outpost_manager.jsonshapes import SHAPES
from outpost_manager.ledger.breakers import PROBE_PATIENCE
from outpost_manager.ledger.breakers import RULES as BREAKER_RULES
from outpost_mayor.api.reference import page as api_page
from outpost_mayor.commands.shapes import SHAPES as MAYOR
from outpost_mayor.retries.table import page as retries_page
from outpost_testing.command import SHAPE as CONFORMANCE

HERE = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- written by scripts/docs.py from the code; do not edit -->\n"


def configuration() -> str:
    """Return the reference of outposts.yaml."""
    parts = [NOTE, CONFIGURATION]
    for type_, backend in sorted(
        Plugins.load().backends.items(), key=lambda each: (each[0] != "local", each[0])
    ):
        parts.append(f"### type: {type_}\n")
        parts.append(f"{backend.summary[:1].upper()}{backend.summary[1:]}.\n")
        parts += _fields(option_fields(backend.options_class))
    parts.append(SCALING)
    parts += _fields(option_fields(ScalingConfig))
    parts.append("## defaults\n")
    parts.append("What an order has when nothing else is said.\n")
    parts += _fields(option_fields(Defaults))
    parts.append(AGENTS)
    parts += _fields(option_fields(AgentOptions))
    parts.append(PRICES)
    parts += _fields(list(PRICE_FIELDS))
    parts.append(QUEUE)
    parts += _fields(option_fields(QueueConfig))
    parts.append(SCHEDULES)
    parts += _fields(option_fields(ScheduleConfig))
    parts.append(NOTIFY)
    parts += _fields(option_fields(NotifyConfig))
    parts.append(API)
    parts += _fields(option_fields(ApiConfig))
    parts.append(BUDGETS)
    parts += _fields(option_fields(BudgetConfig))
    parts.append(ACCOUNTS)
    parts += _fields(option_fields(AccountConfig))
    parts.append(BREAKERS)
    parts += _breakers()
    parts.append(RETRIES)
    parts += _fields(option_fields(RetryOptions))
    return "\n".join(parts)


def _breakers() -> Iterator[str]:
    yield "| of | opens after | first pause | longest pause | what counts as a failure |"
    yield "| --- | --- | --- | --- | --- |"
    for kind, rule in BREAKER_RULES.items():
        yield (
            f"| {kind} | {rule.failures} failures in a row | {rule.first:g} s | {rule.most:g} s |"
            f" {rule.counts} |"
        )
    yield ""
    yield (
        f"A probe of which nothing is heard for {PROBE_PATIENCE:g} s makes room for another one.\n"
    )


# ruff: noqa: E501

CONFIGURATION = """\
# Configuration
One YAML file. It is looked for at `--config`, at `$OUTPOST_CONFIG`, at `config/outposts.yaml` of
the Gas Towns around the current folder, the nearest first, and in the user's configuration folder
(`~/.config/outpost/outposts.yaml`); the first that counts is used. With none, there is one
outpost: this machine. `outpost config show` says which file was read, why not the others, and
where each value came from; `outpost config check` reads it and says what is wrong, and what is
probably a mistake, with line and column.

A town's file counts once you have said `outpost trust`, and again when it was changed; that file
and your own count only where nobody but you and root can write them and the folders above them
([what is trusted](../guides/trust.md)).

```yaml
outposts:
  - name: local
    type: local
    max_workers: 4
policy:
  default_preference: [local]
  overrides:
    - condition: "priority >= P3"
      prefer: local
defaults:
  agent: claude
  timeout: 2h
```

| key | meaning |
| --- | --- |
| `outposts` | a list; each has a unique `name` (letters, digits, `-`, `_`), a `type`, the options of that type, and perhaps [`scaling`](#scaling) |
| `policy` | `default_preference`: outposts in the order to try; `overrides`: a list of `condition` and `prefer` (a name or a list). See [policy and conditions](../guides/policy.md) |
| `defaults` | see below |
| `agents` | see below |
| `prices` | see below |
| `queue` | see below |
| `schedules` | see below |
| `notify` | see below |
| `budgets` | see below |
| `accounts` | see below |
| `retries` | see below |

## outposts
"""


SCALING = """\
## scaling
A key of an outpost that can be brought up and down: when how much of it is up. See
[machines that start when needed](../guides/scaling.md).
"""


AGENTS = """\
## agents
A map: an agent's name, for `--agent` and `defaults.agent`, to its command. An entry with the name of
a preset changes what it says of that preset and leaves the rest. See [agents](../guides/agents.md).
"""


PRICES = """\
## prices
A map: the beginning of a model's name to its price, for agents that report tokens alone. Each entry
replaces the built-in ones that begin with it. See [cost and limits](../guides/cost.md).
"""


QUEUE = """\
## queue
In which order what waits in the queue is placed. See [leave it running](../guides/unattended.md).
"""


SCHEDULES = """\
## schedules
A list: orders that are put into the queue at times of the calendar, each firing once. See
[schedules](../guides/unattended.md#schedules).
"""


NOTIFY = """\
## notify
A list: who is told of what happens, and how. See
[notifications](../guides/unattended.md#notifications).
"""


API = """\
## api
Where the mayor is found by other programs and machines. What is changed here counts when
`outpost serve` is started again. See [the API](../guides/unattended.md#the-api).
"""


BUDGETS = """\
## budgets
A list: what any hour, day, week or month may hold of reserved and spent money. See
[budgets](../guides/cost.md#budgets).
"""


ACCOUNTS = """\
## accounts
A list: whose credentials agents work with, and what each may take. Of several accounts of an agent
the first with room is used. See [accounts](../guides/cost.md#accounts).
"""


BREAKERS = """\
## Circuit breakers
Nothing of them is configured. The first pause doubles with each probe that fails. See
[circuit breakers](../guides/cost.md#circuit-breakers).
"""


RETRIES = """\
## retries
What the queue tries again by itself, and its ceilings. `reasons` is a map: a reason to how often it
is tried again, in the place of what the table says (`reasons: {agent_failed: 1}`). See
[retries](retries.md).
"""


def _fields(fields: list[OptionField]) -> Iterator[str]:
    yield "| key | what it takes | default | meaning |\n| --- | --- | --- | --- |"
    for field in fields:
        default = "required" if field.required else _default(field)
        limits = "".join(
            f", {word} {bound:g}"
            for word, bound in (("at least", field.min), ("at most", field.max))
            if bound is not None
        )
        yield f"| `{field.name}` | {field.expects}{limits} | {default} | {field.help} |"
    yield ""


def _default(field: OptionField) -> str:
    if field.default is None or field.default in ("", (), {}):
        return "–"
    shown = field.show(field.default)
    return f"`{shown if isinstance(shown, str) else json.dumps(shown)}`"


def shapes() -> str:
    """Return the reference of `--json`."""
    parts = [NOTE, JSON]
    for name, shape in {
        **SHAPES,
        "conformance": CONFORMANCE,
        "image build": IMAGE,
        **MAYOR,
    }.items():
        parts.append(
            f"## {name}\n\n```json\n{json.dumps(shape, indent=2, ensure_ascii=False)}\n```\n"
        )
    return "\n".join(parts)


JSON = """\
# JSON
Every command takes `--json` and then prints one document of the shape below on standard output.
Moments are RFC 3339 in UTC, durations seconds, money USD, sizes bytes; what is not known is
`null`. Keys may be added; none changes its meaning.
"""


def reasons() -> str:
    """Return the reference of reasons."""
    lines = [NOTE, "# Reasons", "The `reason` of a result says why a worker ended as it did.\n"]
    lines.append("| reason | meaning | what to do next |\n| --- | --- | --- |")
    for code, text in REASONS.items():
        lines.append(f"| `{code}` | {text} | {_plain_hint(HINTS.get(code, ''))} |")
    lines.append("\nBackends may add their own. Exit codes are with the [command line](cli.md).\n")
    lines.append(
        "## Kubernetes\nWhat a cluster says of a worker that waits, or of one that left no"
    )
    lines.append("result of its own.\n")
    lines.append("| reason | meaning | what to do next |\n| --- | --- | --- |")
    for code, reason in KUBERNETES.items():
        lines.append(f"| `{code}` | {reason.words} | {_plain_hint(reason.hint)} |")
    return "\n".join([*lines, ""])


def _plain_hint(hint: str) -> str:
    """Return a hint as the reference shows it."""
    hint = hint.replace("{login}", "").replace("{install}", "install it there")
    for word in ("worker", "issue", "outpost"):
        hint = hint.replace("{" + word + "}", word.upper())
    return hint


def hooks() -> str:
    """Return the reference of hooks and capabilities."""
    parts = [
        NOTE,
        "# Hooks",
        f"API version {hookspecs.API_VERSION}; entry-point group `outpost`.\n",
        "How to make a plugin, and what happens when one is wrong: [plugins](../guides/plugins.md).\n",
    ]
    for name, hook in vars(hookspecs).items():
        if name.startswith("outpost_") and inspect.isfunction(hook):
            word = "async def" if inspect.iscoroutinefunction(hook) else "def"
            signature = inspect.signature(hook)
            kind = "required" if name in hookspecs.REQUIRED else ""
            kind = next(
                (f"capability `{c}`" for c, h in hookspecs.CAPABILITIES.items() if h == name), kind
            )
            parts.append(f"## {name}\n")
            parts.append(f"```text\n{word} {name}{signature}\n```\n")
            doc = inspect.getdoc(hook) or ""
            parts.append((f"*{kind}.* " if kind else "") + doc.partition("\n")[0] + "\n")
            if rest := doc.partition("\n")[2].strip():
                parts.append(f"```text\n{rest}\n```\n")
    parts.append("## Capabilities without a hook\n\n| capability | meaning |\n| --- | --- |")
    parts += [f"| `{name}` | {text} |" for name, text in hookspecs.TRAITS.items()]
    parts.append("")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "json.md": shapes,
    "reasons.md": reasons,
    "retries.md": lambda: f"{NOTE}\n{retries_page()}",
    "hooks.md": hooks,
    "api.md": lambda: f"{NOTE}\n{api_page()}",
}


def main(check: bool) -> int:
    """Write the pages, or return 1 when one differs from the code."""
    (HERE / "cli").mkdir(parents=True, exist_ok=True)
    stale = []
    made = clipages.pages(NOTE) | {name: make() for name, make in PAGES.items()}
    for old in (HERE / "cli").glob("*.md"):
        if f"cli/{old.name}" not in made:
            stale.append(f"cli/{old.name}")
            if not check:
                old.unlink()
    for name, page in made.items():
        path, text = HERE / name, page.rstrip() + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(
            f"{', '.join(stale)} differ from the code\n  → python scripts/docs.py", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
