"""Where a page leads to: its links.

Guarantees: what a page says cannot make this fail. Touches nothing; any thread may call it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from dugong.client.tags import tags
from dugong.client.urls import quoted, resolve
from dugong.headers import Headers
from dugong.pool.text import text_of
from dugong.pool.url import known_origins, split_url

if TYPE_CHECKING:
    from dugong.pool.response import Response

__all__ = ["links"]

_PRESCAN = 1024  # bytes of a page that name its charset (WHATWG HTML §13.2.3.2)
_TYPES = frozenset(("text/html", "application/xhtml+xml"))
_BREAKS = re.compile("[\t\r\n]+")
# A relative path without dot segments, but for the first one, and what may follow it.
_is_below = re.compile(
    r"(?:\./)?[\w~%-][^/?#:]*(?:/[^./?#][^/?#]*)*/?(?:[?#].*)?", re.ASCII
).fullmatch


def links(response: Response) -> list[str]:
    """Return the URLs that *response* leads to, in their order: absolute, and some maybe twice.

    Of a redirect, that is where it leads; of a page of HTML with a status 2xx, what its elements
    ``a`` and ``area`` link to, unless they say ``rel="nofollow"`` or the page says that in
    ``<meta name="robots">``. No other response has any. Raises nothing; any thread may call it.

    The charset of a page is that of its byte order mark or its Content-Type; else the one that an
    element ``meta`` in its first 1024 bytes names; else UTF-8.
    """
    if 300 <= response.status < 400:
        location = response.headers["Location"]
        try:
            return [] if location is None else [resolve(response.url, location)]
        except ValueError:
            return []
    is_page = response.headers.get_content_type() in _TYPES
    if not is_page or not 200 <= response.status < 300:
        return []
    page = _Page(response.url)
    for name, attributes in tags(text_of(response.body, _with_charset(response))):
        page.add(name, attributes)
    return [] if page.forbids else page.links


def _with_charset(response: Response) -> Headers:
    """Return the headers of *response* with the charset that its page names, if they name none."""
    headers = response.headers
    if headers.get_content_charset() is not None:
        return headers
    for name, found in tags(response.body[:_PRESCAN].decode("latin-1")):
        if name != "meta":
            continue
        said = found.get("content", "") if "http-equiv" in found else ""
        if "charset" in found:
            said = f"text/html; charset={found['charset']}"
        named = Headers({"Content-Type": said})
        charset = named.get_content_charset()
        if charset is not None:  # one of UTF-16 cannot be the one by which it was found
            return headers if charset.startswith("utf") else named
    return headers


class _Page:
    """Collects the links of the page at *url*."""

    def __init__(self, url: str) -> None:
        self._begin_at(url)
        self._has_base = False
        self.links: list[str] = []
        self.forbids = False  # whether no link is to be followed

    def add(self, tag: str, found: dict[str, str]) -> None:
        """Read the next tag of `tags`."""
        if tag == "meta":
            if found.get("name", "").lower() == "robots":
                said = re.split(r"[\s,]+", found.get("content", "").lower())
                self.forbids |= not {"nofollow", "none"}.isdisjoint(said)
            return
        target = found.get("href")
        if target is None or ("rel" in found and "nofollow" in found["rel"].lower().split()):
            return
        target = target.strip()
        if not target.isprintable():
            target = _BREAKS.sub("", target)
        try:
            url = self._joined(quoted(target))
        except ValueError:
            return  # it is none
        if tag != "base":
            self.links.append(url)
        elif not self._has_base:
            self._has_base = True
            self._begin_at(url)

    def _begin_at(self, url: str) -> None:
        """Let *url* be what relative links are relative to."""
        self._base = url.partition("#")[0]
        try:
            self._root, path = split_url(url)
        except ValueError:  # it is not of http
            self._root = self._directory = ""
            return
        path = path.partition("?")[0]
        self._directory = "" if "/." in path else self._root + path[: path.rfind("/") + 1]

    def _joined(self, target: str) -> str:
        # Most links are such, and urljoin takes as long as all else.
        if target.startswith(("http://", "https://")):
            known_origins[split_url(target)[0]]  # which raises if it is none
            return target
        if self._root and target[:1] == "/" and target[:2] != "//" and "/." not in target:
            return self._root + target
        if self._root and target[:1] == "#":
            return self._base + target
        if self._directory and _is_below(target):
            return self._directory + target.removeprefix("./")
        return urljoin(self._base, target)
