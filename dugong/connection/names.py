"""Host names: what they are called in messages, and which addresses they have.

Guarantees: a name either has one meaning, or is refused; it never silently names another host than
a browser would reach. Only `resolve` touches anything: it asks the system's resolver, and blocks.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from dugong.connection.forking import apart_from_forks
from dugong.connection.head import check_host
from dugong.errors import DNSUnavailable, HostnameNotResolvable, is_out_of_descriptors

__all__ = [
    "DNS_TEST_HOSTNAMES",
    "Address",
    "Resolver",
    "ascii_host",
    "check_address",
    "dns_test_hostnames",
    "is_numeric",
    "need_descriptor",
    "netloc",
    "numeric_address",
    "resolve",
]

#: Names that exist. If none of them resolves either, name resolution itself is not working.
DNS_TEST_HOSTNAMES = (("www.google.com", 80), ("www.iana.org", 80), ("C.root-servers.org", 53))

Address = tuple[Any, ...]  # (family, type, proto, canonname, sockaddr), as getaddrinfo gives it
#: Is given a name and a port, and returns addresses: each a str, or a tuple that begins with an
#: address and a port.
Resolver = Callable[[str, int], Iterable[str | tuple[Any, ...]]]


def check_address(host: object, port: object) -> None:
    """Raise TypeError or ValueError unless *host* and *port* can be dialled."""
    if not isinstance(host, str):
        raise TypeError(f"host name must be a str, not {type(host).__name__}")
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an int, not {type(port).__name__}")
    if not 0 < port < 65536:
        raise ValueError(f"port must be between 1 and 65535, not {port}")
    if any(char in host for char in "@/?#"):  # not quoted: there may be a password, or a signature
        raise ValueError("invalid host name: it must be a name alone, not a URL")
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


def netloc(host: str, port: int | None) -> str:
    """Return ``host:port`` as in a URL, with brackets around an IPv6 address."""
    host = ascii_host(host)
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


# --- IDNA -----------------------------------------------------------------------------------------

_DOTS = re.compile("[.\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH FULL STOP}\uff61]")
_ONLY_2008 = "\N{LATIN SMALL LETTER SHARP S}\N{LATIN CAPITAL LETTER SHARP S}" + (
    "\N{GREEK SMALL LETTER FINAL SIGMA}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
)
# Letters and marks that cannot be seen: UTS 46 leaves them out, IDNA 2003 does not.
_FILLERS = frozenset("\u115f\u1160\u17b4\u17b5\u180f\u3164\uffa0")


def ascii_host(host: str) -> str:
    """Return *host* as it stands in messages: with its IDNA name, without an IPv6 zone.

    Python knows IDNA 2003 (RFC 3490). A name that IDNA 2008 and UTS 46, which is what browsers use,
    read differently is left to the package ``idna``. Raises ValueError if that is not installed,
    and for a name that is none.
    """
    if host.isascii():
        return host.partition("%")[0] if ":" in host else host
    labels = _DOTS.split(host)
    if "" in labels[:-1]:  # the last is empty if the name ends with a dot
        raise ValueError(f"invalid host name {host!r}: nothing is between two dots")
    return ".".join([_ascii_label(label, host) for label in labels])


def _ascii_label(label: str, host: str) -> str:
    if label.isascii():
        return label
    from encodings.idna import nameprep
    from unicodedata import normalize

    _refuse_odd_characters(label, host)
    try:
        name = label.encode("idna").decode("ascii")
        mapped = nameprep(label)
    except UnicodeError:
        raise ValueError(f"invalid host name {host!r}") from None
    if any(char in _ONLY_2008 for char in label):
        return _ascii_label_of_2008(label, host, name)
    # UTS 46 maps by the Unicode of today, and IDNA 2003 by that of 2002.
    if mapped != normalize("NFKC", normalize("NFKC", label).casefold()):
        return _ascii_label_of_2008(label, host, None)
    if "." in name:  # one character, such as U+2488, may stand for several
        raise ValueError(f"invalid host name {host!r}: {label!r} holds a dot")
    return name


def _refuse_odd_characters(label: str, host: str) -> None:
    """Raise ValueError if *label* has characters that cannot be seen, or that Python knows not."""
    from stringprep import in_table_b1
    from unicodedata import category

    for char in label:
        odd = char in _FILLERS or category(char) in ("Cf", "Cn") or in_table_b1(char)
        if (odd or "\U000e0100" <= char <= "\U000e01ef") and char not in _ONLY_2008:
            raise ValueError(f"invalid host name {host!r}: U+{ord(char):04X} cannot be in a name")


def _ascii_label_of_2008(label: str, host: str, name_of_2003: str | None) -> str:
    """Return what *label* is by UTS 46, or raise ValueError and say what to write."""
    try:
        import idna
    except ImportError:
        choice = "its ASCII form, which begins with xn--"
        if name_of_2003 is not None:
            lower = label.replace(*"\N{LATIN CAPITAL LETTER SHARP S}\N{LATIN SMALL LETTER SHARP S}")
            name_of_2008 = "xn--" + lower.lower().encode("punycode").decode("ascii")
            choice = f"{name_of_2008!r} (IDNA 2008) or {name_of_2003!r} (IDNA 2003)"
        raise ValueError(
            f"the host name {host!r} is ambiguous: write {choice} instead of {label!r}, or install "
            "the package 'idna', which knows IDNA 2008"
        ) from None
    try:
        return idna.encode(label, uts46=True).decode("ascii")
    except UnicodeError as exc:
        raise ValueError(f"invalid host name {host!r}: {exc}") from None


# --- addresses ------------------------------------------------------------------------------------


def dns_test_hostnames() -> Iterable[tuple[str, int]]:
    """Return `dugong.DNS_TEST_HOSTNAMES`, which a program may have set."""
    package = sys.modules[__name__.partition(".")[0]]
    names: Iterable[tuple[str, int]] = getattr(package, "DNS_TEST_HOSTNAMES", DNS_TEST_HOSTNAMES)
    return names


# By these, the resolver does not say that a name has no address, but that it could not find out.
_UNAVAILABLE = {
    getattr(socket, name)
    for name in ("EAI_AGAIN", "EAI_FAIL", "EAI_MEMORY", "EAI_SYSTEM")
    if hasattr(socket, name)
}


def resolve(
    host: str,
    port: int,
    test_names: Iterable[tuple[str, int]] | None = None,
    resolver: Resolver | None = None,
) -> list[Address]:
    """Return the addresses of *host*, the preferred first.

    Raises `HostnameNotResolvable` if there are none, `DNSUnavailable` if that cannot be found out,
    and OSError, as when no descriptor is left. If the resolver says that there are none, and
    *test_names* (pairs of name and port) are given, it is believed only if one of these resolves.
    *resolver* is asked instead of the system's, but not for what is an address already.
    """
    name = host if host.isascii() else ascii_host(host)  # with the zone, unlike in messages
    try:
        if resolver is not None and not is_numeric(name):
            addresses = _ask_other(resolver, host, name, port)
        else:
            addresses = apart_from_forks(partial(_ask, name, port))
    except UnicodeError:
        raise HostnameNotResolvable(host) from None
    except socket.gaierror as exc:
        need_descriptor()
        if exc.errno == socket.EAI_AGAIN or not _can_say(exc, test_names):
            raise DNSUnavailable(host) from exc
        raise HostnameNotResolvable(host) from exc
    except OSError:  # EAI_SYSTEM, with an errno that may be that of an earlier call
        need_descriptor()
        raise
    if not addresses:
        raise HostnameNotResolvable(host)
    return addresses


def _ask(name: str, port: int) -> list[Address]:
    return list(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))


def _ask_other(resolver: Resolver, host: str, name: str, port: int) -> list[Address]:
    """Return what *resolver*, which is code of the caller's, says of *name*, that is *host*."""
    try:
        found: Any = resolver(name, port)
        if isinstance(found, Iterator):
            found = list(found)  # which runs a generator
    except socket.gaierror:
        raise
    except BaseException as exc:  # what is meant to end the program would only end this thread
        raise DNSUnavailable(host) from exc
    try:
        if isinstance(found, str):
            raise TypeError("not a list of them")
        return [_address(each, port) for each in found]
    except (OSError, TypeError, ValueError) as invalid:
        if hasattr(found, "close"):
            found.close()  # a coroutine
        reason = TypeError(f"resolver= must return addresses: str, or (address, port) ({invalid})")
        raise HostnameNotResolvable(host) from reason


