"""The receiving direction: read answers and their bodies. For whoever holds the receive turn.

Guarantees: answer n is given to request n or to nobody; a body that was cut short is an
exception, never an end; a wait that was given up has lost nothing.

What receives takes the *patience* that `dugong.connection.transport` describes: 0 for coroutines.
The two calls that matter most have a blocking form, which takes the same steps without a coroutine.
"""

from __future__ import annotations

import socket

from dugong.connection.buffer import BUFFER_SIZE
from dugong.connection.exchange import Exchange, HTTPResponse, RequestSide
from dugong.connection.framing import CLOSE, BodyKind, framing_sign, response_framing
from dugong.connection.head import MAX_HEADER_SIZE, parse_plain_head
from dugong.connection.polling import POLLIN, Coroutine, PollNeeded, eval_coroutine
from dugong.connection.readers import LengthReader, WholeReader, reader_for, whole_chunked_body
from dugong.connection.shared import Shared, busy
from dugong.connection.transport import Transport
from dugong.connection.wire import MAX_INTERIM, receive_head
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    DugongError,
    InvalidResponse,
    StateError,
)
from dugong.headers import Headers

__all__ = ["Answer", "Answers", "Receiving"]

#: (exchange, status, reason, header fields as a response takes them, length of the body, body if
#: all of it is there)
Answer = tuple[Exchange, int, str, Headers | bytes, int | None, bytes | None]
#: Answers, and what went wrong after them.
Answers = tuple[list[Answer], Exception | None]

_FIRST_READ = 64 * 1024  # bytes at a time, of a body whose size is not known to be large
_READ_SIZE = 256 * 1024  # bytes at a time, of others

_WORTHWHILE = 12  # answers for which it is worth to wait for a moment,
_TOO_OFTEN = 4  # after fewer have come so often;
_NOT_NOW = 64  # and if they did not come, how often fewer are right.
_ENOUGH = BUFFER_SIZE // 2  # bytes that are worth it, too

# What may come out of a wait, with nothing lost. After anything else (KeyboardInterrupt between any
# two steps, MemoryError), bytes may have been taken and not given to anybody.
_RESUMABLE = (ConnectionTimedOut, GeneratorExit)


