"""Properties of receiving: no split matters, and no bytes at all do anything undocumented.

Everything goes through `HTTPConnection` over a transport without a socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dugong import ConnectionClosed, HTTPConnection, InvalidResponse, UnsupportedResponse
from tests.support.responses import INVALID, TRUNCATED, UNDERSTOOD, UNSUPPORTED
from tests.support.transport import FakeConnection, FakeTransport

DOCUMENTED = (ConnectionClosed, InvalidResponse, UnsupportedResponse)

#: Enough to find what is likely, few enough to take a second or two.
wire = settings(max_examples=200, deadline=None)


class WireResponse(NamedTuple):
    """A valid response: its bytes, and what they mean."""

    data: bytes
    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes
    method: str = "GET"


# --- strategies ----------------------------------------------------------------------------------

TOKEN = st.text(st.sampled_from("ABCxyz09-_.!"), min_size=1, max_size=8)
VALUE = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=12).map(
    lambda value: value.strip(" \t")
)
FRAMING = frozenset(("content-length", "transfer-encoding", "connection"))
FIELD = st.tuples(TOKEN.filter(lambda name: name.lower() not in FRAMING), VALUE)
LINE_END = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"])
BODY = st.binary(max_size=40) | st.sampled_from(
    [b"\r\n\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)


@st.composite
def head(draw: st.DrawFn, status: int, reason: str, fields: list[tuple[str, str]]) -> bytes:
    """Return a head whose line ends, white space and folds are of any kind that is allowed."""
    status_line = f"HTTP/1.1 {status} {reason}".encode("latin-1")
    data = status_line + draw(LINE_END)
    for name, value in fields:
        space = draw(st.sampled_from([b" ", b"", b"\t ", b" \r\n "]))
        after = draw(st.sampled_from([b"", b"", b" ", b"\t"]))
        data += name.encode("latin-1") + b":" + space + value.encode("latin-1") + after
        data += draw(LINE_END)
    return data + draw(LINE_END)


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """Return *body* in chunks, with extensions and trailers."""
    data = b""
    extension = st.sampled_from([b"", b"", b";a", b' ; a="b;c" ;d'])
    size_format = st.sampled_from([b"%x", b"%X", b"0%x", b"000%X"])
    while body:
        size = draw(st.integers(1, len(body)))
        data += draw(size_format) % size + draw(extension) + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    data += draw(st.sampled_from([b"0", b"000"])) + draw(extension) + b"\r\n"
    for name, value in draw(st.lists(FIELD, max_size=2)):
        data += f"{name}: {value}".encode("latin-1") + draw(LINE_END)
    return data + draw(LINE_END)


@st.composite
def responds(draw: st.DrawFn, last: bool = False) -> WireResponse:
    """Return a valid response behind which another may come, unless it is the *last*."""
    data = b""
    for _ in range(draw(st.integers(0, 2))):
        interim = draw(st.sampled_from([100, 102, 103]))
        data += draw(head(interim, "Wait", draw(st.lists(FIELD, max_size=1))))
    method = draw(st.sampled_from(["GET", "GET", "HEAD", "PUT"]))
    status = draw(st.sampled_from([200, 201, 206, 204, 304, 400, 404, 500, 999]))
    reason = draw(VALUE)
    fields = draw(st.lists(FIELD, max_size=3))
    body = draw(BODY)
    framings = ["length", "chunked", "close"] if last else ["length", "chunked"]
    framing = draw(st.sampled_from(framings))
    if framing == "length":
        fields.append(("Content-Length", str(len(body))))
    elif framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
    if last and draw(st.booleans()):
        fields.append(("Connection", "close"))
    fields = draw(st.permutations(fields))
    data += draw(head(status, reason, fields))
    if method == "HEAD" or status in (204, 304):
        body = b""
    else:
        data += draw(chunks(body)) if framing == "chunked" else body
    return WireResponse(data, status, reason, fields, body, method)


PIPELINES = st.builds(
    lambda some, last: [*some, last], st.lists(responds(), max_size=2), responds(last=True)
)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return *data* in pieces that end at *places*."""
    bounds = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


PLACES = st.lists(st.integers(0, 2**16), max_size=12)
SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=4)


# --- reading in different ways -------------------------------------------------------------------


def read_body(conn: HTTPConnection, sizes: list[int]) -> bytes:
    """Read a body with calls of *sizes*, over and over."""
    body = b""
    for turn in range(10_000):
        buffer = bytearray(sizes[turn % len(sizes)])
        got = conn.readinto(buffer)
        if not got:
            return body
        body += buffer[:got]
    raise AssertionError("a body that does not end")


