"""An HTTP/1.1 client: pipelining, 100-continue, streaming both ways; blocking or in coroutines."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dugong.connection.buffer import BUFFER_SIZE
from dugong.connection.connection import HTTPConnection
from dugong.connection.exchange import HTTPResponse
from dugong.connection.head import MAX_HEADER_SIZE, MAX_LINE_SIZE
from dugong.connection.names import DNS_TEST_HOSTNAMES
from dugong.connection.polling import PollNeeded, eval_coroutine
from dugong.connection.writers import BodyFollowing
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DNSUnavailable,
    DugongError,
    ExcessBodyData,
    HostnameNotResolvable,
    HTTPStatusError,
    InvalidResponse,
    PoolClosed,
    PoolFull,
    ProxyError,
    ResponseTooLarge,
    StateError,
    TLSError,
    UnsupportedResponse,
    is_temp_network_error,
)
from dugong.headers import CaseInsensitiveDict, Headers

if TYPE_CHECKING:
    from dugong._version import __version__ as __version__
    from dugong.connection.aio import AioFuture
    from dugong.pool.events import Event
    from dugong.pool.filepart import FilePart
    from dugong.pool.future import ResponseFuture
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.request import Request
    from dugong.pool.response import Attempt, Response, StreamedResponse
    from dugong.pool.retry.decorator import retrying
    from dugong.pool.retry.policy import RetryPolicy
    from dugong.pool.statistics import PoolStatistics

__all__ = [
    "AioFuture",
    "Attempt",
    "BUFFER_SIZE",
    "BodyFollowing",
    "CaseInsensitiveDict",
    "ConnectError",
    "ConnectionClosed",
    "ConnectionPool",
    "ConnectionTimedOut",
    "DNSUnavailable",
    "DNS_TEST_HOSTNAMES",
    "Delivery",
    "DugongError",
    "Event",
    "ExcessBodyData",
    "FilePart",
    "HTTPConnection",
    "HTTPResponse",
    "HTTPStatusError",
    "Headers",
    "HostnameNotResolvable",
    "InvalidResponse",
    "MAX_HEADER_SIZE",
    "MAX_LINE_SIZE",
    "PollNeeded",
    "PoolClosed",
    "PoolFull",
    "PoolStatistics",
    "ProxyError",
    "Request",
    "Response",
    "ResponseFuture",
    "ResponseTooLarge",
    "RetryPolicy",
    "StateError",
    "StreamedResponse",
    "TLSError",
    "UnsupportedResponse",
    "eval_coroutine",
    "is_temp_network_error",
    "retrying",
]

# What is imported when it is first asked for: asyncio and concurrent.futures take longer to import
# than all of the rest, and few programs use every part.
_LAZY = {
    "AioFuture": "dugong.connection.aio",
    "Attempt": "dugong.pool.response",
    "ConnectionPool": "dugong.pool.pool",
    "Event": "dugong.pool.events",
    "FilePart": "dugong.pool.filepart",
    "PoolStatistics": "dugong.pool.statistics",
    "Request": "dugong.pool.request",
    "Response": "dugong.pool.response",
    "ResponseFuture": "dugong.pool.future",
    "RetryPolicy": "dugong.pool.retry.policy",
    "StreamedResponse": "dugong.pool.response",
    "__version__": "dugong._version",
    "retrying": "dugong.pool.retry.decorator",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
