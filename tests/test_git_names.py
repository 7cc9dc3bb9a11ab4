from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpost_core.errors import UsageError
from outpost_core.names import check_branch, check_rig, redact, split_rig

GIT = shutil.which("git") or "git"


def git_takes(branch: str) -> bool:
    done = subprocess.run([GIT, "check-ref-format", "--branch", branch], capture_output=True)
    return done.returncode == 0


@pytest.mark.parametrize(
    "branch", ["a", "polecat/gt-abc123", "x/y/z", "ünï/cödé", "a.b", "a-", "a@b", "x" * 230]
)
def test_good_branches(branch: str) -> None:
    assert check_branch(branch) == branch
    assert git_takes(branch)


@pytest.mark.parametrize(
    "branch",
    [
        *["", "-f", "--force", "a..b", "a@{1}", "@{-1}", "@", "HEAD", "refs/heads/x", "refs/x/y"],
        *["a b", "a\nb", "a\0b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "\x7f", "/a", "a/"],
        *["a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "\udc80", "x" * 231, "é" * 116],
    ],
)
def test_bad_branches(branch: str) -> None:
    with pytest.raises(UsageError, match="cannot be a branch") as caught:
        check_branch(branch)
    assert str(caught.value).isascii() or "→" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab/.-@{}~^: *lock\\\n", min_size=1, max_size=8))
def test_git_takes_what_we_take(branch: str) -> None:
    try:
        check_branch(branch)
    except UsageError:
        return
    assert git_takes(branch)


@pytest.mark.parametrize(
    "rig",
    [
        *["/srv/rig.git", "file:///srv/rig.git", "https://h/a/b.git", "https://u:p@h/a"],
        *["http://h/a", "ssh://git@h:22/a", "git@github.com:a/b.git", "host:path", "git://h/a"],
        "/with space/ü",
    ],
)
def test_good_rigs(rig: str) -> None:
    assert check_rig(rig) == rig


@pytest.mark.parametrize(
    "rig",
    [
        *["", "ext::sh -c id", "EXT::sh", "fd::7", "foo::bar", "-u", "--upload-pack=id", "a/b"],
        *[".", "https://", "https:///a", "https://h", "ssh://-oProxyCommand=id/x", "-oX@h:p"],
        *["u@-h:p", "h:-p", "ssh://u:p@h/x", "ftp://h/a", "file://host/p", "https://h/a\nb"],
        *["/a\0b", ":p", "javascript://x/y", "ssh://-u@h/x", "/x\udc80"],
    ],
)
def test_bad_rigs(rig: str) -> None:
    with pytest.raises(UsageError, match="cannot be a rig"):
        check_rig(rig)


def test_a_refused_rig_does_not_show_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        check_rig("ftp://me:hunter22@host/x")
    assert "hunter22" not in str(caught.value)
    assert "ftp://***@host/x" in str(caught.value)


@pytest.mark.parametrize(
    ("rig", "clean", "secret"),
    [
        ("https://u:tok@h/a", "https://h/a", "https://u:tok@h"),
        ("https://u:p@ss@h:8/a?b", "https://h:8/a?b", "https://u:p%40ss@h:8"),
        ("https://me@h/a", "https://me@h/a", ""),
        ("ssh://git@h/a", "ssh://git@h/a", ""),
        ("git@h:a/b@c", "git@h:a/b@c", ""),
        ("/a:b@c", "/a:b@c", ""),
    ],
)
def test_split_rig(rig: str, clean: str, secret: str) -> None:
    assert split_rig(rig) == (clean, secret)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read 'https://u:t@h/a': x@y", "cannot read 'https://***@h/a': x@y"),
        ("https://tok@h/a and http://a:b@c", "https://***@h/a and http://***@c"),
        ("ssh://git@h/a", "ssh://git@h/a"),
        ("https://h/a@b", "https://h/a@b"),
        ("no address", "no address"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_redact_takes_the_password_out_where_it_stands_alone() -> None:
    assert redact("sent hunter22!", "https://u:hunter22@h/a") == "sent ***!"
