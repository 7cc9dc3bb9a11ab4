"""A metadata server and token servers on loopback, as Google's machines and APIs have them.

What it gives is signed, and can be verified by Google's own library against `certs_url`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Iterator
from email.utils import formatdate
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_KEY_ID: Final = "emulated"
#: Of a token exchange (RFC 8693, section 2), as a workload identity federation asks for it.
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"
_CLOUD: Final = "https://www.googleapis.com/auth/cloud-platform"


class TokenServer:
    """Gives and checks tokens.

    Attributes:
        email: the service account of the machine.
        life: seconds that tokens live.
        ahead: seconds that the clock of the server is ahead of this machine's.
        failures: statuses that the next questions are answered with.
        delay: seconds that each answer takes.
        asked: how often each path was asked.
        may_act: who may act as another service account; None for everybody.
    """

    def __init__(self, email: str = "outpost@demo-project.iam.gserviceaccount.com") -> None:
        self.email = email
        self.life = 3600.0
        self.ahead = 0.0
        self.delay = 0.0
        self.failures: deque[int] = deque()
        self.asked: Counter[str] = Counter()
        self.may_act: set[str] | None = None
        self.has_account = True
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._access: dict[str, tuple[str, float]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.tokens = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}"

    @property
    def certs_url(self) -> str:
        """Where Google's library finds what tokens are verified with."""
        return f"{self.url}/certs"

    @property
    def environment(self) -> dict[str, str]:
        """What tells Google's clients, and ours, that this is the machine's metadata server."""
        return {"GCE_METADATA_HOST": self.host, "GCE_METADATA_IP": self.host}

    def acting_url(self, email: str) -> str:
        """Return the address at which one acts as `email`."""
        return f"{self.url}/v1/projects/-/serviceAccounts/{email}:generateAccessToken"

    def key_file(self, email: str = "key@demo-project.iam.gserviceaccount.com") -> dict[str, str]:
        """Return what the file of a service account's key says; this server takes the key."""
        return {
            "type": "service_account",
            "project_id": "demo-project",
            "private_key_id": _KEY_ID,
            "private_key": self._private,
            "client_email": email,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    def now(self) -> float:
        """Return the time by the server's clock."""
        return time.time() + self.ahead

    def id_token(self, audience: str, email: str = "") -> str:
        """Return an ID token."""
        now = int(self.now())
        claims = {
            "iss": "https://accounts.google.com",
            "aud": audience,
            "email": email or self.email,
            "email_verified": True,
            "sub": "1",
            "iat": now,
            "exp": now + int(self.life),
        }
        head = {"alg": "RS256", "typ": "JWT", "kid": _KEY_ID}
        signed = f"{_b64(json.dumps(head).encode())}.{_b64(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_b64(signature)}"

    def access_token(self, email: str = "") -> str:
        """Return an access token."""
        value = f"ya29.{len(self._access)}-{_b64(email.encode() or b'machine')}"
        self._access[value] = (email or self.email, self.now() + self.life)
        return value

    def check_id(self, token: str, audience: str) -> str | None:
        """Return whose ID token it is, None where a front would refuse it."""
        claims = self._verified(token)
        if claims is None or claims.get("aud") != audience:
            return None
        ends = claims.get("exp")
        if not isinstance(ends, int | float) or ends < self.now():
            return None
        return str(claims.get("email"))

    def check_access(self, token: str) -> str | None:
        """Return whose access token it is, None where an API would refuse it."""
        email, end = self._access.get(token, ("", 0.0))
        return email if end > self.now() else None

    def revoke(self) -> None:
        """Refuse every access token that was given so far."""
        self._access.clear()

    @cached_property
    def _private(self) -> str:
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    @cached_property
    def _public(self) -> str:
        return (
            self._key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def _verified(self, token: str) -> dict[str, Any] | None:
        signed, _, signature = token.rpartition(".")
        try:
            self._key.public_key().verify(
                _unb64(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
            claims = json.loads(_unb64(signed.split(".")[1]))
        except (InvalidSignature, ValueError, IndexError):
            return None
        return claims if isinstance(claims, dict) else None

    # What its addresses answer: status, type, body.

    def get(self, path: str, query: dict[str, str], flavor: str) -> tuple[int, str]:
        """Answer a GET."""
        if path == "/certs":
            return 200, json.dumps({_KEY_ID: self._public})
        if not path.startswith("/computeMetadata/"):
            return (200, "computeMetadata/\n") if path == "/" else (404, "")
        if flavor != "Google":
            return 403, "Missing Metadata-Flavor:Google header."
        rest = path.removeprefix("/computeMetadata/v1/").rstrip("/")
        account = "instance/service-accounts/default"
        if rest.startswith(account) and not self.has_account:
            return 404, ""
        if rest == f"{account}/identity":
            return 200, self.id_token(query.get("audience", ""))
        if rest == f"{account}/token":
            return 200, json.dumps(self._granted(self.access_token()))
        found = {
            account: json.dumps({"email": self.email, "scopes": [_CLOUD], "aliases": ["default"]}),
            f"{account}/email": self.email,
            "project/project-id": "demo-project",
            "instance/region": "projects/1/regions/us-central1",
            "universe/universe-domain": "googleapis.com",
        }
        return (200, found[rest]) if rest in found else (404, "")

    def post(self, path: str, body: bytes, bearer: str) -> tuple[int, str]:
        """Answer a POST."""
        if path == "/token":
            return self._token(dict(urllib.parse.parse_qsl(body.decode())))
        email, _, verb = path.rpartition("/")[2].partition(":")
        if verb not in ("generateIdToken", "generateAccessToken"):
            return 404, ""
        who = self.check_access(bearer)
        if who is None:
            return 401, "{}"
        if self.may_act is not None and who not in self.may_act:
            return 403, "{}"
        email = urllib.parse.unquote(email)
        if verb == "generateIdToken":
            return 200, json.dumps({"token": self.id_token(json.loads(body)["audience"], email)})
        end = formatdate(self.now() + self.life)
        return 200, json.dumps({"accessToken": self.access_token(email), "expireTime": end})

    def _token(self, asked: dict[str, str]) -> tuple[int, str]:
        """Answer as https://oauth2.googleapis.com/token does (RFC 7523, 8693, refresh tokens)."""
        if asked.get("grant_type") == _EXCHANGE:
            token = self._granted(self.access_token(asked["subject_token"]))
            return 200, json.dumps({**token, "issued_token_type": _ACCESS_TYPE})
        if asked.get("grant_type") == "refresh_token":
            return 200, json.dumps(self._granted(self.access_token("person@example.com")))
        claims = self._verified(asked.get("assertion", ""))
        if claims is None:
            return 400, json.dumps({"error": "invalid_grant", "error_description": "Bad key."})
        if not claims["iat"] - 300 <= self.now() <= claims["exp"]:
            said = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable"
            return 400, json.dumps({"error": "invalid_grant", "error_description": said})
        if audience := claims.get("target_audience"):
            return 200, json.dumps({"id_token": self.id_token(audience, claims["iss"])})
        return 200, json.dumps(self._granted(self.access_token(claims["iss"])))

    def _granted(self, token: str) -> dict[str, object]:
        return {"access_token": token, "expires_in": int(self.life), "token_type": "Bearer"}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        split = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(split.query))
        flavor = self.headers.get("Metadata-Flavor", "")
        self._answer(split.path, lambda: self._tokens.get(split.path, query, flavor))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self._answer(self.path, lambda: self._tokens.post(self.path, body, bearer))

    @property
    def _tokens(self) -> TokenServer:
        found: TokenServer = self.server.tokens  # type: ignore[attr-defined]
        return found

    def _answer(self, path: str, make: Any) -> None:
        self._tokens.asked[path] += 1
        if self._tokens.delay:
            time.sleep(self._tokens.delay)
        if self._tokens.failures:
            status, text = self._tokens.failures.popleft(), "{}"
        else:
            status, text = make()
        body = text.encode()
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json" if text[:1] == "{" else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(timestamp or self._tokens.now(), usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@contextlib.contextmanager
def token_server() -> Iterator[TokenServer]:
    """A server that runs within the block."""
    with TokenServer() as server:
        yield server


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
