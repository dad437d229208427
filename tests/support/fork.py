"""Asks something in a forked child."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

__all__ = ["holds_in_child"]


def holds_in_child(condition: Callable[[], object]) -> bool:
    """Return whether *condition* returns something true in a forked child. It must be quick."""
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.alarm(15)
        try:
            status = 0 if condition() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
