"""Uploads from end to end: each kind of body arrives byte for byte, or not as a whole request.

Whatever has happened to an upload, the next request gets its own response.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import mmap
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from queue import SimpleQueue
from types import GeneratorType
from typing import Any, BinaryIO

import pytest

from dugong import ConnectionClosed, Delivery, Request, RetryPolicy
from dugong.pool.core import traffic
from dugong.pool.core.traffic import Traffic
from tests.support.pool import (
    GONE,
    OpenSite,
    discard_rest,
    each,
    name_target,
    open_site,
    signal_after,
    wait_for,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

SOME = b"All of the body." * 16
MUCH = bytes(range(256)) * 5000  # more than is sent in one piece, or fits into any one buffer

PLEASE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: What may be tried again is, without a wait.
AT_ONCE = RetryPolicy(backoff=0)


class Recorder:
    """A script's response that keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []

    def __call__(self, peer: Peer, request: ReceivedRequest) -> None:
        self.requests.append(request)
        name_target(peer, request)


class Watched:
    """A body in chunks that knows whether it has been looked at."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.touched = False

    def __iter__(self) -> Iterator[bytes]:
        self.touched = True
        return iter(self._pieces)


def endless() -> Iterator[bytes]:
    """Return a body that only ends if it is stopped."""
    return itertools.repeat(bytes(64 * 1024))


def file_with(tmp_path: Path, data: bytes) -> BinaryIO:
    """Return a file that holds *data*, open for reading."""
    path = tmp_path / "body"
    path.write_bytes(data)
    return path.open("rb")


def ends_without_a_response(peer: Peer) -> None:
    """Receive what the client sends until it closes, and do not respond."""
    peer.head()
    discard_rest(peer)


def respond_at_once(peer: Peer, body: bytes, status: str = "200 OK", headers: str = "") -> None:
    """Response before the system may be told to reset the connection.

    Or else it may keep the response back until what TLS sent before it has been acknowledged.
    """
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.respond(body, status, headers)


# --- what arrives ---------------------------------------------------------------------------------

BYTES_LIKE: dict[str, Callable[[], Any]] = {
    "no bytes": lambda: b"",
    "some bytes": lambda: SOME,
    "much in bytes": lambda: MUCH,
    "much in a bytearray": lambda: bytearray(MUCH),
    "some in a memoryview of words": lambda: memoryview(SOME).cast("I"),
    "much in a memoryview of words": lambda: memoryview(MUCH).cast("I"),
    "much in a BytesIO": lambda: io.BytesIO(MUCH),
    "an empty BytesIO": lambda: io.BytesIO(),
}


@pytest.mark.parametrize("kind", BYTES_LIKE)
def test_what_is_in_memory_arrives_with_its_length(site: OpenSite, kind: str) -> None:
    body = BYTES_LIKE[kind]()
    expected = body.getvalue() if isinstance(body, io.BytesIO) else bytes(body)
    asked = Recorder()
    with site(each(asked)) as here:
        assert here.pool.put(here.url(), body).body == b"/"
        assert here.goes_on()
        assert here.server.connections == 1
    request = asked.requests[0]
    assert request.body == expected
    assert request.headers["content-length"] == str(len(expected))
    assert "transfer-encoding" not in request.headers
    assert "content-md5" not in request.headers


@pytest.mark.parametrize("size", [0, 1, len(SOME), len(MUCH)])
def test_a_file_arrives_with_its_length(site: OpenSite, tmp_path: Path, size: int) -> None:
    asked = Recorder()
    with file_with(tmp_path, MUCH[:size]) as file, site(each(asked)) as here:
        assert here.pool.put(here.url(), file).body == b"/"
        assert here.goes_on()
        assert here.server.connections == 1
        assert not file.closed
    assert asked.requests[0].body == MUCH[:size]
    assert asked.requests[0].headers["content-length"] == str(size)


@pytest.mark.parametrize("kind", ["BytesIO", "NamedTemporaryFile"])
def test_requests_that_are_sent_at_the_same_time_may_share_a_file(
    kind: str, site: OpenSite
) -> None:
    """Each has all of it, though a file that is not read by its descriptor has one position."""
    together = threading.Barrier(3)

    def script(peer: Peer) -> None:
        head = peer.head()
        together.wait(TIMEOUT)
        peer.respond(peer.exactly(int(head.headers["content-length"])))

    with tempfile.NamedTemporaryFile() as named:
        named.write(MUCH)
        named.seek(0)
        file: Any = named if kind == "NamedTemporaryFile" else io.BytesIO(MUCH)
        with site(*[script] * 3) as here:
            futures = [here.pool.submit("PUT", here.url(f"/{n}"), body=file) for n in range(3)]
            assert [future.result(TIMEOUT).body for future in futures] == [MUCH] * 3
        assert file.tell() == 0


def test_a_file_arrives_from_where_it_stands(site: OpenSite, tmp_path: Path) -> None:
    asked = Recorder()
    with file_with(tmp_path, MUCH) as file, site(each(asked)) as here:
        file.seek(1000)
        here.pool.put(here.url(), file)
        assert here.goes_on()
    assert asked.requests[0].body == MUCH[1000:]


def test_a_plain_connection_has_files_sent_by_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = []
    sendfile = os.sendfile

    def noting(out: int, source: int, offset: int, count: int) -> int:
        sent = sendfile(out, source, offset, count)
        ranges.append((offset, sent))
        return sent

    monkeypatch.setattr(os, "sendfile", noting)
    asked = Recorder()
    with file_with(tmp_path, MUCH) as file, open_site(each(asked)) as here:
        file.seek(1000)
        here.pool.put(here.url(), file)
    assert asked.requests[0].body == MUCH[1000:]
    assert ranges[0][0] == 1000
    assert sum(sent for _, sent in ranges) == len(MUCH) - 1000


def test_one_file_serves_many_uploads_at_once(site: OpenSite, tmp_path: Path) -> None:
    asked = Recorder()
    with (
        file_with(tmp_path, MUCH) as file,
        site(each(asked), repeat=True, max_connections_per_host=2) as here,
    ):
        futures = [here.pool.submit("PUT", here.url(), body=file) for _ in range(4)]
        for future in futures:
            assert future.result().status == 200
    assert [request.body for request in asked.requests] == [MUCH] * 4


def test_a_pipe_arrives_in_chunks_as_it_is_filled(site: OpenSite) -> None:
    received = threading.Event()

    def script(peer: Peer) -> None:
        request = peer.head()
        assert request.headers["transfer-encoding"] == "chunked"
        assert peer.exactly(10) == b"5\r\nfirst\r\n"
        received.set()
        assert peer.exactly(16) == b"6\r\nsecond\r\n0\r\n\r\n"
        peer.respond()
        each(name_target)(peer)

    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, site(script) as here:
        with os.fdopen(writing, "wb", buffering=0) as source:
            future = here.pool.submit("PUT", here.url(), body=pipe)
            source.write(b"first")
            wait_for(received)
            source.write(b"second")
        assert future.result().status == 200
        assert here.goes_on()


def test_an_iterable_arrives_in_chunks(site: OpenSite) -> None:
    asked = Recorder()
    pieces = [b"a", b"", bytearray(b"bc"), memoryview(MUCH), b"d"]
    with site(each(asked)) as here:
        here.pool.put(here.url(), (piece for piece in pieces))
        assert here.goes_on()
        assert here.server.connections == 1
    assert asked.requests[0].body == b"abc" + MUCH + b"d"
    assert asked.requests[0].headers["transfer-encoding"] == "chunked"
    assert "content-length" not in asked.requests[0].headers


@pytest.mark.parametrize("make", [list, lambda: (piece for piece in [b""])])
def test_an_iterable_without_items_is_an_empty_body(
    site: OpenSite, make: Callable[[], Any]
) -> None:
    asked = Recorder()
    with site(each(asked)) as here:
        here.pool.put(here.url(), make())
        assert here.goes_on()
        assert here.server.connections == 1
    assert asked.requests[0].body == b""


def test_an_iterable_of_declared_length_arrives_without_chunks(site: OpenSite) -> None:
    asked = Recorder()
    body = (MUCH[start : start + 7000] for start in range(0, len(MUCH), 7000))
    with site(each(asked)) as here:
        here.pool.put(here.url(), body, headers={"Content-Length": str(len(MUCH))})
        assert here.goes_on()
    assert asked.requests[0].body == MUCH
    assert asked.requests[0].headers["content-length"] == str(len(MUCH))
    assert "transfer-encoding" not in asked.requests[0].headers


def test_a_stream_of_the_pool_can_be_the_body_of_an_upload(site: OpenSite) -> None:
    asked = Recorder()

    def script(peer: Peer, request: ReceivedRequest) -> None:
        if request.method == "GET":
            peer.respond(MUCH)
        else:
            asked(peer, request)

    with site(each(script), repeat=True) as here:
        with here.pool.stream("GET", here.url("/from")) as source:
            response = here.pool.put(here.url("/to"), source)
        assert response.body == b"/to"
    assert asked.requests[0].body == MUCH


def test_each_upload_of_many_is_answered_by_its_own_response(site: OpenSite) -> None:
    def echo(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(request.target.encode() + b" " + request.body)

    def body(number: int) -> Iterator[bytes]:
        yield b"%d" % number

    with site(each(echo), repeat=True, max_connections_per_host=3) as here:
        futures = [
            here.pool.submit("POST", here.url(f"/{i}"), body=body(i) if i % 2 else b"%d" % i)
            for i in range(30)
        ]
        assert [future.result().body for future in futures] == [
            b"/%d %d" % (i, i) for i in range(30)
        ]


# --- bodies that are not what they said, or fail --------------------------------------------------


class OurError(Exception):
    """What an iterable of the tests raises."""


def raising(error: BaseException) -> Iterator[bytes]:
    yield SOME
    raise error


def no_whole_request(peer: Peer) -> None:
    """Assert that the client closes before the end of its body."""
    with pytest.raises(GONE):
        peer.request()


def test_what_an_iterable_raises_is_what_the_caller_gets(site: OpenSite) -> None:
    error = OurError("the disk has failed", 7)
    with site(no_whole_request, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=raising(error))
        with pytest.raises(OurError) as caught:
            future.result()
        assert caught.value.args == error.args
        assert caught.value.delivery is Delivery.PARTLY_SENT  # type: ignore[attr-defined]
        assert here.goes_on()


def test_an_exception_from_an_iterable_shows_where_it_was_raised() -> None:
    with open_site(no_whole_request) as here:
        future = here.pool.submit("PUT", here.url(), body=raising(OurError()))
        error = future.exception()
    assert error is not None
    names = []
    traceback = error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert "raising" in names


def test_an_exception_that_cannot_be_copied_truly_is_not_copied() -> None:
    class Failed(Exception):
        def __init__(self, what: str) -> None:
            super().__init__(f"{what} has failed")

    with open_site(no_whole_request) as here:
        future = here.pool.submit("PUT", here.url(), body=raising(Failed("the disk")))
        assert str(future.exception()) == "the disk has failed"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionClosed(),
        ConnectionResetError(),
        TimeoutError(),
        ssl.SSLError(ssl.SSL_ERROR_SSL, "of another connection"),
    ],
    ids=repr,
)
def test_an_iterable_that_fails_as_a_connection_does_ends_the_upload(
    site: OpenSite, error: Exception
) -> None:
    error = copy.copy(error)  # which becomes that of one request
    with site(no_whole_request, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=raising(error))
        assert future.exception(TIMEOUT) is error
        assert here.goes_on()


def test_an_iterable_that_wants_to_end_the_program_only_ends_its_request(site: OpenSite) -> None:
    with site(no_whole_request, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=raising(SystemExit(3)))
        with pytest.raises(RuntimeError, match=r"SystemExit\(3\)") as caught:
            future.result(TIMEOUT)
        assert isinstance(caught.value.__cause__, SystemExit)
        assert here.goes_on()


@pytest.mark.parametrize("item", ["text", None, 5])
def test_an_iterable_of_something_else_than_bytes_fails(site: OpenSite, item: object) -> None:
    with site(no_whole_request, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=iter([SOME, item]))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=type(item).__name__):
            future.result()
        assert here.goes_on()


@pytest.mark.parametrize(
    ("size", "message"), [(len(SOME) - 1, "longer than"), (len(SOME) + 1, "1 bytes short")]
)
def test_an_iterable_must_keep_to_its_declared_length(
    site: OpenSite, size: int, message: str
) -> None:
    headers = {"Content-Length": str(size)}
    with site(no_whole_request, each(name_target)) as here:
        future = here.pool.submit(
            "PUT", here.url(), headers=headers, body=iter([SOME[:9], SOME[9:]])
        )
        with pytest.raises(ValueError, match=message):
            future.result()
        assert here.goes_on()


def begins_when_told(told: threading.Event, ready: threading.Event) -> Callable[[Peer], None]:
    """Return a script that asks for a body when it is *told*; *ready* says that it waits."""

    def script(peer: Peer) -> None:
        peer.head()
        ready.set()
        wait_for(told)
        peer.send(PLEASE)
        with pytest.raises(GONE):
            peer.exactly(len(MUCH))

    return script


def test_a_file_that_has_shrunk_is_too_short(site: OpenSite, tmp_path: Path) -> None:
    told, ready = threading.Event(), threading.Event()
    with (
        file_with(tmp_path, MUCH) as file,
        site(begins_when_told(told, ready), each(name_target)) as here,
    ):
        future = here.pool.submit("PUT", here.url(), body=file, expect100=True)
        wait_for(ready)
        os.truncate(file.name, 1000)
        told.set()
        with pytest.raises(ValueError, match=f"{len(MUCH) - 1000} bytes short of its length"):
            future.result()
        assert here.goes_on()


def test_a_file_that_has_grown_is_sent_as_it_was(site: OpenSite, tmp_path: Path) -> None:
    told, ready = threading.Event(), threading.Event()
    received = []

    def script(peer: Peer) -> None:
        peer.head()
        ready.set()
        wait_for(told)
        peer.send(PLEASE)
        received.append(peer.exactly(len(SOME)))
        peer.respond()
        each(name_target)(peer)

    with file_with(tmp_path, SOME) as file, site(script) as here:
        future = here.pool.submit("PUT", here.url(), body=file, expect100=True)
        wait_for(ready)
        os.truncate(file.name, 1000)
        told.set()
        assert future.result().status == 200
        assert here.goes_on()
    assert received == [SOME]


def test_a_file_that_was_closed_before_it_was_sent_fails(site: OpenSite, tmp_path: Path) -> None:
    told, ready = threading.Event(), threading.Event()
    with (
        file_with(tmp_path, MUCH) as file,
        site(begins_when_told(told, ready), each(name_target)) as here,
    ):
        future = here.pool.submit("PUT", here.url(), body=file, expect100=True)
        wait_for(ready)
        file.close()
        told.set()
        with pytest.raises(ValueError, match="closed"):
            future.result()
        assert here.goes_on()


# --- Expect: 100-continue -------------------------------------------------------------------------


def test_a_body_goes_out_when_the_server_asks_for_it(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "CONTINUE_TIME", TIMEOUT * 2)  # only the server opens the gate
    body = Watched(SOME, SOME)

    def script(peer: Peer) -> None:
        request = peer.head()
        assert request.headers["expect"] == "100-continue"
        assert not body.touched
        peer.send(PLEASE)
        chunk = b"%x\r\n%b\r\n" % (len(SOME), SOME)
        assert peer.exactly(2 * len(chunk) + 5) == 2 * chunk + b"0\r\n\r\n"
        peer.respond(b"got it")
        each(name_target)(peer)

    with site(script) as here:
        assert here.pool.put(here.url(), body, expect100=True).body == b"got it"
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize(
    "please",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100\r\n\r\n",
        b"HTTP/1.1 100 \r\n\r\n",
        b"HTTP/1.1 100 Go on\r\nServer: this\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_a_server_may_ask_in_many_ways(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch, please: bytes
) -> None:
    monkeypatch.setattr(traffic, "CONTINUE_TIME", TIMEOUT * 2)

    def script(peer: Peer) -> None:
        head = peer.head()
        peer.send(please)
        assert peer.exactly(int(head.headers["content-length"])) == SOME
        peer.respond(b"got it")
        each(name_target)(peer)

    with site(script) as here:
        assert here.pool.put(here.url(), SOME, expect100=True).body == b"got it"
        assert here.goes_on()


def test_a_body_goes_out_when_the_server_says_nothing_for_a_while(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "CONTINUE_TIME", 0.01)
    asked = Recorder()
    with site(each(asked)) as here:
        assert here.pool.put(here.url(), SOME, expect100=True).body == b"/"
        assert here.goes_on()
        assert here.server.connections == 1
    assert asked.requests[0].body == SOME


def test_a_100_that_comes_late_is_not_the_response(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "CONTINUE_TIME", 0.01)

    def script(peer: Peer, request: ReceivedRequest) -> None:
        if request.method == "PUT":
            peer.send(PLEASE)
        name_target(peer, request)

    with site(each(script)) as here:
        assert here.pool.put(here.url("/put"), SOME, expect100=True).body == b"/put"
        assert here.goes_on()
        assert here.server.connections == 1


@pytest.mark.parametrize("status", ["401 Unauthorized", "417 Expectation Failed", "303 See"])
def test_a_final_response_instead_of_100_leaves_the_body_unsent(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(traffic, "CONTINUE_TIME", TIMEOUT * 2)
    body = Watched(SOME)

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        peer.respond(b"no, thanks", status=status)
        assert peer.until_eof() == b""

    with site(script, each(name_target)) as here:
        response = here.pool.put(here.url(), body, expect100=True)
        assert (response.status, response.body) == (int(status[:3]), b"no, thanks")
        assert not body.touched
        assert here.goes_on()


def test_a_connection_that_ends_before_100_leaves_the_body_untouched(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "CONTINUE_TIME", TIMEOUT * 2)
    body = Watched(SOME)
    with site(lambda peer: peer.head() and None, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=body, expect100=True)
        with pytest.raises(ConnectionClosed) as caught:
            future.result()
        assert caught.value.delivery is Delivery.PARTLY_SENT
        assert not body.touched
        assert here.goes_on()


@pytest.mark.parametrize("body", [b"", bytearray(), io.BytesIO()])
def test_a_body_of_no_bytes_expects_nothing(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    monkeypatch.setattr(traffic, "CONTINUE_TIME", TIMEOUT * 2)
    asked = Recorder()
    with site(each(asked)) as here:
        assert here.pool.put(here.url("/put"), body, expect100=True).body == b"/put"
        assert here.goes_on()
        assert here.server.connections == 1
    assert "expect" not in asked.requests[0].headers
    assert asked.requests[0].headers["content-length"] == "0"


# --- early responses ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["401 Unauthorized", "413 Too Large", "503 Try Later", "302 No"])
@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"])
def test_an_early_refusal_stops_the_upload_and_reaches_the_caller(
    site: OpenSite, status: str, headers: str
) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"no, thanks", status, headers)
        discard_rest(peer)

    with site(script, each(name_target)) as here:
        response = here.pool.put(here.url(), endless())
        assert (response.status, response.body) == (int(status[:3]), b"no, thanks")
        assert here.goes_on()


def test_an_early_refusal_whose_connection_ends_at_once_reaches_the_caller(site: OpenSite) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        respond_at_once(peer, b"no, thanks", "413 Too Large", "Connection: close\r\n")
        # Without reading any more, so that the system responses what comes with a reset.

    with site(script, each(name_target)) as here:
        response = here.pool.put(here.url(), endless())
        assert (response.status, response.body) == (413, b"no, thanks")
        assert here.goes_on()


def test_an_early_refusal_stops_a_sender_that_waits_for_the_server(site: OpenSite) -> None:
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"no, thanks", "413 Too Large")
        wait_for(release)  # without reading any more

    with site(script, each(name_target)) as here:
        response = here.pool.put(here.url(), endless())
        assert (response.status, response.body) == (413, b"no, thanks")
        release.set()
        assert here.goes_on()


def test_an_early_refusal_stops_the_upload_of_a_file(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"no, thanks", "413 Too Large")
        discard_rest(peer)

    with file_with(tmp_path, b"") as file, open_site(script, each(name_target)) as here:
        os.truncate(file.name, 1 << 34)  # sparse; there would be no end of it
        response = here.pool.put(here.url(), file)
        assert (response.status, response.body) == (413, b"no, thanks")
        assert here.goes_on()


def test_an_early_refusal_may_be_long(site: OpenSite) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(MUCH, "413 Too Large")
        discard_rest(peer)

    with site(script, each(name_target)) as here:
        response = here.pool.put(here.url(), endless())
        assert response.status == 413
        assert response.body == MUCH
        assert here.goes_on()


def test_an_early_consent_does_not_stop_the_upload(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = signal_after(monkeypatch, Traffic, "responded")
    received = []

    def body() -> Iterator[bytes]:
        yield SOME
        wait_for(answered)
        yield SOME

    def script(peer: Peer) -> None:
        head = peer.head()
        peer.respond(b"gladly")
        received.append(peer.exactly(int(head.headers["content-length"])))
        each(name_target)(peer)

    headers = {"Content-Length": str(2 * len(SOME))}
    with site(script) as here:
        assert here.pool.put(here.url(), body(), headers=headers).body == b"gladly"
        assert here.goes_on()
        assert here.server.connections == 1
    assert received == [SOME + SOME]


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"])
def test_an_early_success_is_none_if_the_rest_of_the_body_cannot_be_sent(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    responded = signal_after(monkeypatch, Traffic, "responded")

    def body() -> Iterator[bytes]:
        yield SOME
        wait_for(responded)
        yield from endless()

    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"gladly", headers=headers)
        wait_for(responded)
        peer.reset()

    with site(script, each(name_target)) as here:
        with pytest.raises(ConnectionClosed, match="before the body was sent") as caught:
            here.pool.post(here.url(), body())
        assert caught.value.delivery is Delivery.PARTLY_SENT
        assert caught.value.response is not None
        assert caught.value.response.body == b"gladly"
        assert here.goes_on()


# --- bodies that are sent again -------------------------------------------------------------------


def dies_in_the_second_request(peer: Peer) -> None:
    """Response once, so that the connection is known to be good, and end it within the next."""
    name_target(peer, peer.request())
    peer.head()
    peer.exactly(1)


REPEATABLE: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: MUCH,
    "a BytesIO": lambda path: io.BytesIO(MUCH),
    "a file": lambda path: file_with(path, MUCH),
    "a list": lambda path: [MUCH[:1000], MUCH[1000:]],
}


@pytest.mark.parametrize("kind", REPEATABLE)
def test_a_body_that_can_be_rewound_is_sent_again_from_its_start(
    site: OpenSite, tmp_path: Path, kind: str
) -> None:
    body = REPEATABLE[kind](tmp_path)
    asked = Recorder()
    with site(dies_in_the_second_request, each(asked), retry=AT_ONCE) as here:
        assert here.goes_on()
        response = here.pool.put(here.url(), body)
        assert response.body == b"/"
        assert len(response.attempts) == 1
        assert here.goes_on()
    assert asked.requests[0].body == MUCH
    if isinstance(body, io.BufferedReader):
        body.close()


def test_a_body_that_starts_in_the_middle_is_sent_again_from_there(site: OpenSite) -> None:
    body = io.BytesIO(MUCH)
    body.seek(1000)
    asked = Recorder()
    with site(dies_in_the_second_request, each(asked), retry=AT_ONCE) as here:
        assert here.goes_on()
        here.pool.put(here.url(), body)
    assert asked.requests[0].body == MUCH[1000:]


def test_a_request_is_sent_whole_each_time_that_it_is_submitted(site: OpenSite) -> None:
    body = io.BytesIO(MUCH)
    body.seek(1000)
    asked = Recorder()
    with site(each(asked)) as here:
        request = Request("PUT", here.url(), body=body)
        here.pool.request(request)
        here.pool.submit(request).result()
    assert [asking.body for asking in asked.requests] == [MUCH[1000:]] * 2


def test_a_body_that_cannot_be_rewound_is_not_sent_again(site: OpenSite) -> None:
    with site(dies_in_the_second_request, each(name_target), retry=AT_ONCE) as here:
        assert here.goes_on()
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.put(here.url(), endless())
        assert caught.value.delivery is Delivery.PARTLY_SENT
        assert caught.value.attempts == ()
        assert "could not have been sent again" in "".join(caught.value.__notes__)
        assert here.goes_on()


@pytest.mark.parametrize("expect100", [False, True])
def test_a_stale_connection_costs_an_upload_nothing(site: OpenSite, expect100: bool) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        name_target(peer, peer.request())
        peer.cut()
        closed.set()
        discard_rest(peer)

    def asking(peer: Peer) -> None:
        head = peer.head()
        assert head.method == "POST"
        peer.send(PLEASE if expect100 else b"")
        assert peer.exactly(len(SOME) + 12) == b"100\r\n%b\r\n0\r\n\r\n" % SOME
        peer.respond()
        each(name_target)(peer)

    with site(script, asking) as here:
        assert here.goes_on()
        wait_for(closed)
        body = (piece for piece in [SOME])
        response = here.pool.post(here.url(), body, expect100=expect100)
        assert response.status == 200
        assert here.goes_on()


# --- bodies that are made afresh ------------------------------------------------------------------


class Factory:
    """A callable body: makes each by *make*, and keeps them to be looked at."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.made: list[Any] = []

    def __call__(self) -> Any:
        self.made.append(self._make())
        return self.made[-1]


