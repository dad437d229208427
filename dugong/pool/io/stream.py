"""What `ConnectionPool.stream` returns: the block in which a caller reads a body as it comes.

Guarantees: however the block is left, the connection is given back, and so it is if an exception of
a signal handler comes in between. If that comes before the first step of leaving, the connection is
given back when this object is collected.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from dugong.errors import StateError
from dugong.pool.core.job import Place
from dugong.pool.hints import stream_hint
from dugong.pool.io import caller_runs, receiver

if TYPE_CHECKING:
    from types import TracebackType

    from dugong.pool.core.job import Job
    from dugong.pool.core.scheduler import Scheduler
    from dugong.pool.response import StreamedResponse

__all__ = ["Stream", "UnenteredStream"]


class UnenteredStream(AbstractContextManager["StreamedResponse"]):
    """What a `with` statement is to enter: says so if it is taken for a response."""

    if not TYPE_CHECKING:  # to which these would be attributes of any name, and items

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(f"stream() gives no response yet, so no {name!r}: {stream_hint}")

        def __iter__(self):
            raise TypeError(f"stream() gives no response yet: {stream_hint}")

    def __repr__(self) -> str:
        return f"<what stream() has returned: {stream_hint}>"


class Stream(UnenteredStream):
    """A request whose response is read in a `with` block. For one thread at a time."""

    def __init__(self, scheduler: Scheduler, job: Job) -> None:
        self._scheduler = scheduler  # never changes
        self._job = job  # never changes
        self._may_borrow = True  # until another thread may cancel it
        self._response: StreamedResponse | None = None  # once the block is entered

    def __enter__(self) -> StreamedResponse:
        self.check_may_enter()
        scheduler = self._scheduler
        try:
            return scheduler.protect(self._enter, scheduler.end_stream, self._job)
        except BaseException as exc:  # which may have come when nothing protects it any more
            self.abort(exc)
            raise

    def _enter(self, job: Job) -> StreamedResponse:
        scheduler = self._scheduler
        connection = None
        if self._may_borrow and job.needs_no_thread:
            connection = scheduler.lending.borrow(job)
        if connection is None:
            scheduler.submit(self.begin())
            return self.received()
        whole = caller_runs.perform(scheduler.traffic, connection, job)
        if whole is None:
            scheduler.begin_stream(job, self)
            return self.received()
        self._response = response = receiver.streamed(whole)
        return response

    # The steps of that, for what waits in another way.

    def check_may_enter(self) -> None:
        """Raise `StateError` if the block was entered before, or this is a thread of the pool."""
        if self._job.place is not Place.NEW:
            raise StateError("a stream can be entered once: call stream() again")
        self._scheduler.check_may_wait()

    def begin(self, reader: object = None) -> Job:
        """Return the job that is to be submitted now, and its future waited for.

        *reader* is what reads the body: see `Scheduler.begin_stream`.
        """
        job = self._job
        _ = job.future  # before the pool has the job, which would make another one: see there
        self._scheduler.begin_stream(job, self, reader)
        return job

    def received(self) -> StreamedResponse:
        """Return the response, waiting for it, or raise what the request has failed with."""
        self._response = response = receiver.streamed(
            self._job.future.result(), self._job.extras.download
        )
        return response

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        source = self._job.body_source  # which the job forgets when its stream has ended
        try:
            self._leave()
        except BaseException as interrupt:
            self.abort(interrupt)
            raise
        if exc is None and source is not None:
            source.check_upload()

    def _leave(self) -> None:
        if self._response is not None:
            self._response.close()
        source = self._job.body_source
        if source is not None and self._job.place is Place.STREAMING:  # else it was left before
            source.close(self._scheduler)
        self._scheduler.forget_stream(self._job)

    def canceller(self) -> Callable[[], None]:
        """Return a call by which any thread has the one fail that waits for the response or body.

        To be called by the thread that is to enter the block, before it does. That is still to be
        left.
        """
        self._may_borrow = False  # see `Cancellation`
        _ = self._job.future  # before another thread knows of the job, which would make another one
        return self._cancel

    def _cancel(self) -> None:
        self._scheduler.abandon(self._job)
        self.interrupt()

    def interrupt(self) -> None:
        """Have another thread that waits for the body fail. The block is still to be left."""
        self._scheduler.lending.interrupt_stream(self._job)

    def abort(self, exc: BaseException) -> None:
        """Give the connection back because of *exc*, without a wait."""
        self._scheduler.recover(exc)
        self._scheduler.end_stream(self._job)
