"""Gas Town's `gt mail`, as far as it is needed: versions differ in the flags that they take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from outpost_core.errors import OutpostError, UnreachableError, UsageError
from outpost_core.types import Message
from outpost_local import maildir
from outpost_shared.message import identity

#: Seconds that one call may take: it starts `bd`, which may start a database.
TIMEOUT: Final = 20.0
#: Longest body in an argument, for versions without `--stdin`: Linux takes 128 KiB each.
_ARGUMENT: Final = 96 * 1024
#: Longest body otherwise: `gt` itself hands it to `bd` in an argument, with a few words.
_LONGEST: Final = 127 * 1024
#: Bytes of its output that are read.
_OUTPUT: Final = 16 * 1024 * 1024
#: What it says of an address that nobody has.
_NOBODY: Final = ("unknown recipient", "invalid address", "invalid recipient")
#: Whose mail a call is for would be told by these, if the caller happened to have them.
_ROLE: Final = frozenset({"GT_ROLE", "GT_RIG", "GT_POLECAT", "GT_CREW", "BD_ACTOR", "BEADS_ACTOR"})
#: Seconds that a moment in `gt`'s mail may be before the beginning of the hand-over.
_SLACK: Final = 5.0
#: What each program takes, asked once as long as its file is the same.
_FLAGS: Final[dict[tuple[str, int, int], frozenset[str]]] = {}


class Gt:
    """One installed `gt`, in one town.

    Args:
        program: its path.
        town: the workspace; it runs there.
        env: what agents get.
    """

    def __init__(self, program: str, town: Path, env: Mapping[str, str]) -> None:
        self._program = program
        self._town = town
        self._env = {name: value for name, value in env.items() if name not in _ROLE}

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            UsageError: no such receiver, or it cannot take it.
            OutpostError: it was not sent for another reason that `gt` gave.
            UnreachableError: `gt` cannot be started or does not end; it may have been sent.
        """
        flags = self._flags()
        env = dict(self._env)
        argv = [f"--subject={message.subject}", f"--priority={message.priority}"]
        if "--from" in flags:
            argv.append(f"--from={message.sender}")
        elif "/" in message.sender:  # older ones take an address from there
            env["GT_ROLE"] = message.sender
        body = message.body.encode()
        if "--stdin" in flags:
            if len(body) > _LONGEST:
                raise UsageError(
                    f"gt takes no body of {len(body)} bytes: it hands it to bd as an argument",
                    hint=f"send at most {_LONGEST} bytes, or a path or a link to the text",
                )
            argv.append("--stdin")
        elif len(body) > _ARGUMENT:
            raise UsageError(
                f"this gt ({self._program}) takes no body of {len(body)} bytes: it has no --stdin",
                hint="install gt 1.0 or newer there",
            )
        else:
            argv.append(f"--message={message.body}")
        code, _, said = self._run(["mail", "send", *argv, "--", message.to], env, body)
        if code == 0:
            return
        why = f"gt mail send {message.to} failed at {self._town} ({_ended(code)}): {said}"
        if any(word in said.lower() for word in _NOBODY):
            raise UsageError(why, hint="gt mail directory, or gt status there, shows who there is")
        # it answered, so that other mail may well arrive: no UnreachableError
        raise OutpostError(why, hint=f"gt doctor in {self._town}")

    def inbox(self, who: str) -> list[Message]:
        """Return someone's messages, without telling `gt` that they have seen them.

        `gt mail inbox` acknowledges the delivery in the receiver's name; a search for nothing in
        particular lists the same, as whoever `GT_ROLE` says, and acknowledges nothing.

        Raises:
            UnreachableError: it cannot say.
        """
        env = self._env if who == "overseer" else {**self._env, "GT_ROLE": who}
        code, out, said = self._run(["mail", "search", "--json", "--", ""], env)
        try:
            found = json.loads(out or b"null") if code == 0 else None
        except (ValueError, RecursionError):
            code, said = -1, "its answer is not JSON"
        if code != 0:
            raise UnreachableError(
                f"gt mail search failed at {self._town} ({_ended(code)}): {said}",
                hint=f"gt doctor in {self._town}",
            )
        messages = [maildir.message_of(one) for one in found or () if isinstance(found, list)]
        return [one for one in messages if one is not None]

    def has(self, message: Message, since: float) -> bool:
        """Whether a hand-over whose end nobody saw has delivered the message after all.

        Its own id is not `gt`'s, so what it says is compared.

        Args:
            message: the message.
            since: when the hand-over began.
        """
        try:
            found = self.inbox(identity(message.to))
        except UnreachableError:
            return False
        return any(
            one.subject == message.subject
            and one.body.rstrip("\n") == message.body.rstrip("\n")
            and (one.sent_at or 0.0) >= since - _SLACK
            for one in found
        )

    def _flags(self) -> frozenset[str]:
        """Return which of the flags that matter this version takes."""
        found = Path(self._program).stat()
        key = (self._program, found.st_mtime_ns, found.st_size)
        if key in _FLAGS:
            return _FLAGS[key]
        _, out, said = self._run(["mail", "send", "--help"], self._env)
        words = out.decode("utf-8", "replace") + said
        flags = frozenset(flag for flag in ("--stdin", "--from") if flag in words)
        _FLAGS[key] = flags
        return flags

    def _run(
        self, argv: Sequence[str], env: Mapping[str, str], given: bytes = b""
    ) -> tuple[int, bytes, str]:
        """Run it to its end; return its code, its output, and the end of what it complained of.

        Its streams are files: a database server that it starts in the background would keep a
        pipe open.
        """
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, \
                tempfile.TemporaryFile() as err:  # fmt: skip
            stdin.write(given)
            stdin.seek(0)
            try:
                child = subprocess.Popen(
                    [self._program, *argv], cwd=self._town, env={**env}, stdin=stdin, stdout=out,
                    stderr=err, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise UnreachableError(
                    f"{self._program} cannot be started: {error.strerror}",
                    hint="which gt; gt version",
                ) from error
            try:
                code = child.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                raise UnreachableError(
                    f"gt {argv[0]} {argv[1]} did not end within {TIMEOUT:g} s at {self._town}",
                    hint=f"gt doctor in {self._town}",
                ) from None
            out.seek(0)
            err.seek(0)
            return code, out.read(_OUTPUT), _complaint(err.read(_OUTPUT))


def _complaint(said: bytes) -> str:
    """Return what an error says, on one line and harmless.

    Its `Error:` line comes before twenty lines of usage; without one the last words count.
    """
    text = said.decode("utf-8", "replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("Error:").strip() for line in lines if line.startswith("Error:")]
    kept = "; ".join(errors or lines[-3:])[-400:]
    return "".join(c if c.isprintable() else "?" for c in kept) or "it said nothing"


def _ended(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
