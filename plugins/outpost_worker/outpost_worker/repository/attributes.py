"""Which attributes of a working tree may change what a file is in git; most trees have none.

Attributes are looked for without starting git: an index that names no `.gitattributes`, and a user
who has none of his own, is the ordinary case and costs two or three small reads.
"""

from __future__ import annotations

import os

from outpost_worker.folder import folders
from outpost_worker.repository.git import Git, read, surroundings

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE = ".gitattributes"
_NAME = FILE.encode()
#: Bytes of a file of attributes that git reads.
_LARGEST = 100 << 20
#: Attributes that can make a file differ from its blob as soon as it is checked out. `text=auto`
#: is not one: git leaves a file alone then whose blob has such line ends.
_CONVERT = ("text", "crlf", "ident")
_CONVERT_TO = ("eol=", "filter=", "working-tree-encoding=", "text=", "crlf=")
#: With these, a checkout leaves the pointers of git-lfs as they are.
POINTERS = (
    *("-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false"),
)
#: What a shell has to read: whether such a command's program is there is not ours to say.
_SHELL = frozenset("|&;<>()$`\\\n")


def texts(git: Git, changed: Iterable[str] = ()) -> list[str]:
    """Return the text of every file of attributes that counts in a working tree; mostly none.

    Args:
        git: the worker's repository.
        changed: paths that are changed or new there; among them may be further such files.
    """
    work = git.work
    found = _of_the_user(git)
    try:
        with open(os.path.join(git.git_dir, "index"), "rb") as file:
            index = file.read()
    except FileNotFoundError:
        index = b""
    names = {name for name in changed if name == FILE or name.endswith("/" + FILE)}
    if _NAME in index or index[4:8] == b"\0\0\0\4":  # the fourth format cuts names short
        names.add(FILE)
        if b"/" + _NAME in index or index[4:8] == b"\0\0\0\4":
            listed = git.run("ls-files", "-z", "--", f":(glob)**/{FILE}")
            names.update(filter(None, os.fsdecode(listed.out).split("\0")))
    for name in sorted(names):
        path = os.path.join(work, name)
        if os.path.lexists(path):
            found.append(folders.text(path, _LARGEST))
    return [text for text in found if text]


def _of_the_user(git: Git) -> list[str]:
    """Return the text of attributes that lie outside of the tree."""
    environ = surroundings()
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    own = environ.get("GIT_CONFIG_GLOBAL")
    settings = [own] if own else [f"{home}/.gitconfig", f"{config}/git/config"]
    settings += ["/etc/gitconfig", os.path.join(git.git_dir, "config")]
    paths = [
        f"{config}/git/attributes",
        "/etc/gitattributes",
        os.path.join(git.git_dir, "info/attributes"),
    ]
    if any(_names_attributes(read(path).lower()) for path in settings):
        told = git.run("config", "--type=path", "--get", "core.attributesFile")
        if told.text:
            paths[0] = told.text
    return [read(path) for path in paths]


def _names_attributes(config: str) -> bool:
    return "attributesfile" in config or "[include" in config


def convert(found: Iterable[str]) -> bool:
    """Whether one of these texts may make a file differ from its blob right after a checkout."""
    return any(
        word in _CONVERT or (word.startswith(_CONVERT_TO) and word != "text=auto")
        for word in _words(found)
    )


def filters(found: Iterable[str]) -> set[str]:
    """Return the names of all filters in texts of attributes."""
    return {word[7:] for word in _words(found) if word.startswith("filter=") and word[7:]}


def _words(found: Iterable[str]) -> list[str]:
    """Return what follows the pattern in each line."""
    words: list[str] = []
    for text in found:
        for line in text.splitlines():
            if not line.lstrip().startswith("#"):
                # a quoted pattern may hold blanks: one word too much does no harm
                words += line.split()[1:]
    return words


def lacking(git: Git, names: Iterable[str]) -> set[str]:
    """Return those filters that git cannot run here: not configured, or without their program.

    Args:
        git: the worker's repository.
        names: of filters.
    """
    wanted = set(names)
    if not wanted:
        return set()
    told = git.run("config", "-z", "--get-regexp", r"^filter\..*\.(clean|process)$")
    commands: dict[str, dict[str, str]] = {}
    for record in filter(None, os.fsdecode(told.out).split("\0")):
        key, _, value = record.partition("\n")
        name, _, kind = key.removeprefix("filter.").rpartition(".")
        commands.setdefault(name, {})[kind.lower()] = value
    return {name for name in wanted if not _runs(commands.get(name), git.work, surroundings())}


def _runs(commands: Mapping[str, str] | None, work: str, env: Mapping[str, str]) -> bool:
    if commands is None:
        return False
    # a process that is there takes the place of the clean command
    command = (commands.get("process") or commands.get("clean") or "").strip()
    if not command or _SHELL & set(command):
        return True
    words = [word.strip("\"'") for word in command.split()]
    while len(words) > 1 and "=" in words[0]:  # `NAME=value program`
        del words[0]
    program = words[0]
    if "/" in program:
        if program.startswith("~"):
            return True
        return os.access(os.path.join(work, program), os.X_OK)
    if program == "git" and len(words) > 1 and words[1] in ("lfs", "crypt", "annex"):
        program = f"git-{words[1]}"
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(os.path.join(folder or ".", program), os.X_OK) for folder in folders)
