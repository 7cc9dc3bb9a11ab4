"""Spawn: create or adopt (law 1), and the order arrives exactly as it is."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from outpost_core import wire
from outpost_core.errors import ConflictError
from outpost_core.types import MAX_ISSUE_ID, Agent, State
from outpost_testing.registry import check
from outpost_testing.trial import COUNT, HOLD, expect

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_testing.trial import Trial

#: What shells, tmux, YAML, JSON and format strings trip over.
HOSTILE: Final = (
    "",
    " ",
    "a b",
    "'",
    '"',
    'it\'s "quoted"',
    "line one\nline two\n",
    "\ttab",
    "$HOME",
    "$(touch /tmp/outpost-injected)",
    "`id`",
    "a;b",
    ";",
    "x;",
    "\\",
    "\\;",
    "#{pane_id}",
    "%s%n",
    "{other}",
    "{0}",
    "{",
    "*",
    "~",
    "-rf",
    "--",
    "!history",
    "&& false",
    "| false",
    "> /dev/null",
    "\x01\x1b[31m\x7f",
    "Ünïcødé ✓ 漢字",
)
_PRINT_ARGUMENTS: Final = 'for a in "$@"; do printf "%s\\0" "$a"; done'


@check("spawn")
async def adopts_the_same_order(trial: Trial) -> None:
    """The same order spawned three times is one worker that runs once."""
    order = trial.sh(COUNT)
    first = await trial.spawn(order)
    second = await trial.spawn(order)
    expect(first.digest == second.digest, "The second answer is about another order.")
    await trial.ended(order)
    await trial.spawn(order, trial.another())
    await trial.ended(order)
    await trial.ran_once(order)


@check("spawn")
async def adopts_while_it_works(trial: Trial) -> None:
    """Another object that spawns an order whose worker is working adopts that worker."""
    order = trial.sh(f"{COUNT}; echo up >$CF_FOLDER/up; {HOLD}")
    await trial.spawn(order)
    if trial.target.shared:
        await trial.seen("up")
    again = await trial.spawn(order, trial.another())
    expect(not again.state.terminal, f"It is said to be {again.state}.")
    trial.release()
    if not trial.target.shared:

        async def ran() -> bool:
            return await trial.runs(order) > 0

        await trial.until(ran, "it did not begin")
        await trial.outpost.outpost_stop(worker=order.worker, grace=1.0)
    await trial.ended(order)
    await trial.ran_once(order)


@check("spawn")
async def adopts_across_threads(trial: Trial) -> None:
    """Eight threads, each with its own loop and object, that spawn one order make one worker."""
    order = trial.sh(COUNT)

    def spawn() -> str:
        async def main() -> str:
            outpost = trial.target.make()
            try:
                return (await trial.spawn(order, outpost)).digest
            finally:
                if hasattr(outpost, "outpost_close"):
                    await outpost.outpost_close()

        return asyncio.run(main())

    digests = await asyncio.gather(*(asyncio.to_thread(spawn) for _ in range(8)))
    expect(set(digests) == {wire.digest(order)}, "Not every thread was answered with the order.")
    await trial.ended(order)
    await trial.ran_once(order)


@check("spawn")
async def adopts_across_processes(trial: Trial) -> None:
    """Four processes that spawn one order at once make one worker."""
    order = trial.sh(COUNT)
    children = [await trial.controller("spawn", order) for _ in range(4)]
    for child in children:
        answer = await trial.answer(child)
        expect(answer["id"] == order.worker, f"One was answered {answer['id']}.")
    await trial.ended(order)
    await trial.ran_once(order)


@check("spawn")
async def adopts_an_ended_worker(trial: Trial) -> None:
    """Spawning an order whose worker has ended answers with its result and runs nothing."""
    order = trial.sh(f"{COUNT}; exit 3")
    result = await trial.end(order)
    again = await trial.spawn(order, trial.another())
    expect(again.result == result, f"The result is now {again.result}.")
    await trial.ran_once(order)


@check("spawn")
async def refuses_another_order(trial: Trial) -> None:
    """The same id with another order is a conflict, and the worker that is there continues."""
    order = trial.sh(f"{COUNT}; {HOLD}")
    await trial.spawn(order)
    other = replace(order, agent=Agent(argv=("/bin/sh", "-c", "exit 9")))
    for outpost in (trial.outpost, trial.another()):
        try:
            answer = await outpost.outpost_spawn(order=other)
        except ConflictError:
            continue
        expect(False, f"The other order was answered with {answer.state}.")
    status = await trial.status(order)
    expect(status.digest == wire.digest(order), "The worker has the other order now.")
    expect(not status.state.terminal, f"The worker is {status.state}.")


@check("spawn")
async def refuses_another_order_after_the_end(trial: Trial) -> None:
    """The id of an ended worker is taken for ever: another order is a conflict."""
    order = trial.sh("exit 0")
    result = await trial.end(order)
    try:
        await trial.outpost.outpost_spawn(order=replace(order, prompt="something else"))
    except ConflictError:
        expect((await trial.status(order)).result == result, "The result changed.")
        return
    expect(False, "It was accepted.")


@check("spawn")
async def attempts_are_apart(trial: Trial) -> None:
    """Two attempts at one issue are two workers."""
    first = trial.sh(f"{COUNT}; exit 1")
    second = trial.sh(f"{COUNT}; exit 0", issue=first.issue.id, attempt=2)
    one, two = await trial.end(first), await trial.end(second)
    expect((one.exit_code, two.exit_code) == (1, 0), f"Exit {one.exit_code} and {two.exit_code}.")


@check("spawn")
async def hostile_ids(trial: Trial) -> None:
    """Ids that differ in case, dots, underscores or as prefixes are different workers."""
    base = trial.order("true").issue.id
    ids = [
        f"{base}{end}" for end in ("a", "A", "a.b", "a_b", "a-b", "a.b.c", "ab", "a.1", "a--", "a_")
    ]
    orders = [trial.sh(f"printf %s {issue}", issue=issue) for issue in ids]
    for order in orders:
        await trial.spawn(order)
    await trial.ended(*orders)
    for order in orders:
        log = await trial.log(order)
        expect(log == order.issue.id.encode(), f"The log of {order.worker} is {log[:80]!r}.")


@check("spawn")
async def longest_id(trial: Trial) -> None:
    """An issue id of 96 characters and attempt 999999 work like any other."""
    stem = trial.order("true").issue.id
    order = trial.sh("printf long", issue=stem.ljust(MAX_ISSUE_ID, "x"), attempt=999_999)
    result = await trial.end(order)
    expect(result.state is State.DONE, f"It is {result.state}: {result.message}.")
    expect(await trial.log(order) == b"long", "Its log is not what it printed.")
    await trial.outpost.outpost_stop(worker=order.worker, grace=0.0)


@check("spawn")
async def argv_is_exact(trial: Trial) -> None:
    """Arguments with quotes, newlines, `$()`, `;`, braces and nothing at all arrive unchanged."""
    order = trial.sh(_PRINT_ARGUMENTS, *HOSTILE)
    await _expect_arguments(trial, order, HOSTILE)


@check("spawn")
async def trailing_semicolon(trial: Trial) -> None:
    """An argv whose last argument ends in `;` is no separator of anything."""
    args = ("x;", "kill-server", ";")
    order = trial.sh(_PRINT_ARGUMENTS, *args)
    await _expect_arguments(trial, order, args)


@check("spawn")
async def many_arguments(trial: Trial) -> None:
    """An argv of 100 kB arrives unchanged."""
    args = tuple(f"{number:03}" + "x" * 997 for number in range(100))
    order = trial.sh(_PRINT_ARGUMENTS, *args)
    await _expect_arguments(trial, order, args)


async def _expect_arguments(trial: Trial, order: Order, args: tuple[str, ...]) -> None:
    await trial.end(order)
    got = (await trial.log(order)).decode(errors="replace").split("\0")[:-1]
    wrong = [(want, have) for want, have in zip(args, got, strict=False) if want != have]
    expect(not wrong, f"{wrong[:3]} (sent, got).")
    expect(len(got) == len(args), f"{len(args)} were sent, {len(got)} came.")


@check("spawn")
async def prompt_is_exact(trial: Trial) -> None:
    """A prompt of 300 kB arrives in `{prompt_file}` byte for byte; `{issue}` is replaced."""
    prompt = "".join(f"{n} {word}\n" for n in range(500) for word in HOSTILE)[:300_000]
    order = trial.sh('printf "%s\\n" "$2"; cat "$1"', "{prompt_file}", "{issue}", prompt=prompt)
    await trial.end(order)
    want = f"{order.issue.id}\n{prompt}".encode()
    log = await trial.log(order)
    expect(log == want, f"{len(want)} bytes were sent, {len(log)} came, and they differ.")


@check("spawn")
async def prompt_in_argv(trial: Trial) -> None:
    """`{prompt}` is replaced by plain text, also inside an argument, and only once."""
    prompt = "say {issue} and $(id) 'now';"
    order = trial.sh(_PRINT_ARGUMENTS, "{prompt}", "--prompt={prompt}", prompt=prompt)
    await _expect_arguments(trial, order, (prompt, f"--prompt={prompt}"))


@check("spawn")
async def environment_is_exact(trial: Trial) -> None:
    """Variables of the order arrive unchanged, with the worker's own beside them."""
    env = {f"CF_VALUE_{n}": value for n, value in enumerate(HOSTILE)}
    order = trial.sh(
        "".join(f'printf "%s\\0" "$CF_VALUE_{n}"; ' for n in range(len(HOSTILE)))
        + 'printf "%s\\0" "$OUTPOST_WORKER" "$OUTPOST_ISSUE" "$OUTPOST_ATTEMPT"',
        env=env,
    )
    await _expect_arguments(
        trial, order, (*env.values(), order.worker, order.issue.id, str(order.attempt))
    )


