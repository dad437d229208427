"""The rules of the wire, whole: every difficult response, through `HTTPConnection`.

Each table of `tests.support.responses` is run twice: over a transport that delivers it whole, byte
by byte and with more behind it, and over a socket.
"""

from __future__ import annotations

import pytest

from dugong import (
    ConnectionClosed,
    HTTPConnection,
    InvalidResponse,
    UnsupportedResponse,
)
from tests.support.responses import INVALID, TRUNCATED, UNDERSTOOD, UNSUPPORTED, Understood
from tests.support.server import Peer, Script, ScriptedServer
from tests.support.transport import (
    WHOLE,
    Delivery,
    FakeConnection,
    FakeTransport,
    each_delivery,
    each_split,
)

each_invalid = pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
each_unsupported = pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED)
each_truncated = pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED)
each_understood = pytest.mark.parametrize("case", UNDERSTOOD.values(), ids=UNDERSTOOD)

each_persistent = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in UNDERSTOOD.items() if case.persistent]
)
each_with_body = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in UNDERSTOOD.items() if case.body]
)


def get(conn: HTTPConnection, method: str = "GET") -> bytes:
    conn.send_request(method, "/")
    conn.read_response()
    return conn.readall()


def check_understood(conn: HTTPConnection, case: Understood) -> None:
    conn.send_request(case.method, "/")
    response = conn.read_response()
    assert response.status == case.status
    if case.fields is not None:
        assert response.headers.items() == case.fields
        assert bool(response.headers.defects) is case.dropped
    assert conn.readall() == case.body
    assert response.length in (None, len(case.body))
    assert not conn.response_pending()


def check_that_nothing_follows(conn: HTTPConnection) -> None:
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.read(1)


# --- without a socket ----------------------------------------------------------------------------


@each_delivery
@each_invalid
def test_a_malformed_response_is_invalid(data: bytes, delivery: Delivery) -> None:
    conn = FakeConnection(FakeTransport(delivery.pieces(data), eof=False))
    with pytest.raises(InvalidResponse):
        get(conn)
    check_that_nothing_follows(conn)


@each_delivery
@each_unsupported
def test_a_response_in_another_form_is_unsupported(data: bytes, delivery: Delivery) -> None:
    conn = FakeConnection(FakeTransport(delivery.pieces(data), eof=False))
    with pytest.raises(UnsupportedResponse):
        get(conn)
    check_that_nothing_follows(conn)


@each_split
@each_truncated
def test_a_truncated_response_is_a_closed_connection(data: bytes, delivery: Delivery) -> None:
    conn = FakeConnection(FakeTransport(delivery.pieces(data)))
    with pytest.raises(ConnectionClosed):
        get(conn)
    check_that_nothing_follows(conn)


@each_delivery
@each_understood
def test_an_unusual_response_is_understood(case: Understood, delivery: Delivery) -> None:
    if case.until_close:
        delivery = delivery._replace(trailing=b"")
    transport = FakeTransport(delivery.pieces(case.data), eof=case.until_close)
    conn = FakeConnection(transport)
    check_understood(conn, case)
    assert transport.is_shut is not case.persistent


@each_persistent
def test_responses_that_come_together_are_told_apart(case: Understood) -> None:
    conn = FakeConnection(FakeTransport([case.data * 3], eof=False))
    for _ in range(3):
        conn.send_request(case.method, "/")
    for _ in range(3):
        assert conn.read_response().status == case.status
        assert conn.readall() == case.body


@each_split
@each_with_body
def test_a_body_can_be_read_in_parts_of_any_size(case: Understood, delivery: Delivery) -> None:
    for size in (1, 2, 3, 7):
        conn = FakeConnection(FakeTransport(delivery.pieces(case.data), eof=case.until_close))
        conn.send_request(case.method, "/")
        conn.read_response()
        body = b""
        while part := conn.read(size):
            assert len(part) <= size
            body += part
        assert body == case.body


# --- over a socket -------------------------------------------------------------------------------


def responds(data: bytes, then: Script) -> Script:
    """Return a script that responds to the first request with *data*."""

    def script(peer: Peer) -> None:
        peer.head()
        try:
            peer.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has seen enough
        then(peer)

    return script


