"""What a check works with: fresh outposts, orders that tidy up after themselves, and evidence.

Evidence never comes from the outpost under test alone: a worker appends a line to a file each
time that it runs, and holds a named pipe open as long as any process of it lives.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from outpost_core import wire
from outpost_core.errors import OutpostError
from outpost_core.types import Agent, Issue, Limits, Order, Result, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from outpost_manager.manager import Manager
    from outpost_testing.target import Target

T = TypeVar("T")

#: Continues as long as the check does, two minutes at most, even when the outpost forgets it.
HOLD: Final = 'n=0; while [ -e "$CF_GOING" ] && [ $n -lt 2400 ]; do sleep 0.05; n=$((n+1)); done'
#: Leaves one line for each time that it runs.
COUNT: Final = 'echo run >>"$CF_RUNS"'
#: From here on, every process that descends from this one holds the leash.
LEASH: Final = 'exec 9>>"$CF_LEASH"'
#: Of a failed check: so many workers, lines and bytes of each, and seconds to read them.
_WORKERS_TOLD: Final = 3
_LINES_TOLD: Final = 20
_BYTES_TOLD: Final = 4096
_LAST_WORDS: Final = 3.0


class CheckFailed(AssertionError):  # noqa: N818 - reads as what it says
    """A demand of the kit is not met."""


def expect(met: object, otherwise: str) -> None:
    """Raise CheckFailed saying `otherwise` unless `met`."""
    if not met:
        raise CheckFailed(otherwise)


class Trial:
    """One run of one check.

    Args:
        target: the backend under test.
        folder: private, new, removed after the check; workers of a shared target may write here.

    Attributes:
        outpost: an outpost object for the check.
        notes: what a passed check wants to say (a measured figure).
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self.notes: list[str] = []
        self._outposts: list[Any] = []
        self._children: list[asyncio.subprocess.Process] = []
        self._managers: list[Manager] = []
        self._workers: set[str] = set()
        self._leash = -1
        self._prefix = f"cf{secrets.token_hex(4)}"
        (folder / "going").touch()
        if target.shared:
            os.mkfifo(folder / "leash", 0o600)
            self._leash = os.open(folder / "leash", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.outpost = self.another()

    def another(self) -> Any:
        """Build another outpost object, as another program would."""
        outpost = self.target.make()
        self._outposts.append(outpost)
        return outpost

    async def manager(self) -> Manager:
        """Open a manager whose only outpost is the one under test."""
        from outpost_manager.manager import Manager

        self.target.save(self.folder)
        manager = Manager.open(
            config=self.folder / "outposts.yaml",
            state=self.target.state,
            plugins=self.target.plugins(),
        )
        self._managers.append(manager)
        return await manager.__aenter__()

    # --- orders -----------------------------------------------------------------------------

    def order(self, *argv: str, issue: str | None = None, **fields: Any) -> Order:
        """Return an order with this argv and a new issue, unless one is given."""
        number = len(self._workers)
        limits = fields.pop("limits", Limits(grace=1.0))
        if limits.timeout is None:
            limits = replace(limits, timeout=self.target.timeout)
        order = Order(
            issue=Issue(id=issue or f"{self._prefix}-{number}"),
            agent=Agent(argv=argv, interactive=bool(fields.pop("interactive", False))),
            limits=limits,
            **fields,
        )
        self._workers.add(order.worker)
        return order

    def sh(self, script: str, *args: str, **fields: Any) -> Order:
        """Return an order that runs a POSIX shell script, with the kit's files in `$CF_…`."""
        return self._with_files(self.order("/bin/sh", "-c", script, "sh", *args, **fields))

    def python(self, code: str, *args: str, **fields: Any) -> Order:
        """Return an order that runs Python, as `sh` does; for workers of this machine."""
        argv = (sys.executable, "-I", "-S", "-c", code, *args)
        return self._with_files(self.order(*argv, **fields))

    def _with_files(self, order: Order) -> Order:
        files = {
            "CF_GOING": str(self.folder / "going"),
            "CF_FOLDER": str(self.folder),
            "CF_LEASH": str(self.folder / "leash"),
            "CF_RUNS": str(self.folder / f"{order.worker}.runs"),
        }
        if not self.target.shared:  # the log is the only witness, a stop the only end
            files |= {"CF_LEASH": "/dev/null", "CF_RUNS": "/dev/stdout", "CF_GOING": "/bin/sh"}
        return replace(order, env={**files, **order.env})

    def release(self) -> None:
        """Let workers end that run `HOLD`."""
        (self.folder / "going").unlink(missing_ok=True)

    # --- asking -----------------------------------------------------------------------------

    async def spawn(self, order: Order, outpost: Any = None) -> WorkerStatus:
        """Spawn, and check that the answer is about this order."""
        status = await (outpost or self.outpost).outpost_spawn(order=order)
        expect(isinstance(status, WorkerStatus), f"spawn answered {status!r}.")
        expect(status.id == order.worker, f"spawn of {order.worker} answered {status.id}.")
        known: WorkerStatus = status
        return known

    async def listed(self, outpost: Any = None) -> dict[str, WorkerStatus]:
        """Return this check's own workers as the outpost lists them."""
        found: dict[str, WorkerStatus] = {}
        for status in await (outpost or self.outpost).outpost_list():
            if status.id in self._workers:
                expect(status.id not in found, f"{status.id} is listed twice.")
                found[status.id] = status
        return found

    async def status(self, order: Order, outpost: Any = None) -> WorkerStatus:
        """Return what is listed of an order's worker."""
        found = await self.listed(outpost)
        expect(order.worker in found, f"{order.worker} was spawned and is not listed.")
        return found[order.worker]

    async def ended(self, *orders: Order, within: float | None = None) -> list[Result]:
        """Wait until the workers have ended, and return their results."""

        async def all_ended() -> list[Result] | None:
            found = await self.listed()
            results = []
            for order in orders:
                status = found.get(order.worker)
                if status is None or status.result is None:
                    return None
                results.append(status.result)
            return results

        names = ", ".join(order.worker for order in orders[:3])
        return await self.until(all_ended, f"{names} did not end", within=within)

    async def end(self, order: Order) -> Result:
        """Spawn one order and wait for its result."""
        await self.spawn(order)
        return (await self.ended(order))[0]

    async def log(
        self,
        order: Order,
        offset: int = 0,
        *,
        follow: bool = False,
        outpost: Any = None,
    ) -> bytes:
        """Read a worker's log to where the stream ends."""
        chunks = []
        async with asyncio.timeout(self.target.within):
            stream = (outpost or self.outpost).outpost_logs(
                worker=order.worker, offset=offset, follow=follow
            )
            async with aclosing(stream):
                async for chunk in stream:
                    expect(isinstance(chunk, bytes), f"logs yielded a {type(chunk).__name__}.")
                    chunks.append(chunk)
        return b"".join(chunks)

    async def until(
        self,
        question: Callable[[], Awaitable[T | None]],
        otherwise: str,
        *,
        within: float | None = None,
    ) -> T:
        """Ask again and again until the answer is neither None nor False.

        Raises:
            CheckFailed: it did not come in time; says `otherwise`.
        """
        within = within or self.target.within
        deadline = time.monotonic() + within
        pause = 0.01
        while True:
            asked = time.monotonic()
            answer = await question()
            if answer is not None and answer is not False:
                return answer
            if time.monotonic() > deadline:
                raise CheckFailed(f"{otherwise} within {within:g} s.")
            # no more than half of the time is spent asking: what is waited for needs the machine
            await asyncio.sleep(max(pause, time.monotonic() - asked))
            pause = min(pause * 1.5, 0.1)

    # --- evidence ---------------------------------------------------------------------------

    async def seen(self, name: str) -> str:
        """Wait for a file `$CF_FOLDER/<name>` with a full line, and return its text."""

        async def look() -> str | None:
            with suppress(FileNotFoundError):
                text = (self.folder / name).read_text()
                return text if text.endswith("\n") else None
            return None

        return await self.until(look, f"the worker did not come to write {name!r}")

    async def runs(self, order: Order) -> int:
        """Count how often a worker that says `COUNT` has run."""
        if not self.target.shared:
            return (await self.log(order)).splitlines().count(b"run")
        try:
            return (self.folder / f"{order.worker}.runs").read_text().count("run\n")
        except FileNotFoundError:
            return 0

    async def ran_once(self, order: Order) -> None:
        """Expect that the worker ran exactly once."""
        times = await self.runs(order)
        expect(times == 1, f"{order.worker} ran {times} times.")

    def leashed(self) -> bool:
        """Whether any process lives that descends from a worker that said `LEASH`."""
        with suppress(BlockingIOError):
            while os.read(self._leash, 4096):
                pass
            return False
        return True

    async def nothing_left(self) -> None:
        """Expect that no process of the workers lives."""

        async def gone() -> bool:
            return not self.leashed()

        await self.until(gone, "a process of the worker keeps living; it was not gone")

    # --- other processes --------------------------------------------------------------------

    async def controller(
        self, verb: str, order: Order, *, fault: str = "", env: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start another program that works with the outpost.

        Args:
            verb: of `outpost_testing.controller`.
            order: what it is about.
            fault: the point of `faults` where it is to die.
            env: variables that it has besides ours.
        """
        spec = self.target.save(self.folder)
        path = self.folder / f"{order.worker}.json"
        path.write_text(json.dumps(wire.to_json(order)))
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            # it imports from the current folder only if this program does
            *(() if {"", os.getcwd()} & {*sys.path} else ("-P",)),  # noqa: PTH109
            "-m",
            "outpost_testing.controller",
            str(spec),
            verb,
            str(path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OUTPOST_FAULT": fault, **(env or {})},
            start_new_session=True,
        )
        self._children.append(child)
        return child

    async def answer(self, child: asyncio.subprocess.Process) -> dict[str, Any]:
        """Wait for a controller's end and return what it says.

        Raises:
            CheckFailed: it failed.
        """
        out, err = await child.communicate()
        expect(child.returncode == 0, f"a controller failed: {err.decode()[-400:]}")
        answer: dict[str, Any] = json.loads(out)
        return answer

    async def killed(self, child: asyncio.subprocess.Process, fault: str) -> None:
        """Expect that the controller dies at its fault point, if the target passes that."""
        _, err = await child.communicate()
        if child.returncode == 0 and fault not in self.target.fault_points:
            self.notes.append(f"the program that asks does not pass {fault}")
            return
        expect(
            child.returncode == -9,
            f"the controller did not come to {fault} (exit {child.returncode})"
            f": {err.decode()[-400:]}",
        )

    # --- the end ----------------------------------------------------------------------------

    async def last_words(self) -> str:
        """Return the last lines that the check's workers printed, for whoever looks for a cause."""
        told = []
        for worker in sorted(self._workers)[:_WORKERS_TOLD]:
            data = b""
            with suppress(Exception):
                async with asyncio.timeout(_LAST_WORDS):
                    stream = self.outpost.outpost_logs(worker=worker, offset=0, follow=False)
                    async with aclosing(stream):
                        async for chunk in stream:
                            data = (data + chunk)[-_BYTES_TOLD:]
            lines = data.decode("utf-8", "replace").splitlines()[-_LINES_TOLD:]
            told += [f"{worker}: {line}" for line in lines]
        return "\n".join(told)

    async def close(self, *, clean: bool = True) -> list[str]:
        """End all that the check started, and clean it unless told otherwise.

        Returns:
            what would not go.
        """
        self.release()
        if self.target.restore:
            self.target.restore()
        for child in self._children:
            with suppress(ProcessLookupError):
                child.kill()
            await child.communicate()
        try:
            async with asyncio.timeout(self.target.within * 2):
                return await self._end_workers(clean=clean)
        except (OutpostError, TimeoutError, CheckFailed) as error:
            return [f"{type(error).__name__}: {error}"]
        finally:
            for manager in self._managers:
                await manager.__aexit__(None, None, None)
            for outpost in self._outposts:
                if hasattr(outpost, "outpost_close"):
                    await outpost.outpost_close()
            if self._leash >= 0:
                os.close(self._leash)

    async def _end_workers(self, *, clean: bool) -> list[str]:
        if not self._workers:
            return []
        try:
            # it is connected, and another object would have to be: a program or two more each time
            return await self._end_workers_at(self.outpost, clean=clean)
        except Exception:  # a check may have left anything of it
            return await self._end_workers_at(self.another(), clean=clean)

    async def _end_workers_at(self, outpost: Any, *, clean: bool) -> list[str]:
        found: dict[str, WorkerStatus] = {}

        async def living() -> list[str]:
            found.clear()
            found.update(await self.listed(outpost))
            return [worker for worker, status in found.items() if not status.state.terminal]

        async def all_ended() -> bool:
            return not await living()

        left = await living()
        if left:
            for worker in left:
                await outpost.outpost_stop(worker=worker, grace=0.0)
            with suppress(CheckFailed):
                await self.until(all_ended, "", within=self.target.within)
            left = await living()
        if clean and "clean" in self.target.capabilities:
            for worker in found.keys() - set(left):
                cleaned = await outpost.outpost_clean(worker=worker, force=True)
                if not cleaned.removed:
                    left.append(f"{worker} ({cleaned.detail})")
        return left
