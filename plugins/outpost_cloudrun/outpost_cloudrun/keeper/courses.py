"""Which course a mode has; what it stands on is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outpost_cloudrun.options import Auth, CloudRunOptions, Mode

if TYPE_CHECKING:
    from outpost_cloudrun.keeper.course import Course
    from outpost_core.backend import BuildContext


def course_of(name: str, options: CloudRunOptions, context: BuildContext) -> Course:
    """Return the course of the workers that some options have started; opens nothing.

    Args:
        name: the outpost's name.
        options: its options when they were started, see `Site`.
        context: where it keeps its files, and what paths are relative to.
    """
    if options.mode is Mode.SERVICE:
        from outpost_cloudrun.keeper.service import ServiceCourse

        return ServiceCourse(name, options, context)
    from outpost_cloudrun.admin.factory import admin_client
    from outpost_cloudrun.connection.identity import Identity

    identity = Identity(options)
    tokens = None if options.auth is Auth.NONE else identity
    admin = admin_client(options, tokens)
    from outpost_cloudrun.keeper.witness import Witness

    witness = Witness(context.state_dir.absolute(), options.bucket, tokens)
    if options.mode is Mode.INSTANCE:
        from outpost_cloudrun.keeper.client import Way
        from outpost_cloudrun.keeper.instance import InstanceCourse

        return InstanceCourse(name, options, context, admin, Way(name, options), witness)
    from outpost_cloudrun.keeper.job import JobCourse

    return JobCourse(options, admin, witness)
