"""`DugongAdapter`: a session of requests sends through a `ConnectionPool`.

    adapter = dugong.adapters.requests.mount(session)

Guarantees: requests' own exceptions are raised, with that of dugong as their cause; redirects,
cookies, authentication and decoding stay those of requests. Each header field that requests has
prepared is sent once, in its order. Needs the package requests (``pip install dugong[requests]``).
Any thread may use an adapter, as any session may that has it.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from dugong.adapters.pools import UNLIMITED, OwnPools, PoolKey, Use, trust_of
from dugong.errors import (
    ConnectError,
    ConnectionTimedOut,
    Delivery,
    DNSUnavailable,
    DugongError,
    HostnameNotResolvable,
    InvalidResponse,
    PoolClosed,
    PoolFull,
    ProxyError,
    StateError,
    TLSError,
)
from dugong.pool.core.waiting import Patience
from dugong.pool.options import POOL_DEFAULT, ElaborateHeaders
from dugong.pool.request import Request
from dugong.pool.url import PLAIN_URL, redacted_url

try:
    import requests
    from requests.adapters import BaseAdapter
    from requests.cookies import extract_cookies_to_jar
    from requests.models import Response
    from requests.structures import CaseInsensitiveDict
    from requests.utils import (
        DEFAULT_CA_BUNDLE_PATH,
        get_encoding_from_headers,
        prepend_scheme_if_needed,
        select_proxy,
        urldefragauth,
    )
    from urllib3.exceptions import LocationValueError
    from urllib3.util import Timeout
except ImportError as exc:
    raise ImportError(
        "dugong.adapters.requests needs the packages requests and urllib3: "
        "pip install dugong[requests]",
        name=exc.name,
    ) from exc

from dugong.adapters.urllib3_response import body_error, entered, whole  # which checks urllib3

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from requests.models import PreparedRequest
    from urllib3 import HTTPResponse

    from dugong.connection.encode import HeaderPairs
    from dugong.pool.options import PoolDefault
    from dugong.pool.pool import ConnectionPool

__all__ = ["DugongAdapter", "mount"]


#: requests lets no request wait for another one: so many connections are all that a pool has.
_DEFAULTS = UNLIMITED | {"max_connections_per_host": 256}

#: By these, it was the proxy that could not be reached, if there is one.
_NOT_REACHED = (ConnectError, DNSUnavailable, HostnameNotResolvable)
#: These are no failures of a connection, either.
_WITHOUT_CONNECTION = (*_NOT_REACHED, OSError, PoolClosed, PoolFull, StateError)

_PIECE = 64 * 1024  # characters of a text file that are encoded at once


class _BodyCut(requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
    """The response has ended in its midst: requests tells of the head and of the body by these."""


class _BodyTimeout(requests.exceptions.ConnectionError, requests.exceptions.ReadTimeout):
    """The response has stopped in its midst: the same."""


class DugongAdapter(BaseAdapter):
    """Sends the requests of a session through pools of dugong.

    Parameters: *pool* is a `ConnectionPool`, which stays the caller's to close, and decides about
    certificates and proxies: a request that asks for others is a ValueError. By default, the
    adapter has pools of its own: one for each combination of ``verify``, ``cert`` and proxy, 32 at
    most, which are made with *options*, the parameters of `ConnectionPool`. Different from there,
    these have no time-outs, do not limit the size of a body, open up to 256 connections to a host,
    and retry only what was lost because of another request on the same connection. Raises TypeError
    or ValueError if the options make no sense.

    ``timeout=None`` of a request is the *timeout* of the pool. *deadline* is how many seconds each
    request may take, with the body of its response; default: no limit.

    With ``stream=False``, the body is received before `send` returns, and requests of several
    threads share connections. With ``stream=True``, the response has a connection of its own until
    it was read to its end, or closed. Pickling works without *pool*, if the options can be pickled.
    Any thread may use an adapter.
    """

    def __init__(
        self,
        pool: ConnectionPool | None = None,
        *,
        deadline: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if pool is not None and options:
            names = ", ".join(sorted(options))
            raise TypeError(f"{names}: give the options to the ConnectionPool itself")
        # None of these changes.
        self._pool = pool
        self._deadline = deadline
        self._options = options
        self._pools = OwnPools(_DEFAULTS | options, DEFAULT_CA_BUNDLE_PATH)
        Request("GET", "http://localhost/", deadline=deadline)  # which checks it
        if pool is None:
            self._pools.use(PoolKey(None, None)).end()  # which checks the options

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Send *request*, and return requests' response; see `requests.adapters.BaseAdapter`.

        Raises the exceptions of `requests.exceptions`, and OSError if a file that *verify* or
        *cert* names does not exist.
        """
        connect, read = _time_outs(timeout)
        proxy = _proxy_for(request, proxies)
        made = self._made(request, read, proxy)
        use = self._use(request, verify, cert, proxy)
        patience = Patience(connect, connect)
        try:
            if stream:
                use.stream = use.pool._stream(made, patience)
                return self.build_response(request, entered(use))
            response = use.pool._request(made, patience)
        except (DugongError, OSError) as exc:
            use.end()
            raise _error(exc, request, stream, proxy) from exc
        except BaseException:
            use.end()
            raise
        use.end()
        return self.build_response(request, whole(response))

    def close(self) -> None:
        """Close the pools of the adapter; a response that is being read can be read to its end.

        A pool that was given to it stays open. The adapter may be used again.
        """
        self._pools.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._pool is not None:
            raise TypeError("an adapter that was given a pool cannot be pickled")
        return {"deadline": self._deadline, **self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as it was made

    # --- the request ------------------------------------------------------------------------------

    def _made(
        self, request: PreparedRequest, read: float | PoolDefault | None, proxy: str | None
    ) -> Request:
        """Return *request* as one of dugong."""
        url, body = request.url, _body_of(request)
        assert request.method is not None
        assert url is not None
        if not PLAIN_URL.fullmatch(url) or "@" in url:
            url = urldefragauth(url)
        headers = _headers_of(request, proxy)
        expect100 = body is not None and request.headers.get("Expect", "").lower() == "100-continue"
        try:
            return Request(
                request.method,
                url,
                headers,  # type: ignore[arg-type]  # what is elaborate is for the layers above
                body,
                timeout=read,
                deadline=self._deadline,
                expect100=expect100,
            )
        except ValueError as exc:
            try:
                Request(request.method, url)
            except ValueError:
                raise requests.exceptions.InvalidURL(exc, request=request) from exc
            raise requests.exceptions.InvalidHeader(exc, request=request) from exc

    def _use(self, request: PreparedRequest, verify: Any, cert: Any, proxy: str | None) -> Use:
        """Return the use of the pool that *request* goes to."""
        is_tls = _is_https(request.url)
        if self._pool is not None:
            if proxy is not None or (is_tls and (verify is not True or cert)):
                raise ValueError(
                    "the pool that the adapter was given decides about certificates and proxies: "
                    "leave out verify, cert and proxies, and set trust_env of the session to False "
                    "if the environment names them, or let the adapter have its own pools"
                )
            return Use(self._pool)
        trust = trust_of(verify, cert) if is_tls or _is_https(proxy) else None
        try:
            return self._pools.use(PoolKey(trust, proxy))
        except ValueError as exc:
            raise requests.exceptions.InvalidProxyURL(exc, request=request) from exc
        except OSError as exc:
            raise requests.exceptions.SSLError(exc, request=request) from exc

    # --- the response -----------------------------------------------------------------------------

    def build_response(self, req: PreparedRequest, resp: HTTPResponse) -> Response:
        """Return *resp*, the response to *req*, as one of requests."""
        response = Response()
        response.status_code = resp.status
        # As `CaseInsensitiveDict(resp.headers)`, which looks each of them up.
        headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for name, value in resp.headers.itermerged():
            headers[name] = value
        response.headers = headers
        response.encoding = get_encoding_from_headers(response.headers)
        response.raw = resp
        response.reason = resp.reason  # type: ignore[assignment]  # there is one, maybe empty
        response.url = req.url  # type: ignore[assignment]  # it was sent, so it has a URL
        extract_cookies_to_jar(response.cookies, req, resp)
        response.request = req
        response.connection = self  # type: ignore[assignment]  # it has what is asked of one
        return response


def mount(
    session: requests.Session, pool: ConnectionPool | None = None, **options: Any
) -> DugongAdapter:
    """Let *session* send all http and https requests through a new `DugongAdapter`; return that.

    The adapter is made with *pool* and *options*, and closed with the session. Raises what
    `DugongAdapter` raises.
    """
    adapter = DugongAdapter(pool, **options)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return adapter


def _time_outs(timeout: Any) -> tuple[float | None, float | PoolDefault | None]:
    """Return the seconds to connect, and for which nothing may come, that *timeout* names."""
    if timeout is None:
        return None, POOL_DEFAULT
    if type(timeout) in (int, float) and timeout > 0:
        return timeout, timeout
    if isinstance(timeout, tuple):
        try:
            connect, read = timeout
        except ValueError:
            raise ValueError(
                f"invalid timeout {timeout}: give a (connect, read) timeout tuple, or a single "
                "float to set both to the same value"
            ) from None
        limits = Timeout(connect=connect, read=read)
    elif isinstance(timeout, Timeout):
        limits = timeout.clone()
    else:
        limits = Timeout(connect=timeout, read=timeout)
    limits.start_connect()
    connect, read = map(
        Timeout.resolve_default_timeout, (limits.connect_timeout, limits.read_timeout)
    )
    return connect, POOL_DEFAULT if read is None else read


def _is_https(url: str | None) -> bool:
    return url is not None and url[:6].lower() == "https:"


def _proxy_for(request: PreparedRequest, proxies: Mapping[str, str] | None) -> str | None:
    """Return the URL of the proxy that *proxies* name for *request*; None if there is none."""
    if not proxies:
        return None
    proxy = select_proxy(request.url, proxies)  # type: ignore[arg-type]  # it has a URL
    if not proxy:
        return None
    try:
        return prepend_scheme_if_needed(proxy, "http")
    except LocationValueError:  # which may quote a password
        text = f"invalid URL of a proxy: {redacted_url(proxy)}"
        raise requests.exceptions.InvalidProxyURL(text, request=request) from None


def _body_of(request: PreparedRequest) -> Any:
    """Return the body of *request* as dugong takes it: text is sent as UTF-8."""
    body: Any = request.body
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, io.TextIOBase):
        return _encoded(iter(lambda: body.read(_PIECE), ""))
    return (
        body
        if hasattr(body, "read") or isinstance(body, (bytearray, memoryview))
        else _encoded(body)
    )


