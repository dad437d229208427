"""When servers die or misbehave: each request gets its own response, maybe at another attempt, or
one exception that says how far it had got, and no request pays for another.

Nearly every response here has the target of its request as its body, so that a response which was
given to the wrong request is seen.
"""

from __future__ import annotations

import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from dugong import (
    Attempt,
    ConnectError,
    ConnectionClosed,
    ConnectionPool,
    Delivery,
    Event,
    InvalidResponse,
    Response,
    ResponseTooLarge,
    RetryPolicy,
    UnsupportedResponse,
)
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.scheduler import Scheduler
from dugong.pool.core.traffic import Traffic
from tests.support.byhand import HandPeer, HandServer, named, settle, submit_first, warm_up
from tests.support.pool import NO_SECOND_TRY, each, name_target, url, wait_for
from tests.support.server import TIMEOUT, Peer, Script, ScriptedServer

#: What is not sent again at once is not sent again as long as any test runs.
AT_ONCE = RetryPolicy(backoff=1e6, max_backoff=1e6)
THREE_ATTEMPTS = RetryPolicy(attempts=3, backoff=0)


def one_connection(retry: RetryPolicy | None, **options: Any) -> ConnectionPool:
    """Return a pool in which requests have to go behind each other."""
    return ConnectionPool(max_connections_per_host=1, timeout=TIMEOUT, retry=retry, **options)


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    """A pool with one connection, in which a request that fails has failed."""
    with one_connection(NO_SECOND_TRY) as pool:
        yield pool


@pytest.fixture
def trying_pool() -> Iterator[ConnectionPool]:
    """A pool with one connection, in which there are three attempts."""
    with one_connection(THREE_ATTEMPTS) as pool:
        yield pool


@pytest.fixture
def pool_without_retries() -> Iterator[ConnectionPool]:
    with one_connection(None) as pool:
        yield pool


def delivery_of(future: Future[Response], kind: type[Exception]) -> Delivery | None:
    """Return what the exception of *future*, which is of this *kind*, says of the delivery."""
    error = future.exception(TIMEOUT)
    assert type(error) is kind
    delivery: Delivery | None = error.delivery  # type: ignore[attr-defined]
    return delivery


def get_all(pool: ConnectionPool, server: HandServer, *targets: str) -> list[Future[Response]]:
    return [pool.submit("GET", server.url(target)) for target in targets]


def texts(futures: Iterable[Future[Response]]) -> list[str]:
    return [future.result(TIMEOUT).text for future in futures]


def charged(outcome: Response | BaseException | None) -> list[Delivery | None]:
    """Return the verdicts of the earlier attempts that were charged to a request."""
    attempts: tuple[Attempt, ...] = outcome.attempts  # type: ignore[union-attr]
    return [attempt.delivery for attempt in attempts if attempt.charged]


# --- the verdict ----------------------------------------------------------------------------------


def test_the_verdict_is_unsent_if_there_is_no_connection(pool: ConnectionPool) -> None:
    with HandServer() as server:
        closed = server.url("/a")
    assert delivery_of(pool.submit("GET", closed), ConnectError) is Delivery.UNSENT


@pytest.mark.parametrize("length", [None, 10])
def test_the_verdict_is_partly_sent_if_the_connection_ends_within_the_body_of_the_request(
    pool: ConnectionPool, server: HandServer, length: int | None
) -> None:
    died = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"12345"
        assert died.wait(TIMEOUT)
        yield b"67890"

    headers = {} if length is None else {"Content-Length": str(length)}
    future = pool.submit("POST", server.url("/a"), headers=headers, body=pieces())
    peer = server.accept()
    peer.head()
    peer.reset()
    died.set()
    assert delivery_of(future, ConnectionClosed) is Delivery.PARTLY_SENT


