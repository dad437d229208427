"""Downloads of large bodies, each of which is written to its file as it comes.

Guarantees: a file has the bytes of one version of the body, all of them, however often it was
continued. What the pool cannot do is tried again here: a body that was cut short. It goes on where
it was cut if the server has named its version by a strong entity tag (RFC 9110 §13.1.5, §14.2).
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

from dugong.cli.download import Download, Fetching, check_status
from dugong.cli.errors import Failed
from dugong.cli.files import Partial, Version
from dugong.cli.settings import describe
from dugong.client.ranges import content_range
from dugong.errors import ConnectionTimedOut, DugongError, is_temp_network_error

if TYPE_CHECKING:
    from dugong.cli.tally import Transfer
    from dugong.client.client import Client
    from dugong.pool.response import StreamedResponse

__all__ = ["Receiver"]

_STRONG_ETAG = re.compile(r'"[!#-~\x80-\xff]*"')
_PIECE = 256 * 1024  # bytes that are received at once
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416


class Receiver:
    """Receives the bodies of downloads. Any thread may call it."""

    def __init__(self, client: Client, fetching: Fetching) -> None:
        # None of these changes.
        self._client = client
        self._fetching = fetching
        self._policy = fetching.settings.policy

    def receive(self, download: Download) -> None:
        """Receive *download* into its file. Raises `Failed`, `FileError` and `DugongError`."""
        fetching = self._fetching
        transfer = fetching.tally.begin(download.text)
        try:
            with Partial(download.path, download.url, fetching.keeps_parts) as file:
                for number in count(1):
                    try:
                        self._attempt(download, file, transfer)
                        break
                    except DugongError as exc:
                        if not self._may_try_again(exc, number):
                            raise
        finally:
            fetching.tally.end(transfer)

    def _may_try_again(self, exc: DugongError, number: int) -> bool:
        """Wait before what follows the *number*-th attempt; return whether it may."""
        return (
            self._fetching.may_repeat
            and number < self._policy.attempts
            and is_temp_network_error(exc)
            and not isinstance(exc, ConnectionTimedOut)
            and not self._fetching.ended.wait(self._policy.delay(number))
        )

    def _attempt(self, download: Download, file: Partial, transfer: Transfer) -> None:
        with ExitStack() as stack:
            response = self._response(download, file, stack)
            length = response.length
            transfer.done = file.size
            transfer.size = None if length is None else file.size + length
            buffer = memoryview(bytearray(_PIECE))
            while size := response.readinto(buffer):
                file.write(buffer[:size])
                transfer.done += size
            expected = _range_of(response)[1]
            if expected is not None and file.size != expected and self._fetching.may_continue:
                raise Failed(f"the server has sent {file.size} of {expected} bytes")
            download.path = file.complete(self._fetching.names_for(response))
            download.size = file.size

    def _response(self, download: Download, file: Partial, stack: ExitStack) -> StreamedResponse:
        """Return the response whose body is what *file* does not have."""
        version = file.version if self._fetching.may_continue else None
        while True:
            response = self._ask(download, version, stack)
            if version is None or response.status >= 500:
                break
            if _continues(response, version):
                file.go_on()
                return response
            if response.status not in (_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE):
                break
            version = None  # what the file has is of no use
            stack.close()
        check_status(response)
        tag = response.headers["ETag"] or ""
        is_strong = self._fetching.may_continue and _STRONG_ETAG.fullmatch(tag)
        file.begin(tag if is_strong else "")
        return response

    def _ask(
        self, download: Download, version: Version | None, stack: ExitStack
    ) -> StreamedResponse:
        fetching = self._fetching
        options = fetching.options()
        if version is not None:
            fields = {"Range": f"bytes={version.size}-", "If-Range": version.etag}
            options["headers"] = options.get("headers", {}) | fields
        try:
            return stack.enter_context(
                self._client.stream(fetching.method, download.url, **options)
            )
        except (DugongError, OSError) as exc:
            raise Failed(describe(exc)) from None  # the pool has retried it already


def _range_of(response: StreamedResponse) -> tuple[int | None, int | None]:
    """Return the first byte of what *response* has of a body, and how many that body has."""
    if response.status != _PARTIAL_CONTENT:
        return None, None
    came = content_range(response.headers)
    return (None, None) if came is None else (came.first, came.size)


def _continues(response: StreamedResponse, version: Version) -> bool:
    """Return whether the body of *response* goes on where *version* ends."""
    if _range_of(response)[0] != version.size:
        return False
    return (response.headers["ETag"] or version.etag) == version.etag  # RFC 9110 §15.3.7.3
