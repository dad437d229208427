"""SOCKS: how a proxy that does not speak HTTP is asked for a tunnel (RFC 1928, RFC 1929, SOCKS4).

Guarantees: not a byte of what follows the handshake is received; the credentials are sent to the
proxy only, if it asks for them, and stand in no message.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from dugong.connection.names import is_numeric
from dugong.connection.polling import PollNeeded
from dugong.connection.wire import co_send_all
from dugong.errors import ConnectionClosed, InvalidResponse, ProxyError

if TYPE_CHECKING:
    from dugong.connection.polling import Coroutine
    from dugong.connection.proxy import Proxy
    from dugong.connection.transport import Transport

__all__ = ["co_socks"]

_CONNECT = b"\x01"
_NO_CREDENTIALS, _PASSWORD = 0, 2  # methods of RFC 1928 §3
_REFUSED = 255  # no method is acceptable
_IPV4, _NAME, _IPV6 = 1, 3, 4  # what an address begins with (RFC 1928 §5)

# Both are what a reply says, in words.
_REPLIES_OF_4 = {
    91: "request rejected or failed",
    92: "it cannot reach the identd of the client",
    93: "the user name is not that of identd",
}
_REPLIES_OF_5 = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}


def co_socks(transport: Transport, host: str, port: int, proxy: Proxy) -> Coroutine[None]:
    """Ask *proxy*, at the other end of *transport*, for a tunnel to *port* of *host*.

    *host* is an address, or a name if the proxy is to resolve it. Raises `ProxyError` if the proxy
    refuses, `InvalidResponse` if it does not speak SOCKS, `ConnectionClosed`, and OSError or
    ValueError for a *host* that cannot be asked for.
    """
    ask = _co_socks4 if proxy.scheme.startswith("socks4") else _co_socks5
    yield from ask(transport, host, port.to_bytes(2, "big"), proxy)


def _co_socks4(transport: Transport, host: str, port: bytes, proxy: Proxy) -> Coroutine[None]:
    if ":" in host:
        raise OSError(errno.EAFNOSUPPORT, "SOCKS4 reaches no IPv6 address")
    address, name = b"\0\0\0\1", b""  # "see the name" (SOCKS4a)
    if is_numeric(host):
        address = socket.inet_pton(socket.AF_INET, host)
        if address[:3] == b"\0\0\0" and address[3]:  # which would stand for a name
            raise OSError(errno.EADDRNOTAVAIL, f"SOCKS4 does not reach {host}")
    else:
        name = host.encode("ascii") + b"\0"
    user = proxy.username or b""
    yield from co_send_all(transport, b"\x04" + _CONNECT + port + address + user + b"\0" + name)
    version, code = (yield from _co_receive(transport, 8))[:2]
    if version not in (0, 4) or not 90 <= code <= 93:
        raise InvalidResponse("the server does not speak SOCKS4")
    if code != 90:
        raise ProxyError(code, _REPLIES_OF_4[code])


def _co_socks5(transport: Transport, host: str, port: bytes, proxy: Proxy) -> Coroutine[None]:
    request = b"\x05" + _CONNECT + b"\0" + _address(host) + port
    yield from _co_authenticate(transport, proxy)
    yield from co_send_all(transport, request)
    version, code = yield from _co_receive(transport, 2)
    _check(version == 5)
    if code != 0:
        # Some send nothing behind it.
        raise ProxyError(code, _REPLIES_OF_5.get(code, "no reason that RFC 1928 knows"))
    _, kind = yield from _co_receive(transport, 2)
    if kind == _NAME:
        (size,) = yield from _co_receive(transport, 1)
    else:
        _check(kind in (_IPV4, _IPV6))
        size = 4 if kind == _IPV4 else 16
    yield from _co_receive(transport, size + len(port))


def _co_authenticate(transport: Transport, proxy: Proxy) -> Coroutine[None]:
    """Agree on a method (RFC 1928 §3), and say the credentials if that is one for them."""
    user, password = proxy.username, proxy.password
    methods = [_NO_CREDENTIALS] if user is None else [_NO_CREDENTIALS, _PASSWORD]
    yield from co_send_all(transport, bytes((5, len(methods), *methods)))
    version, method = yield from _co_receive(transport, 2)
    _check(version == 5)
    if method == _REFUSED:
        needed = "it wants credentials" if user is None else "it does not take a password"
        raise ProxyError(_REFUSED, needed)
    _check(method in methods)
    if method == _PASSWORD and user is not None:
        # RFC 1929 §2
        credentials = bytes((1, len(user))) + user + bytes((len(password),)) + password
        yield from co_send_all(transport, credentials)
        _, status = yield from _co_receive(transport, 2)
        if status != 0:
            raise ProxyError(_REFUSED, "the user name or the password is wrong")


def _address(host: str) -> bytes:
    """Return *host* as RFC 1928 §5 writes it."""
    if ":" in host:
        return bytes((_IPV6,)) + socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if is_numeric(host):
        return bytes((_IPV4,)) + socket.inet_pton(socket.AF_INET, host)
    name = host.encode("ascii")
    if len(name) > 255:
        raise ValueError("the host name is too long for SOCKS")
    return bytes((_NAME, len(name))) + name


def _check(is_valid: bool) -> None:
    if not is_valid:
        raise InvalidResponse("the server does not speak SOCKS5")


def _co_receive(transport: Transport, size: int) -> Coroutine[bytes]:
    """Receive *size* bytes."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = transport.recv_into(view)
        if isinstance(got, PollNeeded):
            yield got
        elif got == 0:
            raise ConnectionClosed("connection closed within the SOCKS handshake")
        else:
            view = view[got:]
    return bytes(data)
