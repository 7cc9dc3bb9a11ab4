"""Whose tokens there are, how long they are kept, and what goes wrong when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.oauth2.id_token import verify_token
from h2peer import Call, h2peer, looped

from outpost_cloudrun.connection import gcloud
from outpost_cloudrun.connection.choice import choose
from outpost_cloudrun.connection.client import open_client
from outpost_cloudrun.connection.identity import Identity
from outpost_cloudrun.connection.web import GoogleRequest, Web
from outpost_cloudrun.options import Auth, CloudRunOptions
from outpost_cloudrun.testing.metadata import TokenServer, token_server
from outpost_core.errors import UnreachableError

AUDIENCE = "https://worker-1.a.run.app"
_ACTS_AT_A_STRANGER = json.dumps(
    {
        "type": "impersonated_service_account",
        "source_credentials": {"type": "service_account"},
        "service_account_impersonation_url": (
            "http://evil.example/v1/projects/-/serviceAccounts/a:generateAccessToken"
        ),
    }
)


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TokenServer]:
    """A machine of Google, whose user has no files and no gcloud."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)
    with token_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def elsewhere(google: TokenServer, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """A machine that has no metadata server; the token servers are there."""
    monkeypatch.delenv("GCE_METADATA_HOST")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    return google


def options(auth: Auth = Auth.AUTO, **more: object) -> CloudRunOptions:
    return CloudRunOptions(auth=auth, url=AUDIENCE, **more)  # type: ignore[arg-type]


def written(folder: Path, info: dict[str, object]) -> Path:
    file = folder / "credentials.json"
    file.write_text(json.dumps(info))
    return file


def fake_gcloud(folder: Path, google: TokenServer, account: str, *, body: str = "") -> Path:
    """A program that answers as gcloud does, and notes what it was asked."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "gcloud"
    config = json.dumps({"core": {"account": account}} if account else {})
    (folder / "id-token").write_text(google.id_token("32555940559.apps", account or "x"))
    (folder / "access-token").write_text(google.access_token(account))
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {folder}/asked
{body}
case "$2" in
  list) echo '{config}' ;;
  print-identity-token) /bin/cat {folder}/id-token ;;
  print-access-token) /bin/cat {folder}/access-token ;;
esac
"""
    )
    program.chmod(0o755)
    return folder / "asked"


def verified(google: TokenServer, token: str, audience: str = AUDIENCE) -> dict[str, object]:
    """What Google's own library reads from a token that it has verified."""
    return dict(verify_token(token, GoogleRequest(Web(direct=True)), audience, google.certs_url))


@looped
async def test_the_machine_s_own_token_is_kept_until_225_seconds_before_its_end(google) -> None:
    who = Identity(options())
    tokens = {await who.token(AUDIENCE) for _ in range(10)}
    assert len(tokens) == 1
    assert verified(google, tokens.pop())["email"] == google.email == who.email
    path = "/computeMetadata/v1/instance/service-accounts/default/identity"
    assert google.asked[path] == 1
    google.life = 224
    await who.token("https://other.a.run.app")
    await who.token("https://other.a.run.app")
    assert google.asked[path] == 3
    assert google.check_access(await who.access_token()) == google.email


@looped
async def test_many_who_ask_at_once_are_one_question(google) -> None:
    google.delay = 0.2
    who = Identity(options(Auth.METADATA))
    assert len(set(await asyncio.gather(*(who.token(AUDIENCE) for _ in range(100))))) == 1
    assert sum(google.asked.values()) == 1
    google.failures.append(500)
    results = await asyncio.gather(
        *(who.token(AUDIENCE, fresh=True) for _ in range(100)), return_exceptions=True
    )
    assert len({id(error) for error in results}) == 100
    assert {str(error) for error in results} == {
        "the metadata server answered 500 when asked for a token"
    }
    assert sum(google.asked.values()) == 2


@looped
async def test_a_token_that_still_lives_is_used_while_no_other_can_be_had(google) -> None:
    google.life = 100
    who = Identity(options(Auth.METADATA))
    first = await who.token(AUDIENCE)
    google.failures.extend([503, 503])
    assert await who.token(AUDIENCE) == first
    with pytest.raises(UnreachableError, match="answered 503"):
        await who.token(AUDIENCE, fresh=True)


