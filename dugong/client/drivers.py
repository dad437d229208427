"""Drivers of flows: blocking, behind a future, as a stream. They differ in how they wait.

Guarantees: one deadline bounds all the requests of a flow; a flow is closed when its outcome is
known, whatever that is.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from dugong.client.decoding import DecodedSource, codings_of, decode
from dugong.client.flow import Call, Flow, Settings, redirected
from dugong.deadline import Deadline
from dugong.errors import ConnectionTimedOut, DecodingError, Delivery, DugongError
from dugong.pool.failure import failure
from dugong.pool.io.stream import UnenteredStream
from dugong.pool.request import Request
from dugong.pool.response import Response, StreamedResponse

if TYPE_CHECKING:
    from types import TracebackType

    from dugong.pool.core.job import Job
    from dugong.pool.io.stream import Stream
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.response import BodySource

__all__ = ["Decoder", "FutureFlow", "PlainFlow", "Streaming", "run"]

_PARTIAL_CONTENT = 206
#: Bytes that the body of a response before the last one may have when it is decoded. A call may
#: have many of these, which are hardly ever read, and a few KiB may stand for 64 MiB each.
_LARGEST_BEFORE = 1024 * 1024
_PLAIN_CODINGS = {b"gzip": ("gzip",), b"deflate": ("deflate",)}


class _ToldOf:
    """A body whose failures to be decoded say which *request* it is the response to."""

    def __init__(self, source: BodySource, request: Request) -> None:
        self._source = source
        self._request = request

    def read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except DecodingError as exc:
            raise failure(exc, Delivery.ANSWER_STARTED, self._request) from None

    def readinto(self, view: memoryview) -> int:
        try:
            return self._source.readinto(view)
        except DecodingError as exc:
            raise failure(exc, Delivery.ANSWER_STARTED, self._request) from None


class Decoder:
    """Undoes the content codings of responses, up to *max_size* bytes of a body in memory.

    A part of a coded body (206) cannot be decoded, and is left as it is.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size  # never changes

    def whole(self, response: Response, codings: tuple[str, ...] | None = None) -> Response:
        """Return *response*, decoded; *codings* are what its headers say, if that is known.

        Raises `DecodingError` and `ResponseTooLarge`.
        """
        if codings is None:
            codings = codings_of(response.headers)
        if codings and response.body and response.status != _PARTIAL_CONTENT:
            try:
                response.body = decode(response.body, codings, self._max_size)
            except DugongError as exc:
                raise _failure(exc, response) from None
        return response

    def if_small(self, response: Response) -> None:
        """Decode *response*, which was not the last one, if that is possible and it is small."""
        with suppress(DugongError):
            Decoder(min(self._max_size, _LARGEST_BEFORE)).whole(response)

    def streamed(self, response: StreamedResponse) -> StreamedResponse:
        """Return *response*, whose body is decoded while it is read. Raises `DecodingError`."""
        codings = codings_of(response.headers)
        if not codings or response.status == _PARTIAL_CONTENT:
            return response
        try:
            source = DecodedSource(response, codings)
        except DugongError as exc:
            raise _failure(exc, response) from None
        decoded = copy.copy(response)
        decoded.length = None
        decoded._source = _ToldOf(source, response.request)
        return decoded


def _failure(error: DugongError, response: Response | StreamedResponse) -> Exception:
    own = failure(error, Delivery.ANSWER_STARTED, response.request)
    own.attempts = response.attempts  # type: ignore[attr-defined]  # as each of ours has
    return own


def _as_history(response: Response, decoder: Decoder | None) -> Response:
    """Return *response*, which was not the last one, decoded as far as `Decoder.if_small` does."""
    if decoder is not None:
        decoder.if_small(response)
    return response


def _in_time(
    request: Request, deadline: Deadline, response: Response | StreamedResponse
) -> Request:
    """Return *request*, which follows *response*, with what is left of the time for all of them."""
    left = deadline.remaining()
    if left is None:
        return request
    if not left:
        raise _failure(ConnectionTimedOut("the deadline passed between two requests"), response)
    return request.replace(deadline=left)


def run(
    call: Call,
    send: Callable[[Request], Response],
    decoder: Decoder | None,
    response: Response | None = None,
) -> Response:
    """Run the flow of *call* in this thread, which *send* blocks; return the final response.

    *response* is that to the first request, if that was sent already.
    """
    flow = redirected(call)
    try:
        request = next(flow)
        deadline = Deadline(call.request.deadline)
        history: list[Response] = []
        while True:
            if response is None:
                response = send(request)
            try:
                request = _in_time(flow.send(response), deadline, response)
            except StopIteration:
                break
            history.append(_as_history(response, decoder))
            response = None
        response.history = tuple(history)
        return response if decoder is None else decoder.whole(response)
    finally:
        flow.close()


def _plain_codings(before: bytes, after: bytes) -> tuple[str, ...] | None:
    """Return the codings that are named in a plain way; None: look closer.

    *before* and *after* are what surrounds ``content-encoding:``, in lower case. To read all the
    fields takes longer than to decode a small body.
    """
    value, _, after = after.partition(b"\r\n")
    is_alone = before[-1:] == b"\n" and not after.partition(b"content-encoding:")[1]
    return _PLAIN_CODINGS.get(value.strip(b" \t")) if is_alone else None


