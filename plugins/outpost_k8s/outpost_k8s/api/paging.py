"""Long lists, a page at a time, each thing once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final

from outpost_k8s.api.asking import Asking, Object
from outpost_k8s.api.errors import ExpiredError
from outpost_k8s.api.transport import JSON

#: Pages of one list, so that a server cannot keep us for ever.
_MOST_PAGES: Final = 2000
#: The type of a list of what things say of themselves alone, without spec and status.
METADATA: Final = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"


async def pages(
    asking: Asking, path: str, query: Sequence[tuple[str, str]], accept: str
) -> AsyncGenerator[tuple[Object, list[Object]], None]:
    """Yield metadata and things of each page.

    When the server has forgotten the moment that the first pages are of, the rest is of now: what
    was told once is not told again.

    Args:
        asking: asks the API server.
        path: address of the kind.
        query: names and values, `limit` among them.
        accept: the type of the answers.

    Raises:
        StrangeError: the server answers with no list, or with one that does not end.
    """
    proceed, seen, again = "", set[str](), False
    for _ in range(_MOST_PAGES):
        more = [("continue", proceed)] if proceed else []
        try:
            answer = await asking.ask("GET", path, query=[*query, *more], accept=accept)
        except ExpiredError as error:
            if not proceed:
                raise
            proceed, again = error.proceed, True
            continue
        metadata, found = answer.get("metadata"), answer.get("items")
        if found is None and "items" in answer:  # how a list of metadata tells that it is empty
            found = []
        if not isinstance(metadata, dict) or not isinstance(found, list):
            raise asking.strange(f"GET {path}", "no list")
        fresh = [item for item in found if _uid(item) not in seen] if again else found
        seen.update(map(_uid, fresh))
        yield metadata, fresh
        proceed = str(metadata.get("continue") or "")
        if not proceed:
            return
    raise asking.strange(f"GET {path}", f"a list of more than {_MOST_PAGES} pages")


def _uid(item: object) -> str:
    """Return by what a thing is told from the others of its list."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return str(metadata.get("uid") or metadata.get("name")) if isinstance(metadata, dict) else ""
