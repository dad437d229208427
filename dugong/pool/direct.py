"""A request made in the thread that asks for it, while those of the connection are parked.

Guarantees: as if sender and receiver had done it; it only saves the hand-overs between threads,
which cost more than the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.errors import ConnectionClosed
from dugong.pool import receiver
from dugong.pool.response import Response

if TYPE_CHECKING:
    from dugong.pool.job import Job
    from dugong.pool.pipeline import Pipeline
    from dugong.pool.scheduler import Scheduler

__all__ = ["perform"]


def perform(scheduler: Scheduler, pipeline: Pipeline, job: Job) -> Response | None:
    """Do *job* on *pipeline*, which has been borrowed for it, and give that back.

    Returns the response, or None if the future of *job* knows more: it has failed, or the request
    has gone back to the queue.
    """
    error: Exception | None = None
    session = pipeline.session
    try:
        try:
            session.sender.send_requests((job.begin(),), job.timeout, pipeline.wake_receiver)
        except ConnectionClosed as exc:
            error = exc  # the receiving side finds out what that means, as for the sender
        except Exception as exc:
            error = exc
            return None
        else:
            answers, failed = session.receiver.read_responses(job.timeout)
            if failed is None and len(answers) == 1:
                exchange, status, reason, headers, _, body = answers[0]
                limit = scheduler.limits.max_body_size
                if (
                    body is not None
                    and len(body) <= limit
                    and status >= 200
                    and (status < 400 or not scheduler.may_not_be_outcome(job, status))
                ):
                    response = Response(status, reason, headers, body, job.request, job.attempts)
                    in_time = scheduler.answered_directly(pipeline, job, exchange, response)
                    return response if in_time else None
            receiver.handle(scheduler, pipeline, answers, failed)
        while pipeline.in_flight and not pipeline.ending and session.unread:
            receiver.receive(scheduler, pipeline)
    except BaseException:
        # As its own error, it keeps the request from being sent again, for nobody waits for it.
        error = job.error = ConnectionClosed("interrupted")
        raise
    finally:
        if pipeline.borrower is job:
            scheduler.give_back(pipeline, error)
    return None
