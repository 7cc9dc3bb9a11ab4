"""Programs that we start: where they are, and what of the caller's environment they get."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
#: A repository that nobody can make: with it, git asks remotes without any repository's settings.
NOWHERE = "/dev/null"
#: Which of the caller's GIT_* variables stay: how to reach remotes, and which configuration.
_KEPT = ("GIT_SSH", "GIT_SSL_", "GIT_PROXY_", "GIT_HTTP_", "GIT_CONFIG_", "GIT_EXEC_PATH")
#: What of the caller's environment a git gets that reads this machine alone.
_LOCAL = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "SHELL", "TERM", "TZ", "TMPDIR")
_LOCAL_BEGINNINGS = ("LC_", "XDG_", "LD_", "DYLD_", "FAKETIME")
_PASSED = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "SHELL", "TZ", "TMPDIR",
        "SSH_AUTH_SOCK", "TERM", "COLORTERM", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
        "http_proxy", "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
        "OUTPOST_GIT_RETRY", "OUTPOST_GIT_TIMEOUT", "OUTPOST_PR_TIMEOUT",
    }
)  # fmt: skip
_PASSED_BEGINNINGS = ("LC_", "XDG_")
#: What our own processes need that live on when a command has ended. Whoever may look at them can
#: read their environment as long as they live, so nothing that may be a secret is among it: no
#: proxy with a password in its URL, no way to an agent of keys. What git and the agent need besides
#: is in `launch.json`.
_OWN = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "SHELL", "TZ", "TMPDIR",
        "OUTPOST_GIT_RETRY", "OUTPOST_GIT_TIMEOUT", "OUTPOST_PR_TIMEOUT",
    }
)  # fmt: skip


def outside(path: str) -> str:
    """Return a PATH without what lies below the current folder, for programs of ours.

    They run in folders that an agent has written: `./node_modules/.bin`, `.` or an empty part
    there would have its programs run in place of git, after its end and beyond its fence.
    """
    kept = [part for part in path.split(":") if part.startswith("/")]
    return ":".join(kept) or _DEFAULT_PATH


def find(program: str, env: Mapping[str, str], folder: str) -> str:
    """Return the path of a program as a shell in `folder` with that environment would find it.

    Raises:
        FileNotFoundError: it is nowhere.
        PermissionError: it is there, but is not executable.
    """
    if "/" in program:
        places = [program]
    else:
        path = env.get("PATH") or _DEFAULT_PATH
        places = [os.path.join(part, program) for part in path.split(":")] if program else []
    found = False
    for place in places:
        path = os.path.join(folder, place)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
        found = found or os.path.exists(path)
    if found:
        raise PermissionError(errno.EACCES, "it cannot be executed", program)
    raise FileNotFoundError(errno.ENOENT, "there is no such command", program)


def git_env(environ: Mapping[str, str], *, remote: bool = True) -> dict[str, str]:
    """Return the environment of our git commands: the caller's, with nothing that redirects git.

    Args:
        environ: the caller's.
        remote: the command talks to a remote, so that ssh and credential helpers get what they
            may need of it. Any other gets what git itself needs, so that no key of the caller is
            in a process that reads what others have written, and can reach no remote.
    """
    env = {
        name: value
        for name, value in environ.items()
        if (name.startswith(_KEPT) if name.startswith("GIT_") else remote or _is_local(name))
    }
    if not remote:
        env["GIT_ALLOW_PROTOCOL"] = "none"
    env.update(
        PATH=outside(env.get("PATH", "")),
        GIT_TERMINAL_PROMPT="0",
        GIT_ASKPASS="",
        SSH_ASKPASS_REQUIRE="never",
        GIT_OPTIONAL_LOCKS="0",
        # history is what the objects say: not what a repository has put in their place, and
        # nothing is fetched from wherever it names because something is missing
        GIT_NO_REPLACE_OBJECTS="1",
        GIT_GRAFT_FILE=f"{NOWHERE}/grafts",
        GIT_NO_LAZY_FETCH="1",
        LC_ALL="C",
    )
    return env


def _is_local(name: str) -> bool:
    return name in _LOCAL or name.startswith(_LOCAL_BEGINNINGS)


def base_env(environ: Mapping[str, str], pass_env: Sequence[str] = ()) -> dict[str, str]:
    """Return what of the caller's environment every agent gets.

    Args:
        environ: the caller's.
        pass_env: names of further variables to pass.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in _PASSED or name.startswith(_PASSED_BEGINNINGS) or name in pass_env
    }


def own_env(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of the caller's environment our own long-lived processes get.

    Args:
        environ: the caller's.
    """
    return {
        name: value for name, value in environ.items() if name in _OWN or name.startswith("LC_")
    }
