"""What is sent to a far machine is the same for the same files, and enough to work from."""

from __future__ import annotations

import ast
import asyncio
import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from outpost_core import wire
from outpost_core.errors import PluginError
from outpost_core.types import Agent, Issue, Order
from outpost_exec.stdio.client import Client
from outpost_ssh import package

OURS = tuple(name.partition(".")[0] for name in package.PACKAGES)


def other_program(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_two_programs_agree_on_address_and_zip() -> None:
    code = (
        "from outpost_ssh.package import package as p; import hashlib;"
        "print(p().address, hashlib.sha256(p().zipped()).hexdigest())"
    )
    first, second = other_program(code), other_program(code)
    assert first == second
    assert first.split()[0] == package.package().address


def test_the_address_is_of_names_and_contents() -> None:
    files = {"a": b"1", "b": b"2"}
    changed = [{"a": b"1", "c": b"2"}, {"a": b"1", "b": b"3"}, {"a": b"1"}, {"a": b"1b", "b": b""}]
    addresses = {package._address(one) for one in (files, *changed)}
    assert len(addresses) == 5


def test_no_file_of_the_near_side_is_in_it() -> None:
    files = package.package().files
    tops = {path.partition("/")[0] for path in files}
    assert tops == {name.partition(".")[0] for name in package.PACKAGES}
    assert not tops & {"outpost_manager", "outpost_testing", "outpost_exec"}
    assert {path for path in files if path.startswith("outpost_ssh/")} == {
        "outpost_ssh/__init__.py",
        *(
            f"outpost_ssh/far/{path.name}"
            for path in (Path(package.__file__).parent / "far").glob("*.py")
        ),
    }
    assert all(path.endswith(".py") for path in files)


def imported(source: bytes, name: str) -> Iterator[str]:
    """Yield the names of the modules that a module of ours imports, anywhere in it."""
    inside = name if name.endswith("__init__.py") else name.rpartition("/")[0]
    here = inside.removesuffix("/__init__.py").replace("/", ".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = here.split(".")[: len(here.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def typing_only(source: bytes) -> bytes:
    """Return a source without what stands under `if TYPE_CHECKING:`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                kept = [
                    one
                    for one in block
                    if not (isinstance(one, ast.If) and ast.unparse(one.test).endswith("CHECKING"))
                ]
                setattr(node, name, kept or [ast.Pass()])
    return ast.unparse(tree).encode()


def exists(module: str) -> bool:
    path = Path(*module.split("."))
    roots = [Path(package.find_spec(name).submodule_search_locations[0]).parent for name in OURS]
    return any((r / path).with_suffix(".py").exists() or (r / path).is_dir() for r in roots)


def reached() -> dict[str, bytes]:
    """Return what the far side can come to import, by path; from our packages as they are here."""
    files, sources = package.package().files, {}
    todo = [
        package.ENTRY,
        "outpost_worker/boot.py",
    ]
    while todo:
        path = todo.pop()
        if path not in sources:
            sources[path] = typing_only(files[path])
            for module in imported(sources[path], path):
                name = module.replace(".", "/")
                todo += [one for one in (f"{name}.py", f"{name}/__init__.py") if one in files]
    return sources


def test_what_the_far_side_imports_is_in_it() -> None:
    files = package.package().files
    known = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    missing = {
        (path, module)
        for path, source in reached().items()
        for module in imported(source, path)
        if module.partition(".")[0] in OURS and exists(module) and module not in known
    }
    assert not missing


def test_hardly_a_file_is_sent_that_nobody_there_imports() -> None:
    """Whole packages travel, so what belongs to the near side must not be put into one of them."""
    files = package.package().files
    idle = {path for path in files.keys() - reached().keys() if not path.startswith("libtmux/")}
    assert len(package.LEFT_OUT) < 7
    assert len(idle) < 30, sorted(idle)
    assert sum(len(files[path]) for path in idle) < sum(map(len, files.values())) / 10


def test_the_far_side_needs_no_other_distribution() -> None:
    standard = sys.stdlib_module_names
    foreign = {
        (path, module)
        for path, source in reached().items()
        if not path.startswith(("pluggy/", "libtmux/"))
        for module in imported(source, path)
        if module.partition(".")[0] not in {*standard, *OURS, "_signal"}
    }
    assert not foreign


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "PACKAGES", ("outpost_nowhere",))
    package.package.cache_clear()
    with pytest.raises(PluginError, match="outpost_nowhere"):
        package.package()
    package.package.cache_clear()


@pytest.mark.parametrize("mode", ["tmux", "process"])
def test_the_extracted_package_alone_serves_and_runs_a_worker(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "far"
    with zipfile.ZipFile(io.BytesIO(package.package().zipped())) as archive:
        archive.extractall(folder)
    order = Order(issue=Issue(id="gt-1"), agent=Agent(argv=("/bin/sh", "-c", "echo $HOME; exit 3")))

    async def serve() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(folder / package.ENTRY),
            env={"HOME": str(tmp_path), "PATH": os.defpath, "SHELL": "/bin/sh"}, cwd=tmp_path,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        client = await Client.start(
            "far", process.stdout, process.stdin, name="vm1", options={"mode": mode}, timeout=20
        )
        body = {"order": wire.to_json(order), "secrets": {}, "digest": wire.digest(order)}
        await client.call("spawn", body)
        deadline = time.monotonic() + 20
        while "result" not in (worker := (await client.call("list"))["workers"][0]):
            assert time.monotonic() < deadline, worker
            await asyncio.sleep(0.02)
        assert worker["result"]["exit_code"] == 3
        (finding, *_) = (await client.call("doctor", {"rig": None}))["findings"]
        assert finding["check"]
        await client.aclose()
        assert await process.wait() == 0

    asyncio.run(serve())
    log = tmp_path / ".local/state/outpost/far/workers/gt-1.1/output.log"
    assert log.read_text() == f"{tmp_path}\n"
    loaded = {path.parent.name for path in folder.rglob("*.pyc")}
    assert loaded == {"__pycache__"}
