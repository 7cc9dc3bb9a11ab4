"""Every reader of what an agent or another host can write, fed with anything: it never crashes.

Cheaper than `test_worker_fuzz.py`, which goes through whole folders: here it is thousands of cases.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from fuzzkit import many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outpost_agents.registry import account
from outpost_core import wire
from outpost_core.types import Result, State
from outpost_shared import plain, plausible
from outpost_worker.agents import agentout
from outpost_worker.folder import believing, claim, files, outcome, seal, status
from outpost_worker.repository import bundles, notes, refs
from outpost_worker.repository.git import Git
from outpost_worker.run.stopping import Stopping
from outpost_worker.work import checkpoint

often = settings(
    max_examples=many(250),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from([
        -1, 1e300, math.nan, math.inf, 1 << 80, "a" * 40, "done", "ok", "-f", "\ud800",
    ]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
RESULT: dict[str, Any] = outcome.result("done", "ok")
results = st.builds(
    lambda changes, usage: {**RESULT, **changes, "usage": {**RESULT["usage"], **usage}},
    st.dictionaries(st.sampled_from(sorted(RESULT)), values, max_size=3),
    st.dictionaries(st.sampled_from(sorted(RESULT["usage"])), scalars, max_size=2),
)


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "workers" / "x.1"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@often
@given(said=results)
def test_a_result_is_sound_or_broken(said):
    try:
        result = believing.result("result.json", said)
    except files.Broken:
        return
    assert result.state.terminal
    assert result.cost_usd is None or 0 <= result.cost_usd < 1e16
    for at in (result.started_at, result.finished_at):
        assert at is None or 0 <= at < 1e11
    for number in (result.usage.input_tokens, result.usage.output_tokens, result.log_bytes):
        assert number is None or number >= 0
    json.dumps(wire.to_json(result), allow_nan=False)


@often
@given(said=st.dictionaries(st.sampled_from(["state", "detail", "updated_at", "usage"]), values))
def test_a_state_is_sound_or_broken(said):
    try:
        state, detail, updated, usage = status._said(said, 1.0)
    except files.Broken:
        return
    assert state in (State.STARTING, State.WORKING, State.IDLE)
    assert isinstance(detail, str)
    assert updated is None or 0 <= updated < 1e11
    assert not plausible.odd_usage(usage)


@often
@given(said=st.dictionaries(st.sampled_from(["pid", "start", "boot", "at"]), values))
def test_a_claim_names_nobody_but_a_supervisor(said):
    assert claim.proved("/x/workers/x.1", {**said, "boot": said.get("boot")}, NOBODY) is None
    at = claim.moment(said)
    assert at is None or 0 <= at < 1e11


class _Nobody(claim.Supervisors):
    def __init__(self) -> None:
        super().__init__()
        self._found = []


NOBODY = _Nobody()


@often
@given(data=st.binary(max_size=300), name=st.sampled_from(sorted(seal.SIGNED)))
def test_nothing_is_signed_but_by_its_key(data, name):
    made = {"digest": "d", "order": "o", "launch": "l", "key": "00" * 16}
    own, other = seal.Seal(made), seal.Seal({**made, "key": "01" * 16})
    for text in (data, other.sign(name, b'{"a":1}'), own.sign("other", b'{"a":1}')):
        with pytest.raises(files.Broken):
            own.unsign(name, text)
    assert own.unsign(name, own.sign(name, b'{"a":1}')) == b'{"a":1}'


@often
@given(data=st.one_of(st.binary(max_size=300), values.map(lambda v: json.dumps(v).encode())))
def test_notes_lead_nowhere_else(tmp_path, data):
    folder = folder_of(tmp_path)
    for name in ("checkpoint", "aside.json", "unfiltered.json", refs.NOTE, "stop.json"):
        (folder / name).write_bytes(data)
    last = checkpoint._Last(str(folder))
    assert last.kept in ("", str(folder / bundles.NAME))
    assert not notes.archive(str(folder), "aside.json", ".tar")
    git = Git(str(folder))
    own = refs.OwnRef(git, git, "refs/outpost/x.1", str(folder))
    assert isinstance(own.seen, str)
    stopping = Stopping(5.0)
    stopping.look(str(folder))
    assert 0 <= stopping.grace < 1e8


@often
@given(
    about=st.dictionaries(
        st.sampled_from(["path", "ref", "seen", "tried", "grace", "holds"]), values
    )
)
def test_notes_of_any_type_lead_nowhere_else(tmp_path, about):
    folder = folder_of(tmp_path)
    for name in ("aside.json", "unfiltered.json", refs.NOTE, "stop.json"):
        (folder / name).write_text(json.dumps({**about, "ref": "refs/outpost/x.1"}))
    found = notes.archive(str(folder), "aside.json", ".tar")
    assert not found or Path(found).parent == tmp_path / "rescued"
    git = Git(str(folder))
    own = refs.OwnRef(git, git, "refs/outpost/x.1", str(folder))
    assert isinstance(own.seen, str)
    assert all(isinstance(value, str) for value in own._tried)
    stopping = Stopping(5.0)
    stopping.look(str(folder))
    assert 0 <= stopping.grace < 1e8


@often
@given(
    kind=st.sampled_from(["claude-stream-json", "codex-json", "gemini-json", "opencode-json"]),
    records=st.lists(
        st.dictionaries(
            st.sampled_from([
                "type", "subtype", "usage", "result", "session_id", "thread_id", "item", "error",
                "total_cost_usd", "is_error", "num_turns", "message", "modelUsage", "part",
                "permission_denials", "stats", "response",
            ]),
            values,
        ),
        max_size=4,
    ),
    junk=st.binary(max_size=40),
)  # fmt: skip
def test_what_an_agent_prints_is_read_or_passed_over(tmp_path, kind, records, junk):
    log = folder_of(tmp_path) / "output.log"
    types = ("result", "assistant", "turn.completed", "turn.failed", "step_finish", "system")
    lines = [
        json.dumps({"type": types[number % len(types)], **record}).encode()
        for number, record in enumerate(records)
    ]
    log.write_bytes(junk + b"\n" + b"\n".join(lines) + b"\n")
    said = agentout.read(kind, str(log), {"": (1.0, 0.1, 2.0)}, {}, 1.0)
    whole = {**RESULT, "session": said["session"], "usage": {**RESULT["usage"], **said["usage"]}}
    assert isinstance(believing.result("agent.json", whole), Result)


def test_the_kinds_of_output_are_those_that_there_are():
    for kind in ("claude-stream-json", "codex-json", "gemini-json", "opencode-json"):
        assert type(account(kind).reader) is not type(account("plain").reader)


@often
@given(data=st.binary(max_size=400), most=st.integers(0, 300))
def test_a_file_is_read_within_its_bound(tmp_path, data, most):
    (tmp_path / "file").write_bytes(data)
    at = plain.folder(str(tmp_path))
    try:
        if len(data) > most:
            with pytest.raises(files.Broken, match="has more than"):
                plain.content(at, "file", most)
        else:
            assert plain.content(at, "file", most) == data
    finally:
        os.close(at)
