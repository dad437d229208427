"""The gate of one host: how many requests to it may start now, and when more may.

Guarantees: between the starts of two requests there is never less than the interval, and no more
start in any time than the rate and the burst allow in it. What a timer was late by is made up for
at that rate, for `LATE` seconds at most. No I/O, no clock and no lock of its own: the pool's lock
guards it, and the caller says what time it is.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from dugong.pool.core.adaptive import MAX_RATE, Adaptive

if TYPE_CHECKING:
    from dugong.pool.core.timers import Timer
    from dugong.pool.host_policy import HostPolicy

__all__ = ["LATE", "Gate"]

#: Seconds that the rate makes up for, at most, if requests that were waiting start later than they
#: might have: timers and threads take a moment.
LATE = 0.02

_SLOW = 0.1  # seconds: a time between two starts that is not to be made shorter by more than 5 %
# Seconds: the same for a rate that is found. It comes out right whatever is made up for, and a host
# may refuse what comes too early; but between these timers cannot keep up.
_EXACT, _QUICK = 0.01, 0.0025

#: Seconds for which as many requests are to be submitted as the gate will let through,
LEAD_TIME = 0.25
_FEW = 2  # and so many more;
_MANY = 64  # or so many, if it is responses that open the gate

_ROUNDING = 1e-7  # seconds that may be lost in sums of times


class Gate:
    """Says when requests to a host may start. All times are `time.monotonic`."""

    __slots__ = (
        "_due",
        "_filled_at",
        "_interval",
        "_is_rate_due",
        "_last",
        "_late",
        "_spare",
        "_step",
        "adaptive",
        "held_until",
        "policy",
        "timer",
    )

    def __init__(self) -> None:
        #: None: the host has no policy, but has asked to be left alone.
        self.policy: HostPolicy | None = None
        self.held_until: float = 0.0  # the host has asked to be left alone until then
        self.timer: Timer | None = None  # looks again when the gate opens
        self.adaptive: Adaptive | None = None  # finds the rate, if the policy wants that
        self._interval = 0.0  # seconds
        self._last = -math.inf  # when the last request has started
        # A bucket of tokens: each start takes one, which comes back after `_step` seconds (0: at
        # once). It was, or will be, full at `_filled_at`; the last one is left until `_spare`
        # seconds before that.
        self._step = 0.0
        self._spare = 0.0
        self._filled_at = 0.0
        self._late = 0.0  # seconds that are made up for, at most
        # When requests that wait may start, as far as the time decides, and if the rate says so.
        self._due: float | None = None
        self._is_rate_due = False

    def follow(self, policy: HostPolicy) -> None:
        """Follow *policy* from now on. What has started counts as before."""
        self.policy = policy
        self._interval = policy.min_interval
        if policy.adaptive:
            self.adaptive = self.adaptive or Adaptive()
            self.adaptive.most = min(policy.rate or MAX_RATE, MAX_RATE)
        else:
            self.adaptive = None
        self._set_rate(policy)

    @property
    def rate(self) -> float | None:
        """How many requests start in a second, at most; None: any number."""
        return 1 / self._step if self._step else None

    def _set_rate(self, policy: HostPolicy) -> None:
        rate = policy.rate
        if self.adaptive is not None:
            rate = min(self.adaptive.rate, self.adaptive.most)
        self._step = 0.0 if rate is None else 1 / rate
        self._spare = self._step * (policy.burst - 1)
        if self.adaptive is not None:
            self._late = LATE * min(1.0, max(0.0, (_EXACT - self._step) / (_EXACT - _QUICK)))
        else:
            self._late = LATE if self._step < _SLOW else min(LATE, self._step / 20)

    def accepted(self, started_at: float, now: float, in_flight: int) -> str | None:
        """The response to such a request is no refusal: see `Adaptive`. Only if it is adaptive."""
        assert self.adaptive is not None
        assert self.policy is not None
        why = self.adaptive.accepted(started_at, now, in_flight)
        self._set_rate(self.policy)
        return why

    def refused(self, started_at: float, now: float, wait: float = 0.0) -> bool:
        """The host has refused such a request: see `Adaptive`. Only if it is adaptive."""
        assert self.adaptive is not None
        assert self.policy is not None
        falls = self.adaptive.refused(started_at, now, wait)
        self._set_rate(self.policy)
        return falls

    def hold(self, until: float) -> None:
        """Let nothing start before the time *until*."""
        self.held_until = max(self.held_until, until)

    def held_for(self, now: float) -> float:
        """Return for how many seconds more the host has asked to be left alone."""
        return max(0.0, self.held_until - now)

    @property
    def lead(self) -> int | None:
        """How many requests have to be submitted to keep it busy; None: as many as one likes.

        Any thread may ask, without the lock: what it reads may not belong together.
        """
        policy, step = self.policy, self._step
        if policy is None:
            return _FEW
        lead = math.inf
        if policy.min_interval:
            lead = _FEW + LEAD_TIME / policy.min_interval
        if step:
            lead = min(lead, _FEW + policy.burst + LEAD_TIME / step)
        if policy.max_in_flight is not None:
            lead = min(lead, _MANY + policy.max_in_flight)
        return int(lead) if lead < sys.maxsize else None

    def opens_at(self) -> float:
        """Return when the next request may start, as far as the time decides."""
        opens_at = max(self.held_until, self._last + self._interval)
        if self.adaptive is not None:
            opens_at = max(opens_at, self.adaptive.paused_until)
        return max(opens_at, self._filled_at - self._spare) if self._step else opens_at

    def allowed(self, now: float, in_flight: int) -> int:
        """Return how many requests may start now, if so many are *in_flight*."""
        policy = self.policy
        if now < self.opens_at() - _ROUNDING:
            return 0
        if policy is None:
            return sys.maxsize
        most = 1 if self._interval else sys.maxsize
        if policy.max_in_flight is not None:
            most = min(most, max(0, policy.max_in_flight - in_flight))
        if self._step:
            left = now + self._spare - self._filled(now) + _ROUNDING
            most = min(most, int(left / self._step) + 1)
        return most

    def started(self, count: int, now: float) -> None:
        """*count* requests start now."""
        self._last = max(self._last, now)
        if self.adaptive is not None and self._due is not None and self._is_rate_due:
            self.adaptive.waited(now)
        if self._step:
            self._filled_at = self._filled(now) + count * self._step

    def _filled(self, now: float) -> float:
        """Return when the bucket is full, if nothing more starts."""
        # A bucket that is full already does not get fuller; but what was late has not been idle.
        if self._due is None or now <= self._due:
            return max(self._filled_at, now)
        return max(self._filled_at, now - min(now - self._due, self._late))

    def wait(self, now: float) -> float:
        """Requests wait at the gate, which is shut; return when it opens, as `opens_at`."""
        opens_at = self.opens_at()
        self._due = opens_at if opens_at > now else None  # or else it is a response that opens it
        self._is_rate_due = opens_at == self._filled_at - self._spare
        return opens_at

    def pass_by(self) -> None:
        """No request waits any more."""
        self._due = None

    def __repr__(self) -> str:
        return f"<Gate {self.policy!r}>"
