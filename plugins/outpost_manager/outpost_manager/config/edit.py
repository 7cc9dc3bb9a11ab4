"""`outpost add` and `outpost remove`: change `outposts.yaml` and leave the rest of it alone.

An edit works on the text by the places of its values, so comments, order and style stay. Its
result is parsed, compared with what was meant and checked as a whole before it replaces the file
in one step; anything else leaves the file as it was. The file's folder is locked meanwhile, so
that of two edits at once neither is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace as replaced
from enum import Enum
from pathlib import Path
from typing import Any, Final

import yaml

from outpost_core.backend import Backend, OutpostOptions
from outpost_core.errors import ConfigError, NotFoundError
from outpost_core.nearest import suggest
from outpost_core.options import option_fields
from outpost_core.types import Json
from outpost_manager.config import trusted
from outpost_manager.config.places import is_of_town
from outpost_manager.config.read import parse_config
from outpost_manager.config.text import append_item, append_section, drop_item, replace
from outpost_manager.config.yamlnodes import Document, Node, decode, plain, read_bytes, read_text
from outpost_shared import faults, private

_HEADER: Final = "# Where workers run. `outpost config check` checks this file.\n"
_LOCAL: Final = {"name": "local", "type": "local"}
_BARE: Final = re.compile(r"[\w.+-]+", re.ASCII)


def add_all(
    path: Path,
    type: str,  # noqa: A002
    outposts: Mapping[str, Mapping[str, Json]],
    backends: Mapping[str, Backend],
) -> None:
    """Write outposts of one type at the end of the list, all of them or none.

    Args:
        path: the file; made with its folder when it is missing, and then also given the outpost
            `local`, which was there without a file.
        type: an outpost type.
        outposts: options of each, by a name that is not taken; None is left out. Text stands for
            a number too.
        backends: installed outpost types.

    Raises:
        ConfigError: a name is taken, an option is wrong, or the file cannot be changed; it is as
            it was.
    """
    edits = [_adding(path, type, name, said, backends) for name, said in outposts.items()]

    def edit(text: str) -> str:
        for each in edits:
            text = each(text)
        return text

    _change(path, edit, backends, "added")


def planned(
    path: Path,
    type: str,  # noqa: A002
    name: str,
    values: Mapping[str, Json],
    backends: Mapping[str, Backend],
) -> OutpostOptions:
    """Return the options that an outpost would have if `add_all` wrote it; writes nothing.

    Raises:
        ConfigError: `add_all` would refuse it.
    """
    try:
        path.stat()
    except FileNotFoundError:
        text = ""  # `add_all` will make it
    else:
        text = read_text(path)
    text = _adding(path, type, name, values, backends)(text.replace("\r\n", "\n"))
    _check(path, text, backends, "added")
    made = parse_config(Document(str(path), text), backends, path).outposts[-1]
    assert made.name == name
    assert made.options is not None
    return made.options


def _adding(
    path: Path,
    type: str,  # noqa: A002
    name: str,
    values: Mapping[str, Json],
    backends: Mapping[str, Backend],
) -> Callable[[str], str]:
    """Return the edit that adds an outpost."""
    given = {key: value for key, value in values.items() if value is not None}
    entry = _render(type, name, given, backends.get(type))

    def edit(text: str) -> str:
        if not _has_content(text):
            text += ("" if text else _HEADER) + "outposts:\n"
        document = Document(str(path), text)
        taken = {
            outpost.name: outpost for outpost in parse_config(document, backends, path).outposts
        }
        listed = document.root.get("outposts")
        empty = listed is None or not listed.items
        if name in taken and not (empty and name == "local"):
            raise ConfigError(
                f"there is an outpost {name!r} already",
                file=str(path),
                line=taken[name].origin.line,
                column=taken[name].origin.column,
                hint="choose another name, or remove that one first",
            )
        entries = [entry]
        if empty and name != "local":
            entries.insert(0, {key: _yaml(value) for key, value in _LOCAL.items()})
        before = _data(document)
        for each in entries:
            node = document.root.get("outposts")
            text = (
                append_section(document, each)
                if node is None
                else append_item(document, node, each)
            )
            document = _reparsed(document, text)
        _expect_added(document, before, entries)
        return text

    return edit


def remove(path: Path, name: str, backends: Mapping[str, Backend], *, prune: bool = False) -> None:
    """Take an outpost out of the list, with the comment directly above it.

    Args:
        path: the file.
        name: the outpost.
        backends: installed outpost types.
        prune: take it out of the policy's preferences too; an override that prefers nothing
            else goes with it.

    Raises:
        NotFoundError: no outpost has that name.
        ConfigError: the policy still names it (without `prune`), or the file cannot be changed;
            it is as it was.
    """

    def edit(text: str) -> str:
        document = Document(str(path), text)
        names = [outpost.name for outpost in parse_config(document, backends, path).outposts]
        if name not in names:
            raise NotFoundError(f"there is no outpost {name!r}", hint=suggest(name, names))
        if names == ["local"]:
            raise ConfigError(
                "the outpost 'local' is always there when no other is listed",
                file=str(path),
                hint="add another outpost first",
            )
        before = _data(document)
        while found := next(_references(document, name), None):
            where, take_out = found
            if not prune:
                raise document.error(
                    f"the policy still names {name!r}",
                    where.start,
                    hint=f"take it out there, or: outpost remove {name} --prune",
                )
            document = _reparsed(document, take_out())
        listed = document.root.get("outposts")
        assert listed is not None
        at = names.index(name)
        document = _reparsed(document, drop_item(document, listed, at))
        if _data(document) != _without(before, name):
            raise _by_hand(document)
        return document.text

    if not path.exists():
        raise ConfigError("there is no such file", file=str(path))
    _change(path, edit, backends, "removed")


def _references(document: Document, name: str) -> Iterator[tuple[Node, Callable[[], str]]]:
    """Yield where the policy names an outpost, each with the edit that takes it out."""
    policy = document.root.get("policy")
    preference = policy.get("default_preference") if policy else None
    if preference is not None:
        yield from _in_preference(document, preference, name)
    overrides = policy.get("overrides") if policy else None
    for number, override in enumerate(overrides.items if overrides else ()):
        prefer = override.get("prefer")
        assert prefer is not None
        assert overrides is not None
        if {item.text for item in prefer.items or (prefer,)} == {name}:
            yield prefer, lambda node=overrides, at=number: drop_item(document, node, at)  # type: ignore[misc]
        else:
            yield from _in_preference(document, prefer, name)


def _in_preference(
    document: Document, node: Node, name: str
) -> Iterator[tuple[Node, Callable[[], str]]]:
    if node.kind != "list":
        if node.text == name:
            yield node, lambda: replace(document, node.start, node.end, "[]")
        return
    for number, item in enumerate(node.items):
        if item.text == name:
            yield item, lambda at=number: drop_item(document, node, at)  # type: ignore[misc]


# --- what is written -----------------------------------------------------------------------------


def _render(
    type: str,  # noqa: A002
    name: str,
    values: Mapping[str, Json],
    backend: Backend | None,
) -> dict[str, str]:
    """Return the entry's keys and their values as YAML."""
    numbers = {
        option.name
        for option in (option_fields(backend.options_class) if backend else ())
        if option.type in (int, float, bool)
    }
    entry = {"name": _yaml(name), "type": _yaml(type)}
    for key, value in values.items():
        bare = key in numbers and isinstance(value, str) and _BARE.fullmatch(value)
        entry[_yaml(key)] = str(value) if bare else _yaml(value)
    return entry


