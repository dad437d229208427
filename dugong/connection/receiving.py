"""The receive side: read responses and their bodies. For the holder of the receive turn.

Guarantees: response n is given to request n or to none; a body that was cut short is an exception,
never an end; a wait that was given up has lost nothing.

What receives takes the *timeout* that `dugong.connection.transport` describes: 0 for coroutines.
The calls that matter most have a blocking form, which takes the same steps without a coroutine.
"""

from __future__ import annotations

import socket
from typing import TypeVar

from dugong.connection.buffer import BUFFER_SIZE
from dugong.connection.exchange import Exchange, HTTPResponse, RequestSide
from dugong.connection.framing import BodyKind
from dugong.connection.parser import FramedHead, ReceivedResponse
from dugong.connection.polling import POLLIN, Coroutine, PollNeeded, eval_coroutine
from dugong.connection.readers import LengthReader, reader_for
from dugong.connection.state import ConnectionState
from dugong.connection.transport import Transport
from dugong.connection.wire import MAX_INTERIM, fill_for_head
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    DugongError,
    InvalidResponse,
    StateError,
)
from dugong.headers import Headers

__all__ = ["ReceiveSide", "ReceivedResponses"]

T = TypeVar("T")

#: Responses, and what went wrong after them.
ReceivedResponses = tuple[list[ReceivedResponse], Exception | None]

_FIRST_READ = 64 * 1024  # bytes at a time, of a body whose size is not known to be large
_READ_SIZE = 256 * 1024  # bytes at a time, of others

#: For so many responses it is worth to wait for a moment,
_WORTHWHILE = 12
#: after fewer than that have come so often.
_TOO_OFTEN = 4
#: If they did not come, fewer are right for so many times.
_NOT_NOW = 64
#: So many bytes are worth waiting for, too.
_ENOUGH = BUFFER_SIZE // 2

# What may come out of a wait, with nothing lost. After anything else (KeyboardInterrupt between any
# two steps, MemoryError), bytes may have been taken that no caller was given.
_RESUMABLE = (ConnectionTimedOut, GeneratorExit)

_ENDED = "the connection ended with an earlier response"
_SWITCHED = "the connection has changed its protocol"

_NO_BODY = BodyKind.NONE  # a member is looked up slowly in its class


