"""Streams: the caller of `ConnectionPool.stream` reads the body from the connection itself.

Whatever the caller does with it, and however the block is left, the next request gets its own
response.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dugong import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    HTTPStatusError,
    InvalidResponse,
    PoolClosed,
    RetryPolicy,
    StreamedResponse,
)
from dugong.connection.polling import Coroutine
from dugong.connection.transport import Transport
from dugong.pool.core import connections
from dugong.pool.dialer import Dialer
from dugong.pool.io import receiver
from dugong.pool.url import Origin
from tests.support.pool import (
    GONE,
    OpenSite,
    discard_rest,
    each,
    name_target,
    open_site,
    wait_for,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, Script

SOME = b"All of the body." * 16
MUCH = bytes(range(256)) * 5000  # more than is drained, or than any one buffer holds


#: What may be tried again is, without a wait.
AT_ONCE = RetryPolicy(backoff=0)


def chunks(body: bytes, size: int = 30_000, status: str = "200 OK") -> bytes:
    """Return a response with *body* in chunks."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + framed + b"0\r\n\r\n"


def sized(body: bytes, status: str) -> bytes:
    """Return a response with *body* and its length."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def says(*data: bytes) -> Script:
    """Return a script that responds to the first requests with *data*, then with their target."""

    def script(peer: Peer) -> None:
        for response in data:
            peer.request()
            peer.send(response)
        each(name_target)(peer)

    return script


def responds(body: bytes, status: str = "200 OK", headers: str = "") -> Script:
    """Return a script that responds /body with *body*, and all else with its target."""

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.target != "/body":
            name_target(peer, request)
            return
        with contextlib.suppress(*GONE):  # who reads only some of it may close
            peer.respond(body, status, headers)

    return each(respond)


def chunked(body: bytes) -> Script:
    """Return a script that responds once with *body* in chunks, then as `responses`."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(chunks(body))
        each(name_target)(peer)

    return script


# --- ways to read ---------------------------------------------------------------------------------


def by_read(response: StreamedResponse) -> bytes:
    return response.read()


def by_pieces(response: StreamedResponse) -> bytes:
    parts = []
    while part := response.read(1000):
        assert len(part) <= 1000
        parts.append(part)
    return b"".join(parts)


def by_iteration(response: StreamedResponse) -> bytes:
    parts = list(response)
    assert all(type(part) is bytes and part for part in parts)
    return b"".join(parts)


def by_readinto(response: StreamedResponse) -> bytes:
    body = bytearray(len(MUCH) + 1)
    view, filled = memoryview(body), 0
    while got := response.readinto(view[filled:]):
        filled += got
    return bytes(body[:filled])


def by_a_buffered_reader(response: StreamedResponse) -> bytes:
    reader = io.BufferedReader(response)  # type: ignore[type-var]
    try:
        return reader.read(10) + reader.read()
    finally:
        reader.detach()  # or it would close the response


def by_copying(response: StreamedResponse) -> bytes:
    copy = io.BytesIO()
    shutil.copyfileobj(response, copy)
    return copy.getvalue()


def by_all_ways(response: StreamedResponse) -> bytes:
    start = bytearray(10)
    got = response.readinto(start)
    return bytes(start[:got]) + response.read(1) + next(iter(response), b"") + response.read()


WAYS = [
    by_read,
    by_pieces,
    by_iteration,
    by_readinto,
    by_a_buffered_reader,
    by_copying,
    by_all_ways,
]


