"""Where a worker runs: what of the configuration its start went by, remembered with it.

The configuration may say something else by now: another project, another mode. Whoever follows,
stops and removes a worker goes to where it was started, since nobody else would end it there and
it would be paid for on and on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_cloudrun.options import CloudRunOptions, Mode

if TYPE_CHECKING:
    from outpost_core.types import Json

_PROJECT: Final = ("project", "region", "service", "endpoint")
#: What is made for one worker is of its own size, and its record is where its container was told.
_OWN: Final = (*_PROJECT, "bucket", "cpu", "memory", "disk")
#: Options by which a worker of a mode is found, and what it costs is told. Who asks, and with what
#: identity, is not among them: a login that was renewed holds for older workers as well. Nor is the
#: size of a service, whose workers share containers.
_FIELDS: Final[Mapping[Mode, tuple[str, ...]]] = {
    Mode.SERVICE: (*_PROJECT, "url", "audience"),
    Mode.JOB: (*_OWN, "url"),
    Mode.INSTANCE: (*_OWN, "url"),
}


@dataclass(frozen=True)
class Site:
    """Where workers run that are found by the same options.

    Args:
        mode: the mode they were started in.
        values: the options by name; see `_FIELDS`.
    """

    mode: Mode
    values: tuple[tuple[str, str | float | None], ...]

    @classmethod
    def of(cls, options: CloudRunOptions, mode: Mode | None = None) -> Site:
        """Return where workers are started by some options.

        Args:
            options: the options.
            mode: another mode than theirs.
        """
        mode = mode or options.mode
        return cls(mode, tuple((name, getattr(options, name)) for name in _FIELDS[mode]))

    @classmethod
    def read(cls, said: Json, now: CloudRunOptions) -> Site | None:
        """Return the site that was written down; None for what is none.

        Args:
            said: what `written` returned.
            now: today's options, for what nobody wrote down then.
        """
        if not isinstance(said, dict) or said.get("mode") not in [*Mode]:
            return None
        mode = Mode(str(said["mode"]))
        values: list[tuple[str, str | float | None]] = []
        for name, default in cls.of(now, mode).values:
            value = said.get(name, default)
            fits = isinstance(value, str) if isinstance(default, str) else _is_number(value)
            values.append((name, value if fits else default))  # type: ignore[arg-type]
        return cls(mode, tuple(values))

    @property
    def written(self) -> dict[str, Json]:
        """What is remembered of it."""
        return {"mode": self.mode.value, **dict(self.values)}

    def options(self, now: CloudRunOptions) -> CloudRunOptions:
        """Return today's options, but of workers that run here."""
        return now.as_started(mode=self.mode, **dict(self.values))


def _is_number(value: Json) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
