"""A response that has come when its request cannot be sent is not lost, in one thread either."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dugong import BodyFollowing, ConnectionClosed, ConnectionTimedOut, HTTPConnection
from dugong.connection.polling import POLLIN, PollNeeded, eval_coroutine
from dugong.connection.transport import Transport
from tests.support.server import TIMEOUT, Peer, ScriptedServer

LONG = b"x" * 10_000_000  # more than the kernel takes from a sender whose peer does not read
BODY = random.Random(7).randbytes(50_000)  # several records of TLS, and several reads
HEAD = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n" % len(BODY)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GAVE_UP = "sending a request has timed out, or was given up"

_RECORD, _AROUND = 16 * 1024, 22  # bytes of data in a record of TLS 1.3, and those around them

Contexts = tuple[ssl.SSLContext, ssl.SSLContext] | tuple[None, None]


@pytest.fixture(params=["plain", "tls"])
def contexts(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> Contexts:
    """The context of the server, and that of the client."""
    # So that it is known how many bytes come.
    monkeypatch.setattr(server_context, "num_tickets", 0)
    return (server_context, client_context) if request.param == "tls" else (None, None)


@pytest.fixture(params=["blocking", "coroutines"])
def blocks(request: pytest.FixtureRequest) -> bool:
    """Whether the blocking methods are called, or the coroutines."""
    return bool(request.param == "blocking")


@contextmanager
def uploading(
    contexts: Contexts, response: bytes, *, before: int = 0, resets: bool = False
) -> Iterator[HTTPConnection]:
    """A connection that has sent the head of an upload, for which *response* has come.

    Before it, it has sent so many GETs. The server receives nothing more, and *resets* the
    connection, or keeps it open. It responds to what comes over another one.
    """

    def refuse(peer: Peer) -> None:
        for _ in range(before + 1):
            peer.head()
        peer.send(response)
        if resets:
            has_come.wait(TIMEOUT)
            peer.reset()
        else:
            is_over.wait(TIMEOUT)

    def respond(peer: Peer) -> None:
        peer.head()
        peer.send(OK)

    has_come, is_over = threading.Event(), threading.Event()
    with (
        ScriptedServer(refuse, respond, context=contexts[0]) as server,
        HTTPConnection(*server.address, ssl_context=contexts[1]) as conn,
    ):
        conn.timeout = TIMEOUT
        for _ in range(before):
            conn.send_request("GET", "/before")
        conn.send_request("PUT", "/a", body=BodyFollowing(len(LONG) + 1))
        records = -(-len(response) // _RECORD) if contexts[0] else 0
        await_bytes(conn, len(response) + _AROUND * records)
        has_come.set()
        try:
            yield conn
        finally:
            is_over.set()


def transport_of(conn: HTTPConnection) -> Transport:
    transport = conn._session.state.transport
    assert transport is not None
    return transport


def await_bytes(conn: HTTPConnection, count: int) -> None:
    """Wait until the system has *count* bytes for *conn*."""
    sock = transport_of(conn).sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    assert PollNeeded(sock.fileno(), POLLIN).poll(TIMEOUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def write(conn: HTTPConnection, blocks: bool, timeout: float) -> None:
    if blocks:
        conn.timeout = timeout
        conn.write(LONG)
    else:
        eval_coroutine(conn.co_write(LONG), timeout)


def time_out(conn: HTTPConnection, blocks: bool = True) -> None:
    """Write to *conn* until that times out."""
    with pytest.raises(ConnectionTimedOut, match="nothing sent"):
        write(conn, blocks, 0.1)
    conn.timeout = None  # so that a wait for what does not come would have no end


def read_response(conn: HTTPConnection, blocks: bool = True) -> int:
    response = conn.read_response() if blocks else eval_coroutine(conn.co_read_response())
    return response.status


def read_body(conn: HTTPConnection, blocks: bool = True) -> bytes:
    return conn.readall() if blocks else eval_coroutine(conn.co_readall())


def get(conn: HTTPConnection) -> bytes:
    """Make an exchange from beginning to end; return the body."""
    conn.timeout = TIMEOUT
    conn.send_request("GET", "/next")
    assert conn.read_response().status == 200
    return conn.readall()


def test_it_is_read_after_a_write_has_timed_out(contexts: Contexts, blocks: bool) -> None:
    with uploading(contexts, HEAD + BODY) as conn:
        time_out(conn, blocks)
        with pytest.raises(ConnectionClosed, match=GAVE_UP):
            conn.write(b"x")
        assert conn.response_pending()
        assert read_response(conn, blocks) == 413
        assert read_body(conn, blocks) == BODY
        assert transport_of(conn).sock.fileno() == -1
        assert not conn.response_pending()
        assert get(conn) == b"ok"


def test_it_is_read_after_the_connection_was_reset(contexts: Contexts, blocks: bool) -> None:
    with uploading(contexts, HEAD + BODY, resets=True) as conn:
        with pytest.raises(ConnectionClosed):
            write(conn, blocks, TIMEOUT)
        assert read_response(conn, blocks) == 413
        assert read_body(conn, blocks) == BODY
        assert get(conn) == b"ok"


def test_what_comes_before_it_is_read_too(contexts: Contexts, blocks: bool) -> None:
    with uploading(contexts, OK + HEAD + BODY, before=1) as conn:
        time_out(conn, blocks)
        assert read_response(conn, blocks) == 200
        assert read_body(conn, blocks) == b"ok"
        assert read_response(conn, blocks) == 413
        assert read_body(conn, blocks) == BODY
        assert get(conn) == b"ok"


def test_without_a_body_it_is_the_end_at_once(contexts: Contexts, blocks: bool) -> None:
    with uploading(contexts, b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n") as conn:
        time_out(conn, blocks)
        assert read_response(conn, blocks) == 401
        assert transport_of(conn).sock.fileno() == -1
        assert get(conn) == b"ok"


@pytest.mark.parametrize("response", [HEAD[:-1], b"HTTP/1.1 103 Early Hints\r\n\r\n", b"H"])
def test_what_has_not_come_is_not_waited_for(
    contexts: Contexts, blocks: bool, response: bytes
) -> None:
    with uploading(contexts, response) as conn:
        time_out(conn, blocks)
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match=GAVE_UP):
                read_response(conn, blocks)
        assert transport_of(conn).sock.fileno() == -1
        assert get(conn) == b"ok"


def test_a_body_that_has_not_come_to_its_end_is_cut_short(contexts: Contexts, blocks: bool) -> None:
    with uploading(contexts, HEAD + BODY[:-1]) as conn:
        time_out(conn, blocks)
        assert read_response(conn, blocks) == 413
        for _ in range(2):
            with pytest.raises(ConnectionClosed, match=GAVE_UP):
                read_body(conn, blocks)
        assert transport_of(conn).sock.fileno() == -1
        assert get(conn) == b"ok"


def test_a_body_until_the_end_of_the_connection_has_none(contexts: Contexts, blocks: bool) -> None:
    """The end is ours, and not that of the server."""
    with uploading(contexts, b"HTTP/1.1 413 No\r\n\r\nno") as conn:
        time_out(conn, blocks)
        assert read_response(conn, blocks) == 413
        with pytest.raises(ConnectionClosed, match=GAVE_UP):
            read_body(conn, blocks)
        assert get(conn) == b"ok"


def test_it_need_not_be_read(contexts: Contexts) -> None:
    with uploading(contexts, HEAD + BODY) as conn:
        time_out(conn)
        transport = transport_of(conn)
        conn.disconnect()
        assert transport.sock.fileno() == -1
        assert get(conn) == b"ok"


def test_disconnecting_within_it_is_the_end(contexts: Contexts, blocks: bool) -> None:
    with uploading(contexts, HEAD + BODY) as conn:
        time_out(conn)
        assert read_response(conn, blocks) == 413
        conn.disconnect()
        with pytest.raises(ConnectionClosed, match="disconnected"):
            read_body(conn, blocks)
        assert get(conn) == b"ok"
