"""`HostPolicy`, and pools that treat hosts by one."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from dugong import (
    Client,
    ConnectionPool,
    ConnectionTimedOut,
    Event,
    HostPolicy,
    PoolClosed,
    Request,
    RetryPolicy,
    StateError,
)
from dugong.pool.core import adaptive
from dugong.testing import MockPool, MockRequest, MockResponse, Peer, Server
from tests.support.byhand import HandServer, settle
from tests.support.clock import StoppedClock
from tests.support.pool import wait_until
from tests.support.server import TIMEOUT

SLOW = HostPolicy(min_interval=5.0)
SECRET = "sesame"


# --- a policy by itself ---------------------------------------------------------------------------


def test_a_policy_says_nothing_by_default() -> None:
    policy = HostPolicy()
    assert policy == HostPolicy(
        max_connections=None,
        pipeline_depth=None,
        min_interval=0.0,
        rate=None,
        burst=1,
        headers=None,
        adaptive=False,
        max_in_flight=None,
        upload_rate=None,
        download_rate=None,
    )
    assert repr(policy) == "HostPolicy()"
    assert policy.headers == ()


def test_a_policy_takes_its_parameters_by_name_alone() -> None:
    with pytest.raises(TypeError):
        HostPolicy(3)  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("max_connections", 0, ValueError, ""),
        ("max_connections", 2.0, TypeError, ""),
        ("max_connections", True, TypeError, ""),
        ("pipeline_depth", -1, ValueError, ""),
        ("pipeline_depth", "2", TypeError, ""),
        ("max_in_flight", 0, ValueError, ""),
        ("max_in_flight", 10**30, ValueError, ""),
        ("min_interval", -0.1, ValueError, ""),
        ("min_interval", float("nan"), ValueError, ""),
        ("min_interval", float("inf"), ValueError, ""),
        ("min_interval", None, TypeError, ""),
        ("min_interval", False, TypeError, ""),
        ("rate", 0, ValueError, ""),
        ("rate", -1.0, ValueError, ""),
        ("rate", 1e-30, ValueError, ""),
        ("rate", float("inf"), ValueError, ""),
        ("rate", "5/s", TypeError, ""),
        ("burst", 0, ValueError, ""),
        ("burst", 1.5, TypeError, ""),
        ("burst", 2, ValueError, ""),  # of what rate?
        ("adaptive", 1, TypeError, ""),
        ("upload_rate", 0, ValueError, ""),
        ("upload_rate", float("inf"), ValueError, ""),
        ("download_rate", -1.0, ValueError, ""),
        ("download_rate", "1K", TypeError, ""),
        ("download_rate", True, TypeError, ""),
        ("headers", "User-Agent: me", TypeError, ""),
        ("headers", {"Bad Name": "x"}, ValueError, "header"),
        ("headers", {"Host": "other"}, ValueError, "host"),
        ("headers", {"Content-Length": "3"}, ValueError, "content-length"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    name: str, value: object, error: type[Exception], said: str
) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(error, match=said or name):
        HostPolicy(**options)


def test_a_policy_never_changes() -> None:
    policy = HostPolicy(rate=2.0)
    with pytest.raises(AttributeError, match=r"replace\(rate=\.\.\.\)"):
        policy.rate = 3.0
    with pytest.raises(AttributeError):
        del policy.rate
    assert policy.replace(burst=3) == HostPolicy(rate=2.0, burst=3)
    with pytest.raises(ValueError, match="burst"):
        policy.replace(burst=0)


def test_policies_are_equal_if_their_values_are() -> None:
    policies = [HostPolicy(headers={"X-A": "1"}), HostPolicy(headers=[("X-A", "1")])]
    assert policies[0] == policies[1]
    assert len({*policies, HostPolicy()}) == 2
    assert policies[0] != HostPolicy(headers={"X-A": "2"})
    assert policies[0] != "policy"


def test_a_policy_can_be_copied_and_pickled() -> None:
    policy = HostPolicy(rate=2.5, burst=4, headers={"X-A": SECRET}, adaptive=True)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert copy.deepcopy(policy) == policy


def test_the_values_of_headers_are_not_shown() -> None:
    policy = HostPolicy(headers={"Authorization": SECRET}, max_connections=2)
    assert repr(policy) == "HostPolicy(max_connections=2, headers=('Authorization',))"
    with pytest.raises(ValueError, match="X-A") as caught:
        HostPolicy(headers={"X-A": f"{SECRET}\r\n"})
    assert SECRET not in str(caught.value)


# --- the policy of a host -------------------------------------------------------------------------


def ok(request: MockRequest) -> str:
    return request.target


def sent_to(pool: MockPool) -> list[str]:
    """Return the URLs of what has been sent so far."""
    return [request.url for request in pool.requests]


def test_a_pool_asks_once_which_policy_a_host_has() -> None:
    asked = []

    def policy_of(origin: Any) -> HostPolicy | None:
        asked.append((str(origin), threading.current_thread()))
        return None

    with MockPool(ok, host_policy=policy_of) as pool:
        for url in ("http://a/1", "http://a/2", "http://b:81/", "https://a/"):
            pool.get(url)
    me = threading.current_thread()
    assert asked == [(origin, me) for origin in ("http://a", "http://b:81", "https://a")]


def test_what_the_callable_raises_is_raised_by_that_call_and_loses_nothing() -> None:
    class Unwilling(Exception):
        pass

    answers = iter([Unwilling("not now"), HostPolicy(headers={"X-A": "1"})])

    def policy_of(origin: Any) -> HostPolicy:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with MockPool(ok, host_policy=policy_of) as pool:
        with pytest.raises(Unwilling):
            pool.submit("GET", "http://a/1")
        assert pool.get("http://a/2").text == "/2"
        assert pool.requests[0].headers["X-A"] == "1"


def test_what_the_callable_returns_must_be_a_policy() -> None:
    words = "must return a HostPolicy or None, not float"
    with (
        MockPool(ok, host_policy=lambda origin: 5.0) as pool,
        pytest.raises(TypeError, match=words),
    ):
        pool.get("http://a/")
    with pytest.raises(TypeError, match="host_policy must be callable"):
        ConnectionPool(host_policy=HostPolicy())  # type: ignore[arg-type]  # what is tested


def test_the_callable_may_use_the_pool() -> None:
    def policy_of(origin: Any) -> HostPolicy:
        if origin.host == "a":
            assert pool.get("http://policies/a").status == 200
        return HostPolicy()

    with MockPool(ok, host_policy=policy_of) as pool:
        assert pool.get("http://a/").status == 200


@pytest.mark.parametrize("origin", ["http://a", "HTTP://A:80/", "http://a/path?query#part"])
def test_a_policy_is_set_for_the_origin_of_a_url(origin: str) -> None:
    with MockPool(ok) as pool:
        pool.set_host_policy(origin, HostPolicy(headers={"X-A": "1"}))
        for url in ("http://a/", "http://a:8080/", "https://a/"):
            pool.get(url)
        assert [request.headers.get("X-A") for request in pool.requests] == ["1", None, None]


def test_a_policy_is_set_for_an_origin() -> None:
    with MockPool(ok) as pool:
        request = Request("GET", "http://a/")
        pool.set_host_policy(request.origin, HostPolicy(headers={"X-A": "1"}))
        pool.request(request)
        assert pool.requests[0].headers["X-A"] == "1"


@pytest.mark.parametrize(
    ("origin", "error"),
    [
        ("a:80", ValueError),
        ("http://", ValueError),
        ("ftp://a", ValueError),
        ("http://user:sesame@a/", ValueError),
        (5, TypeError),
        (("http", "a", 80), TypeError),
    ],
)
def test_a_policy_is_not_set_for_what_is_no_origin(origin: Any, error: type[Exception]) -> None:
    with MockPool(ok) as pool, pytest.raises(error) as caught:
        pool.set_host_policy(origin, HostPolicy())
    assert SECRET not in str(caught.value)


def test_what_is_no_policy_is_not_set() -> None:
    with MockPool(ok) as pool, pytest.raises(TypeError, match="must be a HostPolicy or None"):
        pool.set_host_policy("http://a", {"rate": 5})  # type: ignore[arg-type]  # what is tested


def test_a_policy_that_was_set_counts_more_than_the_callable_until_it_is_taken_back() -> None:
    asked = []

    def policy_of(origin: Any) -> HostPolicy:
        asked.append(origin.host)
        return HostPolicy(headers={"X-A": "asked"})

    with MockPool(ok, host_policy=policy_of) as pool:
        pool.set_host_policy("http://a", HostPolicy(headers={"X-A": "set"}))
        pool.get("http://a/")
        assert not asked
        pool.set_host_policy("http://a", None)
        assert asked == ["a"]
        pool.get("http://a/")
        assert [request.headers["X-A"] for request in pool.requests] == ["set", "asked"]


# --- headers --------------------------------------------------------------------------------------


def sent_headers(pool: MockPool) -> list[str | None]:
    return [request.headers.get("X-A") for request in pool.requests]


def test_headers_of_a_policy_are_between_those_of_the_request_and_those_of_the_pool() -> None:
    with MockPool(ok, headers={"X-A": "pool", "X-B": "pool"}) as pool:
        pool.set_host_policy("http://a", HostPolicy(headers={"x-a": "policy"}))
        pool.get("http://a/")
        pool.get("http://a/", headers={"X-C": "request"})
        pool.get("http://a/", headers={"X-A": "request"})
        pool.post("http://a/", b"body")
        pool.get("http://other/")
    assert sent_headers(pool) == ["policy", "policy", "request", "policy", "pool"]
    assert {request.headers["X-B"] for request in pool.requests} == {"pool"}
    assert pool.requests[3].body == b"body"


def test_headers_of_a_client_can_be_replaced_by_those_of_a_policy() -> None:
    with MockPool(ok) as pool, Client(pool=pool) as client:
        client.set_host_policy("http://a", HostPolicy(headers={"X-A": "policy"}))
        client.get("http://a/")
        client.get("http://a/", headers={"X-A": "request"})
    assert sent_headers(pool) == ["policy", "request"]


def test_new_headers_are_sent_with_what_is_queued(server: HandServer) -> None:
    with ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool:
        origin = server.url()
        pool.set_host_policy(origin, HostPolicy(headers={"X-A": "old"}))
        futures = [pool.submit("GET", server.url("/first"))]
        peer = server.accept()
        assert peer.request().headers["x-a"] == "old"
        futures.append(pool.submit("GET", server.url("/plain")))
        futures.append(pool.submit("POST", server.url("/post"), body=b"body", headers={"X-B": "1"}))
        futures.append(pool.submit("PUT", server.url("/put"), body=iter([b"chunk"])))
        futures.append(pool.submit("GET", server.url("/made"), headers=lambda _: {"X-B": "2"}))
        futures.append(pool.submit("GET", server.url("/own"), headers={"X-A": "own"}))
        pool.set_host_policy(origin, HostPolicy(headers={"X-A": "new"}))
        peer.responds("/first")
        received = []
        for _ in futures[1:]:
            received.append(peer.request())
            peer.responds(received[-1].target)
        assert [future.result(TIMEOUT).text for future in futures[1:]] == [
            "/plain", "/post", "/put", "/made", "/own",
        ]  # fmt: skip
        assert [request.headers["x-a"] for request in received] == ["new"] * 4 + ["own"]
        assert [request.body for request in received] == [b"", b"body", b"chunk", b"", b""]
        assert [request.headers.get("x-b") for request in received[1:4]] == ["1", None, "2"]


def test_headers_that_are_taken_back_are_not_sent_with_what_is_queued(server: HandServer) -> None:
    with ConnectionPool(max_connections_per_host=1, pipeline_depth=1) as pool:
        pool.set_host_policy(server.url(), HostPolicy(headers={"X-A": "old"}))
        first = pool.submit("GET", server.url("/first"))
        peer = server.accept()
        assert peer.request().headers["x-a"] == "old"
        second = pool.submit("GET", server.url("/second"), headers={"X-B": "1"})
        pool.set_host_policy(server.url(), None)
        peer.responds("/first")
        assert "x-a" not in peer.request().headers
        peer.responds("/second")
        assert [future.result(TIMEOUT).status for future in (first, second)] == [200, 200]


# --- who waits ------------------------------------------------------------------------------------


def test_requests_start_in_the_interval(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(host_policy=lambda origin: SLOW) as pool:
        futures = [pool.submit("GET", server.url(f"/{i}")) for i in range(3)]
        peer = server.accept()
        for i in range(3):
            assert peer.burst() == [f"/{i}"]
            peer.responds(f"/{i}")
            assert futures[i].result(TIMEOUT).text == f"/{i}"
            clock.forward(pool, 4.9)
            settle(pool)
            assert peer.is_silent()
            clock.forward(pool, 0.1)
        assert server.is_left_alone()


def test_what_waits_holds_no_thread_and_no_connection() -> None:
    with MockPool(ok, host_policy=lambda origin: SLOW if origin.host == "slow" else None) as pool:
        pool.get("http://slow/first")
        waiting = [pool.submit("GET", f"http://slow/{i}") for i in range(100)]
        threads = threading.active_count()
        assert [pool.get(f"http://fast/{i}").text for i in range(50)] == [
            f"/{i}" for i in range(50)
        ]
        statistics = pool.statistics().hosts["http://slow"]
        assert (statistics.queued, statistics.in_flight) == (100, 0)
        assert len(statistics.connections) <= 1
        assert threading.active_count() <= threads + 3  # the connection to the other host
        for future in waiting:
            assert future.cancel()


def test_a_request_in_the_thread_of_its_caller_waits(
    server: HandServer, clock: StoppedClock
) -> None:
    with ConnectionPool(host_policy=lambda o: SLOW) as pool, ThreadPoolExecutor(1) as executor:
        first = executor.submit(pool.get, server.url("/1"))
        peer = server.accept()
        assert peer.burst() == ["/1"]
        peer.responds("/1")
        assert first.result(TIMEOUT).text == "/1"
        settle(pool)
        second = executor.submit(pool.get, server.url("/2"))
        wait_until(pool, lambda: pool.statistics().queued == 1)
        assert peer.is_silent()
        clock.forward(pool, 5)
        assert peer.burst() == ["/2"]
        peer.responds("/2")
        assert second.result(TIMEOUT).text == "/2"


def test_streams_wait_too(server: HandServer, clock: StoppedClock) -> None:
    with ConnectionPool(host_policy=lambda o: SLOW) as pool, ThreadPoolExecutor(1) as executor:

        def read(target: str) -> bytes:
            with pool.stream("GET", server.url(target)) as response:
                return response.read()

        first = executor.submit(read, "/1")
        peer = server.accept()
        assert peer.burst() == ["/1"]
        peer.responds("/1")
        assert first.result(TIMEOUT) == b"/1"
        second = executor.submit(read, "/2")
        wait_until(pool, lambda: pool.statistics().queued == 1)
        assert peer.is_silent()
        clock.forward(pool, 5)
        assert peer.burst() == ["/2"]
        peer.responds("/2")
        assert second.result(TIMEOUT) == b"/2"


def test_redirects_wait_too(server: HandServer, clock: StoppedClock) -> None:
    with Client(host_policy=lambda origin: SLOW, trust_env=False) as client:
        future = client.submit("GET", server.url("/1"))
        peer = server.accept()
        assert peer.burst() == ["/1"]
        peer.respond(status="302 Found", headers="Location: /2\r\n")
        pool = client._pool
        wait_until(pool, lambda: pool.statistics().queued == 1)
        assert peer.is_silent()
        clock.forward(pool, 5)
        assert peer.burst() == ["/2"]
        peer.responds("/2")
        assert future.result(TIMEOUT).text == "/2"


def test_repetitions_wait_too(server: HandServer, clock: StoppedClock) -> None:
    retry = RetryPolicy(backoff=0)
    with ConnectionPool(host_policy=lambda origin: SLOW, retry=retry) as pool:
        future = pool.submit("GET", server.url("/1"))
        peer = server.accept()
        assert peer.burst() == ["/1"]
        peer.respond(status="500 Oops")
        wait_until(pool, lambda: pool.statistics().queued == 1)
        settle(pool)
        assert peer.is_silent()
        clock.forward(pool, 5)
        assert peer.burst() == ["/1"]
        peer.responds("/1")
        assert future.result(TIMEOUT).text == "/1"


def test_no_more_are_in_flight_than_may_be(server: HandServer) -> None:
    with ConnectionPool(host_policy=lambda origin: HostPolicy(max_in_flight=2)) as pool:
        futures = [pool.submit("GET", server.url(f"/{i}")) for i in range(6)]
        peers = [server.accept(), server.accept()]
        for _ in range(3):
            targets = [peer.burst() for peer in peers]
            assert list(map(len, targets)) == [1, 1]
            assert pool.statistics().in_flight == 2
            for peer, (target,) in zip(peers, targets, strict=True):
                peer.responds(target)
        assert [future.result(TIMEOUT).text for future in futures] == [f"/{i}" for i in range(6)]
        assert server.is_left_alone()


# --- how a wait ends otherwise --------------------------------------------------------------------


@pytest.fixture
def waiting(clock: StoppedClock) -> Iterator[MockPool]:
    """A pool whose next request has to wait."""
    with MockPool(ok, host_policy=lambda origin: SLOW) as pool:
        pool.get("http://a/")
        yield pool


def test_a_deadline_passes_at_the_gate(waiting: MockPool, clock: StoppedClock) -> None:
    future = waiting.submit("GET", "http://a/late", deadline=2.0)
    clock.forward(waiting, 2)
    with pytest.raises(ConnectionTimedOut, match=r"its policy, which lets the next request start"):
        future.result(TIMEOUT)
    clock.forward(waiting, 3)
    assert waiting.get("http://a/next").text == "/next"


def test_what_waits_can_be_cancelled(waiting: MockPool, clock: StoppedClock) -> None:
    cancelled, kept = (waiting.submit("GET", f"http://a/{i}") for i in range(2))
    assert cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result(TIMEOUT)
    clock.forward(waiting, 5)
    assert kept.result(TIMEOUT).text == "/1"
    assert sent_to(waiting) == ["http://a/", "http://a/1"]


def test_closing_the_pool_ends_what_waits(waiting: MockPool) -> None:
    future = waiting.submit("GET", "http://a/1")
    waiting.close()
    with pytest.raises(PoolClosed):
        future.result(TIMEOUT)


def test_a_policy_may_be_set_by_any_thread_while_requests_wait(
    waiting: MockPool, clock: StoppedClock
) -> None:
    future = waiting.submit("GET", "http://a/1")
    with ThreadPoolExecutor(1) as executor:
        executor.submit(waiting.set_host_policy, "http://a", HostPolicy()).result(TIMEOUT)
    assert future.result(TIMEOUT).text == "/1"


def test_a_policy_may_be_set_in_a_callback(waiting: MockPool) -> None:
    first = waiting.submit("GET", "http://b/1")
    second = waiting.submit("GET", "http://b/2")
    first.add_done_callback(lambda _: waiting.set_host_policy("http://b", HostPolicy()))
    assert second.result(TIMEOUT).text == "/2"


def test_a_policy_may_be_set_in_a_signal_handler(
    waiting: MockPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = waiting.submit("GET", "http://a/1")
    core = waiting._scheduler._core
    previous = signal.signal(
        signal.SIGUSR1, lambda *_: waiting.set_host_policy("http://a", HostPolicy())
    )
    try:
        with core.transaction():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert future.result(TIMEOUT).text == "/1"


def test_in_a_forked_child_the_policy_counts_on(waiting: MockPool) -> None:
    future = waiting.submit("GET", "http://a/1")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            held = waiting.submit("GET", "http://a/held")
            free = waiting.get("http://b/free")
            waiting.set_host_policy("http://a", HostPolicy())
            said = f"{free.text} {held.result(TIMEOUT).text} {future.done()}"
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"/free /held True"
    os.waitpid(pid, 0)
    assert not future.done()
    future.cancel()


# --- what a host asks for -------------------------------------------------------------------------


def test_retry_after_counts_beside_the_interval(clock: StoppedClock) -> None:
    def respond(request: MockRequest) -> MockResponse:
        if len(pool.requests) == 1:
            return MockResponse(503, headers={"Retry-After": "7"})
        return MockResponse(200)

    with MockPool(respond, host_policy=lambda origin: SLOW) as pool:
        future = pool.submit("GET", "http://a/")
        wait_until(pool, lambda: pool.statistics().waiting == 1)
        assert pool.statistics().hosts["http://a"].held_for == 7.0
        clock.forward(pool, 6.9)
        assert len(pool.requests) == 1
        clock.forward(pool, 0.1)
        assert future.result(TIMEOUT).status == 200


# --- accuracy, by the real clock ------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [HostPolicy(min_interval=0.1), HostPolicy(rate=10.0)], ids=["interval", "rate"]
)
def test_the_starts_of_requests_are_as_far_apart_as_they_should_be(policy: HostPolicy) -> None:
    starts: list[float] = []

    def on_event(event: Event) -> None:
        if event.kind == "sent":
            starts.append(event.when)

    with MockPool(ok, host_policy=lambda origin: policy, on_event=on_event) as pool:
        for _ in range(20):  # a machine that is busy may spoil some
            starts.clear()
            futures = [pool.submit("GET", f"http://a/{i}") for i in range(8)]
            for future in futures:
                future.result(TIMEOUT)
            gaps = [after - before for before, after in pairwise(starts)]
            if all(0.095 <= gap <= 0.105 for gap in gaps):
                break
        else:
            pytest.fail(f"they were never as far apart as they should be: {gaps}")


# --- a rate that is found, by the real clock ------------------------------------------------------


class Limited:
    """A server that allows *rate* requests a second, and refuses all others at once."""

    def __init__(self, rate: float, headers: str) -> None:
        self.outcomes: list[tuple[float, bool]] = []  # when, and whether it was accepted
        self._rate = rate
        self._headers = headers
        self._lock = threading.Lock()
        self._tokens = self._burst = rate / 5
        self._then = time.monotonic()

    def __call__(self, peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):  # the client may go at any time
            for request in peer.requests():
                if self._accepts():
                    peer.respond(request.target.encode())
                else:
                    peer.respond(status="429 Too Many Requests", headers=self._headers)

    def _accepts(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
            self._then = now
            is_accepted = self._tokens >= 1
            self._tokens -= is_accepted
            self.outcomes.append((now, is_accepted))
            return is_accepted

    def is_found(self, since: float) -> bool:
        """Return True if nine tenths of what it allows were used, and next to nothing refused."""
        outcomes = [is_accepted for when, is_accepted in list(self.outcomes) if when >= since]
        accepted, seconds = sum(outcomes), time.monotonic() - since
        return accepted >= 0.9 * self._rate * seconds and accepted > 0.95 * len(outcomes)


@pytest.mark.parametrize("headers", ["", "Retry-After: 1\r\n"], ids=["plain", "retry-after"])
@pytest.mark.parametrize("rate", [50, 500])
def test_an_adaptive_policy_finds_what_a_server_allows(
    monkeypatch: pytest.MonkeyPatch, rate: float, headers: str
) -> None:
    monkeypatch.setattr(adaptive, "FIRST_RATE", rate / 2)  # to get there sooner
    heard: list[str] = []

    def on_event(event: Event) -> None:
        if event.kind == "learned":
            heard.append(event.reason)

    server = Limited(rate, headers)
    policy = HostPolicy(adaptive=True)
    with (
        Server(server, repeat=True) as place,
        ConnectionPool(
            host_policy=lambda origin: policy,
            on_event=on_event,
            retry=RetryPolicy(attempts=100, backoff=0.01),
        ) as pool,
    ):
        done = pool.as_completed(place.url(f"/{i}") for i in itertools.count())
        began = since = time.monotonic()
        # A machine that is busy may spoil one stretch of time, or some.
        for future in done:
            assert future.result().text == future.request.target
            if (now := time.monotonic()) - since >= 1.5:
                if heard and server.is_found(since):
                    break
                since = now
            assert now - began < 60
        (host,) = pool.statistics().hosts.values()
        assert host.rate is not None
        assert host.rate > 0.8 * rate  # a busy machine has timers late, so it may be any more
        assert host.policy == policy
        assert "429 Too Many Requests: no more than" in heard[0]
        done.close()  # type: ignore[attr-defined]  # it is a generator


def test_a_request_that_would_wait_for_its_own_thread_is_refused() -> None:
    def begin(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbeginning")
        peer.until_eof()

    policy = HostPolicy(max_in_flight=1)
    with (
        Server(begin) as place,
        ConnectionPool(host_policy=lambda origin: policy) as pool,
        pool.stream("GET", place.url()),
        pytest.raises(StateError, match="it would wait for itself"),
    ):
        pool.get(place.url())
