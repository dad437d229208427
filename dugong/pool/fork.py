"""What becomes of pools when the process forks: those of the child start afresh.

Guarantees: a child finds no pool in the middle of a change, sends no byte on a connection of its
parent's, and finds each request that was under way failed, whatever goes wrong before the fork.
"""

from __future__ import annotations

import os
import weakref
from threading import RLock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.pool.core.recovery import Recovery

__all__ = ["register"]

# Held while a thread makes a pool or forks. Reentrant, for a signal handler may fork while its
# thread does.
_lock = RLock()  # a forked child has a new one
#: Those of the pools that exist; guarded by _lock.
_recoveries: dict[int, weakref.ref[Recovery]] = {}
#: For each fork that is under way in the thread that holds _lock, the recoveries that it has
#: stopped; guarded by _lock.
_stopped: list[list[Recovery]] = []


def register(recovery: Recovery) -> None:
    """Have the pool of *recovery* start afresh in a forked child."""
    key = id(recovery)
    # An item of a dict is removed in one step, also by a finalizer that comes at any time.
    reference = weakref.ref(recovery, lambda _: _recoveries.pop(key, None))
    with _lock:
        _recoveries[key] = reference


def _existing() -> list[Recovery]:
    known = [reference() for reference in list(_recoveries.values())]
    return [recovery for recovery in known if recovery is not None]


def _before() -> None:
    # With all locks in hand, what the child finds was not left in the middle of a change.
    _lock.acquire()
    stopped: list[Recovery] = []
    _stopped.append(stopped)
    for recovery in _existing():
        recovery.before_fork()
        stopped.append(recovery)


def _after_in_parent() -> None:
    for recovery in _stopped.pop():
        recovery.after_fork_in_parent()
    _lock.release()


def _after_in_child() -> None:
    global _lock  # noqa: PLW0603  # the thread that may hold it does not exist in the child
    _stopped.clear()
    try:
        # All of them, for `_before` may have failed on the way.
        for recovery in _existing():
            recovery.begin_as_child()
    finally:
        _lock = RLock()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
