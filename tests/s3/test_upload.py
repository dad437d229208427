"""Uploads in parts: retried by part, resumed, completed once, aborted."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dugong import ConnectionClosed, DugongError, RetryPolicy
from dugong.s3 import ChecksumError, S3Error, upload
from dugong.s3.service import AT_ONCE
from tests.support.client import Page
from tests.support.s3 import QUICK, S3Place, S3Site, Upload, dropped, error, md5, open_bucket
from tests.support.server import ReceivedRequest

DATA = random.Random(7).randbytes(4500)  # five parts of 1000 bytes
PARTS = [DATA[start : start + 1000] for start in range(0, 4500, 1000)]


def on(text: str, page: Any, times: int = 1) -> list[Any]:
    """Return faults that respond *page*, or do it, to requests whose line has *text* in it."""

    def fault(request: ReceivedRequest) -> Page | None:
        if text not in f"{request.method} {request.target}":
            return None
        made: Page | None = page(request) if callable(page) else page
        return made

    return [lambda request: fault(request) for _ in range(times)]


def check_stored(here: S3Place, key: str = "key") -> None:
    assert here.site.objects[key].body == DATA
    assert here.site.uploads == {}
    assert here.site.refused == []


@pytest.mark.parametrize("knows_checksums", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "path", "bytesio", "iterator"])
def test_what_is_large_is_stored_in_parts(kind: str, knows_checksums: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    bodies: dict[str, Any] = {
        "bytes": DATA,
        "path": tmp_path / "file",
        "bytesio": io.BytesIO(DATA),
        "iterator": iter([DATA[:1], DATA[1:2500], DATA[2500:]]),
    }
    with open_bucket(S3Site(knows_checksums)) as here:
        made = here.bucket.put("key", bodies[kind], headers={"x-amz-meta-a": "b"})
        check_stored(here)
        assert (made.size, made.etag) == (4500, f'"{here.site.objects["key"].etag}"')
        assert made.etag.endswith('-5"')
        assert here.site.objects["key"].fields["x-amz-meta-a"] == "b"
        assert len(here.received("PUT .*partNumber")) == 5


def test_what_fits_is_stored_by_one_request() -> None:
    with open_bucket() as here:
        here.bucket.put("key", bytes(1000))
        assert len(here.place.requests) == 1


def test_parts_are_sent_at_the_same_time_but_not_too_many() -> None:
    together = threading.Barrier(4, timeout=10)
    size = 70_000  # smaller parts may be pipelined
    with open_bucket(max_connections_per_host=4, part_size=size) as here:
        answer = here.place._serve

        def serve(request: ReceivedRequest) -> Page:
            if "partNumber" in request.target:
                together.wait()
            return answer(request)

        here.place._serve = serve
        given = 0

        def pieces() -> Iterator[bytes]:
            nonlocal given
            for _ in range(40):
                given += 1
                stored = sum(len(each.parts) for each in here.site.uploads.values())
                assert given - stored <= AT_ONCE + 4 + 2  # 4: stored, and not looked at yet
                yield bytes(size)

        here.bucket.put("key", pieces())
        assert here.site.objects["key"].body == bytes(40 * size)


def test_a_part_that_fails_is_sent_again_by_itself() -> None:
    with open_bucket() as here:
        here.site.faults += on("partNumber=3", error("503 Slow Down", "SlowDown"))
        here.site.faults += on("partNumber=3", error("400 Bad Request", "RequestTimeout"))
        here.site.faults += on("partNumber=3", dropped)
        here.bucket.put("key", DATA)
        check_stored(here)
        assert len(here.received("PUT .*partNumber")) == 8
        assert len(here.received("PUT .*partNumber=3&")) == 4


@pytest.mark.parametrize("knows_checksums", [True, False])
def test_a_part_that_was_stored_wrongly_is_sent_again(knows_checksums: bool) -> None:
    with open_bucket(S3Site(knows_checksums)) as here:
        wrong = Page(headers=here.site._fields_of(b"other"))
        here.site.faults += on("partNumber=2", wrong)
        here.bucket.put("key", DATA)
        check_stored(here)


def test_an_upload_that_fails_is_aborted() -> None:
    with open_bucket() as here:
        here.site.faults += on("partNumber=4", error("403 Forbidden", "AccessDenied"))
        with pytest.raises(S3Error, match="AccessDenied"):
            here.bucket.put("key", DATA)
        assert here.site.uploads == {}
        assert here.site.aborted == ["u01"]
        assert "key" not in here.site.objects


def test_an_upload_whose_body_fails_is_aborted() -> None:
    def pieces() -> Iterator[bytes]:
        yield DATA[:2500]
        raise RuntimeError("the disk is gone")

    with open_bucket() as here:
        with pytest.raises(RuntimeError, match="the disk is gone"):
            here.bucket.put("key", pieces())
        assert here.site.uploads == {}


def test_an_upload_that_cannot_be_aborted_says_so() -> None:
    with open_bucket() as here:
        here.site.faults += on("partNumber=4", error("403 Forbidden", "AccessDenied"))
        here.site.faults += on("DELETE", error("403 Forbidden", "AccessDenied"))
        with pytest.raises(S3Error) as caught:
            here.bucket.put("key", DATA)
        assert "could not be aborted" in caught.value.__notes__[0]
        assert [each.key for each in here.bucket.uploads()] == ["key"]
        here.bucket.put("key", DATA)
        check_stored(here)


# --- resumed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1000, 1])
def test_the_next_upload_goes_on_with_what_was_left_open(page_size: int) -> None:
    site = S3Site(page_size=page_size)
    # A part that differs, one that was cut short, and one that is too much.
    left = {1: PARTS[0], 2: PARTS[1], 3: bytes(1000), 4: PARTS[3][:500], 9: b"more"}
    site.uploads["u00"] = Upload("key", {}, left)
    site.uploads["u99"] = Upload("key/other", {}, {1: PARTS[0]})
    with open_bucket(site) as here:
        told: list[tuple[int, int | None]] = []
        here.bucket.put("key", DATA, progress=lambda done, total: told.append((done, total)))
        assert site.objects["key"].body == DATA
        sent = [each.target.partition("partNumber=")[2][0] for each in here.received("PUT")]
        assert sorted(sent) == ["3", "4", "5"]
        assert site.uploads.keys() == {"u99"}
        assert told[-1] == (4500, 4500)
        assert len(told) == 5


def test_an_upload_that_xml_cannot_name_is_not_continued() -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("\x01", {}, {1: PARTS[0]})
    with open_bucket(site) as here:
        here.bucket.put("\x01", DATA)
        assert site.objects["\x01"].body == DATA
        assert len(here.received("PUT")) == 5


def test_the_last_of_several_that_are_open_is_continued() -> None:
    site = S3Site(page_size=1)
    site.uploads["u01"] = Upload("key", {}, {1: PARTS[0]})
    site.uploads["u02"] = Upload("key", {}, {1: PARTS[0], 2: PARTS[1]})
    with open_bucket(site) as here:
        here.bucket.put("key", DATA)
        assert len(here.received("PUT")) == 3
        assert [each.id for each in here.bucket.uploads()] == ["u01"]
        here.bucket.abort(next(here.bucket.uploads("key")))
        assert site.uploads == {}


def test_an_upload_with_headers_begins_anew() -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("key", {}, {1: PARTS[0]})
    with open_bucket(site) as here:
        here.bucket.put("key", DATA, headers={"x-amz-meta-a": "b"})
        assert site.objects["key"].fields == {"x-amz-meta-a": "b"}
        assert site.uploads.keys() == {"u00"}


def test_an_upload_that_is_gone_when_it_is_to_be_continued_begins_anew() -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("key", {}, {1: PARTS[0]})
    with open_bucket(site) as here:

        def gone(request: ReceivedRequest) -> Page:
            site.uploads.clear()
            return error("404 Not Found", "NoSuchUpload")

        site.faults += on("GET /bucket/key?uploadId", gone)
        here.bucket.put("key", DATA)
        check_stored(here)


def test_of_an_upload_that_is_gone_before_all_its_parts_were_told_no_part_counts() -> None:
    site = S3Site(page_size=2)
    site.uploads["u00"] = Upload("key", {}, dict(enumerate(PARTS[:3], 1)))
    with open_bucket(site) as here:

        def gone(request: ReceivedRequest) -> Page:
            site.uploads.clear()
            return error("404 Not Found", "NoSuchUpload")

        site.faults += on("part-number-marker=2", gone)
        here.bucket.put("key", DATA)
        check_stored(here)
        assert len(here.received("PUT")) == 5


def test_a_server_that_lists_no_uploads_has_none() -> None:
    with open_bucket() as here:
        here.site.faults += on("?uploads", error("501 Not Implemented", "NotImplemented"))
        here.bucket.put("key", DATA)
        check_stored(here)


@pytest.mark.parametrize("line", ["?uploads", "GET /bucket/key?uploadId"])
def test_without_the_right_to_see_what_is_open_an_upload_begins_anew(line: str) -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("key", {}, {1: PARTS[0]})
    with open_bucket(site) as here:
        site.faults += on(line, error("403 Forbidden", "AccessDenied"))
        here.bucket.put("key", DATA)
        assert site.objects["key"].body == DATA
        assert site.uploads.keys() == {"u00"}


# --- created, and completed, once -----------------------------------------------------------------


def test_an_upload_that_was_created_twice_is_open_once() -> None:
    with open_bucket() as here:

        def created_and_lost(request: ReceivedRequest) -> Page:
            here.site._create(request, "key")
            raise ConnectionError

        here.site.faults += on("POST /bucket/key?uploads", created_and_lost, 2)
        here.bucket.put("key", DATA)
        check_stored(here)
        assert sorted(here.site.aborted) == ["u01", "u02"]


def test_an_upload_whose_creation_is_not_known_of_is_aborted() -> None:
    with open_bucket(retry=None) as here:

        def created_and_lost(request: ReceivedRequest) -> Page:
            here.site._create(request, "key")
            raise ConnectionError

        here.site.faults += on("POST /bucket/key?uploads", created_and_lost)
        with pytest.raises(ConnectionClosed):
            here.bucket.put("key", DATA)
        assert here.site.aborted == ["u01"]


def completed_and_lost(here: S3Place) -> Any:
    def fault(request: ReceivedRequest) -> Page:
        name = request.target.partition("uploadId=")[2]
        here.site._complete(request, here.site.uploads[name], name)
        raise ConnectionError

    return fault


def test_an_upload_whose_completion_was_lost_is_complete() -> None:
    with open_bucket() as here:
        here.site.faults += on("POST /bucket/key?uploadId", completed_and_lost(here))
        made = here.bucket.put("key", DATA)
        assert made.etag == f'"{here.site.objects["key"].etag}"'
        check_stored(here)


@pytest.mark.parametrize("line", ["PUT /bucket/key?partNumber=3", "POST /bucket/key?uploadId"])
def test_an_upload_that_is_gone_begins_anew(line: str) -> None:
    with open_bucket() as here:
        here.bucket.put("key", bytes(4500))  # which is not taken for the other

        def gone(request: ReceivedRequest) -> Page:
            here.site.uploads.clear()
            return error("404 Not Found", "NoSuchUpload")

        here.site.faults += on(line, gone)
        here.bucket.put("key", DATA)
        check_stored(here)


def test_a_body_that_can_be_read_once_does_not_begin_anew() -> None:
    with open_bucket() as here:

        def gone(request: ReceivedRequest) -> Page:
            here.site.uploads.clear()
            return error("404 Not Found", "NoSuchUpload")

        here.site.faults += on("POST /bucket/key?uploadId", gone)
        with pytest.raises(S3Error, match="NoSuchUpload"):
            here.bucket.put("key", iter([DATA]))
        assert here.site.objects == {}


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_an_error_in_a_success_is_an_error(code: str) -> None:
    text = f'  <?xml version="1.0"?><Error><Code>{code}</Code></Error>'.encode()
    with open_bucket() as here:
        here.site.faults += on("POST /bucket/key?uploadId", Page(text), 2)
        here.bucket.put("key", DATA)
        check_stored(here)
        here.site.faults += on("POST /bucket/key?uploadId", Page(text), QUICK.attempts)
        with pytest.raises(S3Error, match=f"200 {code}"):
            here.bucket.put("key", DATA)
        assert here.site.uploads == {}


def test_an_error_in_a_success_that_will_not_pass_is_not_tried_again() -> None:
    text = b"<Error><Code>InvalidPart</Code></Error>"
    with open_bucket() as here:
        here.site.faults += on("POST /bucket/key?uploadId", Page(text))
        with pytest.raises(S3Error, match="200 InvalidPart"):
            here.bucket.put("key", DATA)
        assert len(here.received("POST /bucket/key\\?uploadId")) == 1


def test_a_whole_that_is_wrong_is_no_success() -> None:
    text = (
        f"<CompleteMultipartUploadResult><ETag>{md5(b'x')}-5</ETag></CompleteMultipartUploadResult>"
    )
    with open_bucket(S3Site(knows_checksums=False)) as here:
        here.site.faults += on("POST /bucket/key?uploadId", Page(text.encode()))
        with pytest.raises(ChecksumError, match="something else"):
            here.bucket.put("key", DATA)


def test_a_condition_is_for_the_object_not_for_the_upload() -> None:
    with open_bucket() as here:
        here.bucket.put("key", b"there")
        with pytest.raises(S3Error, match="PreconditionFailed"):
            here.bucket.put("key", DATA, headers={"If-None-Match": "*"})
        assert here.site.objects["key"].body == b"there"
        assert here.site.uploads == {}


# --- and ------------------------------------------------------------------------------------------


def test_a_stream_has_no_more_parts_than_an_object_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upload, "MAX_PARTS", 3)
    with open_bucket() as here:
        with pytest.raises(ValueError, match="at most 3 parts"):
            here.bucket.put("key", iter([DATA]))
        assert here.site.uploads == {}


def test_a_file_that_changes_is_stored_as_it_is_when_it_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (DATA, DATA[:500]):
        path.write_bytes(content)
        changed = content[:-1] + b"!"

        def change(
            request: ReceivedRequest, content: bytes = content, changed: bytes = changed
        ) -> Page | None:
            if not request.body.endswith(content[-100:]):
                return None
            with path.open("r+b") as file:  # other parts of it are being read at this moment
                file.write(changed)
            return error("400 Bad Request", "BadDigest")

        with open_bucket() as here:
            here.site.faults += on("PUT", change)
            here.bucket.put("key", path)
            assert here.site.objects["key"].body == changed


def test_an_upload_of_another_program_with_other_checksums_is_left_alone() -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("key", {}, {1: PARTS[0]})
    text = "<ListPartsResult><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm></ListPartsResult>"
    with open_bucket(site) as here:
        site.faults += on("GET /bucket/key?uploadId", Page(text.encode()))
        here.bucket.put("key", DATA)
        assert site.objects["key"].body == DATA
        assert site.uploads.keys() == {"u00"}


def test_progress_is_told_in_the_thread_of_the_call() -> None:
    told: list[tuple[int, int | None, int]] = []

    def tell(done: int, total: int | None) -> None:
        told.append((done, total, threading.get_ident()))

    with open_bucket() as here:
        here.bucket.put("key", DATA, progress=tell)
        assert [total for _, total, _ in told] == [4500] * 5
        assert told[-1][0] == 4500
        assert {thread for _, _, thread in told} == {threading.get_ident()}
        told.clear()
        here.bucket.put("key", iter([DATA]), progress=tell)
        assert [total for _, total, _ in told] == [None] * 5
        told.clear()
        here.bucket.put("key", b"small", progress=tell)
        assert [each[:2] for each in told] == [(5, 5)]


def test_a_server_that_is_gone_is_an_error_of_the_pool() -> None:
    with open_bucket(retry=RetryPolicy(attempts=2, backoff=0.0)) as here:
        here.site.faults += on("", dropped, 100)
        with pytest.raises(DugongError):
            here.bucket.put("key", DATA)


# --- a server that tells the CRC32 ----------------------------------------------------------------


def has_md5(here: S3Place, text: str) -> list[bool]:
    return ["content-md5" in request.headers for request in here.received(text)]


def test_the_md5_is_sent_until_the_server_tells_the_crc32() -> None:
    with open_bucket() as here:
        for _ in range(3):
            here.bucket.put("key", b"content")
        assert has_md5(here, "PUT") == [True, False, False]
        here.bucket.put("key", DATA)
        assert has_md5(here, "PUT .*partNumber") == [False] * 5
        check_stored(here)
    with open_bucket(S3Site(knows_checksums=False)) as here:
        for _ in range(2):
            here.bucket.put("key", b"content")
        assert has_md5(here, "PUT") == [True, True]


def test_what_a_server_stores_that_tells_no_crc32_any_more_is_verified_by_its_md5() -> None:
    with open_bucket() as here:
        here.bucket.put("first", b"content")
        here.site.knows_checksums = False
        here.bucket.put("key", b"content")
        assert has_md5(here, "PUT") == [True, False, True]
        here.bucket.put("key", DATA)
        check_stored(here)


def test_what_is_wrong_is_no_success_without_an_md5() -> None:
    with open_bucket(retry=None) as here:
        here.bucket.put("first", b"content")
        page = Page(headers=f'ETag: "{md5(b"x")}"\r\nx-amz-checksum-crc32: AAAAAA==\r\n')
        here.site.faults += on("PUT /bucket/key", page)
        with pytest.raises(ChecksumError, match="something else"):
            here.bucket.put("key", b"content")
        here.bucket.put("first", b"content")
        here.site.faults += on("PUT /bucket/key", Page(headers=f'ETag: "{md5(b"x")}"\r\n'))
        with pytest.raises(ChecksumError, match="not returned the CRC32"):
            here.bucket.put("key", b"content")


@pytest.mark.parametrize("is_right", [True, False])
def test_a_whole_without_a_crc32_is_verified_by_the_etags_of_its_parts(is_right: bool) -> None:
    def complete(request: ReceivedRequest) -> Page | None:
        here.site.knows_checksums = False
        if is_right:
            return None
        etag = f"<ETag>{md5(b'x')}-5</ETag>"
        return Page(
            f"<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>".encode()
        )

    with open_bucket() as here:
        here.bucket.put("first", b"content")
        here.site.faults += on("POST /bucket/key?uploadId", complete)
        if is_right:
            here.bucket.put("key", DATA)
            check_stored(here)
        else:
            with pytest.raises(ChecksumError, match="something else"):
                here.bucket.put("key", DATA)
        assert has_md5(here, "PUT .*partNumber") == [False] * 5


def test_an_open_upload_is_gone_on_with_though_no_md5_is_sent() -> None:
    with open_bucket() as here:
        here.bucket.put("first", b"content")
        here.site.uploads["u00"] = Upload("key", {}, {1: PARTS[0], 2: PARTS[1]})
        here.bucket.put("key", DATA)
        assert len(here.received("PUT .*partNumber")) == 3
        check_stored(here)
