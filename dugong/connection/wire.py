"""Two things every user of a transport needs: send all of this, and receive one response head.

Guarantees: a head is taken from the buffer only when it is complete and valid, so that giving up
the wait loses nothing, and after an error the raw bytes are still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.head import (
    MAX_HEADER_SIZE,
    ResponseHead,
    end_of_head,
    parse_head,
)
from dugong.errors import ConnectionClosed, InvalidResponse

if TYPE_CHECKING:
    from dugong.connection.buffer import ReceiveBuffer
    from dugong.connection.polling import Coroutine, PollNeeded
    from dugong.connection.transport import Transport

__all__ = ["MAX_INTERIM", "co_send_all", "co_send_rest", "receive_head"]

#: How many 1xx answers to one request are believed, so that a stream of them cannot go on for ever.
MAX_INTERIM = 1000


def co_send_all(transport: Transport, data: bytes | memoryview) -> Coroutine[None]:
    """Send *data*. Raises `ConnectionClosed`. If it is given up, part of it may have been sent."""
    yield from co_send_rest(transport, data, transport.send(data))


def co_send_rest(
    transport: Transport, data: bytes | memoryview, sent: int | PollNeeded
) -> Coroutine[None]:
    """Send what is left of *data* after ``transport.send(data)`` has returned *sent*."""
    while sent != len(data):
        if isinstance(sent, int):
            data = memoryview(data)[sent:]
        else:
            yield sent
        sent = transport.send(data)


def receive_head(transport: Transport, buffer: ReceiveBuffer) -> ResponseHead | PollNeeded:
    """Receive a response head (RFC 9112 §2.1), leaving what follows it in *buffer*.

    Like a reader, does what it can without waiting; if it returns a `PollNeeded`, it is to be
    called again after the wait. Raises `ConnectionClosed`, `InvalidResponse`,
    `UnsupportedResponse`.
    """
    while True:
        start, end = buffer.start, buffer.end
        if start < end:
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
                raise InvalidResponse(f"invalid status line {buffer.peek(80)!r}")
            buffer.scanned = end - start
        got = buffer.fill(transport)
        if not isinstance(got, int):
            return got
        if got == 0:
            where = "within" if buffer else "before"
            raise ConnectionClosed(f"connection closed {where} a response head")