def test_the_verdict_is_partly_sent_if_the_body_was_not_asked_for(
    pool: ConnectionPool, server: HandServer
) -> None:
    future = pool.submit("POST", server.url("/a"), body=b"12345", expect100=True)
    peer = server.accept()
    peer.head()
    peer.close()
    assert delivery_of(future, ConnectionClosed) is Delivery.PARTLY_SENT


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ending", [HandPeer.close, HandPeer.reset])
def test_the_verdict_is_sent_if_nothing_of_a_response_came(
    pool: ConnectionPool, server: HandServer, method: str, ending: Callable[[HandPeer], None]
) -> None:
    future = pool.submit(method, server.url("/a"))
    peer = server.accept()
    assert peer.burst() == ["/a"]
    ending(peer)
    assert delivery_of(future, ConnectionClosed) is Delivery.SENT


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (b"H", ConnectionClosed),
        (named("/a")[:-1], ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n/a\r\n", ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", InvalidResponse),
        (b"SSH-2.0-server\r\n", InvalidResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\n/a", InvalidResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", UnsupportedResponse),
    ],
)
def test_the_verdict_is_that_a_response_had_begun(
    pool: ConnectionPool, server: HandServer, method: str, response: bytes, kind: type[Exception]
) -> None:
    peer = warm_up(pool, server)
    future = pool.submit(method, server.url("/a"))
    assert peer.burst() == ["/a"]
    peer.send(response)
    peer.close()
    assert delivery_of(future, kind) is Delivery.ANSWER_STARTED


