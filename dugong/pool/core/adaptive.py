"""How many requests a second a host takes, found out by what it does with them.

Guarantees: the rate falls when requests are refused (429, 503) or time out, and when responses take
longer than they did at a lower rate; it grows only while requests wait for it, and are accepted. No
I/O, no clock and no lock of its own: the pool's lock guards it, and the caller says the time.

The rate grows by addition and falls by multiplication, as that of TCP: see CUBIC, RFC 9438. First
it doubles each second. When requests are refused, it falls by some percent, and grows again: fast
as long as it is far below what was refused, slowly near that, and faster again beyond it, for the
host may take more by now. So most of the time it is just below what is refused. What was sent
before a fall says nothing of the new rate. If requests are still refused soon after a fall, the
next one is deeper, and the rate comes back to where the first one was.

A response that takes long may be that of a large page. So what counts is the fastest response of a
second. If that is much slower than the fastest one was before, the rate falls to a little less than
what has been responded to in that second, and nothing starts until what is in flight may have been
responded to. If that makes responses faster, the host was overloaded; if not, this is how long it
takes now.
"""

from __future__ import annotations

import math

__all__ = ["Adaptive"]

#: Requests a second at first, and at least.
FIRST_RATE = 10.0
MIN_RATE = 0.5
#: and at most: as if there were no limit.
MAX_RATE = 1e6
#: Seconds in which the rate doubles until something is refused.
DOUBLING_TIME = 1.0
#: Seconds from a fall until the rate is where it was.
RETURN_TIME = 30.0
#: What is left of the rate after a fall, after another one that follows soon, and after the first.
FALL, DEEPER_FALL, FIRST_FALL = 0.93, 0.8, 0.7
#: Seconds between two falls, at least, and within which the second one is deeper.
ROUND_TIME, SOON = 0.3, 1.5
#: Seconds over which the fastest response is looked for, and of how many responses, at least.
EPOCH, EPOCH_COUNT = 1.0, 8
#: A host is overloaded if that takes so many times, and so many seconds, longer than before.
SLOWER, MUCH_SLOWER = 2.0, 0.05
#: and so is it still, if that takes more than so many times what it took before the fall.
STILL_SLOW = 0.9
#: The rate after the fall, and where it returns to: of the responses a second of the host.
BELOW, BEYOND = 0.9, 1.05
#: Seconds for which nothing starts then, at most.
MAX_PAUSE = 30.0
#: Seconds of growth for one response, at most: what comes late shows no more than that.
_STRIDE = 0.25


