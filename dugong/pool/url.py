"""What a URL says: which origin to ask, and for which target; and how a URL is shown.

Guarantees: no message quotes a user name, a password or a query. Touches nothing; the only state is
a bounded cache of origins that were parsed before, which any thread may use.
"""

from __future__ import annotations

import re
import socket
from typing import NamedTuple

from dugong.connection.cache import BoundedCache
from dugong.connection.names import ascii_host, netloc
from dugong.errors import printable

__all__ = [
    "PLAIN_URL",
    "Origin",
    "known_origins",
    "parse_origin",
    "public_url",
    "redacted_url",
    "split_url",
]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]@]*\]|[^\[\]:@]*)(?::(?P<port>[^:]*))?")
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"([a-z0-9_-]+\.)*[a-z0-9_-]+\.?")  # of the DNS, or an IPv4 address
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,64}")  # the name or the number of an interface
_MAX_NAME = 254  # with a dot at the end

#: What names the origin, then a target that is good for any method, and nothing else.
PLAIN_URL = re.compile(r"(https?://[^/?#]*)/[!-\"$-~]*")

_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?P<port>:[0-9]{0,5})?")
_LONGEST_SHOWN = 200  # characters of a URL in a message


class Origin(NamedTuple):
    """What connections are shared by (RFC 9110 §4.3.1). `host` is lower-case and ASCII.

    The zone of an IPv6 address, the interface that leads there, is behind a ``%``, as it was given.
    """

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """The host, and the port unless it is the default, as in a Host field: without a zone."""
        port = None if self.port == _DEFAULT_PORTS.get(self.scheme) else self.port
        return netloc(self.host, port)

    def __str__(self) -> str:
        _, percent, zone = self.host.partition("%")
        authority = self.netloc.replace("]", f"%25{zone}]") if percent else self.netloc
        return f"{self.scheme}://{authority}"


def split_url(url: str) -> tuple[str, str]:
    """Split *url* into what names its origin and its target, which is without a fragment.

    ``http://host:81/path?query#part`` gives ``http://host:81`` and ``/path?query``. Neither is
    checked. Raises ValueError if it does not begin as an http or https URL, TypeError if it is no
    str.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    if url.startswith("http://"):
        start = 7
    elif url.startswith("https://"):
        start = 8
    else:
        start = url.find("://") + 3
        if url[: max(0, start - 3)].lower() not in _DEFAULT_PORTS:
            raise ValueError("a URL must begin with http:// or https://, as in http://host/path")
    url = url.partition("#")[0]
    end = min(i for i in (url.find("/", start), url.find("?", start), len(url)) if i >= 0)
    target = url[end:]
    return url[:end], target if target[:1] == "/" else "/" + target


def parse_origin(prefix: str) -> Origin:
    """Return the origin that *prefix* names, the first part of what `split_url` gave.

    Raises ValueError if it is not an http or https scheme, a host name or address, and maybe a
    port, or if it holds a user name.
    """
    scheme, separator, authority = prefix.partition("://")
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS or not separator:
        raise ValueError("a URL must begin with http:// or https://, as in http://host/path")
    if "@" in authority:
        raise ValueError(
            "a URL must not hold a user name or password: send an Authorization header instead"
        )
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("a URL must have the form http://host[:port]/path, with IPv6 in brackets")
    # What looks like a port may be the beginning of a password, so it is not quoted.
    if match["port"] and not (_PORT.fullmatch(match["port"]) and 0 < int(match["port"]) < 65536):
        raise ValueError("the port of a URL must be a number between 1 and 65535")
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    return Origin(scheme, _parse_host(match["host"]), port)


def _parse_host(host: str) -> str:
    if not host:
        raise ValueError("the URL names no host: write http://host/path")
    if host[0] == "[":
        address, percent, zone = host[1:-1].partition("%")
        zone = zone.removeprefix("25")  # RFC 6874; most users of it write a mere %
        try:
            # One text for each address.
            packed = socket.inet_pton(socket.AF_INET6, address)
            shown = socket.inet_ntop(socket.AF_INET6, packed)
        except (OSError, ValueError):
            raise ValueError(f"invalid IPv6 address {host} in the URL") from None
        if percent and not _ZONE.fullmatch(zone):
            raise ValueError(f"invalid zone of the IPv6 address {host} in the URL")
        return f"{shown}%{zone}" if percent else shown
    name = ascii_host(host).lower()
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"invalid host name {host!r} in the URL")
    return name


#: The origin of each prefix, as `parse_origin` gives it: ``known_origins[prefix]``.
known_origins: BoundedCache[str, Origin] = BoundedCache(parse_origin, max_entries=4096)


def public_url(url: str) -> str:
    """Return *url*, which is valid, fit for messages and logs.

    The fragment is left out, and so is the query, for which there is ``?...``.
    """
    base, query, _ = url.partition("#")[0].partition("?")
    return f"{base}?..." if query else base


def redacted_url(url: str) -> str:
    """Return *url*, which may be any text, fit for messages and logs.

    Left out are the fragment, the query, for which there is ``?...``, and what may be a user name
    or a password. Control characters are escaped, and a long text is cut.
    """
    before_fragment = url.partition("#")[0]
    base, query, _ = before_fragment.partition("?")
    scheme, separator, rest = base.partition("://")
    if not separator:
        scheme, rest = "", base
    _, at, rest = rest.rpartition("@")  # wherever it stands: this may be no valid URL
    authority, slash, path = rest.partition("/")
    match = _HOST_AND_PORT.match(authority)
    if match is not None and match.end() < len(authority):
        authority = f"{match['host']}:..."  # what is no port may be the beginning of a password
    user = "...@" if at else ""
    shown = f"{scheme}{separator}{user}{authority}{slash}{path}"
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[:_LONGEST_SHOWN]}..."
    return printable(f"{shown}?..." if query else shown)
