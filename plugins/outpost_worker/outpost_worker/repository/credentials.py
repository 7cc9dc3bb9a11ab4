"""What git logs in with at a machine that has no login of its own, such as a container.

A *login* is a token or a private key that came with the work. It is in files (0600) below the state
root, where a fence lets no agent look, and in nothing else: no URL, no argument, no environment, no
configuration of a repository. Every git of ours that talks to a remote is told of it by a path.

- A token is handed out by a credential helper of ours (`credentialhelper.py`) to the hosts of the
  rig alone, so no submodule or redirect makes git send it elsewhere. It stays when a host turns it
  down once, which git's own `store` would take as a reason to forget it.
- A key is used by ssh alone, and only with hosts whose keys are known: those that GitHub, GitLab
  and Bitbucket publish, and those that came with it. An unknown host is refused: to believe
  whatever answers first (`accept-new`) would hand the work to whoever sits in between.
"""

from __future__ import annotations

import os
import sys

from outpost_core.errors import UsageError
from outpost_core.names import split_rig
from outpost_shared import jsonfiles, plain, private

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

#: Below the state root: a folder for each login.
LOGINS = "logins"
#: In it.
LOGIN, KEY, KNOWN_HOSTS = "login.json", "key", "known_hosts"
#: Characters that a login may have.
MOST = 64 << 10
#: Who logs in with a token where the host wants a name of its own for that: GitHub takes any, as
#: do GitLab, Gitea and Azure DevOps; Bitbucket wants this one for access tokens of a repository.
_USERS = {"bitbucket.org": "x-token-auth"}
_USER = "x-access-token"
_BEGIN, _END = "-----BEGIN ", "-----END "
#: Names that git credential helpers speak in (git-credential(1), "INPUT/OUTPUT FORMAT").
_SPOKEN = frozenset(
    ("protocol", "host", "path", "username", "password", "url", "quit", "password_expiry_utc")
)
#: What git and ssh say where a remote does not take a login.
_NO_LOGIN = (
    "Authentication failed", "could not read Username", "could not read Password",
    "Permission denied (", "returned error: 401", "returned error: 403",
)  # fmt: skip
#: The keys of hosts as these publish them, at https://api.github.com/meta,
#: https://docs.gitlab.com/user/gitlab_com/ and https://bitbucket.org/site/ssh; seen 2026-11.
PUBLISHED = """\
github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl
github.com ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxk\
ZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=
gitlab.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAfuCHKVTjquxvt6CM6tdG4SLp1Btn/nOeHHE5UOzRdf
gitlab.com ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFSMqzJeV9rUzU4k\
WitGjeR4PWSa29SPqJ1fVkhtj3Hw9xjLVXVYrU9QlYWrOLXBpQ6KWjbjTDTdDkoohFzgbEY=
bitbucket.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIazEu89wgQZ4bqs3d63QSMzYVa0MuJ2e2gKTKqu+UUO
bitbucket.org ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBPIQmuzMBuKdW\
eF4+a2sjSSpBK0iqitSQ+5BM9KhpexuGt20JpTVM7u5BDZngncgrqDMbWdxMWWOGtZ9UgbqgZE=
"""


class Login:
    """What git logs in with.

    Attributes:
        user: the name, or "" for a key.
        password: the token; "" for a key.
        hosts: `https://host`, each with its port where it has one, that may have the token.
        key: a private key; "" for a token.
        known_hosts: lines about hosts that came with the key.
    """

    __slots__ = ("hosts", "key", "known_hosts", "password", "user")

    def __init__(self) -> None:
        self.user = self.password = self.key = self.known_hosts = ""
        self.hosts: list[str] = []

    def __repr__(self) -> str:
        return f"Login({'key' if self.key else 'token'})"


def understood(text: str, rigs: Iterable[str]) -> Login:
    """Return the login that a text is.

    It is one of: a token; what a git credential helper answers (`username=…`, `password=…`,
    perhaps `protocol=` and `host=`); a URL with user and password; or a private key, behind which
    lines of a `known_hosts` file may stand.

    Args:
        text: the text.
        rigs: the rig, and where work is pushed to when that is another place: their hosts alone
            are logged in at with a token that names none.

    Raises:
        UsageError: it is none; the message shows nothing of it.
    """
    if len(text) > MOST or "\0" in text:
        raise _none(f"it has a zero byte, or more than {MOST} characters")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise _none("it is empty")
    login, rigs = Login(), list(rigs)
    login.hosts = [host for host in map(_host, rigs) if host]
    by_ssh = any(map(_is_by_ssh, rigs))
    if any(line.startswith(_BEGIN) and "PRIVATE KEY" in line for line in lines):
        if login.hosts and not by_ssh:
            raise _none("it is a private key, and the rig is reached by https")
        _take_key(login, lines)
        return login
    if by_ssh and not login.hosts:
        raise _none("it is no private key, and the rig is reached by ssh")
    _take_token(login, lines)
    first = login.hosts[0].partition("://")[2].partition(":")[0] if login.hosts else ""
    login.user = login.user or _USERS.get(first, _USER)
    return login


