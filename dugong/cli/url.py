"""URLs as people write them: the request for a URL, and the name of its file.

Guarantees: a file name is a single path component, never `.` or `..`, so that the file stays in its
directory. No I/O.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from dugong.pool.request import Request
from dugong.pool.url import split_url

__all__ = ["file_name", "get_request"]

# What may stand in a path or a query. % is among them: existing percent-encodings are kept.
_SAFE = "!$%&'()*+,-./:;=?@_~"
_MAX_NAME = 200  # bytes; file systems take 255, and suffixes are added


def get_request(text: str) -> Request:
    """Return a GET request for the absolute http or https URL *text*.

    Characters that a URL cannot have are percent-encoded. Raises ValueError for an invalid URL.
    """
    prefix, target = split_url(text)
    # Bytes of the command line that are not UTF-8 are surrogates here, and are sent unchanged.
    return Request("GET", prefix + quote(target, safe=_SAFE, errors="surrogateescape"))


def file_name(target: str) -> str:
    """Return the file name for *target*: its last path segment, decoded, with safe characters."""
    path = target.partition("?")[0]
    name = unquote(path.rpartition("/")[2])
    if name in ("", ".", ".."):
        return "index.html"
    name = re.sub(r"[/\\]", "_", name)
    name = "".join(c if c.isprintable() else "_" for c in name)
    return name.encode()[:_MAX_NAME].decode(errors="ignore")
