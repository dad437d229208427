"""Files for an event loop: what `AsyncClient.download` and `AsyncClient.upload` do.

A transfer waits for the network, for the disk and for digests in turn. So it is the blocking one
(`dugong.client.download` or `upload`), in one thread, with a client that can be stopped.

Guarantees: those of the blocking transfer, and that the event loop waits for nothing. If the task
is cancelled, the transfer makes no further request, and what it waits for ends at once. The thread
is one of the pool's for event loops (`dugong.pool.core.readers`): no other call waits for it, and
it keeps no interpreter from exiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from dugong.client.aioloop import running_loop
from dugong.client.drivers import Streaming

if TYPE_CHECKING:
    from dugong.client.calls import ClientOptions
    from dugong.client.client import Client
    from dugong.pool.future import ResponseFuture
    from dugong.pool.io.stream import Stream
    from dugong.pool.request import Request
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["StoppableClient", "transferred"]

T = TypeVar("T")


async def transferred(
    client: Client, transfer: Callable[..., T], *args: Any, ends_first: bool
) -> T:
    """Return what *transfer* returns, called in a thread with a `StoppableClient` and *args*.

    If the task is cancelled, it is stopped; and with *ends_first*, it has ended before this ends.
    """
    loop, stoppable = running_loop(), StoppableClient(client)
    call = copy_context().run
    readers = client._pool._scheduler.readers
    outcome = loop.run_in_executor(readers, call, transfer, stoppable, *args)
    try:
        return await loop.shield(outcome)
    except BaseException as exc:
        stoppable.stop()
        if ends_first and isinstance(exc, loop.cancelled):
            await loop.settle(outcome)
        raise


class StoppableClient:
    """What a transfer uses of *client*, under the same names, until another thread stops it.

    All that waits then raises an exception, and so does every later call. For the one thread of the
    transfer, but for `stop`.
    """

    def __init__(self, client: Client) -> None:
        # None of these changes.
        self._client = client
        self._calls = client._calls
        self._decoder = client._decoder
        self._pool = client._pool
        self._wake = Event()  # ends a pause
        self._lock = Lock()
        self._is_stopped = False  # guarded by the lock; never unset
        # What ends each request that is under way, by its future; None: by the stream. Guarded by
        # the lock.
        self._under_way: dict[object, Callable[[], object]] = {}

    def stop(self) -> None:
        """Stop the transfer, without waiting for its end. Any thread may call it."""
        with self._lock:
            self._is_stopped = True
            under_way = list(self._under_way.values())
        self._wake.set()
        for cancel in under_way:
            cancel()

    def _begin(self, key: object, cancel: Callable[[], object]) -> None:
        with self._lock:
            if self._is_stopped:
                raise CancelledError
            self._under_way[key] = cancel

    def _end(self, key: object) -> None:
        with self._lock:
            self._under_way.pop(key, None)

    # --- as of `Client` ---------------------------------------------------------------------------

    def request(self, method: str, url: str, **options: Unpack[ClientOptions]) -> Response:
        return self.submit(method, url, **options).result()

    def submit(self, method: str, url: str, **options: Unpack[ClientOptions]) -> ResponseFuture:
        job = self._client._prepare(method, url, options)
        future = job.future
        self._begin(future, future.cancel)
        future.add_done_callback(self._end)
        try:
            self._pool._scheduler.submit(job)
        except BaseException:
            future.cancel()
            raise
        return future

    @contextmanager
    def stream(
        self, method: str, url: str, **options: Unpack[ClientOptions]
    ) -> Iterator[StreamedResponse]:
        call = self._calls.call(method, url, options)
        try:
            with Streaming(call, self._make_stream, self._decoder) as response:
                yield response
        finally:
            self._end(None)
        self._pause(0)  # that a body was cut short by `stop` is no failure to be retried

    def _make_stream(self, request: Request) -> Stream:
        stream = self._pool._stream(request)
        self._begin(None, stream.canceller())
        return stream

    def _pause(self, seconds: float) -> None:
        if seconds:
            self._pool._scheduler.readers.rest(self._wake, seconds)
        with self._lock:
            if self._is_stopped:
                raise CancelledError
