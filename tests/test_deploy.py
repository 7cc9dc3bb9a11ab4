"""`deploy/`: formatted, parsed, consistent in itself, and safe, as far as no provider is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest
from peers import MissingError

ROOT = Path(__file__).resolve().parent.parent
VM = ROOT / "deploy" / "terraform" / "gce-vm"
FILES = sorted(VM.glob("*.tf"))
#: shellcheck comes with the development packages
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
SCRIPTS = sorted((ROOT / "deploy").rglob("*.sh"))


def text() -> str:
    """All of the module, without comments."""
    return re.sub(r"^\s*#.*$", "", "\n".join(f.read_text() for f in FILES), flags=re.MULTILINE)


def blocks(kind: str) -> list[dict[str, Any]]:
    found = []
    for file in FILES:
        with file.open() as stream:
            found += hcl2.load(stream).get(kind, [])
    return found


def names(kind: str) -> set[str]:
    return {name.strip('"') for block in blocks(kind) for name in block}


@pytest.fixture(scope="session")
def hclfmt() -> str:
    done = subprocess.run(
        [ROOT / ".ci" / "install-hclfmt"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingError(f".ci/install-hclfmt: {done.stderr.strip()[-300:]}")
    return str(Path(done.stdout.strip()) / "hclfmt")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_a_file_is_formatted_and_its_syntax_is_right(file: Path, hclfmt: str) -> None:
    checked = subprocess.run([hclfmt, "-check", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    done = subprocess.run([hclfmt, file], capture_output=True, text=True, check=True)
    assert done.stdout == file.read_text()


def test_every_variable_is_described_typed_and_used() -> None:
    for block in blocks("variable"):
        for name, about in block.items():
            assert about.get("description"), name
            assert about.get("type"), name
    used = set(re.findall(r"\bvar\.(\w+)", text()))
    assert used == names("variable")


def test_every_local_and_resource_that_is_named_exists() -> None:
    (local,) = blocks("locals")
    declared = {name for name in local if not name.startswith("__")}
    assert set(re.findall(r"\blocal\.(\w+)", text())) == declared
    resources = {
        (kind.strip('"'), name.strip('"'))
        for block in blocks("resource")
        for kind, named in block.items()
        for name in named
        if not name.startswith("__")
    }
    assert resources
    assert set(re.findall(r"(?<!\")\b(google_\w+)\.(\w+)\.", text())) <= resources


def test_nobody_is_let_in_by_default() -> None:
    (cidrs,) = [b for b in blocks("variable") if '"allowed_cidrs"' in b or "allowed_cidrs" in b]
    (about,) = cidrs.values()
    assert "default" not in about
    assert "0.0.0.0/0" not in text()
    assert 'endswith(cidr, "/0")' in text()


def test_the_machine_has_no_rights_and_no_other_keys() -> None:
    said = text()
    assert "service_account" not in said
    assert re.search(r'enable-oslogin\s+= "FALSE"', said)
    assert re.search(r'block-project-ssh-keys\s+= "TRUE"', said)
    for switch in ("enable_secure_boot", "enable_vtpm", "enable_integrity_monitoring"):
        assert re.search(rf"{switch}\s+= true", said)
    assert "private" not in re.sub(r"description.*", "", said)


def test_the_output_is_a_command_that_there_is() -> None:
    said = (VM / "outputs.tf").read_text()
    assert "outpost add ssh" in said
    from outpost_ssh.options import SshOptions

    for flag in re.findall(r'^\s+"(--host|--user|--host-key)\b', said, re.MULTILINE):
        assert flag.removeprefix("--").replace("-", "_") in SshOptions.__dataclass_fields__


def test_no_state_and_no_values_can_be_committed() -> None:
    ignored = (VM / ".gitignore").read_text()
    for name in ("*.tfstate", "*.tfvars", ".terraform/"):
        assert name in ignored
    assert not [*VM.glob("*.tfstate*"), *VM.glob("*.tfvars")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_a_script_is_clean_for_every_posix_shell(script: Path) -> None:
    for check in (["dash", "-n"], ["busybox", "sh", "-n"], ["shellcheck"]):
        program = shutil.which(check[0], path=PATH)
        if program is None:
            raise MissingError(f"{check[0]} is missing: scripts/setup test installs it")
        done = subprocess.run(
            [program, *check[1:], script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_names_every_variable() -> None:
    readme = (VM / "README.md").read_text()
    for name in names("variable"):
        assert f"`{name}`" in readme, name
