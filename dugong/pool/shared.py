"""What everything that is decided under the lock of a pool has in common.

Guarantees: nothing blocks while the lock is held; futures are resolved and threads started after it
has been released (`_do_deferred`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Condition, RLock, Thread
from typing import Any, NamedTuple

from dugong.connection.polling import Coroutine
from dugong.connection.transport import Transport
from dugong.pool.events import Event, EventKind
from dugong.pool.failure import ends_program
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.pipeline import Pipeline
from dugong.pool.request import Origin, Request
from dugong.pool.response import Response, StreamedResponse
from dugong.pool.timers import Timer, Timers

__all__ = ["Limits", "Shared"]


class Limits(NamedTuple):
    """The numbers of a pool; times are in seconds, None is no limit."""

    max_connections_per_host: int
    max_connections: int
    pipeline_depth: int
    timeout: float | None
    max_queued: int
    max_body_size: int
    idle_timeout: float
    max_age: float | None
    max_requests: int | None
    connect_timeout: float | None = 10.0
    min_rate: float | None = 1.0  # bytes a second of a body
    pipeline_rescue: bool = True


class Shared:
    """The hosts, queues, connections and timers of a pool. Knows no `ConnectionPool`.

    `limits`, `dial` (how to connect to an origin) and `on_event` (who wants to hear what happens)
    never change. Everything else, unless it says otherwise, is guarded by `lock`: `idle` has the
    idle connections of all hosts, the longest idle first; `wanting` the hosts that would open a
    connection if there were not too many already; `waiting` the requests that wait to be tried
    again, with what will wake them (None: they are being decided on). `_deferred` is what is to be
    done once the lock has been released; any thread may add to it and take from it.
    """

    def __init__(
        self,
        limits: Limits,
        dial: Callable[[Origin], Coroutine[Transport]],
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        self.limits = limits
        self.dial = dial
        self.on_event = on_event
        self.reset()

    def reset(self) -> None:
        """Begin with nothing, not even a lock: also for a child process, after a fork."""
        self.lock = RLock()  # reentrant for no other reason than `is_inside`
        self.hosts: OrderedDict[Origin, Host] = OrderedDict()
        self.queued = 0
        self.connections = 0
        self.idle: dict[Pipeline, None] = {}
        self.wanting: dict[Host, None] = {}
        self.waiting: dict[Job, Timer | None] = {}
        self.room = Condition(self.lock)  # in the queues, for submit()
        self.let_go = Condition(self.lock)  # of a body, for cancel()
        self.closed = False
        self.opened = 0
        self.ended = 0
        self.past = [0, 0, 0]  # sent, answered and resent, of hosts that have been forgotten
        self._deferred: deque[Callable[[], object]] = deque()
        self._own: dict[int, None] = {}  # each thread of the pool adds and removes itself
        # Guards `_threads`, and is held while one is started: so close() knows them all.
        self._starting = RLock()
        self._threads: list[Thread] = []
        self._timers = Timers()
        # Whatever comes wakes the maintenance thread, which does it, if it is something to be done.
        # Unlike a condition, it may be put to from a finalizer, wherever that runs.
        self._wake: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._next_timer = float("inf")
        self._maintained = False
        self._taking_turns = False

    def _at(self, when: float, action: Callable[[], None]) -> Timer:
        """Have *action* done, under the lock, at the time *when*."""
        if when < self._next_timer:
            self._next_timer = when
            self._wake.put(None)
        return self._timers.add(when, action)

    def _do_deferred(self) -> None:
        """Do what had to wait until the lock was released."""
        while True:
            try:
                action = self._deferred.popleft()
            except IndexError:
                return
            try:
                action()
            except BaseException:
                self._do_deferred()  # the rest is for others, whom an interrupt does not concern
                raise

    def _start(self, function: Callable[[], object], name: str) -> None:
        """Start a thread; do nothing once the pool is closed. Raises RuntimeError."""

        def run() -> None:
            self._own[threading.get_ident()] = None
            try:
                function()
            finally:
                # It may be another's, in a child process that was forked in a callback.
                self._own.pop(threading.get_ident(), None)

        thread = Thread(target=run, name=name, daemon=True)
        with self._starting:
            if self.closed:
                raise RuntimeError("the pool has been closed")
            thread.start()
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(thread)

    def is_own_thread(self) -> bool:
        """Return True in one of the pool's own threads, where its callbacks run."""
        return threading.get_ident() in self._own

    def is_inside(self) -> bool:
        """Return True if this very thread is in the midst of a change here.

        That is so in a signal handler, or in what the garbage collector calls, if those come at
        such a time: they must neither wait for the change nor make one of their own (`do_later`).
        """
        locks: tuple[Any, Any] = (self.lock, self._starting)
        return any(lock._is_owned() for lock in locks)

    def do_later(self, action: Callable[[], object]) -> None:
        """Have *action* done by the maintenance thread. May be called wherever one is."""
        self._wake.put(action)

    def _tell(
        self,
        kind: EventKind,
        host: Host,
        connection: str = "",
        request: Request | None = None,
        reason: str = "",
    ) -> None:
        """Have whoever listens told of an event, once the lock has been released."""
        listener = self.on_event
        if listener is not None:
            event = Event(kind, time.time(), str(host.origin), connection, request, reason)
            self._deferred.append(partial(_notify, listener, event))

    def _unqueue(self, count: int) -> None:
        full = self.queued >= self.limits.max_queued
        self.queued -= count
        if full and self.queued < self.limits.max_queued:
            self.room.notify_all()

    def _finish(self, job: Job, outcome: Response | StreamedResponse | Exception) -> None:
        """Decide the outcome of *job*; the verdict on an exception is that of all its attempts."""
        job.done = True
        job.release()
        if job.timer is not None:
            self._timers.cancel(job.timer)
        future = job.future
        if isinstance(outcome, Exception):
            outcome.delivery = job.furthest(outcome.delivery)  # type: ignore[attr-defined]  # set
            outcome.attempts = job.attempts  # type: ignore[attr-defined]  # any has a dict
            self._deferred.append(partial(future._reject, outcome))
        else:
            self._deferred.append(partial(future._resolve, outcome))


def _notify(listener: Callable[[Event], object], event: Event) -> None:
    try:
        listener(event)
    except BaseException as exc:
        if ends_program(exc):
            raise
        import logging

        logging.getLogger(__name__).exception("on_event has failed for: %s", event)
