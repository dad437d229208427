"""The core of a pool: its one lock, the transaction, the counters, and what follows a transaction.

Guarantees: nothing that can wait happens while the lock is held. What a transaction has decided is
done when it is left, by the thread that leaves: threads are started, connections are shut down. The
code of a caller (done-callbacks, *on_event*) runs in the pool's own threads alone.
"""

from __future__ import annotations

import functools
import sys
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from sys import is_finalizing
from threading import Condition, RLock, get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec, Protocol, Self, TypeVar, cast

from dugong.errors import DugongError, PoolClosed, StateError
from dugong.pool.core.callbacks import Callbacks
from dugong.pool.core.threads import Threads
from dugong.pool.events import Event, EventKind
from dugong.pool.failure import ends_program
from dugong.pool.response import Response, StreamedResponse

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.host import Host
    from dugong.pool.future import ResponseFuture
    from dugong.pool.request import Origin, Request

#: What a request ends with; None: it was cancelled.
Outcome = Response | StreamedResponse | Exception | None
Settlement = tuple["ResponseFuture", Outcome]

__all__ = ["Limits", "Nested", "Outcome", "PoolCore", "locked"]


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
    connect_timeout: float | None
    min_rate: float | None  # bytes a second of a body


class Nested(StateError):
    """A call that was made in the middle of a change, in the thread that makes the change.

    So it comes from a finalizer or a signal handler.
    """

    msg = "the pool is in the middle of a change: this call cannot wait for it"


