"""Which places an agent may write, which it may only read, and which are hidden from it.

Everything can be read and nothing written, but for the rules below. The deepest rule for a path
counts. What is worth stealing or would be run by its user later is hidden or read-only; what
tools need to work (caches, an agent's own sessions) can be written.
"""

from __future__ import annotations

import os
import time
from stat import S_ISLNK

from outpost_worker.fence import looks
from outpost_worker.folder import files
from outpost_worker.system import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from outpost_worker.fence.looks import Looks

HIDE = "hide"
READ = "read"
WRITE = "write"
#: Written, and thrown away at the end: a copy of a file; a folder that is empty at first.
OWN = "own"
DEVICES = "/dev"

#: In a home: keys, passwords, logins of clouds, other people's mail and browsers.
_SECRET = (
    ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker/config.json", ".netrc", ".pgpass",
    ".my.cnf", ".mylogin.cnf", ".pypirc", ".git-credentials", ".config/git/credentials",
    ".config/gh", ".config/hub", ".config/glab-cli", ".config/gcloud", ".config/doctl",
    ".config/rclone", ".config/op", ".config/1Password", ".config/Bitwarden", ".config/sops",
    ".config/containers/auth.json", ".config/helm/registry", ".config/fly", ".fly", ".oci",
    ".s3cfg", ".boto", ".vault-token", ".terraform.d/credentials.tfrc.json", ".terraformrc",
    ".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".password-store",
    ".local/share/keyrings", ".local/share/kwalletd", ".mozilla", ".thunderbird",
    ".config/google-chrome", ".config/chromium", ".config/BraveSoftware", ".config/microsoft-edge",
    ".config/vivaldi", ".config/Signal", ".config/Slack", ".config/discord", "snap",
    ".var/app", ".Xauthority", ".ICEauthority", ".bash_history", ".zsh_history",
    ".local/share/fish/fish_history", ".psql_history", ".mysql_history",
    # Outpost's own: configuration, ledger, keepers, the far side's package
    ".config/outpost", ".local/state/outpost", ".local/share/outpost", ".cache/outpost",
)  # fmt: skip

#: In a home: what tools and agents write while they work, and which nobody runs from there.
_TOOLS: dict[str, tuple[str, ...]] = {
    "": (".cache", ".ccache"),
    "npm": (".npm", ".node-gyp"),
    "pnpm": (".local/share/pnpm/store", ".local/state/pnpm"),
    "yarn": (".yarn/berry",),
    "bun": (".bun/install/cache",),
    "cargo": (".cargo/registry", ".cargo/git"),
    "go": ("go/pkg",),
    "java": (".m2/repository", ".gradle/caches", ".gradle/daemon", ".gradle/native"),
    "gradle": (".gradle/wrapper", ".gradle/notifications", ".gradle/.tmp"),
    "dotnet": (".nuget/packages", ".dotnet/TelemetryStorageService"),
    "bundle": (".bundle/cache",),
    "composer": (".composer/cache",),
    "claude": (".claude",),
    "codex": (".codex",),
    "gemini": (".gemini",),
    "opencode": (".local/share/opencode", ".local/state/opencode"),
    "goose": (".local/share/goose", ".local/state/goose"),
    "amp": (".local/share/amp",),
    "qwen": (".qwen",),
    "copilot": (".copilot",),
    "cursor-agent": (".cursor",),
}
#: Made where they are missing, before any agent asks: every other tool here uses it.
_ALWAYS = ".cache"

