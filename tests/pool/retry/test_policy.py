"""Retry policies: what they take, how long they wait, and what is sent again."""

from __future__ import annotations

import copy
import errno
import itertools
import math
import pickle
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from threading import TIMEOUT_MAX
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import (
    Attempt,
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DNSUnavailable,
    DugongError,
    Headers,
    HostnameNotResolvable,
    InvalidResponse,
    ProxyError,
    Request,
    ResponseTooLarge,
    RetryPolicy,
    TLSError,
    UnsupportedResponse,
)
from dugong.pool.retry import policy as policy_module
from dugong.pool.retry.policy import parse_retry_after, retry_refusal_reason
from tests.support.clock import throw

NAN = float("nan")

# --- what a policy takes --------------------------------------------------------------------------


def test_the_defaults_are_those_that_are_documented() -> None:
    policy = RetryPolicy()
    assert (policy.attempts, policy.backoff, policy.max_backoff) == (6, 0.2, 20.0)
    assert policy.statuses == {408, 425, 429, 500, 502, 503, 504}
    assert policy.methods == {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"}
    assert (policy.retry_after, policy.max_retry_after) == (True, 60.0)
    assert policy.budget is None
    assert policy.should_retry is None


def test_never_is_one_attempt() -> None:
    assert RetryPolicy.never == RetryPolicy(attempts=1)


def test_everything_can_be_chosen() -> None:
    def should_retry(attempt: Attempt) -> bool:
        return True

    policy = RetryPolicy(
        attempts=3,
        backoff=0,
        max_backoff=1,
        statuses=[HTTPStatus.BAD_GATEWAY, 599],  # type: ignore[arg-type]
        methods=iter(["POST", "X-OWN"]),  # type: ignore[arg-type]
        retry_after=False,
        max_retry_after=0.5,
        budget=0.1,
        should_retry=should_retry,
    )
    assert (policy.attempts, policy.backoff, policy.max_backoff) == (3, 0, 1)
    assert policy.statuses == {502, 599}
    assert policy.methods == {"POST", "X-OWN"}
    assert (policy.retry_after, policy.max_retry_after) == (False, 0.5)
    assert policy.budget == 0.1
    assert policy.should_retry is should_retry


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempts", 1),
        ("attempts", 10**30),
        ("backoff", TIMEOUT_MAX),
        ("max_backoff", 0.0),
        ("max_retry_after", 0),
        ("statuses", ()),
        ("statuses", {400, 599}),
        ("methods", ()),
        ("methods", {"GET": 1}),
        ("budget", 0),
        ("budget", 7.5),
    ],
)
def test_a_value_at_the_edge_is_accepted(field: str, value: Any) -> None:
    RetryPolicy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempts", 0),
        ("attempts", -1),
        *itertools.product(
            ("backoff", "max_backoff", "max_retry_after", "budget"),
            (-0.001, -1, NAN, math.inf, -math.inf, 10**400),
        ),
        # Longer than the system can wait.
        ("backoff", 2 * TIMEOUT_MAX),
        ("max_backoff", 1e300),
        ("max_retry_after", 10**12),
        ("statuses", {200}),
        ("statuses", {302}),
        ("statuses", {399}),
        ("statuses", {600}),
        ("statuses", {0}),
        ("statuses", {-503}),
        ("statuses", {10**400}),
        ("methods", {""}),
        ("methods", {"GET POST"}),
        ("methods", {"GET\r\n"}),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"attempts|backoff|retry_after|budget|statuses|method"):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(("attempts", "backoff"), (None, "1", True, b"1", [1])),
        ("attempts", 1.0),
        ("max_backoff", "20"),
        ("max_retry_after", False),
        ("budget", "0.1"),
        ("budget", True),
        ("statuses", 503),
        ("statuses", None),
        ("statuses", "503"),
        ("statuses", ["503"]),
        ("statuses", [503.0]),
        ("statuses", [True]),
        ("statuses", [[503]]),
        ("methods", "GET"),
        ("methods", b"GET"),
        ("methods", None),
        ("methods", [b"GET"]),
        ("methods", [["GET"]]),
        ("retry_after", 1),
        ("retry_after", None),
        ("should_retry", True),
        ("should_retry", "yes"),
    ],
)
def test_a_value_of_another_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=field):
        RetryPolicy(**{field: value})