def outcome(
    pieces: list[bytes], sizes: list[int] | None = None, methods: Iterable[str] = ("GET",)
) -> list[object]:
    """Return all that can be read from a connection that gives *pieces*, then ends."""
    conn = FakeConnection(FakeTransport(pieces))
    for method in methods:
        conn.send_request(method, "/")
    found: list[object] = []
    try:
        while conn.response_pending():
            response = conn.read_response()
            found.append((response.status, response.reason, response.headers.items()))
            found.append(conn.readall() if sizes is None else read_body(conn, sizes))
    except DOCUMENTED as exc:
        found.append(type(exc))
        with pytest.raises(ConnectionClosed):  # and then it is over
            conn.read_response()
        with pytest.raises(ConnectionClosed):
            conn.read(1)
    return found


# --- the properties ------------------------------------------------------------------------------


@settings(wire)
@given(PIPELINES, PLACES, SIZES)
def test_any_split_of_valid_responses_gives_the_same(
    pipeline: list[WireResponse], places: list[int], sizes: list[int]
) -> None:
    data = b"".join(response.data for response in pipeline)
    methods = [response.method for response in pipeline]
    expected: list[object] = []
    for response in pipeline:
        expected += [(response.status, response.reason, response.fields), response.body]
    assert outcome([data], None, methods) == expected
    assert outcome(cut(data, places), sizes, methods) == expected
    assert outcome(cut(data, range(len(data))), None, methods) == expected


@settings(wire)
@given(responds(), st.integers(0, 2**16), SIZES)
def test_a_valid_response_that_is_cut_short_is_a_closed_connection(
    response: WireResponse, place: int, sizes: list[int]
) -> None:
    data = response.data[: place % len(response.data)]
    # The CRLF behind a last chunk may be left out.
    assume(not re.search(rb"\n0+[^\n]*\r\n$", data))
    for found in (
        outcome([data], sizes, [response.method]),
        outcome([data], None, [response.method]),
    ):
        assert found[-1] is ConnectionClosed


KNOWN = [*INVALID.values(), *UNSUPPORTED.values(), *TRUNCATED.values()]
KNOWN += [case.data for case in UNDERSTOOD.values()]
SHORT = [data for data in KNOWN if len(data) < 1000]

FRAGMENTS = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.0 204 ", b"HTTP/1.1 100 Continue\r\n\r\n"),
        *(b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\n\n", b" ", b"\t", b"\0"),
        *(b":", b",", b";", b"0", b"5", b"a", b"+", b"\xff", b"A: b\r\n", b"12345"),
        *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
        *(b"0\r\n\r\n", b"5\r\n12345\r\n", b"ffffffffffffffff\r\n"),
    ]
)
SOUP = st.lists(FRAGMENTS | st.binary(max_size=3), max_size=12).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a response of our collection with a few bytes exchanged for others."""
    data = draw(st.sampled_from(SHORT))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = start + draw(st.integers(0, 3))
        data = data[:start] + draw(FRAGMENTS | st.binary(max_size=2)) + data[stop:]
    return data


ANYTHING = st.one_of(
    st.binary(max_size=60),
    SOUP,
    SOUP.map(lambda soup: b"HTTP/1.1 200 OK\r\n" + soup),
    SOUP.map(lambda soup: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + soup),
    damaged(),
)


@settings(wire, max_examples=500)
@given(ANYTHING, PLACES, SIZES, st.sampled_from(["GET", "HEAD", "PUT", "CONNECT"]))
def test_any_bytes_give_responses_or_a_documented_exception_however_they_are_split(
    data: bytes, places: list[int], sizes: list[int], method: str
) -> None:
    methods = [method, "GET", method]
    whole = outcome([data], sizes, methods)
    assert whole == outcome(cut(data, places), sizes, methods)
    assert whole == outcome(cut(data, range(len(data))), sizes, methods)


@settings(wire)
@given(ANYTHING.filter(bool), PLACES)
def test_what_was_not_asked_for_is_never_a_response(stray: bytes, places: list[int]) -> None:
    good = UNDERSTOOD["length"].data
    first = FakeTransport(cut(good + stray, places), eof=False)
    conn = FakeConnection(first, FakeTransport([b"HTTP/1.1 299 Next\r\n\r\n"]))
    conn.send_request("GET", "/a")
    conn.read_response()
    assert conn.readall() == b"12345"
    assert not conn.response_pending()
    conn.send_request("GET", "/b")
    assert conn.read_response().status == 299
    assert first.is_shut
