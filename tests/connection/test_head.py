"""Heads both ways: what a caller may put into a request, and what a response head means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import Headers, InvalidResponse, UnsupportedResponse
from dugong.connection import head
from dugong.connection.head import (
    Field,
    ResponseHead,
    check_host,
    check_method,
    check_target,
    end_of_head,
    field_line,
    headers_of,
    is_token,
    parse_fields,
    parse_head,
    public_target,
    quoted_start,
    split_trailer,
)
from tests.support.responses import INVALID, UNDERSTOOD
from tests.support.transport import Delivery, cpu_limit, each_delivery, receive

CONTROLS = [chr(code) for code in (*range(32), 127)]
TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def fields_of(*lines: bytes) -> tuple[Field, ...]:
    return parse_head(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])).fields


# --- requests ------------------------------------------------------------------------------------


def test_a_token_has_no_other_characters() -> None:
    allowed = [chr(code) for code in range(0x250) if is_token(f"A{chr(code)}")]
    assert allowed == sorted(TOKEN_CHARACTERS)


def test_a_token_is_not_empty() -> None:
    assert not is_token("")


@pytest.mark.parametrize("method", ["GET", "get", "M-SEARCH", "X!"])
def test_a_method_is_a_token(method: str) -> None:
    check_method(method)


@pytest.mark.parametrize(
    "method", ["", " GET", "GET ", "GET\r\n", "G\0T", "GE/T", "G\xcbT", "GET\n"]
)
def test_anything_else_is_no_method(method: str) -> None:
    with pytest.raises(ValueError, match="method"):
        check_method(method)


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ("GET ", "invalid method 'GET ': "),
        ("GET\r\n", r"invalid method 'GET\r\n': "),
        ("http://user:secret@h/?secret", "invalid method: "),
        ("user:secret", "invalid method: "),
        ("user@secret", "invalid method: "),
        ("/path?secret", "invalid method: "),
        ("x " * 16 + "x", "invalid method: "),
    ],
)
def test_what_stands_in_place_of_a_method_is_shown_if_it_is_no_url(method: str, shown: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        check_method(method)
    assert str(caught.value).startswith(shown)


@pytest.mark.parametrize(
    "host",
    ["example.com", "localhost", "127.0.0.1", "[::1]", "[::1]:80", "example.com:8080", "a_b"],
)
def test_a_host(host: str) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a?b", "a#b", "a@b", "a\\b", "\xe4.com", "a\r\nb", "a\0", "a\n", '"']
)
def test_anything_else_is_no_host(host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        check_host(host)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/a%20b?c=d&e=/;f"),
        ("GET", "//"),
        ("GET", "/~'\"<>[]{}|\\^`"),
        ("GET", "http://example.com/"),
        ("OPTIONS", "*"),
        ("CONNECT", "example.com:443"),
    ],
)
def test_a_target(method: str, target: str) -> None:
    check_target(method, target)


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", ""), ("GET", "a"), ("GET", "*"), ("GET", "?a"), ("GET", "/\xe4"), ("GET", "/\u2028")],
)
def test_anything_else_is_no_target(method: str, target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        check_target(method, target)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/a b?secret", "invalid request target '/a b': "),
        ("/a?secret b", "invalid request target '/a': "),
        ("/" + "a" * 100 + " ", f"invalid request target '/{'a' * 79}': "),
        ("//user:secret@host/a b", "invalid request target: "),
        ("http://user:secret@host/a b?secret", "invalid request target: "),
        ("user:secret@host", "invalid request target: "),
        ("?secret", "invalid request target: "),
    ],
)
def test_an_invalid_target_is_shown_without_what_may_be_secret(target: str, shown: str) -> None:
    with pytest.raises(ValueError, match="target") as caught:
        check_target("GET", target)
    assert str(caught.value).startswith(shown)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/a/b@c", "/a/b@c"),
        ("/a?secret", "/a?..."),
        ("/a?", "/a?..."),
        ("*", "*"),
        ("host:443", "host:443"),
        ("http://host/a?secret", "http://host/a?..."),
        ("http://user:secret@host/a?b@c", "...@host/a?..."),
    ],
)
def test_a_target_is_shown_without_what_may_be_secret(target: str, shown: str) -> None:
    assert public_target(target) == shown


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "CONNECT"])
@pytest.mark.parametrize("target", ["/a{}", "/{}a", "{}/a", "http://a{}"])
def test_no_target_holds_a_space_or_a_control_character(method: str, target: str) -> None:
    for character in (*CONTROLS, " ", "\x80", "\xa0", "\x85"):
        with pytest.raises(ValueError, match="target"):
            check_target(method, target.format(character))


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("A", "b", b"A: b\r\n"),
        ("a-B", "", b"a-B: \r\n"),
        ("A", "b\tc d", b"A: b\tc d\r\n"),
        ("A", "\xe4\xff", b"A: \xe4\xff\r\n"),
        ("A", "b: c, d", b"A: b: c, d\r\n"),
    ],
)
def test_a_field_line(name: str, value: str, line: bytes) -> None:
    for _ in range(2):  # the second time, it is known
        assert field_line(name, value) == line


def test_a_number_is_taken_as_its_digits() -> None:
    number: Any = 5
    assert field_line("A", number) == b"A: 5\r\n"


@pytest.mark.parametrize("value", ["{}", "a{}", "{}a", "a{}b"])
def test_no_field_value_holds_a_control_character(value: str) -> None:
    for character in CONTROLS:
        if character != "\t":
            with pytest.raises(ValueError, match="control character"):
                field_line("A", value.format(character))


@pytest.mark.parametrize("value", ["\u0100", "\u2028", "\U0001f600", "\ud800"], ids=ascii)
def test_no_field_value_is_beyond_latin_1(value: str) -> None:
    with pytest.raises(ValueError, match="ISO-8859-1"):
        field_line("A", value)


@pytest.mark.parametrize(
    "name", ["", "A ", " A", "A:", "A\r\n", "A\n", "A\0", "\xc4", "A B", "(A)"]
)
def test_a_field_name_is_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="header name"):
        field_line(name, "value")


def test_an_invalid_name_is_not_shown_as_it_may_be_a_whole_line() -> None:
    with pytest.raises(ValueError, match="header name") as caught:
        field_line("Authorization: Basic secret", "")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [(b"A", "b"), ("A", b"b"), ("A", None), ("A", 1.5), (1, "b"), ("A", True)]
)
def test_names_and_values_are_strings(name: Any, value: Any) -> None:
    with pytest.raises(TypeError):
        field_line(name, value)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_field_line_is_one_line_whatever_is_in_it(name: str, value: str) -> None:
    try:
        line = field_line(name, value)
    except ValueError:
        return
    assert line.endswith(b"\r\n")
    assert not set(line[:-2]) & {0, 10, 13}
    (field,) = fields_of(line[:-2])
    assert field == (name.lower(), name, value.strip(" \t"))


# --- the status line -----------------------------------------------------------------------------


@each_delivery
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"HTTP/1.1 200 OK", (1, 200, "OK")),
        (b"HTTP/1.0 404 Not Found", (0, 404, "Not Found")),
        (b"HTTP/1.9 299 ", (9, 299, "")),
        (b"HTTP/1.1 204", (1, 204, "")),
        (b"HTTP/1.1 999  \xe4\xff\t~ ", (1, 999, "\xe4\xff\t~")),
        (b"HTTP/1.1 204 " + b"a" * 1000, (1, 204, "a" * 1000)),
    ],
)
def test_a_status_line(line: bytes, expected: tuple[int, int, str], delivery: Delivery) -> None:
    for _ in range(2):
        received = receive(line + b"\r\nContent-Length: 0\r\n\r\n", delivery, eof=False)
        assert received.head[:3] == expected
        assert received.rest == delivery.trailing


@pytest.mark.parametrize(
    "name", [name for name in INVALID if name.startswith(("status", "version"))]
)
@each_delivery
def test_anything_else_is_no_status_line(name: str, delivery: Delivery) -> None:
    with pytest.raises(InvalidResponse, match="status"):
        receive(INVALID[name], delivery, eof=False)


@each_delivery
@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"3.0", b"9.1"])
def test_another_major_version_is_unsupported(version: bytes, delivery: Delivery) -> None:
    with pytest.raises(UnsupportedResponse, match=version.decode()):
        receive(b"HTTP/%s 200 OK\r\n\r\n" % version, delivery, eof=False)


# --- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"Name: value", ("name", "Name", "value")),
        (b"Name:value", ("name", "Name", "value")),
        (b"Name: \t value\t ", ("name", "Name", "value")),
        (b"Name:", ("name", "Name", "")),
        (b"Name: \t", ("name", "Name", "")),
        (b"Name: a:b: c", ("name", "Name", "a:b: c")),
        (b"Name: a \t b", ("name", "Name", "a \t b")),
        (b"Name: \xa0\xe4\xff\x85\x0b\x01\x7f", ("name", "Name", "\xa0\xe4\xff\x85\x0b\x01\x7f")),
        (b"!#$%&'*+-.^_`|~09: a", ("!#$%&'*+-.^_`|~09", "!#$%&'*+-.^_`|~09", "a")),
        (b"Name: " + b"a" * 1000, ("name", "Name", "a" * 1000)),
    ],
)
def test_a_field(line: bytes, field: Field) -> None:
    for _ in range(2):
        assert fields_of(line) == (field,)


INVALID_FIELDS = [
    name
    for name in INVALID
    if name.startswith(("field", "space before", "tab before", "fold before", "folded"))
]


@each_delivery
@pytest.mark.parametrize("name", INVALID_FIELDS)
def test_anything_else_is_no_field(name: str, delivery: Delivery) -> None:
    for _ in range(2):
        with pytest.raises(InvalidResponse, match="header"):
            receive(INVALID[name], delivery, eof=False)


def test_no_second_field_appears_from_behind_a_bare_cr() -> None:
    for line in (b"A: b\rC: d", b"A: b\r\r", b"\rA: b", b"A: \r b"):
        with pytest.raises(InvalidResponse, match="header line"):
            fields_of(line)
        with pytest.raises(InvalidResponse, match="header line"):
            parse_head(b"HTTP/1.1 200 OK\n" + line + b"\n\n")


def test_characters_that_python_takes_for_line_ends_are_none() -> None:
    value = b"a\x0b\x0c\x1c\x1d\x1e\x85b"
    assert fields_of(b"A: " + value) == (("a", "A", value.decode("latin-1")),)


@each_delivery
@pytest.mark.parametrize("name", [name for name, case in UNDERSTOOD.items() if case.fields])
def test_fields_keep_their_order_and_case(name: str, delivery: Delivery) -> None:
    case = UNDERSTOOD[name]
    received = receive(case.data, delivery, case.method, eof=False)
    assert [(sent, value) for _, sent, value in received.head.fields] == case.fields
    assert [lower for lower, *_ in received.head.fields] == [
        n.lower() for n, _ in case.fields or ()
    ]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([b"A: b", b" c"], "b c"),
        ([b"A: b ", b"\t \tc"], "b  c"),
        ([b"A:", b" b"], "b"),
        ([b"A: b", b" "], "b"),
        ([b"A: b", b" c", b" ", b" d"], "b c  d"),
        ([b"A: b", b" C: d"], "b C: d"),
    ],
)
def test_folded_lines_are_one_field(lines: list[bytes], value: str, end: bytes) -> None:
    block = end.join([b"HTTP/1.1 200 OK", *lines, b"E: f", b"", b""])
    assert parse_head(block).fields == (("a", "A", value), ("e", "E", "f"))


def test_a_status_line_cannot_be_folded() -> None:
    for block in (b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", b"HTTP/1.1 200 OK\n\tA: b\n\n"):
        parsed = parse_head(block)
        assert parsed[:4] == (1, 200, "OK", ())
        assert len(parsed.defects) == 1


# --- malformed lines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        (b"odd", "b'odd'"),
        (b"Set Cookie: secret", "b'Set Cookie:'..."),
        (b"X-XSS-Protection=1;", "b'X-XSS-Protection='..."),
        (b"\x1b[31m red", r"b'\x1b[31m red'"),
        (b"\x9b: red", r"b'\x9b:'..."),
        (b"o" * 81, f"b'{'o' * 80}'..."),
    ],
)
def test_a_malformed_line_is_dropped_and_noted_without_its_value(line: bytes, quoted: str) -> None:
    parsed = parse_head(b"HTTP/1.1 200 OK\r\nA: b\r\n" + line + b"\r\nC: d\r\n\r\n")
    assert parsed.fields == (("a", "A", "b"), ("c", "C", "d"))
    assert parsed.defects == (f"malformed header line {quoted} was dropped",)


def test_a_good_head_has_no_defects() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n").defects == ()


def test_the_notes_about_many_malformed_lines_are_few() -> None:
    parsed = parse_head(b"HTTP/1.1 200 OK\r\n" + b"odd\r\n" * 10000 + b"A: b\r\n\r\n")
    assert parsed.fields == (("a", "A", "b"),)
    assert len(parsed.defects) == 17
    assert parsed.defects[-1] == "9984 more malformed header lines were dropped"


@pytest.mark.parametrize(
    "name", [b"Content-Length", b"tRansfer-eNcoding", b"Connection", b"content_length"]
)
@pytest.mark.parametrize(
    "line",
    [
        *(b"%s : x", b"%s\t: x", b" %s: x", b"%s\x0b: x", b"\x0c%s: x", b"%s\xa0: x", b"%s\0: x"),
        *(b"%s x", b"%s=x", b"%s", b"(%s): x", b"odd %s: x", b"odd: x %s : x", b"odd name: %s: x"),
        *(b"\xef\xbb\xbf%s: x", b'"%s": x', b"%s;: x"),
    ],
)
def test_a_malformed_line_that_may_touch_the_framing_is_invalid(line: bytes, name: bytes) -> None:
    whole = line % name
    if b"odd: x" in line:
        return  # this one is well formed
    block = b"HTTP/1.1 200 OK\r\n" + whole + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(InvalidResponse, match="header line"):
        parse_head(block)


@given(st.binary(max_size=20), st.sampled_from([b"Content-Length", b"Transfer-Encoding"]))
def test_no_line_that_is_dropped_names_the_framing(junk: bytes, name: bytes) -> None:
    for line in (junk + name, name + junk, junk[:5] + name + junk[5:]):
        if set(line) & set(b"\r\n"):
            continue
        try:
            defects = parse_head(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n").defects
        except InvalidResponse:
            continue
        assert not defects


@pytest.mark.parametrize(
    "line", [b"a" * 60000, b" " * 60000 + b"a", b"a " * 30000, b"connectio " * 6000, b":" * 60000]
)
def test_a_hostile_malformed_line_takes_no_long_time(line: bytes) -> None:
    with cpu_limit(1):
        assert parse_head(b"HTTP/1.1 200 OK\r\n\t" + line + b"\r\n\r\n").defects


def test_a_line_may_not_be_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "MAX_LINE_SIZE", 100)
    assert fields_of(b"A: " + b"a" * 97, b"B: " + b"b" * 97)
    with pytest.raises(InvalidResponse, match="longer than 100"):
        fields_of(b"A: " + b"a" * 98)


def test_a_head_without_fields() -> None:
    for block in (b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 204 No\n\n", b"HTTP/1.1 204 No\r\n\n"):
        assert parse_head(block) == ResponseHead(1, 204, "No", ())


@each_delivery
@pytest.mark.parametrize("junk", [b"Set-Cookie: id=secret", b"id=secret; secret"])
def test_what_stands_in_place_of_a_status_line_is_shown_without_a_value(
    junk: bytes, delivery: Delivery
) -> None:
    with pytest.raises(InvalidResponse, match="status line") as caught:
        receive(junk + b"\r\n\r\n", delivery, eof=False)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"nonsense", "b'nonsense'"),
        (b"Name: value", "b'Name:'..."),
        (b"name=value", "b'name='..."),
        (b"x" * 81, f"b'{'x' * 80}'..."),
        (b"\x1b[31m", r"b'\x1b[31m'"),
    ],
)
def test_a_line_is_shown_up_to_its_value(line: bytes, shown: str) -> None:
    assert quoted_start(line) == shown


def test_messages_about_a_head_are_short() -> None:
    for block in (b"HTTP/" + b"x" * 60000, b"HTTP/1.1 200 OK\r\n\0" + b"\x1b" * 60000):
        with pytest.raises(InvalidResponse) as caught:
            parse_head(block + b"\r\n\r\n")
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()


# --- trailers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "lines"),
    [
        (b"\r\n", []),
        (b"\n", []),
        (b"A: b\r\n\r\n", [b"A: b"]),
        (b"A: b\nC: d\n\n", [b"A: b", b"C: d"]),
        (b"A: b\r\n c\r\n\r\n", [b"A: b c"]),
    ],
)
def test_trailers_are_split_like_fields(block: bytes, lines: list[bytes]) -> None:
    assert split_trailer(block) == lines


def test_trailers_are_parsed_like_fields() -> None:
    assert parse_fields([b"A: b", b"a:c"]) == ((("a", "A", "b"), ("a", "a", "c")), ())


# --- the end of a head ---------------------------------------------------------------------------

BLANK_LINES = [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"]


@pytest.mark.parametrize("blank", BLANK_LINES)
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("body", [b"", b"\n\n", b"\r\n\r\n", b"x\r\n\r\n", b"x\n\n"])
@pytest.mark.parametrize("before", [b"", b"\n\n\r\n\r\n"])
def test_a_head_ends_at_the_first_blank_line_of_any_form(
    blank: bytes, line_end: bytes, body: bytes, before: bytes
) -> None:
    block = line_end.join([b"HTTP/1.1 200 OK", b"A: b", b"C: d"]) + blank
    data = bytearray(before + block + body)
    start, end = len(before), len(data)
    assert end_of_head(data, start, start, end) == start + len(block)
    for scanned in range(len(block)):
        stop = end_of_head(data, start, start, start + scanned)
        assert stop == -1
        scan = start + max(0, scanned - 3)
        assert end_of_head(data, start, scan, end) == start + len(block)


@given(st.text(st.sampled_from("\r\n a:"), max_size=12), st.integers(0, 12))
def test_the_end_of_a_head_is_the_same_however_it_comes(text: str, cut: int) -> None:
    data = bytearray(b"H" + text.encode())
    whole = end_of_head(data, 0, 0, len(data))
    if whole < 0 or whole > cut:
        assert end_of_head(data, 0, 0, min(cut, len(data))) == -1
        assert end_of_head(data, 0, max(0, min(cut, len(data)) - 3), len(data)) == whole


# --- headers -------------------------------------------------------------------------------------


def test_headers_that_have_been_parsed_are_left_as_they_are() -> None:
    headers = Headers([("A", "b")])
    assert headers_of(headers) is headers


def test_what_is_remembered_is_bounded() -> None:
    for i in range(5000):
        fields_of(b"A: %d" % i, b"A: %d%s" % (i, b"a" * 300))
        parse_head(b"HTTP/1.1 200 Reason %d\r\n\r\n" % i)
        field_line("A", str(i))
        head.framing_field_of(b"A: %d" % i)
    for known in (
        head._known_fields,
        head._known_framing_fields,
        head._known_status_lines,
        head._known_request_lines,
    ):
        assert 0 < len(known) <= 1024
    assert max(map(len, head._known_fields)) <= 256