@pytest.mark.parametrize("body", [b"", SOME, MUCH], ids=["empty", "some", "much"])
@pytest.mark.parametrize("read", WAYS)
def test_a_body_is_the_same_however_it_is_read(
    site: OpenSite, read: Callable[[StreamedResponse], bytes], body: bytes
) -> None:
    with site(responds(body)) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            assert (response.status, response.reason, response.length) == (200, "OK", len(body))
            assert response.headers["Content-Length"] == str(len(body))
            assert response.url == here.url("/body")
            assert read(response) == body
            assert response.read() == b""
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize("read", WAYS)
def test_a_body_in_chunks_is_the_same_however_it_is_read(
    site: OpenSite, read: Callable[[StreamedResponse], bytes]
) -> None:
    with site(chunked(MUCH)) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.length is None
            assert read(response) == MUCH
            assert response.read() == b""
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize("body", [b"", SOME, MUCH], ids=["empty", "some", "much"])
def test_trailers_are_there_once_the_body_has_been_read(site: OpenSite, body: bytes) -> None:
    with site(says(chunks(body)[:-2] + b"X-Checksum: 1\r\n\r\n")) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read() == body
            assert response.trailers.items() == [("X-Checksum", "1")]
            assert "X-Checksum" not in response.headers
        assert response.trailers.items() == [("X-Checksum", "1")]
        assert here.goes_on()
        assert here.server.connections == 1


def test_a_response_that_may_be_tried_again_has_its_trailers_too(site: OpenSite) -> None:
    late = chunks(b"late", status="503 Busy")[:-2] + b"X-Checksum: 1\r\n\r\n"
    policy = RetryPolicy(attempts=2, backoff=0)
    with (
        site(says(late, late)) as here,
        here.pool.stream("GET", here.url(), retry=policy) as response,
    ):
        assert len(response.attempts) == 1
        assert response.read() == b"late"
        assert response.trailers.items() == [("X-Checksum", "1")]


def test_a_body_that_was_not_read_to_its_end_has_no_trailers(site: OpenSite) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        with contextlib.suppress(*GONE):  # who reads only some of it closes
            peer.send(chunks(MUCH)[:-2] + b"X-Checksum: 1\r\n\r\n")

    with site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read(1) == MUCH[:1]
        assert response.trailers.items() == []
        assert here.goes_on()


def test_the_time_of_a_stream_is_that_until_its_head_has_come() -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n")
        assert go_on.wait(TIMEOUT)
        peer.send(b"x")

    with open_site(script) as here:
        began = time.monotonic()
        with here.pool.stream("GET", here.url()) as response:
            took = time.monotonic() - began
            go_on.set()
            assert response.read() == b"x"
            assert 0 < response.elapsed.total_seconds() <= took
            assert response.http_version == "HTTP/1.0"


def test_lines_are_given_while_the_body_comes(site: OpenSite) -> None:
    given = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        assert given.wait(TIMEOUT)
        peer.send(b"3\r\ntwo\r\n0\r\n\r\n")
        each(name_target)(peer)

    with site(script) as here:
        with here.pool.stream("GET", here.url()) as response:
            lines = response.iter_lines()
            assert next(lines) == "one"
            given.set()
            assert list(lines) == ["two"]
        assert here.goes_on()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_that_ends_with_the_connection_is_read_to_its_end(version: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(f"HTTP/{version} 200 OK\r\n\r\n".encode() + MUCH)

    with open_site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.length is None
            assert response.read() == MUCH
        assert here.goes_on()


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Same")]
)
def test_a_response_without_a_body_can_be_streamed(
    site: OpenSite, method: str, status: str
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(f"HTTP/1.1 {status}\r\nETag: a\r\n\r\n".encode())
        each(name_target)(peer)

    with site(script) as here:
        with here.pool.stream(method, here.url()) as response:
            assert response.headers["ETag"] == "a"
            assert response.read() == b""
        assert here.goes_on()
        assert here.server.connections == 1


def test_readinto_receives_straight_into_the_callers_buffer() -> None:
    """What has not come with the head is not copied on its way."""
    ready = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(MUCH))
        wait_for(ready)
        peer.send(MUCH)
        each(name_target)(peer)

    with open_site(script) as here:
        with here.pool.stream("GET", here.url()) as response:
            ready.set()
            buffer = bytearray(len(MUCH))
            filled = 0
            while filled < len(MUCH):
                filled += response.readinto(memoryview(buffer)[filled:])
                assert here.pool._scheduler._core.hosts.popitem is not None
            assert buffer == MUCH
        assert here.goes_on()


