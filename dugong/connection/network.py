"""How sockets are opened: who is asked for addresses, which of these are dialled, and from where.

Guarantees: no socket connects to an address that *allow_address* has not been asked about just
before, whatever a name resolves to; and no proxy is told one, as `dugong.connection.dial` asks.
What a caller got wrong is raised when a `Network` is made.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from dugong.connection.names import Address, Resolver, ascii_host, is_numeric, numeric_address

__all__ = ["AddressFilter", "AddressRefused", "Network", "SocketOption"]

#: Is given an address and a port, and returns False, or raises, to refuse it.
AddressFilter = Callable[[str, int], bool | None]
#: Level, option and value, as `socket.socket.setsockopt` takes them.
SocketOption = tuple[int, int, int | bytes]

_LONGEST_PATH = 107  # bytes that Linux has room for; others have less, and say so
_MAPPED = bytes(10) + b"\xff\xff"  # what an IPv4 address begins with as one of IPv6 (RFC 4291)


class AddressRefused(PermissionError):
    """*allow_address* refuses an address, which has not been connected to."""


class Network:
    """The way that the connections of a pool take. Immutable; any thread may use it.

    The parameters are those of `ConnectionPool`; without any, the system decides about everything.
    Raises TypeError or ValueError if they make no sense.
    """

    __slots__ = ("_allow_address", "_local_address", "_options", "resolver", "unix_socket")

    def __init__(
        self,
        unix_socket: str | os.PathLike[str] | None = None,
        local_address: str | tuple[str, int] | None = None,
        resolver: Resolver | None = None,
        allow_address: AddressFilter | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> None:
        for name, function in (("resolver", resolver), ("allow_address", allow_address)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, not {function!r}")
        others = (local_address, resolver, allow_address, socket_options)
        if unix_socket is not None and any(other is not None for other in others):
            raise ValueError(
                "a unix_socket has no address, and no TCP: local_address, resolver, allow_address "
                "and socket_options are for connections without one"
            )
        # None of these changes.
        self.unix_socket: str | None = None if unix_socket is None else _checked_path(unix_socket)
        self.resolver: Resolver | None = resolver
        self._allow_address = allow_address
        self._local_address = None if local_address is None else _local(local_address)
        self._options = () if socket_options is None else _checked_options(socket_options)

    def usable(self, addresses: Iterable[Address]) -> list[Address]:
        """Return those of *addresses* that the local address can reach.

        Raises OSError if there is none.
        """
        addresses = list(addresses)
        if self._local_address is None:
            return addresses
        family = self._local_address[0]
        kept = [address for address in addresses if address[0] == family]
        if not kept:
            raise OSError(errno.EAFNOSUPPORT, "no address is of the family of local_address")
        return kept

    def check(self, address: Address) -> None:
        """Raise `AddressRefused` if *allow_address* refuses *address*."""
        if self._allow_address is None:
            return
        ip, port = address[4][:2]
        if ":" in ip:
            packed = socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])
            if packed.startswith(_MAPPED):
                # It is dialled by IPv4, so a filter of IPv4 networks has to see that.
                ip = socket.inet_ntoa(packed[len(_MAPPED) :])
        try:
            allowed = self._allow_address(ip, port)
            if allowed is not None and not isinstance(allowed, bool):
                # It may be a coroutine, or a match: nothing is allowed by mistake.
                kind = type(allowed).__name__
                raise TypeError(f"allow_address must return a bool, not {kind}")
        except BaseException as exc:  # what is meant to end the program would end this thread
            raise _refusal(ip) from exc
        if allowed is False:
            raise _refusal(ip)

    def check_literal(self, host: str, port: int) -> None:
        """Raise `AddressRefused` if *host* is an address that *allow_address* refuses.

        An address in any form: what a proxy is told, it may read as ``getaddrinfo`` does.
        """
        if self._allow_address is None:
            return
        name = ascii_host(host).removesuffix(".").encode("ascii")  # as bytes, of any length
        try:
            (address, *_) = socket.getaddrinfo(name, port, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            return  # it is a name
        self.check(address)

    def first_allowed(self, addresses: Iterable[Address], port: int) -> str:
        """Return the first of *addresses* that *allow_address* does not refuse with *port*.

        There must be one at least. Raises `AddressRefused`, for the first, if all are refused.
        """
        refusals: list[AddressRefused] = []
        for *rest, sockaddr in addresses:
            ip: str = sockaddr[0]
            try:
                self.check((*rest, (ip, port)))
            except AddressRefused as exc:
                refusals.append(exc)
            else:
                return ip
        try:
            raise refusals[0]
        finally:
            refusals.clear()  # breaks the cycle of an exception and the frame it was raised in

    def start(self, address: Address) -> socket.socket:
        """Return a socket that is connecting to *address*. Raises OSError if that fails at once."""
        self.check(address)
        family, kind, proto, _, sockaddr = address
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in self._options:
                sock.setsockopt(*option)
            if self._local_address is not None:
                if self._local_address[4][1] != 0:  # or the port stays taken after each connection
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(self._local_address[4])
            sock.connect(sockaddr)
        except BlockingIOError as exc:
            if exc.errno != errno.EINPROGRESS:  # the queue of a Unix socket is full
                sock.close()
                raise ConnectionRefusedError(errno.ECONNREFUSED, "too many are waiting") from exc
        except BaseException:
            sock.close()
            raise
        return sock


def _refusal(ip: str) -> AddressRefused:
    return AddressRefused(errno.EACCES, f"allow_address refuses {ip}")


def _checked_path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"unix_socket must be a path, not {type(path).__name__}")
    path = os.fspath(path)
    if not isinstance(path, str):
        raise TypeError(f"unix_socket must be a path of str, not of {type(path).__name__}")
    size = len(os.fsencode(path))
    if not 0 < size <= _LONGEST_PATH:
        raise ValueError(f"a unix_socket has a path of 1 to {_LONGEST_PATH} bytes, not {size}")
    if "\0" in path[1:]:  # one at the start is for a name that is no file
        raise ValueError("the path of a unix_socket must not hold a NUL")
    return path


def _local(given: Any) -> Address:
    """Return the address that *given*, a local address, names."""
    host, port = (given, 0) if isinstance(given, str) else _pair(given)
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"the port of local_address must be an int, not {type(port).__name__}")
    if not 0 <= port < 65536:
        raise ValueError(f"the port of local_address must be below 65536, not {port}")
    if not isinstance(host, str):
        raise TypeError(f"local_address must be an address or (address, port), not of {host!r}")
    try:
        if is_numeric(host):
            return numeric_address(host, port)
    except OSError:
        pass  # the zone of an IPv6 address is none of this host
    raise ValueError(f"local_address must be an IP address of this host, not {host!r}")


def _checked_options(given: Any) -> tuple[SocketOption, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        kind = type(given).__name__
        raise TypeError(f"socket_options must be a sequence of (level, option, value), not {kind}")
    return tuple(map(_checked_option, given))


def _checked_option(option: Any) -> SocketOption:
    if not isinstance(option, (tuple, list)) or len(option) != 3:
        raise TypeError(f"each of socket_options must be (level, option, value), not {option!r}")
    level, name, value = option
    for number in (level, name) if isinstance(value, bytes) else option:
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(
                f"socket_options must consist of ints, and values may be bytes: not of {number!r}"
            )
        if not -(2**31) <= number < 2**31:
            raise ValueError(f"socket_options must consist of numbers of 32 bits, not of {number}")
    return level, name, value


def _pair(given: Any) -> tuple[Any, Any]:
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"local_address must be an address or (address, port), not {given!r}")
    return given[0], given[1]
