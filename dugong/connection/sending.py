"""The send side: connect, send requests and their bodies. For the holder of the send turn.

Guarantees: nothing is sent behind half a message, or on a connection that is ending; an exchange
awaits its response before the first byte of its request is on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident

from dugong.connection.exchange import Exchange, RequestSide
from dugong.connection.polling import Coroutine, co_interruptible, eval_coroutine
from dugong.connection.state import ConnectionState
from dugong.connection.transport import Transport
from dugong.connection.wire import co_send_all, co_send_rest
from dugong.connection.writers import LengthWriter
from dugong.errors import ConnectionClosed, Delivery, DugongError, ExcessBodyData, StateError

__all__ = ["SendSide"]

_SMALL_BODY = 64 * 1024  # bytes; what is sent in one piece with its head

_UNFINISHED = (RequestSide.CONTINUE, RequestSide.BODY)


class SendSide:
    """What sends on the connection of *state*; the other one is its `ReceiveSide`.

    Each call takes the send turn, and raises `StateError` if another call has it.
    """

    __slots__ = ("_begun", "_state", "outgoing")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state  # never changes
        #: The exchange whose request body is being written. Set by the holder of the send turn;
        #: any thread may look whether there is one.
        self.outgoing: Exchange | None = None
        #: The exchange that was the last to be begun. Belongs to the holder of the send turn.
        self._begun: Exchange | None = None

    # --- connecting ------------------------------------------------------------------------------

    def co_connect(self) -> Coroutine[None]:
        """Connect, unless there is a connection. Raises as `dugong.connection.dial.co_dial`."""
        return self._state.co_with_turn(self._state.send_turn, self._co_connect())

    def _co_connect(self) -> Coroutine[None]:
        state = self._state
        with state.lock:
            connected = state.transport is not None and not (
                state.closing and state.nothing_under_way_locked()
            )
        if not connected:
            yield from self._co_open()

    def _co_open(self) -> Coroutine[None]:
        """Replace the connection, on which nothing is under way, by a new one."""
        state = self._state
        with state.lock:
            if state.aborted:  # then something may be under way, and is abort()'s to end
                raise ConnectionClosed("disconnected")
            if not state.nothing_under_way_locked():  # any more
                raise ConnectionClosed("the connection is closing")
            old, state.transport = state.transport, None
        if old is not None:
            old.close()
        transport = yield from co_interruptible(state.dial(), state.interrupt)
        with state.lock:
            self.outgoing = None
            state.parser.reset()
            state.incoming = None
            state.failure = state.last_response_reason = None
            state.said_close = state.gave_up_sending = False
            state.closing = False
            state.transport = transport
            # Looked at after the transport can be seen, so that it is closed by abort() or here.
            aborted = state.aborted
            if aborted:
                state.fail_locked("disconnected")
        if aborted:
            transport.close()
            raise ConnectionClosed("disconnected while connecting")

    # --- requests --------------------------------------------------------------------------------

    def send_request(
        self, exchange: Exchange, head: bytes, body: memoryview | None, timeout: float | None
    ) -> None:
        """Connect if necessary, then send *head* and *body*, blocking."""
        state = self._state
        turn = state.send_turn
        if turn.locked():
            raise state.busy(turn)
        try:
            with turn:
                try:
                    transport = self._begin_requests((exchange,))
                    if transport is None:
                        eval_coroutine(self._co_open(), timeout)
                        transport = self._begin_requests((exchange,), fresh=True)
                    assert transport is not None
                    if body is not None and body.nbytes <= _SMALL_BODY:
                        head, body = head + body, None
                    sent = transport.send(head)
                    if sent != len(head):
                        eval_coroutine(co_send_rest(transport, head, sent), timeout)
                    if body is not None:
                        eval_coroutine(co_send_all(transport, body), timeout)
                except BaseException as exc:
                    self._fail_to_send_if_begun(exchange, exc)
                    raise
        except BaseException:
            state.wake_waiters()
            raise
        finally:
            used = state.transport
            if used is not None and used.is_shut:
                state.close_if_unused()

    def co_send_request(
        self, exchange: Exchange, head: bytes, body: memoryview | None
    ) -> Coroutine[None]:
        """As `send_request`, as a coroutine."""
        sending = self._co_send_request(exchange, head, body)
        return self._state.co_with_turn(self._state.send_turn, sending)

    def _co_send_request(
        self, exchange: Exchange, head: bytes, body: memoryview | None
    ) -> Coroutine[None]:
        try:
            transport = self._begin_requests((exchange,))
            if transport is None:
                yield from self._co_open()
                transport = self._begin_requests((exchange,), fresh=True)
            assert transport is not None
            if body is not None and body.nbytes <= _SMALL_BODY:
                head, body = head + body, None
            yield from co_send_all(transport, head)
            if body is not None:
                yield from co_send_all(transport, body)
        except BaseException as exc:
            self._fail_to_send_if_begun(exchange, exc)
            raise

    def send_requests(
        self,
        exchanges: Sequence[Exchange],
        heads: Sequence[bytes],
        timeout: float | None,
        begun: Callable[[], None] | None,
    ) -> None:
        """Send requests in one go, blocking; never connects.

        *heads* has, for each, all of its bytes; only the last may have a body to follow. *begun*
        (or None) is called once a receiver may wait for their responses. If this fails,
        `Exchange.delivery` of each of them says how far it got. Raises `ConnectionClosed`,
        `ConnectionTimedOut` after *timeout* seconds (None: no limit) without progress, and
        `StateError`.
        """
        state = self._state
        turn = state.send_turn
        if turn.locked():
            raise state.busy(turn)
        try:
            with turn:
                self.send_in_turn(exchanges, heads, timeout, begun)
        except BaseException:
            state.wake_waiters()
            raise
        finally:
            used = state.transport
            if used is not None and used.is_shut:
                state.close_if_unused()

    def send_in_turn(
        self,
        exchanges: Sequence[Exchange],
        heads: Sequence[bytes],
        timeout: float | None,
        begun: Callable[[], None] | None,
    ) -> Transport:
        """As `send_requests`, for a caller that has the send turn and gives it back.

        Returns what they were sent over.
        """
        data = b"".join(heads)  # which is the head itself, if there is one
        sent = 0
        try:
            transport = self._begin_requests(exchanges)
            if transport is None:
                raise self._refusal()
            if begun is not None:
                begun()
            step = transport.send(data)
            while step != len(data) - sent:
                if isinstance(step, int):
                    sent += step
                else:
                    step.block(timeout)
                step = transport.send(memoryview(data)[sent:])
            self._begun = None  # its key would stay in memory while the connection is idle
        except BaseException as exc:
            # What an interrupt has come behind may have been sent without being counted.
            last, used = exchanges[-1], self._state.transport
            is_expected = isinstance(exc, (DugongError, OSError))
            if self._begun is last and used is not None:
                sent += used.on_its_way
            _note_delivery(exchanges, heads, sent, is_expected or self._begun is not last)
            self._fail_to_send_if_begun(last, exc)
            raise
        return transport

    def _refusal(self) -> Exception:
        """Return why a connection on which nothing is under way is not to be used any more."""
        used = self._state.transport
        refusal = None if used is None else used.refusal
        return refusal or ConnectionClosed("the server has closed the connection")

    def proceed(self, exchange: Exchange) -> None:
        """Let the body of *exchange* be written, though the server has not asked for it."""
        if exchange.request_side is RequestSide.CONTINUE:
            exchange.request_side = RequestSide.BODY

    def _begin_requests(
        self, exchanges: Sequence[Exchange], fresh: bool = False
    ) -> Transport | None:
        """Let *exchanges* await their responses; return what they are to be sent over.

        None: a connection has to be opened first, which has not been done a moment ago (*fresh*).
        A failure after this breaks the connection.
        """
        state = self._state
        last = exchanges[-1]
        with state.lock:
            outgoing = self.outgoing
            if (
                outgoing is not None
                and outgoing.request_side in _UNFINISHED
                and state.failure is None
            ):
                raise StateError(
                    "body data of the previous request has not been sent completely yet"
                )
            transport = state.transport
            awaiting = state.awaiting_response
            if fresh:
                transport = state.transport_in_use()
            # As `ConnectionState.nothing_under_way_locked`, once more for speed.
            elif not awaiting and not state.reading_raw and (not state.incoming or state.failure):
                buffer = state.buffer
                if (
                    transport is None
                    or state.closing
                    or buffer.start != buffer.end
                    or not transport.is_quiet()
                ):
                    return None
            elif state.closing:
                raise ConnectionClosed(
                    "the connection is closing; read the responses that are due first"
                )
            self._begun = last
            self.outgoing = last if last.writer is not None else None
            awaiting.extend(exchanges)
            if state.waiters:
                state.wake_waiters_locked()
            return transport

    def _fail_to_send_if_begun(self, exchange: Exchange, exc: BaseException) -> None:
        transport = self._state.transport
        if self._begun is exchange and transport is not None:
            self._fail_to_send(transport, exchange, exc)

    # --- request bodies --------------------------------------------------------------------------

    def co_write(self, view: memoryview) -> Coroutine[int]:
        """Send *view* as the next piece of the outgoing body; return its size."""
        return self._state.co_with_turn(self._state.send_turn, self._co_write(view))

    def _co_write(self, view: memoryview) -> Coroutine[int]:
        exchange, transport = self._writable()
        assert exchange.writer is not None
        exchange.writer.thread = get_ident()
        yield from self._co_send(transport, exchange, exchange.writer.frame, view)
        return view.nbytes

    def co_write_file(self, fd: int, offset: int, count: int) -> Coroutine[int]:
        """Send up to *count* bytes of the file *fd* as the next piece of the outgoing body.

        Returns how many; 0 means that the file ends there. For transports that can send files.
        """
        writing = self._co_write_file(fd, offset, count)
        return self._state.co_with_turn(self._state.send_turn, writing)

    def _co_write_file(self, fd: int, offset: int, count: int) -> Coroutine[int]:
        exchange, transport = self._writable()
        writer = exchange.writer
        assert isinstance(writer, LengthWriter)
        writer.thread = get_ident()
        try:
            while not isinstance(sent := transport.send_file(fd, offset, count), int):
                yield sent
            writer.remaining -= sent
            self._finish_request_if_complete(exchange)
            return sent
        except BaseException as exc:
            self._fail_to_send(transport, exchange, exc)
            raise

    def co_write_eof(self, trailers: bytes = b"") -> Coroutine[None]:
        """End the outgoing body: send the last chunk, or check that nothing is missing.

        *trailers* are the lines of the fields behind the last chunk.
        """
        return self._state.co_with_turn(self._state.send_turn, self._co_write_eof(trailers))

    def _co_write_eof(self, trailers: bytes) -> Coroutine[None]:
        if self.outgoing is None and not trailers:
            return
        exchange, transport = self._writable()
        assert exchange.writer is not None
        yield from self._co_send(transport, exchange, exchange.writer.end, trailers)

    def _writable(self) -> tuple[Exchange, Transport]:
        state = self._state
        exchange = self.outgoing
        if exchange is None and state.failure is not None:
            raise ConnectionClosed(state.failure)
        if exchange is None or exchange.request_side is RequestSide.REFUSED:
            raise StateError("no request is waiting for body data")
        if exchange.request_side is RequestSide.CONTINUE:
            raise StateError(
                "read_response() must return 100 (Continue) before the body is written"
            )
        if exchange.request_side is RequestSide.CANCELLED:
            reason = "the server responded or closed before the body was complete"
            raise state.explained(ConnectionClosed(reason))
        return exchange, state.transport_in_use()

    def _finish_request_if_complete(self, exchange: Exchange) -> None:
        assert exchange.writer is not None
        if exchange.writer.complete:
            exchange.request_side = RequestSide.SENT
            self.outgoing = None

    def _co_send(
        self,
        transport: Transport,
        exchange: Exchange,
        frame: Callable[..., Sequence[bytes | memoryview]],
        data: memoryview | bytes,
    ) -> Coroutine[None]:
        """Send what *frame* makes of *data*: a piece of the body, or the trailers at its end.

        If that fails or is given up at any point, nothing can be sent after it: the writer counts a
        piece as written before it is sent. Only what *frame* itself refuses has done nothing.
        """
        try:
            for piece in frame(data):
                yield from co_send_all(transport, piece)
            self._finish_request_if_complete(exchange)
        except (ExcessBodyData, StateError):
            raise
        except BaseException as exc:
            self._fail_to_send(transport, exchange, exc)
            raise

    def _fail_to_send(self, transport: Transport, exchange: Exchange, exc: BaseException) -> None:
        self._state.closing = True
        if exchange.request_side in _UNFINISHED:
            exchange.request_side = RequestSide.CANCELLED
        if not isinstance(exc, ConnectionClosed):
            # Half a message is out, and no response will come to it. But one may have come: that
            # is left for the receiver to read, as it is if the peer has closed.
            self._state.gave_up_sending = True
            if transport.has_arrivals():
                transport.keep_arrivals()
            transport.shutdown()


def _note_delivery(
    exchanges: Sequence[Exchange], heads: Sequence[bytes], sent: int, is_counted: bool
) -> None:
    """Note how far each of *exchanges* got, of whose *heads* *sent* bytes were sent.

    If not all that was sent *is_counted*, none of them is known to be unsent.
    """
    end = 0
    for exchange, head in zip(exchanges, heads, strict=True):
        start, end = end, end + len(head)
        if end > sent:
            unsent = is_counted and start >= sent
            exchange.delivery = Delivery.UNSENT if unsent else Delivery.PARTLY_SENT
