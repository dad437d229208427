"""An HTTP/1.1 client: pipelining, 100-continue, streaming both ways; blocking or in coroutines.

Each public name is imported when it is first asked for, by any thread. So importing this package,
which comes before any module in it, takes next to no time.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which takes long to import

if TYPE_CHECKING:
    from dugong._version import __version__ as __version__
    from dugong.client.aio import AsyncClient
    from dugong.client.aiostream import AsyncStreamedResponse
    from dugong.client.auth import Auth, BasicAuth, BearerAuth
    from dugong.client.calls import ClientOptions, TransferOptions, UploadOptions
    from dugong.client.client import Client
    from dugong.client.cookies import Cookies
    from dugong.client.digest import DigestAuth
    from dugong.client.download import Downloaded
    from dugong.client.once import delete, get, head, options, patch, post, put, request
    from dugong.connection.aio import AioFuture
    from dugong.connection.buffer import BUFFER_SIZE
    from dugong.connection.connection import HTTPConnection
    from dugong.connection.encode import HeadersLike
    from dugong.connection.exchange import HTTPResponse
    from dugong.connection.head import MAX_HEADER_SIZE, MAX_LINE_SIZE
    from dugong.connection.names import DNS_TEST_HOSTNAMES
    from dugong.connection.peer import PeerInfo
    from dugong.connection.polling import PollNeeded, eval_coroutine
    from dugong.connection.writers import BodyFollowing
    from dugong.errors import (
        ConnectError,
        ConnectionClosed,
        ConnectionTimedOut,
        DecodingError,
        Delivery,
        DNSUnavailable,
        DugongError,
        ExcessBodyData,
        HostnameNotResolvable,
        HTTPStatusError,
        IntegrityError,
        InternalError,
        InvalidResponse,
        PoolClosed,
        PoolFull,
        ProxyError,
        RedirectError,
        ResponseTooLarge,
        StateError,
        TLSError,
        TooManyRedirects,
        UnsupportedResponse,
        is_temp_network_error,
    )
    from dugong.headers import CaseInsensitiveDict, Headers
    from dugong.pool.body import BodyLike
    from dugong.pool.events import Event
    from dugong.pool.filepart import FilePart
    from dugong.pool.future import ResponseFuture
    from dugong.pool.host_policy import HostPolicy
    from dugong.pool.many import RequestSource
    from dugong.pool.options import POOL_DEFAULT, HeadersMaker, Options, PoolDefault
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.progress import Progress
    from dugong.pool.recording import RecordedExchange
    from dugong.pool.request import Request
    from dugong.pool.response import Attempt, Response, StreamedResponse
    from dugong.pool.retry.decorator import retrying
    from dugong.pool.retry.policy import RetryPolicy
    from dugong.pool.statistics import (
        ConnectionStatistics,
        Holding,
        HostStatistics,
        PoolStatistics,
    )

__all__ = [
    "AioFuture",
    "AsyncClient",
    "AsyncStreamedResponse",
    "Attempt",
    "Auth",
    "BUFFER_SIZE",
    "BasicAuth",
    "BearerAuth",
    "BodyFollowing",
    "BodyLike",
    "CaseInsensitiveDict",
    "Client",
    "ClientOptions",
    "ConnectError",
    "ConnectionClosed",
    "ConnectionPool",
    "ConnectionStatistics",
    "ConnectionTimedOut",
    "Cookies",
    "DNSUnavailable",
    "DNS_TEST_HOSTNAMES",
    "DecodingError",
    "Delivery",
    "DigestAuth",
    "Downloaded",
    "DugongError",
    "Event",
    "ExcessBodyData",
    "FilePart",
    "HTTPConnection",
    "HTTPResponse",
    "HTTPStatusError",
    "Headers",
    "HeadersLike",
    "HeadersMaker",
    "Holding",
    "HostPolicy",
    "HostStatistics",
    "HostnameNotResolvable",
    "IntegrityError",
    "InternalError",
    "InvalidResponse",
    "MAX_HEADER_SIZE",
    "MAX_LINE_SIZE",
    "Options",
    "POOL_DEFAULT",
    "PeerInfo",
    "PollNeeded",
    "PoolClosed",
    "PoolDefault",
    "PoolFull",
    "PoolStatistics",
    "Progress",
    "ProxyError",
    "RecordedExchange",
    "RedirectError",
    "Request",
    "RequestSource",
    "Response",
    "ResponseFuture",
    "ResponseTooLarge",
    "RetryPolicy",
    "StateError",
    "StreamedResponse",
    "TLSError",
    "TooManyRedirects",
    "TransferOptions",
    "UnsupportedResponse",
    "UploadOptions",
    "delete",
    "eval_coroutine",
    "get",
    "head",
    "is_temp_network_error",
    "options",
    "patch",
    "post",
    "put",
    "request",
    "retrying",
]

# Where what is public is. The command line needs none of it before it has understood its arguments,
# and few programs use every part.
_LAZY = {
    "AioFuture": "dugong.connection.aio",
    "AsyncClient": "dugong.client.aio",
    "AsyncStreamedResponse": "dugong.client.aiostream",
    "Attempt": "dugong.pool.response",
    "Auth": "dugong.client.auth",
    "BUFFER_SIZE": "dugong.connection.buffer",
    "BasicAuth": "dugong.client.auth",
    "BearerAuth": "dugong.client.auth",
    "BodyFollowing": "dugong.connection.writers",
    "BodyLike": "dugong.pool.body",
    "CaseInsensitiveDict": "dugong.headers",
    "Client": "dugong.client.client",
    "ClientOptions": "dugong.client.calls",
    "ConnectError": "dugong.errors",
    "ConnectionClosed": "dugong.errors",
    "ConnectionPool": "dugong.pool.pool",
    "ConnectionStatistics": "dugong.pool.statistics",
    "ConnectionTimedOut": "dugong.errors",
    "Cookies": "dugong.client.cookies",
    "DNSUnavailable": "dugong.errors",
    "DNS_TEST_HOSTNAMES": "dugong.connection.names",
    "DecodingError": "dugong.errors",
    "Delivery": "dugong.errors",
    "DigestAuth": "dugong.client.digest",
    "Downloaded": "dugong.client.download",
    "DugongError": "dugong.errors",
    "Event": "dugong.pool.events",
    "ExcessBodyData": "dugong.errors",
    "FilePart": "dugong.pool.filepart",
    "HTTPConnection": "dugong.connection.connection",
    "HTTPResponse": "dugong.connection.exchange",
    "HTTPStatusError": "dugong.errors",
    "Headers": "dugong.headers",
    "HeadersLike": "dugong.connection.encode",
    "HeadersMaker": "dugong.pool.options",
    "Holding": "dugong.pool.statistics",
    "HostPolicy": "dugong.pool.host_policy",
    "HostStatistics": "dugong.pool.statistics",
    "HostnameNotResolvable": "dugong.errors",
    "IntegrityError": "dugong.errors",
    "InternalError": "dugong.errors",
    "InvalidResponse": "dugong.errors",
    "MAX_HEADER_SIZE": "dugong.connection.head",
    "MAX_LINE_SIZE": "dugong.connection.head",
    "Options": "dugong.pool.options",
    "POOL_DEFAULT": "dugong.pool.options",
    "PeerInfo": "dugong.connection.peer",
    "PollNeeded": "dugong.connection.polling",
    "PoolClosed": "dugong.errors",
    "PoolDefault": "dugong.pool.options",
    "PoolFull": "dugong.errors",
    "PoolStatistics": "dugong.pool.statistics",
    "Progress": "dugong.pool.progress",
    "ProxyError": "dugong.errors",
    "RecordedExchange": "dugong.pool.recording",
    "RedirectError": "dugong.errors",
    "Request": "dugong.pool.request",
    "RequestSource": "dugong.pool.many",
    "Response": "dugong.pool.response",
    "ResponseFuture": "dugong.pool.future",
    "ResponseTooLarge": "dugong.errors",
    "RetryPolicy": "dugong.pool.retry.policy",
    "StateError": "dugong.errors",
    "StreamedResponse": "dugong.pool.response",
    "TLSError": "dugong.errors",
    "TooManyRedirects": "dugong.errors",
    "TransferOptions": "dugong.client.calls",
    "UnsupportedResponse": "dugong.errors",
    "UploadOptions": "dugong.client.calls",
    "__version__": "dugong._version",
    "delete": "dugong.client.once",
    "eval_coroutine": "dugong.connection.polling",
    "get": "dugong.client.once",
    "head": "dugong.client.once",
    "is_temp_network_error": "dugong.errors",
    "options": "dugong.client.once",
    "patch": "dugong.client.once",
    "post": "dugong.client.once",
    "put": "dugong.client.once",
    "request": "dugong.client.once",
    "retrying": "dugong.pool.retry.decorator",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
