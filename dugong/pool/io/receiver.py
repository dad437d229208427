"""The receiver's loop: receive, parse all that came, then report it.

Guarantees: a response is reported for the request that it belongs to; a body is whole, or an
exception. Runs in a thread of its own for each connection; a step of it also in the thread of a
caller who makes a request by itself.
"""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

from dugong.connection.head import headers_of
from dugong.errors import ConnectionClosed, ConnectionTimedOut, Delivery, ResponseTooLarge
from dugong.pool.failure import Abandoned, failure
from dugong.pool.response import Response, StreamedResponse

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.job import Job
    from dugong.pool.core.scheduler import Scheduler
    from dugong.pool.core.traffic import Traffic
    from dugong.pool.io.engine import Completion

__all__ = ["LONG", "ConnectionBody", "handle", "receive", "run", "streamed"]

#: Bytes: nothing is sent behind a response longer than this, and no more than this is drained.
LONG = 256 * 1024

#: Bytes: as much of a response is read when its caller does not want it, to keep the connection.
_DRAINED = 64 * 1024
#: Seconds that this may take.
DRAIN_TIME = 1.0

_FIRST_PIECE = 16 * 1024  # bytes received at a time of a body whose length is not known,
_PIECE = 256 * 1024  # and once it is known to be larger than that


def run(traffic: Traffic, connection: PooledConnection) -> None:
    """Receive until the connection ends."""
    try:
        while traffic.await_responses(connection):
            receive(traffic, connection)
    except BaseException as exc:
        traffic.crashed(connection, exc)
        raise


def receive(traffic: Traffic, connection: PooledConnection) -> None:
    """Receive at least one response, blocking, and report what has come."""
    completions, error = connection.engine.receive()
    handle(traffic, connection, completions, error)


def handle(
    traffic: Traffic,
    connection: PooledConnection,
    completions: list[Completion],
    error: Exception | None,
) -> None:
    """Report *completions*; *error* is what came behind them."""
    limit = traffic.limits.max_body_size
    done: list[tuple[Job, Response]] = []
    for exchange, status, reason, headers, length, buffered in completions:
        if status < 200:  # the 100 that was asked for
            traffic.continue_sending(connection)
            return
        job = exchange.key
        body = buffered
        if body is None or (len(body) > limit and not job.streamed):
            job.response_started = True
            try:
                if body is not None:
                    raise _too_large(len(body), limit)
                if job.streamed:
                    beginning = b""
                    if traffic.may_be_retried(job, status):
                        beginning, body = _receive_beginning(traffic, connection, job, length)
                    if body is None:
                        source = ConnectionBody(job, connection, beginning)
                        response = StreamedResponse(
                            status,
                            reason,
                            headers_of(headers),
                            job.request,
                            length,
                            source,
                            job.attempts,
                        )
                        if traffic.hand_over(connection, job, response, source):
                            return
                if body is None:
                    body = _receive_body(traffic, connection, job, length)
            except Exception as exc:
                error = exc
                break
        done.append((job, Response(status, reason, headers, body, job.request, job.attempts)))
    if isinstance(error, ConnectionTimedOut) and not done and traffic.sends_body(connection):
        return  # as long as there is progress in the other direction, this is no time-out
    traffic.responded(connection, done, error)


def _receive(traffic: Traffic, connection: PooledConnection, job: Job, view: memoryview) -> int:
    """Receive the next part of the body into *view*; 0 is its end."""
    while True:
        try:
            return connection.engine.readinto(view, job.timeout)
        except ConnectionTimedOut:
            if not traffic.sends_body(connection):
                raise


def _receive_beginning(
    traffic: Traffic, connection: PooledConnection, job: Job, length: int | None
) -> tuple[bytes, bytes | None]:
    """Return what can be kept of a body, and again if that is all of it (else None).

    So a response that is streamed can be let go of for another attempt, and handed over otherwise.
    """
    if length is not None and length > LONG:
        return b"", None
    parts: list[bytes] = []
    received = 0
    view = memoryview(bytearray(min(length or _PIECE, _PIECE)))
    while received <= LONG:
        got = _receive(traffic, connection, job, view)
        if not got:
            whole = b"".join(parts)
            return whole, whole
        parts.append(bytes(view[:got]))
        received += got
    return b"".join(parts), None


