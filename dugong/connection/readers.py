"""Response bodies: one reader for each way in which RFC 9112 §6 and §7 let a body end.

Every reader has `readinto(view)`, which does what it can without waiting and returns either the
number of bytes it put into the (non-empty) view, 0 once the body has ended, or the `PollNeeded`
that must be waited for before it is called again. Being called again is all the state a waiting
caller needs, so a wait may be given up at any point and taken up later. `take_if_buffered()` gives
the rest of the body if all of it has come already, else None. `done` says that the body has ended,
and `closed` that the connection has ended with it. `trailers` are the fields behind the body, once
it has ended.

Guarantees: no byte behind the end of the body is taken; a body that was cut short raises
`ConnectionClosed`, never looks complete. Owner of each reader: the receiving thread.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dugong.connection.framing import MAX_LENGTH, BodyKind
from dugong.connection.head import (
    MAX_HEADER_SIZE,
    MAX_LINE_SIZE,
    end_of_head,
    parse_fields,
    split_trailer,
)
from dugong.errors import ConnectionClosed, InvalidResponse
from dugong.headers import Headers

if TYPE_CHECKING:
    from dugong.connection.buffer import ReceiveBuffer
    from dugong.connection.polling import PollNeeded
    from dugong.connection.transport import Transport

__all__ = [
    "NO_TRAILERS",
    "ChunkedReader",
    "LengthReader",
    "Reader",
    "UntilCloseReader",
    "reader_for",
    "whole_chunked_body",
]

#: The trailers of nearly all responses.
NO_TRAILERS: Final = Headers()

# White space behind the size is what RFC 9112 §7.1.1 calls "bad", and what many servers send.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,64})[ \t]*+(?:;[^\r\n\0]*)?")
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class LengthReader:
    """A body of exactly *remaining* bytes."""

    __slots__ = ("_buffer", "_transport", "remaining")

    closed: Final = False
    trailers: Final = NO_TRAILERS

    def __init__(self, buffer: ReceiveBuffer, transport: Transport, length: int) -> None:
        # All of these belong to the receiving thread.
        self._buffer = buffer
        self._transport = transport
        self.remaining: int = length

    @property
    def done(self) -> bool:
        return self.remaining == 0

    def readinto(self, view: memoryview) -> int | PollNeeded:
        if not self.remaining:
            return 0
        if len(view) > self.remaining:
            view = view[: self.remaining]
        if self._buffer.start < self._buffer.end:
            got: int | PollNeeded = self._buffer.readinto(view)
        else:
            got = self._transport.recv_into(view)
        if isinstance(got, int):
            if got == 0:
                raise ConnectionClosed(
                    f"connection closed with {self.remaining} bytes of body to come"
                )
            self.remaining -= got
        return got

    def take_if_buffered(self) -> bytes | None:
        """Return the rest of the body if all of it is in the buffer."""
        buffer = self._buffer
        start = buffer.start
        stop = start + self.remaining
        if stop > buffer.end:
            return None
        body = buffer.view[start:stop].tobytes()
        buffer.start = stop
        buffer.scanned = 0
        self.remaining = 0
        return body


class UntilCloseReader:
    """A body that ends where the connection does (HTTP/1.0, or no length at all)."""

    __slots__ = ("_buffer", "_transport", "done")

    trailers: Final = NO_TRAILERS

    def __init__(self, buffer: ReceiveBuffer, transport: Transport) -> None:
        # All of these belong to the receiving thread.
        self._buffer = buffer
        self._transport = transport
        self.done: bool = False

    @property
    def closed(self) -> bool:
        return self.done

    def readinto(self, view: memoryview) -> int | PollNeeded:
        if self.done:
            return 0
        if self._buffer.start < self._buffer.end:
            return self._buffer.readinto(view)
        got = self._transport.recv_into(view)
        if got == 0:
            self.done = True
        return got

    def take_if_buffered(self) -> None:
        """Return None: only the end of the connection says that all has come."""


class ChunkedReader:
    """A body in chunks; extensions are skipped, trailers are checked like the head.

    The body is whole once the last chunk has come, with its line end (RFC 9112 §8): a server that
    ends the connection in good order there has only left out the CRLF that was to follow. But if a
    part of that, or of a trailer section, has come without the rest, the message has been cut.
    """

    __slots__ = (
        "_buffer",
        "_chunk_read",
        "_remaining",
        "_trailer",
        "_transport",
        "closed",
        "done",
        "trailers",
    )

    def __init__(self, buffer: ReceiveBuffer, transport: Transport) -> None:
        # All of these belong to the receiving thread.
        self._buffer = buffer
        self._transport = transport
        self._remaining = 0  # bytes of the current chunk that are still to come
        self._chunk_read = False  # a chunk's data has been read, its CRLF has not
        self._trailer = False  # the last chunk has been read, the trailer section has not
        self.done: bool = False
        self.closed: bool = False
        self.trailers: Headers = NO_TRAILERS

    def readinto(self, view: memoryview) -> int | PollNeeded:
        buffer = self._buffer
        filled = 0
        while not self.done and filled < len(view):
            if not self._remaining:
                try:
                    if self._parse_framing():
                        continue
                except InvalidResponse:
                    if filled:  # the caller gets what was good first; the next call fails again
                        return filled
                    raise
            if filled and buffer.start == buffer.end:
                return filled
            if self._remaining:
                room = view[filled : filled + self._remaining]
                if buffer.start < buffer.end:
                    got: int | PollNeeded = buffer.readinto(room)
                else:
                    got = self._transport.recv_into(room)
            elif filled:
                return filled
            else:
                got = buffer.fill(self._transport)
            if not isinstance(got, int):
                return got
            if got == 0:
                if self._trailer and buffer.start == buffer.end:
                    self.done = self.closed = True
                    return 0
                raise ConnectionClosed("connection closed within a chunked body")
            if self._remaining:
                self._remaining -= got
                self._chunk_read = not self._remaining
                filled += got
        return filled

    def take_if_buffered(self) -> bytes | None:
        """Return the rest of the body if all of it is in the buffer, and in plain chunks."""
        if self.done or self._remaining or self._chunk_read or self._trailer:
            return None
        buffer = self._buffer
        whole = whole_chunked_body(buffer.data, buffer.start, buffer.end)
        if whole is None:
            return None
        body, buffer.start = whole
        buffer.scanned = 0
        self.done = True
        return body

    def _parse_framing(self) -> bool:
        """Take framing from the buffer up to the next data; return False if more must arrive."""
        buffer = self._buffer
        if self._chunk_read:
            crlf = buffer.peek(2)
            if crlf != b"\r\n":
                if crlf in (b"", b"\r"):
                    return False
                raise InvalidResponse("no CRLF after a chunk")
            buffer.start += 2
            self._chunk_read = False
        if self._trailer:
            return self._parse_trailer()
        stop = buffer.data.find(b"\n", buffer.start + buffer.scanned, buffer.end)
        waiting = (buffer.end if stop < 0 else stop) - buffer.start
        if waiting > MAX_LINE_SIZE:
            raise InvalidResponse(f"a chunk-size line is longer than {MAX_LINE_SIZE} bytes")
        if stop < 0:
            buffer.scanned = waiting
            return False
        buffer.scanned = 0
        line = buffer.peek(stop - buffer.start)
        match = _CHUNK_LINE.fullmatch(line[:-1])
        if match is None or line[-1:] != b"\r":
            raise InvalidResponse(f"invalid chunk-size line {line[:80]!r}")
        size = int(match[1], 16)
        if size > MAX_LENGTH:
            raise InvalidResponse("chunk is too large")
        buffer.start = stop + 1
        self._remaining = size
        self._trailer = size == 0
        return self._parse_trailer() if self._trailer else True

    def _parse_trailer(self) -> bool:
        buffer = self._buffer
        # The section may be nothing but the blank line, so look at it from the line end before it.
        if buffer.data.startswith(b"\r\n", buffer.start, buffer.end):
            stop = buffer.start + 2
        elif buffer.data.startswith(b"\n", buffer.start, buffer.end):
            stop = buffer.start + 1
        else:
            scan = buffer.start + max(0, buffer.scanned - 3)
            stop = end_of_head(buffer.data, buffer.start, scan, buffer.end)
        if (stop if stop >= 0 else buffer.end) - buffer.start > MAX_HEADER_SIZE:
            raise InvalidResponse(f"the trailer section is longer than {MAX_HEADER_SIZE} bytes")
        if stop < 0:
            buffer.scanned = buffer.end - buffer.start
            return False
        lines = split_trailer(buffer.peek(stop - buffer.start))
        if lines:
            self.trailers = Headers._from_parsed(*parse_fields(lines))
        buffer.start = stop
        buffer.scanned = 0
        self.done = True
        return True


def whole_chunked_body(data: bytearray, start: int, end: int) -> tuple[bytes, int] | None:
    """Return the chunked body at *start*, without its framing, and where what follows it begins.

    None if not all of it has come before *end*, or if it is not plain: it may be invalid, or have
    chunk extensions or a trailer section, and is for `ChunkedReader` to be looked at.
    """
    chunks: list[bytearray] = []
    while (line := _PLAIN_CHUNK_LINE.match(data, start, end)) is not None:
        start = line.end()
        stop = start + int(line[1], 16)
        if not data.startswith(b"\r\n", stop, end):
            return None
        if stop == start:  # the last chunk, and an empty trailer section
            return b"".join(chunks), stop + 2
        chunks.append(data[start:stop])
        start = stop + 2
    return None


_LENGTH = BodyKind.LENGTH  # a member is looked up slowly in its class

Reader = LengthReader | ChunkedReader | UntilCloseReader


def reader_for(
    kind: BodyKind, length: int | None, buffer: ReceiveBuffer, transport: Transport
) -> Reader | None:
    """Return the reader for a body that is framed so, or None if there is no body."""
    if kind is _LENGTH:
        assert length is not None
        return LengthReader(buffer, transport, length)
    if kind is BodyKind.CHUNKED:
        return ChunkedReader(buffer, transport)
    if kind is BodyKind.UNTIL_CLOSE:
        return UntilCloseReader(buffer, transport)
    return None
