"""When servers die or misbehave: each request gets its own answer, or one exception that says how
far it had got, and no request pays for another.

Nearly every answer here has the target of its request as its body, so that an answer which was
given to the wrong request is seen.
"""

from __future__ import annotations

import random
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from dugong import (
    ConnectionClosed,
    ConnectionPool,
    Delivery,
    InvalidResponse,
    Response,
    UnsupportedResponse,
)
from dugong.pool.pipeline import Pipeline
from dugong.pool.scheduler import Scheduler
from tests.support.byhand import HandPeer, HandServer, named, settle, warm_up
from tests.support.pool import each, name_target, url
from tests.support.server import TIMEOUT, Peer, Script, ScriptedServer


@pytest.fixture
def server() -> Iterator[HandServer]:
    with HandServer() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    """A pool with one connection, so that requests have to go behind each other."""
    with ConnectionPool(max_connections_per_host=1, timeout=TIMEOUT) as pool:
        yield pool


def delivery_of(future: Future[Response], kind: type[Exception]) -> Delivery | None:
    """Return what the exception of *future*, which is of this *kind*, says of the delivery."""
    error = future.exception(TIMEOUT)
    assert type(error) is kind
    delivery: Delivery | None = error.delivery  # type: ignore[attr-defined]
    return delivery


# --- the verdict ----------------------------------------------------------------------------------


def test_the_verdict_is_unsent_if_there_is_no_connection(pool: ConnectionPool) -> None:
    with HandServer() as server:
        nobody = server.url("/a")
    assert delivery_of(pool.submit("GET", nobody), ConnectionRefusedError) is Delivery.UNSENT


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
def test_the_verdict_is_sent_if_nothing_of_an_answer_came(
    pool: ConnectionPool, server: HandServer, method: str, ending: Callable[[HandPeer], None]
) -> None:
    future = pool.submit(method, server.url("/a"))
    peer = server.accept()
    assert peer.burst() == ["/a"]
    ending(peer)
    assert delivery_of(future, ConnectionClosed) is Delivery.SENT


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("answer", "kind"),
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
def test_the_verdict_is_that_an_answer_had_begun(
    pool: ConnectionPool, server: HandServer, method: str, answer: bytes, kind: type[Exception]
) -> None:
    peer = warm_up(pool, server)
    future = pool.submit(method, server.url("/a"))
    assert peer.burst() == ["/a"]
    peer.send(answer)
    peer.close()
    assert delivery_of(future, kind) is Delivery.ANSWER_STARTED


def test_an_interim_answer_is_not_the_beginning_of_an_answer(
    pool: ConnectionPool, server: HandServer
) -> None:
    future = pool.submit("POST", server.url("/a"))
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    peer.close()
    assert delivery_of(future, ConnectionClosed) is Delivery.SENT


def test_every_request_has_an_exception_of_its_own(pool: ConnectionPool) -> None:
    with HandServer() as server:
        nobody = server.url("/a")
    futures = [pool.submit("GET", nobody) for _ in range(3)]
    errors = [future.exception(TIMEOUT) for future in futures]
    assert len(set(map(id, errors))) == 3


# --- what goes back, and what fails ---------------------------------------------------------------


