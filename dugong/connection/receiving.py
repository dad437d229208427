"""The receive side: read responses, as far as their bodies. For the holder of the receive turn.

Guarantees: response n is given to request n or to none; a wait that was given up has lost nothing.
`dugong.connection.bodies` reads the bodies.

What receives takes the *timeout* that `dugong.connection.transport` describes: 0 for coroutines.
The calls that matter most have a blocking form, which takes the same steps without a coroutine.
"""

from __future__ import annotations

from dugong.connection.bodies import ENDED, RESUMABLE, BodySide, earlier
from dugong.connection.buffer import BUFFER_SIZE
from dugong.connection.exchange import Exchange, HTTPResponse, RequestSide
from dugong.connection.framing import BodyKind
from dugong.connection.parser import FramedHead, ReceivedResponse
from dugong.connection.polling import Coroutine, PollNeeded, eval_coroutine
from dugong.connection.readers import LengthReader, reader_for
from dugong.connection.state import ConnectionState
from dugong.connection.transport import Transport
from dugong.connection.wire import MAX_INTERIM, closed_within
from dugong.deadline import Deadline
from dugong.errors import ConnectionClosed, ConnectionTimedOut, InvalidResponse, StateError
from dugong.headers import Headers

__all__ = ["ReceiveSide", "ReceivedResponses"]

#: Responses, and what went wrong after them.
ReceivedResponses = tuple[list[ReceivedResponse], Exception | None]

#: For so many responses it is worth to wait for a moment,
_WORTHWHILE = 12
#: after fewer than that have come so often.
_TOO_OFTEN = 4
#: If they did not come, fewer are right for so many times.
_NOT_NOW = 64
#: So many bytes are worth waiting for, too.
_ENOUGH = BUFFER_SIZE // 2
#: If so many responses are due, it is seen to whether few come at a time.
_MANY = 2 * _WORTHWHILE

_SWITCHED = "the connection has changed its protocol"

# Members are looked up slowly in their class.
_NO_BODY, _LENGTH = BodyKind.NONE, BodyKind.LENGTH
_SELF_CONTINUE = RequestSide.SELF_CONTINUE


