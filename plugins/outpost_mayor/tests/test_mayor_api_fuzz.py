"""The API against its own OpenAPI, with requests that nobody would make (schemathesis)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from mayorapikit import Api, answering
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from outpost_mayor.api import tokens

#: Requests of each operation, of each kind and role. `OUTPOST_FUZZ=100` asks for more.
EXAMPLES = int(os.environ.get("OUTPOST_FUZZ", "3"))
#: What every answer keeps to.
KEPT = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance",
)  # fmt: skip
#: A wait is as long as it is asked to be.
SLOW = ("/v1/workers/{ref}/wait",)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with some work behind it."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with answering(folder) as found:
        put = [{"issue": f"f-{n}", "no_rig": True, "command": ["true"]} for n in range(3)]
        assert found.ask("POST", "/v1/queue", {"requests": put, "batch": "b"}).status == 200
        assert found.ask("POST", "/v1/workers", {"requests": put[:1]}).status == 200
        assert found.ask("GET", "/v1/workers/f-0/wait").status == 200
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("role", tokens.ROLES)
def test_no_request_finds_what_the_api_does_not_say(api: Api, role: str) -> None:
    load_all_checks()
    token = tokens.add(api.manager.state, role, role)
    said = {"Authorization": f"Bearer {token}"}
    url = f"http://{api.address}/openapi.json"
    schema = schemathesis.openapi.from_url(url, headers=said)
    seen: set[int] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in SLOW:
            continue
        _try(operation, GenerationMode.POSITIVE, said, seen)
        if role == "admin" and _can_be_wrong(operation):
            _try(operation, GenerationMode.NEGATIVE, said, seen)
    assert 200 in seen
    assert (403 in seen) is (role != "admin")
    assert api.ask("GET", "/healthz").json == {"status": "ok"}


def _can_be_wrong(operation: Any) -> bool:
    """Whether it takes more than words in its path, which are all as they may be."""
    raw = operation.definition.raw
    return "requestBody" in raw or any(one["in"] == "query" for one in raw.get("parameters", []))


def _try(operation: Any, mode: GenerationMode, said: dict[str, str], seen: set[int]) -> None:
    """Ask an operation again and again."""
    checks = [CHECKS.get_one(name) for name in KEPT]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        suppress_health_check=[*HealthCheck], phases=[Phase.generate],
    )  # fmt: skip
    def ask(case: Any) -> None:
        got = case.call(headers=said, timeout=60)
        seen.add(got.status_code)
        case.validate_response(got, checks=checks, headers=said)

    with suppress(Unsatisfiable):  # one that takes nothing cannot be asked wrongly
        ask()
