"""Logs: every byte, from any offset, live, to the end, and after it."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from outpost_core.errors import NotFoundError, UnreachableError
from outpost_core.types import Limits
from outpost_testing.registry import check
from outpost_testing.trial import HOLD, expect

if TYPE_CHECKING:
    from outpost_testing.trial import Trial

#: Prints every byte value but NUL, CR and LF, which a shell or a terminal treats its own way.
_BYTES: Final = bytes(n for n in range(1, 256) if n not in (10, 13))
_PRINT_BYTES: Final = "printf '" + "".join(f"\\{n:03o}" for n in _BYTES) + "'"
_NUMBERS: Final = 'n=0; while [ $n -lt 2000 ]; do echo "line $n"; n=$((n+1)); done'
_NUMBERED: Final = "".join(f"line {n}\n" for n in range(2000)).encode()


@check("logs")
async def bytes_are_exact(trial: Trial) -> None:
    """Every byte value arrives as it is, invalid UTF-8 too."""
    order = trial.sh(f"{_PRINT_BYTES}; printf '\\000\\n\\r\\n\\r'; {_PRINT_BYTES}")
    await trial.end(order)
    log, want = await trial.log(order), _BYTES + b"\0\n\r\n\r" + _BYTES
    expect(log == want, f"{len(want)} were printed, {len(log)} came, and they differ.")


@check("logs", patience=6.0)
async def long_without_a_newline(trial: Trial) -> None:
    """Many megabytes without a newline are all there, and follow yields them in pieces."""
    size = trial.target.log_bytes
    order = trial.sh(
        'head -c "$1" /dev/zero | tr "\\000" x', str(size), limits=Limits(log_bytes=2 * size + 1)
    )
    await trial.spawn(order)
    digest, length, longest = hashlib.sha256(), 0, 0
    stream = trial.outpost.outpost_logs(worker=order.worker, offset=0, follow=True)
    async with aclosing(stream):
        async for chunk in stream:
            digest.update(chunk)
            length += len(chunk)
            longest = max(longest, len(chunk))
    expect(length == size, f"{size} were printed, {length} came.")
    whole = hashlib.sha256()
    for start in range(0, size, 1 << 20):
        whole.update(b"x" * min(1 << 20, size - start))
    expect(digest.digest() == whole.digest(), "They are not the bytes that were printed.")
    expect(longest <= 8 << 20, f"One piece had {longest} bytes.")
    (result,) = await trial.ended(order)
    expect(result.log_bytes == size, f"The result says {result.log_bytes} bytes.")


@check("logs")
async def resumes_at_any_offset(trial: Trial) -> None:
    """Reading from any offset gives exactly the rest; beyond the end there is nothing."""
    order = trial.sh(f"{_NUMBERS}; {_PRINT_BYTES}")
    await trial.end(order)
    want = _NUMBERED + _BYTES
    size = len(want)
    for offset in (0, 1, 7, 4095, 4096, size // 2, size - 1, size, size + 1, 10 * size):
        for follow in (False, True):
            log = await trial.log(order, offset, follow=follow)
            expect(
                log == want[offset:],
                f"From {offset} of {size} there came {len(log)} bytes (follow={follow}).",
            )


@check("logs")
async def follow_ends(trial: Trial) -> None:
    """Follow ends by itself once the worker has ended, with all of its output."""
    order = trial.sh("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done; printf end")
    await trial.spawn(order)
    try:
        log = await trial.log(order, follow=True)
    except TimeoutError:
        expect(False, "It did not end.")
    expect(log == b"1\n2\n3\n4\n5\nend", f"It gave {log[-80:]!r}.")
    expect(await trial.log(order, follow=True) == log, "Followed after the end, it gave less.")


@check("logs")
async def follow_is_live(trial: Trial) -> None:
    """Follow yields output while the worker still works."""
    order = trial.sh(f"echo early; {HOLD}; echo late")
    await trial.spawn(order)
    got = b""
    async with asyncio.timeout(trial.target.within):
        stream = trial.outpost.outpost_logs(worker=order.worker, offset=0, follow=True)
        async with aclosing(stream):
            async for chunk in stream:
                got += chunk
                if got == b"early\n":
                    status = await trial.status(order)
                    expect(not status.state.terminal, f"It came when it was {status.state}.")
                    trial.release()
                    if not trial.target.shared:
                        return
    expect(got == b"early\nlate\n", f"It gave {got!r}.")


@check("logs", needs=("cut", "shared"), patience=4.0)
async def follow_across_a_cut(trial: Trial) -> None:
    """When an outpost is unreachable for a moment, a follower loses and doubles no byte, whether
    it waits or says so and is started again from where it was.
    """
    order = trial.sh(f"{_NUMBERS}; {HOLD}; printf end")
    await trial.spawn(order)
    got, cut, over = b"", False, False
    while not over:
        stream = trial.outpost.outpost_logs(worker=order.worker, offset=len(got), follow=True)
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    got += chunk
                    if len(got) >= len(_NUMBERED) and not cut:
                        cut = True
                        _cut_for_a_moment(trial)
            over = True
        except UnreachableError:
            await asyncio.sleep(0.05)
    expect(got == _NUMBERED + b"end", f"{len(got)} bytes came, the end is {got[-24:]!r}.")


def _cut_for_a_moment(trial: Trial) -> None:
    assert trial.target.cut is not None
    assert trial.target.restore is not None
    trial.target.cut()
    trial.target.restore()
    trial.release()


@check("logs")
async def follow_waits_for_output(trial: Trial) -> None:
    """Follow from the end of what there is waits for more."""
    order = trial.sh("printf abc; sleep 0.4; printf def")
    await trial.spawn(order)
    log = await trial.log(order, 3, follow=True)
    expect(log == b"def", f"From byte 3 it gave {log!r}.")


@check("logs")
async def last_bytes_are_kept(trial: Trial) -> None:
    """The last bytes before an exit, without a newline, are never lost."""
    orders = [trial.sh(f"{_NUMBERS}; printf 'the very end'") for _ in range(5)]
    for order in orders:
        await trial.spawn(order)
    followed = await asyncio.gather(*(trial.log(order, follow=True) for order in orders))
    await trial.ended(*orders)
    want = _NUMBERED + b"the very end"
    for order, live in zip(orders, followed, strict=True):
        read = await trial.log(order)
        expect(live == want, f"Followed, the end is {live[-24:]!r}.")
        expect(read == want, f"Read afterwards, the end is {read[-24:]!r}.")


@check("logs")
async def readable_after_death(trial: Trial) -> None:
    """The log of a worker that was killed is there for every object afterwards."""
    order = trial.sh("echo before; kill -9 $$")
    await trial.end(order)
    log = await trial.log(order, outpost=trial.another())
    expect(log == b"before\n", f"It is {log!r}.")


@check("logs")
async def stderr_is_in_it(trial: Trial) -> None:
    """Standard error is in the log, in the order in which it was written."""
    order = trial.sh("echo one; echo two >&2; echo three; echo four >&2")
    await trial.end(order)
    log = await trial.log(order)
    expect(log == b"one\ntwo\nthree\nfour\n", f"It is {log!r}.")


@check("logs")
async def empty_log(trial: Trial) -> None:
    """An agent that prints nothing has an empty log, not an error."""
    order = trial.sh("exit 0")
    await trial.end(order)
    expect(await trial.log(order) == b"", "It is not empty.")
    expect(await trial.log(order, follow=True) == b"", "Followed, it is not empty.")


@check("logs")
async def unknown_worker(trial: Trial) -> None:
    """The log of a worker that is not there is a NotFoundError, read or followed."""
    order = trial.order("true")
    for follow in (False, True):
        try:
            await trial.log(order, follow=follow)
        except NotFoundError:
            continue
        expect(False, f"It was answered (follow={follow}).")


@check("logs")
async def readers_do_not_disturb_each_other(trial: Trial) -> None:
    """Many followers each get everything, and one that leaves early takes nothing with it."""
    order = trial.sh("sleep 0.2; " + _NUMBERS)
    await trial.spawn(order)

    async def leave_early() -> None:
        stream = trial.outpost.outpost_logs(worker=order.worker, offset=0, follow=True)
        async with aclosing(stream):
            async for _ in stream:
                return

    async with asyncio.timeout(trial.target.within):
        logs = asyncio.gather(*(trial.log(order, follow=True) for _ in range(8)))
        await leave_early()
        for log in await logs:
            expect(log == _NUMBERED, f"One got {len(log)} of {len(_NUMBERED)} bytes.")


@check("logs")
async def cap_is_marked(trial: Trial) -> None:
    """At its cap the log is cut with a marker and the result says so; the agent runs on."""
    cap = 10_000
    order = trial.sh(f"{_NUMBERS}; exit 5", limits=Limits(log_bytes=cap))
    result = await trial.end(order)
    expect(result.exit_code == 5, f"The agent ended with {result.exit_code}.")
    expect(result.log_truncated, "The result does not say that the log is cut.")
    log = await trial.log(order)
    expect(log[: cap // 2] == _NUMBERED[: cap // 2], "Its beginning is not what was printed.")
    expect(len(log) <= cap + 1000, f"The cap is {cap}, the log has {len(log)} bytes.")
    expect(log not in _NUMBERED, "There is no marker in it.")
