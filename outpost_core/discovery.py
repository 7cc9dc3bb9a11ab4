"""Finding, fencing and registering plugins.

Loading a plugin can fail in many ways; each is caught, kept with its reason and its hint, and the
rest goes on without it (law 7). `outpost backends` shows the reports.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import pluggy

from outpost_core import hookspecs
from outpost_core.errors import PluginError
from outpost_core.hookspecs import API_VERSION, CAPABILITIES, PROJECT, REQUIRED, TRAITS

if TYPE_CHECKING:
    from outpost_core.backend import Backend, Outpost

GROUP: Final = "outpost"
#: hook → how the manager uses its answer.
_ASYNC_GENERATORS: Final = frozenset({"outpost_logs", "outpost_bootstrap"})
_PLAIN: Final = frozenset({"outpost_price"})
#: types that our own packages build, for the advice when nothing provides them.
_KNOWN_TYPES: Final = frozenset({"local", "exec", "ssh", "cloudrun", "k8s"})


class EntryPoint(Protocol):
    """The part of `importlib_metadata.EntryPoint` that is used."""

    name: str
    value: str
    dist: Any

    def load(self) -> Any:
        """Import and return the plugin."""


@dataclass(kw_only=True)
class PluginReport:
    """What became of one entry point.

    Args:
        entry_point: its name.
        package: the distribution that ships it, or "".
        version: that distribution's version, or "".
        types: outpost types that it provides and that are usable.
        ok: whether all of it is usable.
        reason: why not.
        hint: what the user can do.
    """

    entry_point: str
    package: str = ""
    version: str = ""
    types: tuple[str, ...] = ()
    ok: bool = True
    reason: str = ""
    hint: str = ""


@dataclass(kw_only=True, eq=False)
class Plugins:
    """All that is installed and all outposts that are registered.

    Args:
        pm: pluggy's manager; outposts are registered in it under their own names.
        backends: usable outpost types.
        homes: outpost type → the report of the package that provides it.
        reports: one for each entry point, in the order of their names.
    """

    pm: pluggy.PluginManager
    backends: dict[str, Backend] = field(default_factory=dict)
    homes: dict[str, PluginReport] = field(default_factory=dict)
    reports: list[PluginReport] = field(default_factory=list)

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
            from importlib_metadata import entry_points as installed

            entry_points = installed(group=GROUP)
        for entry_point in sorted(entry_points, key=lambda e: (e.name, e.value)):
            plugins._load_one(entry_point)
        return plugins

    def _load_one(self, entry_point: EntryPoint) -> None:
        package, version = _identity(getattr(entry_point, "dist", None))
        report = PluginReport(entry_point=entry_point.name, package=package, version=version)
        self.reports.append(report)
        try:
            plugin = entry_point.load()
        except ModuleNotFoundError as error:
            hint = f"pip install {_package_guess(error.name)}" if error.name else ""
            self._broken(report, f"cannot be imported: {error}", hint or _reinstall(report))
        except BaseException as error:  # a plugin may even call sys.exit
            if isinstance(error, KeyboardInterrupt):
                raise
            self._broken(report, f"cannot be imported: {_describe(error)}", _reinstall(report))
        else:
            self.add(plugin, report)

    def add(self, plugin: object, report: PluginReport) -> None:
        """Register a loaded plugin and its backends; problems go into `report`.

        Args:
            plugin: module or object with hook implementations.
            report: says who it is; is filled in.
        """
        if report not in self.reports:
            self.reports.append(report)
        version = getattr(plugin, "OUTPOST_API", API_VERSION)
        if version != API_VERSION:
            newer = isinstance(version, int) and version > API_VERSION
            hint = "pip install --upgrade " + ("outpost-core" if newer else report.package)
            self._broken(
                report, f"speaks plugin API {version!r}, this is API {API_VERSION}", hint.strip()
            )
            return
        name = f"package:{report.entry_point}"
        if problem := _register(self.pm, plugin, name):
            self._broken(report, problem, f"tell the authors of {report.package or name}")
            return
        try:
            self._take_backends(name, report)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its report
            self.pm.unregister(name=name)
            self._broken(report, f"outpost_backends: {_describe(error)}", _reinstall(report))

    def _take_backends(self, name: str, report: PluginReport) -> None:
        others = [p for p in self.pm.get_plugins() if self.pm.get_name(p) != name]
        found: Mapping[str, Backend] = {}
        for answer in self.pm.subset_hook_caller("outpost_backends", others)():
            found = answer
        taken = []
        for type_, backend in found.items():
            if type_ in self.homes:
                other = self.homes[type_]
                self._broken(
                    report,
                    f"type {type_!r} is already provided by {_who(other)}",
                    f"pip uninstall {report.package or '<one of them>'}",
                )
            elif backend.type != type_:
                raise PluginError(f"the backend under {type_!r} calls itself {backend.type!r}")
            elif unknown := backend.capabilities - CAPABILITIES.keys() - TRAITS.keys():
                raise PluginError(f"{type_!r} declares unknown capabilities {sorted(unknown)}")
            else:
                taken.append(type_)
        for type_ in taken:
            self.backends[type_] = found[type_]
            self.homes[type_] = report
        report.types = tuple(taken)

    @staticmethod
    def _broken(report: PluginReport, reason: str, hint: str) -> None:
        report.ok, report.reason, report.hint = False, reason, hint

    def register_outpost(self, outpost: Outpost) -> None:
        """Register a built outpost under its name.

        Raises:
            PluginError: it lacks a required hook, declares a capability that it does not
                implement, has the wrong kind of callable or uses `specname`; nothing stays
                registered.
        """
        if self.pm.has_plugin(outpost.name):
            raise PluginError(f"an outpost or plugin named {outpost.name!r} is already registered")
        problem = _check_outpost(outpost) or _register(self.pm, outpost, outpost.name)
        if problem:
            raise PluginError(
                f"outpost {outpost.name!r} of type {outpost.type!r} is not usable: {problem}",
                hint=f"tell the authors of its package ({_who(self.homes.get(outpost.type))})",
            )

    def hook_of(self, outpost: str, hook: str) -> Any:
        """Return a caller that reaches one outpost's implementation of `hook` alone."""
        me = self.pm.get_plugin(outpost)
        others = [plugin for plugin in self.pm.get_plugins() if plugin is not me]
        return self.pm.subset_hook_caller(hook, others)

    def each(
        self, hook: str, trouble: Callable[[str, Exception], None], **arguments: Any
    ) -> Iterator[Any]:
        """Call a plain hook of one plugin after the other, so that none breaks the others.

        Args:
            hook: its name.
            trouble: is told the plugin's name and what it raised.
            arguments: the hook's.

        Yields:
            every answer that is not None, the last registered plugin's first.
        """
        caller = getattr(self.pm.hook, hook)
        first = bool(caller.spec and caller.spec.opts.get("firstresult"))
        # each plugin once, also one that has two implementations
        for plugin in dict.fromkeys(i.plugin for i in reversed(caller.get_hookimpls())):
            others = [p for p in self.pm.get_plugins() if p is not plugin]
            try:
                answers = self.pm.subset_hook_caller(hook, others)(**arguments)
            except Exception as error:  # noqa: BLE001 - whatever a plugin raises is its own
                trouble(str(self.pm.get_name(plugin)), error)
                continue
            if not first:
                yield from answers
            elif answers is not None:
                yield answers

    def missing_hint(self, type_: str) -> str:
        """Say how to get a backend for a type that nobody provides."""
        broken = [r for r in self.reports if not r.ok and r.entry_point == type_]
        if broken:
            return f"{broken[0].reason}; {broken[0].hint}"
        if type_ in _KNOWN_TYPES:
            return f"in a clone of Outpost: pip install ./plugins/outpost_{type_}"
        from outpost_core.nearest import nearest

        near = nearest(type_, self.backends)
        meant = f"did you mean {near!r}? else " if near else ""
        return f"{meant}install the package that provides the outpost type {type_!r}"


