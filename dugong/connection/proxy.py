"""Proxies: what one is given as, what it is told, and how it opens a tunnel (RFC 9110 §9.3.6).

Guarantees: credentials go to the proxy and to no other host, and stand in no message and no repr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.head import field_line
from dugong.connection.names import check_address, netloc
from dugong.connection.polling import PollNeeded
from dugong.connection.wire import MAX_INTERIM, co_send_all, receive_head
from dugong.errors import InvalidResponse, ProxyError

if TYPE_CHECKING:
    from dugong.connection.polling import Coroutine
    from dugong.connection.transport import Transport

__all__ = ["Proxy", "absolute_form", "co_tunnel"]


class Proxy:
    """A parsed *proxy* argument: a (host, port) pair or a URL with optional credentials.

    Immutable. The repr does not tell the credentials.
    """

    __slots__ = ("authorization", "host", "port")

    def __init__(self, proxy: tuple[str, int] | str) -> None:
        self.authorization: str | None = None
        if isinstance(proxy, str):
            self._parse_url(proxy)
        else:
            try:
                self.host, self.port = proxy
            except (TypeError, ValueError):
                raise TypeError("proxy must be a (host, port) pair or a URL") from None
        check_address(self.host, self.port)

    def _parse_url(self, url: str) -> None:
        from base64 import b64encode
        from urllib.parse import unquote_to_bytes, urlsplit

        try:
            parts = urlsplit(url)
            port = parts.port
            rest = parts.path.removeprefix("/") or parts.query or parts.fragment
            # urlsplit drops some of what must not be there.
            valid = parts.scheme == "http" and not rest and url.isprintable() and " " not in url
        except ValueError:
            valid = False
        if not valid or not parts.hostname:
            # Not quoting the URL, nor what urllib says of it: it may hold a password.
            raise ValueError("a proxy URL must look like http://[user:password@]host[:port]")
        self.host = parts.hostname
        self.port = 80 if port is None else port
        if parts.username is not None:
            user, password = map(unquote_to_bytes, (parts.username, parts.password or ""))
            self.authorization = "Basic " + b64encode(user + b":" + password).decode("ascii")

    def __repr__(self) -> str:
        return f"<Proxy {netloc(self.host, self.port)}>"


def absolute_form(address: str, proxy: Proxy | None) -> tuple[str, bytes]:
    """Return what *proxy* is told in each request without TLS to *address*.

    That is what comes before the path (RFC 9112 §3.2.2), and header lines; nothing without a proxy.
    """
    if proxy is None:
        return "", b""
    credentials = proxy.authorization
    fixed = b"" if credentials is None else field_line("Proxy-Authorization", credentials)
    return f"http://{address}", fixed


def co_tunnel(transport: Transport, target: str, proxy: Proxy) -> Coroutine[None]:
    """Ask *proxy*, at the other end of *transport*, for a tunnel to *target* (RFC 9110 §9.3.6)."""
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode("ascii")
    if proxy.authorization is not None:
        request += field_line("Proxy-Authorization", proxy.authorization)
    yield from co_send_all(transport, request + b"\r\n")
    buffer = ReceiveBuffer()
    for _ in range(MAX_INTERIM):
        while isinstance(head := receive_head(transport, buffer), PollNeeded):
            yield head
        if head.status < 200:
            continue
        if head.status >= 300:
            raise ProxyError(head.status, head.reason)
        if buffer:
            raise InvalidResponse("the server sent data before the tunnel was used")
        return
    raise InvalidResponse("nothing but 1xx responses came")
