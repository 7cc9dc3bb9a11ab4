"""Security: secrets show nowhere, ids stay where they belong, files are private."""

from __future__ import annotations

import asyncio
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from outpost_core import wire
from outpost_core.errors import NotFoundError, OutpostError, UsageError
from outpost_core.types import Secrets
from outpost_testing.processes import ArgumentsWatch
from outpost_testing.registry import check
from outpost_testing.trial import HOLD, expect

if TYPE_CHECKING:
    from outpost_core.types import Order
    from outpost_testing.trial import Trial

_NEEDS = ("secrets",)


def _canary() -> str:
    return f"canary-{secrets.token_hex(12)}"


def _secret_order(trial: Trial, script: str, canary: str) -> Order:
    return trial.sh(script, secrets=Secrets({"CF_TOKEN": canary}))


@check("security", needs=_NEEDS)
async def secret_arrives(trial: Trial) -> None:
    """The agent has the value of a secret in its environment, exactly."""
    value = "tricky 'quoted' \"value\" $(id);\nsecond line"
    order = trial.sh(
        'test "$CF_TOKEN" = "$(printf "%b" "$1")" && exit 7; exit 8',
        value.replace("\n", "\\n"),
        secrets=Secrets({"CF_TOKEN": value}),
    )
    result = await trial.end(order)
    expect(result.exit_code == 7, f"It has another value (exit {result.exit_code}).")


@check("security", needs=(*_NEEDS, "shared"))
async def secret_in_no_argv(trial: Trial) -> None:
    """While a worker starts and works, no process has the secret in its arguments."""
    canary = _canary()
    order = _secret_order(trial, f"echo up >$CF_FOLDER/up; {HOLD}", canary)
    with ArgumentsWatch(canary) as watch:
        await trial.spawn(order)
        await trial.seen("up")
        await asyncio.sleep(0.1)
    expect(not watch.seen, f"Process {', '.join(map(str, sorted(watch.seen)))} has it.")


@check("security", needs=_NEEDS)
async def secret_is_masked_in_the_log(trial: Trial) -> None:
    """A secret that the agent prints, whole or in two writes, is masked in the log."""
    canary = _canary()
    script = (
        'printf "a %s b\\n" "$CF_TOKEN"; printf "c %s" "${CF_TOKEN%????}"; sleep 0.2;'
        ' printf "%s d\\n" "${CF_TOKEN#"${CF_TOKEN%????}"}"; env'
    )
    order = _secret_order(trial, script, canary)
    await trial.end(order)
    log = (await trial.log(order)).decode(errors="replace")
    expect(canary not in log, "It is in the log.")
    expect(log.startswith("a ") and " b\nc " in log, f"The rest of the log is gone: {log[:80]!r}.")


@check("security", needs=_NEEDS)
async def secret_in_no_answer(trial: Trial) -> None:
    """No status, result, repr or error text shows the secret."""
    canary = _canary()
    order = _secret_order(trial, "exit 3", canary)
    said = [repr(await trial.spawn(order))]
    await trial.ended(order)
    said += [repr(await trial.status(order)), wire.dumps(await trial.status(order))]
    said += [repr(trial.outpost), repr(vars(trial.outpost)), repr(order)]
    other = _secret_order(trial, "exit 4", canary)
    bad = trial.sh("exit 5", issue=order.issue.id, secrets=other.secrets)
    try:
        await trial.outpost.outpost_spawn(order=bad)
    except OutpostError as error:
        said += [str(error), repr(error)]
    expect(not any(canary in text for text in said), "One of them does.")


@check("security", needs=(*_NEEDS, "shared"))
async def secret_in_no_file(trial: Trial) -> None:
    """Once the agent runs, no file of the outpost holds the secret, and none does afterwards."""
    canary = _canary()
    order = _secret_order(trial, f"echo up >$CF_FOLDER/up; {HOLD}", canary)
    await trial.spawn(order)
    await trial.seen("up")
    found = _files_with(trial.target.state, canary)
    expect(not found, f"While it works: {found}.")
    trial.release()
    await trial.ended(order)
    found = _files_with(trial.target.state, canary)
    expect(not found, f"Afterwards: {found}.")


@check("security", needs=(*_NEEDS, "shared"))
async def secret_in_no_ledger(trial: Trial) -> None:
    """A manager's ledger holds no secret, and neither do its records."""
    canary = _canary()
    order = _secret_order(trial, "exit 0", canary)
    manager = await trial.manager()
    spawned = await manager.spawn(order, on=trial.target.name)
    expect(canary not in repr(spawned), "The answer of spawn shows it.")
    (worker,) = await manager.wait([order.worker], timeout=trial.target.within)
    said = [repr(worker), repr(await manager.ledger.order(order.worker))]
    said += [repr(event) for event in (await manager.ledger.events(worker=order.worker))]
    expect(not any(canary in text for text in said), "A record of the ledger shows it.")
    found = _files_with(trial.target.state, canary)
    expect(not found, f"It is in {found}.")


def _files_with(folder: Path, text: str) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            if stat.S_ISREG(path.lstat().st_mode) and text.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return found


@check("security", needs=("shared",))
async def files_are_private(trial: Trial) -> None:
    """Others cannot read what an outpost keeps: its folder is closed to them."""
    order = trial.sh("echo private", prompt="a private prompt", env={"CF_PRIVATE": "yes"})
    await trial.end(order)
    folder = trial.target.folder
    if folder.exists():
        mode = stat.S_IMODE(folder.stat().st_mode)
        expect(mode & 0o077 == 0, f"The folder has mode {mode:o}.")
    for path in folder.rglob("*.json"):
        mode = stat.S_IMODE(path.stat().st_mode)
        expect(mode & 0o077 == 0, f"{path.name} has mode {mode:o}.")


@check("security")
async def ids_do_not_escape(trial: Trial) -> None:
    """Hostile worker ids reach no other file: logs, stop and clean know no such worker."""
    order = trial.sh("echo safe")
    await trial.end(order)
    precious = trial.folder / "output.log"
    precious.write_text("precious")
    mine = order.worker
    hostile = [
        "", ".", "..", "../..", "/", str(trial.folder), f"../{mine}", f"{mine}/", f"{mine}/.",
        f"./{mine}", "*", "-rf", f"{mine}\n", "a\0b", "x" * 5000, f"{mine};", "%s", "$(id)", "=:",
    ]  # fmt: skip
    for worker in hostile:
        await _refused(trial, worker)
    expect(precious.read_text() == "precious", "A file outside was changed.")
    status = await trial.status(order)
    expect(status.result is not None, "The worker beside was changed.")
    expect(await trial.log(order) == b"safe\n", "The log of the worker beside was changed.")


async def _refused(trial: Trial, worker: str) -> None:
    try:
        async for chunk in trial.outpost.outpost_logs(worker=worker, offset=0, follow=False):
            expect(False, f"Logs of {worker!a} gave {chunk[:40]!r}.")
        expect(False, f"Logs of {worker!a} are said to be empty.")
    except OutpostError as error:
        known = isinstance(error, NotFoundError | UsageError)
        expect(known, f"Logs of {worker!a}: {error!r}.")
    with suppress(OutpostError):
        await trial.outpost.outpost_stop(worker=worker, grace=0.0)
    if "clean" in trial.target.capabilities:
        with suppress(OutpostError):
            await trial.outpost.outpost_clean(worker=worker, force=True)