def test_a_policy_takes_its_values_by_name_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        RetryPolicy(3)  # type: ignore[call-arg]


@pytest.mark.parametrize("field", RetryPolicy.__slots__)
def test_a_policy_cannot_be_changed(field: str) -> None:
    policy = RetryPolicy()
    with pytest.raises(AttributeError, match=rf"replace\({field}=...\) makes another"):
        setattr(policy, field, getattr(policy, field))
    with pytest.raises(AttributeError, match="never changes"):
        delattr(policy, field)


def test_a_policy_does_not_change_with_what_it_was_made_from() -> None:
    statuses, methods = {503}, ["GET"]
    policy = RetryPolicy(statuses=statuses, methods=methods)  # type: ignore[arg-type]
    statuses.clear()
    methods.clear()
    assert (policy.statuses, policy.methods) == ({503}, {"GET"})


def test_policies_are_equal_if_they_say_the_same() -> None:
    one = RetryPolicy(attempts=3, statuses={503, 500})
    other = RetryPolicy(attempts=3, statuses=[500, 503, 503])  # type: ignore[arg-type]
    assert one == other
    assert len({one, other, RetryPolicy(attempts=4)}) == 2


def test_a_policy_with_a_change_is_another() -> None:
    policy = RetryPolicy(attempts=3)
    changed = policy.replace(backoff=1.5)
    assert changed == RetryPolicy(attempts=3, backoff=1.5)
    assert policy.backoff == 0.2


def test_a_change_is_checked_too() -> None:
    with pytest.raises(ValueError, match="attempts"):
        RetryPolicy().replace(attempts=0)


def test_a_policy_can_be_copied_and_pickled() -> None:
    policy = RetryPolicy(attempts=3, statuses={503})
    assert copy.deepcopy(policy) == pickle.loads(pickle.dumps(policy)) == policy


def test_the_repr_of_a_policy_says_what_it_is() -> None:
    policy = RetryPolicy(statuses={503}, methods={"GET"}, budget=0.1)
    assert repr(policy) == (
        "RetryPolicy(attempts=6, backoff=0.2, max_backoff=20.0, statuses=frozenset({503}), "
        "methods=frozenset({'GET'}), retry_after=True, max_retry_after=60.0, budget=0.1, "
        "should_retry=None)"
    )


# --- how long it waits ----------------------------------------------------------------------------


LIMITS = [(1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6), (7, 12.8), (8, 20.0), (9, 20.0), (10**30, 20.0)]


@pytest.mark.parametrize(("number", "limit"), LIMITS)
def test_the_wait_is_any_up_to_a_limit_that_doubles(
    monkeypatch: pytest.MonkeyPatch, number: int, limit: float
) -> None:
    throw(monkeypatch, 0.0)
    assert RetryPolicy().delay(number) == 0
    throw(monkeypatch, 0.25)
    assert RetryPolicy().delay(number) == pytest.approx(limit / 4)
    throw(monkeypatch, 1.0)
    assert RetryPolicy().delay(number) == pytest.approx(limit)


@pytest.mark.parametrize(("number", "limit"), LIMITS)
def test_a_host_that_cannot_be_reached_is_left_alone_for_most_of_that(
    monkeypatch: pytest.MonkeyPatch, number: int, limit: float
) -> None:
    throw(monkeypatch, 0.0)
    assert RetryPolicy().outage_delay(number) == pytest.approx(limit)
    throw(monkeypatch, 1.0)
    assert RetryPolicy().outage_delay(number) == pytest.approx(limit * 0.75)


def test_the_waits_differ() -> None:
    policy = RetryPolicy()
    assert len({policy.delay(3) for _ in range(20)}) > 1
    assert len({policy.outage_delay(3) for _ in range(20)}) > 1


SECONDS = st.floats(0, TIMEOUT_MAX) | st.integers(0, int(TIMEOUT_MAX))


