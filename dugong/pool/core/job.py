"""One request on its way: from the queue to a connection, perhaps back, to its end.

Guarantees: a request is in one place; only the methods of this class change it, and they refuse
what is no transition. What is sent is ready, or sure to be valid, so that no mistake of the caller
shows later. Touches nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from dugong.errors import Delivery
from dugong.pool.future import ResponseFuture
from dugong.pool.options import POOL_DEFAULT

if TYPE_CHECKING:
    from dugong.connection.encode import HeaderPairs, RequestBuilder
    from dugong.pool.body import RequestBody
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.host import Host
    from dugong.pool.core.timers import Timer
    from dugong.pool.core.waiting import Patience
    from dugong.pool.io.receiver import ConnectionBody
    from dugong.pool.progress import ProgressCall
    from dugong.pool.request import Request
    from dugong.pool.response import Attempt, Response
    from dugong.pool.retry.policy import RetryPolicy

__all__ = ["NO_EXTRAS", "Extras", "Flow", "Job", "Owner", "Place", "Upload"]

T = TypeVar("T")

# The later, the less may be said of what the server has not done.
_PROGRESS = (
    Delivery.UNSENT,
    Delivery.DISCLAIMED,
    Delivery.PARTLY_SENT,
    Delivery.SENT,
    Delivery.ANSWER_STARTED,
)


class Place(Enum):
    """Where a request is. `Job` has the transitions."""

    NEW = "new"  # the pool has not got it yet
    QUEUED = "queued"  # in the queue of its host
    RESERVED = "reserved"  # the next request of one connection, which has to be empty first
    IN_FLIGHT = "in flight"  # on a connection
    WAITING = "waiting for a retry"
    STREAMING = "streaming"  # its caller reads the body of the response
    DONE = "done"  # its outcome is decided, or it has a successor; what still comes in is dropped


_NEW, _QUEUED, _RESERVED, _IN_FLIGHT = Place.NEW, Place.QUEUED, Place.RESERVED, Place.IN_FLIGHT
_WAITING, _STREAMING, _DONE = Place.WAITING, Place.STREAMING, Place.DONE
_DISPATCHABLE = (_QUEUED, _RESERVED, _NEW)


class Owner(Protocol):
    """What a job asks of the scheduler of its pool; any thread, and without the lock but for one.

    All but that is for its future.
    """

    def expire_locked(self, job: Job) -> None:
        """End *job*, for its deadline has passed."""

    def abandon(self, job: Job) -> bool:
        """Cancel *job*; return False if it is done."""

    def is_running(self, job: Job) -> bool:
        """Return True if *job* is on a connection, and not done."""

    def check_may_wait_for(self, job: Job) -> None:
        """Raise StateError if the calling thread would wait for *job* for ever."""

    def exclusively(self, action: Callable[[], T]) -> T:
        """Return what *action* returns, called with the pool's lock held."""

    def is_nested(self) -> bool:
        """Return True if this thread has the lock: this is a finalizer, or a signal handler."""

    def call_later(self, call: Callable[[], object]) -> None:
        """Have *call* made where callbacks are, once the lock has been released."""


class Flow(Protocol):
    """What goes on above a request, such as redirects: says if its response is the outcome.

    Called by threads of the pool, without the lock, for one response after the other.
    """

    def accepts(self, response: Response) -> bool:
        """Make the outcome of *response*, and return True; False: `advance` decides.

        Called before the response is told of, so it must be quick, call nothing of a caller's, and
        not raise. Most responses are the outcome as they are.
        """

    def advance(self, response: Response) -> Response | Job:
        """Return the outcome, or raise it, or return what is to be done next for the same future.

        That may have the same flow or another one.
        """

    def close(self) -> None:
        """Go on no more: there is an outcome. May be called while `advance` runs."""


