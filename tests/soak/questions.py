"""The requests of a soak, their retry policies, and the check of a response.

Guarantees: nothing is sent here, and nothing is entered in a ledger.
"""

from __future__ import annotations

import io
import random
from concurrent.futures import CancelledError
from typing import NamedTuple

from dugong import (
    Attempt,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    PoolFull,
    Request,
    Response,
    ResponseTooLarge,
    RetryPolicy,
    StateError,
    StreamedResponse,
)
from tests.soak.conversation import EARLY, filling, response_line
from tests.soak.events import Fate
from tests.soak.ledger import Ask

__all__ = ["HANG", "POLICIES", "BodyFailed", "Made", "Place", "Question", "Vetoed"]

HANG = 40.0  # seconds after which what has not come will not come


class Place(NamedTuple):
    """A port of the server: what kind it is of, and how its URLs begin.

    *through* says that it is reached through a proxy that may go away.
    """

    kind: str
    base: str
    through: bool = False

    @property
    def timeout(self) -> float:
        """The *timeout* of requests to this place, in seconds; a right response may be slow."""
        return 0.4 if self.kind == "rough" else HANG / 2


class BodyFailed(Exception):
    """What a request body raises that fails."""


class Vetoed(Exception):
    """What a `should_retry` raises."""


_veto = random.Random(1)


def _doubtful(attempt: Attempt) -> bool:
    """Be a `should_retry` that looks at what it is given, and does not always agree."""
    whole = attempt.charged and attempt.request is not None and attempt.delivery is not None
    if not whole or (attempt.exception is None) == (attempt.response is None):
        raise AssertionError(f"an attempt that does not say all: {attempt}")
    chance = _veto.random()
    if chance < 0.05:
        raise Vetoed
    return chance < 0.8


#: What a pool or a request is tried again by. All but the first are quick. That has to get through
#: for certain, and in thousands of requests six attempts do not suffice each.
POLICIES = {
    "patient": RetryPolicy(attempts=10, max_backoff=2.0, max_retry_after=0.1),
    "quick": RetryPolicy(backoff=0.01, max_backoff=0.1, max_retry_after=0.05),
    "twice": RetryPolicy(attempts=2, backoff=0.01, max_retry_after=0.05),
    "frugal": RetryPolicy(backoff=0.01, max_backoff=0.1, max_retry_after=0.05, budget=0.05),
    "doubtful": RetryPolicy(backoff=0.0, max_retry_after=0.02, should_retry=_doubtful),
    "any method": RetryPolicy(
        backoff=0.01, max_retry_after=0.02, methods={"GET", "POST"}, statuses={429, 500, 503}
    ),
    "deaf": RetryPolicy(backoff=0.01, max_backoff=0.05, retry_after=False),
    "never": RetryPolicy.never,
}


class Made:
    """A callable body: each call gives another file, all of which have to be closed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._files: list[io.BytesIO] = []

    def __call__(self) -> io.BytesIO:
        self._files.append(file := io.BytesIO(self._data))
        return file

    @property
    def all_closed(self) -> bool:
        """Whether nothing that was made has been left open."""
        return all(file.closed for file in self._files)


class Question(NamedTuple):
    """A request, and the right response to it. *policy* is the retry policy that applies."""

    ask: Ask
    request: Request
    place: Place
    size: int
    digest: str
    resendable: bool
    error: BodyFailed | None  # that the body raises
    policy: RetryPolicy

    def complaint(self, response: Response | StreamedResponse, body: bytes, whole: bool) -> str:
        """Return what is wrong with *response*, of which *body* was received; "" if nothing is."""
        request = self.request
        if response.request is not request:
            return f"{self.ask} got the response to {response.request}"
        responds_to = response.headers["Responds-To"]
        early = response.headers["Refused"] is not None and EARLY in str(responds_to)
        digest = EARLY if early else self.digest
        line = response_line(request.method, request.target, digest)
        if responds_to != line:
            return f"{self.ask} got the response {responds_to!r}, not {line!r}"
        if request.method == "HEAD" or response.status in (204, 304):
            expected = b""
        else:
            expected = filling(line, self.size)
        if body != (expected if whole else expected[: len(body)]):
            return f"{self.ask} got a wrong body: {len(body)} bytes {body[:100]!r}"
        return ""

    def excuses(self, exc: BaseException, max_body_size: int, streamed: bool) -> bool:
        """Return True if the request may end with *exc*, instead of a response.

        *streamed*: its caller reads the body from the connection, if it has a response.
        """
        if isinstance(exc, (PoolClosed, PoolFull)) or exc is self.error:
            return True
        if isinstance(exc, Vetoed):
            return self.policy.should_retry is not None
        if isinstance(exc, ConnectionTimedOut) and self.request.deadline is not None:
            return True
        if isinstance(exc, ResponseTooLarge):
            return self.size > max_body_size
        if isinstance(exc, ConnectionClosed) and self.ask.once and self.request.is_idempotent:
            return True  # it may have been sent behind another, which has failed, but not again
        if self.place.kind == "rough":
            return True
        # A second attempt is not what it may have, or there may be no time for it.
        if self.ask.once or not self.resendable or self.request.deadline is not None:
            return self.place.kind in ("away", "quiet") or self.place.through
        if self.place.kind == "away" or self.place.through:
            # What the caller reads already cannot be tried again.
            begun = streamed and getattr(exc, "delivery", None) is Delivery.ANSWER_STARTED
            return begun or self.policy is not POLICIES["patient"]
        doubtful = self.policy.budget is not None or self.policy.should_retry is not None
        return self.place.kind == "quiet" and (doubtful or self.policy.attempts < 6)

    def fate(self, outcome: Response | StreamedResponse | BaseException) -> Fate:
        """Return what the events should say, if *outcome* is what the pool has decided."""
        again: int | None = len(getattr(outcome, "attempts", ()))
        if not isinstance(outcome, BaseException):
            worth_more = self.policy.attempts > 1 and outcome.status in self.policy.statuses
            return Fate(repr(outcome), again, worth_more)
        if self.policy.should_retry is not None and isinstance(
            outcome, (ConnectionTimedOut, PoolClosed)
        ):
            again = None  # perhaps it ended while that was being asked
        # What is not queued, or ended with the pool, has not been given up.
        never_begun = isinstance(outcome, (CancelledError, PoolClosed, PoolFull, StateError))
        waited = isinstance(outcome, ConnectionTimedOut) and outcome.delivery is Delivery.UNSENT
        return Fate(repr(outcome), again, None if never_begun or waited else True)
