"""Requests: their bytes, and everything that a caller can get wrong about them."""

from __future__ import annotations

import array
import base64
import hashlib
import threading
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import BodyFollowing, Headers, HTTPConnection
from dugong.connection.encode import EncodedRequest, RequestBuilder, byte_view
from dugong.connection.exchange import RequestSide, Special
from dugong.connection.writers import ChunkedWriter, LengthWriter
from tests.support.server import ScriptedServer

BUILDER = RequestBuilder("example.com:81")
PROXIED = RequestBuilder("example.com", "http://example.com", b"Proxy-Authorization: Basic x\r\n")


def build(
    method: str = "GET",
    path: str = "/",
    headers: Any = None,
    body: Any = None,
    expect100: bool = False,
    builder: RequestBuilder = BUILDER,
) -> EncodedRequest:
    return builder.build(method, path, headers, body, expect100)


def lines(request: EncodedRequest) -> list[str]:
    """Return the lines of a request head, checking that it is one."""
    text = request.head.decode("latin-1")
    assert text.endswith("\r\n\r\n")
    result = text[:-4].split("\r\n")
    assert all(result)
    return result


def fields(request: EncodedRequest) -> dict[str, str]:
    """Return the header fields, none of which may be there twice."""
    pairs = [line.split(": ", 1) for line in lines(request)[1:]]
    found = {name.lower(): value for name, value in pairs}
    assert len(found) == len(pairs)
    return found


# --- what is sent --------------------------------------------------------------------------------


def test_a_plain_request() -> None:
    request = build()
    assert lines(request)[0] == "GET / HTTP/1.1"
    assert fields(request) == {
        "host": "example.com:81",
        "content-length": "0",
        "accept-encoding": "identity",
    }
    assert request.body is None
    assert request.exchange.request_side is RequestSide.SENT


def test_the_default_fields_are_those_of_a_request_for_which_none_are_given() -> None:
    builder = RequestBuilder("host", defaults=b"A: b\r\n", omit_legacy_headers=True)
    plain = builder.plain_head("GET", "/")
    assert plain.count(b"\r\nA: b\r\n") == 1
    assert builder.build("GET", "/", None, None, False).head == plain
    assert b"A: b" not in builder.build("GET", "/", {"C": "d"}, None, False).head


PLAIN_FIELDS = st.tuples(
    st.sampled_from(["A", "Accept-Encoding", "Host", "Proxy-Authorization", "User-Agent"]),
    st.sampled_from(["b", "c"]),
)


@given(
    st.lists(
        st.lists(PLAIN_FIELDS, max_size=3, unique_by=lambda field: field[0]).map(tuple), max_size=40
    )
)
def test_the_head_without_a_body_is_the_one_that_is_built_whatever_came_before(
    sets: list[tuple[tuple[str, str], ...]],
) -> None:
    builder = RequestBuilder("h", "http://h", b"Proxy-Authorization: x\r\n", b"A: b\r\n", True)
    for headers in sets:
        for method, path in (("GET", "/a?b"), ("DELETE", "/")):
            if headers:  # or else those of the builder would be sent
                built = builder.build(method, path, headers, None, False).head
                assert builder.bodiless_head(method, path, headers) == built


def test_headers_that_cannot_be_sent_are_refused_each_time_without_a_body_too() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="A"):
            BUILDER.bodiless_head("GET", "/", (("A", "b\r\nC: d"),))


@pytest.mark.parametrize(
    "headers", [{"A": "b"}, [("A", "b")], Headers([("A", "b")]), iter([("A", "b")])]
)
def test_headers_of_the_caller_are_added(headers: Any) -> None:
    request = build(headers=headers)
    assert fields(request) == {**fields(build()), "a": "b"}


def test_headers_of_the_caller_keep_their_order_and_repeats() -> None:
    sent = lines(build(headers=[("B", "1"), ("a", "2"), ("B", "3")]))
    assert [line for line in sent if line[0] in "aB"] == ["B: 1", "a: 2", "B: 3"]


@pytest.mark.parametrize("headers", [None, {}, [], Headers()])
def test_no_headers(headers: Any) -> None:
    assert build(headers=headers).head == build().head


def test_a_host_of_the_caller_replaces_ours() -> None:
    assert fields(build(headers={"host": "other.example"}))["host"] == "other.example"


def test_an_accept_encoding_of_the_caller_replaces_ours() -> None:
    assert fields(build(headers={"ACCEPT-encoding": "gzip"}))["accept-encoding"] == "gzip"


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_a_body_of_bytes_has_a_length_and_a_digest(make: Any) -> None:
    request = build("PUT", body=make(b"hello"))
    digest = base64.b64encode(hashlib.md5(b"hello").digest()).decode()
    assert fields(request)["content-length"] == "5"
    assert fields(request)["content-md5"] == digest
    assert request.body is not None
    assert bytes(request.body) == b"hello"
    assert request.exchange.writer is None


