"""Where a rig's mirror is below a cache of mirrors. Pure."""

from __future__ import annotations

import re
from typing import Final

#: What a part of a path may be; nothing that leads elsewhere.
_PART: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~+-]{1,200}", re.ASCII)
_ONE: Final = (".git", ".bundle")


def mirror(folder: str, rig: str | None) -> str:
    """Return the path of a rig's mirror below a cache, `HOST/PATH.git`; "" where it has none.

    Args:
        folder: what of the cache is looked at; one that ends in `.git` or `.bundle` is a mirror,
            and the only one.
        rig: URL of the repository, with or without `.git`, `user@` and port.
    """
    if folder.endswith(_ONE):
        return folder
    scheme, found, rest = (rig or "").partition("://")
    if found:
        host, _, path = rest.partition("/")
        host = host.rpartition("@")[2].partition(":")[0]
    else:
        host, _, path = scheme.rpartition("@")[2].partition(":")
    parts = [host.lower(), *path.removesuffix("/").removesuffix(".git").strip("/").split("/")]
    if not all(_PART.fullmatch(part) for part in parts):
        return ""
    return "/".join(part for part in (folder, *parts) if part) + ".git"