def in_pieces() -> Iterator[bytes]:
    """Return a body that can be read only once."""
    yield MUCH[:1000]
    yield MUCH[1000:]


MADE: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: MUCH,
    "a BytesIO": lambda path: io.BytesIO(MUCH),
    "a file": lambda path: file_with(path, MUCH),
    "a generator": lambda path: in_pieces(),
    "a mapped file": lambda path: mapped(path, MUCH),
}


def mapped(tmp_path: Path, data: bytes) -> mmap.mmap:
    """Return *data* as a mapped file."""
    with file_with(tmp_path, data) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def was_closed(body: Any) -> bool:
    """Return True if *body* has been closed, or cannot be."""
    if isinstance(body, GeneratorType):
        return body.gi_frame is None
    return getattr(body, "closed", True)


@pytest.mark.parametrize("length", [None, len(MUCH)], ids=["in-chunks", "with-a-length"])
@pytest.mark.parametrize("kind", MADE)
def test_a_body_that_is_made_afresh_is_sent_again_from_its_start(
    site: OpenSite, tmp_path: Path, kind: str, length: int | None
) -> None:
    body = Factory(lambda: MADE[kind](tmp_path))
    headers = None if length is None else {"Content-Length": str(length)}
    asked = Recorder()
    with site(dies_in_the_second_request, each(asked), retry=AT_ONCE) as here:
        assert here.goes_on()
        response = here.pool.put(here.url(), body, headers=headers)
        assert response.body == b"/"
        assert len(response.attempts) == 1
        assert here.goes_on()
    assert asked.requests[0].body == MUCH
    assert len(body.made) == 2
    assert all(map(was_closed, body.made))
    expected = "chunked" if length is None else None
    assert asked.requests[0].headers.get("transfer-encoding") == expected


