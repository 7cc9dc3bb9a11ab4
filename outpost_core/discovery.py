"""Finding, checking and registering plugins.

A plugin is somebody else's code. Whatever is wrong with it, at its import or when a hook of it is
called, becomes a `Problem` or a `Failure` with the name of its package, and the rest works without
it (law 7). `outpost plugins` shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import pluggy

from outpost_core import hookspecs, isolation
from outpost_core.backend import Backend
from outpost_core.errors import PluginError
from outpost_core.hookspecs import API_VERSION, PROJECT

if TYPE_CHECKING:
    from outpost_core.backend import Outpost

GROUP: Final = "outpost"
#: Is told a plugin's name and what it raised.
Trouble: TypeAlias = Callable[[str, Exception], None]
_PRINTED: Final = "it prints on standard output, which is the command's own,"


class EntryPoint(Protocol):
    """The part of `importlib_metadata.EntryPoint` that is used."""

    name: str
    value: str
    dist: Any

    def load(self) -> Any:
        """Import and return the plugin."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Something of a package that cannot be used.

    Args:
        where: `import`, the name of a hook, or the name of an outpost type.
        reason: what is wrong, in one line.
        hint: what the user can do.
        error: what was raised; None when nothing was.
    """

    where: str
    reason: str
    hint: str = ""
    error: BaseException | None = None

    @property
    def traceback(self) -> str:
        """Where it was raised; "" when nothing was."""
        from traceback import format_exception

        return "" if self.error is None else "".join(format_exception(self.error))


@dataclass(kw_only=True, eq=False)
class PluginReport:
    """What became of one entry point.

    Args:
        entry_point: its name.
        package: the distribution that ships it, or "".
        version: that distribution's version, or "".
        value: what it names (`module` or `module:attribute`).
        types: outpost types that it provides and that are usable.
        hooks: names of the hooks that it implements and that are called.
        problems: what of it cannot be used, and why.
        dist: its distribution, as `importlib_metadata` has it.
        own: it is a part of Outpost, whose hooks need no guard (which costs 0.1 ms).
    """

    entry_point: str
    package: str = ""
    version: str = ""
    value: str = ""
    types: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    dist: Any = field(default=None, repr=False)
    own: bool = False

    @property
    def ok(self) -> bool:
        """Whether all of it is usable."""
        return not self.problems

    @property
    def reason(self) -> str:
        """What is wrong with it first of all, or ""."""
        return self.problems[0].reason if self.problems else ""

    @property
    def label(self) -> str:
        """How it is called in messages: package and version, else the entry point."""
        return f"{self.package} {self.version}".strip() or self.entry_point


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Failure:
    """A hook of a plugin that failed while it was used.

    Args:
        plugin: its name in pluggy: `package:` and the entry point, or the name of an outpost.
        report: of its package; None when nobody knows.
        hook: which.
        error: what it raised, or what is wrong with its answer.
        secrets: values that must not be shown, by name.
    """

    plugin: str
    report: PluginReport | None
    hook: str
    error: BaseException
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def package(self) -> str:
        """Whose it is, for messages."""
        return self.report.label if self.report else self.plugin


@dataclass(kw_only=True, eq=False)
class Plugins:
    """All that is installed and all outposts that are registered.

    Args:
        pm: pluggy's manager; outposts are registered in it under their own names.
        backends: usable outpost types.
        homes: outpost type → the report of the package that provides it.
        reports: one for each entry point, in the order of their names.
        listeners: are told of each failure.
    """

    pm: pluggy.PluginManager
    backends: dict[str, Backend] = field(default_factory=dict)
    homes: dict[str, PluginReport] = field(default_factory=dict)
    reports: list[PluginReport] = field(default_factory=list)
    listeners: list[Callable[[Failure], None]] = field(default_factory=list)
    _named: dict[str, PluginReport] = field(default_factory=dict, init=False)
    _reaching: dict[tuple[str, str], tuple[set[Any], Any]] = field(default_factory=dict, init=False)
    _narrowed: dict[str, tuple[Any, list[Any]]] = field(default_factory=dict, init=False)

    @classmethod
    def load(cls, entry_points: Iterable[EntryPoint] | None = None) -> Plugins:
        """Load every entry point of the group `outpost`.

        Args:
            entry_points: use these instead of the installed ones (tests).
        """
        pm = pluggy.PluginManager(PROJECT)
        pm.add_hookspecs(hookspecs)
        plugins = cls(pm=pm)
        if entry_points is None:
            entry_points = plugins._installed()
        for entry_point in sorted(entry_points, key=lambda e: (e.name, e.value)):
            plugins._load_one(entry_point)
        return plugins

    def _installed(self) -> Iterable[EntryPoint]:
        from importlib_metadata import entry_points

        try:
            return entry_points(group=GROUP)
        except Exception:  # noqa: BLE001 - the metadata of one package: look at each alone
            return self._installed_one_by_one()

    def _installed_one_by_one(self) -> Iterator[EntryPoint]:
        from importlib_metadata import distributions

        seen: set[str] = set()
        for dist in distributions():
            package, version = _identity(dist)
            if package in seen:
                continue
            seen.add(package)
            try:
                yield from dist.entry_points.select(group=GROUP)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with its metadata
                report = PluginReport(
                    entry_point=package or "?", package=package, version=version, dist=dist
                )
                self.reports.append(report)
                reason = f"its list of entry points cannot be read: {isolation.describe(error)}"
                _note(report, "import", reason, error=error)

    def _load_one(self, entry_point: EntryPoint) -> None:
        dist = getattr(entry_point, "dist", None)
        package, version = _identity(dist)
        name, value = entry_point.name, entry_point.value
        report = PluginReport(
            entry_point=name, package=package, version=version, value=value, dist=dist
        )
        self.reports.append(report)
        try:
            with isolation.contained() as printed:
                plugin = entry_point.load()
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its report
            _note(report, "import", f"cannot be imported: {isolation.describe(error)}", error=error)
        else:
            self.add(plugin, report)
            if printed:
                _note(report, "import", f"{_PRINTED} when it is imported: {printed[0][:60]!r}")

    def add(self, plugin: object, report: PluginReport) -> None:
        """Register a loaded plugin and its backends; problems go into `report`.

        Args:
            plugin: module or object with hook implementations.
            report: says who it is; is filled in.
        """
        if report not in self.reports:
            self.reports.append(report)
        name = f"package:{report.entry_point}"
        try:
            with isolation.contained():
                _check_version(plugin, report)
                _register(self.pm, plugin, name)
        except Exception as error:  # noqa: BLE001 - even reading its attributes runs its code
            _note(report, "import", _one_line(error), getattr(error, "hint", ""), error)
            return
        self._named[name] = report
        report.hooks = tuple(hook.name for hook in self.pm.get_hookcallers(plugin) or ())
        for hook in isolation.unmarked(plugin):
            _note(report, hook, f"{hook} has no @hookimpl, so it is never called")
        if "outpost_backends" in report.hooks:
            self._take_backends(name, report)
        if not report.hooks and report.ok:
            reason = "it implements no hook, so nothing of it is ever called"
            _note(report, "import", reason, "mark its hooks with @outpost_core.hookimpl")

    def remove(self, report: PluginReport) -> None:
        """Unregister a plugin that was added, and forget its report."""
        name = f"package:{report.entry_point}"
        if self._named.get(name) is report:
            del self._named[name]
            self.pm.unregister(name=name)
        self.reports = [other for other in self.reports if other is not report]

    def _take_backends(self, name: str, report: PluginReport) -> None:
        hook = "outpost_backends"
        try:
            with isolation.contained():
                answers = dict(self.callers(hook))[name]()
                found = [item for answer in answers for item in _items(answer)]
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its report
            _note(report, hook, f"{hook}: {_one_line(error)}", getattr(error, "hint", ""), error)
            return
        for type_, backend in found:
            if other := self.homes.get(type_) if isinstance(type_, str) else None:
                reason = f"type {type_!r} is already provided by {other.label}"
                _note(report, type_, reason, f"pip uninstall {report.package or '<one of them>'}")
                continue
            try:
                with isolation.contained():
                    isolation.check_backend(type_, backend)
            except Exception as error:  # noqa: BLE001 - options and their defaults are its code
                reason, hint = f"type {type_!r}: {_one_line(error)}", getattr(error, "hint", "")
                _note(report, str(type_)[:80], reason, hint, error)
            else:
                self.backends[type_] = backend
                self.homes[type_] = report
                report.types += (type_,)

    def register_outpost(self, outpost: Outpost, name: str | None = None) -> None:
        """Register a built outpost under its name, which has to be `name` where that is given.

        Raises:
            PluginError: it lacks a required hook, declares a capability that it does not
                implement, has the wrong kind of callable or uses `specname`; nothing stays
                registered.
        """
        try:
            isolation.check_outpost(outpost)
            if name not in (None, outpost.name):
                raise PluginError(f"it was built as {name!r}")
            if self.pm.has_plugin(outpost.name):
                raise PluginError("an outpost or plugin of that name is already registered")
            _register(self.pm, outpost, outpost.name)
        except Exception as error:
            type_, own = (getattr(outpost, word, "?") for word in ("type", "name"))
            home = self.homes.get(type_)
            raise PluginError(
                f"outpost {own!r} of type {type_!r} is not usable: {_one_line(error)}",
                hint=f"tell the authors of its package ({home.label if home else 'unknown'})",
            ) from error
        if home := self.homes.get(outpost.type):
            self._named[outpost.name] = home

    def hook_of(self, outpost: str, hook: str) -> Any:
        """Return a caller that reaches one outpost's implementation of `hook` alone."""
        plugins, known = self.pm.get_plugins(), self._reaching.get((outpost, hook))
        if known is None or known[0] != plugins:  # made anew where somebody came or went
            caller = self.pm.subset_hook_caller(hook, plugins - {self.pm.get_plugin(outpost)})
            known = self._reaching[outpost, hook] = plugins, caller
        return known[1]

    def each(self, hook: str, *trouble: Trouble, **arguments: Any) -> Iterator[Any]:
        """Yield the answers of `answers` without the names."""
        for _, answer in self.answers(hook, *trouble, **arguments):
            yield answer

    def answers(
        self,
        hook: str,
        trouble: Trouble | None = None,
        *,
        secrets: Mapping[str, str] | None = None,
        patience: float = isolation.PATIENCE,
        raises: type[Exception] | tuple[()] = (),
        **arguments: Any,
    ) -> Iterator[tuple[str, Any]]:
        """Call a plain hook of one plugin after the other, so that none breaks the others.

        Args:
            hook: its name.
            trouble: is told the plugin's name and what it raised, besides `listeners`.
            secrets: values that no report of a failure may show.
            patience: seconds that each plugin may take.
            raises: an error of this class is a plugin's answer: it goes to the caller.
            arguments: the hook's.

        Yields:
            the plugin's name in pluggy and its answer, for each that is not None; the last
            registered plugin's first.
        """
        spec = getattr(self.pm.hook, hook).spec
        first = bool(spec and spec.opts.get("firstresult"))
        for name, call in self.callers(hook):
            own = name in self._named and self._named[name].own
            try:
                with isolation.contained(None if own else patience) as printed:
                    said = call(**arguments)
                    found = [said] if first else said
                    found = [_read(one) for one in found]
                if printed:
                    self.blame(name, hook, PluginError(f"{_PRINTED}: {printed[0][:60]!r}"))
            except Exception as error:
                if isinstance(error, raises) and not isinstance(error, PluginError):
                    raise
                self.blame(name, hook, error, secrets)
                if trouble is not None:
                    trouble(name, error)
                continue
            yield from ((name, answer) for answer in found if answer is not None)

    def callers(self, hook: str) -> list[tuple[str, Any]]:
        """Return a caller for each plugin that implements a hook, in the order of pluggy."""
        caller = getattr(self.pm.hook, hook)
        implementations = caller.get_hookimpls()
        known, found = self._narrowed.get(hook, (None, []))
        if known != implementations:
            found = []
            # each plugin once, also one that has two implementations
            for plugin in dict.fromkeys(i.plugin for i in reversed(implementations)):
                others = [p for p in self.pm.get_plugins() if p is not plugin]
                narrowed = self.pm.subset_hook_caller(hook, others)
                found.append((str(self.pm.get_name(plugin)), narrowed))
            self._narrowed[hook] = (implementations, found)
        return found

    def report_of(self, plugin: str) -> PluginReport | None:
        """Return the report of the package that a plugin or an outpost is of.

        Args:
            plugin: its name in pluggy.
        """
        return self._named.get(plugin)

    def who(self, plugin: str) -> str:
        """Return what a plugin is called in messages: its package and version."""
        report = self.report_of(plugin)
        return report.label if report else plugin.removeprefix("package:")

    def blame(
        self,
        plugin: str,
        hook: str,
        error: BaseException,
        secrets: Mapping[str, str] | None = None,
        report: PluginReport | None = None,
    ) -> None:
        """Tell the listeners that a hook of a plugin failed.

        Args:
            plugin: its name in pluggy.
            hook: which.
            error: what it raised, or what is wrong with its answer.
            secrets: values that must not be shown, by name.
            report: of its package, where the plugin is not registered.
        """
        report = report or self.report_of(plugin)
        failure = Failure(
            plugin=plugin, report=report, hook=hook, error=error, secrets=secrets or {}
        )
        for listener in self.listeners:
            listener(failure)


