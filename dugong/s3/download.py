"""An object is written to a file, in several ranges at a time if it is large.

Guarantees: the file is whole and verified, or it is as it was before; no ranges of two versions of
an object are put together. Memory holds no more than a few ranges. What a download has left that
failed, or whose process was killed, is hidden files; the next one of the same object to the same
path goes on with them, if the ETag is the same, and removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dugong.client.part import Part
from dugong.client.ranges import ContentRange, content_range
from dugong.s3.checksums import verifier
from dugong.s3.documents import invalid
from dugong.s3.errors import ChecksumError, S3Error, check
from dugong.s3.service import Object, Service, object_of, under_way

if TYPE_CHECKING:
    from dugong.pool.future import ResponseFuture
    from dugong.pool.response import Response

__all__ = ["ASK_CHECKSUM", "download", "verified"]

#: What a server responds if there is not what was asked for, or not any more.
_GONE = frozenset((404, 412, 416))

ASK_CHECKSUM = (("x-amz-checksum-mode", "ENABLED"),)


def verified(response: Response) -> Response:
    """Return *response*, that to a GET; raise `ChecksumError` if its body is not as it promises."""
    verify = verifier(response.headers)
    if verify is not None and not verify((response.body,)):
        raise _wrong(response)
    return response


def download(
    service: Service,
    key: str,
    path: str,
    part_size: int,
    progress: Callable[[int, int], object] | None,
) -> Object:
    """Write the object *key* to *path*; see `Bucket.download`."""
    head = service.send("HEAD", key, headers=ASK_CHECKSUM)
    found = object_of(key, head)
    # A hidden name is no other object's, whose file may be written at the same time.
    with Part(path, head.request.url, hidden=True) as part:
        validator = found.etag if found.etag[:1] == '"' else ""
        if not validator or (part.validator, part.size) != (validator, found.size):
            part.begin(validator, found.size)
        try:
            _receive(service, found, part, part_size, progress)
        except S3Error as exc:
            if exc.response.status in _GONE:
                part.begin("", None)  # nothing can be asked for that would go on with it
            raise
        verify = verifier(head.headers)
        if verify is not None and not verify(part.pieces(0, found.size)):
            part.begin("", None)
            raise _wrong(head)
        part.complete()
    return found


def _receive(
    service: Service,
    found: Object,
    part: Part,
    part_size: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Receive what *part* has not of the object *found*."""
    for future in under_way(_ranges(service, found, part, part_size)):
        data = _data_of(future.result(), found, *future.request.context)
        part.write(future.request.context[0], data)
        if progress is not None:
            progress(part.received, found.size)


def _ranges(
    service: Service, found: Object, part: Part, part_size: int
) -> Iterator[ResponseFuture]:
    """Submit a request for each range of the object *found* that *part* has not."""
    if not part.validator:
        part_size = max(found.size, 1)  # nothing would tell ranges of two versions apart
    for first, end in part.gaps():
        stop = found.size if end is None else end
        for start in range(first, stop, part_size):
            size = min(part_size, stop - start)
            headers = [("Range", f"bytes={start}-{start + size - 1}")]
            if part.validator:
                headers.append(("If-Match", part.validator))
            yield service.submit("GET", found.key, headers=headers, context=(start, size))


def _data_of(response: Response, found: Object, start: int, size: int) -> bytes:
    """Return the range of *size* bytes of *found* from *start*, for which *response* is."""
    check(response)
    # Some servers send a range with the status 200.
    length = len(response.body)
    given = content_range(response.headers) or ContentRange(0, length - 1, length)
    is_same = response.headers.get("ETag", found.etag) == found.etag
    if given != (start, start + size - 1, found.size) or length != size or not is_same:
        raise invalid(response, "the server sent another range than was requested")
    return response.body


def _wrong(response: Response) -> ChecksumError:
    error = ChecksumError("the checksum of what the server sent is wrong")
    error.request, error.attempts = response.request, response.attempts
    return error
