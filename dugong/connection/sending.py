"""The sending direction: connect, send requests and their bodies. For whoever holds the send turn.

Guarantees: nothing is sent behind half a message, or on a connection that is ending; an exchange
is in the pipeline before the first byte of its request is on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident

from dugong.connection.exchange import Exchange, RequestSide
from dugong.connection.polling import Coroutine, co_interruptible, eval_coroutine
from dugong.connection.shared import Shared, busy
from dugong.connection.transport import Transport
from dugong.connection.wire import co_send_all, co_send_rest
from dugong.connection.writers import LengthWriter
from dugong.errors import ConnectionClosed, Delivery, StateError

__all__ = ["Sending"]

_SMALL_BODY = 64 * 1024  # bytes; what is sent in one piece with its head

_UNFINISHED = (RequestSide.CONTINUE, RequestSide.BODY)


class Sending(Shared):
    """The sender's half of a `dugong.connection.duplexer.Duplexer`."""

    def co_connect(self) -> Coroutine[None]:
        """Connect, unless there is a connection. Raises as `dugong.connection.dial.co_dial`."""
        if not self._send_turn.acquire(False):
            raise busy("sending")
        try:
            if self.transport is None or (self.closing and self._nothing_under_way()):
                yield from self._co_open()
        finally:
            self._release(self._send_turn)

    def send_request(
        self, exchange: Exchange, head: bytes, body: memoryview | None, timeout: float | None
    ) -> None:
        """Connect if necessary, then send *head* and *body*, blocking."""
        if not self._send_turn.acquire(False):
            raise busy("sending")
        try:
            if not self._may_send_request():
                eval_coroutine(self._co_open(), timeout)
            transport = self._transport_in_use()
            if body is not None and body.nbytes <= _SMALL_BODY:
                head, body = head + body, None
            try:
                self._begin_request(exchange)
                sent = transport.send(head)
                if sent != len(head):
                    eval_coroutine(co_send_rest(transport, head, sent), timeout)
                if body is not None:
                    eval_coroutine(co_send_all(transport, body), timeout)
            except BaseException as exc:
                self._fail_to_send(transport, exchange, exc)
                raise
        finally:
            self._release(self._send_turn)

    def co_send_request(
        self, exchange: Exchange, head: bytes, body: memoryview | None
    ) -> Coroutine[None]:
        """As `send_request`, as a coroutine."""
        if not self._send_turn.acquire(False):
            raise busy("sending")
        try:
            if not self._may_send_request():
                yield from self._co_open()
            transport = self._transport_in_use()
            if body is not None and body.nbytes <= _SMALL_BODY:
                head, body = head + body, None
            try:
                self._begin_request(exchange)
                yield from co_send_all(transport, head)
                if body is not None:
                    yield from co_send_all(transport, body)
            except BaseException as exc:
                self._fail_to_send(transport, exchange, exc)
                raise
        finally:
            self._release(self._send_turn)

    def send_requests(
        self,
        batch: Sequence[tuple[Exchange, bytes]],
        timeout: float | None,
        begun: Callable[[], None],
    ) -> None:
        """Send requests in one go, blocking; never connects.

        *batch* has, for each, all of its bytes; only the last may have a body to follow. *begun* is
        called once a receiver may wait for their answers. If this fails, `Exchange.delivery` of
        each of them says how far it got.
        """
        if not self._send_turn.acquire(False):
            raise busy("sending")
        sent = 0
        try:
            if not self._may_send_request():
                refusal = None if self.transport is None else self.transport.refusal
                raise refusal or ConnectionClosed("the server has closed the connection")
            transport = self._transport_in_use()
            try:
                last, data = batch[-1]
                self.outgoing = last if last.writer is not None else None
                if len(batch) == 1:
                    self.pipeline.append(last)
                else:
                    self.pipeline.extend([exchange for exchange, _ in batch])
                    data = b"".join([part for _, part in batch])
                begun()
                step = transport.send(data)
                while step != len(data) - sent:
                    if isinstance(step, int):
                        sent += step
                    else:
                        step.block(timeout)
                    step = transport.send(memoryview(data)[sent:])
            except BaseException as exc:
                self._fail_to_send(transport, batch[-1][0], exc)
                raise
        except BaseException:
            end = 0
            for exchange, part in batch:
                start, end = end, end + len(part)
                if end > sent:
                    exchange.delivery = Delivery.PARTLY_SENT if start < sent else Delivery.UNSENT
            raise
        finally:
            self._release(self._send_turn)

    def proceed(self, exchange: Exchange) -> None:
        """Let the body of *exchange* be written, though the server has not asked for it."""
        if exchange.request_side is RequestSide.CONTINUE:
            exchange.request_side = RequestSide.BODY

    def _may_send_request(self) -> bool:
        """Return True if a request may be sent now, False if a connection must be opened first."""
        if (
            self.outgoing is not None
            and self.outgoing.request_side in _UNFINISHED
            and self.failure is None
        ):
            raise StateError("body data of the previous request has not been sent completely yet")
        if self._nothing_under_way():
            transport = self.transport
            return (
                transport is not None
                and not self.closing
                and self.buffer.start == self.buffer.end
                and transport.is_quiet()
            )
        if self.closing:
            raise ConnectionClosed("the connection is ending; read the answers that are due first")
        return True

    def _begin_request(self, exchange: Exchange) -> None:
        """Put *exchange* into the pipeline. What goes wrong from here on breaks the connection."""
        self.outgoing = exchange if exchange.writer is not None else None
        self.pipeline.append(exchange)
        if self._waiters:
            self._wake_waiters()

    def co_write(self, view: memoryview) -> Coroutine[int]:
        """Send *view* as the next piece of the outgoing body; return its size."""
        if not self._send_turn.acquire(False):
            raise busy("sending")
        try:
            exchange, transport = self._writable()
            assert exchange.writer is not None
            exchange.thread = get_ident()
            yield from self._co_send(transport, exchange, *exchange.writer.frame(view))
            self._finish_request_if_complete(exchange)
            return view.nbytes
        finally:
            self._release(self._send_turn)

    def co_write_file(self, fd: int, offset: int, count: int) -> Coroutine[int]:
        """Send up to *count* bytes of the file *fd* as the next piece of the outgoing body.

        Returns how many; 0 means that the file ends there. For transports that can send files.
        """
        if not self._send_turn.acquire(False):
            raise busy("sending")
        try:
            exchange, transport = self._writable()
            writer = exchange.writer
            assert isinstance(writer, LengthWriter)
            exchange.thread = get_ident()
            try:
                while not isinstance(sent := transport.send_file(fd, offset, count), int):
                    yield sent
            except BaseException as exc:
                self._fail_to_send(transport, exchange, exc)
                raise
            writer.remaining -= sent
            self._finish_request_if_complete(exchange)
            return sent
        finally:
            self._release(self._send_turn)

    def co_write_eof(self) -> Coroutine[None]:
        """End the outgoing body: send the last chunk, or check that nothing is missing."""
        if not self._send_turn.acquire(False):
            raise busy("sending")
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
            self._fail_to_send(transport, exchange, exc)
            raise

    def _fail_to_send(self, transport: Transport, exchange: Exchange, exc: BaseException) -> None:
        self.closing = True
        if exchange.request_side in _UNFINISHED:
            exchange.request_side = RequestSide.CANCELLED
        if not isinstance(exc, ConnectionClosed):
            # Half a message is out, and no answer will come to it. If on the other hand the
            # peer has closed, it may have said why: that is left for the receiver to read.
            transport.shutdown()

    def _co_open(self) -> Coroutine[None]:
        """Replace the connection, on which nothing is under way, by a new one."""
        if self.aborted:  # then something may be under way, and is abort()'s to end
            raise ConnectionClosed("disconnected")
        if self.transport is not None:
            self.transport.close()
            self.transport = None
        transport = yield from co_interruptible(self._dial(), self._interrupt)
        self.buffer.clear()
        self.incoming = self.outgoing = None
        self.closing = False
        self.failure = self.ended = None
        self.said_close = False
        self.transport = transport
        if self.aborted:
            transport.close()
            raise ConnectionClosed("disconnected while connecting")
