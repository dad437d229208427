"""A server that sends a byte at a time makes progress, and still holds nothing for ever.

The head of a response has *timeout* seconds once it has begun, and a body has to come with
*min_rate* bytes a second, on the average of `RATE_INTERVAL` seconds.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dugong import ConnectionPool, ConnectionTimedOut, Delivery, RetryPolicy
from tests.support.pool import OpenSite, Site, each, name_target, open_site
from tests.support.server import Peer, ReceivedRequest

STEP = 0.01  # seconds between two bytes
TIMEOUT = 0.2  # seconds for a head, and without any progress
LIMIT = 3.0  # seconds after which all must be over that is limited
INTERVAL = 0.15  # seconds over which the rate of a body is measured

#: What may be tried again is, without a wait.
AT_ONCE = RetryPolicy(backoff=0)


class Trickle:
    """A script that sends *start* at once, then *unit* again and again, slowly, to its end.

    Without *count*, there is no end of it but that of the client, or of the test.
    """

    def __init__(
        self, start: bytes, unit: bytes = b"x", count: int | None = None, end: bytes = b""
    ) -> None:
        self._start = start
        self._unit = unit
        self._count = count
        self._end = end
        self._over = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.request()
        try:
            self.send_to(peer)
        except OSError:
            pass  # the client has had enough

    def send_to(self, peer: Peer) -> None:
        sent = 0
        peer.send(self._start)
        while sent != self._count and not self._over.wait(STEP):
            peer.send(self._unit)
            sent += 1
        peer.send(self._end)

    def stop(self) -> None:
        self._over.set()


@pytest.fixture
def interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the rate of a body measured over a short time."""
    monkeypatch.setattr("dugong.pool.core.maintenance.RATE_INTERVAL", INTERVAL)


def get(site: Site, **options: Any) -> bytes:
    return site.pool.get(site.url(), **options).body


def submit(site: Site, **options: Any) -> bytes:
    return site.pool.submit("GET", site.url(), **options).result(LIMIT + 2).body


def post(site: Site, **options: Any) -> bytes:
    return site.pool.post(site.url(), b"body", **options).body


def put(site: Site, **options: Any) -> bytes:
    return site.pool.put(site.url(), iter([b"body"]), **options).body


def stream(site: Site, **options: Any) -> bytes:
    with site.pool.stream("GET", site.url(), **options) as response:
        return response.read()


def get_with_deadline(site: Site, **options: Any) -> bytes:
    return site.pool.get(site.url(), deadline=60, **options).body


Way = Callable[..., bytes]
WAYS: list[Way] = [get, submit, post, put, stream, get_with_deadline]
each_way = pytest.mark.parametrize("way", WAYS)


def fails_in_time(script: Trickle, site: Site, way: Way, **options: Any) -> ConnectionTimedOut:
    """Return what *way* fails with, which is to be soon enough."""
    watchdog = threading.Timer(LIMIT, script.stop)  # bounds the test if nothing else does
    watchdog.start()
    began = time.monotonic()
    try:
        with pytest.raises(ConnectionTimedOut) as caught:
            way(site, **options)
        assert time.monotonic() - began < LIMIT
        # An interim response is not the beginning of a final one.
        assert caught.value.delivery in (Delivery.ANSWER_STARTED, Delivery.SENT)
        return caught.value
    finally:
        script.stop()
        watchdog.cancel()
        watchdog.join()


# --- heads ----------------------------------------------------------------------------------------

