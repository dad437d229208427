"""The receiver: a response is whole, or an exception, whatever the server does."""

from __future__ import annotations

import contextlib
import select
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from dugong import (
    ConnectionClosed,
    Delivery,
    InvalidResponse,
    ResponseTooLarge,
    UnsupportedResponse,
)
from dugong.pool.core.traffic import Traffic
from dugong.pool.io import receiver
from tests.support.pool import (
    OpenSite,
    discard_rest,
    each,
    name_target,
    open_site,
    signal_after,
    wait_for,
    wait_until_parked,
)
from tests.support.responses import INVALID, TRUNCATED, UNDERSTOOD, UNSUPPORTED
from tests.support.server import Peer, ReceivedRequest, Script

MUCH = bytes(range(256)) * 5000  # more than any one buffer holds


def chunked(*pieces: bytes) -> bytes:
    """Return a response whose body is *pieces*, each a chunk."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def until_close(body: bytes) -> bytes:
    """Return a response whose body ends with the connection."""
    return b"HTTP/1.1 200 OK\r\n\r\n" + body


def with_length(body: bytes) -> bytes:
    """Return a response that has a length."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def says(data: bytes, *, bytewise: bool = False, close: bool = False) -> Script:
    """Return a script that responds to its first request with *data*, others with their target."""

    def script(peer: Peer) -> None:
        peer.request()
        if bytewise:
            peer.send_bytewise(data)
        else:
            peer.send(data)
        if not close:
            each(name_target)(peer)
        elif isinstance(peer.sock, ssl.SSLSocket):
            with contextlib.suppress(OSError):  # what comes back does not matter
                peer.sock.unwrap()

    return script


# --- what is understood ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bytewise"),
    [
        (name, bytewise)
        for name, case in UNDERSTOOD.items()
        for bytewise in (False, True)
        if not bytewise or len(case.data) < 1000
    ],
)
def test_each_kind_of_response_is_understood(name: str, bytewise: bool) -> None:
    case = UNDERSTOOD[name]
    scripts = [says(case.data, bytewise=bytewise, close=case.until_close)]
    if not case.persistent:
        scripts.append(each(name_target))
    with open_site(*scripts) as here:
        response = here.pool.request(case.method, here.url())
        assert (response.status, response.body) == (case.status, case.body)
        if case.fields is not None:
            assert list(response.headers.items()) == case.fields
            assert bool(response.headers.defects) is case.dropped
        assert response.attempts == ()
        assert here.goes_on()
        assert here.server.connections == len(scripts)


@pytest.mark.parametrize("size", [0, 10, len(MUCH)])
def test_trailers_are_kept_apart_from_the_headers(site: OpenSite, size: int) -> None:
    section = b"X-Checksum: 1\r\nContent-Length: 5\r\n\r\n"
    with site(says(chunked(*filter(None, [MUCH[:size]]))[:-2] + section)) as here:
        response = here.pool.get(here.url())
        assert response.body == MUCH[:size]
        assert response.trailers.items() == [("X-Checksum", "1"), ("Content-Length", "5")]
        assert response.headers.items() == [("Transfer-Encoding", "chunked")]
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_response_says_which_version_it_has_come_in(version: str, persistent: bool) -> None:
    connection = "keep-alive" if persistent else "close"
    head = f"HTTP/{version} 200 OK\r\nConnection: {connection}\r\nContent-Length: 0\r\n\r\n"
    with open_site(says(head.encode(), close=True)) as here:
        assert here.pool.get(here.url()).http_version == f"HTTP/{version}"


@pytest.mark.parametrize("is_first", [True, False])
def test_the_time_of_a_response_is_that_until_all_of_it_has_come(is_first: bool) -> None:
    took = []

    def slow(peer: Peer, request: ReceivedRequest) -> None:
        began = time.monotonic()
        peer.send(with_length(MUCH)[:-1])
        select.select([], [], [], 0.02)
        took.append(time.monotonic() - began)
        peer.send(MUCH[-1:])

    with open_site(each(slow)) as here:
        if not is_first:  # then its caller does it
            here.pool.get(here.url())
            wait_until_parked(here.pool)
        assert here.pool.get(here.url()).elapsed.total_seconds() >= took[-1]


