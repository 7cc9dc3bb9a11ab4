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

from outpost_core import names
from outpost_shared import faults, process
from outpost_worker.folder import claim, exposed, files, outcome, seal, words
from outpost_worker.run.output import Output
from outpost_worker.run.stopping import Stopping
from outpost_worker.run.tree import LEFTOVER_GRACE, Tree
from outpost_worker.system import launch, mark, memory
from outpost_worker.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from outpost_agents.account import Account
    from outpost_worker.agents.following import Watch
    from outpost_worker.folder.masking import Masker
    from outpost_worker.run.helpers import Helpers

#: Seconds for another process to let go of the lock of an attempt that has not begun.
_LOCK_PATIENCE = 10.0
#: Seconds between two looks whether the worker's folder is still there.
_LOOK_EVERY = 5.0
#: Seconds after which the size of our terminal is asked for again: Linux tells of a new size
#: shortly before it can be read.
_SIZE_SETTLES = 0.1
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
    try:
        order, launched, own = files.truth(folder)
    except files.Broken as error:
        return _refuse_broken(folder, error.said)
    seal.hold(folder, own)
    if launched.get("boot") != process.boot_id():
        # its claim may have been lost with the power: it is not known that it never began
        return _refuse(folder, "was made before this machine was started")
    return Supervisor(folder, lock, order, launched).run()


def _refuse(folder: str, why: str) -> int:
    sys.stderr.write(f"outpost: the worker {os.path.basename(folder)} {why}\n")
    return 2


