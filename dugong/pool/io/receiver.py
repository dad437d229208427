"""The receiver's loop: receive, parse all that came, then report it.

Guarantees: a response is reported for the request that it belongs to; a body is whole, or an
exception. Runs in a thread of the connection (see `dugong.pool.io.roles`); a step of it also in the
thread of a caller who makes a request by itself.
"""

from __future__ import annotations

import io
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from dugong.connection.readers import NO_TRAILERS
from dugong.errors import ConnectionClosed, ConnectionTimedOut, Delivery, ResponseTooLarge
from dugong.pool.core.core import Nested
from dugong.pool.core.job import NO_EXTRAS
from dugong.pool.core.rate import measured
from dugong.pool.failure import (
    Abandoned,
    BodyError,
    failure,
    forget_frames,
    incomplete_upload,
)
from dugong.pool.io.metering import MeteredSource, download_meter, is_metered
from dugong.pool.response import Response, StreamedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from dugong.headers import Headers
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.job import Job
    from dugong.pool.core.rate import BodyRate
    from dugong.pool.core.scheduler import Scheduler
    from dugong.pool.core.traffic import Traffic
    from dugong.pool.io.engine import Completion
    from dugong.pool.progress import Meter, ProgressCall
    from dugong.pool.response import BodySource

__all__ = ["LONG", "ConnectionBody", "handle", "receive", "run", "streamed"]

#: Bytes: nothing is sent behind a response longer than this, and no more than this is drained.
LONG = 256 * 1024

#: Bytes: as much of a response is read when its caller does not want it, to keep the connection.
_DRAINED = 64 * 1024
#: Seconds that this may take.
DRAIN_TIME = 1.0

P = ParamSpec("P")
T = TypeVar("T")

#: What has come of a body, and again if that is all of it (else None).
_Beginning = tuple[bytes, bytes | None]

#: Whether there is nothing to be reported, and what the request behind the responses fails with.
_End = tuple[bool, Exception | None]
_NOTHING_BEHIND: _End = (False, None)
_NOT_REPORTED: _End = (True, None)

_FIRST_PIECE = 16 * 1024  # bytes received at a time of a body whose length is not known,
_PIECE = 256 * 1024  # and once it is known to be larger than that


def run(traffic: Traffic, connection: PooledConnection) -> bool:
    """Receive until there is nothing more to do; return True if this thread is to send then."""
    while is_due := traffic.await_responses(connection):
        receive(traffic, connection)
    return is_due is None


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
    done: list[tuple[Job, Response]] = []
    try:
        is_over, failed = _gather(traffic, connection, completions, done)
    except Exception as exc:
        if not traffic.is_own_thread():
            raise  # it may be an interrupt of the caller
        is_over, failed = False, exc  # a bug of ours: what came before it is as it should be
        completions[len(done)][0].key.response_started = True
    if is_over:
        return
    error = failed or error
    if isinstance(error, ConnectionTimedOut) and not done and traffic.sends_body(connection):
        return  # as long as there is progress in the other direction, this is no time-out
    traffic.responded(connection, done, error)


def _gather(
    traffic: Traffic,
    connection: PooledConnection,
    completions: list[Completion],
    done: list[tuple[Job, Response]],
) -> _End:
    """Add to *done* what responses *completions* are.

    Returns whether there is nothing to be reported, and what the request behind them fails with.
    """
    limit = traffic.max_body_size
    now, peer = monotonic(), connection.engine.peer
    for completion in completions:
        exchange, status, reason, headers, _, body = completion
        job = exchange.key
        counts = True
        if body is None or len(body) > limit or status < 200 or job.extras is not NO_EXTRAS:
            body, counts, end = _look_closer(traffic, connection, completion, now)
            if body is None:
                return end
            now = monotonic()
        whole = Response(
            status,
            reason,
            headers,
            body,
            job.request,
            job.attempts,
            now - job.dispatched_at,
            exchange.minor_version,
            exchange.trailers,
            peer,
        )
        if job.flow is not None:
            job.is_accepted = counts and job.flow.accepts(whole)
        done.append((job, whole))
    return _NOTHING_BEHIND


