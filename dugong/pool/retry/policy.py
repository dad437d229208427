"""Whether and when a request is sent again: the policy, and the one function that decides by it.

Guarantees: a request that is not idempotent, and may have been processed, is never found fit to be
sent again; no header of any server makes a request wait longer than the policy says.
`retry_refusal_reason` and the methods of a policy touch nothing.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Set
from math import inf
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from dugong.connection.head import check_method
from dugong.errors import (
    Delivery,
    InvalidResponse,
    TLSError,
    is_temp_network_error,
    is_tls_refusal,
)
from dugong.pool.checks import check_bool, check_call, check_int, check_not_negative
from dugong.pool.settings import Settings

if TYPE_CHECKING:
    from dugong.headers import Headers
    from dugong.pool.request import Request
    from dugong.pool.response import Attempt

__all__ = [
    "DISCLAIMING",
    "IDEMPOTENT",
    "RetryPolicy",
    "parse_date",
    "parse_retry_after",
    "retry_refusal_reason",
]

P = ParamSpec("P")
T = TypeVar("T")

#: Methods that promise that sending them twice does what sending them once does (RFC 9110 §9.2.2).
IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))

_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))

#: By these, a server says that it has not processed the request (RFC 8470 §5.2, RFC 6585 §4).
DISCLAIMING = frozenset((425, 429))


def _items(name: str, values: object) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a collection, not {values!r}")
    return list(values)


def _checked_statuses(values: Iterable[int]) -> frozenset[int]:
    statuses = _items("statuses", values)
    for status in statuses:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"statuses must consist of ints, not of {status!r}")
        if not 400 <= status <= 599:
            raise ValueError(f"statuses must be between 400 and 599, not {status}")
    return frozenset(statuses)


def _checked_methods(values: Iterable[str]) -> frozenset[str]:
    methods = _items("methods", values)
    for method in methods:
        if not isinstance(method, str):
            raise TypeError(f"methods must consist of strs, not of {method!r}")
        check_method(method)
    return frozenset(methods)


class RetryPolicy(Settings):
    """What is tried again, how often, and after how long. Times are in seconds.

    * *attempts*: how often a request is tried at most, the first time included. An attempt that was
      lost because of another request on the same connection is not counted. With 1, nothing that
      has been on the wire is sent again, whatever happened to it.
    * *backoff*, *max_backoff*: before the n-th repetition there is a random wait of up to
      ``backoff * 2 ** (n - 1)``, and never more than *max_backoff*. There is none if a connection
      that had been used before turned out to be closed.
    * *statuses*: of responses, from 400 to 599, that are worth another attempt.
    * *methods*: which may be sent again when the server may have processed them. A request whose
      `Request.idempotent` says something, or that has an Idempotency-Key, does not ask for this.
    * *retry_after*: honour the Retry-After of such a response (RFC 9110 §10.2.3). After a 429 or
      503 every request of the pool to that host waits, not only the one with that response.
    * *max_retry_after*: a longer Retry-After is taken for this.
    * *budget*: which share of the requests to a host in the last ten seconds may be repetitions
      (0.1: a tenth). A few are always allowed. None, the default, sets no limit.
    * *should_retry*: asked last, with the `Attempt` that has failed, about what would be tried
      again; if it returns False, that is not. It is called without any lock, mostly in a thread of
      the pool, where it must not wait for the pool. What it raises becomes the outcome.

    `RetryPolicy.never` is the policy with one attempt. Raises TypeError or ValueError for values
    that make no sense. Immutable, so any thread may use it; `replace` makes another one.
    """

    __slots__ = (  # noqa: RUF023  # in the order of the parameters, for the repr
        "attempts",
        "backoff",
        "max_backoff",
        "statuses",
        "methods",
        "retry_after",
        "max_retry_after",
        "budget",
        "should_retry",
    )
    _names = __slots__

    attempts: int
    backoff: float
    max_backoff: float
    statuses: Set[int]
    methods: Set[str]
    retry_after: bool
    max_retry_after: float
    budget: float | None
    should_retry: Callable[[Attempt], bool] | None

    never: ClassVar[RetryPolicy]

    def __init__(
        self,
        *,
        attempts: int = 6,
        backoff: float = 0.2,
        max_backoff: float = 20.0,
        statuses: Iterable[int] = _STATUSES,
        methods: Iterable[str] = IDEMPOTENT,
        retry_after: bool = True,
        max_retry_after: float = 60.0,
        budget: float | None = None,
        should_retry: Callable[[Attempt], bool] | None = None,
    ) -> None:
        check_int("attempts", attempts, 1, inf)
        check_not_negative("backoff", backoff, "seconds", TIMEOUT_MAX)
        check_not_negative("max_backoff", max_backoff, "seconds", TIMEOUT_MAX)
        check_not_negative("max_retry_after", max_retry_after, "seconds", TIMEOUT_MAX)
        check_bool("retry_after", retry_after)
        if budget is not None:
            check_not_negative("budget", budget, "repetitions for each request, or None")
        if should_retry is not None:
            check_call("should_retry", should_retry)
        self._set(
            attempts=attempts,
            backoff=backoff,
            max_backoff=max_backoff,
            statuses=_checked_statuses(statuses),
            methods=_checked_methods(methods),
            retry_after=retry_after,
            max_retry_after=max_retry_after,
            budget=budget,
            should_retry=should_retry,
        )

    def repeats(self, request: Request) -> bool:
        """Return whether *request* may be sent again though the server may have processed it."""
        said = request.says_idempotent
        return request.method in self.methods if said is None else said

    def delay(self, number: int) -> float:
        """Return how long to wait after the *number*-th attempt, which is chosen at random."""
        return random.random() * self._limit(number)

    def outage_delay(self, number: int) -> float:
        """Return how long to leave a host alone that could not be reached *number* times in a row.

        All requests to the host wait for the same end. So it varies less than `delay`: there is no
        other request whose wait is longer.
        """
        return (1 - random.random() / 4) * self._limit(number)

    def _limit(self, number: int) -> float:
        return min(self.max_backoff, self.backoff * 2.0 ** min(number - 1, 64))

    def wanted_delay(self, headers: Headers) -> float | None:
        """Return the server's Retry-After, at most *max_retry_after*; None if there is none."""
        value = headers["Retry-After"] if self.retry_after else None
        if value is None:
            return None
        seconds = parse_retry_after(value, headers["Date"])
        return None if seconds is None else min(seconds, self.max_retry_after)

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *fn*, again if it fails for a passing fault of the network; return its result.

        See `retrying`, which says what is done for *fn* being a coroutine, too, and which takes a
        deadline: here the number of attempts and *max_backoff* alone say when it is over.
        """
        from dugong.pool.retry.repeating import repeating

        return repeating(self, fn)(*args, **kwargs)


RetryPolicy.never = RetryPolicy(attempts=1)


def retry_refusal_reason(
    policy: RetryPolicy, request: Request, attempt: Attempt, again: bool
) -> str | None:
    """Return why *request* must not be sent again after *attempt*, or None if it may.

    *again* says whether its body could be sent once more. This is the one place that decides
    (design, "What may be resent"), but for time and budget, which the caller looks at.
    """
    exc = attempt.exception
    if exc is not None and attempt.charged and not _may_pass(exc):
        return "it would not help"
    if policy.attempts == 1 and (attempt.charged or attempt.delivery is not Delivery.UNSENT):
        return "the policy allows one attempt"
    if attempt.charged and attempt.number >= policy.attempts:
        return f"{attempt.number} attempts have failed"
    harmless = attempt.delivery in (Delivery.UNSENT, Delivery.DISCLAIMED)
    if not harmless and not policy.repeats(request):
        return "the request is not idempotent"
    if not again:
        return "the body of the request could not have been sent again"
    return None


def _may_pass(exc: Exception) -> bool:
    """Return whether another attempt may end differently."""
    if isinstance(exc, InvalidResponse) or is_temp_network_error(exc):
        return True
    # What was garbled on the way looks like anything; that one end refuses the other stays so.
    ssl = sys.modules.get("ssl")
    of_tls = isinstance(exc, TLSError) or (ssl is not None and isinstance(exc, ssl.SSLError))
    return of_tls and not is_tls_refusal(exc)


# --- Retry-After ----------------------------------------------------------------------------------

_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
# The three forms of RFC 9110 §5.6.7.
_DATES = [
    re.compile(form, re.ASCII)
    for form in (
        rf"[A-Z][a-z]+, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Z][a-z]+, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Z][a-z]+ {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
]
_SECONDS = re.compile(r"[0-9]+")


def parse_retry_after(value: str, date: str | None = None) -> float | None:
    """Return how many seconds a Retry-After of *value* is from now; None if it is malformed.

    If the response has a *date*, a date is understood by the server's clock. Never negative, maybe
    infinite (RFC 9110 §10.2.3).
    """
    if _SECONDS.fullmatch(value):
        return float(value)
    then = parse_date(value)
    if then is None:
        return None
    now = None if date is None else parse_date(date)
    return max(0.0, then - (time.time() if now is None else now))


def parse_date(text: str) -> float | None:
    """Return the point in time that an HTTP-date names, or None if it is none."""
    from datetime import UTC, datetime

    match = next((match for form in _DATES if (match := form.fullmatch(text))), None)
    if match is None:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # What seems to be more than fifty years ahead was in the last century.
        this_year = time.gmtime().tm_year
        year += this_year - this_year % 100
        year -= 100 if year > this_year + 50 else 0
    month = _MONTHS.index(match["month"]) + 1
    second = min(int(match["second"]), 59)  # a leap second
    try:
        then = datetime(
            year, month, int(match["day"]), int(match["hour"]), int(match["minute"]), second,
            tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
    return then.timestamp()
