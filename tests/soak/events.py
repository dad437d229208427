"""The listener of a soak: what a pool says of itself, and whether it has told the truth.

Guarantees: any thread may call any method. Knows no pool.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import NamedTuple

from dugong import Event, PoolStatistics, Request

__all__ = ["Fate", "Listener"]


class Fate(NamedTuple):
    """What the events of a request should have said. *outcome* is how the request ended.

    *again* is how often it was sent again (None: unknown). *given_up* is whether it ended with a
    response or an exception that would have been retried, had attempts been left (None: unknown).
    """

    outcome: str
    again: int | None
    given_up: bool | None


class Listener:
    """Counts the events of one pool, and compares them with what has become of the requests.

    `closing` is to be set before the pool is closed, if it is still at work: then it does not say
    of each request that it gives it up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[Request, Counter[str]] = {}
        self._fates: dict[Request, Fate] = {}
        self._opened: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()
        self._mute: list[Event] = []
        self.counts: Counter[str] = Counter()
        self.closing = False

    def __call__(self, event: Event) -> None:
        """Take note of *event*."""
        with self._lock:
            self.counts[event.kind] += 1
            if not event.reason and event.kind not in ("opened", "sent"):
                self._mute.append(event)
            if event.kind == "opened":
                self._opened[event.connection] += 1
            elif event.kind == "closed":
                self._closed[event.connection] += 1
            elif event.request is not None:
                self._told.setdefault(event.request, Counter())[event.kind] += 1

    def ended(self, request: Request, fate: Fate) -> None:
        """*request* is over."""
        with self._lock:
            self._fates[request] = fate._replace(given_up=None) if self.closing else fate

    def complaints(self, statistics: PoolStatistics | None) -> list[str]:
        """Return what does not agree, once the pool is closed and its threads have ended.

        *statistics* are its last, if they are known.
        """
        found = [f"an event gives no reason: {event!r}" for event in self._mute]
        for name in self._opened | self._closed:
            opened, closed = self._opened[name], self._closed[name]
            if opened > 1 or closed != 1:
                found.append(f"{name} was opened {opened} times, and closed {closed} times")
        if statistics is not None:
            connections = self._opened.total()
            if not connections == statistics.opened == statistics.closed:
                found.append(f"{connections} connections were opened, but: {statistics}")
            if self.counts["sent"] != statistics.sent:
                found.append(f"{self.counts['sent']} requests were sent, but: {statistics}")
        for request in self._told.keys() | self._fates.keys():
            told = self._told.get(request, Counter())
            fate = self._fates.get(request)
            if not _is_possible(told) or (fate is not None and not _agrees(told, fate)):
                found.append(f"{request}, {fate}, has events that contradict it: {dict(told)}")
        return found


def _is_possible(told: Counter[str]) -> bool:
    return (
        told["answered"] <= told["sent"] <= told["resent"] + 1
        and told["gave up"] <= 1
        and told["cancelled"] <= 1
        and told.keys() <= {"sent", "answered", "resent", "gave up", "cancelled"}
    )


def _agrees(told: Counter[str], fate: Fate) -> bool:
    _, again, given_up = fate
    return (again is None or told["resent"] == again) and (
        given_up is None or told["gave up"] == given_up
    )