def wait_for_the_client_to_close(peer: Peer) -> None:
    try:
        peer.until_eof()
    except ConnectionResetError:
        pass  # it closed without having read everything


def close(peer: Peer) -> None:
    pass


def respond_to_one_more(peer: Peer) -> None:
    peer.head()
    peer.respond(b"next")


@each_invalid
def test_a_malformed_response_over_a_socket(data: bytes) -> None:
    with (
        ScriptedServer(responds(data, wait_for_the_client_to_close)) as server,
        HTTPConnection(*server.address) as conn,
    ):
        with pytest.raises(InvalidResponse):
            get(conn)
        check_that_nothing_follows(conn)


@each_unsupported
def test_a_response_in_another_form_over_a_socket(data: bytes) -> None:
    with (
        ScriptedServer(responds(data, wait_for_the_client_to_close)) as server,
        HTTPConnection(*server.address) as conn,
    ):
        with pytest.raises(UnsupportedResponse):
            get(conn)
        check_that_nothing_follows(conn)


@each_truncated
def test_a_truncated_response_over_a_socket(data: bytes) -> None:
    with (
        ScriptedServer(responds(data, close)) as server,
        HTTPConnection(*server.address) as conn,
    ):
        with pytest.raises(ConnectionClosed):
            get(conn)
        check_that_nothing_follows(conn)


@each_understood
def test_an_unusual_response_over_a_socket(case: Understood) -> None:
    then = respond_to_one_more if case.persistent else wait_for_the_client_to_close
    first = responds(case.data, close if case.until_close else then)
    with (
        ScriptedServer(first, respond_to_one_more) as server,
        HTTPConnection(*server.address) as conn,
    ):
        check_understood(conn, case)
        assert get(conn) == b"next"
        assert server.connections == (1 if case.persistent else 2)


@pytest.mark.parametrize("name", ["chunks", "trailers", "behind interim responses", "bare LF"])
def test_a_response_that_comes_in_single_bytes(name: str) -> None:
    case = UNDERSTOOD[name]

    def script(peer: Peer) -> None:
        peer.head()
        peer.send_bytewise(case.data)
        respond_to_one_more(peer)

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        check_understood(conn, case)
        assert get(conn) == b"next"


def test_no_body_comes_after_a_connect() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\ntunnel"

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(data)
        assert peer.until_eof() == b""

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        conn.send_request("CONNECT", "example.com:443")
        assert conn.read_response().length == 0
        assert conn.readall() == b""
        assert conn.read_raw(100) == b"tunnel"


def test_the_bytes_of_an_invalid_response_can_be_looked_at() -> None:
    data = INVALID["space before colon"]
    conn = FakeConnection(FakeTransport([data], eof=False))
    with pytest.raises(InvalidResponse):
        get(conn)
    assert conn.read_raw(1000) == data


def test_a_connection_recovers_from_an_invalid_response_by_connecting_again() -> None:
    good = UNDERSTOOD["length"].data
    conn = FakeConnection(
        FakeTransport([INVALID["space before colon"] + good], eof=False),
        FakeTransport([good], eof=False),
    )
    with pytest.raises(InvalidResponse):
        get(conn)
    assert get(conn) == b"12345"


def test_pipelined_requests_behind_an_invalid_response_get_no_response() -> None:
    data = INVALID["chunk without CRLF"] + UNDERSTOOD["length"].data
    conn = FakeConnection(FakeTransport(WHOLE.pieces(data), eof=False))
    for _ in range(2):
        conn.send_request("GET", "/")
    conn.read_response()
    with pytest.raises(InvalidResponse):
        conn.readall()
    check_that_nothing_follows(conn)


def test_what_came_before_a_bad_chunk_can_be_read() -> None:
    conn = FakeConnection(FakeTransport([INVALID["chunk without CRLF"]], eof=False))
    conn.send_request("GET", "/")
    conn.read_response()
    assert conn.read(100) == b"12345"
    with pytest.raises(InvalidResponse):
        conn.read(100)
