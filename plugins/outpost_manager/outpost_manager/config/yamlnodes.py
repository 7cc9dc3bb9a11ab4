"""YAML with the place of every value, safe against hostile or broken files.

One tree of `Node`s, each with its offsets in the text, so that a mistake can be shown with line,
column and caret, and an edit can leave every other character alone. No tags, no merge keys;
aliases only as far as they do not multiply.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from outpost_core.errors import ConfigError
from outpost_core.types import Json

MAX_BYTES: Final = 1024 * 1024
_MAX_VALUES: Final = 50_000
_MAX_DEPTH: Final = 50
_WIDTH: Final = 100
_TAG: Final = "tag:yaml.org,2002:"
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_SCALARS: Final = frozenset({"str", "int", "float", "bool", "null", "timestamp"})

Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True, eq=False)
class Node:
    """One value of a document and where it is.

    Args:
        kind: `map`, `list`, or for scalars `str`, `int`, `float`, `bool`, `null`.
        start: offset of its first character.
        end: offset after its last; for block collections somewhere before the next value.
        text: a scalar's text as it was written, without quotes.
        quoted: a scalar in quotes or a block, which is always text.
        flow: a collection in `[]` or `{}`.
        items: the values of a list.
        entries: key text → (key, value) of a map.
        weight: number of values in it with every alias written out.
        height: levels of nesting in it, likewise.
    """

    kind: str
    start: int
    end: int
    text: str = ""
    quoted: bool = False
    flow: bool = False
    items: tuple[Node, ...] = ()
    entries: dict[str, tuple[Node, Node]] | None = None
    weight: int = 1
    height: int = 1

    def get(self, key: str) -> Node | None:
        """Return the value of a map under `key`, None when it is not given."""
        pair = self.entries.get(key) if self.entries else None
        return pair[1] if pair else None


Pairs: TypeAlias = dict[str, tuple[Node, Node]]


class Document:
    """A parsed file.

    Args:
        file: its name as the user knows it.
        text: all of it.

    Raises:
        ConfigError: it is no YAML, or uses what is not supported here.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self._lines = [0, *(match.end() for match in _BREAK.finditer(text))]
        self.root = _Composer(self).compose()

    def place(self, offset: int) -> tuple[int, int]:
        """Return the 1-based line and column of an offset."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def error(
        self, message: str, offset: int, *, hint: str = "", secret: bool = False
    ) -> ConfigError:
        """Build the error of a mistake at `offset`; a `secret` line is not shown."""
        line, column = self.place(offset)
        shown = _BREAK.split(self.text[self._lines[line - 1] :], maxsplit=1)[0]
        return ConfigError(
            message,
            hint=hint,
            file=self.file,
            line=line,
            column=column,
            snippet="" if secret else caret(shown, column - 1),
        )


def caret(line: str, at: int) -> str:
    """Return the line, cut to what fits around `at`, with a caret below that character."""
    start = max(0, at - _WIDTH // 2) if len(line) > _WIDTH else 0
    shown = line[start : start + _WIDTH]
    clean = "".join(char if char.isprintable() else " " for char in shown)
    return f"    {clean}\n    {' ' * (at - start)}^" if clean.strip() else ""


def read_text(path: Path) -> str:
    """Read a file as UTF-8 text, line ends as they are.

    Raises:
        ConfigError: it cannot be read, is too large, or not UTF-8.
    """
    return decode(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Read a file, once.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("there is no such file", file=file) from None
    except IsADirectoryError:
        raise ConfigError(
            "is a folder, not a file", file=file, hint="name the file in it: …/outposts.yaml"
        ) from None
    except PermissionError:
        raise ConfigError(
            "you have no permission to read it", file=file, hint=f"chmod u+r {file}"
        ) from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise ConfigError(f"cannot be read: {reason}", file=file) from None
    return _bounded(data, file)


def decode(data: bytes, file: str) -> str:
    """Return what was read of a file as text, line ends as they are.

    Args:
        data: all of it.
        file: its name as the user knows it.

    Raises:
        ConfigError: it is too large, or not UTF-8.
    """
    _bounded(data, file)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line_start = before.rfind(b"\n") + 1
        raise ConfigError(
            f"is not UTF-8 text: byte 0x{data[error.start]:02x} cannot be read",
            file=file,
            line=before.count(b"\n") + 1,
            column=len(before[line_start:].decode("utf-8")) + 1,
            hint="save it as UTF-8",
        ) from None


def _bounded(data: bytes, file: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"is larger than {MAX_BYTES // 1024} KiB, too large for a configuration",
            file=file,
            line=1,
            column=1,
            hint="is this the right file?",
        )
    return data


def plain(node: Node) -> Json:
    """Return the value without its places, by YAML's own rules."""
    if node.kind == "list":
        return [plain(item) for item in node.items]
    if node.entries is not None:
        return {key: plain(value) for key, (_, value) in node.entries.items()}
    if node.kind == "null":
        return None
    if node.kind == "bool":
        return node.text.lower() in ("true", "yes", "on")
    if node.kind in ("int", "float"):
        with contextlib.suppress(ValueError, OverflowError):  # more digits than a number holds
            value: float = yaml.safe_load(node.text)
            return value if math.isfinite(value) else node.text
    return node.text


