"""A host that cannot be reached: whose attempt that is, who waits, and how it is found again."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from dugong import (
    Attempt,
    ConnectError,
    ConnectionPool,
    Delivery,
    DNSUnavailable,
    HostnameNotResolvable,
    PoolClosed,
    Response,
    RetryPolicy,
    TLSError,
)
from dugong.connection import dial
from tests.support.byhand import HandServer, settle
from tests.support.clock import Listener, StoppedClock
from tests.support.pool import dials
from tests.support.refusing import error_of, one_connection, serve
from tests.support.server import TIMEOUT

#: The host is left alone for 7.5, 15, 30, ... seconds, by the clock of the test.
PATIENT = RetryPolicy(backoff=10, max_backoff=100)


class Away(HandServer):
    """A server that refuses connections until it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.go()

    def come(self) -> None:
        """Accept connections from now on."""
        self._listener.listen()

    def go(self) -> None:
        """Refuse connections from now on; those that were accepted are not touched."""
        self._listener.close()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.settimeout(TIMEOUT)

    def __enter__(self) -> Away:
        return self


@pytest.fixture
def server() -> Iterator[Away]:
    with Away() as server:
        yield server


@pytest.fixture
def pool(heard: Listener, clock: StoppedClock) -> Iterator[ConnectionPool]:
    """A pool with one connection, so that requests have to go behind each other."""
    with one_connection(PATIENT, on_event=heard) as pool:
        yield pool


def submit(
    pool: ConnectionPool, server: HandServer, *targets: str, **options: Any
) -> list[Future[Response]]:
    """Submit a request for each of *targets*, all of them before any can fail."""
    with pool._scheduler._core.lock:
        return [pool.submit("GET", server.url(target), **options) for target in targets]


def texts_of(futures: list[Future[Response]]) -> list[str]:
    return [future.result(TIMEOUT).text for future in futures]


# --- whose attempt it is --------------------------------------------------------------------------


