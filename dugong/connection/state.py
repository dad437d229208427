"""What the send side and the receive side of a connection share, and who owns which of it.

Guarantees: each wait of one side for the other ends when that side moves on, fails, or is aborted;
a descriptor is closed only when no thread can be using it. Starts no threads.

What makes this right without a global interpreter lock, too:

* A thread that sets something and then looks at what another thread sets does both under `lock`:
  a receiver that has to wait for the sender, a sender that adds to `awaiting_response` or gives its
  turn back without having done so, and a thread that aborts.
* A thread that shuts the transport takes `lock` and then looks whether a turn is taken; a side that
  has given its turn back looks whether the transport is shut. Between its two steps, each has taken
  or released a lock, and CPython's locks are sequentially consistent: at least one of the two sees
  what the other has done, and closes the transport. If none did, the transport would be closed when
  the session is dropped.
* A thread that only sets things sets last the one that the others look at first. Free-threaded
  CPython stores attributes with release order, loads them with acquire order, and gives each deque
  a lock of its own. So an exchange becomes `incoming` before it leaves `awaiting_response`.

`lock` is reentrant, because a signal handler may abort the connection that its own thread uses;
therefore a thread that holds it first sets things and then looks. It is never held during a wait.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from threading import Lock, RLock
from typing import TypeVar

from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.exchange import Exchange, ExchangeRecorder
from dugong.connection.parser import ResponseParser
from dugong.connection.polling import POLLIN, Coroutine, Interrupt, PollNeeded
from dugong.connection.transport import Transport
from dugong.errors import ConnectionClosed, StateError

__all__ = ["ConnectionState"]

T = TypeVar("T")

_GAVE_UP = "sending a request has timed out, or was given up"


class ConnectionState:
    """One connection, from being dialled to its end, and the exchanges that are under way on it.

    Parameters: *dial* returns a coroutine that connects; *failure* is why reading fails before the
    first connection.
    """

    def __init__(
        self, dial: Callable[[], Coroutine[Transport]], failure: str | None = None
    ) -> None:
        self.dial = dial  # never changes
        self.lock: RLock = RLock()
        #: Held by the thread or coroutine that sends.
        self.send_turn: Lock = Lock()
        #: Held by the thread or coroutine that receives.
        self.receive_turn: Lock = Lock()
        #: One end of a socket pair for each receiver that waits for the sender. Guarded by `lock`.
        self.waiters: tuple[socket.socket, ...] = ()
        #: The connection. Set under `lock` by the sender when nothing is under way; read by both
        #: sides, each with its turn.
        self.transport: Transport | None = None
        #: What has been received and not been parsed. The receiver's; the sender may look at it and
        #: clear it when nothing is under way.
        self.buffer: ReceiveBuffer = ReceiveBuffer()
        #: What parses `buffer`. The receiver's; the sender resets it with the next connection.
        self.parser: ResponseParser = ResponseParser(self.buffer)
        #: The exchanges whose final response has not begun, oldest first. The sender appends and
        #: the receiver removes, each in one operation of the deque, which is atomic.
        self.awaiting_response: deque[Exchange] = deque()
        #: The exchange whose response body is being read. Set by the receiver before the exchange
        #: leaves `awaiting_response`; reset by it when all else is done, or by the sender with the
        #: next connection.
        self.incoming: Exchange | None = None
        #: The receiver is in `read_raw`. Set by the receiver, read by the sender under `lock`.
        self.reading_raw = False
        #: No further request may be sent. Set by any thread; reset by the sender under `lock` when
        #: nothing is under way.
        self.closing: bool = False
        #: Why no further response will come. Set under `lock` by any thread; reset as `closing`.
        self.failure = failure
        #: Why the response that began last is the last one of this connection. Set by the receiver,
        #: reset as `closing`.
        self.last_response_reason: str | None = None
        #: That response had a ``Connection: close``. Set and reset as `last_response_reason`.
        self.said_close = False
        #: The sender has given up within a request, and shuts the connection. Set by it before it
        #: does so, reset as `closing`.
        self.gave_up_sending = False
        #: `abort()` has been called. Set under `lock` by any thread, never reset.
        self.aborted = False
        #: What is told where responses end, but for those of the parser's fast path. Set before the
        #: first connection, if at all.
        self.recorder: ExchangeRecorder | None = None
        #: Set by `abort()`; ends dialling. Guarded by `lock`.
        self.interrupt: Interrupt = Interrupt(self.lock)

    def transport_in_use(self) -> Transport:
        """Return the transport. Raises `ConnectionClosed` if it is not to be used any more."""
        transport = self.transport
        if self.failure is not None:
            raise ConnectionClosed(self.failure)
        if transport is None or self.aborted:
            raise ConnectionClosed("the connection has been closed")
        return transport

    def explained(self, exc: ConnectionClosed) -> ConnectionClosed:
        """Return *exc*, which says that the connection has ended, with the reason if we have."""
        if self.gave_up_sending:
            exc.msg = _GAVE_UP
            exc.args = (exc.msg,)
        return exc

    def nothing_under_way_locked(self) -> bool:
        """Return True if no response is being waited for or read. Only with `lock` held."""
        return (
            not self.awaiting_response
            and not self.reading_raw
            and (self.incoming is None or self.failure is not None)
        )

    def fail_locked(self, failure: str) -> None:
        """End the connection because of *failure*. Only with `lock` held."""
        self.closing = True
        if self.failure is None:
            self.failure = failure

    def co_with_turn(self, turn: Lock, crt: Coroutine[T]) -> Coroutine[T]:
        """Run *crt* with *turn* held. Raises `StateError` if another call holds it."""
        if turn.locked():
            raise self.busy(turn)
        try:
            # An interrupt cannot come between taking a lock like this and being sure to release it.
            # If two threads are here at the same moment, one of them waits, instead of failing.
            with turn:
                return (yield from crt)
        finally:
            self.after_turn()

    def after_turn(self) -> None:
        """Do what may have to follow when a turn has been given back."""
        with self.lock:
            if self.waiters:
                self.wake_waiters_locked()
            self.close_if_unused_locked()

    def close_if_unused(self) -> None:
        """Close the transport if it is shut, unless a side is using it.

        A side that is using it comes here when it has given its turn back: the last one closes it.
        If the transport keeps what has come, that is when the responses that are due have been
        read, or have turned out not to be there.
        """
        with self.lock:
            self.close_if_unused_locked()

    def close_if_unused_locked(self) -> None:
        """As `close_if_unused`. Only with `lock` held."""
        transport = self.transport
        if transport is None or not transport.is_shut:
            return
        used = self.send_turn.locked() or self.receive_turn.locked()
        is_kept = transport.keeps_arrivals and self.failure is None
        if not (used or (is_kept and not self.nothing_under_way_locked())):
            transport.close()

    def co_wait_for_sender(self) -> Coroutine[None]:
        """Wait until the sender has sent a request, or has given its turn back."""
        ours, theirs = socket.socketpair()
        try:
            theirs.setblocking(False)  # one wake-up is enough, however slow we are to see it
            try:
                with self.lock:
                    # In this order, for the sake of a signal handler in between that aborts.
                    self.waiters += (theirs,)
                    waits = (
                        not self.awaiting_response and self.send_turn.locked() and not self.aborted
                    )
                if waits:
                    yield PollNeeded(ours.fileno(), POLLIN)
            finally:
                with self.lock:
                    self.waiters = tuple(sock for sock in self.waiters if sock is not theirs)
        finally:
            ours.close()
            theirs.close()

    def wake_waiters(self) -> None:
        """Have the receivers that wait for the sender look again."""
        with self.lock:
            self.wake_waiters_locked()

    def wake_waiters_locked(self) -> None:
        """As `wake_waiters`. Only with `lock` held."""
        for waiter in self.waiters:
            try:
                waiter.send(b"\0")
            except OSError:
                pass  # it has stopped waiting, or has been woken often enough

    def busy(self, turn: Lock) -> StateError:
        """Return the error for a call that found its *turn* taken."""
        doing = "sending" if turn is self.send_turn else "receiving"
        return StateError(f"another thread or coroutine is {doing} on this connection")
