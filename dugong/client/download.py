"""Downloads to files: what `Client.download` does, and `FileReceiver`, which does it.

Guarantees: a file that has its name has all the bytes of one version of it, however often the
download went on; if the server or the caller has told its digest, it has that. Nothing of a
response that is not what was asked for is added to what is there: the download begins anew. Memory
is bounded by `SEGMENT` bytes for each connection. Starts no threads; touches the files of a `Part`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from itertools import islice
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dugong.client.calls import ClientOptions, TransferOptions, check_options, elaborate
from dugong.client.decoding import codings_of
from dugong.client.integrity import Digest, digests_in, mismatch, parse_digest
from dugong.client.part import Part
from dugong.client.ranges import content_range, strong_validator
from dugong.connection.encode import HeaderPairs
from dugong.deadline import Deadline
from dugong.errors import (
    ConnectionTimedOut,
    Delivery,
    DugongError,
    HTTPStatusError,
    IntegrityError,
    InvalidResponse,
    ResponseTooLarge,
    is_temp_network_error,
)
from dugong.pool.checks import check_bool, check_counts
from dugong.pool.failure import describe, failure
from dugong.pool.options import IDENTITY, POOL_DEFAULT
from dugong.pool.progress import Meter, Progress, progress_of
from dugong.pool.response import Attempt, Response, StreamedResponse
from dugong.pool.retry.policy import RetryPolicy

if TYPE_CHECKING:
    from dugong.client.aiotransfer import StoppableClient
    from dugong.client.client import Client
    from dugong.pool.future import ResponseFuture
    from dugong.pool.progress import ProgressCall
    from dugong.pool.request import Request

__all__ = ["SEGMENT", "Downloaded", "FileReceiver", "download"]

#: Bytes that are asked for at a time where a file is received over several connections.
SEGMENT = 4 * 1024 * 1024

_BUFFER = 256 * 1024
_PARTIAL_CONTENT = 206
#: What a server responds if what was asked for does not exist, or not any more.
_NO_SUCH_PART = frozenset((412, 416))

#: From where to where in a file; None: to its end.
_Range = tuple[int, int | None]


class Downloaded(NamedTuple):
    """What `Client.download` returns.

    *path* is that of the file, and *size* its size in bytes, of which *resumed* were there from an
    earlier call. *response* is the last response, with its headers, its `url` and its `history`,
    and without a body; its status is 206 if the last request was for a part of the file.
    """

    path: str
    size: int
    resumed: int
    response: Response


def download(
    client: Client | StoppableClient,
    url: str,
    path: str | os.PathLike[str],
    resume: bool,
    connections: int,
    digest: str | None,
    progress: Progress | ProgressCall | None,
    options: TransferOptions,
) -> Downloaded:
    """Do what `Client.download` says."""
    check_bool("resume", resume)
    check_counts(connections=connections)
    check_options(options, TransferOptions)
    given = [] if digest is None else [parse_digest(digest)]
    told = progress_of(progress, has_body=False)
    call = told.download if told is not None and told.download is not None else _tell_nothing
    run = FileReceiver(client, "GET", url, options, call, connections=connections, given=given)
    with Part(os.fsdecode(path), run.request.url if resume else None) as part:
        return run.into(part)


def _tell_nothing(done: int, total: int | None) -> None: ...


#: What is told of is not pipelined, and each segment is to have a connection to itself.
_ALONE = Progress(download=_tell_nothing)


class FileReceiver:
    """Receives one file by requests of *method* for *url*. For one thread.

    *options* are those of `Client.request`; *progress* is told as by `Client.download`, and
    *connections* is as of that. The file is to have the digests *given*. Without *continues*, what
    the server sends is the file, even if it calls it a part, and no request asks for the rest.

    Attributes: *request* is the first request, but for what is added to its headers. Raises
    ValueError and TypeError for what cannot be sent.
    """

    def __init__(
        self,
        client: Client | StoppableClient,
        method: str,
        url: str,
        options: Mapping[str, Any],
        progress: ProgressCall,
        *,
        connections: int = 1,
        given: Sequence[Digest] = (),
        continues: bool = True,
    ) -> None:
        # None of these changes.
        self._client = client
        self._method = method
        self._url = url
        self._connections = connections
        self._given = given
        self._progress = progress
        self._continues = continues
        self._decodes = client._decoder is not None
        # Each request reads them.
        kept: dict[str, Any] = {**options}
        for name in ("params", "headers", "cookies"):
            if isinstance(kept.get(name), Iterator):
                kept[name] = list(kept[name])
        self._options = kept
        #: What asks for no coding. A client that does not decode leaves that to its caller.
        self._identity: HeaderPairs = IDENTITY if self._decodes else ()
        self._headers = elaborate(kept.get("headers"), self._identity)
        if self._headers.decided & {"range", "if-range"}:
            raise ValueError("a download asks for ranges by itself: leave out Range and If-Range")
        self._segment = max(1, min(SEGMENT, client._pool._scheduler.limits.max_body_size))
        self.request: Request = client._calls.call(method, url, cast(ClientOptions, kept)).request
        self._deadline = Deadline(self.request.deadline)
        self._policy = _policy_of(client, self.request.retry)
        # All of these are the only thread's.
        self._part: Part  # from `into` on
        self._resumed = 0
        self._ranges_work = True
        self._meter: Meter | None = None  # once there is a response to what is now received
        self._expected: list[Digest] = []  # of the whole file, as the server says
        self._last: Response | None = None

    def into(
        self, part: Part, names: Callable[[Response], Iterable[str] | None] = lambda last: None
    ) -> Downloaded:
        """Receive the file into *part*, and have that get its name, or one of *names*.

        These are what *names* returns for the last response: see `Part.complete`. Raises what
        `Client.download` raises.
        """
        self._part = part
        most = self._resumed = part.received
        idle = 0  # how many attempts in a row have brought nothing
        while not part.is_whole or self._last is None:
            failed = self._receive()
            idle = 0 if part.received > most else idle + 1
            most = max(most, part.received)
            if failed is not None:
                self._rest_after(failed, max(idle, 1))
            elif idle > self._policy.attempts:
                raise self._failure(InvalidResponse("the responses bring nothing new"))
        size = cast(int, part.size)
        self._check([*self._expected, *self._given], part.pieces(0, size))
        self._told().finish()
        part.complete(names(self._last))
        return Downloaded(part.path, size, self._resumed, self._last)

    def _rest_after(self, exc: DugongError, number: int) -> None:
        """Wait before what follows the *number*-th attempt; raise *exc* if nothing does."""
        policy = self._policy
        attempt = Attempt(
            time(), "", describe(exc), exc.delivery, number, exception=exc, request=self.request
        )
        may_pass = is_temp_network_error(exc) and policy.repeats(self.request)
        if not may_pass or number >= policy.attempts:
            raise exc
        if policy.should_retry is not None and not policy.should_retry(attempt):
            raise exc
        delay, left = policy.delay(number), self._deadline.remaining()
        if left is not None and left <= delay:
            raise exc
        self._client._pause(delay)

    # --- one request ------------------------------------------------------------------------------

    def _receive(self) -> DugongError | None:
        """Receive more of the file; return what has cut a body short."""
        part = self._part
        if part.received and not (part.validator and self._ranges_work):
            self._begin("", None)  # nothing can be asked for that would go on with it
        if part.received and part.size and self._last is not None and self._connections > 1:
            self._receive_segments(part.size)
            return None
        asked = self._first_missing()
        with self._client.stream(self._method, self._url, **self._options_for(asked)) as response:
            came = self._accepted(response, asked)
            return None if came is None else self._read(response, *came)
        raise AssertionError("a stream has suppressed an exception")

    def _first_missing(self) -> _Range | None:
        """Return what to ask for now, of which at least one byte exists; None: all of the file."""
        part = self._part
        gap: _Range = 0, None
        if part.received:
            # If nothing is known to be missing, the last byte is asked for once more.
            gap = next((gap for gap in part.gaps() if gap[1]), (part.end - 1, part.size))
        elif self._connections == 1 or not self._ranges_work:
            return None
        if self._connections == 1:
            return gap
        start, end = gap
        return start, start + self._segment if end is None else min(start + self._segment, end)

    def _accepted(self, response: StreamedResponse, asked: _Range | None) -> _Range | None:
        """Return what of the file *response* has; None if the download has to begin anew.

        Raises `HTTPStatusError` and `InvalidResponse`.
        """
        if asked is not None and response.status in _NO_SUCH_PART | {_PARTIAL_CONTENT}:
            came = self._part_in(response, asked)
            if came is None:
                self._ranges_work = False
                self._begin("", None)
            return came
        if response.status >= 300:
            raise HTTPStatusError(response._whole())
        if response.status == _PARTIAL_CONTENT and self._continues:
            raise self._failure(InvalidResponse("a part came, but the whole file was requested"))
        may_continue = self._continues and not self._is_decoded(response)
        self._begin(strong_validator(response.headers) if may_continue else "", response.length)
        self._note_digests(response)
        return 0, response.length

    def _part_in(self, response: Response | StreamedResponse, asked: _Range) -> _Range | None:
        """Return what of the file *response* has; None if it is no part that was *asked* for."""
        part = self._part
        came = content_range(response.headers)
        if response.status != _PARTIAL_CONTENT or came is None or self._is_decoded(response):
            return None
        start, end = asked
        if came.first != start or (end is not None and came.last >= end):
            return None
        size = part.size if came.size is None else came.size
        length = response.length if isinstance(response, StreamedResponse) else len(response.body)
        if size is None or length not in (None, came.last + 1 - came.first):
            return None
        if part.size not in (None, size):
            return None
        if part.received:
            name = "ETag" if part.validator[:1] == '"' else "Last-Modified"
            if response.headers[name] != part.validator:
                return None
        else:
            validator = strong_validator(response.headers)
            if not validator and size > came.last + 1:
                return None  # no other request could be for the rest of it
            self._begin(validator, size)
        part.size = size
        self._note_digests(response)
        return came.first, came.last + 1

    def _read(self, response: StreamedResponse, start: int, end: int | None) -> DugongError | None:
        """Read *response*, which has what is from *start* to *end*; return what has cut it short.

        Raises `InvalidResponse` if it has more.
        """
        part = self._part
        offset = start
        buffer = memoryview(bytearray(_BUFFER))
        while True:
            try:
                size = response.readinto(buffer)
            except DugongError as exc:
                return exc
            if not size:
                break
            if end is not None and offset + size > end:
                raise self._failure(InvalidResponse("the body is longer than its head says"))
            self._write(offset, buffer[:size])
            offset += size
        if part.size is None:
            part.size = offset
        self._note_digests(response)  # which may stand behind the body, too
        if end in (None, offset):
            digests = self._digests_in(response, "Content-Digest")
            if response.status != _PARTIAL_CONTENT:  # servers differ in what it is of then
                digests += self._digests_in(response, "Content-MD5")
            self._check(digests, part.pieces(start, offset))
        self._last = response._whole()
        return None

    def _receive_segments(self, size: int) -> None:
        """Receive what there is not of a file of *size* bytes, over several connections."""
        segments = iter(_cut(self._part.gaps(), size, self._segment))
        under_way: dict[ResponseFuture, _Range] = {}
        try:
            while True:
                for segment in islice(segments, self._connections - len(under_way)):
                    options = self._options_for(segment)
                    future = self._client.submit("GET", self._url, progress=_ALONE, **options)
                    under_way[future] = segment
                if not under_way:
                    return
                wait(under_way, return_when=FIRST_COMPLETED)
                for future in [each for each in under_way if each.done()]:
                    if not self._take(future, under_way.pop(future)):
                        return
        finally:
            for future in under_way:
                future.cancel()

    def _take(self, future: ResponseFuture, asked: _Range) -> bool:
        """Take the segment that was *asked* for; return False if the download has to begin anew."""
        response: Response | None = None
        try:
            response = future.result()
        except ResponseTooLarge:
            pass  # all of another version, perhaps
        came: _Range | None = None
        if response is not None:
            if response.status >= 300 and response.status not in _NO_SUCH_PART:
                raise HTTPStatusError(response)
            came = self._part_in(response, asked)
        if response is None or came is None:
            self._ranges_work = False
            self._begin("", None)
            return False
        self._check(self._digests_in(response, "Content-Digest"), [response.body])
        self._write(came[0], response.body)
        response.body = b""
        self._last = response
        return True

    # --- what all of them need --------------------------------------------------------------------

    def _options_for(self, asked: _Range | None) -> Any:
        """Return the options of a request for what is *asked* for; None: all."""
        fields = self._identity
        if asked is not None:
            start, end = asked
            fields += (("Range", f"bytes={start}-{'' if end is None else end - 1}"),)
            if self._part.received:
                fields += (("If-Range", self._part.validator),)
        options: dict[str, Any] = {**self._options, "headers": self._headers.with_fresh(fields)}
        left = self._deadline.remaining()
        if left is not None:
            if not left:
                raise self._failure(ConnectionTimedOut("the deadline passed between two requests"))
            options["deadline"] = left
        return options

    def _begin(self, validator: str, size: int | None) -> None:
        """Begin anew, with the version that *validator* names."""
        self._part.begin(validator, size)
        self._resumed = 0
        self._meter = self._last = None
        self._expected = []

    def _write(self, offset: int, data: memoryview | bytes) -> None:
        meter = self._told()
        meter.add(self._part.write(offset, data))

    def _told(self) -> Meter:
        """Return what is told of the progress."""
        if self._meter is None:
            self._meter = Meter(self._progress, self._part.size)
            self._meter.add(self._part.received)
        return self._meter

    def _note_digests(self, response: Response | StreamedResponse) -> None:
        self._expected = self._digests_in(response, "Repr-Digest") or self._expected

    def _digests_in(self, response: Response | StreamedResponse, field: str) -> list[Digest]:
        """Return those in *field*, before or behind the body; none of a body that is decoded."""
        if self._is_decoded(response):
            return []
        return digests_in(response.headers, field) + digests_in(response.trailers, field)

    def _is_decoded(self, response: Response | StreamedResponse) -> bool:
        return self._decodes and bool(codings_of(response.headers))

    def _check(self, digests: list[Digest], pieces: Iterable[bytes]) -> None:
        """Raise `IntegrityError`, and forget what there is, unless *digests* are of *pieces*."""
        wrong = mismatch(digests, self._unless_stopped(pieces))
        if wrong is not None:
            self._part.begin("", None)
            text = f"what came does not have the {wrong.name} digest {wrong.source}"
            raise self._failure(IntegrityError(text))

    def _unless_stopped(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._client._pause(0)
            yield piece

    def _failure(self, error: DugongError) -> Exception:
        return failure(error, Delivery.ANSWER_STARTED, self.request)


def _cut(gaps: Iterable[_Range], size: int, length: int) -> Iterator[_Range]:
    """Yield *gaps* in a file of *size* bytes in pieces of up to *length* bytes."""
    for start, end in gaps:
        stop = size if end is None else end
        for first in range(start, stop, length):
            yield first, min(first + length, stop)


def _policy_of(client: Client | StoppableClient, retry: object) -> RetryPolicy:
    """Return the policy of a request whose own is *retry*."""
    if isinstance(retry, RetryPolicy):
        return retry
    return client._pool._preparer._retry if retry is POOL_DEFAULT else RetryPolicy.never
