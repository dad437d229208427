"""Parts of a file, in HTTP: what a response has of it (RFC 9110 §14.4), and by what a later request
names the version that the part is of (§13.1.5). Touches nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dugong.headers import Headers
from dugong.pool.retry.policy import parse_date

__all__ = ["ContentRange", "content_range", "strong_validator"]

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_STRONG_ETAG = re.compile(r'"[!#-~\x80-\xff]*"')


class ContentRange(NamedTuple):
    """The *first* and the *last* byte of a part, and how many the file has (None: not known)."""

    first: int
    last: int
    size: int | None


def content_range(headers: Headers) -> ContentRange | None:
    """Return which part of a file a response with *headers* has; None if they do not say it."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last, size = int(match[1]), int(match[2]), match[3]
    if size == "*":
        return ContentRange(first, last, None) if first <= last else None
    return ContentRange(first, last, int(size)) if first <= last < int(size) else None


def strong_validator(headers: Headers) -> str:
    """Return the value for an If-Range that asks for more of what *headers* came with.

    "" if there is none: neither a strong entity tag, nor instead of any tag a Last-Modified that is
    at least a second older than the response, so that there cannot be two versions with it.
    """
    etag = headers["ETag"]
    if etag is not None:
        return etag if _STRONG_ETAG.fullmatch(etag) else ""
    modified = headers.get("Last-Modified", "")
    then, now = parse_date(modified), parse_date(headers.get("Date", ""))
    return modified if then is not None and now is not None and now - then >= 1 else ""
