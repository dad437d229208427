"""The faults, and which request or connection gets one. Does not use the network.

The end of one phase and the beginning of the next are one point, which is listed once (`POINTS`).
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from enum import Enum
from typing import NamedTuple, Protocol

__all__ = [
    "Fault",
    "Kind",
    "NoFaults",
    "OneFault",
    "Phase",
    "Plan",
    "RandomFaults",
    "Where",
    "faults",
]


class Kind(Enum):
    """What happens to a connection."""

    CLOSE = "close"  # it is closed in good order, with a good-bye if it is TLS
    RESET = "reset"
    STALL = "stall"  # nothing is passed on any more, and nothing read
    CUT = "cut"  # the way to the client ends, without a good-bye; the other one stays open
    GARBLE = "garble"  # a byte is put in that belongs nowhere
    CORRUPT = "corrupt"  # TLS: a record is put in that was not encrypted with the key


class Phase(Enum):
    """What is under way then."""

    CONNECT = "connect"
    TUNNEL = "tunnel"  # the response to CONNECT
    HANDSHAKE = "handshake"
    REQUEST_HEAD = "request head"
    CONTINUE = "100 Continue"
    REQUEST_BODY = "request body"
    STATUS_LINE = "status line"
    HEADER = "header"
    BODY = "body"
    CHUNK_SIZE = "chunk size"
    TRAILER = "trailer"
    BETWEEN = "between responses"


class Where(Enum):
    """Where in a phase."""

    BEFORE = "before"
    INSIDE = "inside"
    AFTER = "after"


POINTS = [
    (Phase.CONNECT, Where.AFTER),
    (Phase.TUNNEL, Where.BEFORE),
    (Phase.TUNNEL, Where.INSIDE),
    (Phase.HANDSHAKE, Where.INSIDE),
    (Phase.HANDSHAKE, Where.AFTER),
    (Phase.REQUEST_HEAD, Where.BEFORE),
    (Phase.REQUEST_HEAD, Where.INSIDE),
    (Phase.REQUEST_HEAD, Where.AFTER),
    (Phase.CONTINUE, Where.BEFORE),
    (Phase.CONTINUE, Where.INSIDE),
    (Phase.REQUEST_BODY, Where.INSIDE),
    (Phase.REQUEST_BODY, Where.AFTER),
    (Phase.STATUS_LINE, Where.BEFORE),
    (Phase.STATUS_LINE, Where.INSIDE),
    (Phase.HEADER, Where.BEFORE),
    (Phase.HEADER, Where.INSIDE),
    (Phase.BODY, Where.BEFORE),
    (Phase.BODY, Where.INSIDE),
    (Phase.CHUNK_SIZE, Where.BEFORE),
    (Phase.CHUNK_SIZE, Where.INSIDE),
    (Phase.CHUNK_SIZE, Where.AFTER),
    (Phase.TRAILER, Where.BEFORE),
    (Phase.TRAILER, Where.INSIDE),
    (Phase.BETWEEN, Where.AFTER),
]

_CONNECTION = (Phase.CONNECT, Phase.TUNNEL, Phase.HANDSHAKE)
_REQUEST = (Phase.REQUEST_HEAD, Phase.REQUEST_BODY)
_SPECIAL = (Phase.TUNNEL, Phase.CONTINUE)
_CHUNKED = (Phase.CHUNK_SIZE, Phase.TRAILER)


class Fault(NamedTuple):
    """A fault. *share* says how far inside, and in which of several chunks: 0 to less than 1."""

    kind: Kind
    phase: Phase
    where: Where
    share: float = 0.5

    @property
    def hits_connection(self) -> bool:
        """Whether it comes before the first request."""
        return self.phase in _CONNECTION

    @property
    def hits_request(self) -> bool:
        """Whether it hits what is sent to the server."""
        return self.phase in _REQUEST

    @property
    def needs_body(self) -> bool:
        """Whether only a request with a body can have it."""
        return self.phase is Phase.REQUEST_BODY

    @property
    def needs_chunks(self) -> bool:
        """Whether only a response in chunks can have it.

        In a body whose length is known, a byte more would be the first of the next response.
        """
        return self.phase in _CHUNKED or (self.kind is Kind.GARBLE and self.phase is Phase.BODY)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.where.value} {self.phase.value}"


def faults(tls: bool, special: bool = False) -> list[Fault]:
    """Return every fault that a connection can have.

    *special*: also those that only a tunnel, and only a request with Expect, can have.
    """
    return [
        Fault(kind, phase, where)
        for phase, where in POINTS
        for kind in Kind
        if _is_possible(kind, phase, where, tls) and (special or phase not in _SPECIAL)
    ]


def _is_possible(kind: Kind, phase: Phase, where: Where, tls: bool) -> bool:
    if phase in (Phase.TUNNEL, Phase.HANDSHAKE) and not tls:
        return False
    if kind is Kind.CORRUPT:
        encrypted = (phase, where) == (Phase.HANDSHAKE, Where.AFTER) or phase not in _CONNECTION
        return tls and encrypted and phase not in _REQUEST
    if (phase, where) == (Phase.TRAILER, Where.BEFORE):
        # The last chunk has come, so the body is whole if the connection ends in order.
        return not (kind is Kind.CLOSE or (kind is Kind.CUT and not tls))
    return True


class Plan(Protocol):
    """Who is to have which fault. Any thread may ask."""

    def for_connection(self, number: int) -> Fault | None:
        """Return the fault of the connection that is the *number*-th to be opened."""

    def for_request(self, target: str, has_body: bool) -> Fault | None:
        """Return the fault of the request for *target*, which has just come."""


class NoFaults:
    """All is well."""

    def for_connection(self, number: int) -> Fault | None:
        return None

    def for_request(self, target: str, has_body: bool) -> Fault | None:
        return None


class OneFault:
    """The first connection, or the request for *target* when it comes first, has *fault*."""

    def __init__(self, fault: Fault, target: str) -> None:
        self._fault = fault
        self._target = target
        self._lock = threading.Lock()
        self._used = False

    def for_connection(self, number: int) -> Fault | None:
        return self._use() if self._fault.hits_connection else None

    def for_request(self, target: str, has_body: bool) -> Fault | None:
        hit = not self._fault.hits_connection and target == self._target
        return self._use() if hit else None

    def _use(self) -> Fault | None:
        with self._lock:
            used, self._used = self._used, True
        return None if used else self._fault


class RandomFaults:
    """Each request, each time that it comes, and each connection has a fault at *rate*.

    Which one it is follows from *seed* and from whose it is, and not from what else happens.
    """

    def __init__(self, seed: int, rate: float, tls: bool) -> None:
        self._seed = seed
        self._rate = rate
        self._faults = faults(tls)
        self._lock = threading.Lock()
        self._times: Counter[str] = Counter()

    def for_connection(self, number: int) -> Fault | None:
        fits = [fault for fault in self._faults if fault.hits_connection]
        return self._throw(f"connection {number}", fits)

    def for_request(self, target: str, has_body: bool) -> Fault | None:
        with self._lock:
            self._times[target] += 1
            times = self._times[target]
        chunked = target.endswith("/chunks")
        fits = [
            fault
            for fault in self._faults
            if not fault.hits_connection
            and (has_body or not fault.needs_body)
            and (chunked or not fault.needs_chunks)
        ]
        return self._throw(f"{times} {target}", fits)

    def _throw(self, name: str, fits: list[Fault]) -> Fault | None:
        dice = random.Random(f"{self._seed} {name}")
        if dice.random() >= self._rate:
            return None
        return dice.choice(fits)._replace(share=dice.random())
