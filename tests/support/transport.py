"""A transport without a socket, and what drives the parsers over it.

Every parse case is delivered in the ways of `DELIVERIES`: whole, byte by byte, and with the next
message already behind it. `FakeTransport` makes its user wait before each piece, as a socket may.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple, TypeVar

import pytest

from dugong import HTTPConnection, PollNeeded
from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.framing import framing_field, response_framing
from dugong.connection.head import ResponseHead
from dugong.connection.polling import POLLIN, POLLOUT, Coroutine
from dugong.connection.readers import Reader, reader_for
from dugong.connection.transport import Transport
from dugong.connection.wire import receive_head

T = TypeVar("T")

#: What stands behind a message that is delivered with trailing data.
NEXT_MESSAGE = b"HTTP/1.1 299 Next\r\nContent-Length: 3\r\n\r\n\r\nx"


class Starved(AssertionError):
    """More was asked for than the peer has sent, though the connection is open: a hang."""


class _Ready(PollNeeded):
    """A wait that is over as soon as it begins."""

    __slots__ = ()

    def poll(self, timeout: float | None = None) -> bool:
        return True


class FakeTransport(Transport):
    """Gives *pieces*, one for each wait, and then the end of the connection.

    Parameters: without *eof*, asking for more than there is raises `Starved` instead; *accept* is
    how many bytes one `send` takes (None: all). `sent` is what was sent.
    """

    __slots__ = ("_accept", "_eof", "_may_receive", "_may_send", "_pieces", "sent")

    def __init__(
        self, pieces: Iterable[bytes] = (), *, eof: bool = True, accept: int | None = None
    ) -> None:
        self.is_shut = self.keeps_arrivals = False
        self.block_timeout = 0
        self.receive_low_water = 1
        self.sent = bytearray()
        self._pieces = deque(piece for piece in pieces if piece)
        self._eof = eof
        self._accept = accept
        self._may_receive = False
        self._may_send = False

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        assert len(view), "receiving into nothing looks like the end"
        if self.is_shut:
            return 0
        if not self._pieces:
            if self._eof:
                return 0
            raise Starved
        if not self._may_receive:
            self._may_receive = True
            return _Ready(0, POLLIN)
        piece = self._pieces.popleft()
        got = min(len(piece), len(view))
        view[:got] = piece[:got]
        if got < len(piece):
            self._pieces.appendleft(piece[got:])
        else:
            self._may_receive = False
        return got

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        if self._accept is None:
            self.sent += data
            return len(data)
        self._may_send = not self._may_send
        if self._may_send:
            return _Ready(0, POLLOUT)
        self.sent += data[: self._accept]
        return min(len(data), self._accept)

    def is_quiet(self) -> bool:
        return not self.is_shut and not self._pieces

    def shutdown(self) -> None:
        self.is_shut = True

    def close(self) -> None:
        self.is_shut = True

    def rest(self) -> bytes:
        """Return the bytes that were sent and not received."""
        return b"".join(self._pieces)


class FakeConnection(HTTPConnection):
    """An HTTPConnection that gets *transports*, one after the other, instead of dialling."""

    def __init__(self, *transports: FakeTransport) -> None:
        super().__init__("server.test")
        self._transports = deque(transports)

    def _co_dial(self) -> Coroutine[Transport]:
        yield from ()  # no wait: dialling waits for descriptors, of which there are none
        return self._transports.popleft()


#: Bytes at either end of a message that are delivered one by one; those between them, of a long
#: message, are all alike, and come in pieces of `_INNER`.
_EDGE = 4096
_INNER = 61


class Delivery(NamedTuple):
    """A way to deliver a message: in one piece or byte by byte, with *trailing* behind it."""

    name: str
    bytewise: bool = False
    trailing: bytes = b""

    def pieces(self, data: bytes) -> list[bytes]:
        """Return *data*, and what is delivered behind it, in pieces."""
        data += self.trailing
        if not self.bytewise:
            return [data]
        size = len(data)
        end = max(_EDGE, size - _EDGE)  # of what is between the edges
        starts = [*range(min(_EDGE, size)), *range(_EDGE, end, _INNER), *range(end, size), size]
        return [data[start:stop] for start, stop in pairwise(starts)]

    def __str__(self) -> str:
        return self.name


WHOLE = Delivery("whole")
BYTEWISE = Delivery("byte by byte", bytewise=True)
DELIVERIES = (WHOLE, BYTEWISE, Delivery("with trailing data", trailing=NEXT_MESSAGE))

#: Runs a test with each delivery, as its argument of that name.
each_delivery = pytest.mark.parametrize("delivery", DELIVERIES, ids=str)
#: The same for messages that are ended by the connection, behind which nothing can be.
each_split = pytest.mark.parametrize("delivery", [WHOLE, BYTEWISE], ids=str)


def drive(step: Callable[[], T | PollNeeded]) -> T:
    """Call *step* again whenever it wants to wait; return its result."""
    while isinstance(result := step(), PollNeeded):
        pass
    return result


def run(coroutine: Generator[PollNeeded, None, T]) -> T:
    """Resume *coroutine* whenever it wants to wait; return its result."""
    try:
        while True:
            next(coroutine)
    except StopIteration as exc:
        result: T = exc.value
        return result


def read_all(reader: Reader | None, size: int = 4096) -> bytes:
    """Read a body to its end, with room for *size* bytes in each call."""
    body = bytearray()
    view = memoryview(bytearray(size))
    while reader is not None and (got := drive(lambda: reader.readinto(view))):
        body += view[:got]
    return bytes(body)


class Received(NamedTuple):
    """A response, whether the connection lives on, and the bytes that were left behind it."""

    head: ResponseHead
    body: bytes
    persistent: bool
    rest: bytes


def receive(
    data: bytes, delivery: Delivery = WHOLE, method: str = "GET", *, eof: bool = True
) -> Received:
    """Receive one response with the functions that parse, without a connection's state."""
    transport = FakeTransport(delivery.pieces(data), eof=eof)
    buffer = ReceiveBuffer()
    head = drive(lambda: receive_head(transport, buffer))
    said = [framing_field(name, value) for name, _, value in head.fields]
    framing = response_framing(method, head.minor_version, head.status, said)
    kind, length, persistent, _ = framing
    body = read_all(reader_for(kind, length, buffer, transport))
    return Received(head, body, persistent, buffer.take(len(buffer)) + transport.rest())


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Fail if the block takes more than *seconds* of this thread's processor time."""
    began = time.thread_time()
    yield
    spent = time.thread_time() - began
    assert spent < seconds, f"took {spent:.2f} s of processor time, not {seconds} s"
