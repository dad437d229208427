"""The sender's loop: connect, take what is queued, send it in one system call, again.

Guarantees: the body of a request is not touched any more once the scheduler has been told that it
was sent. Runs in a thread of its own for each connection; also the steps of it that a caller's
thread takes when it makes a request by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.exchange import RequestSide
from dugong.connection.polling import eval_coroutine
from dugong.errors import ConnectionClosed

if TYPE_CHECKING:
    from dugong.pool.job import Job
    from dugong.pool.pipeline import Pipeline
    from dugong.pool.traffic import Traffic

__all__ = ["run", "send"]

_FILE_PIECE = 1024 * 1024  # bytes in one system call, so that progress can be seen


def run(scheduler: Traffic, pipeline: Pipeline) -> None:
    """Connect and send until the connection ends."""
    try:
        eval_coroutine(pipeline.duplexer.co_connect(), scheduler.limits.timeout)
    except Exception as exc:
        scheduler.connect_failed(pipeline, exc)
        return
    scheduler.connected(pipeline)
    error: Exception | None = None
    while batch := scheduler.next_batch(pipeline, error):
        error = send(scheduler, pipeline, batch)


def send(scheduler: Traffic, pipeline: Pipeline, batch: list[Job]) -> Exception | None:
    """Send *batch*, of which only the last may have an upload; return what went wrong."""
    last = batch[-1]
    try:
        if last.upload is not None and not last.upload.rewind():
            last.error = last.error or ConnectionClosed("an earlier connection was lost")
            last.error.add_note("the body cannot be sent again, for it cannot be rewound")
            return last.error
        pipeline.duplexer.send_requests(
            [(job.begin(), job.head) for job in batch], last.timeout, pipeline.wake_receiver
        )
        if last.upload is not None:
            _send_body(scheduler, pipeline, last)
    except ConnectionClosed as exc:
        # The receiver finds out what that means: there may be an answer that says why.
        return exc
    except Exception as exc:
        last.error = exc
        return exc
    return None


def _send_body(scheduler: Traffic, pipeline: Pipeline, job: Job) -> None:
    exchange, upload, duplexer = job.exchange, job.upload, pipeline.duplexer
    assert exchange is not None
    assert upload is not None
    if exchange.request_side is RequestSide.CONTINUE:
        scheduler.wait_at_gate(pipeline, exchange)
        duplexer.proceed(exchange)
    if exchange.request_side is not RequestSide.BODY:
        return
    transport = duplexer.transport
    if upload.file_range is not None and transport is not None and transport.can_send_files:
        fd, offset, count = upload.file_range
        while count:
            sent = eval_coroutine(
                duplexer.co_write_file(fd, offset, min(count, _FILE_PIECE)), job.timeout
            )
            if not sent:
                raise ValueError(f"the file ended {count} bytes before the end of the body")
            offset += sent
            count -= sent
    else:
        for piece in upload.pieces():
            eval_coroutine(duplexer.co_write(piece), job.timeout)
        eval_coroutine(duplexer.co_write_eof(), job.timeout)