def _yaml(value: object) -> str:
    """Return a value on one line, safe inside `[]` and `{}` too."""
    dumped: str = yaml.safe_dump(
        [_simple(value)], default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    )
    return dumped.strip()[1:-1]


def _simple(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_simple(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _has_content(text: str) -> bool:
    return any(
        line.strip() and not line.lstrip("\ufeff \t").startswith("#") for line in text.splitlines()
    )


# --- a validated result or no change -----------------------------------------------------------


def _data(document: Document) -> dict[str, Json]:
    data = plain(document.root)
    assert isinstance(data, dict)
    return data


def _reparsed(document: Document, text: str) -> Document:
    try:
        return Document(document.file, text)
    except ConfigError:
        raise _by_hand(document) from None


def _expect_added(
    document: Document, before: dict[str, Json], entries: Sequence[Mapping[str, str]]
) -> None:
    after = _data(document)
    old, new = before.get("outposts") or [], after.get("outposts")
    assert isinstance(old, list)
    if not isinstance(new, list) or len(new) != len(old) + len(entries):
        raise _by_hand(document)
    if {**after, "outposts": new[: len(old)]} != {**before, "outposts": old}:
        raise _by_hand(document)


def _without(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the file must say once an outpost is gone."""
    expected = {**data, "outposts": [each for each in data["outposts"] if each["name"] != name]}
    if not data.get("policy"):
        return expected
    policy = expected["policy"] = {**data["policy"]}
    if "default_preference" in policy:
        policy["default_preference"] = _without_name(policy["default_preference"], name)
    if policy.get("overrides"):
        pruned = [{**o, "prefer": _without_name(o["prefer"], name)} for o in policy["overrides"]]
        policy["overrides"] = [override for override in pruned if override["prefer"]]
    return expected


def _without_name(preference: Any, name: str) -> Any:
    if isinstance(preference, list):
        return [each for each in preference if each != name]
    return [] if preference == name else preference


def _by_hand(document: Document) -> ConfigError:
    return ConfigError(
        "is written in a way that cannot be edited safely; nothing was changed",
        file=document.file,
        hint="edit it by hand, then: outpost config check",
    )


def _change(
    path: Path, edit: Callable[[str], str], backends: Mapping[str, Backend], done: str
) -> None:
    """Apply an edit to the file's text under the lock and write it when it is right."""
    try:
        real = path.resolve()
        private.make_missing(str(real.parent))
        with _locked(real.parent):
            before = _before(path, real)
            mode = stat.S_IMODE(real.stat().st_mode) if before else 0o600
            text = decode(before.data, str(path)) if before else ""
            newline = "\r\n" if "\r\n" in text else "\n"
            changed = edit(text.replace("\r\n", "\n"))
            _check(path, changed, backends, done)
            written = changed.replace("\n", newline)
            # a town's file that the user counts on, or that is made here, is his word still
            trusts = is_of_town(path) and (
                before is None or trusted.verdict(before, os.environ) is trusted.Trust.TRUSTED
            )
            _write(real, written, mode)
            faults.point("config.written")
            if trusts:
                after = before or _found(path, real, os.geteuid(), b"")
                trusted.trust(replaced(after, data=written.encode()), os.environ)
    except (OSError, RuntimeError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise ConfigError(
            f"cannot be changed: {reason}",
            file=str(path),
            hint="look at the permissions of the file and its folder",
        ) from None


def _check(path: Path, text: str, backends: Mapping[str, Backend], done: str) -> None:
    try:
        parse_config(Document(str(path), text), backends, path)
    except ConfigError as error:
        # Its line is in a file that never came to be: only the text of it says something.
        raise ConfigError(
            f"nothing was {done}: {error.message}",
            hint=error.hint,
            file=str(path),
            snippet=error.snippet,
        ) from None


def _before(path: Path, real: Path) -> trusted.Found | None:
    """Read the file as it is, once; None when there is none."""
    try:
        about = real.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError("is no regular file and cannot be replaced", file=str(path))
    return _found(path, real, about.st_uid, read_bytes(path))


def _found(path: Path, real: Path, owner: int, data: bytes) -> trusted.Found:
    return trusted.Found(path=trusted.identity(path), real=str(real), owner=owner, data=data)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: it needs no file of its own and survives the file's replacement."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot lock a folder; the replacement is atomic there too.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(real: Path, text: str, mode: int) -> None:
    """Replace the file in one step, keeping its mode and where possible its owner."""
    handle, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            with contextlib.suppress(OSError):
                old = real.stat()
                os.fchown(handle, old.st_uid, old.st_gid)
            os.fchmod(handle, mode)
            stream.write(text)
            stream.flush()
            os.fsync(handle)
        Path(name).replace(real)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(real.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
