"""A model server of our own on loopback, so that the real agents can be run without a model.

It speaks the two protocols that Claude Code (`POST /v1/messages`) and Codex (`POST
/v1/responses`) use, as server-sent events. Its script: asked for the first time, it lets the
agent run one shell command; shown the command's output, it ends the turn with a sentence.

Example::

    with StubModel(command="echo hello >hello.txt") as model:
        subprocess.run(claude, env={**env, **model.claude_env()})
    assert model.requests[0].path == "/v1/messages"
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

#: What one answer of the model is said to have used.
INPUT_TOKENS = 200
OUTPUT_TOKENS = 40
CACHED_TOKENS = 50

#: When the limits are over, in seconds since the epoch, where a test says nothing else.
RESETS_AT = 4102444800

#: The key that `claude_env` and `codex_env` give to the agent.
API_KEY = "stub-key-not-a-secret"

_Event = tuple[str, dict[str, Any]]


class Mode(StrEnum):
    """What the model does."""

    WORK = "work"  #: one shell command, then the final sentence
    TALK = "talk"  #: the final sentence at once; nothing is changed
    REFUSE = "refuse"  #: the model refuses (Anthropic: stop reason; OpenAI: a failed response)
    UNAUTHORIZED = "unauthorized"  #: HTTP 401 to everything
    BROKEN = "broken"  #: HTTP 500 to everything
    RATE_LIMITED = "rate limited"  #: HTTP 429 to everything, with the moment when that is over
    USAGE_LIMIT = "usage limit"  #: HTTP 429 to everything, as a subscription has it
    OVERLOADED = "overloaded"  #: HTTP 529 to everything
    HANG = "hang"  #: as WORK, but the final sentence waits for `release()`


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came: path without its query, headers in lower case, parsed body."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class StubModel:
    """The server; a context manager that listens on a free port of an address of this machine.

    Args:
        mode: what it does.
        command: the shell command that the agent is asked to run.
        answer: the sentence that ends the turn.
        address: what it listens at, if not at loopback, for agents that are not of this machine.
    """

    def __init__(
        self,
        mode: Mode = Mode.WORK,
        *,
        command: str = "true",
        answer: str = "All done.",
        address: str = "127.0.0.1",
    ) -> None:
        self.mode = mode
        self.command = command
        self.answer = answer
        self.requests: list[Request] = []
        #: when a limit is over, in seconds since the epoch
        self.resets_at = RESETS_AT
        self._hanging = threading.Event()
        self._released = threading.Event()
        self._server = _Server((address, 0), _Handler)
        self._server.model = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The server's address, without a path."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def wait_hanging(self, timeout: float) -> bool:
        """Wait until a hanging model was shown the command's output.

        Args:
            timeout: seconds after which the answer is False.
        """
        return self._hanging.wait(timeout)

    def release(self) -> None:
        """Let a hanging model answer."""
        self._released.set()

    def claude_env(self, home: Path) -> dict[str, str]:
        """Return variables that bind Claude Code to this server and to `home`, and to no other.

        Args:
            home: an empty folder for its configuration.
        """
        return {
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / ".claude"),
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": API_KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
        }

    def codex_env(self, home: Path) -> dict[str, str]:
        """Return variables that bind Codex to this server, and write its configuration.

        Args:
            home: an empty folder for its configuration.
        """
        codex = home / ".codex"
        codex.mkdir(mode=0o700, parents=True, exist_ok=True)
        (codex / "config.toml").write_text(_CODEX_CONFIG.format(url=self.url))
        return {"HOME": str(home), "CODEX_HOME": str(codex), "OPENAI_API_KEY": API_KEY}

    # --- the script ---------------------------------------------------------------------------

    def take(self, request: Request) -> tuple[int, list[_Event] | dict[str, Any]]:
        """Record a request and return the HTTP status with events to stream, or a JSON body."""
        self.requests.append(request)
        if self.mode is Mode.UNAUTHORIZED:
            return 401, _error("authentication_error", "invalid x-api-key")
        if self.mode is Mode.BROKEN:
            return 500, _error("api_error", "the stub is broken on purpose")
        if self.mode is Mode.RATE_LIMITED:
            return 429, _error("rate_limit_error", "This request would exceed your rate limit.")
        if self.mode is Mode.USAGE_LIMIT:
            error = _error("usage_limit_reached", "The usage limit has been reached")
            error["error"] |= {"plan_type": "plus", "resets_at": self.resets_at}
            return 429, error
        if self.mode is Mode.OVERLOADED:
            return 529, _error("overloaded_error", "Overloaded")
        if request.path == "/v1/messages":
            return 200, list(self._anthropic(request.body))
        if request.path == "/v1/responses":
            return 200, list(self._openai(request.body))
        if request.path == "/v1/messages/count_tokens":
            return 200, {"input_tokens": INPUT_TOKENS}
        return 404, _error("not_found_error", f"the stub does not know {request.path}")

    @property
    def _works(self) -> bool:
        return self.mode in (Mode.WORK, Mode.HANG)

    def _hang(self) -> None:
        if self.mode is Mode.HANG:
            self._hanging.set()
            self._released.wait()

    def _anthropic(self, body: dict[str, Any]) -> Iterator[_Event]:
        tools = {tool.get("name") for tool in body.get("tools", ())}
        content = body["messages"][-1]["content"]
        blocks = content if isinstance(content, list) else []
        shown = any(block.get("type") == "tool_result" for block in blocks)
        if shown:
            self._hang()
        block: dict[str, Any] = {"type": "text", "text": ""}
        delta, stop = {"type": "text_delta", "text": self.answer}, "end_turn"
        if self._works and "Bash" in tools and not shown:
            # an id of its own, also in a session that continues
            number = f"toolu_{len(self.requests)}"
            block = {"type": "tool_use", "id": number, "name": "Bash", "input": {}}
            arguments = json.dumps({"command": self.command, "description": "Do the work"})
            delta, stop = {"type": "input_json_delta", "partial_json": arguments}, "tool_use"
        if self.mode is Mode.REFUSE:
            stop = "refusal"
        message = {
            "id": f"msg_{len(self.requests)}", "type": "message", "role": "assistant",
            "model": body["model"], "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": {
                "input_tokens": INPUT_TOKENS, "output_tokens": 1,
                "cache_read_input_tokens": CACHED_TOKENS, "cache_creation_input_tokens": 0,
            },
        }  # fmt: skip
        for name, data in (
            ("message_start", {"message": message}),
            ("content_block_start", {"index": 0, "content_block": block}),
            ("content_block_delta", {"index": 0, "delta": delta}),
            ("content_block_stop", {"index": 0}),
            (
                "message_delta",
                {
                    "delta": {"stop_reason": stop, "stop_sequence": None},
                    "usage": {"output_tokens": OUTPUT_TOKENS},
                },
            ),
            ("message_stop", {}),
        ):
            yield name, {"type": name, **data}

    def _openai(self, body: dict[str, Any]) -> Iterator[_Event]:
        response = {"id": f"resp_{len(self.requests)}"}
        yield "response.created", {"type": "response.created", "response": response}
        if self.mode is Mode.REFUSE:
            error = {"code": "invalid_prompt", "message": "The model refuses."}
            failed = {**response, "status": "failed", "error": error}
            yield "response.failed", {"type": "response.failed", "response": failed}
            return
        said = [n for n, item in enumerate(body["input"]) if item.get("role") == "user"]
        since = body["input"][said[-1] if said else 0 :]  # earlier ones are of turns before
        shown = any(item.get("type") == "function_call_output" for item in since)
        if shown:
            self._hang()
        item: dict[str, Any]
        if self._works and not shown:
            arguments = json.dumps({"cmd": self.command})
            item = {"type": "function_call", "name": "exec_command", "arguments": arguments}
            number = str(len(self.requests))
            item |= {"id": f"fc_{number}", "call_id": f"call_{number}"}
        else:
            content = [{"type": "output_text", "text": self.answer}]
            item = {"type": "message", "id": "msg_1", "role": "assistant", "content": content}
        done = "response.output_item.done"
        yield done, {"type": done, "output_index": 0, "item": item}
        usage = {
            "input_tokens": INPUT_TOKENS, "input_tokens_details": {"cached_tokens": CACHED_TOKENS},
            "output_tokens": OUTPUT_TOKENS, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
        }  # fmt: skip
        completed = {"type": "response.completed", "response": {**response, "usage": usage}}
        yield "response.completed", completed


_CODEX_CONFIG = """\
model = "stub-model"
model_provider = "stub"
check_for_update_on_startup = false

[analytics]
enabled = false

# They are fetched from GitHub at every start.
[features]
plugins = false

[model_providers.stub]
name = "stub"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
request_max_retries = 0
stream_max_retries = 0
"""


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    model: StubModel

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet: an agent that was killed hangs up in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            body = json.loads(data) if data else None
        except ValueError:  # compressed, or not JSON at all
            body = None
        request = Request(
            method=method, path=self.path.partition("?")[0], headers=headers, body=body
        )
        status, answer = self.server.model.take(request)
        if isinstance(answer, dict):
            kind, text = "application/json", json.dumps(answer)
        else:
            kind = "text/event-stream"
            text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in answer)
        payload = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        if status == 429:  # as a subscription has it, and as everybody else has it
            self.send_header("anthropic-ratelimit-unified-status", "rejected")
            self.send_header("anthropic-ratelimit-unified-reset", str(self.server.model.resets_at))
            self.send_header("anthropic-ratelimit-unified-representative-claim", "five_hour")
            self.send_header("retry-after", "3600")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(payload)
