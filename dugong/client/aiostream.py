"""Streams of an `AsyncClient`: the blocks in which a task reads a body as it comes.

Guarantees: the event loop waits for nothing. No thread waits for a response; what reads a body,
unless all of that has come, runs in a thread, one step of a stream at a time. However a block is
left, the connection is given back; if a task is cancelled while it reads, the connection is ended,
and that step with it.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from dugong.deadline import Deadline
from dugong.errors import HTTPStatusError
from dugong.pool.hints import hint_at_attributes
from dugong.pool.response import Received
from dugong.pool.text import Lines

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from types import TracebackType

    from dugong.client.aioloop import LoopBridge
    from dugong.headers import Headers
    from dugong.pool.io.stream import Stream
    from dugong.pool.response import Response, StreamedResponse

__all__ = ["AsyncStream", "AsyncStreamedResponse", "OneRequest", "Steps"]

T = TypeVar("T")
_PIECE = 256 * 1024  # bytes


class Steps(Protocol):
    """What leads to the final response, in as many requests as are needed: see `Streaming`."""

    @property
    def stream(self) -> Stream:
        """That of the request that is under way, or is to be."""

    def deadline(self) -> Deadline: ...
    def is_at_hand(self, received: StreamedResponse, /) -> bool: ...

    def advance(
        self, received: StreamedResponse, history: list[Response], deadline: Deadline, /
    ) -> StreamedResponse | None: ...

    def abort(self, exc: BaseException, /) -> None: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> object: ...


class OneRequest:
    """The `Steps` of one request, whose response is the final one."""

    def __init__(self, stream: Stream) -> None:
        self.stream: Stream = stream  # never changes

    def deadline(self) -> Deadline:
        return Deadline(None)

    def is_at_hand(self, received: StreamedResponse) -> bool:
        return isinstance(received._source, io.BytesIO)

    def advance(
        self, received: StreamedResponse, history: list[Response], deadline: Deadline
    ) -> StreamedResponse:
        return received

    def abort(self, exc: BaseException) -> None:
        self.stream.abort(exc)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stream.__exit__(exc_type, exc, traceback)


class AsyncStream(AbstractAsyncContextManager["AsyncStreamedResponse"]):
    """A call whose final response is read in an `async with` block. For one task."""

    def __init__(self, streaming: Steps, bridge: LoopBridge, readers: Executor) -> None:
        # None of these changes.
        self._streaming = streaming
        self._bridge = bridge
        self._readers = readers
        self._line = bridge.loop.create_lock()  # of the task that makes a step; owner: the loop
        self._turn = Lock()  # of the thread that makes a step; guards `_streaming`
        # No step waits, or takes long. Belongs to the task.
        self._is_at_hand = False

    async def __aenter__(self) -> AsyncStreamedResponse:
        streaming, bridge = self._streaming, self._bridge
        history: list[Response] = []
        deadline = streaming.deadline()
        while True:
            stream = streaming.stream
            stream.check_may_enter()
            try:
                await bridge.wait(await bridge.begin(stream.begin(bridge.reader())))
                received = stream.received()
                self._is_at_hand = streaming.is_at_hand(received)
            except BaseException as exc:
                streaming.abort(exc)
                raise
            try:
                response = await self.step(streaming.advance, received, history, deadline)
            except bridge.loop.cancelled as exc:
                self._begin(self._leave, type(exc), exc, None)
                raise
            if response is not None:
                return AsyncStreamedResponse(response, self)

    async def step(self, action: Callable[..., T], *args: Any) -> T:
        """Return what *action* returns, called in another thread; if cancelled, cut it short."""
        if self._is_at_hand:
            return self._take_turn(action, *args)
        async with self._line:
            try:
                return await self._begin(self._take_turn, action, *args)
            except self._bridge.loop.cancelled:
                self._streaming.stream.interrupt()
                raise

    def seen(self, response: StreamedResponse) -> Response:
        """Return *response*, the final one, with its body if all of that has come."""
        return self._take_turn(response._whole) if self._is_at_hand else response._whole(0)

    def _begin(self, action: Callable[..., T], *args: Any) -> Awaitable[T]:
        return self._bridge.loop.run_in_executor(self._readers, action, *args)

    def _take_turn(self, action: Callable[..., T], *args: Any) -> T:
        with self._turn:
            return action(*args)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_at_hand:
            self._leave(exc_type, exc, traceback)
            return
        loop, stream = self._bridge.loop, self._streaming.stream
        if self._turn.locked():  # by a step of another task, or of one that was cancelled
            stream.interrupt()
        try:
            # The block is left, whether its task waits for that or not.
            await loop.shield(self._begin(self._leave, exc_type, exc, traceback))
        except loop.cancelled:
            stream.interrupt()  # or what has to be sent and received yet would be waited for
            raise

    def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._turn:
            self._streaming.__exit__(exc_type, exc, traceback)


class AsyncStreamedResponse(Received):
    """A response whose body is read from the connection as a task asks for it.

    Attributes: those of `StreamedResponse`. All methods that read raise what its methods raise. If
    the task is cancelled while one waits, the connection is ended, and nothing more can be read.
    For one task at a time, in the `async with` block of `AsyncClient.stream`.
    """

    __slots__ = ("_response", "_stream")

    def __init__(self, response: StreamedResponse, stream: AsyncStream) -> None:
        for name in Received.__slots__:
            setattr(self, name, getattr(response, name))
        self._response = response  # never changes
        self._stream = stream  # never changes

    @property
    def length(self) -> int | None:
        """The size of the body in bytes, or None if only its end will tell."""
        return self._response.length

    @property
    def trailers(self) -> Headers:
        """The fields behind the body, once that has been read: as of `StreamedResponse`."""
        return self._response.trailers

    async def read(self, n: int | None = -1) -> bytes:
        """Return up to *n* bytes of the body, or the rest: as `StreamedResponse.read`."""
        return await self._stream.step(self._response.read, n)

    async def readinto(self, buf: bytearray | memoryview) -> int:
        """Receive the next part of the body straight into *buf*; return the number of bytes.

        0 is the end of the body. If the task is cancelled, *buf* may still be written to until the
        block has been left.
        """
        return await self._stream.step(self._response.readinto, buf)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the rest of the body in pieces as they come, of up to 256 KiB."""
        while piece := await self.read(_PIECE):
            yield piece

    async def aiter_lines(self) -> AsyncIterator[str]:
        """Yield the lines of the rest of the body: as `StreamedResponse.iter_lines`."""
        lines = Lines(self.headers)
        async for piece in self:
            for line in lines.feed(piece):
                yield line
        for line in lines.end():
            yield line

    def raise_for_status(self) -> Self:
        """Raise `HTTPStatusError` if the status is 400 or more; return the response otherwise.

        It waits for nothing, and need not be awaited. So the `response` of the error holds the body
        only if all of that has come, as of most errors; call `read` before to have it in any case.
        """
        if self.status < 400:
            return self
        raise HTTPStatusError(self._stream.seen(self._response))

    def __await__(self) -> Generator[Any, Any, Self]:
        """Return the response at once: what `raise_for_status` returns may be awaited."""
        return self
        yield

    def __repr__(self) -> str:
        return f"<Async{repr(self._response)[1:]}"


hint_at_attributes(AsyncStreamedResponse, streamed=True)
