"""What crawlers need above a client: the URLs that wait, robots.txt, links of pages, WARC files.

Guarantees: nothing here is imported by ``import dugong``, and each part when it is first asked for.
What needs a package that is missing raises an ImportError then, which names the extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.crawl.frontier import Frontier, Visit
    from dugong.crawl.html import links
    from dugong.crawl.robots import Robots, Rules
    from dugong.crawl.urls import normalized
    from dugong.crawl.warc import WarcWriter

__all__ = ["Frontier", "Robots", "Rules", "Visit", "WarcWriter", "links", "normalized"]

_MODULES = {
    "Frontier": "dugong.crawl.frontier",
    "Robots": "dugong.crawl.robots",
    "Rules": "dugong.crawl.robots",
    "Visit": "dugong.crawl.frontier",
    "WarcWriter": "dugong.crawl.warc",
    "links": "dugong.crawl.html",
    "normalized": "dugong.crawl.urls",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
