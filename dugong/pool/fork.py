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
    from dugong.pool.core.scheduler import Scheduler

__all__ = ["register"]

# Held while a thread makes a pool or forks. Reentrant, for a signal handler may fork while its
# thread does.
_lock = RLock()  # a forked child has a new one
#: Those of the pools that exist; guarded by _lock.
_schedulers: dict[int, weakref.ref[Scheduler]] = {}
#: For each fork that is under way in the thread that holds _lock, the schedulers that it has
#: stopped; guarded by _lock.
_stopped: list[list[Scheduler]] = []


def register(scheduler: Scheduler) -> None:
    """Have the pool of *scheduler* start afresh in a forked child."""
    key = id(scheduler)
    # An item of a dict is removed in one step, also by a finalizer that comes at any time.
    reference = weakref.ref(scheduler, lambda _: _schedulers.pop(key, None))
    with _lock:
        _schedulers[key] = reference


def _existing() -> list[Scheduler]:
    known = [reference() for reference in list(_schedulers.values())]
    return [scheduler for scheduler in known if scheduler is not None]


def _before() -> None:
    # With all locks in hand, what the child finds was not left in the middle of a change.
    _lock.acquire()
    stopped: list[Scheduler] = []
    _stopped.append(stopped)
    for scheduler in _existing():
        scheduler.before_fork()
        stopped.append(scheduler)


def _after_in_parent() -> None:
    for scheduler in _stopped.pop():
        scheduler.after_fork_in_parent()
    _lock.release()


def _after_in_child() -> None:
    global _lock  # noqa: PLW0603  # the thread that may hold it does not exist in the child
    _stopped.clear()
    try:
        # All of them, for `_before` may have failed on the way.
        for scheduler in _existing():
            scheduler.begin_as_child()
    finally:
        _lock = RLock()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
