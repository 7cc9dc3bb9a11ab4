"""The seal of a worker: what it was ordered, and a key, kept apart from what its agent sees.

::

    <root>/sealed/<id>.<word>.json   {"digest", "order", "launch", "key"}, private (0600)
    <root>/sealed/since              made with the first seal: what is older has none

`publish` writes it before the worker's folder shows; `order.json` names the word. With it,
whoever acts on an order sees that order and launch are what was published, byte for byte. What a
supervisor says for others to believe later (`SIGNED`) carries a signature that is made with the
key: `{…,"seal":"<hex>"}`. A file that an agent puts there instead has none, and is not believed.

A fence keeps agents away from here. Without one, an agent that reads the key can sign as well:
it has the same user. The seal then stops only those who write the files alone.
"""

from __future__ import annotations

import os

from outpost_shared import faults, plain
from outpost_shared.leanjson import dumps, loads
from outpost_shared.plain import Broken

try:  # hashlib would load all of OpenSSL for its other algorithms
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SEALED = "sealed"
SINCE = "since"
ORDER, LAUNCH = "order.json", "launch.json"
#: What is believed of a supervisor after its end, and of who brought its work home.
SIGNED = frozenset({"result.json", "agent.json", "workspace.json", "home.json"})
_MOST = 4096
_MISSING = "has no seal: somebody has changed it, or removed the seal"
_HEX = 32
_MARK = b',"seal":"'
_TAIL = len(_MARK) + _HEX + 2
#: Of the worker that this process supervises: kept from its beginning on.
_held: dict[str, Seal] = {}