def _receive_body(
    traffic: Traffic, connection: PooledConnection, job: Job, length: int | None
) -> bytes:
    limit = traffic.limits.max_body_size
    if length is not None and length > limit:
        raise _too_large(length, limit)
    if length is None or length > LONG:
        traffic.block(connection)
    received = 0
    if length is not None:
        whole = bytearray(length)
        view = memoryview(whole)
        while received < length:
            # A stale value costs one more step.
            if job.is_decided and length - received > LONG:
                raise Abandoned
            received += _receive(traffic, connection, job, view[received:])
        return bytes(whole)
    parts: list[bytes] = []
    view = memoryview(bytearray(_FIRST_PIECE))
    while got := _receive(traffic, connection, job, view):
        received += got
        if job.is_decided and received > LONG:
            raise Abandoned
        if received > limit:
            raise ResponseTooLarge(f"the body is larger than max_body_size ({limit} bytes)")
        parts.append(bytes(view[:got]))
        if got == len(view) < _PIECE:
            view = memoryview(bytearray(_PIECE))
    return b"".join(parts)


def _too_large(size: int, limit: int) -> ResponseTooLarge:
    return ResponseTooLarge(f"a body of {size} bytes is more than max_body_size ({limit})")


class ConnectionBody:
    """The body of a streamed response, which its caller reads from the connection itself."""

    def __init__(self, job: Job, connection: PooledConnection, beginning: bytes = b"") -> None:
        self._job = job  # never changes
        self._connection = connection  # never changes
        self._beginning = beginning  # which has been received already; owner: the caller

    def readinto(self, view: memoryview) -> int:
        """Receive the next part of the body straight into *view*; 0 is its end."""
        if self._beginning:
            piece = self._take(len(view))
            view[: len(piece)] = piece
            return len(piece)
        try:
            return self._connection.engine.readinto(view, self._job.timeout)
        except Exception as exc:
            raise self._error(exc) from None

    def read(self, size: int) -> bytes:
        """Receive up to *size* bytes of the body; b"" is its end."""
        if self._beginning:
            return self._take(size)
        try:
            return self._connection.engine.read(size, self._job.timeout)
        except Exception as exc:
            raise self._error(exc) from None

    def _take(self, size: int) -> bytes:
        piece, self._beginning = self._beginning[:size], self._beginning[size:]
        return piece

    def _error(self, exc: Exception) -> Exception:
        """Return what to raise for *exc*: if the pool has ended the connection, why it has."""
        if isinstance(exc, ConnectionClosed):
            exc = self._job.fatal_error or self._connection.failure or exc
        exc = failure(exc, Delivery.ANSWER_STARTED, self._job.request)
        exc.attempts = self._job.attempts  # type: ignore[attr-defined]  # any exception has a dict
        return exc

    def close(self, scheduler: Scheduler) -> None:
        """Give the connection back: at once, if next to nothing is left to be read, or closed."""
        if scheduler.is_inside():
            scheduler.do_later(partial(self.close, scheduler))
            return
        timeout = DRAIN_TIME if self._job.timeout is None else min(self._job.timeout, DRAIN_TIME)
        complete = False
        try:
            complete = self._connection.engine.finish_body(_DRAINED, timeout)
        except Exception:
            pass  # the connection is not worth more
        finally:
            scheduler.traffic.end_stream(self._connection, self._job, complete)


def streamed(response: Response | StreamedResponse) -> StreamedResponse:
    """Return *response* to be read, even if all of it has come already."""
    if isinstance(response, StreamedResponse):
        return response
    status, reason, headers = response.status, response.reason, response.headers
    body = io.BytesIO(response.body)
    return StreamedResponse(
        status, reason, headers, response.request, len(response.body), body, response.attempts
    )