#: In a folder of an agent: what makes it run commands, or tells it what to do, in its user's own
#: sessions.
_OF_ITS_USER = (
    "settings.json", "settings.local.json", "config.toml", "config.json", "mcp.json",
    "mcp-config.json", "hooks.json", "cli-config.json", "CLAUDE.md", "AGENTS.md",
    "AGENTS.override.md", "GEMINI.md", "QWEN.md", ".env", "argv.json", "hooks",
    "commands", "agents", "skills", "plugins", "rules", "prompts", "extensions", "policies",
    "output-styles", "local", "bin",
)  # fmt: skip
#: Of these, what has an effect as soon as somebody makes it, with the content that has none; a
#: folder has none.
_MADE: dict[str, dict[str, bytes | None]] = {
    ".claude": {
        "settings.json": b"{}\n", "CLAUDE.md": b"", "commands": None, "agents": None,
        "skills": None, "plugins": None, "output-styles": None, "rules": None, "hooks": None,
    },
    ".codex": {
        "config.toml": b"", "AGENTS.md": b"", "AGENTS.override.md": b"", "prompts": None,
        "rules": None, "skills": None, "hooks": None, ".env": b"",
    },
    ".gemini": {
        "settings.json": b"{}\n", "GEMINI.md": b"", "commands": None, "extensions": None,
        "policies": None, "skills": None, "agents": None, ".env": b"",
    },
    ".qwen": {
        "settings.json": b"{}\n", "QWEN.md": b"", "commands": None, "extensions": None,
        "skills": None, "agents": None, ".env": b"",
    },
    ".copilot": {
        "mcp-config.json": b'{"mcpServers": {}}\n', "agents": None, "skills": None, "hooks": None,
    },
    ".cursor": {
        "mcp.json": b'{"mcpServers": {}}\n', "hooks.json": b'{"version": 1, "hooks": {}}\n',
        "commands": None, "rules": None, "skills": None, "hooks": None,
    },
}  # fmt: skip
_AGENTS = (".claude", ".codex", ".gemini", ".qwen", ".copilot", ".cursor")
#: Variables that say where such a folder is instead.
_AGENTS_ELSEWHERE = {
    "CLAUDE_CONFIG_DIR": ".claude", "CODEX_HOME": ".codex", "GEMINI_CLI_HOME": ".gemini",
    "COPILOT_HOME": ".copilot",
}  # fmt: skip
#: In the folder of an agent, or beside it: what its user's own sessions run while they are open, or
#: take commands from, and what it must be able to write.
_OF_SESSIONS = {".claude": ("shell-snapshots", "session-env", ".claude.json")}
#: Beginnings of what shells keep in a cache to run it when they start.
_OF_SHELLS = (
    "p10k-", "gitstatus", "zcompdump", "zsh", "oh-my-zsh", "antidote", "antigen", "zinit",
    "zplug", "sheldon", "prezto", "starship", "fish", "carapace", "direnv",
)  # fmt: skip

#: Of the whole machine: doors to more rights, and root's own secrets.
_DOORS = {
    "/run": (
        "docker.sock", "docker", "containerd", "podman", "crio", "buildkit", "k3s",
        "dbus/system_bus_socket", "systemd/private", "snapd.socket", "snapd-snap.socket",
        "libvirt", "tailscale", "udev/control", "initctl", "tmux", "screen", "uuidd", "secrets",
        "lxd-installer.socket", "cloud-init", "gssproxy.sock", "pcscd",
    ),
    "/var": (
        "lib/lxd", "lib/incus", "lib/docker", "lib/kubelet", "lib/rancher", "lib/cloud",
    ),
    "/etc": (
        "shadow", "shadow-", "gshadow", "gshadow-", "ssl/private", "kubernetes", "sudoers",
        "sudoers.d", "krb5.keytab", "ssh/ssh_host_rsa_key", "ssh/ssh_host_ecdsa_key",
        "ssh/ssh_host_ed25519_key",
    ),
}  # fmt: skip
#: Beginnings of what programs put into the folders for temporary files and only their user should
#: use: sockets of terminals, of SSH agents, of editors; pendings.
_IN_TEMPORARY = (
    "tmux-", "ssh-", "screen-", "krb5cc", "vscode-", "dbus-", "emacs", "gpg-", "keyring-",
)  # fmt: skip
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are what is meant
#: Variables that name a folder for what is temporary or kept for speed.
_FOLDERS = (
    "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME", "PIP_CACHE_DIR", "UV_CACHE_DIR", "npm_config_cache",
    "YARN_CACHE_FOLDER", "GOCACHE", "GOMODCACHE", "CARGO_TARGET_DIR", "CCACHE_DIR",
)  # fmt: skip
#: Variables that the rules which fences have in common depend on.
_OF_USE = (
    "HOME", "PATH", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", *_FOLDERS,
    *_AGENTS_ELSEWHERE,
)  # fmt: skip
#: Seconds between two times that these rules are found for later; and how many are kept.
_OFTEN = 1.0
_MOST_KEPT = 8


