"""From a host name to a connected transport: resolve, race the addresses, tunnel, shake hands.

Guarantees: every socket that does not become the result is closed, however the dialling ends.
Resolving blocks (the operating system offers nothing else); everything after it does not.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar, cast

from dugong.connection.names import Address, ascii_host, netloc, resolve
from dugong.connection.network import AddressRefused, Network
from dugong.connection.polling import POLLOUT, Coroutine, PollNeeded
from dugong.connection.proxy import co_tunnel
from dugong.connection.tracing import traced
from dugong.connection.transport import PlainTransport, Transport
from dugong.deadline import Deadline
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    ProxyError,
    UnsupportedResponse,
    is_out_of_descriptors,
    printable,
)

if TYPE_CHECKING:
    import ssl

    from dugong.connection.proxy import Proxy
    from dugong.connection.tls import TlsSession, TlsTransport

__all__ = ["check_ssl_context", "co_dial", "peer_of"]

T = TypeVar("T")

#: Seconds before the next address is tried beside those under way (RFC 8305 §5).
CONNECTION_ATTEMPT_DELAY = 0.25

_NETWORK = Network()


def check_ssl_context(context: object, name: str = "ssl_context") -> None:
    """Raise TypeError unless *context*, the parameter *name*, is None or can make a TLS object."""
    if context is not None and not hasattr(context, "wrap_bio"):
        raise TypeError(f"{name} must be an ssl.SSLContext, not {type(context).__name__}")


def peer_of(host: str, port: int, proxy: Proxy | None, network: Network = _NETWORK) -> str:
    """Return what a socket for *host* is connected to, as messages call it."""
    if network.unix_socket is not None:
        return f"the socket {printable(network.unix_socket)}"
    if proxy is not None:
        return f"the proxy {netloc(proxy.host, proxy.port)}"
    return netloc(host, port)


def co_dial(
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None,
    proxy: Proxy | None,
    timeout: float | None,
    test_names: Iterable[tuple[str, int]] | None = None,
    session: TlsSession | None = None,
    network: Network = _NETWORK,
    proxy_context: ssl.SSLContext | None = None,
) -> Coroutine[Transport]:
    """Connect to *host*, through *proxy* and with TLS if they are given.

    *timeout* is in seconds, for all of it but resolving; *test_names* are those of
    `dugong.connection.names.resolve`; *session* is resumed over TLS; *network* opens the socket;
    *proxy_context* is for an https proxy. Raises `ConnectionTimedOut`, `ConnectionClosed`,
    `HostnameNotResolvable`, `DNSUnavailable`, `ProxyError`, `TLSError` and `InvalidResponse` (from
    the proxy), `ssl.SSLError`, and OSError as the system gave it for the first address that
    failed; `is_out_of_descriptors` is true for it if one could not be tried for want of a
    descriptor.
    """
    # A dot at the end is for the DNS and for Host; a certificate has none (RFC 6066 §3).
    server_name = ascii_host(host).removesuffix(".")
    peer = peer_of(host, port, proxy, network)
    find = partial(resolve, test_names=test_names, resolver=network.resolver)
    target = host if proxy is None else _target(host, port, proxy, find, network)
    addresses = _addresses(host, port, proxy, find, network)
    deadline = Deadline(timeout)
    sock = yield from co_connect(addresses, deadline, peer, network)
    transport: Transport = PlainTransport(sock)
    try:
        if proxy is not None:
            tunnel = (target, port) if ssl_context is not None or not proxy.speaks_http else None
            transport = yield from _co_pass(transport, proxy, proxy_context, tunnel, deadline, peer)
        if ssl_context is not None:
            shake_hands = _co_start_tls(transport, ssl_context, server_name, session)
            transport = yield from _co_within(
                deadline, shake_hands, f"shaking hands with {netloc(host, port)}"
            )
        return traced(transport)
    except BaseException:
        transport.close()
        raise


def _co_pass(
    transport: Transport,
    proxy: Proxy,
    context: ssl.SSLContext | None,
    tunnel: tuple[str, int] | None,
    deadline: Deadline,
    peer: str,
) -> Coroutine[Transport]:
    """Return what leads through *proxy*, which *transport* is connected to.

    With TLS by *context* if the proxy wants it, and to the host and port *tunnel* if there is one.
    """
    try:
        if proxy.scheme == "https":
            from dugong.connection.nested import co_start_proxy_tls

            assert context is not None
            name = ascii_host(proxy.host).removesuffix(".")
            shake_hands = co_start_proxy_tls(transport.sock, context, name, peer)
            transport = yield from _co_within(deadline, shake_hands, f"shaking hands with {peer}")
        if tunnel is not None:
            ask = co_tunnel(transport, *tunnel, proxy)
            yield from _co_within(deadline, ask, f"waiting for {peer}")
        return transport
    except (ConnectionClosed, InvalidResponse, UnsupportedResponse) as exc:
        exc.msg = f"{peer}: {exc.msg}"
        raise
    except ProxyError as refusal:
        refusal.msg = refusal.msg.replace("the proxy", peer, 1)
        raise


def _co_start_tls(
    transport: Transport, context: ssl.SSLContext, name: str, session: TlsSession | None
) -> Coroutine[TlsTransport]:
    """Shake hands with *name* over *transport*, which is plain, or TLS with a proxy."""
    from dugong.connection.tls import co_start_tls

    if isinstance(transport, PlainTransport):
        return co_start_tls(transport.sock, context, name, session)
    from dugong.connection.nested import co_start_nested_tls

    return co_start_nested_tls(cast("TlsTransport", transport), context, name, session)


def _addresses(
    host: str,
    port: int,
    proxy: Proxy | None,
    find: Callable[[str, int], list[Address]],
    network: Network,
) -> list[Address]:
    """Return the addresses to connect to."""
    if network.unix_socket is not None:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", network.unix_socket)]
    if proxy is None:
        return network.usable(find(host, port))
    try:
        return network.usable(find(proxy.host, proxy.port))
    except (HostnameNotResolvable, DNSUnavailable) as exc:
        exc.msg += " (the proxy)"
        raise


def _target(
    host: str,
    port: int,
    proxy: Proxy,
    find: Callable[[str, int], list[Address]],
    network: Network,
) -> str:
    """Return what *proxy* is told that *host* is: that name, or an address if it resolves none.

    It gets one address only, so that is one it most likely reaches, of those that are allowed.
    Raises `ConnectError` if none is.
    """
    try:
        if proxy.resolves:
            network.check_literal(host, port)
            return host
        addresses = find(host, port)
        of_ipv4 = [address for address in addresses if address[0] == socket.AF_INET]
        others = [address for address in addresses if address[0] != socket.AF_INET]
        if proxy.scheme == "socks4" and of_ipv4:
            others = []  # which it has no word for
        return network.first_allowed((*of_ipv4, *others), port)
    except AddressRefused as exc:
        # An OSError would be taken for one of connecting to the proxy.
        said = f"connecting to {netloc(host, port)} ({exc.strerror})"
        raise ConnectError(said, exc.errno) from exc


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """Return *addresses* with their families taking turns, each in its order (RFC 8305 §4)."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    rounds = zip_longest(*by_family.values())
    return [address for turn in rounds for address in turn if address is not None]


