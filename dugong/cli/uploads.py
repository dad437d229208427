"""Uploads of files over a client, for `dugong put` and `dugong sync`.

Guarantees: an upload has succeeded if the server has said so; each that has not has a line on
standard error. A file is open only while it is sent, and small ones are pipelined.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from dugong.cli import streams
from dugong.cli.download import check_status
from dugong.cli.progress import Display, can_display
from dugong.cli.settings import TimeLimit, describe
from dugong.errors import DugongError
from dugong.pool.request import Request

if TYPE_CHECKING:
    from dugong.cli.settings import Settings
    from dugong.cli.tally import Tally
    from dugong.client.client import Client

__all__ = ["STANDARD_INPUT", "Upload", "Uploader"]

STANDARD_INPUT = "-"
# Bytes. A body up to this size is read into memory, so that its request can be pipelined.
_SMALL = 64 * 1024
# Bytes. Before a body from this size on, the server is asked whether it wants it.
_ASKS = 1024 * 1024


class Upload(NamedTuple):
    """The file *path* (`STANDARD_INPUT`: that), and the *url* that it goes to."""

    path: str
    url: str


class Uploader:
    """Uploads files by *method*, within what *settings* allow. For one thread."""

    def __init__(self, client: Client, settings: Settings, tally: Tally, method: str) -> None:
        # None of these changes.
        self._client = client
        self._method = method
        self._tally = tally
        self._display = Display(tally) if can_display(settings) else None
        self._quiet = settings.quiet or (self._display is not None and sys.stdout.isatty())
        self.limit: TimeLimit = TimeLimit(settings.deadline)

    def run(self, uploads: Iterable[Upload]) -> None:
        """Perform *uploads*, which are taken as they are needed, and say how each has ended."""
        if self._display is None:
            self._run(uploads)
            return
        with self._display:
            self._run(uploads)
        streams.report(self._display.summary())

    def _run(self, uploads: Iterable[Upload]) -> None:
        with closing(self._client.as_completed(self._requests(uploads))) as futures:  # type: ignore[type-var]  # it is a generator
            for future in futures:
                upload, size = future.request.context
                try:
                    check_status(future.result())
                except (DugongError, OSError, ValueError) as exc:
                    self.fail(upload.path, describe(exc))
                else:
                    self._tally.succeeded += 1
                    self._tally.size += size
                    if not self._quiet:
                        line = f"{upload.path} -> {upload.url} ({size} bytes)"
                        streams.write_output(streams.printable(line))

    def fail(self, path: str, error: str) -> None:
        """Say that the upload of *path* has failed."""
        self._tally.failed += 1
        streams.report(streams.printable(f"dugong: {path}: {error}"))

    def _requests(self, uploads: Iterable[Upload]) -> Iterator[Request]:
        for upload in uploads:
            try:
                request = self._request(upload)
            except (DugongError, OSError) as exc:
                self.fail(upload.path, describe(exc))
            else:
                yield request

    def _request(self, upload: Upload) -> Request:
        options: dict[str, Any] = self.limit.options()
        if upload.path == STANDARD_INPUT:
            if sys.stdin is None:
                raise streams.StreamError("standard input is closed")
            return Request(
                self._method, upload.url, body=sys.stdin.buffer, context=(upload, 0), **options
            )
        with open(upload.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            body: Any = file.read(_SMALL + 1) if size <= _SMALL else b""
        headers = None
        if size > _SMALL or len(body) != size:
            body = partial(open, upload.path, "rb")  # for each sending
            headers = {"Content-Length": str(size)}
            options["expect100"] = size >= _ASKS
        return Request(self._method, upload.url, headers, body, context=(upload, size), **options)
