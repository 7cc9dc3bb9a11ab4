"""A container that runs somewhere by its URL asks for a token, which is in a file of the caller."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from farkit import far

from outpost_cloudrun.connection.client import open_client
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_core.errors import UnreachableError

TOKEN = "a-token-of-some-length"


def test_a_token_in_a_file_opens_the_container(tmp_path: Path) -> None:
    """It is read anew when it is refused, so it can be exchanged while a keeper runs."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with far(tmp_path / "far", OUTPOST_TOKEN=TOKEN) as there:
        options = CloudRunOptions(url=there.url, auth=Auth.TOKEN, key_file=file)

        async def ask() -> list[int]:
            codes = []
            async with open_client(options, options.url) as client:
                codes.append((await client.get("/work")).status_code)
            async with open_client(options, options.url) as client:
                file.write_text("another-token-of-a-length")
                codes.append((await client.get("/work")).status_code)
                file.write_text(TOKEN)
                codes.append((await client.get("/work")).status_code)
            return codes

        assert asyncio.run(ask()) == [200, 401, 200]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("short", "token"),
        ("two words of it", "token"),
        ("ü" * 20, "no token"),
    ],
)
def test_a_file_without_a_token_is_named(tmp_path: Path, text: str | None, why: str) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    options = CloudRunOptions(url="http://127.0.0.1:1", auth=Auth.TOKEN, key_file=file)
    with pytest.raises(UnreachableError, match=why) as caught:
        asyncio.run(Identity(options).token("x"))
    assert str(file) in caught.value.message
    assert text is None or text not in str(caught.value)


def test_a_token_is_no_login_at_google(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    options = CloudRunOptions(
        url="http://h.localhost", auth=Auth.TOKEN, key_file=tmp_path / "token"
    )
    with pytest.raises(UnreachableError, match="no login at Google"):
        asyncio.run(Identity(options).access_token())