def test_text_can_be_read_line_by_line(site: OpenSite) -> None:
    lines = [f"line {i} \N{SNOWMAN}\n" for i in range(10_000)]
    with site(responds("".join(lines).encode())) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            assert list(io.TextIOWrapper(response, encoding="utf-8")) == lines  # type: ignore[type-var]
        assert here.goes_on()


def test_json_can_be_loaded(site: OpenSite) -> None:
    with site(responds(b'{"a": [1, 2]}')) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            assert json.load(response) == {"a": [1, 2]}
        assert here.goes_on()


def test_a_piece_is_there_when_it_has_come() -> None:
    """And not only when the buffer of the reader is full, or the body is over."""
    seen = [threading.Event(), threading.Event()]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in seen:
            peer.send(b"5\r\nevent\r\n")
            wait_for(event)
        peer.send(b"0\r\n\r\n")
        each(name_target)(peer)

    with open_site(script) as here:
        with here.pool.stream("GET", here.url()) as response:
            pieces = iter(response)
            for event in seen:
                assert next(pieces) == b"event"
                event.set()
            assert list(pieces) == []
        assert here.goes_on()
        assert here.server.connections == 1


def test_an_error_page_comes_with_the_exception() -> None:
    with open_site(responds(b"gone for good", "410 Gone")) as here:
        with (
            pytest.raises(HTTPStatusError, match="410 Gone") as caught,
            here.pool.stream("GET", here.url("/body")) as response,
        ):
            response.raise_for_status()
        assert caught.value.response.body == b"gone for good"
        assert here.goes_on()


# --- how the block is left ------------------------------------------------------------------------


class OurError(Exception):
    """What goes wrong in the caller's block."""


def reads_nothing(response: StreamedResponse) -> None:
    pass


def reads_a_little(response: StreamedResponse) -> None:
    assert response.read(5) == MUCH[:5]


def fails(response: StreamedResponse) -> None:
    assert response.read(5) == MUCH[:5]
    raise OurError


def closes(response: StreamedResponse) -> None:
    response.close()


LEAVING = [reads_nothing, reads_a_little, fails, closes]


@pytest.mark.parametrize("leave", LEAVING)
def test_what_little_is_left_is_drained(
    site: OpenSite, leave: Callable[[StreamedResponse], None]
) -> None:
    begun = threading.Event()
    body = MUCH[:60_000]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[:10]))
        wait_for(begun)
        peer.send(body[10:])
        each(name_target)(peer)

    with site(script) as here:
        with contextlib.suppress(OurError), here.pool.stream("GET", here.url()) as response:
            try:
                leave(response)
            finally:
                begun.set()
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize("leave", LEAVING)
def test_where_much_is_left_the_connection_is_closed(
    site: OpenSite, leave: Callable[[StreamedResponse], None]
) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (1 << 40, MUCH[:1000]))
        discard_rest(peer)
        closed.set()

    with site(script, each(name_target)) as here:
        with contextlib.suppress(OurError), here.pool.stream("GET", here.url()) as response:
            leave(response)
        wait_for(closed)
        assert here.goes_on()


@pytest.mark.parametrize("rest", [b"", b"c"])
def test_what_did_not_come_in_time_is_not_waited_for_again(site: OpenSite, rest: bytes) -> None:
    left = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab" + rest)
        wait_for(left)

    with site(script, timeout=1, retry=None) as here:
        start = time.monotonic()
        with here.pool.stream("GET", here.url()) as response, pytest.raises(ConnectionTimedOut):
            response.read()
        took = time.monotonic() - start
        left.set()
    assert took < 1.9