def _look_closer(
    traffic: Traffic, connection: PooledConnection, completion: Completion, now: float
) -> tuple[bytes | None, bool, _End]:
    """Return the body of *completion*, which is not plain, and if it counts (see `counts`).

    If there is no response to be reported: None, and what `_gather` returns.
    """
    exchange, status, _, _, length, buffered = completion
    if status < 200:  # the 100 that was asked for
        traffic.continue_sending(connection)
        return None, False, _NOT_REPORTED
    job, body, limit = exchange.key, buffered, traffic.max_body_size
    extras = job.extras
    counts = extras.hedge is None or traffic.counts(job, status)
    # A stream begins with its response, though the sender has the body of the request until later.
    # If it has released that in this moment, both ways lead to the same.
    upload = extras.upload
    is_early = extras.streamed and upload is not None and upload.is_sending and status < 300
    is_too_large = body is not None and len(body) > limit and not extras.streamed
    if not (body is None or is_early or is_too_large or extras.download is not None):
        return body, counts, _NOTHING_BEHIND
    job.response_started = True
    if job.is_decided and connection.lost_requests:
        # It is late: what came before it must not wait for it.
        return None, counts, (False, Abandoned())
    if body is not None and is_too_large:
        return None, counts, (False, _too_large(len(body), limit, length is not None))
    if extras.streamed and (body is None or is_early):
        beginning: _Beginning | Exception = (buffered or b"", None)
        if traffic.may_be_retried(job, status):
            beginning = _outcome_of(job, _receive_beginning, traffic, connection, job, length)
        if isinstance(beginning, Exception):
            return None, counts, (False, beginning)
        start, body = beginning
        # In the thread of a caller, what a signal handler raises here is no fault of the
        # connection.
        if body is None:
            if _hand_over(traffic, connection, completion, start, now):
                return None, counts, _NOT_REPORTED
            body = buffered
    received = _outcome_of(job, _finish_body, traffic, connection, job, status, length, body)
    if isinstance(received, Exception):
        return None, counts, (False, received)
    return received, counts, _NOTHING_BEHIND


def _outcome_of(
    job: Job, step: Callable[P, T], *args: P.args, **keywords: P.kwargs
) -> T | Exception:
    """Return what *step* returns, or what it raises: what the connection, or *job*, fails with."""
    try:
        return step(*args, **keywords)
    except BodyError as fatal:
        forget_frames(fatal)
        job.fatal_error = fatal
        return fatal
    except Exception as exc:
        return exc


def _finish_body(
    traffic: Traffic,
    connection: PooledConnection,
    job: Job,
    status: int,
    length: int | None,
    body: bytes | None,
) -> bytes:
    """Return the whole body of a response, which is *body* if that is not None."""
    meter = None
    if job.extras.download is not None and not job.extras.streamed:
        known = length if body is None or length is None else len(body)
        meter = download_meter(job, status, known)
    if body is None:
        body = _receive_body(traffic, connection, job, length, meter)
    elif meter is not None:
        meter.add(len(body))
    if meter is not None:
        meter.finish()
    return body


def _hand_over(
    traffic: Traffic,
    connection: PooledConnection,
    completion: Completion,
    beginning: bytes,
    now: float,
) -> bool:
    """Let the caller read the body of *completion*, which begins so; False if it is not wanted."""
    exchange, status, reason, headers, length, _ = completion
    job, minor_version = exchange.key, exchange.minor_version
    request, attempts, seconds = job.request, job.attempts, now - job.dispatched_at
    peer, early = connection.engine.peer, None
    if job.extras.upload is not None and status < 300:
        early = Response(
            status, reason, headers, b"", request, attempts, seconds, minor_version, peer=peer
        )
    source = ConnectionBody(traffic, job, connection, beginning, early)
    reader: BodySource = source
    if job.extras.download is not None and is_metered(status):
        reader = MeteredSource(source, job.extras.download, length)
    response = StreamedResponse(
        status,
        reason,
        headers,
        request,
        length,
        reader,
        attempts,
        seconds,
        minor_version,
        source.trailers,
        peer,
    )
    return traffic.lending.hand_over(connection, job, response, source)