class _Composer:
    """Turns PyYAML's nodes into ours, once each, checking on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.done: dict[int, Node] = {}
        self.open: set[int] = set()

    def compose(self) -> Node:
        document = self.document
        body = document.text.removeprefix("\ufeff")
        self.shift = len(document.text) - len(body)
        try:
            root = yaml.compose(body, Loader=Loader)
        except yaml.reader.ReaderError as error:
            raise document.error(
                f"the character U+{_code(error.character):04X} is not allowed",
                error.position + self.shift,
                hint="is this a text file?",
            ) from None
        except yaml.MarkedYAMLError as error:
            raise self.syntax_error(error) from None
        except RecursionError:
            raise document.error("nested too deeply", 0) from None
        if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
            raise ConfigError(
                "is empty",
                file=document.file,
                line=1,
                column=1,
                hint="write 'outposts:' and a list below it, or delete the file",
            )
        node = self.node(root, 0)
        if node.weight > _MAX_VALUES:
            raise document.error(
                f"aliases make this more than {_MAX_VALUES} values",
                node.start,
                hint="write the values out",
            )
        return node

    def syntax_error(self, error: yaml.MarkedYAMLError) -> ConfigError:
        mark = error.problem_mark or error.context_mark
        offset = mark.index + self.shift if mark else 0
        text = self.document.text
        line_start = text.rfind("\n", 0, offset) + 1
        line = text[line_start:].partition("\n")[0]
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent:
            return self.document.error(
                "a tab is used for indentation, which YAML does not allow",
                line_start + indent.index("\t"),
                hint="indent with spaces",
            )
        problem = error.problem or "this is not YAML"
        if error.context and mark and error.context_mark and error.context_mark.index < mark.index:
            problem += f" ({error.context} that began in line {error.context_mark.line + 1})"
        return self.document.error(f"not valid YAML: {problem}", offset)

    def node(self, raw: Any, depth: int) -> Node:
        if id(raw) in self.done:
            return self.done[id(raw)]
        start, end = raw.start_mark.index + self.shift, raw.end_mark.index + self.shift
        if id(raw) in self.open:
            raise self.document.error("this value contains itself through an alias", start)
        if depth > _MAX_DEPTH:
            raise self.document.error("nested too deeply", start)
        self.open.add(id(raw))
        name = raw.tag.removeprefix(_TAG)
        if isinstance(raw, yaml.ScalarNode) and name in _SCALARS:
            quoted = raw.style is not None and raw.style != ""
            kind = "str" if name == "timestamp" or quoted else name
            node = Node(kind, start, end, text=raw.value, quoted=quoted)
        elif isinstance(raw, yaml.SequenceNode) and name == "seq":
            items = tuple(self.node(item, depth + 1) for item in raw.value)
            node = _collection("list", raw, start, end, items)
            node.items = items
        elif isinstance(raw, yaml.MappingNode) and name == "map":
            pairs = self.pairs(raw, depth)
            node = _collection("map", raw, start, end, [value for _, value in pairs.values()])
            node.entries = pairs
        else:
            raise self.document.error(
                f"the tag {raw.tag.replace(_TAG, '!!')} is not supported",
                start,
                hint="write a plain value",
            )
        if node.height > _MAX_DEPTH:
            raise self.document.error("nested too deeply", start)
        self.open.discard(id(raw))
        self.done[id(raw)] = node
        return node

    def pairs(self, raw: yaml.MappingNode, depth: int) -> Pairs:
        pairs: Pairs = {}
        for raw_key, raw_value in raw.value:
            start = raw_key.start_mark.index + self.shift
            if raw_key.tag == _TAG + "merge":
                raise self.document.error(
                    "merge keys ('<<') are not supported", start, hint="write the keys out"
                )
            key = self.node(raw_key, depth + 1)
            if key.kind in ("list", "map"):
                raise self.document.error("a key must be a word", start)
            if key.text in pairs:
                line, _ = self.document.place(pairs[key.text][0].start)
                raise self.document.error(
                    f"{key.text!r} is given twice, first in line {line}",
                    start,
                    hint="keep one of them",
                )
            pairs[key.text] = (key, self.node(raw_value, depth + 1))
        return pairs


def _collection(kind: str, raw: Any, start: int, end: int, values: Sequence[Node]) -> Node:
    return Node(
        kind,
        start,
        end,
        flow=bool(raw.flow_style),
        weight=1 + sum(value.weight for value in values),
        height=1 + max((value.height for value in values), default=0),
    )


def _code(character: int | str | bytes) -> int:
    return character if isinstance(character, int) else ord(character[:1])
