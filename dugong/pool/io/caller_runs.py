"""A request made in the thread that asks for it, while those of the connection are parked.

Guarantees: as if sender and receiver had done it; it only saves the hand-overs between threads,
which cost more than the request.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from dugong.errors import ConnectionClosed
from dugong.pool.io import receiver
from dugong.pool.response import Response

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.job import Job
    from dugong.pool.core.traffic import Traffic

__all__ = ["perform"]


def perform(traffic: Traffic, connection: PooledConnection, job: Job) -> Response | None:
    """Do *job* on *connection*, which has been borrowed for it, and give that back.

    Returns the response, or None if the future of *job* knows more: it has failed, the request has
    gone back to the queue, or the caller is to read the body of the response from the connection.
    After an exception, `Cancellation.abandon` gives the connection back.
    """
    engine = connection.engine
    try:
        completions, failed = engine.exchange(job)
    except ConnectionClosed as closed:
        error: Exception | None = closed  # the receiving side finds out what that means
    except Exception as exc:
        traffic.lending.give_back(connection, exc)
        return None
    else:
        error = None
        if failed is None:
            [(exchange, status, reason, headers, _, body)] = completions
            if (
                body is not None
                and (len(body) <= traffic.max_body_size or job.extras.streamed)
                and (status < 400 or not traffic.may_be_retried(job, status))
            ):
                now = monotonic()
                response = Response(
                    status,
                    reason,
                    headers,
                    body,
                    job.request,
                    job.attempts,
                    now - job.dispatched_at,
                    exchange.minor_version,
                    exchange.trailers,
                    engine.peer,
                )
                in_time = traffic.lending.responded_to_caller(connection, job, response, now)
                return response if in_time else None
        receiver.handle(traffic, connection, completions, failed)
    while (
        connection.in_flight
        and not (connection.is_closing or connection.streaming)
        and engine.has_unread
    ):
        receiver.receive(traffic, connection)
    traffic.lending.give_back(connection, error)
    return None
