"""What `outpost_core` gives to authors of plugins: exactly this, described, cheap to import."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import outpost_core
from outpost_core import hookspecs

#: Taking a name out of here breaks somebody's plugin.
EXPORTED = """
API_VERSION Agent AgentPreset Assignment Backend BuildContext Candidate Cleaned ConfigError
ConflictError Delivery Dialogue Event Explanation Facts Finding Health Issue Json LedgerError Limits
Message NotFoundError Order Outpost OutpostError OutpostOptions PlacementError PluginError REASONS
Result Scale Secrets SpawnRefusedError State Step UnreachableError UnsupportedError Usage UsageError
Verdict Worker WorkerError WorkerStatus digest hookimpl option split_worker_id worker_id
""".split()  # noqa: SIM905 - a list of fifty lines hides what changes
GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def test_the_exported_names_are_these() -> None:
    assert sorted(outpost_core.__all__) == EXPORTED
    assert dir(outpost_core) == EXPORTED
    for name in EXPORTED:
        assert getattr(outpost_core, name) is not None


@pytest.mark.parametrize("name", EXPORTED)
def test_each_is_described(name: str) -> None:
    value = getattr(outpost_core, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)
        assert name in pydoc.render_doc(outpost_core, renderer=pydoc.plaintext)


def test_every_type_that_a_hook_speaks_of_is_exported() -> None:
    for name, hook in vars(hookspecs).items():
        if name.startswith("outpost_"):
            said = " ".join(str(each) for each in inspect.get_annotations(hook).values())
            words = set(re.findall(r"\b[A-Z]\w+", said))
            own = words - {
                "Mapping",
                "Callable",
                "Sequence",
                "AsyncIterator",
                "None",
                "Command",
                "Awaitable",
            }
            assert own <= {*EXPORTED}, (name, own)


def test_importing_it_costs_nothing() -> None:
    code = (
        "import sys, __future__; a = {*sys.modules}; import outpost_core; print({*sys.modules} - a)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'outpost_core'}"


@pytest.mark.parametrize("page", sorted(GUIDES.glob("*.md")), ids=lambda page: page.stem)
def test_guides_import_what_is_for_authors_alone(page: Path) -> None:
    """Of the core its one import; of other packages what their guide is about."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert not re.findall(r"^\s*(?:from|import) (outpost_core\.\w+)", block, re.MULTILINE)
