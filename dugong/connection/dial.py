"""From a host name to a connected transport: resolve, race the addresses, tunnel, shake hands.

Guarantees: every socket that does not become the result is closed, however the dialling ends.
Resolving blocks (the operating system offers nothing else); everything after it does not.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar, cast

from dugong.connection.names import Address, ascii_host, netloc, resolve
from dugong.connection.polling import POLLOUT, Coroutine, PollNeeded
from dugong.connection.proxy import co_tunnel
from dugong.connection.tracing import traced
from dugong.connection.transport import PlainTransport, Transport
from dugong.deadline import Deadline
from dugong.errors import (
    ConnectionClosed,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    UnsupportedResponse,
    is_out_of_descriptors,
)

if TYPE_CHECKING:
    import ssl

    from dugong.connection.proxy import Proxy
    from dugong.connection.tls import TlsSession

__all__ = ["check_ssl_context", "co_dial"]

T = TypeVar("T")

#: Seconds before the next address is tried beside those under way (RFC 8305 §5).
CONNECTION_ATTEMPT_DELAY = 0.25


def check_ssl_context(context: object) -> None:
    """Raise TypeError unless *context* is None or can make a TLS object."""
    if context is not None and not hasattr(context, "wrap_bio"):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(context).__name__}")


def co_dial(
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None,
    proxy: Proxy | None,
    timeout: float | None,
    test_names: Iterable[tuple[str, int]] | None = None,
    session: TlsSession | None = None,
) -> Coroutine[Transport]:
    """Connect to *host*, through *proxy* and with TLS if they are given.

    *timeout* is in seconds, for all of it but resolving; *test_names* are those of
    `dugong.connection.names.resolve`; *session* is resumed over TLS. Raises `ConnectionTimedOut`,
    `ConnectionClosed`, `HostnameNotResolvable`, `DNSUnavailable`, `ProxyError`, `InvalidResponse`
    (from the proxy), `ssl.SSLError`, and OSError as the system gave it for the first address that
    failed; `is_out_of_descriptors` is true for it if one could not be tried for want of a
    descriptor.
    """
    deadline = Deadline(timeout)
    # A dot at the end is for the DNS and for Host; a certificate has none (RFC 6066 §3).
    server_name = ascii_host(host).removesuffix(".")
    peer = netloc(host, port) if proxy is None else f"the proxy {netloc(proxy.host, proxy.port)}"
    sock = yield from co_connect(_resolve(host, port, proxy, test_names), deadline, peer)
    transport: Transport = PlainTransport(sock)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxy is not None and ssl_context is not None:
            try:
                ask = co_tunnel(transport, netloc(host, port), proxy)
                yield from _co_within(deadline, ask, f"waiting for {peer}")
            except (ConnectionClosed, InvalidResponse, UnsupportedResponse) as exc:
                exc.msg = f"{peer}: {exc.msg}"
                raise
        if ssl_context is not None:
            from dugong.connection.tls import co_start_tls

            shake_hands = co_start_tls(sock, ssl_context, server_name, session)
            transport = yield from _co_within(
                deadline, shake_hands, f"shaking hands with {netloc(host, port)}"
            )
        return traced(transport)
    except BaseException:
        transport.close()
        raise


def _resolve(
    host: str, port: int, proxy: Proxy | None, test_names: Iterable[tuple[str, int]] | None
) -> list[Address]:
    """Return the addresses to connect to."""
    find = resolve if test_names is None else partial(resolve, test_names=test_names)
    if proxy is None:
        return find(host, port)
    try:
        return find(proxy.host, proxy.port)
    except (HostnameNotResolvable, DNSUnavailable) as exc:
        exc.msg += " (the proxy)"
        raise


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """Return *addresses* with their families taking turns, each in its order (RFC 8305 §4)."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    rounds = zip_longest(*by_family.values())
    return [address for turn in rounds for address in turn if address is not None]


def co_connect(
    addresses: Iterable[Address], deadline: Deadline, peer: str
) -> Coroutine[socket.socket]:
    """Return a socket connected to the first of *addresses* that accepts (RFC 8305 §5).

    A new attempt starts when the last one has failed, or has had `CONNECTION_ATTEMPT_DELAY`
    seconds. If all of them fail, raises the OSError of the first, or the one which says that no
    descriptor was left to try an address with.
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
        # The address that could not be tried may be the one that would have accepted.
        error = next(filter(is_out_of_descriptors, errors), errors[0])
        error.add_note(f"while connecting to {peer}")
        raise error
    finally:
        for sock in attempts:
            sock.close()
        if winner is None:
            errors.clear()  # breaks the cycle of an exception and the frame that it was raised in


def _start_attempt(attempts: dict[socket.socket, PollNeeded], address: Address) -> OSError | None:
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
