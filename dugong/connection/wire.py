"""Two things every user of a transport needs: send all of this, and receive one response head.

Guarantees: a head is taken from the buffer only when it is complete and valid, so that giving up
the wait loses nothing, and after an error the raw bytes are still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.parser import take_head
from dugong.errors import ConnectionClosed

if TYPE_CHECKING:
    from dugong.connection.buffer import ReceiveBuffer
    from dugong.connection.head import ResponseHead
    from dugong.connection.polling import Coroutine, PollNeeded
    from dugong.connection.transport import Transport

__all__ = ["MAX_INTERIM", "closed_within", "co_send_all", "co_send_rest", "receive_head"]

#: How many 1xx responses to one request are accepted, so that a stream of them has an end.
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


def closed_within(buffer: ReceiveBuffer) -> ConnectionClosed:
    """Return the error for an end of the connection when a response head was due in *buffer*."""
    where = "within" if buffer else "before"
    return ConnectionClosed(f"connection closed {where} a response head")


def receive_head(transport: Transport, buffer: ReceiveBuffer) -> ResponseHead | PollNeeded:
    """Receive a response head (RFC 9112 §2.1), leaving what follows it in *buffer*.

    Like a reader, does what it can without waiting; if it returns a `PollNeeded`, it is to be
    called again after the wait. Raises `ConnectionClosed`, `InvalidResponse`,
    `UnsupportedResponse`.
    """
    while (head := take_head(buffer)) is None:
        got = buffer.fill(transport)
        if not isinstance(got, int):
            return got
        if got == 0:
            raise closed_within(buffer)
    return head