@pytest.mark.parametrize("leave", LEAVING)
def test_where_it_is_unknown_how_much_is_left_the_connection_is_closed(
    site: OpenSite, leave: Callable[[StreamedResponse], None]
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n" % MUCH[:5])
        discard_rest(peer)

    with site(script, each(name_target)) as here:
        with contextlib.suppress(OurError), here.pool.stream("GET", here.url()) as response:
            leave(response)
        assert here.goes_on()


def test_a_rest_that_does_not_come_is_not_waited_for_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiver, "DRAIN_TIME", 0.01)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        discard_rest(peer)

    with open_site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read(5) == b"first"
        assert here.goes_on()


@pytest.mark.parametrize("body", [SOME, MUCH], ids=["some", "much"])
def test_nothing_can_be_read_when_the_block_was_left(site: OpenSite, body: bytes) -> None:
    with site(responds(body), repeat=True) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            response.read(5)
        for read in (
            response.read,
            lambda: response.readinto(bytearray(5)),
            lambda: list(response),
        ):
            with pytest.raises(ValueError, match="closed"):
                read()
        assert response.closed
        assert here.goes_on()


def test_who_does_not_enter_the_block_sends_nothing() -> None:
    with open_site() as here:
        here.pool.stream("GET", here.url())
        assert here.server.connections == 0


# --- responses that are worth another attempt -----------------------------------------------------

BUSY = "503 Busy"


@pytest.mark.parametrize("body", [b"", SOME, MUCH[: receiver.LONG]], ids=["none", "some", "long"])
@pytest.mark.parametrize("frame", [sized, lambda body, status: chunks(body, status=status)])
def test_a_response_that_can_be_let_go_of_is_let_go_of_for_another_attempt(
    site: OpenSite, frame: Callable[[bytes, str], bytes], body: bytes
) -> None:
    with site(says(frame(body, BUSY), frame(SOME, "200 OK")), retry=AT_ONCE) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.status == 200
            assert [attempt.status for attempt in response.attempts] == [503]
            assert response.read() == SOME
        assert here.goes_on()
        assert here.server.connections == 1


def test_one_that_ends_with_its_connection_can_be_let_go_of_too() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 503 Busy\r\n\r\n" + SOME)

    with open_site(script, each(name_target), retry=AT_ONCE) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read() == b"/"
            assert [attempt.status for attempt in response.attempts] == [503]
        assert here.goes_on()


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize(
    "data",
    [
        sized(MUCH, BUSY),
        chunks(MUCH, status=BUSY),
        sized(MUCH[: receiver.LONG + 1], BUSY),
        chunks(MUCH[: receiver.LONG + 1], status=BUSY),
    ],
    ids=["much", "much-in-chunks", "a-byte-too-much", "a-byte-too-much-in-chunks"],
)
def test_one_that_is_too_long_for_that_is_handed_over_and_nothing_of_it_is_lost(
    site: OpenSite, read: Callable[[StreamedResponse], bytes], data: bytes
) -> None:
    sent = MUCH if len(data) > len(MUCH) else MUCH[: receiver.LONG + 1]
    with site(says(data), retry=AT_ONCE) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert (response.status, response.attempts) == (503, ())
            assert read(response) == sent
            assert response.read() == b""
        assert here.goes_on()
        assert here.server.connections == 1


def test_one_that_says_that_it_is_too_long_is_handed_over_at_once(site: OpenSite) -> None:
    begun = threading.Event()
    data = sized(MUCH, BUSY)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data[:1000])
        wait_for(begun)
        peer.send(data[1000:])
        each(name_target)(peer)

    with site(script, retry=AT_ONCE) as here:
        with here.pool.stream("GET", here.url()) as response:
            begun.set()
            assert response.read() == MUCH
        assert here.goes_on()


@pytest.mark.parametrize(
    ("status", "retry"), [("503 Busy", None), ("404 Not Found", AT_ONCE), ("200 OK", AT_ONCE)]
)
def test_one_that_is_not_tried_again_anyway_is_handed_over_at_once(
    site: OpenSite, status: str, retry: RetryPolicy | None
) -> None:
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        data = sized(SOME, status)
        peer.send(data[:-1])
        wait_for(begun)
        peer.send(data[-1:])
        each(name_target)(peer)

    with site(script, retry=retry) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert f"{response.status} {response.reason}" == status
            begun.set()
            assert response.read() == SOME
        assert here.goes_on()


