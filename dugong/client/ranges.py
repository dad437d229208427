"""What a response says of the part of a file that it has (RFC 9110 §14.4). Touches nothing."""

from __future__ import annotations

import re

from dugong.headers import Headers

__all__ = ["content_range"]

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def content_range(headers: Headers) -> tuple[int, int | None] | None:
    """Return the first byte of the part, and how many bytes the file has (None: not known).

    None if *headers* do not say it.
    """
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        return None
    return int(match[1]), None if match[2] == "*" else int(match[2])
