"""An outpost over a state folder of this machine: each worker is a folder and a supervisor.

`FolderOutpost` is what outposts share whose workers are on the machine that runs this code: this
machine itself, the far end of an SSH connection, a container. What is true about a worker is in
its folder and in whether its supervisor lives, so any number of programs may work with the same
folder at once, and each may be killed at any time.

A subclass says what is its own, by overriding one or more of:

- `wrap`: a command that stands before the agent's (`nice`, a sandbox, a container);
- `supervisor_command`, `start` or `start_all`: how a worker's supervisor is started;
- `admit`: what is refused before anything is made;
- `agent_env`, `fence`, `rig_here`: what an agent gets, and may;
- `record`: the claim by which it runs, where its machine may vanish;
- `adjust_status`: the last change to a status before it is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, ClassVar, Final

from outpost_core.backend import BuildContext, Outpost, OutpostOptions
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    PluginError,
    SpawnRefusedError,
    UnreachableError,
    UsageError,
)
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Cleaned, Facts, Health, Order, WorkerStatus, split_worker_id
from outpost_shared import access, faults, paths, private, programs
from outpost_worker.folder import files, logs, publish, status
from outpost_worker.recovery import cleaning
from outpost_worker.recovery.attend import Attendant
from outpost_worker.run import stop
from outpost_worker.serving.capabilities import FOLDER_CAPABILITIES
from outpost_worker.serving.launcher import Launcher
from outpost_worker.system import launch
from outpost_worker.system.fitness import ELSEWHERE, unfit

#: Seconds after which it is looked again whether nobody else can write the state folder.
LOOK_AGAIN: Final = 1.0


class FolderOutpost(Outpost):
    """Workers in a folder of this machine.

    Args:
        name: the configured name.
        options: its options.
        context: where it keeps its state unless `root` says so.
        root: the state folder, absolute.
    """

    capabilities = FOLDER_CAPABILITIES
    #: Whether what `wrap` starts looks the agent's command up among files of its own, as a
    #: container does. Then nobody looks for it here, and the exit codes 126 and 127 mean what they
    #: mean to a shell: it cannot be run, it is not there.
    wrap_has_own_files: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        options: OutpostOptions,
        context: BuildContext,
        *,
        root: Path | None = None,
    ) -> None:
        super().__init__(name, options, context)
        self._root = root or context.state_dir.absolute()
        self._looked = -inf  # time.monotonic() when nobody else could have written it
        self.closed = ""  # said when others could write it until then
        self._attendant = Attendant(self._root, start=self.start_detached, begin=self.start_all)
        self._detached = self._attendant.detached
        self._launcher = Launcher(self.start_all)

    # --- what a subclass may say ------------------------------------------------------------

    def wrap(self, order: Order) -> Sequence[str]:  # noqa: ARG002 - a subclass looks at it
        """Return the command that stands before the agent's own; none by default.

        It gets the agent's command as its last arguments, and the agent's whole environment.
        In it, `{work}` stands for the agent's working folder, `{exchange}` for the folder
        `$OUTPOST_WORKER_DIR`, `{worker}` and `{issue}` for the ids. Nothing secret belongs into
        it, since others can read a command line. The fence, if there is one, stands around both.

        One that becomes the agent (`exec`, as `nice`, `env` and most sandboxes do) changes nothing
        about how the agent's end is reported. For one that stays in between, the exit code is what
        it hands on.
        """
        return ()

    def supervisor_command(self, folder: Path) -> list[str]:
        """Return the command that runs the worker in `folder`, from its claim to its result."""
        return publish.command(folder)

    def start(self, folder: Path) -> None:
        """Start the supervisor of one worker, as a process that outlives this one.

        Called in a thread. What it starts needs nothing but `supervisor_command`.

        Raises:
            OSError: it cannot be started.
            OutpostError: likewise, with a message for people.
        """
        self.start_detached(self.supervisor_command(folder))

    def start_all(self, folders: Sequence[Path]) -> Sequence[Exception | None]:
        """Start the supervisors of all workers that wait to be started; called in a thread.

        Returns:
            For each, None, or why it could not be started: then it was taken back.
        """
        return [self._try_to_start(folder) for folder in folders]

    def admit(self, order: Order) -> None:
        """Refuse a worker before anything of it is made; called in a thread.

        Raises:
            SpawnRefusedError: it is not to be started here now.
        """

    def prepare(self, order: Order, folder: Path) -> None:
        """Write into a worker's folder what `start` is to find; called in a thread, before it."""

    def agent_env(self) -> Mapping[str, str]:
        """Return the environment that every agent gets, before what its order adds."""
        return programs.base_env(os.environ)

    def fence(self, order: Order) -> Mapping[str, Any] | None:  # noqa: ARG002
        """Return what fence an agent gets, see `fence_settings`."""
        return self.fence_settings()

    def rig_here(self, order: Order) -> str | None:  # noqa: ARG002
        """Return where the order's rig is on this machine; None when the order itself says it."""
        return None

    def record(self, order: Order) -> Mapping[str, Any] | None:  # noqa: ARG002
        """Return the claim that a worker runs by, see `record.standing.launched`; None for none."""
        return None

    def adjust_status(self, found: WorkerStatus) -> WorkerStatus:
        """Return a status as it is reported; called in a thread, for each worker that is listed.

        A subclass changes what `super().adjust_status(found)` returned. That never reports an end
        that is not certain: one whose supervisor vanished is `working` until it is recovered.
        """
        return self._attendant.certain(found)

    # --- required hooks ---------------------------------------------------------------------

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        """Publish the order as a worker's folder, and start its supervisor.

        Raises:
            ConflictError: the id exists with another order.
            SpawnRefusedError: `admit` refuses it, or no worker can run here.
            UnreachableError: the folder is there, but the disk failed under it.
        """
        folder, to_begin = await asyncio.to_thread(self._publish, order)
        if not to_begin:
            return await asyncio.to_thread(self._status, folder)
        await self._launcher.launch(folder)
        faults.point("local.launched")
        return self._status(folder)  # quick: its supervisor lives, or has not begun

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        """Return all workers; those whose supervisor vanished are recovered from now on."""
        return await asyncio.to_thread(self.look)

    @hookimpl
    async def outpost_ping(self) -> Health:
        """Say whether a worker could be started here now, without starting anything."""
        if why := unfit():
            return Health(ok=False, detail=why, hint=ELSEWHERE)
        return Health(ok=True, detail="; ".join(filter(None, ("detached processes", self.closed))))

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield the worker's output from byte `offset` on.

        Raises:
            NotFoundError: there is no such worker.
        """
        async for chunk in logs.follow(self.folder_of(worker), offset, follow):
            yield chunk

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None:
        """Ask the worker's supervisor to end its whole tree; an unknown worker is fine."""
        with contextlib.suppress(NotFoundError):
            folder = self.folder_of(worker)
            await asyncio.to_thread(stop.request, folder, grace)
            # without a supervisor, its recovery ends it
            await asyncio.to_thread(self._status, folder)

    # --- optional hooks ---------------------------------------------------------------------

    @hookimpl
    async def outpost_clean(self, worker: str, force: bool) -> Cleaned:
        """Remove an ended worker's files, after its unpushed work was rescued."""
        try:
            folder = self.folder_of(worker)
        except NotFoundError:
            # gone, unless an earlier try could not remove all of it
            left = await asyncio.to_thread(cleaning.leftovers, self.root, worker)
            return Cleaned(removed=force or not left, detail=left)
        cleaned = await asyncio.to_thread(cleaning.clean, self.root, folder, force=force)
        if cleaned.removed:
            self._attendant.forget(worker)
        return cleaned

    @hookimpl
    async def outpost_facts(self, programs: Sequence[str]) -> Facts:
        """Say how many cores there are, and where agents' programs are, as a worker finds them."""
        found = {} if self.wrap_has_own_files else self.find_programs(programs)
        return Facts(cpus=len(os.sched_getaffinity(0)), programs=found)

    @hookimpl
    async def outpost_changes(self) -> AsyncIterator[None]:
        """Yield when a worker's state or result may be another one; the kernel tells."""
        from outpost_worker.serving.changes import changes

        async with contextlib.aclosing(changes(self.root)) as told:
            async for _ in told:
                yield

    @hookimpl
    async def outpost_close(self) -> None:
        """Collect ended children; nothing is held open between calls."""
        self._detached.reap()

    # --- for subclasses ---------------------------------------------------------------------

    def kept_under(self) -> Path | None:
        """Return its folder: its workers are on this machine."""
        return self._root

    @property
    def root(self) -> Path:
        """The state folder: asked for what is in it once nobody else could have written it.

        Raises:
            UnreachableError: somebody else could have.
        """
        now = time.monotonic()
        if now > self._looked + LOOK_AGAIN:
            try:
                closed = private.claim(str(self._root), make=False)
            except access.NotPrivateError as error:
                where = "" if error.path == str(self._root) else f"{error.path}: "
                raise UnreachableError(
                    f"the state folder {self._root} of {self.name} is refused: {where}{error.why}",
                    hint=error.hint,
                ) from error
            except OSError:  # whoever uses it says what is wrong
                return self._root
            self._looked, self.closed = now, closed or self.closed
        return self._root

    def folder_of(self, worker: str) -> Path:
        """Return the folder of a worker that is there.

        Raises:
            NotFoundError: it is not.
            UnreachableError: nothing can be known of it, since there is no `/proc`.
        """
        try:
            split_worker_id(worker)  # what is no id could lead out of the folder
            folder = self.root / files.WORKERS / worker
        except UsageError:
            folder = None
        if folder is None or not os.path.lexists(folder):
            raise NotFoundError(
                f"{ascii(worker[:120])[1:-1]} is not a worker of {self.name}",
                hint="outpost workers --all",
            )
        self._check_system(worker)
        return folder

    def start_detached(self, argv: Sequence[str]) -> None:
        """Start a program in a session of its own that outlives this one.

        Its environment holds nothing that may be secret, since other programs can read it.

        Raises:
            OSError: it cannot be started.
        """
        self._attendant.start(argv)

    def withdraw(self, folder: Path, why: str) -> Exception | None:
        """Take back a worker that could not be started, so that another outpost may have it.

        Returns:
            The refusal; None when somebody else has started it meanwhile.
        """
        with cleaning.locked(folder) as mine:
            if not mine or status.started(folder):
                return None
            cleaning.discard(self.root, folder)
        cleaning.empty_trash(self.root)
        return SpawnRefusedError(
            f"{folder.name} cannot be started: {why}", hint=f"outpost doctor {self.name}"
        )

    def find_programs(self, names: Sequence[str]) -> dict[str, str]:
        """Return the path of each program as an agent would find it; "" for none."""
        path = self.agent_env().get("PATH", os.defpath)
        return {name: shutil.which(name, path=path) or "" for name in names}

    def fence_settings(self, mode: str = "auto", **more: Any) -> dict[str, Any]:
        """Return `fence` of `launch.json`, see `fence.places.Wanted`: our own files are hidden.

        Args:
            mode: `auto`: the best that works here; `required`: none means no agent; `off`.
            more: `write`, `hide` and `show`: lists of further paths.
        """
        place = self.context.state_dir.absolute()
        own = [place, self._root]
        with contextlib.suppress(UsageError):
            own.append(paths.state_dir(os.environ))
        if (place.parent.parent / "ledger.db").exists():
            own.append(place.parent.parent)
        config = self.context.config_dir
        return {
            "mode": mode,
            "own": [str(path) for path in dict.fromkeys(own)],
            "config": str(config / "outposts.yaml") if config else "",
            **{name: [*more.get(name, ())] for name in ("write", "hide", "show")},
        }

    # --- inside -----------------------------------------------------------------------------

    def _publish(self, order: Order) -> tuple[Path, bool]:
        """Make or adopt the order's folder; also return whether its supervisor is to be started."""
        try:
            folder = self.root / files.WORKERS / order.worker
        except UnreachableError as error:
            raise SpawnRefusedError(error.message, hint=error.hint) from error
        env, wrap = self.agent_env(), self._wrapper(order)
        if not folder.exists():
            if why := unfit():
                raise SpawnRefusedError(why, hint=ELSEWHERE)
            self.admit(order)
            self._check_wrapper(wrap, env)
        try:
            publish.publish(
                self.root,
                order,
                env,
                rig=self.rig_here(order),
                fence=self.fence(order),
                wrap=wrap,
                record=self.record(order),
            )
        except OSError as error:
            why = f"{folder} cannot be written: {error.strerror}"
            if folder.exists():
                raise UnreachableError(why, hint=f"outpost doctor {self.name}") from error
            raise SpawnRefusedError(why, hint=f"outpost doctor {self.name}") from error
        to_begin = self._attendant.is_to_begin(folder)
        if to_begin:
            self.prepare(order, folder)
        return folder, to_begin

    def _wrapper(self, order: Order) -> dict[str, Any] | None:
        """Return `wrap` of `launch.json`.

        Raises:
            PluginError: what `wrap` returned is text.
        """
        argv = self.wrap(order)
        if isinstance(argv, str):
            raise PluginError(f"wrap of {type(self).__name__} is text, not a list of words")
        if not argv:
            return None
        return {"argv": [*argv]} | ({"own_files": True} if self.wrap_has_own_files else {})

    def _check_wrapper(self, wrap: Mapping[str, Any] | None, env: Mapping[str, str]) -> None:
        """Refuse a worker whose agent could not be started.

        Raises:
            SpawnRefusedError: the program that stands before it is not there.
        """
        if wrap is None:
            return
        program = wrap["argv"][0]
        try:
            launch.find_wrapper(program, env)
        except OSError as error:
            raise SpawnRefusedError(
                f"{self.name} starts agents through {program!a}: {error.strerror}",
                hint=f"install {program} on that machine, or change the options of {self.name}",
            ) from error

    def _status(self, folder: Path) -> WorkerStatus:
        return self.adjust_status(status.read(folder))

    def _check_system(self, worker: str) -> None:
        """Tell nothing of a worker where its living supervisor would be taken for a dead one."""
        if why := unfit():
            raise UnreachableError(f"nothing can be known of {worker}: {why}", hint="mount /proc")

    def look(self) -> list[WorkerStatus]:
        """Return all workers, as `outpost_list` does; for who has no event loop.

        Raises:
            UnreachableError: they cannot be read.
        """
        if unfit():
            workers = self.root / files.WORKERS
            for folder in workers.iterdir() if workers.is_dir() else ():
                self._check_system(folder.name)
            return []
        root = self.root
        try:
            return self._attendant.look(self.adjust_status)
        except OSError as error:  # not one is missing, nobody can say
            raise UnreachableError(
                f"the workers at {root} cannot be read: {error.strerror}",
                hint=f"outpost doctor {self.name}",
            ) from error

    def _try_to_start(self, folder: Path) -> Exception | None:
        try:
            self.start(folder)
        except OSError as error:
            why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            return self.withdraw(folder, f"its process cannot be started: {why}")
        except OutpostError as error:
            return self.withdraw(folder, error.message)
        return None
