"""The eight rules of safe pipelining, one after the other, as a server sees them.

The server is played by hand (`tests.support.byhand`). That nothing else was sent is looked at after
`settle`, when the pool has had its chance to send it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from dugong import ConnectionPool, Delivery, InvalidResponse, Response
from dugong.pool.core import traffic
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.job import Job
from dugong.pool.core.scheduler import Scheduler
from dugong.pool.core.traffic import Traffic
from dugong.pool.io.receiver import LONG
from tests.support.byhand import HandPeer, HandServer, named, settle, submit_first, warm_up
from tests.support.pool import NO_SECOND_TRY, discard_rest, signal_after, wait_for
from tests.support.server import TIMEOUT

Ask = Callable[..., Future[Response]]


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    """A pool with one connection, so that requests have to go behind each other."""
    with ConnectionPool(max_connections_per_host=1, timeout=TIMEOUT) as pool:
        yield pool


@pytest.fixture(params=["submit", "request"])
def ask(request: pytest.FixtureRequest, pool: ConnectionPool) -> Iterator[Ask]:
    """Both ways to a response: over the queue, and by the thread of the caller itself."""
    if request.param == "submit":
        yield pool.submit
    else:
        with ThreadPoolExecutor(1) as caller:
            yield lambda *args, **kwargs: caller.submit(pool.request, *args, **kwargs)


def get_all(
    pool: ConnectionPool, server: HandServer, targets: Iterable[str]
) -> list[Future[Response]]:
    return [pool.submit("GET", server.url(target)) for target in targets]


def texts(futures: Iterable[Future[Response]]) -> list[str]:
    return [future.result(TIMEOUT).text for future in futures]


# --- 1: responses belong to requests in order; what was not requested is no response --------------


def test_responses_are_given_to_requests_in_the_order_in_which_they_were_sent(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a", "/b", "/c"])
    assert peer.targets(3) == ["/a", "/b", "/c"]
    peer.responds("/a", "/b", "/c")
    assert texts(futures) == ["/a", "/b", "/c"]


def test_responses_that_come_byte_by_byte_are_the_same_responses(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a", "/b", "/c"])
    assert peer.targets(3) == ["/a", "/b", "/c"]
    peer.send_bytewise(named("/a") + named("/b") + named("/c"))
    assert texts(futures) == ["/a", "/b", "/c"]


def test_a_response_is_given_out_though_those_behind_it_are_late(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    first, second = get_all(pool, server, ["/a", "/b"])
    assert peer.targets(2) == ["/a", "/b"]
    peer.responds("/a")
    assert texts([first]) == ["/a"]
    assert not second.done()
    peer.responds("/b")
    assert texts([second]) == ["/b"]


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_an_interim_response_takes_the_place_of_no_final_one(
    pool: ConnectionPool, server: HandServer, status: str
) -> None:
    interim = f"HTTP/1.1 {status}\r\nLink: </style>\r\n\r\n".encode()
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a", "/b", "/c"])
    assert peer.targets(3) == ["/a", "/b", "/c"]
    peer.send(interim + named("/a") + interim * 2 + named("/b") + interim + named("/c"))
    assert texts(futures) == ["/a", "/b", "/c"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "stray", [named("/stray"), b"x", b"\r\n"], ids=["response", "byte", "line"]
)
def test_bytes_on_an_idle_connection_are_not_the_next_response(
    pool: ConnectionPool, server: HandServer, ask: Ask, method: str, stray: bytes
) -> None:
    peer = warm_up(pool, server)
    settle(pool)
    peer.send(stray)
    future = ask(method, server.url("/a"))
    assert peer.was_left()
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.responds("/a")
    assert texts([future]) == ["/a"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("stray", [named("/stray"), b"x"], ids=["response", "byte"])
def test_bytes_behind_a_response_are_not_the_next_response(
    pool: ConnectionPool, server: HandServer, ask: Ask, method: str, stray: bytes
) -> None:
    first = ask("GET", server.url("/a"))
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.send(named("/a") + stray)
    assert texts([first]) == ["/a"]
    second = ask(method, server.url("/b"))
    assert peer.was_left()
    peer = server.accept()
    assert peer.burst() == ["/b"]
    peer.responds("/b")
    assert texts([second]) == ["/b"]


def test_the_body_of_a_response_that_has_none_is_not_the_next_response(
    pool: ConnectionPool, server: HandServer
) -> None:
    head = pool.submit("HEAD", server.url("/a"))
    peer = server.accept()
    peer.burst()
    peer.send(named("/a"))
    assert texts([head]) == [""]
    peer, get = submit_first(pool, server, "GET", "/b")
    peer.responds("/b")
    assert texts([get]) == ["/b"]


def test_a_server_that_responds_twice_to_a_request_responds_to_no_other_with_it(
    pool: ConnectionPool, server: HandServer
) -> None:
    targets = ["/a", "/b", "/c"]
    futures = get_all(pool, server, targets)
    for target in targets:  # for each of them is sent alone, the first of its connection
        peer = server.accept()
        assert peer.burst()[0] == target
        peer.send(named(target) * 2)
    assert texts(futures) == targets


# --- 2: the first request alone, then two, then one more for each good response -------------------


def test_the_first_request_goes_alone_and_each_round_trip_doubles_what_is_in_flight(
    pool: ConnectionPool, server: HandServer
) -> None:
    targets = [f"/{i}" for i in range(15)]
    futures = get_all(pool, server, targets)
    peer = server.accept()
    for count in (1, 2, 4, 8):
        settle(pool)
        burst = peer.burst()
        assert burst == targets[:count]
        assert peer.is_silent()
        del targets[:count]
        assert pool.statistics().queued == len(targets)
        peer.responds(*burst)
    assert texts(futures) == [f"/{i}" for i in range(15)]


def test_each_good_response_allows_one_more_in_flight(
    pool: ConnectionPool, server: HandServer
) -> None:
    for window in range(1, 6):
        future = pool.submit("GET", server.url("/a"))
        if window == 1:
            peer = server.accept()
        assert peer.burst() == ["/a"]
        assert host_of(pool).window == window
        peer.responds("/a")
        assert texts([future]) == ["/a"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_never_are_more_in_flight_than_the_caller_allows(server: HandServer, depth: int) -> None:
    with ConnectionPool(max_connections_per_host=1, pipeline_depth=depth) as pool:
        peer = warm_up(pool, server, window=depth + 3)
        targets = [f"/{i}" for i in range(depth + 1)]
        futures = get_all(pool, server, targets)
        assert peer.targets(depth) == targets[:depth]
        settle(pool)
        assert peer.is_silent()
        peer.responds(*targets[:depth])
        assert peer.targets(1) == [targets[depth]]
        peer.responds(targets[depth])
        assert texts(futures) == targets


def test_requests_go_over_connections_of_their_own_before_they_go_behind_others(
    server: HandServer,
) -> None:
    with ConnectionPool(max_connections_per_host=3) as pool:
        futures = get_all(pool, server, ["/a", "/b", "/c"])
        peers = [server.accept() for _ in range(3)]
        bursts = [peer.burst() for peer in peers]
        assert sorted(bursts) == [["/a"], ["/b"], ["/c"]]
        for peer, burst in zip(peers, bursts, strict=True):
            peer.responds(*burst)
        assert texts(futures) == ["/a", "/b", "/c"]


@pytest.mark.parametrize("ending", [HandPeer.close, HandPeer.reset])
def test_after_a_connection_died_with_requests_unanswered_the_next_starts_alone(
    pool: ConnectionPool, server: HandServer, ending: Callable[[HandPeer], None]
) -> None:
    peer = warm_up(pool, server, window=3)
    futures = get_all(pool, server, ["/a", "/b", "/c"])
    assert peer.targets(3) == ["/a", "/b", "/c"]
    futures += get_all(pool, server, ["/d", "/e", "/f"])
    ending(peer)
    peer = server.accept()
    assert peer.burst() == ["/a"]
    settle(pool)
    assert peer.is_silent()
    assert host_of(pool).window == 1
    peer.responds("/a")
    for target in ("/b", "/c"):  # which were sent behind it, and are sent alone from now on
        assert peer.burst() == [target]
        settle(pool)
        assert peer.is_silent()
        peer.responds(target)
    assert peer.targets(3) == ["/d", "/e", "/f"]
    peer.responds("/d", "/e", "/f")
    assert texts(futures) == ["/a", "/b", "/c", "/d", "/e", "/f"]


def test_after_an_end_was_announced_with_requests_unanswered_the_next_starts_alone(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a", "/b", "/c", "/d"])
    assert peer.targets(4) == ["/a", "/b", "/c", "/d"]
    peer.send(named("/a", "Connection: close\r\n"))
    peer = server.accept()
    assert peer.burst() == ["/b"]
    settle(pool)
    assert peer.is_silent()
    peer.responds("/b")
    assert peer.targets(2) == ["/c", "/d"]
    peer.responds("/c", "/d")
    assert texts(futures) == ["/a", "/b", "/c", "/d"]


def test_nothing_goes_behind_one_that_has_lost_a_connection_whatever_others_have_shown(
    server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    window_has_grown = threading.Event()
    next_batch = Traffic.next_batch

    def late(
        scheduler: Scheduler, pipeline: PooledConnection, error: Exception | None
    ) -> list[Job]:
        if pipeline.name.endswith("-2") and pipeline.in_flight:
            wait_for(window_has_grown)
        return next_batch(scheduler, pipeline, error)

    monkeypatch.setattr(Traffic, "next_batch", late)
    with ConnectionPool(max_connections_per_host=2) as pool:
        first = warm_up(pool, server)
        lost = pool.submit("GET", server.url("/lost"))
        assert first.burst() == ["/lost"]
        first.close()
        second = server.accept()
        assert second.burst() == ["/lost"]

        others = get_all(pool, server, ["/a"])
        third = server.accept()
        assert third.burst() == ["/a"]
        third.responds("/a")
        assert texts(others) == ["/a"]
        others = get_all(pool, server, ["/b", "/c", "/d"])
        assert third.targets(2) == ["/b", "/c"]
        window_has_grown.set()
        settle(pool)
        assert second.is_silent()
        assert host_of(pool).queued == 1

        second.responds("/lost")
        assert second.burst() == ["/d"]
        second.responds("/d")
        third.responds("/b", "/c")
        assert texts([lost, *others]) == ["/lost", "/b", "/c", "/d"]


def test_a_host_that_responds_as_http_1_0_is_asked_one_at_a_time(
    pool: ConnectionPool, server: HandServer
) -> None:
    targets = ["/a", "/b", "/c"]
    futures = get_all(pool, server, targets)
    peer = server.accept()
    for target in targets:
        assert peer.burst() == [target]
        settle(pool)
        assert peer.is_silent()
        peer.send(named(target, "Connection: keep-alive\r\n", version="HTTP/1.0"))
    assert texts(futures) == targets
    host = host_of(pool)
    assert (host.pipelining, host.window) == ("one at a time", 1)
    assert host.lesson == "it responds as HTTP/1.0"


def test_a_host_that_closes_after_each_response_gets_one_request_a_connection(
    pool: ConnectionPool, server: HandServer
) -> None:
    targets = ["/a", "/b", "/c"]
    futures = get_all(pool, server, targets)
    for target in targets:
        peer = server.accept()
        assert peer.burst() == [target]
        settle(pool)
        assert peer.is_silent()
        peer.send(named(target, "Connection: close\r\n"))
    assert texts(futures) == targets
    assert pool.statistics().resent == 0


def test_responses_that_only_the_end_of_the_connection_ends_let_nothing_go_behind_them(
    pool: ConnectionPool, server: HandServer
) -> None:
    targets = ["/a", "/b", "/c"]
    futures = get_all(pool, server, targets)
    for target in targets:
        peer = server.accept()
        assert peer.burst() == [target]
        settle(pool)
        assert peer.is_silent()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + target.encode())
        peer.close()
    assert texts(futures) == targets


def test_a_host_that_breaks_the_protocol_within_a_pipeline_is_asked_one_at_a_time(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    first = pool.submit("GET", server.url("/a"))
    broken = pool.submit("GET", server.url("/b"), retry=NO_SECOND_TRY)
    behind = get_all(pool, server, ["/c", "/d"])
    assert peer.targets(4) == ["/a", "/b", "/c", "/d"]
    later = get_all(pool, server, ["/e", "/f"])  # which nothing but the lesson keeps apart
    peer.send(named("/a") + b"no answer\r\n\r\n")
    peer = server.accept()
    for target in ("/c", "/d", "/e", "/f"):
        assert peer.burst() == [target]
        settle(pool)
        assert peer.is_silent()
        peer.responds(target)
    assert texts([first, *behind, *later]) == ["/a", "/c", "/d", "/e", "/f"]
    assert isinstance(broken.exception(TIMEOUT), InvalidResponse)
    host = host_of(pool)
    assert (host.pipelining, host.window) == ("one at a time", 1)
    assert host.lesson == "it has sent what is no response"


def let_pipelines_die(pool: ConnectionPool, server: HandServer, times: int) -> HandPeer:
    """Have *times* connections end with two requests unanswered; return the next, which is good."""
    peer = warm_up(pool, server, window=3)
    for _ in range(times):
        futures = get_all(pool, server, ["/a", "/b"])
        assert peer.targets(2) == ["/a", "/b"]
        peer.close()
        peer = server.accept()
        for target in ("/a", "/b"):
            assert peer.burst() == [target]
            peer.responds(target)
        assert texts(futures) == ["/a", "/b"]
    return peer


def test_a_host_whose_pipelines_keep_dying_is_asked_one_at_a_time(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = let_pipelines_die(pool, server, times=3)
    host = host_of(pool)
    assert (host.pipelining, host.window) == ("one at a time", 1)
    assert host.lesson == "a connection ended after 2 responses with 2 to come"
    futures = get_all(pool, server, ["/a", "/b"])
    for target in ("/a", "/b"):
        assert peer.burst() == [target]
        settle(pool)
        assert peer.is_silent()
        peer.responds(target)
    assert texts(futures) == ["/a", "/b"]


def test_one_pipeline_that_died_does_not_yet_make_it_one_at_a_time(
    pool: ConnectionPool, server: HandServer
) -> None:
    let_pipelines_die(pool, server, times=2)
    assert host_of(pool).pipelining == "growing"


def test_a_host_is_not_asked_one_at_a_time_for_ever(
    pool: ConnectionPool, server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.pool.core.pipelining.PENALTY", 0.0)
    peer = let_pipelines_die(pool, server, times=3)
    futures = get_all(pool, server, ["/a", "/b"])
    assert peer.targets(2) == ["/a", "/b"]
    peer.responds("/a", "/b")
    assert texts(futures) == ["/a", "/b"]


def test_a_host_that_ends_connections_after_a_number_of_responses_is_sent_no_more_than_that(
    pool: ConnectionPool, server: HandServer
) -> None:
    targets = [f"/{i}" for i in range(12)]
    futures = get_all(pool, server, targets)
    peer = server.accept()
    assert peer.targets(1) == ["/0"]
    peer.responds("/0")
    for start in (0, 3, 6, 9):
        if start:
            peer = server.accept()
        due = targets[max(start, 1) : start + 3]
        assert peer.targets(len(due)) == due
        settle(pool)
        assert peer.is_silent()  # though the window would allow more in the end
        if not start:  # a new connection takes half of the window
            next(iter(pool._scheduler._core.hosts.values())).pipelining.window = 5
        *others, last = due
        peer.send(b"".join(map(named, others)) + named(last, "Connection: close\r\n"))
    assert texts(futures) == targets
    assert pool.statistics().resent == 0
    assert host_of(pool).window > 3


# --- 3: what must not be repeated, or cannot be, goes alone ---------------------------------------

#: Small enough to go in one piece, and all of it in memory.
IN_MEMORY = b"x" * 100

BEHIND_OTHERS = {
    "GET": ("GET", {}),
    "HEAD": ("HEAD", {}),
    "OPTIONS": ("OPTIONS", {}),
    "DELETE": ("DELETE", {}),
    "PUT": ("PUT", {"body": IN_MEMORY}),
    "POST-said-to-be-idempotent": ("POST", {"body": IN_MEMORY, "idempotent": True}),
    "POST-with-key": ("POST", {"headers": {"Idempotency-Key": "1"}}),
}

ALONE = {
    "POST": ("POST", {"body": IN_MEMORY}),
    "POST-without-body": ("POST", {}),
    "PATCH": ("PATCH", {"body": IN_MEMORY}),
    "unknown-method": ("FROB", {}),
    "GET-said-not-to-be-idempotent": ("GET", {"idempotent": False}),
    "iterable": ("PUT", {"body": [b"x", b"y"]}),
    "large-body": ("PUT", {"body": bytes(LONG)}),
    "asks-to-close": ("GET", {"headers": {"Connection": "close"}}),
}


@pytest.mark.parametrize(("method", "options"), BEHIND_OTHERS.values(), ids=BEHIND_OTHERS)
def test_what_may_be_repeated_and_is_in_memory_goes_behind_others_and_others_behind_it(
    pool: ConnectionPool, server: HandServer, method: str, options: dict[str, Any]
) -> None:
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a"])
    futures.append(pool.submit(method, server.url("/b"), **options))
    futures += get_all(pool, server, ["/c"])
    assert peer.targets(3) == ["/a", "/b", "/c"]
    peer.responds("/a")
    peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    peer.responds("/c")
    assert texts(futures) == ["/a", "", "/c"]


@pytest.mark.parametrize(("method", "options"), ALONE.values(), ids=ALONE)
def test_what_may_not_be_repeated_or_is_not_in_memory_goes_alone(
    pool: ConnectionPool, server: HandServer, method: str, options: dict[str, Any]
) -> None:
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a"])
    assert peer.targets(1) == ["/a"]
    futures.append(pool.submit(method, server.url("/b"), **options))
    futures += get_all(pool, server, ["/c", "/d"])

    settle(pool)
    assert peer.is_silent()  # it is not sent behind another
    peer.responds("/a")

    assert peer.request().target == "/b"
    settle(pool)
    assert peer.is_silent()  # nothing is sent behind it
    peer.responds("/b")
    if "headers" in options:
        assert peer.was_left()
        peer = server.accept()

    assert texts(futures[:2]) == ["/a", "/b"]
    assert peer.targets(2) == ["/c", "/d"]  # and then all is as before
    peer.responds("/c", "/d")
    assert texts(futures) == ["/a", "/b", "/c", "/d"]


def test_an_interim_response_does_not_end_being_alone(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    futures = [pool.submit("POST", server.url("/a")), *get_all(pool, server, ["/b"])]
    assert peer.targets(1) == ["/a"]
    peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    settle(pool)
    assert peer.is_silent()
    peer.responds("/a")
    assert peer.targets(1) == ["/b"]
    peer.responds("/b")
    assert texts(futures) == ["/a", "/b"]


def test_nothing_goes_behind_a_request_that_waits_for_100_continue(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    upload = pool.submit("PUT", server.url("/a"), body=IN_MEMORY, expect100=True)
    behind = pool.submit("GET", server.url("/b"))
    assert peer.head().headers["expect"] == "100-continue"
    assert pool.statistics().queued == 1
    assert peer.is_silent()
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert peer.exactly(len(IN_MEMORY)) == IN_MEMORY
    settle(pool)
    assert peer.is_silent()
    peer.responds("/a")
    assert peer.targets(1) == ["/b"]
    peer.responds("/b")
    assert texts([upload, behind]) == ["/a", "/b"]


def test_nothing_goes_behind_a_response_that_its_caller_reads(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    with ThreadPoolExecutor(1) as caller:
        may_read = threading.Event()

        def read() -> bytes:
            with pool.stream("GET", server.url("/a")) as response:
                wait_for(may_read)
                return response.read()

        streamed = caller.submit(read)
        assert peer.targets(1) == ["/a"]
        behind = pool.submit("GET", server.url("/b"))
        settle(pool)
        assert peer.is_silent()
        peer.send(named("/a")[:-1])
        settle(pool)
        assert peer.is_silent()
        may_read.set()
        peer.send(named("/a")[-1:])
        assert streamed.result(TIMEOUT) == b"/a"
    assert peer.targets(1) == ["/b"]
    peer.responds("/b")
    assert texts([behind]) == ["/b"]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_a_change_of_protocol_is_refused_at_the_call(
    pool: ConnectionPool, server: HandServer, upgrade: str
) -> None:
    headers = {"Connection": "upgrade", "Upgrade": upgrade}
    with pytest.raises(ValueError, match="use an HTTPConnection"):
        pool.submit("GET", server.url("/a"), headers=headers)
    assert server.is_left_alone()


def test_a_tunnel_is_refused_at_the_call(pool: ConnectionPool, server: HandServer) -> None:
    with pytest.raises(ValueError, match="tunnel"):
        pool.submit("CONNECT", server.url("/a"))
    assert server.is_left_alone()


def test_one_that_goes_alone_takes_an_idle_connection_rather_than_wait_for_a_busy_one(
    server: HandServer,
) -> None:
    with ConnectionPool(max_connections_per_host=2) as pool:
        futures = get_all(pool, server, ["/a", "/b"])
        first, second = server.accept(), server.accept()
        bursts = first.burst(), second.burst()
        second.responds(*bursts[1])
        assert texts([futures[bursts[1] == ["/b"]]]) == bursts[1]
        settle(pool)
        futures.append(pool.submit("POST", server.url("/c")))
        assert second.burst() == ["/c"]
        assert first.is_silent()
        second.responds("/c")
        first.responds(*bursts[0])
        assert texts(futures) == ["/a", "/b", "/c"]


# --- 4: nothing behind a long response ------------------------------------------------------------

LONG_HEADS = {
    "long": (b"Content-Length: %d\r\n" % (LONG + 1), bytes(LONG + 1)),
    "chunked": (b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize(("fields", "body"), LONG_HEADS.values(), ids=LONG_HEADS)
def test_nothing_goes_behind_a_response_that_is_long_or_of_unknown_length(
    pool: ConnectionPool,
    server: HandServer,
    monkeypatch: pytest.MonkeyPatch,
    fields: bytes,
    body: bytes,
) -> None:
    blocked = signal_after(monkeypatch, Traffic, "begin_body")
    peer = warm_up(pool, server)
    first = pool.submit("GET", server.url("/a"))
    assert peer.targets(1) == ["/a"]
    peer.send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + body[:-1])
    wait_for(blocked)
    behind = get_all(pool, server, ["/b", "/c"])
    settle(pool)
    assert peer.is_silent()
    peer.send(body[-1:])
    assert first.result(TIMEOUT).status == 200
    assert peer.targets(2) == ["/b", "/c"]
    peer.responds("/b", "/c")
    assert texts(behind) == ["/b", "/c"]


def test_what_is_queued_while_the_sender_is_at_work_does_not_go_behind_a_long_response_either(
    pool: ConnectionPool, server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "SMALL_HEAD", 0)  # so that the connection has two threads
    peer = warm_up(pool, server)
    settle(pool)
    blocked = signal_after(monkeypatch, Traffic, "begin_body")
    next_batch = Traffic.next_batch

    def late(
        scheduler: Traffic, pipeline: PooledConnection, error: Exception | None
    ) -> list[Job] | None:
        wait_for(blocked)
        return next_batch(scheduler, pipeline, error)

    monkeypatch.setattr(Traffic, "next_batch", late)
    long = pool.submit("GET", server.url("/long"))
    assert peer.targets(1) == ["/long"]
    behind = get_all(pool, server, ["/a", "/b"])
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (LONG + 1))
    settle(pool)
    assert peer.is_silent()
    peer.send(bytes(LONG + 1))
    assert long.result(TIMEOUT).body == bytes(LONG + 1)
    assert peer.targets(2) == ["/a", "/b"]
    peer.responds("/a", "/b")
    assert texts(behind) == ["/a", "/b"]


def test_what_has_been_sent_before_a_response_proves_long_is_answered_behind_it(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    long, *behind = get_all(pool, server, ["/long", "/a", "/b"])
    assert peer.targets(3) == ["/long", "/a", "/b"]
    body = b"/long" * LONG
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    peer.send(body + named("/a") + named("/b"))
    assert long.result(TIMEOUT).body == body
    assert texts(behind) == ["/a", "/b"]


def test_requests_go_over_another_connection_while_a_long_response_holds_one(
    server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = signal_after(monkeypatch, Traffic, "begin_body")
    with ConnectionPool(max_connections_per_host=2) as pool:
        first = warm_up(pool, server)
        long = pool.submit("GET", server.url("/long"))
        assert first.targets(1) == ["/long"]
        first.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (LONG + 1))
        wait_for(blocked)
        behind = pool.submit("GET", server.url("/a"))
        second = server.accept()
        assert second.burst() == ["/a"]
        second.responds("/a")
        assert texts([behind]) == ["/a"]
        assert first.is_silent()
        first.send(bytes(LONG + 1))
        assert long.result(TIMEOUT).body == bytes(LONG + 1)


# --- 5: an end that is announced, or just comes, sends back what was not answered -----------------

LAST_RESPONSES = {
    "close": named("/a", "Connection: close\r\n"),
    "http-1.0": named("/a", version="HTTP/1.0"),
    "no-length": b"HTTP/1.1 200 OK\r\n\r\n/a",
    "end": named("/a"),
}


@pytest.mark.parametrize("last", LAST_RESPONSES.values(), ids=LAST_RESPONSES)
def test_what_was_not_answered_goes_back_to_the_head_of_the_queue_in_its_order(
    pool: ConnectionPool, server: HandServer, last: bytes
) -> None:
    peer = warm_up(pool, server)
    targets = ["/a", "/b", "/c", "/d", "/e", "/f"]
    futures = get_all(pool, server, targets)
    assert peer.targets(4) == ["/a", "/b", "/c", "/d"]
    settle(pool)
    peer.send(last)
    peer.close()
    peer = server.accept()
    received: list[str] = []
    while len(received) < 5:
        burst = peer.burst()
        received += burst
        peer.responds(*burst)
    assert received == ["/b", "/c", "/d", "/e", "/f"]
    assert texts(futures) == targets
    assert pool.statistics().resent == 3
    attempts = [len(future.result().attempts) for future in futures]
    assert attempts == [0, 1, 1, 1, 0, 0]


def test_what_a_server_sends_behind_its_last_response_is_no_response(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a", "/b"])
    assert peer.targets(2) == ["/a", "/b"]
    peer.send(named("/a", "Connection: close\r\n") + named("/stray"))
    peer = server.accept()
    assert peer.targets(1) == ["/b"]
    peer.responds("/b")
    assert texts(futures) == ["/a", "/b"]


def test_one_that_may_not_be_repeated_waits_at_its_place_while_others_are_sent_again(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    futures = get_all(pool, server, ["/a", "/b"])
    assert peer.targets(2) == ["/a", "/b"]
    futures.append(pool.submit("POST", server.url("/c")))
    futures += get_all(pool, server, ["/d"])
    settle(pool)
    peer.close()
    peer = server.accept()
    for target in ("/a", "/b", "/c", "/d"):
        assert peer.burst() == [target]
        peer.responds(target)
    assert texts(futures) == ["/a", "/b", "/c", "/d"]


# --- 6: an idle connection is looked at before it is used -----------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ending", [HandPeer.close, HandPeer.reset])
def test_a_connection_that_ended_while_it_was_idle_is_not_used(
    pool: ConnectionPool,
    server: HandServer,
    ask: Ask,
    method: str,
    ending: Callable[[HandPeer], None],
) -> None:
    peer = warm_up(pool, server)
    settle(pool)
    ending(peer)
    future = ask(method, server.url("/a"))
    peer = server.accept()
    assert peer.burst() == ["/a"]
    peer.responds("/a")
    assert texts([future]) == ["/a"]
    (attempt,) = future.result().attempts
    assert attempt.delivery is Delivery.UNSENT


def test_a_body_that_can_be_read_once_is_still_whole_after_an_idle_connection_proved_dead(
    pool: ConnectionPool, server: HandServer
) -> None:
    peer = warm_up(pool, server)
    settle(pool)
    peer.close()
    future = pool.submit("POST", server.url("/a"), body=iter([b"once", b" only"]))
    peer = server.accept()
    assert peer.request().body == b"once only"
    peer.responds("/a")
    assert texts([future]) == ["/a"]


def test_several_idle_connections_that_all_ended_cost_a_request_nothing(
    server: HandServer,
) -> None:
    with ConnectionPool(max_connections_per_host=3) as pool:
        futures = get_all(pool, server, ["/a", "/b", "/c"])
        peers = [server.accept() for _ in range(3)]
        for peer, burst in [(peer, peer.burst()) for peer in peers]:
            peer.responds(*burst)
        assert texts(futures) == ["/a", "/b", "/c"]
        settle(pool)
        for peer in peers:
            peer.close()
        peer, future = submit_first(pool, server, "POST", "/d")
        peer.responds("/d")
        assert texts([future]) == ["/d"]


# --- 7: a future resolves when the sender has let go of the body ----------------------------------


def test_an_early_response_is_kept_until_the_sender_has_let_go_of_the_body(
    pool: ConnectionPool, server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        wait_for(may_go_on)
        yield b"two"

    future = pool.submit("PUT", server.url("/a"), body=pieces())
    peer = server.accept()
    peer.head()
    answered = signal_after(monkeypatch, Traffic, "responded")
    peer.responds("/a")
    wait_for(answered)
    assert not future.done()
    may_go_on.set()
    assert texts([future]) == ["/a"]


# --- 8: the receiver reads while the sender sends -------------------------------------------------


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"], ids=["kept-alive", "closed"])
def test_an_early_refusal_stops_the_upload_reaches_the_caller_and_closes_the_connection(
    pool: ConnectionPool, server: HandServer, headers: str
) -> None:
    def endless() -> Generator[bytes, None, None]:
        while True:
            yield bytes(65536)

    body = endless()
    future = pool.submit("PUT", server.url("/a"), body=body)
    peer = server.accept()
    peer.head()
    peer.respond(b"/a", status="413 Content Too Large", headers=headers)
    assert (future.result(TIMEOUT).status, future.result().text) == (413, "/a")
    body.close()  # which would fail if it were being read
    discard_rest(peer)
    behind = pool.submit("GET", server.url("/b"))
    peer = server.accept()
    assert peer.targets(1) == ["/b"]
    peer.responds("/b")
    assert texts([behind]) == ["/b"]


def host_of(pool: ConnectionPool) -> Any:
    """Return the statistics of the only host."""
    (host,) = pool.statistics().hosts.values()
    return host
