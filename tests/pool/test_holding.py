"""Retry-After: who waits for a host that has asked for it, for how long, and who does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from typing import Any

import pytest

from dugong import (
    Attempt,
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    PoolClosed,
    Response,
    RetryPolicy,
)
from dugong.pool.core.scheduler import Scheduler
from dugong.pool.statistics import HostStatistics
from tests.support.byhand import HandPeer, HandServer, settle, submit_first, warm_up
from tests.support.clock import Listener, StoppedClock
from tests.support.fork import holds_in_child
from tests.support.pool import get_and_be_idle, signal_after, wait_for
from tests.support.refusing import TOO_MANY, UNAVAILABLE, one_connection, serve, text_of
from tests.support.server import TIMEOUT

#: There is no other wait than the one that the server asks for.
PATIENT = RetryPolicy(backoff=0)


@pytest.fixture
def pool(heard: Listener, clock: StoppedClock) -> Iterator[ConnectionPool]:
    """A pool with one connection, so that requests have to go behind each other."""
    with one_connection(PATIENT, on_event=heard) as pool:
        yield pool


def refuse(peer: HandPeer, retry_after: object = 30, status: str = UNAVAILABLE) -> None:
    """Response that the client is to come back in so many seconds."""
    peer.respond(b"refused", status, headers=f"Retry-After: {retry_after}\r\n")


def of_host(pool: ConnectionPool, server: HandServer) -> HostStatistics:
    return pool.statistics().hosts[server.url("")]


def hold(
    pool: ConnectionPool, server: HandServer, heard: Listener, retry_after: object = 30
) -> tuple[HandPeer, Future[Response]]:
    """Have the first request to *server* refused; return the connection, which is idle, and it."""
    peer, first = submit_first(pool, server, "GET", "/first")
    refuse(peer, retry_after)
    heard.wait_for("resent")
    settle(pool)
    return peer, first


# --- who waits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [UNAVAILABLE, TOO_MANY])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_is_sent_to_a_host_that_has_asked_for_that(
    pool: ConnectionPool,
    server: HandServer,
    heard: Listener,
    clock: StoppedClock,
    status: str,
    method: str,
) -> None:
    peer, first = submit_first(pool, server, "GET", "/first")
    refuse(peer, 30, status)
    heard.wait_for("resent")
    other = pool.submit(method, server.url("/other"))
    clock.forward(pool, 29.9)
    settle(pool)
    assert peer.is_silent()
    assert server.is_left_alone()
    assert not other.running()
    host = of_host(pool, server)
    assert (host.waiting, host.queued) == (1, 1)
    assert host.held_for == pytest.approx(0.1)
    clock.forward(pool, 0.1)
    assert sorted(serve(peer, 2)) == ["/first", "/other"]
    assert (text_of(first), text_of(other)) == ("/first", "/other")
    assert of_host(pool, server).held_for == 0.0


def test_a_blocking_request_waits_too_though_a_connection_is_idle(
    pool: ConnectionPool,
    server: HandServer,
    heard: Listener,
    clock: StoppedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    responses: list[str] = []
    peer, first = hold(pool, server, heard)
    assert of_host(pool, server).connections[0].state == "idle"
    submitted = signal_after(monkeypatch, Scheduler, "submit")
    thread = threading.Thread(target=lambda: responses.append(pool.get(server.url("/get")).text))
    thread.start()
    wait_for(submitted)
    clock.forward(pool, 29.9)
    settle(pool)
    assert peer.is_silent()
    clock.forward(pool, 0.1)
    assert sorted(serve(peer, 2)) == ["/first", "/get"]
    thread.join()
    assert responses == ["/get"]
    assert text_of(first) == "/first"


def test_a_blocking_request_that_is_refused_holds_its_host(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    """Which its own thread hears of, if it does the work itself."""
    responses: list[str] = []
    first = threading.Thread(target=lambda: get_and_be_idle(pool, server.url("/warm")))
    first.start()
    peer = server.accept()
    assert peer.burst() == ["/warm"]
    peer.responds("/warm")
    first.join()
    thread = threading.Thread(target=lambda: responses.append(pool.get(server.url("/get")).text))
    thread.start()
    assert peer.burst() == ["/get"]
    refuse(peer)
    heard.wait_for("resent")
    assert of_host(pool, server).held_for == 30
    clock.forward(pool, 30)
    assert peer.burst() == ["/get"]
    peer.responds("/get")
    thread.join()
    assert responses == ["/get"]


def test_other_hosts_are_not_concerned(
    pool: ConnectionPool, server: HandServer, heard: Listener
) -> None:
    with HandServer() as another:
        _, first = hold(pool, server, heard)
        future = pool.submit("GET", another.url("/a"))
        peer = another.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"
        assert of_host(pool, another).held_for == 0.0
        first.cancel()


@pytest.mark.parametrize(
    "policy",
    [None, RetryPolicy(retry_after=False, backoff=10), RetryPolicy(statuses={500})],
)
def test_one_whose_policy_knows_nothing_of_it_holds_no_request_back(
    pool: ConnectionPool, server: HandServer, policy: RetryPolicy | None
) -> None:
    peer, first = submit_first(pool, server, "GET", "/first", retry=policy)
    refuse(peer)
    other = pool.submit("GET", server.url("/other"))
    assert peer.burst() == ["/other"]
    peer.responds("/other")
    assert text_of(other) == "/other"
    first.cancel()


def test_one_without_a_policy_is_held_like_all_others(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer, first = hold(pool, server, heard)
    other = pool.submit("GET", server.url("/other"), retry=None)
    settle(pool)
    assert peer.is_silent()
    first.cancel()
    clock.forward(pool, 30)
    assert peer.burst() == ["/other"]
    peer.responds("/other")
    assert text_of(other) == "/other"


def test_a_refusal_that_is_given_to_its_caller_holds_the_others_all_the_same(
    pool: ConnectionPool, server: HandServer, clock: StoppedClock
) -> None:
    peer, post = submit_first(pool, server, "POST", "/post")
    refuse(peer)
    assert post.result(TIMEOUT).status == 503
    other = pool.submit("GET", server.url("/other"))
    settle(pool)
    assert peer.is_silent()
    clock.forward(pool, 30)
    assert peer.burst() == ["/other"]
    peer.responds("/other")
    assert text_of(other) == "/other"


@pytest.mark.parametrize("status", ["500 Oh", "408 Too Slow", "425 Too Early", "404 Not Found"])
def test_only_429_and_503_concern_others(
    pool: ConnectionPool, server: HandServer, status: str
) -> None:
    peer, first = submit_first(pool, server, "GET", "/first")
    refuse(peer, 30, status)
    other = pool.submit("GET", server.url("/other"))
    assert peer.burst() == ["/other"]
    peer.responds("/other")
    assert text_of(other) == "/other"
    first.cancel()


def test_a_stream_and_an_upload_are_held_too(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    read: list[bytes] = []

    def stream() -> None:
        with pool.stream("GET", server.url("/stream")) as response:
            read.append(response.read())

    peer, first = hold(pool, server, heard)
    first.cancel()
    upload = pool.submit("PUT", server.url("/upload"), body=iter([b"body"]))
    settle(pool)
    thread = threading.Thread(target=stream)
    thread.start()
    clock.forward(pool, 29.9)
    assert peer.is_silent()
    clock.forward(pool, 0.1)
    assert peer.burst() == ["/upload"]
    peer.responds("/upload")
    assert peer.burst() == ["/stream"]
    peer.responds("/stream")
    thread.join()
    assert (text_of(upload), read) == ("/upload", [b"/stream"])


# --- for how long ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7.0),
        ("007", 7.0),
        ("60", 60.0),
        ("61", 60.0),
        ("9" * 5000, 60.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", 10.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
    ],
)
def test_a_host_is_held_for_as_long_as_it_wants_within_limits(
    pool: ConnectionPool, server: HandServer, heard: Listener, retry_after: str, seconds: float
) -> None:
    _, first = hold(pool, server, heard, retry_after)
    assert of_host(pool, server).held_for == seconds
    first.cancel()


@pytest.mark.parametrize(
    "retry_after",
    [
        "0",
        "",
        "soon",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "nan",
        "inf",
        "1 2",
        "30, 30",
        "\u00b2",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 99 Nov 2094 99:99:99 GMT",
        "Sun, 30 Feb 2994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
    ],
)
def test_what_is_over_or_malformed_holds_no_request_back(
    pool: ConnectionPool, server: HandServer, retry_after: str
) -> None:
    peer, first = submit_first(pool, server, "GET", "/first")
    refuse(peer, retry_after)
    assert peer.burst() == ["/first"]
    peer.responds("/first")
    assert text_of(first) == "/first"


def test_a_later_response_makes_the_wait_longer_and_none_makes_it_shorter(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer = warm_up(pool, server, 5)
    futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b", "/c")]
    assert peer.targets(3) == ["/a", "/b", "/c"]
    for retry_after, held_for in ((10, 10), (20, 20), (5, 20)):
        refuse(peer, retry_after)
        heard.wait_for("resent")
        assert of_host(pool, server).held_for == held_for
    settle(pool)
    clock.forward(pool, 19.9)
    settle(pool)
    assert peer.is_silent()
    clock.forward(pool, 0.1)
    targets = peer.targets(3)
    assert sorted(targets) == ["/a", "/b", "/c"]
    peer.responds(*targets)
    assert [text_of(future) for future in futures] == ["/a", "/b", "/c"]


def test_the_first_to_be_told_waits_its_backoff_too(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer, first = submit_first(pool, server, "GET", "/first", retry=RetryPolicy(backoff=20))
    refuse(peer, 10)
    heard.wait_for("resent")
    other = pool.submit("GET", server.url("/other"))
    clock.forward(pool, 10)
    assert peer.burst() == ["/other"]
    peer.responds("/other")
    assert text_of(other) == "/other"
    settle(pool)
    assert peer.is_silent()
    clock.forward(pool, 10)
    assert peer.burst() == ["/first"]
    peer.responds("/first")
    assert text_of(first) == "/first"


def test_a_host_that_refuses_again_is_held_again(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer, first = hold(pool, server, heard)
    for _ in range(4):
        clock.forward(pool, 30)
        assert peer.burst() == ["/first"]
        refuse(peer)
        heard.wait_for("resent")
    clock.forward(pool, 30)
    assert peer.burst() == ["/first"]
    refuse(peer)
    response = first.result(TIMEOUT)
    assert response.status == 503
    assert [attempt.number for attempt in response.attempts] == [1, 2, 3, 4, 5]
    assert of_host(pool, server).held_for == 30


# --- those who were under way ---------------------------------------------------------------------


def test_those_that_were_under_way_and_hear_the_same_are_not_charged(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer = warm_up(pool, server, 5)
    policy = RetryPolicy(attempts=2, backoff=0)
    futures = [pool.submit("GET", server.url(f"/{i}"), retry=policy) for i in range(3)]
    assert peer.targets(3) == ["/0", "/1", "/2"]
    for _ in futures:
        refuse(peer)
        heard.wait_for("resent")
    settle(pool)
    host = of_host(pool, server)
    assert (host.waiting, host.queued) == (1, 2)
    clock.forward(pool, 30)
    targets = peer.targets(3)
    peer.responds(*targets)
    charged = [
        [attempt.charged for attempt in future.result(TIMEOUT).attempts] for future in futures
    ]
    assert charged == [[True], [False], [False]]


def test_a_host_that_refuses_all_of_them_has_each_charged(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer = warm_up(pool, server, 5)
    policy = RetryPolicy(attempts=2, backoff=0)
    futures = [pool.submit("GET", server.url(f"/{i}"), retry=policy) for i in range(3)]
    for round_, outcomes in enumerate([("resent",) * 3, ("gave up", "resent", "resent")]):
        assert sorted(peer.targets(3)) == ["/0", "/1", "/2"], round_
        for outcome in sorted(outcomes):
            refuse(peer)
            heard.wait_for(outcome)
        settle(pool)
        clock.forward(pool, 30)
    assert sorted(peer.targets(2)) == ["/1", "/2"]
    refuse(peer)
    refuse(peer)
    charged = [
        [attempt.charged for attempt in future.result(TIMEOUT).attempts] for future in futures
    ]
    assert charged == [[True], [False, True], [False, True]]


def test_should_retry_is_asked_about_the_first_to_be_told_only(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    asked: list[Attempt] = []

    def should_retry(attempt: Attempt) -> bool:
        asked.append(attempt)
        return True

    peer = warm_up(pool, server, 5)
    policy = RetryPolicy(backoff=0, should_retry=should_retry)
    futures = [pool.submit("GET", server.url(f"/{i}"), retry=policy) for i in range(3)]
    assert peer.targets(3) == ["/0", "/1", "/2"]
    for _ in futures:
        refuse(peer)
        heard.wait_for("resent")
    clock.forward(pool, 30)
    serve(peer, 3)
    assert [text_of(future) for future in futures] == ["/0", "/1", "/2"]
    assert [attempt.request for attempt in asked] == [futures[0].request]


def test_a_response_that_was_under_way_counts(
    pool: ConnectionPool, server: HandServer, heard: Listener
) -> None:
    peer = warm_up(pool, server, 5)
    first, second = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
    assert peer.targets(2) == ["/a", "/b"]
    refuse(peer)
    heard.wait_for("resent")
    peer.responds("/b")
    assert text_of(second) == "/b"
    first.cancel()


def test_one_that_was_under_way_and_fails_for_another_reason_is_charged(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer = warm_up(pool, server, 5)
    first, second = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
    assert peer.targets(2) == ["/a", "/b"]
    refuse(peer)
    heard.wait_for("resent")
    peer.send(b"HTTP/1.1 200")
    peer.close()
    heard.wait_for("closed")
    clock.forward(pool, 29.9)
    settle(pool)
    assert server.is_left_alone()
    clock.forward(pool, 0.1)
    peer = server.accept()
    for target in ("/b", "/a"):
        assert peer.burst() == [target]
        peer.responds(target)
    attempts = second.result(TIMEOUT).attempts
    assert [(attempt.charged, attempt.status) for attempt in attempts] == [(True, None)]
    assert text_of(first) == "/a"


# --- what else goes on meanwhile ------------------------------------------------------------------


def hold_with_reserved(
    pool: ConnectionPool, server: HandServer, heard: Listener
) -> tuple[HandPeer, Future[Response], Future[Response]]:
    """Have a GET refused behind which a POST waits to be alone; return both, and the connection."""
    peer = warm_up(pool, server)
    get = pool.submit("GET", server.url("/get"))
    assert peer.burst() == ["/get"]
    post = pool.submit("POST", server.url("/post"))
    settle(pool)
    refuse(peer)
    heard.wait_for("resent")
    return peer, get, post


def test_one_that_has_a_connection_reserved_is_held_and_then_sent(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer, get, post = hold_with_reserved(pool, server, heard)
    get.cancel()
    settle(pool)
    assert peer.is_silent()
    assert of_host(pool, server).queued == 1
    assert not post.running()
    clock.forward(pool, 30)
    assert peer.burst() == ["/post"]
    peer.responds("/post")
    assert text_of(post) == "/post"


def test_one_that_has_a_connection_reserved_can_be_cancelled_while_held(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer, get, post = hold_with_reserved(pool, server, heard)
    assert post.cancel()
    clock.forward(pool, 30)
    assert peer.burst() == ["/get"]
    peer.responds("/get")
    assert text_of(get) == "/get"
    assert of_host(pool, server).queued == 0


def test_all_connections_are_used_again_when_a_host_has_been_held(
    server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    with ConnectionPool(
        max_connections_per_host=3, pipeline_depth=1, retry=PATIENT, on_event=heard
    ) as pool:
        futures = [pool.submit("GET", server.url(f"/{i}")) for i in range(3)]
        peers = [server.accept() for _ in range(3)]
        for peer in peers:
            peer.burst()
        for peer in peers:
            refuse(peer)
            heard.wait_for("resent")
        settle(pool)
        clock.forward(pool, 30)
        bursts = [peer.burst() for peer in peers]
        for peer, burst in zip(peers, bursts, strict=True):
            peer.responds(*burst)
        assert sorted(bursts) == [["/0"], ["/1"], ["/2"]]
        assert [text_of(future) for future in futures] == ["/0", "/1", "/2"]
        assert server.is_left_alone()


def test_a_held_host_has_its_idle_connections_closed_to_make_room_for_another(
    server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    with (
        HandServer() as another,
        ConnectionPool(max_connections=1, retry=PATIENT, on_event=heard) as pool,
    ):
        held, first = hold(pool, server, heard)
        waiting = pool.submit("GET", server.url("/waiting"))
        future = pool.submit("GET", another.url("/a"))
        assert held.was_left()
        peer = another.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"
        settle(pool)
        assert server.is_left_alone()
        clock.forward(pool, 30)
        back = server.accept()
        serve(back, 2)
        assert (text_of(first), text_of(waiting)) == ("/first", "/waiting")


def test_a_connection_that_becomes_idle_while_its_host_is_held_makes_room_for_another(
    server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    """Though requests are queued for the one that is held."""
    with (
        HandServer() as another,
        ConnectionPool(max_connections=1, pipeline_depth=1, retry=PATIENT, on_event=heard) as pool,
    ):
        first = pool.submit("GET", server.url("/first"))
        held = server.accept()
        assert held.burst() == ["/first"]
        queued = pool.submit("GET", server.url("/queued"))
        future = pool.submit("GET", another.url("/a"))
        refuse(held)
        assert held.was_left()
        peer = another.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert text_of(future) == "/a"
        settle(pool)
        clock.forward(pool, 30)
        back = server.accept()
        serve(back, 2)
        assert (text_of(first), text_of(queued)) == ("/first", "/queued")


def test_a_held_host_is_not_forgotten_and_then_it_is(
    pool: ConnectionPool,
    server: HandServer,
    heard: Listener,
    clock: StoppedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dugong.pool.core.connections.MAX_KNOWN_HOSTS", 2)
    peer, post = submit_first(pool, server, "POST", "/post")
    peer.respond(b"", UNAVAILABLE, headers="Retry-After: 30\r\nConnection: close\r\n")
    assert post.result(TIMEOUT).status == 503
    heard.wait_for("closed")
    with ExitStack() as stack:
        others = [stack.enter_context(HandServer()) for _ in range(8)]
        for other in others[:4]:
            pool.submit("GET", other.url()).cancel()
        assert of_host(pool, server).held_for == 30
        clock.forward(pool, 30)
        for other in others[4:]:
            pool.submit("GET", other.url()).cancel()
        assert server.url("") not in pool.statistics().hosts


# --- the end of waiting ---------------------------------------------------------------------------


def test_it_gives_up_at_once_if_the_deadline_would_pass_while_the_host_is_held(
    pool: ConnectionPool, server: HandServer, heard: Listener
) -> None:
    """Also where the server has asked another for a longer wait."""
    peer = warm_up(pool, server, 5)
    first = pool.submit("GET", server.url("/a"))
    second = pool.submit("GET", server.url("/b"), deadline=20)
    assert peer.targets(2) == ["/a", "/b"]
    refuse(peer, 30)
    heard.wait_for("resent")
    refuse(peer, 10)
    response = second.result(TIMEOUT)
    assert response.status == 503
    assert response.attempts == ()
    first.cancel()


def test_a_deadline_that_passes_while_the_host_is_held_says_so(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    _, first = hold(pool, server, heard)
    future = pool.submit("GET", server.url("/late"), deadline=10)
    clock.forward(pool, 10)
    error = future.exception(TIMEOUT)
    assert isinstance(error, ConnectionTimedOut)
    assert error.delivery is Delivery.UNSENT
    assert "its server, which has asked to be left alone for 20.0 s more" in str(error)
    first.cancel()


def test_cancel_ends_the_wait_for_a_held_host(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer, first = hold(pool, server, heard)
    other = pool.submit("GET", server.url("/other"))
    assert first.cancel()
    assert other.cancel()
    for future in (first, other):
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
    host = of_host(pool, server)
    assert (host.waiting, host.queued, host.held_for) == (0, 0, 30)
    clock.forward(pool, 30)
    settle(pool)
    assert peer.is_silent()


def test_close_ends_the_wait_for_a_held_host(
    pool: ConnectionPool, server: HandServer, heard: Listener
) -> None:
    _, first = hold(pool, server, heard)
    other = pool.submit("GET", server.url("/other"))
    pool.close()
    errors: list[Any] = [future.exception(TIMEOUT) for future in (first, other)]
    assert [type(error) for error in errors] == [PoolClosed, PoolClosed]
    assert [error.delivery for error in errors] == [Delivery.ANSWER_STARTED, Delivery.UNSENT]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_what_its_parent_was_told(
    pool: ConnectionPool, server: HandServer, heard: Listener, clock: StoppedClock
) -> None:
    peer, first = hold(pool, server, heard)
    assert holds_in_child(lambda: isinstance(first.exception(5), PoolClosed))
    thread = threading.Thread(target=lambda: serve(server.accept(), 1))
    thread.start()
    assert holds_in_child(lambda: pool.get(server.url("/child")).text == "/child")
    thread.join()
    clock.forward(pool, 30)
    assert peer.burst() == ["/first"]
    peer.responds("/first")
    assert text_of(first) == "/first"
