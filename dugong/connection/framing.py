"""RFC 9112 §6.3 and §9.3: which body follows a response head, and does the connection live on?

Guarantees: a pure function of the head and of the request's method; no two readings of one head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any

from dugong.errors import InvalidResponse, UnsupportedResponse

if TYPE_CHECKING:
    from dugong.headers import Headers

__all__ = [
    "CLOSE",
    "KEEP_ALIVE",
    "MAX_LENGTH",
    "BodyKind",
    "Framing",
    "FramingField",
    "framing_field",
    "keep_alive_timeout",
    "list_members",
    "parse_content_length",
    "response_framing",
]

#: The largest body or chunk that we believe in: what a signed 64-bit file offset can hold.
MAX_LENGTH = 2**63 - 1

#: What a field says of the framing and of the connection: its name in lower case, and the length,
#: the transfer codings, the one member of Connection that matters, or the seconds of Keep-Alive.
#: None: nothing.
FramingField = tuple[str, Any] | None

CLOSE = ("connection", "close")
#: Says something in HTTP/1.0 alone.
KEEP_ALIVE = ("connection", "keep-alive")

_CONTENT_LENGTH = re.compile(r"[0-9]+(?:[ \t]*,[ \t]*[0-9]+)*")
#: Transfer codings that a message may name (the registry of RFC 9112 §12.3, and what is not in it
#: but sent); any other text is not quoted.
_CODINGS = frozenset("br chunked compress deflate gzip identity x-compress x-gzip zstd".split())
_TIMEOUT = re.compile(r"timeout[ \t]*=[ \t]*\"?([0-9]{1,9})\"?")


class BodyKind(Enum):
    """How the end of a body is found."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


#: Status codes of responses that have no body, whatever their heads say (RFC 9112 §6.3).
_WITHOUT_BODY = frozenset((*range(100, 200), 204, 304))

_NONE, _LENGTH = BodyKind.NONE, BodyKind.LENGTH  # members are looked up slowly in their class


#: (how the end of the body is found, its length if that is known, if another response may follow,
#: the seconds after which the server closes the connection when it is idle, if it says so)
Framing = tuple[BodyKind, int | None, bool, float | None]


def list_members(value: str) -> list[str]:
    """Split a comma-separated field value into its members, in lower case (RFC 9110 §5.6.1)."""
    return [member.strip(" \t").lower() for member in value.split(",") if member.strip(" \t")]


def parse_content_length(value: str) -> int:
    """Return the length that *value* announces, which may be repeated if it is the same each time.

    Raises ValueError if it is not one number of plain ASCII digits up to `MAX_LENGTH`. The message
    does not quote *value*, which may be anything.
    """
    if value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if not _CONTENT_LENGTH.fullmatch(value):
        raise ValueError("malformed Content-Length: it must be a number")
    lengths = {member.lstrip("0") or "0" for member in list_members(value)}
    if len(lengths) > 1:
        raise ValueError("contradictory Content-Length: it has several numbers")
    (length,) = lengths
    if len(length) > 19 or int(length) > MAX_LENGTH:
        raise ValueError("Content-Length is too large")
    return int(length)


def keep_alive_timeout(headers: Headers) -> float | None:
    """Return after how many seconds the server closes the connection when it is idle.

    That is what ``Keep-Alive: timeout=N`` says (RFC 2068 §19.7.1.1); if it says several times, the
    shortest counts. None if it does not say, or not in a way that can be understood.
    """
    times = [_parse_keep_alive(value) for value in headers.get_all("keep-alive", [])]
    return min((time for time in times if time is not None), default=None)


def _parse_keep_alive(value: str) -> float | None:
    for member in list_members(value):
        match = _TIMEOUT.fullmatch(member)
        if match is not None:
            return float(match[1])
    return None


def framing_field(name: str, value: str) -> FramingField:
    """Return what a field says of the framing; *name* is in lower case.

    Raises `InvalidResponse` if that cannot be understood.
    """
    if name == "content-length":
        try:
            return name, parse_content_length(value)
        except ValueError as exc:
            raise InvalidResponse(str(exc)) from None
    if name == "transfer-encoding":
        return name, list_members(value)
    if name == "connection":
        members = list_members(value)
        if "close" in members:
            return CLOSE
        if "keep-alive" in members:
            return KEEP_ALIVE
    elif name == "keep-alive":
        seconds = _parse_keep_alive(value)
        return None if seconds is None else (name, seconds)
    return None


def response_framing(
    method: str, minor_version: int, status: int, fields: Iterable[FramingField]
) -> Framing:
    """Return how the body after a response head is framed.

    *method* is the request's; *minor_version* is 1 for HTTP/1.1; *fields* are what `framing_field`
    gave for the fields. Raises `InvalidResponse` or `UnsupportedResponse` where RFC 9112 gives no
    single, safe meaning.
    """
    length: int | None = None
    codings: list[str] | None = None
    close = keep_alive = False
    idle: float | None = None
    for field in filter(None, fields):
        name, said = field
        if name == "content-length":
            if length is not None and length != said:
                raise InvalidResponse(f"contradictory Content-Length {length} and {said}")
            length = said
        elif name == "connection":
            if said == "close":
                close = True
            else:
                keep_alive = True
        elif name == "keep-alive":
            idle = said if idle is None else min(idle, said)
        else:
            codings = [*(codings or ()), *said]
    persistent = not close and (minor_version >= 1 or keep_alive)

    if method == "CONNECT" and 200 <= status < 300:
        return _NONE, 0, persistent, idle
    if method == "HEAD" or status in _WITHOUT_BODY:
        # A transfer coding that never comes cannot be misread, but it makes the head ambiguous.
        return _NONE, 0, persistent and not (codings and length is not None), idle
    if codings is not None:
        if codings == ["chunked"]:
            # With a Content-Length beside it, or from HTTP/1.0, this may be an attempt at
            # response splitting: take this response, but none after it (RFC 9112 §6.1, §6.3).
            trusted = length is None and minor_version >= 1
            return BodyKind.CHUNKED, None, persistent and trusted, idle
        said = ", ".join(c if c in _CODINGS else "..." for c in codings[:8])
        if codings.count("chunked") > 1 or not codings:
            raise InvalidResponse(f"malformed Transfer-Encoding {said!r}")
        raise UnsupportedResponse(f"unsupported Transfer-Encoding {said!r}")
    if length is not None:
        return _LENGTH if length else _NONE, length, persistent, idle
    return BodyKind.UNTIL_CLOSE, None, False, idle
