"""What a pool tells of: the lines of events, and which of them come of what a server does."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from random import Random
from threading import Condition
from threading import Event as Signal
from typing import Any

import pytest

from dugong import (
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    DugongError,
    Event,
    PoolClosed,
    Request,
    Response,
    ResponseFuture,
    RetryPolicy,
)
from dugong.pool.core import emitting
from dugong.pool.io import caller_runs
from dugong.testing import MockPool, MockRequest, MockResponse, failed
from tests.support.byhand import HandServer
from tests.support.names import refusing
from tests.support.pool import (
    NO_SECOND_TRY,
    Held,
    OpenSite,
    each,
    get_and_be_idle,
    name_target,
    open_site,
    url,
    wait_for,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

AT_ONCE = RetryPolicy(attempts=2, backoff=0)


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = Condition()

    def __call__(self, event: Event) -> None:
        with self._more:
            self.events.append(event)
            self._more.notify_all()

    def wait(self, kind: str, count: int = 1) -> None:
        """Wait until *count* events of a *kind* have been heard."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.lines(kind)) >= count, TIMEOUT)

    def lines(self, *kinds: str) -> list[str]:
        """Return what was heard, of these *kinds* (default: of all), with little of the names.

        A connection is its number, and a request its target.
        """
        # Two threads may tell at the same time, so one may have been a little late.
        events = sorted(self.events, key=lambda event: event.when)
        return [_short(event) for event in events if not kinds or event.kind in kinds]


def _short(event: Event) -> str:
    number = event.connection.rpartition("-")[2]
    target = "" if event.request is None else event.request.target
    words = " ".join(word for word in (event.kind, number, target) if word)
    return f"{words}: {event.reason}" if event.reason else words


@pytest.fixture
def heard() -> Heard:
    return Heard()


# --- an event as text -----------------------------------------------------------------------------

REQUEST = Request("GET", "https://host:8443/fish?size=3")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Event("opened", 0.0, "https://host:8443", "host:8443-1", None, ""),
            "opened https://host:8443 on host:8443-1",
        ),
        (
            Event("closed", 0.0, "https://host:8443", "host:8443-1", None, "it was retired"),
            "closed https://host:8443 on host:8443-1: it was retired",
        ),
        (
            Event("sent", 0.0, "https://host:8443", "host:8443-1", REQUEST, ""),
            "sent GET https://host:8443/fish?... on host:8443-1",
        ),
        (
            Event("answered", 0.0, "https://host:8443", "host:8443-1", REQUEST, "200 OK"),
            "answered GET https://host:8443/fish?... on host:8443-1: 200 OK",
        ),
        (
            Event("gave up", 0.0, "https://host:8443", "", REQUEST, "the pool has been closed"),
            "gave up GET https://host:8443/fish?...: the pool has been closed",
        ),
        (
            Event("learned", 0.0, "https://host:8443", "", None, "it responds as HTTP/1.0"),
            "learned https://host:8443: it responds as HTTP/1.0",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Event) else "",
)
def test_an_event_says_in_a_line_what_has_happened(event: Event, line: str) -> None:
    assert str(event) == line
    assert repr(event) == f"<Event {line}>"


# --- in good order --------------------------------------------------------------------------------


def test_a_request_is_sent_and_answered_on_a_connection_that_is_opened_and_closed(
    site: OpenSite, heard: Heard
) -> None:
    with site(each(name_target), on_event=heard) as s:
        s.pool.get(s.url("/a"))
    assert heard.lines() == [
        "opened 1",
        "sent 1 /a",
        "answered 1 /a: 200 OK",
        "closed 1: the pool has been closed",
    ]


def test_an_event_says_when_and_where_and_of_what(heard: Heard) -> None:
    before = time.time()
    with open_site(each(name_target), on_event=heard) as s:
        request = Request("GET", s.url("/a"))
        s.pool.request(request)
        where = f"{s.server.host}:{s.server.port}"
    assert {event.origin for event in heard.events} == {f"http://{where}"}
    assert {event.connection for event in heard.events} == {f"{where}-1"}
    by_kind = {event.kind: event for event in heard.events}
    assert by_kind["sent"].request is by_kind["answered"].request is request
    assert by_kind["opened"].request is by_kind["closed"].request is None
    whens = [by_kind[kind].when for kind in ("opened", "sent", "answered", "closed")]
    times = [before, *whens, time.time()]
    assert times == sorted(times)