def test_an_interim_response_is_not_the_beginning_of_a_response(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer, future = submit_first(pool, server, "POST", "/a")
    peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    peer.close()
    assert delivery_of(future, ConnectionClosed) is Delivery.SENT


def test_every_request_has_an_exception_of_its_own(pool: ConnectionPool) -> None:
    with HandServer() as server:
        closed = server.url("/a")
    futures = [pool.submit("GET", closed) for _ in range(3)]
    errors = [future.exception(TIMEOUT) for future in futures]
    assert len(set(map(id, errors))) == 3


# --- what goes back, and what fails ---------------------------------------------------------------


def test_a_post_whose_connection_died_is_not_sent_again(
    trying_pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(trying_pool, server)
    post = trying_pool.submit("POST", server.url("/a"))
    (behind,) = get_all(trying_pool, server, "/b")
    assert peer.burst() == ["/a"]
    peer.close()
    assert delivery_of(post, ConnectionClosed) is Delivery.SENT
    peer = server.accept()
    assert peer.burst() == ["/b"]
    peer.responds("/b")
    assert texts([behind]) == ["/b"]


def test_a_get_whose_connection_died_after_others_were_answered_is_sent_again_alone_and_at_once(
    server: HandServer,
) -> None:
    with one_connection(AT_ONCE) as pool:
        peer = warm_up(pool, server)
        futures = get_all(pool, server, "/a", "/b")
        assert peer.targets(2) == ["/a", "/b"]
        peer.close()
        peer = server.accept()
        assert peer.burst() == ["/a"]
        settle(pool)
        assert peer.is_silent()
        peer.responds("/a")
        assert peer.burst() == ["/b"]
        peer.responds("/b")
        assert texts(futures) == ["/a", "/b"]
        assert charged(futures[0].result()) == [Delivery.SENT]
        assert charged(futures[1].result()) == []


def test_what_a_caller_has_sent_by_himself_is_sent_again_at_once_too(server: HandServer) -> None:
    with one_connection(AT_ONCE) as pool, ThreadPoolExecutor(1) as caller:
        peer = warm_up(pool, server)
        settle(pool)
        response = caller.submit(pool.get, server.url("/a"))
        assert peer.burst() == ["/a"]
        peer.close()
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert texts([response]) == ["/a"]


def test_a_request_that_ends_a_fresh_connection_waits_before_it_is_sent_again(
    server: HandServer,
) -> None:
    resent = threading.Event()

    def listen(event: Event) -> None:
        if event.kind == "resent":
            resent.set()

    with one_connection(AT_ONCE, on_event=listen) as pool:
        (future,) = get_all(pool, server, "/a")
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.reset()
        wait_for(resent)
        settle(pool)
        assert server.is_left_alone()
        assert pool.statistics().waiting == 1
        end_waits(pool)
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert texts([future]) == ["/a"]
        assert charged(future.result()) == [Delivery.SENT]


def end_waits(pool: ConnectionPool) -> None:
    """Have those that wait to be tried again have waited long enough."""
    scheduler = pool._scheduler
    with scheduler._core.transaction():
        for job in list(scheduler._retries.waiting):
            scheduler._retries._resume_locked(job)


def test_what_was_lost_because_of_another_request_says_so(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    broken, behind = get_all(pool, server, "/a", "/b")
    assert peer.targets(2) == ["/a", "/b"]
    peer.send(b"SSH-2.0-server\r\n")
    assert delivery_of(broken, InvalidResponse) is Delivery.ANSWER_STARTED
    peer = server.accept()
    assert peer.burst() == ["/b"]
    peer.responds("/b")
    assert texts([behind]) == ["/b"]
    (attempt,) = behind.result().attempts
    assert (attempt.delivery, attempt.number, attempt.charged) == (Delivery.SENT, 1, False)
    assert type(attempt.exception) is ConnectionClosed
    assert "another request: invalid status line" in str(attempt.exception)


def test_one_that_has_lost_a_connection_before_is_not_failed_by_an_idle_one_that_ended(
    server: HandServer,
) -> None:
    with ConnectionPool(max_connections_per_host=2, timeout=TIMEOUT, retry=AT_ONCE) as pool:
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        peers = [server.accept(), server.accept()]
        for peer, burst in [(peer, peer.burst()) for peer in peers]:
            peer.responds(*burst)
            (future,) = (f for f in futures if f.request.target in burst)
            assert future.result(TIMEOUT).text in burst
            settle(pool)
        future = pool.submit("GET", server.url("/c"))
        idle, last_used = peers
        assert last_used.burst() == ["/c"]
        idle.close()
        last_used.close()
        peer = server.accept()
        assert peer.burst() == ["/c"]
        peer.responds("/c")
        assert future.result(TIMEOUT).text == "/c"


def test_a_request_that_takes_its_connections_down_meets_one_used_one_and_then_fresh_ones(
    server: HandServer,
) -> None:
    with ConnectionPool(max_connections_per_host=3, timeout=TIMEOUT, retry=THREE_ATTEMPTS) as pool:
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b", "/c")]
        peers = [server.accept() for _ in range(3)]
        for peer, burst in [(peer, peer.burst()) for peer in peers]:
            peer.responds(*burst)
            (future,) = (f for f in futures if f.request.target in burst)
            assert future.result(TIMEOUT).text in burst
            settle(pool)
        killer = pool.submit("GET", server.url("/killer"))
        assert peers[2].burst() == ["/killer"]
        peers[2].close()
        for _ in range(2):
            fresh = server.accept()
            assert fresh.burst() == ["/killer"]
            fresh.close()
        assert delivery_of(killer, ConnectionClosed) is Delivery.SENT
        assert charged(killer.exception()) == [Delivery.SENT] * 2
        settle(pool)
        assert peers[0].is_silent()
        assert peers[1].is_silent()


@pytest.fixture
def connect_slowly(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Return what has to be released before a connection, once established, is used."""
    semaphore = threading.Semaphore(0)
    connected = Traffic.connected

    def slowly(scheduler: Scheduler, pipeline: PooledConnection) -> bool:
        assert semaphore.acquire(timeout=TIMEOUT)
        return connected(scheduler, pipeline)

    monkeypatch.setattr(Traffic, "connected", slowly)
    return semaphore


def test_no_request_waits_for_one_that_lost_a_connection_while_another_connection_is_idle(
    server: HandServer, connect_slowly: threading.Semaphore
) -> None:
    with ConnectionPool(max_connections_per_host=2, timeout=TIMEOUT, retry=AT_ONCE) as pool:
        connect_slowly.release(2)
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        peers = [server.accept(), server.accept()]
        for peer, burst in [(peer, peer.burst()) for peer in peers]:
            peer.responds(*burst)
            (future,) = (f for f in futures if f.request.target in burst)
            assert future.result(TIMEOUT).text in burst
            settle(pool)
        idle, last_used = peers
        lost = pool.submit("GET", server.url("/lost"))
        assert last_used.burst() == ["/lost"]
        last_used.close()
        fresh = server.accept()
        behind = pool.submit("GET", server.url("/behind"))
        connect_slowly.release()
        assert fresh.burst() == ["/lost"]
        assert idle.burst() == ["/behind"]
        idle.responds("/behind")
        assert behind.result(TIMEOUT).text == "/behind"
        fresh.responds("/lost")
        assert lost.result(TIMEOUT).text == "/lost"


@pytest.mark.parametrize("retry", [None, AT_ONCE], ids=["never", "at-once"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_fresh_connection_that_ends_before_it_is_used_costs_a_request_nothing(
    server: HandServer,
    connect_slowly: threading.Semaphore,
    method: str,
    retry: RetryPolicy | None,
) -> None:
    with one_connection(retry) as pool:
        future = pool.submit(method, server.url("/a"))
        server.accept().close()
        connect_slowly.release(2)
        peer = server.accept()
        assert peer.burst() == ["/a"]
        peer.responds("/a")
        assert texts([future]) == ["/a"]
        assert charged(future.result()) == []


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_host_that_ends_every_connection_before_it_is_used_fails_the_request(
    server: HandServer, connect_slowly: threading.Semaphore, attempts: int
) -> None:
    with one_connection(RetryPolicy(attempts=attempts, backoff=0)) as pool:
        future = pool.submit("POST", server.url("/a"))
        for _ in range(1 + attempts):  # for the first is not charged
            server.accept().close()
            connect_slowly.release()
        assert delivery_of(future, ConnectionClosed) is Delivery.UNSENT
        assert server.is_left_alone()


# --- one request that ends every connection it is sent on -----------------------------------------


class Deadly:
    """A script that responds to what it gets, but ends the connection at each "/killer".

    With *late*, it has answered what stood before that; else nothing. `killed` counts.
    The first connection is that of a pool which has shown, after *warm* responses, that it sends
    *count* requests behind each other.
    """

    def __init__(self, ending: Callable[[Peer], None], late: bool, warm: int, count: int) -> None:
        self.killed = 0
        self._ending = ending
        self._late = late
        self._counts = iter([*[1] * warm, count])
        self._lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        try:
            while True:
                count = next(self._counts, 1)
                targets = [peer.request().target for _ in range(count)]
                while peer._received:
                    targets.append(peer.request().target)
                safe = targets
                if "/killer" in targets:
                    safe = targets[: targets.index("/killer")] if self._late else []
                peer.send(b"".join(map(named, safe)))
                if safe is not targets:
                    with self._lock:
                        self.killed += 1
                    self._ending(peer)
                    return
        except (EOFError, ConnectionError):
            pass


@pytest.mark.parametrize("ending", [Peer.cut, Peer.reset])
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
@pytest.mark.parametrize("killers", [(0,), (1,), (2,), (3,), (0, 1), (1, 3), (0, 1, 2, 3)])
def test_a_request_that_ends_each_connection_runs_out_of_attempts_and_fails_alone(
    killers: tuple[int, ...], late: bool, ending: Callable[[Peer], None]
) -> None:
    targets = ["/killer" if i in killers else f"/{i}" for i in range(4)]
    deadly = Deadly(ending, late, warm=3, count=4)
    with (
        ScriptedServer(deadly, repeat=True) as server,
        one_connection(THREE_ATTEMPTS) as pool,
    ):
        for _ in range(3):
            pool.get(url(server, "/warm"))
        futures = [pool.submit("GET", url(server, target)) for target in targets]
        for target, future in zip(targets, futures, strict=True):
            if target == "/killer":
                assert delivery_of(future, ConnectionClosed) is Delivery.SENT
                assert charged(future.exception()) == [Delivery.SENT] * 2
            else:
                assert texts([future]) == [target]
                assert len(charged(future.result())) <= 1  # for standing before a killer
        assert pool.get(url(server, "/after")).text == "/after"
    # Where they stood together, some were on a connection that another one has ended.
    assert 3 * len(killers) <= deadly.killed <= 3 * len(killers) + 1


@pytest.mark.parametrize("connections", [1, 4])
def test_no_request_needs_more_than_two_attempts_because_of_others(connections: int) -> None:
    deadly = Deadly(Peer.cut, late=False, warm=0, count=1)
    two_attempts = RetryPolicy(attempts=2, backoff=0)
    with (
        ScriptedServer(deadly, repeat=True) as server,
        ConnectionPool(
            max_connections_per_host=connections, timeout=TIMEOUT, retry=two_attempts
        ) as pool,
    ):
        targets = ["/killer" if i % 25 == 24 else f"/{i}" for i in range(200)]
        futures = [pool.submit("GET", url(server, target)) for target in targets]
        for target, future in zip(targets, futures, strict=True):
            if target == "/killer":
                assert delivery_of(future, ConnectionClosed) is Delivery.SENT
                assert charged(future.exception()) == [Delivery.SENT]
            else:
                assert texts([future]) == [target]


# --- no second attempt ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [HandPeer.close, HandPeer.reset])
def test_without_retries_not_even_what_met_the_end_of_an_idle_connection_is_sent_twice(
    pool_without_retries: ConnectionPool, server: HandServer, ending: Callable[[HandPeer], None]
) -> None:
    peer = warm_up(pool_without_retries, server)
    (future,) = get_all(pool_without_retries, server, "/a")
    assert peer.burst() == ["/a"]
    ending(peer)
    assert delivery_of(future, ConnectionClosed) is Delivery.SENT
    settle(pool_without_retries)
    assert server.is_left_alone()


LARGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
LAST_WORDS: dict[str, tuple[bytes, type[Exception]]] = {
    "none": (b"", ConnectionClosed),
    "cut": (named("/a")[:-1], ConnectionClosed),
    "garbage": (b"SSH-2.0-server\r\n", InvalidResponse),
    "not-ours": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", UnsupportedResponse),
    "too-large": (LARGE, ResponseTooLarge),
}


@pytest.mark.parametrize(("words", "kind"), LAST_WORDS.values(), ids=LAST_WORDS)
def test_without_retries_what_stood_behind_one_that_failed_is_not_sent_twice_either(
    server: HandServer, words: bytes, kind: type[Exception]
) -> None:
    with one_connection(None, max_body_size=1000) as pool:
        peer = warm_up(pool, server)
        first, *behind = get_all(pool, server, "/a", "/b", "/c")
        assert peer.targets(3) == ["/a", "/b", "/c"]
        peer.send(words)
        peer.close()
        assert type(first.exception(TIMEOUT)) is kind
        for future in behind:  # to which nothing has been answered, good or bad
            assert delivery_of(future, ConnectionClosed) is Delivery.SENT
        settle(pool)
        assert server.is_left_alone()


def test_without_retries_what_stood_behind_the_last_response_is_not_sent_twice_either(
    pool_without_retries: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool_without_retries, server)
    first, second = get_all(pool_without_retries, server, "/a", "/b")
    assert peer.targets(2) == ["/a", "/b"]
    peer.send(named("/a", "Connection: close\r\n"))
    assert texts([first]) == ["/a"]
    assert delivery_of(second, ConnectionClosed) is Delivery.DISCLAIMED
    settle(pool_without_retries)
    assert server.is_left_alone()


def test_without_retries_what_stood_behind_one_that_was_cancelled_is_not_sent_twice_either(
    pool_without_retries: ConnectionPool, server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.pool.core.cancellation.DRAIN_TIME", 0.0)
    peer = warm_up(pool_without_retries, server)
    first, second = get_all(pool_without_retries, server, "/a", "/b")
    assert peer.targets(2) == ["/a", "/b"]
    first.cancel()
    assert delivery_of(second, ConnectionClosed) is Delivery.SENT
    settle(pool_without_retries)
    assert server.is_left_alone()


def test_without_retries_what_was_not_sent_still_is(
    pool_without_retries: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool_without_retries, server, window=8)
    settle(pool_without_retries)
    peer.close()
    with pool_without_retries._scheduler._core.lock:  # so that they are taken together
        futures = get_all(pool_without_retries, server, "/a", "/b", "/c")
    peer = server.accept()
    assert peer.targets(3) == ["/a", "/b", "/c"]
    peer.responds("/a", "/b", "/c")
    assert texts(futures) == ["/a", "/b", "/c"]
    for future in futures:
        (attempt,) = future.result().attempts
        assert (attempt.delivery, attempt.charged) == (Delivery.UNSENT, False)


def test_one_that_must_not_be_sent_twice_does_not_keep_its_neighbours_from_it(
    trying_pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(trying_pool, server)
    (before,) = get_all(trying_pool, server, "/a")
    once = trying_pool.submit("GET", server.url("/once"), retry=None)
    (behind,) = get_all(trying_pool, server, "/b")
    assert peer.targets(3) == ["/a", "/once", "/b"]
    peer.close()
    assert delivery_of(once, ConnectionClosed) is Delivery.SENT
    peer = server.accept()
    for target in ("/a", "/b"):
        assert peer.burst() == [target]
        peer.responds(target)
    assert texts([before, behind]) == ["/a", "/b"]


# --- a server that dies at every byte -------------------------------------------------------------

CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
STREAMS = {
    "length": [named("/a"), named("/bb"), named("/ccc")],
    "chunked": [CHUNKED.format(len(t), t).encode() for t in ("/a", "/bb", "/ccc")],
    "mixed": [
        named("/a"),
        INTERIM + named("/bb"),
        CHUNKED.format(4, "/ccc").encode(),
    ],
}
TARGETS = ["/a", "/bb", "/ccc"]


def dying_after(stream: bytes, ending: Callable[[Peer], None]) -> Script:
    """Return a script that responds to 3 requests, and 3 that it has at once with *stream*."""

    def script(peer: Peer) -> None:
        for _ in range(3):
            name_target(peer, peer.request())
        assert [peer.request().target for _ in TARGETS] == TARGETS
        peer.send(stream)
        ending(peer)

    return script


def outcomes(
    stream: bytes,
    ending: Callable[[Peer], None],
    contexts: tuple[ssl.SSLContext | None, ssl.SSLContext | None] = (None, None),
) -> list[list[Delivery | None]]:
    """Return what it costs a three-deep pipeline, which is answered, that its server sends *stream*
    and dies: the verdicts of the failed attempts of each request, if they count.

    *contexts* are the server's and the client's, for TLS.
    """
    ours, theirs = contexts
    scheme = "http" if ours is None else "https"
    scripts = dying_after(stream, ending), each(name_target)
    with (
        ScriptedServer(*scripts, context=ours) as server,
        one_connection(THREE_ATTEMPTS, ssl_context=theirs) as pool,
    ):
        for i in range(3):
            assert pool.get(url(server, f"/{i}", scheme)).text == f"/{i}"
        futures = [pool.submit("GET", url(server, target, scheme)) for target in TARGETS]
        assert texts(futures) == TARGETS, f"after {len(stream)} bytes"
        return [charged(future.result()) for future in futures]


def expected_costs(responses: list[bytes], size: int) -> list[list[Delivery]]:
    """Return the same for a server that dies after *size* bytes of *responses*."""
    costs: list[list[Delivery]] = [[] for _ in TARGETS]
    whole, begun = whole_responses(responses, size)
    if b"".join(responses)[:size].endswith(b"\n0\r\n"):
        return costs  # that body is whole, and the connection has ended in order (RFC 9112 §8)
    if whole < len(TARGETS):
        costs[whole].append(Delivery.ANSWER_STARTED if begun else Delivery.SENT)
    return costs


def whole_responses(responses: list[bytes], size: int) -> tuple[int, bool]:
    """Return how many of *responses* are whole in *size* bytes, and True if another has begun."""
    whole = 0
    for response in responses:
        if size < len(response):
            return whole, size > 0 and not response[:size].endswith(INTERIM)
        size -= len(response)
        whole += 1
    return whole, False


@pytest.mark.parametrize("responses", STREAMS.values(), ids=STREAMS)
def test_a_server_that_closes_at_any_byte_costs_one_attempt_at_what_it_owed_a_response_first(
    responses: list[bytes],
) -> None:
    stream = b"".join(responses)
    for size in range(len(stream) + 1):
        costs = outcomes(stream[:size], Peer.cut)
        assert costs == expected_costs(responses, size), f"after {size} bytes"


@pytest.mark.parametrize("responses", STREAMS.values(), ids=STREAMS)
def test_a_server_that_resets_at_any_byte_costs_at_most_one_attempt(responses: list[bytes]) -> None:
    stream = b"".join(responses)
    for size in range(len(stream) + 1):
        costs = outcomes(stream[:size], Peer.reset)
        assert sum(map(len, costs)) <= 1
        # The reset may have destroyed what had been sent before it, but adds nothing.
        assert not any(costs[whole_responses(responses, size)[0] + 1 :]), f"after {size} bytes"


def say_good_bye(peer: Peer) -> None:
    """Say in TLS that this is the end."""
    assert isinstance(peer.sock, ssl.SSLSocket)
    peer.sock.settimeout(0)  # not to wait for a response to it
    try:
        peer.sock.unwrap()
    except ssl.SSLWantReadError:
        pass


@pytest.mark.parametrize("ending", [Peer.cut, say_good_bye])
def test_a_server_that_closes_within_tls_costs_one_attempt_at_what_it_owed_a_response_first(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    ending: Callable[[Peer], None],
) -> None:
    responses = STREAMS["length"]
    stream = b"".join(responses)
    for size in {*range(0, len(stream) + 1, 20), len(responses[0]), len(stream)}:
        costs = outcomes(stream[:size], ending, (server_context, client_context))
        assert costs == expected_costs(responses, size), f"after {size} bytes"


# --- whatever servers do --------------------------------------------------------------------------


class Unreliable:
    """A script that responds, each with the target of its request, in one of many ways; or not.

    `processed` counts how often each target was asked for.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.processed: Counter[str] = Counter()
        self._ways: list[Callable[[Peer, bytes], bool]] = [
            *[self._plain] * 12,
            self._chunked,
            self._slowly,
            self._interim,
            self._last,
            self._last_without_saying_so,
            self._old,
            self._until_close,
            self._cut_in_head,
            self._cut_in_body,
            self._reset,
            self._nothing,
        ]

    def __call__(self, peer: Peer) -> None:
        try:
            while True:
                request = peer.request()
                with self._lock:
                    self.processed[request.target] += 1
                    way = self._random.choice(self._ways)
                if not way(peer, request.target.encode()):
                    return
        except (EOFError, ConnectionError):
            pass

    def _plain(self, peer: Peer, target: bytes) -> bool:
        peer.respond(target)
        return True

    def _chunked(self, peer: Peer, target: bytes) -> bool:
        peer.send(CHUNKED.format(len(target), target.decode()).encode())
        return True

    def _slowly(self, peer: Peer, target: bytes) -> bool:
        peer.send_bytewise(named(target.decode()))
        return True

    def _interim(self, peer: Peer, target: bytes) -> bool:
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        peer.respond(target)
        return True

    def _last(self, peer: Peer, target: bytes) -> bool:
        peer.respond(target, headers="Connection: close\r\n")
        return False

    def _last_without_saying_so(self, peer: Peer, target: bytes) -> bool:
        peer.respond(target)
        return False

    def _old(self, peer: Peer, target: bytes) -> bool:
        peer.send(named(target.decode(), version="HTTP/1.0"))
        return False

    def _until_close(self, peer: Peer, target: bytes) -> bool:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + target)
        return False

    def _cut_in_head(self, peer: Peer, target: bytes) -> bool:
        peer.send(named(target.decode())[:20])
        return False

    def _cut_in_body(self, peer: Peer, target: bytes) -> bool:
        peer.send(named(target.decode())[:-1])
        return False

    def _reset(self, peer: Peer, target: bytes) -> bool:
        peer.send(named(target.decode())[: len(target)])
        peer.reset()
        return False

    def _nothing(self, peer: Peer, target: bytes) -> bool:
        return False


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_every_get_gets_its_own_response_in_the_end_and_every_post_its_own_or_none(
    seed: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.pool.core.pipelining.PENALTY", 0.001)
    patient = RetryPolicy(attempts=50, backoff=0)
    with (
        ScriptedServer(Unreliable(seed), repeat=True) as server,
        ConnectionPool(
            max_connections_per_host=connections, timeout=TIMEOUT, retry=patient
        ) as pool,
    ):
        futures = [
            pool.submit("POST" if i % 10 == 0 else "GET", url(server, f"/{i}")) for i in range(300)
        ]
        answered = 0
        for i, future in enumerate(futures):
            error = future.exception(TIMEOUT)
            if error is None:
                answered += 1
                assert future.result().text == f"/{i}"
            else:
                assert future.request.method == "POST"
                assert isinstance(error, ConnectionClosed)
                assert error.delivery in (Delivery.SENT, Delivery.ANSWER_STARTED)
        statistics = pool.statistics()
    assert (statistics.queued, statistics.waiting, statistics.in_flight) == (0, 0, 0)
    assert statistics.answered == answered
    assert statistics.sent == answered + statistics.resent + (len(futures) - answered)
    assert statistics.opened == statistics.closed + statistics.connections


def test_a_post_is_never_processed_twice() -> None:
    unreliable = Unreliable(0)
    with (
        ScriptedServer(unreliable, repeat=True) as server,
        ConnectionPool(
            max_connections_per_host=4, timeout=TIMEOUT, retry=RetryPolicy(backoff=0)
        ) as pool,
    ):
        futures = [pool.submit("POST", url(server, f"/{i}")) for i in range(200)]
        answered = set()
        for i, future in enumerate(futures):
            if future.exception(TIMEOUT) is None:
                assert future.result().text == f"/{i}"
                answered.add(f"/{i}")
    assert set(unreliable.processed.values()) == {1}
    assert len(answered) > 100
    assert answered <= set(unreliable.processed)


def test_a_request_that_lost_a_used_connection_gets_a_fresh_one() -> None:
    both_are_open = threading.Barrier(2)

    def dies_at_the_second(peer: Peer) -> None:
        target = peer.head().target
        both_are_open.wait(10)
        peer.respond(target.encode())
        peer.sock.recv(1)  # and is gone, as if its idle time-out had just passed

    def responds(peer: Peer) -> None:
        peer.respond(peer.head().target.encode())

    with (
        ScriptedServer(dies_at_the_second, dies_at_the_second, responds) as server,
        ConnectionPool(max_connections_per_host=2) as pool,
    ):
        base = "http://{}:{}".format(*server.address)
        assert [r.text for r in pool.map([f"{base}/1", f"{base}/2"])] == ["/1", "/2"]
        assert pool.get(f"{base}/3").text == "/3"
