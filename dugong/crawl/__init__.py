"""What crawlers need above a client: `WarcWriter`, an archive of all that is fetched.

Guarantees: nothing here is imported by ``import dugong``, and each part when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.crawl.warc import WarcWriter

__all__ = ["WarcWriter"]

_MODULES = {
    "WarcWriter": "dugong.crawl.warc",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