def test_a_request_that_its_caller_makes_by_himself_is_told_of_as_any_other(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    performed: list[Response | None] = []
    with open_site(each(name_target), on_event=heard) as s:
        get_and_be_idle(s.pool, s.url("/a"))
        perform = caller_runs.perform

        def watched(*args: Any) -> Response | None:
            performed.append(perform(*args))
            return performed[-1]

        monkeypatch.setattr(caller_runs, "perform", watched)
        assert s.pool.get(s.url("/b")) is performed[0]
    assert heard.lines("sent", "answered")[2:] == ["sent 1 /b", "answered 1 /b: 200 OK"]


def test_a_response_that_is_streamed_is_told_of_when_its_head_has_come(heard: Heard) -> None:
    read = Signal()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhe")
        wait_for(read)
        peer.send(b"re")

    with open_site(script, on_event=heard) as s, s.pool.stream("GET", s.url("/a")) as response:
        heard.wait("answered")
        read.set()
        assert response.read() == b"here"
    assert heard.lines("answered") == ["answered 1 /a: 200 OK"]


def test_requests_that_are_pipelined_are_told_of_one_by_one(heard: Heard) -> None:
    with open_site(each(name_target), on_event=heard, max_connections_per_host=1) as s:
        for _ in s.pool.map(s.url(f"/{i}") for i in range(20)):
            pass
    assert heard.lines("sent") == [f"sent 1 /{i}" for i in range(20)]
    assert heard.lines("answered") == [f"answered 1 /{i}: 200 OK" for i in range(20)]


# --- the ends of connections ----------------------------------------------------------------------


def say_close(peer: Peer) -> None:
    peer.request()
    peer.respond(headers="Connection: close\r\n")


def stray_bytes(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore")
    peer.until_eof()


def old_server(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.0 200 OK\r\n\r\nold")


def test_what_a_host_shows_again_and_again_is_told_once(heard: Heard) -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.request()
            peer.send(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
        peer.until_eof()

    with open_site(script, on_event=heard) as s:
        for _ in range(3):
            s.pool.get(s.url("/a"))
        assert heard.lines("learned") == ["learned 1: it responds as HTTP/1.0"]


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        (say_close, ["closed 1: the server ended it"]),
        (
            old_server,
            ["learned 1: it responds as HTTP/1.0", "closed 1: the server ended it"],
        ),
        (
            stray_bytes,
            [
                "learned 1: it has sent what is no response",
                "closed 1: it has sent more than it was asked for",
            ],
        ),
    ],
)
def test_the_end_of_a_connection_has_a_reason(
    heard: Heard, script: Callable[[Peer], None], lines: list[str]
) -> None:
    with open_site(script, on_event=heard) as s:
        s.pool.get(s.url("/a"))
    assert heard.lines("closed", "learned") == lines


def test_a_connection_that_is_idle_for_too_long_is_closed_for_that(heard: Heard) -> None:
    with open_site(respond_and_wait, on_event=heard, idle_timeout=0.01) as s:
        s.pool.get(s.url("/a"))
        heard.wait("closed")
    assert heard.lines("closed") == ["closed 1: it was idle for too long"]


def respond_and_wait(peer: Peer) -> None:
    name_target(peer, peer.request())
    peer.until_eof()


def test_a_connection_that_is_used_up_is_closed_for_that(heard: Heard) -> None:
    with open_site(respond_and_wait, repeat=True, on_event=heard, max_requests=1) as s:
        s.pool.get(s.url("/a"))
        s.pool.get(s.url("/b"))
        heard.wait("closed", 2)
    assert heard.lines("closed") == ["closed 1: it was retired", "closed 2: it was retired"]


def test_a_connection_that_cannot_be_opened_is_closed_too(heard: Heard) -> None:
    with ScriptedServer() as server:
        closed = url(server, "/a")
    with ConnectionPool(on_event=heard, retry=None) as pool, pytest.raises(OSError):  # noqa: PT011
        pool.get(closed)
    refused = f"connecting to {server.host}:{server.port} (Connection refused)"
    assert sorted(heard.lines()) == [
        f"closed 1: it could not be connected: {refused}",
        f"gave up 1 /a: {refused}; the policy allows one attempt",
    ]


# --- tried again ----------------------------------------------------------------------------------


def drop(peer: Peer) -> None:
    peer.request()


DROPPED = "connection closed before a response head"


def test_a_request_whose_connection_has_died_is_sent_again(heard: Heard) -> None:
    with open_site(drop, each(name_target), on_event=heard, retry=AT_ONCE) as s:
        s.pool.get(s.url("/a"))
    assert heard.lines() == [
        "opened 1",
        "sent 1 /a",
        f"closed 1: {DROPPED}",
        f"resent 1 /a: {DROPPED}",
        "opened 2",
        "sent 2 /a",
        "answered 2 /a: 200 OK",
        "closed 2: the pool has been closed",
    ]


def test_those_that_stood_behind_it_are_sent_again_too(heard: Heard) -> None:
    with (
        HandServer() as server,
        ConnectionPool(max_connections_per_host=1, on_event=heard, retry=AT_ONCE) as pool,
    ):
        futures = warm_and_submit(pool, server, "/b", "/c", "/d")
        respond_to_the_rest(server, futures)
    assert heard.lines("resent") == [
        f"resent 1 /b: {DROPPED}",
        f"resent 1 /c: {DROPPED}",
        f"resent 1 /d: {DROPPED}",
    ]
    assert heard.lines("learned") == [
        "learned 1: a connection ended after 4 responses with 3 to come"
    ]
    assert heard.lines("gave up") == []


def warm_and_submit(
    pool: ConnectionPool, server: HandServer, *targets: str
) -> list[ResponseFuture]:
    """Have *targets* pipelined on a connection that dies then."""
    first = pool.submit("GET", server.url("/a"))
    peer = server.accept()
    peer.responds(*peer.targets(1))
    first.result(TIMEOUT)
    for _ in range(3):
        future = pool.submit("GET", server.url("/more"))
        peer.responds(*peer.targets(1))
        future.result(TIMEOUT)
    futures = [pool.submit("GET", server.url(target)) for target in targets]
    assert peer.targets(len(targets)) == list(targets)
    peer.close()
    return futures


def respond_to_the_rest(server: HandServer, futures: list[ResponseFuture]) -> None:
    """Response what *futures* wait for, on whatever connections it comes."""
    peer = server.accept()
    for _ in futures:
        peer.responds(*peer.targets(1))
    for future in futures:
        assert isinstance(future.result(TIMEOUT), Response)


def busy(peer: Peer, request: ReceivedRequest) -> None:
    peer.respond(b"", "503 Service Unavailable")


def test_a_response_that_is_worth_another_attempt_is_told_of_and_then_sent_again(
    heard: Heard,
) -> None:
    def script(peer: Peer) -> None:
        busy(peer, peer.request())
        each(name_target)(peer)

    with open_site(script, on_event=heard, retry=AT_ONCE) as s:
        s.pool.get(s.url("/a"))
    assert heard.lines()[1:-1] == [
        "sent 1 /a",
        "answered 1 /a: 503 Service Unavailable",
        "resent 1 /a: 503 Service Unavailable",
        "sent 1 /a",
        "answered 1 /a: 200 OK",
    ]


def test_a_host_that_wants_us_to_wait_has_taught_us_so(heard: Heard) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(b"", "429 Too Many Requests", "Retry-After: 9\r\n")
        each(name_target)(peer)

    policy = RetryPolicy(attempts=2, backoff=0, max_retry_after=0.01)
    with open_site(script, on_event=heard, retry=policy) as s:
        s.pool.get(s.url("/a"))
    assert heard.lines("learned") == ["learned: 429 with Retry-After 0.01"]


# --- given up -------------------------------------------------------------------------------------


def test_a_request_that_has_failed_is_given_up_and_it_says_why(heard: Heard) -> None:
    with (
        open_site(drop, on_event=heard, retry=AT_ONCE) as s,
        pytest.raises(ConnectionClosed),
    ):
        s.pool.post(s.url("/a"))
    assert heard.lines("gave up", "resent") == [
        f"gave up 1 /a: {DROPPED}; the request is not idempotent"
    ]


def test_when_the_attempts_are_over_the_request_is_given_up(heard: Heard) -> None:
    with (
        open_site(drop, repeat=True, on_event=heard, retry=AT_ONCE) as s,
        pytest.raises(ConnectionClosed),
    ):
        s.pool.get(s.url("/a"))
    assert heard.lines("gave up", "resent") == [
        f"resent 1 /a: {DROPPED}",
        f"gave up 2 /a: {DROPPED}; 2 attempts have failed",
    ]


def test_a_response_that_counts_though_another_would_be_better_is_given_up(heard: Heard) -> None:
    with open_site(each(busy), on_event=heard, retry=AT_ONCE) as s:
        assert s.pool.get(s.url("/a")).status == 503
    assert heard.lines("gave up") == [
        "gave up 1 /a: 503 Service Unavailable; 2 attempts have failed"
    ]


def test_a_response_that_is_not_worth_another_attempt_is_not_given_up(heard: Heard) -> None:
    missing = each(lambda peer, request: peer.respond(b"", "404 Not Found"))
    with open_site(missing, on_event=heard, retry=AT_ONCE) as s:
        assert s.pool.get(s.url("/a")).status == 404
    assert heard.lines("gave up", "resent") == []


def test_what_the_policy_is_against_is_given_up(heard: Heard) -> None:
    with (
        open_site(drop, on_event=heard, retry=NO_SECOND_TRY) as s,
        pytest.raises(ConnectionClosed),
    ):
        s.pool.get(s.url("/a"))
    assert heard.lines("gave up") == [
        f"gave up 1 /a: {DROPPED}; the policy's should_retry was against it"
    ]


def test_a_request_whose_deadline_passes_is_given_up(heard: Heard) -> None:
    held = Held()
    with open_site(held, on_event=heard, max_connections_per_host=1) as s:
        holder = s.pool.submit("GET", s.url("/a"))
        held.wait()
        with pytest.raises(ConnectionTimedOut):
            s.pool.get(s.url("/b"), deadline=0.01)
        held.release()
        holder.result(TIMEOUT)
    (line,) = heard.lines("gave up")
    assert line.startswith("gave up /b: the deadline passed in the queue")


def test_requests_that_the_end_of_a_pool_has_caught_are_given_up(heard: Heard) -> None:
    def script(peer: Peer) -> None:
        busy(peer, peer.request())
        peer.until_eof()

    options: dict[str, Any] = {"max_connections_per_host": 1, "pipeline_depth": 1}
    patient = RetryPolicy(backoff=1e6, max_backoff=1e6)
    with open_site(script, on_event=heard, retry=patient, **options) as s:
        futures = [s.pool.submit("GET", s.url("/waits"))]
        heard.wait("resent")
        futures += [s.pool.submit("GET", s.url(target)) for target in ("/sent", "/queued")]
        heard.wait("sent", 2)
        s.pool.close()
        for future in futures:
            assert isinstance(future.exception(0), PoolClosed)
    assert sorted(heard.lines("gave up")) == [
        "gave up /queued: the pool has been closed",
        "gave up /waits: the pool has been closed",
        "gave up 1 /sent: the pool has been closed",
    ]


def test_a_request_that_its_caller_has_cancelled_is_told_of_once_more(heard: Heard) -> None:
    held = Held()
    with open_site(held, on_event=heard, max_connections_per_host=1) as s:
        cancelled = s.pool.submit("GET", s.url("/a"))
        held.wait()
        assert cancelled.cancel()
        held.release()
        assert s.goes_on()
    of_it = [event.kind for event in heard.events if event.request is cancelled.request]
    assert of_it == ["sent", "cancelled"]


# --- what an event ends ---------------------------------------------------------------------------


def test_the_sending_of_a_request_ends_once(heard: Heard) -> None:
    def respond(request: MockRequest) -> int:
        if len(pool.requests) == 1:
            raise failed(Delivery.SENT)
        return 503

    with MockPool(respond, on_event=heard, retry=AT_ONCE) as pool:
        response = pool.get("https://host/")
    events = sorted(heard.events, key=lambda event: event.when)
    first, second = (event.when for event in events if event.kind == "sent")
    told = [
        (event.kind, event.since, event.resends)
        for event in events
        if event.kind in ("answered", "resent", "gave up")
    ]
    assert told == [("resent", first, 0), ("answered", second, 1), ("gave up", None, 0)]
    outcomes = [event.outcome for event in events if event.outcome is not None]
    assert type(outcomes[0]) is ConnectionClosed
    assert outcomes[1:] == [response, response]


def test_every_sending_ends_whatever_becomes_of_the_request(heard: Heard) -> None:
    random = Random(12)

    def respond(request: MockRequest) -> int | MockResponse:
        if random.random() < 0.2:
            raise failed(random.choice(list(Delivery)))
        return random.choice([200, 503, MockResponse(delay=0.0001), MockResponse(body=[b"abc"])])

    options = {"retry": RetryPolicy(attempts=3, backoff=0), "max_connections_per_host": 2}
    with MockPool(respond, on_event=heard, **options) as pool:
        futures = [pool.submit("GET", f"https://host/{n}", deadline=60) for n in range(300)]
        for future in futures[::7]:
            future.cancel()
        for n in range(100):
            with suppress(DugongError), pool.stream("GET", f"https://host/{n}") as response:
                response.read(n % 3)
        wait(futures[:200], TIMEOUT)
    balance = Counter(event.request for event in heard.events if event.kind == "sent")
    balance.subtract(
        event.request
        for event in heard.events
        if event.request is not None and event.since is not None
    )
    assert set(balance.values()) == {0}


def test_the_end_of_a_connection_says_when_it_was_opened(heard: Heard) -> None:
    before = time.time()
    with MockPool(lambda request: 200, on_event=heard) as pool:
        pool.get("https://host/")
    (closed,) = (event for event in heard.events if event.kind == "closed")
    assert closed.since is not None
    assert before - 1 < closed.since <= closed.when


def test_a_connection_that_was_never_open_has_not_begun(heard: Heard) -> None:
    with refusing() as (host, port), ConnectionPool(on_event=heard, retry=None) as pool:
        pool.submit("GET", f"http://{host}:{port}/").exception(TIMEOUT)
    (closed,) = (event for event in heard.events if event.kind == "closed")
    assert closed.since is None


# --- the listener ---------------------------------------------------------------------------------


def test_a_listener_that_fails_harms_nothing_but_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(event: Event) -> None:
        raise LookupError("of the listener")

    with open_site(each(name_target), on_event=fail) as s:
        assert s.pool.get(s.url("/a")).body == b"/a"
        assert s.goes_on()
    assert len(caplog.records) == 6
    record = caplog.records[0]
    assert (record.levelno, record.name) == (logging.ERROR, "dugong.pool.core.emitting")
    assert "opened http://" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_a_listener_may_submit() -> None:
    futures: list[ResponseFuture] = []
    submitted = Signal()

    def submit(event: Event) -> None:
        if event.kind == "answered" and not futures:
            futures.append(s.pool.submit("GET", s.url("/next")))
            submitted.set()

    with open_site(each(name_target), repeat=True, on_event=submit) as s:
        s.pool.get(s.url("/a"))
        wait_for(submitted)
        assert futures[0].result(TIMEOUT).body == b"/next"


def test_without_a_listener_no_event_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_wanted(*args: object) -> None:
        raise AssertionError("an event was made without a listener")

    monkeypatch.setattr(emitting, "Event", not_wanted)
    monkeypatch.setattr(emitting, "_notify", not_wanted)
    with open_site(drop, each(busy), repeat=True, retry=AT_ONCE) as s:
        assert s.pool.get(s.url("/a")).status == 503
        scheduler = s.pool._scheduler
        (host,) = scheduler._core.hosts.values()
        with scheduler._core.transaction():
            emitting.emit(scheduler._core, "learned", host)
            assert not scheduler._core.callbacks.calls


@pytest.mark.parametrize("listener", [True, "print", 3])
def test_a_listener_can_be_called(listener: object) -> None:
    with pytest.raises(TypeError, match="on_event"):
        ConnectionPool(on_event=listener)  # type: ignore[arg-type]
