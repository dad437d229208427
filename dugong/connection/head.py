"""The lines of heads, both ways: what a request may have, what a response means (RFC 9112 §2-§5).

Guarantees: no caller's text can end a line or a head early; whatever a server sends gives either
a parsed head or an `InvalidResponse`/`UnsupportedResponse`. Touches no socket; the only state is
bounded caches of lines that were parsed before, which any thread may use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from dugong.connection.cache import MAX_KEY_SIZE, BoundedCache
from dugong.connection.framing import KEEP_ALIVE, FramingField, framing_field
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
    "framing_field_of",
    "headers_of",
    "is_token",
    "parse_fields",
    "parse_head",
    "public_target",
    "quoted_start",
    "split_trailer",
    "status_line_of",
]

#: The longest line of a response head that is accepted, in bytes.
MAX_LINE_SIZE = 65535
#: The longest response head that is accepted, in bytes.
MAX_HEADER_SIZE = 65535

Field = tuple[str, str, str]  # (lower-case name, name as sent, value)
StatusLine = tuple[int, int, str]  # (the x of HTTP/1.x, status, reason)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"))
_OF_A_URL = re.compile(r"[/?@:]")
_LONGEST_METHOD_SHOWN = 32  # characters of an invalid method in a message
_LONGEST_TARGET_SHOWN = 80  # characters of an invalid target
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")

_BLANK_LINE = re.compile(rb"\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([0-9]{3})(?: ([^\r\n\0]*))?")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")

_BROKEN_LINE = re.compile(rb"[\r\n\0]")
_WORD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_LETTER = re.compile(rb"[^a-z]+")
_NAME_PART = re.compile(rb"[^:=]*[:=]?")
_MAX_DEFECTS = 16  # that are told one by one


class ResponseHead(NamedTuple):
    """A parsed response head; `minor_version` is the x of HTTP/1.x.

    `defects` has a text about each field line that was malformed and has been dropped.
    """

    minor_version: int
    status: int
    reason: str
    fields: tuple[Field, ...]
    defects: tuple[str, ...] = ()


# --- requests ----------------------------------------------------------------------------------


def is_token(text: str) -> bool:
    """Return True if *text* is a token (RFC 9110 §5.6.2), the alphabet of methods and names."""
    return _TOKEN.fullmatch(text) is not None


def check_method(method: str) -> None:
    """Raise ValueError unless *method* is a token (RFC 9110 §9.1)."""
    if method not in _METHODS and not is_token(method):
        # What stands there may be a URL, with a password or a signature.
        quotable = len(method) <= _LONGEST_METHOD_SHOWN and not _OF_A_URL.search(method)
        shown = f" {method!r}" if quotable else ""
        raise ValueError(f"invalid method{shown}: it must be a token (RFC 9110 §9.1), such as GET")


def check_host(host: str) -> None:
    """Raise ValueError unless *host* can stand in a Host field and in a URL (RFC 9112 §3.2)."""
    if not _HOST.fullmatch(host):
        raise ValueError(f"invalid host name {host!r}")


def check_target(method: str, target: str) -> None:
    """Raise ValueError unless *target* is a request target (RFC 9112 §3.2) fit for *method*.

    The message quotes neither a query nor what may be a user name or a password.
    """
    if not (target.isascii() and target.isprintable()) or " " in target or not target:
        raise ValueError(
            f"invalid request target{_quoted_path(target)}: spaces, control characters and "
            "non-ASCII characters must be percent-encoded"
        )
    if target[0] != "/" and not (
        _ABSOLUTE_FORM.match(target)
        or method == "CONNECT"
        or (target == "*" and method == "OPTIONS")
    ):
        raise ValueError("invalid request target: it must start with '/'")


def _quoted_path(target: str) -> str:
    path = target.partition("?")[0][:_LONGEST_TARGET_SHOWN]
    # What does not start so is no path, but may be a URL.
    return f" {path!r}" if path[:1] == "/" and "@" not in target else ""


def public_target(target: str) -> str:
    """Return *target*, which is valid, fit for messages and logs.

    The query is left out, for which there is ``?...``, and so is a user name and password.
    """
    base, query, _ = target.partition("?")
    if "@" in base and base[0] != "/":
        base = f"...{base[base.rindex('@') :]}"
    return f"{base}?..." if query else base


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
    if len(name) + len(value) > MAX_KEY_SIZE:
        return _make_line((name, value))
    return _known_request_lines[name, value]


def _make_line(field: tuple[str, str]) -> bytes:
    # What is checked is what is sent: an Enum that is a str is formatted as something else.
    name, value = map(str.__str__, field)
    if not is_token(name):
        # What stands there may be a whole line, or the value.
        raise ValueError("invalid header name: it must be a token (RFC 9110 §5.1)")
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
    return ResponseHead(*status_line_of(lines[0]), *parse_fields(lines[1:]))


def headers_of(received: Headers | bytes) -> Headers:
    """Return the fields of a response head that the parser has found to be plain.

    Most programs look at few responses' headers, so the bytes of the head are kept until then.
    """
    if not isinstance(received, bytes):
        return received
    return Headers._from_parsed(tuple(map(_field_of, received.split(b"\r\n")[1:])))


def parse_fields(lines: list[bytes]) -> tuple[tuple[Field, ...], tuple[str, ...]]:
    """Parse field lines that were split and unfolded; return the fields, and what was dropped.

    A malformed line is dropped if it cannot touch the framing; see `_check_droppable`. Raises
    `InvalidResponse` if it can.
    """
    try:
        return tuple(map(_field_of, lines)), ()
    except InvalidResponse:
        pass
    fields: list[Field] = []
    defects: list[str] = []
    dropped = 0
    for line in lines:
        if _FIELD_LINE.fullmatch(line):
            fields.append(_field_of(line))
            continue
        _check_droppable(line)
        dropped += 1
        if dropped <= _MAX_DEFECTS:
            defects.append(f"malformed header line {quoted_start(line)} was dropped")
    if dropped > _MAX_DEFECTS:
        defects.append(f"{dropped - _MAX_DEFECTS} more malformed header lines were dropped")
    return tuple(fields), tuple(defects)


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
        # Lines that begin with white space continue a field, except before the first one: there
        # they are left alone, as malformed lines (RFC 9112 §2.2).
        first = 1
        while first < len(lines) and lines[first][:1] in (b" ", b"\t"):
            first += 1
        if first < len(lines):
            unfolded = _FOLD.sub(b" ", b"\r\n".join(lines[first:]))
            lines[first:] = _LINE_END.split(unfolded)
    return lines


def _check_droppable(line: bytes) -> None:
    """Raise `InvalidResponse` unless the malformed *line* can be dropped without any risk.

    Another program may read such a line in another way: trim the name, take what follows a CR, a
    NUL or a fold for a line of its own, or take white space for the end of the head. So a line is
    not dropped if one of the fields that matter for the framing may be in it, whatever stands
    around or within the name; if it has a CR or a NUL; if it is blank; or if it looks like a status
    line, for then a blank line is missing before it, and a whole response would be dropped.
    """
    low = line.lower()
    letters = _NO_LETTER.sub(b"", low)
    if (
        _BROKEN_LINE.search(line)
        or b"contentlength" in letters
        or b"transferencoding" in letters
        or b"connection" in _WORD.findall(low)
        or not line.strip()
        or low.lstrip().startswith(b"http/")
    ):
        raise InvalidResponse(f"invalid header line {quoted_start(line)}")


def quoted_start(line: bytes) -> str:
    """Return the start of *line* as it may stand in a message: without a value, and escaped.

    *line* is one of a head, or what a peer has sent in place of one.
    """
    name = _NAME_PART.match(line)
    assert name is not None
    start = name[0][:80]
    return f"{start!r}{'...' if len(start) < len(line) else ''}"


def _parse_status_line(line: bytes) -> StatusLine:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise InvalidResponse(f"invalid status line {quoted_start(line)}")
    major, minor, code, reason = match.groups(b"")
    if major != b"1":
        raise UnsupportedResponse(f"unsupported HTTP version {major.decode()}.{minor.decode()}")
    if code < b"100":
        raise InvalidResponse(f"invalid status {code.decode()}")
    return int(minor), int(code), reason.decode("latin-1").strip(" \t")


def _parse_field(line: bytes) -> Field:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise InvalidResponse(f"invalid header line {quoted_start(line)}")
    name = match[1].decode("ascii")
    return name.lower(), name, match[2].strip(b" \t").decode("latin-1")


def _parse_framing_field(line: bytes) -> FramingField:
    name, _, value = _parse_field(line)
    said = framing_field(name, value)
    return None if said == KEEP_ALIVE else said


# The same few lines are sent and received over and over.
_known_request_lines = BoundedCache(_make_line)
_known_status_lines = BoundedCache(_parse_status_line)
_known_fields = BoundedCache(_parse_field)
_known_framing_fields = BoundedCache(_parse_framing_field)
_field_of = _known_fields.__getitem__
#: Return what a status line says. Raises `InvalidResponse` and `UnsupportedResponse`.
status_line_of: Callable[[bytes], StatusLine] = _known_status_lines.__getitem__
#: Return what a field line says of the framing in HTTP/1.1. Raises `InvalidResponse`, also for no
#: field line.
framing_field_of: Callable[[bytes], FramingField] = _known_framing_fields.__getitem__