def _receive(
    traffic: Traffic,
    connection: PooledConnection,
    job: Job,
    view: memoryview,
    rate: BodyRate | None,
) -> int:
    """Receive the next part of the body into *view*; 0 is its end."""
    while True:
        try:
            return measured(rate, connection.engine.readinto, view, job.timeout)
        except ConnectionTimedOut:
            if not traffic.sends_body(connection):
                raise


def _receive_beginning(
    traffic: Traffic, connection: PooledConnection, job: Job, length: int | None
) -> _Beginning:
    """Return what can be kept of a body, and again if that is all of it (else None).

    So a response that is streamed can be let go of for another attempt, and handed over otherwise.
    """
    if length is not None and length > LONG:
        return b"", None
    parts: list[bytes] = []
    received = 0
    rate = traffic.begin_body(connection, is_long=False)  # nothing is sent behind a stream anyway
    view = memoryview(bytearray(min(length or _PIECE, _PIECE)))
    while received <= LONG:
        got = _receive(traffic, connection, job, view, rate)
        if not got:
            whole = b"".join(parts)
            return whole, whole
        parts.append(bytes(view[:got]))
        received += got
    return b"".join(parts), None


def _receive_body(
    traffic: Traffic,
    connection: PooledConnection,
    job: Job,
    length: int | None,
    meter: Meter | None,
) -> bytes:
    limit = traffic.max_body_size
    if length is not None and length > limit:
        raise _too_large(length, limit)
    rate = None
    is_long = length is None or length > LONG
    if is_long or traffic.limits.min_rate is not None:
        rate = traffic.begin_body(connection, is_long)
    received = 0
    if length is not None:
        try:
            whole = bytearray(length)
        except MemoryError:
            raise _too_large(length, limit) from None
        view = memoryview(whole)
        while received < length:
            # A stale value costs one more step.
            if job.is_decided and length - received > LONG:
                raise Abandoned
            got = _receive(traffic, connection, job, view[received:], rate)
            received += got
            if meter is not None:
                meter.add(got)
        return bytes(whole)
    parts: list[bytes] = []
    view = memoryview(bytearray(_FIRST_PIECE))
    while got := _receive(traffic, connection, job, view, rate):
        received += got
        if job.is_decided and received > LONG:
            raise Abandoned
        if received > limit:
            raise _too_large(received, limit, is_announced=False)
        parts.append(bytes(view[:got]))
        if meter is not None:
            meter.add(got)
        if got == len(view) < _PIECE:
            view = memoryview(bytearray(_PIECE))
    return b"".join(parts)


def _too_large(size: int, limit: int, is_announced: bool = True) -> ResponseTooLarge:
    said = f"a body of {size} bytes" if is_announced else f"a body of at least {size} bytes"
    reason = f"is more than max_body_size ({limit})" if size > limit else "does not fit into memory"
    exc = ResponseTooLarge(f"{said} {reason}")
    exc.size, exc.is_announced = size, is_announced
    return exc