def test_a_body_is_not_made_before_it_is_its_turn(site: OpenSite) -> None:
    body = Factory(lambda: SOME)
    held = threading.Event()
    asked = Recorder()

    def script(peer: Peer) -> None:
        request = peer.request()
        wait_for(held)
        name_target(peer, request)
        each(asked)(peer)

    with site(script, max_connections_per_host=1) as here:
        before = here.pool.submit("GET", here.url("/before"))
        upload = here.pool.submit("PUT", here.url(), body=body)
        assert body.made == []
        held.set()
        assert before.result().body == b"/before"
        assert upload.result().body == b"/"
    assert body.made == [SOME]
    assert asked.requests[0].body == SOME


@pytest.mark.parametrize("length", [None, len(MUCH)], ids=["in-chunks", "with-a-length"])
def test_the_system_sends_a_file_that_is_made_afresh_if_its_length_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    sendfile, by_the_system = os.sendfile, []

    def noting(out: int, source: int, offset: int, count: int) -> int:
        by_the_system.append(sent := sendfile(out, source, offset, count))
        return sent

    monkeypatch.setattr(os, "sendfile", noting)
    body = Factory(lambda: file_with(tmp_path, MUCH))
    headers = None if length is None else {"Content-Length": str(length)}
    asked = Recorder()
    with open_site(each(asked)) as here:
        assert here.pool.put(here.url(), body, headers=headers).body == b"/"
    assert asked.requests[0].body == MUCH
    assert sum(by_the_system) == (length or 0)
    assert body.made[0].closed


