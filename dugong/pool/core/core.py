"""The core of a pool: its one lock, the transaction, the counters, and what follows a transaction.

Guarantees: nothing that can wait happens while the lock is held. What a transaction has decided is
done when it is left, by the thread that leaves: threads are started, connections are shut down. The
code of a caller (done-callbacks, *on_event*) runs in the pool's own threads alone.
"""

from __future__ import annotations

import itertools
import sys
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from sys import is_finalizing
from threading import Condition, RLock, current_thread, get_ident, main_thread
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from dugong.errors import DugongError, PoolClosed, StateError
from dugong.pool.core.callbacks import Callbacks
from dugong.pool.core.readers import Readers
from dugong.pool.core.threads import Threads
from dugong.pool.events import Event
from dugong.pool.response import Response, StreamedResponse

if TYPE_CHECKING:
    from dugong.connection.encode import HeaderPairs
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.host import Host
    from dugong.pool.core.job import Job
    from dugong.pool.core.limits import Limits
    from dugong.pool.future import ResponseFuture
    from dugong.pool.url import Origin

#: What a request ends with; None: it was cancelled.
Outcome = Response | StreamedResponse | Exception | None
Settlement = tuple["ResponseFuture", Outcome]

#: How often it is tried to mend what an interrupt has left, while other interrupts come.
_RECOVERIES = 3

#: How often a thread lets others run and tries to take the lock again, before it waits in line.
_TRIES = 10

A = TypeVar("A")
R = TypeVar("R")

__all__ = [
    "Entering",
    "Exclusively",
    "Heads",
    "Mending",
    "Nested",
    "Outcome",
    "PoolCore",
    "Protect",
    "Totals",
    "do_nothing",
]


#: A remedy, and what that is called with: see `PoolCore.mend`.
Mending = tuple[Callable[[Any], object], Any]


class Heads(Protocol):
    """Makes what is sent of requests, for the hosts that they have by then."""

    def rebuild(self, job: Job) -> None:
        """Make the head of *job*, which has one, anew. Called with the lock held."""

    def equip(self, host: Host, headers: HeaderPairs) -> None:
        """Have requests to *host* made with *headers* as defaults that replace those of the pool.

        Called with the lock held.
        """


class _NoHeads:
    """What makes none."""

    def rebuild(self, job: Job) -> None: ...

    def equip(self, host: Host, headers: HeaderPairs) -> None: ...


class Exclusively(Protocol):
    """The type of `PoolCore.exclusively`."""

    def __call__(self, action: Callable[[], R]) -> R:
        """See there."""


class Protect(Protocol):
    """The type of `PoolCore.protect`."""

    def __call__(self, action: Callable[[A], R], remedy: Callable[[A], object], subject: A) -> R:
        """See there."""


def do_nothing(*args: object) -> None:
    """Do nothing."""


class Nested(StateError):
    """A call that was made in the middle of a change, in the thread that makes the change.

    So it comes from a finalizer or a signal handler.
    """

    msg: str = "the pool is in the middle of a change: this call cannot wait for it"


class Entering(Nested):
    """The same, where a transaction is about to begin or has just ended in this thread."""


class Totals:
    """What a pool has counted that is not counted by the hosts that it knows."""

    __slots__ = ("answered", "ended", "hedged", "opened", "rescued", "resent", "sent")

    def __init__(self) -> None:
        self.opened: int = 0  # connections that were established
        self.ended: int = 0  # of these, those that are closed
        # Requests of hosts that were forgotten.
        self.sent: int = 0
        self.answered: int = 0
        self.resent: int = 0
        self.rescued: int = 0
        self.hedged: int = 0

    def add(self, host: Host) -> None:
        """Count for *host*, which is forgotten."""
        self.sent += host.sent
        self.answered += host.answered
        self.resent += host.resent
        self.rescued += host.rescued
        self.hedged += host.hedged


