"""An object is stored: by one request, or in parts.

Guarantees: what is stored is what was read, or there is an exception. No upload is left open, but
by a process that is killed and by a server that cannot be reached; then the next one of the same
key goes on with it, with each part that has the right content. Memory holds no more than a few
parts, and none of a file that can seek.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dugong.errors import DugongError, InvalidResponse
from dugong.pool.body import can_be_sent_again
from dugong.s3.checksums import CRC32, Sums, expected_of, hash_of_etag, sums_of, whole_of
from dugong.s3.documents import completion, document, invalid, number_in, text_of
from dugong.s3.errors import ChecksumError, S3Error, check, error_of, is_error, may_pass
from dugong.s3.parts import MAX_PARTS, cut
from dugong.s3.service import Fields, Object, Service, object_of, under_way

if TYPE_CHECKING:
    from dugong.pool.body import BodyLike
    from dugong.pool.future import ResponseFuture
    from dugong.pool.response import Response
    from dugong.s3.checksums import Expected

__all__ = ["OpenUpload", "abort", "open_uploads", "store", "stored"]

Told = Callable[[int, int | None], object]


class OpenUpload(NamedTuple):
    """An upload in parts that is neither complete nor aborted; `started` is as the server says."""

    key: str
    id: str
    started: str


def store(
    service: Service,
    key: str,
    body: BodyLike,
    headers: Fields,
    part_size: int,
    progress: Told | None,
) -> Object:
    """Store *body* as *key*; see `Bucket.put`."""
    arguments = service, key, body, headers, part_size, progress
    try:
        return _stored_once(*arguments)
    except S3Error as exc:
        # It was aborted, or a server that was started again has forgotten it.
        if exc.code != "NoSuchUpload" or not can_be_sent_again(body):
            raise
    return _stored_once(*arguments)


def _stored_once(
    service: Service,
    key: str,
    body: BodyLike,
    headers: Fields,
    part_size: int,
    progress: Told | None,
) -> Object:
    size, parts = cut(body, part_size)
    first = next(parts, b"")
    second = next(parts, None)
    if second is not None:
        told = _Progress(progress, size)
        return _Multipart(service, key, headers, told).run(chain((first, second), parts))

    def attempt() -> Object:
        sums = service.sums_of(first)  # a file may have changed since the last attempt
        response = service.send("PUT", key, headers=(*headers, *sums.fields), body=first)
        return stored(service, key, sums, response)

    made = service.repeated(attempt)
    _Progress(progress, made.size).add(made.size)
    return made


def stored(service: Service, key: str, sums: Sums, response: Response) -> Object:
    """Return the `Object` *key*, if *response*, that to its PUT, says that it has *sums*."""
    _check_stored(service, sums, response)
    etag = response.headers.get("ETag", "")
    return Object(key, sums.size, etag, None, response.headers)


def _check_stored(service: Service, sums: Sums, response: Response) -> None:
    """Raise `ChecksumError` unless *response* says that what was sent with *sums* is stored."""
    etag, crc32 = response.headers.get("ETag", ""), response.headers.get(CRC32)
    service.tells_crc32 = crc32 is not None
    _check_same(expected_of(sums), etag, crc32, response)
    if crc32 is None and sums.md5 is None and hash_of_etag(etag, response.headers) is not None:
        # The server has told the CRC32 before. If this is tried again, the MD5 is calculated.
        raise _checksum_error("the server has not returned the CRC32 of the body", response)


def _check_same(expected: Expected, etag: str, crc32: str | None, response: Response) -> None:
    if expected.contradicts(etag, crc32, response.headers):
        raise _checksum_error("the server has stored something else than was sent", response)


def _checksum_error(text: str, response: Response) -> ChecksumError:
    error = ChecksumError(text)
    error.request, error.attempts = response.request, response.attempts
    return error


class _Progress:
    """Tells how much has been stored. For the thread of the call."""

    def __init__(self, tell: Told | None, total: int | None) -> None:
        self._tell = tell
        self._total = total
        self._done = 0

    def add(self, size: int) -> None:
        self._done += size
        if self._tell is not None:
            self._tell(self._done, self._total)


# --- uploads in parts -----------------------------------------------------------------------------


class _Part(NamedTuple):
    """A part that the server has."""

    size: int
    etag: str
    crc32: str | None


class _Multipart:
    """Stores one object in parts. For one thread."""

    def __init__(self, service: Service, key: str, headers: Fields, told: _Progress) -> None:
        self._service = service
        self._key = key
        # What the condition is for is the object, which is there when the upload is complete.
        self._conditions = [each for each in headers if each[0].lower().startswith("if-")]
        self._headers = [each for each in headers if each not in self._conditions]
        self._told = told
        self._id = ""
        self._keeps_crc32 = False  # the server verifies that of the whole
        self._sums: list[Sums] = []  # of all parts, in order
        self._stored: dict[int, _Part] = {}  # by their numbers

    def run(self, parts: Iterator[BodyLike]) -> Object:
        """Store *parts*, of which there are two at least."""
        try:
            self._begin()
            for future in under_way(self._submitted(parts)):
                try:
                    self._note(future.result(), future.request.context)
                except DugongError as exc:
                    if not may_pass(exc):
                        raise
                    self._send_again(future)
            return self._complete()
        except BaseException as exc:
            try:
                if self._id:
                    abort(self._service, self._key, self._id)
            except Exception:  # it is the first one that says what has happened
                exc.add_note("The upload could not be aborted; the next one will go on with it.")
            raise

    def _begin(self) -> None:
        """Find an upload to go on with, or create one."""
        known = self._open()
        if known and not self._headers:  # the server does not tell those of an open upload
            found = max(known.values(), key=lambda each: each.started)
            if self._goes_on_with(found.id):
                return
        algorithm = (
            ("x-amz-checksum-algorithm", "CRC32"),
            ("x-amz-checksum-type", "FULL_OBJECT"),
        )
        try:
            # If it is created twice, that is put right.
            response = self._service.send(
                "POST",
                self._key,
                [("uploads", "")],
                (*self._headers, *algorithm),
                idempotent=True,
            )
        except DugongError:
            with suppress(DugongError):
                self._abort_others(known)
            raise
        self._id = text_of(document(response, "InitiateMultipartUploadResult"), "UploadId")
        if not self._id:
            raise invalid(response, "the server does not name the upload that it has begun")
        self._keeps_crc32 = response.headers.get("x-amz-checksum-type") == "FULL_OBJECT"
        if response.attempts:
            self._abort_others(known)

    def _open(self) -> dict[str, OpenUpload]:
        """Return the uploads of the key that are open, by their ids.

        None if that is a secret, or if XML cannot have the key.
        """
        try:
            found = open_uploads(self._service, self._key, exact=True)
            return {each.id: each for each in found}
        except S3Error as exc:
            if exc.code != "AccessDenied":
                raise
        except InvalidResponse:
            pass
        return {}

    def _abort_others(self, known: dict[str, OpenUpload]) -> None:
        """Abort what attempts to create the upload have left, whose responses were lost."""
        for upload_id in self._open().keys() - known.keys() - {self._id}:
            abort(self._service, self._key, upload_id)

    def _goes_on_with(self, upload_id: str) -> bool:
        """Note what the server has of an open upload; return False if that is of no use."""
        marker = ""
        found: dict[int, _Part] = {}
        while True:
            query = [("uploadId", upload_id)]
            if marker:
                query.append(("part-number-marker", marker))
            try:
                response = self._service.send("GET", self._key, query)
            except S3Error as exc:
                if exc.code not in ("NoSuchUpload", "AccessDenied"):
                    raise
                return False
            root = document(response, "ListPartsResult")
            if text_of(root, "ChecksumAlgorithm") not in ("", "CRC32"):
                return False  # another program has begun it, with checksums that are not ours
            for each in root.iter("Part"):
                size = number_in(response, each, "Size")
                crc32 = text_of(each, "ChecksumCRC32") or None
                number = number_in(response, each, "PartNumber")
                found[number] = _Part(size, text_of(each, "ETag"), crc32)
            following = text_of(root, "NextPartNumberMarker")
            if text_of(root, "IsTruncated") != "true" or following in ("", marker):
                self._id, self._stored = upload_id, found
                self._keeps_crc32 = text_of(root, "ChecksumType") == "FULL_OBJECT"
                return True
            marker = following

    def _submitted(self, parts: Iterator[BodyLike]) -> Iterator[ResponseFuture]:
        """Submit each of *parts* that the server does not have."""
        for number, body in enumerate(parts, 1):
            if number > MAX_PARTS:
                raise ValueError(
                    f"an object has at most {MAX_PARTS} parts: give a larger part_size"
                )
            there = self._stored.pop(number, None)
            if there is None:
                sums = self._service.sums_of(body)
            else:
                sums = sums_of(body, self._service.is_signed)
            self._sums.append(sums)
            if there is not None and there.size == sums.size and _is_md5(there.etag, sums):
                self._stored[number] = there
                self._told.add(sums.size)
                continue
            yield self._service.submit(*self._arguments(number, body), context=number)

    def _arguments(self, number: int, body: BodyLike) -> tuple[Any, ...]:
        query = [("partNumber", str(number)), ("uploadId", self._id)]
        return "PUT", self._key, query, self._sums[number - 1].fields, body

    def _note(self, response: Response, number: int) -> None:
        """Note that the server has stored the part *number*."""
        check(response)
        sums = self._sums[number - 1]
        _check_stored(self._service, sums, response)
        etag, crc32 = response.headers.get("ETag", ""), response.headers.get(CRC32)
        if sums.md5 is None and (md5 := hash_of_etag(etag, response.headers)) and "-" not in md5:
            # What the server has is verified; this is for the ETag of the whole.
            self._sums[number - 1] = sums._replace(md5=bytes.fromhex(md5))
        self._stored[number] = _Part(sums.size, etag, crc32)
        self._told.add(sums.size)

    def _send_again(self, future: ResponseFuture) -> None:
        number, body = future.request.context, cast("BodyLike", future.request.body)

        def attempt() -> None:
            # A file may have changed since the last attempt.
            self._sums[number - 1] = self._service.sums_of(body)
            self._note(self._service.send(*self._arguments(number, body)), number)

        self._service.repeated(attempt)

    def _complete(self) -> Object:
        expected = whole_of(self._sums)
        numbers = range(1, len(self._sums) + 1)
        parts = ((n, self._stored[n].etag, self._stored[n].crc32) for n in numbers)
        body = completion(parts)
        fields = list(self._conditions)
        if self._keeps_crc32:
            fields += [("x-amz-checksum-type", "FULL_OBJECT"), (CRC32, expected.crc32)]

        def attempt() -> Response:
            query = [("uploadId", self._id)]
            response = self._service.send("POST", self._key, query, fields, body, idempotent=True)
            if is_error(response):
                raise error_of(response)
            return response

        try:
            response = self._service.repeated(attempt)
        except S3Error as exc:
            # An attempt whose response was lost may have done it.
            if exc.code == "NoSuchUpload" and (found := self._found(expected)) is not None:
                return found
            raise
        root = document(response, "CompleteMultipartUploadResult")
        etag, crc32 = text_of(root, "ETag"), text_of(root, "ChecksumCRC32") or None
        _check_same(expected, etag, crc32, response)
        return Object(self._key, expected.size, etag, None, response.headers)

    def _found(self, expected: Expected) -> Object | None:
        """Return the object, if the server has one that is certainly this."""
        try:
            found = object_of(self._key, self._service.send("HEAD", self._key))
        except S3Error:
            return None
        is_it = (found.size, found.etag.strip('"')) == (expected.size, expected.etag)
        return found if is_it else None


def _is_md5(etag: str, sums: Sums) -> bool:
    return etag.strip('"').lower() == expected_of(sums).etag


def open_uploads(service: Service, prefix: str, exact: bool = False) -> Iterator[OpenUpload]:
    """Yield the uploads that are open of keys with *prefix*, or of that key if it is *exact*."""
    # Not with the encoding-type "url": SeaweedFS says that it has used that, and has not.
    query = {"uploads": ""}
    if prefix:
        query["prefix"] = prefix
    while True:
        try:
            response = service.send("GET", "", query.items())
        except S3Error as exc:
            if exc.code in ("NoSuchUpload", "NotImplemented"):  # so rclone says that there are none
                return
            raise
        root = document(response, "ListMultipartUploadsResult")
        for each in root.iter("Upload"):
            key = text_of(each, "Key")
            if key == prefix if exact else key.startswith(prefix):
                yield OpenUpload(key, text_of(each, "UploadId"), text_of(each, "Initiated"))
        following = {
            "key-marker": text_of(root, "NextKeyMarker"),
            "upload-id-marker": text_of(root, "NextUploadIdMarker"),
        }
        if text_of(root, "IsTruncated") != "true" or following.items() <= query.items():
            return
        query |= following


def abort(service: Service, key: str, upload_id: str) -> None:
    """Abort an upload; do nothing if it is not open."""
    try:
        service.send("DELETE", key, [("uploadId", upload_id)])
    except S3Error as exc:
        if exc.response.status != 404:
            raise
