"""How far a host may be pipelined, by what it has shown (design, "Safe pipelining", rule 2).

Guarantees: what is learned only ever makes the pool more careful than the caller allows, and no
lesson lasts for ever. No I/O and no lock of its own: the pool's lock guards it.
"""

from __future__ import annotations

__all__ = ["PipeliningState"]

#: Seconds for which a host is asked one at a time once it has shown that it must be.
PENALTY = 60.0
#: How many pipelines in a row may fail before a host is asked one at a time.
MAX_STRIKES = 3
#: Seconds after which the pool tries again whether a host takes more requests on a connection.
QUOTA_TIME = 600.0
#: A response is slow after so many times as long as this host took before,
SLOW_FACTOR = 4.0
#: but not before so many seconds.
MIN_SLOW = 0.1

_WEIGHT = 1 / 8  # of the latest response in what the host took on the average


class PipeliningState:
    """How many requests may be in flight on a connection to a host, of at most *depth*."""

    __slots__ = (
        "_alone_took",
        "_behind_took",
        "_closed_after",
        "_depth",
        "_quota_until",
        "_serial_until",
        "_strikes",
        "lesson",
        "quota",
        "slow_after",
        "window",
    )

    def __init__(self, depth: int) -> None:
        #: Requests that may be in flight on one connection: 1 at first, one more for each good
        #: response, and 1 again after a connection died with requests unanswered.
        self.window = 1
        #: After how many responses the host closes a connection, if it did so twice.
        self.quota: int | None = None
        self.lesson: str | None = None  # what went wrong last, in words, if anything has
        self._depth = depth  # never changes
        self._strikes = 0  # pipelines that failed in a row
        self._serial_until = 0.0  # `time.monotonic`, as are all times here
        self._closed_after = 0  # responses on the connection that the host closed last
        self._quota_until = 0.0
        #: Seconds after which a response of this host is slow.
        self.slow_after = MIN_SLOW
        # Seconds that its responses took on the average: to requests that were sent on a connection
        # with nothing in flight, with the way there and back; and to others, since the response
        # before them had come.
        self._alone_took: float | None = None
        self._behind_took = 0.0

    @property
    def nothing_to_learn(self) -> bool:
        """True if a good response would change nothing."""
        return self.window == self._depth and self.quota is None

    def took(self, seconds: float, alone: bool) -> None:
        """A response has taken so many *seconds*, to a request that was sent *alone* or not.

        A slow one counts for no more than the limit, so that it does not hide the next.
        """
        alone_took, behind_took = self._alone_took, self._behind_took
        if seconds > self.slow_after and alone_took is not None:
            seconds = self.slow_after
        if alone_took is None:
            self._alone_took = alone_took = seconds
        elif alone:
            self._alone_took = alone_took = alone_took + (seconds - alone_took) * _WEIGHT
        else:
            self._behind_took = behind_took = behind_took + (seconds - behind_took) * _WEIGHT
        # Without `max`, which takes as long as all the rest; this is done for each batch.
        slow_after = SLOW_FACTOR * (alone_took if alone_took > behind_took else behind_took)
        self.slow_after = slow_after if slow_after > MIN_SLOW else MIN_SLOW

    def responded(self, count: int, now: float) -> None:
        """*count* good responses have come: HTTP/1.1, and the connection stays open."""
        if self.window == self._depth:
            if self.quota is not None and now >= self._quota_until:
                self.quota = None
            return
        if now >= self._serial_until:
            self.window = min(self.window + count, self._depth)
            if self.window == self._depth:
                self._strikes = 0

    def old_version(self, now: float) -> None:
        """The host has responded as HTTP/1.0, which knows no pipelining."""
        self._one_at_a_time("it responds as HTTP/1.0", now)

    def broke_the_rules(self, now: float) -> None:
        """The host has sent what is no response, or more of them than it was asked for."""
        self._one_at_a_time("it has sent what is no response", now)

    def closed(self, answered: int, unanswered: int, now: float) -> None:
        """The host has announced the end of a connection, after *answered* responses on it."""
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
            times = "response" if answered == 1 else "responses"
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
