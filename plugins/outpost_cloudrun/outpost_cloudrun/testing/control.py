"""The emulator's own address, for those who run it as a program: its knobs and its journal.

- `GET /knobs`: all that can be turned; `PATCH /knobs` with a JSON object turns some of it;
- `GET /journal?what=NAME`: what it did;
- `POST /kill?owner=NAME`: kills the containers of a service, execution or instance.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from outpost_cloudrun.testing.cloud import Cloud
from outpost_cloudrun.testing.exchanges import Reply, Request, answer
from outpost_cloudrun.testing.httpd import Server
from outpost_cloudrun.testing.knobs import Knobs

#: What is no value of JSON, and is set in code alone.
_IN_CODE: Final = frozenset(("images", "buckets"))


class Control:
    """Knobs and journal over HTTP.

    Args:
        cloud: whose.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.server = Server(self._handle)

    async def _handle(self, request: Request, reply: Reply) -> None:
        url = urlsplit(request.target)
        query = dict(parse_qsl(url.query))
        status = 200
        said: Any
        match request.method, url.path:
            case "GET", "/knobs":
                said = shown(self.cloud.knobs)
            case "PATCH", "/knobs":
                try:
                    turn(self.cloud.knobs, json.loads(request.body))
                    said = shown(self.cloud.knobs)
                except ValueError as error:
                    status, said = 400, {"error": str(error)}
            case "GET", "/journal":
                entries = self.cloud.journal.entries(query.get("what", ""))
                said = [{"at": each.at, "what": each.what, **each.about} for each in entries]
            case "POST", "/kill":
                found = [
                    each for each in self.cloud.containers.alive()
                    if each.spec.id.startswith(query.get("owner", ""))
                ]  # fmt: skip
                for each in found:
                    each.kill()
                said = {"killed": [each.spec.id for each in found]}
            case _:
                status, said = 404, {"error": "GET or PATCH /knobs, GET /journal, POST /kill"}
        body = json.dumps(said, default=str, indent=2).encode() + b"\n"
        await answer(reply, status, body, [("content-type", "application/json")])


def shown(knobs: Knobs) -> dict[str, Any]:
    """Return what can be turned, as JSON has it."""
    return {
        field.name: sorted(value) if isinstance(value, set) else value
        for field in dataclasses.fields(knobs)
        if field.name not in _IN_CODE
        for value in [getattr(knobs, field.name)]
    }


def turn(knobs: Knobs, values: Any) -> None:
    """Turn knobs; all of them, or none where a value is wrong.

    Raises:
        ValueError: there is no such knob, or its value is of another kind.
    """
    if not isinstance(values, dict):
        raise ValueError("a JSON object of knobs is needed")
    ready = {}
    kinds = {field.name: str(field.type) for field in dataclasses.fields(knobs)}
    for name, value in values.items():
        kind = kinds.get(name, "")
        if not kind or name in _IN_CODE:
            raise ValueError(f"there is no knob {name!a}")
        ready[name] = _fitting(name, kind, value)
    for name, value in ready.items():
        setattr(knobs, name, value)


def _fitting(name: str, kind: str, value: Any) -> Any:
    """Return a value as a knob of that kind holds it."""
    if value is None and "None" in kind:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("set[") and isinstance(value, list):
        return {str(each) for each in value}
    if kind.startswith("list[") and isinstance(value, list):
        return value
    if kind.startswith("float") and number:
        return float(value)
    if kind.startswith("int") and number and value == int(value):
        return int(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    raise ValueError(f"{name} is {kind}, not {value!a}")
