"""Responses: whole ones as text, JSON and status, and streamed ones as files."""

from __future__ import annotations

import copy
import encodings
import io
import json
import pickle
import shutil
from datetime import timedelta
from typing import Any

import pytest

from dugong import Headers
from dugong.errors import ConnectionClosed, Delivery, HTTPStatusError
from dugong.pool.request import Request
from dugong.pool.response import Attempt, Response, StreamedResponse

REQUEST = Request("GET", "http://h/a")
ATTEMPT = Attempt(1.5, "h-1", "connection closed unexpectedly", Delivery.SENT)


def whole(body: bytes = b"", content_type: str | None = None, status: int = 200) -> Response:
    fields = [] if content_type is None else [("Content-Type", content_type)]
    return Response(status, "Reason", Headers(fields), body, REQUEST)


# --- whole responses -----------------------------------------------------------------------------


def test_a_response_says_what_came_and_what_was_asked() -> None:
    headers = Headers([("A", "b")])
    response = Response(200, "OK", headers, b"body", REQUEST)
    assert (response.status, response.reason, response.body) == (200, "OK", b"body")
    assert response.headers is headers
    assert response.request is REQUEST
    assert response.url == "http://h/a"
    assert response.attempts == ()
    assert response.http_version == "HTTP/1.1"
    assert response.trailers == Headers()
    assert response.links == {}


def test_a_response_says_how_it_has_come() -> None:
    trailers = Headers([("X-Checksum", "1")])
    response = Response(200, "OK", Headers(), b"", REQUEST, (), 1.25, 0, trailers)
    assert response.elapsed == timedelta(seconds=1.25)
    assert response.http_version == "HTTP/1.0"
    assert response.trailers is trailers
    assert response.headers == Headers()


def test_a_response_tells_of_the_attempts_before_it() -> None:
    response = Response(200, "OK", Headers(), b"", REQUEST, (ATTEMPT,))
    assert response.attempts == (ATTEMPT,)


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"", None, ""),
        ("grün".encode(), None, "grün"),
        ("grün".encode(), "text/plain", "grün"),
        ("grün".encode("latin-1"), "text/plain; charset=ISO-8859-1", "grün"),
        ("grün".encode("utf-16"), 'text/plain; charset="UTF-16"', "grün"),
        ("Грин".encode("koi8-r"), "text/html; a=b; charset=koi8-r", "Грин"),
        (b"gr\xfcn", None, "gr\ufffdn"),
        (b"gr\xfcn", "text/plain; charset=ascii", "gr\ufffdn"),
    ],
)
def test_text_is_decoded_as_the_server_says(
    body: bytes, content_type: str | None, text: str
) -> None:
    assert whole(body, content_type).text == text


@pytest.mark.parametrize(
    "charset",
    [
        "nonsense",
        "hex",  # a codec, but not to text
        "rot13",  # from text
        "zlib",
        "idna",
        "punycode",
        "unicode_escape",
        "RAW-Unicode-Escape",
        "undefined",
        "UTF-7",
        '"a\0b"',
        "..",
        "aliases",
        "os.path",
        "ü",
        "x" * 10_000,
    ],
)
def test_text_in_a_charset_that_is_none_is_taken_as_utf_8(charset: str) -> None:
    body = "grün \\u0041 \ufffd".encode() + b"\xff"
    assert whole(body, f"text/plain; charset={charset}").text == "grün \\u0041 \ufffd\ufffd"


def test_charsets_that_servers_make_up_are_not_kept() -> None:
    cache = encodings._cache  # type: ignore[attr-defined]
    whole(b"", "text/plain; charset=latin-1").text  # noqa: B018
    before = set(cache)
    for number in range(300):
        for charset in (f"made-up-{number}", f"u{'!' * number}tf8", "UTF" + "." * number + "8"):
            content_type = f'text/plain; charset="{charset}"'
            assert whole("grün".encode(), content_type).text == "grün"
    assert set(cache) - before <= {"utf_8"}


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("latin-1", "latin-1"),
        ("ISO-8859-15", "iso8859-15"),
        ("iso_8859-1:1987", "latin-1"),
        ("windows-1252", "cp1252"),
        ("Shift_JIS", "shift_jis"),
        ("GB2312", "gb2312"),
        ("big5-hkscs", "big5hkscs"),
        ("macintosh", "mac_roman"),
        ("KOI8-U", "koi8_u"),
        ("cp874", "cp874"),
        ("US-ASCII", "ascii"),
        ("utf-8-sig", "utf_8_sig"),
    ],
)
def test_all_charsets_of_python_are_known(charset: str, codec: str) -> None:
    body = bytes(range(32, 127)) * 2 + b"+AOQ-" + bytes(range(161, 255))
    assert whole(body, f"text/plain; charset={charset}").text == body.decode(codec, "replace")


