"""Scripts what waits in a pool: a clock that stands still until the test puts it forward, chance
without chance, and the events to wait for.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace

import pytest

from dugong import ConnectionPool, Event
from dugong.pool.core import (
    cancellation,
    closing,
    connections,
    dispatch,
    hedging,
    lending,
    maintenance,
    politeness,
    progress,
    rescue,
    retries,
    room,
    scheduler,
    traffic,
    waiting,
)
from dugong.pool.io import caller_runs
from dugong.pool.retry import policy
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT

__all__ = ["DECIDING", "Clock", "Listener", "StoppedClock", "no_luck", "throw"]

#: The parts of a pool that look at the clock, but for the one that keeps the timers.
DECIDING = (
    caller_runs,
    cancellation,
    closing,
    connections,
    dispatch,
    hedging,
    lending,
    politeness,
    progress,
    rescue,
    retries,
    room,
    scheduler,
    traffic,
    waiting,
)


class Clock:
    """The time of *modules*, which stands still but for what the test adds to `now`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.now = 1000.0
        for module in modules:
            monkeypatch.setattr(module, "monotonic", lambda: self.now)


class StoppedClock(Clock):
    """The time of all pools, by which deadlines, waits and holds are measured.

    It says nothing of how long connecting, sending and receiving may take.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch, maintenance, *DECIDING)

    def forward(self, pool: ConnectionPool, seconds: float) -> None:
        """Let *seconds* pass; return when *pool* has done what was to be done by then."""
        self.now += seconds
        passed = threading.Event()
        # The maintenance thread looks at its timers between the two.
        pool._scheduler._maintenance.wake()
        pool._scheduler.do_later(passed.set)
        wait_for(passed)


def no_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every wait before another attempt be the longest it can be."""
    throw(monkeypatch, 1.0)


def throw(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Have `random.random` give *value*, by which the waits before another attempt are chosen."""
    monkeypatch.setattr(policy, "random", SimpleNamespace(random=lambda: value))


class Listener:
    """Hears of the events of a pool, as its *on_event*, and lets the test wait for them."""

    def __init__(self) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()

    def __call__(self, event: Event) -> None:
        self._events.put(event)

    def wait_for(self, kind: str) -> Event:
        """Wait for the next event of this *kind*, and return it."""
        while True:
            event = self._events.get(timeout=TIMEOUT)
            if event.kind == kind:
                return event
