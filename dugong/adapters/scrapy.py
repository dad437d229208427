"""`DugongDownloadHandler`: Scrapy downloads through a `ConnectionPool`.

    DOWNLOAD_HANDLERS = {
        "http": "dugong.adapters.scrapy.DugongDownloadHandler",
        "https": "dugong.adapters.scrapy.DugongDownloadHandler",
    }

Guarantees: what Scrapy decides stays Scrapy's: redirects, cookies, decoding, delays and retries.
The exceptions are those of `scrapy.exceptions`, with that of dugong as their cause. The event loop
waits for nothing but the start and the end of pools. Needs Scrapy 2.18 with asyncio. Starts no
threads but those of the pools. For the thread of the event loop.
"""

from __future__ import annotations

import base64
import logging
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

from dugong.adapters.pools import OwnPools, PoolKey, Use
from dugong.adapters.scrapy_settings import local_address, options_of
from dugong.client.aioloop import LoopBridge, running_loop
from dugong.client.aiostream import AsyncStream, OneRequest
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DNSUnavailable,
    DugongError,
    HostnameNotResolvable,
    InvalidResponse,
    PoolClosed,
    ProxyError,
    ResponseTooLarge,
)
from dugong.pool.options import ElaborateHeaders
from dugong.pool.request import Request
from dugong.pool.url import public_url

try:
    from pydispatch.dispatcher import getAllReceivers, liveReceivers
    from scrapy import exceptions as errors
    from scrapy import signals
    from scrapy.core.downloader.handlers.base import BaseDownloadHandler
    from scrapy.http import Headers
    from scrapy.responsetypes import responsetypes
    from scrapy.utils.asyncio import is_asyncio_available
    from scrapy.utils.httpobj import urlparse_cached
except ImportError as exc:
    raise ImportError(
        "dugong.adapters.scrapy needs the package scrapy, 2.18 or later: "
        "pip install dugong[scrapy]",
        name=exc.name,
    ) from exc

if TYPE_CHECKING:
    import scrapy
    from scrapy.crawler import Crawler
    from scrapy.http import Response

    from dugong.client.aiostream import AsyncStreamedResponse
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.response import Received

__all__ = ["DugongDownloadHandler"]

_logger = logging.getLogger(__name__)

_PIECE = 64 * 1024  # bytes of a body that a signal is sent with at most

#: Header fields that are dugong's to send, or are for the proxy alone.
_NOT_SENT = frozenset(("expect", "proxy-authorization", "transfer-encoding"))

_ERRORS: tuple[tuple[tuple[type[DugongError], ...], type[Exception]], ...] = (
    ((ConnectionTimedOut,), errors.DownloadTimeoutError),
    ((DNSUnavailable, HostnameNotResolvable), errors.CannotResolveHostError),
    ((ConnectError, ProxyError), errors.DownloadConnectionRefusedError),
    ((PoolClosed, ResponseTooLarge), errors.DownloadCancelledError),
    ((DugongError,), errors.DownloadFailedError),
)

_ip_address = lru_cache(maxsize=1024)(ip_address)