class Seal:
    """What was published for one worker.

    Attributes:
        digest: identity of its order.
    """

    __slots__ = ("_key", "_launch", "_order", "digest")

    def __init__(self, about: dict[str, Any]) -> None:
        self.digest = str(about["digest"])
        self._order = str(about["order"])
        self._launch = str(about["launch"])
        self._key = bytes.fromhex(about["key"])

    def check(self, name: str, data: bytes) -> None:
        """See that `order.json` or `launch.json` is what was published.

        Raises:
            Broken: it is not.
        """
        if _hash(data) != (self._order if name == ORDER else self._launch):
            raise Broken(name, "is not what was published: somebody has changed it")

    def sign(self, name: str, data: bytes) -> bytes:
        """Return the text of a JSON object with its signature."""
        return data[:-1] + _MARK + self._signature(name, data) + b'"}'

    def unsign(self, name: str, data: bytes) -> bytes:
        """Return what was signed, without the signature.

        Raises:
            Broken: it was not signed, or is not what was.
        """
        bare = data[:-_TAIL] + b"}"
        if data != self.sign(name, bare):
            raise Broken(name, "was not written by its supervisor")
        return bare

    def _signature(self, name: str, data: bytes) -> bytes:
        made = blake2b(name.encode() + b"\0" + data, key=self._key, digest_size=_HEX // 2)
        return made.hexdigest().encode()


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=_HEX // 2).hexdigest()


def make(
    root: str, worker: str, word: str, digest: str, order: bytes, launch: bytes, *, sync: bool
) -> None:
    """Seal what is to be published; the folder may show as soon as this returns.

    Args:
        root: the state root, with a folder `SEALED` in it.
        worker: the worker's id.
        word: told by `order.json`; other publishers of the same worker have others.
        digest: identity of the order.
        order: what will be in `order.json`.
        launch: what will be in `launch.json`.
        sync: it has to outlive a power cut.

    Raises:
        OSError: it could not be written.
    """
    at = _folder(root)
    try:
        os.close(plain.own(at, SINCE, os.O_WRONLY))
        about = {
            "digest": digest,
            "order": _hash(order),
            "launch": _hash(launch),
            "key": os.urandom(16).hex(),
        }
        plain.replace(at, _name(worker, word), dumps(about).encode("ascii"), sync=sync)
        if sync:
            os.fsync(at)
    finally:
        os.close(at)
    faults.point("local.sealed")


def drop(root: str, word: str, worker: str = "") -> None:
    """Remove a seal, since the folder that names it is gone; fine when it is not there.

    Args:
        root: the state root.
        word: its word.
        worker: the worker's id; "" for whichever it was.
    """
    if not word.isalnum():
        return
    try:
        at = _folder(root)
    except OSError:
        return
    try:
        names = [_name(worker, word)] if worker else os.listdir(at)
        for name in names:
            if name.endswith(f".{word}.json"):
                plain.drop(at, name)
    except OSError:
        pass
    finally:
        os.close(at)


def of(folder: str, order: dict[str, Any] | None, at: int) -> Seal | None:
    """Return the seal of a worker; None for one of a version that made none.

    Args:
        folder: path of the worker's folder.
        order: what `order.json` says; None when it cannot be read.
        at: the folder's descriptor.

    Raises:
        Broken: there is none although there should be.
        OSError: nobody can say.
    """
    held = _held.get(folder)
    if held is not None:
        return held
    above, worker = os.path.split(folder)
    root = os.path.dirname(above)
    word = None if order is None else order.get("seal")
    try:
        sealed = _folder(root)
    except FileNotFoundError:
        if word is None:
            return None
        raise Broken(ORDER, _MISSING) from None
    try:
        if word is None and order is not None and _is_older(at, sealed):
            return None
        if not isinstance(word, str) or not _is_there(sealed, worker, word):
            word = _only(sealed, worker)  # what names it was changed
        return _read(sealed, _name(worker, word))
    finally:
        os.close(sealed)


class Shelf:
    """All seals of a state root, for who looks at many workers.

    Args:
        root: the state root.
    """

    def __init__(self, root: str) -> None:
        self._words: dict[str, str] = {}
        self._at = -1
        try:
            self._at = _folder(root)
        except OSError:  # whoever needs one finds out what is wrong with it
            return
        for name in os.listdir(self._at):
            worker, _, word = name.removesuffix(".json").rpartition(".")
            self._words[worker] = "" if worker in self._words else word

    def of(self, worker: str) -> Seal | None:
        """Return the only seal of a worker; None where there is none or more than one."""
        word = self._words.get(worker, "")
        try:
            return _read(self._at, _name(worker, word)) if word else None
        except OSError:
            return None

    def close(self) -> None:
        """Let go of them."""
        if self._at >= 0:
            os.close(self._at)
            self._at = -1


def hold(folder: str, seal: Seal | None) -> None:
    """Keep the seal of the worker that this process supervises in memory."""
    if seal is not None:
        _held[folder] = seal


def _folder(root: str) -> int:
    at = plain.folder(root or ".")
    try:
        return plain.inner(at, SEALED)
    finally:
        os.close(at)


def _name(worker: str, word: str) -> str:
    return f"{worker}.{word}.json"


def _is_there(sealed: int, worker: str, word: str) -> bool:
    try:
        os.stat(_name(worker, word), dir_fd=sealed, follow_symlinks=False)
    except (OSError, ValueError):
        return False
    return word.isalnum()


def _only(sealed: int, worker: str) -> str:
    """Return the word of a worker's seal where `order.json` does not tell it; "" for none."""
    parts = [name.removesuffix(".json").rpartition(".") for name in os.listdir(sealed)]
    words = [word for name, _, word in parts if name == worker]
    return words[0] if len(words) == 1 else ""


def _is_older(at: int, sealed: int) -> bool:
    """Whether a worker was published before there were seals."""
    try:
        since = os.stat(SINCE, dir_fd=sealed, follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        return True
    try:
        return os.stat(ORDER, dir_fd=at, follow_symlinks=False).st_ctime_ns < since
    except OSError:
        return False


def _read(sealed: int, name: str) -> Seal:
    data = plain.content(sealed, name, _MOST)
    if data is None:
        raise Broken(ORDER, _MISSING)
    try:
        return Seal(loads(data.decode()))
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Broken(ORDER, "has a seal that cannot be read") from None