class Upload:
    """The body of a request that goes piece by piece, and what becomes of it.

    Guarded by the pool's lock where a field does not say otherwise.
    """

    __slots__ = (
        "body",
        "error",
        "expect100",
        "is_sending",
        "make_trailers",
        "pending_response",
        "progress",
    )

    def __init__(self, body: RequestBody, expect100: bool = False) -> None:
        self.body: RequestBody = body  # never changes
        #: Makes the fields behind the body once that has been sent; never changes.
        self.make_trailers: Callable[[], HeaderPairs] | None = None
        self.progress: ProgressCall | None = None  # is told how much was sent; never changes
        self.expect100: bool = expect100  # it is sent only when the server wants it
        self.is_sending: bool = False  # the sender has it; any thread may read it
        self.error: Exception | None = None  # why the sender did not send all of it
        self.pending_response: Response | None = None  # waits for the sender to release the body

    def begin(self) -> None:
        """The sender has the body."""
        self.is_sending = True
        self.error = None

    def end(self, error: Exception | None) -> None:
        """The sender has let go of the body; *error* is why it was not all sent, if it was not."""
        self.is_sending = False
        self.error = error


class Extras:
    """What few requests have. Set by the thread that makes the job, before the pool has it.

    It never changes after that; jobs that go on with the same request share it.
    """

    __slots__ = (
        "close",
        "download",
        "hedge",
        "make_head",
        "patience",
        "streamed",
        "trace",
        "upload",
    )

    def __init__(self) -> None:
        #: Makes the head of the job before each sending, if it is not to be older.
        self.make_head: Callable[[Job], bytes] | None = None
        self.upload: Upload | None = None  # if the body goes piece by piece
        #: Is told how much of the response has come.
        self.download: ProgressCall | None = None
        self.close: bool = False  # the request asks for the connection to be closed
        self.streamed: bool = False  # the caller reads the body of the response
        #: Seconds after which it is sent once more, if its response has not begun.
        self.hedge: float | None = None
        self.patience: Patience | None = None  # limits of its own
        self.trace: object = None  # what is noted of the call


