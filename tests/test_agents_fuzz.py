"""Records of agents of every shape: nothing raises, and what an agent used stays a number."""

from __future__ import annotations

import inspect
import json
import math
import re
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fuzzkit import Odd, cases, deep, seeds
from hypothesis import given

from outpost_agents.registry import BUILT_IN, account
from outpost_manager.cli.readable import Readable
from outpost_shared.harmless import UNSEEN
from outpost_worker.agents.following import Watch

NUMBERS = ("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "turns")
PRICES = {"": (1.0, 0.1, 5.0), "gpt": (3.0, 0.3, 9.0)}


@lru_cache
def words_of(kind: str) -> tuple[list[str], list[str]]:
    """Return the keys and the values that a reader looks for, out of its own source."""
    source = inspect.getsource(import_module(BUILT_IN[kind].partition(":")[0]))
    keys = sorted({*re.findall(r'get\("(\w+)"', source), "type", "id", "model", "text"})
    said = sorted({*re.findall(r'"([\w.]{3,24})"', source)})
    return keys, said


ODD_LINES = [
    b"", b"{", b'{"type"', b'{"type":"result"' + b"[" * 5000, b"\xff\xfe{", b"NaN",
    b'{"type":"result","total_cost_usd":NaN,"num_turns":Infinity}',
    b'{"type":"result","total_cost_usd":-5,"usage":{"input_tokens":-7}}',
    b'{"type":"result","num_turns":1' + b"0" * 5000 + b"}",
    b'{"type":"assistant","message":{"content":' + b"[" * 900 + b"]" * 900 + b"}}",
]  # fmt: skip


def lines_of(kind: str, seed: int) -> list[bytes]:
    """Return some lines of output: records that look like an agent's, and such as do not."""
    keys, said = words_of(kind)
    odd = Odd(seed, keys)
    types = [*said, "result", "assistant", "item.completed", "step_finish", "message"]
    lines = []
    for _ in range(1 + odd.random.randrange(8)):
        if not odd.random.randrange(6):
            lines.append(odd.random.choice(ODD_LINES))
            continue
        record = odd.object(
            type=odd.random.choice(types), subtype=odd.random.choice(types),
            message=odd.object(), item=odd.object(type=odd.random.choice(types)),
            part=odd.object(), usage=odd.object(),
        )  # fmt: skip
        lines.append(json.dumps(record).encode())
    return lines


def sound(usage: dict[str, Any] | None) -> None:
    for name in NUMBERS:
        value = (usage or {}).get(name)
        assert value is None or (math.isfinite(value) and 0 <= value <= 1e15), (name, value)


@pytest.mark.parametrize("kind", [*BUILT_IN])
def test_no_record_ends_the_reading_and_usage_only_grows(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "output.log"

    @cases(500)
    @given(seed=seeds)
    def holds(seed: int) -> None:
        lines, cut = lines_of(kind, seed), 1 + seed % 97
        watch = Watch(account(kind, PRICES, {"HOME": str(tmp_path)}), {"max_agent_cost_usd": 5.0})
        whole = b"\n".join(lines) + b"\n"
        before: dict[str, Any] = {}
        for at in range(0, len(whole), cut * 50):
            watch.feed(whole[at : at + cut * 50])
            watch.news()
            watch.due()
            sound(watch.shown)
            if watch.shown is not None and watch.shown["partial"]:
                for name in NUMBERS:
                    assert (watch.shown[name] or 0) >= (before.get(name) or 0)
            before = watch.shown or before
        log.write_bytes(whole)
        answer = watch.close(str(log))
        sound(answer["usage"])
        json.dumps(answer)
        assert all(len(text) <= 2000 for text in answer.values() if isinstance(text, str))

    holds()


@pytest.mark.parametrize("kind", [*BUILT_IN])
def test_no_record_ends_the_telling_or_reaches_a_terminal_raw(kind: str) -> None:
    @cases(400)
    @given(seed=seeds)
    def holds(seed: int) -> None:
        told = Readable(kind).feed(b"\n".join(lines_of(kind, seed)) + b"\n", final=True)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
        assert not {c for c in plain if not c.isprintable() and c not in "\r\n\t"} | (
            {*plain} & UNSEEN
        )

    holds()


def test_a_defect_is_noted_and_the_next_record_is_read() -> None:
    found = account("claude-stream-json")
    watch = Watch(found, {})
    see = found.see

    def breaks(record: dict[str, Any]) -> None:
        if record.get("subtype") == "odd":
            raise RecursionError("too deep")
        see(record)

    found.see = breaks  # type: ignore[method-assign]
    watch.feed(b'{"type":"result","subtype":"odd"}\n')
    watch.feed(b'{"type":"result","subtype":"success","num_turns":3,"total_cost_usd":0.5}\n')
    assert isinstance(watch.defect, RecursionError)
    assert watch.news()
    assert watch.shown is not None
    assert (watch.shown["turns"], watch.shown["cost_usd"]) == (3, 0.5)


def test_a_later_word_does_not_unsay_what_was_spent() -> None:
    watch = Watch(account("claude-stream-json"), {"max_agent_cost_usd": 2.0})
    watch.feed(b'{"type":"result","subtype":"success","num_turns":3,"total_cost_usd":2.5}\n')
    watch.feed(b'{"type":"result","subtype":"success","num_turns":1,"total_cost_usd":0}\n')
    watch.feed(b'{"type":"assistant","message":{"id":"m"}}\n')  # it continues
    watch.news()
    assert watch.shown is not None
    assert (watch.shown["turns"], watch.shown["cost_usd"]) == (3, 2.5)
    assert ("budget_reached" in {what for _, what in watch.due()}) is True


def test_a_line_of_ten_megabytes_costs_no_memory_and_hides_nothing(tmp_path: Path) -> None:
    watch = Watch(account("codex-json"), {})
    for _ in range(10):
        watch.feed(b'{"type":"item.completed","item":"' + b"x" * (1 << 20))
    assert len(watch._follower._rest) <= 5 << 20
    watch.feed(b'"}\n{"type":"thread.started","thread_id":"abcdefgh-1"}\n')
    assert watch.close(str(tmp_path / "none"))["session"] == "abcdefgh-1"


def test_deep_values_are_no_trouble() -> None:
    watch = Watch(account("claude-stream-json"), {})
    content = [{"type": "tool_use", "input": deep(300)}]
    record = {"type": "assistant", "message": {"usage": {"input_tokens": 1}, "content": content}}
    watch.feed(json.dumps(record).encode() + b"\n")
    watch.news()
    assert watch.shown is not None
    assert watch.shown["input_tokens"] == 1
