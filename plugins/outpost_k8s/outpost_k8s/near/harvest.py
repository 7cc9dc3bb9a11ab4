"""How a worker ended is brought here, before its pod or its Job is gone.

The result is the pod's own word, where it left one; else what stands on its record; else what the
cluster tells, which is then put on the record so that it stands for everybody. Its output follows:
what the container printed, at exact offsets (the pod says how many bytes its log has), or the end
of it that the record has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outpost_core.errors import NotFoundError, OutpostError, UnreachableError
from outpost_core.names import checkpoint_ref
from outpost_core.types import Json, Order, Result, State
from outpost_k8s import price
from outpost_k8s.near import ended, said, seen
from outpost_k8s.near.desk import who_asks
from outpost_k8s.objects import names, told
from outpost_shared import plain
from outpost_shared.backoff import Backoff
from outpost_worker.record.kinds import LEASE, RecordRefusedError
from outpost_worker.record.places import pushed_to
from outpost_worker.repository import bundles

if TYPE_CHECKING:
    from outpost_k8s.near.codes import Why
    from outpost_k8s.near.desk import Desk
    from outpost_k8s.near.kept import Kept
    from outpost_k8s.near.look import Seen
    from outpost_k8s.near.said import Said
    from outpost_k8s.near.seen import Object

#: Bytes of a log beyond what the order allows: the line that says that it was cut.
_ROOM: Final = 64 << 10
#: Most bytes of the log of a worker whose order is not known.
_MOST: Final = 256 << 20
#: Where the volume is in pods.
_VOLUME: Final = "/outpost/volume/"
#: Bytes of a log that are looked at at once.
_PIECE: Final = 1 << 20
#: Reason of a worker that was told to end by SIGTERM, which does not say by whom.
_TERMINATED: Final = "terminated"
_MEMORY: Final = "k8s_oom_killed"
_EATEN: Final = "its agent used more than its `memory`, and was killed"
#: Seconds that a runtime may take to write down the last that a container printed.
_FLUSHED: Final = 3.0
#: What a kubelet answers in place of a log that it has no more.
_NO_LOG: Final = b"unable to retrieve container logs for "


class Harvest:
    """Brings home how workers ended.

    Args:
        desk: of the outpost.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tails: dict[str, bytes] = {}

    # --- the result -----------------------------------------------------------------------------

    async def end(self, kept: Kept, one: Seen, why: Why) -> Result | str:
        """Return how a worker ended, which is kept here then; or why nobody can say that yet.

        Args:
            kept: what is kept of it.
            one: what is at the cluster of it: nothing of it runs, or will.
            why: how it counts where it left no result.
        """
        if kept.result is not None:
            return kept.result
        why = _as_asked(why, kept, one)
        order = told.order_of(one.job) if one.job is not None else None
        order = order or kept.order
        word = said.said_by(one.pod)
        if word is not None and word.result is not None:
            result = word.result
        else:
            found = await self._on_record(kept, one, why, order, word)
            if isinstance(found, str):
                return found
            result = found
        result = _with_who(_as_the_cluster_tells(result, why), one)
        collected = word is not None and word.collected
        result = self._checked(result, order, one, kept, collected=collected)
        if not kept.ending and (kept.hosted or (_is_hosted(one) and not collected)):
            result = await self._home(kept, result)
        return await asyncio.to_thread(kept.finish, result)

    async def _home(self, kept: Kept, result: Result) -> Result:
        """Return the result of a worker whose rig is of this machine, as far as it is true here."""
        from outpost_exec import rigs

        return await rigs.settle(
            self._desk.context.state_dir, kept.worker, result, reason="k8s_work_lost",
            why="its pod ended before its work was fetched",
        )  # fmt: skip

    async def _on_record(
        self, kept: Kept, one: Seen, why: Why, order: Order | None, word: Said | None
    ) -> Result | str:
        """Return what stands on a worker's record, or will from now on; or why nobody can say."""
        result = why.result()
        if word is not None and word.elsewhere:
            message = "another pod had claimed it, so this one ran nothing"
            result = replace(result, reason="k8s_elsewhere", message=message, exit_code=None)
        if order is None or not self.has_record(kept, order):
            return result
        digest = kept.digest or seen.annotation(one.job, names.DIGEST)
        witness = self._desk.witness
        try:
            found = await witness.found(order)
            if found is not None and found.result is not None:
                self._tails[one.worker] = found.tail
                return found.result
            if found is not None and (other := _other(found.claim.instance, one, word)):
                watched = kept.watch(**_silence(kept.watched(), found.seen))
                if time.time() - float(watched["silent_since"]) <= LEASE:
                    return f"another pod has it ({other[:8]}…)"
            if found is not None:
                result = replace(result, checkpoint=await witness.checkpoint(order))
            stands = await witness.settle(order, digest, result)
        except RecordRefusedError as error:  # no pod can have it then, either
            message = f"{result.message}; its record says nothing: {error.message}"
            return replace(result, message=message)
        except UnreachableError as error:
            return f"it has ended, and its record cannot be asked: {error.message}"
        return stands.result or result

    def has_record(self, kept: Kept, order: Order) -> bool:
        """Whether a worker has a record that can be seen from here: on a rig with an address."""
        rig = pushed_to(order)
        return bool(rig) and not (
            self._desk.options.volume or kept.hosted or rig.startswith(("/", "file:"))
        )

    def _checked(
        self, result: Result, order: Order | None, one: Seen, kept: Kept, *, collected: bool
    ) -> Result:
        """Return a result with what only this side knows, and without what cannot be meant."""
        checkpoint, message = result.checkpoint, result.message
        if checkpoint is not None and order is not None and not self._is_own(checkpoint, order):
            if checkpoint.startswith("/"):
                message += (
                    "; its unpushed work was fetched from its pod by the machine that ordered it"
                    if collected
                    else "; its unpushed work was in its pod, and is gone with it"
                )
            else:
                message += "; the checkpoint that its pod names is not its own"
            checkpoint = None
        cost = self.cost(one, order)
        if cost is None and (taken_back := kept.ending_result()) is not None:
            cost = taken_back.cost_usd
        if cost is None and price.is_priced(self._desk.options):
            message += "; the cluster does not say any more how long it ran: its worst case counts"
        return replace(result, message=message, checkpoint=checkpoint, cost_usd=cost)

    def _is_own(self, checkpoint: str, order: Order) -> bool:
        if checkpoint == checkpoint_ref(order.worker, order.owner):
            return True
        if self._desk.options.volume and checkpoint.startswith(_VOLUME):
            return "/../" not in checkpoint
        rescued = self._desk.context.state_dir.absolute() / bundles.RESCUED
        return Path(checkpoint).parent == rescued

    def cost(self, one: Seen, order: Order | None, until: float | None = None) -> float | None:
        """Return what a worker cost, by the cluster's clocks alone; None where they do not say.

        Args:
            one: what is at the cluster of it.
            order: its order, for its size.
            until: when it ended, where its pod does not say so.
        """
        begun = seen.moment(one.pod, "status", "startTime")
        end = seen.moment(seen.terminated(one.pod), "finishedAt")
        if one.pod is None:  # what the Job tells is a little more
            begun = seen.moment(one.job, "status", "startTime")
            done = seen.condition(one.job, "Complete") or seen.condition(one.job, "Failed")
            end = seen.moment(done, "lastTransitionTime")
        end = end or until
        if begun is None or end is None:
            return None
        return price.cost(self._desk.options, end - begun, order)

    # --- its output -----------------------------------------------------------------------------

    async def log(self, kept: Kept, one: Seen) -> None:
        """Keep the output of a worker that has ended; once.

        Raises:
            UnreachableError: the cluster cannot be asked for it.
        """
        if kept.has_log or kept.result is None:
            return
        word = said.said_by(one.pod)
        order = kept.order
        most = (order.limits.log_bytes + _ROOM) if order is not None else _MOST
        with kept.staged_log() as staged:
            got = 0
            if one.pod is not None:
                got = await self._all_printed(staged.fd, one.pod, most, word)
            size = word.log_bytes if word is not None else kept.result.log_bytes
            runtime = seen.text(seen.container(one.pod), "containerID").partition(":")[0]
            missing = await self._mend(staged.fd, got, word, size, one.worker, runtime)
            staged.keep(missing)

    async def _all_printed(self, fd: int, pod: Object, most: int, word: Said | None) -> int:
        """Write what the container printed, once its runtime has kept all of it; see `_printed`.

        A container has ended before its runtime has written down the last that it printed. What
        has less than that for longer was rotated away.
        """
        want = min(word.printed + word.newline, most) if word and word.printed is not None else 0
        pauses = Backoff(0.1, 1.0, within=_FLUSHED)
        while True:
            over = pauses.over
            got = await self._printed(fd, pod, most)
            if got is None or got >= want or over:
                return got or 0
            await pauses.wait()

    async def _printed(self, fd: int, pod: Object, most: int) -> int | None:
        """Write what the container printed; return how many bytes that are, None where it has none.

        Raises:
            UnreachableError: the cluster cannot be asked for it.
        """
        got = 0
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        pieces = self._desk.cluster().log(seen.name(pod), limit=most + 1)
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    plain.write_all(fd, piece)
                    got += len(piece)
        except NotFoundError:
            os.ftruncate(fd, 0)
            return None
        except UnreachableError:
            raise
        except OutpostError:  # it has none: its container never began, or is gone
            os.ftruncate(fd, 0)
            return None
        if os.pread(fd, len(_NO_LOG), 0) == _NO_LOG:
            os.ftruncate(fd, 0)
            return None
        return min(got, most)

    async def _mend(
        self,
        fd: int,
        got: int,
        word: Said | None,
        size: int | None,
        worker: str,
        runtime: str,
    ) -> int:
        """Make what was printed the log; return how many bytes of its beginning are missing.

        Args:
            fd: what was printed, or the end of that: the kubelet has rotated the rest away.
            got: how many bytes that are.
            word: the pod's last word; None where it left none.
            size: bytes of the log; None where nobody knows.
            worker: the worker's id.
            runtime: what has kept what was printed: `containerd`, `cri-o` …
        """
        if got and word is not None and word.printed is not None:
            got = await asyncio.to_thread(_as_printed, fd, word, runtime)
            missing = max(word.printed - got, 0)
            beyond = (word.log_bytes or 0) - word.printed
            tail = self._tails.get(worker, b"")
            if 0 < beyond <= len(tail):
                os.pwrite(fd, tail[-beyond:], got)
            elif beyond > 0:
                text = f"\n[outpost: {beyond} bytes of output after this were not printed]\n"
                os.pwrite(fd, text.encode(), got)
            return missing
        if got:
            return 0
        tail = await self._tail(worker)
        os.ftruncate(fd, 0)
        os.pwrite(fd, tail, 0)
        return max((size or len(tail)) - len(tail), 0)

    async def _tail(self, worker: str) -> bytes:
        """Return the end of a worker's log that its record has."""
        if worker not in self._tails:
            kept = self._desk.keeping.of(worker)
            order = kept.order
            if order is not None and self.has_record(kept, order):
                with contextlib.suppress(OutpostError):
                    found = await self._desk.witness.found(order)
                    self._tails[worker] = found.tail if found is not None else b""
        return self._tails.pop(worker, b"")