def test_that_a_host_cannot_be_reached_is_an_attempt_of_all_that_are_queued(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    futures = submit(pool, server, "/a", "/b", "/c", retry=RetryPolicy(attempts=2, backoff=10))
    heard.wait_for("closed")
    assert not any(future.done() for future in futures)
    clock.forward(pool, 7.5)
    errors = [error_of(future) for future in futures]
    for error in errors:
        assert isinstance(error, ConnectError)
        (attempt,) = error.attempts  # type: ignore[attr-defined]
        assert isinstance(attempt.exception, ConnectError)
        assert attempt == Attempt(
            attempt.when,
            f"127.0.0.1:{server.port}-1",
            str(attempt.exception),
            Delivery.UNSENT,
            exception=attempt.exception,
        )
        assert error.delivery is Delivery.UNSENT  # type: ignore[attr-defined]
    assert len(set(map(id, errors))) == 3


def test_what_is_queued_later_has_an_attempt_less_behind_it(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    (first,) = submit(pool, server, "/first")
    heard.wait_for("closed")
    (second,) = submit(pool, server, "/second")
    clock.forward(pool, 7.5)
    heard.wait_for("closed")
    server.come()
    clock.forward(pool, 15)
    serve(server.accept(), 2)
    assert [len(future.result(TIMEOUT).attempts) for future in (first, second)] == [2, 1]


def test_a_request_without_a_policy_fails_at_once_and_the_others_stay(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    with pool._scheduler._core.lock:
        (first,) = submit(pool, server, "/first")
        (second,) = submit(pool, server, "/second", retry=None)
        (third,) = submit(pool, server, "/third")
    error = error_of(second)
    assert isinstance(error, ConnectError)
    assert error.attempts == ()  # type: ignore[attr-defined]
    assert not first.done()
    server.come()
    clock.forward(pool, 7.5)
    assert serve(server.accept(), 2) == ["/first", "/third"]
    assert texts_of([first, third]) == ["/first", "/third"]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_any_request_is_tried_again_for_nothing_was_sent(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock, method: str
) -> None:
    future = pool.submit(method, server.url("/a"), body=iter([b"once only"]))
    heard.wait_for("closed")
    server.come()
    clock.forward(pool, 7.5)
    peer = server.accept()
    assert peer.request().body == b"once only"
    peer.responds("/a")
    assert texts_of([future]) == ["/a"]


def test_a_stream_is_tried_again(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    read: list[bytes] = []

    def stream() -> None:
        with pool.stream("GET", server.url("/a")) as response:
            read.append(response.read())

    thread = threading.Thread(target=stream)
    thread.start()
    heard.wait_for("closed")
    server.come()
    clock.forward(pool, 7.5)
    assert serve(server.accept(), 1) == ["/a"]
    thread.join()
    assert read == [b"/a"]


def test_that_another_connection_cannot_be_opened_is_no_attempt(
    server: Away, heard: Listener, clock: StoppedClock
) -> None:
    server.come()
    with ConnectionPool(
        max_connections_per_host=2, pipeline_depth=1, retry=None, on_event=heard
    ) as pool:
        (first,) = submit(pool, server, "/first")
        peer = server.accept()
        assert peer.burst() == ["/first"]
        server.go()
        (second,) = submit(pool, server, "/second")
        heard.wait_for("closed")
        assert not second.done()
        peer.responds("/first")
        assert serve(peer, 1) == ["/second"]
        assert texts_of([first, second]) == ["/first", "/second"]
        assert second.result().attempts == ()


def test_what_was_not_sent_is_no_repetition_for_a_budget(
    server: Away, heard: Listener, clock: StoppedClock
) -> None:
    policy = RetryPolicy(backoff=0.1, budget=0.0, should_retry=lambda attempt: True)
    with ConnectionPool(max_connections_per_host=1, retry=policy, on_event=heard) as pool:
        server.come()
        (warm,) = submit(pool, server, "/warm")
        peer = server.accept()
        assert serve(peer, 1) == ["/warm"]
        assert texts_of([warm]) == ["/warm"]
        server.go()
        settle(pool)
        peer.close()
        (future,) = submit(pool, server, "/a")
        heard.wait_for("resent")  # for the idle connection has ended
        for seconds in (0.1, 0.2, 0.4, 0.8):
            heard.wait_for("resent")
            clock.forward(pool, seconds)
        heard.wait_for("resent")
        server.come()
        clock.forward(pool, 1.6)
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.respond(b"", "500 Oh")
        assert future.result(TIMEOUT).status == 500  # the sixth attempt
        (other,) = submit(pool, server, "/b", retry=RetryPolicy(backoff=0, budget=0.0))
        for _ in range(3):
            assert peer.burst() == ["/b"]
            peer.respond(b"", "500 Oh")
        assert serve(peer, 1) == ["/b"]
        assert texts_of([other]) == ["/b"]


# --- how the host is left alone, and found again --------------------------------------------------


def test_the_host_is_left_alone_for_longer_each_time(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    futures = submit(pool, server, "/a", "/b")
    for number, seconds in ((1, 7.5), (2, 15), (3, 30), (4, 60), (5, 75)):
        heard.wait_for("closed")
        futures += submit(pool, server, f"/{number}")  # nor for others
        clock.forward(pool, seconds - 0.1)
        assert dials(pool) == number
        clock.forward(pool, 0.1)
    heard.wait_for("closed")
    assert dials(pool) == 6
    assert [future.done() for future in futures] == [True, True, *[False] * 5]


def test_the_host_is_left_alone_for_as_long_as_the_most_patient_wants(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    """The impatience of one is not to cost the others their attempts."""
    with pool._scheduler._core.lock:  # before either can fail
        (hasty,) = submit(pool, server, "/hasty", retry=RetryPolicy(backoff=0.01))
        (patient,) = submit(pool, server, "/patient")
    heard.wait_for("closed")
    clock.forward(pool, 7.4)
    assert dials(pool) == 1
    server.come()
    clock.forward(pool, 0.1)
    assert serve(server.accept(), 2) == ["/hasty", "/patient"]
    assert texts_of([hasty, patient]) == ["/hasty", "/patient"]
    assert len(patient.result().attempts) == 1


def test_it_is_tried_to_reach_with_one_connection_at_a_time(
    server: Away, heard: Listener, clock: StoppedClock
) -> None:
    with ConnectionPool(max_connections_per_host=3, retry=PATIENT, on_event=heard) as pool:
        targets = ["/a", "/b", "/c"]
        futures = submit(pool, server, *targets)
        for _ in targets:  # each has found out by itself
            heard.wait_for("closed")
        for number, seconds in ((4, 7.5), (5, 15)):
            clock.forward(pool, seconds)
            heard.wait_for("closed")
            assert dials(pool) == number
        server.come()
        clock.forward(pool, 30)
        # All of them, once it is there.
        peers = [server.accept() for _ in targets]
        bursts = [peer.burst() for peer in peers]
        for peer, burst in zip(peers, bursts, strict=True):
            peer.responds(*burst)
        assert sorted(bursts) == [[target] for target in targets]
        assert texts_of(futures) == targets


@pytest.mark.parametrize("hook", [None, lambda attempt: True], ids=["plain", "hook"])
def test_the_queue_keeps_its_order(
    server: Away, heard: Listener, clock: StoppedClock, hook: Any
) -> None:
    policy = RetryPolicy(backoff=10, should_retry=hook)
    targets = ["/a", "/b", "/c", "/d"]
    options: dict[str, Any] = {"max_connections_per_host": 1, "timeout": TIMEOUT}
    with ConnectionPool(retry=policy, on_event=heard, **options) as pool:
        futures = submit(pool, server, *targets)
        for _ in targets:
            heard.wait_for("resent")
        futures += submit(pool, server, "/later")
        clock.forward(pool, 7.5)
        for _ in futures:
            heard.wait_for("resent")
        server.come()
        clock.forward(pool, 15)
        assert serve(server.accept(), 5) == [*targets, "/later"]
        assert texts_of(futures) == [*targets, "/later"]


def test_a_server_that_goes_away_with_requests_in_flight_and_comes_back_has_them_all(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    server.come()
    (warm,) = submit(pool, server, "/warm")
    peer = server.accept()
    serve(peer, 1)
    assert texts_of([warm]) == ["/warm"]
    targets = ["/a", "/b", "/c"]
    futures = submit(pool, server, *targets)
    assert peer.burst()[0] == "/a"
    server.go()
    peer.close()
    heard.wait_for("closed")
    heard.wait_for("closed")
    server.come()
    clock.forward(pool, 15)
    peer = server.accept()
    assert serve(peer, 3) == targets
    assert texts_of(futures) == targets


def test_a_host_that_was_reached_is_left_alone_for_short_when_it_goes_again(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    futures = submit(pool, server, "/a")
    for seconds in (7.5, 15):
        heard.wait_for("closed")
        clock.forward(pool, seconds)
    heard.wait_for("closed")
    server.come()
    clock.forward(pool, 30)
    peer = server.accept()
    assert serve(peer, 1) == ["/a"]
    assert texts_of(futures) == ["/a"]
    server.go()
    peer.close()
    settle(pool)
    futures = submit(pool, server, "/b")
    heard.wait_for("closed")  # the idle connection, and then the new one
    heard.wait_for("closed")
    server.come()
    clock.forward(pool, 7.5)
    assert serve(server.accept(), 1) == ["/b"]
    assert texts_of(futures) == ["/b"]


def veto(attempt: Attempt) -> bool:
    return False


def fail(attempt: Attempt) -> bool:
    raise ConnectError("not even asked")


@pytest.mark.parametrize(
    "options",
    [
        {"retry": None},
        {"retry": RetryPolicy(backoff=10, attempts=1)},
        {"retry": RetryPolicy(backoff=10, should_retry=veto)},
        {"retry": RetryPolicy(backoff=10, should_retry=fail)},
        {"deadline": 5},
    ],
    ids=["None", "one attempt", "veto", "a hook that fails", "deadline"],
)
def test_when_no_request_is_left_that_has_tried_the_next_may_try_at_once(
    pool: ConnectionPool, server: Away, options: dict[str, Any]
) -> None:
    for _ in range(2):
        for future in submit(pool, server, "/a", "/b", **options):
            assert isinstance(error_of(future), ConnectError)
    server.come()
    futures = submit(pool, server, "/c")
    assert serve(server.accept(), 1) == ["/c"]
    assert texts_of(futures) == ["/c"]


def test_a_host_that_cannot_be_reached_is_forgotten_like_any_other(
    pool: ConnectionPool, server: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.pool.core.connections.MAX_KNOWN_HOSTS", 1)
    (future,) = submit(pool, server, "/a", retry=None)
    assert isinstance(error_of(future), ConnectError)
    with HandServer() as another:
        pool.submit("GET", another.url()).cancel()
        assert server.url("") not in pool.statistics().hosts


# --- the end of waiting ---------------------------------------------------------------------------


def test_it_gives_up_at_once_if_the_deadline_would_pass_before_it_is_tried_again(
    pool: ConnectionPool, server: Away, heard: Listener, clock: StoppedClock
) -> None:
    with pool._scheduler._core.lock:
        short, long = (submit(pool, server, "/a", deadline=seconds)[0] for seconds in (7, 8))
    assert isinstance(error_of(short), ConnectError)
    server.come()
    clock.forward(pool, 7.5)
    assert serve(server.accept(), 1) == ["/a"]
    assert texts_of([long]) == ["/a"]


def test_cancel_and_close_end_the_wait(pool: ConnectionPool, server: Away, heard: Listener) -> None:
    first, second = submit(pool, server, "/a", "/b")
    heard.wait_for("closed")
    assert first.cancel()
    pool.close()
    assert first.cancelled()
    error = error_of(second)
    assert isinstance(error, PoolClosed)
    assert error.delivery is Delivery.UNSENT
    assert len(error.attempts) == 1
    assert pool.statistics().queued == 0


# --- why it cannot be reached ---------------------------------------------------------------------


def test_a_name_that_cannot_be_resolved_now_is_tried_again(
    pool: ConnectionPool,
    heard: Listener,
    clock: StoppedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve = dial.resolve

    def fails(host: str, port: int, **options: Any) -> Any:
        raise DNSUnavailable(host)

    with HandServer() as server:
        monkeypatch.setattr(dial, "resolve", fails)
        future = pool.submit("GET", f"http://server.test:{server.port}/a")
        heard.wait_for("closed")
        monkeypatch.setattr(dial, "resolve", lambda host, port, **_: resolve("127.0.0.1", port))
        clock.forward(pool, 7.5)
        assert serve(server.accept(), 1) == ["/a"]
        (attempt,) = future.result(TIMEOUT).attempts
        assert isinstance(attempt.exception, DNSUnavailable)


def test_a_name_that_does_not_exist_is_not_tried_again(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(host: str, port: int, **options: Any) -> Any:
        raise HostnameNotResolvable(host)

    monkeypatch.setattr(dial, "resolve", fails)
    future = pool.submit("GET", "http://server.test/a")
    error = error_of(future)
    assert isinstance(error, HostnameNotResolvable)
    assert error.attempts == ()


def test_a_certificate_of_an_unknown_authority_is_not_tried_again(
    pool: ConnectionPool, server_context: ssl.SSLContext
) -> None:
    with HandServer() as server:
        future = pool.submit("GET", f"https://127.0.0.1:{server.port}/")
        with pytest.raises(ssl.SSLError):
            server_context.wrap_socket(server.accept().sock, server_side=True)
        error = error_of(future)
    assert isinstance(error, TLSError)
    assert error.attempts == ()  # type: ignore[attr-defined]
