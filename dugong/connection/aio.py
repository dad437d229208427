"""`AioFuture`: drives a coroutine of dugong on an asyncio event loop.

Guarantees: the loop watches a descriptor for us only while a coroutine waits for it; finishing,
cancelling and closing the loop all take the watch away. Touches one event loop, from its thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from dugong.connection.polling import POLLIN, POLLOUT, Coroutine, PollNeeded

__all__ = ["AioFuture"]

T = TypeVar("T")


class _Waiting(list["AioFuture[Any]"]):
    """The futures that wait for one descriptor and direction. The loop and its callback own it."""

    __slots__ = ("__weakref__",)


# asyncio keeps one callback for each descriptor and direction, but two coroutines may wait for the
# same (a TLS upload can need to read). Each loop's table is touched only from that loop's thread.
# It is weak at both ends, so that a loop which is closed takes everything along.
_Watched = WeakValueDictionary[tuple[int, int], _Waiting]
# Guards _watched_by_loop. Reentrant, for a finalizer may run while it is held.
_tables_lock = RLock()
_watched_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watched] = WeakKeyDictionary()


class AioFuture(asyncio.Future[T]):
    """An asyncio future that runs the dugong coroutine *crt* on *loop* and takes its result.

    It starts when the loop next runs. Cancelling it closes the coroutine. *loop* defaults to the
    running event loop; give it explicitly when none is running. Only the loop's thread may use it.

    Raises RuntimeError if no loop is given and none is running, TypeError if *crt* is no coroutine
    of dugong.
    """

    def __init__(self, crt: Coroutine[T], loop: asyncio.AbstractEventLoop | None = None) -> None:
        if not isinstance(crt, Generator):
            raise TypeError(f"crt must be a coroutine of dugong, not {crt!r}")
        self._loop_used = loop if loop is not None else asyncio.get_running_loop()
        super().__init__(loop=self._loop_used)
        # The loop's thread owns all of these.
        self._crt = crt
        self._waiting: PollNeeded | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._start = self._loop_used.call_soon(self._step)

    def _step(self) -> None:
        self._stop_waiting()
        if self.done():
            return
        try:
            needed = next(self._crt)
        except StopIteration as end:
            self.set_result(end.value)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            self.set_exception(interrupt)
            raise
        except BaseException as exc:
            self.set_exception(exc)
        else:
            try:
                self._wait_for(needed)
            except Exception as refusal:  # this loop cannot watch this descriptor
                self._stop_waiting()
                self._crt.close()
                self.set_exception(refusal)

    def _wait_for(self, needed: PollNeeded) -> None:
        self._waiting = needed
        watched = _table_of(self._loop_used)
        for fd, direction in _directions(needed):
            waiting = watched.get((fd, direction))
            if waiting is None:
                waiting = watched[fd, direction] = _Waiting()
            waiting.append(self)
            if len(waiting) == 1:
                add = (
                    self._loop_used.add_reader
                    if direction == POLLIN
                    else self._loop_used.add_writer
                )
                add(fd, _ready, waiting)
        if needed.timeout is not None:
            self._timer = self._loop_used.call_later(needed.timeout, self._step)

    def _stop_waiting(self) -> None:
        needed, self._waiting = self._waiting, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if needed is None:
            return
        loop = self._loop_used
        if loop.is_closed():
            return  # it has forgotten its descriptors
        watched = _table_of(loop)
        for fd, direction in _directions(needed):
            waiting = watched.get((fd, direction))
            if waiting is None or self not in waiting:
                continue  # watching it has failed
            waiting.remove(self)
            if not waiting:
                del watched[fd, direction]
                remove = loop.remove_reader if direction == POLLIN else loop.remove_writer
                remove(fd)

    def cancel(self, msg: Any | None = None) -> bool:
        """Close the coroutine and cancel the future; return False if it was done already."""
        if self.done():
            return False
        self._start.cancel()
        self._stop_waiting()
        self._crt.close()
        return super().cancel(msg)


def _table_of(loop: asyncio.AbstractEventLoop) -> _Watched:
    with _tables_lock:
        watched = _watched_by_loop.get(loop)
        if watched is None:
            watched = _watched_by_loop[loop] = WeakValueDictionary()
        return watched


def _directions(needed: PollNeeded) -> list[tuple[int, int]]:
    """Return each descriptor and direction that *needed* waits for."""
    awaited = ((needed.fd, needed.mask), *needed.others)
    return [(fd, bit) for fd, mask in awaited for bit in (POLLIN, POLLOUT) if mask & bit]


def _ready(waiting: _Waiting) -> None:
    for future in list(waiting):
        future._step()
