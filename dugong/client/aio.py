"""`AsyncClient`: a `Client` whose calls are awaited under asyncio or trio.

It has no engine of its own: the threads of a pool send and receive, and event loops are told.

Guarantees: those of `Client`, and that no call waits in the event loop. Any thread may use it, with
an event loop of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Unpack, cast

from dugong.client.aiobody import blocking_body
from dugong.client.aioloop import Bridges, running_loop
from dugong.client.aiomany import Requests, futures_of
from dugong.client.aiostream import AsyncStream
from dugong.client.aiotransfer import transferred
from dugong.client.client import Client
from dugong.pool.checks import check_counts
from dugong.pool.many import AHEAD_SIZE
from dugong.pool.request import Request

if TYPE_CHECKING:
    import os
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from dugong.client.aioloop import LoopBridge
    from dugong.client.aiostream import AsyncStreamedResponse
    from dugong.client.calls import ClientOptions, TransferOptions, UploadOptions
    from dugong.client.cookies import Cookies
    from dugong.client.download import Downloaded
    from dugong.pool.core.job import Job
    from dugong.pool.future import ResponseFuture
    from dugong.pool.host_policy import HostPolicy
    from dugong.pool.progress import Progress, ProgressCall
    from dugong.pool.response import Response
    from dugong.pool.statistics import PoolStatistics
    from dugong.pool.url import Origin

__all__ = ["AsyncClient"]


P = ParamSpec("P")


def _made_as(
    other: Callable[P, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[AsyncClient, P], None]]:
    """Give an `__init__` the parameters of *other*, for type checkers and for `inspect`."""

    def decorate(init: Callable[..., None]) -> Callable[Concatenate[AsyncClient, P], None]:
        init.__wrapped__ = other.__init__  # type: ignore[attr-defined]  # any function has it
        return init

    return decorate


class AsyncClient:
    """A `Client` for asyncio and trio: the same calls, to be awaited.

    Takes the parameters of `Client`, and raises what that raises. *auth*, *event_hooks* and
    callables as headers are called as for `Client.submit`: in the event loop for the first request
    of a call, and in a thread of the pool for what follows, and for files. What is told of
    *progress* is always called in a thread. None of them is awaited, so coroutine functions are a
    TypeError.

    A *body* may also be an async iterable of bytes-like objects, or a callable that returns one. It
    runs in the event loop, in a task of its own, and is asked for the next item when the last one
    was sent. An async generator can be sent once, and is closed when the sending ends. A callable
    is called in a thread of the pool, in the context (`contextvars`) of the call. A `Request` with
    such a body, or with a callable, is sent as a copy of it.

    If a task is cancelled while it waits for a response, its request is cancelled in the pool, and
    no other: see `ResponseFuture.cancel`. Time-outs of asyncio and trio do the same.

    Any number of event loops, each in its thread, may use a client. It is an async context manager,
    which closes it at the end; a client that is forgotten closes its pool by itself.
    """

    @_made_as(Client)
    def __init__(self, **options: Any) -> None:
        # None of these changes.
        self._client = client = Client(**options)
        self._pool = client._pool
        self._bridges = Bridges(self._pool)

    @property
    def cookies(self) -> Cookies:
        """The `Cookies`, to which those of responses are added."""
        return self._client.cookies

    # --- requests ---------------------------------------------------------------------------------

    async def request(
        self, method: str | Request, url: str | None = None, **options: Unpack[ClientOptions]
    ) -> Response:
        """Send a request, follow its redirects, and return the final `Response`.

        Takes and raises what `Client.request` does. If the queues of the pool are full, it waits.
        """
        bridge = self._bridged()
        return await bridge.result(await bridge.begin(self._prepare(method, url, options)))

    def submit(
        self, method: str | Request, url: str | None = None, **options: Unpack[ClientOptions]
    ) -> ResponseFuture:
        """Queue a request and return a `concurrent.futures.Future` of the final `Response`.

        Takes what `request` takes, but never waits: it raises `PoolFull`. `asyncio.wrap_future`
        makes the future awaitable.
        """
        return self._pool._submit(self._prepare(method, url, options), block=False)

    def map(
        self, requests: Requests, *, max_ahead_size: int = AHEAD_SIZE
    ) -> AsyncGenerator[Response, None]:
        """Yield the final response to each of *requests* (URLs for GET, or `Request`), in order.

        As `Client.map`; *requests* may also be an async iterable, and may be endless. One that is
        not async is read in the event loop, and must not wait. An async generator is closed at the
        end.
        """
        futures = self._futures_of(requests, max_ahead_size, ordered=True)

        async def responses() -> AsyncGenerator[Response, None]:
            async with aclosing(futures):
                async for future in futures:
                    yield future.result()

        return responses()

    def as_completed(
        self, requests: Requests, *, max_ahead_size: int = AHEAD_SIZE
    ) -> AsyncGenerator[ResponseFuture, None]:
        """Yield a future for each of *requests* (URLs for GET, or `Request`), when it is done.

        As `Client.as_completed`, so its `result` does not wait, and requests to hosts that let few
        start keep no others waiting; *requests* are as for `map`.
        """
        return self._futures_of(requests, max_ahead_size, ordered=False)

    def stream(
        self, method: str | Request, url: str | None = None, **options: Unpack[ClientOptions]
    ) -> AbstractAsyncContextManager[AsyncStreamedResponse]:
        """Send a request and, in the `async with` block, read the body of the final response.

        Takes what `request` takes, and is otherwise as `Client.stream`. A thread of the pool reads
        for a task that waits for a part of the body.
        """
        streaming = self._client._stream(*_for_pool(method, url, options))
        return AsyncStream(streaming, self._bridged(), self._pool._scheduler.readers)

    async def get(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a GET; see `request`."""
        return await self.request("GET", url, **options)

    async def head(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a HEAD; see `request`."""
        return await self.request("HEAD", url, **options)

    async def options(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send an OPTIONS; see `request`."""
        return await self.request("OPTIONS", url, **options)

    async def post(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a POST; see `request`."""
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a PUT; see `request`."""
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a PATCH; see `request`."""
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a DELETE; see `request`."""
        return await self.request("DELETE", url, **options)

    # --- files ------------------------------------------------------------------------------------

    async def download(
        self,
        url: str,
        path: str | os.PathLike[str],
        *,
        resume: bool = True,
        connections: int = 1,
        digest: str | None = None,
        progress: Progress | ProgressCall | None = None,
        **options: Unpack[TransferOptions],
    ) -> Downloaded:
        """Receive a file with GET, and return a `Downloaded` when it is complete at *path*.

        Takes and raises what `Client.download` does, and has its guarantees. All of it is done in a
        thread of the pool, in which *auth*, *event_hooks*, *headers* and *progress* are called. If
        the task is cancelled, it ends when the thread has closed the files; a later download can go
        on with what they have.
        """
        from dugong.client.download import download

        arguments = url, path, resume, connections, digest, progress, options
        return await transferred(self._client, download, *arguments, ends_first=True)

    async def upload(
        self,
        path: str | os.PathLike[str],
        url: str,
        method: str = "PUT",
        *,
        digest: str | None = None,
        progress: Progress | ProgressCall | None = None,
        **options: Unpack[UploadOptions],
    ) -> Response:
        """Send the file at *path* as the body of a request, and return the final `Response`.

        Takes and raises what `Client.upload` does, and has its guarantees; threads call what
        `download` says. If the task is cancelled, the request is; the file is closed as soon as the
        thread that sends has let go of it, which is not waited for: that may read a pipe.
        """
        from dugong.client.upload import upload

        arguments = path, url, method, digest, progress, options
        return await transferred(self._client, upload, *arguments, ends_first=False)

    # What these need.

    def _prepare(self, method: str | Request, url: str | None, options: ClientOptions) -> Job:
        return self._client._prepare(*_for_pool(method, url, options))

    def _prepare_item(self, item: str | Request) -> Job:
        return self._client._prepare_item(_request_for_pool(item))

    def _futures_of(
        self, requests: Requests, max_ahead_size: int, ordered: bool
    ) -> AsyncGenerator[ResponseFuture, None]:
        check_counts(max_ahead_size=max_ahead_size)
        return futures_of(requests, self._prepare_item, self._bridged(), max_ahead_size, ordered)

    def _bridged(self) -> LoopBridge:
        """Return what brings futures into the running loop."""
        return self._bridges.current()

    # --- the client itself ------------------------------------------------------------------------

    def set_host_policy(self, origin: str | Origin, policy: HostPolicy | None) -> None:
        """Treat the host of *origin* by *policy*: see `ConnectionPool.set_host_policy`.

        *host_policy* is called in the thread of the event loop.
        """
        self._client.set_host_policy(origin, policy)

    def statistics(self) -> PoolStatistics:
        """Return what the pool is doing, and has learned of its hosts; a snapshot."""
        return self._client.statistics()

    async def aclose(self) -> None:
        """Close the pool, unless that was given: see `ConnectionPool.close`.

        Leave the blocks of streams before.
        """
        await running_loop().run_to_end(self.close)

    def close(self) -> None:
        """Close it as `aclose` does, and block until then: for what is not in an event loop."""
        self._client.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncClient on {self._pool!r}>"


def _for_pool(
    method: str | Request, url: str | None, options: ClientOptions
) -> tuple[str | Request, str | None, ClientOptions]:
    """Return the arguments of a call with a body that a pool can send."""
    if isinstance(method, Request):
        return cast(Request, _request_for_pool(method)), url, options
    body: Any = options.get("body")
    if body is None or (made := blocking_body(body)) is body:
        return method, url, options
    return method, url, {**options, "body": made}


def _request_for_pool(item: str | Request) -> str | Request:
    if not isinstance(item, Request) or item.body is None:
        return item
    body = blocking_body(item.body)
    return item if body is item.body else item.replace(body=body)
