"""What the documentation shows is run: scripts, Python, YAML; and every flag it names exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from outpost_core.discovery import Plugins
from outpost_manager.cli.app import cli
from outpost_manager.config import load_config
from outpost_mayor.simulate.reading import read_workload

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "plugins").glob("*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
GUIDE = ROOT / "docs" / "guides" / "write-an-outpost.md"
FENCE = re.compile(r"^```(\w+)(?: title=\"[^\"\n]+\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] in kinds:
                found.append(
                    Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
                )
    return found


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment of its own, with this installation on the path."""
    keep = {k: v for k, v in os.environ.items() if k in ("LANG", "TMPDIR", "SSL_CERT_FILE")}
    return keep | {
        "HOME": str(tmp_path),
        "OUTPOST_STATE": str(tmp_path / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_scripts_run(block: Block, tmp_path: Path, home: dict[str, str]) -> None:
    if "make " in block.text:
        targets = re.findall(r"^make (\w+)", block.text, re.MULTILINE)
        for target in targets:
            subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
        return
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=work, env=home, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def files_of(page: Path) -> dict[str, str]:
    """The blocks of a page that are whole files of a package: their first line names them."""
    named = (block.text.partition("\n") for block in blocks("python", "toml") if block.page == page)
    return {first[2:]: rest for first, _, rest in named if re.fullmatch(r"# [\w/]+\.\w+", first)}


def test_the_package_of_the_guide_is_the_example_and_its_tests_run(
    tmp_path: Path, home: dict[str, str]
) -> None:
    files = files_of(GUIDE)
    example = ROOT / "examples" / "outpost_sandbox"
    there = [path for path in example.rglob("*") if path.suffix in (".py", ".toml")]
    assert files == {
        str(path.relative_to(example)): path.read_text()
        for path in there
        if path.name != "__init__.py"
    }
    code = [files[name] for name in files if name.startswith("outpost_sandbox/")]
    assert sum(bool(line.strip()) for text in code for line in text.splitlines()) <= 40
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-k", "load or exit_137", "tests"],
        cwd=tmp_path, env=home | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


PYTHON = sorted({b.page for b in blocks("python") if not files_of(b.page)})


@pytest.mark.parametrize("page", PYTHON, ids=lambda p: p.stem)
def test_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    code = "\n".join(b.text for b in blocks("python") if b.page == page)
    named = re.match(r'"""(\w+)\.py', code)
    name = f"{named[1] if named else 'page'}.py"
    (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", name],
        cwd=tmp_path, env=home, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_configuration_loads(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "outposts.yaml"
    file.write_text(block.text)
    if re.search(r"^orders:", block.text, re.MULTILINE):  # a workload of outpost simulate
        assert read_workload(file).workload
        return
    assert load_config(file, Plugins.load().backends).outposts


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_parses(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_every_command_and_flag_that_is_shown_exists(block: Block) -> None:
    whole = block.text.replace("\\\n", "")
    lines = [line[2:] for line in whole.splitlines() if line.startswith("$ outpost")]
    assert "$ " in block.text, "a console block shows at least one command"
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        ends = [words.index(word) for word in ("|", "||", ">", "&") if word in words]
        words = words[: min(ends, default=None)]
        context = click.Context(cli, info_name="outpost")
        command: click.Command = cli
        while words[0] in ("-v", "-vv", "--json"):  # before the command
            words.pop(0)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command, context = found, click.Context(found, parent=context)
        flags = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)} | {"--help"}
        for word in words[: words.index("--") if "--" in words else None]:
            if word.startswith("-"):
                assert word.partition("=")[0] in flags, f"{line}: no {word}"


def test_each_proof_leads_to_a_test_that_is_there() -> None:
    """The page of proofs, which the site makes, shows what these links name."""
    links = {
        (page, page.parent / path, name)
        for page in (ROOT / "docs").rglob("*.md")
        for path, name in re.findall(r"\]\(([./]+\w[\w/]+\.py)#(\w+)\)", page.read_text())
    }
    assert len(links) > 100
    lost = [
        f"{page.relative_to(ROOT)}: {path.name} {name}"
        for page, path, name in links
        if not path.exists() or not re.search(rf"\bdef {name}\(", path.read_text())
    ]
    assert lost == []


def test_references_are_what_the_code_says() -> None:
    script = ROOT / "scripts" / "docs.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