@pytest.mark.parametrize("ahead", [-86_400.0, 86_400.0])
@looped
async def test_a_clock_that_is_a_day_off_does_no_harm_to_a_machine_s_tokens(google, ahead) -> None:
    google.ahead = ahead
    who = Identity(options())
    assert len({await who.token(AUDIENCE) for _ in range(5)}) == 1
    assert google.check_id(await who.token(AUDIENCE), AUDIENCE)
    assert google.asked["/computeMetadata/v1/instance/service-accounts/default/identity"] == 1


@looped
async def test_a_key_gives_tokens_and_is_asked_over_httpx(elsewhere, tmp_path) -> None:
    file = written(tmp_path, elsewhere.key_file("ci@p.iam.gserviceaccount.com"))
    for chosen in (options(key_file=file), options(Auth.SERVICE_ACCOUNT, key_file=file)):
        who = Identity(chosen)
        assert verified(elsewhere, await who.token(AUDIENCE))["email"] == (
            "ci@p.iam.gserviceaccount.com"
        )
        assert elsewhere.check_access(await who.access_token()) == "ci@p.iam.gserviceaccount.com"
        assert "ci@p.iam" in who.whose
    await who.token(AUDIENCE)
    assert elsewhere.asked["/token"] == 4


@looped
async def test_the_variable_of_credentials_is_heeded(elsewhere, tmp_path, monkeypatch) -> None:
    file = written(tmp_path, elsewhere.key_file())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert verified(elsewhere, await Identity(options()).token(AUDIENCE))


@looped
async def test_a_wrong_clock_is_named_where_a_key_cannot_work_with_it(elsewhere, tmp_path) -> None:
    elsewhere.ahead = 86_400
    who = Identity(options(key_file=written(tmp_path, elsewhere.key_file())))
    with pytest.raises(UnreachableError, match="short-lived token") as refused:
        await who.token(AUDIENCE)
    assert "clock is 24.0 h behind Google's" in refused.value.hint
    assert not refused.value.sent


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no file of credentials"),
        ("[]", "no file of credentials"),
        ('{"type": "service_account"}', "cannot be used as credentials"),
        ('{"type": "\\u001b[2J"}', "are not known here"),
        (_ACTS_AT_A_STRANGER, "not the address of a service account"),
    ],
)
@looped
async def test_a_file_that_is_none_is_named_with_the_mend(elsewhere, tmp_path, text, said) -> None:
    file = tmp_path / "key.json"
    file.write_text(text)
    with pytest.raises(UnreachableError, match=said) as refused:
        await Identity(options(key_file=file)).token(AUDIENCE)
    assert str(file) in str(refused.value)
    assert "\x1b" not in str(refused.value)


@looped
async def test_no_file_and_no_login_say_what_to_do(elsewhere, tmp_path) -> None:
    with pytest.raises(UnreachableError, match="cannot be read") as refused:
        await Identity(options(key_file=tmp_path / "none.json")).token(AUDIENCE)
    assert "key_file" in refused.value.hint
    with pytest.raises(UnreachableError, match="no Google login") as refused:
        await Identity(options()).access_token()
    assert "gcloud auth login" in refused.value.hint
    with pytest.raises(UnreachableError, match="gcloud is not installed"):
        await Identity(options(Auth.GCLOUD)).token(AUDIENCE)


@looped
async def test_a_machine_without_a_service_account_says_so(google) -> None:
    google.has_account = False
    with pytest.raises(UnreachableError, match="no service account"):
        await Identity(options()).token(AUDIENCE)


@looped
async def test_no_identity_is_no_token(elsewhere) -> None:
    who = Identity(options(Auth.NONE))
    assert (await who.token(AUDIENCE), await who.access_token(), who.whose) == ("", "", "nobody")


@looped
async def test_a_person_on_a_machine_of_google_is_not_taken_for_the_machine(
    google, tmp_path
) -> None:
    folder = tmp_path / ".config" / "gcloud"
    folder.mkdir(parents=True)
    (folder / "application_default_credentials.json").write_text(
        json.dumps(
            {
                "type": "authorized_user",
                "client_id": "c",
                "client_secret": "s",
                "refresh_token": "r",
                "token_uri": f"{google.url}/token",
            }
        )
    )
    # The address of the token server is Google's own for a person, whatever the file says.
    asked = fake_gcloud(tmp_path, google, "ada@example.com")
    who = Identity(options())
    token = await who.token(AUDIENCE)
    assert await who.token(AUDIENCE) == token
    assert verified(google, token, "32555940559.apps")["email"] == "ada@example.com"
    assert who.whose == "ada@example.com (gcloud)"
    assert asked.read_text().splitlines() == [
        "config list --format=json --quiet",
        "auth print-identity-token --quiet",
    ]
    assert not google.asked["/computeMetadata/v1/instance/service-accounts/default/identity"]


