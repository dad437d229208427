"""One origin of a pool: its queue, its connections, and its gate.

No I/O, and no lock of its own: the pool's lock guards all of it, also its methods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from dugong.pool.core.job import NO_EXTRAS, Extras, Job, Place
from dugong.pool.core.pipelining import PipeliningState

if TYPE_CHECKING:
    from dugong.connection.encode import HeaderPairs, RequestBuilder
    from dugong.connection.proxy import Proxy
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.gate import Gate
    from dugong.pool.io.bandwidth import Bandwidth
    from dugong.pool.url import Origin

__all__ = ["Host"]

#: Seconds of an interval; a budget looks back on this one and the one before.
BUDGET_TIME = 5.0
#: How many repetitions in that time are within any budget.
FREE_REPEATS = 3

#: The share of the requests in that time that may be hedged,
HEDGE_SHARE = 0.05
#: and how many may be besides.
FREE_HEDGES = 3

Counts = tuple[int, int, int]

# Members are looked up slowly in their class.
_NEW, _QUEUED, _DONE = Place.NEW, Place.QUEUED, Place.DONE

_FEW = 64  # withdrawn requests that may stay in a queue


class Host:
    """An origin: what is queued for it, what is connected to it, and what it has shown."""

    __slots__ = (
        "answered",
        "answered_then",
        "bandwidth",
        "builder",
        "connect_backoff_until",
        "connect_failures",
        "connections",
        "fields",
        "fruitless_ends",
        "gate",
        "has_progressed",
        "hedged",
        "idle",
        "in_flight",
        "name",
        "needing_fresh",
        "numbered",
        "origin",
        "pipelining",
        "progresses",
        "proxy",
        "queue",
        "queued",
        "recent",
        "recent_until",
        "repeated",
        "rescued",
        "resent",
        "sent",
        "slow_dials",
        "waiting",
        "with_capacity",
        "withdrawn",
    )

    def __init__(
        self,
        origin: Origin,
        builder: RequestBuilder,
        depth: int | None,
        proxy: Proxy | None = None,
    ) -> None:
        self.origin: Origin = origin  # never changes
        self.name: str = f"{origin.host}:{origin.port}"  # never changes
        # What its connections lead through, and what makes the heads of requests, which may tell it
        # credentials: so each is for the other. The proxy never changes. A policy may bring another
        # builder, and with it the default header fields of requests that have some of their own;
        # each is replaced as a whole, so that any thread may read it. First the fields, so that a
        # head which was made with older ones has an older builder.
        self.proxy: Proxy | None = proxy
        self.fields: HeaderPairs = ()
        self.builder: RequestBuilder = builder
        #: Says when requests may start; None: at any time. A thread that looks at it once needs no
        #: lock, in free-threaded CPython, either.
        self.gate: Gate | None = None
        #: What its connections share; None: none of them has a limit. Set once, when one is made.
        self.bandwidth: Bandwidth | None = None
        # How far its connections may be pipelined.
        self.pipelining: PipeliningState = PipeliningState(depth)

        # Requests that no connection has, the next one first; `withdrawn` of them are done.
        self.queue: deque[Job] = deque()
        self.withdrawn: int = 0
        # Those that need an unused connection: few at any time, and an empty deque has 600 bytes.
        self.needing_fresh: list[Job] = []
        self.queued: int = 0  # requests in the two, but for the withdrawn
        self.waiting: int = 0  # requests that wait to be tried again, each for itself
        self.in_flight: int = 0  # requests on connections

        self.connections: dict[PooledConnection, None] = {}  # that are not closed
        self.idle: dict[PooledConnection, None] = {}  # of these; the one used last is last
        self.with_capacity: dict[PooledConnection, None] = {}  # in flight, but could take more
        self.numbered: int = 0  # connections that there have been
        self.slow_dials: int = 0  # connections that take long to be opened; only `Room` changes it

        self.connect_backoff_until: float = 0.0  # `time.monotonic`, as are all times here
        self.connect_failures: int = 0  # in a row, when there was no other connection
        # Connections in a row that have ended with requests and without a response, and `answered`
        # at the last of them.
        self.fruitless_ends: int = 0
        self.answered_then: int = 0
        self.progresses: bool = False  # between the last two times when it asked to be left alone
        self.has_progressed: bool = False  # a response was an outcome, since the last of them

        self.sent: int = 0
        self.answered: int = 0
        self.resent: int = 0  # requests that were put back
        self.rescued: int = 0  # of these, those that were taken back from behind a slow response
        self.repeated: int = 0  # attempts after one that had failed and was charged
        self.hedged: int = 0  # requests that were sent once more, for they were slow
        # `sent`, `repeated` and `hedged` when the last interval of BUDGET_TIME began, and this one.
        self.recent: tuple[Counts, Counts] = ((0, 0, 0), (0, 0, 0))
        self.recent_until: float = 0.0  # when this one ends

    @property
    def is_unused(self) -> bool:
        """True if there is nothing here but what has been learned."""
        return not (self.connections or self.queued or self.waiting)

    def is_shut(self, now: float) -> bool:
        """Return True if its gate lets no request start now."""
        return self.gate is not None and not self.gate.allowed(now, self.in_flight)

    def is_held(self, now: float) -> bool:
        """Return True if the host has asked to be left alone, and the time is not over."""
        return self.gate is not None and now < self.gate.held_until

    def startable(self, now: float) -> int:
        """Return how many of the requests that are queued may start now. It must have a gate."""
        assert self.gate is not None
        return min(self.queued, self.gate.allowed(now, self.in_flight))

    @property
    def is_fruitless(self) -> bool:
        """True if connections are accepted, and end before a response, one after the other."""
        return self.fruitless_ends > 1 and self.answered == self.answered_then

    def note_fruitless_end(self) -> None:
        """A connection has ended with requests, and before its first response."""
        if self.answered != self.answered_then:
            self.fruitless_ends = 0
        self.answered_then = self.answered
        self.fruitless_ends += 1

    # --- the queue --------------------------------------------------------------------------------

    def append(self, job: Job) -> None:
        """Put *job* at the end of the queue."""
        # In this order, so that an interrupt between the two can be told: see `Scheduler`.
        self.queue.append(job)
        if job.place is _NEW:
            job.place = _QUEUED  # as `Job.enter_queue`, once more for speed
        else:
            job.enter_queue()
        self.queued += 1

    def put_back(self, jobs: list[Job]) -> None:
        """Put *jobs*, which were sent or nearly so, at the head of the queues in their order."""
        self.queue.extendleft(job for job in reversed(jobs) if not job.needs_fresh_connection)
        self.needing_fresh[:0] = [job for job in jobs if job.needs_fresh_connection]
        for job in jobs:
            job.reenter_queue()
        self.queued += len(jobs)

    def withdraw(self, job: Job) -> None:
        """Take note that *job*, which was queued, is done."""
        self.queued -= 1
        if job.needs_fresh_connection:
            self.needing_fresh.remove(job)
        else:
            self.withdrawn += 1
        if not self.queued:
            self._forget_withdrawn()
        elif self.withdrawn > _FEW and self.withdrawn > len(self.queue) // 2:
            self.queue = deque(job for job in self.queue if not job.is_decided)
            self.withdrawn = 0

    def let_any_connection_serve(self) -> None:
        """Let the requests that were to have an unused connection have any, each alone."""
        for job in self.needing_fresh:
            job.needs_fresh_connection = False
            job.exclusive = True
        self.queue.extendleft(reversed(self.needing_fresh))
        self.needing_fresh.clear()

    def pop_all(self) -> list[Job]:
        """Remove and return all that is queued."""
        jobs = [job for job in (*self.needing_fresh, *self.queue) if not job.is_decided]
        self.needing_fresh.clear()
        self.queued = 0
        self._forget_withdrawn()
        return jobs

    def end_some(self, most: int, end: Callable[[Job], object]) -> int:
        """Have *end* called for up to *most* of the jobs that are queued, and remove those.

        Return how many there were. An interrupt in between leaves a job where it was, or done.
        """
        ended = 0
        for queue in (self.needing_fresh, self.queue):
            while ended < most and queue:
                if queue[0].place is not _DONE:
                    end(queue[0])
                    self.queued -= 1
                    ended += 1
                else:
                    self.withdrawn -= 1
                del queue[0]
        return ended

    def pop_needing_fresh(self) -> Job:
        """Remove and return the next job that needs an unused connection. There must be one."""
        job = self.needing_fresh.pop(0)
        self.queued -= 1
        if not self.queued and self.queue:
            self._forget_withdrawn()
        return job

    def pop(self, most: int) -> list[Job]:
        """Remove and return the next jobs of the queue: up to *most*, or one that is exclusive.

        An exclusive one is the last of them. What makes heads may wait for other requests, so these
        are not sent with it.
        """
        queue = self.queue
        jobs: list[Job] = []
        last: Extras = NO_EXTRAS
        while queue and len(jobs) < most:
            job = queue.popleft()
            if job.place is _DONE:
                self.withdrawn -= 1
                continue
            extras = job.extras
            if extras is not last:
                if jobs and (extras.make_head is None) is not (last.make_head is None):
                    queue.appendleft(job)
                    break
                last = extras
            jobs.append(job)
            if job.exclusive:
                break
        self.queued -= len(jobs)
        if not self.queued and queue:
            self._forget_withdrawn()
        return jobs

    def _forget_withdrawn(self) -> None:
        # They refer to their pool, and no sender is on its way that would come across them.
        self.queue.clear()
        self.withdrawn = 0

    def recount(self) -> None:
        """Mend what an interrupt between two steps has left: who is queued, and how many."""
        known = dict.fromkeys((*self.needing_fresh, *self.queue))
        queued = [job for job in known if job.place is Place.QUEUED]
        self.queue = deque(job for job in queued if not job.needs_fresh_connection)
        self.needing_fresh = [job for job in queued if job.needs_fresh_connection]
        self.withdrawn = 0
        self.queued = len(self.queue) + len(self.needing_fresh)
        self.in_flight = sum(len(connection.in_flight) for connection in self.connections)

    def begin_as_child(self) -> list[Job]:
        """Forget what is the parent process's, after a fork; return the requests that are lost."""
        jobs = self.pop_all()
        for connection in self.connections:
            jobs += connection.in_flight
            jobs += [job for job in (connection.uploading, connection.reserved) if job is not None]
            connection.sender_parked = connection.receiver_parked = False
        for known in (self.connections, self.idle, self.with_capacity):
            known.clear()
        self.waiting = self.in_flight = self.connect_failures = self.slow_dials = 0
        self.fruitless_ends = 0
        self.connect_backoff_until = 0.0
        if self.gate is not None:
            self.gate.timer = None  # it is the parent's
        return jobs

    # --- the budgets ------------------------------------------------------------------------------

    def may_repeat(self, budget: float, now: float) -> bool:
        """Return whether another repetition is within *budget*, a share of the recent requests."""
        self.note_time(now)
        sent, repeated, _ = self.recent[0]
        return self.repeated - repeated < (self.sent - sent) * budget + FREE_REPEATS

    def may_hedge(self, now: float) -> bool:
        """Return whether another hedge is within the budget."""
        self.note_time(now)
        sent, _, hedged = self.recent[0]
        return self.hedged - hedged + 1 <= (self.sent - sent) * HEDGE_SHARE + FREE_HEDGES

    def note_time(self, now: float) -> None:
        """Begin another interval if this one has ended. To be called then before `sent` grows."""
        if now >= self.recent_until:
            counts = (self.sent, self.repeated, self.hedged)
            is_next = now < self.recent_until + BUDGET_TIME
            self.recent = (self.recent[1] if is_next else counts, counts)
            self.recent_until = now + BUDGET_TIME

    def __repr__(self) -> str:
        return (
            f"<Host {self.name} {self.queued} queued, {self.in_flight} in flight, "
            f"{len(self.connections)} connections ({len(self.idle)} idle)>"
        )