class Receiving(Shared):
    """The receiver's half of a `dugong.connection.duplexer.Duplexer`."""

    def read_response(self, patience: float | None) -> HTTPResponse:
        """Receive the head of the next answer that is not an unasked 1xx, blocking."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        whole: list[Answer] = []
        try:
            if self.incoming is None:
                if self.buffer.start == self.buffer.end:
                    self._receive_something(patience)
                try:
                    self._take_whole_answers(whole, one_to_be_read=True)
                    if whole:
                        exchange, status, reason, block, length, _ = whole[0]
                        return HTTPResponse(
                            exchange.method, exchange.path, status, reason, block, length
                        )
                except BaseException as exc:  # an interrupt, between any two steps
                    self._fail(f"the connection failed earlier: {exc!r}")
                    raise
            while not isinstance(answer := self._next_answer(patience), HTTPResponse):
                if answer is None:
                    eval_coroutine(self._co_wait_for_sender(), patience)
                else:
                    answer.block(patience)
            return answer
        finally:
            self._release(self._receive_turn)

    def co_read_response(self, patience: float | None = 0) -> Coroutine[HTTPResponse]:
        """As `read_response`, as a coroutine."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        try:
            while not isinstance(answer := self._next_answer(patience), HTTPResponse):
                if answer is None:
                    yield from self._co_wait_for_sender()
                else:
                    yield answer
            return answer
        finally:
            self._release(self._receive_turn)

    def read_answers(self, patience: float | None) -> Answers:
        """Receive an answer, blocking, and all others that have come with it.

        Each comes with its body, or with None if not all of the body is there: that is the last,
        and the body is to be read. What went wrong, if anything did, comes behind the answers that
        were good before it.
        """
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        answers: list[Answer] = []
        try:
            empty = self.buffer.start == self.buffer.end
            if empty and len(self.pipeline) >= 2 * _WORTHWHILE:
                self._receive_many(patience, answers)
            else:
                if empty:
                    self._receive_something(patience)
                self._take_whole_answers(answers)
            while not answers or (self.pipeline and self.buffer.start < self.buffer.end):
                # A wait, and what is out of the ordinary: only for the first, or at no cost.
                answer = self._next_answer_and_body(0 if answers else patience)
                if answer is None:
                    break
                answers.append(answer)
                if answer[5] is None or answer[1] < 200:
                    break
                self._take_whole_answers(answers)
            return answers, None
        except Exception as exc:
            return answers, exc
        finally:
            self._release(self._receive_turn)

    def _receive_many(self, patience: float | None, answers: list[Answer]) -> None:
        """Receive, blocking, when many are due; add to *answers* those that have come as a whole.

        Being woken costs as much as reading some answers. So if that was for few of them, time and
        again, it is to be for more; unless they do not come in a moment.
        """
        low = 1
        if self._meagre >= _TOO_OFTEN and self.transport is not None:
            low = min(_WORTHWHILE * self._answer_size, _ENOUGH)
            self.transport.low_water = low
            self.buffer.grow(BUFFER_SIZE)
        self._receive_something(patience)
        if self.transport is not None:
            self.transport.low_water = 1  # also if it was not asked
        received = len(self.buffer)
        self._take_whole_answers(answers)
        if answers:
            self._answer_size = (received - len(self.buffer)) // len(answers)
        if received < low:
            self._meagre = -_NOT_NOW
        elif 0 < len(answers) < _WORTHWHILE:
            self._meagre += 1

    def _receive_something(self, patience: float | None) -> None:
        """Receive into the empty buffer, blocking if the transport does, if that is what is due."""
        transport = self.transport
        if (
            transport is not None
            and self.pipeline
            and self.incoming is None
            and self.failure is None
            and self.ended is None
        ):
            transport.patience = patience
            exchange = self.pipeline[0]
            try:
                self.buffer.fill(transport)
            except _RESUMABLE:
                raise
            except BaseException as exc:
                self._lose_answer(exchange, exc)
                raise

    def _take_whole_answers(self, answers: list[Answer], one_to_be_read: bool = False) -> None:
        """Add to *answers* the next ones, as long as all of each is in the buffer.

        Stops, having done nothing, at one that has not come completely, or has something special
        about it: it may be invalid, interim, or the last of this connection. With
        *one_to_be_read*, takes no more than one, whose body is left for the calls that read bodies.
        """
        buffer, pipeline = self.buffer, self.pipeline
        data, view = buffer.data, buffer.view
        start, end = buffer.start, buffer.end
        while start < end and pipeline:
            exchange = pipeline[0]
            stop = data.find(b"\r\n\r\n", start, end)
            if not 0 <= stop - start <= MAX_HEADER_SIZE - 4:
                return
            if exchange.special or self.ended is not None or self.failure is not None:
                return
            block = view[start:stop].tobytes()
            head = parse_plain_head(block, exchange.method)
            if head is None:
                return
            (minor_version, status, reason), (kind, length, persistent) = head
            if not persistent or status < 200:
                return
            begin = stop + 4
            if length is not None:
                start = begin + length
                if start > end:
                    return
                body = view[begin:start].tobytes() if length else b""
            elif kind is BodyKind.CHUNKED and (whole := whole_chunked_body(data, begin, end)):
                body, start = whole
            else:
                return
            exchange.minor_version = minor_version
            exchange.persistent = True
            self.cut = None
            buffer.start = start
            buffer.scanned = 0
            if one_to_be_read and body:
                exchange.reader = WholeReader(body)
                self.incoming = exchange
            answers.append((exchange, status, reason, block, length, body))
            # Last, as ever.
            pipeline.popleft()
            if one_to_be_read:
                return

    def _next_answer_and_body(self, patience: float | None) -> Answer | None:
        """Receive the next answer, and take its body if that is there; None: *patience* was 0."""
        while True:
            exchange = self.pipeline[0] if self.pipeline else None
            answer = self._next_answer(patience)
            if isinstance(answer, HTTPResponse):
                break
            if patience == 0:
                return None
            if answer is None:
                eval_coroutine(self._co_wait_for_sender(), patience)
            else:
                answer.block(patience)
        assert exchange is not None
        body: bytes | None = b""
        incoming = self.incoming
        if incoming is not None:
            reader = incoming.reader
            body = reader.take_if_buffered() if isinstance(reader, LengthReader) else None
            if body is not None:
                self._finish_answer(incoming)
        return exchange, answer.status, answer.reason, answer.headers, answer.length, body

    def _next_answer(self, patience: float | None) -> HTTPResponse | PollNeeded | None:
        """Like a reader: do what can be done without waiting, or with *patience*.

        None means that the sender must be waited for.
        """
        if self.incoming is not None and self.failure is None:
            raise StateError("the body of the previous response has not been read completely yet")
        if not self.pipeline:
            if self._send_turn.locked() and not self.aborted:
                return None
            if not self.pipeline:  # still, now that the sender is known to have finished
                if self.failure or self.aborted:
                    raise ConnectionClosed(self.failure or "disconnected")
                raise StateError("No pending requests")
        exchange = self.pipeline[0]
        if exchange.answer_100:
            exchange.answer_100 = False
            return _continue(exchange, "Continue", Headers())
        try:
            return self._receive_answer(exchange, patience)
        except _RESUMABLE:
            raise
        except BaseException as exc:
            self._lose_answer(exchange, exc)
            raise

    def _lose_answer(self, exchange: Exchange, exc: BaseException) -> None:
        """The answer to *exchange* cannot be received, unless it has been, because of *exc*."""
        if self.pipeline and self.pipeline[0] is exchange:
            self._fail(f"the connection failed earlier: {exc}")
            self.pipeline.popleft()

    def _receive_answer(
        self, exchange: Exchange, patience: float | None
    ) -> HTTPResponse | PollNeeded:
        """Receive an answer to *exchange*, or return what to wait for."""
        transport = self._transport_in_use()
        if self.ended is not None:
            # Whatever follows a last answer is none, even if it looks like one (RFC 9112 §9.6).
            raise ConnectionClosed(self.ended)
        transport.patience = patience
        while True:
            head = receive_head(transport, self.buffer)
            if isinstance(head, PollNeeded):
                return head
            minor_version, status, reason, fields = head
            if status >= 200 or (status == 101 and exchange.upgrade):
                break
            exchange.interim += 1
            if status == 101 or exchange.interim > MAX_INTERIM:
                raise InvalidResponse(f"unexpected {status} response")
            if status == 100 and exchange.request_side is RequestSide.CONTINUE:
                exchange.request_side = RequestSide.BODY
                return _continue(exchange, reason, Headers._from_parsed(fields))

        method = exchange.method
        exchange.minor_version = minor_version
        signs = [framing_sign(name, value) for name, _, value in fields]
        kind, length, persistent = response_framing(method, minor_version, status, signs)
        persistent = persistent and not exchange.close
        if exchange.writer is None:
            pass
        elif exchange.request_side is RequestSide.CONTINUE:
            # The server may still count on the body that it has not asked for, and would take the
            # next request for it (RFC 9110 §10.1.1). So nothing is sent after this.
            exchange.request_side = RequestSide.REFUSED
            persistent = False
        elif exchange.request_side is RequestSide.BODY and status >= 300:
            exchange.request_side = RequestSide.CANCELLED  # RFC 9112 §9.5
            persistent = False
        switched = status == 101 or (method == "CONNECT" and status < 300)
        if switched or not persistent:
            self.closing = True
            self.ended = (
                "the connection has changed its protocol"
                if switched
                else "the connection ended with an earlier answer"
            )
            self.said_close = CLOSE in signs
        self.cut = None
        exchange.persistent = persistent
        exchange.reader = reader_for(kind, length, self.buffer, transport)
        if exchange.reader is not None:
            self.incoming = exchange
        elif not persistent and not switched:
            self._end(exchange, transport)
        headers = Headers._from_parsed(fields)
        response = HTTPResponse(method, exchange.path, status, reason, headers, length)
        # Last, for as long as the exchange is here, the sender knows that something is under way.
        self.pipeline.popleft()
        return response

    def readinto(self, view: memoryview, patience: float | None) -> int:
        """Receive the next part of the incoming body into *view*, blocking; 0 is its end."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        try:
            while not isinstance(got := self._next_part(view, patience), int):
                got.block(patience)
            return got
        except BaseException as exc:
            self._lose_body_unless_harmless(exc)
            raise
        finally:
            self._release(self._receive_turn)

    def co_readinto(self, view: memoryview, patience: float | None = 0) -> Coroutine[int]:
        """As `readinto`, as a coroutine."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        try:
            return (yield from self._co_readinto(view, patience))
        except BaseException as exc:
            self._lose_body_unless_harmless(exc)
            raise
        finally:
            self._release(self._receive_turn)

    def _co_readinto(self, view: memoryview, patience: float | None) -> Coroutine[int]:
        while not isinstance(got := self._next_part(view, patience), int):
            yield got
        return got

    def _next_part(self, view: memoryview, patience: float | None) -> int | PollNeeded:
        """Like a reader: do what can be done without waiting, or with *patience*."""
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
            got = reader.readinto(view)
        except _RESUMABLE:
            raise
        except BaseException as exc:
            self._fail(f"the connection failed earlier: {exc}")
            raise
        if reader.done:
            self._finish_answer(exchange)
        return got

    def co_read(self, size: int, patience: float | None = 0) -> Coroutine[bytes]:
        """Receive at least one and at most *size* bytes of the incoming body; b"" is its end."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        try:
            reader = self.incoming.reader if self.incoming is not None else None
            if isinstance(reader, (LengthReader, WholeReader)):
                size = min(size, reader.remaining)
            view = memoryview(bytearray(min(size, _READ_SIZE)))
            got = yield from self._co_readinto(view, patience)
            return bytes(view[:got])
        except BaseException as exc:
            self._lose_body_unless_harmless(exc)
            raise
        finally:
            self._release(self._receive_turn)

    def take_body(self) -> bytes | None:
        """Return the rest of the incoming body if all of it has been received, else None."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        try:
            exchange = self.incoming
            if exchange is None or self.failure is not None:
                return None
            reader = exchange.reader
            body = None
            if isinstance(reader, (WholeReader, LengthReader)):
                body = reader.take_if_buffered()
            if body is not None:
                self._finish_answer(exchange)
            return body
        except BaseException as exc:
            self._lose_body_unless_harmless(exc)
            raise
        finally:
            self._release(self._receive_turn)

    def co_readall(self, patience: float | None = 0) -> Coroutine[bytes]:
        """Receive the rest of the incoming body."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
        parts: list[bytes] = []
        try:
            view = memoryview(bytearray(_FIRST_READ))
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
        view = memoryview(bytearray(_FIRST_READ))
        while (yield from self.co_readinto(view, patience)):
            pass

    def co_read_raw(self, view: memoryview, patience: float | None = 0) -> Coroutine[int]:
        """Receive into *view* whatever comes next, as it is on the wire."""
        if not self._receive_turn.acquire(False):
            raise busy("receiving")
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

    def _lose_body_unless_harmless(self, exc: BaseException) -> None:
        """An exception from anywhere (a signal handler's) may come after bytes have been taken."""
        if not isinstance(exc, (*_RESUMABLE, DugongError, OSError)):
            self._lose_body()

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


def _continue(exchange: Exchange, reason: str, headers: Headers) -> HTTPResponse:
    return HTTPResponse(exchange.method, exchange.path, 100, reason, headers, 0)
