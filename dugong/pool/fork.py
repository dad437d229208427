"""What becomes of pools when the process forks: the child's start afresh.

Guarantees: a child finds no pool in the middle of a change, sends no byte on a connection of its
parent's, and finds each request that was under way failed.
"""

from __future__ import annotations

import os
import weakref
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.scheduler import Scheduler

__all__ = ["pools"]

#: Those that a forked child has to clean up after. Each pool adds itself.
pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()

_turn = Lock()  # held while a thread forks; guards `_forking`
_forking: list[Scheduler] = []  # whose locks are held


def _before() -> None:
    # With all locks in hand, what the child finds was not left in the middle of a change.
    _turn.acquire()
    for pool in list(pools):
        pool._scheduler.lock.acquire()
        _forking.append(pool._scheduler)


def _after_in_parent() -> None:
    while _forking:
        _forking.pop().lock.release()
    _turn.release()


def _after_in_child() -> None:
    while _forking:
        _forking.pop().begin_as_child()
    _turn.release()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
