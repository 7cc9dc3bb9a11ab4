"""What git says of the folder that a user stands in: the repository around it, where its work is
pushed, who the user is.

A failure of git is never taken for "no repository": only git's own word that there is none counts.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.errors import UsageError
from outpost_core.names import check_rig, redact
from outpost_shared.programs import git_env

#: Seconds for one question to git, all of which read this machine's disk alone.
PATIENCE: Final = 10.0
#: A repository that somebody has sent may name programs of its own; asking it runs none of them.
_SETTINGS: Final = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"),
    *("-c", "core.alternateRefsCommand=true", "-c", "gc.auto=0", "-c", "maintenance.auto=false"),
)
#: Seconds for which answers are taken again: the orders of one command ask the same.
_FRESH: Final = 1.0
_WITHOUT: Final = "--no-rig runs it in an empty folder, without a repository"
_NONE: Final = "not a git repository (or any"
_COUNT: Final = "GIT_CONFIG_COUNT"
_SECRET: Final = ("TOKEN", "SECRET", "PASS")


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a git command ended.

    Args:
        code: its exit code.
        out: what it printed, without the last newline.
        err: what it said on standard error.
    """

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The lines of its errors that say the cause."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        marked = [line for line in lines if line.startswith(("fatal:", "error:"))]
        return redact("; ".join((marked or lines)[:3]) or f"git ended with {self.code}")[:400]


@dataclass(frozen=True, kw_only=True)
class Around:
    """The repository around a folder.

    Args:
        top: its working tree, or a bare repository itself.
        rig: where orders from here are fetched from: the URL or path of `origin`, else `top`.
        push: where work from here is pushed, when that is not `rig`.
    """

    top: Path
    rig: str
    push: str = ""