def _as_printed(fd: int, word: Said, runtime: str) -> int:
    """Make what a runtime has kept of a log what the log was; return how many bytes that are.

    Each end of a line with a carriage return is printed with one more, which containerd takes away
    (see `far.copying`); others keep it. Where all of the log is there, its size tells which.

    Args:
        fd: what the runtime has kept.
        word: the pod's last word.
        runtime: the runtime.
    """
    assert word.printed is not None
    whole = word.printed + word.newline
    got = os.fstat(fd).st_size
    if got != whole and (runtime != "containerd" or got > whole):
        got = _without_doubles(fd)
    if word.newline and 0 < got <= whole:
        got -= 1
        os.ftruncate(fd, got)
    return got


def _without_doubles(fd: int) -> int:
    """Take one carriage return out of each two before the end of a line; return the new size."""
    read = write = 0
    held = b""
    while data := os.pread(fd, _PIECE, read):
        read += len(data)
        text = (held + data).replace(b"\r\r\n", b"\r\n")
        held = text[-2:] if text.endswith(b"\r") else b""
        done = text[: len(text) - len(held)]
        os.pwrite(fd, done, write)
        write += len(done)
    os.pwrite(fd, held, write)
    write += len(held)
    os.ftruncate(fd, write)
    return write


def _as_asked(why: Why, kept: Kept, one: Seen) -> Why:
    """Return the end of a worker that somebody has asked to stop, as that."""
    asked = seen.annotation(one.job, names.STOP) or kept.watched().get("stop") is not None
    if not asked or why.reason not in ("k8s_deleted", "lost_process"):
        return why
    return replace(
        why, state=State.STOPPED, reason="stopped", detail="stopped",
        message="stopped, as was asked; its pod left no result",
    )  # fmt: skip


