"""Which agent presets there are, and how one becomes the agent of an order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from outpost_core.agents import AgentPreset
from outpost_core.errors import PluginError, UnsupportedError, UsageError
from outpost_core.types import Agent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outpost_core.discovery import Plugins

#: What can be the name of a model or of a session: it never looks like a flag.
_VALUE: Final = re.compile(r"[A-Za-z0-9][\w.:/@\[\]+-]{0,199}", re.ASCII)


def offered(
    plugins: Plugins, trouble: Callable[[str, Exception], None] | None = None
) -> dict[str, AgentPreset]:
    """Return the presets that the installed packages offer, by name.

    Of several packages that one wins which pluggy asks first. What is no preset is left out.

    Args:
        plugins: the installed ones.
        trouble: is told a plugin's name and what it raised; None: nobody is.
    """
    presets: dict[str, AgentPreset] = {}
    for plugin, more in plugins.answers("outpost_agents", trouble):
        for name, preset in more.items() if isinstance(more, Mapping) else [("", more)]:
            if problem := _wrong_with_preset(preset):
                error = PluginError(f"{name} {problem}".strip())
                plugins.blame(plugin, "outpost_agents", error)
                if trouble is not None:
                    trouble(plugin, error)
            else:
                presets.setdefault(name, preset)
    return presets


def _wrong_with_preset(preset: object) -> str:
    """Return why something cannot be used as the preset of an agent, or ""."""
    if not isinstance(preset, AgentPreset):
        return f"is a {type(preset).__name__}, not an AgentPreset"
    for word in ("headless", "interactive", "resume"):
        argv: object = getattr(preset, word)
        if argv is not None and (
            not isinstance(argv, tuple | list) or not all(isinstance(each, str) for each in argv)
        ):
            return f"has {argv!r} as {word}, which is no tuple of words"
    return ""


def resolve(
    name: str,
    presets: Mapping[str, AgentPreset],
    *,
    interactive: bool,
    environ: Mapping[str, str] | None = None,
    session: str | None = None,
    model: str | None = None,
    budget: float | None = None,
    extra: Sequence[str] = (),
) -> Agent:
    """Turn a preset's name into the agent of an order.

    Args:
        name: what the user wrote.
        presets: all that the plugins offer.
        interactive: for a terminal.
        environ: the caller's environment; variables named in the preset's `forward` are taken.
        session: the agent's own session to continue with.
        model: the model that it is to use.
        budget: USD that the agent itself is to keep within, where it can.
        extra: further arguments, before its prompt.

    Raises:
        UsageError: there is no such preset (names the nearest), or a value is none.
        UnsupportedError: the preset cannot run that way.
    """
    preset = presets.get(name)
    if preset is None:
        raise UsageError(f"there is no agent named {name!r}", hint=_nearest(name, presets))
    more: list[str] = []
    if model is not None:
        more += _filled(preset, "model", preset.model_args, model)
    if budget is not None and not interactive:
        more += [word.replace("{budget}", format(budget, "f")) for word in preset.budget_args]
    argv = _argv(preset, interactive, session)
    forwarded = {key: environ[key] for key in preset.forward if environ and environ.get(key)}
    return Agent(
        name=name,
        argv=_with(argv, [*more, *extra]),
        interactive=interactive,
        output="plain" if interactive else preset.output,
        env={**forwarded, **preset.env},
    )


def _argv(preset: AgentPreset, interactive: bool, session: str | None) -> Sequence[str]:
    if session is not None:
        if interactive or preset.resume is None:
            raise UnsupportedError(
                f"the agent {preset.name} cannot continue with a session"
                + (" on a terminal" if interactive and preset.resume else ""),
                hint="start a new session; the work of before is in the branch",
            )
        return _filled(preset, "session", preset.resume, session)
    argv = preset.interactive if interactive else preset.headless
    if argv is None:
        way, other = ("interactively", "headless") if interactive else ("headless", "interactively")
        raise UnsupportedError(
            f"the agent {preset.name} cannot run {way}",
            hint=f"run it {other}, or give the command after --",
        )
    return argv


def _filled(preset: AgentPreset, what: str, template: Sequence[str], value: str) -> list[str]:
    """Put a model or a session into its arguments."""
    if not template:
        raise UnsupportedError(
            f"how the agent {preset.name} is given a {what} is not known",
            hint="give its own arguments with --agent-arg",
        )
    if not _VALUE.fullmatch(value):
        raise UsageError(
            f"{value[:80]!a} is not the name of a {what}",
            hint="letters, digits and ._:/@[]+- after a letter or digit",
        )
    return [word.replace("{" + what + "}", value) for word in template]


def _with(argv: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """Add arguments: where `{args}` stands, else before a lone `--`, else at the end."""
    for mark in ("{args}", "--"):
        if mark in argv:
            at = argv.index(mark)
            return (*argv[:at], *more, *argv[at + (mark == "{args}") :])
    return (*argv, *more)


def _nearest(name: str, presets: Mapping[str, AgentPreset]) -> str:
    import difflib

    known = ", ".join(sorted(presets))
    near = difflib.get_close_matches(name, presets, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}known: {known}; any other command goes after --"
