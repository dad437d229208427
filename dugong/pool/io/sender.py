"""The sender's loop: take what is queued, send it in one system call, again.

Guarantees: the body of a request is not touched any more once the pool has been told that it was
sent. Runs in a thread of the connection: see `dugong.pool.io.roles`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dugong.pool.failure import BodyError, forget_frames
from dugong.pool.io.http1 import blaming_body

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.job import Job
    from dugong.pool.core.traffic import Traffic

__all__ = ["run"]


def run(traffic: Traffic, connection: PooledConnection) -> bool:
    """Send until there is nothing more to do; return True if this thread is to receive then."""
    error: Exception | None = None
    while batch := traffic.next_batch(connection, error):
        error = _send(traffic, connection, batch)
        del batch  # it has bodies and responses that an idle connection would keep in memory
    return batch is None


def _with_heads(
    traffic: Traffic, connection: PooledConnection, batch: Sequence[Job]
) -> Sequence[Job]:
    """Make the heads of *batch*, which code of the caller's does; return those that can be sent."""
    ready = []
    for job in batch:
        make_head = job.extras.make_head
        assert make_head is not None
        try:
            with blaming_body("what makes the headers of a request"):
                job.head = make_head(job)
            ready.append(job)
        except BodyError as exc:
            forget_frames(exc)
            traffic.leave_out(connection, job, exc)
    return ready


def _send(traffic: Traffic, connection: PooledConnection, batch: Sequence[Job]) -> Exception | None:
    """Send *batch*, of which only the last may have an upload; return what went wrong."""
    if batch[0].extras.make_head is not None:
        batch = _with_heads(traffic, connection, batch)
        if not batch:
            return None
    last = batch[-1]
    upload = last.extras.upload
    body = None if upload is None else upload.body
    try:
        try:
            if body is not None:
                with blaming_body():
                    body.rewind()
            traffic.ensure_receiver(connection, batch)
            connection.engine.send(batch, partial(traffic.wake_receiver, connection))
            if body is not None:
                wait_for_continue = partial(traffic.wait_for_continue, connection)
                connection.engine.send_body(last, wait_for_continue)
        finally:
            if body is not None:
                with blaming_body():
                    body.end_sending()
    except BodyError as fatal:
        forget_frames(fatal)
        last.fatal_error = fatal
        return fatal
    except Exception as exc:
        # If it is that the connection was closed, the receiver finds out what that means: there may
        # be a response that says why.
        forget_frames(exc)  # they have views of the body, which its caller is to get back
        return exc
    return None