# --- checking a plugin --------------------------------------------------------------------------


def _check_version(plugin: object, report: PluginReport) -> None:
    version = getattr(plugin, "OUTPOST_API", API_VERSION)
    if version != API_VERSION:
        newer = isinstance(version, int) and version > API_VERSION
        hint = f"get a newer {'outpost-core' if newer else report.package or report.entry_point}"
        raise PluginError(f"speaks plugin API {version!r}, this is API {API_VERSION}", hint=hint)
    if isinstance(plugin, type):
        raise PluginError(
            f"its entry point names the class {plugin.__name__}, and hooks are called on an object",
            hint="name a module, or an object that the module makes of the class",
        )


def _register(pm: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Register a plugin, and undo it when a hook does not fit.

    Raises:
        PluginError: a hook does not fit.
        Exception: whatever its attributes raise.
    """
    if pm.has_plugin(name):
        raise PluginError(
            f"another package has an entry point named {name.partition(':')[2]!r} too"
        )
    try:
        pm.register(plugin, name=name)
        for hook in pm.get_hookcallers(plugin) or ():
            if hook.spec is None:
                from outpost_core.nearest import suggest

                raise PluginError(
                    f"there is no hook named {hook.name!r}",
                    hint=suggest(hook.name, isolation.HOOKS),
                )
            for implementation in hook.get_hookimpls():
                if implementation.plugin is plugin:
                    isolation.check_implementation(hook, implementation)
    except BaseException:
        if pm.has_plugin(name):
            pm.unregister(name=name)
        raise


def _read(answer: Any) -> Any:
    """Return an answer with all that is in it: what reading runs is a plugin's code, too."""
    plain = list if isinstance(answer, Iterator) else dict if isinstance(answer, Mapping) else None
    return plain(answer) if plain else answer


def _items(answer: object) -> Iterable[tuple[Any, Any]]:
    if isinstance(answer, Backend):  # the only one of its package
        return [(answer.type, answer)]
    if not isinstance(answer, Mapping):
        raise PluginError(f"its answer is of the type {type(answer).__name__}, not a Backend")
    return answer.items()


# --- what is said of packages -------------------------------------------------------------------


def _one_line(error: Exception) -> str:
    if isinstance(error, PluginError):
        return error.message.replace("\n", " ")
    if isinstance(error, pluggy.PluginValidationError):
        return str(error).replace("\n", " ")
    return isolation.describe(error)


def _note(
    report: PluginReport, where: str, reason: str, hint: str = "", error: Exception | None = None
) -> None:
    report.problems.append(Problem(where=where, reason=reason, hint=hint, error=error))


def _identity(dist: Any) -> tuple[str, str]:
    """Return a distribution's name and version.

    `dist.name` would import the parser of e-mails, at every start and for two words.
    """
    try:
        text = dist.read_text("METADATA") if hasattr(dist, "read_text") else None
        if text is None:
            return getattr(dist, "name", "") or "", getattr(dist, "version", "") or ""
    except Exception:  # noqa: BLE001 - not readable: the plugin itself may still be fine
        return "", ""
    lines = [line.partition(": ") for line in text.partition("\n\n")[0].splitlines()]
    head = {key: value.strip() for key, _, value in reversed(lines)}
    return head.get("Name", ""), head.get("Version", "")
