"""URLs as people write them: where to connect, what to ask for, and how to call the file.

Guarantees: a target is fit for `HTTPConnection.send_request`; a file name is one name, that of
nothing outside the directory it is put into. Touches nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

__all__ = ["Origin", "Url", "file_name", "parse_url"]

# What may stand in a path or a query; % is there because what is encoded already stays so.
_SAFE = "!$%&'()*+,-./:;=?@_~"
_MAX_NAME = 200  # bytes; file systems take 255, and suffixes are added


class Origin(NamedTuple):
    """What a connection is for (RFC 9110 §4.3.1)."""

    scheme: str
    host: str
    port: int


class Url(NamedTuple):
    """`target` is the request target, in origin form and percent-encoded."""

    origin: Origin
    target: str


def parse_url(text: str) -> Url:
    """Parse an absolute http or https URL; its fragment is dropped. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("not an http or https URL")
    if parts.username is not None:
        raise ValueError("a user name or password in the URL is not accepted")
    if not parts.hostname:
        raise ValueError("the URL names no host")
    default = 80 if parts.scheme == "http" else 443
    port = default if parts.port is None else parts.port
    target = parts.path or "/"
    if parts.query:
        target += "?" + parts.query
    # Bytes of the command line that are no UTF-8 come as surrogates and go as they came.
    target = quote(target, safe=_SAFE, errors="surrogateescape")
    return Url(Origin(parts.scheme, parts.hostname, port), target)


def file_name(target: str) -> str:
    """Return the name of the file for *target*: its last path segment, decoded, made harmless."""
    path = target.partition("?")[0]
    name = unquote(path.rpartition("/")[2])
    if name in ("", ".", ".."):
        return "index.html"
    name = re.sub(r"[/\\]", "_", name)
    name = "".join(c if c.isprintable() else "_" for c in name)
    return name.encode()[:_MAX_NAME].decode(errors="ignore")