@check("spawn")
async def environment_is_clean(trial: Trial) -> None:
    """The caller's other variables do not reach the agent."""
    os.environ["CF_STRAY"] = "stray"
    try:
        order = trial.sh('printf "<%s>" "$CF_STRAY$TMUX$CLAUDECODE"')
        await trial.end(order)
    finally:
        del os.environ["CF_STRAY"]
    log = await trial.log(order)
    expect(log == b"<>", f"It saw {log!r}.")


@check("spawn")
async def stdin_is_empty(trial: Trial) -> None:
    """An agent without a terminal that reads its standard input gets its end at once."""
    order = trial.sh("cat; echo read")
    await trial.end(order)
    expect(await trial.log(order) == b"read\n", "It read something.")


@check("spawn")
async def digest_is_the_orders(trial: Trial) -> None:
    """Spawn and list say the digest of the order."""
    order = trial.sh(HOLD, context={"why": "to be told apart", "n": [1, 2.5, None]})
    status = await trial.spawn(order)
    expect(status.digest == wire.digest(order), "Spawn said another digest.")
    expect((await trial.status(order)).digest == wire.digest(order), "List said another digest.")


@check("spawn")
async def listed_once_answered(trial: Trial) -> None:
    """When spawn has answered, every other object lists the worker at once."""
    for _ in range(5):
        order = trial.sh("exit 0")
        await trial.spawn(order)
        await trial.status(order, trial.another())


