"""An HTTP/1.1 client: pipelining, 100-continue, streaming both ways; blocking or in coroutines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.buffer import BUFFER_SIZE
from dugong.connection.connection import HTTPConnection
from dugong.connection.dial import DNS_TEST_HOSTNAMES
from dugong.connection.exchange import HTTPResponse
from dugong.connection.head import MAX_HEADER_SIZE, MAX_LINE_SIZE
from dugong.connection.polling import PollNeeded, eval_coroutine
from dugong.connection.writers import BodyFollowing
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    DugongError,
    ExcessBodyData,
    HostnameNotResolvable,
    InvalidResponse,
    ProxyError,
    StateError,
    UnsupportedResponse,
    is_temp_network_error,
)
from dugong.headers import CaseInsensitiveDict, Headers

if TYPE_CHECKING:
    from dugong.connection.aio import AioFuture

__all__ = [
    "BUFFER_SIZE",
    "DNS_TEST_HOSTNAMES",
    "MAX_HEADER_SIZE",
    "MAX_LINE_SIZE",
    "AioFuture",
    "BodyFollowing",
    "CaseInsensitiveDict",
    "ConnectionClosed",
    "ConnectionTimedOut",
    "DNSUnavailable",
    "DugongError",
    "ExcessBodyData",
    "HTTPConnection",
    "HTTPResponse",
    "Headers",
    "HostnameNotResolvable",
    "InvalidResponse",
    "PollNeeded",
    "ProxyError",
    "StateError",
    "UnsupportedResponse",
    "eval_coroutine",
    "is_temp_network_error",
]

__version__ = "4.0.0.dev0"


def __getattr__(name: str) -> object:
    # asyncio takes longer to import than all of dugong, and few programs use both.
    if name == "AioFuture":
        from dugong.connection.aio import AioFuture

        return AioFuture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
