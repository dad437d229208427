"""From a host name to a connected transport: resolve, race the addresses, tunnel, shake hands.

Guarantees: every socket that does not become the result is closed, however the dialling ends.
Resolving blocks (the operating system offers nothing else); everything after it does not.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dugong.connection.buffer import ReceiveBuffer
from dugong.connection.head import check_host, field_line
from dugong.connection.polling import POLLOUT, Coroutine, PollNeeded
from dugong.connection.transport import PlainTransport, Transport, traced
from dugong.connection.wire import MAX_INTERIM, co_send_all, receive_head
from dugong.deadline import Deadline
from dugong.errors import (
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    ProxyError,
)

if TYPE_CHECKING:
    import ssl

__all__ = ["DNS_TEST_HOSTNAMES", "Proxy", "co_dial", "resolve"]

T = TypeVar("T")

#: Names that exist. If none of them resolves either, name resolution itself is not working.
DNS_TEST_HOSTNAMES = (("www.google.com", 80), ("www.iana.org", 80), ("C.root-servers.org", 53))

#: Seconds before the next address is tried beside the ones that have not answered (RFC 8305 §5).
CONNECTION_ATTEMPT_DELAY = 0.25

_Address = tuple[Any, ...]  # (family, type, proto, canonname, sockaddr), as getaddrinfo gives it


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


def check_address(host: object, port: object) -> None:
    """Raise TypeError or ValueError unless *host* and *port* can be dialled."""
    if not isinstance(host, str):
        raise TypeError(f"host name must be a str, not {host!r}")
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an int, not {port!r}")
    if not 0 < port < 65536:
        raise ValueError(f"port must be between 1 and 65535, not {port}")
    name = ascii_host(host)
    check_host(name)
    if ":" in name:
        try:
            socket.inet_pton(socket.AF_INET6, name)
        except OSError:
            raise ValueError(
                f"invalid host name {host!r}: a port is a parameter of its own, and an IPv6 "
                "address stands without brackets"
            ) from None


def check_ssl_context(context: object) -> None:
    """Raise TypeError unless *context* is None or can wrap a socket."""
    if context is not None and not hasattr(context, "wrap_socket"):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {context!r}")


def ascii_host(host: str) -> str:
    """Return *host* as it stands in messages: with its IDNA name, without an IPv6 zone."""
    if not host.isascii():
        try:
            return host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"invalid host name {host!r}") from None
    return host.partition("%")[0] if ":" in host else host


def netloc(host: str, port: int | None) -> str:
    """Return ``host:port`` as in a URL, with brackets around an IPv6 address."""
    host = ascii_host(host)
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def absolute_form(address: str, proxy: Proxy | None) -> tuple[str, bytes]:
    """Return what *proxy* has to be told in each request without TLS to *address*.

    That is what comes before the path (RFC 9112 §3.2.2), and header lines; nothing without a proxy.
    """
    if proxy is None:
        return "", b""
    credentials = proxy.authorization
    fixed = b"" if credentials is None else field_line("Proxy-Authorization", credentials)
    return f"http://{address}", fixed


def co_dial(
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None,
    proxy: Proxy | None,
    timeout: float | None,
) -> Coroutine[Transport]:
    """Connect to *host*, through *proxy* and with TLS if they are given.

    *timeout* is in seconds, for all of it. Raises `ConnectionTimedOut`, `ConnectionClosed`,
    `HostnameNotResolvable`, `DNSUnavailable`, `ProxyError`, `InvalidResponse` (from the proxy),
    `ssl.SSLError`, and OSError as the system gave it for the first address that failed.
    """
    deadline = Deadline(timeout)
    peer = (host, port) if proxy is None else (proxy.host, proxy.port)
    sock = yield from co_connect(resolve(*peer), deadline, netloc(*peer))
    transport: Transport = PlainTransport(sock)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy is not None and ssl_context is not None:
            handshake = co_tunnel(transport, netloc(host, port), proxy)
            yield from _co_within(deadline, handshake, f"waiting for the proxy {netloc(*peer)}")
        if ssl_context is not None:
            from dugong.connection.tls import co_start_tls

            shake_hands = co_start_tls(sock, ssl_context, ascii_host(host))
            transport = yield from _co_within(
                deadline, shake_hands, f"shaking hands with {netloc(host, port)}"
            )
        return traced(transport)
    except BaseException:
        transport.close()
        raise


def resolve(host: str, port: int) -> list[_Address]:
    """Return the addresses of *host*, the preferred first.

    Raises `HostnameNotResolvable` if there are none, `DNSUnavailable` if nobody can say.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise HostnameNotResolvable(host) from None
    except socket.gaierror as exc:
        if exc.errno == socket.EAI_AGAIN or not _resolution_works():
            raise DNSUnavailable(host) from exc
        raise HostnameNotResolvable(host) from exc
    if not addresses:
        raise HostnameNotResolvable(host)
    return addresses


