"""One connection of a pool, and what its threads and the pool know about it.

Guarantees: only the methods of this class change its phase, and they refuse what is no transition.
Starts no threads itself; `dugong.pool.io` has the two loops.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threading import Condition

    from dugong.pool.core.host import Host
    from dugong.pool.core.job import Job
    from dugong.pool.core.rate import BodyRate
    from dugong.pool.core.timers import Timer
    from dugong.pool.io.engine import Engine

__all__ = ["KEEP_ALIVE_MARGIN", "Phase", "PooledConnection"]

#: Seconds before the end of ``Keep-Alive: timeout=`` from which on a connection is not used.
KEEP_ALIVE_MARGIN = 1.0


class Phase(Enum):
    """Where a connection is in its life. `PooledConnection` has the transitions."""

    CONNECTING = "connecting"
    OPEN = "open"
    DRAINING = "draining"  # it takes no further request, and ends between responses
    WRITE_FAILED = "write failed"  # nothing can be sent; responses may still come
    CLOSING = "closing"  # it has been shut down; the threads at work on it are leaving
    CLOSED = "closed"  # its requests have been seen to


_CONNECTING, _OPEN, _DRAINING = Phase.CONNECTING, Phase.OPEN, Phase.DRAINING
_CLOSING, _CLOSED = Phase.CLOSING, Phase.CLOSED
_ENDED = (_CLOSING, _CLOSED)

_TRANSITIONS = {
    Phase.CONNECTING: {Phase.OPEN, Phase.CLOSING},
    Phase.OPEN: {Phase.DRAINING, Phase.WRITE_FAILED, Phase.CLOSING},
    Phase.DRAINING: {Phase.WRITE_FAILED, Phase.CLOSING},
    Phase.WRITE_FAILED: {Phase.CLOSING},
    Phase.CLOSING: {Phase.CLOSED},
    Phase.CLOSED: set(),
}


class PooledConnection:
    """A connection and the requests that are under way on it.

    Guarded by the pool's lock where a field does not say otherwise; so are all methods.
    """

    __slots__ = (
        "age_timer",
        "body_released_at",
        "borrowed_by",
        "borrower",
        "close_reason",
        "dispatched",
        "drain_once_open",
        "engine",
        "exclusive",
        "failure",
        "holds_place",
        "host",
        "idle_since",
        "idle_timer",
        "in_flight",
        "keep_alive",
        "long_response",
        "lost_requests",
        "max_requests",
        "name",
        "opened_at",
        "phase",
        "rate",
        "rate_timer",
        "receiver_parked",
        "receiver_started",
        "receiver_wakeup",
        "receiving",
        "reserved",
        "responded_at",
        "sender_parked",
        "sender_started",
        "sender_wakeup",
        "sending",
        "streaming",
        "uploading",
        "was_open",
    )

    def __init__(
        self, host: Host, engine: Engine, opened_at: float, max_requests: int | None
    ) -> None:
        host.numbered += 1
        self.name: str = f"{host.name}-{host.numbered}"  # never changes
        self.host: Host = host  # never changes
        self.engine: Engine = engine  # never changes
        self.opened_at: float = opened_at  # `time.monotonic`; never changes
        self.max_requests: int | None = max_requests  # never changes
        #: Where it is in its life. Only the methods below change it; any thread may read it.
        self.phase: Phase = _CONNECTING
        self.was_open: bool = False  # it has been OPEN
        self.drain_once_open: bool = False  # it is to be DRAINING as soon as it is OPEN
        self.holds_place: bool = False  # it counts for *max_connections*; only `Room` changes it
        self.failure: Exception | None = None  # why it is CLOSING, unless it ends in good order
        self.close_reason: str = ""  # the same in words
        # Taken from the queue and not answered, oldest first.
        self.in_flight: dict[Job, None] = {}
        self.reserved: Job | None = None  # the next request, which has to be exclusive
        self.exclusive: bool = False  # a request is in flight that nothing may be sent behind
        self.rate: BodyRate | None = None  # of the body that comes in, if it has a limit
        self.rate_timer: Timer | None = None  # looks at that, or finds that it is over
        self.long_response: bool = False  # nothing is to be sent behind the response that comes in
        self.responded_at: float = 0.0  # when responses came last, `time.monotonic`
        #: Requests were taken back from it, whose responses are dropped if they come. Any thread
        #: may read it: an attribute that is replaced as a whole needs no lock, in free-threaded
        #: CPython, too.
        self.lost_requests: bool = False
        self.dispatched: int = 0  # requests that were given to it

        # Who is at work on it. The last of them to leave a CLOSING connection closes it.
        self.sending: bool = True  # the sender: it connects first
        self.receiving: bool = False  # the receiver
        self.borrower: Job | None = None  # a caller, who makes this request by itself
        self.borrowed_by: int = 0  # the thread that does, or was the last to
        self.streaming: bool = False  # a caller, who reads the body of a response

        # A parked thread waits for its wake-up. If nothing comes for a while, it ends, and what is
        # parked is to be started instead of being woken. There is a wake-up only while a thread
        # waits: the collector would have seven objects more to look at, for each idle connection.
        self.sender_started: bool = False  # the thread has begun, and not ended
        self.sender_wakeup: Condition | None = None
        self.sender_parked: bool = False  # the sender may be given work
        self.receiver_started: bool = False  # the thread has been started, and has not ended
        self.receiver_wakeup: Condition | None = None
        self.receiver_parked: bool = True  # the same of responses
        self.uploading: Job | None = None  # whose body the sender has
        self.body_released_at: float = opened_at  # when it last let go of one
        # When its last response came, or it was opened: from then on it is idle if it has nothing
        # to do. `time.monotonic`.
        self.idle_since: float = opened_at
        self.idle_timer: Timer | None = None  # looks whether it is still idle
        self.keep_alive: float | None = None  # the engine's `keep_alive_timeout` of that timer
        self.age_timer: Timer | None = None  # of *max_age*

    # --- the phase --------------------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        if phase not in _TRANSITIONS[self.phase]:
            raise AssertionError(f"{self.name} cannot go from {self.phase} to {phase}")
        self.phase = phase

    def open(self) -> None:
        """The connection has been established."""
        self._enter(_OPEN)
        self.was_open = True
        if self.drain_once_open:
            self._enter(_DRAINING)

    def drain(self) -> None:
        """Have it take nothing more, and end between responses."""
        if self.phase is _OPEN:
            self._enter(_DRAINING)
        elif self.phase is _CONNECTING:
            self.drain_once_open = True

    def fail_writing(self) -> None:
        """Nothing more can be sent, but responses may still come."""
        if self.phase is _OPEN or self.phase is _DRAINING:
            self._enter(Phase.WRITE_FAILED)

    def begin_closing(self, reason: str, failure: Exception | None) -> bool:
        """Begin to close it; return False if that has begun before, for another reason."""
        if self.phase in _ENDED:
            return False
        self._enter(_CLOSING)
        self.close_reason = reason
        self.failure = failure
        return True

    def finish_closing(self) -> None:
        """Its requests have been seen to."""
        self._enter(_CLOSED)

    @property
    def is_closing(self) -> bool:
        """True if it has been, or is being, closed: nothing can be sent or received."""
        return self.phase in _ENDED

    @property
    def is_draining(self) -> bool:
        """True if it takes nothing more, and ends between responses."""
        return self.phase is _DRAINING or self.drain_once_open

    # --- its threads ------------------------------------------------------------------------------

    def notify_sender(self) -> None:
        """Have the sender look again, if it waits."""
        if self.sender_wakeup is not None:
            self.sender_wakeup.notify()

    def notify_receiver(self) -> None:
        """Have the receiver look again, if it waits."""
        if self.receiver_wakeup is not None:
            self.receiver_wakeup.notify()

    # --- what it can take -------------------------------------------------------------------------

    @property
    def closed_to_more(self) -> bool:
        """True if no request may be sent, whatever is in flight."""
        return (
            (self.phase is not _OPEN and self.phase is not _CONNECTING)
            or self.drain_once_open
            or self.exclusive
            or self.long_response
            or self.is_lent
        )

    def is_stale(self, now: float) -> bool:
        """Return True if it has been idle for so long that the server may close it any moment.

        That is a second before it would do so, as it has announced with ``Keep-Alive: timeout=``.
        """
        kept = self.engine.keep_alive_timeout
        return kept is not None and now - self.idle_since >= kept - KEEP_ALIVE_MARGIN

    @property
    def used_up(self) -> bool:
        """True if the connection is to end once nothing is in flight, as the caller has asked."""
        return self.is_draining or (
            self.max_requests is not None and self.dispatched >= self.max_requests
        )

    @property
    def answered(self) -> int:
        """How many final responses have come on it, or begun to."""
        return self.dispatched - len(self.in_flight)

    @property
    def is_lent(self) -> bool:
        """True if a caller receives on the connection itself."""
        return self.borrower is not None or self.streaming

    @property
    def wants_sender(self) -> bool:
        """True if the sender is wanted, and no thread has become it."""
        return not (self.sender_started or self.sender_parked)

    @property
    def at_work(self) -> bool:
        """True if a thread is at work on the connection."""
        return self.sending or self.receiving or self.is_lent

    def take_off(self, job: Job) -> Any:
        """*job*, which was in flight, has its response; return the engine's record of the sending.

        The job lets go of it: the two refer to each other, and would wait for the collector.
        """
        del self.in_flight[job]
        exchange, job.exchange = job.exchange, None
        return exchange

    @property
    def oldest(self) -> Job:
        """The request whose response comes next. There must be one."""
        return next(iter(self.in_flight))

    @property
    def is_wanted(self) -> bool:
        """True if a response is still to come that a caller waits for."""
        return self.streaming or not all(map(_is_decided, self.in_flight))

    @property
    def state(self) -> str:
        """What the connection is doing, in a word."""
        if self.phase in _ENDED:
            return "closing"
        if self.phase is _CONNECTING:
            return "connecting"
        if self.streaming:
            return "streaming"
        return "busy" if self.in_flight else "idle"

    def __repr__(self) -> str:
        return (
            f"<PooledConnection {self.name} {self.state}, {len(self.in_flight)} in flight, "
            f"{self.answered} answered>"
        )


def _is_decided(job: Job) -> bool:
    return job.is_decided
