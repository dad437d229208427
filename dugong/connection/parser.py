"""Response heads and bodies, in: from the bytes in a `ReceiveBuffer` to responses. Sans-IO.

A response whose head is plain and whose body has come completely is taken in one step, because
head and body one by one would cost more than all else. Of any other response the parser gives the
head, and `dugong.connection.readers` read the body. `ResponseParser._plain_head` alone decides
whether a head is plain.

Guarantees: response n is taken for exchange n or for none; bytes are taken from the buffer only
when they make up a whole and valid head, or response, so that giving up a wait loses nothing, and
the raw bytes of an invalid head are still there. Owner: the receiving thread. Touches no socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.framing import (
    CLOSE,
    BodyKind,
    Framing,
    framing_field,
    response_framing,
)
from dugong.connection.head import (
    MAX_HEADER_SIZE,
    ResponseHead,
    StatusLine,
    end_of_head,
    framing_field_of,
    parse_head,
    quoted_start,
    status_line_of,
)
from dugong.connection.readers import whole_chunked_body
from dugong.errors import InvalidResponse, UnsupportedResponse
from dugong.headers import Headers

if TYPE_CHECKING:
    from collections import deque

    from dugong.connection.buffer import ReceiveBuffer
    from dugong.connection.exchange import Exchange

__all__ = ["FramedHead", "ReceivedResponse", "ResponseParser", "take_head"]

#: (exchange, status, reason, header fields as a response takes them, length of the body, body if
#: all of it is there)
ReceivedResponse = tuple["Exchange", int, str, Headers | bytes, int | None, bytes | None]

_CHUNKED = BodyKind.CHUNKED  # a member is looked up slowly in its class
_HEAD_ROOM = MAX_HEADER_SIZE - len(b"\r\n\r\n")


#: A response head, and how its body is framed: (the x of HTTP/1.x, status, reason, header fields as
#: a response takes them, how the end of the body is found, its length if that is known, if another
#: response may follow, if it has ``Connection: close``). A class would cost twice as much.
FramedHead = tuple[int, int, str, Headers | bytes, BodyKind, int | None, bool, bool]


def take_head(buffer: ReceiveBuffer) -> ResponseHead | None:
    """Take a response head (RFC 9112 §2.1) from *buffer*; None if not all of it has come.

    Raises `InvalidResponse` as soon as what has come cannot be the start of a response, and
    `UnsupportedResponse`.
    """
    start, end = buffer.start, buffer.end
    if start == end:
        return None
    scan = start + max(0, buffer.scanned - 3) if buffer.scanned else start
    stop = end_of_head(buffer.data, start, scan, end)
    head = parse_head(buffer.peek(stop - start)) if stop >= 0 else None
    if (stop if head else end) - start > MAX_HEADER_SIZE:
        raise InvalidResponse(f"the response head is longer than {MAX_HEADER_SIZE} bytes")
    if head is not None:
        buffer.start = stop
        buffer.scanned = 0
        return head
    # Do not wait for the end of something that cannot be a response.
    if not b"HTTP/".startswith(buffer.peek(5)):
        raise InvalidResponse(f"invalid status line {quoted_start(buffer.peek(81))}")
    buffer.scanned = end - start
    return None


class ResponseParser:
    """Parses the responses of one connection after the other out of *buffer*."""

    __slots__ = ("_buffer", "keep_alive_timeout")

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer  # never changes
        #: The seconds of the last ``Keep-Alive: timeout=``. Set by the receiver, read by any
        #: thread.
        self.keep_alive_timeout: float | None = None

    def reset(self) -> None:
        """Forget the connection that was, for another one. Only when nothing is under way."""
        self._buffer.clear()
        self.keep_alive_timeout = None

    def take_whole(self, awaiting: deque[Exchange], responses: list[ReceivedResponse]) -> None:
        """Take plain responses as long as all of each is in the buffer.

        Adds them to *responses*. *awaiting* are the exchanges that wait for them; those that have
        got theirs are removed. Stops, having done nothing, at the first that is not plain or has
        not come completely.
        """
        buffer = self._buffer
        view = buffer.view
        start = buffer.start
        end = buffer.end
        while start < end and awaiting:
            exchange = awaiting[0]
            plain = self._plain_head(exchange, start, end)
            if plain is None:
                return
            block, (minor_version, status, reason), (kind, length, _, idle) = plain
            begin = start + len(block) + 4
            if length is not None:
                start = begin + length
                if start > end:
                    return
                body = view[begin:start].tobytes() if length else b""
            elif kind is _CHUNKED and (whole := whole_chunked_body(buffer.data, begin, end)):
                body, start = whole
            else:
                return
            exchange.minor_version = minor_version
            exchange.persistent = True
            if idle is not None:
                self.keep_alive_timeout = idle
            buffer.start = start
            buffer.scanned = 0
            responses.append((exchange, status, reason, block, length, body))
            # Last: as long as the exchange is here, the sender knows that something is under way.
            awaiting.popleft()

    def next_head(self, exchange: Exchange) -> FramedHead | None:
        """Take the head of the response to *exchange*; None if not all of it has come.

        Raises `InvalidResponse`, also where RFC 9112 gives the head no single, safe meaning, and
        `UnsupportedResponse`.
        """
        buffer = self._buffer
        plain = self._plain_head(exchange, buffer.start, buffer.end)
        if plain is not None:
            block, status_line, (kind, length, _, idle) = plain
            if idle is not None:
                self.keep_alive_timeout = idle
            buffer.start += len(block) + 4
            buffer.scanned = 0
            minor_version, status, reason = status_line
            return minor_version, status, reason, block, kind, length, True, False
        parsed = take_head(buffer)
        if parsed is None:
            return None
        minor_version, status, reason, fields, defects = parsed
        headers = Headers._from_parsed(fields, defects)
        if status < 200 and status != 101:
            # It is skipped, and what it says of a body is nothing to anyone (RFC 9110 §15.2).
            return minor_version, status, reason, headers, BodyKind.NONE, 0, True, False
        said = [framing_field(name, value) for name, _, value in fields]
        kind, length, persistent, idle = response_framing(
            exchange.method, minor_version, status, said
        )
        if idle is not None:
            self.keep_alive_timeout = idle
        closes = CLOSE in said
        return minor_version, status, reason, headers, kind, length, persistent, closes

    def _plain_head(
        self, exchange: Exchange, start: int, end: int
    ) -> tuple[bytes, StatusLine, Framing] | None:
        """Return the head between *start* and *end* without its blank line, and what it means.

        None if it has to be looked at with care, by `take_head`, or has not come completely. It is
        plain only if nothing depends on it but that the exchange has its response: it is final, of
        HTTP/1.1, and not the connection's last; and if it cannot be read in two ways: it is one
        valid line after the other, each ended by CRLF, with no fold, no bare LF, and an unambiguous
        framing.
        """
        if exchange.special is not None:
            return None
        buffer = self._buffer
        stop = buffer.data.find(b"\r\n\r\n", start, end)
        if stop < 0 or stop - start > _HEAD_ROOM:
            return None
        block = buffer.view[start:stop].tobytes()
        first, *lines = block.split(b"\r\n")
        try:
            status_line = status_line_of(first)
            minor_version, status, _ = status_line
            if status < 200 or not minor_version:
                return None
            framing = response_framing(
                exchange.method, minor_version, status, map(framing_field_of, lines)
            )
        except (InvalidResponse, UnsupportedResponse):
            return None
        return (block, status_line, framing) if framing[2] else None
