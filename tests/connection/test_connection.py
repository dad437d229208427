"""HTTPConnection: requests and responses over one connection, blocking or in coroutines."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TypeVar

import pytest

from dugong import (
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    ExcessBodyData,
    HTTPConnection,
    InvalidResponse,
    StateError,
    UnsupportedResponse,
)
from dugong.connection import connection as module
from dugong.connection.polling import POLLIN, Coroutine, PollNeeded, eval_coroutine
from dugong.connection.session import Http1Session
from dugong.connection.transport import PlainTransport, Transport
from tests.support.server import TIMEOUT, Peer, Script, ScriptedServer

T = TypeVar("T")

LONG = b"x" * 10_000_000  # more than the kernel takes from a sender whose peer does not read


@contextmanager
def served(*scripts: Script, repeat: bool = False) -> Iterator[HTTPConnection]:
    """An `HTTPConnection` to a server that follows *scripts*, one for each connection."""
    with (
        ScriptedServer(*scripts, repeat=repeat) as server,
        HTTPConnection(*server.address) as conn,
    ):
        conn.timeout = TIMEOUT
        yield conn


def echo_targets(peer: Peer) -> None:
    """Response every request with its target, until the client goes."""
    try:
        while True:
            peer.respond(peer.request().target.encode())
    except (EOFError, ConnectionError):
        pass


def until_gone(peer: Peer) -> bytes:
    """Receive until the client closes, which it may do with something left unread."""
    try:
        return peer.until_eof()
    except ConnectionResetError:
        return b""


def get(conn: HTTPConnection, path: str) -> bytes:
    """Make an exchange from beginning to end; return the body."""
    conn.send_request("GET", path)
    response = conn.read_response()
    assert (response.method, response.path, response.status) == ("GET", path, 200)
    return conn.readall()


def await_event(conn: HTTPConnection, mask: int) -> None:
    """Wait until the socket of *conn* has something to tell."""
    transport = conn._session.state.transport
    assert transport is not None
    assert PollNeeded(transport.sock.fileno(), mask).poll(TIMEOUT)


@contextmanager
def other_thread() -> Iterator[Callable[..., Future[object]]]:
    """Give a function that runs others in another thread, which is joined at the end."""
    with ThreadPoolExecutor(1) as executor:
        yield executor.submit


# --- exchanges -----------------------------------------------------------------------------------


def test_a_response_belongs_to_its_request() -> None:
    with served(echo_targets) as conn:
        for path in ("/a", "/b"):
            assert get(conn, path) == path.encode()


def test_coroutines_do_what_the_blocking_calls_do() -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            peer.respond(peer.request().body)

    with served(script) as conn:

        def run(crt: Coroutine[T]) -> T:
            return eval_coroutine(crt, TIMEOUT)

        run(conn.co_connect())
        run(conn.co_send_request("PUT", "/a", body=BodyFollowing(6)))
        assert run(conn.co_write(b"abc")) == 3
        assert run(conn.co_write(b"def")) == 3
        assert run(conn.co_read_response()).length == 6
        assert run(conn.co_read(2)) == b"ab"
        buf = bytearray(2)
        assert run(conn.co_readinto(buf)) == 2
        assert buf == b"cd"
        assert run(conn.co_readall()) == b"ef"
        run(conn.co_send_request("PUT", "/b", body=BodyFollowing()))
        run(conn.co_write(b"abc"))
        run(conn.co_write_eof())
        run(conn.co_read_response())
        assert run(conn.co_read()) == b"abc"
        run(conn.co_send_request("PUT", "/c", body=b"abc"))
        run(conn.co_read_response())
        run(conn.co_discard())
        assert run(conn.co_read(1)) == b""


def test_a_response_says_what_the_server_said() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(b"", "404 Not There", "X-One: 1\r\nX-One: 2\r\n")

    with served(script) as conn:
        conn.send_request("GET", "/a?b")
        response = conn.read_response()
        assert (response.status, response.reason, response.length) == (404, "Not There", 0)
        assert response.headers.get_all("x-one") == ["1", "2"]
        assert response.headers["missing"] is None
        assert "404 Not There" in repr(response)


def test_reading_after_the_end_gives_nothing() -> None:
    with served(echo_targets) as conn:
        assert conn.read(10) == b""
        assert get(conn, "/a") == b"/a"
        assert conn.read(10) == conn.read() == conn.readall() == b""
        assert conn.readinto(bytearray(10)) == 0
        conn.discard()
        assert get(conn, "/b") == b"/b"


def test_a_response_to_head_has_no_body() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        echo_targets(peer)

    with served(script) as conn:
        conn.send_request("HEAD", "/a")
        response = conn.read_response()
        assert response.headers["content-length"] == "1000"
        assert response.length == 0
        assert conn.readall() == b""
        assert get(conn, "/b") == b"/b"


def test_a_body_is_read_into_the_buffers_of_the_caller() -> None:
    body = bytes(range(200))

    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(body)

    with served(script) as conn:
        conn.send_request("GET", "/")
        conn.read_response()
        whole = bytearray(100)
        view = memoryview(whole)[10:60]
        filled = 0
        while filled < 50:
            filled += conn.readinto(view[filled:])
        assert whole == bytes(10) + body[:50] + bytes(40)
        numbers = array("I", [0] * 10)
        assert conn.readinto(numbers) == len(numbers) * numbers.itemsize
        assert numbers.tobytes() == body[50 : 50 + len(numbers) * numbers.itemsize]
        with pytest.raises(TypeError):
            conn.readinto(b"read-only")  # type: ignore[arg-type]
        assert conn.readinto(bytearray()) == 0
        assert conn.read(0) == b""
        assert conn.read(-1) == body[90:]


@pytest.mark.parametrize("read", [0, 1])
def test_a_body_that_is_here_is_read_without_waiting(
    monkeypatch: pytest.MonkeyPatch, read: int
) -> None:
    def script(peer: Peer) -> None:
        # In one segment, so that what has a head has everything.
        peer.send(b"".join(ok(peer.request().target.encode()) for _ in "ab"))

    def ok(body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def wait(*args: object) -> bool:
        pytest.fail("waited for what has been received")

    with served(script) as conn:
        for path in ("/first", "/second"):
            conn.send_request("GET", path)
        for path in ("/first", "/second"):
            conn.read_response()
            with monkeypatch.context() as patch:
                patch.setattr(PollNeeded, "poll", wait)
                patch.setattr(PlainTransport, "recv_into", wait)
                assert conn.read(read) + conn.readall() == path.encode()
                assert conn.readall() == b""


def test_a_body_that_is_partly_here_is_waited_for() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        asked.wait(TIMEOUT)
        peer.send(b"def")

    asked = threading.Event()
    with served(script) as conn:
        conn.send_request("GET", "/")
        conn.read_response()
        asked.set()
        assert conn.readall() == b"abcdef"


def test_text_is_read_line_by_line() -> None:
    text = "".join(f"line {i} of many, für alle\n" for i in range(5000))

    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(text.encode())

    with served(script) as conn:
        conn.send_request("GET", "/")
        conn.read_response()
        with TextIOWrapper(conn, encoding="utf-8") as file:  # type: ignore[type-var]
            assert "".join(file) == text
        assert conn.closed


def test_text_is_written() -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().body)

    with served(script) as conn:
        conn.send_request("PUT", "/", body=BodyFollowing())
        file = TextIOWrapper(conn, encoding="utf-8")  # type: ignore[type-var]
        file.write("für alle")
        file.detach()
        conn.read_response()
        assert conn.readall().decode() == "für alle"


def test_it_is_a_file_of_sorts() -> None:
    with HTTPConnection("localhost") as conn:
        assert conn.readable()
        assert conn.writable()
        assert not conn.seekable()
        conn.flush()


# --- request bodies ------------------------------------------------------------------------------


def test_a_body_of_known_length_is_streamed() -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        assert request.headers["content-length"] == "6"
        peer.respond(request.body)

    with served(script) as conn:
        conn.send_request("PUT", "/", body=BodyFollowing(6))
        assert conn.write(b"ab") == 2
        assert conn.write(b"") == 0
        assert conn.write(memoryview(array("H", [0x6363]))) == 2
        with pytest.raises(ExcessBodyData):
            conn.write(b"eee")
        with pytest.raises(StateError):
            conn.write_eof()
        with pytest.raises(StateError):
            conn.read_response()
        with pytest.raises(StateError):
            conn.send_request("GET", "/")
        with pytest.raises(TypeError):
            conn.write("text")  # type: ignore[arg-type]
        assert not conn.response_pending()
        assert conn.write(bytearray(b"ef")) == 2
        assert conn.response_pending()
        conn.write_eof()
        with pytest.raises(StateError):
            conn.write(b"g")
        conn.read_response()
        assert conn.readall() == b"abccef"
        assert not conn.response_pending()


@pytest.mark.parametrize("ended", [True, False])
def test_a_body_of_unknown_length_is_sent_in_chunks(ended: bool) -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        assert request.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in request.headers
        peer.respond(request.body)

    with served(script) as conn:
        conn.send_request("PUT", "/", body=BodyFollowing())
        for piece in (b"abc", b"", b"defg" * 1000):
            assert conn.write(piece) == len(piece)
        if ended:
            conn.write_eof()
            with pytest.raises(StateError):
                conn.write(b"x")
        conn.read_response()
        assert conn.readall() == b"abc" + b"defg" * 1000


def test_an_empty_body_of_unknown_length_is_one_last_chunk() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        assert peer.exactly(5) == b"0\r\n\r\n"
        peer.respond()

    with served(script) as conn:
        conn.send_request("PUT", "/", body=BodyFollowing())
        assert conn.read_response().status == 200


def test_a_body_of_length_0_is_complete_at_once() -> None:
    with served(echo_targets) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing(0))
        with pytest.raises(StateError):
            conn.write(b"x")
        conn.read_response()
        assert conn.readall() == b"/a"


def test_both_directions_stream_at_once() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            peer.send(b"2\r\n" + peer.exactly(2) + b"\r\n")
        peer.send(b"0\r\n\r\n")
        echo_targets(peer)

    with served(script) as conn:
        conn.send_request("PUT", "/", body=BodyFollowing(6))
        # Blocking, this is for two threads, because a body is owed by the thread that sends it.
        conn.write(b"ab")
        assert eval_coroutine(conn.co_read_response(), TIMEOUT).status == 200
        received = bytearray(conn.read(2))
        for piece in (b"cd", b"ef"):
            conn.write(piece)
            received += conn.read(2)
        assert received == b"abcdef"
        assert conn.read(2) == b""
        assert get(conn, "/next") == b"/next"


def test_a_large_echo_needs_two_threads_and_no_lock() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG))
        for _ in range(len(LONG) // 100_000):
            peer.send(peer.exactly(100_000))

    with served(script) as conn, other_thread() as submit:
        conn.send_request("PUT", "/", body=BodyFollowing(len(LONG)))
        writing = submit(conn.write, LONG)
        assert eval_coroutine(conn.co_read_response(), TIMEOUT).status == 200
        assert conn.readall() == LONG
        assert writing.result() == len(LONG)


def test_a_call_that_comes_too_early_does_not_end_a_chunked_body() -> None:
    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.respond(peer.request().body)

    with served(script) as conn:
        conn.send_request("PUT", "/a", body=b"first")
        conn.send_request("PUT", "/b", body=BodyFollowing())
        conn.write(b"sec")
        assert conn.read_response().path == "/a"
        with pytest.raises(StateError, match="previous response"):
            conn.read_response()
        conn.write(b"ond")
        assert conn.readall() == b"first"
        assert conn.read_response().path == "/b"
        assert conn.readall() == b"second"


@pytest.mark.parametrize("length", [10, None])
def test_no_thread_owes_a_body_to_a_connection_that_has_failed(length: int | None) -> None:
    def script(peer: Peer) -> None:
        peer.request()

    with served(script, echo_targets) as conn:
        conn.send_request("GET", "/a")
        conn.send_request("PUT", "/b", body=BodyFollowing(length))
        for _ in "ab":
            with pytest.raises(ConnectionClosed):
                conn.read_response()
        assert get(conn, "/c") == b"/c"


# --- 100-continue --------------------------------------------------------------------------------


def test_a_body_follows_when_the_server_says_100() -> None:
    def script(peer: Peer) -> None:
        assert peer.head().headers["expect"] == "100-continue"
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n")
        peer.send(b"HTTP/1.1 100\r\n\r\n")
        assert peer.exactly(3) == b"abc"
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        peer.respond(b"ok")

    with served(script) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing(3), expect100=True)
        with pytest.raises(StateError):
            conn.write(b"abc")
        with pytest.raises(StateError):
            conn.send_request("GET", "/b")
        assert conn.response_pending()
        response = conn.read_response()
        assert (response.status, response.path, response.length) == (100, "/a", 0)
        assert not conn.response_pending()
        assert conn.read() == b""
        conn.write(b"abc")
        assert conn.read_response().status == 200
        assert conn.readall() == b"ok"


@pytest.mark.parametrize("status", ["200 OK", "413 Too Large", "417 Expectation Failed"])
def test_a_final_response_cancels_the_body_and_the_connection_stays_usable(status: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"no", status)
        assert until_gone(peer) == b""

    with served(script, echo_targets) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing(3), expect100=True)
        assert conn.read_response().status == int(status[:3])
        with pytest.raises(StateError):
            conn.write(b"abc")
        assert conn.readall() == b"no"
        assert get(conn, "/b") == b"/b"


def test_an_empty_body_is_not_announced_but_100_comes_all_the_same() -> None:
    def script(peer: Peer) -> None:
        assert "expect" not in peer.request().headers
        peer.respond(b"ok")

    with served(script) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing(0), expect100=True)
        assert conn.read_response().status == 100
        assert conn.read_response().status == 200
        assert conn.readall() == b"ok"


def test_a_chunked_body_can_be_expected_too() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert peer.exactly(13) == b"3\r\nabc\r\n0\r\n\r\n"
        peer.respond(b"ok")

    with served(script) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing(), expect100=True)
        assert conn.read_response().status == 100
        conn.write(b"abc")
        assert conn.read_response().status == 200
        assert conn.readall() == b"ok"


def test_an_expected_100_comes_in_its_turn() -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().target.encode())
        peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.respond(peer.exactly(3))

    with served(script) as conn:
        conn.send_request("GET", "/a")
        conn.send_request("PUT", "/b", body=BodyFollowing(3), expect100=True)
        assert conn.read_response().path == "/a"
        assert conn.readall() == b"/a"
        assert conn.read_response().status == 100
        conn.write(b"abc")
        conn.read_response()
        assert conn.readall() == b"abc"


def test_interim_responses_that_were_not_asked_for_are_skipped() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        for status in (b"100 Continue", b"103 Early Hints", b"199"):
            peer.send(b"HTTP/1.1 " + status + b"\r\nX: y\r\n\r\n")
        peer.respond(b"ok")

    with served(script) as conn:
        assert get(conn, "/") == b"ok"


def test_interim_responses_do_not_go_on_for_ever() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 1001)
        until_gone(peer)

    with served(script) as conn:
        conn.send_request("GET", "/")
        with pytest.raises(InvalidResponse):
            conn.read_response()


# --- responses that come early --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("length", [len(LONG), None])
def test_an_error_can_be_read_after_write_has_failed(how: str, length: int | None) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"too large", "413 Too Large", "Connection: close\r\n")
        if how == "reset":
            answered.wait(TIMEOUT)  # so that the reset does not overtake the response
            peer.reset()

    answered = threading.Event()

    def write_for_ever() -> None:
        while True:
            conn.write(LONG[:100_000])

    with served(script, echo_targets) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing(length))
        # Until the response is here: a reset may make the kernel forget what it had received.
        await_event(conn, POLLIN)
        answered.set()
        with pytest.raises(ConnectionClosed):
            write_for_ever()
        assert conn.response_pending()
        response = conn.read_response()
        assert (response.status, response.path) == (413, "/a")
        assert conn.readall() == b"too large"
        assert get(conn, "/b") == b"/b"


def test_an_error_can_be_read_if_the_end_of_a_chunked_body_cannot_be_sent() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"too large", "413 Too Large")
        answered.wait(TIMEOUT)
        peer.reset()

    answered = threading.Event()
    with served(script) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing())
        await_event(conn, POLLIN)
        answered.set()
        await_event(conn, 0)  # an error
        assert conn.read_response().status == 413
        assert conn.readall() == b"too large"


def test_a_response_may_be_read_by_another_thread_while_the_body_is_written() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.respond(b"too large", "413 Too Large")
        closed.wait(TIMEOUT)

    closed = threading.Event()
    with served(script, echo_targets) as conn, other_thread() as submit:
        conn.send_request("PUT", "/a", body=BodyFollowing(len(LONG)))
        writing = submit(conn.write, LONG)
        assert eval_coroutine(conn.co_read_response(), TIMEOUT).status == 413
        assert conn.readall() == b"too large"
        with pytest.raises(ConnectionClosed):
            writing.result(TIMEOUT)
        closed.set()
        assert get(conn, "/b") == b"/b"


# --- the end of a connection ---------------------------------------------------------------------


def test_a_request_that_asks_for_the_end_is_the_last() -> None:
    def script(peer: Peer) -> None:
        assert peer.request().headers["connection"] == "close"
        peer.respond(b"ok")
        assert until_gone(peer) == b""

    with served(script, echo_targets) as conn:
        conn.send_request("GET", "/a", headers={"Connection": "close"})
        conn.read_response()
        assert conn.readall() == b"ok"
        assert get(conn, "/b") == b"/b"


def test_requests_behind_the_last_response_are_lost() -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().target.encode())
        peer.respond(peer.request().target.encode(), headers="Connection: close\r\n")
        until_gone(peer)

    with served(script, echo_targets) as conn:
        for path in "/a", "/b", "/c", "/d":
            conn.send_request("GET", path)
        for path in "/a", "/b":
            assert conn.read_response().path == path
            assert conn.readall() == path.encode()
        with pytest.raises(ConnectionClosed, match="due"):
            conn.send_request("GET", "/e")
        for _ in "cd":
            assert conn.response_pending()
            with pytest.raises(ConnectionClosed):
                conn.read_response()
        assert not conn.response_pending()
        assert get(conn, "/e") == b"/e"


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().target.encode())

    with served(script, repeat=True) as conn:
        for path in "/a", "/b", "/c":
            assert get(conn, path) == path.encode()
            await_event(conn, POLLIN)


@pytest.mark.parametrize("together", [True, False])
def test_bytes_that_were_not_requested_are_not_given_to_the_next_request(together: bool) -> None:
    stray = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    def poisoned(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + (stray if together else b""))
        read.wait(TIMEOUT)
        if not together:
            peer.send(stray)
        assert until_gone(peer) == b""

    read = threading.Event()
    with served(poisoned, echo_targets) as conn:
        assert get(conn, "/a") == b"ok"
        read.set()
        if not together:
            await_event(conn, POLLIN)
        assert get(conn, "/b") == b"/b"


def test_a_body_that_is_cut_short_is_not_an_end() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")

    with served(script, echo_targets) as conn:
        conn.send_request("GET", "/a")
        conn.read_response()
        for _ in range(2):
            with pytest.raises(ConnectionClosed):
                conn.readall()
        with pytest.raises(ConnectionClosed):
            conn.read(1)
        assert get(conn, "/b") == b"/b"


@pytest.mark.parametrize("end", ["disconnect", "reset", "close"])
def test_after_disconnecting_the_next_request_connects_again(end: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        until_gone(peer)

    with ScriptedServer(script, echo_targets) as server, HTTPConnection(*server.address) as conn:
        getattr(conn, end)()  # with no connection, does nothing
        conn.send_request("GET", "/a")
        conn.send_request("GET", "/lost")
        conn.read_response()
        for _ in range(2):
            getattr(conn, end)()
            assert conn.closed is (end == "close")
            assert not conn.response_pending()
            for read in (conn.readall, conn.read_response, lambda: conn.read(1)):
                with pytest.raises(ConnectionClosed):
                    read()
        assert server.connections == 1
        assert get(conn, "/b") == b"/b"
        assert not conn.closed
        assert server.connections == 2
        getattr(conn, end)()
        assert conn.readall() == b""  # nothing was unread
        with pytest.raises(StateError):
            conn.read_response()


def test_leaving_the_block_disconnects() -> None:
    with served(echo_targets) as conn:
        with conn as same:
            assert same is conn
            assert get(conn, "/a") == b"/a"
            assert "connected, 0 unanswered" in repr(conn)
        assert "not connected" in repr(conn)
        assert not conn.closed


def test_the_repr_says_where_to_and_how_many() -> None:
    with served(echo_targets) as conn:
        assert f"{conn.hostname}:{conn.port} not connected, 0 unanswered" in repr(conn)
        conn.send_request("GET", "/a")
        conn.send_request("GET", "/b")
        assert " connected, 2 unanswered" in repr(conn)


def test_connecting_is_a_step_of_its_own() -> None:
    with ScriptedServer(echo_targets) as server, HTTPConnection(*server.address) as conn:
        conn.connect()
        conn.connect()
        assert get(conn, "/a") == b"/a"
        assert server.connections == 1
        with pytest.raises(StateError):
            conn.read_response()


# --- other protocols, and nonsense ---------------------------------------------------------------


def test_what_follows_a_tunnel_can_be_read_raw() -> None:
    def script(peer: Peer) -> None:
        assert peer.head().target == "example.com:443"
        peer.send(b"HTTP/1.1 200 Go\r\nContent-Length: 5\r\n\r\nhello")

    with served(script, echo_targets) as conn:
        conn.send_request("CONNECT", "example.com:443")
        assert conn.read_response().length == 0
        assert conn.read() == b""
        assert conn.read_raw(3) + conn.read_raw(10) == b"hello"
        assert conn.read_raw(10) == b""
        assert get(conn, "/b") == b"/b"


def test_nothing_that_is_no_part_of_it_is_sent_into_a_tunnel() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 Go\r\nContent-Length: 0\r\n\r\n")
        assert peer.until_eof() == b""

    with served(script, echo_targets) as conn:
        conn.send_request("CONNECT", "example.com:443")
        conn.read_response()
        assert get(conn, "/b") == b"/b"


def test_what_follows_an_upgrade_can_be_read_raw() -> None:
    def script(peer: Peer) -> None:
        assert peer.request().headers["upgrade"] == "chat"
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\n\r\nhello")

    with served(script) as conn:
        conn.send_request("GET", "/", headers={"Connection": "Upgrade", "Upgrade": "chat"})
        response = conn.read_response()
        assert (response.status, response.headers["upgrade"]) == (101, "chat")
        assert conn.read_raw(10) == b"hello"


def test_an_upgrade_that_was_not_requested_is_an_error() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\n\r\nhello")
        until_gone(peer)

    with served(script) as conn:
        conn.send_request("GET", "/")
        with pytest.raises(InvalidResponse):
            conn.read_response()


@pytest.mark.parametrize(
    ("response", "error"),
    [(b"220 ready\r\n", InvalidResponse), (b"HTTP/2.0 200 OK\r\n\r\n", UnsupportedResponse)],
)
def test_a_response_that_is_none_can_be_read_raw(response: bytes, error: type[Exception]) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(response)
        until_gone(peer)

    with served(script, echo_targets) as conn:
        conn.send_request("GET", "/a")
        with pytest.raises(error):
            conn.read_response()
        assert conn.read_raw(100) == response
        conn.disconnect()
        assert get(conn, "/b") == b"/b"


# --- time-outs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_positive_and_finite(wrong: float) -> None:
    conn = HTTPConnection("localhost")
    with pytest.raises(ValueError, match="timeout"):
        conn.timeout = wrong
    assert conn.timeout is None


@pytest.mark.parametrize("wrong", ["1", True, b"1", [1]])
def test_a_timeout_is_a_number_or_none(wrong: object) -> None:
    conn = HTTPConnection("localhost")
    with pytest.raises(TypeError):
        conn.timeout = wrong  # type: ignore[assignment]
    for timeout in (1, 0.5, None):
        conn.timeout = timeout
        assert conn.timeout == timeout


def test_a_read_that_timed_out_can_be_made_again() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        go_on.acquire(timeout=TIMEOUT)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-")
        go_on.acquire(timeout=TIMEOUT)
        peer.send(b"Length: 5\r\n\r\n")
        go_on.acquire(timeout=TIMEOUT)
        peer.send(b"hello")

    go_on = threading.Semaphore(0)
    with served(script) as conn:
        conn.send_request("GET", "/a")

        def times_out(call: Callable[[], object]) -> None:
            conn.timeout = 0.02
            with pytest.raises(ConnectionTimedOut):
                call()
            conn.timeout = TIMEOUT
            go_on.release()

        times_out(conn.read_response)
        times_out(conn.read_response)
        assert conn.read_response().path == "/a"
        times_out(lambda: conn.readinto(bytearray(10)))
        assert conn.readall() == b"hello"


def test_readall_that_timed_out_within_the_body_cannot_be_made_again() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        go_on.wait(TIMEOUT)
        peer.send(b"hello")
        until_gone(peer)

    go_on = threading.Event()
    with served(script, echo_targets) as conn:
        conn.send_request("GET", "/a")
        conn.read_response()
        conn.timeout = 0.02
        with pytest.raises(ConnectionTimedOut):
            conn.readall()
        conn.timeout = TIMEOUT
        go_on.set()
        for read in (conn.readall, conn.read_response, lambda: conn.read(1)):
            with pytest.raises(ConnectionClosed):
                read()
        assert get(conn, "/b") == b"/b"


def test_a_reset_that_the_sender_heard_of_is_no_end_of_a_body() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        read.wait(TIMEOUT)
        peer.reset()

    read = threading.Event()
    with served(script) as conn:
        conn.send_request("PUT", "/a", body=BodyFollowing(9))
        assert eval_coroutine(conn.co_read_response(), TIMEOUT).length is None
        assert conn.read(3) == b"abc"
        read.set()
        await_event(conn, POLLIN)
        with pytest.raises(ConnectionClosed):
            conn.write(b"x")
        with pytest.raises(ConnectionClosed):
            conn.read(3)


def test_the_longest_timeouts_are_as_good_as_none() -> None:
    with served(echo_targets) as conn:
        for timeout in (1e10, 1e300):
            conn.timeout = timeout
            assert get(conn, "/a") == b"/a"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_send_that_timed_out_ends_the_connection(streamed: bool) -> None:
    def script(peer: Peer) -> None:
        timed_out.wait(TIMEOUT)

    timed_out = threading.Event()
    with served(script, echo_targets) as conn:
        conn.timeout = 0.1
        if streamed:
            conn.send_request("PUT", "/a", body=BodyFollowing(len(LONG) + 1))
        with pytest.raises(ConnectionTimedOut):
            conn.write(LONG) if streamed else conn.send_request("PUT", "/a", body=LONG)
        conn.timeout = TIMEOUT
        timed_out.set()
        with pytest.raises(ConnectionClosed if streamed else StateError):
            conn.write(b"x")
        with pytest.raises(ConnectionClosed):
            conn.read_response()
        assert get(conn, "/b") == b"/b"


@pytest.mark.parametrize("begun", ["", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n1"])
@pytest.mark.parametrize("tls", [False, True])
def test_all_calls_hear_that_a_send_has_timed_out(
    begun: str, tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Another thread, which waits for the response or within it, does so as well."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(begun.encode())
        timed_out.wait(TIMEOUT)

    def receive() -> None:
        conn.read_response()
        conn.readall()

    timed_out = threading.Event()
    with (
        ScriptedServer(script, context=server_context if tls else None) as server,
        HTTPConnection(*server.address, ssl_context=client_context if tls else None) as conn,
        other_thread() as submit,
    ):
        conn.timeout = TIMEOUT
        conn.send_request("PUT", "/a", body=BodyFollowing(len(LONG) + 1))
        receiving = submit(receive)
        with pytest.raises(ConnectionTimedOut, match="nothing sent"):
            eval_coroutine(conn.co_write(LONG), 0.1)
        timed_out.set()
        told = "sending a request has timed out, or was given up"
        with pytest.raises(ConnectionClosed, match=told):
            receiving.result(TIMEOUT)
        with pytest.raises(ConnectionClosed, match=told):
            conn.write(b"x")
        with pytest.raises(ConnectionClosed, match=told):
            conn.readall() if begun else conn.read_response()


# --- two threads ---------------------------------------------------------------------------------


def test_two_threads_pipeline_without_a_lock() -> None:
    count = 3000
    asked = threading.Semaphore(0)
    with served(echo_targets) as conn, other_thread() as submit:

        def send() -> None:
            for i in range(count):
                conn.send_request("GET", f"/{i}" + "x" * (i % 100))
                asked.release()

        sending = submit(send)
        for i in range(count):
            # Before the first request, or between two, there may be nothing to wait for.
            while not conn.response_pending():
                asked_early(conn)
                assert asked.acquire(timeout=TIMEOUT)
            response = conn.read_response()
            assert response.path == f"/{i}" + "x" * (i % 100)
            assert conn.readall() == response.path.encode()
        sending.result()


def asked_early(conn: HTTPConnection) -> None:
    """Look at the body of nothing, which must do nothing."""
    assert conn.read(1) == b""


def test_two_threads_pipeline_bodies_in_both_directions() -> None:
    def script(peer: Peer) -> None:
        try:
            while True:
                peer.respond(peer.request().body)
        except EOFError:
            pass

    bodies = [random.Random(i).randbytes(i * 37 % 5000) for i in range(500)]
    asked = threading.Semaphore(0)
    with served(script) as conn, other_thread() as submit:

        def send() -> None:
            for i, body in enumerate(bodies):
                if i % 3 == 0:
                    conn.send_request("PUT", f"/{i}", body=body)
                    asked.release()
                    continue
                conn.send_request(
                    "PUT", f"/{i}", body=BodyFollowing(len(body) if i % 3 == 1 else None)
                )
                asked.release()
                middle = len(body) // 2
                if len(body) or i % 3 == 2:
                    conn.write(body[:middle])
                    conn.write(body[middle:])
                    conn.write_eof()

        sending = submit(send)
        for i, body in enumerate(bodies):
            asked.acquire(timeout=TIMEOUT)
            assert conn.read_response().path == f"/{i}"
            assert conn.readall() == body
        sending.result()


def test_a_chunked_body_is_not_ended_under_the_hands_of_the_thread_that_writes_it() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        assert peer.exactly(8) == b"3\r\nabc\r\n"
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert peer.exactly(13) == b"3\r\ndef\r\n0\r\n\r\n"
        peer.send(b"6\r\nabcdef\r\n0\r\n\r\n")

    answered = threading.Event()

    def write_the_rest() -> None:
        assert answered.wait(TIMEOUT)
        conn.write(b"def")
        conn.write_eof()

    with served(script) as conn, other_thread() as submit:
        conn.send_request("PUT", "/a", body=BodyFollowing())
        submit(conn.write, b"abc").result()
        writing = submit(write_the_rest)
        assert conn.read_response().status == 200
        answered.set()
        assert conn.readall() == b"abcdef"
        writing.result()


def test_asking_for_the_response_in_the_thread_that_wrote_last_ends_a_chunked_body() -> None:
    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.respond(peer.request().body)

    with served(script) as conn, other_thread() as submit:
        conn.send_request("PUT", "/a", body=BodyFollowing())
        submit(conn.write, b"abc").result()
        submit(conn.read_response).result()
        assert conn.readall() == b"abc"
        conn.send_request("PUT", "/b", body=BodyFollowing())
        submit(conn.write, b"abc").result()
        conn.write(b"def")
        assert conn.read_response().path == "/b"
        assert conn.readall() == b"abcdef"


def test_read_response_waits_for_a_request_that_is_still_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialling = threading.Event()
    ours, theirs = socket.socketpair()
    dial = module.co_dial

    def slow_dial(*args: object, **options: object) -> Coroutine[Transport]:
        dialling.set()
        yield PollNeeded(ours.fileno(), POLLIN)
        return (yield from dial(*args, **options))  # type: ignore[arg-type]

    monkeypatch.setattr(module, "co_dial", slow_dial)
    with ours, theirs, served(echo_targets) as conn, other_thread() as submit:
        sending = submit(conn.send_request, "GET", "/a")
        assert dialling.wait(TIMEOUT)
        receiving = conn.co_read_response()
        assert not next(receiving).poll(0)
        theirs.send(b"x")
        assert eval_coroutine(receiving, TIMEOUT).path == "/a"
        sending.result()
        assert conn.readall() == b"/a"


def test_disconnecting_ends_a_request_that_is_still_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialling = threading.Event()
    ours, theirs = socket.socketpair()

    def endless_dial(*args: object, **options: object) -> Coroutine[Transport]:
        dialling.set()
        while True:
            yield PollNeeded(ours.fileno(), POLLIN)

    monkeypatch.setattr(module, "co_dial", endless_dial)
    with ours, theirs, HTTPConnection("localhost") as conn, other_thread() as submit:
        sending = submit(conn.send_request, "GET", "/a")
        assert dialling.wait(TIMEOUT)
        receiving = conn.co_read_response()
        next(receiving)
        conn.disconnect()
        with pytest.raises(ConnectionClosed):
            sending.result(TIMEOUT)
        with pytest.raises(ConnectionClosed):
            eval_coroutine(receiving, TIMEOUT)


def test_read_response_waits_while_the_request_is_still_being_sent() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        begun.set()
        read.wait(TIMEOUT)
        peer.respond(b"%d" % len(peer.exactly(len(LONG))))

    begun, read = threading.Event(), threading.Event()
    with served(script) as conn, other_thread() as submit:
        sending = submit(conn.send_request, "PUT", "/a", None, LONG)
        assert begun.wait(TIMEOUT)
        assert conn.response_pending()
        with pytest.raises(StateError, match="sending"):
            conn.send_request("GET", "/b")
        receiving = conn.co_read_response()
        next(receiving)
        with pytest.raises(StateError, match="receiving"):
            conn.read_response()
        read.set()
        assert eval_coroutine(receiving, TIMEOUT).path == "/a"
        sending.result()
        assert conn.readall() == b"%d" % len(LONG)


@pytest.mark.parametrize("end", ["disconnect", "reset", "close"])
def test_disconnecting_ends_the_calls_of_the_other_threads(end: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        ended.wait(TIMEOUT)

    ended = threading.Event()
    with served(script) as conn, ThreadPoolExecutor(2) as executor:
        conn.send_request("PUT", "/a", body=BodyFollowing(len(LONG)))
        writing = executor.submit(conn.write, LONG)
        assert eval_coroutine(conn.co_read_response(), TIMEOUT).length is None
        got_some = threading.Event()

        def read() -> bytes:
            data = conn.read(3)
            got_some.set()
            while piece := conn.read(3):
                data += piece
            return data

        reading = executor.submit(read)
        assert got_some.wait(TIMEOUT)
        getattr(conn, end)()
        with pytest.raises(ConnectionClosed):
            reading.result(TIMEOUT)
        with pytest.raises(ConnectionClosed):
            writing.result(TIMEOUT)
        ended.set()


def test_a_reader_is_not_deceived_by_another_thread_that_reconnects() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
        until_gone(peer)

    with served(script, echo_targets) as conn, other_thread() as submit:
        conn.send_request("GET", "/a")
        conn.read_response()
        assert conn.read(3) == b"abc"
        submit(conn.reset).result()
        submit(conn.send_request, "GET", "/b").result()
        with pytest.raises(ConnectionClosed):
            conn.read(3)
        assert conn.read_response().path == "/b"
        assert conn.readall() == b"/b"
        assert conn.read(3) == b""


def test_a_reader_is_not_deceived_by_another_thread_that_disconnects_just_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    abort = Http1Session.abort

    def slow_abort(session: Http1Session) -> None:
        monkeypatch.undo()
        for call in calls:  # what another thread does before it is stopped
            eval_coroutine(call, TIMEOUT)
        abort(session)

    with served(echo_targets) as conn:
        calls = (conn.co_send_request("GET", "/a"), conn.co_read_response())
        monkeypatch.setattr(Http1Session, "abort", slow_abort)
        conn.disconnect()
        with pytest.raises(ConnectionClosed):
            conn.read(1)


# --- coroutines ----------------------------------------------------------------------------------


def test_coroutines_pipeline() -> None:
    count = 300

    def script(peer: Peer) -> None:
        # Reads everything before it responds, in small pieces, so that both sides have to wait.
        targets = [peer.request().target for _ in range(count)]
        for target in targets:
            peer.respond(target.encode())

    with served(script) as conn:

        def send() -> Coroutine[None]:
            for i in range(count):
                yield from conn.co_send_request("GET", f"/{i}")

        def receive() -> Coroutine[list[bytes]]:
            bodies = []
            for i in range(count):
                response = yield from conn.co_read_response()
                assert response.path == f"/{i}"
                bodies.append((yield from conn.co_readall()))
            return bodies

        sending, receiving = send(), receive()
        next(sending)  # is connecting now
        next(receiving)
        eval_coroutine(sending, TIMEOUT)
        assert eval_coroutine(receiving, TIMEOUT) == [b"/%d" % i for i in range(count)]


def test_a_coroutine_that_is_suspended_when_the_connection_ends_says_so() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        until_gone(peer)

    with served(script, echo_targets) as conn:
        conn.send_request("GET", "/a")
        receiving = conn.co_read_response()
        next(receiving)
        conn.disconnect()
        assert get(conn, "/b") == b"/b"
        with pytest.raises(ConnectionClosed):
            eval_coroutine(receiving, TIMEOUT)


# --- everything at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_calls_does_what_a_simple_model_says(seed: int) -> None:
    """Random calls, against a queue of what is due: each response is its request's, and whole."""

    def script(peer: Peer) -> None:
        try:
            while True:
                request = peer.request()
                if "x-last" in request.headers:
                    peer.respond(request.body, headers="Connection: close\r\n")
                    until_gone(peer)
                    return
                if "x-chunked" in request.headers:
                    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for i in range(0, len(request.body), 1000):
                        piece = request.body[i : i + 1000]
                        peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                    peer.send(b"0\r\n\r\n")
                else:
                    peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * (len(request.body) % 2))
                    peer.respond(request.body)
        except (EOFError, ConnectionError):
            pass

    rng = random.Random(seed)
    due: deque[tuple[str, bytes]] = deque()  # requests that were sent, and the bodies to expect
    rest = b""  # of the body that is being read
    last = False  # the server will close behind what has been asked
    owed: list[bytes] = []  # pieces of the body that is being written

    with served(script, repeat=True) as conn:
        for step in range(150):
            call = rng.choice(("send", "send", "stream", "write", "head", "read", "read", "end"))
            if call in ("send", "stream"):
                path, body = f"/{step}", rng.randbytes(rng.choice((0, 10, 3000, 100_000)))
                headers = dict([rng.choice((("X-Last", "1"), ("X-Chunked", "1"), ("X", "y")))])
                if owed:
                    with pytest.raises(StateError):
                        conn.send_request("PUT", path, headers, body)
                elif last and (due or rest):
                    continue  # whether the client has heard of the end is a matter of time
                elif len(due) > 5:
                    continue  # if nothing read, the server would stop reading, too
                else:
                    if call == "send":
                        conn.send_request("PUT", path, headers, body)
                    else:
                        length = len(body) if rng.random() < 0.5 else None
                        conn.send_request("PUT", path, headers, BodyFollowing(length))
                        if body or length is None:
                            middle = rng.randrange(max(1, len(body)))
                            owed = [body[:middle], body[middle:]]
                    due.append((path, body))
                    last = "X-Last" in headers
            elif call == "write":
                if owed:
                    conn.write(owed.pop(0))
                    if not owed:
                        conn.write_eof()
                else:
                    with pytest.raises(StateError):
                        conn.write(b"x")
            elif call == "head":
                if rest or not due:
                    with pytest.raises(StateError):
                        conn.read_response()
                elif not (owed and len(due) == 1):
                    path, rest = due.popleft()
                    assert conn.read_response().path == path
                    if rest == b"":
                        assert conn.read() == b""
            elif call == "read":
                got = conn.read(rng.choice((1, 100, 50_000, -1)))
                assert rest.startswith(got)
                assert bool(got) == bool(rest)
                rest = rest[len(got) :]
                if not rest:
                    assert conn.read(1) == b""  # a last chunk may still have been on its way
            elif rng.random() < 0.2:
                conn.disconnect()
                if due or rest:
                    with pytest.raises(ConnectionClosed):
                        conn.read(1)
                    conn.send_request("PUT", "/after", body=b"disconnecting")
                    assert conn.read_response().path == "/after"
                    assert conn.readall() == b"disconnecting"
                due.clear()
                rest, last, owed = b"", False, []
            assert conn.response_pending() == bool(rest or len(due) > bool(owed))
