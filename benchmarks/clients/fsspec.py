"""fsspec: `cat_ranges` and `cat` of many files, by its own file system or by that of dugong."""

from __future__ import annotations

from typing import Any

from fsspec.implementations.http import HTTPFileSystem

from clients.worker import SMALL_SIZE, Round, check, main, near_and_far, small_urls
from dugong.adapters.fsspec import DugongFileSystem


def ranges(fs: Any, port: int) -> Round:
    urls = small_urls(port)

    def perform(count: int) -> None:
        for part in fs.cat_ranges(urls[:count], [0] * count, [SMALL_SIZE] * count):
            check(200, len(part))

    return perform


def whole(fs: Any, port: int) -> Round:
    urls = small_urls(port)

    def perform(count: int) -> None:
        for body in fs.cat(urls[:count]).values():
            check(200, len(body))

    return perform


main(
    {
        **near_and_far("fsspec", HTTPFileSystem, DugongFileSystem, ranges),
        "fsspec-cat": lambda server: whole(HTTPFileSystem(), server.port),
        "fsspec-cat-dugong": lambda server: whole(DugongFileSystem(), server.port),
    }
)
