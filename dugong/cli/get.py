"""`python -m dugong get`: URLs to files, or to standard output in their order.

Guarantees: as the command's --help says; each URL that was not fetched has a line on standard
error. At most `MAX_ORIGINS` origins are at work at once, each with a sending and a receiving
thread; all else happens in the calling thread, and the others have ended when it returns, unless
name resolution keeps one.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dugong.cli.fetching import Download, OriginFetcher
from dugong.cli.url import Origin, file_name, parse_url
from dugong.deadline import Deadline

if TYPE_CHECKING:
    import ssl

__all__ = ["MAX_ORIGINS", "get"]

MAX_ORIGINS = 4
_PATIENCE = 2.0  # seconds for threads to end once they were told to


def get(
    urls: Iterable[str],
    directory: str | None,
    timeout: float,
    ssl_context: ssl.SSLContext | None = None,
) -> int:
    """Fetch *urls* into *directory*, or to standard output; return the exit status.

    *timeout* is that of the connections, in seconds; *ssl_context* replaces the default one, which
    verifies. Raises OSError if *directory* cannot be made or standard output cannot be written.
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
    with closing(_fetch(downloads, timeout, ssl_context)) as as_they_end:
        for download in as_they_end:
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
    line = _printable(f"{download.text} -> {download.path} ({download.size} bytes)")
    # Unlike standard error, standard output does not escape what its encoding lacks.
    encoding = sys.stdout.encoding
    print(line.encode(encoding, "backslashreplace").decode(encoding))


def _copy_to_stdout(download: Download) -> None:
    with open(download.path, "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    os.unlink(download.path)


def _plan(urls: Iterable[str], directory: str) -> tuple[list[Download], bool]:
    """Return what to download, each into a file of its own, and whether there were bad URLs."""
    downloads = []
    bad = False
    taken: dict[str, int] = {}  # name, without its case -> the number to append next
    for text in urls:
        try:
            url = parse_url(text)
        except ValueError as exc:
            _report(_without_password(text), str(exc))
            bad = True
            continue
        wanted = name = file_name(url.target)
        while name.casefold() in taken:
            number = taken[wanted.casefold()]
            taken[wanted.casefold()] += 1
            name = f"{wanted}.{number}"
        taken[name.casefold()] = 1
        downloads.append(Download(text, url, os.path.join(directory, name)))
    return downloads, bad


def _fetch(
    downloads: Iterable[Download], timeout: float, ssl_context: ssl.SSLContext | None
) -> Generator[Download, None, None]:
    """Fetch *downloads*, and yield each when it has ended."""
    groups: dict[Origin, list[Download]] = {}
    for download in downloads:
        groups.setdefault(download.origin, []).append(download)
    if ssl_context is None and any(origin.scheme == "https" for origin in groups):
        ssl_context = _default_context()
    ended: SimpleQueue[Download] = SimpleQueue()
    fetchers: list[OriginFetcher] = []
    waiting: SimpleQueue[OriginFetcher] = SimpleQueue()
    for origin, group in groups.items():
        context = ssl_context if origin.scheme == "https" else None
        fetcher = OriginFetcher(origin, group, timeout, context, ended.put)
        fetchers.append(fetcher)
        waiting.put(fetcher)

    def work() -> None:
        try:
            while True:
                waiting.get_nowait().run()
        except Empty:
            pass

    threads = [
        threading.Thread(target=work, name=f"dugong-get-{i}", daemon=True)
        for i in range(min(MAX_ORIGINS, len(fetchers)))
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in range(sum(map(len, groups.values()))):
            yield ended.get()  # ended by the end of any download, and each of them has one
    finally:
        for fetcher in fetchers:
            fetcher.stop()
        deadline = Deadline(_PATIENCE)
        for thread in threads:
            if thread.ident is not None:
                thread.join(deadline.remaining())


def _default_context() -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _report(url: str, error: str) -> None:
    print(_printable(f"dugong: {url}: {error}"), file=sys.stderr)


def _without_password(url: str) -> str:
    return re.sub(r"//[^/?#]*@", "//...@", url)


def _printable(text: str) -> str:
    """Return *text* with what could control a terminal escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
