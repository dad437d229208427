"""URLs as people write them: what is requested for one, and the name of its file.

Guarantees: no message quotes a user name or a password. No I/O.
"""

from __future__ import annotations

import re

from dugong.cli.names import safe_name
from dugong.pool.request import Request
from dugong.pool.url import split_url

__all__ = ["checked_url", "file_name", "without_password"]

# What may stand in a path or a query. % is among them: existing percent-encodings are kept.
_SAFE = "!$%&'()*+,-./:;=?@_~"
# What needs neither a closer look nor a change, if its host is one, which is found when it is sent.
_PLAIN = re.compile(
    r"https?://[a-z0-9.-]+(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?"
    r"/[!$%&'()*+,\-./:;=?@_~0-9A-Za-z]*"
)


_CREDENTIALS = re.compile(r"https?://[^/?#]*@", re.IGNORECASE)


def checked_url(text: str) -> str:
    """Return the absolute http or https URL *text*, in which illegal characters are encoded.

    Raises ValueError for an invalid URL, and for one with credentials.
    """
    if _PLAIN.fullmatch(text):
        return text
    if _CREDENTIALS.match(text):
        raise ValueError("a URL must not hold a user name or password: use -u")
    from urllib.parse import quote

    prefix, target = split_url(text)
    # Bytes of the command line that are not UTF-8 are surrogates here, and are sent unchanged.
    return Request("GET", prefix + quote(target, safe=_SAFE, errors="surrogateescape")).url


def file_name(url: str) -> str:
    """Return the file name for *url*: its last path segment, decoded, with safe characters."""
    path = url.partition("?")[0].partition("://")[2]
    name = path.partition("/")[2].rpartition("/")[2]
    if "%" in name:
        from urllib.parse import unquote

        name = unquote(name)
    return safe_name(name) or "index.html"


def without_password(url: str) -> str:
    """Return *url* fit for messages."""
    return re.sub(r"(?s)//.*@", "//...@", url) if "@" in url else url
