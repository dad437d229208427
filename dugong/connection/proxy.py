"""Proxies: what one is given as, what it is told, and how it opens a tunnel (RFC 9110 §9.3.6).

Guarantees: credentials go to the proxy and to no other host, and stand in no message and no repr.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.head import field_line
from dugong.connection.names import ascii_host, check_address, netloc
from dugong.connection.polling import PollNeeded
from dugong.connection.socks import co_socks
from dugong.connection.wire import MAX_INTERIM, co_send_all, receive_head
from dugong.errors import InvalidResponse, ProxyError

if TYPE_CHECKING:
    from dugong.connection.polling import Coroutine
    from dugong.connection.transport import Transport

__all__ = ["FOR_PROXIES", "Proxy", "ProxyLike", "absolute_form", "co_tunnel"]

ProxyLike = tuple[str, int] | str

#: Names, in lower case, of fields that are not for the server behind a proxy (RFC 9110 §11.7.2).
FOR_PROXIES = frozenset(("proxy-authorization",))

_PORTS = {"http": 80, "https": 443} | dict.fromkeys("socks4 socks4a socks5 socks5h".split(), 1080)
_LONGEST_CREDENTIAL = 255  # bytes (RFC 1929 §2)


class Proxy:
    """A parsed *proxy* argument: a (host, port) pair or a URL with optional credentials.

    *fields* are header fields for the proxy alone, if it speaks HTTP; a Proxy-Authorization among
    them is sent instead of the credentials of the URL. Raises TypeError or ValueError.

    Immutable. The repr does not tell the credentials.
    """

    __slots__ = ("authorization", "fields", "host", "password", "port", "scheme", "username")

    def __init__(self, proxy: ProxyLike, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.scheme: str = "http"
        #: The credentials for a SOCKS proxy; None and empty if there are none.
        self.username: bytes | None = None
        self.password: bytes = b""
        #: The same for a proxy that speaks HTTP.
        self.authorization: str | None = None
        self.host: str
        self.port: int
        if isinstance(proxy, str):
            self._parse_url(proxy)
        else:
            try:
                self.host, self.port = proxy
            except (TypeError, ValueError):
                raise TypeError("proxy must be a (host, port) pair or a URL") from None
        check_address(self.host, self.port)
        fields = tuple(fields)
        if self.authorization is not None and not any(
            name.lower() == "proxy-authorization" for name, _ in fields
        ):
            fields = (("Proxy-Authorization", self.authorization), *fields)
        #: Header lines that the proxy is sent.
        self.fields: bytes = b"".join(field_line(*field) for field in fields)

    def _parse_url(self, url: str) -> None:
        from urllib.parse import unquote_to_bytes, urlsplit

        try:
            parts = urlsplit(url)
            port = parts.port
            rest = parts.path.removeprefix("/") or parts.query or parts.fragment
            # urlsplit drops some of what must not be there.
            valid = parts.scheme in _PORTS and not rest and url.isprintable() and " " not in url
        except ValueError:
            valid = False
        if not valid or not parts.hostname:
            # Not quoting the URL, nor what urllib says of it: it may hold a password.
            raise ValueError(
                "a proxy URL must look like http://[user:password@]host[:port], or begin with "
                "https, socks4, socks4a, socks5 or socks5h"
            )
        self.scheme = parts.scheme
        self.host = parts.hostname
        self.port = _PORTS[parts.scheme] if port is None else port
        if parts.username is None:
            return
        user, password = map(unquote_to_bytes, (parts.username, parts.password or ""))
        if self.speaks_http:
            from base64 import b64encode

            if b":" in user:  # the proxy would take what follows for the password (RFC 7617 §2)
                raise ValueError("the user name for an http or https proxy must have no colon")
            self.authorization = "Basic " + b64encode(user + b":" + password).decode("ascii")
        else:
            self._take_credentials(user, password)

    def _take_credentials(self, user: bytes, password: bytes) -> None:
        """Keep what a SOCKS proxy is told. Raises ValueError if it cannot be."""
        if self.scheme.startswith("socks4"):
            if password or b"\0" in user:
                raise ValueError("SOCKS4 has a user name without a NUL, and no password")
        elif not user or max(len(user), len(password)) > _LONGEST_CREDENTIAL:
            raise ValueError(
                f"SOCKS5 has a user name and a password of up to {_LONGEST_CREDENTIAL} bytes"
            )
        self.username, self.password = user, password

    @property
    def speaks_http(self) -> bool:
        """True for http and https: then requests without TLS are sent in absolute-form."""
        return self.scheme.startswith("http")

    @property
    def resolves(self) -> bool:
        """True if it is given the name of the server, and False if it is given an address."""
        return self.scheme not in ("socks4", "socks5")

    def __repr__(self) -> str:
        return f"<Proxy {self.scheme}://{netloc(self.host, self.port)}>"


def absolute_form(address: str, proxy: Proxy | None) -> tuple[str, bytes]:
    """Return what *proxy* is told in each request without TLS to *address*.

    That is what comes before the path (RFC 9112 §3.2.2), and header lines; nothing without a proxy.
    """
    if proxy is None or not proxy.speaks_http:
        return "", b""
    return f"http://{address}", proxy.fields


def co_tunnel(transport: Transport, host: str, port: int, proxy: Proxy) -> Coroutine[None]:
    """Ask *proxy*, at the other end of *transport*, for a tunnel to *port* of *host*."""
    if proxy.speaks_http:
        yield from _co_connect(transport, netloc(host, port), proxy)
    else:
        yield from co_socks(transport, ascii_host(host), port, proxy)


def _co_connect(transport: Transport, target: str, proxy: Proxy) -> Coroutine[None]:
    """Ask for a tunnel to *target* by HTTP (RFC 9110 §9.3.6)."""
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n".encode("ascii")
    yield from co_send_all(transport, request + proxy.fields + b"\r\n")
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
