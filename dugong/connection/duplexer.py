"""The two directions of one connection: requests going out, answers coming in, in one order.

Guarantees: answer n is given to request n or to nobody; bytes that belong to no request end the
connection; a body that was cut short is an exception, never an end. One thread (or coroutine) may
send while another receives; `dugong.connection.shared` says who owns what. Starts no threads.
"""

from __future__ import annotations

from threading import get_ident

from dugong.connection.exchange import Exchange, RequestSide
from dugong.connection.receiving import Receiving
from dugong.connection.sending import Sending

__all__ = ["Duplexer"]


class Duplexer(Sending, Receiving):
    """One connection, seen from outside of its two directions. These methods are for any thread."""

    def pending(self) -> bool:
        """Return True if there is an answer, or a rest of one, to be read."""
        # In this order, for the receiver moves an exchange from there to here.
        try:
            if self.pipeline[0].request_side is not RequestSide.BODY:
                return True
        except IndexError:
            pass
        return self.incoming is not None

    def owed_body(self) -> Exchange | None:
        """Return the oldest exchange if its answer waits for body data of this very thread."""
        if self.incoming is not None or self.failure is not None:
            return None
        try:
            oldest = self.pipeline[0]
        except IndexError:
            return None
        mine = oldest.request_side is RequestSide.BODY and oldest.thread == get_ident()
        return oldest if mine else None

    @property
    def unread(self) -> bool:
        """True if answers, or a rest of one, have not been read."""
        # In this order, as in pending().
        return bool(self.pipeline) or self.incoming is not None

    def abort(self) -> None:
        """End the connection now, from any thread; whoever waits for it gets `ConnectionClosed`."""
        self.aborted = True
        self.closing = True
        if self.failure is None:
            self.failure = "disconnected"
        transport = self.transport
        if transport is not None:
            transport.shutdown()
            self._close_if_unused(transport)
        self._interrupt.set()
        self._wake_waiters()
