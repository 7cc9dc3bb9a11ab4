"""What branches, rigs and refs may be called, and what of a rig may be shown. Pure functions.

The near side refuses bad names before anything changes; the far side checks again, since it
trusts no peer.
"""

from __future__ import annotations

from outpost_core.errors import UsageError

TYPE_CHECKING = False  # importing typing would cost as much as three git commands
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: Longest branch in bytes: a component must fit in a file name with git's `.lock` behind it, and
#: `-<attempt>` may be appended.
MAX_BRANCH = 230
_SCHEMES = ("https", "http", "ssh", "git", "file", "git+ssh", "ssh+git")
_NOT_IN_REFS = frozenset(" ~^:?*[\\\x7f")


def check_branch(branch: str) -> str:
    """Return `branch` when git takes it as the name of a branch (`git check-ref-format`).

    Raises:
        UsageError: it is not one; the message says why.
    """
    why = _wrong_with_branch(branch)
    if why:
        raise UsageError(
            f"{_shown(branch)} cannot be a branch: {why}", hint="use a name like outpost/gt-abc123"
        )
    return branch


def _wrong_with_branch(branch: str) -> str:
    if not branch or len(branch.encode(errors="replace")) > MAX_BRANCH:
        return f"it needs 1 to {MAX_BRANCH} bytes"
    bad = next((c for c in branch if c < " " or c in _NOT_IN_REFS or "\ud800" <= c <= "\udfff"), "")
    if bad:
        return f"{bad!a} is not allowed"
    rules = (
        (branch.startswith("-"), "it starts with '-'"),
        (branch in ("@", "HEAD"), "that word has a meaning of its own in git"),
        (branch.startswith("refs/"), "give it without 'refs/…'"),
        (".." in branch, "'..' is not allowed"),
        ("@{" in branch, "'@{' is not allowed"),
        (branch.endswith("."), "it ends with '.'"),
        ("" in branch.split("/"), "a part between slashes is empty"),
    )
    for broken, why in rules:
        if broken:
            return why
    for part in branch.split("/"):
        if part.startswith(".") or part.endswith(".lock"):
            return f"the part {part!r} starts with '.' or ends with '.lock'"
    return ""


def check_rig(rig: str) -> str:
    """Return `rig` when it is a URL or an absolute path that is safe to hand to git.

    Refused are transport helpers (`ext::sh -c …`), what git would read as an option, unknown
    schemes, relative paths, and control characters.

    Raises:
        UsageError: it is none; the message says why, without any password.
    """
    why = _wrong_with_rig(rig)
    if why:
        raise UsageError(
            f"{_shown(redact(rig))} cannot be a rig: {why}",
            hint="give an https, ssh or file URL, host:path, or the absolute path of a repository",
        )
    return rig


def _wrong_with_rig(rig: str) -> str:
    if not rig or len(rig) > 4096:
        return "it needs 1 to 4096 characters"
    if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in rig):
        return "it holds a control character"
    if rig.startswith("-"):
        return "it starts with '-'"
    if rig.startswith("/"):
        return ""
    scheme, found, rest = rig.partition("://")
    if "::" in rig.partition("/")[0]:
        return "transport helpers run commands of their own"
    if found:
        return _wrong_with_url(scheme, rest)
    host, colon, path = rig.partition(":")
    if not colon or "/" in host:
        return "it is neither a URL nor an absolute path"
    if not path or path.startswith("-") or not host or host.rpartition("@")[2].startswith("-"):
        return "ssh would read it as an option"
    return ""


def _wrong_with_url(scheme: str, rest: str) -> str:
    if scheme.lower() not in _SCHEMES:
        return f"git's {_shown(scheme)} URLs are not supported"
    host, _, path = rest.partition("/")
    user, _, machine = host.rpartition("@")
    if scheme == "file":
        return "" if not host and path else "a file URL looks like file:///path"
    if not machine or not path or machine.startswith("-") or user.startswith("-"):
        return "it needs a host and a path"
    if "ssh" in scheme and ":" in user:
        return "ssh takes no password from a URL; use a key"
    return ""


def split_rig(rig: str) -> tuple[str, str]:
    """Return the rig without its password, and the line for git's credential store.

    The second is `https://user:password@host` or "" when the rig holds no password. Only the
    first may be in argv or in a configuration file.
    """
    scheme, found, rest = rig.partition("://")
    host, slash, path = rest.partition("/")
    user, at, machine = host.rpartition("@")
    if not (found and at and ":" in user and scheme.lower() in ("http", "https")):
        return rig, ""
    user = user.replace("@", "%40")
    return f"{scheme}://{machine}{slash}{path}", f"{scheme}://{user}@{machine}"


def redact(text: str, rig: str = "") -> str:
    """Return `text` with `***` for what stands before `@` in web addresses.

    Args:
        text: anything that a person may read later.
        rig: when it holds a password, that is also replaced where it stands alone.
    """
    secret = split_rig(rig)[1].partition("://")[2].rpartition("@")[0].partition(":")[2]
    if len(secret) >= 4:
        text = text.replace(secret, "***")
    parts = text.split("://")
    for number, part in enumerate(parts[1:], 1):
        end = next((i for i, c in enumerate(part) if c in "/ \t\r\n'\"?#<>"), len(part))
        at = part.rfind("@", 0, end)
        # `ssh://git@host` is an address that everybody may read.
        if at >= 0 and not (parts[number - 1].endswith("ssh") and ":" not in part[:at]):
            parts[number] = "***" + part[at:]
    return "://".join(parts)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 120 else text[:117] + "...")


#: Name of the secret that becomes CREDENTIALS and is not for the agent.
RIG_CREDENTIAL = "OUTPOST_RIG_CREDENTIAL"
#: Where the refs for unpushed work are.
REFS = "refs/outpost/"


def worker_of(order: Mapping[str, Any]) -> str:
    """Return the worker's id: `<issue>.<attempt>`."""
    return f"{order['issue']['id']}.{order['attempt']}"


def checkpoint_ref(worker: str, owner: str = "") -> str:
    """Return the ref under which a worker's unfinished work is kept.

    Args:
        worker: its id.
        owner: the id of the ledger that ordered it; "" for none.
    """
    return f"{REFS}{owner}/{worker}" if owner else REFS + worker


def ref_of(order: Mapping[str, Any]) -> str:
    """Return the ref for the unfinished work of an order's worker."""
    return checkpoint_ref(worker_of(order), order.get("owner") or "")


def owner_of(ref: str | None, worker: str) -> str | None:
    """Return whose ref of a worker this is: an owner, or "" for none.

    None when it is no ref for the unfinished work of that worker.
    """
    if ref is None or not ref.startswith(REFS):
        return None
    owner, slash, name = ref[len(REFS) :].rpartition("/")
    if name != worker or (slash and not (owner and set(owner) <= set("0123456789abcdef"))):
        return None
    return owner
