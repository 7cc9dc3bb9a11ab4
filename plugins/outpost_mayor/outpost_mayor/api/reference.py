"""The page that describes the API, from its own OpenAPI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from outpost_mayor.api.app import described

_HEAD: Final = """\
# The API of the mayor
`outpost serve` answers over HTTP: at a private socket, and where `--listen` says ([how to reach \
it](../guides/unattended.md#the-api)). The same is told by `GET /openapi.json`. Documents are \
those that the commands print with [`--json`](json.md); keys may be added, none changes its \
meaning. Unknown keys of a body are refused.

Lists come by pages: `limit`, and `after` with what the last row of the page before is called. \
A page with fewer rows than `limit` is the last one.

An error is the document `{"error": {"code", "type", "message", "hint"}}`, whose `code` is the \
exit code that the command would have. Its status:

| status | when |
| --- | --- |
| 400, 422 | something in the request is wrong; nothing was changed |
| 401 | no token, or nobody's |
| 403 | another role is needed, or a page of another site asks |
| 404 | no such worker, issue, outpost, or path |
| 408, 413 | the request came too slowly, or has more than 4 MiB |
| 409 | the same id is there with another order, or it is not in a state for that, or cannot do it |
| 429 | this token has as many requests, or as much in their bodies, as it may at once |
| 502 | an outpost could not be asked, or a step there failed |
| 503 | no outpost has room, or so many ask at once |
"""


def page() -> str:
    """Return the page."""
    made = described()
    parts = [_HEAD]
    for tag in made["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n{tag['description']}\n")
        for path, methods in made["paths"].items():
            for method, said in methods.items():
                if tag["name"] in said["tags"]:
                    parts += _operation(made, method, path, said)
    return "\n".join(parts)


def _operation(made: dict[str, Any], method: str, path: str, said: dict[str, Any]) -> Iterator[str]:
    yield f"### {method.upper()} {path}\n"
    role = said["x-outpost-role"]
    needs = f"Role `{role}`." if role else "Needs no token."
    yield f"{said.get('description', '')}\n\n{needs}\n"
    rows = [
        (f"`{one['name']}`", f"{one['in']}", one.get("description", ""))
        for one in said.get("parameters", [])
    ]
    body = said.get("requestBody", {}).get("content", {}).get("application/json", {})
    rows += [
        (f"`{name}`", "body", field.get("description", ""))
        for name, field in _fields(made, body.get("schema", {}))
    ]
    if rows:
        yield "| what | in | meaning |\n| --- | --- | --- |"
        for row in rows:
            yield f"| {' | '.join(row)} |"
        yield ""


def _fields(made: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the fields of a body, which may be left out whole."""
    for one in (schema, *schema.get("anyOf", [])):
        if "$ref" in one:
            found = made["components"]["schemas"][one["$ref"].rpartition("/")[2]]
            yield from found.get("properties", {}).items()
