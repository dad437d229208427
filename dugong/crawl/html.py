"""Where a page leads to: its links, by `html.parser`.

Guarantees: what a page says cannot make this fail. Touches nothing; any thread may call it.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from dugong.client.urls import quoted, resolve
from dugong.pool.url import known_origins, split_url

if TYPE_CHECKING:
    from dugong.pool.response import Response

__all__ = ["links"]

_TYPES = frozenset(("text/html", "application/xhtml+xml"))
_BREAKS = re.compile("[\t\r\n]+")


def links(response: Response) -> list[str]:
    """Return the URLs that *response* leads to, in their order: absolute, and some maybe twice.

    Of a redirect, that is where it leads; of a page of HTML with a status 2xx, what its elements
    ``a`` and ``area`` link to, unless they say ``rel="nofollow"`` or the page says that in
    ``<meta name="robots">``. There are none in all else.
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
    page.feed(response.text)
    page.close()
    return [] if page.forbids else page.links


class _Page(HTMLParser):
    """Collects the links of the page at *url*."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._base = url
        self._root = _root(url)
        self._has_base = False
        self.links: list[str] = []
        self.forbids = False  # whether no link is to be followed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("a", "area", "base", "meta"):
            return
        found = {name: value or "" for name, value in reversed(attrs)}  # the first one counts
        if tag == "meta":
            if found.get("name", "").lower() == "robots":
                said = re.split(r"[\s,]+", found.get("content", "").lower())
                self.forbids |= not {"nofollow", "none"}.isdisjoint(said)
            return
        target = found.get("href")
        if target is None or "nofollow" in found.get("rel", "").lower().split():
            return
        try:
            url = quoted(self._joined(_BREAKS.sub("", target.strip())))
        except ValueError:
            return  # it is none
        if tag != "base":
            self.links.append(url)
        elif not self._has_base:
            self._has_base = True
            self._base = url
            self._root = _root(url)

    def _joined(self, target: str) -> str:
        # Most links are such, and urljoin takes as long as all else.
        if target.startswith(("http://", "https://")):
            known_origins[split_url(target)[0]]  # which raises if it is none
            return target
        if self._root and target[:1] == "/" and target[:2] != "//" and "/." not in target:
            return self._root + target
        return urljoin(self._base, target)


def _root(url: str) -> str:
    """Return *url* without its path; empty if it is not of http."""
    try:
        return split_url(url)[0]
    except ValueError:
        return ""