def _address(given: Any, port: int) -> Address:
    """Return the address that *given* is, which a resolver has found."""
    if isinstance(given, str):
        return numeric_address(given, port)
    ip, port, *rest = given
    if not isinstance(port, int):
        raise TypeError(f"a port must be an int, not {type(port).__name__}")
    if not 0 < port < 65536:
        raise ValueError(f"a port must be between 1 and 65535, not {port}")
    family, kind, proto, name, sockaddr = numeric_address(ip, port)
    if family == socket.AF_INET6:
        # Flow information and scope, of which the system would take what does not fit as it likes.
        rest = rest[:2]
        for part, limit in zip(rest, (1 << 20, 1 << 32), strict=False):
            if not isinstance(part, int) or not 0 <= part < limit:
                raise ValueError(f"{part!r} is not part of an IPv6 address")
        sockaddr = (*sockaddr[:2], *rest, *sockaddr[2 + len(rest) :])
    return family, kind, proto, name, sockaddr


def numeric_address(ip: str, port: int) -> Address:
    """Return the address that *ip* is. Raises OSError, TypeError or ValueError if it is none."""
    if not isinstance(ip, str):  # None would be this host
        raise TypeError(f"an address must be a str, not {type(ip).__name__}")
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    (found, *_) = socket.getaddrinfo(ip, port, type=socket.SOCK_STREAM, flags=flags)
    return found


def is_numeric(host: str) -> bool:
    """Return True if *host* is an address in its usual form, and no name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host.partition("%")[0] if ":" in host else host)
    except (OSError, ValueError):
        return False
    return True


def need_descriptor() -> None:
    """Raise OSError if no descriptor is left: then what was looked for may exist all the same."""
    try:
        socket.socket().close()
    except OSError as exc:
        if is_out_of_descriptors(exc):
            raise


def _can_say(exc: socket.gaierror, test_names: Iterable[tuple[str, int]] | None) -> bool:
    """Return True if *exc* is to be believed."""
    if test_names is None:
        return exc.errno not in _UNAVAILABLE
    for name, port in test_names:
        try:
            apart_from_forks(partial(_ask, name, port))
        except (OSError, UnicodeError):
            continue
        return True
    return False
