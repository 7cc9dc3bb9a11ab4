"""A reader that another package brings is code: only what was sealed with the worker runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import acmeagent
import pytest

from outpost_agents import registry
from outpost_core.errors import SpawnRefusedError
from outpost_core.types import State
from outpost_worker.folder import files, publish
from outpost_worker.recovery import recover

KIND = "acme-json"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the package of the guide for this process."""
    site = tmp_path / "site"
    acmeagent.install(site, tmp_path / "bin")
    monkeypatch.syspath_prepend(str(site))
    for found in (registry._declared, registry.travelling):
        found.cache_clear()
    yield site
    for found in (registry._declared, registry.travelling):
        found.cache_clear()


def begun(far, site: Path, then: str = "sleep 300") -> Path:
    """Return the folder of a worker that has said what it used and works on."""
    script = (site.parent / "bin" / "acme").read_text().replace('echo \'{"type": "end"}\'', then)
    folder = far.publish(far.shell(script, output=KIND))
    running = far.start(folder)
    log = folder / files.LOG
    far.wait(lambda: log.exists() and log.read_bytes().count(b'"step"') == 2)
    far.kill(running)
    return folder


def test_what_it_used_is_read_by_a_recovery_after_the_package_is_gone(far, site: Path) -> None:
    folder = begun(far, site)
    for path in site.glob("*.py"):
        path.unlink()
    result = recover.recover(folder)
    assert (result.state, result.session) == (State.LOST, "s-42")
    assert (result.usage.input_tokens, result.usage.cost_usd) == (1500, 0.03)
    assert result.usage.partial


def planted(folder: Path, ran: Path) -> None:
    """Put another reader into a worker's launch, as an agent without a fence could."""
    launched = json.loads((folder / files.LAUNCH).read_text())
    launched["reader"]["text"] = f"open({str(ran)!r}, 'w')\n"
    (folder / files.LAUNCH).write_text(json.dumps(launched))


def test_a_reader_that_was_put_there_later_is_not_run(far, site: Path, tmp_path: Path) -> None:
    folder, ran = begun(far, site), tmp_path / "ran"
    planted(folder, ran)
    result = recover.recover(folder)
    assert (result.state, result.reason) == (State.LOST, "broken")
    assert not ran.exists()


def test_a_worker_without_a_seal_has_no_reader(far, site: Path, tmp_path: Path) -> None:
    folder, ran = begun(far, site), tmp_path / "ran"
    planted(folder, ran)
    far.unseal()
    recover.recover(folder)
    assert not ran.exists()


def test_an_order_whose_output_nobody_reads_is_refused_before_anything_is_made(far) -> None:
    with pytest.raises(SpawnRefusedError, match="reads the output 'no-such-output'"):
        far.publish(far.shell("true", output="no-such-output"))
    assert not [*(far.root / files.WORKERS).glob("*")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("Acme = 5\n", "no outpost_agents.Reader"),
        ("", "has no attribute 'Acme'"),
        ("raise SystemExit(3)\n", "SystemExit"),
        ("#" * (registry.LARGEST + 1), "more than 256 KiB"),
    ],
)
def test_a_reader_that_is_none_is_refused_and_named(far, site: Path, text: str, said: str) -> None:
    (site / "acme_reader.py").write_text(text)
    with pytest.raises(SpawnRefusedError, match="acme_reader:Acme cannot be used") as caught:
        far.publish(far.shell("true", output=KIND))
    assert said in str(caught.value)


@pytest.mark.parametrize("raised", ["KeyError(1)", "SystemExit(1)"])
def test_one_that_fails_at_work_costs_its_line_and_never_the_work(
    far, site: Path, raised: str
) -> None:
    path = site / "acme_reader.py"
    path.write_text(path.read_text().replace('yield Said(line.get("text"))', f"raise {raised}"))
    folder, result = far.run(far.shell((site.parent / "bin" / "acme").read_text(), output=KIND))
    assert (result.state, result.usage.input_tokens) == (State.DONE, 1500)
    assert raised[:8] in (folder / files.DEBUG).read_text()


def test_a_module_of_a_package_is_found_without_importing_the_package(
    far, site: Path, tmp_path: Path
) -> None:
    package = site / "acme"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (site / "acme_reader.py").rename(package / "reader.py")
    points = site / "acme_agent-1.0.dist-info" / "entry_points.txt"
    points.write_text(f"[{registry.GROUP}]\n{KIND} = acme.reader:Acme\n")
    _, result = far.run(far.shell((tmp_path / "bin" / "acme").read_text(), output=KIND))
    assert result.usage.input_tokens == 1500
    assert "acme" not in sys.modules


def test_publishing_an_order_with_an_agent_of_ours_searches_nothing(far, monkeypatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda: pytest.fail("it was searched"))
    for output in ("plain", *registry.BUILT_IN):
        folder = far.publish(far.shell("true", output=output))
        assert "reader" not in json.loads((folder / files.LAUNCH).read_text())
    assert publish.command(folder)


def test_of_two_readers_of_one_output_one_is_used_and_the_other_named(far, site: Path) -> None:
    more = f"{KIND} = other:Reader\ncodex-json = other:Codex\n"
    other = site / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{more}")
    assert registry.installed()[KIND] == "acme_reader:Acme"
    assert "codex-json" not in registry.installed()
    assert registry.passed_over() == [
        f"other:Reader is not used: acme_reader:Acme reads {KIND!r} already",
        "other:Codex is not used: Outpost itself reads 'codex-json' already",
    ]