def test_a_post_whose_connection_died_is_not_sent_again(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    post = pool.submit("POST", server.url("/a"))
    behind = pool.submit("GET", server.url("/b"))
    assert peer.burst() == ["/a"]
    peer.close()
    assert delivery_of(post, ConnectionClosed) is Delivery.SENT
    peer = server.accept()
    assert peer.burst() == ["/b"]
    peer.answers("/b")
    assert behind.result(TIMEOUT).text == "/b"


def test_a_get_whose_connection_died_after_others_were_answered_is_sent_again_alone(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
    assert peer.targets(2) == ["/a", "/b"]
    peer.close()
    peer = server.accept()
    assert peer.burst() == ["/a"]
    settle(pool)
    assert peer.is_silent()
    peer.answers("/a")
    assert peer.burst() == ["/b"]
    peer.answers("/b")
    assert [future.result(TIMEOUT).text for future in futures] == ["/a", "/b"]


def test_a_request_that_ends_a_fresh_connection_is_not_sent_again(
    pool: ConnectionPool, server: HandServer
) -> None:
    future = pool.submit("GET", server.url("/a"))
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.reset()
    assert delivery_of(future, ConnectionClosed) is Delivery.SENT
    settle(pool)
    assert server.is_left_alone()


def test_one_that_has_lost_a_connection_before_is_not_failed_by_an_idle_one_that_ended(
    server: HandServer,
) -> None:
    with ConnectionPool(max_connections_per_host=2, timeout=TIMEOUT) as pool:
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        peers = [server.accept(), server.accept()]
        for peer, burst in [(peer, peer.burst()) for peer in peers]:
            peer.answers(*burst)
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
        peer.answers("/c")
        assert future.result(TIMEOUT).text == "/c"


def test_a_request_that_takes_its_connections_down_meets_one_used_one_and_one_fresh_one(
    server: HandServer,
) -> None:
    with ConnectionPool(max_connections_per_host=3, timeout=TIMEOUT) as pool:
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b", "/c")]
        peers = [server.accept() for _ in range(3)]
        for peer, burst in [(peer, peer.burst()) for peer in peers]:
            peer.answers(*burst)
            (future,) = (f for f in futures if f.request.target in burst)
            assert future.result(TIMEOUT).text in burst
            settle(pool)
        killer = pool.submit("GET", server.url("/killer"))
        assert peers[2].burst() == ["/killer"]
        peers[2].close()
        fresh = server.accept()
        assert fresh.burst() == ["/killer"]
        fresh.close()
        assert delivery_of(killer, ConnectionClosed) is Delivery.SENT
        settle(pool)
        assert peers[0].is_silent()
        assert peers[1].is_silent()


@pytest.fixture
def connect_slowly(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Return what has to be released before a connection, once established, is used."""
    semaphore = threading.Semaphore(0)
    connected = Scheduler.connected

    def slowly(scheduler: Scheduler, pipeline: Pipeline) -> bool:
        assert semaphore.acquire(timeout=TIMEOUT)
        return connected(scheduler, pipeline)

    monkeypatch.setattr(Scheduler, "connected", slowly)
    return semaphore


def test_nobody_waits_for_one_that_lost_a_connection_while_another_connection_is_idle(
    server: HandServer, connect_slowly: threading.Semaphore
) -> None:
    with ConnectionPool(max_connections_per_host=2, timeout=TIMEOUT) as pool:
        connect_slowly.release(2)
        futures = [pool.submit("GET", server.url(target)) for target in ("/a", "/b")]
        peers = [server.accept(), server.accept()]
        for peer, burst in [(peer, peer.burst()) for peer in peers]:
            peer.answers(*burst)
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
        idle.answers("/behind")
        assert behind.result(TIMEOUT).text == "/behind"
        fresh.answers("/lost")
        assert lost.result(TIMEOUT).text == "/lost"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_fresh_connection_that_ends_before_it_is_used_costs_a_request_nothing(
    pool: ConnectionPool, server: HandServer, connect_slowly: threading.Semaphore, method: str
) -> None:
    future = pool.submit(method, server.url("/a"))
    server.accept().close()
    connect_slowly.release(2)
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.answers("/a")
    assert future.result(TIMEOUT).text == "/a"


def test_a_host_that_ends_every_connection_before_it_is_used_fails_the_request(
    pool: ConnectionPool, server: HandServer, connect_slowly: threading.Semaphore
) -> None:
    future = pool.submit("GET", server.url("/a"))
    for _ in range(2):
        server.accept().close()
        connect_slowly.release()
    assert delivery_of(future, ConnectionClosed) is Delivery.UNSENT
    assert server.is_left_alone()


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("ending", [Peer.cut, Peer.reset])
def test_a_request_that_takes_down_its_connection_fails_and_its_neighbours_do_not(
    place: int, ending: Callable[[Peer], None]
) -> None:
    targets = [f"/{i}" for i in range(4)]
    targets[place] = "/killer"
    check_killers(targets, ending)


@pytest.mark.parametrize("killers", [(0, 1), (1, 3), (0, 1, 2, 3)])
def test_several_that_take_down_their_connections_all_fail_and_nobody_else(
    killers: tuple[int, ...],
) -> None:
    targets = ["/killer" if i in killers else f"/{i}" for i in range(6)]
    check_killers(targets, Peer.cut)


def check_killers(targets: list[str], ending: Callable[[Peer], None]) -> None:
    """Send requests for *targets* behind each other, of which each "/killer" ends a connection."""

    def answer_all_but_killers(peer: Peer) -> None:
        try:
            while (request := peer.request()).target != "/killer":
                peer.answer(request.target.encode())
            ending(peer)
        except (EOFError, ConnectionResetError):
            pass

    with (
        ScriptedServer(answer_all_but_killers, repeat=True) as server,
        ConnectionPool(max_connections_per_host=1, timeout=TIMEOUT) as pool,
    ):
        for _ in range(4):
            pool.get(url(server, "/warm"))
        futures = [pool.submit("GET", url(server, target)) for target in targets]
        for target, future in zip(targets, futures, strict=True):
            if target == "/killer":
                assert isinstance(future.exception(TIMEOUT), ConnectionClosed)
            else:
                assert future.result(TIMEOUT).text == target
        assert pool.get(url(server, "/after")).text == "/after"


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
    """Return a script that answers 3 requests, and 3 that it has at once with *stream*."""

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
) -> list[str | BaseException]:
    """Return what a three-deep pipeline comes to whose server sends *stream* and dies.

    *contexts* are the server's and the client's, for TLS.
    """
    ours, theirs = contexts
    scheme = "http" if ours is None else "https"
    scripts = dying_after(stream, ending), each(name_target)
    with (
        ScriptedServer(*scripts, context=ours) as server,
        ConnectionPool(max_connections_per_host=1, timeout=TIMEOUT, ssl_context=theirs) as pool,
    ):
        for i in range(3):
            assert pool.get(url(server, f"/{i}", scheme)).text == f"/{i}"
        futures = [pool.submit("GET", url(server, target, scheme)) for target in TARGETS]
        return [future.exception(TIMEOUT) or future.result().text for future in futures]


def whole_answers(answers: list[bytes], size: int) -> tuple[int, bool]:
    """Return how many of *answers* are whole in their first *size* bytes; True if another began."""
    whole = 0
    for answer in answers:
        if size < len(answer):
            return whole, size > 0 and not answer[:size].endswith(INTERIM)
        size -= len(answer)
        whole += 1
    return whole, False


@pytest.mark.parametrize("answers", STREAMS.values(), ids=STREAMS)
def test_a_server_that_closes_at_any_byte_costs_at_most_the_answer_it_was_in(
    answers: list[bytes],
) -> None:
    stream = b"".join(answers)
    for size in range(len(stream) + 1):
        whole, begun = whole_answers(answers, size)
        for i, outcome in enumerate(outcomes(stream[:size], Peer.cut)):
            if i == whole and begun:
                assert isinstance(outcome, ConnectionClosed), f"{outcome!r} after {size} bytes"
                assert outcome.delivery is Delivery.ANSWER_STARTED
            else:
                assert outcome == TARGETS[i], f"{outcome!r} after {size} bytes"


@pytest.mark.parametrize("answers", STREAMS.values(), ids=STREAMS)
def test_a_server_that_resets_at_any_byte_costs_at_most_one_answer(answers: list[bytes]) -> None:
    stream = b"".join(answers)
    for size in range(len(stream) + 1):
        failed = 0
        for i, outcome in enumerate(outcomes(stream[:size], Peer.reset)):
            if isinstance(outcome, ConnectionClosed):
                failed += 1
                # The reset may have destroyed what had been sent before it, but adds nothing.
                assert i <= whole_answers(answers, size)[0]
                assert outcome.delivery is Delivery.ANSWER_STARTED
            else:
                assert outcome == TARGETS[i], f"{outcome!r} after {size} bytes"
        assert failed <= 1


def say_good_bye(peer: Peer) -> None:
    """Say in TLS that this is the end."""
    assert isinstance(peer.sock, ssl.SSLSocket)
    peer.sock.settimeout(0)  # not to wait for an answer to it
    try:
        peer.sock.unwrap()
    except ssl.SSLWantReadError:
        pass


@pytest.mark.parametrize("ending", [Peer.cut, say_good_bye])
def test_a_server_that_closes_within_tls_costs_at_most_the_answer_it_was_in(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    ending: Callable[[Peer], None],
) -> None:
    answers = STREAMS["length"]
    stream = b"".join(answers)
    for size in {*range(0, len(stream) + 1, 20), len(answers[0]), len(stream)}:
        whole, begun = whole_answers(answers, size)
        found = outcomes(stream[:size], ending, (server_context, client_context))
        for i, outcome in enumerate(found):
            if i == whole and begun:
                assert isinstance(outcome, ConnectionClosed), f"{outcome!r} after {size} bytes"
                assert outcome.delivery is Delivery.ANSWER_STARTED
            else:
                assert outcome == TARGETS[i], f"{outcome!r} after {size} bytes"


# --- whatever servers do --------------------------------------------------------------------------


class Unreliable:
    """A script that answers, each with the target of its request, in one of many ways; or not.

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
        peer.answer(target)
        return True

    def _chunked(self, peer: Peer, target: bytes) -> bool:
        peer.send(CHUNKED.format(len(target), target.decode()).encode())
        return True

    def _slowly(self, peer: Peer, target: bytes) -> bool:
        peer.send_bytewise(named(target.decode()))
        return True

    def _interim(self, peer: Peer, target: bytes) -> bool:
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        peer.answer(target)
        return True

    def _last(self, peer: Peer, target: bytes) -> bool:
        peer.answer(target, headers="Connection: close\r\n")
        return False

    def _last_without_saying_so(self, peer: Peer, target: bytes) -> bool:
        peer.answer(target)
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
def test_no_request_ever_gets_the_answer_to_another(
    seed: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.pool.host.PENALTY", 0.001)
    with (
        ScriptedServer(Unreliable(seed), repeat=True) as server,
        ConnectionPool(max_connections_per_host=connections, timeout=TIMEOUT) as pool,
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
                assert isinstance(error, ConnectionClosed)
                assert error.delivery in (Delivery.SENT, Delivery.ANSWER_STARTED)
        statistics = pool.statistics()
    assert answered > 150
    assert (statistics.queued, statistics.in_flight) == (0, 0)
    assert statistics.answered == answered
    assert statistics.sent == answered + statistics.resent + (len(futures) - answered)
    assert statistics.opened == statistics.closed + statistics.connections


def test_a_post_is_never_processed_twice() -> None:
    unreliable = Unreliable(0)
    with (
        ScriptedServer(unreliable, repeat=True) as server,
        ConnectionPool(max_connections_per_host=4, timeout=TIMEOUT) as pool,
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
        peer.answer(target.encode())
        peer.sock.recv(1)  # and is gone, as if its idle time-out had just passed

    def answers(peer: Peer) -> None:
        peer.answer(peer.head().target.encode())

    with (
        ScriptedServer(dies_at_the_second, dies_at_the_second, answers) as server,
        ConnectionPool(max_connections_per_host=2) as pool,
    ):
        base = "http://{}:{}".format(*server.address)
        assert [r.text for r in pool.map([f"{base}/1", f"{base}/2"])] == ["/1", "/2"]
        assert pool.get(f"{base}/3").text == "/3"