def test_what_was_made_is_closed_when_a_cancelled_future_is_done(site: OpenSite) -> None:
    taken = threading.Event()

    class Endless:
        closed = False

        def read(self, size: int, /) -> bytes:
            taken.set()
            return bytes(size)

        def close(self) -> None:
            self.closed = True

    body = Factory(Endless)
    with site(ends_without_a_response, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=body)
        wait_for(taken)
        assert not body.made[0].closed
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
        assert body.made[0].closed
        assert here.goes_on()


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SOME[1:], ValueError, "Content-Length 256 contradicts a body of 255 bytes"),
        (lambda: SOME + b"1", ValueError, "Content-Length 256 contradicts a body of 257 bytes"),
        (lambda: iter([SOME[1:]]), ValueError, "1 bytes short of its length"),
        (lambda: iter([SOME + b"1"]), ValueError, "longer than its length of 256"),
        (lambda: None, TypeError, "has returned None"),
        (lambda: endless, TypeError, "has returned <function endless"),
        (lambda: "text", TypeError, "encode it first"),
        (lambda: 1 // 0, ZeroDivisionError, "zero"),
    ],
)
def test_what_is_wrong_with_a_body_that_was_made_is_the_callers_and_not_tried_again(
    site: OpenSite, make: Callable[[], Any], error: type[Exception], match: str
) -> None:
    made: list[None] = []

    def body() -> Any:
        made.append(None)
        return make()

    def script(peer: Peer) -> None:
        with contextlib.suppress(*GONE):
            each(name_target)(peer)

    with site(script, repeat=True, retry=AT_ONCE) as here:
        with pytest.raises(error, match=match) as caught:
            here.pool.put(here.url(), body, headers={"Content-Length": "256"})
        assert caught.value.attempts == ()  # type: ignore[attr-defined]
        assert here.goes_on()
    assert len(made) == 1