class ConnectionBody:
    """The body of a streamed response, which its caller reads from the connection itself.

    *early* is that response, if it is a success that may have come before all of the body of the
    request was sent.
    """

    def __init__(
        self,
        traffic: Traffic,
        job: Job,
        connection: PooledConnection,
        beginning: bytes = b"",
        early: Response | None = None,
    ) -> None:
        self._traffic = traffic  # never changes
        self._job = job  # never changes
        self._upload = job.extras.upload  # never changes
        self._connection = connection  # never changes
        # These belong to the caller.
        self._beginning = beginning  # which has been received already
        self._early = early  # None once the caller has been told that the upload has failed
        self._timed_out = False  # reading has waited in vain
        #: What is told how the body comes in, if that has a limit. Set before the caller reads.
        self.rate: BodyRate | None = None

    def readinto(self, view: memoryview) -> int:
        """Receive the next part of the body straight into *view*; 0 is its end."""
        if self._early is not None:
            self.check_upload()
        if self._beginning:
            piece = self._take(len(view))
            view[: len(piece)] = piece
            return len(piece)
        engine = self._connection.engine
        try:
            return measured(self.rate, engine.readinto, view, self._job.timeout)
        except Exception as exc:
            error = self._error(exc)
            raise error from error.__cause__

    def read(self, size: int) -> bytes:
        """Receive up to *size* bytes of the body; b"" is its end."""
        if self._early is not None:
            self.check_upload()
        if self._beginning:
            return self._take(size)
        engine = self._connection.engine
        try:
            return measured(self.rate, engine.read, size, self._job.timeout)
        except Exception as exc:
            error = self._error(exc)
            raise error from error.__cause__

    def trailers(self) -> Headers:
        """Return the fields behind the body, once that has been read to its end."""
        exchange = self._job.exchange  # None once the connection has been given back
        return NO_TRAILERS if exchange is None else exchange.trailers

    def _take(self, size: int) -> bytes:
        piece, self._beginning = self._beginning[:size], self._beginning[size:]
        return piece

    def check_upload(self) -> None:
        """Raise what has kept the body of the request from being sent to its end, if anything has.

        Only if the caller has not been told before.
        """
        # An attribute that is replaced as a whole needs no lock, in free-threaded CPython, too.
        cause = None if self._upload is None else self._upload.error
        if self._early is not None and cause is not None:
            raise self._error(cause)

    def _error(self, exc: Exception) -> Exception:
        """Return what to raise for *exc*: if the pool has ended the connection, why it has."""
        if isinstance(exc, ConnectionTimedOut):
            self._timed_out = True
        elif isinstance(exc, ConnectionClosed) and self._connection.engine.gave_up_sending:
            with suppress(Nested):
                self._traffic.lending.wait_for_sender(self._job)
        job, ended = self._job, self._connection.failure
        early, self._early = self._early, None
        cause = None if self._upload is None else self._upload.error
        delivery = Delivery.ANSWER_STARTED
        if job.fatal_error is not None and (cause is not None or isinstance(exc, ConnectionClosed)):
            exc = job.fatal_error
        elif early is not None and cause is not None:
            if isinstance(ended, Abandoned):
                cause = ended
            if ended is None or ended is cause or isinstance(ended, ConnectionClosed):
                exc, delivery = incomplete_upload(early, cause), Delivery.PARTLY_SENT
            else:
                exc = ended  # a deadline, or the end of the pool
        elif isinstance(exc, ConnectionClosed):
            exc = ended or exc
        exc = failure(exc, delivery, job.request)
        with suppress(AttributeError, TypeError):  # a caller's exception may be frozen
            exc.attempts = self._job.attempts  # type: ignore[attr-defined]  # any exception has a dict
        return exc

    def close(self, scheduler: Scheduler) -> None:
        """Give the connection back: at once, if next to nothing is left to be read, or closed."""
        if scheduler.is_locked_here():
            scheduler.do_later(partial(self.close, scheduler))
            return
        timeout = DRAIN_TIME if self._job.timeout is None else min(self._job.timeout, DRAIN_TIME)
        if self._timed_out:  # then there is no point in waiting again
            timeout = 0
        complete = False
        try:
            complete = self._connection.engine.finish_body(_DRAINED, timeout)
        except Exception:
            pass  # the connection is not worth more
        finally:
            scheduler.lending.end_stream(self._connection, self._job, complete)


def streamed(
    response: Response | StreamedResponse, download: ProgressCall | None = None
) -> StreamedResponse:
    """Return *response* to be read, even if all of it has come already.

    *download* is then told of its progress.
    """
    if isinstance(response, StreamedResponse):
        return response
    source: BodySource = io.BytesIO(response.body)
    if download is not None and is_metered(response.status):
        source = MeteredSource(source, download, len(response.body))
    return StreamedResponse(
        response.status,
        response.reason,
        response._headers,
        response.request,
        len(response.body),
        source,
        response.attempts,
        response._seconds,
        response._minor_version,
        lambda: response.trailers,
        response.peer,
    )
