"""Clients of botocore and boto3 send through a `ConnectionPool`: `use_dugong`.

It handles the event ``before-send``, which is emitted when a request has been signed, inside of
botocore's own retries; so the pool makes one attempt only. Needs botocore, and urllib3 2.

Guarantees: what a request fails with is what botocore's own sending raises for the same, with the
exception of dugong as its cause. The body of a response that botocore streams is read from the
connection as it is asked for. Any number of such bodies may be open. Any thread may send.
"""

from __future__ import annotations

import io
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from ssl import VERIFY_X509_STRICT
from typing import TYPE_CHECKING, Any

from dugong.client.forking import begin_anew_in_child
from dugong.client.proxies import ProxyMap
from dugong.client.trust import context_of
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    ProxyError,
    TLSError,
)
from dugong.pool.pool import ConnectionPool

try:
    from botocore import exceptions as errors
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from botocore.httpsession import get_cert_path, mask_proxy_url
    from botocore.utils import get_environ_proxies
except ImportError as exc:
    raise ImportError(
        "dugong.adapters.botocore needs the packages botocore and urllib3: "
        "pip install dugong[botocore]",
        name=exc.name,
    ) from exc

from dugong.adapters.urllib3_response import entered, whole  # which checks urllib3

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from dugong.pool.response import StreamedResponse

__all__ = ["ClientAdapter", "use_dugong"]

_EVENT = "before-send"
_ID = "dugong"  # of the one handler that a client has
_MANY = 4096  # connections of bodies that are open beyond `max_pool_connections`
_SPARE_TIME = 1.0  # seconds that such a connection is kept for the next one
_SMALL = 256 * 1024  # bytes; a BytesIO that has not more is copied


def use_dugong(
    client: Any, pool: ConnectionPool | None = None, **pool_options: Any
) -> ClientAdapter:
    """Have *client*, of botocore or boto3, send all its requests through a `ConnectionPool`.

    *pool* may serve several clients. Its options do not change: of the configuration of the client,
    only *read_timeout* and the retries are used then. Without it, the client gets a pool of
    its own, with what its configuration says (*connect_timeout*, *read_timeout*,
    *max_pool_connections*, *proxies*, *proxies_config*, *verify*, *client_cert*,
    *tcp_keepalive*). *pool_options* are parameters of `ConnectionPool`, which take precedence.

    Returns the adapter, which need not be kept: its `pool` has the statistics, and its `close` lets
    the client send as before. A second call for the same client replaces the adapter of the first.

    Raises TypeError if *client* is not a client, or if both *pool* and *pool_options* are given;
    ValueError for what a pool cannot do, which is *proxy_use_forwarding_for_https* of the
    *proxies_config*; and OSError if a file with certificates cannot be used. After it has
    returned, any thread may use the client.
    """
    meta = getattr(client, "meta", None)
    if not hasattr(meta, "events") or not hasattr(meta, "config"):
        raise TypeError(
            f"a client of botocore or boto3 is needed, not {type(client).__name__}; that of a "
            "boto3 resource is its meta.client"
        )
    if pool is not None and pool_options:
        raise TypeError("give either a pool or pool_options, not both")
    return ClientAdapter(client, pool, pool_options)