def test_a_body_of_other_items_is_counted_in_bytes() -> None:
    request = build("PUT", body=memoryview(array.array("I", [1, 2, 3])))
    assert fields(request)["content-length"] == "12"
    assert request.body is not None
    assert len(request.body) == 12


def test_an_empty_body_is_a_body() -> None:
    request = build("PUT", body=b"")
    assert fields(request)["content-length"] == "0"
    assert "content-md5" in fields(request)


def test_a_digest_of_the_caller_replaces_ours() -> None:
    assert fields(build("PUT", body=b"a", headers={"content-md5": "x"}))["content-md5"] == "x"


def test_a_body_that_follows_with_a_length() -> None:
    request = build("PUT", body=BodyFollowing(5))
    assert fields(request)["content-length"] == "5"
    assert "content-md5" not in fields(request)
    assert request.body is None
    assert isinstance(request.exchange.writer, LengthWriter)
    assert request.exchange.request_side is RequestSide.BODY
    assert request.exchange.writer.thread == threading.get_ident()


def test_a_body_that_follows_without_a_length_is_chunked() -> None:
    request = build("PUT", body=BodyFollowing())
    assert fields(request)["transfer-encoding"] == "chunked"
    assert "content-length" not in fields(request)
    assert isinstance(request.exchange.writer, ChunkedWriter)
    assert request.exchange.request_side is RequestSide.BODY


def test_an_empty_body_that_follows_is_there_already() -> None:
    request = build("PUT", body=BodyFollowing(0))
    assert fields(request)["content-length"] == "0"
    assert request.exchange.writer is None
    assert request.exchange.request_side is RequestSide.SENT


@pytest.mark.parametrize("length", [None, 5])
def test_the_server_is_asked_whether_to_send_the_body(length: int | None) -> None:
    request = build("PUT", body=BodyFollowing(length), expect100=True)
    assert fields(request)["expect"] == "100-continue"
    assert request.exchange.request_side is RequestSide.CONTINUE
    assert request.exchange.request_side is not RequestSide.SELF_CONTINUE


def test_the_server_is_not_asked_about_an_empty_body() -> None:
    request = build("PUT", body=BodyFollowing(0), expect100=True)
    assert "expect" not in fields(request)
    assert request.exchange.request_side is RequestSide.SELF_CONTINUE


@pytest.mark.parametrize(
    ("value", "close"), [("close", True), ("foo, Close", True), ("keep-alive", False), ("", False)]
)
def test_a_request_may_ask_for_the_connection_to_be_closed(value: str, close: bool) -> None:
    request = build(headers={"connection": value})
    assert request.exchange.special == Special(close=close)
    assert fields(request)["connection"] == value


def test_a_request_may_offer_another_protocol() -> None:
    assert build(headers={"upgrade": "h2c"}).exchange.special == Special(upgrade=True)
    assert build().exchange.special is None


def test_a_content_length_that_agrees_is_sent_once() -> None:
    for body in (b"12345", BodyFollowing(5)):
        assert fields(build("PUT", body=body, headers={"content-length": "5"}))
    assert fields(build(headers={"Content-Length": "0"}))["content-length"] == "0"
    number: Any = 5
    assert fields(build("PUT", body=b"12345", headers={"Content-Length": number}))


# --- through a proxy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        ("GET", "/a?b", "http://example.com/a?b"),
        ("OPTIONS", "*", "http://example.com"),
        ("GET", "http://other.example/", "http://other.example/"),
    ],
)
def test_a_proxy_gets_the_absolute_form(method: str, path: str, target: str) -> None:
    request = build(method, path, builder=PROXIED)
    assert lines(request)[0] == f"{method} {target} HTTP/1.1"
    assert request.exchange.path == path


def test_a_proxy_gets_its_credentials_with_every_request() -> None:
    for headers in (None, {"A": "b"}):
        request = build(headers=headers, builder=PROXIED)
        assert fields(request)["proxy-authorization"] == "Basic x"