class Adaptive:
    """The rate at which requests to one host may start. All times are `time.monotonic`."""

    __slots__ = (
        "_answers",
        "_best",
        "_count",
        "_epoch",
        "_fastest",
        "_fell_at",
        "_floor",
        "_grew_at",
        "_grown",
        "_peak",
        "_return_time",
        "_suspect",
        "_unfallen",
        "_waited_at",
        "most",
        "paused_until",
        "rate",
    )

    def __init__(self) -> None:
        self.rate: float = FIRST_RATE  # requests a second
        self.most: float = MAX_RATE  # that the rate may be
        self._peak = 0.0  # the rate before it last fell; 0.0: it has not
        self._floor = 0.0  # the rate after that
        self._return_time = RETURN_TIME
        self._fell_at = -math.inf
        self._grown = 0.0  # seconds of growth since then
        self._grew_at = -math.inf  # when it grew last
        self._waited_at = -math.inf  # when a request last started that had waited for the rate
        #: Nothing is to start until then, so that the host can do what it has.
        self.paused_until: float = -math.inf
        # Of the epoch that began at `_epoch`: how many responses there are; how many of these are
        # to requests of the present rate, and the fastest of them.
        self._epoch = -math.inf
        self._answers = 0
        self._count = 0
        self._fastest = math.inf
        self._best = math.inf  # the fastest of an epoch before
        # The fastest, and the rate, when that last fell for it; 0.0: that has been judged.
        self._suspect = 0.0
        self._unfallen = 0.0

    def waited(self, now: float) -> None:
        """A request starts that has waited for the rate."""
        self._waited_at = now

    def accepted(self, started_at: float, now: float, in_flight: int) -> str | None:
        """The response to a request that has started then is no refusal; so many are *in_flight*.

        Return why the rate falls for it, if it does.
        """
        self._answers += 1
        if started_at < self._fell_at:
            self._grew_at = now  # it may have waited for what was sent at the higher rate
        else:
            if self._waited_at >= started_at:
                self._grow(now)
            else:
                self._grew_at = now
            self._count += 1
            self._fastest = min(self._fastest, now - started_at)
        if now - self._epoch < EPOCH or self._count < EPOCH_COUNT:
            return None
        fastest, answered = self._fastest, self._answers / (now - self._epoch)
        self._begin_epoch(now)
        return self._judge(fastest, answered, in_flight, now)

    def refused(self, started_at: float, now: float, wait: float = 0.0) -> bool:
        """The host has refused a request that has started then.

        *wait* is for how many seconds the host wants to be left alone. Return True if the rate
        falls. A request that has timed out is refused, and counts as started now.
        """
        if started_at < self._fell_at or now - self._fell_at < ROUND_TIME:
            return False
        # What is lost while the host is left alone is to be little of the time between two falls.
        self._fall(now, RETURN_TIME * (1 + wait))
        return True

    def _grow(self, now: float) -> None:
        seconds = min(now - self._grew_at, max(_STRIDE, 2 / self.rate))
        self._grew_at = now
        if not self._peak:
            rate = self.rate * 2 ** (seconds / DOUBLING_TIME)
        else:
            self._grown += seconds
            missing = 1 - self._grown / self._return_time
            rate = self._peak - (self._peak - self._floor) * missing**3
        self.rate = min(rate, self.most)

    def _fall(self, now: float, return_time: float) -> None:
        is_soon = now - self._fell_at < SOON
        if not self._peak:
            fall = FIRST_FALL
        elif is_soon:
            fall = DEEPER_FALL
        else:
            fall = FALL
        if not (is_soon and self._peak):
            self._peak = self.rate
        self.rate = self._floor = max(MIN_RATE, self.rate * fall)
        self._return_time = return_time
        self._fell_at = self._grew_at = now
        self._grown = 0.0
        self._begin_epoch(now)

    # --- how long responses take ------------------------------------------------------------------

    def _begin_epoch(self, now: float) -> None:
        self._epoch = now
        self._answers = self._count = 0
        self._fastest = math.inf

    def _judge(self, fastest: float, answered: float, in_flight: int, now: float) -> str | None:
        """Return why the rate falls after an epoch, if it does.

        Its fastest response has taken so long, and there were *answered* responses a second.
        """
        suspect, self._suspect = self._suspect, 0.0
        if suspect and fastest > suspect * STILL_SLOW:
            # To send less was of no use: it takes that long by itself.
            self._best = fastest
            self._peak = max(self.rate, self._unfallen)
            self._floor = self.rate = max(self.rate, self._peak * FALL)
            self._grown = 0.0
            return None
        before = self._best
        if fastest <= max(SLOWER * before, before + MUCH_SLOWER):
            self._best = min(before, fastest)
            return None
        self._suspect, self._unfallen = fastest, self.rate
        self._fall(now, RETURN_TIME)
        self._peak = min(self._peak, answered * BEYOND)
        self.rate = self._floor = max(MIN_RATE, min(self.rate, answered * BELOW))
        self.paused_until = now + min(in_flight / answered, MAX_PAUSE)
        return f"its fastest response takes {fastest:.3g} s, and did take {before:.3g} s"

    def __repr__(self) -> str:
        return f"<Adaptive {self.rate:.3g} requests a second>"
