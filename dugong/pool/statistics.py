"""What a pool is doing, as frozen snapshots: the pool, its hosts, their connections, and the
requests that hold those. Guarantees: nothing here changes, or refers to anything that does; no text
has a query in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dugong.pool.host_policy import HostPolicy
from dugong.pool.url import public_url

__all__ = ["ConnectionStatistics", "Holding", "HostStatistics", "PoolStatistics"]


@dataclass(frozen=True, slots=True)
class Holding:
    """A request that holds a connection.

    `since` is how many seconds ago it was sent; `abandoned` whether it was cancelled or rescued
    after that, so that its response is dropped if it comes. `url` is the whole URL; the text of a
    `Holding` leaves out the query.
    """

    method: str
    url: str
    since: float
    abandoned: bool

    def __str__(self) -> str:
        abandoned = " (abandoned)" if self.abandoned else ""
        return f"{self.method} {public_url(self.url)} for {self.since:.1f} s{abandoned}"

    def __repr__(self) -> str:
        url = public_url(self.url)
        return (
            f"Holding(method={self.method!r}, url={url!r}, since={self.since!r}, "
            f"abandoned={self.abandoned!r})"
        )


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """One connection.

    `state` is "connecting", "idle", "busy", "streaming" or "ending"; `age` is in seconds; `sent`
    and `answered` count the requests of its life; `holding` are those that have no response yet,
    oldest first.
    """

    name: str
    state: str
    age: float
    sent: int
    answered: int
    holding: tuple[Holding, ...]

    def __str__(self) -> str:
        line = (
            f"{self.name}: {self.state}, {self.age:.1f} s old, "
            f"{self.sent} sent, {self.answered} answered"
        )
        if self.holding:
            line += "; held by " + ", ".join(map(str, self.holding))
        return line


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """One host.

    `origin` is as in ``https://host:8443``. `queued` requests wait for a connection, `waiting` ones
    to be tried again, `in_flight` ones have been sent and have no response yet. `held_for` is for
    how many more seconds the host has asked for no requests (0.0: it has not). `window` is how many
    may be in flight on one connection now; `pipelining` how that came: "off", "unproven",
    "growing", "full" or "one at a time", and `lesson` what the host did to be treated so, if it did
    anything. `quota` is after how many responses it closes a connection, if that is known. `sent`
    and `answered` count requests, `resent` those that were put back into the queue, and `rescued`
    those of these that had waited behind a slow response (*pipeline_rescue* of the pool). `hedged`
    ones were slow, and were sent once more (*hedge*); `sent` counts both sendings. `connections`
    are the open ones, and those that are being opened. The next request may start in `opens_in`
    seconds: until then, `policy` (None: there is none) or a Retry-After of the host forbids it.
    `rate` is how many requests a second may start: as the policy says, or as an adaptive one has
    found (None: any number).
    """

    origin: str
    queued: int
    waiting: int
    held_for: float
    in_flight: int
    window: int
    pipelining: str
    lesson: str | None
    quota: int | None
    sent: int
    answered: int
    resent: int
    connections: tuple[ConnectionStatistics, ...]
    rescued: int = 0
    opens_in: float = 0.0
    policy: HostPolicy | None = None
    rate: float | None = None
    hedged: int = 0

    def __str__(self) -> str:
        lesson = f" ({self.lesson})" if self.lesson else ""
        waiting = f"{self.waiting} waiting, " if self.waiting else ""
        held = f", to be left alone for {self.held_for:.1f} s" if self.held_for else ""
        quota = f", closes after {_count(self.quota, 'response')}" if self.quota else ""
        return (
            f"{self.origin}: {self.queued} queued, {waiting}{self.in_flight} in flight "
            f"on {_count(len(self.connections), 'connection')}, "
            f"pipelining {self.pipelining}{lesson}, window {self.window}{quota}{held}; "
            f"{self.sent} sent, {self.answered} answered, {_resent(self)}"
        )


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool. ``print(pool.statistics())`` shows it as a table, with a line for each host.

    `queued`, `waiting` (to be tried again) and `in_flight` count requests and `connections` the
    open connections now; `opened` and `closed` count the connections, and `sent`, `answered`,
    `resent`, `rescued` and `hedged` (as of `HostStatistics`) the requests, since the pool was made.
    `hosts` are those that it knows now, by their origin.
    """

    queued: int
    waiting: int
    in_flight: int
    connections: int
    opened: int
    closed: int
    sent: int
    answered: int
    resent: int
    hosts: Mapping[str, HostStatistics]
    rescued: int = 0
    hedged: int = 0

    def __str__(self) -> str:
        """Return a table, and above it the sums."""
        summary = (
            f"{_count(len(self.hosts), 'host')}, {_count(self.connections, 'connection')} "
            f"({self.opened} opened, {self.closed} closed): "
            f"{self.queued} queued, {self.waiting} waiting, {self.in_flight} in flight; "
            f"{self.sent} sent, {self.answered} answered, {_resent(self)}"
        )
        rows = [_COLUMNS, *(_row(host) for host in self.hosts.values())]
        if len(rows) == 1:
            return summary
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join([summary, *(_line(row, widths) for row in rows)])


_COLUMNS = tuple(
    "host connections queued waiting in-flight window sent answered resent pipelining".split()
)


def _row(host: HostStatistics) -> tuple[str, ...]:
    numbers = (
        len(host.connections),
        host.queued,
        host.waiting,
        host.in_flight,
        host.window,
        host.sent,
        host.answered,
        host.resent,
    )
    lesson = f": {host.lesson}" if host.lesson else ""
    return (host.origin, *map(str, numbers), host.pipelining + lesson)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
    cells[0] = row[0].ljust(widths[0])
    cells[-1] = row[-1]
    return "  ".join(cells)


def _resent(statistics: HostStatistics | PoolStatistics) -> str:
    rescued = f" ({statistics.rescued} rescued)" if statistics.rescued else ""
    hedged = f", {statistics.hedged} hedged" if statistics.hedged else ""
    return f"{statistics.resent} resent{rescued}{hedged}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
