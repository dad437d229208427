"""One text for each URL of a crawl: RFC 3986 §6.2.2 and §6.2.3.

Guarantees: two URLs with the same text are the same by those rules; nothing else is assumed of a
server. No message quotes a query, a user name or a password. Touches nothing.
"""

from __future__ import annotations

import re

from dugong.client.urls import quoted, without_dots
from dugong.connection.cache import BoundedCache
from dugong.pool.url import parse_origin, redacted_url, split_url

__all__ = ["host_and_target", "normalized"]

# Not behind a percent sign that stands for itself: what is decoded there would make it another one.
_ENCODED = re.compile("(?<!%)(?<!%[0-9A-Fa-f])%[0-9A-Fa-f]{2}")
# What is in its normal form, if its host is one and no segment begins with a dot.
_PLAIN = re.compile(r"(https?://[a-z0-9.-]+(?::[0-9]+)?)(/[!$&'()*+,./:;=?@_~0-9A-Za-z-]*)")
_UNRESERVED = re.compile("[A-Za-z0-9._~-]")


def _origin(prefix: str) -> str:
    return str(parse_origin(prefix))


# As `dugong.pool.url.known_origins`.
_origins: BoundedCache[str, str] = BoundedCache(_origin, max_entries=4096)


def normalized(url: str) -> str:
    """Return the normal form of *url*, an absolute http or https URL: one for each resource.

    Scheme and host are in lower case, the host as it is sent (IDNA, one form of an IPv6 address);
    the default port is left out, and so is the fragment. In the path and the query, what need not
    be percent-encoded is not, what must be is, in UTF-8, and its digits are in upper case. The path
    is without dot segments, and ``/`` if it is empty. Slashes, the case of the path, and the query
    with the order of its parameters stay as they are, and so does ``?`` before an empty query.

    Raises TypeError if *url* is no str; ValueError if it cannot be requested, or holds a user name
    or a password. Any thread may call it.
    """
    return "".join(host_and_target(url))


def host_and_target(url: str) -> tuple[str, str]:
    """Return the origin and the target of `normalized` *url*; raises what that raises."""
    try:
        match = _PLAIN.fullmatch(url)
        if match is not None and "/." not in match[2]:
            return _origins[match[1]], match[2]
        prefix, target = split_url(quoted(url))
        origin = _origins[prefix]
    except ValueError as exc:
        raise ValueError(f"invalid URL '{redacted_url(url)}': {exc}") from None
    path, mark, query = _ENCODED.sub(_normal, target).partition("?")
    return origin, f"{without_dots(path)}{mark}{query}"


def _normal(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if _UNRESERVED.fullmatch(character) else match[0].upper()