class ReceiveSide:
    """What receives on the connection of *state*; the other one is its `SendSide`.

    Each call takes the receive turn, and raises `StateError` if another call has it.
    """

    __slots__ = ("_body", "_meagre", "_response_size", "_state")

    def __init__(self, state: ConnectionState, body: BodySide) -> None:
        self._state = state  # never changes
        self._body = body  # never changes
        # Both of these belong to the holder of the receive turn.
        self._meagre = 0  # how often few responses have come at a time
        self._response_size = 1  # bytes of each of the responses that came last

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
                        eval_coroutine(state.co_wait_for_sender(), timeout)
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
                yield from self._state.co_wait_for_sender()
            else:
                yield got
        exchange, status, reason, headers, length, _ = got
        return HTTPResponse(exchange.method, exchange.path, status, reason, headers, length)

    def read_responses(self, timeout: float | None) -> ReceivedResponses:
        """Receive a response, blocking, and all others that have come with it.

        Nothing may come for *timeout* seconds; once a head has begun, all of it has to come within
        that time.

        Each comes with its body, or with None if not all of the body is there: that is the last,
        and the body is to be read. What went wrong, if anything did, comes behind the responses
        that were good before it.
        """
        state = self._state
        turn = state.receive_turn
        if turn.locked():
            raise state.busy(turn)
        awaiting = state.awaiting_response
        try:
            with turn:
                exchange = awaiting[0] if awaiting and state.incoming is None else self._due()
                while exchange is None:
                    eval_coroutine(state.co_wait_for_sender(), timeout)
                    exchange = self._due()
                if exchange.request_side is _SELF_CONTINUE:
                    return [self._continue_without_server(exchange)], None
                transport = state.transport
                if transport is None or state.failure or state.last_response_reason is not None:
                    error = self._nothing_follows()
                    self._lose_response(transport, error)
                    return [], error
                return self.receive_in_turn(transport, timeout)
        except Exception as exc:
            return [], exc
        finally:
            used = state.transport
            if used is not None and used.is_shut:
                state.close_if_unused()

    def receive_in_turn(self, transport: Transport, timeout: float | None) -> ReceivedResponses:
        """As `read_responses`, for a caller that has the receive turn and gives it back.

        To be called only if a response is due that may come over *transport*.
        """
        state = self._state
        awaiting, buffer, parser = state.awaiting_response, state.buffer, state.parser
        responses: list[ReceivedResponse] = []
        try:
            transport.block_timeout = timeout
            while True:
                if buffer.start < buffer.end:
                    parser.take_whole(awaiting, responses)
                    if responses and buffer.start == buffer.end:
                        return responses, None
                    self._take_rest(transport, responses)
                    if not responses and timeout != 0 and buffer.start < buffer.end:
                        self._receive_rest_of_head(transport, timeout, responses)
                    if responses:
                        return responses, None
                if len(awaiting) >= _MANY and buffer.start == buffer.end:
                    got = self._receive_many(transport, responses)
                    if responses:
                        return responses, None
                else:
                    got = buffer.fill(transport)
                if not isinstance(got, int):
                    got.block(timeout)
                    if state.failure:
                        raise self._nothing_follows()
                elif not got:
                    raise closed_within(buffer)
        except BaseException as exc:
            if not isinstance(exc, RESUMABLE):
                self._lose_response(transport, exc)
            if not isinstance(exc, Exception):
                raise
            return responses, exc

    def _next_response(self, timeout: float | None) -> ReceivedResponse | PollNeeded | None:
        """Like a reader: do what can be done without waiting, or within *timeout*.

        Leaves the body to be read. None means that the sender must be waited for.
        """
        state = self._state
        awaiting = state.awaiting_response
        exchange = awaiting[0] if awaiting and state.incoming is None else self._due()
        if exchange is None:
            return None
        if exchange.request_side is _SELF_CONTINUE:
            return self._continue_without_server(exchange)
        transport = state.transport
        try:
            if transport is None or state.failure or state.last_response_reason is not None:
                raise self._nothing_follows()
            transport.block_timeout = timeout
            buffer, parser = state.buffer, state.parser
            while True:
                if buffer.start < buffer.end:
                    head = parser.next_head(exchange)
                    if head is not None:
                        response = self._begin_response(exchange, head, transport)
                        if response is not None:
                            return response
                        continue
                got = buffer.fill(transport)
                if not isinstance(got, int):
                    return got
                if got == 0:
                    raise closed_within(buffer)
        except RESUMABLE:
            raise
        except BaseException as exc:
            self._lose_response(transport, exc)
            raise

    def _receive_rest_of_head(
        self, transport: Transport, timeout: float | None, responses: list[ReceivedResponse]
    ) -> None:
        """Receive, blocking, the rest of the head that has begun; add to *responses* what has come.

        It may take *timeout* as a whole, and not with each byte anew. Returns without a response if
        it was a 1xx to be skipped, and nothing has come behind it.
        """
        state = self._state
        buffer, exchange = state.buffer, state.awaiting_response[0]
        interim, deadline = exchange.interim, Deadline(timeout)
        while not responses and buffer.start < buffer.end:
            if exchange.interim != interim:
                interim, deadline = exchange.interim, Deadline(timeout)
            left = deadline.remaining()
            if left == 0:
                raise ConnectionTimedOut(f"the response head has taken more than {timeout:g} s")
            transport.block_timeout = left
            try:
                got = buffer.fill(transport)
                if not isinstance(got, int):
                    paused = transport.paused
                    got.block(left)
                    deadline = deadline.later_by(transport.paused - paused)
                    continue
            except ConnectionTimedOut:
                continue  # as the deadline has passed, or nearly so
            if got == 0:
                raise closed_within(buffer)
            self._take_responses(transport, responses)
        transport.block_timeout = timeout

    def _take_responses(self, transport: Transport, responses: list[ReceivedResponse]) -> None:
        """Add to *responses* what the buffer has, up to the first whose body is to be read."""
        self._state.parser.take_whole(self._state.awaiting_response, responses)
        self._take_rest(transport, responses)

    def _take_rest(self, transport: Transport, responses: list[ReceivedResponse]) -> None:
        """As `_take_responses`, if the next one is not plain, or is not there as a whole."""
        state = self._state
        awaiting, buffer = state.awaiting_response, state.buffer
        parser = state.parser
        while buffer.start != buffer.end and awaiting:
            exchange = awaiting[0]
            if exchange.request_side is _SELF_CONTINUE:
                return
            head = parser.next_head(exchange)
            if head is None:
                return
            response = self._begin_response(exchange, head, transport)
            if response is not None:
                if state.incoming is exchange:
                    assert exchange.reader is not None
                    body = exchange.reader.take_if_buffered()
                    response = (*response[:5], body)
                    if body is not None:
                        self._body.finish(exchange)
                responses.append(response)
                is_last = state.last_response_reason is not None
                if response[5] is None or response[1] < 200 or is_last:
                    return
            parser.take_whole(awaiting, responses)

    def _receive_many(
        self, transport: Transport, responses: list[ReceivedResponse]
    ) -> int | PollNeeded:
        """Receive into the empty buffer when many responses are due, and take what has come.

        Being woken costs as much as reading some responses. So if that was for few of them, time
        and again, it is to be for more; unless they do not come in a moment.
        """
        buffer = self._state.buffer
        low = 1
        if self._meagre >= _TOO_OFTEN:
            low = min(_WORTHWHILE * self._response_size, _ENOUGH)
            transport.receive_low_water = low
            buffer.grow(BUFFER_SIZE)
        try:
            received = buffer.fill(transport)
        finally:
            transport.receive_low_water = 1  # also if it was not used
        if not isinstance(received, int):
            return received
        self._take_responses(transport, responses)
        if responses:
            self._response_size = max(1, (received - len(buffer)) // len(responses))
        if received < low:
            self._meagre = -_NOT_NOW
        elif 0 < len(responses) < _WORTHWHILE:
            self._meagre += 1
        return received

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

    def _nothing_follows(self) -> ConnectionClosed:
        """Return the error for a response that cannot come any more."""
        state = self._state
        # Whatever follows a last response is none, even if it looks like one (RFC 9112 §9.6).
        return ConnectionClosed(state.failure or state.last_response_reason or "disconnected")

    def _continue_without_server(self, exchange: Exchange) -> ReceivedResponse:
        exchange.request_side = RequestSide.SENT
        return exchange, 100, "Continue", Headers(), 0, b""

    def _lose_response(self, transport: Transport | None, exc: BaseException) -> None:
        """The response that was next on *transport* cannot be received, because of *exc*.

        The exchange that it belongs to has its response, or this error: it is not waited for again.
        """
        state = self._state
        if isinstance(exc, ConnectionClosed):
            state.explained(exc)
        with state.lock:
            # If the sender has opened another connection, the response had been received.
            if state.transport is transport:
                self._body.fail_locked(earlier(exc))
                if state.awaiting_response:
                    state.awaiting_response.popleft()

    def _begin_response(
        self, exchange: Exchange, head: FramedHead, transport: Transport
    ) -> ReceivedResponse | None:
        """Let *head* be that of the response to *exchange*; None if it is a 1xx to be skipped."""
        state = self._state
        minor_version, status, reason, headers, kind, length, persistent, said_close = head
        switched = False
        special = exchange.special
        if special is not None or not persistent or status < 200:
            switches = status == 101 and special is not None and special.upgrade
            if status < 200 and not switches:
                return self._take_interim(exchange, head)
            switched = status == 101 or (exchange.method == "CONNECT" and status < 300)
            persistent = self._stays_open(exchange, status, persistent)
            if switched or not persistent:
                state.closing = True
                state.last_response_reason = _SWITCHED if switched else ENDED
                state.said_close = said_close
        self._body.truncation_reason = None
        exchange.minor_version = minor_version
        exchange.persistent = persistent
        if kind is not _NO_BODY:
            if kind is _LENGTH and length is not None:  # as nearly always
                exchange.reader = LengthReader(state.buffer, transport, length)
            else:
                exchange.reader = reader_for(kind, length, state.buffer, transport)
            state.incoming = exchange
        else:
            if state.recorder is not None:
                state.recorder.response_ended(exchange, len(state.buffer))
            if not persistent and not switched:
                self._body.end(exchange, transport)
        # Last: as long as the exchange is here, the sender knows that something is under way.
        state.awaiting_response.popleft()
        return exchange, status, reason, headers, length, b"" if kind is _NO_BODY else None

    def _take_interim(self, exchange: Exchange, head: FramedHead) -> ReceivedResponse | None:
        _, status, reason, headers, *_ = head
        exchange.interim += 1
        if self._state.recorder is not None:
            self._state.recorder.interim_ended(len(self._state.buffer))
        if status == 101 or exchange.interim > MAX_INTERIM:
            raise InvalidResponse(f"unexpected {status} response")
        if status == 100 and exchange.request_side is RequestSide.CONTINUE:
            exchange.request_side = RequestSide.BODY
            return exchange, 100, reason, headers, 0, b""
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
        return persistent and not (exchange.special is not None and exchange.special.close)