def store(root: str, worker: str, text: str, rigs: Iterable[str]) -> str:
    """Keep a login for a worker, in the place of the one before; returns what `Git` is given.

    Whoever stores it removes it once the worker has ended and all that is to be pushed is
    (`remove`). What is stored again later, such as a fresh token, is used from then on.

    Args:
        root: the state root.
        worker: its id.
        text: what the login is, see `understood`.
        rigs: likewise.

    Raises:
        UsageError: it is no login, or the id is none.
        OSError: it could not be kept.
    """
    from outpost_core.types import split_worker_id

    split_worker_id(worker)
    login = understood(text, rigs)
    folder = os.path.join(root, LOGINS, worker)
    private.make(folder)
    about: dict[str, Any] = {"hosts": login.hosts, "key": bool(login.key)}
    at = plain.folder(folder)
    try:
        if login.key:
            known = PUBLISHED + login.known_hosts
            plain.replace(at, KNOWN_HOSTS, known.encode("utf-8", "surrogateescape"))
            plain.replace(at, KEY, login.key.encode("ascii", "surrogateescape"))
        else:
            about |= {"username": login.user, "password": login.password}
    finally:
        os.close(at)
    jsonfiles.store(folder, LOGIN, about)
    return os.path.join(folder, LOGIN)


def of_worker(root: str, worker: str) -> str:
    """Return the path of a worker's login, which `Git` is given; "" when it has none."""
    path = os.path.join(root, LOGINS, worker, LOGIN)
    return path if os.path.exists(path) else ""


def remove(root: str, worker: str) -> None:
    """Remove a worker's login; fine when there is none."""
    folder = os.path.join(root, LOGINS, os.path.basename(worker))
    if os.path.lexists(folder):
        from outpost_worker.system import removal

        removal.remove(folder)


def is_login(path: str) -> bool:
    """Whether a path is that of a login, and not of a file of git's credential store."""
    return os.path.basename(path) == LOGIN


def settings(path: str) -> tuple[list[str], dict[str, str]]:
    """Return settings and environment of a git that talks to a remote with a login.

    Neither says more than where the login is.

    Args:
        path: of a login.
    """
    about = jsonfiles.load(os.path.dirname(path), LOGIN) or {}
    argv = []
    for host in about.get("hosts", []) if not about.get("key") else []:
        # the first, empty one puts the user's own helpers aside, for this host alone
        argv += [f"credential.{host}.helper=", f"credential.{host}.helper={_helper(path)}"]
    return argv, ({"GIT_SSH_COMMAND": _ssh(os.path.dirname(path))} if about.get("key") else {})


def hint(said: str) -> str:
    """Return what to do where git could not log in; "" where that is not what it says.

    Args:
        said: what git and ssh have said.
    """
    if "Host key verification failed" in said:
        return (
            "let git_credentials print the host's line of a known_hosts file behind the key: see"
            " ssh-keyscan(1), and compare it with what the host publishes"
        )
    if any(word in said for word in _NO_LOGIN):
        return "look at git_credentials of the outpost: the remote does not take that login"
    return ""


def _helper(path: str) -> str:
    """Return our credential helper as git has it: a command for a shell."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "credentialhelper.py")
    return "!" + " ".join(map(_quoted, (sys.executable, "-I", "-S", program, path)))


def _ssh(folder: str) -> str:
    """Return the ssh that uses a key, as git has it: a command for a shell."""
    key, known = (os.path.join(folder, name).replace("%", "%%") for name in (KEY, KNOWN_HOSTS))
    options = ("IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=yes")
    words = ["ssh"]
    # `-i` would look for the file under the name with its percent signs doubled
    for option in (*options, f'IdentityFile="{key}"', f'UserKnownHostsFile="{known}"'):
        words += ["-o", option]
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _host(rig: str) -> str:
    """Return `https://host` of a rig, with its port; "" where nobody logs in with a token."""
    scheme, found, rest = split_rig(rig)[0].partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return ""
    return f"{scheme.lower()}://{rest.partition('/')[0].rpartition('@')[2].lower()}"


def _is_by_ssh(rig: str) -> bool:
    scheme, found, _ = rig.partition("://")
    return "ssh" in scheme.lower() if found else not rig.startswith("/")


def _take_token(login: Login, lines: list[str]) -> None:
    told = dict(line.partition("=")[::2] for line in lines if "=" in line)
    if told and told.keys() <= _SPOKEN and len(told) == len(lines):
        login.user, login.password = told.get("username", ""), told.get("password", "")
        if told.get("host"):
            login.hosts = [f"{told.get('protocol') or 'https'}://{told['host'].lower()}"]
    elif len(lines) == 1 and split_rig(lines[0])[1]:
        scheme, _, rest = split_rig(lines[0])[1].partition("://")
        user, _, machine = rest.rpartition("@")
        login.user, _, login.password = (_plain(part) for part in user.partition(":"))
        login.hosts = [f"{scheme.lower()}://{machine.lower()}"]
    elif len(lines) == 1 and "://" not in lines[0]:
        login.password = lines[0]
    else:
        raise _none("it is neither a token nor a key")
    for value in (login.user, login.password):
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise _none("it holds characters that no token has")
    if not login.password:
        raise _none("it has no password")


def _take_key(login: Login, lines: list[str]) -> None:
    ends = [n for n, line in enumerate(lines) if line.startswith(_END) and line.endswith("-----")]
    begins = [n for n, line in enumerate(lines) if line.startswith(_BEGIN)]
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0] or begins[0] > 0:
        raise _none("the private key in it is not whole, or not the first in it")
    key, known = lines[: ends[0] + 1], lines[ends[0] + 1 :]
    if not all(line.isascii() and line.isprintable() for line in lines):
        raise _none("the private key in it is not whole")
    for line in known:
        words = line.split()
        if not line.startswith("#") and len(words) < 3:
            raise _none(f"line {lines.index(line) + 1} is not one of a known_hosts file")
    login.key = "\n".join(key) + "\n"
    login.known_hosts = "".join(f"{line}\n" for line in known)


def _plain(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def _none(why: str) -> UsageError:
    return UsageError(
        f"git cannot log in with what was given: {why}",
        hint="give a token, username=… and password=… on a line each, or a private key, which"
        " lines of a known_hosts file may follow",
    )