@given(SECONDS, SECONDS, st.integers(1, 10**6))
def test_no_wait_is_negative_or_longer_than_the_policy_says(
    backoff: float, max_backoff: float, number: int
) -> None:
    policy = RetryPolicy(backoff=backoff, max_backoff=max_backoff)
    for delay in (policy.delay(number), policy.outage_delay(number)):
        assert 0 <= delay <= max_backoff


def test_without_backoff_there_is_no_wait() -> None:
    assert RetryPolicy(backoff=0).delay(10) == 0
    assert RetryPolicy(max_backoff=0).delay(10) == 0


# --- Retry-After ----------------------------------------------------------------------------------

#: A Sunday.
NOW = datetime(2023, 1, 8, 12, 0, 0, tzinfo=UTC)
DATE = "Sun, 08 Jan 2023 12:00:00 GMT"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it be `NOW`."""
    clock = SimpleNamespace(time=NOW.timestamp, gmtime=NOW.utctimetuple)
    monkeypatch.setattr(policy_module, "time", clock)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("1", 1),
        ("120", 120),
        ("007", 7),
        ("0" * 100 + "5", 5),
        ("4294967296", 2**32),
        ("9" * 400, math.inf),
        ("9" * 60_000, math.inf),
    ],
)
def test_retry_after_may_be_a_number_of_seconds(value: str, seconds: float) -> None:
    assert parse_retry_after(value) == seconds


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Sun, 08 Jan 2023 12:00:30 GMT", 30),
        ("Sunday, 08-Jan-23 12:00:30 GMT", 30),
        ("Sun Jan  8 12:00:30 2023", 30),
        ("Mon, 09 Jan 2023 12:00:00 GMT", 24 * 3600),
        ("Tue Jan 10 12:00:00 2023", 2 * 24 * 3600),
        ("Thu, 29 Feb 2024 12:00:00 GMT", 417 * 24 * 3600),
        ("Sun, 08 Jan 2023 12:00:60 GMT", 59),  # a leap second
        ("Fri, 31 Dec 9999 23:59:59 GMT", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - NOW),
    ],
)
def test_retry_after_may_be_a_date_in_one_of_three_forms(
    value: str, seconds: float | timedelta
) -> None:
    wanted = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    assert parse_retry_after(value) == wanted


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize(
    "value",
    [
        DATE,
        "Sun, 08 Jan 2023 11:59:59 GMT",
        "Sunday, 08-Jan-23 11:59:59 GMT",
        "Sun Jan  8 11:59:59 2023",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Mon, 01 Jan 0024 00:00:00 GMT",
    ],
)
def test_a_date_in_the_past_is_no_wait(value: str) -> None:
    assert parse_retry_after(value) == 0


@pytest.mark.usefixtures("now")
def test_a_year_of_two_digits_is_at_most_fifty_years_ahead() -> None:
    in_50_years = datetime(2073, 1, 8, 12, tzinfo=UTC) - NOW
    assert parse_retry_after("Sunday, 08-Jan-73 12:00:00 GMT") == in_50_years.total_seconds()
    assert parse_retry_after("Sunday, 08-Jan-74 12:00:00 GMT") == 0  # it is 1974


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "1_000",
        "1, 2",
        "١٢",  # digits, but not of ASCII
        "²",
        "inf",
        "nan",
        "soon",
        "1 second",
        "\x00",
        "Sun, 08 Jan 2023 12:00:30",
        "Sun, 08 Jan 2023 12:00:30 UTC",
        "Sun, 08 Jan 2023 12:00:30 +0100",
        "Sun, 08 Jan 2023 12:00:30 GMT ",
        "sun, 08 jan 2023 12:00:30 gmt",
        "Sun, 8 Jan 2023 12:00:30 GMT",
        "Sun, 08 Jän 2023 12:00:30 GMT",
        "Sun, 32 Jan 2023 12:00:30 GMT",
        "Sun, 29 Feb 2023 12:00:30 GMT",
        "Sun, 00 Jan 2023 12:00:30 GMT",
        "Sun, 08 Jan 0000 12:00:30 GMT",
        "Sun, 08 Jan 10000 12:00:30 GMT",
        "Sun, 08 Jan 2023 24:00:00 GMT",
        "Sun, 08 Jan 2023 12:60:00 GMT",
        "Sun, 08 Jan 2023 12:00 GMT",
        "Sun, 08-Jan-23 12:00:30",
        "Sun, ٠٨ Jan 2023 12:00:30 GMT",
        "Sun Jan 8 12:00:30 2023",
        "2023-01-08T12:00:30Z",
    ],
)
def test_a_value_that_is_neither_is_ignored(value: str) -> None:
    assert parse_retry_after(value) is None


@pytest.mark.usefixtures("now")
def test_a_date_is_read_by_the_clock_of_the_server() -> None:
    # It is years behind.
    date = "Fri, 01 Jan 2010 00:00:00 GMT"
    assert parse_retry_after("Fri, 01 Jan 2010 00:00:07 GMT", date) == 7
    assert parse_retry_after("Thu, 31 Dec 2009 23:59:59 GMT", date) == 0


@pytest.mark.usefixtures("now")
def test_if_the_server_does_not_tell_its_time_ours_counts() -> None:
    later = "Sun, 08 Jan 2023 12:00:07 GMT"
    assert parse_retry_after(later, None) == 7
    assert parse_retry_after(later, "yesterday") == 7


def test_the_time_of_the_server_does_not_matter_for_seconds() -> None:
    assert parse_retry_after("7", "Fri, 01 Jan 2010 00:00:00 GMT") == 7


MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


@given(MOMENTS, MOMENTS)
def test_dates_are_understood_as_they_are_written(then: datetime, now: datetime) -> None:
    expected = max(0.0, (then - now).total_seconds())
    date = format_datetime(now, usegmt=True)
    assert parse_retry_after(format_datetime(then, usegmt=True), date) == expected
    assert parse_retry_after(then.ctime(), date) == expected


#: What looks like one of the forms, or nearly so, and anything else.
HOSTILE = (
    st.text()
    | st.from_regex(r"[0-9]+", fullmatch=True)
    | st.from_regex(
        r"[A-Z][a-z]{2}, \d\d (Jan|Feb|Dec) \d{4} \d\d:\d\d:\d\d GMT"
        r"|[A-Z][a-z]+, \d\d-(Jan|Feb|Dec)-\d\d \d\d:\d\d:\d\d GMT"
        r"|[A-Z][a-z]{2} (Jan|Feb|Dec) [ \d]\d \d\d:\d\d:\d\d \d{4}",
        fullmatch=True,
    )
)


@given(HOSTILE, HOSTILE | st.none())
def test_no_header_of_any_server_does_harm(value: str, date: str | None) -> None:
    seconds = parse_retry_after(value, date)
    assert seconds is None or seconds >= 0  # which no NaN is
    headers = Headers([("Retry-After", value), *([] if date is None else [("Date", date)])])
    wanted = RetryPolicy(max_retry_after=7).wanted_delay(headers)
    assert (wanted is None) == (seconds is None)
    assert wanted is None or 0 <= wanted <= 7


def test_as_much_of_retry_after_is_honoured_as_the_policy_says() -> None:
    policy = RetryPolicy(max_retry_after=10)
    assert policy.wanted_delay(Headers({"Retry-After": "9"})) == 9
    assert policy.wanted_delay(Headers({"Retry-After": "11"})) == 10
    assert policy.wanted_delay(Headers({"Retry-After": "9" * 400})) == 10
    assert RetryPolicy(max_retry_after=0).wanted_delay(Headers({"Retry-After": "9"})) == 0


def test_retry_after_is_read_with_the_date_of_the_response() -> None:
    headers = Headers({"Date": DATE, "Retry-After": "Sun, 08 Jan 2023 12:00:07 GMT"})
    assert RetryPolicy().wanted_delay(headers) == 7


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": ""}])
def test_a_server_that_does_not_say_how_long_wants_no_certain_wait(headers: dict[str, str]) -> None:
    assert RetryPolicy().wanted_delay(Headers(headers)) is None


def test_a_policy_may_not_care_what_servers_want() -> None:
    assert RetryPolicy(retry_after=False).wanted_delay(Headers({"Retry-After": "9"})) is None


# --- what is sent again ---------------------------------------------------------------------------


def made(method: str, **options: Any) -> Request:
    return Request(method, "http://host/", **options)


KEY = {"idempotency-KEY": "a7"}

#: A policy, a request, and whether it is repeated though the server may have processed it.
REPEATED = {
    "GET": (RetryPolicy(), made("GET"), True),
    "HEAD": (RetryPolicy(), made("HEAD"), True),
    "PUT": (RetryPolicy(), made("PUT"), True),
    "DELETE": (RetryPolicy(), made("DELETE"), True),
    "OPTIONS": (RetryPolicy(), made("OPTIONS"), True),
    "POST": (RetryPolicy(), made("POST"), False),
    "PATCH": (RetryPolicy(), made("PATCH"), False),
    "own method": (RetryPolicy(), made("X-OWN"), False),
    "method in lower case": (RetryPolicy(), made("get"), False),
    "POST said to be idempotent": (RetryPolicy(), made("POST", idempotent=True), True),
    "POST with a key": (RetryPolicy(), made("POST", headers=KEY), True),
    "POST with a key said not to be": (
        RetryPolicy(),
        made("POST", headers=KEY, idempotent=False),
        False,
    ),
    "GET said not to be": (RetryPolicy(), made("GET", idempotent=False), False),
    "POST in the policy": (RetryPolicy(methods={"POST"}), made("POST"), True),
    "GET not in the policy": (RetryPolicy(methods={"POST"}), made("GET"), False),
    "GET not in the policy said to be idempotent": (
        RetryPolicy(methods=()),  # type: ignore[arg-type]
        made("GET", idempotent=True),
        True,
    ),
    "POST in the policy said not to be": (
        RetryPolicy(methods={"POST"}),
        made("POST", idempotent=False),
        False,
    ),
}


@pytest.mark.parametrize(("policy", "request_", "repeated"), REPEATED.values(), ids=list(REPEATED))
def test_whether_a_request_may_be_processed_twice(
    policy: RetryPolicy, request_: Request, repeated: bool
) -> None:
    assert policy.repeats(request_) is repeated


def failed(
    delivery: Delivery,
    exception: Exception | None = None,
    *,
    number: int = 1,
    charged: bool = True,
) -> Attempt:
    """Return an attempt that has ended with *exception*; if there is none, with a response."""
    status = 503 if exception is None else None
    return Attempt(0.0, "host:80-1", "it failed", delivery, number, charged, status, exception)


#: The verdicts after which any method is sent again.
HARMLESS = {
    Delivery.UNSENT: True,
    Delivery.DISCLAIMED: True,
    Delivery.PARTLY_SENT: False,
    Delivery.SENT: False,
    Delivery.ANSWER_STARTED: False,
}


@pytest.mark.parametrize("exception", [None, ConnectionClosed()], ids=["response", "exception"])
@pytest.mark.parametrize("charged", [True, False], ids=["charged", "uncharged"])
@pytest.mark.parametrize("delivery", Delivery, ids=lambda delivery: delivery.name)
@pytest.mark.parametrize(("policy", "request_", "repeated"), REPEATED.values(), ids=list(REPEATED))
def test_what_is_sent_again(
    policy: RetryPolicy,
    request_: Request,
    repeated: bool,
    delivery: Delivery,
    charged: bool,
    exception: Exception | None,
) -> None:
    attempt = failed(delivery, exception, charged=charged)
    body_is_gone = "the body of the request could not have been sent again"
    if repeated or HARMLESS[delivery]:
        assert retry_refusal_reason(policy, request_, attempt, True) is None
        assert retry_refusal_reason(policy, request_, attempt, False) == body_is_gone
    else:
        for again in (True, False):
            objected = retry_refusal_reason(policy, request_, attempt, again)
            assert objected == "the request is not idempotent"


def test_every_verdict_is_in_the_table() -> None:
    assert set(HARMLESS) == set(Delivery)


@pytest.mark.parametrize("attempts", [2, 3, 6])
@pytest.mark.parametrize("delivery", Delivery, ids=lambda delivery: delivery.name)
def test_a_request_is_tried_as_often_as_the_policy_says(attempts: int, delivery: Delivery) -> None:
    policy = RetryPolicy(attempts=attempts)
    for number in range(1, attempts):
        assert (
            retry_refusal_reason(policy, made("GET"), failed(delivery, number=number), True) is None
        )
    last = failed(delivery, number=attempts)
    assert (
        retry_refusal_reason(policy, made("GET"), last, True) == f"{attempts} attempts have failed"
    )


@pytest.mark.parametrize("delivery", Delivery, ids=lambda delivery: delivery.name)
def test_what_was_lost_because_of_another_request_is_not_an_attempt(delivery: Delivery) -> None:
    attempt = failed(delivery, ConnectionClosed(), number=6, charged=False)
    assert retry_refusal_reason(RetryPolicy(attempts=6), made("GET"), attempt, True) is None


@pytest.mark.parametrize("charged", [True, False], ids=["charged", "uncharged"])
@pytest.mark.parametrize("delivery", Delivery, ids=lambda delivery: delivery.name)
@pytest.mark.parametrize("exception", [None, ConnectionClosed()], ids=["response", "exception"])
def test_a_policy_of_one_attempt_sends_nothing_again_that_may_have_been_sent(
    exception: Exception | None, delivery: Delivery, charged: bool
) -> None:
    attempt = failed(delivery, exception, charged=charged)
    objected = retry_refusal_reason(RetryPolicy.never, made("GET"), attempt, True)
    if delivery is Delivery.UNSENT and not charged:
        assert objected is None
    else:
        assert objected == "the policy allows one attempt"


def garbled(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL: {reason}] something")
    error.reason = reason
    return error


WORTH_ANOTHER_ATTEMPT = [
    ConnectionClosed(),
    ConnectionTimedOut(),
    DNSUnavailable("host"),
    ProxyError(503, "Service Unavailable"),
    InvalidResponse(),
    ConnectionResetError(),
    ConnectionRefusedError(),
    TimeoutError(),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    garbled("DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
    garbled("WRONG_VERSION_NUMBER"),
    TLSError("TLS has failed", "WRONG_VERSION_NUMBER"),
    ConnectError("connecting", errno.ECONNREFUSED),
    ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol"),
]

OF_NO_USE = [
    HostnameNotResolvable("host"),
    ssl.SSLCertVerificationError(1, "certificate verify failed"),
    garbled("TLSV1_ALERT_PROTOCOL_VERSION"),
    TLSError("TLS has failed", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    TLSError("the certificate is refused", "CERTIFICATE_VERIFY_FAILED"),
    ConnectError("connecting", errno.EACCES),
    ResponseTooLarge(),
    UnsupportedResponse(),
    ProxyError(407, "Proxy Authentication Required"),
    DugongError("internal error"),
    OSError(errno.EMFILE, "Too many open files"),
    RuntimeError("can't start new thread"),
    ValueError(),
]


@pytest.mark.parametrize("exception", WORTH_ANOTHER_ATTEMPT, ids=repr)
def test_a_fault_that_may_pass_is_worth_another_attempt(exception: Exception) -> None:
    attempt = failed(Delivery.SENT, exception)
    assert retry_refusal_reason(RetryPolicy(), made("GET"), attempt, True) is None


@pytest.mark.parametrize("exception", OF_NO_USE, ids=repr)
@pytest.mark.parametrize("policy", [RetryPolicy(), RetryPolicy.never])
def test_what_would_only_fail_again_is_not_tried(policy: RetryPolicy, exception: Exception) -> None:
    attempt = failed(Delivery.UNSENT, exception)
    assert retry_refusal_reason(policy, made("GET"), attempt, True) == "it would not help"


@pytest.mark.parametrize("exception", OF_NO_USE, ids=repr)
def test_what_another_request_has_met_with_need_not_happen_again(exception: Exception) -> None:
    attempt = failed(Delivery.SENT, exception, charged=False)
    assert retry_refusal_reason(RetryPolicy(), made("GET"), attempt, True) is None
