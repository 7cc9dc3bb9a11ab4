"""What stands between Outpost and the code of plugins, so that their mistakes stay theirs (law 7).

`contained` runs it: an import may call `sys.exit`, a hook may never return, both may print where a
command prints its answer, and what comes out is an exception or nothing. The checks say what is
wrong with a hook, a backend or an outpost before it is used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from outpost_core import hookspecs
from outpost_core.backend import Backend, Outpost, OutpostOptions
from outpost_core.errors import PluginError
from outpost_core.options import option_fields

#: Seconds that a plugin may take to be imported, or to answer a hook that nobody awaits.
PATIENCE: Final = 10.0
#: Names of all hooks.
HOOKS: Final = tuple(name for name in vars(hookspecs) if name.startswith("outpost_"))
_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)


class _TooSlowError(BaseException):
    """Ends a plugin's code that takes too long; not an Exception, which it may catch."""


@contextmanager
def contained(limit: float | None = PATIENCE) -> Iterator[list[str]]:
    """Run code of a plugin so that nothing worse than an exception comes out of it.

    On the main thread, what it prints on standard output goes to standard error, and it is broken
    off after a while; elsewhere it is only kept from ending the program.

    Args:
        limit: seconds; not kept where the program uses the timer (SIGALRM) itself. None for what
            is called often: only exceptions are seen to, which costs no system calls.

    Yields:
        a list that holds, afterwards, what was printed, if anything was.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
        PluginError: it took too long, or raised SystemExit or the like (the cause).
    """
    import threading

    printed: list[str] = []
    main = threading.current_thread() is threading.main_thread()
    release = _guard(limit, printed) if main and limit is not None else None
    try:
        yield printed
    except BaseException as error:
        if isinstance(error, Exception) or by_user(error):
            raise
        if isinstance(error, _TooSlowError):
            raise PluginError(f"it took longer than {limit:g} s") from error
        raise PluginError(f"it raised {describe(error)}, which ends programs") from error
    finally:
        if release is not None:
            release()


