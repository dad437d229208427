"""The receive buffer: what the transport has given and no reader has taken.

Guarantees: bounded memory; bytes come out once, in order. Touches no socket except through the
transport it is handed. Owner: the receiving thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.connection.polling import PollNeeded
    from dugong.connection.transport import Transport

__all__ = ["BUFFER_SIZE", "ReceiveBuffer"]

BUFFER_SIZE = 64 * 1024
_FIRST_SIZE = 8 * 1024  # enough for a small response, and most connections wait for nothing else


class ReceiveBuffer:
    """A buffer of up to *capacity* bytes; `data[start:end]` is what is waiting to be taken.

    It has no memory before it is filled, 8 KiB at first, and all of it once those have been filled.
    """

    __slots__ = ("_capacity", "data", "end", "scanned", "start", "view")

    def __init__(self, capacity: int = BUFFER_SIZE) -> None:
        # All of this belongs to the receiving thread. When nothing is under way on the connection,
        # the thread that wants to send, or to release the memory, may use it as well.
        self._capacity = capacity
        self.start: int = 0
        self.end: int = 0
        self.scanned: int = 0  # how many bytes behind `start` a parser has searched in vain
        self.data: bytearray = bytearray()
        self.view: memoryview = memoryview(self.data)  # of `data`

    def __len__(self) -> int:
        return self.end - self.start

    def clear(self) -> None:
        """Forget everything."""
        self.start = self.end = self.scanned = 0

    def release(self) -> None:
        """Give the memory back while nothing is waiting to be taken; `fill` gets it anew."""
        self.clear()
        self.data = bytearray()
        self.view = memoryview(self.data)

    def fill(self, transport: Transport) -> int | PollNeeded:
        """Receive once into the free space; return how many bytes came, or what to wait for.

        0 means that the peer has closed. Must not be called when the buffer is full.
        """
        size = len(self.data)
        if self.end == size:
            self.grow(self._capacity if size else _FIRST_SIZE)
        if self.start == self.end:
            got = transport.recv_into(self.view)
            if isinstance(got, int):
                self.start, self.end = 0, got
            return got
        if self.start and size - self.end < size // 4:
            # Slices of one memoryview may overlap: the copy is a memmove.
            waiting = self.end - self.start
            self.view[:waiting] = self.view[self.start : self.end]
            self.start, self.end = 0, waiting
        got = transport.recv_into(self.view[self.end :])
        if isinstance(got, int):
            self.end += got
        return got

    def grow(self, size: int) -> None:
        """Have memory for *size* bytes, or as many as there may be, if there is less."""
        size = min(size, self._capacity)
        if size > len(self.data):
            waiting = self.view[self.start : self.end]
            self.data = bytearray(size)
            self.view = memoryview(self.data)
            self.view[: len(waiting)] = waiting
            self.start, self.end = 0, len(waiting)

    def peek(self, size: int) -> bytes:
        """Return up to *size* bytes, and leave them."""
        start = self.start
        return bytes(self.view[start : min(start + size, self.end)])

    def take(self, size: int) -> bytes:
        """Remove and return up to *size* bytes."""
        start = self.start
        self.start = stop = min(start + size, self.end)
        self.scanned = 0
        return bytes(self.view[start:stop])

    def readinto(self, view: memoryview) -> int:
        """Move as many bytes as there are and as fit into *view*; return how many."""
        start = self.start
        self.start = stop = min(start + len(view), self.end)
        self.scanned = 0
        view[: stop - start] = self.view[start:stop]
        return stop - start
