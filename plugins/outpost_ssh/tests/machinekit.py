"""A machine that is switched on and off: a real sshd, by the user's own commands."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

from peers.sshd import Sshd

#: Seconds that a condition may take to come true, on a machine that is busy.
PATIENCE = 60.0


class Machine:
    """A host that is off until its start command is run.

    Args:
        folder: where all of its files are.
    """

    def __init__(self, folder: Path) -> None:
        self.sshd = Sshd(folder)
        self.sshd.start()  # which writes its configuration
        self.sshd.kill()
        self.log, self._pid = folder / "commands.log", folder / "sshd.pid"
        self.log.write_text("")
        q = shlex.quote
        start = (
            f"echo start >> {q(str(self.log))}; {self.state('true', 'exit 0')};"
            f" exec $(command -v sshd || echo /usr/sbin/sshd) -f {q(str(self.sshd.config))}"
            f" -o PidFile={q(str(self._pid))} -E {q(str(self.sshd.log))}"
        )
        stop = (
            f"echo stop >> {q(str(self.log))}; [ -s {q(str(self._pid))} ] || exit 0;"
            f" pid=$(cat {q(str(self._pid))}); rm -f {q(str(self._pid))};"
            " kill -STOP $pid 2>/dev/null || exit 0;"
            " for one in $(pgrep -P $pid); do pkill -KILL -P $one; kill -KILL $one; done;"
            " kill -KILL $pid"
        )
        self.start_command = ["/bin/sh", "-c", start]
        self.stop_command = ["/bin/sh", "-c", stop]
        self.state_command = ["/bin/sh", "-c", self.state("echo RUNNING", "") + "|| echo OFF"]

    def state(self, yes: str, then: str) -> str:
        """Return a line of shell for whether it runs."""
        pid = shlex.quote(str(self._pid))
        both = f"{yes}; {then}" if then else yes
        return f"{{ [ -s {pid} ] && kill -0 $(cat {pid}) 2>/dev/null && {{ {both}; }}; }}"

    @property
    def commands(self) -> list[str]:
        """What was run of it, in that order."""
        return self.log.read_text().split()

    @property
    def runs(self) -> bool:
        """Whether it is on."""
        if not self._pid.exists():
            return False
        pid = self._pid.read_text().strip()
        return bool(pid) and Path(f"/proc/{pid}").exists()

    def entry(self, name: str = "vm", rule: str = "", *, state: bool = True, **more: object) -> str:
        """Return its line of `outposts`."""
        values: dict[str, object] = {
            "name": name, "type": "ssh", "host": self.sshd.host, "port": self.sshd.port,
            "user": self.sshd.user, "ssh_key": str(self.sshd.key), "config": "/dev/null",
            "known_hosts": str(self.sshd.known_hosts), "mode": "process", "fence": "off",
            "keep": 0, "disk_floor": 0, "max_workers": 2,
            "start_command": self.start_command, "stop_command": self.stop_command,
            "boot_patience": "60s",
        }  # fmt: skip
        if state:
            values["state_command"] = self.state_command
        text = json.dumps(values | more)
        return f"  - {text[:-1]}, scaling: {{{rule}}}}}\n" if rule else f"  - {text}\n"

    def off(self) -> None:
        """Switch it off, whatever is on it."""
        import subprocess

        subprocess.run(self.stop_command, check=False)
        end = time.monotonic() + PATIENCE
        while self.runs and time.monotonic() < end:
            time.sleep(0.02)
