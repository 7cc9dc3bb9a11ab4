"""Run the steps of a bootstrap one after the other, and read what their scripts answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Final, Protocol

from outpost_core.errors import OutpostError
from outpost_core.names import redact
from outpost_core.types import Step

#: Seconds for a script that looks, and for one that may install.
LOOK: Final = 60.0
WORK: Final = 1800.0
_MARK: Final = "@outpost:"
#: What a script may answer.
_STATES: Final = frozenset(("ok", "would", "done", "failed", "skipped"))
#: What a later step can build on.
_GOOD: Final = frozenset(("ok", "done", "would"))
_QUOTED: Final = 300


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a script ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


class Shell(Protocol):
    """Where scripts run."""

    async def run(self, text: str, args: Sequence[str], timeout: float) -> Ran:
        """Run POSIX sh text with positional parameters, none of which is in any command line.

        Args:
            text: the script.
            args: its `$1` and so on.
            timeout: seconds.

        Raises:
            UnreachableError: nobody knows how it ended.
        """


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step found or did; `state` as of `types.Step`."""

    state: str
    detail: str = ""
    hint: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@lru_cache
def script(name: str) -> str:
    """Return the whole text of a step's script."""
    folder = files("outpost_local.setup")
    parts = [(folder / f"{part}.sh").read_text("utf-8") for part in ("common", name)]
    return "\n".join([*parts, 'main "$@" </dev/null\n'])


async def ask(shell: Shell, name: str, *args: str, timeout: float = LOOK) -> StepResult:
    """Run a step's script and return its answer.

    Raises:
        UnreachableError: nobody knows how it ended.
    """
    ran = await shell.run(script(name), args, timeout)
    said: dict[str, str] = {}
    facts: dict[str, str] = {}
    for line in ran.out.splitlines():
        if line.startswith(_MARK):
            word, _, rest = line.removeprefix(_MARK).partition(" ")
            if word == "fact":
                key, _, value = rest.partition(" ")
                facts[key] = value
            else:
                said[word] = rest
    noise = _last_words(ran)
    state = said.get("state", "")
    if state not in _STATES:
        detail = f"its script ended with code {ran.code}" + (f": {noise}" if noise else "")
        return StepResult(state="failed", detail=detail, hint="run this again", facts=facts)
    detail = said.get("detail", "")
    if state == "failed" and noise:
        detail = f"{detail}: {noise}"
    return StepResult(state=state, detail=redact(detail), hint=said.get("hint", ""), facts=facts)


def _last_words(ran: Ran) -> str:
    """Return the last line that says what went wrong, from standard error or before the answer."""
    for text in (ran.err, ran.out):
        lines = [line.strip() for line in text.splitlines() if not line.startswith(_MARK)]
        if said := [line for line in lines if line]:
            return redact(said[-1])[:_QUOTED]
    return ""


@dataclass(kw_only=True)
class SetupRun:
    """One bootstrap, as far as it has come.

    Args:
        shell: where scripts run.
        dry_run: change nothing.
    """

    shell: Shell
    dry_run: bool
    states: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """The first argument of every script that may change something."""
        return "look" if self.dry_run else "apply"

    async def step(
        self, name: str, work: Callable[[], Awaitable[StepResult]], *, needs: Sequence[str] = ()
    ) -> AsyncIterator[Step]:
        """Yield a step when it begins and when it has ended; a failure is its answer.

        Args:
            name: what it is about.
            work: does it.
            needs: steps that must have ended well before.
        """
        lacking = [need for need in needs if self.states.get(need) not in _GOOD]
        if lacking:
            self.states[name] = "skipped"
            yield Step(name=name, state="skipped", detail=f"needs {' and '.join(lacking)} first")
            return
        yield Step(name=name, state="doing")
        try:
            answer = await work()
        except OutpostError as error:
            answer = StepResult(state="failed", detail=error.message, hint=error.hint)
        self.states[name] = answer.state
        self.facts |= answer.facts
        yield Step(name=name, state=answer.state, detail=answer.detail, hint=answer.hint)

    def ask(self, name: str, *args: str, timeout: float = WORK) -> Awaitable[StepResult]:
        """Run a script that may change something, in this run's mode."""
        return ask(self.shell, name, self.mode, *args, timeout=LOOK if self.dry_run else timeout)