class PoolCore:
    """The state that all parts of a pool share, and the lock that guards it."""

    # CPython finds the attributes of an object fast only if they are slots, or fewer than 30.
    __slots__ = (
        "_follow_ups",
        "_is_disturbed",
        "_under_way",
        "awaiting_connection",
        "body_released",
        "call_failed",
        "callbacks",
        "calls",
        "closed",
        "connections",
        "has_closer",
        "have_mended",
        "heads",
        "hosts",
        "idle",
        "limits",
        "lock",
        "max_queued",
        "on_event",
        "owner",
        "parents_hosts",
        "queued",
        "readers",
        "repair_locked",
        "room",
        "room_calls",
        "settlements",
        "streamed",
        "threads",
        "totals",
        "transaction",
    )

    def __init__(self, limits: Limits, on_event: Callable[[Event], object] | None = None) -> None:
        #: Returns a context manager: its block holds the lock; leaving it does what was decided.
        #: Raises `Nested` in a thread that is in a transaction already. Never changes. It is this
        #: object, each time: what is called in C costs half as much as a method. A weak reference
        #: would be none in a finalizer of what is collected together with this.
        self.transaction: Callable[[], PoolCore] = itertools.repeat(self).__next__
        self.limits: Limits = limits  # never changes
        self.max_queued: int = limits.max_queued  # never changes; a named tuple is slow to look up
        #: Hears of the events. Set under the lock; any thread may read it.
        self.on_event = on_event
        #: Called with the lock held after an interrupt, to mend what it left unfinished; set once.
        self.repair_locked: Callable[[], None] = do_nothing
        #: Has the maintenance thread call `mend` with these, as soon as it runs. It is a function
        #: in C, so an interrupt comes before or after it. Set by `Maintenance.reset`.
        self.have_mended: Callable[[Mending], object] = do_nothing
        #: Called, without the lock, with what a thread of the pool has called, what that has
        #: raised, and whether more than what it was about depends on it; set once.
        self.call_failed: Callable[[Callable[[], object], BaseException, bool], object] = do_nothing
        #: Set once, if at all, before the first request.
        self.heads: Heads = _NoHeads()
        # Guarded by the lock; one look-up without it is atomic, in free-threaded CPython, too.
        self.hosts: OrderedDict[Origin, Host] = OrderedDict()
        #: In a forked child, until what was left of a transaction has been mended: the hosts of the
        #: parent. Guarded by the lock.
        self.parents_hosts: list[Host] = []
        self.reset()

    def reset(self) -> None:
        """Begin with nothing, not even a lock: also for a child process, after a fork."""
        # Reentrant, so that a nested transaction can find itself out. For conditions alone: all
        # else takes it by `transaction`.
        self.lock: RLock = RLock()
        #: The thread that is in a transaction, or in `exclusively`. Guarded by the lock, set here
        #: alone.
        self.owner: int = 0
        self.hosts.clear()
        self.idle: dict[PooledConnection, None] = {}  # in the order of coming; guarded by the lock
        #: Hosts that would open a connection if there were room; guarded by the lock.
        self.awaiting_connection: dict[Host, None] = {}
        self.queued: int = 0  # requests in the queues of all hosts; guarded by the lock
        self.connections: int = 0  # that are not closed; guarded by the lock
        self.totals: Totals = Totals()  # guarded by the lock
        #: The pool takes no more requests; guarded by the lock, never unset.
        self.closed: bool = False
        #: A thread waits for all others, in place of a caller; guarded by the lock, never unset.
        self.has_closer: bool = False
        self.room: Condition = Condition(self.lock)  # there is room in the queues
        #: To be called, once each, when there is; guarded by the lock.
        self.room_calls: list[Callable[[], object]] = []
        #: A sender has let go of a request body.
        self.body_released: Condition = Condition(self.lock)
        self.threads: Threads = Threads()
        self.callbacks: Callbacks = Callbacks(self.threads, self._callback_failed)
        self.readers: Readers = Readers(self.threads)
        #: What is to be called when the transaction is left, by `callbacks`.
        self.calls: deque[Callable[[], object]] = self.callbacks.calls
        self._follow_ups: list[Callable[[], object]] = []  # guarded by the lock
        #: Futures that something observes, which are to end when the transaction is left, and with
        #: what (None: cancelled); guarded by the lock.
        self.settlements: list[Settlement] = []
        #: What a thread has taken from there and not done yet. Each thread has its own key; single
        #: operations of a dict are atomic in free-threaded CPython, too.
        self._under_way: dict[int, deque[Callable[[], object]]] = {}
        #: What callers stream, in which threads or tasks (see `Scheduler.begin_stream`), and what
        #: they have of it. Single operations of a dict are atomic in free-threaded CPython, too.
        self.streamed: dict[Job, tuple[object, weakref.ref[object]]] = {}
        #: An exception that is not the pool's has come out of a transaction. Any thread may set it;
        #: the one that mends it unsets it, under the lock.
        self._is_disturbed = False

    # --- the transaction --------------------------------------------------------------------------

    # Where each step counts, a method calls `begin`, and `end` or `fail`: Python is slow to enter a
    # block and to leave it.

    def begin(self) -> Self:
        """Begin a transaction; raise `Nested` if this thread is in one."""
        ident = get_ident()
        if self.owner == ident:  # only this thread ever stores its own number
            raise Nested
        if not self.lock.acquire(False):
            self._acquire_contended()
        self.owner = ident
        return self

    __enter__ = begin

    def _acquire_contended(self) -> None:
        if is_finalizing():
            # A daemon thread that was stopped for good may hold it.
            raise PoolClosed("the interpreter is exiting")
        # A thread that waits in line for a lock is given it while it waits for the GIL as well. The
        # thread that runs meanwhile finds the lock taken, and waits in line itself: from then on,
        # each transaction is a switch of threads. So this one lets others run, and tries again.
        for _ in range(_TRIES):
            time.sleep(0)
            if self.lock.acquire(False):
                return
        self.lock.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Leave the transaction, because of *exc* if there is one, and do what follows it."""
        if exc is None:
            self.end()
        else:
            self.fail(exc)

    def end(self) -> None:
        """Leave the transaction in good order, and do what follows it."""
        todo = None
        if self.settlements or self._follow_ups:
            todo = self._take_follow_ups()
        self.owner = 0
        try:
            self.lock.release()
        except RuntimeError:
            self.leave_in_child()  # which has another lock: a signal handler has forked
        if todo is not None or self.calls:
            self._follow(todo)

    def fail(self, exc: BaseException) -> None:
        """Leave the transaction because of *exc*, and do what follows it."""
        if not isinstance(exc, DugongError):
            self._is_disturbed = True
        if self.owner == get_ident():
            self.end()
        elif self.parents_hosts:
            self.leave_in_child()
        # Or else an interrupted `wait` has not got the lock back.

    def leave_in_child(self) -> None:
        """Mend what a transaction has done without the lock, in the middle of which was a fork.

        This is the child. The signal handler that has forked has returned to the transaction.
        """
        with self.transaction():
            self.repair_locked()

    @property
    def has_follow_ups(self) -> bool:
        """Whether a thread that is about to wait has to leave the transaction first."""
        return bool(self._follow_ups or self.settlements or self.calls)

    def follow_up(self, action: Callable[[], object]) -> None:
        """Have *action* done when the transaction is left.

        It must not raise, nor wait for long. An interrupt may have it done a second time.
        """
        self._follow_ups.append(action)

    def exclusively(self, action: Callable[[], R]) -> R:
        """Return what *action* returns, which is short, calls nothing, and decides nothing.

        It is called with the lock held, without a transaction: nothing follows. A finalizer that
        runs meanwhile finds itself nested. Not to be called by a thread that has the lock.
        """
        if is_finalizing():  # no other thread runs, and one that was stopped may have the lock
            return action()
        ident = get_ident()
        with self.lock:
            try:
                self.owner = ident
                result = action()
            finally:
                self.owner = 0
        if self.calls:
            self.callbacks.run()
        return result

    def settle_locked(self, future: ResponseFuture, outcome: Outcome) -> None:
        """End *future* with *outcome*: when the transaction is left, if something observes it."""
        if not future._settle_locked(outcome):
            self.settlements.append((future, outcome))

    def is_nested(self) -> bool:
        """Return True if this thread has the lock, so that this is a finalizer or signal handler.

        Not to be called by a thread that is in a transaction and knows it.
        """
        if self.owner == get_ident():
            return True
        try:
            self.lock.release()
        except RuntimeError:
            return False
        self.lock.acquire()  # this thread is about to be the owner, or was until now
        return True

    def _take_follow_ups(self) -> deque[Callable[[], object]] | None:
        """Return what this thread is to do now; None if a caller of this call does it."""
        ident = get_ident()
        todo = self._under_way.get(ident)
        is_nested = todo is not None and self._is_followed_up_by(sys._getframe(2))
        if todo is None:
            todo = self._under_way[ident] = deque()
        if self.settlements:
            todo.append(partial(_settle, self.callbacks, self.settlements))
            self.settlements = []
        follow_ups = self._follow_ups
        self._follow_ups = []  # a finalizer that runs here appends to the old one
        todo.extend(follow_ups)
        return None if is_nested else todo

    def _follow(self, todo: deque[Callable[[], object]] | None) -> None:
        """Do *todo*, and have the callbacks made: without the lock, for both may wait for others.

        This thread has the lock still if it is a signal handler or a finalizer that runs between
        the two steps of `begin`, where nothing has been looked at yet.
        """
        held = self._release_all()
        if todo is not None:
            self._do(todo)
        if self.calls:
            self.callbacks.run()
        for _ in range(held):
            self.lock.acquire()

    def _do(self, todo: deque[Callable[[], object]]) -> None:
        ident = get_ident()
        while True:
            while todo:
                try:
                    todo[0]()  # it stays there until it is done, for `recover`
                except BaseException as exc:
                    if current_thread() is main_thread():
                        raise  # it may be an interrupt
                    self.call_failed(todo.popleft(), exc, False)
                else:
                    todo.popleft()
            self._under_way.pop(ident, None)  # a forked child has none
            if not todo:
                return
            self._under_way[ident] = todo  # a finalizer has come before that

    def _callback_failed(self, call: Callable[[], object], exc: BaseException) -> None:
        self.call_failed(call, exc, False)

    def _is_followed_up_by(self, frame: FrameType | None) -> bool:
        """Return True if *frame* or a caller of it is leaving a transaction of this pool.

        If none is, what is under way in this thread is what an interrupt has left there, and
        another one has kept `recover` from.
        """
        while frame is not None:
            if frame.f_code is PoolCore.end.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def is_locked_here(self) -> bool:
        """Return True in the thread that is in a transaction."""
        return self.owner == get_ident()

    def check_not_entering(self) -> None:
        """Raise `Entering` if this thread is about to begin a transaction, or does what follows it.

        So this is a finalizer or a signal handler, which must not wait for the pool.
        """
        if get_ident() in self._under_way:
            if self._is_followed_up_by(sys._getframe(1)):
                raise Entering
            self._recover(is_certain=True)
        if self.is_nested():
            raise Entering

    def wait(self, condition: Condition, timeout: float | None = None) -> None:
        """Wait for *condition*, which belongs to the lock, for up to *timeout* seconds.

        To be called in a transaction, in a loop that looks again whether there is to be a wait.
        """
        if is_finalizing():
            raise PoolClosed("the interpreter is exiting")
        lock = self.lock
        try:
            condition.wait(timeout)
        except BaseException:
            self._take_back_lock()
            raise
        if lock is not self.lock:
            raise PoolClosed("the process has forked, and the request is the parent's")
        self.owner = get_ident()

    def _take_back_lock(self) -> None:
        """Take the lock again, which a wait that an exception has ended may have got back, or not.

        If another interrupt keeps this thread from it, `__exit__` sees that this is not the owner.
        """
        self._release_all()
        self.lock.acquire()
        self.owner = get_ident()

    def _release_all(self) -> int:
        """Release the lock if this thread holds it, and return how many times it did."""
        held = 0
        while True:
            try:
                self.lock.release()
            except RuntimeError:
                return held
            held += 1

    def recover(self, exc: BaseException, is_certain: bool = False) -> None:
        """Mend what *exc* may have left behind, which has come out of a transaction, or near one.

        An exception that a signal handler raises may come between any two steps. If *is_certain* is
        set, *exc* counts as such a one whatever it is. See `protect` for other interrupts that come
        meanwhile.
        """
        if isinstance(exc, Nested):
            return  # the lock is for what goes on further up
        is_certain = is_certain or not isinstance(exc, Exception)
        for _ in range(_RECOVERIES):
            try:
                self._recover(is_certain)
            except BaseException:
                continue  # another interrupt; the first one is told of
            return

    def protect(self, action: Callable[[A], R], remedy: Callable[[A], object], subject: A) -> R:
        """Return what *action* returns of *subject*; if it raises, mend what that has left.

        Then *remedy* is called with *subject*, too. So does the maintenance thread after an
        interrupt, for any number of others may keep this thread from it. *remedy* must not wait for
        long, and may be called twice.
        """
        try:
            try:
                return action(subject)
            except DugongError:
                raise
            except BaseException:
                if self.owner == get_ident():
                    self.owner = 0
                    self._is_disturbed = True
                # Two calls of functions in C, so that both are made whatever comes between them.
                try:
                    self.have_mended((remedy, subject))
                finally:
                    try:
                        self.lock.release()  # no other thread can
                    except RuntimeError:
                        pass  # it was released in good order
                raise
        except BaseException as exc:
            self.recover(exc)
            remedy(subject)
            raise

    def mend(self, remedy: Callable[[A], object], subject: A) -> None:
        """Mend what an interrupt has left in a thread that may not have come to do it itself.

        For the maintenance thread, which then calls *remedy*, as `protect`.
        """
        with self.transaction():
            under_way = list(self._under_way.values())
            if self._is_disturbed or under_way:
                for todo in under_way:
                    self._follow_ups += todo.copy()  # a thread may be at it, which does no harm
                self.repair_locked()
                self._is_disturbed = False
        remedy(subject)

    def _recover(self, is_certain: bool) -> None:
        """Mend what an exception may have left; *is_certain* says that it was an interrupt."""
        ident = get_ident()
        if self.owner == ident:
            self.owner = 0
            self._is_disturbed = True
        if self._release_all() or ident in self._under_way or is_certain:
            self._is_disturbed = True
        if self._is_disturbed:
            with self.transaction():
                self._follow_ups += self._under_way.get(ident, ())
                self._under_way.pop(ident, None)
                self.repair_locked()
                self._is_disturbed = False
        elif self.calls:
            self.callbacks.run()

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

    def call_later(self, call: Callable[[], object]) -> None:
        """Have *call* made where callbacks are, when the transaction is left."""
        self.callbacks.add(call)

    def check_may_wait(self) -> None:
        """Raise StateError in a thread that must not wait for the pool.

        That is one of its own, as in a callback, which would wait for itself; one in the middle of
        a change; and any, once the interpreter exits and has stopped the pool's threads.
        """
        ident = get_ident()
        if ident in self.threads.idents:
            raise StateError("a callback of the pool cannot wait for the pool")
        if self.owner == ident:
            raise Nested
        if is_finalizing():
            raise StateError("the interpreter is exiting: the pool's threads have been stopped")

    # --- the queues -------------------------------------------------------------------------------

    def unqueue_locked(self, count: int) -> None:
        """*count* requests have left the queues."""
        full = self.queued >= self.max_queued
        self.queued -= count
        if full and self.queued < self.max_queued:
            self.tell_of_room_locked()

    def tell_of_room_locked(self) -> None:
        """There is room in the queues, or the pool is closed: wake what waits for that."""
        self.room.notify_all()
        self._follow_ups += self.room_calls
        self.room_calls = []


def _settle(callbacks: Callbacks, settlements: list[Settlement]) -> None:
    """End each future; have the callbacks made. May be done again after an interrupt."""
    for future, outcome in settlements:
        if future._settle(outcome):
            callbacks.add(future._run_callbacks)
