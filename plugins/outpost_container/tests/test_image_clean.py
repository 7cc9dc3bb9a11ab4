"""Nothing of the machine that builds the image stays in it: all layers are walked."""

from __future__ import annotations

import os
import re
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from peers import containers as peer
from peers.containers import podman

from outpost_container import registries

CHECKOUT = Path(__file__).parents[3]
#: What no layer has a file of: settings and logins of clients, lists and caches.
NO_FILES = re.compile(
    r"(^|/)(pip\.conf|\.npmrc|\.netrc|\.docker/.*|\.config/.*|\.cache/.+|\.pip/.*)$"
    r"|^run/secrets/.+|^var/(lib/apt/lists|cache/apt|log)/.*\.(deb|bin|log)$|^from/|^etc/hostname$"
    r"|^usr/local/share/ca-certificates/.+|^etc/apt/(auth|apt)\.conf(\.d/.*proxy.*)?$"
)


@pytest.mark.containers
@pytest.mark.apart
@pytest.mark.slow(140)
@pytest.mark.timeout(900)
def test_nothing_of_this_machine_stays_in_the_image(tmp_path: Path) -> None:
    """Marks are given to everything that the build is handed, and are looked for in all of it."""
    env = peer.base()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".npmrc").write_text("//npm.example/:_authToken=mark-of-npmrc\n")
    trusted = registries.certificates(os.environ) or Path("/etc/ssl/certs/ca-certificates.crt")
    ca = tmp_path / "ca-with-a-mark.pem"
    ca.write_bytes(b"# mark-of-certificates\n" + trusted.read_bytes())
    handed = {
        "HOME": str(home),
        "PIP_TRUSTED_HOST": "mark-of-pip.example",
        "NO_PROXY": f"{os.environ.get('NO_PROXY', '')},mark-of-proxies.example".lstrip(","),
    }
    tag = "localhost/outpost-test-marked:1"
    peer.build({**env, **handed}, "--tag", tag, "--ca", str(ca), "--no-cache")
    try:
        archive = tmp_path / "image.tar"
        podman(env, "save", "--format", "docker-archive", "--output", str(archive), tag)
        found = [*_found(archive, re.compile(b"|".join(map(re.escape, [*_words()]))))]
    finally:
        podman(env, "rmi", "--force", tag)
    assert found == []


def _words() -> Iterator[bytes]:
    """Yield what would tell of this machine."""
    yield b"mark-of-"
    yield b"ca-with-a-mark"
    yield b"outpost-image-"  # the folder that the image was built in
    yield str(CHECKOUT).encode()
    name = socket.gethostname()
    if len(name) > 5:
        yield name.encode()
    lines = registries.settings(os.environ)
    for url in re.findall(r"https?://[^'\s]+", lines):
        if host := urlsplit(url).hostname:
            yield host.encode()
    for file in Path("/usr/local/share/ca-certificates").rglob("*.crt"):
        middle = file.read_bytes().split(b"\n")[3:6]
        yield from (line for line in middle if len(line) > 40)


def _found(archive: Path, words: re.Pattern[bytes]) -> Iterator[tuple[str, str]]:
    with tarfile.open(archive) as outer:
        for member in outer:
            file = outer.extractfile(member)
            if file is None:
                continue
            if not member.name.endswith(".tar"):  # what is said of the image, and its history
                yield from ((member.name, repr(hit)) for hit in set(words.findall(file.read())))
                continue
            with tarfile.open(fileobj=file) as layer:
                for entry in layer:
                    if NO_FILES.search(entry.name) and not entry.isdir() and entry.size:
                        yield entry.name, "a file"
                    if not entry.isreg():
                        continue
                    content = layer.extractfile(entry)
                    assert content is not None
                    hits = {*words.findall(content.read()), *words.findall(entry.name.encode())}
                    yield from ((entry.name, repr(hit)) for hit in hits)


@pytest.mark.parametrize("planted", ["mark-of-npmrc", str(CHECKOUT)])
def test_the_search_finds_what_it_looks_for(tmp_path: Path, planted: str) -> None:
    layer, image = tmp_path / "layer.tar", tmp_path / "image.tar"
    (tmp_path / "x").write_text(f"a\n{planted}\n")
    with tarfile.open(layer, "w") as made:
        made.add(tmp_path / "x", "opt/x")
        made.add(tmp_path / "x", "root/.npmrc")
    with tarfile.open(image, "w") as made:
        made.add(layer, "1.tar")
    words = re.compile(b"|".join(map(re.escape, [*_words()])))
    found = {name for name, _ in _found(image, words)}
    assert found == {"opt/x", "root/.npmrc"}