def _register(pm: pluggy.PluginManager, plugin: object, name: str) -> str:
    """Register, and undo it when a hook does not fit; return the problem or ""."""
    if pm.has_plugin(name):
        return f"another package has an entry point named {name.partition(':')[2]!r} too"
    try:
        pm.register(plugin, name=name)
        for hook in pm.get_hookcallers(plugin) or ():
            if hook.spec is None:
                raise PluginError(f"there is no hook named {hook.name!r}")
            if not _is_async(hook.spec.function) and hook.name not in _ASYNC_GENERATORS:
                _check_plain(hook, plugin)
    except Exception as error:  # noqa: BLE001 - even reading its attributes runs its code
        if pm.has_plugin(name):
            pm.unregister(name=name)
        return str(error).replace("\n", " ")
    return ""


def _check_plain(hook: Any, plugin: object) -> None:
    """Refuse what pluggy would call and nobody would await."""
    for implementation in hook.get_hookimpls():
        if implementation.plugin is plugin and _is_async(implementation.function):
            raise PluginError(f"{hook.name} must be a plain function, since nobody awaits it")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _check_outpost(outpost: Outpost) -> str:
    """Return what is wrong with an outpost object, or ""."""
    kind = type(outpost)
    if (
        inspect.getattr_static(kind, "__hash__") is None
    ):  # one such object breaks pluggy's own lists for all others
        return "its objects cannot be hashed (a dataclass needs eq=False)"
    promised = {
        capability: CAPABILITIES[capability]
        for capability in sorted(outpost.capabilities)
        if capability in CAPABILITIES
    }
    if unknown := outpost.capabilities - CAPABILITIES.keys() - TRAITS.keys():
        return f"unknown capabilities {sorted(unknown)}"
    for hook in (*REQUIRED, *promised.values()):
        if problem := _check_method(kind, hook):
            why = next((f" (capability {c!r})" for c, h in promised.items() if h == hook), "")
            return problem + why
    for name in dir(kind):
        marker = getattr(inspect.getattr_static(kind, name), f"{PROJECT}_impl", None)
        if marker and marker.get("specname"):
            return f"{name} uses specname, which a narrowed call can not tell apart"
    return ""