LARGE_RESPONSES: dict[str, tuple[bytes, bool]] = {
    "length": (with_length(MUCH), False),
    "chunks": (chunked(MUCH[:100], MUCH[100:300_000], MUCH[300_000:]), False),
    "until close": (until_close(MUCH), True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n" + MUCH, True),
}


@pytest.mark.parametrize("name", LARGE_RESPONSES)
def test_a_large_body_is_received_whole(site: OpenSite, name: str) -> None:
    data, close = LARGE_RESPONSES[name]
    scripts = [says(data, close=close), each(name_target)][: 1 + close]
    with site(*scripts) as here:
        assert here.pool.submit("GET", here.url()).result().body == MUCH
        assert here.goes_on()
        assert here.server.connections == len(scripts)


@pytest.mark.parametrize("name", LARGE_RESPONSES)
def test_a_caller_that_does_it_alone_receives_a_large_body_whole(site: OpenSite, name: str) -> None:
    data, close = LARGE_RESPONSES[name]

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        says(data, close=close)(peer)

    with site(*[script, each(name_target)][: 1 + close]) as here:
        assert here.goes_on()  # so the connection is idle
        assert here.pool.get(here.url()).body == MUCH
        assert here.goes_on()


def test_many_responses_in_one_segment_each_find_their_request(site: OpenSite) -> None:
    count = 50

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        while True:
            try:
                targets = [peer.request().target.encode()]
            except EOFError:
                return
            while peer._received:
                targets.append(peer.request().target.encode())
            peer.send(b"".join(map(with_length, targets)))

    with site(script, max_connections_per_host=1) as here:
        futures = [here.pool.submit("GET", here.url(f"/{i}")) for i in range(count)]
        assert [future.result().body for future in futures] == [b"/%d" % i for i in range(count)]


# --- what is not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVALID)
def test_a_response_that_breaks_the_rules_is_an_exception(name: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(INVALID[name])
        discard_rest(peer)

    with open_site(script, each(name_target)) as here:
        with pytest.raises(InvalidResponse) as caught:
            here.pool.get(here.url())
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_response_that_we_do_not_speak_is_an_exception(name: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(UNSUPPORTED[name])
        discard_rest(peer)

    with open_site(script, each(name_target)) as here:
        with pytest.raises(UnsupportedResponse) as caught:
            here.pool.get(here.url())
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", TRUNCATED)
def test_a_response_that_is_cut_short_is_not_a_response(name: str, reset: bool) -> None:
    data = TRUNCATED[name]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        if reset:
            peer.reset()

    with open_site(script, each(name_target)) as here:
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.get(here.url())
        if not reset:  # which may destroy what was sent before
            nothing = data in (b"", TRUNCATED["only an interim response"])
            started = Delivery.SENT if nothing else Delivery.ANSWER_STARTED
            assert caught.value.delivery is started
        assert here.goes_on()


@pytest.mark.parametrize("data", [with_length(MUCH), chunked(MUCH)])
@pytest.mark.parametrize("missing", [1, 1000, len(MUCH)])
def test_a_large_body_that_is_cut_short_is_not_an_end(
    site: OpenSite, data: bytes, missing: int
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data[:-missing])

    with site(script, each(name_target)) as here:
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.get(here.url())
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


def test_a_body_until_close_that_ends_in_a_reset_is_cut_short() -> None:
    sent = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(until_close(b"a part"))
        wait_for(sent)
        peer.reset()

    with open_site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read(6) == b"a part"
            sent.set()
            with pytest.raises(ConnectionClosed) as caught:
                response.read()
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


def test_a_body_until_close_that_ends_without_a_word_of_tls_is_cut_short(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(until_close(b"a part"))
        peer.cut()

    with open_site(
        script, each(name_target), server_context=server_context, client_context=client_context
    ) as here:
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.get(here.url())
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


# --- max_body_size --------------------------------------------------------------------------------


def in_many_chunks(body: bytes) -> bytes:
    """Return a response with *body* in some 10,000 chunks, or in chunks of 7 bytes."""
    size = len(body) // 10_000 | 7
    return chunked(*(body[i : i + size] for i in range(0, len(body), size)))


TOO_LARGE: dict[str, Callable[[bytes], bytes]] = {
    "length": with_length,
    "one chunk": chunked,
    "many chunks": in_many_chunks,
    "until close": until_close,
}


def one_of_three(data: bytes) -> Script:
    """Return a script that responds to three requests behind each other, the second with *data*."""

    def script(peer: Peer) -> None:
        for _ in range(3):  # which shows that three may be pipelined
            name_target(peer, peer.request())
        first, _, third = (peer.request() for _ in range(3))
        peer.send(with_length(first.target.encode()) + data + with_length(third.target.encode()))
        if data.startswith(until_close(b"")):
            return
        discard_rest(peer)

    return script


@pytest.mark.parametrize("size", [100, 300_000])
@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_body_that_is_too_large_is_refused_and_its_neighbours_are_not(
    kind: str, size: int
) -> None:
    data = TOO_LARGE[kind](MUCH[:size])
    with open_site(
        one_of_three(data), each(name_target), max_connections_per_host=1, max_body_size=size - 1
    ) as here:
        for _ in range(3):
            assert here.goes_on()
        futures = [here.pool.submit("GET", here.url(f"/{i}")) for i in range(3)]
        assert futures[0].result().body == b"/0"
        with pytest.raises(ResponseTooLarge, match=str(size - 1)) as caught:
            futures[1].result()
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert caught.value.is_announced == (kind == "length")
        assert caught.value.size is not None
        assert caught.value.size >= size  # what ends with the connection has the next response, too
        assert futures[2].result().body == b"/2"
        assert here.goes_on()


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_body_that_is_as_large_as_may_be_is_not_too_large(kind: str) -> None:
    script = says(TOO_LARGE[kind](MUCH), close=kind == "until close")
    with open_site(script, max_body_size=len(MUCH)) as here:
        assert here.pool.get(here.url()).body == MUCH


def test_what_is_too_large_for_memory_can_be_streamed() -> None:
    script = says(with_length(b"0123456789"))
    with (
        open_site(script, max_body_size=9) as here,
        here.pool.stream("GET", here.url()) as response,
    ):
        assert response.read() == b"0123456789"


def test_a_length_without_a_body_is_not_too_large() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with open_site(says(head), max_body_size=9) as here:
        assert here.pool.head(here.url()).headers["Content-Length"] == "1000"
        assert here.goes_on()


# --- long responses -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [None, receiver.LONG + 1])
def test_nothing_waits_behind_a_long_response_if_there_is_another_connection(
    monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    blocked = signal_after(monkeypatch, Traffic, "begin_body")
    finish = threading.Event()

    def script(peer: Peer) -> None:
        for _ in range(2):
            name_target(peer, peer.request())
        peer.request()
        if length is None:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        wait_for(finish)
        peer.send(bytes(length) if length is not None else b"1\r\na\r\n0\r\n\r\n")
        each(name_target)(peer)

    with open_site(script, each(name_target), max_connections_per_host=2) as here:
        assert here.goes_on()
        assert here.goes_on()
        long = here.pool.submit("GET", here.url("/long"))
        wait_for(blocked)
        assert [here.pool.get(here.url(f"/{i}")).body for i in range(3)] == [b"/0", b"/1", b"/2"]
        assert not long.done()
        finish.set()
        assert len(long.result().body) == (length or 1)
        assert here.server.connections == 2


def test_what_was_sent_before_a_long_response_was_known_still_gets_its_own() -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            name_target(peer, peer.request())
        first, second = peer.request(), peer.request()
        assert (first.target, second.target) == ("/long", "/behind")
        peer.send(with_length(MUCH) + with_length(b"/behind"))
        each(name_target)(peer)

    with open_site(script, max_connections_per_host=1) as here:
        for _ in range(3):
            assert here.goes_on()
        long = here.pool.submit("GET", here.url("/long"))
        behind = here.pool.submit("GET", here.url("/behind"))
        assert long.result().body == MUCH
        assert behind.result().body == b"/behind"
        assert here.goes_on()


def test_a_response_is_not_kept_by_the_connection_that_brought_it() -> None:
    with open_site(each(name_target)) as here:
        future = here.pool.submit("GET", here.url())
        future.result()
        kept = weakref.ref(future)
        wait_until_parked(here.pool)
        del future
        assert kept() is None


def test_a_body_that_does_not_fit_into_memory_is_too_large() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n"
    with (
        open_site(says(head), max_body_size=sys.maxsize) as site,
        pytest.raises(ResponseTooLarge, match="does not fit into memory"),
    ):
        site.pool.get(site.url("/"))