def test_the_response_to_the_last_attempt_is_handed_over(site: OpenSite) -> None:
    retry = RetryPolicy(attempts=3, backoff=0)
    script = says(*[sized(b"sorry %d" % number, BUSY) for number in (1, 2, 3)])
    with site(script, retry=retry) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert (response.status, response.length) == (503, 7)
            assert response.read() == b"sorry 3"
            assert [attempt.status for attempt in response.attempts] == [503, 503]
        assert here.goes_on()


def test_one_that_may_not_be_asked_for_twice_is_handed_over(site: OpenSite) -> None:
    with site(says(sized(SOME, BUSY)), retry=AT_ONCE) as here:
        with here.pool.stream("POST", here.url(), body=b"once") as response:
            assert (response.status, response.attempts) == (503, ())
            assert response.read() == SOME
        assert here.goes_on()


@pytest.mark.parametrize("data", [sized(SOME, BUSY), chunks(SOME, status=BUSY)])
def test_one_that_is_cut_short_is_an_attempt_that_has_failed(site: OpenSite, data: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data[:-1])

    with site(script, each(name_target), retry=AT_ONCE) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read() == b"/"
            (attempt,) = response.attempts
            assert isinstance(attempt.exception, ConnectionClosed)
            assert attempt.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


def test_a_long_one_that_is_cut_short_is_not_an_end(site: OpenSite) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(chunks(MUCH, status=BUSY)[:-1])

    with site(script, each(name_target), retry=AT_ONCE) as here:
        with here.pool.stream("GET", here.url()) as response, pytest.raises(ConnectionClosed):
            response.read()
        assert here.goes_on()


def test_an_upload_is_sent_again_for_a_streamed_response(site: OpenSite) -> None:
    responses = [sized(b"thanks", "200 OK"), sized(SOME, BUSY)]

    def script(peer: Peer) -> None:
        # The first response may come before the sender has seen that all of the body was sent: then
        # it ends the upload, and the connection with it.
        with contextlib.suppress(*GONE):
            while responses:
                peer.request()
                peer.send(responses.pop())
        each(name_target)(peer)

    with site(script, repeat=True, retry=AT_ONCE) as here:
        with here.pool.stream("PUT", here.url(), body=io.BytesIO(MUCH)) as response:
            assert response.read() == b"thanks"
            assert [attempt.status for attempt in response.attempts] == [503]
        assert here.goes_on()


def test_a_stream_whose_connection_ends_before_the_response_is_tried_again(site: OpenSite) -> None:
    def script(peer: Peer) -> None:
        peer.request()

    with site(script, responds(MUCH), retry=AT_ONCE) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            assert response.read() == MUCH
            assert [attempt.status for attempt in response.attempts] == [None]
        assert here.goes_on()


