"""Which course a mode has; what it stands on is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_cloudrun.options import CloudRunOptions, Mode
from outpost_core.errors import UnsupportedError

if TYPE_CHECKING:
    from outpost_cloudrun.keeper.course import Course
    from outpost_core.backend import BuildContext


def course_of(mode: Mode, name: str, options: CloudRunOptions, context: BuildContext) -> Course:
    """Return the course of a mode; opens nothing.

    Args:
        mode: the mode.
        name: the outpost's name.
        options: its options.
        context: where it keeps its files, and what paths are relative to.
    """
    if mode is Mode.SERVICE:
        from outpost_cloudrun.keeper.service import ServiceCourse

        return ServiceCourse(name, options, context)
    raise UnsupportedError(f"{name} cannot run workers in the mode {mode.value} yet")