def test_a_body_that_cannot_be_closed_is_not_taken_for_one_that_was_sent(site: OpenSite) -> None:
    class Stuck:
        def __iter__(self) -> Iterator[bytes]:
            yield SOME

        def close(self) -> None:
            raise OSError("the disk has gone")

    with site(ends_without_a_response, each(name_target), retry=AT_ONCE) as here:
        with pytest.raises(OSError, match="the disk has gone"):
            here.pool.put(here.url(), Stuck)
        assert here.goes_on()


# --- who has the body -----------------------------------------------------------------------------


class Held:
    """A body that is held up, in the sender, until it is released."""

    def __init__(self) -> None:
        self.taken = threading.Event()
        self.released = threading.Event()
        self.over = False

    def __iter__(self) -> Iterator[bytes]:
        yield SOME
        self.taken.set()
        wait_for(self.released)
        self.over = True
        yield SOME


def after(event: threading.Event, action: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """Return a script that receives a head, and does *action* after *event*."""

    def script(peer: Peer) -> None:
        peer.head()
        wait_for(event)
        action(peer)

    return script


def _says(data: bytes) -> Callable[[Peer], None]:
    def action(peer: Peer) -> None:
        peer.send(data)
        discard_rest(peer)

    return action


ENDS: dict[str, Callable[[Peer], None]] = {
    "a refusal": _says(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n"),
    "a last response": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    "a response": _says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "nonsense": _says(b"what?\r\n\r\n"),
    "the end": lambda peer: None,
    "a reset": Peer.reset,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_future_is_done_only_when_its_body_is_not_read_any_more(
    site: OpenSite, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    answered = signal_after(monkeypatch, Traffic, "responded")
    body = Held()
    with site(after(body.taken, ENDS[end])) as here:
        future = here.pool.submit("PUT", here.url(), body=body)
        over_by_then: SimpleQueue[bool] = SimpleQueue()
        future.add_done_callback(lambda _: over_by_then.put(body.over))
        wait_for(answered)
        assert not future.done()
        body.released.set()
        assert over_by_then.get(timeout=TIMEOUT)


def test_a_cancelled_upload_is_over_when_its_future_is_done(site: OpenSite) -> None:
    body = Held()
    with site(ends_without_a_response, each(name_target)) as here:
        future = here.pool.submit("PUT", here.url(), body=body)
        wait_for(body.taken)
        assert future.cancel()
        assert not body.over
        assert not future.done()
        body.released.set()
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
        assert body.over
        assert here.goes_on()


def test_a_pool_that_is_closed_waits_for_bodies_that_are_being_read(site: OpenSite) -> None:
    body = Held()
    with site(ends_without_a_response) as here:
        future = here.pool.submit("PUT", here.url(), body=body)
        wait_for(body.taken)
        closer = threading.Thread(target=here.pool.close)
        closer.start()
        assert not future.done()
        body.released.set()
        closer.join()
        assert body.over
        assert future.exception() is not None


@pytest.mark.parametrize("status", ["200 OK", "413 Too Large"])
def test_a_body_may_be_changed_as_soon_as_the_future_is_done(site: OpenSite, status: str) -> None:
    body = bytearray(MUCH)
    changed: list[int] = []

    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(status=status)
        discard_rest(peer)

    def change(_: object) -> None:
        body.append(0)  # a BufferError as long as there is a view of it
        changed.append(len(body))

    with site(script) as here:
        future = here.pool.submit("PUT", here.url(), body=body)
        future.add_done_callback(change)
        future.result()
    assert changed == [len(MUCH) + 1]