@looped
async def test_gcloud_with_a_service_account_is_given_the_audience(elsewhere, tmp_path) -> None:
    asked = fake_gcloud(tmp_path, elsewhere, "ci@p.iam.gserviceaccount.com")
    who = Identity(options(Auth.GCLOUD))
    await who.token(AUDIENCE)
    assert elsewhere.check_access(await who.access_token())
    assert f"auth print-identity-token --audiences={AUDIENCE} --quiet" in asked.read_text()


@looped
async def test_gcloud_that_fails_hangs_or_lies_is_an_error_with_its_cause(
    elsewhere, tmp_path, monkeypatch
) -> None:
    who = options(Auth.GCLOUD)
    fake_gcloud(tmp_path, elsewhere, "")
    with pytest.raises(UnreachableError, match="nobody is logged in"):
        await Identity(who).token(AUDIENCE)
    fake_gcloud(
        tmp_path, elsewhere, "a", body="printf 'x\\nERROR: (gcloud) \\033[1mno' >&2; exit 1"
    )
    with pytest.raises(
        UnreachableError, match=r"no token: ERROR: \(gcloud\) \\x1b\[1mno"
    ) as failed:
        await Identity(who).token(AUDIENCE)
    assert "gcloud auth login" in failed.value.hint
    fake_gcloud(tmp_path, elsewhere, "a@b")
    (tmp_path / "id-token").write_text("two words\nand a line")
    with pytest.raises(UnreachableError, match="not a token"):
        await Identity(who).token(AUDIENCE)
    monkeypatch.setattr(gcloud, "_PATIENCE", 0.3)
    fake_gcloud(tmp_path, elsewhere, "a", body=f"echo $$ > {tmp_path}/pid; /bin/sleep 60; exit 1")
    with pytest.raises(UnreachableError, match=r"took longer than 0\.3 s"):
        await Identity(who).token(AUDIENCE)
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


@looped
async def test_one_who_acts_as_another(elsewhere, tmp_path) -> None:
    target = "runner@p.iam.gserviceaccount.com"
    info = {
        "type": "impersonated_service_account",
        "service_account_impersonation_url": elsewhere.acting_url(target),
        "source_credentials": elsewhere.key_file("ada@p.iam.gserviceaccount.com"),
    }
    who = Identity(options(key_file=written(tmp_path, info)))
    assert verified(elsewhere, await who.token(AUDIENCE))["email"] == target
    assert elsewhere.check_access(await who.access_token()) == target
    assert "acted as by ada@p.iam" in who.whose
    elsewhere.may_act = set()
    with pytest.raises(UnreachableError, match="may not act as runner") as refused:
        await who.token(AUDIENCE, fresh=True)
    assert "roles/iam.serviceAccountTokenCreator" in refused.value.hint


def federation(google: TokenServer, folder: Path, **more: str) -> Path:
    """A file as `gcloud iam workload-identity-pools create-cred-config` writes it."""
    (folder / "subject").write_text("pipeline-7")
    pool = "projects/1/locations/global/workloadIdentityPools/ci/providers/git"
    return written(
        folder,
        {
            "type": "external_account",
            "audience": f"//iam.googleapis.com/{pool}",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{google.url}/token",
            "credential_source": {"file": str(folder / "subject")},
            **more,
        },
    )


@looped
async def test_a_federated_login_acts_as_a_service_account(elsewhere, tmp_path) -> None:
    target = "runner@p.iam.gserviceaccount.com"
    acting = elsewhere.acting_url(target)
    file = federation(elsewhere, tmp_path, service_account_impersonation_url=acting)
    who = Identity(options(key_file=file))
    assert verified(elsewhere, await who.token(AUDIENCE))["email"] == target
    assert elsewhere.check_access(await who.access_token()) == target
    (tmp_path / "alone").mkdir()
    alone = Identity(options(key_file=federation(elsewhere, tmp_path / "alone")))
    assert elsewhere.check_access(await alone.access_token()) == "pipeline-7"
    with pytest.raises(UnreachableError, match="gives no ID tokens") as refused:
        await alone.token(AUDIENCE)
    assert "--service-account" in refused.value.hint


