"""The ways by which somebody is told: a program, an HTTP request, a topic, a desktop.

Nothing that is told reaches a shell, a header or markup: it is JSON on standard input or in a body,
or a whole argument. A redirection is not followed, since it could lead what is told, and its
signature, to anybody.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import html
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from outpost_core import __version__
from outpost_core.errors import OutpostError, UsageError
from outpost_manager.config.accounts import is_reference
from outpost_manager.config.notify import Way, url_mistake
from outpost_manager.placing.purse import read_secret
from outpost_manager.workthread import WorkThread
from outpost_shared import children, programs
from outpost_shared.harmless import clean

if TYPE_CHECKING:
    from outpost_core.types import Json
    from outpost_manager.config.notify import NotifyConfig

#: Bytes of an answer that are read, and characters of it that are shown.
_ANSWER: Final = 4096
_SHOWN: Final = 200
#: Seconds for what a program that failed has written to be read.
_LAST_WORDS: Final = 1.0
#: What a server says of what is gone for good.
_GONE: Final = 410
#: What a program needs to reach the desktop; secrets of the mayor's environment reach none.
_DISPLAY: Final = ("DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR")
#: Shows a notification on macOS; what is said comes as arguments, not as text of the program.
_OSASCRIPT: Final = (
    "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
)


class NotToldError(OutpostError):
    """A target could not be told.

    Args:
        message: why, without anything secret.
        final: it is not tried again.
    """

    def __init__(self, message: str, *, final: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.final = final


async def send(target: NotifyConfig, said: Mapping[str, Json], environ: Mapping[str, str]) -> None:
    """Tell a target something, once.

    Args:
        target: whom, and how.
        said: what; `telling.body` makes it.
        environ: where references to secrets lead.

    Raises:
        NotToldError: it does not have it, or nobody can say.
    """
    try:
        async with asyncio.timeout(target.timeout + 1.0):
            if target.to is Way.COMMAND:
                await _run([*target.command], _json(said), target.timeout)
            elif target.to is Way.DESKTOP:
                await _run(_desktop(said), b"", target.timeout)
            else:
                request = _request(target, said, environ)
                await _post(request, target.timeout)
    except TimeoutError:
        raise NotToldError(f"it did not answer within {target.timeout:g} s") from None
    except UsageError as error:  # a secret is missing: it may be there later
        raise NotToldError(error.message, hint=error.hint) from None


def _json(said: Any) -> bytes:
    return json.dumps(said, ensure_ascii=True).encode("ascii")


# --- programs ---------------------------------------------------------------------------------


async def _run(argv: list[str], data: bytes, timeout: float) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
            env=programs.base_env(os.environ, _DISPLAY),
        )  # fmt: skip
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise NotToldError(f"{argv[0]} cannot be started: {why}") from None
    said = bytearray()
    talking = [
        asyncio.create_task(_give(process.stdin, data + b"\n")),
        asyncio.create_task(_take(process.stderr, said)),
    ]
    try:
        # how it ended is what counts: a child that it leaves behind may keep its pipes open
        if not await children.gone(process, timeout):
            raise TimeoutError
        if process.returncode:
            await asyncio.wait(talking, timeout=_LAST_WORDS)
    finally:
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        await children.end(process)
    if process.returncode:
        told = clean(said.decode("utf-8", "replace").strip())[-_SHOWN:]
        raise NotToldError(f"{argv[0]} ended with {process.returncode}: {told}".rstrip(": "))


async def _give(to: asyncio.StreamWriter | None, data: bytes) -> None:
    assert to is not None
    with suppress(ConnectionError):  # it does not read what it is told
        to.write(data)
        await to.drain()
        to.close()


async def _take(from_: asyncio.StreamReader | None, said: bytearray) -> None:
    """Keep the end of what comes."""
    assert from_ is not None
    while part := await from_.read(_ANSWER):
        said += part
        del said[:-_ANSWER]


def _desktop(said: Mapping[str, Json]) -> list[str]:
    title, text = f"Outpost: {said.get('about')}", str(said.get("text"))
    if sys.platform == "darwin":
        return ["osascript", "-e", _OSASCRIPT, title, text]
    # notify-send takes a part of HTML in its text
    return ["notify-send", "--app-name=Outpost", "--", title, html.escape(text)]


# --- HTTP -------------------------------------------------------------------------------------


def value_of(reference: str, what: str, environ: Mapping[str, str]) -> str:
    """Return what a reference leads to.

    Raises:
        UsageError: there is nothing, or others can read it.
    """
    kind, _, where = reference.partition(":")
    if kind == "file":
        return read_secret(where, what)
    if not (found := environ.get(where, "")):
        raise UsageError(f"{what} is not there: {where} is not set", hint=f"export {where}=…")
    return found


def _request(
    target: NotifyConfig, said: Mapping[str, Json], environ: Mapping[str, str]
) -> urllib.request.Request:
    url = target.url or ""
    if is_reference(url):
        url = value_of(url, f"the url of {target.name}", environ).strip()
        if why := url_mistake(url):
            raise NotToldError(f"the url of {target.name} is not used: {why}")
    headers = {"Content-Type": "application/json", "User-Agent": f"outpost/{__version__}"}
    if target.to is Way.SLACK:
        text = str(said.get("text"))
        for char, word in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # as Slack asks
            text = text.replace(char, word)
        data = _json({"text": text})
    elif target.to is Way.NTFY:
        parts = urlsplit(url)
        base, _, topic = parts.path.rstrip("/").rpartition("/")
        url = urlunsplit((parts.scheme, parts.netloc, base + "/", "", ""))
        urgent = said.get("about") == "needs_you"
        data = _json({"topic": topic, "title": f"Outpost: {said.get('about')}",
                      "message": said.get("text"), "priority": 4 if urgent else 3})  # fmt: skip
        if target.token is not None:
            token = value_of(target.token, f"the token of {target.name}", environ).strip()
            headers["Authorization"] = f"Bearer {token}"
    else:
        data = _json(said)
        headers |= _signed(target, str(said.get("id")), data, environ)
    for name, value in headers.items():
        if any(c < " " or c > "~" for c in value):
            raise NotToldError(f"{target.name}: what stands in {name} cannot be sent")
    return urllib.request.Request(url, data=data, headers=headers, method="POST")  # noqa: S310 - `url_mistake` has looked


def _signed(
    target: NotifyConfig, id_: str, data: bytes, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the headers of Standard Webhooks (standardwebhooks.com): id, time and signature."""
    now = str(int(time.time()))
    found = {"webhook-id": id_, "webhook-timestamp": now}
    if target.secret is not None:
        secret = value_of(target.secret, f"the secret of {target.name}", environ).strip()
        key = secret.encode()
        if secret.startswith("whsec_"):
            try:
                key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            except binascii.Error:
                raise NotToldError(f"the secret of {target.name} is no base64") from None
        sign = hmac.digest(key, f"{id_}.{now}.".encode() + data, "sha256")
        found["webhook-signature"] = f"v1,{base64.b64encode(sign).decode()}"
    return found


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


async def _post(request: urllib.request.Request, timeout: float) -> None:
    thread = WorkThread("notify")  # of its own: one that hangs is left behind
    try:
        await thread.run(lambda: _post_now(request, timeout))
    finally:
        thread.end(0.0)


def _post_now(request: urllib.request.Request, timeout: float) -> None:
    host = urlsplit(request.full_url).hostname or ""
    opener = urllib.request.build_opener(_Stay)
    try:
        with opener.open(request, timeout=timeout) as answer:
            answer.read(_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            told = ""
            with suppress(OSError, ValueError):
                told = clean(error.read(_ANSWER).decode("utf-8", "replace").strip())[:_SHOWN]
            why = "it redirects, which is not followed" if 300 <= error.code < 400 else told
            raise NotToldError(
                f"{host} answered {error.code}: {why}".rstrip(": "), final=error.code == _GONE
            ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise NotToldError(f"{host} cannot be told: {clean(str(reason))[:_SHOWN]}") from None
    except Exception as error:  # noqa: BLE001 - http.client has a tree of its own
        raise NotToldError(f"{host} answers oddly: {type(error).__name__}") from None