def _encoded(items: Iterable[Any]) -> Iterable[Any]:
    return (item.encode() if isinstance(item, str) else item for item in items)


def _headers_of(request: PreparedRequest, proxy: str | None) -> HeaderPairs | ElaborateHeaders:
    """Return the fields that *request* was prepared with, but for those that dugong makes."""
    fields = []
    names = set()
    for name, given in request.headers.items():
        value = given.decode("latin-1") if isinstance(given, bytes) else given
        lower = name.lower()
        names.add(lower)
        if lower in ("transfer-encoding", "expect"):
            continue
        if lower == "proxy-authorization" and proxy is not None and "@" in proxy:
            continue  # as that in the URL of the proxy counts
        fields.append((name, value))
    if "user-agent" in names:
        return tuple(fields)
    return ElaborateHeaders(tuple(fields), None, frozenset(("user-agent",)))


def _error(
    exc: DugongError | OSError, request: PreparedRequest, stream: bool, proxy: str | None
) -> Exception:
    """Return what requests' own adapter would raise for *exc*."""
    kinds = requests.exceptions
    delivery = getattr(exc, "delivery", None)
    if isinstance(exc, ConnectionTimedOut) and delivery is Delivery.UNSENT:
        return (kinds.ConnectTimeout if proxy is None else kinds.ProxyError)(exc, request=request)
    if isinstance(exc, ProxyError) or (proxy is not None and isinstance(exc, _NOT_REACHED)):
        return kinds.ProxyError(exc, request=request)
    if isinstance(exc, _WITHOUT_CONNECTION) and not isinstance(exc, TLSError):
        return kinds.ConnectionError(exc, request=request)
    # Of a streamed response, the body is yet to come.
    has_begun = delivery is Delivery.ANSWER_STARTED and not stream
    kind: type[kinds.RequestException] = kinds.ConnectionError
    if isinstance(exc, ConnectionTimedOut):
        kind = _BodyTimeout if has_begun else kinds.ReadTimeout
    elif isinstance(exc, TLSError):
        kind = kinds.SSLError
    elif isinstance(exc, InvalidResponse) and "Content-Length" in exc.msg:
        kind = kinds.InvalidHeader
    elif has_begun:
        kind = _BodyCut
    return kind(body_error(exc), request=request)
