from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outpost_core.types import Usage
from outpost_core.wire import from_json
from outpost_worker.agents import agentout

RECORDED = Path(__file__).parent / "data" / "agents"
NOTHING = agentout.read("plain", "/nonexistent")
KINDS = ("claude-stream-json", "codex-json", "gemini-json", "opencode-json")


def kind_of(file: Path) -> str:
    name = file.name.partition("-")[0]
    return "claude-stream-json" if name == "claude" else f"{name}-json"


def read(tmp_path: Path, kind: str, *lines: bytes | dict[str, Any]) -> dict[str, Any]:
    log = tmp_path / "output.log"
    log.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    )
    return agentout.read(kind, str(log))


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("claude-work", (500, 80, 100, 0.00405, 2)),
        ("codex-work", (400, 80, 100, None, None)),
        ("gemini-work", (400, 80, 100, None, None)),
        ("gemini-object", (400, 80, 100, None, None)),
        ("opencode-work", (500, 80, 100, 0.00243, 2)),
    ],
)
def test_recorded_success(name: str, usage: tuple[Any, ...]) -> None:
    file = RECORDED / f"{name}.log"
    answer = agentout.read(kind_of(file), str(file))
    assert answer["ok"] is True
    assert answer["message"] == "All done."
    assert answer["session"]
    names = ("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "turns")
    assert {name: answer["usage"][name] for name in names} == dict(zip(names, usage, strict=True))
    assert (answer["usage"]["partial"], answer["usage"]["estimated"]) == (False, False)
    assert from_json(Usage, answer["usage"]) == Usage(**answer["usage"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("claude-unauthorized", "Invalid API key"),
        ("claude-refuse", "violate our Usage Policy"),
        ("codex-unauthorized", "401 Unauthorized"),
        ("gemini-unauthorized", "API key not valid"),
        ("gemini-object-unauthorized", "API key not valid"),
        ("opencode-unauthorized", "invalid x-api-key"),
    ],
)
def test_recorded_failure(name: str, message: str) -> None:
    file = RECORDED / f"{name}.log"
    answer = agentout.read(kind_of(file), str(file))
    assert answer["ok"] is False
    assert message in answer["message"]
    assert answer["session"]


@pytest.mark.parametrize("file", sorted(RECORDED.glob("*.log")), ids=lambda file: file.stem)
def test_the_last_newline_may_be_missing_and_the_end_cut_anywhere(
    file: Path, tmp_path: Path
) -> None:
    whole = file.read_bytes()
    kind = kind_of(file)
    answer = agentout.read(kind, str(file))
    assert read(tmp_path, kind, whole.rstrip(b"\n")) == answer
    for cut in range(0, len(whole) - 2, 37):
        assert read(tmp_path, kind, whole[:cut]).keys() == answer.keys()
    # Without its last record the outcome is not known, or still the one of the step before.
    if file.stem in ("claude-work", "codex-work", "gemini-work", "gemini-object"):
        assert read(tmp_path, kind, whole.rstrip()[:-3])["ok"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_says_nothing_and_raises_nothing(kind: str, tmp_path: Path) -> None:
    rng = random.Random(7)
    corpus = b"".join(file.read_bytes() for file in sorted(RECORDED.glob("*.log")))
    assert read(tmp_path, kind, rng.randbytes(100_000)) | {"last": ""} == NOTHING
    for _ in range(150):
        spoiled = bytearray(corpus)
        for _ in range(200):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        from_json(Usage, read(tmp_path, kind, bytes(spoiled))["usage"])
    deep = b'{"type":"result","x":' + b"[" * 100_000
    assert read(tmp_path, kind, deep) == NOTHING


TYPES = (
    *("result", "system", "turn.completed", "turn.failed", "item.completed", "thread.started"),
    *("error", "step_finish", "text", "init", "message"),
)
KEYS = (
    *("subtype", "usage", "modelUsage", "item", "part", "error", "stats", "errors", "result"),
    *("session_id", "thread_id", "sessionID", "message", "num_turns", "total_cost_usd"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_records_with_values_of_the_wrong_type_raise_nothing(kind: str, tmp_path: Path) -> None:
    for value in ("null", "1", "-1", '"x"', "[]", "[[]]", "{}", '{"type":{}}', "NaN", "9" * 5000):
        for record_type in TYPES:
            fields = ",".join(f'"{key}":{value}' for key in KEYS)
            line = f'{{"type":"{record_type}",{fields}}} "text" "agent_message" "init"'
            from_json(Usage, read(tmp_path, kind, line.encode())["usage"])


def test_numbers_that_cannot_be_are_left_out(tmp_path: Path) -> None:
    line = (
        b'{"type":"result","subtype":"success","total_cost_usd":NaN,"num_turns":-3,'
        b'"usage":{"input_tokens":true,"output_tokens":1e3,"cache_read_input_tokens":7}}'
    )
    usage = read(tmp_path, "claude-stream-json", line)["usage"]
    assert usage == {
        "input_tokens": 7,
        "output_tokens": None,
        "cached_tokens": 7,
        "cost_usd": None,
        "turns": None,
        "partial": False,
        "estimated": False,
        "model": None,
    }


def test_what_is_shown_to_people_is_one_safe_line(tmp_path: Path) -> None:
    words = "first\nsecond \x1b[31mred\x07 \ud800" + " long" * 1000
    result = {"type": "result", "subtype": "success", "result": words, "session_id": "a\nb"}
    answer = read(tmp_path, "claude-stream-json", result)
    assert answer["message"].startswith("first second [31mred ? long long")
    assert len(answer["message"]) == agentout.MESSAGE_LIMIT
    assert answer["session"] == "a b"
    json.dumps(answer).encode()


def test_standard_error_in_front_of_a_record_on_its_line(tmp_path: Path) -> None:
    line = b'npm warn {x} {"type":"turn.completed","usage":{"input_tokens":3}} and more'
    assert read(tmp_path, "codex-json", line)["usage"]["input_tokens"] == 3


def test_claude_that_ran_out_of_turns_has_failed(tmp_path: Path) -> None:
    line = {"type": "result", "subtype": "error_max_turns", "is_error": False, "errors": []}
    answer = read(tmp_path, "claude-stream-json", line)
    assert (answer["ok"], answer["message"]) == (False, "error_max_turns")


def test_codex_that_got_through_after_an_error_has_not_failed(tmp_path: Path) -> None:
    trouble = {"type": "error", "message": "Reconnecting... 1/5"}
    assert read(tmp_path, "codex-json", trouble)["ok"] is None
    said = {"type": "item.completed", "item": {"type": "agent_message", "text": "Fine."}}
    answer = read(tmp_path, "codex-json", trouble, said, {"type": "turn.completed"})
    assert (answer["ok"], answer["message"]) == (True, "Fine.")


def test_the_pieces_of_geminis_last_message_are_put_together(tmp_path: Path) -> None:
    def said(text: str, role: str = "assistant") -> dict[str, Any]:
        return {"type": "message", "role": role, "content": text, "delta": True}

    parts = (said("old"), said("continue", "user"), said("It "), said("works."))
    assert read(tmp_path, "gemini-json", *parts)["message"] == "It works."


def test_a_hundred_megabytes_in_bounded_memory(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    block = b'{"type":"assistant","text":"' + b"x" * 200 + b'"}\n'
    with log.open("wb") as file:
        for _ in range(50):
            file.write(block * (1024 * 1024 // len(block)))
        for _ in range(50):
            file.write(b"y" * 1024 * 1024)  # one line of 50 MB
        file.write(b"\n")
        file.write((RECORDED / "claude-work.log").read_bytes())
    code = (
        "import resource, sys\n"
        "from outpost_worker.agents import agentout\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "answer = agentout.read('claude-stream-json', sys.argv[1])\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(answer['ok'], answer['usage']['turns'], after - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(log)], capture_output=True, text=True, check=True
    )
    ok, turns, grown = done.stdout.split()
    assert (ok, turns) == ("True", "2")
    assert int(grown) * 1024 < 8 * agentout.LINE_LIMIT


def test_the_standard_library_is_enough() -> None:
    code = "import sys; from outpost_worker.agents import agentout; print('pluggy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
