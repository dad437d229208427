"""One request on its way: from the queue to a connection, perhaps back, to its end.

Guarantees: the head is ready, or sure to be valid, so that nothing the caller got wrong shows
later. Owned as it says below; touches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.exchange import Exchange, RequestSide
from dugong.connection.writers import ChunkedWriter, LengthWriter
from dugong.errors import Delivery
from dugong.pool.future import ResponseFuture

if TYPE_CHECKING:
    from dugong.pool.body import RequestBody
    from dugong.pool.host import Host
    from dugong.pool.pipeline import Pipeline
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.receiver import ConnectionBody
    from dugong.pool.request import Request
    from dugong.pool.response import Attempt, Response
    from dugong.pool.retry import RetryPolicy
    from dugong.pool.timers import Timer

__all__ = ["Job"]

# The later, the less may be said of what the server has not done.
_PROGRESS = (
    Delivery.UNSENT,
    Delivery.DISCLAIMED,
    Delivery.PARTLY_SENT,
    Delivery.SENT,
    Delivery.ANSWER_STARTED,
)


class Job:
    """A request, its future, and where it is.

    `request`, `future`, `pool` (which is not forgotten as long as this is not done), `head` (with
    the body, if that is small; None if it is nothing but the plain one, which is made when it is
    sent, so that it takes no memory in the queue), `upload` (the body, if it goes piece by piece),
    `expect100`, `close` (the request asks for the connection to be closed), `timeout`, `retry` (its
    policy) and `streamed` (the caller reads the body of the answer) never change. `exchange` is set
    by whoever sends. The rest is guarded by the lock of the scheduler: `host`, `alone` (nothing may
    be sent before or behind it), `queued` (it has been in the queue), `done` (the outcome is
    decided; what still comes in is dropped), `pipeline` (the connection that has it; None: the
    queue, or it waits to be tried again), `since` (when it was taken from the queue,
    `time.monotonic`), `sending` (the sender has its body), `outcome` (waits for the sender to let
    go of the body), `error` (what the job fails with, whatever the policy, once its connection has
    ended), `answering` (the head of its answer has come), `reading` (what the caller reads the body
    with), `suspect` (it lost a connection before, and is sent alone on one that has not been used),
    `attempts` (that have failed) and `timer` (of its deadline).
    """

    __slots__ = (
        "alone",
        "answering",
        "attempts",
        "close",
        "done",
        "error",
        "exchange",
        "expect100",
        "future",
        "head",
        "host",
        "outcome",
        "pipeline",
        "pool",
        "queued",
        "reading",
        "request",
        "retry",
        "sending",
        "since",
        "streamed",
        "suspect",
        "timeout",
        "timer",
        "upload",
    )

    def __init__(
        self,
        request: Request,
        pool: ConnectionPool,
        host: Host,
        head: bytes | None,
        timeout: float | None,
        retry: RetryPolicy,
    ) -> None:
        self.request = request
        self.pool = pool
        self.host = host
        self.head = head
        self.timeout = timeout
        self.retry = retry
        self.future = ResponseFuture(request, self)
        self.upload: RequestBody | None = None
        self.expect100 = False
        self.alone = False
        self.close = False
        self.streamed = False
        self.exchange: Exchange | None = None
        self.queued = False
        self.done = False
        self.pipeline: Pipeline | None = None
        self.since = 0.0
        self.sending = False
        self.outcome: Response | None = None
        self.error: Exception | None = None
        self.answering = False
        self.reading: ConnectionBody | None = None
        self.suspect = False
        self.attempts: tuple[Attempt, ...] = ()
        self.timer: Timer | None = None

    @property
    def number(self) -> int:
        """The how-manieth attempt is next, or under way; those that do not count left out."""
        return 1 + sum(attempt.charged for attempt in self.attempts)

    @property
    def rewindable(self) -> bool:
        """Whether the body, if there is one, could be sent again."""
        return self.upload is None or self.upload.rewindable

    def begin(self) -> tuple[Exchange, bytes]:
        """Return the exchange for another sending of the request, and what is to be sent for it."""
        request, head = self.request, self.head
        exchange = Exchange(request.method, request.url)
        if head is None:
            builder = self.host.plain_builder
            assert builder is not None
            head = builder.plain_head(request.method, request.target)
        upload = self.upload
        exchange.needs_full_parse = exchange.close = self.close
        if upload is not None and upload.length != 0:
            exchange.needs_full_parse = True
            length = upload.length
            exchange.writer = ChunkedWriter() if length is None else LengthWriter(length)
            exchange.request_side = RequestSide.CONTINUE if self.expect100 else RequestSide.BODY
        self.exchange = exchange
        return exchange, head

    def furthest(self, delivery: Delivery) -> Delivery:
        """Return how far the request has ever got, if *delivery* is how far it has got now."""
        earlier = (attempt.delivery for attempt in self.attempts if attempt.delivery is not None)
        return max((delivery, *earlier), key=_PROGRESS.index)

    def release(self) -> None:
        """Let go of the body, for nobody will send it any more."""
        if self.upload is not None:
            self.upload.release()

    # What the future asks of its owner.

    def abandon(self, future: ResponseFuture) -> bool:
        return self.pool._scheduler.abandon(self)

    def is_running(self, future: ResponseFuture) -> bool:
        return self.pool._scheduler.is_running(self)

    def check_may_wait(self) -> None:
        self.pool._scheduler.check_may_wait()

    def __repr__(self) -> str:
        where = "done" if self.done else f"on {self.pipeline}" if self.pipeline else "queued"
        return f"<Job {self.request.method} {self.request.url} {where}>"