class ReceiveSide:
    """What receives on the connection of *state*; the other one is its `SendSide`.

    Each call takes the receive turn, and raises `StateError` if another call has it.
    """

    __slots__ = ("_meagre", "_response_size", "_state", "truncation_reason")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state  # never changes
        # The rest belongs to the holder of the receive turn.
        #: Why the body that was read last has no end, if it has none. Other threads may look at it
        #: when nothing is being received.
        self.truncation_reason = state.failure
        self._meagre = 0  # how often few responses have come at a time
        self._response_size = 1  # bytes of each of the responses that came last

    @property
    def unread_length(self) -> int | None:
        """How many bytes of the incoming body have not been read; None if that is not known.

        0 if no body is incoming. For the receiving thread.
        """
        incoming = self._state.incoming
        if incoming is None:
            return 0
        reader = incoming.reader
        return reader.remaining if isinstance(reader, LengthReader) else None

    # --- responses -------------------------------------------------------------------------------

    def read_response(self, timeout: float | None) -> HTTPResponse:
        """Receive the head of the next response that is not an unasked 1xx, blocking."""
        state = self._state
        turn = state.receive_turn
        if turn.locked():
            raise state.busy(turn)
        try:
            with turn:
                while not isinstance(got := self._next_response(timeout), tuple):
                    if got is None:
                        eval_coroutine(self._co_wait_for_sender(), timeout)
                    else:
                        got.block(timeout)
                exchange, status, reason, headers, length, _ = got
                return HTTPResponse(exchange.method, exchange.path, status, reason, headers, length)
        finally:
            transport = state.transport
            if transport is not None and transport.is_shut:
                state.close_if_unused()

    def co_read_response(self, timeout: float | None = 0) -> Coroutine[HTTPResponse]:
        """As `read_response`, as a coroutine."""
        reading = self._co_read_response(timeout)
        return self._state.co_with_turn(self._state.receive_turn, reading)

    def _co_read_response(self, timeout: float | None) -> Coroutine[HTTPResponse]:
        while not isinstance(got := self._next_response(timeout), tuple):
            if got is None:
                yield from self._co_wait_for_sender()
            else:
                yield got
        exchange, status, reason, headers, length, _ = got
        return HTTPResponse(exchange.method, exchange.path, status, reason, headers, length)

    def read_responses(self, timeout: float | None) -> ReceivedResponses:
        """Receive a response, blocking, and all others that have come with it.

        Each comes with its body, or with None if not all of the body is there: that is the last,
        and the body is to be read. What went wrong, if anything did, comes behind the responses
        that were good before it.
        """
        state = self._state
        turn = state.receive_turn
        if turn.locked():
            raise state.busy(turn)
        responses: list[ReceivedResponse] = []
        try:
            with turn:
                while (got := self._next_responses(timeout, responses)) is not responses:
                    if got is None:
                        eval_coroutine(self._co_wait_for_sender(), timeout)
                    else:
                        assert isinstance(got, PollNeeded)
                        got.block(timeout)
                return responses, None
        except Exception as exc:
            return responses, exc
        finally:
            transport = state.transport
            if transport is not None and transport.is_shut:
                state.close_if_unused()

    def _next_response(self, timeout: float | None) -> ReceivedResponse | PollNeeded | None:
        """Like a reader: do what can be done without waiting, or within *timeout*.

        Leaves the body to be read. None means that the sender must be waited for.
        """
        exchange = self._due()
        if exchange is None:
            return None
        if exchange.request_side is RequestSide.SELF_CONTINUE:
            return self._continue_without_server(exchange)
        state = self._state
        transport = state.transport
        try:
            transport = self._receivable(timeout)
            buffer, parser = state.buffer, state.parser
            while True:
                if buffer.start < buffer.end:
                    head = parser.next_head(exchange)
                    if head is not None:
                        response = self._begin_response(exchange, head, transport)
                        if response is not None:
                            return response
                        continue
                needed = fill_for_head(transport, buffer)
                if needed is not None:
                    return needed
        except _RESUMABLE:
            raise
        except BaseException as exc:
            self._lose_response(transport, exc)
            raise

    def _next_responses(
        self, timeout: float | None, responses: list[ReceivedResponse]
    ) -> list[ReceivedResponse] | PollNeeded | None:
        """As `_next_response`, for all that has come, which it adds to *responses* and returns."""
        exchange = self._due()
        if exchange is None:
            return None
        if exchange.request_side is RequestSide.SELF_CONTINUE:
            responses.append(self._continue_without_server(exchange))
            return responses
        state = self._state
        transport = state.transport
        try:
            transport = self._receivable(timeout)
            buffer = state.buffer
            while True:
                if buffer.start < buffer.end:
                    self._take_responses(transport, responses)
                    if responses:
                        return responses
                if buffer.start == buffer.end and len(state.awaiting_response) >= 2 * _WORTHWHILE:
                    needed = self._receive_many(transport, responses)
                    if responses:
                        return responses
                else:
                    needed = fill_for_head(transport, buffer)
                if needed is not None:
                    return needed
        except _RESUMABLE:
            raise
        except BaseException as exc:
            self._lose_response(transport, exc)
            raise

    def _take_responses(self, transport: Transport, responses: list[ReceivedResponse]) -> None:
        """Add to *responses* what the buffer has, up to the first whose body is to be read."""
        state = self._state
        awaiting, buffer = state.awaiting_response, state.buffer
        parser = state.parser
        while True:
            parser.take_whole(awaiting, responses)
            if responses:
                self.truncation_reason = None
            if buffer.start == buffer.end or not awaiting:
                return
            exchange = awaiting[0]
            if exchange.request_side is RequestSide.SELF_CONTINUE:
                return
            head = parser.next_head(exchange)
            if head is None:
                return
            response = self._begin_response(exchange, head, transport)
            if response is None:
                continue
            if state.incoming is exchange:
                assert exchange.reader is not None
                body = exchange.reader.take_if_buffered()
                response = (*response[:5], body)
                if body is not None:
                    self._finish_response(exchange)
            responses.append(response)
            if response[5] is None or response[1] < 200 or state.last_response_reason is not None:
                return

    def _receive_many(
        self, transport: Transport, responses: list[ReceivedResponse]
    ) -> PollNeeded | None:
        """Receive into the empty buffer when many responses are due, and take what has come.

        Being woken costs as much as reading some responses. So if that was for few of them, time
        and again, it is to be for more; unless they do not come in a moment.
        """
        buffer = self._state.buffer
        low = 1
        if self._meagre >= _TOO_OFTEN:
            low = min(_WORTHWHILE * self._response_size, _ENOUGH)
            transport.low_water = low
            buffer.grow(BUFFER_SIZE)
        try:
            needed = fill_for_head(transport, buffer)
        finally:
            transport.low_water = 1  # also if it was not used
        if needed is not None:
            return needed
        received = len(buffer)
        self._take_responses(transport, responses)
        if responses:
            self._response_size = max(1, (received - len(buffer)) // len(responses))
        if received < low:
            self._meagre = -_NOT_NOW
        elif 0 < len(responses) < _WORTHWHILE:
            self._meagre += 1
        return None

    def _due(self) -> Exchange | None:
        """Return the exchange whose response is next; None: the sender must be waited for.

        Raises `StateError` if there is none, or if the body of the last one has not been read.
        """
        state = self._state
        if state.incoming is not None and state.failure is None:
            raise StateError("the body of the previous response has not been read completely yet")
        awaiting = state.awaiting_response
        if awaiting:
            return awaiting[0]
        with state.lock:
            if state.send_turn.locked() and not state.aborted:
                return None
            if awaiting:  # now that the sender is known to have finished
                return awaiting[0]
            if state.failure or state.aborted:
                raise ConnectionClosed(state.failure or "disconnected")
            raise StateError("no request is waiting for a response")

    def _receivable(self, timeout: float | None) -> Transport:
        """Return the transport, to receive a response within *timeout*."""
        transport = self._state.transport_in_use()
        if self._state.last_response_reason is not None:
            # Whatever follows a last response is none, even if it looks like one (RFC 9112 §9.6).
            raise ConnectionClosed(self._state.last_response_reason)
        transport.patience = timeout
        return transport

    def _continue_without_server(self, exchange: Exchange) -> ReceivedResponse:
        exchange.request_side = RequestSide.SENT
        return exchange, 100, "Continue", Headers(), 0, b""

    def _lose_response(self, transport: Transport | None, exc: BaseException) -> None:
        """The response that was next on *transport* cannot be received, because of *exc*.

        The exchange that it belongs to has its response, or this error: it is not waited for again.
        """
        state = self._state
        with state.lock:
            # If the sender has opened another connection, the response had been received.
            if state.transport is transport:
                self._fail_locked(f"the connection failed earlier: {exc or type(exc).__name__}")
                if state.awaiting_response:
                    state.awaiting_response.popleft()

    def _begin_response(
        self, exchange: Exchange, head: FramedHead, transport: Transport
    ) -> ReceivedResponse | None:
        """Let *head* be that of the response to *exchange*; None if it is a 1xx to be skipped."""
        state = self._state
        minor_version, status, reason, headers, kind, length, persistent, _ = head
        switched = False
        if exchange.needs_full_parse or not persistent or status < 200:
            if status < 200 and not (status == 101 and exchange.upgrade):
                return self._take_interim(exchange, head)
            switched = status == 101 or (exchange.method == "CONNECT" and status < 300)
            persistent = self._stays_open(exchange, status, persistent)
            if switched or not persistent:
                state.closing = True
                state.last_response_reason = _SWITCHED if switched else _ENDED
                state.said_close = head.said_close
        self.truncation_reason = None
        exchange.minor_version = minor_version
        exchange.persistent = persistent
        if kind is not _NO_BODY:
            exchange.reader = reader_for(kind, length, state.buffer, transport)
            state.incoming = exchange
        elif not persistent and not switched:
            self._end(exchange, transport)
        # Last: as long as the exchange is here, the sender knows that something is under way.
        state.awaiting_response.popleft()
        return exchange, status, reason, headers, length, b"" if kind is _NO_BODY else None

    def _take_interim(self, exchange: Exchange, head: FramedHead) -> ReceivedResponse | None:
        exchange.interim += 1
        if head.status == 101 or exchange.interim > MAX_INTERIM:
            raise InvalidResponse(f"unexpected {head.status} response")
        if head.status == 100 and exchange.request_side is RequestSide.CONTINUE:
            exchange.request_side = RequestSide.BODY
            return exchange, 100, head.reason, head.headers, 0, b""
        return None

    def _stays_open(self, exchange: Exchange, status: int, persistent: bool) -> bool:
        """Return whether another response may follow; a refused request body is cut short."""
        if exchange.request_side is RequestSide.CONTINUE:
            # The server may still count on the body that it has not asked for, and would take the
            # next request for it (RFC 9110 §10.1.1). So nothing is sent after this.
            exchange.request_side = RequestSide.REFUSED
            return False
        if exchange.request_side is RequestSide.BODY and status >= 300:
            exchange.request_side = RequestSide.CANCELLED  # RFC 9112 §9.5
            return False
        return persistent and not exchange.close

    # --- bodies ----------------------------------------------------------------------------------

    def readinto(self, view: memoryview, timeout: float | None) -> int:
        """Receive the next part of the incoming body into *view*, blocking; 0 is its end."""
        state = self._state
        turn = state.receive_turn
        if turn.locked():
            raise state.busy(turn)
        try:
            with turn:
                try:
                    while not isinstance(got := self._next_part(view, timeout), int):
                        got.block(timeout)
                    return got
                except BaseException as exc:
                    self._lose_body_unless_harmless(exc)
                    raise
        finally:
            transport = state.transport
            if transport is not None and transport.is_shut:
                state.close_if_unused()

    def co_readinto(self, view: memoryview, timeout: float | None = 0) -> Coroutine[int]:
        """As `readinto`, as a coroutine."""
        reading = self._co_losing(self._co_readinto(view, timeout))
        return self._state.co_with_turn(self._state.receive_turn, reading)

    def _co_readinto(self, view: memoryview, timeout: float | None) -> Coroutine[int]:
        while not isinstance(got := self._next_part(view, timeout), int):
            yield got
        return got

    def _next_part(self, view: memoryview, timeout: float | None) -> int | PollNeeded:
        """Like a reader: do what can be done without waiting, or within *timeout*."""
        state = self._state
        exchange, transport = state.incoming, state.transport
        if state.failure is not None:
            raise ConnectionClosed(state.failure)
        if exchange is None and self.truncation_reason is not None:
            raise ConnectionClosed(self.truncation_reason)
        if exchange is None or not len(view):
            return 0
        reader = exchange.reader
        assert reader is not None
        assert transport is not None
        transport.patience = timeout
        try:
            got = reader.readinto(view)
        except _RESUMABLE:
            raise
        except BaseException as exc:
            self._fail(f"the connection failed earlier: {exc or type(exc).__name__}")
            raise
        if reader.done:
            self._finish_response(exchange)
        return got

    def co_read(self, size: int, timeout: float | None = 0) -> Coroutine[bytes]:
        """Receive at least one and at most *size* bytes of the incoming body; b"" is its end."""
        reading = self._co_losing(self._co_read(size, timeout))
        return self._state.co_with_turn(self._state.receive_turn, reading)

    def _co_read(self, size: int, timeout: float | None) -> Coroutine[bytes]:
        unread = self.unread_length
        if unread is not None:
            size = min(size, unread)
        view = memoryview(bytearray(min(size, _READ_SIZE)))
        got = yield from self._co_readinto(view, timeout)
        return bytes(view[:got])

    def take_body(self) -> bytes | None:
        """Return the rest of the incoming body if all of it has been received, else None."""
        state = self._state
        turn = state.receive_turn
        if turn.locked():
            raise state.busy(turn)
        try:
            with turn:
                try:
                    exchange = state.incoming
                    if exchange is None or state.failure is not None:
                        return None
                    assert exchange.reader is not None
                    body = exchange.reader.take_if_buffered()
                    if body is not None:
                        self._finish_response(exchange)
                    return body
                except BaseException as exc:
                    self._lose_body_unless_harmless(exc)
                    raise
        finally:
            transport = state.transport
            if transport is not None and transport.is_shut:
                state.close_if_unused()

    def co_readall(self, timeout: float | None = 0) -> Coroutine[bytes]:
        """Receive the rest of the incoming body."""
        return self._state.co_with_turn(self._state.receive_turn, self._co_readall(timeout))

    def _co_readall(self, timeout: float | None) -> Coroutine[bytes]:
        parts: list[bytes] = []
        try:
            view = memoryview(bytearray(_FIRST_READ))
            while got := (yield from self._co_readinto(view, timeout)):
                parts.append(bytes(view[:got]))
                if got == len(view) and got < _READ_SIZE:
                    view = memoryview(bytearray(_READ_SIZE))
            return b"".join(parts)
        except BaseException as exc:
            if parts or not isinstance(exc, _RESUMABLE):
                self._lose_body()
            raise

    def co_discard(self, timeout: float | None = 0) -> Coroutine[None]:
        """Receive the rest of the incoming body and drop it."""
        view = memoryview(bytearray(_FIRST_READ))
        while (yield from self.co_readinto(view, timeout)):
            pass

    def co_read_raw(self, view: memoryview, timeout: float | None = 0) -> Coroutine[int]:
        """Receive into *view* whatever comes next, as it is on the wire."""
        reading = self._co_read_raw(view, timeout)
        return self._state.co_with_turn(self._state.receive_turn, reading)

    def _co_read_raw(self, view: memoryview, timeout: float | None) -> Coroutine[int]:
        state = self._state
        try:
            with state.lock:
                state.reading_raw = True
                transport = state.transport
            if transport is None:
                return 0
            transport.patience = timeout
            got = state.buffer.readinto(view) if state.buffer else transport.recv_into(view)
            while not isinstance(got, int):
                yield got
                got = transport.recv_into(view)
            if got:  # and if it was a part of something, the rest is nothing
                self._fail("the connection has been read from with read_raw()")
            return got
        finally:
            state.reading_raw = False

    def _finish_response(self, exchange: Exchange) -> None:
        state = self._state
        assert exchange.reader is not None
        if exchange.reader.closed and exchange.persistent:
            # The server has ended the connection behind a body that is whole without that.
            exchange.persistent = False
            state.last_response_reason = _ENDED
        if not exchange.persistent:
            assert state.transport is not None
            self._end(exchange, state.transport)
        # Last, for the sender may open the next connection now.
        state.incoming = None

    def _end(self, exchange: Exchange, transport: Transport) -> None:
        """End the connection after a response; a sender that is at work is woken to hear so."""
        self._state.closing = True
        if exchange.request_side is RequestSide.BODY:
            exchange.request_side = RequestSide.CANCELLED
        transport.shutdown()
        self._state.buffer.clear()

    # --- failing ---------------------------------------------------------------------------------

    def _co_losing(self, crt: Coroutine[T]) -> Coroutine[T]:
        """Run *crt*, which reads a body, and see to what an interrupt may have lost of it."""
        try:
            return (yield from crt)
        except BaseException as exc:
            self._lose_body_unless_harmless(exc)
            raise

    def _lose_body_unless_harmless(self, exc: BaseException) -> None:
        """An exception from anywhere (a signal handler's) may come after bytes have been taken."""
        if not isinstance(exc, (*_RESUMABLE, DugongError, OSError)):
            self._lose_body()

    def _lose_body(self) -> None:
        """See to it that the rest of the incoming body is not taken for all of it."""
        state = self._state
        self.truncation_reason = "an earlier read was given up within the body"
        with state.lock:
            if state.failure is None and state.incoming is not None:
                self._fail_locked(self.truncation_reason)

    def _fail(self, failure: str) -> None:
        """End the connection for the receiver, who calls this while something is under way."""
        with self._state.lock:
            self._fail_locked(failure)

    def _fail_locked(self, failure: str) -> None:
        self.truncation_reason = failure
        self._state.fail_locked(failure)

    # --- waiting for the sender ------------------------------------------------------------------

    def _co_wait_for_sender(self) -> Coroutine[None]:
        """Wait until the sender has sent a request, or has given its turn back."""
        state = self._state
        ours, theirs = socket.socketpair()
        try:
            theirs.setblocking(False)  # one wake-up is enough, however slow we are to see it
            try:
                with state.lock:
                    # In this order, for the sake of a signal handler in between that aborts.
                    state.waiters.append(theirs)
                    waits = (
                        not state.awaiting_response
                        and state.send_turn.locked()
                        and not state.aborted
                    )
                if waits:
                    yield PollNeeded(ours.fileno(), POLLIN)
            finally:
                with state.lock:
                    if theirs in state.waiters:
                        state.waiters.remove(theirs)
        finally:
            ours.close()
            theirs.close()
