"""What holds for every test of every package."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Hear hang-ups, as a program in a terminal does, also when run under nohup or by a service."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