class PoolCore:
    """The state that all parts of a pool share, and the lock that guards it."""

    #: Returns a context manager: its block holds the lock; leaving it does what was decided.
    #: Raises `Nested` in a thread that is in a transaction already. Never changes.
    transaction: Callable[[], PoolCore]

    def __init__(self, limits: Limits, on_event: Callable[[Event], object] | None = None) -> None:
        # This object; a weak reference is called in C, at half the cost of a method.
        self.transaction = cast("Callable[[], PoolCore]", weakref.ref(self))
        self.limits = limits  # never changes
        self.on_event = on_event  # never changes
        #: Called with the lock held after an interrupt, to mend what it left unfinished; set once.
        self.repair_locked: Callable[[], None] = _do_nothing
        # Guarded by the lock; one look-up without it is atomic, in free-threaded CPython, too.
        self.hosts: OrderedDict[Origin, Host] = OrderedDict()
        self.reset()

    def reset(self) -> None:
        """Begin with nothing, not even a lock: also for a child process, after a fork."""
        # Reentrant, so that a nested transaction can find itself out. For conditions alone: all
        # else takes it by `transaction`.
        self.lock = RLock()
        self._owner = 0  # the thread that is in a transaction; guarded by the lock
        self.hosts.clear()
        self.idle: dict[PooledConnection, None] = {}  # the longest idle first; guarded by the lock
        #: Hosts that would open a connection if there were room; guarded by the lock.
        self.awaiting_connection: dict[Host, None] = {}
        self.queued = 0  # requests in the queues of all hosts; guarded by the lock
        self.connections = 0  # that are not closed; guarded by the lock
        self.opened = 0  # connections that were established; guarded by the lock
        self.ended = 0  # of these, those that are closed; guarded by the lock
        #: Requests sent, answered and resent, of hosts that were forgotten; guarded by the lock.
        self.past = [0, 0, 0]
        self.closed = False  # the pool takes no more requests; guarded by the lock, never unset
        self.room = Condition(self.lock)  # there is room in the queues
        self.body_released = Condition(self.lock)  # a sender has let go of a request body
        self.threads = Threads()
        self.callbacks = Callbacks(self.threads)
        self._calls = self.callbacks.calls
        self._follow_ups: list[Callable[[], object]] = []  # guarded by the lock
        #: Futures that are to end when the transaction is left, and with what (None: cancelled);
        #: guarded by the lock.
        self.settlements: list[Settlement] = []
        #: What a thread has taken from there and not done yet. Each thread has its own key; single
        #: operations of a dict are atomic in free-threaded CPython, too.
        self._under_way: dict[int, deque[Callable[[], object]]] = {}

    # --- the transaction --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        ident = get_ident()
        if self._owner == ident:  # only this thread ever stores its own number
            raise Nested
        if not self.lock.acquire(False):
            self._acquire_contended()
        self._owner = ident
        return self

    def _acquire_contended(self) -> None:
        if is_finalizing():
            # A daemon thread that was stopped for good may hold it.
            raise PoolClosed("the interpreter is exiting")
        self.lock.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        todo = None
        if self.settlements or self._follow_ups:
            todo = self._take_follow_ups()
        self._owner = 0
        try:
            self.lock.release()
        except RuntimeError:  # an interrupted Condition.wait has not got it back
            if exc_type is None:
                raise
        if todo is not None:
            self._do(todo)
        if self._calls:
            self.callbacks.run()

    @property
    def has_follow_ups(self) -> bool:
        """Whether a thread that is about to wait has to leave the transaction first."""
        return bool(self._follow_ups or self.settlements or self._calls)

    def follow_up(self, action: Callable[[], object]) -> None:
        """Have *action* done when the transaction is left.

        It must not raise, nor wait for long. An interrupt may have it done a second time.
        """
        self._follow_ups.append(action)

    def _take_follow_ups(self) -> deque[Callable[[], object]] | None:
        """Return what this thread is to do now; None if a caller of this call does it."""
        ident = get_ident()
        todo = self._under_way.get(ident)
        is_nested = todo is not None
        if todo is None:
            todo = self._under_way[ident] = deque()
        if self.settlements:
            todo.append(partial(_settle, self.callbacks, self.settlements))
            self.settlements = []
        todo.extend(self._follow_ups)
        self._follow_ups.clear()
        return None if is_nested else todo

    def _do(self, todo: deque[Callable[[], object]]) -> None:
        while todo:
            todo[0]()  # it stays there until it is done, for `recover`
            todo.popleft()
        del self._under_way[get_ident()]

    def is_locked_here(self) -> bool:
        """Return True in the thread that is in a transaction."""
        return self._owner == get_ident()

    def is_inside(self) -> bool:
        """Return True if this very thread is in the middle of a change here, or starts a thread.

        So it is in a signal handler or a finalizer that comes at such a time: they must neither
        wait for the change nor make one of their own.
        """
        return self._owner == get_ident() or self.threads.is_starting()

    def wait(self, condition: Condition, timeout: float | None = None) -> None:
        """Wait for *condition*, which belongs to the lock, for up to *timeout* seconds.

        To be called in a transaction, in a loop that looks again whether there is to be a wait.
        """
        if is_finalizing():
            raise PoolClosed("the interpreter is exiting")
        try:
            condition.wait(timeout)
        finally:
            self._owner = get_ident()

    def recover(self, exc: BaseException) -> None:
        """Mend what *exc* may have left behind, which has come out of a transaction, or near one.

        An exception that a signal handler raises may come between any two steps. Does nothing for
        the pool's own exceptions, which are raised where they leave nothing behind.
        """
        if isinstance(exc, DugongError):
            return
        if self._owner == get_ident():
            self._owner = 0
        while True:  # more than once, if it came within Condition.wait
            try:
                self.lock.release()
            except RuntimeError:
                break  # it is not held any more
        with self.transaction():
            self._follow_ups += self._under_way.pop(get_ident(), ())
            self.repair_locked()

    # --- what follows -----------------------------------------------------------------------------

    def unsettled(self) -> list[Settlement]:
        """Return the futures that were to end when a transaction was left, which never was.

        For a forked child, where the threads that have left it do not exist.
        """
        pending = list(self.settlements)
        for todo in self._under_way.values():
            for action in todo:
                if isinstance(action, partial) and action.func is _settle:
                    pending += action.args[1]
        return pending

    def emit(
        self,
        kind: EventKind,
        host: Host,
        connection: str = "",
        request: Request | None = None,
        reason: str = "",
    ) -> None:
        """Have *on_event*, if there is one, called in a thread of the pool."""
        listener = self.on_event
        if listener is not None:
            event = Event(kind, time.time(), str(host.origin), connection, request, reason)
            self.callbacks.add(partial(_notify, listener, event))

    def check_may_wait(self) -> None:
        """Raise StateError in a thread that must not wait for the pool.

        That is one of its own, as in a callback, which would wait for itself; one in the middle of
        a change; and any, once the interpreter exits and has stopped the pool's threads.
        """
        ident = get_ident()
        threads = self.threads
        if ident in threads.idents:
            raise StateError("a callback of the pool cannot wait for the pool")
        if self._owner == ident or threads.starter == ident:
            raise Nested
        if is_finalizing():
            raise StateError("the interpreter is exiting: the pool's threads have been stopped")

    # --- the queues -------------------------------------------------------------------------------

    def unqueue_locked(self, count: int) -> None:
        """*count* requests have left the queues."""
        full = self.queued >= self.limits.max_queued
        self.queued -= count
        if full and self.queued < self.limits.max_queued:
            self.room.notify_all()


def _do_nothing() -> None:
    pass


def _settle(callbacks: Callbacks, settlements: list[Settlement]) -> None:
    """End each future; have the callbacks made. May be done again after an interrupt."""
    for future, outcome in settlements:
        if outcome is None:
            has_callbacks = future._settle(cancelled=True)
        elif isinstance(outcome, Exception):
            has_callbacks = future._settle(None, outcome)
        else:
            has_callbacks = future._settle(outcome)
        if has_callbacks:
            callbacks.add(future._run_callbacks)


def _notify(listener: Callable[[Event], object], event: Event) -> None:
    try:
        listener(event)
    except BaseException as exc:
        if ends_program(exc):
            raise
        import logging

        logging.getLogger(__name__).exception("on_event has failed for: %s", event)


# --- methods that want the lock held --------------------------------------------------------------


class _HasCore(Protocol):
    @property
    def _core(self) -> PoolCore: ...


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=_HasCore)


def locked(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Mark *method*, whose name ends in ``_locked``: it is called with the lock held.

    Under ``python -X dev``, a call without the lock is an AssertionError.
    """
    if not sys.flags.dev_mode:
        return method

    def checked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        assert self._core.is_locked_here(), f"{method.__name__} was called without the lock"
        return method(self, *args, **kwargs)

    functools.update_wrapper(checked, method)
    return checked
