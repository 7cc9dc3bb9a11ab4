"""Turns an order into the agent's process: its arguments, its environment, its start."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import errno
import os

from outpost_shared import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Signals that the supervisor (or Python, or a script with `&`, or nohup before it) ignores or
#: handles, and the agent must not inherit so: all that can be handled.
RESET = [number for number in range(1, 32) if number not in (_signal.SIGKILL, _signal.SIGSTOP)]


#: Bytes of a prompt above which an argument only names its file: Linux takes 128 KiB an argument
#: (MAX_ARG_STRLEN, execve(2)), and the rest of the argument wants room too.
LONGEST_PROMPT = 96 * 1024


def prompt_argument(prompt: str, prompt_file: str) -> str:
    """Return what `{prompt}` stands for: the prompt, or for a long one where to read it."""
    if len(prompt.encode("utf-8", "surrogateescape")) <= LONGEST_PROMPT:
        return prompt
    return f"Your task is in the file {prompt_file}. Read all of it, then do what it says."


def expand(argv: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Replace `{name}` in each argument by its value, in one pass.

    What a value says is never looked at again, so a prompt may hold `{issue}` itself. Unknown
    names in braces stay as they are.
    """
    return [_expand(text, values) if "{" in text else text for text in argv]


def _expand(text: str, values: Mapping[str, str]) -> str:
    out = []
    place = 0
    while (start := text.find("{", place)) >= 0:
        end = text.find("}", start)
        value = values.get(text[start + 1 : end]) if end > 0 else None
        if value is None:
            out.append(text[place : start + 1])
            place = start + 1
        else:
            out += [text[place:start], value]
            place = end + 1
    out.append(text[place:])
    return "".join(out)


def environment(
    order: Mapping[str, Any],
    launch: Mapping[str, Any],
    secrets: Mapping[str, str],
    own: Mapping[str, str],
) -> dict[str, str]:
    """Return the agent's whole environment; later ones win.

    Args:
        order: `order.json`.
        launch: `launch.json`, whose `env` is the base.
        secrets: names and values.
        own: the variables named `OUTPOST_…`.
    """
    return {**launch.get("env", {}), **order["agent"]["env"], **order["env"], **secrets, **own}


class WrapperError(OSError):
    """The command before the agent's cannot be executed; nothing runs."""


class Wrapper:
    """The command that stands before the agent's, which becomes its last arguments.

    Args:
        argv: program and arguments.
        own_files: it looks for the agent's command among files of its own, as a container does.
    """

    __slots__ = ("argv", "own_files")

    def __init__(self, argv: list[str], *, own_files: bool) -> None:
        self.argv = argv
        self.own_files = own_files


def wrapper(launch: Mapping[str, Any], values: Mapping[str, str]) -> Wrapper | None:
    """Return what `launch.json` says stands before the agent's command; None for nothing.

    Args:
        launch: `launch.json`.
        values: what `{name}` in its arguments stands for.
    """
    said = launch.get("wrap")
    if not said:
        return None
    return Wrapper(expand(said["argv"], values), own_files=said.get("own_files") is True)


def find_wrapper(program: str, env: Mapping[str, str]) -> str:
    """Return the path of a wrapper's program; never one in a folder that the agent works in.

    Raises:
        OSError: there is none, or it cannot be executed.
    """
    return programs.find(program, {"PATH": programs.outside(env.get("PATH", ""))}, "/")


def resolve(
    argv: list[str], env: Mapping[str, str], folder: str, wrap: Wrapper | None
) -> tuple[str, list[str]]:
    """Return the program to execute, and its whole argument list.

    Args:
        argv: the agent's program and arguments.
        env: the agent's whole environment.
        folder: where it runs.
        wrap: what stands before it.

    Raises:
        WrapperError: what stands before it cannot be executed.
        OSError: the agent's command cannot be.
    """
    program = ""
    if wrap is None or not wrap.own_files:
        program = programs.find(argv[0] if argv else "", env, folder)
    if wrap is None:
        return program, argv
    try:
        return find_wrapper(wrap.argv[0], env), [*wrap.argv, *argv]
    except OSError as error:
        raise blame(error, wrap) from None


def blame(error: OSError, wrap: Wrapper | None) -> OSError:
    """Return the error of an execution that failed, as the error of whose program that was."""
    if wrap is None or error.errno == errno.E2BIG:  # it is the agent's arguments that are long
        return error
    return WrapperError(error.errno or 0, error.strerror or str(error), wrap.argv[0])


def start(
    argv: list[str],
    env: Mapping[str, str],
    folder: str,
    output: int,
    terminal: str = "",
    wrap: Wrapper | None = None,
) -> int:
    """Start the agent in its own session and return its pid.

    `posix_spawn` costs less than half of a fork of Python. It cannot change the folder, so the
    supervisor goes there and stays.

    Args:
        argv: program and arguments.
        env: its whole environment.
        folder: where it runs.
        output: descriptor that becomes stdout and stderr.
        terminal: path of the terminal under `output`, which becomes the controlling one; "" for
            none, then stdin is /dev/null.
        wrap: what stands before it.

    Raises:
        WrapperError: what stands before it could not be executed; nothing runs.
        OSError: it could not be executed; nothing runs.
    """
    program, whole = resolve(argv, env, folder, wrap)
    actions: list[tuple[Any, ...]]
    if terminal:
        # opened by the leader of a new session, it becomes that session's controlling terminal
        actions = [(os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0)]
    else:
        actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    os.chdir(folder)
    try:
        return os.posix_spawn(
            program, whole, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=RESET
        )
    except OSError as error:
        raise blame(error, wrap) from None
