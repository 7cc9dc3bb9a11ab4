"""Real tools behind the fence: git, Python environments and pip, npm, sandboxes of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fencekit import NOBODY, Yard

from outpost_worker.fence import start

BACKEND = """
import os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    about = "demo_pkg-1.0.dist-info"
    with zipfile.ZipFile(os.path.join(folder, "demo_pkg-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("demo_pkg.py", "x = 'installed'")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\\nName: demo-pkg\\nVersion: 1.0\\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{about}/RECORD", "")
    return "demo_pkg-1.0-py3-none-any.whl"
"""  # noqa: E501
PIP = f"""set -e
mkdir pkg; cat > pkg/backend.py << 'END'
{BACKEND}
END
cat > pkg/pyproject.toml << 'END'
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
END
python3 -m venv env
env/bin/pip install --no-index --disable-pip-version-check ./pkg
env/bin/python -c 'import demo_pkg; print("it is", demo_pkg.x)'
"""
NPM = """set -e
mkdir tool app
echo '{"name": "tool", "version": "1.0.0", "bin": {"tool": "tool.js"}}' > tool/package.json
printf '#!/usr/bin/env node\\nconsole.log("the tool ran")\\n' > tool/tool.js; chmod +x tool/tool.js
cd app; echo '{"name": "app", "version": "1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --install-links ../tool
npx --offline tool
test -d ~/.npm/_cacache
"""
GIT = """set -e
git init -q a; cd a; echo 1 > f; git add f
git -c user.name=t -c user.email=t@t commit -qm one
git clone -q . ../b; cd ../b; git log --format=%s; git gc -q
git worktree add -q ../c; test -f ../c/f
"""


@pytest.fixture(params=[start.NAMESPACE, start.LANDLOCK])
def yard(request: pytest.FixtureRequest, open_path: Path, uid: int) -> Yard:
    return Yard(open_path, uid, request.param)


#: Large tools meet each way of a fence, and each user, once.
PAIRS = pytest.mark.parametrize(
    ("yard", "uid"), [(start.NAMESPACE, "nobody"), (start.LANDLOCK, "me")], indirect=True
)


def test_git_works(yard: Yard) -> None:
    result, log, _ = yard.run(GIT)
    assert (result["state"], log) == ("done", "one\n"), (result, log)


@PAIRS
def test_pip_builds_and_installs_into_an_environment(yard: Yard) -> None:
    result, log, _ = yard.run(PIP)
    assert result["state"] == "done", (result, log)
    assert "it is installed" in log


@PAIRS
def test_npm_installs_packs_and_runs(yard: Yard) -> None:
    result, log, _ = yard.run(NPM)
    assert result["state"] == "done", (result, log)
    assert "the tool ran" in log


def test_a_sandbox_of_its_own_can_be_made_inside(open_path: Path) -> None:
    """As by Codex or bubblewrap; an ordinary user may make user namespaces in a fence, too."""
    yard = Yard(open_path, NOBODY if os.getuid() == 0 else os.getuid(), start.NAMESPACE)
    script = """unshare -Urmp --fork sh -ec '
mount -t tmpfs none /tmp; mount -t proc proc /proc; mount --bind /usr /tmp
id -u; ls /tmp/bin/sh'"""
    result, log, _ = yard.run(script)
    assert (result["state"], log) == ("done", "0\n/tmp/bin/sh\n"), (result, log)