def test_what_a_proxy_is_sent_is_sent_instead_of_what_is_given() -> None:
    fixed = b"User-Agent: p\r\nproxy-authorization: x\r\nAccept-Encoding: br\r\n"
    defaults = b"user-agent: d\r\nA: b\r\n"
    builder = RequestBuilder("h", "http://h", fixed, defaults, omit_legacy_headers=True)
    sent = [b"Host: h", *fixed.splitlines(), b"A: b"]
    assert builder.plain_head("GET", "/").splitlines()[1:-1] == sent
    given = {"A": "b", "USER-AGENT": "c", "Proxy-Authorization": "y", "accept-encoding": "z"}
    assert sorted(build(headers=given, builder=builder).head.splitlines()[1:-1]) == sorted(sent)


def test_what_is_to_be_omitted_is_not_sent_and_checked_all_the_same() -> None:
    builder = RequestBuilder("h", omitted=frozenset(("x-secret",)), defaults=b"X-Secret: d\r\n")
    for headers in (None, {"X-SECRET": "s"}, {"X-Secret": "s", "A": "b"}):
        assert b"secret" not in build(headers=headers, builder=builder).head.lower()
    with pytest.raises(ValueError, match="X-Secret"):
        build(headers={"X-Secret": "a\r\nb"}, builder=builder)


# --- what is refused -----------------------------------------------------------------------------

EVIL = ["\r\nB: c", "\n", "\r", "\0", "\r\n\r\nGET /b HTTP/1.1"]

#: Arguments of send_request that are refused with ValueError.
BAD_VALUES: dict[str, dict[str, Any]] = {
    **{f"method with {evil!r}": {"method": f"GET{evil}"} for evil in EVIL},
    **{f"path with {evil!r}": {"path": f"/a{evil}"} for evil in EVIL},
    **{f"header name with {evil!r}": {"headers": {f"A{evil}": "b"}} for evil in EVIL},
    **{f"header value with {evil!r}": {"headers": {"A": f"b{evil}"}} for evil in EVIL},
    **{f"header value that begins with {evil!r}": {"headers": {"A": f"{evil}b"}} for evil in EVIL},
    **{f"host with {evil!r}": {"headers": {"Host": f"a{evil}"}} for evil in EVIL},
    "empty method": {"method": ""},
    "method with space": {"method": "GET /b HTTP/1.1"},
    "method not ASCII": {"method": "G\xcbT"},
    "empty path": {"path": ""},
    "path with space": {"path": "/a b"},
    "path not ASCII": {"path": "/\xe4"},
    "path without slash": {"path": "a"},
    "asterisk for GET": {"path": "*"},
    "empty header name": {"headers": {"": "b"}},
    "header name with colon": {"headers": {"A:": "b"}},
    "header name with space": {"headers": {"A ": "b"}},
    "header value beyond latin-1": {"headers": {"A": "\u0100"}},
    "header value with DEL": {"headers": {"A": "\x7f"}},
    "empty host": {"headers": {"Host": ""}},
    "host with space": {"headers": {"Host": "a b"}},
    "host with slash": {"headers": {"Host": "a/b"}},
    "host with user": {"headers": {"Host": "a@b"}},
    "two hosts": {"headers": [("Host", "a"), ("host", "a")]},
    "transfer-encoding": {"headers": {"Transfer-Encoding": "chunked"}},
    "transfer-encoding with chunks": {
        "headers": {"transfer-encoding": "chunked"},
        "body": BodyFollowing(),
    },
    "expect": {"headers": {"Expect": "100-continue"}},
    "length without body": {"headers": {"Content-Length": "5"}},
    "length with chunks": {"headers": {"Content-Length": "5"}, "body": BodyFollowing()},
    "length that contradicts the body": {"headers": {"content-length": "5"}, "body": b"1234"},
    "length that contradicts what follows": {
        "headers": {"content-length": "5"},
        "body": BodyFollowing(4),
    },
    "malformed length": {"headers": {"Content-Length": "+5"}, "body": b"12345"},
    "length list": {"headers": {"Content-Length": "5, 5"}, "body": b"12345"},
    "two lengths": {"headers": [("Content-Length", "5")] * 2, "body": b"12345"},
    "asking about no body": {"expect100": True},
    "asking about a body of bytes": {"expect100": True, "body": b"12345"},
}

#: Arguments of send_request that are refused with TypeError.
BAD_TYPES: dict[str, dict[str, Any]] = {
    "method of bytes": {"method": b"GET"},
    "path of bytes": {"path": b"/"},
    "header name of bytes": {"headers": {b"A": "b"}},
    "header value of bytes": {"headers": {"A": b"b"}},
    "header value None": {"headers": {"A": None}},
    "headers not pairs": {"headers": ["Name"]},
    "headers a number": {"headers": 5},
    "body of str": {"body": "hello"},
    "body of int": {"body": 5},
    "body of list": {"body": [b"a"]},
    "body not contiguous": {"body": memoryview(b"123456")[::2]},
}