class _Accepting:
    """What most responses need of a flow behind a future: nothing, or to be decoded."""

    __slots__ = ("_decoder", "_pool")

    def __init__(self, pool: ConnectionPool, decoder: Decoder | None) -> None:
        self._pool = pool  # never changes
        self._decoder = decoder  # never changes

    def accepts(self, response: Response) -> bool:
        """Return True, with *response* decoded, if no flow has anything to do with it.

        Nothing of a caller's is called, and nothing raised.
        """
        headers = response._headers
        # Else they have been looked at, or are not those of a plain head.
        if response.status >= 300 or type(headers) is not bytes:
            return False
        lower = headers.lower()
        # `partition` takes a third of the time of `in`, which looks for an int first.
        if lower.partition(b"set-cookie:")[1]:
            return False
        if self._decoder is not None:
            before, is_coded, after = lower.partition(b"content-encoding:")
            if is_coded:
                try:
                    self._decoder.whole(response, _plain_codings(before, after))
                except Exception:
                    return False  # the flow raises it where it can be told
        return True


class FutureFlow(_Accepting):
    """The flow of a call behind a future of a pool: see `dugong.pool.core.job.Flow`."""

    __slots__ = ("_accepts", "_flow", "_history")

    def __init__(self, call: Call, pool: ConnectionPool, decoder: Decoder | None) -> None:
        super().__init__(pool, decoder)
        # Of one thread at a time: that which makes the call, then that which has the response.
        self._flow: Flow = redirected(call)
        self._history: list[Response] = []
        self._accepts = not call.calls_callers_code

    def begin(self) -> Job:
        """Return the job of the first request."""
        return self._pool._prepare(next(self._flow), self)

    def resume(self, response: Response) -> Response | Job:
        """Go on with the *response* to the first request, which was sent without this flow."""
        next(self._flow)
        return self.advance(response)

    def accepts(self, response: Response) -> bool:
        return self._accepts and super().accepts(response)

    def advance(self, response: Response) -> Response | Job:
        self._accepts = False  # what comes now has a history
        try:
            request = self._flow.send(response)
        except StopIteration:
            response.history = tuple(self._history)
            return response if self._decoder is None else self._decoder.whole(response)
        self._history.append(_as_history(response, self._decoder))
        return self._pool._prepare(request, self)

    def close(self) -> None:
        try:
            self._flow.close()
        except ValueError:
            pass  # it runs in another thread, and is forgotten when it stops
        except BaseException:  # of an `Auth` of the caller's, as a done-callback may raise it
            import logging

            logging.getLogger(__name__).exception("a flow has failed when it was closed")


class PlainFlow(_Accepting):
    """The flow of all calls of a client whose request is sent as it is, behind a future.

    Nearly all responses need nothing more. For those that do, a `FutureFlow` goes on.
    """

    __slots__ = ("_follows", "_settings")

    def __init__(
        self, settings: Settings, follows: bool, pool: ConnectionPool, decoder: Decoder | None
    ) -> None:
        super().__init__(pool, decoder)
        self._settings = settings  # never changes
        self._follows = follows  # never changes

    def advance(self, response: Response) -> Response | Job:
        return FutureFlow(self._call(response), self._pool, self._decoder).resume(response)

    def close(self) -> None: ...

    def finish(self, response: Response) -> Response:
        """Return the final response, if *response* is the first; block until then."""
        if self.accepts(response):
            return response
        return run(self._call(response), self._pool.request, self._decoder, response)

    def _call(self, response: Response) -> Call:
        request = response.request
        return Call(self._settings, request, request.origin, self._follows)


class Streaming(UnenteredStream):
    """The flow of a call whose final response is read in a `with` block. For one thread.

    *make_stream* makes the stream of each request.
    """

    def __init__(
        self, call: Call, make_stream: Callable[[Request], Stream], decoder: Decoder | None
    ) -> None:
        self._call = call  # never changes
        self._make_stream = make_stream  # never changes
        self._decoder = decoder  # never changes
        self._flow = redirected(call)
        #: The stream of the request that is under way, or is to be.
        self.stream: Stream = make_stream(next(self._flow))
        self._response: StreamedResponse | None = None  # the final one

    def __enter__(self) -> StreamedResponse:
        history: list[Response] = []
        deadline = self.deadline()
        while True:
            try:
                received = self.stream.__enter__()
            except BaseException:
                self._flow.close()
                raise
            response = self.advance(received, history, deadline)
            if response is not None:
                return response

    def is_at_hand(self, received: StreamedResponse) -> bool:
        """Return True if nothing that is done with *received* waits, or takes long.

        So it is if all of it has come, it is not to be decoded, and no caller is asked about it.
        """
        return (
            not self._call.calls_callers_code
            and isinstance(received._source, io.BytesIO)
            and "Content-Encoding" not in received.headers
        )

    def deadline(self) -> Deadline:
        """Return the deadline of all the requests, if the first is sent now."""
        return Deadline(self._call.request.deadline)

    def advance(
        self, received: StreamedResponse, history: list[Response], deadline: Deadline
    ) -> StreamedResponse | None:
        """Return the final response; None if there is another request, which is in `stream`.

        *received* is what has come in `stream`, which is left if this raises.
        """
        try:
            self._response = self._next(received, history, deadline)
        except BaseException as exc:
            self.__exit__(type(exc), exc, exc.__traceback__)
            raise
        return self._response

    def _next(
        self, received: StreamedResponse, history: list[Response], deadline: Deadline
    ) -> StreamedResponse | None:
        try:
            request = self._flow.send(received)
        except StopIteration:
            response = received
            if self._decoder is not None:
                response = self._decoder.streamed(received)
            response.history = tuple(history)
            return response
        history.append(_as_history(received._whole(), self._decoder))
        following = self._make_stream(_in_time(request, deadline, received))
        self.stream.__exit__(None, None, None)
        self.stream = following
        return None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._response is not None:
            self._response.close()
        try:
            self.stream.__exit__(exc_type, exc, traceback)
        finally:
            self._flow.close()

    def abort(self, exc: BaseException) -> None:
        """Give the connection back because of *exc*, without a wait."""
        try:
            self.stream.abort(exc)
        finally:
            self._flow.close()