class ClientAdapter:
    """Sends the requests of one client of botocore; made by `use_dugong`. A context manager.

    Attributes: `pool` is the `ConnectionPool`.
    """

    def __init__(
        self, client: Any, pool: ConnectionPool | None, pool_options: dict[str, Any]
    ) -> None:
        # None of these changes.
        self._events = client.meta.events
        self._read_timeout: float | None = client.meta.config.read_timeout
        self._proxies: dict[str, str] = {} if pool is not None else _proxies_of(client)
        self._spare: ConnectionPool | None = None
        self._room: _Room | None = None
        self._own: tuple[ConnectionPool, ...] = ()
        if pool is None:
            options = _options_of(client, self._proxies) | pool_options
            pool = ConnectionPool(**options)
            # To urllib3, max_pool_connections is how many are kept; it opens as many as are needed.
            # A program that has opened more bodies than that would wait for itself here.
            self._room = _Room(min(options["max_connections_per_host"], options["max_connections"]))
            options["max_connections_per_host"] = options["max_connections"] = _MANY
            self._spare = ConnectionPool(**options | {"idle_timeout": _SPARE_TIME})
            self._own = (pool, self._spare)
        self.pool: ConnectionPool = pool
        self._events.unregister(_EVENT, unique_id=_ID)
        self._events.register(_EVENT, self._handle, unique_id=_ID)

    def close(self) -> None:
        """Let the client send as before, and close the pool unless it was given."""
        self._events.unregister(_EVENT, self._handle)
        for pool in self._own:
            pool.close()

    def __enter__(self) -> ClientAdapter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _handle(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        """Return the response to *request*; the handler of the event."""
        try:
            return self._send(request)
        except CancelledError:
            raise  # by which s3transfer ends a body of its own
        except Exception as exc:
            raise self._error(exc, request) from exc

    def _send(self, request: AWSPreparedRequest) -> AWSResponse:
        headers, expect100 = _headers_of(request)
        body = _body_of(request.body)
        pool, slot = self._choose(request.stream_output or isinstance(body, _Body))
        if isinstance(body, _Body):
            body.pool = pool
        options: dict[str, Any] = {
            "headers": headers,
            "body": body,
            "timeout": self._timeout_of(request),
            "expect100": expect100 and body is not None,
            "retry": None,
        }
        try:
            if request.stream_output:
                raw = entered(_Stream(pool.stream(request.method, request.url, **options), slot))
            else:
                raw = whole(pool.request(request.method, request.url, **options))
        except BaseException:
            slot.give_back()
            raise
        if not request.stream_output:
            slot.give_back()
        return AWSResponse(request.url, raw.status, raw.headers, raw)

    def _choose(self, holds: bool) -> tuple[ConnectionPool, _Slot]:
        """Return which pool is to send a request, and its slot there.

        *holds* says that code of the caller's decides how long it takes its connection.
        """
        room, spare = self._room, self._spare
        inside = getattr(_reading, "pool", None)
        if room is None or spare is None or inside is spare:
            return self.pool, _Slot()
        slot = _Slot()
        # A thread of the pool, which reads a body, would wait for itself.
        if inside is not self.pool and room.enter(slot, holds):
            return self.pool, slot
        return spare, slot

    def _timeout_of(self, request: AWSPreparedRequest) -> float | None:
        context = getattr(request, "context", None) or {}
        own: float | None = context.get("read_timeout")
        return self._read_timeout if own is None else own

    def _error(self, exc: Exception, request: AWSPreparedRequest) -> Exception:
        """Return what botocore raises where *exc* was raised for *request*."""
        error: Exception
        is_late = isinstance(exc, ConnectionTimedOut)
        unconnected = isinstance(exc, (ConnectError, HostnameNotResolvable, DNSUnavailable)) or (
            isinstance(exc, ConnectionTimedOut) and exc.delivery is Delivery.UNSENT
        )
        proxy = self._proxies.get(request.url.partition(":")[0].lower())
        where = {"endpoint_url": request.url, "error": exc}
        if isinstance(exc, ProxyError) or (unconnected and proxy is not None):
            url = "the proxy of the pool" if proxy is None else mask_proxy_url(proxy)
            error = errors.ProxyConnectionError(proxy_url=url, error=exc)
        elif isinstance(exc, TLSError):
            error = errors.SSLError(**where)
        elif is_late and unconnected:
            error = errors.ConnectTimeoutError(**where)
        elif is_late:
            error = errors.ReadTimeoutError(**where)
        elif unconnected:
            error = errors.EndpointConnectionError(**where)
        elif isinstance(exc, (ConnectionClosed, InvalidResponse)):
            error = errors.ConnectionClosedError(request=request, **where)
        else:
            error = errors.HTTPClientError(error=exc)
        return error


_reading = threading.local()  # `pool` is the one whose thread reads a body


class _Body:
    """A file that is sent from where it stands, and then stands behind what was sent.

    A pool would measure it, and rewind it at the end; but to seek in a file of s3transfer tells the
    program of progress.
    """

    def __init__(self, file: Any) -> None:
        self._read = file.read  # never changes
        self.pool: ConnectionPool | None = None  # never changes, once that has the request

    def read(self, size: int) -> bytes:
        outer, _reading.pool = getattr(_reading, "pool", None), self.pool
        try:
            data: bytes = self._read(size)
        finally:
            _reading.pool = outer
        return data


class _Slot:
    """The place of one request in a `_Room`, or none. Of one thread at a time."""

    taken: set[int] | None = None

    def give_back(self) -> None:
        """Leave the room. May be called again."""
        taken, self.taken = self.taken, None
        if taken is not None:
            taken.discard(id(self))

    def __del__(self) -> None:
        self.give_back()  # of a response that has been forgotten


class _Room:
    """Sees to it that what callers hold never leaves a request without one of *limit* connections.

    Any thread may call it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit  # never changes
        self._lock = threading.Lock()  # of those who enter
        # The slots of both kinds, by `id`. Entered with the lock. To discard one is atomic, in
        # free-threaded CPython, too, and it needs no lock, which a finalizer must not wait for.
        self._holding: set[int] = set()
        self._passing: set[int] = set()
        begin_anew_in_child(self)

    def _begin_in_child(self) -> None:
        self._lock = threading.Lock()
        # Those of other threads of the parent would never be given back.
        self._holding.clear()
        self._passing.clear()

    def enter(self, slot: _Slot, holds: bool) -> bool:
        """Give *slot* a place, and return True, if there is one.

        If the request *holds* a connection, one is left for those that end by themselves.
        """
        with self._lock:
            held = len(self._holding) + (holds and bool(self._passing))
            if held >= self._limit:
                return False
            taken = self._holding if holds else self._passing
            taken.add(id(slot))
            slot.taken = taken
            return True


class _Stream(AbstractContextManager["StreamedResponse"]):
    """The block of *stream*, which gives *slot* back when it is left."""

    def __init__(self, stream: AbstractContextManager[StreamedResponse], slot: _Slot) -> None:
        self._stream = stream
        self._slot = slot

    def __enter__(self) -> StreamedResponse:
        return self._stream.__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        try:
            self._stream.__exit__(*exc_info)
        finally:
            self._slot.give_back()


def _headers_of(request: AWSPreparedRequest) -> tuple[list[tuple[str, str]], bool]:
    """Return the header fields of *request* but for those that the pool sets.

    And whether it is to wait for 100 (Continue).
    """
    headers = []
    expect100 = False
    for name, value in request.headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        lower = name.lower()
        if lower == "expect":
            expect100 = text.lower() == "100-continue"
        elif lower != "transfer-encoding":  # there is no Content-Length then, so it goes in chunks
            headers.append((name, text))
    return headers, expect100


def _body_of(body: Any) -> Any:
    if isinstance(body, str):
        return body.encode()
    if type(body) is io.BytesIO and body.getbuffer().nbytes <= _SMALL:
        return body.read()
    return _Body(body) if hasattr(body, "read") else body


def _proxies_of(client: Any) -> dict[str, str]:
    """Return the URLs of the proxies of *client*, by the scheme of what leads through them."""
    proxies = client.meta.config.proxies
    if proxies is None:
        proxies = get_environ_proxies(client.meta.endpoint_url)
    return {
        scheme: url if "://" in url else f"http://{url.removeprefix('//')}"
        for scheme, url in proxies.items()
        if scheme in ("http", "https") and url
    }


def _options_of(client: Any, proxies: dict[str, str]) -> dict[str, Any]:
    """Return the parameters of a pool that does what the configuration of *client* says."""
    config = client.meta.config
    of_proxies = config.proxies_config or {}
    if of_proxies.get("proxy_use_forwarding_for_https"):
        raise ValueError("proxy_use_forwarding_for_https is not possible: https needs a tunnel")
    options: dict[str, Any] = {
        "connect_timeout": config.connect_timeout,
        "timeout": None,  # each request has its own
        "min_rate": None,
        "max_connections_per_host": config.max_pool_connections,
        "max_connections": max(256, config.max_pool_connections),
        "max_body_size": sys.maxsize,  # botocore takes what comes
        "proxy": ProxyMap(proxies) if proxies else None,
    }
    # What the client was made with, or what the environment says instead, is only there. If it
    # should move, certificates are still verified.
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if kept := getattr(session, "_socket_options", None):  # because of tcp_keepalive
        options["socket_options"] = kept
    urls = (client.meta.endpoint_url, *proxies.values())
    if any(url.lower().startswith("https:") for url in urls):
        verify = get_cert_path(getattr(session, "_verify", True))
        options["ssl_context"] = _context_of(verify, config.client_cert)
        bundle, cert = of_proxies.get("proxy_ca_bundle"), of_proxies.get("proxy_client_cert")
        if bundle or cert:
            options["proxy_ssl_context"] = _context_of(bundle or verify, cert)
    return options


def _context_of(verify: str | bool, cert: Any) -> ssl.SSLContext:
    context = context_of(verify, cert or None)
    # Which Python 3.13 has set, and botocore has not: an authority of one's own may be older.
    context.verify_flags &= ~VERIFY_X509_STRICT
    return context
