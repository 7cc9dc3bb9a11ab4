"""Edits of YAML text that touch one item of a list and nothing else.

Each function takes a parsed document and returns its new text. Texts have `\\n` line ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from outpost_manager.config.yamlnodes import Document, Node

_DASH: Final = re.compile(r"^[ ]*-(?=\s)", re.MULTILINE)
_SEPARATOR: Final = re.compile(r"\s*,\s*")


def replace(document: Document, start: int, end: int, new: str) -> str:
    """Return the text with `new` in place of what is between two offsets."""
    return document.text[:start] + new + document.text[end:]


def append_section(document: Document, entry: Mapping[str, str]) -> str:
    """Write the section `outposts`, with one entry, at the end of a file that has none."""
    text = document.text
    if document.root.flow:
        comma = ", " if document.root.entries else ""
        at = document.root.start + 1
        return replace(document, at, at, f'"outposts": [{_flow(entry)}]{comma}')
    return text + ("" if text.endswith("\n") else "\n") + "\noutposts:\n" + _block(entry, 2)


def append_item(document: Document, node: Node, entry: Mapping[str, str]) -> str:
    """Write one more entry at the end of a list of maps, in the list's own style.

    Args:
        document: the file.
        node: the list, or the empty value in its place.
        entry: keys and their values, as YAML.
    """
    _check_places(document, node)
    if not node.items:
        if document.root.flow:
            return replace(document, node.start, node.end, f"[{_flow(entry)}]")
        start = len(document.text[: node.start].rstrip(" "))
        emptied = replace(document, start, node.end, "")
        at = _line_end(emptied, start)
        return f"{emptied[:at]}\n{_block(entry, 2)}{emptied[at + 1 :]}"
    last = node.items[-1]
    if node.flow:
        return replace(document, last.end, last.end, _separator(document, node) + _flow(entry))
    text = document.text
    at = _line_end(text, _tail(document, last))
    indent = _dash(document, node, len(node.items) - 1)[1]
    written = f"{' ' * indent}- {_flow(entry)}\n" if last.flow else _block(entry, indent)
    gap = "\n" if _spaced(document, node) else ""
    return f"{text[:at]}\n{gap}{written}{text[at + 1 :]}"


def drop_item(document: Document, node: Node, index: int) -> str:
    """Take one item out of a list, with the comments that are its own.

    Its own are: at the end of its lines, directly above its dash at the same indentation, and
    directly below it further in. The only item leaves `[]` behind.
    """
    _check_places(document, node)
    if node.flow:
        return _drop_flow(document, node, index)
    text = document.text
    dash, indent = _dash(document, node, index)
    above = _line_end(text, _tail(document, node.items[index - 1])) + 1 if index else 0
    start = text.rfind("\n", 0, dash) + 1
    while start > above and _comment_indent(text, text.rfind("\n", 0, start - 1) + 1) == indent:
        start = text.rfind("\n", 0, start - 1) + 1
    end = min(_line_end(text, _tail(document, node.items[index])) + 1, len(text))
    while _comment_indent(text, end) > indent:
        end = min(_line_end(text, end) + 1, len(text))
    before, after = text[:start], text[end:]
    if before.endswith("\n\n") and (not after or after.startswith("\n")):
        before = before[:-1]
    if len(node.items) == 1:
        colon = document.text.index(":", _key_of(document.root, node).end) + 1
        before = f"{before[:colon]} []{before[colon:]}"
    elif index == 0:
        after = after.removeprefix("\n")  # the blank line that set it apart from the next
    return before + after


def _check_places(document: Document, node: Node) -> None:
    """Refuse a list whose items are written elsewhere, through aliases.

    Raises:
        ConfigError: they are.
    """
    at = node.start
    for item in node.items:
        if not at <= item.start <= item.end <= node.end:
            raise document.error("this item is an alias", at, hint="edit the file by hand")
        at = item.end


def _drop_flow(document: Document, node: Node, index: int) -> str:
    items = node.items
    if len(items) == 1:
        return replace(document, node.start, node.end, "[]")
    if index + 1 < len(items):
        return replace(document, items[index].start, items[index + 1].start, "")
    return replace(document, items[index - 1].end, items[index].end, "")


def _key_of(root: Node, wanted: Node) -> Node:
    """Return the key under which a list is, anywhere in the document."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for key, value in (node.entries or {}).values():
            if value is wanted:
                return key
            waiting.append(value)
        waiting.extend(node.items)
    raise LookupError("the list is not in the document")


def _block(entry: Mapping[str, str], indent: int) -> str:
    lines = [f"{key}: {value}" for key, value in entry.items()]
    margin = "\n" + " " * (indent + 2)
    return f"{' ' * indent}- {margin.join(lines)}\n"


def _flow(entry: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"


def _separator(document: Document, node: Node) -> str:
    """Return what stands between two items of a `[]` list: `, ` or a comma and a line break."""
    items, text = node.items, document.text
    if len(items) > 1:
        between = text[items[-2].end : items[-1].start]
        return between if _SEPARATOR.fullmatch(between) else ", "
    opening = text[node.start + 1 : items[0].start]
    return f",{opening}" if opening.strip() == "" and "\n" in opening else ", "


def _tail(document: Document, node: Node) -> int:
    """Return the offset after the last character of a value, comments aside."""
    if node.kind not in ("list", "map") or node.flow:
        return len(document.text[: node.end].rstrip())
    if node.entries is not None:
        return max(max(key.end, _tail(document, value)) for key, value in node.entries.values())
    return max(_tail(document, item) for item in node.items)


def _dash(document: Document, node: Node, index: int) -> tuple[int, int]:
    """Return offset and column of the dash of a block list's item."""
    text = document.text
    start = node.start if index == 0 else _tail(document, node.items[index - 1])
    start = text.rfind("\n", 0, start) + 1 if index == 0 else start
    found = None
    for found in _DASH.finditer(text, start, node.items[index].start):  # noqa: B007 - the last
        pass
    if found is None:
        raise document.error(
            "this list cannot be edited safely", node.start, hint="edit it by hand"
        )
    return found.end() - 1, len(found[0]) - 1


def _spaced(document: Document, node: Node) -> bool:
    """Whether the items of a list are set apart by blank lines."""
    if len(node.items) < 2:
        return False
    between = document.text[_tail(document, node.items[-2]) : node.items[-1].start]
    return bool(re.search(r"\n[ ]*\n", between))


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _comment_indent(text: str, line_start: int) -> int:
    """Return the column of a line that is only a comment, -1 for any other line."""
    line = text[line_start : _line_end(text, line_start)]
    return len(line) - len(line.lstrip(" ")) if line.lstrip(" ").startswith("#") else -1
