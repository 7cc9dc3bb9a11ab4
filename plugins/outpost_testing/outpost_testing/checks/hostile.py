"""Security: agents that mean harm. What an agent can write is never the truth about it.

Everything that an agent does here, any program can do that was told to by a text from a stranger.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import OutpostError
from outpost_core.types import State
from outpost_testing.processes import mentioning
from outpost_testing.registry import check
from outpost_testing.trial import HOLD, LEASH, expect
from outpost_worker.folder import files

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_testing.trial import Trial

#: Every name that a worker's folder has, with us or with a backend that is like us.
_NAMES: Final = (
    files.ORDER, files.LAUNCH, files.CLAIM, files.STATE, files.WORKSPACE, files.AGENT, files.STOP,
    files.RESULT, files.LOG, files.SCREEN, files.PROMPT, files.SECRETS, files.CREDENTIALS,
    files.INPUT, files.LOCK, files.RESULT_ROOM, files.DEBUG, "checkpoint", "status.json", "exit",
)  # fmt: skip
#: For an agent in Python: `reach()` yields each folder of its outpost that it can get at.
_REACH: Final = """
import json, os, sys, time
there = os.environ["CF_FOLDER"]
own = os.path.realpath(os.environ["CF_STATE"]) + "/"
told = os.environ.get("OUTPOST_WORKER_DIR") or os.getcwd()
names = json.loads(os.environ["CF_NAMES"])

def reach():
    found = [told, os.path.dirname(told), os.path.dirname(os.getcwd()), os.getcwd()]
    return [f for f in dict.fromkeys(map(os.path.realpath, found)) if f.startswith(own)]

def put(folder, name, make):
    path = os.path.join(folder, name)
    new = os.path.join(folder, ".kit-new")
    try:
        if name == "output.log" and make is not link:
            return
        make(new)
        os.rename(new, path)
    except OSError:
        pass

def link(path):
    os.symlink(os.path.join(there, "precious"), path)

def say(name):
    with open(os.path.join(there, name), "w") as file:
        file.write("\\n")

def hold():
    end = time.monotonic() + 120
    while os.path.exists(os.environ["CF_GOING"]) and time.monotonic() < end:
        time.sleep(0.05)
"""
#: Seconds for which a worker is looked at while its agent says that it has ended.
_LOOK: Final = 1.0
_DEAD: Final = "deadbeef" * 5


def hostile(trial: Trial, code: str, *args: str, **fields: Any) -> Order:
    """Return an order whose agent runs `code` with `reach` and its kind at hand."""
    order = trial.python(_REACH + code, *args, **fields)
    own = {"CF_STATE": str(trial.target.state), "CF_NAMES": json.dumps(_NAMES)}
    return replace(order, env={**order.env, **own})


async def _beside(trial: Trial) -> Order:
    """Spawn an honest worker that continues until it is released."""
    order = trial.sh(f"echo honest; {HOLD}; exit 0")
    await trial.spawn(order)
    return order


async def _is_well(trial: Trial, order: Order) -> None:
    """Expect that the honest worker beside is told as it is, to its good end."""
    status = await trial.status(order)
    expect(not status.state.terminal, f"The worker beside is told as {status.state}.")
    trial.release()
    (result,) = await trial.ended(order)
    expect(result.state is State.DONE, f"The worker beside ended as {result.state}.")
    expect(await trial.log(order) == b"honest\n", "The log of the worker beside is another one.")


@check("security", needs=("shared",))
async def forged_result_is_not_believed(trial: Trial) -> None:
    """An agent that writes results, states and claims of its own into all that it can reach is
    told as what it is: at work, and then as it ended.
    """
    forged = {
        "state": "done", "reason": "ok", "message": "forged", "branch": "main", "commit": _DEAD,
        "pr_url": "https://forged.example/1", "exit_code": 0, "signal": None, "checkpoint": None,
        "session": "forged", "started_at": 1.0, "finished_at": 2.0, "log_bytes": 0,
        "log_truncated": False, "cost_usd": -1e9, "agent_began": False, "detail": "forged",
        "usage": dict.fromkeys(("input_tokens", "output_tokens", "turns"), -5),
    }  # fmt: skip
    code = f"""
forged = {forged!r}
def write(path):
    with open(path, "w") as file:
        json.dump(forged, file)
for folder in reach():
    for name in ("result.json", "agent.json", "state.json", "status.json", "exit"):
        put(folder, name, write)
