"""The configured outposts as objects: built when first used, asked one by one, each with its own
timeout and its own error, so that a dead or hanging one never delays or breaks the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from outpost_core.backend import BuildContext, Outpost
from outpost_core.errors import (
    NotFoundError,
    OutpostError,
    PluginError,
    UnreachableError,
    UnsupportedError,
)
from outpost_core.hookspecs import CAPABILITIES
from outpost_core.isolation import by_user, contained, describe
from outpost_manager.fleet.retired import Retired
from outpost_manager.plugins.advice import missing_hint
from outpost_manager.plugins.masking import masked
from outpost_shared.backoff import Retries
from outpost_shared.log import Logger

if TYPE_CHECKING:
    import asyncio  # at run time where it is used: describing outposts is quicker without

    from outpost_core.discovery import Plugins
    from outpost_core.types import Health, Order, WorkerStatus
    from outpost_manager.config.model import Config, OutpostConfig

T = TypeVar("T")
_log = Logger("fleet")

#: Seconds that an outpost may take to let go.
CLOSE_TIMEOUT = 5.0
#: Seconds until an outpost that could not be built is built again: at first, and at most.
BUILD_AGAIN, BUILD_AGAIN_MOST = 1.0, 60.0


class NotBuiltError(PluginError):
    """The outpost object could not be made, so nothing was ever asked of it."""


@dataclass(kw_only=True, eq=False)
class Fleet:
    """The outposts of one configuration.

    Args:
        config: the configuration.
        plugins: where backends come from and outposts are registered.
        state_dir: the state folder.
        ordered: finds the order of a worker in the ledger.

    Attributes:
        nameless: what is wrong with what an outpost told last as workers that can be none.
    """

    config: Config
    plugins: Plugins
    state_dir: Path
    ordered: Callable[[str], Awaitable[Order | None]] | None = None
    nameless: dict[str, list[str]] = field(default_factory=dict, init=False)
    _leaving: dict[str, OutpostConfig] = field(default_factory=dict, init=False)
    _retired: Retired = field(default_factory=Retired, init=False)
    _looked_at: dict[str, dict[str, WorkerStatus]] = field(default_factory=dict, init=False)
    _built: dict[str, Outpost] = field(default_factory=dict)
    _errors: dict[str, NotBuiltError] = field(default_factory=dict)
    _builds: Retries = field(
        default_factory=lambda: Retries(BUILD_AGAIN, BUILD_AGAIN_MOST), init=False
    )
    _left: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        """The configured names, in the order of the file."""
        return [outpost.name for outpost in self.config.outposts]

    @property
    def broken(self) -> Mapping[str, NotBuiltError]:
        """Outposts that could not be built when that was last tried, and why."""
        return self._errors

    def resting(self, name: str) -> bool:
        """Whether an outpost could not be built, and it is too soon to try that again."""
        return name in self._errors and not self._builds.is_due(name)

    @property
    def built(self) -> Mapping[str, Outpost]:
        """Outposts that were built in this process."""
        return self._built

    def configured(self, name: str) -> OutpostConfig:
        """Return the configuration of one outpost.

        Raises:
            NotFoundError: no outpost has that name.
        """
        for outpost in self.config.outposts:
            if outpost.name == name:
                return outpost
        from difflib import get_close_matches

        near = get_close_matches(name, self.names, n=1)
        raise NotFoundError(
            f"there is no outpost named {name!a}",
            hint=f"did you mean {near[0]}?" if near else f"there are: {', '.join(self.names)}",
        )

    @property
    def leaving(self) -> Mapping[str, OutpostConfig]:
        """Outposts that are not configured any more, and where workers have not ended."""
        return self._leaving

    def known(self, name: str) -> OutpostConfig:
        """Return the configuration of an outpost, also of one that is leaving.

        Raises:
            NotFoundError: no outpost has that name.
        """
        return self._leaving.get(name) or self.configured(name)

    def reload(self, config: Config, live: Collection[str]) -> None:
        """Take another configuration over, in a running event loop.

        An outpost whose entry is the same stays as it is. Of one whose entry has changed, or that
        is gone, what is under way ends at the outpost as it was, which is then closed.

        Args:
            config: what holds from now on.
            live: names of outposts where workers have not ended: they are followed there to their
                end, also where nothing new is placed any more.
        """
        same_folder = _folder(self.config) == _folder(config)
        entries = {entry.name: entry for entry in config.outposts}
        before = {entry.name: entry for entry in self.config.outposts} | self._leaving
        self.config = config
        self._leaving = {n: e for n, e in before.items() if n not in entries and n in live}
        self._errors.clear()
        self._builds = Retries(BUILD_AGAIN, BUILD_AGAIN_MOST)
        for name, entry in before.items():
            if name not in self._leaving and not (same_folder and _same(entry, entries.get(name))):
                self._retire(name)

    def let_go(self, live: Collection[str]) -> None:
        """Forget outposts that are leaving, where all workers have ended by now.

        Args:
            live: names of outposts where workers have not ended.
        """
        for name in [name for name in self._leaving if name not in live]:
            del self._leaving[name]
            self._retire(name)

    def _retire(self, name: str) -> None:
        self.nameless.pop(name, None)
        self._looked_at.pop(name, None)
        built = self._built.pop(name, None)
        if built is not None:
            self.plugins.pm.unregister(name=name)
            self._retired.add(built)

    def outpost(self, name: str) -> Outpost:
        """Return the outpost object, built and registered when first asked for.

        One that could not be built is tried again after a pause, which grows.

        Raises:
            NotFoundError: no outpost has that name.
            NotBuiltError: its type is missing, or it could not be built.
        """
        if name in self._built:
            return self._built[name]
        if self.resting(name):
            raise self._errors[name]
        entry = self.known(name)
        try:
            built = self._build(entry)
        except NotBuiltError as error:
            self._errors[name] = error
            self._builds.failed(name)
            _log.warning("%s", error.message)
            raise
        if self._errors.pop(name, None) is not None:
            _log.info("outpost %s could be built at last", name)
        self._builds.done(name)
        self._built[name] = built
        return built

    def _build(self, entry: OutpostConfig) -> Outpost:
        if entry.problem:
            raise NotBuiltError(f"outpost {entry.name!r} cannot be built: {entry.problem}")
        backend = self.plugins.backends.get(entry.type)
        if backend is None or entry.options is None:
            raise NotBuiltError(
                f"nothing installed provides the type {entry.type!r} of outpost {entry.name!r}",
                hint=missing_hint(self.plugins, entry.type),
            )
        path = self.config.path
        context = BuildContext(
            state_dir=self.state_dir / "outposts" / entry.name,
            config_dir=path.parent if path else None,
            trusts=_trusts,
            ordered=self.ordered,
        )
        home = self.plugins.homes.get(entry.type)
        try:
            with contained():
                built = backend.make(entry.name, entry.options, context)
                self.plugins.register_outpost(built, entry.name)
        except Exception as error:
            self.plugins.blame(entry.name, "build", error, report=home)
            hint = getattr(error, "hint", "") or (
                f"outpost plugins {home.entry_point} shows its package; outpost config check its"
                " options"
                if home
                else ""
            )
            said = error.message if isinstance(error, OutpostError) else describe(error)
            if entry.name not in said:
                said = f"outpost {entry.name!r} could not be built: {said}"
            raise NotBuiltError(said, hint=hint) from error
        return built

    def kept_under(self, name: str) -> Path | None:
        """Return the folder of this machine where an outpost keeps work; None if it is not here."""
        try:
            with contained(None):
                return self.outpost(name).kept_under()
        except OutpostError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its own
            self.blame(name, "kept_under", error)
            return None

    def blame(
        self, name: str, hook: str, error: Exception, secrets: Mapping[str, str] | None = None
    ) -> None:
        """Keep what an outpost did wrong, for `outpost plugins` and `outpost doctor`."""
        self.plugins.blame(name, hook, error, secrets)

    @contextmanager
    def blaming(self, name: str, hook: str) -> Iterator[None]:
        """Keep it when what an outpost answered cannot be: a PluginError is raised inside."""
        try:
            yield
        except PluginError as error:
            self.blame(name, hook, error)
            raise

    def supports(self, name: str, capability: str) -> bool:
        """Whether the outpost declares the capability."""
        return capability in self.outpost(name).capabilities

    def require(self, name: str, capability: str) -> None:
        """Raise UnsupportedError, in words for people, unless the capability is declared."""
        outpost = self.outpost(name)
        if capability not in outpost.capabilities:
            can = sorted(c for c in outpost.capabilities if c in CAPABILITIES)
            raise UnsupportedError(
                f"outpost {name!r} (type {outpost.type}) cannot {capability}",
                hint=f"it can: {', '.join(can) or 'spawn, list, ping, logs and stop'};"
                f" outpost doctor {name} says what is missing",
            )

    async def ask(self, name: str, hook: str, *, timeout: float, **arguments: Any) -> Any:
        """Call one hook of one outpost and await it.

        Args:
            name: the outpost.
            hook: the hook's name.
            timeout: seconds; a hanging call is left behind, cancelled.
            arguments: the hook's.

        Raises:
            UnreachableError: no answer in time.
            OutpostError: what the outpost raised, as it is.
            PluginError: it raised something else.
            NotBuiltError: it cannot be built, so nothing was asked.
        """
        outpost = self.outpost(name)
        secrets = arguments["order"].secrets if "order" in arguments else None
        try:
            with self._retired.use(outpost):
                answers = self.plugins.hook_of(name, hook)(**arguments)
                if not answers:
                    raise PluginError(f"outpost {name!r} answered nothing to {hook}")
                begun = time.perf_counter()
                answer = await self._bounded(name, hook, answers[0], timeout)
                took = (time.perf_counter() - begun) * 1000
                _log.debug("%s answered %s in %.1f ms", name, hook, took)
                return answer
        except OutpostError as error:
            _log.debug("%s answered %s with %s", name, hook, type(error).__name__)
            if isinstance(error, PluginError):
                self.blame(name, hook, error, secrets)
            if "order" in arguments:
                mask(error, arguments["order"].secrets)
            _tame(error)
            raise
        except Exception as error:
            self.blame(name, hook, error, secrets)
            trouble = PluginError(
                f"outpost {name!r} failed in {hook}: {type(error).__name__}: {error}",
                hint=f"outpost doctor {name}; this is a defect of its package",
            )
            _tame(trouble)
            if "order" in arguments:
                mask(trouble, arguments["order"].secrets)
                raise trouble from None  # the cause's own text is not masked
            raise trouble from error

    async def _bounded(self, name: str, hook: str, answer: Awaitable[Any], timeout: float) -> Any:
        import asyncio

        task = asyncio.ensure_future(_contained(answer))
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout)
        except asyncio.CancelledError:
            self._leave(task)
            raise
        if not done:
            self._leave(task)
            raise UnreachableError(
                f"outpost {name!r} did not answer {hook.removeprefix('outpost_')} within"
                f" {timeout:g} s",
                hint=f"outpost doctor {name}",
            )
        if task.cancelled():
            raise UnreachableError(
                f"outpost {name!r} broke off its answer to {hook.removeprefix('outpost_')}",
                hint=f"outpost doctor {name}",
            )
        return task.result()

    def _leave(self, task: asyncio.Task[Any]) -> None:
        """Cancel a call, which may ignore it; nobody waits for it."""
        task.cancel()
        self._left.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not complain at exit

    async def ask_for(
        self, kind: type[T], name: str, hook: str, *, timeout: float, **arguments: Any
    ) -> T:
        """Call one hook of one outpost as `ask` does, and check what it answers.

        Args:
            kind: what the answer must be.
            name: the outpost.
            hook: the hook's name.
            timeout: seconds.
            arguments: the hook's.

        Raises:
            OutpostError: as of `ask`.
            PluginError: the answer is something else.
        """
        from outpost_shared import border

        answer = await self.ask(name, hook, timeout=timeout, **arguments)
        with self.blaming(name, hook):
            return border.answer(name, hook, kind, answer)

    async def ask_for_all(
        self, kind: type[T], name: str, hook: str, *, timeout: float, most: int, **arguments: Any
    ) -> list[T]:
        """Call one hook of one outpost as `ask` does, and check the list that it answers.

        Args:
            kind: what each item of the answer must be.
            name: the outpost.
            hook: the hook's name.
            timeout: seconds.
            most: items that the answer may have.
            arguments: the hook's.

        Raises:
            OutpostError: as of `ask`.
            PluginError: the answer is something else.
        """
        from outpost_shared import border

        answer = await self.ask(name, hook, timeout=timeout, **arguments)
        with self.blaming(name, hook):
            return border.answers(name, hook, kind, answer, most)

    async def ping(self, name: str, *, timeout: float) -> Health:
        """Ask one outpost whether it would take a worker now; measures how long that takes.

        Raises:
            UnreachableError: no answer.
            OutpostError: what the outpost raised.
            PluginError: it raised something else, or answered something else.
        """
        from outpost_core.types import Health

        begun = time.perf_counter()
        health = await self.ask_for(Health, name, "outpost_ping", timeout=timeout)
        return replace(health, latency=time.perf_counter() - begun)

    async def list(self, name: str, *, timeout: float) -> Sequence[WorkerStatus]:
        """Ask one outpost for its workers.

        One that is told of in a way that cannot be is among them as broken; what has not even the
        name of a worker is in `nameless`.

        Raises:
            UnreachableError: no answer.
            OutpostError: what the outpost raised.
            PluginError: it raised something else, or answered something else than statuses.
        """
        from outpost_shared import border

        answer = await self.ask(name, "outpost_list", timeout=timeout)
        before = self._looked_at.get(name, {})
        with self.blaming(name, "outpost_list"):
            found, self.nameless[name] = border.statuses(name, answer, before)
        self._looked_at[name] = found
        return [*found.values()]

    async def list_all(
        self, names: Iterable[str], *, timeout: float
    ) -> dict[str, Sequence[WorkerStatus] | OutpostError]:
        """Ask several outposts for their workers at once; each has its answer or its error."""
        import asyncio

        async def one(name: str) -> Sequence[WorkerStatus] | OutpostError:
            try:
                return await self.list(name, timeout=timeout)
            except OutpostError as error:
                return error

        names = [*names]
        answers = await asyncio.gather(*(one(name) for name in names))
        return dict(zip(names, answers, strict=True))

    async def logs(
        self, name: str, worker: str, offset: int, *, follow: bool, timeout: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield the outpost's stream of a worker's output.

        Args:
            name: the outpost.
            worker: the worker's id.
            offset: byte to begin with.
            follow: continue until the worker has ended, however long it is silent.
            timeout: seconds for each chunk, unless it is followed.

        Raises:
            UnreachableError: no answer in time.
            OutpostError: what the outpost raised.
            PluginError: it raised something else, or yielded something else than bytes.
        """
        from contextlib import aclosing

        each = None if follow else timeout
        stream = self.stream(
            name, "outpost_logs", timeout=each, worker=worker, offset=offset, follow=follow
        )
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    with self.blaming(name, "outpost_logs"):
                        raise PluginError(
                            f"outpost_logs of {name!r} yielded a {type(chunk).__name__}"
                        )
                yield bytes(chunk)

    async def stream(
        self, name: str, hook: str, *, timeout: float | None, **arguments: Any
    ) -> AsyncGenerator[Any, None]:
        """Yield what an outpost's asynchronous generator yields, unchecked.

        Args:
            name: the outpost.
            hook: the hook's name.
            timeout: seconds for each item; None for no limit.
            arguments: the hook's.

        Raises:
            UnreachableError: no item in time.
            OutpostError: what the outpost raised.
            PluginError: it raised something else.
        """
        from contextlib import suppress

        outpost = self.outpost(name)
        caller = self.plugins.hook_of(name, hook)
        try:
            with self._retired.use(outpost):
                stream = caller(**arguments)[0]
                try:
                    while True:
                        step = anext(stream)
                        try:
                            item = await (
                                _contained(step)
                                if timeout is None
                                else self._bounded(name, hook, step, timeout)
                            )
                        except StopAsyncIteration:
                            return
                        yield item
                finally:
                    with suppress(RuntimeError):  # one that hangs is cancelled, and still runs
                        await stream.aclose()
        except OutpostError as error:
            if isinstance(error, PluginError):
                self.blame(name, hook, error)
            _tame(error)
            raise
        except Exception as error:
            self.blame(name, hook, error)
            trouble = PluginError(
                f"outpost {name!r} failed in {hook}: {type(error).__name__}: {error}",
                hint=f"outpost doctor {name}; this is a defect of its package",
            )
            _tame(trouble)
            raise trouble from error

    async def close(self) -> None:
        """Let every built outpost go of what it holds; what goes wrong there changes nothing."""
        import asyncio

        closing = [
            name for name, outpost in self._built.items() if hasattr(outpost, "outpost_close")
        ]
        await asyncio.gather(
            *(self.ask(name, "outpost_close", timeout=CLOSE_TIMEOUT) for name in closing),
            return_exceptions=True,
        )
        await self._retired.close()
        for name in self._built:
            self.plugins.pm.unregister(name=name)
        self._built.clear()


