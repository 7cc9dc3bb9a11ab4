"""Discovery, the API fence, and isolation of everything that can be broken."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outpost_core.backend import Backend, BuildContext, Outpost, OutpostOptions
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.errors import PluginError
from outpost_core.hookspecs import hookimpl, hookspec  # noqa: F401 - the public markers
from outpost_core.types import Health, Order, WorkerStatus
from outpost_manager.plugins.advice import first_hint, missing_hint
from outpost_testing.fake import FakeOutpost


@dataclass
class Dist:
    name: str
    version: str = "1.2"


@dataclass
class Entry:
    """An entry point that loads what a test wants."""

    name: str
    loader: Callable[[], Any]
    dist: Dist
    value: str = "module"

    def load(self) -> Any:
        return self.loader()


def module(**names: Any) -> types.ModuleType:
    made = types.ModuleType("plugin")
    for name, value in names.items():
        setattr(made, name, value)
    return made


def backends_hook(*backends: Backend) -> Callable[[], dict[str, Backend]]:
    @hookimpl
    def outpost_backends() -> dict[str, Backend]:
        return {backend.type: backend for backend in backends}

    return outpost_backends


def backend(type_: str = "toy", **more: Any) -> Backend:
    return Backend(
        type=type_,
        options=OutpostOptions,
        build=lambda name, o, c: FakeOutpost(name),
        summary="a toy",
        **more,
    )


def good() -> types.ModuleType:
    return module(OUTPOST_API=1, outpost_backends=backends_hook(backend("good")))


def load_one(loader: Callable[[], Any], package: str = "outpost-toy") -> PluginReport:
    plugins = Plugins.load(
        [Entry("toy", loader, Dist(package)), Entry("good", good, Dist("outpost-good"))]
    )
    assert "good" in plugins.backends, "a broken plugin never breaks another"
    (report,) = (r for r in plugins.reports if r.entry_point == "toy")
    return report


def test_installed_backends_are_found_and_their_sdks_are_not_imported() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from outpost_core.discovery import Plugins; p = Plugins.load();"
        "print(sorted(p.backends), [r.reason for r in p.reports if not r.ok],"
        " [m for m in ('libtmux', 'asyncssh', 'asyncio', 'sqlite3', 'yaml', 'httpx', 'h2',"
        " 'google', 'kubernetes', 'aiohttp', 'outpost_cloudrun.checking', 'outpost_k8s.checking')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cloudrun', 'exec', 'k8s', 'local', 'ssh'] [] []"


def test_a_good_plugin_is_reported_with_its_package_and_types() -> None:
    report = load_one(lambda: module(outpost_backends=backends_hook(backend())))
    assert (report.ok, report.package, report.version, report.types) == (
        True, "outpost-toy", "1.2", ("toy",),
    )  # fmt: skip


def raising(error: BaseException) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


@pytest.mark.parametrize(
    ("loader", "reason", "hint"),
    [
        (raising(ImportError("no such thing")), "no such thing", "force-reinstall outpost-toy"),
        (
            raising(ModuleNotFoundError("No module named 'x'", name="x_sdk.y")),
            "No module",
            "install what it depends on: pip install --force-reinstall outpost-toy",
        ),
        (raising(SyntaxError("bad")), "SyntaxError: bad", "outpost-toy"),
        (raising(SystemExit(3)), "SystemExit: 3", "outpost-toy"),
        (lambda: module(OUTPOST_API=2), "API 2", "get a newer outpost-core"),
        (lambda: module(OUTPOST_API=0), "API 0", "get a newer outpost-toy"),
        (lambda: module(OUTPOST_API="x"), "API 'x'", "outpost-toy"),
        (
            lambda: module(outpost_backends=backends_hook(backend("good"))),
            "already provided by outpost-good 1.2",
            "pip uninstall outpost-toy",
        ),
        (
            lambda: module(
                outpost_backends=backends_hook(backend(capabilities=frozenset({"fly"})))
            ),
            "unknown capabilities ['fly']",
            "",
        ),
    ],
)
def test_every_way_to_be_broken_is_named_with_its_hint(
    loader: Callable[[], Any], reason: str, hint: str
) -> None:
    report = load_one(loader)
    assert not report.ok
    assert reason in report.reason
    assert hint in first_hint(report)


def test_an_invalid_hook_is_named_and_not_left_registered() -> None:
    @hookimpl
    def outpost_agents(nonsense: int) -> dict[str, Any]:
        return {}

    plugins = Plugins.load([Entry("toy", lambda: module(outpost_agents=outpost_agents), Dist("t"))])
    assert "nonsense" in plugins.reports[0].reason
    assert not plugins.pm.has_plugin("package:toy")


def test_a_hook_that_does_not_exist_is_named() -> None:
    @hookimpl
    def outpost_fly() -> None: ...

    report = load_one(lambda: module(outpost_fly=outpost_fly))
    assert "outpost_fly" in report.reason


def test_a_backends_hook_that_raises_is_named() -> None:
    @hookimpl
    def outpost_backends() -> dict[str, Backend]:
        raise RuntimeError("on fire")

    assert (
        "RuntimeError: on fire"
        in load_one(lambda: module(outpost_backends=outpost_backends)).reason
    )


def test_a_plain_hook_that_is_async_is_named_since_nobody_would_await_it() -> None:
    @hookimpl
    async def outpost_event(event: Any) -> None: ...

    report = load_one(lambda: module(outpost_event=outpost_event))
    assert "outpost_event must be a plain function" in report.reason


def test_each_asks_every_plugin_once_and_takes_every_answer() -> None:
    class Says:
        def __init__(self, answer: Any) -> None:
            self.answer = answer
            self.asked = 0

        @hookimpl
        def outpost_issue(self, issue_id: str, rig: str | None) -> Any:
            self.asked += 1
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    class Twice:
        asked = 0

        @hookimpl(specname="outpost_issue")
        def one(self, issue_id: str) -> Any:
            Twice.asked += 1

        @hookimpl(specname="outpost_issue")
        def two(self, issue_id: str) -> Any: ...

    plugins = Plugins.load([])
    all_ = [Says([]), Says(None), Says(RuntimeError("broken")), Twice(), Says(("x",)), Says({})]
    for number, plugin in enumerate(all_):
        plugins.pm.register(plugin, name=f"p{number}")
    trouble: list[str] = []
    answers = list(
        plugins.each(
            "outpost_issue", lambda who, error: trouble.append(who), issue_id="x", rig=None
        )
    )
    assert answers == [{}, ("x",), []], "the last registered first; an answer is one, however empty"
    assert trouble == ["p2"]
    assert [p.asked for p in all_] == [1] * 6


def test_a_backend_may_say_where_its_class_and_options_are(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "heavy_sdk_outpost.py").write_text(
        "from outpost_testing import FakeOptions as Options\n"
        "from outpost_testing import FakeOutpost as Made\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    lazy = Backend(
        type="toy",
        options="outpost_core.backend:OutpostOptions",
        build="heavy_sdk_outpost:Made",
        summary="a toy",
    )
    assert load_one(lambda: module(outpost_backends=backends_hook(lazy))).ok
    assert "heavy_sdk_outpost" not in __import__("sys").modules, "imported when it is first used"
    assert lazy.options_class is OutpostOptions
    made = lazy.make("here", None, BuildContext(state_dir=tmp_path))  # type: ignore[arg-type]
    assert isinstance(made, FakeOutpost)
    nowhere = Backend(type="toy", options="no_such_module:X", build="x:Y", summary="")
    report = load_one(lambda: module(outpost_backends=backends_hook(nowhere)))
    assert "no_such_module" in report.reason


# --- outposts -------------------------------------------------------------------------------


class Minimal(Outpost):
    """The five required hooks and nothing else."""

    type = "minimal"

    @hookimpl
    async def outpost_spawn(self, order: Order) -> WorkerStatus:
        raise NotImplementedError

    @hookimpl
    async def outpost_list(self) -> Sequence[WorkerStatus]:
        return []

    @hookimpl
    async def outpost_ping(self) -> Health:
        return Health(ok=True)

    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> Any:
        yield b""

    @hookimpl
    async def outpost_stop(self, worker: str, grace: float) -> None: ...


def build(kind: type[Outpost], name: str = "here") -> Outpost:
    from pathlib import Path

    return kind(name, OutpostOptions(), BuildContext(state_dir=Path("/nonexistent")))


def test_outposts_are_registered_under_their_names_and_reached_alone() -> None:
    plugins = Plugins.load([])
    one, two = build(Minimal, "one"), build(Minimal, "two")
    plugins.register_outpost(one)
    plugins.register_outpost(two)
    assert plugins.pm.get_plugin("one") is one
    for caller in (plugins.hook_of("one", "outpost_list"), plugins.pm.hook.outpost_list):
        answers = caller()
        assert len(answers) == (2 if caller is plugins.pm.hook.outpost_list else 1)
        for answer in answers:
            answer.close()


def test_the_same_name_twice_is_refused() -> None:
    plugins = Plugins.load([])
    plugins.register_outpost(build(Minimal))
    with pytest.raises(PluginError, match="already registered"):
        plugins.register_outpost(build(Minimal))


class Lacks(Minimal):
    outpost_stop = None  # type: ignore[assignment]


class Unmarked(Minimal):
    async def outpost_ping(self) -> Health:
        return Health(ok=True)


class Plain(Minimal):
    @hookimpl
    def outpost_ping(self) -> Health:  # type: ignore[override]
        return Health(ok=True)


class NoGenerator(Minimal):
    @hookimpl
    async def outpost_logs(self, worker: str, offset: int, follow: bool) -> Any:
        return b""


class Boasts(Minimal):
    capabilities = frozenset({"attach"})


class Invents(Minimal):
    capabilities = frozenset({"teleport"})


class Renames(Minimal):
    @hookimpl(specname="outpost_clean")
    async def tidy(self, worker: str, force: bool) -> None: ...


class WrongArguments(Minimal):
    @hookimpl
    async def outpost_stop(self, worker: str, patience: float) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Lacks, "outpost_stop is missing"),
        (Unmarked, "outpost_ping has no @hookimpl"),
        (Plain, "outpost_ping must be a coroutine function"),
        (NoGenerator, "outpost_logs must be an async generator"),
        (Boasts, r"outpost_attach is missing \(capability 'attach'\)"),
        (Invents, "unknown capabilities"),
        (Renames, "specname"),
        (WrongArguments, "patience"),
    ],
)
def test_an_outpost_that_does_not_fit_is_refused_and_not_registered(
    kind: type[Outpost], reason: str
) -> None:
    plugins = Plugins.load([])
    with pytest.raises(PluginError, match=reason):
        plugins.register_outpost(build(kind))
    assert not plugins.pm.has_plugin("here")


def test_advice_for_a_missing_type() -> None:
    plugins = Plugins.load(
        [Entry("cloudrun", raising(ImportError("no httpx")), Dist("outpost-cloudrun"))]
    )
    assert (
        missing_hint(plugins, "ssh") == "in a clone of Outpost: pip install ./plugins/outpost_ssh"
    )
    assert "no httpx" in missing_hint(plugins, "cloudrun")
    clone = "in a clone of Outpost: pip install ./plugins/outpost_cloudrun"
    assert missing_hint(Plugins.load([]), "cloudrun") == clone
    assert "'lunar'" in missing_hint(plugins, "lunar")
    assert "did you mean" not in missing_hint(plugins, "lunar")


def test_a_package_with_one_type_may_answer_with_its_backend_alone() -> None:
    @hookimpl
    def outpost_backends() -> Backend:
        return backend()

    report = load_one(lambda: module(outpost_backends=outpost_backends))
    assert (report.ok, report.types) == (True, ("toy",))


@pytest.mark.parametrize(
    "where", ["outpost_core.backend", ":Options", "outpost_core.backend:", "outpost_core.wire:No"]
)
def test_a_text_that_leads_nowhere_is_said(where: str) -> None:
    reason = f"{where!r} is no `module:name` of something that is there"
    lost = Backend(type="toy", options=where, build="x:Y", summary="")
    report = load_one(lambda: module(outpost_backends=backends_hook(lost)))
    assert reason in report.reason
    made = Backend(type="toy", options=OutpostOptions, build=where, summary="")
    with pytest.raises(PluginError, match=reason):
        made.make("one", OutpostOptions(), BuildContext(state_dir=Path("/nowhere")))
