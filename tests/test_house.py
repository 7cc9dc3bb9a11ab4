"""The house keeps its cut: which code depends on which, how small the core is, what travels."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from outpost_container.wheels import FAR

CHECKOUT = Path(__file__).parents[1]
#: Import name to the folder that holds the package.
ROOTS = {"outpost_core": CHECKOUT} | {
    folder.name: folder for folder in sorted((CHECKOUT / "plugins").iterdir()) if folder.is_dir()
}
#: What the core may have.
MOST_FILES, MOST_LINES = 13, 3_000
#: Names of distributions that are not called like what is imported of them.
IMPORTED_AS = {
    "pyyaml": "yaml",
    "importlib-metadata": "importlib_metadata",
    "google-auth": "google",
    "google-cloud-run": "google",
}
#: Distributions that a backend brings along so that its user has the command, and never imports.
BROUGHT = {"outpost-manager"}
#: Distributions that another one puts into an image, and never imports.
PACKED = {"outpost_container": set(FAR)}


@cache
def modules() -> dict[str, Path]:
    """Every module of ours, by its name."""
    found = {}
    for name, root in ROOTS.items():
        for path in (root / name).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports, anywhere in it, also for types alone; names of modules."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules() else node.module or ""


def test_the_core_is_tiny() -> None:
    files = sorted((CHECKOUT / "outpost_core").rglob("*.py"))
    lines = sum(len(file.read_text().splitlines()) for file in files)
    assert len(files) <= MOST_FILES, files
    assert lines <= MOST_LINES


def test_the_core_depends_on_two_packages_and_on_nothing_of_ours() -> None:
    foreign = {
        name.partition(".")[0]
        for module, path in modules().items()
        if module.partition(".")[0] == "outpost_core"
        for name in imports(path)
    } - {*sys.stdlib_module_names, "outpost_core"}
    assert foreign == {"pluggy", "importlib_metadata"}
    about = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[<>=]", each)[0] for each in about["dependencies"]} == {
        "importlib-metadata",
        "pluggy",
    }


def test_the_core_does_not_speak_of_one_of_its_users() -> None:
    words = re.compile(r"gas ?town|\bpolecat|\bmayor\b|\btown\b|\bgt\b(?!-)", re.IGNORECASE)
    for path in (CHECKOUT / "outpost_core").rglob("*.py"):
        found = [line for line in path.read_text().splitlines() if words.search(line)]
        assert not found, (path, found)


def test_no_modules_import_each_other() -> None:
    """Type-only imports count too: who reads one file has to understand the other."""
    graph = {
        module: {name for name in imports(path) if name in modules() and name != module}
        for module, path in modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


def imported_as(requirements: list[str]) -> set[str]:
    """Return what is imported of distributions that are asked for."""
    names = {re.split(r"[<>=\[ ;]", each)[0] for each in requirements}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


@pytest.mark.parametrize("package", sorted(ROOTS))
def test_a_distribution_depends_on_what_it_imports(package: str) -> None:
    about = tomllib.loads((ROOTS[package] / "pyproject.toml").read_text())["project"]
    always = imported_as(about["dependencies"])
    extras = about.get("optional-dependencies", {}) if package != "outpost_core" else {}
    known = always | {name for more in extras.values() for name in imported_as(more)}
    needed = {
        name.partition(".")[0]
        for module, path in modules().items()
        if module.partition(".")[0] == package
        for name in imports(path)
    } - {*sys.stdlib_module_names, package, "_signal"}
    assert needed <= known, "it imports what it does not ask for"
    apart = BROUGHT | PACKED.get(package, set())
    unused = always - needed - {name.replace("-", "_") for name in apart}
    assert not unused, "it asks for what it does not import"
