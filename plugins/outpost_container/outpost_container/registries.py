"""What this machine needs to reach package registries, as secrets of the build.

A build inside of a container knows nothing of the machine's certificates, proxies and indexes. They
are handed over as build secrets: files that are there while a step runs, and in no layer.
"""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Where programs are told of certificates, in the order in which they are looked at.
_CERTIFICATES: Final = (
    "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
#: What is passed on as it is.
_PASSED: Final = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT",
    "PIP_RETRIES", "NPM_CONFIG_REGISTRY",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
#: Of a configuration file of pip, the same (pip documentation, "Configuration").
_OF_PIP: Final = ("index-url", "extra-index-url", "trusted-host", "timeout", "retries", "proxy")


def certificates(environ: Mapping[str, str]) -> Path | None:
    """Return the file of certificate authorities that this machine's programs are told to use."""
    for name in _CERTIFICATES:
        if (value := environ.get(name)) and Path(value).is_file():
            return Path(value)
    for section in _pip(environ):
        if (found := section.get("cert")) and Path(found).is_file():
            return Path(found)
    return None


def settings(environ: Mapping[str, str]) -> str:
    """Return lines of `NAME='value'` for a shell: how pip and npm reach their registries here."""
    found: dict[str, str] = {}
    for section in _pip(environ):
        for name in _OF_PIP:
            if name in section:
                variable = "timeout" if name == "timeout" else name.replace("-", "_")
                value = " ".join(section[name].split())
                found[f"PIP_{'DEFAULT_TIMEOUT' if name == 'timeout' else variable.upper()}"] = value
    found |= {name: environ[name] for name in _PASSED if environ.get(name)}
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(found.items()))


def npmrc(environ: Mapping[str, str]) -> Path | None:
    """Return the user's settings of npm, which may hold what opens a private registry."""
    home = environ.get("HOME")
    named = environ.get("NPM_CONFIG_USERCONFIG")
    path = Path(named) if named else Path(home) / ".npmrc" if home else None
    return path if path is not None and path.is_file() else None


def _pip(environ: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Yield the sections of pip's configuration files, what counts more after what counts less."""
    paths = [Path("/etc/pip.conf")]
    if home := environ.get("HOME"):
        base = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        paths += [Path(home, ".pip", "pip.conf"), Path(base, "pip", "pip.conf")]
    if named := environ.get("PIP_CONFIG_FILE"):
        paths.append(Path(named))
    for path in paths:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip says so itself where it matters
        for name in ("global", "install"):
            if parser.has_section(name):
                yield dict(parser.items(name))
