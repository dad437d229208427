"""What becomes of pools when the process forks: those of the child start afresh.

Guarantees: a child finds no pool in the middle of a change, sends no byte on a connection of its
parent's, and finds each request that was under way failed, whatever goes wrong before the fork.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import RLock, get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.pool.core.recovery import Recovery

__all__ = ["register"]

#: Seconds that a fork waits for each lock. None is held for so long, unless its thread waits for
#: this fork: a signal handler forks, its thread has a lock, and another thread forks as well. Then
#: the fork goes on without the lock, and the child may find a pool in the middle of a change.
LOCK_TIME = 1.0

# Held while a thread makes a pool or forks. Reentrant, for a signal handler may fork while its
# thread does.
_lock = RLock()  # a forked child has a new one
#: Those of the pools that exist. Single operations of a dict are atomic in free-threaded CPython,
#: too.
_recoveries: dict[int, weakref.ref[Recovery]] = {}
#: What gives back, for each fork that is under way in a thread, the locks that it has got. Each
#: thread has its own key, which stays: a handler that forks may come between any two steps.
_taken: dict[int, list[list[Callable[[], object]]]] = {}


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
    taken: list[Callable[[], object]] = []
    _taken.setdefault(get_ident(), []).append(taken)
    lock = _lock
    if lock.acquire(timeout=LOCK_TIME):
        taken.append(lock.release)
    for recovery in _existing():
        if recovery.before_fork(LOCK_TIME):  # one at a time, as the next may be interrupted
            taken.append(recovery.after_fork_in_parent)  # noqa: PERF401


def _after_in_parent() -> None:
    forks = _taken.get(get_ident())
    if forks:
        for release in reversed(forks.pop()):
            # If a handler has forked here, and this is its child, which goes on, the lock is new.
            with suppress(RuntimeError):
                release()


def _after_in_child() -> None:
    global _lock  # noqa: PLW0603  # the thread that may hold it does not exist in the child
    ident = get_ident()
    forks = _taken.get(ident, [])
    if forks:
        forks.pop()
    for taken in forks:  # of this thread, which goes on with these forks; the locks are new ones
        taken.clear()
    for other in list(_taken):
        if other != ident:
            del _taken[other]
    try:
        # All of them, for `_before` may have failed on the way.
        for recovery in _existing():
            recovery.begin_as_child()
    finally:
        _lock = RLock()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