def test_a_body_that_fails_in_the_callers_hands_tells_of_the_attempts_before_it(
    site: OpenSite,
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(sized(SOME, BUSY))
        peer.request()
        peer.send(sized(SOME, "200 OK")[:-1])

    with (
        site(script, retry=AT_ONCE) as here,
        here.pool.stream("GET", here.url()) as response,
    ):
        with pytest.raises(ConnectionClosed) as caught:
            response.read()
        assert [attempt.status for attempt in caught.value.attempts] == [503]


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [chunks(MUCH), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12"])
@pytest.mark.parametrize("read", WAYS)
def test_a_body_that_is_cut_short_is_not_an_end(
    site: OpenSite, read: Callable[[StreamedResponse], bytes], data: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data[:-1])

    with site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url()) as response:
            for _ in range(2):  # the second time, too
                with pytest.raises(ConnectionClosed) as caught:
                    read(response)
                assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


def test_what_has_ended_a_body_is_the_cause_of_the_exception(site: OpenSite) -> None:
    is_read = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        wait_for(is_read)
        peer.reset()

    with site(script) as here, here.pool.stream("GET", here.url()) as response:
        assert response.read(5) == b"first"
        is_read.set()
        with pytest.raises(ConnectionClosed) as caught:
            response.read(5)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


def test_a_body_that_breaks_the_rules_is_not_an_end() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nwhat?\r\n")
        discard_rest(peer)

    with open_site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read(5) == b"first"
            with pytest.raises(InvalidResponse) as caught:
                response.read(5)
            assert caught.value.delivery is Delivery.ANSWER_STARTED
            with pytest.raises(ConnectionClosed):
                response.read(5)
        assert here.goes_on()


def test_a_body_that_does_not_come_times_out(site: OpenSite) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nfirst" % (1 << 30))
        discard_rest(peer)

    with site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read(5) == b"first"
            response._source._job.timeout = 0.01  # type: ignore[union-attr]
            with pytest.raises(ConnectionTimedOut) as caught:
                response.read(5)
            assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


def test_the_deadline_also_holds_for_the_body(site: OpenSite) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nfirst" % (1 << 30))
        discard_rest(peer)

    with site(script, each(name_target)) as here:
        with here.pool.stream("GET", here.url(), deadline=TIMEOUT) as response:
            assert response.read(5) == b"first"
            scheduler = here.pool._scheduler
            with scheduler._core.transaction():  # as the timer does when its time has come
                scheduler.expire_locked(response._source._job)  # type: ignore[union-attr]
            with pytest.raises(ConnectionTimedOut, match="deadline") as caught:
                response.read(5)
            assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert here.goes_on()


def test_a_stream_that_gets_no_response_fails_before_the_block() -> None:
    def script(peer: Peer) -> None:
        peer.request()

    with open_site(script, each(name_target)) as here:
        with pytest.raises(ConnectionClosed) as caught, here.pool.stream("GET", here.url()):
            raise AssertionError("the block was entered")
        assert caught.value.delivery is Delivery.SENT
        assert here.goes_on()


# --- others at the same time ----------------------------------------------------------------------


def test_two_streams_are_read_side_by_side(site: OpenSite) -> None:
    first_body, second_body = b"1" * len(MUCH), b"2" * len(MUCH)

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        body = {"/1": first_body, "/2": second_body}.get(request.target)
        peer.respond(request.target.encode() if body is None else body)

    with site(each(respond), repeat=True) as here:
        with (
            here.pool.stream("GET", here.url("/1")) as first,
            here.pool.stream("GET", here.url("/2")) as second,
        ):
            received = [b"", b""]
            while pieces := (first.read(100_000), second.read(100_000)):
                if pieces == (b"", b""):
                    break
                received = [had + piece for had, piece in zip(received, pieces, strict=True)]
        assert received == [first_body, second_body]
        assert here.server.connections == 2
        assert here.goes_on()


def test_others_go_by_another_connection_while_a_stream_is_read(site: OpenSite) -> None:
    with (
        site(responds(MUCH), repeat=True) as here,
        here.pool.stream("GET", here.url("/body")) as response,
    ):
        assert response.read(5) == MUCH[:5]
        assert here.goes_on()
        futures = [here.pool.submit("GET", here.url(f"/{i}")) for i in range(20)]
        assert [future.result().text for future in futures] == [f"/{i}" for i in range(20)]
        assert response.read() == MUCH[5:]


def test_others_wait_for_the_only_connection_until_the_stream_was_read(site: OpenSite) -> None:
    with site(responds(MUCH), max_connections_per_host=1) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            futures = [here.pool.submit("GET", here.url(f"/{i}")) for i in range(5)]
            assert here.pool.statistics().queued == 5
            assert response.read() == MUCH
            assert not any(future.done() for future in futures)
        assert [future.result().text for future in futures] == [f"/{i}" for i in range(5)]
        assert here.server.connections == 1


def test_others_that_waited_go_on_when_the_stream_was_left_early(site: OpenSite) -> None:
    with site(responds(MUCH), each(name_target), max_connections_per_host=1) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            futures = [here.pool.submit("GET", here.url(f"/{i}")) for i in range(5)]
            assert response.read(5) == MUCH[:5]
        assert [future.result().text for future in futures] == [f"/{i}" for i in range(5)]
        assert here.server.connections == 2


def test_a_stream_waits_until_a_connection_is_empty() -> None:
    """It is not sent behind others, and nothing is sent behind it."""
    received: list[str] = []

    def script(peer: Peer) -> None:
        for _ in range(3):
            name_target(peer, peer.request())
        first = peer.request()
        received.append(first.target)
        stream_may_begin.set()
        wait_for(stream_queued)
        assert not peer._received
        peer.respond(first.target.encode())
        received.append(peer.request().target)
        peer.respond(MUCH)
        each(name_target)(peer)

    stream_may_begin, stream_queued = threading.Event(), threading.Event()
    with open_site(script, max_connections_per_host=1) as here:
        for _ in range(3):
            assert here.goes_on()
        before = here.pool.submit("GET", here.url("/before"))
        wait_for(stream_may_begin)
        read: list[bytes] = []

        def reader() -> None:
            with here.pool.stream("GET", here.url("/stream")) as response:
                read.append(response.read())

        thread = threading.Thread(target=reader)
        thread.start()
        while not here.pool.statistics().queued:
            pass
        stream_queued.set()
        thread.join()
        assert before.result().body == b"/before"
        assert read == [MUCH]
        assert here.goes_on()
    assert received == ["/before", "/stream"]


def test_a_request_beside_a_stream_does_not_wait_for_it_if_it_could_not_connect_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that reads the stream may be waiting for that very request."""
    monkeypatch.setattr(connections, "REOPEN_TIME", 0.01)
    with (
        open_site(responds(MUCH), repeat=True) as here,
        here.pool.stream("GET", here.url("/body")) as response,
    ):
        dial = Dialer.__call__

        def refused(self: Dialer, origin: Origin, proxy: object) -> Coroutine[Transport]:
            monkeypatch.setattr(Dialer, "__call__", dial)
            raise ConnectionRefusedError
            yield

        monkeypatch.setattr(Dialer, "__call__", refused)
        future = here.pool.submit("GET", here.url("/beside"))
        try:
            assert future.result(1).body == b"/beside"
        finally:
            future.cancel()
        assert response.read() == MUCH


def test_a_pool_that_is_closed_ends_a_read(site: OpenSite) -> None:
    reading = threading.Event()
    errors: list[BaseException] = []

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nfirst" % (1 << 30))
        discard_rest(peer)

    with site(script) as here:

        def reader() -> None:
            with here.pool.stream("GET", here.url()) as response:
                try:
                    while response.read(5):
                        reading.set()
                except BaseException as exc:
                    errors.append(exc)

        thread = threading.Thread(target=reader)
        thread.start()
        wait_for(reading)
        here.pool.close()
        thread.join()
    (error,) = errors
    assert isinstance(error, PoolClosed)
    assert error.delivery is Delivery.ANSWER_STARTED


def test_a_pool_that_is_closed_within_the_block_ends_the_stream(site: OpenSite) -> None:
    with site(responds(MUCH)) as here:
        with here.pool.stream("GET", here.url("/body")) as response:
            assert response.read(5) == MUCH[:5]
            here.pool.close()
            with pytest.raises(PoolClosed):
                response.read()
        assert "0 connections" in repr(here.pool)


# --- uploads that are streamed back ---------------------------------------------------------------


def echoing(peer: Peer, request: ReceivedRequest) -> None:
    peer.send(chunks(request.body))


def test_an_upload_may_have_a_streamed_response(site: OpenSite) -> None:
    with site(each(echoing)) as here:
        for _ in range(2):
            with here.pool.stream("POST", here.url(), body=iter([SOME, MUCH])) as response:
                assert response.read() == SOME + MUCH
        assert here.server.connections == 1


def test_a_block_begins_before_the_body_was_sent_if_the_response_does() -> None:
    begun = threading.Event()

    def body() -> Iterator[bytes]:
        yield SOME
        wait_for(begun)
        yield SOME

    def script(peer: Peer) -> None:
        head = peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nfirst" % (5 + len(SOME)))
        received = peer.exactly(int(head.headers["content-length"]))
        peer.send(received[len(SOME) :])
        each(name_target)(peer)

    headers = {"Content-Length": str(2 * len(SOME))}
    with open_site(script) as here:
        with here.pool.stream("PUT", here.url(), body=body(), headers=headers) as response:
            assert response.read(5) == b"first"
            begun.set()
            assert response.read() == SOME
        assert here.goes_on()
        assert here.server.connections == 1


def test_an_early_refusal_can_be_streamed(site: OpenSite) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield MUCH

    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(MUCH, "413 Too Large")
        discard_rest(peer)

    with site(script, each(name_target)) as here:
        with here.pool.stream("PUT", here.url(), body=endless()) as response:
            assert response.status == 413
            assert response.read() == MUCH
        assert here.goes_on()


@pytest.mark.parametrize(
    ("status", "fully", "whole"),
    [
        ("200 OK", True, True),
        ("200 OK", False, False),  # its connection is closed, and with that the upload cut short
        ("413 Too Large", True, True),
        ("413 Too Large", False, True),  # an upload that was refused is not to be whole
    ],
)
def test_a_block_is_left_only_when_the_sender_has_released_the_body(
    status: str, fully: bool, whole: bool
) -> None:
    left = threading.Event()
    left_before: list[bool] = []

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(len(SOME))  # so the body is being read
        peer.respond(MUCH, status)
        discard_rest(peer)

    with open_site(script) as here:

        def body() -> Iterator[bytes]:
            yield SOME
            # Until the other thread waits for us, or does not.
            while not (here.pool._scheduler._core.body_released._waiters or left.is_set()):  # type: ignore[attr-defined]
                pass
            left_before.append(left.is_set())
            yield SOME

        cut_short = pytest.raises(ConnectionClosed, match="abandoned")
        with (
            contextlib.nullcontext() if whole else cut_short,
            here.pool.stream("PUT", here.url(), body=body()) as response,
        ):
            response.read(-1 if fully else 5)
        left.set()
        assert True not in left_before


def test_a_body_that_fails_while_the_response_is_read_is_what_the_reader_hears_of() -> None:
    class BodyFailed(Exception):
        pass

    begun = threading.Event()

    def body() -> Iterator[bytes]:
        yield SOME
        wait_for(begun)
        raise BodyFailed

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        discard_rest(peer)

    with (
        open_site(script) as here,
        here.pool.stream("PUT", here.url(), body=body()) as response,
    ):
        begun.set()
        with pytest.raises(BodyFailed):
            response.read()


def test_streams_that_were_read_leave_their_connection_to_others_of_their_thread() -> None:
    """The blocks are still open, and there are more of them than connections."""
    with (
        open_site(each(name_target), max_connections_per_host=3) as site,
        contextlib.ExitStack() as blocks,
    ):
        for i in range(5):
            response = blocks.enter_context(site.pool.stream("GET", site.url(f"/{i}")))
            assert response.read() == f"/{i}".encode()
        assert site.pool.get(site.url("/a"), deadline=5).text == "/a"


def test_a_stream_whose_response_has_come_whole_has_no_connection() -> None:
    with open_site(each(name_target), repeat=True, max_connections_per_host=1) as here:
        for call in (here.pool.get, here.pool.delete):
            with here.pool.stream("GET", here.url("/a"), deadline=TIMEOUT) as response:
                assert call(here.url("/b"), deadline=TIMEOUT).body == b"/b"
                assert response.read() == b"/a"