def _resolution_works() -> bool:
    # Read from the package at the time of use: that is where programs set it.
    import dugong

    for name, port in dugong.DNS_TEST_HOSTNAMES:
        try:
            socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            continue
        return True
    return False


def interleave(addresses: Iterable[_Address]) -> list[_Address]:
    """Return *addresses* with their families taking turns, each in its order (RFC 8305 §4)."""
    by_family: dict[int, list[_Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    rounds = zip_longest(*by_family.values())
    return [address for turn in rounds for address in turn if address is not None]


def co_connect(
    addresses: Iterable[_Address], deadline: Deadline, peer: str
) -> Coroutine[socket.socket]:
    """Return a socket connected to the first of *addresses* that answers (RFC 8305 §5).

    A new attempt starts when the last one has failed, or has had `CONNECTION_ATTEMPT_DELAY`
    seconds. Raises the OSError of the first address that failed if all of them do.
    """
    untried = deque(interleave(addresses))
    errors: list[OSError] = []
    attempts: dict[socket.socket, PollNeeded] = {}
    next_attempt = Deadline(0)
    winner: socket.socket | None = None
    try:
        while untried or attempts:
            if untried and next_attempt.remaining() == 0:
                next_attempt = Deadline(CONNECTION_ATTEMPT_DELAY)
                error = _start_attempt(attempts, untried.popleft())
                if error is not None:
                    errors.append(error)
                    next_attempt = Deadline(0)
                    continue
            yield _any_of(attempts, next_attempt if untried else Deadline(None), deadline)
            deadline.check(f"connecting to {peer}")
            for sock in [sock for sock, needed in attempts.items() if needed.is_ready()]:
                del attempts[sock]
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    winner = sock
                    return sock
                sock.close()
                errors.append(OSError(code, os.strerror(code)))
                next_attempt = Deadline(0)
        errors[0].add_note(f"while connecting to {peer}")
        raise errors[0]
    finally:
        for sock in attempts:
            sock.close()
        if winner is None:
            errors.clear()  # breaks the cycle of an exception and the frame that it was raised in


def _start_attempt(attempts: dict[socket.socket, PollNeeded], address: _Address) -> OSError | None:
    family, kind, proto, _, sockaddr = address
    try:
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        return exc
    try:
        sock.setblocking(False)
        sock.connect(sockaddr)
    except BlockingIOError:
        pass
    except OSError as exc:
        sock.close()
        return exc
    attempts[sock] = PollNeeded(sock.fileno(), POLLOUT)
    return None


def _any_of(attempts: dict[socket.socket, PollNeeded], *limits: Deadline) -> PollNeeded:
    """Return what to wait for until one of *attempts* has ended, or one of *limits* is over."""
    first, *others = [(needed.fd, needed.mask) for needed in attempts.values()]
    waits = [limit.remaining() for limit in limits]
    if others:
        waits.append(CONNECTION_ATTEMPT_DELAY)  # for drivers that know nothing of others
    return PollNeeded(*first, min((w for w in waits if w is not None), default=None), tuple(others))


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
            raise InvalidResponse("the proxy sent data before the tunnel was used")
        return
    raise InvalidResponse("the proxy sent nothing but 1xx responses")


def _co_within(deadline: Deadline, crt: Coroutine[T], doing: str) -> Coroutine[T]:
    """Run *crt*, asking its driver for a turn when *deadline* passes, to say so."""
    try:
        while True:
            needed = next(crt)
            yield PollNeeded(needed.fd, needed.mask, deadline.remaining())
            deadline.check(doing)
    except StopIteration as exc:
        return cast(T, exc.value)
    finally:
        crt.close()
