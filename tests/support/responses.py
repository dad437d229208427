"""Difficult responses, by name. The table that a response is in says how it has to be treated."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["INVALID", "TRUNCATED", "UNDERSTOOD", "UNSUPPORTED", "Understood"]

#: Every byte that a field value may hold, also those that it should not.
_ANY_VALUE = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")


def _head(*lines: str | bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    raw = (line.encode("latin-1") if isinstance(line, str) else line for line in lines)
    return b"\r\n".join((status, *raw, b"", b""))


def _chunked(body: bytes) -> bytes:
    return _head("Transfer-Encoding: chunked") + body


def _length(*values: str) -> bytes:
    return _head(*(f"Content-Length: {value}" for value in values)) + b"12345"


#: Each of these ends in InvalidResponse, though the connection stays open.
INVALID: dict[str, bytes] = {
    # Content-Length
    "length with plus sign": _length("+5"),
    "length with minus sign": _length("-5"),
    "length with underscore": _length("1_0"),
    "length with inner space": _length("1 0"),
    "length with inner tab": _length("1\t0"),
    "length with non-ASCII space around": _length("\xa05"),
    "length with non-ASCII space inside": _length("1\xa00"),
    "length with superscript digit": _length("\xb2"),
    "length with UTF-8 digits": _head(b"Content-Length: \xd9\xa5") + b"12345",
    "length in hex": _length("0x5"),
    "length with fraction": _length("5.0"),
    "length with exponent": _length("1e1"),
    "length empty": _length(""),
    "length that is only a comma": _length(","),
    "length list with empty member": _length("5,"),
    "length beyond 63 bits": _length("9223372036854775808"),
    "length of a thousand digits": _length("9" * 1000),
    "length list that disagrees": _length("5, 6"),
    "lengths that disagree": _length("5", "6"),
    "lengths of which one is malformed": _length("5", "five"),
    "length list in a line that disagrees": _length("5", "5, 6"),
    # Transfer-Encoding
    "transfer coding empty": _head("Transfer-Encoding:") + b"0\r\n\r\n",
    "chunked twice": _head("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "chunked twice in two lines": _head(*["Transfer-Encoding: chunked"] * 2) + b"0\r\n\r\n",
    # chunks
    "chunk size with plus sign": _chunked(b"+5\r\n12345\r\n0\r\n\r\n"),
    "chunk size with minus sign": _chunked(b"-5\r\n12345\r\n0\r\n\r\n"),
    "chunk size with 0x": _chunked(b"0x5\r\n12345\r\n0\r\n\r\n"),
    "chunk size with underscore": _chunked(b"0_5\r\n12345\r\n0\r\n\r\n"),
    "chunk size with leading space": _chunked(b" 5\r\n12345\r\n0\r\n\r\n"),
    "chunk size with inner space": _chunked(b"0 5\r\n12345\r\n0\r\n\r\n"),
    "chunk size with non-ASCII digit": _chunked(b"\xd9\xa5\r\n12345\r\n0\r\n\r\n"),
    "chunk size not hex": _chunked(b"g\r\n12345\r\n0\r\n\r\n"),
    "chunk size empty": _chunked(b"\r\n12345\r\n0\r\n\r\n"),
    "chunk size missing before extension": _chunked(b";a=b\r\n12345\r\n0\r\n\r\n"),
    "chunk size beyond 63 bits": _chunked(b"8000000000000000\r\n12345\r\n0\r\n\r\n"),
    "chunk size of a thousand digits": _chunked(b"f" * 1000 + b"\r\n12345\r\n0\r\n\r\n"),
    "chunk size line that never ends": _chunked(b"5;" + b"a" * 65536),
    "chunk size line ended by a bare LF": _chunked(b"5\n12345\r\n0\r\n\r\n"),
    "chunk size of two digits and a bare LF": _chunked(b"05\n12345\r\n0\r\n\r\n"),
    "chunk extension ended by a bare LF": _chunked(b"5;a\n12345\r\n0\r\n\r\n"),
    "chunk extension with CR": _chunked(b"5;a\rb\r\n12345\r\n0\r\n\r\n"),
    "chunk extension with NUL": _chunked(b"5;a\0b\r\n12345\r\n0\r\n\r\n"),
    "chunk longer than its size": _chunked(b"5\r\n123456\r\n0\r\n\r\n"),
    "chunk without CRLF": _chunked(b"5\r\n123450\r\n\r\n"),
    "chunk followed by a bare LF": _chunked(b"5\r\n12345\n0\r\n\r\n"),
    "chunk followed by a bare CR": _chunked(b"5\r\n12345\r0\r\n\r\n"),
    "trailer with a length behind white space": _chunked(b"0\r\n Content-Length: 5\r\n\r\n"),
    "trailer with a space before the colon of a length": _chunked(
        b"0\r\nContent-Length : 5\r\n\r\n"
    ),
    "response where a trailer should be": _chunked(b"5\r\n12345\r\n0\r\n") + _length("5"),
    "trailer with NUL": _chunked(b"5\r\n12345\r\n0\r\nA: b\0c\r\n\r\n"),
    "trailer with bare CR": _chunked(b"5\r\n12345\r\n0\r\nA: b\rC: d\r\n\r\n"),
    "trailers that never end": _chunked(b"5\r\n12345\r\n0\r\n" + b"A: b\r\n" * 11000),
    # fields
    "field with bare CR": _head("A: b\rContent-Length: 5", "Content-Length: 0"),
    "field that ends in a second CR": _head("A: b\r", "Content-Length: 0"),
    "field with NUL": _head("A: b\0c", "Content-Length: 0"),
    "folded field with bare CR": _head("A: b\r", " c", "Content-Length: 0"),
    "field name with NUL": _head("A\0: b", "Content-Length: 0"),
    "space before colon": _head("Content-Length : 5"),
    "tab before colon": _head("Content-Length\t: 5"),
    "vertical tab before colon": _head("Transfer-Encoding\x0b: chunked"),
    "white space within the name of a length": _head("Content Length: 5", "Content-Length: 0"),
    "length without colon": _head("Content-Length 5", "Content-Length: 0"),
    "length with an equals sign": _head("Content-Length=5", "Content-Length: 0"),
    "length with a hyphen that is not ASCII": _head("Content\x96Length: 5", "Content-Length: 0"),
    "length behind a control character": _head("\x01Content-Length: 5", "Content-Length: 0"),
    "length folded behind a malformed line": _head(
        "odd", " Content-Length: 5", "Content-Length: 0"
    ),
    "coding folded behind a malformed line": _head(
        "odd name: x", "\tTransfer-Encoding: chunked", "Content-Length: 0"
    ),
    "transfer coding with a space before colon": _head("TRANSFER-ENCODING : chunked"),
    "connection with a space before colon": _head("Connection : close", "Content-Length: 0"),
    "connection without colon": _head("connection close", "Content-Length: 0"),
    "malformed line with NUL": _head("od\0d", "Content-Length: 0"),
    "malformed line with CR": _head("od\rd", "Content-Length: 0"),
    "malformed line with NUL in a length": _head("Content\0-Length: 5", "Content-Length: 0"),
    "white space before the first field": _head(" ", "Content-Length: 0"),
    "response within a head": b"HTTP/1.1 103 Early\r\n" + _length("5"),
    "response behind white space within a head": b"HTTP/1.1 103 Early\r\n\t" + _length("5"),
    "fold before the first field": _head(" Content-Length: 5", "Content-Length: 0"),
    # status line
    "status of two digits": _head("Content-Length: 0", status=b"HTTP/1.1 20 OK"),
    "status of four digits": _head("Content-Length: 0", status=b"HTTP/1.1 2000 OK"),
    "status with sign": _head("Content-Length: 0", status=b"HTTP/1.1 +20 OK"),
    "status not a number": _head("Content-Length: 0", status=b"HTTP/1.1 abc OK"),
    "status with non-ASCII digits": _head(
        "Content-Length: 0", status=b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK"
    ),
    "status with superscript digits": _head("Content-Length: 0", status=b"HTTP/1.1 2\xb2\xb2 OK"),
    "status below 100": _head("Content-Length: 0", status=b"HTTP/1.1 099 No"),
    "status missing": _head("Content-Length: 0", status=b"HTTP/1.1 "),
    "status line with NUL": _head("Content-Length: 0", status=b"HTTP/1.1 200 O\0K"),
    "status line with bare CR": _head("Content-Length: 0", status=b"HTTP/1.1 200 O\rA: b"),
    "status line with two spaces": _head("Content-Length: 0", status=b"HTTP/1.1  200 OK"),
    "status line with tab": _head("Content-Length: 0", status=b"HTTP/1.1\t200 OK"),
    "version in lower case": _head("Content-Length: 0", status=b"http/1.1 200 OK"),
    "version without minor": _head("Content-Length: 0", status=b"HTTP/1 200 OK"),
    "version with two digits": _head("Content-Length: 0", status=b"HTTP/1.10 200 OK"),
    "not HTTP": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "not even text": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "leading blank line": b"\r\n" + _head("Content-Length: 0"),
    # sizes
    "line too long": _head("A: " + "a" * 65536),
    "line that never ends": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 65536,
    "head too long": _head(*[f"A{i}: b" for i in range(10000)]),
    "head that never ends": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 11000,
    "switch that was not requested": _head("Upgrade: h2c", status=b"HTTP/1.1 101 Switching"),
}

#: Each of these ends in UnsupportedResponse: valid, but nothing we speak.
UNSUPPORTED: dict[str, bytes] = {
    "HTTP/2": _head("Content-Length: 0", status=b"HTTP/2.0 200 OK"),
    "HTTP/0.9 with a status": _head("Content-Length: 0", status=b"HTTP/0.9 200 OK"),
    "gzip as transfer coding": _head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "unknown transfer coding": _head("Transfer-Encoding: rot13"),
    "chunked not last": _head("Transfer-Encoding: chunked, gzip"),
    "identity as transfer coding": _head("Transfer-Encoding: identity") + b"",
}

#: After each of these the server closes the connection: ConnectionClosed.
TRUNCATED: dict[str, bytes] = {
    "nothing": b"",
    "part of the version": b"HTT",
    "status line": b"HTTP/1.1 200 OK",
    "status line with its end": b"HTTP/1.1 200 OK\r\n",
    "within a field": b"HTTP/1.1 200 OK\r\nContent-Le",
    "before the blank line": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    "within the blank line": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r",
    "only an interim response": b"HTTP/1.1 103 Early\r\n\r\n",
    "before the body": _length("5")[:-5],
    "within the body": _length("5")[:-1],
    "before the first chunk": _chunked(b""),
    "within a chunk size": _chunked(b"5"),
    "within a chunk size's line end": _chunked(b"5\r"),
    "before a chunk's data": _chunked(b"5\r\n"),
    "within a chunk": _chunked(b"5\r\n1234"),
    "behind a chunk's data": _chunked(b"5\r\n12345"),
    "within a chunk's CRLF": _chunked(b"5\r\n12345\r"),
    "between chunks": _chunked(b"5\r\n12345\r\n"),
    "within the last chunk": _chunked(b"5\r\n12345\r\n0"),
    "within the last blank line": _chunked(b"5\r\n12345\r\n0\r\n\r"),
    "behind a trailer": _chunked(b"5\r\n12345\r\n0\r\nA: b\r\n"),
    "within a trailer": _chunked(b"5\r\n12345\r\n0\r\nA: b"),
    "within HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n1234",
}


class Understood(NamedTuple):
    """A response that has to be understood: what it says, and whether another may follow.

    `until_close` says that the server has to close the connection to end the body; `fields` are
    all the header fields, unless None, and `dropped` says that malformed lines were among them.
    """

    data: bytes
    body: bytes
    persistent: bool = True
    until_close: bool = False
    status: int = 200
    method: str = "GET"
    fields: list[tuple[str, str]] | None = None
    dropped: bool = False


def _understood_with(
    *connection: str, persistent: bool, version: str = "1.1", length: str = "Content-Length: 5"
) -> Understood:
    status = f"HTTP/{version} 200 OK".encode()
    lines = [f"Connection: {value}" for value in connection]
    return Understood(_head(*lines, length, status=status) + b"12345", b"12345", persistent)


def _no_body(status: int, *lines: str, method: str = "GET", persistent: bool = True) -> Understood:
    head = _head(*lines, status=b"HTTP/1.1 %d No body" % status)
    return Understood(head, b"", persistent, status=status, method=method)


def _dropped(*lines: str | bytes) -> Understood:
    """Return a response with *lines* that are malformed, and do no harm."""
    head = _head("A: b", *lines, "Content-Length: 5")
    fields = [("A", "b"), ("Content-Length", "5")]
    return Understood(head + b"12345", b"12345", fields=fields, dropped=True)


def _cut_behind(body: bytes) -> Understood:
    """Return a response whose last line end the server has left out before it closed."""
    return Understood(_chunked(b"5\r\n12345\r\n" + body), b"12345", False, until_close=True)


UNDERSTOOD: dict[str, Understood] = {
    # Content-Length
    "length": Understood(_length("5"), b"12345"),
    "length zero": Understood(_head("Content-Length: 0"), b""),
    "length list": Understood(_length("5, 5"), b"12345"),
    "length list without space": Understood(_length("5,5,5"), b"12345"),
    "length list with white space": Understood(_length("5\t ,\t 5"), b"12345"),
    "length repeated": Understood(_length("5", "5"), b"12345"),
    "length repeated with zeros": Understood(_length("5", "0005, 05"), b"12345"),
    "length with white space around": Understood(
        _head("Content-Length:\t 5 \t") + b"12345", b"12345"
    ),
    "length without space": Understood(_head("content-length:5") + b"12345", b"12345"),
    # chunks
    "no chunk": Understood(_chunked(b"0\r\n\r\n"), b""),
    "chunks": Understood(
        _chunked(b"5\r\n12345\r\nA\r\n0123456789\r\n0\r\n\r\n"), b"123450123456789"
    ),
    "chunk size in lower case": Understood(
        _chunked(b"a\r\n0123456789\r\n0\r\n\r\n"), b"0123456789"
    ),
    "chunk size with zeros": Understood(_chunked(b"0005\r\n12345\r\n000\r\n\r\n"), b"12345"),
    "chunk size with trailing space": Understood(_chunked(b"5 \r\n12345\r\n0 \r\n\r\n"), b"12345"),
    "chunk size with trailing tabs": Understood(
        _chunked(b"5\t \t\r\n12345\r\n000\t\r\n\r\n"), b"12345"
    ),
    "chunk size with white space before an extension": Understood(
        _chunked(b"5 \t;a\r\n12345\r\n0\t;b\r\n\r\n"), b"12345"
    ),
    "chunk extensions": Understood(
        _chunked(b'5;a\r\n12345\r\n1 ; b=c ; d="e;f"\r\n6\r\n0;last\r\n\r\n'), b"123456"
    ),
    "chunk data that looks like framing": Understood(
        _chunked(b"9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n"), b"\r\n0\r\n\r\n\r\n"
    ),
    "trailers": Understood(
        _chunked(b"5\r\n12345\r\n0\r\nContent-Length: 9\r\nA: b\r\n c\r\nD:\r\n\r\n"), b"12345"
    ),
    "trailers with bare LF": Understood(_chunked(b"5\r\n12345\r\n0\r\nA: b\n\n"), b"12345"),
    "trailers that are malformed": Understood(
        _chunked(b"5\r\n12345\r\n0\r\n A: b\r\nodd\r\nA : b\r\nB: c\r\n\r\n"), b"12345"
    ),
    "last chunk at the end of the connection": _cut_behind(b"0\r\n"),
    "last chunk with an extension at the end of the connection": _cut_behind(b"0 ;a\r\n"),
    "transfer coding in odd case": Understood(
        _head("tRANSFER-eNCODING:  ChunKed ,") + b"5\r\n12345\r\n0\r\n\r\n", b"12345"
    ),
    # Transfer-Encoding wins, and the connection ends
    "chunked over length": Understood(
        _head("Content-Length: 3", "Transfer-Encoding: chunked") + b"5\r\n12345\r\n0\r\n\r\n",
        b"12345",
        persistent=False,
    ),
    "chunked over length in the other order": Understood(
        _head("Transfer-Encoding: chunked", "Content-Length: 3") + b"5\r\n12345\r\n0\r\n\r\n",
        b"12345",
        persistent=False,
    ),
    "chunked from HTTP/1.0": Understood(
        _head("Transfer-Encoding: chunked", "Connection: keep-alive", status=b"HTTP/1.0 200 OK")
        + b"5\r\n12345\r\n0\r\n\r\n",
        b"12345",
        persistent=False,
    ),
    # Connection
    "close": _understood_with("close", persistent=False),
    "close in a list": _understood_with("foo, Close", persistent=False),
    "close behind white space": _understood_with(" \t,foo\t,\tCLOSE \t,", persistent=False),
    "close in a second line": _understood_with("foo", "close", persistent=False),
    "close and keep-alive": _understood_with("keep-alive", "close", persistent=False),
    "something like close": _understood_with("closed, not-close", persistent=True),
    "keep-alive": _understood_with("Keep-Alive", persistent=True),
    # HTTP/1.0
    "HTTP/1.0": Understood(
        b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end", persistent=False, until_close=True
    ),
    "HTTP/1.0 with length": _understood_with(persistent=False, version="1.0"),
    "HTTP/1.0 with keep-alive": _understood_with("Keep-Alive", persistent=True, version="1.0"),
    "HTTP/1.0 with keep-alive and close": _understood_with(
        "keep-alive, close", persistent=False, version="1.0"
    ),
    "HTTP/1.9": _understood_with(persistent=True, version="1.9"),
    # no length
    "no length": Understood(
        _head("Connection: keep-alive") + b"to the\r\n\r\nend",
        b"to the\r\n\r\nend",
        persistent=False,
        until_close=True,
    ),
    "no length and no body": Understood(_head(), b"", persistent=False, until_close=True),
    # no body
    "HEAD": _no_body(200, "Content-Length: 5", method="HEAD"),
    "HEAD with chunks": _no_body(200, "Transfer-Encoding: chunked", method="HEAD"),
    "HEAD without length": _no_body(200, method="HEAD"),
    "204": _no_body(204),
    "204 with a length": _no_body(204, "Content-Length: 5"),
    "304 with a length": _no_body(304, "Content-Length: 5"),
    "304 with chunks": _no_body(304, "Transfer-Encoding: chunked"),
    "HEAD with close": _no_body(200, "Connection: close", method="HEAD", persistent=False),
    # 1xx
    "behind interim responses": Understood(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\n\r\n"
        b"HTTP/1.1 199\nLink: a\n\n" + _length("5"),
        b"12345",
    ),
    # line ends
    "bare LF": Understood(
        b"HTTP/1.1 200 OK\nA: b\nContent-Length: 5\n\n12345",
        b"12345",
        fields=[("A", "b"), ("Content-Length", "5")],
    ),
    "bare LF before a body with CRLFCRLF": Understood(
        b"HTTP/1.1 200 OK\nContent-Length: 8\n\n1\r\n\r\n234", b"1\r\n\r\n234"
    ),
    "LF and CRLF mixed": Understood(
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\nContent-Length: 5\n\r\n12345",
        b"12345",
        fields=[("A", "b"), ("C", "d"), ("Content-Length", "5")],
    ),
    "CRLF before a bare LF": Understood(
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\n12\r\n\r\n3", b"12\r\n\r\n3"
    ),
    # fields
    "folded field": Understood(
        _head("A: b", " \t c", "\td", "Content-Length: 0"),
        b"",
        fields=[("A", "b c d"), ("Content-Length", "0")],
    ),
    "folded length": Understood(_head("Content-Length:", " 5") + b"12345", b"12345"),
    "folded with bare LF": Understood(
        b"HTTP/1.1 200 OK\nA: b\n c\nContent-Length: 0\n\n",
        b"",
        fields=[("A", "b c"), ("Content-Length", "0")],
    ),
    "field without colon": _dropped("field"),
    "field with an equals sign": _dropped("X-XSS-Protection=1;"),
    "field name with a space": _dropped("A b: c"),
    "field name with a space before colon": _dropped("C : d"),
    "field name empty": _dropped(": a"),
    "field name not ASCII": _dropped("\xc4: a"),
    "field name with a control character": _dropped("C\x1b: d"),
    "malformed field that is folded": _dropped("odd", " and: folded"),
    "markup": _dropped("<html>", "<p>Hello: world"),
    "something like a connection": _dropped("Proxy-Connection : close", "Connections : 5"),
    "a length with an underscore": Understood(
        _head("Content_Length: 9", "Content-Length: 5") + b"12345",
        b"12345",
        fields=[("Content_Length", "9"), ("Content-Length", "5")],
    ),
    "white space before the first field": Understood(
        _head(" A: b", "\tc", "C: d", "Content-Length: 0"),
        b"",
        fields=[("C", "d"), ("Content-Length", "0")],
        dropped=True,
    ),
    "fields with any byte": Understood(
        _head(b"A: " + _ANY_VALUE, "B:", "Content-Length: 0"),
        b"",
        fields=[
            ("A", _ANY_VALUE.decode("latin-1")),
            ("B", ""),
            ("Content-Length", "0"),
        ],
    ),
    "fields repeated and in order": Understood(
        _head("b: 1", "A: 2", "B: 3", "Content-Length: 0", "a: 2"),
        b"",
        fields=[("b", "1"), ("A", "2"), ("B", "3"), ("Content-Length", "0"), ("a", "2")],
    ),
    "no reason": Understood(_head("Content-Length: 0", status=b"HTTP/1.1 200"), b""),
    "empty reason": Understood(_head("Content-Length: 0", status=b"HTTP/1.1 200 "), b""),
    "unknown status": Understood(
        _head("Content-Length: 0", status=b"HTTP/1.1 999 \xff\t!"), b"", status=999
    ),
    "as long as may be": Understood(_head("A: " + "a" * (65535 - 43), "Content-Length: 0"), b""),
}