def test_a_charset_that_nothing_names_may_be_guessed() -> None:
    pytest.importorskip("charset_normalizer")
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 4
    assert whole(text.encode("cp1251")).detected_text() == text
    assert whole("grün".encode()).detected_text() == "grün"


def test_the_lines_of_a_response_are_those_of_its_text() -> None:
    body = "grün\r\n\nblau".encode("utf-16")
    assert list(whole(body, "text/plain").iter_lines()) == ["grün", "", "blau"]
    long = "ü" * 300_000
    assert list(whole(long.encode()).iter_lines()) == [long]


@pytest.mark.parametrize("make", [Response, StreamedResponse])
def test_the_links_of_a_response_are_those_of_its_headers(make: type) -> None:
    headers = Headers([("Link", "<a>; rel=next"), ("Server", "<c>"), ("link", "<b>; rel=last")])
    if make is Response:
        response: Any = Response(200, "OK", headers, b"", REQUEST)
    else:
        response = StreamedResponse(200, "OK", headers, REQUEST, 0, Pieces())
    assert response.links == {
        "next": {"url": "a", "rel": "next"},
        "last": {"url": "b", "rel": "last"},
    }


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_no_json(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError, match="nested too deeply") as caught:
        whole(body).json()
    assert isinstance(caught.value, ValueError)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_json_is_read_in_any_encoding_it_may_have(encoding: str) -> None:
    assert whole('{"a": ["ü"]}'.encode(encoding)).json() == {"a": ["ü"]}


def test_json_is_read_as_the_caller_wants() -> None:
    assert whole(b"1.50").json(parse_float=str) == "1.50"


@pytest.mark.parametrize("body", [b"", b"<html>", b'"\xff"'])
def test_what_is_no_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting value|decode"):
        whole(body).json()


@pytest.mark.parametrize("status", [200, 204, 304, 399])
def test_a_status_that_is_no_error_raises_nothing(status: int) -> None:
    response = whole(status=status)
    assert response.raise_for_status() is response


@pytest.mark.parametrize("status", [400, 404, 500, 599, 999])
def test_a_status_that_is_an_error_can_be_raised(status: int) -> None:
    response = whole(b"why", status=status)
    with pytest.raises(HTTPStatusError, match=f"^{status} Reason for GET http://h/a$") as caught:
        response.raise_for_status()
    assert caught.value.response is response


def test_an_error_of_a_status_tells_of_the_attempts_before_it() -> None:
    response = Response(503, "Reason", Headers(), b"", REQUEST, (ATTEMPT,))
    with pytest.raises(HTTPStatusError) as caught:
        response.raise_for_status()
    assert caught.value.attempts == (ATTEMPT,)


def test_the_repr_of_a_response() -> None:
    assert repr(whole(b"123")) == "<Response 200 Reason for GET http://h/a, 3 bytes>"
    response = Response(404, "", Headers(), b"", REQUEST)
    assert repr(response) == "<Response 404 for GET http://h/a, 0 bytes>"


@pytest.mark.parametrize("duplicate", [copy.copy, lambda r: pickle.loads(pickle.dumps(r))])
def test_a_response_can_be_copied_and_pickled(duplicate: Any) -> None:
    headers = Headers([("Content-Type", "text/plain")])
    trailers = Headers([("A", "b")])
    copied = duplicate(Response(200, "Reason", headers, b"abc", REQUEST, (), 1.5, 0, trailers))
    assert (copied.elapsed, copied.http_version) == (timedelta(seconds=1.5), "HTTP/1.0")
    assert copied.trailers == trailers
    assert (copied.status, copied.reason, copied.body) == (200, "Reason", b"abc")
    assert (copied.headers, copied.url) == (Headers([("Content-Type", "text/plain")]), "http://h/a")


@pytest.mark.parametrize("duplicate", [copy.copy, lambda r: pickle.loads(pickle.dumps(r))])
def test_the_attempts_are_copied_with_a_response(duplicate: Any) -> None:
    error = ConnectionClosed("gone")
    error.delivery = Delivery.SENT
    attempt = ATTEMPT._replace(exception=error)
    (copied,) = duplicate(Response(200, "OK", Headers(), b"", REQUEST, (attempt,))).attempts
    assert copied[:7] == attempt[:7]
    assert (str(copied.exception), copied.exception.delivery) == ("gone", Delivery.SENT)


# --- streamed responses --------------------------------------------------------------------------