HEADS = {
    "status line": (b"HTTP/1.1 200 ", b"x"),
    "field": (b"HTTP/1.1 200 OK\r\nX-Field: ", b"x"),
    "fields": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "1.0": (b"HTTP/1.0 200 OK\r\nX-Field: ", b"x"),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: ", b"x"),
    "after interim": (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nX: ", b"x"),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_that_trickles_is_a_time_out(site: OpenSite, head: tuple[bytes, bytes]) -> None:
    script = Trickle(*head)
    with site(script, each(name_target), timeout=TIMEOUT) as here:
        fails_in_time(script, here, submit)
        assert here.goes_on()


@each_way
def test_however_a_request_is_made_a_head_that_trickles_is_a_time_out(way: Way) -> None:
    script = Trickle(*HEADS["field"])
    with open_site(script, each(name_target), timeout=TIMEOUT) as here:
        fails_in_time(script, here, way)
        assert here.goes_on()


@each_way
def test_a_head_that_trickles_on_a_connection_that_was_good_is_a_time_out(way: Way) -> None:
    """There, the thread that asks may do the work itself."""
    trickle = Trickle(b"HTTP/1.1 200 ")

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        trickle(peer)

    with open_site(script, each(name_target), timeout=TIMEOUT) as here:
        assert here.goes_on()
        fails_in_time(trickle, here, way)
        assert here.goes_on()


def test_a_head_has_the_time_out_of_its_request(site: OpenSite) -> None:
    script = Trickle(b"HTTP/1.1 200 ")
    with site(script, each(name_target), timeout=60) as here:
        fails_in_time(script, here, submit, timeout=TIMEOUT)
        assert here.goes_on()


def test_what_stands_behind_a_head_that_trickles_is_served(site: OpenSite) -> None:
    trickle = Trickle(b"HTTP/1.1 200 ")

    def script(peer: Peer) -> None:
        for _ in range(3):
            name_target(peer, peer.request())
        trickle(peer)

    options = {"timeout": TIMEOUT, "max_connections_per_host": 1, "retry": AT_ONCE}
    with site(script, each(name_target), **options) as here:
        for _ in range(3):
            assert here.goes_on()
        first = here.pool.submit("GET", here.url("/slow"), retry=None)
        others = [here.pool.submit("GET", here.url(f"/{i}")) for i in range(3)]
        try:
            assert [other.result(LIMIT).text for other in others] == ["/0", "/1", "/2"]
            assert isinstance(first.exception(LIMIT), ConnectionTimedOut)
        finally:
            trickle.stop()


def test_a_head_that_trickles_is_tried_again(site: OpenSite) -> None:
    script = Trickle(b"HTTP/1.1 200 ")
    with site(script, each(name_target), timeout=TIMEOUT, retry=AT_ONCE) as here:
        future = here.pool.submit("GET", here.url("/a"))
        try:
            assert future.result(LIMIT).body == b"/a"
            assert len(future.result().attempts) == 1
        finally:
            script.stop()


@each_way
def test_a_head_that_is_slow_but_comes_in_time_is_none(way: Way) -> None:
    script = Trickle(
        b"HTTP/1.1 200 OK\r\nX-Field: ", count=5, end=b"\r\nContent-Length: 2\r\n\r\nok"
    )
    with open_site(script, timeout=5) as here:
        assert way(here) == b"ok"


def test_a_head_may_take_for_ever_if_the_caller_says_so(site: OpenSite) -> None:
    script = Trickle(
        b"HTTP/1.1 200 OK\r\nX-Field: ", count=40, end=b"\r\nContent-Length: 2\r\n\r\nok"
    )
    with site(script, timeout=TIMEOUT) as here:
        assert get(here, timeout=None) == b"ok"


def test_the_time_before_a_head_begins_is_another(site: OpenSite) -> None:
    """It begins when a byte has come; before that, there is the time without any progress."""
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        begun.wait(TIMEOUT * 0.7)
        Trickle(
            b"HTTP/1.1 200 OK\r\nX: ", count=10, end=b"\r\nContent-Length: 2\r\n\r\nok"
        ).send_to(peer)

    with site(script, timeout=TIMEOUT) as here:  # 0.14 + 0.1 s
        assert get(here) == b"ok"


# --- bodies ---------------------------------------------------------------------------------------

BODIES = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "long": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", b"x"),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
        b"x",
    ),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "1.0": (b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
    "error": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100000\r\n\r\n", b"x"),
}

#: Bytes a second; what trickles here is 100, with a chunk around each 600.
FAST = 1000.0


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_trickles_is_a_time_out(
    site: OpenSite, body: tuple[bytes, bytes], interval: None
) -> None:
    script = Trickle(*body)
    with site(script, each(name_target), timeout=60, min_rate=FAST) as here:
        error = fails_in_time(script, here, submit)
        assert "min_rate" in str(error)
        assert here.goes_on()


@each_way
@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_however_a_request_is_made_a_body_that_trickles_is_a_time_out(
    way: Way, kind: str, interval: None
) -> None:
    script = Trickle(*BODIES[kind])
    with open_site(script, each(name_target), timeout=60, min_rate=FAST) as here:
        fails_in_time(script, here, way)
        assert here.goes_on()


def test_a_body_that_trickles_on_a_connection_that_was_good_is_a_time_out(interval: None) -> None:
    """There, the thread that asks may do the work itself."""
    trickle = Trickle(*BODIES["length"])

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        trickle(peer)

    with open_site(script, each(name_target), timeout=60, min_rate=FAST) as here:
        assert here.goes_on()
        fails_in_time(trickle, here, get)
        assert here.goes_on()


def test_a_body_that_trickles_is_tried_again(site: OpenSite, interval: None) -> None:
    script = Trickle(*BODIES["length"])
    with site(script, each(name_target), timeout=60, min_rate=FAST, retry=AT_ONCE) as here:
        future = here.pool.submit("GET", here.url("/a"))
        try:
            assert future.result(LIMIT).body == b"/a"
            assert len(future.result().attempts) == 1
        finally:
            script.stop()


@pytest.mark.parametrize(
    ("way", "min_rate"), [*((way, 5.0) for way in WAYS), (get, None), (get, 1.0)]
)
def test_a_body_that_comes_fast_enough_is_read_to_its_end(
    way: Way, min_rate: float | None, interval: None
) -> None:
    script = Trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n", count=30)
    with open_site(script, timeout=60, min_rate=min_rate) as here:
        assert way(here) == b"x" * 30


def test_what_counts_is_the_average_of_the_interval(site: OpenSite, interval: None) -> None:
    """A body may come in bursts."""
    burst = bytes(1000)
    script = Trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n", burst, count=30)
    with site(script, timeout=60, min_rate=5_000.0) as here:  # of 100,000
        assert len(get(here)) == 30_000


def test_a_caller_who_takes_its_time_with_a_stream_is_not_taken_for_the_server(
    site: OpenSite, interval: None
) -> None:
    """Only the time counts in which the caller waits for the server."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(bytes(1000))

    with site(script, each(name_target), timeout=60, min_rate=FAST) as here:
        with here.pool.stream("GET", here.url()) as response:
            received = response.read(10)
            time.sleep(3 * INTERVAL)
            while piece := response.read(300):
                received += piece
                time.sleep(INTERVAL)
        assert received == bytes(1000)


def test_the_body_of_a_request_has_no_rate(site: OpenSite, interval: None) -> None:
    """It is the caller's, who may make it as slowly as it wishes."""

    def body() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x"
            time.sleep(INTERVAL / 5)

    with site(each(name_target), timeout=60, min_rate=FAST) as here:
        assert here.pool.put(here.url("/up"), body()).body == b"/up"


def test_an_idle_connection_has_no_rate(site: OpenSite, interval: None) -> None:
    with site(each(name_target), timeout=60, min_rate=FAST) as here:
        assert here.goes_on()
        time.sleep(3 * INTERVAL)
        assert here.goes_on()
        assert here.server.connections == 1


def test_a_server_that_thinks_before_it_responds_has_no_rate(
    site: OpenSite, interval: None
) -> None:
    def slow(peer: Peer, request: ReceivedRequest) -> None:
        time.sleep(3 * INTERVAL)
        name_target(peer, request)

    with site(each(slow), timeout=60, min_rate=FAST) as here:
        assert here.goes_on()


# --- the parameter --------------------------------------------------------------------------------


def test_a_byte_a_second_is_the_default() -> None:
    assert inspect.signature(ConnectionPool).parameters["min_rate"].default == 1.0
    assert "min_rate" in (ConnectionPool.__doc__ or "")


@pytest.mark.parametrize("min_rate", [-1.0, float("nan"), float("inf")])
def test_a_rate_is_a_number_that_is_not_negative(min_rate: float) -> None:
    with pytest.raises(ValueError, match="min_rate"):
        ConnectionPool(min_rate=min_rate)


@pytest.mark.parametrize("min_rate", ["1", True, b"1"])
def test_a_rate_is_a_number(min_rate: Any) -> None:
    with pytest.raises(TypeError, match="min_rate"):
        ConnectionPool(min_rate=min_rate)


def test_the_interval_is_half_a_minute() -> None:
    from dugong.pool.core import maintenance

    assert maintenance.RATE_INTERVAL == 30.0