def git(
    folder: Path,
    *words: str,
    patience: float = PATIENCE,
    remote: bool = False,
    own: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Done:
    """Run git in a folder and return how it ended.

    Nothing runs that the repository there names (hooks, monitors of its files, how a remote is
    reached), and no key out of the environment gets there.

    Args:
        folder: where.
        words: the command.
        patience: seconds that it may take.
        remote: it may talk to a remote, with the user's whole environment.
        own: what the user asked for in a clone of their own: it is as if they had typed it.
        settings: further settings by key, which go before all others.

    Raises:
        UsageError: git is missing, or does not answer in time.
    """
    env = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    if not own:
        here = {name: value for name, value in os.environ.items() if _is_for_git(name)}
        env = {**here, **git_env(os.environ, remote=remote)}
    count = int(env.get(_COUNT, "0") or 0) if settings else 0
    for key, value in (settings or {}).items():
        env |= {f"GIT_CONFIG_KEY_{count}": key, f"GIT_CONFIG_VALUE_{count}": value}
        count += 1
        env[_COUNT] = str(count)
    argv = ["git", "-C", str(folder), *(() if own else _SETTINGS), *words]
    try:
        done = subprocess.run(
            argv,
            capture_output=True, encoding="utf-8", errors="surrogateescape", timeout=patience,
            check=False, stdin=subprocess.DEVNULL, cwd="/", env=env,
        )  # fmt: skip
    except FileNotFoundError:
        raise UsageError(
            "git is not found here, so nobody can tell which repository this folder is in",
            hint=f"install git; {_WITHOUT}",
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"git did not answer within {patience:g} s in {folder}",
            hint=f"see to the disk of that folder; {_WITHOUT}",
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"git cannot be run in {folder}: {error}", hint=_WITHOUT) from None
    return Done(code=done.returncode, out=done.stdout.removesuffix("\n"), err=done.stderr)


def _is_for_git(name: str) -> bool:
    return name.startswith("GIT_") and not any(word in name for word in _SECRET)


def unreadable(folder: Path, done: Done) -> UsageError:
    """Return the error to raise for a folder about which git says something unexpected."""
    if "dubious ownership" in done.err:
        at = done.err.partition(" at '")[2].partition("'")[0] or str(folder)
        hint = f"when you trust it: git config --global --add safe.directory {at}"
    elif "bad config" in done.err:
        hint = "correct that line; git config --list says when it can be read again"
    else:
        hint = f"git -C {folder} status shows it; {_WITHOUT}"
    return UsageError(f"git cannot use the repository of {folder}: {done.words}", hint=hint)


class LocalGit:
    """Asks git about one folder; answers are kept for a second.

    Args:
        cwd: the folder.
        environ: the user's environment, which may say who the user is.
    """

    def __init__(self, cwd: Path, environ: Mapping[str, str]) -> None:
        self.cwd = cwd
        self._environ = environ
        self._config: tuple[float, dict[str, list[str]] | UsageError] = (0.0, {})
        self._filters: dict[str, str] = {}
        self._around: tuple[float, Around | UsageError | None] = (0.0, None)

    def around(self) -> Around | None:
        """Return the repository around the folder; None when git says that there is none.

        Raises:
            UsageError: git cannot say, or nothing can be pushed from there.
        """
        asked, answer = self._around
        if not asked or time.monotonic() - asked > _FRESH:
            try:
                answer = self._look()
            except UsageError as error:
                answer = error
            self._around = time.monotonic(), answer
        if isinstance(answer, UsageError):
            raise answer
        return answer

    def identity(self) -> tuple[str, str]:
        """Return the name and e-mail address that the user's own commits have; "" for unknown."""
        try:
            config = self.config()
        except UsageError:
            config = {}
        found = []
        for key in ("name", "email"):
            said = self._environ.get(f"GIT_AUTHOR_{key.upper()}")
            told = config.get(f"author.{key}") or config.get(f"user.{key}") or [""]
            value = (said or told[-1]).strip()
            plain = value.isprintable() and not set(value) & set("<>") and len(value) <= 200
            found.append(value if plain else "")
        return found[0], found[1]

    def config(self) -> dict[str, list[str]]:
        """Return git's whole configuration as seen from the folder: values by lower-case key.

        Raises:
            UsageError: git cannot read it.
        """
        asked, answer = self._config
        if not asked or time.monotonic() - asked > _FRESH:
            answer = self._read_config()
            self._config = time.monotonic(), answer
        if isinstance(answer, UsageError):
            raise answer
        return answer

    def without_filters(self) -> dict[str, str]:
        """Return settings with which no filter is run that the repository itself names.

        Raises:
            UsageError: git cannot read its configuration.
        """
        self.config()
        return self._filters

    def _read_config(self) -> dict[str, list[str]] | UsageError:
        try:
            done = git(self.cwd, "config", "--list", "--show-scope", "-z")
        except UsageError as error:
            return error
        if done.code:
            return unreadable(self.cwd, done)
        found: dict[str, list[str]] = {}
        told = done.out.split("\0")
        self._filters = {}
        for scope, entry in zip(told[::2], told[1::2], strict=False):
            key, _, value = entry.partition("\n")
            found.setdefault(key, []).append(value)
            if scope in ("local", "worktree") and key.startswith("filter."):
                name = key.rpartition(".")[0]
                self._filters |= {f"{name}.{what}": "" for what in ("clean", "process")}
                self._filters[f"{name}.required"] = "false"
        return found

    def _look(self) -> Around | None:
        if not self.cwd.is_dir():
            raise UsageError(
                f"the current folder, {self.cwd}, is not there any more",
                hint=f"cd to one that is; --rig names a repository, {_WITHOUT}",
            )
        asked = ("--is-bare-repository", "--absolute-git-dir", "--show-toplevel")
        done = git(self.cwd, "rev-parse", *asked)
        told = done.out.split("\n")
        bare = told[0] == "true" and len(told) >= 2
        if done.code and not bare:
            if _NONE not in done.err:
                raise unreadable(self.cwd, done)
            self._refuse_broken(None)
            return None
        top = Path(told[1] if bare else told[2])
        if not bare:
            self._refuse_broken(top)
        rig = self._fetched_from(top)
        return Around(top=top, rig=rig, push=self._pushed_to(top, rig))

    def _refuse_broken(self, top: Path | None) -> None:
        """Refuse a folder below something that is called `.git` and that git passed over."""
        if "GIT_DIR" in self._environ:
            return
        here = Path(os.path.realpath(self.cwd))
        for folder in (here, *here.parents):
            if top is not None and os.path.realpath(top) == str(folder):
                return
            if os.path.lexists(folder / ".git"):
                raise UsageError(
                    f"{folder / '.git'} is there, and git does not take it for a repository",
                    hint=f"git -C {folder} status; --rig names another one; {_WITHOUT}",
                )

    def _fetched_from(self, top: Path) -> str:
        config = self.config()
        urls = config.get("remote.origin.url")
        if urls and _rewrites(config):
            done = git(self.cwd, "remote", "get-url", "origin")
            urls = done.out.split("\n") if not done.code else urls
        return find_rig(urls[0] if urls else str(top), top)

    def _pushed_to(self, top: Path, rig: str) -> str:
        """Return where `git push` would send work, when that is not the rig; else ""."""
        config = self.config()
        remote = self._push_remote(config)
        urls = config.get(f"remote.{remote}.pushurl") or []
        known = urls or config.get(f"remote.{remote}.url")
        if remote == "origin" and not (known and (urls or _rewrites(config))):
            return ""
        if known:
            done = git(self.cwd, "remote", "get-url", "--push", "--all", remote)
            if done.code:
                raise unreadable(self.cwd, done)
            urls = done.out.split("\n")
        else:
            urls = [remote]  # git takes it for a URL or a path
        for url in urls:
            try:
                push = find_rig(url, top)
            except UsageError as error:
                raise UsageError(
                    f"nothing is to be pushed from {top}: the push URL of {remote!a} is"
                    f" {redact(url)[:200]!a}",
                    hint="--rig URL names the repository that the work is for; to change the"
                    f" guard: git remote set-url --push {remote} URL",
                ) from error
            if push == rig:
                return ""
        return find_rig(urls[0], top)

    def _push_remote(self, config: Mapping[str, list[str]]) -> str:
        if any(key.startswith("branch.") and key.endswith(".pushremote") for key in config):
            branch = git(self.cwd, "symbolic-ref", "--quiet", "--short", "HEAD").out
            if own := config.get(f"branch.{branch}.pushremote"):
                return own[-1]
        return config.get("remote.pushdefault", ["origin"])[-1]


def _rewrites(config: Mapping[str, list[str]]) -> bool:
    return any(
        key.startswith("url.") and key.endswith((".insteadof", ".pushinsteadof")) for key in config
    )


def find_rig(rig: str, cwd: Path) -> str:
    """Return the URL or the absolute path that `rig` names.

    A `file:///path` is that path. A name with a colon is a folder when there is one, else
    ssh's `host:path`.

    Raises:
        UsageError: it is a dangerous URL, or a path without a repository.
    """
    if rig.startswith("file:///"):
        rig = rig.removeprefix("file://")
    if "://" in rig:
        return check_rig(rig)
    try:
        path = (cwd / Path(rig).expanduser()).resolve()
        folder = path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        if ":" in rig.partition("/")[0]:
            return check_rig(rig)
        raise UsageError(f"the repository {rig[:200]!a} cannot be looked at: {error}") from error
    if folder:
        return _repository(path)
    if ":" in rig.partition("/")[0]:
        return check_rig(rig)
    raise UsageError(
        f"{rig[:200]!a} is neither a folder nor a URL",
        hint="give the path or URL of a git repository",
    )


def _repository(path: Path) -> str:
    if (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir()):
        return check_rig(str(path))
    done = git(path, "rev-parse", "--show-toplevel")
    if done.code and _NONE not in done.err:
        raise unreadable(path, done)
    hint = f"its repository is {done.out}" if not done.code else ""
    raise UsageError(
        f"{path} is not a git repository", hint=hint or "give the path or URL of a git repository"
    )