class DugongDownloadHandler(BaseDownloadHandler):
    """A download handler of Scrapy for http and https: see `DOWNLOAD_HANDLERS` of Scrapy.

    The setting ``DUGONG_POOL`` is a dict of options of `ConnectionPool`. They come before those
    that follow from the settings of Scrapy. There is a pool for each combination of proxy,
    credentials for it, and ``bindaddress`` of requests, 32 at most.

    Raises ValueError or TypeError if the settings make no sense, and `scrapy.exceptions`' own
    NotConfigured if Scrapy does not use asyncio. For the thread of the event loop.
    """

    lazy = False

    def __init__(self, crawler: Crawler) -> None:
        if not is_asyncio_available():
            raise errors.NotConfigured("DugongDownloadHandler needs the asyncio reactor, or none")
        super().__init__(crawler)
        settings = crawler.settings
        # None of these changes.
        self._timeout = settings.getfloat("DOWNLOAD_TIMEOUT")
        self._max_size = settings.getint("DOWNLOAD_MAXSIZE")
        self._warn_size = settings.getint("DOWNLOAD_WARNSIZE")
        self._fail_on_dataloss = settings.getbool("DOWNLOAD_FAIL_ON_DATALOSS")
        self._logs_tls = settings.getbool("DOWNLOADER_CLIENT_TLS_VERBOSE_LOGGING")
        self._proxy_encoding: str = settings.get("HTTPPROXY_AUTH_ENCODING")
        self._pools = OwnPools(options_of(settings))
        # Owner of these: the event loop.
        self._has_warned_of_dataloss = False
        self._bridges: WeakKeyDictionary[ConnectionPool, LoopBridge] = WeakKeyDictionary()
        self._pools.use(PoolKey(None, None)).end()  # which checks the options

    async def download_request(self, request: scrapy.Request) -> Response:
        """Download *request*, and return its response.

        Raises the exceptions of `scrapy.exceptions`, and ValueError or TypeError for a request that
        cannot be sent, which trying again would not change.
        """
        if urlparse_cached(request).scheme not in ("http", "https"):
            raise errors.UnsupportedURLSchemeError("the scheme must be http or https")
        download = _Download(self, request)
        made = _made(request, request.meta.get("download_timeout") or self._timeout or None)
        use = self._use(request)
        try:
            if download.needs_stream():
                return await self._stream(download, made, use.pool)
            return await self._fetch(download, made, use.pool)
        except DugongError as exc:
            raise self._error(exc, download) from exc
        finally:
            use.end()

    async def close(self) -> None:
        """Close the pools: now, or if one is in use, when its last download has ended."""
        await running_loop().run_to_end(self._pools.close)

    async def _fetch(self, download: _Download, made: Request, pool: ConnectionPool) -> Response:
        """Download all of it at once. Such requests can be pipelined."""
        bridge = self._bridge(pool)
        response = await bridge.result(await bridge.submit(pool._prepare(made)))
        download.begin(response, len(response.body))
        download.warn_of_size(len(response.body), download.expected is not None)
        return download.response(response.body)

    async def _stream(self, download: _Download, made: Request, pool: ConnectionPool) -> Response:
        """Download it piece by piece, so that it can be stopped, and what has come be kept."""
        steps = OneRequest(pool._stream(made))
        async with AsyncStream(steps, self._bridge(pool), pool._scheduler.readers) as response:
            download.begin(response, response.length)
            return await self._read(download, response)

    async def _read(self, download: _Download, response: AsyncStreamedResponse) -> Response:
        expected = download.expected
        if expected is not None:
            download.check_size(expected, is_announced=True)
            download.warn_of_size(expected, is_announced=True)
        stop = download.send(
            signals.headers_received, headers=download.headers, body_length=expected
        )
        pieces: list[bytes] = []
        received = 0
        try:
            while stop is None and (piece := await response.read(_PIECE)):
                pieces.append(piece)
                received += len(piece)
                stop = download.send(signals.bytes_received, data=piece)
                if stop is None:
                    download.check_size(received, is_announced=False)
                    download.warn_of_size(received, is_announced=False)
        except (ConnectionClosed, InvalidResponse):
            if download.fails_on_dataloss:
                raise
            return download.response(b"".join(pieces), flags=["dataloss"])
        return download.response(b"".join(pieces), stop)

    # --- what a request is sent by ----------------------------------------------------------------

    def _bridge(self, pool: ConnectionPool) -> LoopBridge:
        """Return what brings the futures of *pool* into the event loop."""
        bridge = self._bridges.get(pool)
        if bridge is None:
            bridge = self._bridges[pool] = LoopBridge(pool)
        return bridge

    def _use(self, request: scrapy.Request) -> Use:
        """Return the use of the pool that *request* goes to."""
        proxy, address = request.meta.get("proxy"), request.meta.get("bindaddress")
        options: list[tuple[str, Any]] = []
        if address:
            options.append(("local_address", local_address(address)))
        if proxy:
            proxy = proxy if "://" in proxy else f"http://{proxy.removeprefix('//')}"
            credentials = request.headers.get("Proxy-Authorization")
            if credentials and proxy.lower().startswith("socks"):
                proxy = self._with_credentials(proxy, credentials)
            elif credentials:
                field = ("Proxy-Authorization", credentials.decode("latin-1"))
                options.append(("proxy_headers", (field,)))
        return self._pools.use(PoolKey(None, proxy or None, tuple(options)))

    def _with_credentials(self, proxy: str, credentials: bytes) -> str:
        """Return the URL *proxy* with *credentials*, which Scrapy has moved to a header field."""
        scheme, _, token = credentials.partition(b" ")
        if scheme.lower() != b"basic":
            raise ValueError("a SOCKS proxy takes a user name and a password, so Basic credentials")
        user, _, password = base64.b64decode(token).decode(self._proxy_encoding).partition(":")
        kind, _, rest = proxy.partition("://")
        return f"{kind}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"

    # --- what becomes of it -----------------------------------------------------------------------

    def _error(self, exc: DugongError, download: _Download) -> Exception:
        """Return what Scrapy raises where *exc* was raised."""
        if isinstance(exc, ResponseTooLarge) and download.is_too_large(exc.size or 0):
            return download.too_large(exc.size or 0, exc.is_announced)
        if isinstance(exc, ConnectionClosed) and exc.delivery is Delivery.ANSWER_STARTED:
            if not self._has_warned_of_dataloss:
                self._has_warned_of_dataloss = True
                _logger.warning(
                    "Got data loss: %s. With the setting DOWNLOAD_FAIL_ON_DATALOSS = False, what "
                    "has come of such responses is processed. This is logged once.",
                    exc,
                )
            return errors.ResponseDataLossError(str(exc))
        return next(error for kinds, error in _ERRORS if isinstance(exc, kinds))(str(exc))


