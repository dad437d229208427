"""A soak of two seconds, and whether a soak would notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dugong import (
    Attempt,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    Event,
    Headers,
    Request,
    Response,
    ResponseTooLarge,
)
from dugong.pool.events import EventKind
from tests.soak.clients import Client
from tests.soak.conversation import digest, filling, response_line
from tests.soak.events import Fate, Listener
from tests.soak.ledger import Ask, Ledger
from tests.soak.questions import POLICIES, Made, Place, Question, Vetoed

ROOT = Path(__file__).parent.parent.parent


def question(
    number: int, method: str = "GET", size: int = 100, kind: str = "honest", policy: str = "patient"
) -> Question:
    request = Request(method, f"http://127.0.0.1/{number}/{size}")
    ask = Ask(str(number), method, method == "POST" or policy == "never")
    place = Place(kind, "http://127.0.0.1")
    return Question(ask, request, place, size, digest(b""), True, None, POLICIES[policy])


def response(asked: Question, request: Request | None = None, status: int = 200) -> Response:
    """Return the right response to *asked*, given to *request*."""
    line = response_line(asked.request.method, asked.request.target, asked.digest)
    headers = Headers([("Responds-To", line)])
    return Response(status, "", headers, filling(line, asked.size), request or asked.request)


def test_a_pool_does_well_in_a_soak_of_two_seconds() -> None:
    command = [sys.executable, "-X", "dev", "-m", "tests.soak", "--seconds", "2", "--seed", "565"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well\n")


def test_the_right_response_is_right() -> None:
    asked = question(1)
    given = response(asked)
    assert asked.complaint(given, given.body, True) == ""
    assert asked.complaint(given, given.body[:10], False) == ""


def test_the_response_to_another_request_is_noticed() -> None:
    asked, other = question(1), question(2)
    given = response(other, asked.request)
    assert "got the response 'GET /2/100" in asked.complaint(given, given.body, True)
    assert "got the response to" in asked.complaint(response(other), b"", False)


@pytest.mark.parametrize("wrong", [b"", b"GET /1", filling("GET /2/100 x", 100)])
def test_a_wrong_body_is_noticed(wrong: bytes) -> None:
    asked = question(1)
    assert "got a wrong body" in asked.complaint(response(asked), wrong, True)


@pytest.mark.parametrize(
    ("method", "outcome", "seen", "taken", "problem"),
    [
        ("GET", "answered", 2, 2, ""),
        ("GET", "failed", 0, 0, ""),
        ("POST", "answered", 1, 1, ""),
        ("POST", "failed", 1, 0, ""),
        ("POST", "failed", 2, 1, "was sent 2 times"),
        ("POST", "answered", 1, 0, "has succeeded without having come once, and whole"),
        ("GET", "unsent", 1, 0, "was said not to have been sent"),
        ("GET", "answered", 0, 0, "was never asked"),
    ],
)
def test_the_ledger_balances_or_says_what_does_not(
    method: str, outcome: str, seen: int, taken: int, problem: str
) -> None:
    ledger = Ledger()
    ask = question(1, method).ask
    ledger.submit(ask)
    ledger.end(ask, outcome)
    ledger.balance({"1": seen}, {"1": taken})
    assert len(ledger.problems) == bool(problem)
    assert all(problem in found for found in ledger.problems)


def test_the_ledger_says_what_nothing_has_become_of() -> None:
    ledger = Ledger()
    ledger.submit(question(1).ask)
    ledger.balance({}, {})
    assert "nothing has become of" in ledger.problems[0]


def test_the_ledger_reports_a_request_that_was_never_made() -> None:
    ledger = Ledger()
    ledger.balance({"1": 1}, {"1": 1})
    assert "1 requests came, and only 0 were made" in ledger.problems[0]


def test_the_ledger_says_what_has_ended_twice() -> None:
    ledger = Ledger()
    ask = question(1).ask
    ledger.submit(ask)
    ledger.end(ask, "answered")
    ledger.end(ask, "cancelled")
    assert "has ended twice" in ledger.problems[0]


# --- what may fail --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "method", "kind", "policy", "excused"),
    [
        (ConnectionClosed(), "GET", "honest", "patient", False),
        (ConnectionClosed(), "GET", "away", "patient", False),
        (ConnectionClosed(), "GET", "away", "quick", True),
        (ConnectionClosed(), "POST", "away", "patient", True),
        (ConnectionClosed(), "GET", "quiet", "quick", False),
        (ConnectionClosed(), "GET", "quiet", "twice", True),
        (ConnectionClosed(), "POST", "honest", "never", False),
        (ConnectionClosed(), "GET", "honest", "never", True),
        (ConnectionTimedOut(), "GET", "rough", "patient", True),
        (ConnectionTimedOut(), "GET", "busy", "patient", False),
        (ResponseTooLarge(), "GET", "honest", "patient", False),
        (Vetoed(), "GET", "honest", "doubtful", True),
        (Vetoed(), "GET", "honest", "patient", False),
    ],
)
def test_what_a_request_has_no_right_to_fail_with_is_noticed(
    exc: Exception, method: str, kind: str, policy: str, excused: bool
) -> None:
    asked = question(1, method, kind=kind, policy=policy)
    assert asked.excuses(exc, max_body_size=1000, streamed=False) is excused


@pytest.mark.parametrize(
    ("delivery", "kind", "streamed", "excused"),
    [
        (Delivery.ANSWER_STARTED, "away", True, True),
        (Delivery.ANSWER_STARTED, "away", False, False),
        (Delivery.ANSWER_STARTED, "honest", True, False),
        (Delivery.SENT, "away", True, False),
    ],
)
def test_a_stream_may_fail_once_its_caller_reads_it_if_its_server_goes_away(
    delivery: Delivery, kind: str, streamed: bool, excused: bool
) -> None:
    exc = ConnectionClosed()
    exc.delivery = delivery
    asked = question(1, kind=kind, policy="patient")
    assert asked.excuses(exc, max_body_size=1000, streamed=streamed) is excused


def failed(number: int, charged: bool = True, status: int | None = None) -> Attempt:
    """Return an attempt that has failed."""
    return Attempt(1.5, "h-1", "it failed", Delivery.SENT, number, charged, status)


@pytest.mark.parametrize(
    ("attempts", "problem"),
    [
        ((), ""),
        ((failed(1),), ""),
        ((failed(1, charged=False), failed(1), failed(2, charged=False)), ""),
        ((failed(1, status=503),), ""),
        ((failed(1), failed(2)), "more attempts than 2"),
        ((failed(2),), "do not add up"),
        ((failed(1, status=404),), "do not add up"),
        ((failed(1)._replace(request=question(1).request),), "do not add up"),
    ],
)
def test_attempts_that_cannot_have_been_are_noticed(
    attempts: tuple[Attempt, ...], problem: str
) -> None:
    ledger = Ledger()
    asked = question(1, policy="twice")
    with ConnectionPool() as pool:
        client = Client(pool, asked.policy, [asked.place], ledger, Listener(), 1000, 1, 1, 1)
        client._look_at(asked, attempts, attempts)
    assert len(ledger.problems) == bool(problem)
    assert all(problem in found for found in ledger.problems)


@pytest.mark.parametrize(
    ("connections", "kind", "may"), [(1, "honest", True), (2, "honest", False), (1, "away", False)]
)
def test_a_request_in_a_stream_may_be_refused_if_that_has_the_only_connection(
    connections: int, kind: str, may: bool
) -> None:
    outer, inner = question(1, kind="honest"), question(2, kind=kind)
    places = [outer.place]
    with ConnectionPool() as pool:
        client = Client(pool, outer.policy, places, Ledger(), Listener(), 1000, 1, connections, 1)
        assert client._may_wait_for_itself(inner, outer) is may
        assert not client._may_wait_for_itself(inner, None)


def test_a_body_that_was_made_and_not_closed_is_noticed() -> None:
    made = Made(b"data")
    with made() as first:
        assert first.read() == b"data"
    assert made.all_closed
    made()
    assert not made.all_closed


# --- what a pool says of itself -------------------------------------------------------------------


def listener_of(*told: tuple[EventKind, str], request: Request | None = None) -> Listener:
    """Return a listener that was told of what has happened on which connection."""
    listener = Listener()
    for kind, connection in told:
        about = None if kind in ("opened", "closed", "learned") else request
        listener(Event(kind, 1.5, "http://h", connection, about, "because"))
    return listener


@pytest.mark.parametrize(
    ("told", "again", "given_up"),
    [
        ([], 0, None),
        (["sent", "answered"], 0, False),
        (["sent", "resent", "sent", "answered"], 1, False),
        (["resent", "sent", "answered"], 1, False),
        (["sent", "answered", "resent", "sent", "answered", "gave up"], 1, True),
        (["sent", "gave up"], 0, True),
        (["resent", "gave up"], 1, True),
    ],
)
def test_events_that_agree_with_what_has_come_of_it(
    told: list[EventKind], again: int, given_up: bool | None
) -> None:
    request = question(1).request
    listener = listener_of(*((kind, "h-1") for kind in told), request=request)
    listener.ended(request, Fate("an outcome", again, given_up))
    assert listener.complaints(None) == []


@pytest.mark.parametrize(
    ("told", "again", "given_up"),
    [
        (["sent", "sent", "answered"], 0, False),
        (["sent", "answered", "answered"], 0, False),
        (["answered"], 0, False),
        (["sent", "resent", "sent", "answered"], 0, False),
        (["sent", "sent", "answered"], 1, False),
        (["sent", "answered"], 0, True),
        (["sent", "answered", "gave up"], 0, False),
        (["sent", "gave up", "gave up"], 0, True),
    ],
)
def test_events_that_contradict_what_has_come_of_it_are_noticed(
    told: list[EventKind], again: int, given_up: bool
) -> None:
    request = question(1).request
    listener = listener_of(*((kind, "h-1") for kind in told), request=request)
    listener.ended(request, Fate("an outcome", again, given_up))
    (complaint,) = listener.complaints(None)
    assert "has events that contradict it" in complaint


def test_a_pool_that_is_closed_at_work_need_not_give_up_each_request() -> None:
    request = question(1).request
    listener = listener_of(("sent", "h-1"), ("answered", "h-1"), request=request)
    listener.closing = True
    listener.ended(request, Fate("a 503", 0, True))
    assert listener.complaints(None) == []


@pytest.mark.parametrize(
    ("told", "fine"),
    [
        ([("opened", "h-1"), ("closed", "h-1")], True),
        ([("closed", "h-1")], True),  # it could not be opened
        ([("opened", "h-1")], False),
        ([("opened", "h-1"), ("opened", "h-1"), ("closed", "h-1")], False),
        ([("opened", "h-1"), ("closed", "h-1"), ("closed", "h-1")], False),
    ],
)
def test_a_connection_is_opened_and_closed_once_or_that_is_noticed(
    told: list[tuple[EventKind, str]], fine: bool
) -> None:
    complaints = listener_of(*told).complaints(None)
    assert ("was opened" in str(complaints)) is not fine


def test_events_are_compared_with_the_statistics() -> None:
    with ConnectionPool() as pool:
        statistics = pool.statistics()
    assert listener_of().complaints(statistics) == []
    told = listener_of(("opened", "h-1"), ("closed", "h-1"), ("sent", "h-1"))
    assert len(told.complaints(statistics)) == 2


def test_an_event_without_a_reason_is_noticed() -> None:
    listener = Listener()
    listener(Event("closed", 1.5, "http://h", "h-1", None, ""))
    (complaint,) = listener.complaints(None)
    assert "gives no reason" in complaint
