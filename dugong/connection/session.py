"""One HTTP/1.1 connection: requests go out, responses come in, in one order.

Guarantees: response n is given to request n or to none; bytes that belong to no request end the
connection; a body that was cut short is an exception, never an end. One thread (or coroutine) may
send while another receives; `dugong.connection.state` says who owns what. Starts no threads.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident

from dugong.connection.bodies import BodySide
from dugong.connection.exchange import Exchange, RequestSide
from dugong.connection.polling import Coroutine
from dugong.connection.receiving import ReceivedResponses, ReceiveSide
from dugong.connection.sending import SendSide
from dugong.connection.state import ConnectionState
from dugong.connection.transport import Transport
from dugong.errors import StateError

__all__ = ["Http1Session"]


class Http1Session:
    """A connection's send side, its receive side with the bodies, and the state that they share.

    Its own methods are for any thread. Parameters: *dial* returns a coroutine that connects;
    *failure* is why reading fails before the first connection.
    """

    __slots__ = ("body", "receiver", "sender", "state")

    def __init__(
        self, dial: Callable[[], Coroutine[Transport]], failure: str | None = None
    ) -> None:
        # None of these changes; each says who may use what of it.
        self.state: ConnectionState = ConnectionState(dial, failure)
        self.sender: SendSide = SendSide(self.state)
        self.body: BodySide = BodySide(self.state)
        self.receiver: ReceiveSide = ReceiveSide(self.state, self.body)

    def exchange(self, exchange: Exchange, head: bytes, timeout: float | None) -> ReceivedResponses:
        """Send a request that is all in *head*, and receive its response, blocking.

        The same as `SendSide.send_requests`, whose exceptions it raises, and then
        `ReceiveSide.read_responses`, for a thread that does both while nothing else is under way.
        """
        state = self.state
        turn = state.receive_turn
        send_turn = state.send_turn
        if turn.locked():
            raise state.busy(turn)
        if send_turn.locked():
            raise state.busy(send_turn)
        if state.awaiting_response or state.incoming is not None:
            raise StateError("a response that is due has to be read first")
        try:
            with turn:  # first, for its holder may wait for the sender, but no sender for it
                with send_turn:
                    transport = self.sender.send_in_turn((exchange,), (head,), timeout, None)
                return self.receiver.receive_in_turn(transport, timeout)
        finally:
            used = state.transport
            if used is not None and used.is_shut:
                state.close_if_unused()

    def pending(self) -> bool:
        """Return True if there is a response, or a rest of one, to be read."""
        state = self.state
        with state.lock:
            awaiting = state.awaiting_response
            if awaiting and awaiting[0].request_side is not RequestSide.BODY:
                return True
            return state.incoming is not None

    def owed_body(self) -> Exchange | None:
        """Return the oldest exchange if its response waits for body data of this very thread."""
        state = self.state
        with state.lock:
            if state.incoming is not None or state.failure is not None:
                return None
            if not state.awaiting_response:
                return None
            oldest = state.awaiting_response[0]
        writer = oldest.writer if oldest.request_side is RequestSide.BODY else None
        return oldest if writer is not None and writer.thread == get_ident() else None

    @property
    def unread(self) -> bool:
        """True if responses, or a rest of one, have not been read."""
        state = self.state
        with state.lock:
            return bool(state.awaiting_response) or state.incoming is not None

    @property
    def keep_alive_timeout(self) -> float | None:
        """The seconds of the last ``Keep-Alive: timeout=`` that has come on this connection."""
        return self.state.parser.keep_alive_timeout

    def abort(self) -> None:
        """End the connection now, from any thread; all calls that wait raise `ConnectionClosed`."""
        state = self.state
        with state.lock:
            state.aborted = True
            state.fail_locked("disconnected")
            transport = state.transport
        if transport is not None:
            transport.shutdown()  # not under the lock: TLS may have something to encrypt first
        state.interrupt.set()
        with state.lock:
            state.close_if_unused_locked()
            state.wake_waiters_locked()