class _Download:
    """One download of a handler: what the settings and the meta keys of *request* say of it."""

    # Since `begin`:
    _received: Received
    headers: Headers
    expected: int | None  # how many bytes the head has announced

    def __init__(self, handler: DugongDownloadHandler, request: scrapy.Request) -> None:
        meta = request.meta
        self._handler = handler
        self._request = request
        self._max_size: int = meta.get("download_maxsize", handler._max_size)
        self._warn_size: int = meta.get("download_warnsize", handler._warn_size)
        self.fails_on_dataloss: bool = meta.get(
            "download_fail_on_dataloss", handler._fail_on_dataloss
        )
        self._has_warned = False  # of its size

    def needs_stream(self) -> bool:
        """Return whether code of Scrapy's may have to see a part of the body."""
        if not self.fails_on_dataloss or self._max_size != self._handler._max_size:
            return True
        sender = self._handler.crawler.signals.sender
        return any(
            True
            for signal in (signals.headers_received, signals.bytes_received)
            for _ in liveReceivers(getAllReceivers(sender, signal))
        )

    def begin(self, received: Received, length: int | None) -> None:
        """Note the head of the response, which *received* has; *length* is that of the body."""
        self._received = received
        self.headers = Headers(list(received.headers.items()))
        self.expected = length if "Content-Length" in self.headers else None
        self._request.meta["download_latency"] = received._seconds
        peer = received.peer
        if self._handler._logs_tls and peer.tls_version is not None:
            _logger.debug(
                "SSL connection to %s using protocol %s, cipher %s",
                received.request.origin.host,
                peer.tls_version,
                peer.cipher,
            )

    def send(self, signal: object, **arguments: Any) -> errors.StopDownload | None:
        """Send *signal*, and return what a receiver of it has stopped the download by."""
        crawler = self._handler.crawler
        results = crawler.signals.send_catch_log(
            signal=signal, request=self._request, spider=crawler.spider, **arguments
        )
        for _, result in results:
            stop = getattr(result, "value", None)  # a receiver that has raised is a Failure
            if isinstance(stop, errors.StopDownload):
                return stop
        return None

    def check_size(self, size: int, is_announced: bool) -> None:
        """Raise DownloadCancelledError if *size* bytes are too many."""
        if self.is_too_large(size):
            raise self.too_large(size, is_announced)

    def is_too_large(self, size: int) -> bool:
        """Return whether *size* bytes are too many."""
        return 0 < self._max_size < size

    def too_large(self, size: int, is_announced: bool) -> errors.DownloadCancelledError:
        """Return what a download of *size* bytes fails with, and log it."""
        message = self._of_size(size, is_announced, "max", self._max_size)
        _logger.warning(message)
        return errors.DownloadCancelledError(message)

    def warn_of_size(self, size: int, is_announced: bool) -> None:
        """Log, once, that *size* bytes are very many, if they are."""
        if 0 < self._warn_size < size and not self._has_warned:
            self._has_warned = True
            _logger.warning(self._of_size(size, is_announced, "warn", self._warn_size))

    def _of_size(self, size: int, is_announced: bool, kind: str, limit: int) -> str:
        said = "Expected to receive" if is_announced else "Received"
        return (
            f"{said} {size} bytes which is larger than download {kind} size ({limit}) "
            f"in {self._request.method} {public_url(self._request.url)}"
        )

    def response(
        self,
        body: bytes,
        stop: errors.StopDownload | None = None,
        flags: list[str] | None = None,
    ) -> Response:
        """Return the response with *body*, or raise *stop*, which has it then, if that asks so."""
        received, headers, url = self._received, self.headers, self._request.url
        peer = received.peer
        kind = responsetypes.from_args(headers=headers, url=url, body=body)
        response = kind(
            url=url,
            status=received.status,
            headers=headers,
            body=body,
            flags=flags,
            certificate=peer.certificate,
            ip_address=None if peer.address is None else _ip_address(peer.address),
            protocol=received.http_version,
        )
        if stop is not None:
            response.flags.append("download_stopped")
            if stop.fail:
                stop.response = response
                raise stop
        return response


def _made(request: scrapy.Request, deadline: float | None) -> Request:
    """Return *request* as one of dugong: with its header fields, and no others but the framing."""
    fields = []
    names = set()
    for key, values in request.headers.items():
        name = key.decode("latin-1")
        lower = name.lower()
        names.add(lower)
        if lower not in _NOT_SENT:
            fields += [(name, value.decode("latin-1")) for value in values]
    without = frozenset(("user-agent",)) - names
    return Request(
        request.method,
        request.url,
        ElaborateHeaders(tuple(fields), None, without),  # type: ignore[arg-type]  # of a layer above
        request.body or None,
        deadline=deadline,
    )