@check("spawn", needs=("interactive",))
async def interactive_has_a_terminal(trial: Trial) -> None:
    """An interactive agent has a terminal on its standard streams."""
    order = trial.sh("test -t 0 && test -t 1 && test -t 2 && exit 7; exit 8", interactive=True)
    result = await trial.end(order)
    expect(result.exit_code == 7, f"It has none (exit {result.exit_code}).")


@check("spawn", needs=("interactive", "nudge"))
async def nudge_types(trial: Trial) -> None:
    """A nudge is typed into the terminal unchanged, followed by Enter."""
    text = "say 'hi' \"you\"; $(id) `id` {x} Enter C-c;"
    order = trial.sh('echo ready; IFS= read -r line; printf "<%s>\\n" "$line"', interactive=True)
    await trial.spawn(order)
    await trial.until(lambda: _has(trial, order, b"ready"), "it did not come to read")
    await trial.outpost.outpost_nudge(worker=order.worker, text=text)
    await trial.until(
        lambda: _has(trial, order, b"<" + text.encode() + b">"), f"it did not read {text!r}"
    )


@check("spawn", needs=("interactive", "peek"))
async def peek_shows_the_screen(trial: Trial) -> None:
    """Peek shows what the worker's terminal shows."""
    order = trial.sh(f"echo look-here; {HOLD}", interactive=True)
    await trial.spawn(order)

    async def shown() -> bool:
        screen: str = await trial.outpost.outpost_peek(worker=order.worker, lines=20)
        return "look-here" in screen

    await trial.until(shown, "it did not show what the agent printed")


async def _has(trial: Trial, order: Order, text: bytes) -> bool:
    return text in await trial.log(order)