def _check_method(kind: type, hook: str) -> str:
    method = inspect.getattr_static(kind, hook, None)
    if method is None:
        return f"{hook} is missing"
    if not getattr(method, f"{PROJECT}_impl", None):
        return f"{hook} has no @hookimpl of its own"
    if hook in _ASYNC_GENERATORS:
        right, want = inspect.isasyncgenfunction(method), "an async generator (async def … yield)"
    elif hook in _PLAIN:
        right, want = not inspect.iscoroutinefunction(method), "a plain function"
    else:
        right, want = inspect.iscoroutinefunction(method), "a coroutine function (async def)"
    return "" if right else f"{hook} must be {want}"


def _identity(dist: Any) -> tuple[str, str]:
    """Return a distribution's name and version.

    `dist.name` would import the parser of e-mails, at every start and for two words.
    """
    try:
        text = dist.read_text("METADATA") if hasattr(dist, "read_text") else None
    except ValueError:  # not UTF-8: the plugin itself may still be fine
        return "", ""
    if text is None:
        return getattr(dist, "name", "") or "", getattr(dist, "version", "") or ""
    lines = [line.partition(": ") for line in text.partition("\n\n")[0].splitlines()]
    head = {key: value.strip() for key, _, value in reversed(lines)}
    return head.get("Name", ""), head.get("Version", "")


def _describe(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _reinstall(report: PluginReport) -> str:
    return f"pip install --upgrade --force-reinstall {report.package or report.entry_point}"


def _package_guess(module: str) -> str:
    top = module.partition(".")[0]
    return {"yaml": "pyyaml", "outpost_core": "outpost-core"}.get(top, top.replace("_", "-"))


def _who(report: PluginReport | None) -> str:
    if report is None:
        return "unknown"
    return f"{report.package} {report.version}".strip() or report.entry_point
