"""The two directions of one connection: requests going out, answers coming in, in one order.

Guarantees: answer n is given to request n or to nobody; bytes that belong to no request end the
connection; a body that was cut short is an exception, never an end. One thread (or coroutine) may
send while another receives; everything shared says who owns it. Every wait of one side for the
other ends when that side moves on, fails, or `abort()` is called. Starts no threads.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from threading import Lock, get_ident

from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.exchange import Exchange, HTTPResponse, RequestSide
from dugong.connection.framing import response_framing
from dugong.connection.polling import POLLIN, Coroutine, PollNeeded, co_interruptible
from dugong.connection.readers import LengthReader, reader_for
from dugong.connection.transport import Transport
from dugong.connection.wire import MAX_INTERIM, co_send_all, receive_head
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    InvalidResponse,
    StateError,
)
from dugong.headers import Headers

__all__ = ["Duplexer"]

_READ_SIZE = 256 * 1024
_SMALL_BODY = 64 * 1024

# What may come out of a wait, with nothing lost. After anything else (KeyboardInterrupt between any
# two steps, MemoryError), bytes may have been taken and not given to anybody.
_RESUMABLE = (ConnectionTimedOut, GeneratorExit)

_UNFINISHED = (RequestSide.CONTINUE, RequestSide.BODY)


class Duplexer:
    """One connection, from being dialled to its end, and the exchanges that are under way on it.

    `outgoing` is the exchange whose request body is being written (owner: whoever holds the send
    turn); `incoming` the one whose answer body is being read (owner: the receive turn);
    `pipeline` holds those whose final answer has not begun, oldest first (the sender appends, the
    receiver removes; each is one operation of a deque, which is atomic).
    `transport` is set by the sender when nothing is under way, and read by both. `buffer` is the
    receiver's, but the sender may clear it when nothing is under way. `closing` (no further
    request may be sent) and `failure` (no further answer will come) are set by either side, cleared
    only by the sender when nothing is under way, as is `ended` (why the answer that began last is
    the last of this connection), which the receiver sets. `cut` (why the body that was read last
    has no end) and `reading_raw` are the receiver's. `aborted` is set by any thread, never cleared.

    What receives takes the *patience* that `dugong.connection.transport` describes: 0 for
    coroutines.
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
        self.reading_raw = False
        self.aborted = False
        self._interrupt: socket.socket | None = None  # set by the sender; closing it ends dialling

    # --- sending: whoever holds the send turn ---------------------------------------------------

    def co_connect(self) -> Coroutine[None]:
        """Connect, unless there is a connection. Raises as `dugong.connection.dial.co_dial`."""
        if not self._send_turn.acquire(False):
            raise _busy("sending")
        try:
            if self.transport is None or (self.closing and self._nothing_under_way()):
                yield from self._co_open()
        finally:
            self._release(self._send_turn)

    def co_send_request(
        self, exchange: Exchange, head: bytes, body: memoryview | None
    ) -> Coroutine[None]:
        """Connect if necessary, then send *head* and *body*."""
        if not self._send_turn.acquire(False):
            raise _busy("sending")
        try:
            if (
                self.outgoing is not None
                and self.outgoing.request_side in _UNFINISHED
                and self.failure is None
            ):
                raise StateError(
                    "body data of the previous request has not been sent completely yet"
                )
            if self._nothing_under_way():
                if (
                    self.closing
                    or self.buffer
                    or not self.transport
                    or not self.transport.is_quiet()
                ):
                    yield from self._co_open()
            elif self.closing:
                raise ConnectionClosed(
                    "the connection is ending; read the answers that are due first"
                )
            transport = self._transport_in_use()
            self.outgoing = exchange if exchange.writer is not None else None
            self.pipeline.append(exchange)
            if self._waiters:
                self._wake_waiters()
            if body is None:
                yield from self._co_send(transport, exchange, head)
            elif body.nbytes <= _SMALL_BODY:
                yield from self._co_send(transport, exchange, head + body)
            else:
                yield from self._co_send(transport, exchange, head, body)
        finally:
            self._release(self._send_turn)

    def co_write(self, view: memoryview) -> Coroutine[int]:
        """Send *view* as the next piece of the outgoing body; return its size."""
        if not self._send_turn.acquire(False):
            raise _busy("sending")
        try:
            exchange, transport = self._writable()
            assert exchange.writer is not None
            yield from self._co_send(transport, exchange, *exchange.writer.frame(view))
            self._finish_request_if_complete(exchange)
            return view.nbytes
        finally:
            self._release(self._send_turn)

    def co_write_eof(self) -> Coroutine[None]:
        """End the outgoing body: send the last chunk, or check that nothing is missing."""
        if not self._send_turn.acquire(False):
            raise _busy("sending")
        try:
            if self.outgoing is None:
                return
            exchange, transport = self._writable()
            assert exchange.writer is not None
            yield from self._co_send(transport, exchange, *exchange.writer.end())
            self._finish_request_if_complete(exchange)
        finally:
            self._release(self._send_turn)

    def _writable(self) -> tuple[Exchange, Transport]:
        exchange = self.outgoing
        if exchange is None and self.failure is not None:
            raise ConnectionClosed(self.failure)
        if exchange is None or exchange.request_side is RequestSide.REFUSED:
            raise StateError("no request is waiting for body data")
        if exchange.request_side is RequestSide.CONTINUE:
            raise StateError(
                "read_response() must return 100 (Continue) before the body is written"
            )
        if exchange.request_side is RequestSide.CANCELLED:
            raise ConnectionClosed("the server answered, or went, before the body was complete")
        return exchange, self._transport_in_use()

    def _finish_request_if_complete(self, exchange: Exchange) -> None:
        assert exchange.writer is not None
        if exchange.writer.complete:
            exchange.request_side = RequestSide.SENT
            self.outgoing = None

    def _co_send(
        self, transport: Transport, exchange: Exchange, *buffers: bytes | memoryview
    ) -> Coroutine[None]:
        """Send all *buffers*. If that fails or is given up, nothing can be sent after them."""
        try:
            for data in buffers:
                yield from co_send_all(transport, data)
        except BaseException as exc:
            self.closing = True
            if exchange.request_side in _UNFINISHED:
                exchange.request_side = RequestSide.CANCELLED
            if not isinstance(exc, ConnectionClosed):
                # Half a message is out, and no answer will come to it. If on the other hand the
                # peer has closed, it may have said why: that is left for the receiver to read.
                transport.shutdown()
            raise

    def _co_open(self) -> Coroutine[None]:
        """Replace the connection, on which nothing is under way, by a new one."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None
        ours, theirs = socket.socketpair()
        self._interrupt = theirs
        try:
            # Looked at after `theirs` can be seen, so that no abort goes unnoticed.
            if self.aborted:
                raise ConnectionClosed("disconnected")
            transport = yield from co_interruptible(self._dial(), ours.fileno())
        finally:
            self._interrupt = None
            ours.close()
            theirs.close()
        self.buffer.clear()
        self.incoming = self.outgoing = None
        self.closing = False
        self.failure = self.ended = None
        self.transport = transport
        if self.aborted:
            transport.close()
            raise ConnectionClosed("disconnected while connecting")

    # --- receiving: whoever holds the receive turn ----------------------------------------------

    def co_read_response(self, patience: float | None = 0) -> Coroutine[HTTPResponse]:
        """Receive the head of the next answer that is not an unasked 1xx."""
        if not self._receive_turn.acquire(False):
            raise _busy("receiving")
        try:
            if self.incoming is not None and self.failure is None:
                raise StateError(
                    "the body of the previous response has not been read completely yet"
                )
            while not self.pipeline:
                if self._send_turn.locked() and not self.aborted:
                    yield from self._co_wait_for_sender()
                elif not self.pipeline:
                    if self.failure or self.aborted:
                        raise ConnectionClosed(self.failure or "disconnected")
                    raise StateError("No pending requests")
            exchange = self.pipeline[0]
            if exchange.answer_100:
                exchange.answer_100 = False
                return _continue(exchange, "Continue", Headers())
            try:
                while isinstance(answer := self._receive_answer(exchange, patience), PollNeeded):
                    yield answer
                return answer
            except _RESUMABLE:
                raise
            except BaseException as exc:
                if self.pipeline and self.pipeline[0] is exchange:
                    self._fail(f"the connection failed earlier: {exc}")
                    self.pipeline.popleft()
                raise
        finally:
            self._release(self._receive_turn)

    def _receive_answer(
        self, exchange: Exchange, patience: float | None
    ) -> HTTPResponse | PollNeeded:
        """Like a reader: do what can be done without waiting, or with *patience*."""
        transport = self._transport_in_use()
        if self.ended is not None:
            # Whatever follows a last answer is none, even if it looks like one (RFC 9112 §9.6).
            raise ConnectionClosed(self.ended)
        transport.patience = patience
        while True:
            head = receive_head(transport, self.buffer)
            if isinstance(head, PollNeeded):
                return head
            if head.status >= 200 or (head.status == 101 and exchange.upgrade):
                break
            exchange.interim += 1
            if head.status == 101 or exchange.interim > MAX_INTERIM:
                raise InvalidResponse(f"unexpected {head.status} response")
            if head.status == 100 and exchange.request_side is RequestSide.CONTINUE:
                exchange.request_side = RequestSide.BODY
                return _continue(exchange, head.reason, Headers._from_parsed(head.fields))

        framing = response_framing(exchange.method, head.minor_version, head.status, head.fields)
        persistent = framing.persistent and not exchange.close
        if exchange.writer is None:
            pass
        elif exchange.request_side is RequestSide.CONTINUE:
            # The server may still count on the body that it has not asked for, and would take the
            # next request for it (RFC 9110 §10.1.1). So nothing is sent after this.
            exchange.request_side = RequestSide.REFUSED
            persistent = False
        elif exchange.request_side is RequestSide.BODY and head.status >= 300:
            exchange.request_side = RequestSide.CANCELLED  # RFC 9112 §9.5
            persistent = False
        switched = head.status == 101 or (exchange.method == "CONNECT" and head.status < 300)
        if switched or not persistent:
            self.closing = True
            self.ended = (
                "the connection has changed its protocol"
                if switched
                else "the connection ended with an earlier answer"
            )
        self.cut = None
        exchange.persistent = persistent
        exchange.reader = reader_for(framing, self.buffer, transport)
        if exchange.reader is not None:
            self.incoming = exchange
        elif not persistent and not switched:
            self._end(exchange, transport)
        headers = Headers._from_parsed(head.fields)
        response = HTTPResponse(
            exchange.method, exchange.path, head.status, head.reason, headers, framing.length
        )
        # Last, for as long as the exchange is here, the sender knows that something is under way.
        self.pipeline.popleft()
        return response

    def co_readinto(self, view: memoryview, patience: float | None = 0) -> Coroutine[int]:
        """Receive the next part of the incoming body into *view*; 0 means that it has ended."""
        if not self._receive_turn.acquire(False):
            raise _busy("receiving")
        try:
            return (yield from self._co_readinto(view, patience))
        finally:
            self._release(self._receive_turn)

    def co_read(self, size: int, patience: float | None = 0) -> Coroutine[bytes]:
        """Receive at least one and at most *size* bytes of the incoming body; b"" is its end."""
        if not self._receive_turn.acquire(False):
            raise _busy("receiving")
        try:
            reader = self.incoming.reader if self.incoming is not None else None
            if isinstance(reader, LengthReader):
                size = min(size, reader.remaining)
            view = memoryview(bytearray(min(size, _READ_SIZE)))
            got = yield from self._co_readinto(view, patience)
            return bytes(view[:got])
        finally:
            self._release(self._receive_turn)

    def co_readall(self, patience: float | None = 0) -> Coroutine[bytes]:
        """Receive the rest of the incoming body."""
        if not self._receive_turn.acquire(False):
            raise _busy("receiving")
        parts: list[bytes] = []
        try:
            if self.incoming is not None and isinstance(self.incoming.reader, LengthReader):
                body = self.incoming.reader.take_if_buffered() if self.failure is None else None
                if body is not None:
                    self._finish_answer(self.incoming)
                    return body
            view = memoryview(bytearray(_SMALL_BODY))
            while got := (yield from self._co_readinto(view, patience)):
                parts.append(bytes(view[:got]))
                if got == len(view) and got < _READ_SIZE:
                    view = memoryview(bytearray(_READ_SIZE))
            return b"".join(parts)
        except BaseException as exc:
            if parts or not isinstance(exc, _RESUMABLE):
                self._lose_body()
            raise
        finally:
            self._release(self._receive_turn)

    def co_discard(self, patience: float | None = 0) -> Coroutine[None]:
        """Receive the rest of the incoming body and drop it."""
        view = memoryview(bytearray(_SMALL_BODY))
        while (yield from self.co_readinto(view, patience)):
            pass

    def co_read_raw(self, view: memoryview, patience: float | None = 0) -> Coroutine[int]:
        """Receive into *view* whatever comes next, as it is on the wire."""
        if not self._receive_turn.acquire(False):
            raise _busy("receiving")
        self.reading_raw = True
        try:
            transport = self.transport
            if transport is None:
                return 0
            transport.patience = patience
            got = self.buffer.readinto(view) if self.buffer else transport.recv_into(view)
            while not isinstance(got, int):
                yield got
                got = transport.recv_into(view)
            if got:  # and if it was a part of something, the rest is nothing
                self._fail("the connection has been read from with read_raw()")
            return got
        finally:
            self.reading_raw = False
            self._release(self._receive_turn)

    def _co_readinto(self, view: memoryview, patience: float | None) -> Coroutine[int]:
        exchange = self.incoming
        if self.failure is not None:
            raise ConnectionClosed(self.failure)
        if exchange is None and self.cut is not None:
            raise ConnectionClosed(self.cut)
        if exchange is None or not len(view):
            return 0
        reader, transport = exchange.reader, self.transport
        assert reader is not None
        assert transport is not None
        transport.patience = patience
        try:
            while not isinstance(got := reader.readinto(view), int):
                yield got
        except _RESUMABLE:
            raise
        except BaseException as exc:
            self._fail(f"the connection failed earlier: {exc}")
            raise
        if reader.done:
            self._finish_answer(exchange)
        return got

    def _finish_answer(self, exchange: Exchange) -> None:
        if not exchange.persistent:
            assert self.transport is not None
            self._end(exchange, self.transport)
        # Last, for the sender may open the next connection now.
        self.incoming = None

    def _end(self, exchange: Exchange, transport: Transport) -> None:
        """End the connection after an answer; a sender that is at work is woken to hear so."""
        self.closing = True
        if exchange.request_side is RequestSide.BODY:
            exchange.request_side = RequestSide.CANCELLED
        transport.shutdown()
        self.buffer.clear()

    def _lose_body(self) -> None:
        """See to it that the rest of the incoming body is not taken for all of it."""
        self.cut = "an earlier read was given up within the body"
        # Looked at in the order opposite to that in which the sender clears them.
        if self.failure is None and self.incoming is not None:
            self._fail(self.cut)

    def _fail(self, failure: str) -> None:
        """End the connection for the receiver, who calls this while something is under way."""
        self.cut = failure
        self.closing = True
        if self.failure is None:
            self.failure = failure

    # --- both ------------------------------------------------------------------------------------

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
        if self.outgoing is None or self.incoming is not None or self.failure is not None:
            return None
        try:
            oldest = self.pipeline[0]
        except IndexError:
            return None
        mine = oldest.request_side is RequestSide.BODY and oldest.thread == get_ident()
        return oldest if mine else None

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
        interrupt = self._interrupt
        if interrupt is not None:
            interrupt.close()
        self._wake_waiters()

    @property
    def unread(self) -> bool:
        """True if answers, or a rest of one, have not been read."""
        # In this order, as in pending().
        return bool(self.pipeline) or self.incoming is not None

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

    def _co_wait_for_sender(self) -> Coroutine[None]:
        """Wait until the sender has put a request into the pipeline, or has given its turn back."""
        ours, theirs = socket.socketpair()
        try:
            theirs.setblocking(False)  # one wake-up is enough, however slow we are to see it
            self._waiters.append(theirs)
            try:
                # Looked at after `theirs` can be seen, so that no change goes unnoticed.
                if not self.pipeline and self._send_turn.locked() and not self.aborted:
                    yield PollNeeded(ours.fileno(), POLLIN)
            finally:
                self._waiters.remove(theirs)
        finally:
            ours.close()
            theirs.close()

    def _wake_waiters(self) -> None:
        for waiter in list(self._waiters):
            try:
                waiter.send(b"\0")
            except OSError:
                pass  # it has stopped waiting, or has been woken often enough


def _continue(exchange: Exchange, reason: str, headers: Headers) -> HTTPResponse:
    return HTTPResponse(exchange.method, exchange.path, 100, reason, headers, 0)


def _busy(doing: str) -> StateError:
    return StateError(f"another thread or coroutine is {doing} on this connection")