class Wanted:
    """What a fence is to be made for.

    Args:
        folder: the worker's folder.
        root: the state root.
        env: the agent's environment.
        rig: URL or path of the repository, or None.
        settings: `fence` of `launch.json`: `mode`, lists of paths that are Outpost's `own`, to
            `hide`, to `show` and to `write`, and the path of the `config`.
    """

    __slots__ = ("env", "folder", "rig", "root", "settings")

    def __init__(
        self,
        folder: str,
        root: str,
        env: Mapping[str, str],
        rig: str | None,
        settings: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.root = root
        self.env = env
        self.rig = rig
        self.settings = settings


class Rules:
    """Rules by path: real paths that exist."""

    def __init__(self) -> None:
        self.by_path: dict[str, str] = {}
        self._by_link: set[str] = set()

    def copy(self) -> Rules:
        """Return the same rules, to be added to."""
        made = Rules()
        made.by_path = dict(self.by_path)
        made._by_link = set(self._by_link)
        return made

    def put(self, kind: str, paths: Iterable[str]) -> None:
        """Add a rule for each path that is there; a later one for the same path wins."""
        for path in paths:
            real = real_path(path)
            if real:
                self.by_path[real] = kind
                (self._by_link.discard if real == path else self._by_link.add)(real)

    def hide(self, paths: Iterable[str]) -> None:
        """Hide each path, also from rules that were made for a link to something in it."""
        found = [real for real in map(real_path, paths) if real]
        self.by_path.update(dict.fromkeys(found, HIDE))
        self._by_link.difference_update(found)
        hidden = tuple(f"{path}/" for path in found)
        for path in [path for path in self._by_link if path.startswith(hidden)]:
            if self.by_path[path] != HIDE:
                del self.by_path[path]
                self._by_link.discard(path)

    def show(self, path: str) -> None:
        """Let a path and all below it be read."""
        real = real_path(path)
        if not real:
            return
        for other in [*self.by_path]:
            if (other == real or other.startswith(f"{real}/")) and self.by_path[other] == HIDE:
                del self.by_path[other]
        self.put(READ, [real])

    def listed(self) -> list[tuple[str, str]]:
        """Return path and kind of those that change something, each after what it lies in."""
        found: list[tuple[str, str]] = []
        above: list[tuple[str, str]] = [("/", READ)]
        for path in sorted(self.by_path, key=lambda path: path.split("/")):
            kind = self.by_path[path]
            while not _inside(path, above[-1][0]):
                above.pop()
            outer, around = above[-1]
            if kind == around:
                continue
            if around == WRITE:
                for between in _between(outer, path):
                    found.append((between, WRITE))
                    above.append((between, WRITE))
            found.append((path, kind))
            above.append((path, kind))
        return found


def real_path(path: str) -> str:
    """Return the real path of something that is there, else ""; the kernel finds it, in one go."""
    looks.note(path)
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if real != path:
        looks.note(real)
    return real


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith("/" if folder == "/" else f"{folder}/")


def _between(outer: str, path: str) -> list[str]:
    """Return the folders in one and above a path in it, the outermost first."""
    found = []
    while (path := os.path.dirname(path)) != outer:
        found.append(path)
    return found[::-1]


def rules(wanted: Wanted, *, exact: bool = True) -> list[tuple[str, str]]:
    """Return the paths with a rule of their own, each after what it lies in.

    Args:
        wanted: what the fence is for.
        exact: nothing can be made in a folder in which something is hidden or read-only, when this
            is false: what an agent must be able to write is then writable as a whole, but for what
            we run ourselves.

    Folders of tools that are installed and have none yet are made, since nothing can be made in a
    home that is read-only.
    """
    found, homes = _usual(wanted.env, exact=exact)
    if exact:
        found.hide(_sockets(wanted.root, wanted.env))
    found.hide([wanted.root, *wanted.settings.get("own", ())])
    if exact:
        found.put(READ, [wanted.settings.get("config") or "/"])
    if wanted.rig:
        path = wanted.rig.removeprefix("file://")
        found.put(READ, [path] if path.startswith("/") else ())
    _take_settings(found, wanted.settings, homes)
    found.put(READ, _borrowed(wanted))
    found.put(
        WRITE,
        (os.path.join(wanted.folder, files.WORK), os.path.join(wanted.folder, files.EXCHANGE)),
    )
    return found.listed()


#: What fences have in common, by the variables that it depends on: see `remember`.
_kept: dict[tuple[str | None, ...], tuple[Looks, Rules, list[str]]] = {}


def remember(env: Mapping[str, str]) -> None:
    """Find what the fences of agents have in common, for the processes that this one will fork.

    It is looked at again before it is used. While it changes all the time, each finds it itself.

    Args:
        env: the environment that agents get.
    """
    key = _depends_on(env)
    kept = _kept.get(key)
    if kept is not None and (kept[0].hold() or time.monotonic() < kept[0].at + _OFTEN):
        return
    if kept is None and len(_kept) >= _MOST_KEPT:
        _kept.clear()
    seen = looks.start()
    try:
        found, homes = _find_usual(env, exact=True)
    finally:
        looks.stop()
    if seen.keep():
        _kept[key] = seen, found, homes


def _depends_on(env: Mapping[str, str]) -> tuple[str | None, ...]:
    return tuple([env.get(name) for name in _OF_USE])


def _usual(env: Mapping[str, str], *, exact: bool) -> tuple[Rules, list[str]]:
    """Return the rules that depend on nothing but the user and the agent's environment, and the
    homes.
    """
    kept = _kept.get(_depends_on(env)) if exact and _kept else None
    if kept is not None and kept[0].hold():
        return kept[1].copy(), kept[2]
    return _find_usual(env, exact=exact)


def _find_usual(env: Mapping[str, str], *, exact: bool) -> tuple[Rules, list[str]]:
    found = Rules()
    homes = _homes(env)
    found.put(WRITE, (*TEMPORARY, "/run/lock", *_named(env, homes)))
    if not exact:  # a device can be written in a folder that is only read, but for Landlock
        found.put(WRITE, [DEVICES])
    found.put(READ, homes)
    for home in homes:
        _make_missing(home, env)
        found.put(WRITE, _there(home, [path for paths in _TOOLS.values() for path in paths]))
    _put_agents(found, homes, env, exact=exact)
    found.put(READ, _programs(env))
    found.hide(_secrets(homes, env))
    for folder, names in _DOORS.items():
        found.hide(_there(folder, names))
    return found, homes


def _put_agents(found: Rules, homes: list[str], env: Mapping[str, str], *, exact: bool) -> None:
    """Let the folders of agents be written, but for what is their user's own in them."""
    own = {path: os.path.basename(path) for home in homes for path in _there(home, _AGENTS)}
    for name, agent in _AGENTS_ELSEWHERE.items():
        if env.get(name, "")[:1] == "/":
            own[env[name]] = agent
    found.put(WRITE, [path for path in own if real_path(path) not in ("/", *homes)])
    beside = [f"{home}/.claude.json" for home in homes]
    if not exact:
        found.put(WRITE, beside)
        return
    found.put(OWN, beside)
    for path, agent in own.items():
        found.put(READ, _of_its_user(path, agent))
        inside = [f"{path}/{name}" for name in _OF_SESSIONS.get(agent, ())]
        found.put(OWN, [name for name in inside if not os.path.islink(name)])
    for home in homes:
        cache = env.get("XDG_CACHE_HOME") or f"{home}/.cache"
        found.put(READ, _named_so(cache, _OF_SHELLS))
        try:  # what an SSH host runs lies there: made now, so that it can be hidden
            os.mkdir(f"{cache}/outpost", 0o700)
        except OSError:
            continue


def _homes(env: Mapping[str, str]) -> list[str]:
    """Return the real homes: what the system says, and what the agent will be told."""
    found = [env.get("HOME", "")]
    try:
        import pwd

        found.append(pwd.getpwuid(os.getuid()).pw_dir)
    except (ImportError, KeyError):
        pass
    real = [real_path(home) for home in dict.fromkeys(found) if home.startswith("/")]
    return [home for home in dict.fromkeys(real) if home not in ("", "/")]


def _there(folder: str, names: Iterable[str]) -> list[str]:
    """Return the paths of those names in a folder that may be there: one look in place of many."""
    looks.note(f"{folder}/.")
    try:
        first = set(os.listdir(folder))
    except OSError:
        return [f"{folder}/{name}" for name in names]
    return [f"{folder}/{name}" for name in names if name.partition("/")[0] in first]


def _named(env: Mapping[str, str], homes: list[str]) -> list[str]:
    """Return the folders that variables name, but for a home as a whole and the root."""
    named = [env[name] for name in _FOLDERS if env.get(name, "").startswith("/")]
    # among temporary files, another agent can have put a link there
    usual = [p for p in named if not p.startswith(TEMPORARY) or real_path(p) == p.rstrip("/")]
    return [path for path in usual if real_path(path) not in ("/", *homes)]


def _make_missing(home: str, env: Mapping[str, str]) -> None:
    folders = dict.fromkeys(part for part in env.get("PATH", "").split(":") if part[:1] == "/")
    for part in folders:
        looks.note(f"{part}/.")
    for program, paths in _TOOLS.items():
        missing = [path for path in paths if not os.access(f"{home}/{path}", os.F_OK)]
        for path in paths:
            looks.note(f"{home}/{path}")
        if not missing:
            continue
        if program and not any(os.access(f"{part}/{program}", os.X_OK) for part in folders):
            continue
        for path in missing:
            if program or path == _ALWAYS:
                try:  # noqa: SIM105 - contextlib would have to be imported
                    os.makedirs(f"{home}/{path}", 0o700)
                except OSError:  # not our home, or a full disk: the tool says so itself
                    pass


def _of_its_user(folder: str, agent: str) -> list[str]:
    """Return what is its user's own in the folder of an agent, as `.claude`.

    What is missing is made, with nothing in it: nothing can be kept from being made otherwise. A
    link is left alone, since another agent may have put it there to have a rule made elsewhere.
    """
    links = _links(folder)
    if links is None:
        return []
    for name, text in _MADE[agent].items():
        if name in links:
            continue
        path = f"{folder}/{name}"
        try:
            if text is None:
                os.mkdir(path, 0o700)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                fd = os.open(path, flags, 0o600)
                os.write(fd, text)
                os.close(fd)
        except FileExistsError:  # made by another worker's supervisor at this moment
            links[name] = os.path.islink(path)
        except OSError:  # nobody can make it
            continue
        else:
            links[name] = False
    return [f"{folder}/{name}" for name in _OF_ITS_USER if links.get(name) is False]


def _links(folder: str) -> dict[str, bool] | None:
    """Return of each name in a folder whether it is a link; None for a folder that is not there."""
    looks.note(f"{folder}/.")
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries}
    except OSError:
        return None


