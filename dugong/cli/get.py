"""`dugong get`: fetches URLs to files, or to standard output in their order.

Guarantees: those of the command's --help; each URL that was not fetched has a line on standard
error. The threads are those of `dugong.cli.fetching`; only the calling thread writes to standard
output.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import IO, TYPE_CHECKING

from dugong.cli import streams
from dugong.cli.download import Download, Fetching
from dugong.cli.fetching import fetch
from dugong.cli.names import Names
from dugong.cli.progress import Display, can_display
from dugong.cli.settings import describe
from dugong.cli.url import checked_url, file_name, without_password
from dugong.client.partname import is_descriptor, is_left

if TYPE_CHECKING:
    from dugong.cli.sources import Urls

__all__ = ["get"]


def get(urls: Urls, fetching: Fetching, directory: str | None, file: str | None = None) -> int:
    """Fetch *urls* into *directory* or the *file*, or to standard output; return the exit status.

    A *file* that is a device or a pipe is written to, when what is for it is complete. Closes
    *urls*. Raises OSError if *directory* cannot be made, or such a *file* cannot be written,
    `streams.StreamError` if a standard stream or a file of URLs cannot be used, and what
    `make_client` raises.
    """
    with ExitStack() as stack:
        stack.enter_context(closing(urls))
        out: IO[bytes] | None = None
        if file is not None and _is_special(file):
            out = stack.enter_context(open(file, "wb"))
        elif file is not None or directory is not None:
            if directory:
                try:
                    os.makedirs(directory, exist_ok=True)
                except FileExistsError as exc:  # for that it is a file is what is wrong
                    text = os.strerror(errno.ENOTDIR)
                    raise NotADirectoryError(errno.ENOTDIR, text, directory) from exc
            return _to_files(urls, fetching, _Plan(fetching, directory or "", file))
        from tempfile import TemporaryDirectory, gettempdir

        fetching.spool = gettempdir()
        spool = stack.enter_context(TemporaryDirectory(prefix="dugong-"))
        in_order = _InOrder(_Plan(fetching, spool), out)
        return _run(urls, fetching, in_order.plan, in_order.deliver)


def _is_special(file: str) -> bool:
    if os.path.isdir(file) or not os.path.exists(file):
        return False
    # What /dev/stdout leads to may be a file, but that is not to be replaced.
    return not os.path.isfile(file) or is_descriptor(file)


def _to_files(urls: Urls, fetching: Fetching, plan: _Plan) -> int:
    if not can_display(fetching.settings):
        deliver = _say_nothing if fetching.settings.quiet else _announce
        return _run(urls, fetching, plan, deliver)
    # A line for each file would be in the way on a terminal, which has a display.
    deliver = _say_nothing if sys.stdout.isatty() else _announce
    display = Display(fetching.tally)
    with display:
        status = _run(urls, fetching, plan, deliver)
    streams.report(display.summary())
    return status


class _Plan:
    """Makes downloads of URLs: into *directory*, each with a name of its own, or into *file*."""

    def __init__(self, fetching: Fetching, directory: str, file: str | None = None) -> None:
        # None of these changes.
        self._keeps_parts = fetching.keeps_parts
        self._directory = directory and os.path.join(directory, "")
        self._file = file
        self._names = fetching.names or Names()
        self._expect = fetching.expect
        self._streams_all = fetching.streams_all

    def __call__(self, text: str) -> Download:
        try:
            url = checked_url(text)
        except ValueError as exc:
            return Download(without_password(text), "", "", str(exc))
        path = self._file
        if path is None:
            path = self._directory + self._names.claim(file_name(url))
        download = Download(text, url, path)
        download.large = self._streams_all
        try:
            self._expect(path)
        except OSError as exc:
            download.error = f"cannot write the file: {describe(exc)}"
            return download
        if self._keeps_parts:
            if os.path.isfile(path):
                download.was_there = True
            elif is_left(path):
                download.large = True
        return download


def _run(
    urls: Urls,
    fetching: Fetching,
    plan: Callable[[str], Download],
    deliver: Callable[[list[Download]], object],
) -> int:
    tally = fetching.tally
    with closing(fetch(urls, plan, fetching)) as batches:
        for batch in batches:
            for download in batch:
                if download.error is None:
                    tally.succeeded += 1
                    tally.size += download.size
                else:
                    tally.failed += 1
                    streams.report(streams.printable(f"dugong: {download.text}: {download.error}"))
            deliver(batch)
    return 1 if tally.failed else 0


def _say_nothing(batch: list[Download]) -> None: ...


def _announce(batch: list[Download]) -> None:
    """Say where the files of *batch* are: in one step, for there may be very many."""
    lines = [
        streams.printable(f"{download.text} -> {download.path} ({_size_of(download)})")
        for download in batch
        if download.error is None
    ]
    if lines:
        streams.write_output("\n".join(lines))


def _size_of(download: Download) -> str:
    return "was there" if download.was_there else f"{download.size} bytes"


class _InOrder:
    """Copies files to standard output, in the order in which they were planned, and removes them.

    Makes the downloads by *plan*, and so knows that order. With *out*, copies them to that instead.
    """

    def __init__(self, plan: Callable[[str], Download], out: IO[bytes] | None = None) -> None:
        self._plan = plan
        self._out = out
        self._undelivered: deque[Download] = deque()
        self._ended: set[Download] = set()

    def plan(self, text: str) -> Download:
        """Return the download of the URL *text*."""
        download = self._plan(text)
        self._undelivered.append(download)
        return download

    def deliver(self, batch: list[Download]) -> None:
        """Copy those for which it is time."""
        self._ended.update(batch)
        while self._undelivered and self._undelivered[0] in self._ended:
            oldest = self._undelivered.popleft()
            self._ended.remove(oldest)
            if oldest.error is None:
                if self._out is None:
                    streams.copy_to_output(oldest.path)
                else:
                    with open(oldest.path, "rb") as file:
                        shutil.copyfileobj(file, self._out)
                    self._out.flush()
                os.unlink(oldest.path)