def _folder(config: Config) -> Path | None:
    return config.path.parent if config.path else None


def _same(before: OutpostConfig, after: OutpostConfig | None) -> bool:
    """Whether two entries build the same outpost."""
    return after is not None and (before.type, before.raw, before.options) == (
        after.type, after.raw, after.options,
    )  # fmt: skip


async def _contained(answer: Awaitable[T]) -> T:
    """Await an outpost; what would end the program becomes an error of its package.

    Raises:
        PluginError: it raised SystemExit, or a KeyboardInterrupt that is not the user's.
    """
    try:
        return await answer
    except (SystemExit, KeyboardInterrupt) as error:
        if by_user(error):
            raise
        raise PluginError(f"it raised {describe(error)}, which ends programs") from error


def _tame(error: OutpostError) -> None:
    """Make the text of an error from an outpost harmless."""
    from outpost_shared import border

    border.tame(error)


def mask(error: OutpostError, secrets: Mapping[str, str]) -> None:
    """Take the values of an order's secrets out of an error, whoever wrote its text."""
    error.message, error.hint = masked(error.message, secrets), masked(error.hint, secrets)
    error.args = (error.message,)


def _trusts(folder: Path) -> bool:
    from outpost_manager.config.town import is_trusted

    return is_trusted(folder, os.environ)
