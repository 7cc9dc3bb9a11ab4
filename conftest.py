"""What holds for every test of every package."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# How long one example takes says how loaded the machine is, not whether the code is right.
settings.register_profile("outpost", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("outpost")


def pytest_configure() -> None:
    """Hear the signals that a program in a terminal hears.

    nohup ignores hang-ups for all that it starts, and a script ignores interrupts for what it puts
    into the background; the programs that tests start would inherit that.
    """
    # no test leaves a connection behind; those of keepers say so
    os.environ["OUTPOST_KEEP"] = "0"
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