def _programs(env: Mapping[str, str]) -> list[str]:
    """Return the folders of what others run: what is on PATH, and Outpost's own files."""
    import sys

    path = [part for part in env.get("PATH", "").split(":") if part.startswith("/")]
    package = os.path.dirname(os.path.dirname(files.__file__))
    return [*dict.fromkeys(path), sys.prefix, sys.base_prefix, package]


def _secrets(homes: list[str], env: Mapping[str, str]) -> list[str]:
    found = [path for home in homes for path in _there(home, _SECRET)]
    for name, beginning in (
        ("XDG_CONFIG_HOME", ".config/"),
        ("XDG_STATE_HOME", ".local/state/"),
        ("XDG_DATA_HOME", ".local/share/"),
        ("XDG_CACHE_HOME", ".cache/"),
    ):
        base = env.get(name) or os.environ.get(name, "")
        if base.startswith("/"):
            found += [
                os.path.join(base, path[len(beginning) :])
                for path in _SECRET
                if path.startswith(beginning)
            ]
    return found


def _sockets(root: str, env: Mapping[str, str]) -> list[str]:
    """Return sockets and their folders through which more could be done than the agent may."""
    uid = os.getuid()
    found = [f"/run/user/{uid}"]
    for variables in (env, os.environ):
        runtime = variables.get("XDG_RUNTIME_DIR", "")
        found += [runtime] if runtime.count("/") > 1 else []
        found += [variables.get("XAUTHORITY", ""), variables.get("TMUX", "").partition(",")[0]]
        agent = variables.get("SSH_AUTH_SOCK", "")
        folder = os.path.dirname(agent)
        # a folder that `ssh-agent` or `sshd` made for it, or the socket by itself
        found.append(folder if os.path.basename(folder).startswith("ssh-") else agent)
        for temporary in (variables.get("TMUX_TMPDIR", ""), variables.get("TMPDIR", "")):
            if temporary.startswith("/"):
                found.append(_tmux(temporary, uid))
    found.append(_tmux(TEMPORARY[0], uid))
    for place in sockets.folders(root, env):
        sockets.claim(place)  # made now, so that it can be hidden
        found.append(place)
    for folder in TEMPORARY:
        found += _named_so(folder, _IN_TEMPORARY)
    try:  # noqa: SIM105 - contextlib would have to be imported
        found += [f"/tmp/.X11-unix/{name}" for name in os.listdir("/tmp/.X11-unix")]  # noqa: S108
    except OSError:
        pass
    return [path for path in found if path.startswith("/")]


