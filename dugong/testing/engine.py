"""`MockEngine`: a connection of a `MockPool`, with a function in place of network and server.

Guarantees: as of `dugong.pool.io.engine.Engine`. Requests are responded to in the order in which
they were sent, one after the other, each once all of it has been sent. Touches no socket. Starts no
threads: the function is called by the thread that receives.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import Condition
from typing import TYPE_CHECKING

from dugong.connection.framing import list_members
from dugong.connection.head import headers_of
from dugong.connection.peer import NO_PEER, PeerInfo
from dugong.connection.polling import timed_out
from dugong.connection.readers import NO_TRAILERS
from dugong.errors import ConnectionClosed, Delivery, DugongError
from dugong.headers import Headers
from dugong.pool.failure import BodyError, ends_program
from dugong.pool.io.http1 import blaming_body
from dugong.pool.io.metering import upload_meter
from dugong.testing.messages import MockRequest, MockResponse, verdict_on

if TYPE_CHECKING:
    from dugong.pool.body import RequestBody
    from dugong.pool.core.job import Job
    from dugong.pool.io.engine import Completion

__all__ = ["MockEngine"]

#: How far the requests behind one got that has got so far. Of all others, all was sent.
_BEHIND = {
    Delivery.UNSENT: Delivery.UNSENT,
    Delivery.PARTLY_SENT: Delivery.UNSENT,
    Delivery.DISCLAIMED: Delivery.DISCLAIMED,
}


class MockExchange:
    """One sending of a request, and its response."""

    __slots__ = (
        "body",
        "head",
        "is_sent",
        "key",
        "minor_version",
        "persistent",
        "sent_trailers",
        "trailers",
    )

    def __init__(self, job: Job) -> None:
        request = job.request
        head = job.head or job.host.builder.plain_head(request.method, request.target)
        self.key: Job = job  # never changes
        self.head: bytes  # never changes
        self.head, _, body = head.partition(b"\r\n\r\n")
        # These belong to the sender until all of the request is sent.
        self.body: bytearray = bytearray(body)
        self.sent_trailers: Headers = NO_TRAILERS
        self.is_sent: bool = job.extras.upload is None  # all of it; guarded by the engine's lock
        # The receiver's:
        self.persistent: bool = True
        self.minor_version: int = 1
        self.trailers: Headers = NO_TRAILERS

    def received(self) -> MockRequest:
        """Return the request as a server receives it."""
        request = self.key.request
        headers = headers_of(self.head)
        body, trailers = bytes(self.body), self.sent_trailers
        return MockRequest(request.method, request.url, headers, body, request, trailers)


class MockEngine:
    """A connection without a network, as `dugong.pool.io.engine.Engine` describes it.

    *respond* returns the response to a request, or raises what ends the connection: a
    `DugongError`. Whatever else it raises is the outcome of the request.
    """

    capacity: int = sys.maxsize
    peer: PeerInfo = NO_PEER
    has_stray_bytes = False
    gave_up_sending = False
    keep_alive_timeout: float | None = None
    paused: float = 0.0
    held_up_until: float = float("-inf")

    def __init__(self, respond: Callable[[MockRequest], MockResponse]) -> None:
        self._respond = respond  # never changes
        #: Guards what it says below; told of all changes of that.
        self._changed = Condition()
        self._ended = False  # nothing is sent or received any more; guarded by the lock
        # What has been sent, oldest first; guarded by the lock. Whether it is empty is seen without
        # the lock, in free-threaded CPython, too.
        self._awaiting: deque[MockExchange] = deque()
        # These belong to the receiving thread; others look at them when it has left.
        self._said_close = False  # no response comes behind the last one
        self._verdict: Delivery | None = None  # on the request that has ended the connection
        # The body that is to be read:
        self._incoming: Iterator[memoryview] | None = None
        self._exchange: MockExchange | None = None  # which it belongs to
        self._piece = b""  # what has been taken from it, and not been read
        self._unread: int | None = None  # bytes that are to come; None: that is not known
        self._trailers: Headers = NO_TRAILERS

    @property
    def is_awaiting(self) -> bool:
        return bool(self._awaiting)

    @property
    def has_unread(self) -> bool:
        return bool(self._awaiting) or self._incoming is not None

    @property
    def was_ended_by_peer(self) -> bool:
        return self._said_close

    def is_at_rest(self, keep_alive: float | None) -> bool:
        return keep_alive is None

    # --- sending ----------------------------------------------------------------------------------

    def connect(self, timeout: float | None) -> None:
        if self._ended:  # a stale value does no harm: sending looks again
            raise ConnectionClosed("disconnected while connecting")

    def send(self, batch: Sequence[Job], begun: Callable[[], None] | None) -> None:
        exchanges = [MockExchange(job) for job in batch]
        with self._changed:
            if self._ended or self._said_close:
                raise ConnectionClosed("the server has closed the connection")
            for exchange in exchanges:
                exchange.key.exchange = exchange
            self._awaiting.extend(exchanges)
        if begun is not None:
            begun()

    def send_body(
        self, job: Job, wait_for_continue: Callable[[Callable[[], bool]], object]
    ) -> None:
        assert job.extras.upload is not None
        exchange: MockExchange = job.exchange
        body = job.extras.upload.body
        pieces = (piece for segment in body.segments() for piece in segment.pieces())
        meter = upload_meter(job)
        while True:
            with blaming_body():
                piece = next(pieces, None)
            if piece is None:
                break
            with piece:  # or an exception would keep it, and a bytearray its size
                exchange.body += piece
                if meter is not None:
                    meter.add(len(piece))
            if self._ended:
                raise ConnectionClosed("the connection has ended before the body was sent")
        if job.extras.upload.make_trailers is not None:
            with blaming_body("what makes the trailers of a request"):
                exchange.sent_trailers = Headers(job.extras.upload.make_trailers())
        if meter is not None:
            meter.finish()
        with self._changed:
            exchange.is_sent = True
            self._changed.notify_all()

    # --- receiving --------------------------------------------------------------------------------

    def receive(self) -> tuple[list[Completion], Exception | None]:
        try:
            return [self._receive()], None
        except Exception as exc:
            return [], exc

    def _receive(self) -> Completion:
        exchange = self._awaiting[0]
        job = exchange.key
        if not self._wait(lambda: exchange.is_sent, job.timeout):
            raise timed_out("received", job.timeout)
        try:
            response = self._respond(exchange.received())
            headers, body = response.message_for(job.request.method)
        except DugongError as exc:
            self._verdict = verdict_on(exc)
            raise
        except BaseException as exc:
            if ends_program(exc):
                raise
            raise self._blame(job, exc) from exc
        if response.delay:
            is_late = job.timeout is not None and job.timeout < response.delay
            self._wait(lambda: False, job.timeout if is_late else response.delay)
            if is_late:
                raise timed_out("received", job.timeout)
        exchange.persistent = not job.extras.close and not _says_close(headers)
        with self._changed:
            self._awaiting.popleft()
            self._said_close = not exchange.persistent
        data, whole = body.data, None
        if data is not None:
            whole, exchange.trailers = bytes(data), response.trailers
        else:
            self._exchange, self._incoming = exchange, _pieces(body)
            self._unread, self._trailers = body.length, response.trailers
        return exchange, response.status, response.reason, headers, body.length, whole

    def _blame(self, job: Job, exc: BaseException) -> Exception:
        """Return what ends the connection because the caller's code has raised *exc* for *job*.

        That is the outcome of its request, whatever its policy says.
        """
        if not isinstance(exc, Exception):
            error = RuntimeError(f"what responds has raised {exc!r}")
            error.__cause__ = exc
            exc = error
        job.fatal_error = BodyError(exc, "what responds")
        return job.fatal_error

    def _wait(self, is_over: Callable[[], bool], seconds: float | None) -> bool:
        """Wait until *is_over*, for *seconds* at most; return whether it is.

        Raises `ConnectionClosed` if the connection ends meanwhile.
        """
        with self._changed:
            was_told = self._changed.wait_for(lambda: self._ended or is_over(), seconds)
            if self._ended:
                raise ConnectionClosed
            return was_told

    def readinto(self, view: memoryview, timeout: float | None) -> int:
        piece = self.read(len(view), timeout)
        view[: len(piece)] = piece
        return len(piece)

    def read(self, size: int, timeout: float | None) -> bytes:
        if self._ended:
            raise ConnectionClosed
        incoming, exchange = self._incoming, self._exchange
        if incoming is None or exchange is None:
            return b""
        if not self._piece:
            try:
                self._piece = bytes(next(incoming, b""))
            except DugongError:
                raise
            except BaseException as exc:
                if ends_program(exc):
                    raise
                raise self._blame(exchange.key, exc) from exc
        piece, self._piece = self._piece[:size], self._piece[size:]
        if self._unread is not None:
            self._unread -= len(piece)
        if not piece:
            exchange.trailers = self._trailers
            self._incoming = self._exchange = None
        return piece

    def finish_body(self, most: int, timeout: float | None) -> bool:
        unread = self._unread
        if unread is not None and unread <= most:
            while self.read(most, timeout):
                pass
        return self._incoming is None

    # --- both -------------------------------------------------------------------------------------

    def exchange(self, job: Job) -> tuple[list[Completion], Exception | None]:
        self.send((job,), None)
        return self.receive()

    # --- any thread -------------------------------------------------------------------------------

    def verdict(self, job: Job, is_oldest: bool, failure: Exception | None) -> Delivery:
        exchange: MockExchange | None = job.exchange
        if exchange is None:
            return Delivery.UNSENT
        if failure is None and self._said_close:
            return Delivery.DISCLAIMED  # RFC 9112 §9.6
        if is_oldest and job.response_started:
            return Delivery.ANSWER_STARTED
        if self._verdict is not None:
            return self._verdict if is_oldest else _BEHIND.get(self._verdict, Delivery.SENT)
        return Delivery.SENT if exchange.is_sent else Delivery.PARTLY_SENT

    def has_arrivals(self, oldest: Job) -> bool:
        return False  # what has come is received at once

    def abort(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def release_memory(self) -> None:
        pass

    def drop(self) -> None:
        pass


def _says_close(headers: Headers) -> bool:
    return any("close" in list_members(value) for value in headers.get_all("connection", []))


def _pieces(body: RequestBody) -> Iterator[memoryview]:
    """Yield the bytes of *body*, as the sender of a request would send them."""
    body.rewind()
    try:
        for segment in body.segments():
            yield from segment.pieces()
    finally:
        body.end_sending()