def co_connect(
    addresses: Iterable[Address], deadline: Deadline, peer: str, network: Network = _NETWORK
) -> Coroutine[socket.socket]:
    """Return a socket connected to the first of *addresses* that accepts (RFC 8305 §5).

    *network* opens it. A new attempt starts when the last one has failed, or has had
    `CONNECTION_ATTEMPT_DELAY` seconds. If all of them fail, raises the OSError of the first that
    was tried, or the one which says that no descriptor was left to try an address with.
    """
    untried = deque(interleave(addresses))
    errors: list[OSError] = []
    attempts: dict[socket.socket, PollNeeded] = {}
    next_attempt = Deadline(0)
    winner: socket.socket | None = None
    try:
        while untried or attempts:
            if untried and next_attempt.expired:
                next_attempt = Deadline(CONNECTION_ATTEMPT_DELAY)
                try:
                    sock = network.start(untried.popleft())
                except OSError as exc:
                    errors.append(exc)
                    next_attempt = Deadline(0)
                    continue
                attempts[sock] = PollNeeded(sock.fileno(), POLLOUT)
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
        error = min(errors, key=_rank)
        error.add_note(f"while connecting to {peer}")
        raise error
    finally:
        for sock in attempts:
            sock.close()
        if winner is None:
            errors.clear()  # breaks the cycle of an exception and the frame that it was raised in


def _rank(error: OSError) -> int:
    """Return what *error* says of a host with several addresses: the least tells most."""
    if is_out_of_descriptors(error):
        return 0  # the address that could not be tried may be the one that would have accepted
    return 2 if isinstance(error, AddressRefused) else 1


def _any_of(attempts: dict[socket.socket, PollNeeded], *limits: Deadline) -> PollNeeded:
    """Return what to wait for until one of *attempts* has ended, or one of *limits* is over."""
    first, *others = [(needed.fd, needed.mask) for needed in attempts.values()]
    waits = [limit.remaining() for limit in limits]
    if others:
        waits.append(CONNECTION_ATTEMPT_DELAY)  # for drivers that know nothing of others
    return PollNeeded(*first, min((w for w in waits if w is not None), default=None), tuple(others))


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
