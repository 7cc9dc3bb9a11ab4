"""What can be turned while the emulator runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: How the image's program is started where instances are processes.
SERVER: Final = (sys.executable, "-m", "outpost_cloudrun.server")


@dataclass(frozen=True, kw_only=True)
class Image:
    """What stands for a container's image where instances are processes.

    Attributes:
        entrypoint: the program; arguments of the container come behind it.
        env: environment that the image brings, such as a `PATH` with or without an agent.
        missing: the registry does not have it.
    """

    entrypoint: tuple[str, ...] = SERVER
    env: Mapping[str, str] = field(default_factory=dict)
    missing: bool = False


@dataclass(kw_only=True)
class Knobs:
    """Everything that tests may set, before and during a run; durations in seconds.

    Attributes:
        images: by their names; any other name is the program of this package.
        cold_start: what a container needs besides the start of its program.
        operation: how long a long-running operation of the Admin API takes at least.
        queue: how long a request waits for an instance at least
            (`max(3.5 × mean start-up, 10 s)`).
        idle: how long an instance without requests lives (about 15 minutes at Google).
        grace: from SIGTERM to SIGKILL.
        startup: how long a container may take until it listens.
        request_timeout: instead of the one of each service; None leaves theirs.
        task_timeout: instead of the one of each job; None leaves theirs.
        freeze: whether an instance that is billed by request has no CPU between them.
        most_http1: largest body of a request in HTTP/1.1, in bytes.
        kill_on_post: how many of the next POSTs kill the container that they are handed to.
        next_env: what the next containers have in their environment besides, one after the other.
        duplicates: how many of the next POSTs reach two instances.
        beyond_max: how many instances more than the maximum there may be for a while.
        no_capacity: no instance is free or started: 429 after the queue.
        affinity: how often a cookie of session affinity is obeyed, from 0 to 1.
        tokens: whether callers of services need an identity token.
        access_tokens: whether callers of the Admin API and of the bucket need an access token.
        clock: how far Google's clock is ahead of this machine's.
        regions_away: regions in which nothing answers.
        api_disabled: the Admin API is off.
        denied: permissions that the caller lacks, such as `run.jobs.create`.
        admin_failures: statuses with which the next calls of the Admin API are answered.
        admin_lost_answers: how many of the next calls are carried out, and their answers lost.
        admin_per_minute: how many calls of the Admin API a minute are answered; None: all.
        most_jobs: of a project in a region.
        most_executions: running ones, of a project in a region.
        no_instances: regions that do not have Cloud Run instances.
        buckets: which there are at the beginning.
        bucket_status: status with which the bucket answers everything; 0: as it should.
        bucket_delay: how long the bucket waits before each answer.
        bucket_away: the bucket does not answer at all.
    """

    images: dict[str, Image] = field(default_factory=dict)
    cold_start: float = 0.0
    operation: float = 0.0
    queue: float = 10.0
    idle: float = 900.0
    grace: float = 10.0
    startup: float = 240.0
    request_timeout: float | None = None
    task_timeout: float | None = None
    freeze: bool = True
    most_http1: int = 32 << 20
    kill_on_post: int = 0
    next_env: list[dict[str, str]] = field(default_factory=list)
    duplicates: int = 0
    beyond_max: int = 0
    no_capacity: bool = False
    affinity: float = 0.9
    tokens: bool = True
    access_tokens: bool = False
    clock: float = 0.0
    regions_away: set[str] = field(default_factory=set)
    api_disabled: bool = False
    denied: set[str] = field(default_factory=set)
    admin_failures: list[int] = field(default_factory=list)
    admin_lost_answers: int = 0
    admin_per_minute: int | None = None
    most_jobs: int = 1000
    most_executions: int = 1000
    no_instances: set[str] = field(default_factory=set)
    buckets: tuple[str, ...] = ("outpost",)
    bucket_status: int = 0
    bucket_delay: float = 0.0
    bucket_away: bool = False
