"""Two things every user of a transport needs: send all of this, and receive one response head.

Guarantees: a head is taken from the buffer only when it is complete and valid, so that giving up
the wait loses nothing, and after an error the raw bytes are still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.head import MAX_HEADER_SIZE, ResponseHead, end_of_head, parse_head
from dugong.errors import ConnectionClosed, InvalidResponse

if TYPE_CHECKING:
    from dugong.connection.buffer import ReceiveBuffer
    from dugong.connection.polling import Coroutine
    from dugong.connection.transport import Transport

__all__ = ["MAX_INTERIM", "co_receive_head", "co_send_all"]

#: How many 1xx answers to one request are believed, so that a stream of them cannot go on for ever.
MAX_INTERIM = 1000


def co_send_all(transport: Transport, data: bytes | memoryview) -> Coroutine[None]:
    """Send *data*. Raises `ConnectionClosed`. If it is given up, part of it may have been sent."""
    while True:
        sent = transport.send(data)
        if not isinstance(sent, int):
            yield sent
        elif sent == len(data):
            return
        else:
            data = memoryview(data)[sent:]


def co_receive_head(transport: Transport, buffer: ReceiveBuffer) -> Coroutine[ResponseHead]:
    """Receive a response head (RFC 9112 §2.1), leaving what follows it in *buffer*.

    Raises `ConnectionClosed`, `InvalidResponse`, `UnsupportedResponse`.
    """
    scanned = 0  # bytes at the start of the buffer that hold no blank line
    while True:
        start, end = buffer.start, buffer.end
        if start < end:
            stop = end_of_head(buffer.data, start, start + max(0, scanned - 3), end)
            if (stop if stop >= 0 else end) - start > MAX_HEADER_SIZE:
                raise InvalidResponse(f"the response head is longer than {MAX_HEADER_SIZE} bytes")
            if stop >= 0:
                head = parse_head(bytes(buffer.data[start:stop]))
                buffer.start = stop
                return head
            # Do not wait for the end of something that cannot be a response.
            beginning = bytes(buffer.data[start : min(end, start + 5)])
            if not b"HTTP/".startswith(beginning):
                raise InvalidResponse(f"invalid status line {bytes(buffer.data[start:end])[:80]!r}")
            scanned = end - start
        got = buffer.fill(transport)
        while not isinstance(got, int):
            yield got
            got = buffer.fill(transport)
        if got == 0:
            where = "within" if buffer else "before"
            raise ConnectionClosed(f"connection closed {where} a response head")