def _refuse_broken(folder: str, why: str) -> int:
    """End an attempt of which nobody knows what was ordered, so that it is not started again."""
    if claim.take(folder):
        result = outcome.result("lost", "broken", f"{why}; nothing of it was run")
        files.store_result(folder, {**result, "agent_began": False, "finished_at": time.time()})
    return _refuse(folder, f"is broken: {why}")


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
        self._folder = folder
        self._lock = lock
        self._order = order
        self._launched = launched
        self._limits: dict[str, Any] = order["limits"]
        self._secrets: dict[str, str] = {}
        self._masker: Masker | None = None
        self._workspace: dict[str, Any] | None = None
        self._loop = Loop(self._on_signal)
        self._tree = Tree(self._loop)
        self._stopping = Stopping(float(self._limits["grace"]))
        self._output: Output | None = None
        self._says: Watch | None = None  # what an agent with a known output says of itself
        self._made_helpers: Helpers | None = None
        self._began = self._agent_began = self._save_at = self._look_at = 0.0
        self._resize_at = 0.0
        self._ending = ""  # why the agent is being ended
        self._shown = ""
        self._agent: dict[str, Any] | None = None
        self._wrap: launch.Wrapper | None = None  # what stands before the agent's command
        self._fence = ""
        self._exposes = False  # no fence is around the agent
        self._began_agent = False  # or it may have, for all that is known
        self._kills = memory.kills()  # before it

    # --- the attempt ---------------------------------------------------------------------

    def run(self) -> int:
        """Claim the attempt and see it through; returns as `run` does."""
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)  # a killed tmux server ends no work
        for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT):
            self._loop.catch(number)
        process.become_subreaper()
        mark.take(self._folder)  # a recovery finds by it whatever we leave when we are killed
        self._began = time.time()
        try:
            if not claim.take(self._folder):
                return _refuse(self._folder, "has begun before, and never begins again")
            self._take_secrets()
            faults.point("worker.claimed")
            # whoever asked before the claim was to be seen has left it in the folder
            self._stopping.look(self._folder)
            result = self._attempt()
        except OSError as error:
            result = self._defect(error, outcome.reason_of(error, "internal"))
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes the result
            result = self._defect(error, "internal")
        self._tree.end(LEFTOVER_GRACE)  # what git may have left behind
        self._finish(result)
        return 0 if result["state"] == "done" else 1

    def _attempt(self) -> dict[str, Any]:
        work = os.path.join(self._folder, files.WORK)
        failed = None
        if not self._stopping.asked():
            os.makedirs(os.path.join(self._folder, files.EXCHANGE), 0o700, exist_ok=True)
            if self._order["rig"] is None:
                os.mkdir(work, 0o700)
            else:
                failed = self._prepare()
        if self._stopping.asked():
            return outcome.before_it_ran(self._stopping.reason)
        if failed:
            return failed
        faults.point("worker.prepared")
        failed = self._start(work)
        if failed:
            return failed
        faults.point("worker.agent_started")
        self._watch()
        self._tree.end(min(self._stopping.grace, LEFTOVER_GRACE))
        if self._exposes:
            self._expose()  # the agent may have taken the mark away
        assert self._output is not None
        self._output.drain()
        ended = self._agents_end()
        try:  # noqa: SIM105 - contextlib would have to be imported
            files.store(self._folder, files.AGENT, ended)
        except OSError:
            pass  # a full disk: only a recovery would need it
        faults.point("worker.agent_ended")
        return self._deliver(ended)

    def _prepare(self) -> dict[str, Any] | None:
        """Make the working tree; returns the result when that did not work."""
        from outpost_worker.run.helpers import LIMIT
        from outpost_worker.work import workspace

        order, folder, root = self._order, self._folder, self._launched["root"]
        if (self._launched.get("fence") or {}).get("mode") == "off":
            self._expose()
        self._say("starting", "preparing the working tree", "prepare")
        answer = self._helpers().run(
            lambda report: workspace.prepare(order, root, folder, report),
            limit=LIMIT,
            after_stop=0.0,
            report=lambda text: self._say("starting", text, "prepare"),
            again=False,  # it overwrites nothing, not even its own
        )
        if "answer" not in answer:
            return outcome.of_error(answer, "workspace_failed", "preparing was cut off")
        self._workspace = answer["answer"]
        files.store(folder, files.WORKSPACE, answer["answer"])
        return None

    def _deliver(self, ended: dict[str, Any]) -> dict[str, Any]:
        """Bring the work home, or rescue it; returns the result."""
        result = {**ended}
        del result["at"]
        space = self._workspace
        if space is None:
            outcome.conclude(result)
            return result
        if result["state"] == "done":
            from outpost_worker.run.helpers import LIMIT
            from outpost_worker.work import deliver

            order, folder = self._order, self._folder
            self._say("working", "delivering", "deliver")
            self._helpers().settle()
            answer = self._helpers().run(
                lambda report: deliver.deliver(order, folder, space, report),
                limit=LIMIT,
                after_stop=None,
                report=lambda text: self._say("working", text, "deliver"),
            )
            outcome.add_delivery(result, answer, stopped=self._stopping.reason)
        outcome.conclude(result)
        if result["state"] != "done":
            self._say("working", "rescuing what is not pushed", "rescue")
            self._helpers().rescue(space, result)
        return result

    def _finish(self, result: dict[str, Any]) -> None:
        result["started_at"] = self._began
        result["finished_at"] = time.time()
        result["fence"] = self._fence
        if self._output:
            self._output.close()
            log = self._output.log
            result["log_bytes"] = log.size
            result["log_truncated"] = log.truncated
            if log.error and not result["message"]:
                result["message"] = f"the log is not whole: {os.strerror(log.error)}"
        if self._masker:
            for name in ("message", "pr_url"):
                if result[name]:
                    result[name] = self._masker.mask(result[name])
        files.store_result(self._folder, result)
        faults.point("worker.finished")

    def _defect(self, error: Exception, reason: str) -> dict[str, Any]:
        """Something that should not happen did: end everything, keep what can be kept."""
        from outpost_worker.run.forked import note_defect

        note_defect(self._folder, error)
        self._tree.terminate(0.0)
        self._tree.end(0.0)
        message = f"{type(error).__name__}: {error}"
        result = outcome.result("failed", reason, message, agent_began=self._began_agent)
        if self._workspace is not None:
            self._helpers().rescue(self._workspace, result)
        return result

    # --- the agent -----------------------------------------------------------------------

    def _take_secrets(self) -> None:
        path = os.path.join(self._folder, files.SECRETS)
        if not os.path.exists(path):
            return
        from outpost_worker.folder.masking import Masker

        self._secrets = files.load(self._folder, files.SECRETS) or {}
        rig = self._secrets.pop(names.RIG_CREDENTIAL, "")
        if rig:  # stays, since a recovery has to push too; as in a clone of such a URL
            files.write(os.path.join(self._folder, files.CREDENTIALS), f"{rig}\n".encode())
        os.unlink(path)
        passwords = [
            line.partition("://")[2].rpartition("@")[0].partition(":")[2]
            for line in rig.splitlines()
        ]
        self._masker = Masker([*self._secrets.values(), *passwords])

    def _start(self, work: str) -> dict[str, Any] | None:
        """Start the agent; returns the result when it cannot be executed."""
        agent = self._order["agent"]
        prompt = self._prompt()
        values = {
            "prompt": launch.prompt_argument(self._order["prompt"], prompt),
            "prompt_file": prompt,
            "issue": self._order["issue"]["id"],
            "work": work,
        }
        self._output = output = Output(
            self._loop,
            self._folder,
            self._masker,
            interactive=agent["interactive"],
            log_bytes=self._limits["log_bytes"],
            keep_tail=agent["output"] != "plain",
        )
        env = self._env(prompt)
        if "--resume" in agent["argv"]:
            from outpost_agents.claude import sessions

            sessions.bring(agent["argv"], env, work)
        if agent["interactive"] and agent["name"] == "claude":
            from outpost_agents.claude import trust

            trust.accept(env, work)
        self._wrap = launch.wrapper(
            self._launched,
            {
                "issue": values["issue"],
                "worker": os.path.basename(self._folder),
                "work": work,
                "exchange": os.path.join(self._folder, files.EXCHANGE),
            },
        )
        self._began_agent = True
        try:
            terminal = output.name if output.relay else ""
            unfenced = self._launch(
                launch.expand(agent["argv"], values), env, work, output.end, terminal
            )
        except launch.WrapperError as error:
            self._began_agent = False
            return outcome.of_wrapper_error(error)
        except OSError as error:
            self._began_agent = False
            return outcome.of_exec_error(error, agent["argv"][0])
        finally:
            os.close(output.end)
        if unfenced:
            self._began_agent = False
            return outcome.result("failed", "no_fence", unfenced, agent_began=False)
        if output.relay:
            self._loop.catch(_signal.SIGWINCH)
        pid = self._tree.agent
        self._tree.grown()
        self._agent_began = output.last = time.monotonic()
        self._save_at = self._agent_began + self._limits["checkpoint_every"]
        self._look_at = self._agent_began + _LOOK_EVERY
        # from here on, a recovery finds the agent's processes by these
        pipe = "" if output.relay else output.name
        self._agent = {"pid": pid, "start": process.start_time(pid), "pipe": pipe}
        if agent["output"] != "plain" and not output.relay:
            from outpost_worker.agents import following

            self._says = following.Watch(self._account(agent, env), self._limits)
            output.follow = self._says.feed
        self._say("working", "", "agent")
        self._hold()
        return None

    def _account(self, agent: dict[str, Any], env: dict[str, str]) -> Account:
        """Return the account of the agent's output; an empty one where its reader is broken."""
        from outpost_agents import registry

        brought = self._launched.get("reader")
        try:
            return registry.account(agent["output"], agent.get("prices"), env, self._began, brought)
        except Exception as error:  # noqa: BLE001 - whatever a reader does, the agent works
            from outpost_worker.run.forked import note_defect

            note_defect(self._folder, error)
            return registry.account(registry.PLAIN)

    def _prompt(self) -> str:
        """Return the path of the file with the prompt; "" when there is none."""
        text = self._order["prompt"]
        if not text:
            return ""
        path = os.path.join(self._folder, files.EXCHANGE, files.PROMPT)
        if not os.path.exists(path):  # published by an older version
            files.write(path, text.encode("utf-8", "surrogateescape"))
        return path

    def _launch(
        self, argv: list[str], env: dict[str, str], work: str, output: int, terminal: str
    ) -> str:
        """Start the agent, behind a fence where one is wanted and can be made.

        Returns:
            Why it was not started: a fence is required, and none can be made; else "".

        Raises:
            OSError: it could not be executed; nothing runs.
        """
        settings = self._launched.get("fence") or {}
        if settings.get("mode") == "off":
            self._fence = "off"
        else:
            from outpost_worker.fence import places, start

            os.chdir(work)  # as it is without a fence
            fenced = start.start(
                start.Command(argv, env, work, output, terminal, self._wrap),
                places.Wanted(
                    self._folder, self._launched["root"], env, self._order["rig"], settings
                ),
                settings.get("only", start.WAYS),
            )
            self._fence = fenced.fence or f"none: {start.why(fenced)}"
            if fenced.fence:
                self._tree.follow(fenced)
                return ""
            if settings.get("mode") == "required":
                return f"no fence can be made here: {start.why(fenced)}"
        self._expose()
        # The agent may remove the mark and end us before we say more: a recovery marks by this.
        self._say("starting", "starting the agent", "agent")
        self._tree.agent = launch.start(argv, env, work, output, terminal, self._wrap)
        return ""

    def _expose(self) -> None:
        self._exposes = True
        exposed.mark(self._launched["root"])

    def _hold(self) -> None:
        """Load what the end of the work needs: an upgrade may replace or remove our files by then.

        It costs nothing that would not be paid later, and here the agent is at work already.
        """
        if self._order["agent"]["output"] != "plain":
            from outpost_worker.run import helpers  # noqa: F401
        if self._workspace is not None:
            from outpost_worker.work import checkpoint, deliver, repair  # noqa: F401

            self._helpers()
            if self._order["delivery"]["pr_command"]:
                import subprocess  # noqa: F401

    def _env(self, prompt: str = "") -> dict[str, str]:
        own = {
            "OUTPOST_WORKER": os.path.basename(self._folder),
            "OUTPOST_WORKER_DIR": os.path.join(self._folder, files.EXCHANGE),
            "OUTPOST_ISSUE": self._order["issue"]["id"],
            "OUTPOST_ATTEMPT": str(self._order["attempt"]),
        }
        if prompt:
            own["OUTPOST_PROMPT_FILE"] = prompt
        if self._workspace:
            own["OUTPOST_BRANCH"] = self._workspace["branch"]
        return launch.environment(self._order, self._launched, self._secrets, own)

    def _watch(self) -> None:
        """Wait for the agent's end, and bring it about when a limit or a stop says so."""
        while self._tree.status is None:
            now = time.monotonic()
            when, what = min(self._due())
            if when > now:
                self._loop.turn(when - now)
            elif what == "kill":
                self._tree.kill_when_due()
            elif what == "save":
                self._save()
                self._save_at = now + self._limits["checkpoint_every"]
            elif what == "look":
                self._look_at = now + _LOOK_EVERY
                if not claim.exists(self._folder):  # removed: nobody can see or stop it any more
                    self._stopping.grace = 0.0
                    self._stopping.tell("terminated")
            elif what == "resize":
                self._resize_at = 0.0
                self._resize()
            elif what == "idle":
                self._say("idle", self._waits_for(), "agent")
            elif what == "working":
                self._say("working", "", "agent")
            elif what == "usage":
                if self._says and self._says.news():
                    asks = self._says.question
                    self._say("idle" if asks else "working", asks, "agent")
            else:
                self._ending = self._why(what)
                self._save()
                self._tree.terminate(self._stopping.grace)

    def _waits_for(self) -> str:
        """Return what an interactive agent that is silent seems to wait for."""
        from outpost_worker.run import screen

        words = screen.last_words(self._folder)
        return f"needs you: {words}" if words else "has been silent for a while"

    def _why(self, limit: str) -> str:
        """Return why the agent is ended: a limit is no failure of one that has reported its end."""
        over = limit in ("timeout", "idle_timeout") and self._says is not None and self._says.final
        return "final" if over else limit

    def _due(self) -> list[tuple[float, str]]:
        """Return what is to be done while the agent runs, and at which moment."""
        assert self._output is not None
        if self._ending:
            return [(self._tree.kill_at, "kill")]
        if self._stopping.asked():
            return [(self._stopping.at, self._stopping.reason)]
        due = [(self._look_at, "look"), *(self._says.due() if self._says else ())]
        last = self._output.last
        if self._limits["timeout"] is not None:
            due.append((self._agent_began + self._limits["timeout"], "timeout"))
        if self._limits["idle_timeout"] is not None:
            due.append((last + self._limits["idle_timeout"], "idle_timeout"))
        if self._workspace is not None and self._limits["checkpoint_every"]:
            due.append((self._save_at, "save"))
        if self._resize_at:
            due.append((self._resize_at, "resize"))
        if self._output.relay:
            idle_at = last + _IDLE_AFTER
            if self._shown != "idle":
                due.append((idle_at, "idle"))
            elif idle_at > time.monotonic():
                due.append((last, "working"))
        return due

    def _agents_end(self) -> dict[str, Any]:
        """Return `agent.json`: how the agent ended, and what its output says."""
        assert self._tree.status is not None
        assert self._output is not None
        if self._output.relay:
            from outpost_worker.run import screen

            screen.keep(self._folder)
        code = os.waitstatus_to_exitcode(self._tree.status)
        exit_code, signal = (code, None) if code >= 0 else (None, -code)
        if self._ending:
            state, reason, message = outcome.of_ending(self._ending, self._limits)
        else:
            state, reason, message = outcome.of_exit(exit_code, signal, self._output.log.error)
            if state == "failed" and memory.kills() > self._kills:
                message += outcome.of_memory(exit_code, signal, memory.limit())
        ended = outcome.result(
            state, reason, message, exit_code=exit_code, signal=signal, agent_began=True
        )
        if self._wrap is not None and self._wrap.own_files:
            outcome.add_lookup(ended, self._order["agent"]["argv"][0], self._wrap.argv[0])
        if self._says:
            said = self._says.close(os.path.join(self._folder, files.LOG))
            outcome.add_output(ended, said, self._ending)
            if self._says.defect is not None:
                from outpost_worker.run.forked import note_defect

                note_defect(self._folder, self._says.defect)
        ended["at"] = time.time()
        return ended

    # --- beside it -----------------------------------------------------------------------

    def _on_signal(self, number: int) -> None:
        if number == _signal.SIGCHLD:
            self._tree.reap()
        elif number == _signal.SIGWINCH:
            self._resize()
            self._resize_at = time.monotonic() + _SIZE_SETTLES
        elif self._stopping.look(self._folder):
            self._tree.hurry(self._stopping.grace)
        elif not self._stopping.asked():
            self._stopping.tell("terminated")

    def _resize(self) -> None:
        if self._output and self._output.relay:
            self._output.relay.resize()

    def _helpers(self) -> Helpers:
        if self._made_helpers is None:
            from outpost_worker.run.helpers import Helpers

            self._made_helpers = Helpers(
                self._loop,
                self._tree,
                self._stopping,
                self._folder,
                self._order,
                self._env(),
                (self._lock,),
            )
        return self._made_helpers

    def _save(self) -> None:
        if self._workspace is not None:
            self._helpers().save(self._workspace)

    def _say(self, state: str, detail: str, phase: str) -> None:
        """Show where the attempt is; a full disk only loses the showing."""
        self._shown = state
        about = {
            "state": state,
            "detail": words.readable(detail),
            "phase": phase,
            "updated_at": time.time(),
            "agent": self._agent,
            "usage": self._says.shown if self._says else None,
            "fence": self._fence,
        }
        try:  # noqa: SIM105 - contextlib would have to be imported
            files.store(self._folder, files.STATE, about)
        except OSError:
            pass
