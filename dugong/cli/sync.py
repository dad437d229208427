"""`dugong sync`: uploads what differs from what a server has.

What a server has to do for it: HEAD of an object is responded to with 404 or 410 if there is none,
and else with a 2xx status, the Content-Length, and an MD5 of the content: as the ETag, or in
Content-MD5. PUT makes or replaces the object.

Guarantees: nothing is uploaded of which the server has the same size and MD5, and nothing is taken
for the same without that. Only the partial files of dugong's own downloads are left out, and how
many is said. Only the calling thread writes to standard output.
"""

from __future__ import annotations

import hashlib
import os
import re
from binascii import Error, a2b_base64
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from dugong.cli import streams
from dugong.cli.download import check_status
from dugong.cli.errors import UsageError
from dugong.cli.put import RESPONSE_SIZE, url_below
from dugong.cli.settings import describe, make_client
from dugong.cli.tally import Tally
from dugong.cli.uploads import Upload, Uploader
from dugong.cli.url import checked_url
from dugong.client.partname import left_among
from dugong.errors import DugongError
from dugong.pool.request import Request

if TYPE_CHECKING:
    from dugong.cli.settings import Settings
    from dugong.client.client import Client
    from dugong.headers import Headers
    from dugong.pool.response import Response

__all__ = ["md5_of", "sync"]

_GONE = (404, 410)
_MD5 = re.compile(r'"?([0-9a-fA-F]{32})"?')
_PIECE = 1024 * 1024


class _Local(NamedTuple):
    """A file, with the size and the time of its last change."""

    upload: Upload
    size: int
    changed: float


def sync(directory: str, url: str, settings: Settings, by_time: bool = False) -> int:
    """Upload what differs in *directory* to below *url*; return the exit status.

    With *by_time*, an object of the same size without an MD5 is the same if it is newer than the
    file. Raises `UsageError` if *url* is none, OSError if *directory* cannot be read, and
    `streams.StreamError`.
    """
    try:
        above, mark, query = checked_url(url).partition("?")
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    url = f"{above.removesuffix('/')}/{mark}{query}"
    with os.scandir(directory):
        pass  # now, so that what cannot be read is no empty directory
    tally = Tally(None)
    with make_client(settings, RESPONSE_SIZE) as client:
        uploader = Uploader(client, settings, tally, "PUT")
        run = _Sync(client, uploader, by_time)
        uploader.run(run.differing(directory, url))
    if not settings.quiet:
        left = f", {run.left_out} of unfinished downloads left out" if run.left_out else ""
        streams.write_output(f"{tally.succeeded} uploaded, {run.same} were there{left}")
    return 1 if tally.failed else 0


class _Sync:
    """Finds out what differs. For one thread."""

    def __init__(self, client: Client, uploader: Uploader, by_time: bool) -> None:
        self._client = client  # never changes
        self._uploader = uploader  # never changes
        self._by_time = by_time  # never changes
        self.same = 0  # how many do not differ
        self.left_out = 0  # partial files

    def differing(self, directory: str, url: str) -> Iterator[Upload]:
        """Yield what differs in *directory*."""
        heads = self._client.as_completed(self._heads(directory, url))
        with closing(heads):  # type: ignore[type-var]  # it is a generator
            for future in heads:
                local: _Local = future.request.context
                try:
                    differs = self._differs(local, future.result())
                except (DugongError, OSError) as exc:
                    self._uploader.fail(local.upload.path, describe(exc))
                else:
                    if differs:
                        yield local.upload
                    else:
                        self.same += 1

    def _heads(self, directory: str, url: str) -> Iterator[Request]:
        for local in self._files(directory, url):
            try:
                options = self._uploader.limit.options()
            except DugongError as exc:
                self._uploader.fail(local.upload.path, describe(exc))
            else:
                yield Request("HEAD", local.upload.url, context=local, **options)

    def _files(self, directory: str, url: str) -> Iterator[_Local]:
        def failed(exc: OSError) -> None:
            self._uploader.fail(str(exc.filename), describe(exc))

        for parent, directories, names in os.walk(directory, onerror=failed):
            directories.sort()
            left = left_among(names, parent)
            self.left_out += len(left)
            for name in sorted(set(names) - left):
                path = os.path.join(parent, name)
                try:
                    status = os.stat(path)
                except OSError as exc:
                    failed(exc)
                    continue
                if os.path.isfile(path):
                    below = os.path.relpath(path, directory)
                    upload = Upload(path, url_below(url, below))
                    yield _Local(upload, status.st_size, status.st_mtime)

    def _differs(self, local: _Local, response: Response) -> bool:
        if response.status in _GONE:
            return True
        check_status(response)
        headers = response.headers
        if headers["Content-Length"] != str(local.size):
            return True
        known = md5_of(headers)
        if known is not None:
            return known != _md5_of_file(local.upload.path)
        return not (self._by_time and _time_of(headers) > local.changed)


def md5_of(headers: Headers) -> str | None:
    """Return the MD5 of a content in hex, if *headers* tell it."""
    field = headers["Content-MD5"]
    if field is not None:
        try:
            return a2b_base64(field, strict_mode=True).hex()
        except (Error, ValueError):
            pass
    match = _MD5.fullmatch(headers["ETag"] or "")
    return None if match is None else match[1].lower()


def _md5_of_file(path: str) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _time_of(headers: Headers) -> float:
    """Return when an object was changed, as `os.stat` gives it; 0 if *headers* do not tell."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(headers["Last-Modified"] or "").timestamp()
    except ValueError:
        return 0.0
