"""The sender's loop: connect, take what is queued, send it in one system call, again.

Guarantees: the body of a request is not touched any more once the scheduler has been told that it
was sent. Runs in a thread of its own for each connection; also the steps of it that a caller's
thread takes when it makes a request by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dugong.connection.exchange import RequestSide
from dugong.connection.polling import eval_coroutine
from dugong.pool.body import cut_short
from dugong.pool.failure import BodyError

if TYPE_CHECKING:
    from dugong.connection.polling import Coroutine
    from dugong.pool.body import RequestBody
    from dugong.pool.job import Job
    from dugong.pool.pipeline import Pipeline
    from dugong.pool.traffic import Traffic

__all__ = ["run", "send"]

_FILE_PIECE = 4 * 1024 * 1024  # bytes in one system call, so that progress can be seen


def run(scheduler: Traffic, pipeline: Pipeline) -> None:
    """Connect and send until the connection ends."""
    try:
        eval_coroutine(pipeline.session.sender.co_connect(), scheduler.limits.timeout)
    except Exception as exc:
        scheduler.connect_failed(pipeline, exc)
        return
    if not scheduler.connected(pipeline):
        return
    error: Exception | None = None
    try:
        while batch := scheduler.next_batch(pipeline, error):
            error = send(scheduler, pipeline, batch)
            del batch  # which has bodies and answers that an idle connection would keep in memory
    except BaseException as exc:
        scheduler.crashed(pipeline, exc)
        raise


def send(scheduler: Traffic, pipeline: Pipeline, batch: Sequence[Job]) -> Exception | None:
    """Send *batch*, of which only the last may have an upload; return what went wrong."""
    last = batch[-1]
    upload = last.upload
    try:
        try:
            if upload is not None:
                with _blaming_body():
                    upload.rewind()
            pipeline.session.sender.send_requests(
                [job.begin() for job in batch], last.timeout, pipeline.wake_receiver
            )
            if upload is not None:
                _send_body(scheduler, pipeline, last)
        finally:
            if upload is not None:
                with _blaming_body():
                    upload.end_sending()
    except BodyError as exc:
        last.error = exc.error
        return exc
    except Exception as exc:
        # If it is that the connection was closed, the receiver finds out what that means: there may
        # be an answer that says why.
        return exc
    return None


def _send_body(scheduler: Traffic, pipeline: Pipeline, job: Job) -> None:
    exchange, upload, session = job.exchange, job.upload, pipeline.session
    assert exchange is not None
    assert upload is not None
    if exchange.request_side is RequestSide.CONTINUE:
        scheduler.wait_at_gate(pipeline, exchange)
        if not session.state.aborted:
            session.sender.proceed(exchange)
    if exchange.request_side is not RequestSide.BODY:
        return
    transport = session.state.transport
    with _blaming_body():
        file_range = upload.file_range
    if file_range is not None and transport is not None and transport.can_send_files:
        _, offset, count = file_range
        while count:
            sent = eval_coroutine(
                _co_send_file(pipeline, upload, offset, min(count, _FILE_PIECE)), job.timeout
            )
            if not sent:
                raise BodyError(cut_short(count))
            offset += sent
            count -= sent
    else:
        for piece in _pieces(upload):
            with piece:  # or an exception would keep it, and a bytearray could not change its size
                eval_coroutine(session.sender.co_write(piece), job.timeout)
        eval_coroutine(session.sender.co_write_eof(), job.timeout)


def _co_send_file(
    pipeline: Pipeline, upload: RequestBody, offset: int, count: int
) -> Coroutine[int]:
    """Send a piece of the file of *upload*; return how many bytes were sent.

    Looks again after each wait whether the file is open, for its descriptor may be another's then.
    """
    sending = pipeline.session.sender.co_write_file(_descriptor(upload), offset, count)
    try:
        while True:
            needed = next(sending)
            yield needed
            _descriptor(upload)
    except StopIteration as exc:
        sent: int = exc.value
        return sent
    finally:
        sending.close()


def _descriptor(upload: RequestBody) -> int:
    with _blaming_body():
        file_range = upload.file_range
    assert file_range is not None
    return file_range[0]


def _pieces(upload: RequestBody) -> Iterator[memoryview]:
    with _blaming_body():
        yield from upload.pieces()


@contextmanager
def _blaming_body() -> Iterator[None]:
    """Have whatever is raised within the caller's body be a `BodyError`."""
    try:
        yield
    except GeneratorExit:
        raise
    except Exception as exc:
        raise BodyError(exc) from exc
    except BaseException as exc:
        # It may be meant to end the program, but it would only end this thread.
        error = RuntimeError(f"the body of a request has raised {exc!r}")
        error.__cause__ = exc
        raise BodyError(error) from exc