def _as_the_cluster_tells(result: Result, why: Why) -> Result:
    """Return how a worker ended of which its own program does not know why: what the cluster says.

    It only knows that it was told to end, or that its agent was killed.
    """
    killed = signal.SIGKILL in (result.signal, (result.exit_code or 0) - 128)
    if why.reason == _MEMORY and killed and result.reason in ("agent_failed", "agent_signal"):
        return replace(result, reason=_MEMORY, message=f"{_EATEN}: {result.message}")
    if result.reason != _TERMINATED:
        return result
    if why.reason == "stopped":  # it could not be told in its pod, so that was deleted
        return replace(result, state=why.state, reason=why.reason, message="it was stopped")
    if why.reason not in ended.TAKEN:
        return result
    state = why.state if why.state is State.FAILED else result.state
    message = f"{why.message}; it was told to end, and did (SIGTERM)"
    return replace(result, state=state, reason=why.reason, message=message)


def _with_who(result: Result, one: Seen) -> Result:
    """Return how a worker ended that was stopped, with who asked for that, where it was another."""
    by = seen.words(one.job, "metadata", "annotations", names.STOPPED_BY)
    if result.reason != "stopped" or not by or by == who_asks():
        return result
    return replace(result, message=f"{result.message}; {by} asked for it")


def _is_hosted(one: Seen) -> bool:
    """Whether a worker's repository is one of the machine that ordered it."""
    return "true" in (
        seen.annotation(one.job, names.HOSTED),
        seen.annotation(one.pod, names.HOSTED),
    )


def _other(instance: str, one: Seen, word: Said | None) -> str:
    """Return the instance of a claim that another pod has; "" where this worker's pod has it."""
    if word is not None and word.elsewhere:
        return instance or word.elsewhere
    if one.pod is None or not instance:
        return ""  # the pod that had it is gone for good
    mine = seen.uid(one.pod).replace("-", "").lower()
    return "" if instance == mine else instance


def _silence(watched: dict[str, Any], word: str) -> dict[str, Json]:
    """Return since when a record has said the same, by our own clock."""
    now, since = time.time(), watched.get("silent_since")
    if watched.get("silent") == word and isinstance(since, float) and since <= now:
        return {"silent": word, "silent_since": since}
    return {"silent": word, "silent_since": now}