class Pieces:
    """A body that comes in *pieces*; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = list(pieces)

    def read(self, size: int) -> bytes:
        assert size > 0
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def readinto(self, view: memoryview) -> int:
        piece = self.read(view.nbytes)
        view[: len(piece)] = piece
        return len(piece)


def streamed(
    *pieces: bytes | Exception, status: int = 200, length: int | None = None
) -> StreamedResponse:
    return StreamedResponse(status, "Reason", Headers(), REQUEST, length, Pieces(*pieces))


def test_a_streamed_response_says_what_came_and_what_was_asked() -> None:
    headers = Headers([("A", "b")])
    response = StreamedResponse(206, "Partial", headers, REQUEST, 3, Pieces(b"abc"))
    assert (response.status, response.reason, response.length) == (206, "Partial", 3)
    assert response.headers is headers
    assert response.request is REQUEST
    assert response.url == "http://h/a"
    assert response.attempts == ()


def test_a_streamed_response_and_its_error_tell_of_the_attempts_before_it() -> None:
    body = Pieces(b"abc")
    response = StreamedResponse(503, "Reason", Headers(), REQUEST, 3, body, (ATTEMPT,))
    assert response.attempts == (ATTEMPT,)
    with pytest.raises(HTTPStatusError) as caught:
        response.raise_for_status()
    assert caught.value.attempts == (ATTEMPT,)
    assert caught.value.response.attempts == (ATTEMPT,)


def test_a_read_gives_what_there_is_up_to_its_size() -> None:
    response = streamed(b"abcde", b"f")
    assert [response.read(3) for _ in range(4)] == [b"abc", b"de", b"f", b""]


def test_after_the_end_there_is_nothing_however_often_it_is_read() -> None:
    response = streamed(b"a")
    assert response.read() == b"a"
    assert response.read() == response.read(1) == b""
    assert response.readinto(bytearray(1)) == 0
    assert list(response) == []


@pytest.mark.parametrize("arguments", [(), (-1,), (None,)])
def test_a_read_without_a_size_gives_the_rest(arguments: tuple[Any, ...]) -> None:
    response = streamed(b"abc", b"de", b"f")
    assert response.read(1) == b"a"
    assert response.read(*arguments) == b"bcdef"


def test_asking_for_nothing_takes_nothing() -> None:
    response = streamed(b"a")
    assert response.read(0) == b""
    assert response.readinto(bytearray()) == 0
    assert response.read() == b"a"


@pytest.mark.parametrize("wrap", [lambda buf: buf, memoryview, lambda buf: memoryview(buf)[0:]])
def test_a_body_can_be_read_into_a_buffer(wrap: Any) -> None:
    response, buf = streamed(b"abcde"), bytearray(b"....")
    assert response.readinto(wrap(buf)) == 4
    assert buf == b"abcd"
    assert response.readinto(wrap(buf)) == 1
    assert buf == b"ebcd"


@pytest.mark.parametrize("buf", [b"abc", "abc", None])
def test_what_cannot_be_written_to_is_refused_and_nothing_is_lost(buf: Any) -> None:
    response = streamed(b"abc")
    with pytest.raises(TypeError):
        response.readinto(buf)
    assert response.read() == b"abc"


def test_iteration_gives_the_pieces_as_they_come() -> None:
    assert list(streamed(b"a\nb", b"\n", b"c")) == [b"a\nb", b"\n", b"c"]


def test_lines_are_given_as_they_come_to_the_end() -> None:
    response = streamed(b"\xef\xbb\xbfgr\xc3", b"\xbcn\r", b"\n", b"blau")
    assert response.read(3) == b"\xef\xbb\xbf"
    lines = response.iter_lines()
    assert next(lines) == "grün"
    assert list(lines) == ["blau"]
    assert list(response.iter_lines()) == []


def test_a_line_that_is_cut_short_is_not_given() -> None:
    lines = streamed(b"a\nb", ConnectionClosed("cut")).iter_lines()
    assert next(lines) == "a"
    with pytest.raises(ConnectionClosed):
        next(lines)


def test_no_line_is_given_of_what_is_closed() -> None:
    response = streamed(b"a\n")
    lines = response.iter_lines()
    response.close()
    with pytest.raises(ValueError, match="closed"):
        next(lines)


def test_a_streamed_response_and_its_error_say_how_it_has_come() -> None:
    came = [Headers()]
    response = StreamedResponse(
        404, "", Headers(), REQUEST, None, Pieces(b"a"), (), 1.25, 0, lambda: came[0]
    )
    assert (response.elapsed, response.http_version) == (timedelta(seconds=1.25), "HTTP/1.0")
    assert response.trailers == Headers()
    came[0] = Headers([("A", "b")])
    assert response.trailers is came[0]
    with pytest.raises(HTTPStatusError) as caught:
        response.raise_for_status()
    error = caught.value.response
    assert (error.elapsed, error.http_version) == (response.elapsed, "HTTP/1.0")
    assert error.trailers is came[0]
    response.close()
    trailers, came[0] = came[0], Headers()
    assert response.trailers is trailers


def test_iteration_may_be_taken_up_again() -> None:
    response = streamed(b"a", b"b", b"c")
    assert next(iter(response)) == b"a"
    assert list(response) == [b"b", b"c"]


def test_a_body_that_is_cut_short_is_not_an_end() -> None:
    cut = ConnectionClosed("cut")
    with pytest.raises(ConnectionClosed):
        streamed(b"a", cut).read()
    response = streamed(b"a", cut)
    pieces = iter(response)
    assert next(pieces) == b"a"
    with pytest.raises(ConnectionClosed):
        next(pieces)


def test_nothing_can_be_read_once_it_is_closed() -> None:
    response = streamed(b"abc")
    pieces = iter(response)
    assert not response.closed
    response.close()
    assert response.closed
    for read in (response.read, lambda: response.read(0), lambda: next(pieces)):
        with pytest.raises(ValueError, match="closed"):
            read()
    with pytest.raises(ValueError, match="closed"):
        response.readinto(bytearray(1))


def test_closing_twice_is_closing() -> None:
    response = streamed()
    response.close()
    response.close()
    assert response.closed


def test_it_says_of_itself_what_a_file_that_is_read_once_says() -> None:
    response = streamed()
    assert (response.readable(), response.writable(), response.seekable()) == (True, False, False)


def test_it_can_be_copied_to_a_file() -> None:
    file = io.BytesIO()
    shutil.copyfileobj(streamed(b"abc", b"de"), file)
    assert file.getvalue() == b"abcde"


def test_it_can_be_read_as_text() -> None:
    response = streamed("grü".encode()[:-1], "ü".encode()[-1:] + b"n\nblau", b"\n")
    with io.TextIOWrapper(response, encoding="utf-8") as text:  # type: ignore[type-var]
        assert list(text) == ["grün\n", "blau\n"]
    assert response.closed


def test_it_can_be_buffered_to_read_exact_sizes() -> None:
    response = streamed(b"abc", b"de", b"f")
    with io.BufferedReader(response) as buffered:  # type: ignore[type-var]
        assert buffered.read(4) == b"abcd"
        assert buffered.read() == b"ef"
    assert response.closed


def test_json_can_be_loaded_from_it() -> None:
    assert json.load(streamed(b'{"a":', b" 1}")) == {"a": 1}


def test_a_streamed_status_that_is_no_error_raises_nothing_and_reads_nothing() -> None:
    response = streamed(b"abc")
    assert response.raise_for_status() is response
    assert response.read() == b"abc"


def test_a_streamed_error_brings_its_body_along() -> None:
    with pytest.raises(HTTPStatusError, match=r"^404 Reason for GET http://h/a$") as caught:
        streamed(b"not", b" here", status=404).raise_for_status()
    assert caught.value.response.body == b"not here"
    assert caught.value.response.request is REQUEST


def test_no_more_of_a_streamed_error_is_read_than_is_reasonable() -> None:
    response = streamed(b"x" * 100_000, status=500)
    with pytest.raises(HTTPStatusError) as caught:
        response.raise_for_status()
    assert len(caught.value.response.body) == 65_536


def test_a_streamed_error_whose_body_is_cut_short_is_still_that_error() -> None:
    with pytest.raises(HTTPStatusError) as caught:
        streamed(b"not", ConnectionClosed(), status=404).raise_for_status()
    assert caught.value.response.body == b"not"


def test_a_closed_streamed_error_is_still_that_error() -> None:
    response = streamed(b"not here", status=404)
    response.close()
    with pytest.raises(HTTPStatusError) as caught:
        response.raise_for_status()
    assert caught.value.response.body == b""


@pytest.mark.parametrize(("length", "text"), [(3, "3 bytes"), (None, "of unknown length")])
def test_the_repr_of_a_streamed_response(length: int | None, text: str) -> None:
    response = streamed(length=length)
    assert repr(response) == f"<StreamedResponse 200 Reason for GET http://h/a, {text}>"
    response.close()
    assert repr(response) == f"<StreamedResponse 200 Reason for GET http://h/a, {text}, closed>"


# --- what they show ----------------------------------------------------------------------------

SIGNED = Request("GET", "http://h/a?X-Amz-Signature=secret", {"Authorization": "secret"})
ESCAPES = "Not\x1b[2J\x9b31m \u202eFound"


def test_no_text_of_a_response_has_a_query_or_an_escape_in_it() -> None:
    for response in (
        Response(404, ESCAPES, Headers(), b"", SIGNED),
        StreamedResponse(404, ESCAPES, Headers(), SIGNED, 0, io.BytesIO()),
    ):
        with pytest.raises(HTTPStatusError) as caught:
            response.raise_for_status()
        for text in (repr(response), str(caught.value)):
            assert text.isprintable()
            assert r"404 Not\x1b[2J\x9b31m \u202eFound for GET http://h/a" in text
        assert response.reason == ESCAPES
        assert response.url == SIGNED.url