say("up")
hold()
sys.exit(3)
"""
    order = hostile(trial, code)
    await trial.spawn(order)
    await trial.seen("up")
    end = time.monotonic() + _LOOK
    while time.monotonic() < end:
        status = await trial.status(order)
        _not_forged(repr(status))
        expect(status.state is not State.DONE, "It is told as done, and its agent lives.")
        await asyncio.sleep(0.05)
    trial.release()
    (result,) = await trial.ended(order)
    _not_forged(repr(result))
    expect(result.state is not State.DONE, f"It is told as {result.state}.")
    expect(result.exit_code in (3, None), f"It is told with the exit code {result.exit_code}.")


def _not_forged(said: str) -> None:
    for text in (_DEAD, "forged", "-1000000000"):
        expect(text not in said, f"It tells what the agent made up: {said[:400]}")


@check("security", needs=("shared",))
async def nonsense_hides_no_other(trial: Trial) -> None:
    """Nonsense of any kind in all files that an agent can reach hides no other worker and breaks
    no answer.
    """
    code = r"""
def text(data):
    def write(path):
        with open(path, "wb") as file:
            file.write(data)
    return write
def vast(path):
    with open(path, "wb") as file:
        file.truncate(1 << 42)
kinds = [text(data) for data in (
    b"", b"\0", b"\xff\xfe", b"[" * 100_000, b'{"state": "bogus", "detail": 5}', b"null", b"[]",
    b'{"state": {}, "detail": [1e999, NaN], "updated_at": 1e300, "agent": "x", "usage": 7}',
    b'{"pid": -1, "start": -1, "boot": 7, "at": "x"}', b'{"pid": 1e30}', b"-" * 70_000,
    b'{"state": "done", "finished_at": 1e300, "started_at": -1e300, "exit_code": 1e300}',
)]
kinds.append(vast)
number = 0
for folder in reach():
    for name in names:
        put(folder, name, kinds[number % len(kinds)])
        number += 1
say("up")
hold()
sys.exit(3)
"""
    honest = await _beside(trial)
    orders = [hostile(trial, code.replace("number = 0", f"number = {i}")) for i in (0, 5, 12)]
    for order in orders:
        await trial.spawn(order)
    await trial.seen("up")
    await asyncio.sleep(_LOOK / 2)
    found = await trial.listed()
    for order in (honest, *orders):
        expect(order.worker in found, f"{order.worker} is hidden.")
    await _is_well(trial, honest)
    for result in await trial.ended(*orders):
        expect(result.state is not State.DONE, f"One is told as {result.state}.")


@check("security", needs=("shared",), patience=3.0)
async def fifos_hang_nobody(trial: Trial) -> None:
    """An agent that puts named pipes into all that it can reach holds no command up."""
    code = """
for folder in reach():
    for name in names:
        put(folder, name, os.mkfifo)
say("up")
hold()
sys.exit(3)
"""
    honest = await _beside(trial)
    order = hostile(trial, code)
    await trial.spawn(order)
    await trial.seen("up")
    other = trial.another()
    async with asyncio.timeout(trial.target.within):
        await trial.status(order, other)
        with suppress(OutpostError):
            async for _ in other.outpost_logs(worker=order.worker, offset=0, follow=False):
                pass
        with suppress(OutpostError):
            await other.outpost_spawn(order=order)
        await other.outpost_stop(worker=order.worker, grace=0.0)
    (result,) = await trial.ended(order)
    expect(result.state is not State.DONE, f"It is told as {result.state}.")
    if "clean" in trial.target.capabilities:
        async with asyncio.timeout(trial.target.within):
            await other.outpost_clean(worker=order.worker, force=True)
    await _is_well(trial, honest)


@check("security", needs=("shared",), patience=3.0)
async def links_are_not_followed(trial: Trial) -> None:
    """Links that an agent puts into all that it can reach lead nobody to what they name: it is
    neither read, written nor removed.
    """
    code = """
for folder in reach():
    for name in names:
        put(folder, name, link)
    for name in ("exchange", "work.old", "linked"):
        put(folder, name, lambda path: os.symlink(os.path.join(there, "private"), path))
