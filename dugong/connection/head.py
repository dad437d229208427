"""The bytes of a request head, and the meaning of a response head (RFC 9112 §2 to §5).

Guarantees: no caller's text can end a line or a head early; whatever a server sends gives either
a parsed head or an `InvalidResponse`/`UnsupportedResponse`. Touches no socket; the only state is
a bounded memory of header lines that were parsed before, which any thread may use.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dugong.connection.framing import Framing, Sign, framing_sign, response_framing
from dugong.connection.memory import LONGEST, Memory
from dugong.errors import InvalidResponse, UnsupportedResponse
from dugong.headers import Headers

__all__ = [
    "MAX_HEADER_SIZE",
    "MAX_LINE_SIZE",
    "Field",
    "ResponseHead",
    "StatusLine",
    "check_host",
    "check_method",
    "check_target",
    "end_of_head",
    "field_line",
    "headers_of",
    "is_token",
    "parse_fields",
    "parse_head",
    "parse_plain_head",
    "split_trailer",
]

#: The longest line of a response head that is accepted, in bytes.
MAX_LINE_SIZE = 65535
#: The longest response head that is accepted, in bytes.
MAX_HEADER_SIZE = 65535

Field = tuple[str, str, str]  # (lower-case name, name as sent, value)
StatusLine = tuple[int, int, str]  # (the x of HTTP/1.x, status, reason)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"))
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")

_BLANK_LINE = re.compile(rb"\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([0-9]{3})(?: ([^\r\n\0]*))?")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")


class ResponseHead(NamedTuple):
    """A parsed response head; `minor_version` is the x of HTTP/1.x."""

    minor_version: int
    status: int
    reason: str
    fields: tuple[Field, ...]


# --- requests ----------------------------------------------------------------------------------


def is_token(text: str) -> bool:
    """Return True if *text* is a token (RFC 9110 §5.6.2), the alphabet of methods and names."""
    return _TOKEN.fullmatch(text) is not None


def check_method(method: str) -> None:
    """Raise ValueError unless *method* is a token (RFC 9110 §9.1)."""
    if method not in _METHODS and not is_token(method):
        raise ValueError(f"invalid method {method!r}")


def check_host(host: str) -> None:
    """Raise ValueError unless *host* can stand in a Host field and in a URL (RFC 9112 §3.2)."""
    if not _HOST.fullmatch(host):
        raise ValueError(f"invalid host name {host!r}")


def check_target(method: str, target: str) -> None:
    """Raise ValueError unless *target* is a request target (RFC 9112 §3.2) fit for *method*."""
    if not (target.isascii() and target.isprintable()) or " " in target or not target:
        raise ValueError(
            f"invalid request target {target!r}: spaces, control characters and non-ASCII "
            "characters must be percent-encoded"
        )
    if target[0] != "/" and not (
        _ABSOLUTE_FORM.match(target)
        or method == "CONNECT"
        or (target == "*" and method == "OPTIONS")
    ):
        raise ValueError(f"invalid request target {target!r}: it must start with '/'")


def field_line(name: str, value: str) -> bytes:
    """Return the bytes of one header line, with its CRLF.

    Raises ValueError if *name* is no token or *value* holds control characters or characters
    beyond ISO-8859-1, and TypeError if they are no strings (an int is taken as its digits).
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(int(value))
    if not isinstance(name, str) or not isinstance(value, str):
        kinds = f"{type(name).__name__}: {type(value).__name__}"
        raise TypeError(f"header names and values must be str, not {kinds}")
    if len(name) + len(value) > LONGEST:
        return _make_line((name, value))
    return _known_request_lines[name, value]


def _make_line(field: tuple[str, str]) -> bytes:
    # What is checked is what is sent: an Enum that is a str is formatted as something else.
    name, value = map(str.__str__, field)
    if not is_token(name):
        raise ValueError(f"invalid header name {name!r}")
    if _NOT_IN_VALUE.search(value):
        raise ValueError(f"control character in the value of header {name!r}")
    try:
        return f"{name}: {value}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"the value of header {name!r} is not ISO-8859-1") from None


# --- responses ---------------------------------------------------------------------------------