def _tmux(folder: str, uid: int) -> str:
    """Return where tmux has its sockets; made now, as tmux makes it, so that it can be hidden."""
    path = os.path.join(folder, f"tmux-{uid}")
    try:  # noqa: SIM105 - contextlib would have to be imported
        os.mkdir(path, 0o700)
    except OSError:
        pass
    return path


def _named_so(folder: str, beginnings: tuple[str, ...]) -> list[str]:
    """Return this user's files and folders in a folder whose names begin so.

    Links are passed over: what they lead to is not for an agent to choose that put them there.
    """
    mine = (os.getuid(), 0)
    found = []
    looks.note(f"{folder}/.")
    try:
        names = [name for name in os.listdir(folder) if name.startswith(beginnings)]
    except OSError:  # there is no such folder
        return []
    for name in names:
        try:
            about = os.lstat(f"{folder}/{name}")
        except OSError:  # it went away
            continue
        if about.st_uid in mine and not S_ISLNK(about.st_mode):
            found.append(f"{folder}/{name}")
    return found


def _borrowed(wanted: Wanted) -> list[str]:
    """Return the folders of objects that the worker's repository borrows."""
    found: list[str] = []
    todo = [os.path.join(wanted.folder, files.WORK, ".git", "objects")]
    while todo and len(found) < 64:
        objects = todo.pop()
        try:
            with open(os.path.join(objects, "info", "alternates"), encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            path = real_path(os.path.join(objects, line)) if line else ""
            if path and path not in found:
                found.append(path)
                todo.append(path)
    return found


def _take_settings(found: Rules, settings: Mapping[str, Any], homes: list[str]) -> None:
    for kind in ("show", "write", "hide"):
        for text in settings.get(kind) or ():
            if text == "~" or text.startswith("~/"):
                paths = [home + text[1:] for home in homes]
            else:
                paths = [text]
            for path in paths:
                if kind == "show":
                    found.show(path)
                else:
                    found.put(WRITE if kind == "write" else HIDE, [path])
