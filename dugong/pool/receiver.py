"""The receiver's loop: receive, parse all that came, then wake whoever waited for it.

Guarantees: answer n resolves request n or nothing; a body is whole, or an exception. Runs in a
thread of its own for each connection; a step of it also in the thread of a caller who makes a
request by itself.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from dugong.connection.head import headers_of
from dugong.connection.polling import eval_coroutine
from dugong.connection.readers import LengthReader
from dugong.errors import ConnectionClosed, ConnectionTimedOut, Delivery, ResponseTooLarge
from dugong.pool.failure import Abandoned, failure
from dugong.pool.response import Response, StreamedResponse

if TYPE_CHECKING:
    from dugong.connection.parser import ReceivedResponse
    from dugong.pool.job import Job
    from dugong.pool.pipeline import Pipeline
    from dugong.pool.traffic import Traffic

__all__ = ["LONG", "ConnectionBody", "handle", "receive", "run", "streamed"]

#: Bytes: nothing is sent behind an answer longer than this, and no more than this is drained.
LONG = 256 * 1024

#: Bytes: as much of an answer is read when its caller does not want it, to keep the connection.
_DRAINED = 64 * 1024
#: Seconds that this may take.
DRAIN_TIME = 1.0

_FIRST_PIECE = 16 * 1024  # bytes received at a time of a body whose length is not known,
_PIECE = 256 * 1024  # and once it is known to be larger than that


def run(scheduler: Traffic, pipeline: Pipeline) -> None:
    """Receive until the connection ends."""
    try:
        while scheduler.await_arrivals(pipeline):
            receive(scheduler, pipeline)
    except BaseException as exc:
        scheduler.crashed(pipeline, exc)
        raise


def receive(scheduler: Traffic, pipeline: Pipeline) -> None:
    """Receive at least one answer, blocking, and resolve what can be resolved."""
    answers, error = pipeline.session.receiver.read_responses(pipeline.in_flight[0].timeout)
    handle(scheduler, pipeline, answers, error)


def handle(
    scheduler: Traffic, pipeline: Pipeline, answers: list[ReceivedResponse], error: Exception | None
) -> None:
    """Resolve what *answers* can resolve; *error* is what came behind them."""
    in_flight = pipeline.in_flight
    limit = scheduler.limits.max_body_size
    done: list[tuple[Job, Response]] = []
    for _, status, reason, headers, length, buffered in answers:
        if status < 200:  # the 100 that was asked for
            scheduler.open_gate(pipeline)
            return
        job = in_flight[len(done)]
        body = buffered
        if body is None or (len(body) > limit and not job.streamed):
            job.answering = True
            try:
                if body is not None:
                    raise _too_large(len(body), limit)
                if job.streamed:
                    beginning = b""
                    if scheduler.may_not_be_outcome(job, status):
                        beginning, body = _receive_beginning(scheduler, pipeline, job, length)
                    if body is None:
                        source = ConnectionBody(scheduler, pipeline, job, beginning)
                        answer = StreamedResponse(
                            status,
                            reason,
                            headers_of(headers),
                            job.request,
                            length,
                            source,
                            job.attempts,
                        )
                        if scheduler.hand_over(pipeline, job, answer, source):
                            return
                if body is None:
                    body = _receive_body(scheduler, pipeline, job, length)
            except Exception as exc:
                error = exc
                break
        done.append((job, Response(status, reason, headers, body, job.request, job.attempts)))
    if isinstance(error, ConnectionTimedOut) and not done and scheduler.sends_body(pipeline):
        return  # as long as there is progress in the other direction, this is no time-out
    scheduler.answered(pipeline, done, error)


def _receive(scheduler: Traffic, pipeline: Pipeline, job: Job, view: memoryview) -> int:
    """Receive the next part of the body into *view*; 0 is its end."""
    while True:
        try:
            return pipeline.session.body.readinto(view, job.timeout)
        except ConnectionTimedOut:
            if not scheduler.sends_body(pipeline):
                raise


def _receive_beginning(
    scheduler: Traffic, pipeline: Pipeline, job: Job, length: int | None
) -> tuple[bytes, bytes | None]:
    """Return what can be kept of a body, and again if that is all of it (else None).

    So an answer that is streamed can be let go of for another attempt, and handed over otherwise.
    """
    if length is not None and length > LONG:
        return b"", None
    parts: list[bytes] = []
    received = 0
    view = memoryview(bytearray(min(length or _PIECE, _PIECE)))
    while received <= LONG:
        got = _receive(scheduler, pipeline, job, view)
        if not got:
            whole = b"".join(parts)
            return whole, whole
        parts.append(bytes(view[:got]))
        received += got
    return b"".join(parts), None


def _receive_body(scheduler: Traffic, pipeline: Pipeline, job: Job, length: int | None) -> bytes:
    limit = scheduler.limits.max_body_size
    if length is not None and length > limit:
        raise _too_large(length, limit)
    if length is None or length > LONG:
        scheduler.block(pipeline)
    received = 0
    if length is not None:
        whole = bytearray(length)
        view = memoryview(whole)
        while received < length:
            if job.done and length - received > LONG:
                raise Abandoned
            received += _receive(scheduler, pipeline, job, view[received:])
        return bytes(whole)
    parts: list[bytes] = []
    view = memoryview(bytearray(_FIRST_PIECE))
    while got := _receive(scheduler, pipeline, job, view):
        received += got
        if job.done and received > LONG:
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
    """The body of a streamed answer, which its caller reads from the connection itself."""

    def __init__(
        self, scheduler: Traffic, pipeline: Pipeline, job: Job, beginning: bytes = b""
    ) -> None:
        self._scheduler = scheduler
        self._pipeline = pipeline
        self._job = job
        self._beginning = beginning  # which has been received already

    def readinto(self, view: memoryview) -> int:
        """Receive the next part of the body straight into *view*; 0 is its end."""
        if self._beginning:
            piece = self._take(len(view))
            view[: len(piece)] = piece
            return len(piece)
        try:
            return self._pipeline.session.body.readinto(view, self._job.timeout)
        except Exception as exc:
            raise self._error(exc) from None

    def read(self, size: int) -> bytes:
        """Receive up to *size* bytes of the body; b"" is its end."""
        if self._beginning:
            return self._take(size)
        timeout = self._job.timeout
        try:
            return eval_coroutine(self._pipeline.session.body.co_read(size, timeout), timeout)
        except Exception as exc:
            raise self._error(exc) from None

    def _take(self, size: int) -> bytes:
        piece, self._beginning = self._beginning[:size], self._beginning[size:]
        return piece

    def _error(self, exc: Exception) -> Exception:
        """Return what to raise for *exc*: if it was us who ended the connection, why."""
        if isinstance(exc, ConnectionClosed):
            exc = self._job.error or self._pipeline.failure or exc
        exc = failure(exc, Delivery.ANSWER_STARTED)
        exc.attempts = self._job.attempts  # type: ignore[attr-defined]  # any has a dict
        return exc

    def close(self) -> None:
        """Give the connection back: at once, if next to nothing is left to be read, or closed."""
        if self._scheduler.is_inside():
            self._scheduler.do_later(self.close)
            return
        session = self._pipeline.session
        complete = False
        try:
            incoming = session.state.incoming
            reader = incoming.reader if incoming is not None else None
            if isinstance(reader, LengthReader) and reader.remaining <= _DRAINED:
                timeout = (
                    DRAIN_TIME if self._job.timeout is None else min(self._job.timeout, DRAIN_TIME)
                )
                view = memoryview(bytearray(reader.remaining))
                while session.state.incoming is not None and session.body.readinto(view, timeout):
                    pass
            complete = session.state.incoming is None and session.body.truncation_reason is None
        except Exception:
            pass  # the connection is not worth more
        finally:
            self._scheduler.end_stream(self._pipeline, self._job, complete)


def streamed(answer: Response | StreamedResponse) -> StreamedResponse:
    """Return *answer* to be read, even if all of it has come already."""
    if isinstance(answer, StreamedResponse):
        return answer
    status, reason, headers = answer.status, answer.reason, answer.headers
    body = io.BytesIO(answer.body)
    return StreamedResponse(
        status, reason, headers, answer.request, len(answer.body), body, answer.attempts
    )