print("said", flush=True)
say("up")
sys.exit(3)
"""
    precious = f"precious-{secrets.token_hex(8)}"
    file, private = trial.folder / "precious", trial.folder / "private"
    private.mkdir()
    for path in (file, private / "one", private / files.RESULT):
        path.write_text(f"{precious}\n")
        path.chmod(0o644)
    before = [(path, path.stat()) for path in (file, private, private / "one")]
    order = hostile(trial, code)
    await trial.spawn(order)
    (result,) = await trial.ended(order)
    said = [repr(result), repr(await trial.status(order))]
    with suppress(OutpostError):
        said.append((await trial.log(order)).decode(errors="replace"))
    if "peek" in trial.target.capabilities:
        with suppress(OutpostError):
            said.append(await trial.outpost.outpost_peek(worker=order.worker, lines=20))
    expect(not any(precious in text for text in said), "What a link names was read and told.")
    if "clean" in trial.target.capabilities:
        with suppress(OutpostError):
            await trial.outpost.outpost_clean(worker=order.worker, force=True)
    for path, was in before:
        expect(path.exists(), f"{path.name}, which a link named, was removed.")
        now = path.stat()
        same = (now.st_mode, now.st_uid, now.st_ino) == (was.st_mode, was.st_uid, was.st_ino)
        expect(same, f"{path.name}, which a link named, has another mode or is another file.")
    for path in (file, private / "one", private / files.RESULT):
        expect(path.read_text() == f"{precious}\n", f"{path.name}, which a link named, changed.")


# --- processes ----------------------------------------------------------------------------------

#: Starts a process without environment, pipes, session or parent of ours; it holds the leash.
_HIDDEN: Final = (
    "env -i setsid /bin/sh -c '(exec /bin/sh -c \"trap : TERM HUP INT; n=0;"
    " while [ -e $1 ] && [ \\$n -lt 2400 ]; do sleep 0.05; n=\\$((n+1)); done\" &)'"
    ' sh "$CF_GOING" </dev/null >/dev/null 2>&1 &'
)


@check("security", needs=("shared",))
async def hidden_descendants_end(trial: Trial) -> None:
    """Processes that an agent hides (no environment, pipe, session or parent tells whose they are)
    end with their worker, whether it ends or is stopped.
    """
    for how in ("exit 0", HOLD):
        order = trial.sh(f"{LEASH}; {_HIDDEN} {_HIDDEN} sleep 0.3; echo up; {how}")
        await trial.spawn(order)

        async def up(order: Order = order) -> bool:
            return b"up" in await trial.log(order)

        await trial.until(up, "the agent did not start")
        if how == HOLD:
            await trial.outpost.outpost_stop(worker=order.worker, grace=0.5)
        await trial.ended(order)
        await trial.nothing_left()


@check("security", needs=("shared",), patience=3.0)
async def killed_parents_leave_nobody(trial: Trial) -> None:
    """An agent that kills what watches over it leaves no process, hidden ones neither, and is not
    told as done.
    """
    code = """
os.set_inheritable(os.open(os.environ["CF_LEASH"], os.O_WRONLY | os.O_APPEND), True)
os.system(sys.argv[1] + " " + sys.argv[1] + " sleep 0.3")
pid, mine = os.getppid(), os.environ["OUTPOST_WORKER"].encode()
while pid > 1:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if mine not in file.read():
                break
        with open(f"/proc/{pid}/status") as file:
            above = int(next(line for line in file if line.startswith("PPid")).split()[1])
        os.kill(pid, 9)
    except (OSError, StopIteration):
        break
    pid = above
time.sleep(0.2)
sys.exit(3)
"""
    order = hostile(trial, code)
    order = replace(order, agent=replace(order.agent, argv=(*order.agent.argv, _HIDDEN)))
    await trial.spawn(order)
    (result,) = await trial.ended(order)
    expect(result.state is not State.DONE, f"It is told as {result.state}.")
    await trial.spawn(order)  # whoever asks again changes nothing
    await trial.nothing_left()


@check("security", needs=("shared",))
async def environment_of_the_caller_is_gone(trial: Trial) -> None:
    """What a program has in its environment that spawns a worker is to be found with no process
    once that program has ended.
    """
    canary = f"canary-{secrets.token_hex(12)}"
    order = trial.sh(f"echo up >$CF_FOLDER/up; {HOLD}")
    child = await trial.controller("spawn", order, env={"CF_CALLERS_TOKEN": canary})
    await trial.answer(child)
    await trial.seen("up")
    found = mentioning(canary)
    expect(not found, f"A process has it: {found}.")
