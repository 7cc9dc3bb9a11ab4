"""Runs one order: claims it, prepares, starts the agent, watches it, delivers, and says so.

One supervisor runs one attempt, once. It is the subreaper of everything that the agent starts.
An order without a repository takes the lean path: nothing is imported here that such an order
does not need, since Python's own start is most of its cost.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not `signal`: see process.py
import os
import sys
import time

from outpost_core import faults
from outpost_core.worker import claim, files, launch, outcome, process
from outpost_core.worker.logwriter import LogWriter
from outpost_core.worker.loop import READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from outpost_core.worker.loop import Outlet
    from outpost_core.worker.masking import Masker
    from outpost_core.worker.stage import Report, Stage
    from outpost_core.worker.terminal import Relay

#: Seconds for another process to let go of the lock of an attempt that has not begun.
_LOCK_PATIENCE = 10.0
#: Seconds that a preparation or delivery may take; far beyond what a network does.
_STAGE_LIMIT = 3600.0
#: Seconds for the rescue of unpushed work and for reading the agent's output.
_RESCUE_LIMIT = 120.0
#: Seconds between TERM and KILL for what an agent leaves behind, and for a helper of ours.
_LEFTOVER_GRACE = 2.0
#: Seconds between two KILLs, and after which a process that does not die is left to the system.
_KILL_AGAIN = 0.05
_KILL_PATIENCE = 30.0
#: Seconds to read what is left in the pipe when its writers are out of our sight.
_DRAIN_PATIENCE = 1.0
#: Seconds of silence after which an interactive agent counts as idle.
_IDLE_AFTER = 10.0


def run(folder: str) -> int:
    """Run the order in `folder`, unless it has begun before.

    Args:
        folder: the worker's folder as `publish` made it.

    Returns:
        0 when the worker is done, 1 when it ended otherwise, 2 when it was not run here.
    """
    folder = os.path.abspath(folder)
    lock = _lock(folder)
    if lock < 0 or claim.exists(folder) or claim.finished(folder):
        return _refuse(folder, "has begun before, and never begins again")
    order = files.load(folder, files.ORDER)
    launched = files.load(folder, files.LAUNCH)
    if order is None or launched is None:
        return _refuse(folder, "has no readable order")
    if launched["boot"] != process.boot_id():
        # its claim may have been lost with the power: it is not known that it never began
        return _refuse(folder, "was made before this machine was started")
    return Supervisor(folder, lock, order, launched).run()


def _refuse(folder: str, why: str) -> int:
    sys.stderr.write(f"outpost: the worker {os.path.basename(folder)} {why}\n")
    return 2


def _lock(folder: str) -> int:
    end = time.monotonic() + _LOCK_PATIENCE
    while (fd := claim.lock(folder)) < 0:
        if claim.exists(folder) or time.monotonic() > end:
            break
        time.sleep(0.005)
    return fd


class Supervisor:
    """One attempt.

    Args:
        folder: the worker's folder.
        lock: descriptor of its lock.
        order: `order.json`.
        launched: `launch.json`.
    """

    def __init__(
        self, folder: str, lock: int, order: dict[str, Any], launched: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.order = order
        self.limits: dict[str, Any] = order["limits"]
        self.launched = launched
        self.secrets: dict[str, str] = {}
        self.workspace: dict[str, Any] | None = None
        self.loop = Loop(self._on_signal)
        self.log: LogWriter | None = None
        self.view: Outlet | None = None
        self.relay: Relay | None = None
        self._lock = lock
        self._room = -1
        self._masker: Masker | None = None
        self._stages: list[Stage] = []
        self._saving: Stage | None = None
        self._saved: str | None = None
        self._agent = 0
        self._status: int | None = None
        self._childless = True
        self._pipe = -1
        self._asked = ""  # "stopped" or "terminated"
        self._asked_at = 0.0
        self._grace = float(self.limits["grace"])
        self._ending = ""  # why the agent is being ended
        self._kill_at = 0.0
        self._agent_began = self._last_output = self._save_at = 0.0
        self._shown = ""
        self._began = 0.0

    # --- the attempt ---------------------------------------------------------------------

    def run(self) -> int:
        """Claim the attempt and see it through; returns as `run` does."""
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)  # a killed tmux server ends no work
        for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT):
            self.loop.catch(number)
        process.become_subreaper()
        self._room = files.keep_room(self.folder)
        claimed = claim.take(self.folder)
        if claimed is None:
            return _refuse(self.folder, "has begun before, and never begins again")
        self._began = claimed["at"]
        try:
            self._take_secrets()
            faults.point("worker.claimed")
            self._look_for_stop()
            result = self._attempt()
        except OSError as error:
            result = self._defect(error, outcome.reason_of(error, "internal"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the result
            result = self._defect(error, "internal")
        self._finish(result)
        return 0 if result["state"] == "done" else 1

    def _attempt(self) -> dict[str, Any]:
        work = os.path.join(self.folder, files.WORK)
        if self._stopping():
            return self._stopped()
        if self.order["rig"] is None:
            os.mkdir(work, 0o700)
        else:
            failed = self._prepare()
            if failed:
                return failed
        faults.point("worker.prepared")
        if self._stopping():
            return self._stopped()
        failed = self._start(work)
        if failed:
            return failed
        faults.point("worker.agent_started")
        self._watch()
        self._end_tree()
        self._drain()
        ended = self._agents_end()
        try:
            files.store(self.folder, files.AGENT, ended)
        except OSError as error:
            # only a recovery would need it
            ended["message"] = ended["message"] or f"agent.json: {error.strerror}"
        faults.point("worker.agent_ended")
        return self._deliver(ended)

    def _prepare(self) -> dict[str, Any] | None:
        """Make the working tree; returns the result when that did not work."""
        from outpost_core.worker import workspace

        root = self.launched["root"]
        self._say("starting", "preparing the working tree", "prepare")
        answer = self._run_stage(
            lambda report: workspace.prepare(self.order, root, self.folder, report),
            limit=_STAGE_LIMIT,
            after_stop=0.0,
            report=lambda text: self._say("starting", text, "prepare"),
        )
        if self._stopping():
            return self._stopped()
        if "answer" not in answer:
            return outcome.result("failed", *_error(answer, "workspace_failed"))
        self.workspace = answer["answer"]
        files.store(self.folder, files.WORKSPACE, answer["answer"])
        return None

    def _deliver(self, ended: dict[str, Any]) -> dict[str, Any]:
        more = {name: ended[name] for name in ("exit_code", "signal", "session", "usage")}
        result = outcome.result(ended["state"], ended["reason"], ended["message"], **more)
        if self.workspace is None:
            return result
        if ended["state"] == "done":
            from outpost_core.worker import deliver

            self._say("working", "delivering", "deliver")
            space = self.workspace
            answer = self._run_stage(
                lambda report: deliver.deliver(self.order, self.folder, space, report),
                limit=_STAGE_LIMIT,
                after_stop=self._grace,
                report=lambda text: self._say("working", text, "deliver"),
            )
            outcome.add_delivery(result, answer, stopped=self._asked)
            if result["state"] == "done":
                return result
        self._say("working", "rescuing what is not pushed", "rescue")
        self._rescue(result)
        return result

    def _stopping(self) -> bool:
        return bool(self._asked)

    def _stopped(self) -> dict[str, Any]:
        state, reason, _ = outcome.of_ending(self._asked, self.limits)
        return outcome.result(state, reason, "it was stopped before the agent ran")

    def _finish(self, result: dict[str, Any]) -> None:
        self._close_log()
        if self._masker:
            for name in ("message", "pr_url"):
                if result[name]:
                    result[name] = self._masker.mask(result[name])
        result["started_at"] = self._began
        result["finished_at"] = time.time()
        if self.log:
            result["log_bytes"] = self.log.size
            result["log_truncated"] = self.log.truncated
            if self.log.error and not result["message"]:
                result["message"] = f"the log is not whole: {os.strerror(self.log.error)}"
        files.store_result(self.folder, result, self._room)
        faults.point("worker.finished")

    def _defect(self, error: Exception, reason: str) -> dict[str, Any]:
        """Something that should not happen did: end everything, keep what can be kept."""
        from outpost_core.worker.stage import note_defect

        note_defect(self.folder, error)
        self._begin_end("terminated", 0.0)
        self._end_tree()
        result = outcome.result("failed", reason, f"{type(error).__name__}: {error}")
        if self.workspace is not None:
            self._rescue(result)
        return result

    # --- the agent -----------------------------------------------------------------------

    def _take_secrets(self) -> None:
        path = os.path.join(self.folder, files.SECRETS)
        if not os.path.exists(path):
            return
        from outpost_core.worker.masking import Masker

        self.secrets = files.load(self.folder, files.SECRETS) or {}
        os.unlink(path)
        self._masker = Masker(self.secrets.values())

    def _start(self, work: str) -> dict[str, Any] | None:
        """Start the agent; returns the result when it cannot be executed."""
        agent = self.order["agent"]
        prompt = os.path.join(self.folder, files.PROMPT) if self.order["prompt"] else ""
        argv = launch.expand(
            agent["argv"],
            {
                "prompt": self.order["prompt"],
                "prompt_file": prompt,
                "issue": self.order["issue"]["id"],
            },
        )
        env = launch.environment(self.order, self.launched, self.secrets, self._own_env(prompt))
        self.log = LogWriter(
            os.path.join(self.folder, files.LOG),
            self.limits["log_bytes"],
            self._masker,
            keep_tail=agent["output"] != "plain",
        )
        end = self._connect(interactive=agent["interactive"])
        terminal = self.relay.name if self.relay else ""
        about = terminal or os.readlink(f"/proc/self/fd/{end}")
        try:
            self._agent = launch.start(argv, env, work, end, terminal)
        except OSError as error:
            return outcome.of_exec_error(error, agent["argv"][0])
        finally:
            os.close(end)
        self._childless = False
        self._agent_began = self._last_output = time.monotonic()
        self._save_at = self._agent_began + self.limits["checkpoint_every"]
        start = process.start_time(self._agent)
        self._say("working", "", "agent", agent={"pid": self._agent, "start": start, "out": about})
        return None

    def _connect(self, *, interactive: bool) -> int:
        """Make what the agent prints to; returns the descriptor that is for the agent."""
        if interactive:
            from outpost_core.worker.terminal import Relay

            self.relay = Relay(self.loop, self.folder, self._print)
            self.loop.catch(_signal.SIGWINCH)
            return self.relay.slave
        if os.isatty(1):
            from outpost_core.worker.terminal import outlet

            self.view = outlet(self.loop, 1)
        self._pipe, end = os.pipe2(os.O_CLOEXEC)
        self.loop.add(self._pipe, READ, self._read)
        return end

    def _own_env(self, prompt: str) -> dict[str, str]:
        own = {
            "OUTPOST_WORKER": os.path.basename(self.folder),
            "OUTPOST_WORKER_DIR": self.folder,
            "OUTPOST_ISSUE": self.order["issue"]["id"],
            "OUTPOST_ATTEMPT": str(self.order["attempt"]),
        }
        if prompt:
            own["OUTPOST_PROMPT_FILE"] = prompt
        if self.workspace:
            own["OUTPOST_BRANCH"] = self.workspace["branch"]
        return own

    def _watch(self) -> None:
        """Wait for the agent's end, and bring it about when a limit or a stop says so."""
        while self._status is None:
            now = time.monotonic()
            when, what = min(self._due(), default=(None, ""))
            if when is None or when > now:
                self.loop.turn(None if when is None else when - now)
            elif what == "kill":
                self._kill_when_due(now)
            elif what == "save":
                self._save()
                self._save_at = now + self.limits["checkpoint_every"]
            elif what == "idle":
                self._say("idle", "has been silent for a while", "agent")
            else:
                self._begin_end(what, self._grace)

    def _due(self) -> list[tuple[float, str]]:
        """Return what is to be done while the agent runs, and at which moment."""
        if self._ending:
            return [(self._kill_at, "kill")]
        if self._asked:
            return [(self._asked_at, self._asked)]
        due = []
        if self.limits["timeout"] is not None:
            due.append((self._agent_began + self.limits["timeout"], "timeout"))
        if self.limits["idle_timeout"] is not None:
            due.append((self._last_output + self.limits["idle_timeout"], "idle_timeout"))
        if self.workspace is not None and self.limits["checkpoint_every"]:
            due.append((self._save_at, "save"))
        if self.relay and self._shown != "idle":
            due.append((self._last_output + _IDLE_AFTER, "idle"))
        return due

    def _agents_end(self) -> dict[str, Any]:
        """Return `agent.json`: how the agent ended, and what its output says."""
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        exit_code, signal = (code, None) if code >= 0 else (None, -code)
        if self._ending:
            state, reason, message = outcome.of_ending(self._ending, self.limits)
        else:
            state, reason, message = outcome.of_exit(exit_code, signal)
        ended = outcome.result(state, reason, message, exit_code=exit_code, signal=signal)
        kind = self.order["agent"]["output"]
        if kind != "plain" and self.relay is None:
            from outpost_core.worker import agentout

            path = os.path.join(self.folder, files.LOG)
            answer = self._run_stage(
                lambda _: agentout.read(kind, path), limit=_RESCUE_LIMIT, after_stop=_RESCUE_LIMIT
            )
            outcome.add_output(ended, answer.get("answer"))
        ended["at"] = time.time()
        return ended

    # --- its output ----------------------------------------------------------------------

    def _read(self) -> None:
        data = os.read(self._pipe, 65536)
        if data:
            self._print(data)
        else:
            self._close_pipe()

    def _print(self, data: bytes) -> None:
        self._last_output = time.monotonic()
        if self._shown == "idle":
            self._say("working", "", "agent")
        assert self.log is not None
        shown = self.log.feed(data)
        if self.view:
            self.view.write(shown)

    def _drain(self) -> None:
        """Read what is left; the pipe ends by itself once the whole tree has ended."""
        end = time.monotonic() + _DRAIN_PATIENCE
        while self._pipe >= 0 or (self.relay and not self.relay.ended):
            left = end - time.monotonic()
            self.loop.turn(max(0.0, left))
            if left <= 0:  # a process that is not ours has got hold of it
                break
        self._close_log()

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self.loop.remove(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _close_log(self) -> None:
        self._close_pipe()
        if self.relay:
            self.relay.close()
        if self.log:
            rest = self.log.close()
            if self.view:
                self.view.write(rest)
        if self.view:
            self.view.close()
            self.view = None

    # --- ending --------------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number == _signal.SIGCHLD:
            self._reap()
        elif number == _signal.SIGWINCH:
            if self.relay:
                self.relay.resize()
        elif not self._look_for_stop() and not self._asked:
            self._ask("terminated")

    def _look_for_stop(self) -> bool:
        stop = files.load(self.folder, files.STOP)
        if stop is None:
            return False
        self._grace = float(stop.get("grace", self._grace))
        self._ask("stopped")
        return True

    def _ask(self, reason: str) -> None:
        now = time.monotonic()
        self._asked_at = self._asked_at or now
        self._asked = reason
        if self._ending and self._kill_at > now + self._grace:  # a later stop is in more of a hurry
            self._kill_at = now + self._grace

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._agent:
                self._status = status
            for stage in self._stages:
                if stage.pid == pid:
                    stage.status = status

    def _begin_end(self, reason: str, grace: float) -> None:
        """Ask the whole tree to end, while what it did so far is saved beside it."""
        self._ending = reason
        self._save()
        _terminate(self._tree())
        self._kill_at = time.monotonic() + grace

    def _end_tree(self) -> None:
        """End everything that the agent left running, however far it forked away."""
        asked: set[tuple[int, int]] = set()
        give_up = None
        while procs := self._tree():
            now = time.monotonic()
            if not self._kill_at:
                self._kill_at = now + min(self._grace, _LEFTOVER_GRACE)
            # again and again, since some may have been forked while we looked
            _terminate([proc for proc in procs if (proc.pid, proc.start) not in asked])
            asked.update((proc.pid, proc.start) for proc in procs)
            if now >= self._kill_at:
                give_up = give_up or now + _KILL_PATIENCE
                if now > give_up:
                    return  # not even KILL ends a process that waits for a dead disk
            self._kill_when_due(now)
            self.loop.turn(_KILL_AGAIN)
            self._reap()

    def _kill_when_due(self, now: float) -> None:
        if now >= self._kill_at:
            process.send_all(self._tree(), _signal.SIGKILL)
            self._kill_at = now + _KILL_AGAIN

    def _tree(self) -> list[process.Proc]:
        """Return all living descendants but our own helpers."""
        if self._childless:
            return []
        helpers = [stage.pid for stage in self._stages]
        return process.below([os.getpid()], process.everyone(), helpers)

    # --- helpers -------------------------------------------------------------------------

    def _run_stage(
        self,
        call: Callable[[Report], dict[str, Any]],
        *,
        limit: float,
        after_stop: float,
        report: Report | None = None,
    ) -> dict[str, Any]:
        """Run a heavy step and wait for it.

        Args:
            call: the step.
            limit: seconds that it may take.
            after_stop: seconds that it may go on after a stop was asked for.
            report: told what it reports.

        Returns:
            `{"answer": …}` or `{"error": …}`; empty when it was ended or died.
        """
        stage = self._begin_stage(call, report or _silent)
        answer = self._wait_stage(stage, limit, after_stop)
        self._stages.remove(stage)
        return answer

    def _begin_stage(self, call: Callable[[Report], dict[str, Any]], report: Report) -> Stage:
        from outpost_core.worker.stage import Stage

        env = launch.environment(self.order, self.launched, self.secrets, self._own_env(""))
        stage = Stage(
            self.loop,
            self.folder,
            call,
            env=env,
            report=report,
            close=tuple(fd for fd in (self._lock, self._room, self._pipe) if fd >= 0),
        )
        self._stages.append(stage)
        self._childless = False
        return stage

    def _wait_stage(self, stage: Stage, limit: float, after_stop: float) -> dict[str, Any]:
        end = time.monotonic() + limit
        number = _signal.SIGTERM
        while not stage.done:
            now = time.monotonic()
            due = min(end, self._asked_at + after_stop) if self._asked else end
            if now >= due:
                stage.signal(number)
                number, after_stop = _signal.SIGKILL, float("inf")
                end = now + (_LEFTOVER_GRACE if number == _signal.SIGKILL else _KILL_AGAIN)
                due = end
            self.loop.turn(max(0.0, due - now))
        return stage.answer

    def _save(self) -> None:
        """Begin a checkpoint, unless one is under way."""
        if self.workspace is None or (self._saving and not self._saving.done):
            return
        self._collect()
        from outpost_core.worker import checkpoint

        space = self.workspace
        self._saving = self._begin_stage(
            lambda _: checkpoint.save(self.order, self.folder, space), _silent
        )

    def _collect(self) -> None:
        """Take the answer of a checkpoint that has ended."""
        if self._saving and self._saving.done:
            self._saved = outcome.saved(self._saving.answer, self._saved)
            self._stages.remove(self._saving)
            self._saving = None

    def _rescue(self, result: dict[str, Any]) -> None:
        """Save what is not pushed, and say in the result where it is."""
        if self._saving:  # it may have missed the last changes
            self._wait_stage(self._saving, _RESCUE_LIMIT, _RESCUE_LIMIT)
        self._save()
        if self._saving:
            answer = self._wait_stage(self._saving, _RESCUE_LIMIT, _RESCUE_LIMIT)
            if "error" in answer:
                result["message"] += f" (not rescued: {answer['error']['message']})"
        self._collect()
        result["checkpoint"] = self._saved

    def _say(self, state: str, detail: str, phase: str, **more: Any) -> None:
        """Show where the attempt is; a full disk only loses the showing."""
        self._shown = state
        now = time.time()
        about = {"state": state, "detail": detail, "phase": phase, "updated_at": now, **more}
        try:  # noqa: SIM105 - contextlib would have to be imported
            files.store(self.folder, files.STATE, about)
        except OSError:
            pass


def _silent(_: str) -> None:
    """Nobody is told what the step reports."""


def _terminate(procs: list[process.Proc]) -> None:
    process.send_all(procs, _signal.SIGTERM)
    process.send_all(procs, _signal.SIGCONT)  # a stopped process hears nothing


def _error(answer: dict[str, Any], reason: str) -> tuple[str, str]:
    error = answer.get("error")
    if error is None:
        return reason, "the step ended without an answer"
    return error["reason"], error["message"]
