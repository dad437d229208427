"""`DugongTransport` and `AsyncDugongTransport`: clients of httpx send through a `ConnectionPool`.

    client = httpx.Client(transport=DugongTransport())

Both serve httpx and httpx2, which goes on with httpx under another name: a request says which of
the two it is from, and its response and what is raised are from the same.

Guarantees: httpx' own exceptions are raised, with that of dugong as their cause; redirects,
cookies, authentication and decoding stay those of httpx. Each header field that httpx has prepared
is sent once, in its order. However a response is left, its connection is given back. Needs the
package httpx (``pip install dugong[httpx]``) or httpx2, which is imported when a transport is made,
unless the program has done so. Any thread may use a transport, and any event loop of asyncio or
trio the asynchronous one.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from dugong.adapters.pools import UNLIMITED
from dugong.client.aiobody import AsyncBody
from dugong.client.aioloop import Bridges, running_loop
from dugong.client.aiostream import AsyncStream, OneRequest
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DugongError,
    InvalidResponse,
    PoolFull,
    ProxyError,
    StateError,
    UnsupportedResponse,
)
from dugong.pool.core.waiting import NoConnectionFree, Patience
from dugong.pool.options import POOL_DEFAULT, ElaborateHeaders
from dugong.pool.pool import ConnectionPool
from dugong.pool.request import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    import httpx
    import httpx2

    from dugong.client.aiostream import AsyncStreamedResponse
    from dugong.connection.encode import HeaderPairs
    from dugong.pool.io.stream import Stream
    from dugong.pool.options import PoolDefault
    from dugong.pool.response import Received, StreamedResponse

    class _SyncBase(httpx.BaseTransport, httpx2.BaseTransport):
        def handle_request(self, request: Any) -> Any: ...

    class _AsyncBase(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any: ...

else:
    # What the program uses is known when it makes a transport: see `_adopted`.
    _SyncBase = _AsyncBase = object

__all__ = ["AsyncDugongTransport", "DugongTransport"]

_PACKAGES = ("httpx", "httpx2")

#: Those of httpx, where dugong has them: it opens so many connections, and no more.
_DEFAULTS = UNLIMITED | {"max_connections_per_host": 100}

_PIECE = 256 * 1024  # bytes of a body that are read at once
_LEAST_TIME = 1e-9  # seconds: httpx takes 0, too
_EXTENSIONS = ("sni_hostname", "target")  # of a request, which would change what is sent

RawHeaders = list[tuple[bytes, bytes]]


class _Transport:
    """What both transports do. Any thread may use it."""

    def __init__(
        self,
        pool: ConnectionPool | None = None,
        *,
        deadline: float | None = None,
        **options: Any,
    ) -> None:
        if pool is not None and options:
            names = ", ".join(sorted(options))
            raise TypeError(f"{names}: give the options to the ConnectionPool itself")
        Request("GET", "http://localhost/", deadline=deadline)  # which checks it
        # None of these changes.
        self._owns_pool = pool is None
        self._pool = ConnectionPool(**(_DEFAULTS | options)) if pool is None else pool
        self._deadline = deadline

    def _stream(self, request: Any, package: Any, body_of: Callable[[Any], Any]) -> Stream:
        """Return the stream of *request*, whose body is what *body_of* makes of its stream."""
        if request.url.raw_scheme not in (b"http", b"https"):
            raise package.UnsupportedProtocol(
                f"Request URL has an unsupported protocol '{request.url.scheme}://'."
            )
        for name in _EXTENSIONS:
            if name in request.extensions:
                raise ValueError(f"dugong has nothing like the extension {name!r} of a request")
        headers, names, expect100 = _headers_of(request)
        body = request.stream
        if isinstance(body, package.ByteStream):
            body = b"".join(body)
            if not body and "content-length" not in names:
                body = None
        else:
            body = body_of(body)
        patience, timeout = _limits_of(request)
        url = _url_of(request)
        try:
            made = Request(
                request.method,
                url,
                headers,  # type: ignore[arg-type]  # what is elaborate is for the layers above
                body,
                timeout=timeout,
                deadline=self._deadline,
                expect100=expect100 and body is not None,
            )
            return self._pool._stream(made, patience)
        except ValueError as exc:
            try:
                Request("GET", url)
            except ValueError:
                raise package.ConnectError(str(exc)) from exc  # such a port, for example
            raise package.LocalProtocolError(str(exc)) from exc
        except DugongError as exc:
            raise _error(exc, package) from exc


class DugongTransport(_Transport, _SyncBase):
    """Sends the requests of an ``httpx.Client`` or ``httpx2.Client`` through a pool of dugong.

    Parameters: *pool* is a `ConnectionPool`, which stays the caller's to close. By default, the
    transport has one of its own, which is closed with it, and made with *options*, the parameters
    of `ConnectionPool`. Different from there, it has no time-outs, opens up to 100 connections to a
    host, and retries only what was lost because of another request on the same connection. Raises
    TypeError or ValueError if the options make no sense.

    The pool decides about certificates and proxies: with a transport, a client of httpx ignores its
    own *verify*, *cert*, *limits*, *http1*, *http2* and *proxy*, and the proxies of the
    environment.

    The ``timeout`` of a request is that of httpx: *connect*, *read*, *write* and *pool*, each in
    seconds. *deadline* is how many seconds each request may take, with the body of its response;
    default: no limit. Any thread may use a transport.
    """

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        made: Self = object.__new__(_adopted(cls, "BaseTransport"))
        return made

    def handle_request(self, request: Any) -> Any:
        """Send *request*, and return the response, whose body is read as it is asked for.

        Raises the exceptions of httpx, and ValueError for an extension that dugong has not.
        """
        package = _package_of(request)
        stream = self._stream(request, package, iter)
        try:
            response = stream.__enter__()
        except DugongError as exc:
            raise _error(exc, package) from exc
        body = _of_package(_SyncBody, package, "SyncByteStream")(response, stream, package)
        return _response(response, body, package)

    def close(self) -> None:
        """Close the pool, unless that was given."""
        if self._owns_pool:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()


class AsyncDugongTransport(_Transport, _AsyncBase):
    """Sends the requests of an ``AsyncClient`` of httpx or httpx2 through a pool of dugong.

    Under asyncio and trio; the parameters are those of `DugongTransport`. The body of a request may
    be an async iterable, which runs in the event loop. If a task is cancelled, its request is, too,
    and no other. Any number of event loops, each in its thread, may use a transport.
    """

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        made: Self = object.__new__(_adopted(cls, "AsyncBaseTransport"))
        return made

    def __init__(
        self,
        pool: ConnectionPool | None = None,
        *,
        deadline: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(pool, deadline=deadline, **options)
        self._bridges = Bridges(self._pool)  # never changes

    async def handle_async_request(self, request: Any) -> Any:
        """Send *request*, and return the response, whose body is read as it is asked for.

        Raises what `DugongTransport.handle_request` raises.
        """
        package = _package_of(request)
        bridge = self._bridges.current()
        plain = self._stream(request, package, lambda body: AsyncBody(aiter(body), bridge.loop))
        stream = AsyncStream(OneRequest(plain), bridge, self._pool._scheduler.readers)
        try:
            response = await stream.__aenter__()
        except DugongError as exc:
            raise _error(exc, package) from exc
        body = _of_package(_AsyncBody, package, "AsyncByteStream")(response, stream, package)
        return _response(response, body, package)

    async def aclose(self) -> None:
        """Close the pool, unless that was given."""
        if self._owns_pool:
            await running_loop().run_to_end(self._pool.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()


# --- what is sent ---------------------------------------------------------------------------------


def _url_of(request: Any) -> str:
    """Return the URL of *request*, without what is not sent: user name, password and fragment."""
    url = request.url
    joined: bytes = b"".join((url.raw_scheme, b"://", url.netloc, url.raw_path))
    return joined.decode("ascii")


def _headers_of(request: Any) -> tuple[HeaderPairs | ElaborateHeaders, set[str], bool]:
    """Return the fields that httpx has prepared, but for those that dugong makes.

    And the names of all of them, in lower case, and whether the body is to wait for 100 (Continue).
    """
    fields = []
    names = set()
    expect100 = False
    for raw_name, raw_value in request.headers.raw:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        lower = name.lower()
        names.add(lower)
        if lower == "expect":
            expect100 = value.lower() == "100-continue"
        elif lower != "transfer-encoding":
            fields.append((name, value))
    if "user-agent" in names:
        return tuple(fields), names, expect100
    return ElaborateHeaders(tuple(fields), None, frozenset(("user-agent",))), names, expect100


def _limits_of(request: Any) -> tuple[Patience | None, float | PoolDefault | None]:
    """Return for how long *request* may wait for what, and that for what is received."""
    given = request.extensions.get("timeout")
    if not given:
        return None, POOL_DEFAULT
    seconds = {
        key: max(value, _LEAST_TIME) if isinstance(value, (int, float)) else value
        for key, value in given.items()
    }
    write = seconds.get("write", POOL_DEFAULT)
    patience = Patience(seconds.get("connect"), seconds.get("pool"), write)
    return patience, seconds.get("read", POOL_DEFAULT)


# --- what is received -----------------------------------------------------------------------------


def _response(response: Received, body: Any, package: Any) -> Any:
    """Return *response*, whose body is read from *body*, as one of *package*."""
    return package.Response(
        status_code=response.status,
        headers=_raw(response.headers),
        stream=body,
        extensions={
            "http_version": response.http_version.encode(),
            "reason_phrase": response.reason.encode("latin-1", "replace"),
            "trailers": body.trailers,
        },
    )


def _raw(headers: Any) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for _, name, value in headers.fields]


class _SyncBody:
    """The body of *response*, which is read in the block of *stream*. For one thread at a time."""

    def __init__(self, response: StreamedResponse, stream: Stream, package: Any) -> None:
        self._response = response  # never changes, as is the next
        self._package = package
        self._stream: Stream | None = stream  # None once the block was left
        #: The fields behind the body, once that was read.
        self.trailers: RawHeaders = []

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._response.read(_PIECE):
                yield piece
            self.trailers += _raw(self._response.trailers)
            self._leave()
        except DugongError as exc:
            self.close()
            raise _error(exc, self._package) from exc

    def close(self) -> None:
        """Give the connection back. What is left of the body is drained if that is little."""
        try:
            self._leave()
        except DugongError:
            pass  # the upload has failed, and what closes a response does not ask for its outcome

    def _leave(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.__exit__(None, None, None)


class _AsyncBody:
    """The same for an event loop. For one task at a time."""

    def __init__(self, response: AsyncStreamedResponse, stream: AsyncStream, package: Any) -> None:
        self._response = response  # never changes, as is the next
        self._package = package
        self._stream: AsyncStream | None = stream  # None once the block was left
        self.trailers: RawHeaders = []  # as above

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._response.read(_PIECE):
                yield piece
            self.trailers += _raw(self._response.trailers)
            await self._leave()
        except DugongError as exc:
            await self.aclose()
            raise _error(exc, self._package) from exc

    async def aclose(self) -> None:
        """Give the connection back. What is left of the body is drained if that is little."""
        try:
            await self._leave()
        except DugongError:
            pass  # as above

    async def _leave(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.__aexit__(None, None, None)


# --- httpx, or httpx2 -----------------------------------------------------------------------------


def _package_of(request: Any) -> Any:
    """Return the package that *request* is from."""
    for cls in type(request).__mro__:
        name = cls.__module__.partition(".")[0]
        if name in _PACKAGES:
            return sys.modules[name]
    raise TypeError(f"a request of httpx or httpx2 is needed, not {type(request).__name__}")


def _packages() -> list[Any]:
    """Return what the program has imported of httpx and httpx2; else what is installed."""
    found = [sys.modules[name] for name in _PACKAGES if sys.modules.get(name) is not None]
    return found or [_imported()]


def _imported() -> Any:
    for name in _PACKAGES:
        try:
            return import_module(name)
        except ImportError as exc:
            error = exc
    raise ImportError(
        "dugong.adapters.httpx needs the package httpx or httpx2: pip install dugong[httpx]",
        name=error.name,
    ) from error


def _adopted(cls: Any, name: str) -> Any:
    """Return *cls* as a subclass of what the packages that the program uses call *name*."""
    # One of the packages may stand for the other: see ``httpx2.alias_httpx``.
    bases = dict.fromkeys(getattr(package, name) for package in _packages())
    return _with_bases(cls, *(base for base in bases if not issubclass(cls, base)))


def _of_package(cls: Any, package: Any, name: str) -> Any:
    return _with_bases(cls, getattr(package, name))


@lru_cache(maxsize=32)
def _with_bases(cls: Any, *bases: Any) -> Any:
    if not bases:
        return cls
    namespace = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, *bases), namespace)


# --- what is raised -------------------------------------------------------------------------------


def _error(exc: DugongError, package: Any) -> Exception:
    """Return what the transports of *package* itself would raise for *exc*."""
    error: Exception = getattr(package, _kind_of(exc))(str(exc))
    return error


def _kind_of(exc: DugongError) -> str:
    delivery = exc.delivery
    is_sent = delivery not in (Delivery.UNSENT, Delivery.PARTLY_SENT)
    if isinstance(exc, (NoConnectionFree, PoolFull, StateError)):  # it would wait for itself
        return "PoolTimeout"
    if isinstance(exc, ConnectionTimedOut):
        # The response may come before the body was sent.
        if not is_sent or exc.msg.startswith("nothing sent"):
            return "ConnectTimeout" if delivery is Delivery.UNSENT else "WriteTimeout"
        return "ReadTimeout"
    if isinstance(exc, ProxyError):
        return "ProxyError"
    if isinstance(exc, (InvalidResponse, UnsupportedResponse)):
        return "RemoteProtocolError"
    if isinstance(exc, ConnectionClosed):
        if not is_sent:
            return "WriteError"
        return "ReadError" if isinstance(exc.__cause__, OSError) else "RemoteProtocolError"
    return "ConnectError" if delivery is Delivery.UNSENT else "ReadError"