def _guard(limit: float, printed: list[str]) -> Callable[[], None]:
    """Set the timer, the handler of Ctrl-C and standard output; return what sets them back."""
    import _signal as signal  # type: ignore[import-not-found]  # quicker: makes no enumerations
    import sys
    from io import StringIO

    over = False

    def too_slow(*_: object) -> None:
        if not over:
            raise _TooSlowError

    interrupt = signal.getsignal(signal.SIGINT)
    timer = signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    stdout, text = sys.stdout, StringIO()

    def release() -> None:
        nonlocal over
        over = True
        sys.stdout = stdout
        if timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if interrupt is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
        if said := text.getvalue():
            printed.append(said)
            sys.stderr.write(said)

    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    if timer:
        signal.signal(signal.SIGALRM, too_slow)
        signal.setitimer(signal.ITIMER_REAL, limit)
    sys.stdout = text
    return release


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def by_user(error: BaseException) -> bool:
    """Whether an exception is the user's Ctrl-C, and not something that a plugin raised."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    # the frame of the handler: of `contained`, or of `asyncio.run`
    return at is not None and at.tb_frame.f_code.co_name in (_interrupted.__name__, "_on_sigint")


def describe(error: BaseException) -> str:
    """Return an exception as one line: its class, and the first line of what it says."""
    try:
        text = str(error).strip().split("\n")[0]
    except Exception:  # noqa: BLE001 - a plugin's own class
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- checks -------------------------------------------------------------------------------------


def check_backend(type_: object, backend: object) -> None:
    """Refuse a backend that could not be used.

    Args:
        type_: the word under which it is offered.
        backend: what is offered.

    Raises:
        PluginError: why.
        Exception: whatever the code of its options raises.
    """
    if not isinstance(type_, str) or not _TYPE.fullmatch(type_):
        raise PluginError("a type is a word of letters, digits, '-' and '_'")
    if not isinstance(backend, Backend):
        raise PluginError(f"it is a {_kind(backend)}, not a Backend")
    if backend.type != type_:
        raise PluginError(f"the backend under {type_!r} calls itself {backend.type!r}")
    if not callable(backend.build) and not isinstance(backend.build, str):
        raise PluginError(f"its build is a {_kind(backend.build)}, not a function")
    if not isinstance(backend.summary, str) or not callable(backend.introduce or print):
        raise PluginError("its summary is no text, or its introduce no function")
    _check_capabilities(backend.capabilities)
    options: object = backend.options_class
    if not isinstance(options, type) or not issubclass(options, OutpostOptions):
        raise PluginError("its options are no dataclass that inherits OutpostOptions")
    if "__dataclass_fields__" not in vars(options):
        raise PluginError(
            f"{options.__qualname__} is no dataclass itself",
            hint="put @dataclass(frozen=True, kw_only=True) above it",
        )
    for field_ in option_fields(options):
        if field_.name in ("name", "type"):
            raise PluginError(f"the option {field_.name!r} is one that every outpost has")


def check_outpost(outpost: object) -> None:
    """Refuse an outpost object that could not be used.

    Raises:
        PluginError: it lacks a required hook, declares a capability that it does not implement,
            has the wrong kind of callable or uses `specname`.
    """
    kind = type(outpost)
    if not isinstance(outpost, Outpost):
        raise PluginError(f"its build returned a {_kind(outpost)}, not an Outpost")
    if inspect.getattr_static(kind, "__hash__") is None:
        # one such object breaks pluggy's own lists for all others
        raise PluginError("its objects cannot be hashed (a dataclass needs eq=False)")
    _check_capabilities(outpost.capabilities)
    promised = {
        c: hookspecs.CAPABILITIES[c]
        for c in sorted(outpost.capabilities)
        if c in hookspecs.CAPABILITIES
    }
    for hook in (*hookspecs.REQUIRED, *promised.values()):
        if problem := _wrong_with_method(kind, hook):
            why = next((f" (capability {c!r})" for c, h in promised.items() if h == hook), "")
            raise PluginError(problem + why)
    for name in dir(kind):
        marker = getattr(inspect.getattr_static(kind, name), f"{hookspecs.PROJECT}_impl", None)
        if marker and marker.get("specname"):
            raise PluginError(f"{name} uses specname, which a narrowed call can not tell apart")


def _check_capabilities(declared: object) -> None:
    if not isinstance(declared, set | frozenset):
        raise PluginError(f"its capabilities are a {_kind(declared)}, not a frozenset")
    if unknown := declared - hookspecs.CAPABILITIES.keys() - hookspecs.TRAITS.keys():
        raise PluginError(f"it declares unknown capabilities {sorted(map(str, unknown))}")


def _wrong_with_method(kind: type, hook: str) -> str:
    method = inspect.getattr_static(kind, hook, None)
    if method is None:
        return f"{hook} is missing"
    if not getattr(method, f"{hookspecs.PROJECT}_impl", None):
        return f"{hook} has no @hookimpl of its own"
    if hook in hookspecs.ASYNC_GENERATORS:
        right, want = inspect.isasyncgenfunction(method), "an async generator (async def … yield)"
    elif hook in hookspecs.PLAIN:
        right, want = not inspect.iscoroutinefunction(method), "a plain function"
    else:
        right, want = inspect.iscoroutinefunction(method), "a coroutine function (async def)"
    return "" if right else f"{hook} must be {want}"


def _kind(value: object) -> str:
    return type(value).__name__


def check_implementation(hook: Any, implementation: Any) -> None:
    """Refuse what pluggy would take, and would never call as its author thinks."""
    name, function = hook.name, implementation.function
    plain = not _is_async(hook.spec.function) and name not in hookspecs.ASYNC_GENERATORS
    if plain and _is_async(function):
        raise PluginError(f"{name} must be a plain function, since nobody awaits it")
    if implementation.wrapper or implementation.hookwrapper:
        raise PluginError(f"{name} is a wrapper, and each plugin is asked alone")
    code = getattr(inspect.unwrap(function), "__code__", None)
    keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount] if code else ()
    for argument in (*implementation.kwargnames, *keywords):
        if argument in hook.spec.argnames:
            raise PluginError(
                f"{name}: the argument {argument!r} has a default or is keyword-only, so pluggy"
                " never passes it",
                hint=f"write {name}({', '.join(hook.spec.argnames)})",
            )


def unmarked(plugin: object) -> list[str]:
    """Return the names of hooks that a plugin has as functions without the mark."""
    found = []
    for name in HOOKS:
        function = inspect.getattr_static(plugin, name, None)
        if inspect.isroutine(function) and not hasattr(function, f"{hookspecs.PROJECT}_impl"):
            found.append(name)
    return found


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
