"""Uploads of files over a client, for `dugong put` and `dugong sync`.

Guarantees: an upload has succeeded if the server has said so; each that has not has a line on
standard error. A file is open only while it is sent, and small ones are pipelined. All that a file
has is sent, though its size may not be known, as of a pipe or a file in /proc.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from dugong.cli import streams
from dugong.cli.download import check_status
from dugong.cli.pipes import Pipes
from dugong.cli.progress import Display, can_display
from dugong.cli.settings import TimeLimit, describe
from dugong.cli.tally import Tally, Transfer
from dugong.errors import DugongError
from dugong.pool.progress import Progress
from dugong.pool.request import Request

if TYPE_CHECKING:
    from dugong.cli.settings import Settings
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


class _Sent(NamedTuple):
    """What goes with a request: what it uploads, of how many bytes; None: as many as were sent."""

    upload: Upload
    size: int | None
    transfer: Transfer


class Uploader:
    """Uploads files by *method*, within what *settings* allow, and closes the *client* then.

    For one thread.
    """

    def __init__(self, client: Client, settings: Settings, tally: Tally, method: str) -> None:
        # None of these changes.
        self._client = client
        self._method = method
        self._tally = tally
        self._display = Display(tally) if can_display(settings) else None
        self._quiet = settings.quiet or (self._display is not None and sys.stdout.isatty())
        self.limit: TimeLimit = TimeLimit(settings.deadline)
        self._pipes = Pipes(self.limit)

    def run(self, uploads: Iterable[Upload]) -> None:
        """Perform *uploads*, which are taken as they are needed, and say how each has ended."""
        if self._display is None:
            self._run(uploads)
            return
        with self._display:
            self._run(uploads)
        streams.report(self._display.summary())

    def _run(self, uploads: Iterable[Upload]) -> None:
        with self._pipes:
            try:
                self._send(uploads)
            finally:
                self._pipes.stop()  # which has the client not wait for one
                self._client.close()

    def _send(self, uploads: Iterable[Upload]) -> None:
        with closing(self._client.as_completed(self._requests(uploads))) as futures:  # type: ignore[type-var]  # it is a generator
            for future in futures:
                upload, size, transfer = future.request.context
                self._tally.end(transfer)
                size = transfer.done if size is None else size
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
        headers = None
        body, size = self._body(upload.path)
        transfer = Transfer(upload.path)
        if not isinstance(body, bytes):
            options["progress"] = Progress(upload=partial(self._tell, transfer))
            if size is not None:
                headers = {"Content-Length": str(size)}
                options["expect100"] = size >= _ASKS
        sent = _Sent(upload, size, transfer)
        return Request(self._method, upload.url, headers, body, context=sent, **options)

    def _body(self, path: str) -> tuple[Any, int | None]:
        """Return what is sent of the file *path*, and how many bytes that is, if it is known."""
        if path == STANDARD_INPUT:
            return self._standard_input(), None
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return self._pipes.pieces(path), None
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _SMALL:
                body = file.read(_SMALL + 1)
                if len(body) <= _SMALL:
                    return body, len(body)
        # It is opened for each sending. Those in /proc are larger than the system says.
        return partial(open, path, "rb"), size if size > _SMALL else None

    def _standard_input(self) -> Any:
        if sys.stdin is None:
            raise streams.StreamError("standard input is closed")
        try:
            return self._pipes.pieces(sys.stdin.fileno())
        except OSError:  # a stream that a caller of main() has put there
            return sys.stdin.buffer

    def _tell(self, transfer: Transfer, done: int, size: int | None) -> None:
        if not done:
            self._tally.add(transfer)
        transfer.tell(done, size)
