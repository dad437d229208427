"""One origin: its queue, its connections, when it is to be left alone, and what it has taught us
about pipelining.

Guarantees: what is learned only ever makes us more careful than the caller allows, and no lesson
lasts for ever. No I/O, and no lock of its own: all of it is guarded by the scheduler's.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.connection.encode import RequestBuilder
    from dugong.pool.job import Job
    from dugong.pool.pipeline import Pipeline
    from dugong.pool.request import Origin

__all__ = ["Host", "Lessons"]

#: Seconds for which a host is asked one at a time once it has shown that it must be.
PENALTY = 60.0
#: How many pipelines in a row may fail before a host is asked one at a time.
MAX_STRIKES = 3
#: Seconds after which we see again whether a host takes more requests on a connection.
QUOTA_TIME = 600.0

#: Seconds of an interval; a retry budget looks back on this one and the one before.
BUDGET_TIME = 5.0
#: How many repetitions in that time are within any budget.
FREE_REPEATS = 3

_FEW = 64  # withdrawn requests that nobody minds in a queue


class Lessons:
    """What a host has taught us about pipelining up to *depth* (design, "Safe pipelining", rule 2).

    `window` is how many requests may be in flight on one connection: 1 at first, one more for each
    good answer, and 1 again after a connection died with requests unanswered. `quota` is after
    how many answers the host ends a connection, if it has done so twice after the same number.
    `lesson` says in words what went wrong last, if anything has.
    """

    __slots__ = (
        "_closed_after",
        "_depth",
        "_quota_until",
        "_serial_until",
        "_strikes",
        "lesson",
        "quota",
        "window",
    )

    def __init__(self, depth: int) -> None:
        self.window = 1
        self.quota: int | None = None
        self.lesson: str | None = None
        self._depth = depth
        self._strikes = 0
        self._serial_until = 0.0
        self._closed_after = 0
        self._quota_until = 0.0

    @property
    def nothing_to_learn(self) -> bool:
        """True if a good answer would change nothing."""
        return self.window == self._depth and self.quota is None

    def answered(self, count: int, now: float) -> None:
        """*count* good answers have come: HTTP/1.1, and the connection stays open."""
        if self.window == self._depth:
            if self.quota is not None and now >= self._quota_until:
                self.quota = None
            return
        if now >= self._serial_until:
            self.window = min(self.window + count, self._depth)
            if self.window == self._depth:
                self._strikes = 0

    def old_version(self, now: float) -> None:
        """The host has answered as HTTP/1.0, which knows no pipelining."""
        self._one_at_a_time("it answers as HTTP/1.0", now)

    def broke_the_rules(self, now: float) -> None:
        """The host has sent what is no answer, or more of them than it was asked for."""
        self._one_at_a_time("it has sent what is no answer", now)

    def closed(self, answered: int, unanswered: int, now: float) -> None:
        """The host has announced the end of a connection, after *answered* answers on it."""
        if answered > 1 and answered == self._closed_after:
            self.quota = answered
            self._quota_until = now + QUOTA_TIME
        elif unanswered:
            self.died(answered, unanswered, now)
        self._closed_after = answered

    def died(self, answered: int, unanswered: int, now: float) -> None:
        """A connection has ended without a word while *unanswered* requests were waiting."""
        self.window = 1
        if unanswered > 1:
            self._strikes += 1
            times = "answer" if answered == 1 else "answers"
            self.lesson = f"a connection ended after {answered} {times} with {unanswered} to come"
            if self._strikes >= MAX_STRIKES:
                self._one_at_a_time(self.lesson, now)

    def _one_at_a_time(self, lesson: str, now: float) -> None:
        self.lesson = lesson
        self.window = 1
        self._strikes = 0
        self._serial_until = now + PENALTY

    def state(self, now: float) -> str:
        """Return how far pipelining goes, in words."""
        if self._depth == 1:
            return "off"
        if now < self._serial_until:
            return "one at a time"
        if self.window == 1:
            return "unproven"
        return "full" if self.window == self._depth else "growing"


class Host:
    """An origin of a pool.

    `origin`, `name`, `builder` (makes the heads of requests) and `plain_builder` (if there is one:
    those with no headers but the pool's) never change. The rest is guarded by the lock of the
    scheduler:

    * `queue`: the requests that no connection has, the next one first; `withdrawn` of them are
      `Job.done`. `suspects`: those that need a connection which has not been used. `queued` counts
      both, but for the withdrawn; `in_flight` those on connections; `waiting` those that wait to be
      tried again, each for itself.
    * `pipelines`: all connections that have not ended; of these, `idle` could take any request at
      once, the one used last being last, and `roomy` have requests in flight but could take more.
      `numbered`: how many there have been. `lessons`: how far these may be pipelined.
    * `unopenable_until`: opening another connection failed, so there is no hurry to try again;
      `unreachable`: how often in a row it did when there was no other.
    * `held`: the host has asked us to wait, which we do until `held_until`; it `progresses` if it
      has answered as it should since it asked so before. `accepted` counts such answers, and
      `accepted_before` has what that was then.
    * `sent` and `answered` count requests, `resent` those that were put back, and `repeated` how
      often one that had failed was tried again. `recent` has what `sent` and `repeated` were when
      the last interval of `BUDGET_TIME`, and this one, began; the latter at `recent_since`.
    """

    __slots__ = (
        "accepted",
        "accepted_before",
        "answered",
        "builder",
        "held",
        "held_until",
        "idle",
        "in_flight",
        "lessons",
        "name",
        "numbered",
        "origin",
        "pipelines",
        "plain_builder",
        "progresses",
        "queue",
        "queued",
        "recent",
        "recent_since",
        "repeated",
        "resent",
        "roomy",
        "sent",
        "suspects",
        "unopenable_until",
        "unreachable",
        "waiting",
        "withdrawn",
    )

    def __init__(
        self,
        origin: Origin,
        builder: RequestBuilder,
        plain_builder: RequestBuilder | None,
        depth: int,
    ) -> None:
        self.origin = origin
        self.name = f"{origin.host}:{origin.port}"
        self.builder = builder
        self.plain_builder = plain_builder
        self.lessons = Lessons(depth)
        self.queue: deque[Job] = deque()
        self.suspects: deque[Job] = deque()
        self.queued = 0
        self.waiting = 0
        self.withdrawn = 0
        self.in_flight = 0
        self.pipelines: dict[Pipeline, None] = {}
        self.idle: dict[Pipeline, None] = {}
        self.roomy: dict[Pipeline, None] = {}
        self.unopenable_until = 0.0
        self.unreachable = 0
        self.held = False
        self.held_until = 0.0
        self.progresses = False
        self.accepted = 0
        self.accepted_before = 0
        self.recent = ((0, 0), (0, 0))
        self.recent_since = 0.0
        self.numbered = 0
        self.sent = 0
        self.answered = 0
        self.resent = 0
        self.repeated = 0

    @property
    def unused(self) -> bool:
        """True if there is nothing here but what has been learned."""
        return not (self.pipelines or self.queued or self.waiting or self.held)

    def append(self, job: Job) -> None:
        """Put *job* at the end of the queue."""
        self.queue.append(job)
        self.queued += 1

    def put_back(self, jobs: list[Job]) -> None:
        """Put *jobs*, which were sent or nearly so, at the head of the queues in their order."""
        self.queue.extendleft(job for job in reversed(jobs) if not job.suspect)
        self.suspects.extendleft(job for job in reversed(jobs) if job.suspect)
        self.queued += len(jobs)

    def withdraw(self, job: Job) -> None:
        """Take note that *job*, which is queued, has become `done`."""
        self.queued -= 1
        if job.suspect:
            self.suspects.remove(job)
        else:
            self.withdrawn += 1
        if not self.queued:
            self._forget_withdrawn()
        elif self.withdrawn > _FEW and self.withdrawn > len(self.queue) // 2:
            self.queue = deque(job for job in self.queue if not job.done)
            self.withdrawn = 0

    def trust_suspects(self) -> None:
        """Let those that were to have an unused connection have any."""
        jobs = list(self.suspects)
        self.suspects.clear()
        self.queued -= len(jobs)
        for job in jobs:
            job.suspect = False
            job.alone = True
        self.put_back(jobs)

    def pop_all(self) -> list[Job]:
        """Remove and return all that is queued."""
        jobs = [job for job in (*self.suspects, *self.queue) if not job.done]
        self.suspects.clear()
        self.queued = 0
        self._forget_withdrawn()
        return jobs

    def pop_suspect(self) -> Job:
        """Remove and return the next job that needs an unused connection. There must be one."""
        job = self.suspects.popleft()
        self.queued -= 1
        if not self.queued and self.queue:
            self._forget_withdrawn()
        return job

    def pop(self) -> Job | None:
        """Remove and return the next job of the queue, or None if it is empty."""
        while self.queue:
            job = self.queue.popleft()
            if not job.done:
                self.queued -= 1
                if not self.queued and self.queue:
                    self._forget_withdrawn()
                return job
            self.withdrawn -= 1
        return None

    def may_repeat(self, budget: float, now: float) -> bool:
        """Return whether another repetition is within *budget*, a share of the recent requests."""
        self.note_time(now)
        sent, repeated = self.recent[0]
        return self.repeated - repeated < (self.sent - sent) * budget + FREE_REPEATS

    def note_time(self, now: float) -> None:
        """Begin another interval if it is time to. To be called before `sent` grows."""
        age = now - self.recent_since
        if age >= BUDGET_TIME:
            count = (self.sent, self.repeated)
            self.recent = (self.recent[1] if age < 2 * BUDGET_TIME else count, count)
            self.recent_since = now

    def _forget_withdrawn(self) -> None:
        # They refer to their pool, and there is nobody on the way who would come across them.
        self.queue.clear()
        self.withdrawn = 0

    def __repr__(self) -> str:
        return (
            f"<Host {self.name} {self.queued} queued, {self.in_flight} in flight, "
            f"{len(self.pipelines)} connections ({len(self.idle)} idle)>"
        )
