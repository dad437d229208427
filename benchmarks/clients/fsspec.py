"""fsspec: `cat_ranges` of many files, by its own file system for http or by that of dugong."""

from __future__ import annotations

from typing import Any

from fsspec.implementations.http import HTTPFileSystem

from clients.worker import SMALL_SIZE, Round, check, main, small_urls
from dugong.adapters.fsspec import DugongFileSystem


def ranges(fs: Any, port: int) -> Round:
    urls = small_urls(port)

    def perform(count: int) -> None:
        # Not `cat`, which looks for each URL with a query whether it exists, one by one.
        for part in fs.cat_ranges(urls[:count], [0] * count, [SMALL_SIZE] * count):
            check(200, len(part))

    return perform


main(
    {
        "fsspec": lambda server: ranges(HTTPFileSystem(), server.port),
        "fsspec-dugong": lambda server: ranges(DugongFileSystem(), server.port),
        "fsspec-far": lambda server: ranges(HTTPFileSystem(), server.far_port),
        "fsspec-far-dugong": lambda server: ranges(DugongFileSystem(), server.far_port),
    }
)
