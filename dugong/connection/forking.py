"""Keeps forks from the middle of calls in which a C library has a lock of its own.

glibc (`getaddrinfo`, whose resolver has a lock) and OpenSSL (`do_handshake`: random numbers, the
certificates of a context) do not see to their locks when the process forks. If another thread than
the one that forks has such a lock, the child finds it taken for ever, and its first connection
would never be made.

Guarantees: a fork waits for the calls that are made by `apart_from_forks`, but not for long; calls
that come meanwhile wait for the fork. No thread keeps a lock after an interrupt.
"""

from __future__ import annotations

import os
from _thread import LockType, allocate_lock
from collections.abc import Callable
from contextlib import suppress
from threading import RLock
from typing import TypeVar

from dugong.deadline import Deadline

__all__ = ["apart_from_forks"]

#: Seconds that a fork waits for the calls that are under way. One that takes longer waits for the
#: network, and has no lock meanwhile.
CALL_TIME = 0.05
#: Seconds that a fork waits for another one. It takes longer only if it waits for this one.
FORK_TIME = 1.0

R = TypeVar("R")

# Held while a thread forks, and while a call begins. Reentrant, for a signal handler may fork then.
_gate = RLock()  # a forked child has a new one
#: The calls that are under way: each has a lock that is released when it is over. Single operations
#: of a dict are atomic in free-threaded CPython, too.
_under_way: dict[LockType, None] = {}


def apart_from_forks(function: Callable[[], R]) -> R:
    """Return what *function* returns, which calls one function of a C library.

    No thread forks meanwhile, unless it takes long, or *function* itself forks.
    """
    over = allocate_lock()
    with over:
        with _gate:  # until a fork is over
            _under_way[over] = None
        try:
            return function()
        finally:
            _under_way.pop(over, None)  # a forked child has none


def _before() -> None:
    # This is one of the last hooks, so other threads wait for the gate as long as the fork takes.
    _gate.acquire(timeout=FORK_TIME)
    deadline = Deadline(CALL_TIME)
    for over in list(_under_way):
        if over.acquire(timeout=deadline.remaining() or 0):
            over.release()


def _after_in_parent() -> None:
    with suppress(RuntimeError):  # it could not be had
        _gate.release()


def _after_in_child() -> None:
    global _gate  # noqa: PLW0603  # the thread that may hold it does not exist in the child
    _gate = RLock()
    _under_way.clear()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