def end_of_head(data: bytearray, start: int, scan: int, end: int) -> int:
    """Return the index behind the blank line that ends the head at *start*, or -1.

    The bytes of *data* before *scan* are known to hold no blank line; *end* is where they end.
    """
    stop = data.find(b"\r\n\r\n", scan, end)
    if stop >= 0 and data.count(b"\n", start, stop) == data.count(b"\r\n", start, stop):
        return stop + 4
    blank = _BLANK_LINE.search(data, max(start, scan), end)
    return blank.end() if blank else -1


def parse_head(block: bytes) -> ResponseHead:
    """Parse a response head: *block* is all of it, with the blank line.

    Raises `InvalidResponse`, and `UnsupportedResponse` for another major version of HTTP.
    """
    lines = _split_lines(block)
    return ResponseHead(*_known_statuses[lines[0]], tuple(map(_field_of, lines[1:])))


def parse_plain_head(block: bytes, method: str) -> tuple[StatusLine, Framing] | None:
    """Parse quickly what matters first of the head of an answer to *method*.

    *block* is what comes before the first CRLF CRLF. Returns the status line and how the body is
    framed; `headers_of` has the fields. None if it is not one valid line after the other, each
    ended by CRLF, and so has to be looked at by `end_of_head` and `parse_head`: it may be invalid,
    folded, or have ended earlier.
    """
    if len(block) > MAX_LINE_SIZE:
        return None
    lines = block.split(b"\r\n")
    try:
        status_line = _known_statuses[lines[0]]
        del lines[0]
        signs = map(_sign_of, lines)
        return status_line, response_framing(method, status_line[0], status_line[1], signs)
    except (InvalidResponse, UnsupportedResponse):
        return None


def headers_of(received: Headers | bytes) -> Headers:
    """Return the fields of a response head that `parse_plain_head` has understood.

    Nobody asks for most of them, so answers keep the bytes of the head until somebody does.
    """
    if not isinstance(received, bytes):
        return received
    return Headers._from_parsed(tuple(map(_field_of, received.split(b"\r\n")[1:])))


def parse_fields(lines: list[bytes]) -> list[Field]:
    """Parse trailer lines that were split and unfolded. Raises `InvalidResponse`."""
    return [_parse_field(line) for line in lines]


def split_trailer(block: bytes) -> list[bytes]:
    """Split a trailer section, with its blank line, into unfolded lines."""
    return _split_lines(b"\r\n" + block)[1:]


def _split_lines(block: bytes) -> list[bytes]:
    lines = block.split(b"\r\n")
    if len(lines) - 1 != block.count(b"\n") or lines[-1]:
        lines = _LINE_END.split(block)
    del lines[-2:]  # the blank line, and what is behind its end: nothing
    if len(block) > MAX_LINE_SIZE and max(map(len, lines)) > MAX_LINE_SIZE:
        raise InvalidResponse(f"a header line is longer than {MAX_LINE_SIZE} bytes")
    if b"\n " in block or b"\n\t" in block:
        if len(lines) > 1 and lines[1][:1] in (b" ", b"\t"):
            raise InvalidResponse("white space before the first header field")
        lines = _LINE_END.split(_FOLD.sub(b" ", b"\r\n".join(lines)))
    return lines


def _parse_status_line(line: bytes) -> StatusLine:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise InvalidResponse(f"invalid status line {line[:80]!r}")
    major, minor, code, reason = match.groups(b"")
    if major != b"1":
        raise UnsupportedResponse(f"unsupported HTTP version {major.decode()}.{minor.decode()}")
    if code < b"100":
        raise InvalidResponse(f"invalid status {code.decode()}")
    return int(minor), int(code), reason.decode("latin-1").strip(" \t")


def _parse_field(line: bytes) -> Field:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise InvalidResponse(f"invalid header line {line[:80]!r}")
    name = match[1].decode("ascii")
    return name.lower(), name, match[2].strip(b" \t").decode("latin-1")


def _parse_sign(line: bytes) -> Sign:
    name, _, value = _parse_field(line)
    return framing_sign(name, value)


# The same few lines are sent and received over and over.
_known_request_lines = Memory(_make_line)
_known_statuses = Memory(_parse_status_line)
_known_fields = Memory(_parse_field)
_known_signs = Memory(_parse_sign)
# For map(), which is faster than a loop.
_field_of = _known_fields.__getitem__
_sign_of = _known_signs.__getitem__
