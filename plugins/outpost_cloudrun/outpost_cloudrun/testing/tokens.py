"""Whether a caller may call: identity tokens as Google's front looks at them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from outpost_cloudrun.testing.cloud import Cloud
from outpost_cloudrun.testing.exchanges import Headers, Request


@dataclass(frozen=True)
class Refusal:
    """An answer of the front instead of the container's."""

    status: int
    body: bytes
    headers: Headers = ()


def page(status: int, title: str, text: str, headers: Headers = ()) -> Refusal:
    """Return an answer in HTML, as the front writes them."""
    body = (
        f'\n<html><head>\n<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
        f"<title>{status} {title}</title>\n</head>\n<body text=#000000 bgcolor=#ffffff>\n"
        f"<h1>Error: {title}</h1>\n<h2>{text}</h2>\n<h2></h2>\n</body></html>\n"
    )
    kind = ("content-type", "text/html; charset=UTF-8")
    return Refusal(status, body.encode(), [kind, *headers])


def check(cloud: Cloud, request: Request, audiences: Collection[str]) -> Refusal | None:
    """Return why a caller may not call; None where it may.

    Args:
        cloud: whose clock and keys count.
        request: what it asks.
        audiences: for whom its token may be.
    """
    given = request.header("authorization") or request.header("x-serverless-authorization")
    if not given:
        url = request.target.partition("?")[0]
        return page(
            403, "Forbidden",
            f"Your client does not have permission to get URL <code>{url}</code> from this server.",
        )  # fmt: skip
    scheme, _, token = given.partition(" ")
    known = scheme.lower() == "bearer" and any(
        cloud.tokens.check_id(token, audience) is not None for audience in audiences
    )
    if not known:
        why = "The access token could not be verified"
        challenge = f'Bearer error="invalid_token" error_description="{why}"'
        return page(
            401, "Unauthorized",
            "Your client does not have permission to the requested URL"
            f" <code>{request.target.partition('?')[0]}</code>.",
            [("www-authenticate", challenge)],
        )  # fmt: skip
    if "run.routes.invoke" in cloud.knobs.denied:
        return page(
            403, "Forbidden",
            "Your client does not have permission to get URL"
            f" <code>{request.target.partition('?')[0]}</code> from this server.",
        )  # fmt: skip
    return None
