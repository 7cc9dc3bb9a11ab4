"""What the site has beyond its pages.

These are pages from the root of the repository, the tests that sentences link to as their proof,
and tables for phones. MkDocs calls these functions (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from markdown import Markdown
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
#: Files of the repository that are pages of the site, too.
PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/report.md",
}
#: The page of all tests that sentences of other pages link to, as `path/of/test.py#name`.
PROOFS = "concepts/proofs.md"
PROOF = re.compile(r"\]\((?:\.\./)+((?:tests|plugins)/[\w/]+\.py)#(\w+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
#: Code of at most so many characters, without a space, is not broken: it fits the smallest phone.
KEY = 30


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have tables and keys of all pages prepared for small screens."""
    config.markdown_extensions.append(SmallScreens())  # type: ignore[arg-type]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the root of the repository."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=LINK.sub(_moved(page), text)))
    files.append(File.generated(config, PROOFS, content=_proofs(Path(config.docs_dir))))
    return files


def on_page_markdown(markdown: str, page: Page, **_others: object) -> str:
    """Lead links to a test to the page that shows it."""
    if page.file.src_uri == PROOFS:
        return markdown
    to = posixpath.relpath(PROOFS, posixpath.dirname(page.file.src_uri))
    return PROOF.sub(lambda link: f"]({to}#{_name(link[1], link[2])})", markdown)


def _name(path: str, test: str) -> str:
    return f"{Path(path).stem}-{test}"


def _proofs(docs: Path) -> str:
    """Return the page of proofs: each test that is linked to, as it is written.

    Raises:
        PluginError: one is not there.
    """
    linked: dict[str, set[str]] = {}
    for page in docs.rglob("*.md"):
        for link in PROOF.finditer(page.read_text(encoding="utf-8")):
            linked.setdefault(link[1], set()).add(link[2])
    parts = [PROOFS_HEAD]
    for path in sorted(linked):
        text = (ROOT / path).read_text(encoding="utf-8")
        lines = text.splitlines()
        found = {
            node.name: node
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        parts.append(f"## {Path(path).stem.removeprefix('test_').replace('_', ' ')}\n\n`{path}`\n")
        if lost := linked[path] - found.keys():
            raise PluginError(f"{path} has no {', '.join(sorted(lost))}, which a page links to")
        for node in sorted((found[name] for name in linked[path]), key=lambda node: node.lineno):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            code = "\n".join(lines[first - 1 : node.end_lineno])
            words = node.name.removeprefix("test_").replace("_", " ")
            parts.append(
                f"### {words} {{: #{_name(path, node.name)} }}\n\n```python\n{code}\n```\n"
            )
    return "\n".join(parts)


PROOFS_HEAD = """\
# Proofs
What [the guarantees](guarantees.md) and [the security model](../security.md) say has a test, and
the link behind a sentence leads to it. Here they are, as they are written. Each runs with
`make test ARGS='FILE -k NAME'` in a clone of the repository, and all of them before every change.
"""


def _moved(page: str) -> object:
    """Return how a link of a file at the root is written on its page."""

    def moved(link: re.Match[str]) -> str:
        words, target = link[1], link[2]
        path, sign, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        to = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if to is None:  # a file of the repository alone
            return words
        return f"[{words}]({posixpath.relpath(to, posixpath.dirname(page))}{sign}{anchor})"

    return moved


class SmallScreens(Extension):
    """Cells say which column they are of; short code is marked as a key."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - a method of Markdown's
        """Come after inline patterns have made the elements of a cell."""
        md.treeprocessors.register(_SmallScreens(md), "small_screens", 3)


class _SmallScreens(Treeprocessor):
    def run(self, root: Element) -> None:
        for table in root.iter("table"):
            _label(table)
        for code in root.iter("code"):
            text = code.text or ""
            if len(text) <= KEY and not any(letter.isspace() for letter in text):
                code.set("class", "key")


def _label(table: Element) -> None:
    """Give each cell the name of its column, and roles that a card layout would take away."""
    table.set("role", "table")
    names = ["".join(head.itertext()).strip() for head in table.iter("th")]
    for row in table.iter("tr"):
        row.set("role", "row")
        for name, cell in zip(names, row, strict=False):
            cell.set("role", "columnheader" if cell.tag == "th" else "cell")
            if cell.tag == "td" and name:
                cell.set("data-label", name)
