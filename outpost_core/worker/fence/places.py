"""Which places an agent may write, which it may only read, and which are hidden from it.

Everything can be read and nothing written, but for the rules below. The deepest rule for a path
counts. What is worth stealing or would be run by its user later is hidden or read-only; what
tools need to work (caches, an agent's own sessions) can be written.
"""

from __future__ import annotations

import os

from outpost_core.worker import files, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

HIDE = "hide"
READ = "read"
WRITE = "write"

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
    "": (".cache", ".ccache", ".claude.json"),
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
    "mcp-config.json", "hooks.json", "CLAUDE.md", "AGENTS.md", "GEMINI.md", "QWEN.md", "hooks",
    "commands", "agents", "skills", "plugins", "rules", "prompts", "extensions", "policies",
    "output-styles", "local", "bin",
)  # fmt: skip
_AGENTS = (".claude", ".codex", ".gemini", ".qwen", ".copilot", ".cursor")
#: Variables that say where such a folder is instead.
_AGENTS_ELSEWHERE = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "COPILOT_HOME")

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
#: use: sockets of terminals, of SSH agents, of editors; tickets.
_IN_TEMPORARY = (
    "tmux-", "ssh-", "screen-", "krb5cc", "vscode-", "dbus-", "emacs", "gpg-", "keyring-",
)  # fmt: skip
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are what is meant
#: Variables that name a folder for what is temporary or kept for speed.
_FOLDERS = (
    "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME", "PIP_CACHE_DIR", "UV_CACHE_DIR", "npm_config_cache",
    "YARN_CACHE_FOLDER", "GOCACHE", "GOMODCACHE", "CARGO_TARGET_DIR", "CCACHE_DIR",
)  # fmt: skip
#: Files of a folder for temporary files that are looked at, at most.
_MOST = 20_000


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

    def put(self, kind: str, paths: Iterable[str]) -> None:
        """Add a rule for each path that is there; a later one for the same path wins."""
        for path in paths:
            real = real_path(path)
            if real:
                self.by_path[real] = kind

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
            if kind != above[-1][1]:
                found.append((path, kind))
                above.append((path, kind))
        return found


def real_path(path: str) -> str:
    """Return the real path of something that is there, else ""; the kernel finds it, in one go."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith("/" if folder == "/" else f"{folder}/")


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
    found = Rules()
    homes = _homes(wanted.env)
    found.put(WRITE, (*_TEMPORARY, "/dev", "/run/lock", *_named(wanted.env, homes)))
    found.put(READ, homes)
    for home in homes:
        _make_missing(home, wanted.env)
        found.put(WRITE, _there(home, [path for paths in _TOOLS.values() for path in paths]))
    own = [path for home in homes for path in _there(home, _AGENTS)]
    own += [wanted.env[name] for name in _AGENTS_ELSEWHERE if wanted.env.get(name, "")[:1] == "/"]
    found.put(WRITE, [path for path in own if real_path(path) not in ("/", *homes)])
    if exact:
        found.put(
            READ, [f"{path}/{name}" for path in own if real_path(path) for name in _OF_ITS_USER]
        )
    found.put(READ, _programs(wanted.env))
    found.put(HIDE, _secrets(homes, wanted.env))
    for folder, names in _DOORS.items():
        found.put(HIDE, _there(folder, names))
    if exact:
        found.put(HIDE, _sockets(wanted.root, wanted.env))
    found.put(HIDE, [wanted.root, *wanted.settings.get("own", ())])
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
    try:
        first = set(os.listdir(folder))
    except OSError:
        return [f"{folder}/{name}" for name in names]
    return [f"{folder}/{name}" for name in names if name.partition("/")[0] in first]


def _named(env: Mapping[str, str], homes: list[str]) -> list[str]:
    """Return the folders that variables name, but for a home as a whole and the root."""
    named = [env[name] for name in _FOLDERS if env.get(name, "").startswith("/")]
    return [path for path in named if real_path(path) not in ("/", *homes)]


def _make_missing(home: str, env: Mapping[str, str]) -> None:
    folders = dict.fromkeys(part for part in env.get("PATH", "").split(":") if part[:1] == "/")
    for program, paths in _TOOLS.items():
        missing = [path for path in paths if not os.access(f"{home}/{path}", os.F_OK)]
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
    found.append(_tmux(_TEMPORARY[0], uid))
    for place in sockets.folders(root, env):
        sockets.claim(place)  # made now, so that it can be hidden
        found.append(place)
    for folder in _TEMPORARY:
        found += _of_user(folder, uid)
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


def _of_user(folder: str, uid: int) -> list[str]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count == _MOST:
                    break
                if entry.name.startswith(_IN_TEMPORARY) and entry.stat(
                    follow_symlinks=False
                ).st_uid in (uid, 0):
                    found.append(entry.path)
    except OSError:  # it went away
        pass
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