class _NoExtras(Extras):
    """What most requests have: the default of each, which cannot be changed."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name} of NO_EXTRAS never changes")


NO_EXTRAS = Extras()
NO_EXTRAS.__class__ = _NoExtras


class Job:
    """A request, its future, and where it is.

    Guarded by the pool's lock where a field does not say otherwise; so are all methods.
    """

    __slots__ = (
        "_future",
        "attempts",
        "body_source",
        "builder",
        "cancelled",
        "connection",
        "deadline",
        "dispatched_at",
        "exchange",
        "exclusive",
        "extras",
        "fatal_error",
        "flow",
        "head",
        "host",
        "is_accepted",
        "is_answered",
        "needs_fresh_connection",
        "owner",
        "place",
        "pool",
        "request",
        "response_started",
        "retry",
        "sending",
        "successor",
        "timeout",
        "timer",
        "twin",
        "was_hedged",
        "was_taken_back",
    )

    def __init__(
        self,
        request: Request,
        owner: Owner,
        pool: object,
        host: Host,
        head: bytes | None,
        timeout: float | None,
        retry: RetryPolicy,
    ) -> None:
        self.request: Request = request  # never changes
        self.owner: Owner = owner  # never changes
        # Never changes; the pool is not forgotten as long as this is not done.
        self.pool: object = pool
        # With the body, if that is small. None: nothing but the plain head, which is made when it
        # is sent, so that it takes no memory in the queue.
        self.head = head
        #: What has made that; None: it was made before the job was. Set together with it.
        self.builder: RequestBuilder | None = None
        #: What only few requests have; set before the pool has the job, and `NO_EXTRAS` mostly.
        self.extras: Extras = NO_EXTRAS
        self.timeout: float | None = timeout  # seconds; never changes
        self.retry: RetryPolicy = retry  # never changes
        self.deadline: float | None = None  # seconds for all of it; never changes
        self._future: ResponseFuture | None = None  # see `future`; never changes once it is made
        self.flow: Flow | None = None  # what its response goes through; never changes

        #: Where the request is. Only the methods below change it; any thread may read it.
        self.place: Place = _NEW
        self.host: Host = host
        self.connection: PooledConnection | None = None  # that has it, or has reserved it
        self.exclusive: bool = False  # nothing may be sent before or behind it
        self.needs_fresh_connection: bool = False  # it lost a connection, and goes on an unused one
        self.dispatched_at: float = 0.0  # when it was given to a connection, `time.monotonic`
        self.exchange: Any = None  # the engine's record of this sending; set by the sending thread
        self.response_started: bool = False  # its head has come; set by the receiving thread
        #: Its flow has accepted the response that came last; set by the receiving thread.
        self.is_accepted: bool = False
        self.is_answered: bool = False  # its flow says what comes behind the response
        self.cancelled: bool = False  # by its caller; it ends once the sender has released the body
        self.fatal_error: Exception | None = None  # fails it, whatever the policy says
        self.body_source: ConnectionBody | None = None  # what the caller reads the response with
        self.attempts: tuple[Attempt, ...] = ()  # that have failed
        self.timer: Timer | None = None  # of its deadline
        #: Of the sending that no event has ended yet: when it began, `time.time`, and how many were
        #: before it.
        self.sending: tuple[float, int] | None = None
        #: The job that goes on with its future; set once. If that has the same request, this one
        #: stays with its connection, for the response that is dropped.
        self.successor: Job | None = None
        self.was_taken_back: bool = False  # it is such a successor
        #: Another sending of the request, for the same future, while both go on.
        self.twin: Job | None = None
        self.was_hedged: bool = False  # it has, or had, or is such a twin

    # --- where it is ------------------------------------------------------------------------------

    def _refuse(self, place: Place) -> AssertionError:
        return AssertionError(f"{self!r} cannot become {place.value}")

    def enter_queue(self) -> None:
        """It is in the queue of its host."""
        place = self.place
        if place is _DONE or place is _STREAMING:
            raise self._refuse(_QUEUED)
        self.place = _QUEUED
        self.connection = None

    def reenter_queue(self) -> None:
        """It is in the queue of its host again, for another attempt, or with nothing done."""
        self.enter_queue()
        self.response_started = False
        self.exchange = None

    def reserve(self, connection: PooledConnection) -> None:
        """It is the next request of *connection*."""
        if self.place is not _QUEUED:
            raise self._refuse(_RESERVED)
        self.place = _RESERVED
        self.connection = connection

    @staticmethod
    def dispatch(jobs: Iterable[Job], connection: PooledConnection, now: float) -> None:
        """*connection* is to send *jobs*, which are in flight on it from now on."""
        in_flight = connection.in_flight
        for job in jobs:
            if job.place not in _DISPATCHABLE:
                raise job._refuse(_IN_FLIGHT)
            job.place = _IN_FLIGHT
            job.connection = connection
            job.dispatched_at = now
            in_flight[job] = None

    def wait(self) -> None:
        """It waits to be tried again."""
        if self.is_decided:
            raise self._refuse(_WAITING)
        self.place = _WAITING
        self.connection = None

    def take_back(self) -> Job:
        """Leave it with its connection; return the job that goes on with the request elsewhere.

        That one has the same future, and is to be put back into the queue.
        """
        if self.place is not _IN_FLIGHT or self.successor is not None or self.was_taken_back:
            raise self._refuse(_QUEUED)
        successor = copy.copy(self)
        successor._future = self.future
        successor.was_taken_back = True
        successor.exchange = None
        self.timer = None
        self.successor = successor
        self.finish()
        return successor

    def hedge_with(self, attempt: Attempt) -> Job:
        """Return its twin, which is to be sent on another connection; *attempt* says why."""
        if self.place is not _IN_FLIGHT or self.was_hedged:
            raise self._refuse(_QUEUED)
        self.was_hedged = True
        twin = copy.copy(self)
        twin._future = self.future
        twin.attempts += (attempt,)
        twin.exchange = twin.timer = twin.sending = None
        twin.enter_queue()
        twin.twin, self.twin = self, twin
        return twin

    def lose_twin(self) -> None:
        """Its twin, which it must have, ends, and it goes on alone with the future."""
        twin = self.twin
        assert twin is not None
        if twin.timer is not None:
            self.timer, twin.timer = twin.timer, None
        twin.successor = self
        if not twin.is_decided:
            twin.finish()
        self.twin = twin.twin = None

    def continue_with(self, successor: Job) -> None:
        """End; *successor*, another request, goes on with the future and the timer."""
        if self.place is not _WAITING or self.successor is not None:
            raise self._refuse(_QUEUED)
        successor._future = self.future
        successor.timer, self.timer = self.timer, None
        if self.extras.trace is not None:
            successor.own_extras().trace = self.extras.trace
        self.successor = successor
        self.finish()

    @property
    def current(self) -> Job:
        """The job that goes on with the future: this one, unless it has a successor."""
        job = self
        while job.successor is not None:
            job = job.successor
        return job

    def begin_streaming(self) -> None:
        """Its caller reads the body of the response."""
        if self.place is not _IN_FLIGHT:
            raise self._refuse(_STREAMING)
        self.place = _STREAMING

    def end_streaming(self) -> None:
        """Its caller reads no more."""
        if self.place is not _STREAMING:
            raise self._refuse(_DONE)
        self.place = _DONE

    def expire(self) -> None:
        """Its deadline has passed.

        This is what its timer does. A partial would be two more objects of each request that is
        queued, and the garbage collector looks at all of them while it keeps all threads waiting.
        """
        self.owner.expire_locked(self)

    def finish(self) -> None:
        """Its outcome is decided."""
        place = self.place
        if place is _DONE or place is _STREAMING:
            raise self._refuse(_DONE)
        self.place = _DONE

    @property
    def is_decided(self) -> bool:
        """True if its future has ended, or is about to."""
        place = self.place
        return place is _DONE or place is _STREAMING

    # --- what it is -------------------------------------------------------------------------------

    def own_extras(self) -> Extras:
        """Return extras that may be set: before the pool has the job."""
        if self.extras is NO_EXTRAS:
            self.extras = Extras()
        return self.extras

    @property
    def future(self) -> ResponseFuture:
        """What its outcome is for, unless the thread that makes the request takes that itself.

        It is made when it is first asked for: by the thread that makes the job, before the pool has
        it, or else with the lock held.
        """
        return self._future or self.make_future()

    def make_future(self) -> ResponseFuture:
        """Make `future`, which must not exist yet."""
        future = self._future = ResponseFuture(self.request, self)
        return future

    @property
    def number(self) -> int:
        """The number of the attempt that is next, or under way; only charged attempts count."""
        return 1 + sum(attempt.charged for attempt in self.attempts)

    @property
    def needs_no_thread(self) -> bool:
        """True if the thread that asks for it may make it by itself on an idle connection."""
        extras = self.extras
        return (
            self.deadline is None
            and extras.upload is None
            and extras.make_head is None
            and extras.download is None
            and extras.hedge is None
        )

    @property
    def write_timeout(self) -> float | None:
        """For how many seconds sending may go without any progress."""
        patience = self.extras.patience
        if patience is None or patience.write is POOL_DEFAULT:
            return self.timeout
        return patience.write

    @property
    def is_rewindable(self) -> bool:
        """True if the body, if there is one, could be sent again."""
        return self.extras.upload is None or self.extras.upload.body.rewindable

    def forget_expectation(self) -> bool:
        """Send it without Expect the next time, and its body at once; False: it has none."""
        upload = self.extras.upload
        if upload is None or not upload.expect100:
            return False
        assert self.head is not None
        upload.expect100 = False
        # The caller cannot have given this field, and no field has a CRLF in it.
        self.head = self.head.replace(b"\r\nExpect: 100-continue\r\n", b"\r\n", 1)
        return True

    def max_delivery(self, delivery: Delivery) -> Delivery:
        """Return how far the request has ever got, if *delivery* is how far it has got now."""
        earlier = [attempt.delivery for attempt in self.attempts if attempt.delivery is not None]
        if self.was_taken_back:
            earlier.append(Delivery.SENT)
        if self.is_answered:
            earlier.append(Delivery.ANSWER_STARTED)
        return max((delivery, *earlier), key=_PROGRESS.index)

    # --- what the future asks of its owner; any thread, without the lock --------------------------

    def abandon(self, future: ResponseFuture) -> bool:
        return self.owner.abandon(self)

    def is_running(self, future: ResponseFuture) -> bool:
        return self.owner.is_running(self)

    def check_may_wait(self) -> None:
        self.owner.check_may_wait_for(self)

    def exclusively(self, action: Callable[[], T]) -> T:
        return self.owner.exclusively(action)

    def is_nested(self) -> bool:
        return self.owner.is_nested()

    def call_later(self, call: Callable[[], object]) -> None:
        self.owner.call_later(call)

    def __repr__(self) -> str:
        where = (
            f"{self.place.value} on {self.connection.name}" if self.connection else self.place.value
        )
        return f"<Job {self.request!r} {where}>"
