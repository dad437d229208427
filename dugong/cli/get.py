"""`python -m dugong get`: fetches URLs to files, or to standard output in their order.

Guarantees: those of the command's --help; each URL that was not fetched has a line on standard
error. The threads are those of `dugong.cli.fetching`; only the calling thread writes to standard
output and standard error.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dugong.cli import streams
from dugong.cli.fetching import Download, fetch
from dugong.cli.url import file_name, get_request

if TYPE_CHECKING:
    import ssl

__all__ = ["get"]


def get(
    urls: Iterable[str],
    directory: str | None,
    timeout: float,
    ssl_context: ssl.SSLContext | None = None,
) -> int:
    """Fetch *urls* into *directory*, or to standard output; return the exit status.

    *timeout* is that of the pool, in seconds; *ssl_context* replaces the default one, which
    verifies. Raises OSError if *directory* cannot be made, and `streams.StreamError` if standard
    output cannot be written.
    """
    if directory is not None:
        os.makedirs(directory, exist_ok=True)
        return _get(urls, directory, timeout, ssl_context, _announce)
    with TemporaryDirectory(prefix="dugong-") as spool:
        return _get(urls, spool, timeout, ssl_context, _copy_to_stdout)


def _get(
    urls: Iterable[str],
    directory: str,
    timeout: float,
    ssl_context: ssl.SSLContext | None,
    deliver: Callable[[Download], None],
) -> int:
    downloads, failed = _plan(urls, directory)
    undelivered = deque(downloads)
    ended: set[Download] = set()
    with closing(fetch(downloads, timeout, ssl_context)) as fetched:
        for download in fetched:
            if download.error is not None:
                _report(download.text, download.error)
                failed = True
            ended.add(download)
            while undelivered and undelivered[0] in ended:
                oldest = undelivered.popleft()
                if oldest.error is None:
                    deliver(oldest)
    return 1 if failed else 0


def _announce(download: Download) -> None:
    streams.write_output(_printable(f"{download.text} -> {download.path} ({download.size} bytes)"))


def _copy_to_stdout(download: Download) -> None:
    streams.copy_to_output(download.path)
    os.unlink(download.path)


def _plan(urls: Iterable[str], directory: str) -> tuple[list[Download], bool]:
    """Return the downloads, each with a path of its own, and whether a URL was invalid."""
    downloads = []
    bad = False
    taken: dict[str, int] = {}  # name, without its case -> the number to append next
    for text in urls:
        try:
            request = get_request(text)
        except ValueError as exc:
            _report(_without_password(text), str(exc))
            bad = True
            continue
        wanted = name = file_name(request.target)
        while name.casefold() in taken:
            number = taken[wanted.casefold()]
            taken[wanted.casefold()] += 1
            name = f"{wanted}.{number}"
        taken[name.casefold()] = 1
        downloads.append(Download(text, request, os.path.join(directory, name)))
    return downloads, bad


def _report(url: str, error: str) -> None:
    streams.report(_printable(f"dugong: {url}: {error}"))


def _without_password(url: str) -> str:
    return re.sub(r"(?s)//.*@", "//...@", url)


def _printable(text: str) -> str:
    """Return *text* with all unprintable characters escaped: they could control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