@looped
async def test_a_person_s_own_login_asks_google_s_apis(elsewhere, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{elsewhere.url}/token"
    )
    info = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    who = Identity(options(key_file=written(tmp_path, info)))
    assert elsewhere.check_access(await who.access_token()) == "person@example.com"
    elsewhere.failures.extend([400] * 5)
    with pytest.raises(UnreachableError, match="was given no token") as refused:
        await who.access_token(fresh=True)
    assert "gcloud auth application-default login" in refused.value.hint


@looped
async def test_a_token_server_that_drips_or_pours_is_left(google, monkeypatch) -> None:
    import http.server
    import threading

    from outpost_cloudrun.connection import web

    pours = threading.Event()

    class Drip(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(10_000):
                    self.wfile.write(b"x" * (65536 if pours.is_set() else 1))
                    if not pours.is_set():
                        time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(web, "_PATIENCE", 0.3)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(UnreachableError, match="still coming"):
            await Identity(options()).token(AUDIENCE)
        pours.set()
        with pytest.raises(UnreachableError, match="too long"):
            await Identity(options()).token(AUDIENCE)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_a_token_says_of_itself_is_never_more_than_a_day() -> None:
    import base64

    from hypothesis import given, settings
    from hypothesis import strategies as some

    from outpost_cloudrun.connection import tokens

    odd = some.one_of(
        some.none(), some.booleans(), some.integers(), some.floats(), some.text(),
        some.just(10**400), some.lists(some.integers()),
    )  # fmt: skip

    @settings(max_examples=500, deadline=None)
    @given(issued=odd, ends=odd, skew=some.one_of(some.none(), some.floats(-1e9, 1e9)))
    def look(issued: object, ends: object, skew: float | None) -> None:
        claims = json.dumps({"iat": issued, "exp": ends}).encode()
        value = f"eyJh.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"
        if len(value) > 16_000:
            return
        now = time.monotonic()
        token = tokens.identity(value, skew=skew, whose="somebody")
        assert now <= token.end <= now + 86_401
        assert value not in repr(token)

    look()
    for text in ("", "a b", "x" * 20_000, "a\nb", "\x00" * 20, "é" * 20):
        with pytest.raises(UnreachableError, match="not a token"):
            tokens.identity(text, skew=None, whose="somebody")


@looped
async def test_tokens_are_in_no_log_and_no_repr(google, caplog, tmp_path) -> None:
    async def handler(call: Call) -> None:
        call.answer(204, end=True)

    caplog.set_level(logging.DEBUG)
    chosen = options(Auth.METADATA)
    who = Identity(chosen)
    async with h2peer(handler) as peer, open_client(chosen, peer.url, AUDIENCE, identity=who) as c:
        answer = await c.get("/")
        token = peer.calls[0].headers["authorization"].removeprefix("Bearer ")
        assert google.check_id(token, AUDIENCE)
    shown = f"{caplog.text} {who!r} {vars(who)} {answer!r} {answer.request!r} {c!r}"
    assert token not in shown
    assert token.split(".")[2] not in shown
    assert not [record for record in caplog.records if record.name.startswith("hpack")]


@looped
async def test_identity_s_clock_is_the_monotonic_one(google, monkeypatch) -> None:
    who = Identity(options())
    await who.token(AUDIENCE)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10 * 86_400)
    await who.token(AUDIENCE)
    assert sum(google.asked.values()) == 1


def test_metadata_is_looked_for_only_where_nothing_else_is(google, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("GCE_METADATA_HOST")  # only its number answers, as a probe finds it
    source = choose(options())
    assert source is not None
    assert source.whose == "this machine's service account"
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:1")
    fake_gcloud(tmp_path, google, "ada@example.com")
    source = choose(options())
    assert source is not None
    assert "gcloud" in source.whose


def test_no_requests_are_imported() -> None:
    import subprocess

    code = (
        "import sys, outpost_cloudrun.connection.client, google.oauth2.service_account;"
        " assert 'requests' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
