"""A person's own login, through the Google Cloud CLI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import Final

from outpost_cloudrun.connection import tokens
from outpost_cloudrun.connection.tokens import Token
from outpost_core.errors import UnreachableError
from outpost_shared.harmless import clean

#: Seconds that one call of gcloud may take; it needs two or three.
_PATIENCE: Final = 60.0
#: Seconds that an access token of gcloud lives at least: it renews its own below 5 minutes
#: (`core/credentials/store.py` of the Cloud SDK), and does not tell how long this one has left.
_ACCESS_LIFE: Final = 300.0 + tokens.MARGIN


class GcloudSource:
    """Whoever is logged in in gcloud: a person, or a service account.

    Args:
        command: the program.
    """

    def __init__(self, command: str = "gcloud") -> None:
        self._command = command
        self._account: str | None = None
        self._is_service = False

    @property
    def whose(self) -> str:
        """See `Source`."""
        return f"{self._account} (gcloud)" if self._account else "the account in gcloud"

    def id_token(self, audience: str) -> Token:
        """See `Source`. A person's token is for any service that the person may call."""
        self._look()
        words = ["auth", "print-identity-token"]
        if self._is_service:  # for a person gcloud refuses the option
            words.append(f"--audiences={audience}")
        return tokens.identity(self._run(*words).strip(), skew=None, whose="gcloud")

    def access_token(self) -> Token:
        """See `Source`."""
        self._look()
        value = self._run("auth", "print-access-token").strip()
        return tokens.access(value, _ACCESS_LIFE, whose="gcloud")

    def _look(self) -> None:
        """Learn who is logged in."""
        if self._account is not None:
            return
        try:
            found = json.loads(self._run("config", "list", "--format=json"))
            account = str(found.get("core", {}).get("account") or "")
            acts_as = str(found.get("auth", {}).get("impersonate_service_account") or "")
        except (ValueError, AttributeError, RecursionError):
            raise UnreachableError("gcloud did not say who is logged in", sent=False) from None
        if not account:
            raise UnreachableError(
                "nobody is logged in in gcloud", hint="`gcloud auth login`", sent=False
            )
        self._account = clean(acts_as or account)
        self._is_service = self._account.endswith(".gserviceaccount.com")

    def _run(self, *words: str) -> str:
        program = shutil.which(self._command)
        if program is None:
            raise UnreachableError(
                f"{self._command} is not installed, or not on the PATH", sent=False,
                hint="install the Google Cloud CLI and `gcloud auth login`; or use"
                " `auth: service-account` with `key_file:`",
            )  # fmt: skip
        started = subprocess.Popen(
            [program, *words, "--quiet"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
            start_new_session=True,
        )  # fmt: skip
        try:
            out, err = started.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)  # gcloud is a script with a python below it
            started.communicate()
            raise UnreachableError(
                f"gcloud {words[0]} {words[1]} took longer than {_PATIENCE:g} s", sent=False,
                hint=f"try `gcloud {words[0]} {words[1]}` yourself",
            ) from None  # fmt: skip
        if started.returncode != 0:
            said = err.decode("utf-8", "replace").strip().splitlines()
            first = next(
                (line for line in said if line.startswith("ERROR")), said[0] if said else ""
            )
            raise UnreachableError(
                f"gcloud gave no token: {clean(first)[:300]}",
                hint="`gcloud auth login`",
                sent=False,
            )
        return out.decode("utf-8", "replace")