@pytest.mark.parametrize("builder", [BUILDER, PROXIED], ids=["direct", "proxied"])
@pytest.mark.parametrize("arguments", BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_refused(arguments: dict[str, Any], builder: RequestBuilder) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each is worded in its own way
        build(**arguments, builder=builder)


@pytest.mark.parametrize("arguments", BAD_TYPES.values(), ids=BAD_TYPES)
def test_a_bad_type_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        build(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"headers": "Authorization: secret"},
        {"headers": b"Authorization: secret"},
        {"headers": ["Authorization: secret"]},
        {"headers": [("Authorization", "Basic", "secret")]},
        {"headers": {"Authorization": b"secret"}},
        {"headers": {"Authorization": "secret\r\n"}},
        {"headers": {"Authorization": "secret\u20ac"}},
        {"headers": {"Authorization: secret": ""}},
        {"headers": {"Content-Length": "secret"}},
        {"headers": {"Content-Length": "1, secret"}},
        {"headers": {"Transfer-Encoding": "secret"}},
        {"headers": {"Host": "user:secret@host"}},
        {"headers": {"Host": "secret value"}},
        {"method": "http://user:secret@host/", "path": "GET"},
        {"path": "/a b?secret"},
        {"path": b"/?secret"},
        {"path": "http://user:secret@host/a b"},
        {"path": "user:secret@host"},
    ],
)
def test_no_message_about_a_request_that_is_refused_has_a_secret(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build(**arguments)
    assert "secret" not in str(caught.value)


def test_nothing_is_sent_of_a_request_that_is_refused() -> None:
    with ScriptedServer() as server, HTTPConnection(*server.address) as conn:
        for arguments in (*BAD_VALUES.values(), *BAD_TYPES.values()):
            with pytest.raises((ValueError, TypeError)):
                conn.send_request(**{"method": "GET", "path": "/", **arguments})
            assert not conn.response_pending()
        assert server.connections == 0


def test_a_refused_request_leaves_the_connection_as_it_was() -> None:
    def script(peer: Any) -> None:
        for _ in range(2):
            peer.respond(peer.request().target.encode())

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        conn.send_request("GET", "/a")
        with pytest.raises(ValueError, match="target"):
            conn.send_request("GET", "/evil\r\n")
        conn.send_request("GET", "/b")
        for path in (b"/a", b"/b"):
            conn.read_response()
            assert conn.readall() == path


@pytest.mark.parametrize("hostname", ["", "a b", "a/b", *(f"example.com{evil}" for evil in EVIL)])
def test_a_bad_host_name_is_refused_before_anything_else(hostname: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        HTTPConnection(hostname)
    with pytest.raises(ValueError):  # noqa: PT011
        HTTPConnection("example.com", proxy=(hostname, 80))


TEXT = st.text(st.characters(max_codepoint=0x2FF), max_size=8)


@given(TEXT, TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3))
def test_whatever_is_asked_is_one_request_or_refused(
    method: str, path: str, headers: list[tuple[str, str]]
) -> None:
    try:
        request = build(method, f"/{path}", headers)
    except ValueError:
        return
    sent = lines(request)
    assert sent[0] == f"{method} /{path} HTTP/1.1"
    assert sent[0].isascii()
    for name, value in headers:
        assert f"{name}: {value}" in sent
    assert len(sent) <= 1 + 3 + len(headers)
    assert not set(request.head.replace(b"\r\n", b"")) & {0, 10, 13}


# --- byte_view -----------------------------------------------------------------------------------


def test_a_view_counts_in_bytes_and_copies_nothing() -> None:
    data = bytearray(8)
    view = byte_view(memoryview(data).cast("I"))
    assert (view.format, len(view)) == ("B", 8)
    view[7] = 5
    assert data[7] == 5


# --- what looks like a str ------------------------------------------------------------------------


class Text(str, Enum):  # noqa: UP042  # a StrEnum is formatted as what it is equal to
    METHOD = "GET"
    PATH = "/a"
    NAME = "X-Name"
    VALUE = "value"


def test_what_is_sent_is_what_was_checked() -> None:
    assert f"{Text.METHOD}" != Text.METHOD
    builder = RequestBuilder("host")
    plain = builder.build("GET", "/a", None, None, False).head
    assert builder.build(Text.METHOD, Text.PATH, None, None, False).head == plain
    with_field = builder.build("GET", "/a", {Text.NAME: Text.VALUE}, None, False).head
    assert b"\r\nX-Name: value\r\n" in with_field
    assert builder.build("GET", "/a", {"X-Name": "value"}, None, False).head == with_field
