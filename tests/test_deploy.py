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
TERRAFORM = ROOT / "deploy" / "terraform"
VM, CLOUDRUN = TERRAFORM / "gce-vm", TERRAFORM / "cloudrun"
FILES = sorted(TERRAFORM.glob("*/*.tf"))
each_module = pytest.mark.parametrize("module", [VM, CLOUDRUN], ids=lambda path: path.name)
#: shellcheck comes with the development packages
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
SCRIPTS = sorted((ROOT / "deploy").rglob("*.sh"))


def text(module: Path = VM) -> str:
    """All of a module, without comments."""
    files = "\n".join(file.read_text() for file in sorted(module.glob("*.tf")))
    return re.sub(r"^\s*#.*$", "", files, flags=re.MULTILINE)


def blocks(kind: str, module: Path = VM) -> list[dict[str, Any]]:
    found = []
    for file in sorted(module.glob("*.tf")):
        with file.open() as stream:
            found += hcl2.load(stream).get(kind, [])
    return found


def names(kind: str, module: Path = VM) -> set[str]:
    return {name.strip('"') for block in blocks(kind, module) for name in block}


@pytest.fixture(scope="session")
def hclfmt() -> str:
    done = subprocess.run(
        [ROOT / ".ci" / "install-hclfmt"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingError(f".ci/install-hclfmt: {done.stderr.strip()[-300:]}")
    return str(Path(done.stdout.strip()) / "hclfmt")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_file_is_formatted_and_its_syntax_is_right(file: Path, hclfmt: str) -> None:
    checked = subprocess.run([hclfmt, "-check", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    done = subprocess.run([hclfmt, file], capture_output=True, text=True, check=True)
    assert done.stdout == file.read_text()


@each_module
def test_every_variable_is_described_typed_and_used(module: Path) -> None:
    for block in blocks("variable", module):
        for name, about in block.items():
            assert about.get("description"), name
            assert about.get("type"), name
    used = set(re.findall(r"\bvar\.(\w+)", text(module)))
    assert used == names("variable", module)


@each_module
def test_every_local_and_resource_that_is_named_exists(module: Path) -> None:
    (local,) = blocks("locals", module)
    declared = {name for name in local if not name.startswith("__")}
    assert set(re.findall(r"\blocal\.(\w+)", text(module))) == declared
    resources = {
        (kind.strip('"'), name.strip('"'))
        for block in blocks("resource", module)
        for kind, named in block.items()
        for name in named
        if not name.startswith("__")
    }
    assert resources
    assert set(re.findall(r"(?<!\")\b(google_\w+)\.(\w+)\b", text(module))) <= resources


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


@each_module
def test_no_state_and_no_values_can_be_committed(module: Path) -> None:
    ignored = (module / ".gitignore").read_text()
    for name in ("*.tfstate", "*.tfvars", ".terraform/"):
        assert name in ignored
    assert not [*module.glob("*.tfstate*"), *module.glob("*.tfvars")]


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


@each_module
def test_the_readme_names_every_variable(module: Path) -> None:
    readme = (module / "README.md").read_text()
    for name in names("variable", module):
        assert f"`{name}`" in readme, name


# --- Cloud Run --------------------------------------------------------------------------------


def test_nobody_may_start_workers_by_default() -> None:
    said = text(CLOUDRUN)
    (about,) = [
        block[name] for block in blocks("variable", CLOUDRUN) for name in block
        if name.strip('"') == "invokers"
    ]  # fmt: skip
    assert "default" not in about
    assert not re.search(r'"all(Users|AuthenticatedUsers)"', said)
    assert "(user|group|serviceAccount):" in said
    assert re.search(r'public_access_prevention\s+= "enforced"', said)
    assert re.search(r"uniform_bucket_level_access\s+= true", said)


def test_containers_act_as_an_account_without_a_role_in_the_project() -> None:
    said = text(CLOUDRUN)
    (projects,) = re.findall(r'resource "google_project_iam_member".*?\n}', said, re.DOTALL)
    assert "local.worker" not in projects
    assert "var.deployers" in projects
    roles = set(re.findall(r'role\s+= "(\S+)"', said))
    assert roles == {
        "roles/iam.serviceAccountUser", "roles/run.developer", "roles/run.invoker",
        "roles/secretmanager.secretAccessor", "roles/storage.objectUser",
    }  # fmt: skip


def test_no_value_of_a_secret_is_in_the_module() -> None:
    assert "google_secret_manager_secret_version" not in text(CLOUDRUN)


def test_the_service_is_one_that_outpost_can_use() -> None:
    from outpost_cloudrun.admin import specs

    said = text(CLOUDRUN)
    assert re.search(rf'name\s+= "h2c"\s+container_port = {specs.PORT}', said)
    assert re.search(r'timeout\s+= "3600s"', said)
    assert re.search(r"session_affinity\s+= true", said)
    assert '"EXECUTION_ENVIRONMENT_GEN2"' in said
    assert "ignore_changes" in said


def test_the_command_that_it_prints_is_one_that_outpost_takes() -> None:
    from outpost_cloudrun.options import CloudRunOptions

    said = (CLOUDRUN / "outputs.tf").read_text()
    assert "outpost add cloudrun burst" in said
    flags = re.findall(r'^\s+"(--[a-z-]+)', said, re.MULTILINE)
    assert len(flags) >= 9
    for flag in flags:
        assert flag.removeprefix("--").replace("-", "_") in CloudRunOptions.__dataclass_fields__
    CloudRunOptions(
        project="my-gcp-project", region="us-central1", service="outpost-worker",
        image="us-central1-docker.pkg.dev/my-gcp-project/outpost-worker/worker:1",
        service_account="outpost-worker@my-gcp-project.iam.gserviceaccount.com",
        bucket="my-gcp-project-outpost-worker", cpu=2, memory=4 << 30, max_workers=20,
        secrets={"ANTHROPIC_API_KEY": "projects/my-gcp-project/secrets/anthropic-key:latest"},
    )  # fmt: skip
