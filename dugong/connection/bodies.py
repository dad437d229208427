"""The bodies of responses, for the holder of the receive turn.

Guarantees: a body that was cut short is an exception, never an end; a wait that was given up has
lost nothing; after a read that was interrupted, what is left is not taken for all there is.

What receives takes the *timeout* that `dugong.connection.transport` describes: 0 for coroutines.
The calls that matter most have a blocking form, which takes the same steps without a coroutine.
"""

from __future__ import annotations

from typing import TypeVar

from dugong.connection.exchange import Exchange, RequestSide
from dugong.connection.polling import Coroutine, PollNeeded
from dugong.connection.readers import LengthReader
from dugong.connection.state import ConnectionState
from dugong.connection.transport import Transport
from dugong.errors import ConnectionClosed, ConnectionTimedOut, DugongError

__all__ = ["ENDED", "RESUMABLE", "BodySide", "earlier"]

T = TypeVar("T")

#: What may come out of a wait, with nothing lost. After anything else (KeyboardInterrupt between
#: any two steps, MemoryError), bytes may have been taken that no caller was given.
RESUMABLE = (ConnectionTimedOut, GeneratorExit)

#: Why nothing follows a response after which the connection does not persist.
ENDED = "the connection ended with an earlier response"

_FIRST_READ = 64 * 1024  # bytes at a time, of a body whose size is not known to be large
_READ_SIZE = 256 * 1024  # bytes at a time, of others


class BodySide:
    """Reads the body of the response that is incoming on the connection of *state*.

    Each call takes the receive turn, and raises `StateError` if another call has it.
    """

    __slots__ = ("_state", "truncation_reason")

    def __init__(self, state: ConnectionState) -> None:
        self._state = state  # never changes
        #: Why the body that was read last has no end, if it has none. Set by the holder of the
        #: receive turn; other threads may look at it when nothing is being received.
        self.truncation_reason = state.failure

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
        if exchange is None or state.failure is not None:
            reason = state.failure or self.truncation_reason
            if reason is not None:
                raise ConnectionClosed(reason)
            return 0
        if not view:
            return 0
        reader = exchange.reader
        assert reader is not None
        assert transport is not None
        transport.block_timeout = timeout
        try:
            got = reader.readinto(view)
        except RESUMABLE:
            raise
        except BaseException as exc:
            if isinstance(exc, ConnectionClosed):
                state.explained(exc)
            self.fail(earlier(exc))
            raise
        if reader.done:
            self.finish(exchange)
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
                        self.finish(exchange)
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
            if parts or not isinstance(exc, RESUMABLE):
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
            transport.block_timeout = timeout
            got = state.buffer.readinto(view) if state.buffer else transport.recv_into(view)
            while not isinstance(got, int):
                yield got
                got = transport.recv_into(view)
            if got:  # and if it was a part of something, the rest is nothing
                self.fail("the connection has been read from with read_raw()")
            return got
        finally:
            state.reading_raw = False

    def finish(self, exchange: Exchange) -> None:
        """The body of the response to *exchange* has been read. For the receive turn's holder."""
        state, reader = self._state, exchange.reader
        assert reader is not None
        exchange.trailers = reader.trailers
        if state.recorder is not None:
            state.recorder.response_ended(exchange, len(state.buffer))
        if reader.closed and exchange.persistent:
            # The server has ended the connection behind a body that is whole without that.
            exchange.persistent = False
            state.last_response_reason = ENDED
        if not exchange.persistent:
            assert state.transport is not None
            self.end(exchange, state.transport)
        # Last, for the sender may open the next connection now.
        state.incoming = None

    def end(self, exchange: Exchange, transport: Transport) -> None:
        """End the connection after a response; a sender that is at work is woken to hear so.

        But if it is to send all of the body, this direction alone has ended.
        """
        self._state.closing = True
        self._state.buffer.clear()
        if exchange.request_side is RequestSide.BODY:
            if exchange.special is not None and exchange.special.sends_to_end:
                return
            exchange.request_side = RequestSide.CANCELLED
        transport.shutdown()

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
        if not isinstance(exc, (*RESUMABLE, DugongError, OSError)):
            self._lose_body()

    def _lose_body(self) -> None:
        """See to it that the rest of the incoming body is not taken for all of it."""
        state = self._state
        self.truncation_reason = "an earlier read was given up within the body"
        with state.lock:
            if state.failure is None and state.incoming is not None:
                self.fail_locked(self.truncation_reason)

    def fail(self, failure: str) -> None:
        """End the connection for the receiver, who calls this while something is under way."""
        with self._state.lock:
            self.fail_locked(failure)

    def fail_locked(self, failure: str) -> None:
        """As `fail`. Only with the lock of the state held."""
        self.truncation_reason = failure
        self._state.fail_locked(failure)


def earlier(exc: BaseException) -> str:
    """Return what calls are told after one of them has failed because of *exc*."""
    return f"the connection failed earlier: {str(exc) or type(exc).__name__}"
