"""Response bodies: one reader for each way in which RFC 9112 §6 and §7 let a body end.

Every reader has `readinto(view)`, which does what it can without waiting and returns either the
number of bytes it put into the (non-empty) view, 0 once the body has ended, or the `PollNeeded`
that must be waited for before it is called again. Being called again is all the state a waiting
caller needs, so a wait may be given up at any point and taken up later.

Guarantees: no byte behind the end of the body is taken; a body that was cut short raises
`ConnectionClosed`, never looks complete. Owner: the receiving thread.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dugong.connection.framing import MAX_LENGTH, BodyKind
from dugong.connection.head import (
    MAX_HEADER_SIZE,
    MAX_LINE_SIZE,
    end_of_head,
    parse_fields,
    split_trailer,
)
from dugong.errors import ConnectionClosed, InvalidResponse

if TYPE_CHECKING:
    from dugong.connection.buffer import ReceiveBuffer
    from dugong.connection.polling import PollNeeded
    from dugong.connection.transport import Transport

__all__ = [
    "ChunkedReader",
    "LengthReader",
    "Reader",
    "UntilCloseReader",
    "WholeReader",
    "reader_for",
    "whole_chunked_body",
]

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,64})(?:[ \t]*;[^\r\n\0]*)?")
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class LengthReader:
    """A body of exactly *remaining* bytes."""

    __slots__ = ("_buffer", "_transport", "remaining")

    def __init__(self, buffer: ReceiveBuffer, transport: Transport, length: int) -> None:
        self._buffer = buffer
        self._transport = transport
        self.remaining = length

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
        if self.remaining > len(self._buffer):
            return None
        body = self._buffer.take(self.remaining)
        self.remaining = 0
        return body


class WholeReader:
    """A body that has been taken from the buffer already, all of it, and is not empty."""

    __slots__ = ("_body", "_taken")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._taken = 0

    @property
    def done(self) -> bool:
        return self._taken == len(self._body)

    @property
    def remaining(self) -> int:
        """How many bytes have not been read."""
        return len(self._body) - self._taken

    def readinto(self, view: memoryview) -> int:
        part = self._body[self._taken : self._taken + len(view)]
        view[: len(part)] = part
        self._taken += len(part)
        return len(part)

    def take_if_buffered(self) -> bytes:
        """Return the rest of the body."""
        body = self._body[self._taken :] if self._taken else self._body
        self._taken = len(self._body)
        return body


class UntilCloseReader:
    """A body that ends where the connection does (HTTP/1.0, or no length at all)."""

    __slots__ = ("_buffer", "_transport", "done")

    def __init__(self, buffer: ReceiveBuffer, transport: Transport) -> None:
        self._buffer = buffer
        self._transport = transport
        self.done = False

    def readinto(self, view: memoryview) -> int | PollNeeded:
        if self.done:
            return 0
        if self._buffer.start < self._buffer.end:
            return self._buffer.readinto(view)
        got = self._transport.recv_into(view)
        if got == 0:
            self.done = True
        return got


class ChunkedReader:
    """A body in chunks; extensions are skipped, trailers are checked and dropped."""

    __slots__ = (
        "_buffer",
        "_chunk_read",
        "_remaining",
        "_trailer",
        "_transport",
        "done",
    )

    def __init__(self, buffer: ReceiveBuffer, transport: Transport) -> None:
        self._buffer = buffer
        self._transport = transport
        self._remaining = 0  # bytes of the current chunk that are still to come
        self._chunk_read = False  # a chunk's data has been read, its CRLF has not
        self._trailer = False  # the last chunk has been read, the trailer section has not
        self.done = False

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
                raise ConnectionClosed("connection closed within a chunked body")
            if self._remaining:
                self._remaining -= got
                self._chunk_read = not self._remaining
                filled += got
        return filled

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
        parse_fields(split_trailer(buffer.peek(stop - buffer.start)))
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


Reader = LengthReader | WholeReader | ChunkedReader | UntilCloseReader


def reader_for(
    kind: BodyKind, length: int | None, buffer: ReceiveBuffer, transport: Transport
) -> Reader | None:
    """Return the reader for a body that is framed so, or None if there is no body."""
    if kind is BodyKind.LENGTH:
        assert length is not None
        return LengthReader(buffer, transport, length)
    if kind is BodyKind.CHUNKED:
        return ChunkedReader(buffer, transport)
    if kind is BodyKind.UNTIL_CLOSE:
        return UntilCloseReader(buffer, transport)
    return None
