"""How far a host may be pipelined, by what it has shown (design, "Safe pipelining", rule 2).

Guarantees: what is learned only ever makes the pool more careful than the caller allows, and no
lesson lasts for ever. No I/O and no lock of its own: the pool's lock guards it.

How many requests keep a connection busy depends on how far the host is: bandwidth x delay. The
window first grows with each response, so it doubles in each round trip. Beyond `NEAR_DEPTH` it does
so only as long as requests wait for a place, and responses come about as soon as the one to a
request that was sent alone: then the line and the server have time to spare. When they come later,
they wait for each other, and more requests in flight would only wait longer.
"""

from __future__ import annotations

import math

__all__ = ["PipeliningState"]

#: How many requests may be in flight on a connection to a host that is near, at most,
NEAR_DEPTH = 64
#: and to one that is far.
MAX_DEPTH = 1024
#: Bytes of responses that a window beyond `NEAR_DEPTH` may be for. More would be lost, and come
#: again, if the connection died.
MAX_BYTES = 8 * 1024 * 1024
#: Seconds from a lone request to its response, from which on a host is far.
FAR = 0.005
#: By how much the window grows with each response then, once two requests may be in flight. Each
#: round trip counts.
FAR_STEP = 3
#: The window does not grow if responses take so many times as long as one to a lone request,
CROWDED = 1.5
#: and is halved if they take so many times as long.
OVERCROWDED = 4.0
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
    """How many requests may be in flight on a connection to a host.

    *depth* is the limit that the caller has set; None: there is none but `MAX_DEPTH`.
    """

    __slots__ = (
        "_alone_took",
        "_behind_took",
        "_closed_after",
        "_crowded_until",
        "_depth",
        "_distance",
        "_limit",
        "_near",
        "_quota_until",
        "_serial_until",
        "_size",
        "_spare_until",
        "_strikes",
        "lesson",
        "quota",
        "slow_after",
        "window",
    )

    def __init__(self, depth: int | None) -> None:
        #: Requests that may be in flight on one connection: 1 at first, more with good responses,
        #: and 1 again after a connection died with requests unanswered.
        self.window: int = 1
        #: After how many responses the host closes a connection, if it did so twice.
        self.quota: int | None = None
        self.lesson: str | None = None  # what went wrong last, in words, if anything has
        self.set_depth(depth)
        self._size = 0.0  # bytes of a response of this host, on the average
        self._spare_until = 0.0  # the window may grow beyond `_near` until then,
        self._crowded_until = 0.0  # but not before that
        self._strikes = 0  # pipelines that failed in a row
        self._serial_until = 0.0  # `time.monotonic`, as are all times here
        self._closed_after = 0  # responses on the connection that the host closed last
        self._quota_until = 0.0
        #: Seconds after which a response of this host is slow.
        self.slow_after: float = MIN_SLOW
        # Seconds that its responses took on the average: to requests that were sent on a connection
        # with nothing in flight, with the way there and back; and to others, since the response
        # before them had come.
        self._alone_took: float | None = None
        self._behind_took = 0.0
        # Seconds from a lone request to its response, at best: what takes longer has waited.
        self._distance = math.inf

    def set_depth(self, depth: int | None) -> None:
        """Let no more than *depth* requests be in flight from now on."""
        self._depth = MAX_DEPTH if depth is None else depth
        self._near = min(NEAR_DEPTH, self._depth)  # what a near host may have
        self._limit = self._near  # of `window`; never less
        self.window = min(self.window, self._limit)

    def has_nothing_to_learn(self) -> bool:
        """Return True if a good response would change nothing."""
        return self.window == self._limit and self.quota is None

    @property
    def _is_far(self) -> bool:
        return FAR <= self._distance < math.inf

    def took(self, seconds: float, alone: bool) -> None:
        """A response has taken so many *seconds*, to a request that was sent *alone* or not.

        A slow one counts for no more than the limit, so that it does not hide the next.
        """
        alone_took, behind_took = self._alone_took, self._behind_took
        if alone and seconds < self._distance:
            self._distance = seconds
            if seconds < FAR:
                self._limit = self._near
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

    def waited(self, seconds: float, size: int, now: float) -> None:
        """A response of *size* bytes took *seconds* from the sending of its request.

        That was sent behind others, and more requests wait for a place.
        """
        if not self._is_far:
            return
        distance = self._distance
        self._size += (size - self._size) * _WEIGHT if self._size else size
        most = min(self._depth, int(MAX_BYTES / max(self._size, 1.0)))
        self._limit = max(most, self._near)
        if seconds <= CROWDED * distance:
            self._spare_until = now + distance
        elif now >= self._crowded_until:
            self._crowded_until = now + seconds  # when what is sent now has its response
            if seconds > OVERCROWDED * distance and self.window > self._near:
                self.window = max(self._near, self.window // 2)

    def responded(self, count: int, now: float) -> None:
        """*count* good responses have come: HTTP/1.1, and the connection stays open."""
        if self.window >= self._limit:
            if self.quota is not None and now >= self._quota_until:
                self.quota = None
            self.window = self._limit
            return
        if now < self._serial_until:
            return
        may_exceed = self._crowded_until <= now < self._spare_until
        most = self._limit if may_exceed else self._near
        if self.window < most:
            step = FAR_STEP if self._is_far and self.window > 1 else 1
            self.window = min(self.window + step * count, most)
        if self.window >= self._near:
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
        self._begin_again()
        if unanswered > 1:
            self._strikes += 1
            times = "response" if answered == 1 else "responses"
            self.lesson = f"a connection ended after {answered} {times} with {unanswered} to come"
            if self._strikes >= MAX_STRIKES:
                self._one_at_a_time(self.lesson, now)

    def _one_at_a_time(self, lesson: str, now: float) -> None:
        self.lesson = lesson
        self._begin_again()
        self._strikes = 0
        self._serial_until = now + PENALTY

    def _begin_again(self) -> None:
        self.window = 1
        self._limit = self._near

    def state(self, now: float) -> str:
        """Return how far pipelining goes, in words."""
        if self._depth == 1:
            return "off"
        if now < self._serial_until:
            return "one at a time"
        if self.window == 1:
            return "unproven"
        return "full" if self.window >= self._near else "growing"
