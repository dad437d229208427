"""URLs as people write them: what to ask for, and how to call the file.

Guarantees: a file name is one name, that of nothing outside the directory it is put into. Touches
nothing.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from dugong.pool.request import Request
from dugong.pool.url import split_url

__all__ = ["file_name", "get_request"]

# What may stand in a path or a query; % is there because what is encoded already stays so.
_SAFE = "!$%&'()*+,-./:;=?@_~"
_MAX_NAME = 200  # bytes; file systems take 255, and suffixes are added


def get_request(text: str) -> Request:
    """Return a GET for an absolute http or https URL; what needs it is percent-encoded.

    Raises ValueError if it is no such URL.
    """
    prefix, target = split_url(text)
    # Bytes of the command line that are no UTF-8 come as surrogates and go as they came.
    return Request("GET", prefix + quote(target, safe=_SAFE, errors="surrogateescape"))


def file_name(target: str) -> str:
    """Return the name of the file for *target*: its last path segment, decoded, made harmless."""
    path = target.partition("?")[0]
    name = unquote(path.rpartition("/")[2])
    if name in ("", ".", ".."):
        return "index.html"
    name = re.sub(r"[/\\]", "_", name)
    name = "".join(c if c.isprintable() else "_" for c in name)
    return name.encode()[:_MAX_NAME].decode(errors="ignore")
