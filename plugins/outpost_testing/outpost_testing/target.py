"""What the conformance kit is pointed at: one backend, its options, and how to rebuild it.

Conformance is about many programs on one outpost, so the kit never shares an object between
them: `make()` builds a fresh one, as another process would, and `save()` writes down what a
child process needs to do the same.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outpost_core.backend import BuildContext
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.errors import PluginError
from outpost_manager.plugins.advice import missing_hint
from outpost_shared import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from outpost_core.backend import Backend, OutpostOptions
    from outpost_core.types import Json
    from outpost_manager.manager import Manager


@dataclass(frozen=True, kw_only=True)
class Target:
    """A backend under test.

    Args:
        type: its outpost type.
        state: the state folder; the outpost's own folder is inside, as the manager has it.
        provider: the module that offers the type (with `outpost_backends`); "" takes the
            installed packages.
        options: its options; None for the defaults.
        name: the outpost's name.
        config_dir: folder that relative paths in the options are relative to.
        shared: workers run on this machine: the kit sees their files and processes.
        cut: makes the outpost unreachable for every process; None where that cannot be done.
        restore: undoes `cut`.
        fault_points: points of `faults` that must be passed. Others may be: a check of a point
            that is not passed demands the same, with nothing killed.
        timeout: the wall-clock limit of orders that say none, for an outpost that takes no order
            without one; None for no limit.
        within: seconds that a short worker may take from spawn to result.
        spawns: how many workers a check starts at once, at most; fewer where one is dear.
        listed: how many workers an outpost has when its list is looked at.
        log_bytes: how long the long log is.
        temporary: `run_suite` removes `state` at its end.
        scratch: the folder for the kit's files, which workers of a shared target write to; None
            for the temporary one (`$TMPDIR`).
        keep: the files and the ended workers of a check that fails stay.
    """

    type: str
    state: Path
    provider: str = ""
    options: OutpostOptions | None = None
    name: str = "conformance"
    config_dir: Path | None = None
    shared: bool = True
    cut: Callable[[], None] | None = None
    restore: Callable[[], None] | None = None
    fault_points: tuple[str, ...] = faults.NEAR
    timeout: float | None = None
    within: float = 20.0
    spawns: int = 50
    listed: int = 200
    log_bytes: int = 50_000_000
    temporary: bool = False
    scratch: Path | None = None
    keep: bool = False

    @cached_property
    def backend(self) -> Backend:
        """The backend.

        Raises:
            PluginError: nobody offers the type, or its package cannot be loaded.
        """
        plugins = self.plugins()
        if self.type not in plugins.backends:
            raise PluginError(
                f"nothing usable provides the outpost type {self.type!r}"
                + "".join(f"; {r.entry_point}: {r.reason}" for r in plugins.reports if not r.ok),
                hint=missing_hint(plugins, self.type),
            )
        return plugins.backends[self.type]

    def plugins(self) -> Plugins:
        """Load the packages anew, as a program that starts does."""
        if not self.provider:
            return Plugins.load()
        plugins = Plugins.load([])
        plugins.add(import_module(self.provider), PluginReport(entry_point=self.provider))
        return plugins

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """What the outpost declares, and `shared` and `cut` where the target has them."""
        has_cut = self.cut is not None and self.restore is not None
        extra = {name for name, there in (("shared", self.shared), ("cut", has_cut)) if there}
        declared: frozenset[str] = self.make().capabilities
        return declared | extra

    @property
    def folder(self) -> Path:
        """The outpost's own folder."""
        return self.state / "outposts" / self.name

    def make(self) -> Any:
        """Build a fresh outpost object on the same workers."""
        options = self.backend.options_class() if self.options is None else self.options
        context = BuildContext(state_dir=self.folder, config_dir=self.config_dir)
        return self.backend.make(self.name, options, context)

    def config(self) -> str:
        """Return an `outposts.yaml` with this outpost alone (JSON is YAML)."""
        entry: dict[str, Json] = {"name": self.name, "type": self.type}
        if self.options is not None:
            for option in dataclasses.fields(self.options):
                value = getattr(self.options, option.name)
                if value is None and option.name == "cwd":
                    value = self.config_dir  # where a program runs that is not told otherwise
                if value is not None:
                    entry[option.name] = self._plain(value)
        return json.dumps({"outposts": [entry]})

    def _plain(self, value: Any) -> Json:
        if isinstance(value, Path):
            value = value.expanduser()
            return str(self.config_dir / value if self.config_dir else value)
        if isinstance(value, Enum):
            return str(value.value)
        if isinstance(value, tuple):
            return [self._plain(item) for item in value]
        plain: Json = value
        return plain

    def save(self, folder: Path, state: Path | None = None) -> Path:
        """Write down what another process needs, for `load`.

        Args:
            folder: existing private folder for the files.
            state: use this state folder instead.

        Returns:
            The file to give to `load`.
        """
        config, spec = folder / "outposts.yaml", folder / "target.json"
        written = {
            "type": self.type,
            "provider": self.provider,
            "name": self.name,
            "state": str(state or self.state),
            "config": str(config),
        }
        for path, text in ((config, self.config()), (spec, json.dumps(written))):
            path.touch(mode=0o600)
            path.write_text(text)
        return spec


def load(spec: Path) -> tuple[Target, Path]:
    """Return the target that `Target.save` wrote, and its `outposts.yaml`."""
    from outpost_manager.config import load_config

    said = json.loads(spec.read_text())
    config = Path(said["config"])
    target = Target(
        type=said["type"],
        provider=said["provider"],
        name=said["name"],
        state=Path(said["state"]),
    )
    (outpost,) = load_config(config, {target.type: target.backend}).outposts
    return dataclasses.replace(target, options=outpost.options), config


def target_from_manager(manager: Manager, name: str, *, scratch: Path | None = None) -> Target:
    """Return a target for a configured outpost.

    The run gets a state folder of its own, which `run_suite` removes: workers of the kit never
    show up in the user's ledger, and what runs elsewhere is stopped and cleaned one by one.

    Args:
        manager: an open manager.
        name: the outpost's name.
        scratch: where the kit's files and that state folder are; None for `$TMPDIR`.

    Raises:
        NotFoundError: no outpost has that name.
        PluginError: nothing installed provides its type, or it cannot be built.
    """
    outpost = manager.fleet.configured(name)
    path = manager.config.path
    return Target(
        type=outpost.type,
        options=outpost.options,
        name=name,
        state=Path(tempfile.mkdtemp(prefix="outpost-conformance-", dir=scratch)),
        config_dir=path.parent if path else None,
        shared="local_rig" in manager.fleet.outpost(name).capabilities,
        temporary=True,
        scratch=scratch and scratch.absolute(),
    )
