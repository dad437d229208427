"""Interleavings and extremes in which a request that is tried again could be lost, sent where it
must not be, or keep others from what is theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

import pytest

from dugong import Attempt, ConnectionPool, Response, RetryPolicy
from dugong.pool.core import connections
from dugong.pool.core.lending import Lending
from dugong.pool.core.traffic import Traffic
from dugong.pool.dialer import Dialer
from dugong.pool.future import ResponseFuture
from tests.support.byhand import HandServer, named, settle, warm_up
from tests.support.clock import Listener, StoppedClock
from tests.support.pool import (
    discard_rest,
    each,
    name_target,
    open_site,
    signal_after,
    wait_for,
    wait_until_parked,
)
from tests.support.refusing import AT_ONCE, SLOW
from tests.support.server import TIMEOUT, Peer, ReceivedRequest


class Unreachable:
    """Has every attempt to connect fail, once it is told to `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.dialled = 0
        monkeypatch.setattr(Dialer, "__call__", self._dial)

    def _dial(self, origin: Any, proxy: Any) -> Any:
        self.dialled += 1
        wait_for(self.go_on)
        raise ConnectionRefusedError("nothing listens there")


def dial_later(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have each thread that connects wait for the event that is returned."""
    go_on = threading.Event()
    dial = Dialer.__call__

    def dial_then(self: Any, origin: Any, proxy: Any) -> Any:
        wait_for(go_on)
        return dial(self, origin, proxy)

    monkeypatch.setattr(Dialer, "__call__", dial_then)
    return go_on


def test_however_many_requests_are_asked_about_each_gets_its_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No question is asked in the midst of another."""
    host = Unreachable(monkeypatch)
    policy = RetryPolicy(backoff=0, attempts=2, should_retry=lambda attempt: True)
    with ConnectionPool(retry=policy) as pool:
        futures = [pool.submit("GET", f"http://host/{i}") for i in range(1000)]
        host.go_on.set()
        for future in futures:
            assert isinstance(future.exception(TIMEOUT), ConnectionRefusedError)


def test_a_listener_that_raises_what_ends_a_thread_ends_none_of_the_pool(
    server: HandServer,
) -> None:
    def exits(event: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit

    with ConnectionPool(retry=AT_ONCE, on_event=exits) as pool:
        future = pool.submit("GET", server.url("/a"))
        server.accept().reset()
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert future.result(TIMEOUT).text == "/a"


def test_an_upload_that_was_refused_is_not_sent_again_if_its_body_has_failed_since(
    server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = signal_after(monkeypatch, Traffic, "responded")

    def body() -> Iterator[bytes]:
        yield b"some"
        wait_for(answered)
        raise ValueError("no more")

    with ConnectionPool(retry=AT_ONCE) as pool:
        future = pool.submit("PUT", server.url("/a"), body=body)
        peer = server.accept()
        peer.head()
        peer.exactly(len(b"4\r\nsome\r\n"))
        peer.respond(b"", "503 Service Unavailable")
        response = future.result(TIMEOUT)
        assert (response.status, response.attempts) == (503, ())


def test_the_last_connections_are_not_closed_for_another_that_cannot_be_opened(
    server: HandServer, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Listener()
    with ConnectionPool(retry=AT_ONCE, pipeline_depth=1, on_event=heard) as pool:
        first, second = pool.submit("GET", server.url("/1")), pool.submit("GET", server.url("/2"))
        peers = server.accept(), server.accept()
        for peer, (target,) in [(peer, peer.burst()) for peer in peers]:
            peer.responds(target)
        assert (first.result(TIMEOUT).text, second.result(TIMEOUT).text) == ("/1", "/2")
        settle(pool)
        away = Unreachable(monkeypatch)
        away.go_on.set()
        futures = [pool.submit("GET", server.url(target)) for target in ("/3", "/4", "/5")]
        heard.wait_for("closed")
        bursts = {peer.burst()[0]: peer for peer in peers}
        bursts["/3"].reset()
        heard.wait_for("resent")
        peer = bursts["/4"]
        peer.responds("/4")
        assert peer.burst() == ["/3"]
        peer.responds("/3")
        assert peer.burst() == ["/5"]
        peer.responds("/5")
        assert [future.result(TIMEOUT).text for future in futures] == ["/3", "/4", "/5"]
        assert away.dialled == 1


def test_a_blocking_request_that_is_interrupted_in_the_queue_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was sent by its caller himself, on a connection that ended just then."""
    targets: list[str] = []

    def first(peer: Peer) -> None:
        name_target(peer, peer.request())
        peer.request()

    def second(peer: Peer, request: ReceivedRequest) -> None:
        targets.append(request.target)
        name_target(peer, request)

    def interrupted(self: ResponseFuture, timeout: float | None) -> None:
        raise KeyboardInterrupt

    with open_site(first, each(second), retry=AT_ONCE, max_connections_per_host=1) as site:
        site.pool.get(site.url("/warm"))
        wait_until_parked(site.pool)
        go_on = dial_later(monkeypatch)
        with monkeypatch.context() as patched:
            patched.setattr(ResponseFuture, "_wait_pending", interrupted)
            with pytest.raises(KeyboardInterrupt):
                site.pool.get(site.url("/a"))
        assert site.pool.statistics().queued == 0
        go_on.set()
        assert site.pool.get(site.url("/b")).text == "/b"
    assert targets == ["/b"]


def test_a_connection_is_not_kept_by_a_caller_who_is_interrupted_when_he_gives_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """His request was refused, and waits to be tried again."""

    def refuse(peer: Peer) -> None:
        name_target(peer, peer.request())
        peer.request()
        peer.respond(b"", "503 Service Unavailable")
        discard_rest(peer)

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with open_site(refuse, each(name_target), retry=SLOW, max_connections_per_host=1) as site:
        site.pool.get(site.url("/warm"))
        wait_until_parked(site.pool)
        with monkeypatch.context() as patched:
            patched.setattr(Lending, "give_back", interrupted)
            with pytest.raises(KeyboardInterrupt):
                site.pool.get(site.url("/a"))
        assert site.goes_on()


def test_what_a_response_has_decided_does_not_wait_for_the_next_request_of_its_connection(
    server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller borrows the connection before the receiver has told who waits for the responses."""
    monkeypatch.setattr(connections, "RELEASE_TIME", 60.0)  # or its timer would see to it
    borrowed = threading.Event()
    options: dict[str, Any] = {"max_connections_per_host": 1, "timeout": TIMEOUT}
    with ConnectionPool(retry=AT_ONCE, **options) as pool, ThreadPoolExecutor(1) as executor:
        peer = warm_up(pool, server)
        settle(pool)
        first = pool.submit("GET", server.url("/a"))
        assert peer.burst() == ["/a"]
        only_once = RetryPolicy(methods=frozenset())
        futures = [
            pool.submit("GET", server.url("/b")),
            pool.submit("GET", server.url("/c"), retry=only_once),
        ]
        assert peer.targets(2) == ["/b", "/c"]
        slow: SimpleQueue[Future[Response]] = SimpleQueue()

        def borrow(future: object) -> None:
            slow.put(executor.submit(pool.get, server.url("/slow")))
            wait_for(borrowed)

        futures[0].add_done_callback(borrow)
        peer.responds("/a")
        assert first.result(TIMEOUT).text == "/a"
        refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        peer.send(named("/b") + refusal)
        assert peer.burst() == ["/slow"]
        borrowed.set()
        assert futures[1].result(TIMEOUT).status == 503
        peer.responds("/slow")
        assert slow.get(timeout=TIMEOUT).result(TIMEOUT).text == "/slow"


def test_the_next_request_tries_at_once_if_the_one_that_waited_for_its_host_is_cancelled(
    clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Listener()
    host = Unreachable(monkeypatch)
    host.go_on.set()
    with ConnectionPool(retry=SLOW, on_event=heard) as pool:
        future = pool.submit("GET", "http://host/a")
        heard.wait_for("closed")
        assert future.cancel()
        pool.submit("GET", "http://host/b")
        heard.wait_for("closed")
        assert host.dialled == 2


@pytest.mark.parametrize("how", ["request", "stream that is refused"])
def test_a_response_that_pauses_while_its_upload_goes_on_is_received_whole(
    how: str, server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is longer than the time-out, but that counts only if neither side moves."""
    paused = signal_after(monkeypatch, Traffic, "sends_body")
    go_on = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"some"
        wait_for(go_on)

    def put(pool: ConnectionPool) -> tuple[int, bytes]:
        if how == "request":
            response = pool.put(server.url(), body=body(), timeout=0.05)
            return response.status, response.body
        with pool.stream("PUT", server.url(), body=body(), timeout=0.05) as stream:
            return stream.status, stream.read()

    status = "200 OK" if how == "request" else "503 Service Unavailable"
    with ConnectionPool(retry=AT_ONCE) as pool, ThreadPoolExecutor(1) as executor:
        response = executor.submit(put, pool)
        peer = server.accept()
        peer.head()
        peer.exactly(len(b"4\r\nsome\r\n"))
        peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nfir".encode())
        wait_for(paused)
        peer.send(b"st.")
        go_on.set()
        assert response.result(TIMEOUT) == (int(status[:3]), b"first.")


def test_no_policy_is_asked_about_what_has_ended_since(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Unreachable(monkeypatch)
    asked: list[str] = []

    def cancel_all(attempt: Attempt) -> bool:
        assert attempt.request is not None
        asked.append(attempt.request.target)
        for future in futures:
            future.cancel()
        return True

    with ConnectionPool(retry=RetryPolicy(should_retry=cancel_all)) as pool:
        futures = [pool.submit("GET", f"http://host/{i}") for i in range(3)]
        host.go_on.set()
        assert not wait(futures, TIMEOUT).not_done
        settle(pool)
    assert asked == ["/2"]
