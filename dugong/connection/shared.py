"""What the two directions of a connection share, and who owns which of it.

Guarantees: every wait of one side for the other ends when that side moves on, fails, or is
aborted; a descriptor is closed only when nobody can be waiting for it. Starts no threads.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from threading import Lock

from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.exchange import Exchange
from dugong.connection.polling import Coroutine, Interrupt
from dugong.connection.transport import Transport
from dugong.errors import ConnectionClosed, StateError

__all__ = ["Shared", "busy"]


class Shared:
    """One connection, from being dialled to its end, and the exchanges that are under way on it.

    `outgoing` is the exchange whose request body is being written (owner: whoever holds the send
    turn); `incoming` the one whose answer body is being read (owner: the receive turn);
    `pipeline` holds those whose final answer has not begun, oldest first (the sender appends, the
    receiver removes; each is one operation of a deque, which is atomic).
    `transport` is set by the sender when nothing is under way, and read by both. `buffer` is the
    receiver's, but the sender may clear it when nothing is under way. `closing` (no further
    request may be sent) and `failure` (no further answer will come) are set by either side, cleared
    only by the sender when nothing is under way, as are `ended` (why the answer that began last is
    the last of this connection) and `said_close` (the server has told us so), which the receiver
    sets. `cut` (why the body that was read last has no end), `reading_raw`, `_meagre` (how often
    few answers have come at a time) and `_answer_size` (of the last ones, in bytes) are the
    receiver's. `aborted` is set by any thread, never cleared.
    """

    def __init__(self, dial: Callable[[], Coroutine[Transport]], failure: str | None = None):
        self._dial = dial
        self._send_turn = Lock()
        self._receive_turn = Lock()
        # Appended and removed by the receiver, read by whoever wakes it.
        self._waiters: list[socket.socket] = []
        self.transport: Transport | None = None
        self.buffer = ReceiveBuffer()
        self.pipeline: deque[Exchange] = deque()
        self.outgoing: Exchange | None = None
        self.incoming: Exchange | None = None
        self.closing = False
        self.failure = failure
        self.cut = failure
        self.ended: str | None = None
        self.said_close = False
        self.reading_raw = False
        self._meagre = 0
        self._answer_size = 1
        self.aborted = False
        self._interrupt = Interrupt()  # set by abort(): ends dialling

    def _nothing_under_way(self) -> bool:
        return (
            not self.pipeline
            and not self.reading_raw
            and (self.incoming is None or self.failure is not None)
        )

    def _transport_in_use(self) -> Transport:
        transport = self.transport
        if self.failure is not None:
            raise ConnectionClosed(self.failure)
        if transport is None or self.aborted:
            raise ConnectionClosed("the connection has been closed")
        return transport

    def _release(self, turn: Lock) -> None:
        turn.release()
        if self._waiters:
            self._wake_waiters()
        transport = self.transport
        if transport is not None and transport.is_shut:
            self._close_if_unused(transport)

    def _close_if_unused(self, transport: Transport) -> None:
        """Close *transport*, which is shut, unless somebody might be waiting for its descriptor.

        Whoever that is comes here too when it is done, so the last one out closes. Whoever takes a
        turn in this moment finds that the transport is shut before it waits for anything.
        """
        if not self._send_turn.locked() and not self._receive_turn.locked():
            transport.close()

    def _wake_waiters(self) -> None:
        for waiter in list(self._waiters):
            try:
                waiter.send(b"\0")
            except OSError:
                pass  # it has stopped waiting, or has been woken often enough


def busy(doing: str) -> StateError:
    """Return the error for a call that found its turn taken."""
    return StateError(f"another thread or coroutine is {doing} on this connection")
