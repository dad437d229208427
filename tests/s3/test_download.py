"""Downloads: in ranges, verified, and never torn."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dugong import ResponseTooLarge
from dugong.errors import InvalidResponse
from dugong.s3 import ChecksumError, S3Error
from tests.support.client import Page
from tests.support.s3 import S3Place, S3Site, Stored, dropped, md5, open_bucket
from tests.support.server import ReceivedRequest

DATA = random.Random(7).randbytes(4500)  # five ranges of 1000 bytes


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 4500])
def test_a_file_has_the_content_of_the_object(size: int, tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA[:size])
        told: list[tuple[int, int]] = []
        found = here.bucket.download(
            "key", tmp_path / "file", progress=lambda done, total: told.append((done, total))
        )
        assert (tmp_path / "file").read_bytes() == DATA[:size]
        assert found.size == size
        assert len(here.received("GET /bucket/key")) == -(-size // 1000)
        assert told[-1:] == ([(size, size)] if size else [])
        assert os.listdir(tmp_path) == ["file"]


def test_ranges_are_of_one_version_of_the_object(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"as before")
    with open_bucket() as here:
        here.bucket.put("key", DATA)

        def replaced(request: ReceivedRequest) -> None:
            if "bytes=2000-" in request.headers.get("range", ""):
                here.site.objects["key"] = Stored(bytes(4500), md5(bytes(4500)), {})

        here.site.faults.append(replaced)
        with pytest.raises(S3Error, match="PreconditionFailed"):
            here.bucket.download("key", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"as before"
        assert os.listdir(tmp_path) == ["file"]


def test_without_an_entity_tag_there_is_one_range(tmp_path: Path) -> None:
    """Nothing would tell those of two versions apart."""
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        page = Page(DATA, headers='ETag: W/"weak"\r\n')
        here.site.faults.append(lambda request: page if request.method == "HEAD" else None)
        here.site.faults.append(lambda request: page if request.method == "GET" else None)
        here.bucket.download("key", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == DATA
        (request,) = here.received("GET /bucket/key")
        assert request.headers["range"] == "bytes=0-4499"
        assert "if-match" not in request.headers


def test_a_range_that_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        here.site.faults.append(
            lambda request: dropped(request) if "range" in request.headers else None
        )
        here.bucket.download("key", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == DATA
        assert len(here.received("GET /bucket/key")) == 6


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("Content-Range: bytes 0-999/9999\r\n", 1000),
        ("Content-Range: bytes 1000-1999/4500\r\n", 1000),
        ("Content-Range: bytes 0-998/4500\r\n", 999),
        ("", 1000),
        ('Content-Range: bytes 0-999/4500\r\nETag: "other"\r\n', 1000),
    ],
)
def test_another_range_is_no_part_of_the_file(fields: str, size: int, tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        page = Page(bytes(size), "206 Partial Content", fields)
        here.site.faults.append(
            lambda request: page if "bytes=0-" in request.headers.get("range", "") else None
        )
        with pytest.raises(InvalidResponse, match="another range"):
            here.bucket.download("key", tmp_path / "file")
        assert not (tmp_path / "file").exists()
        here.bucket.download("key", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("status", ["200 OK", "206 Partial Content"])
def test_a_range_may_come_with_any_success(status: str, tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        page = Page(DATA[:1000], status, "Content-Range: bytes 0-999/4500\r\n")
        here.site.faults.append(
            lambda request: page if "bytes=0-" in request.headers.get("range", "") else None
        )
        here.bucket.download("key", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == DATA


def test_what_comes_damaged_is_no_file(tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        page = Page(bytes(1000), "206 Partial Content", "Content-Range: bytes 0-999/4500\r\n")
        here.site.faults.append(
            lambda request: page if "bytes=0-" in request.headers.get("range", "") else None
        )
        with pytest.raises(ChecksumError):
            here.bucket.download("key", tmp_path / "file")
        assert os.listdir(tmp_path) == []


def test_an_object_that_is_not_there_makes_no_file(tmp_path: Path) -> None:
    with open_bucket() as here, pytest.raises(S3Error, match="404 NotFound"):
        here.bucket.download("key", tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        with pytest.raises(FileNotFoundError):
            here.bucket.download("key", tmp_path / "nowhere" / "file")
        with pytest.raises(OSError, match="directory"):
            here.bucket.download("key", tmp_path)
        assert os.listdir(tmp_path) == []


def test_a_path_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        here.bucket.download("key", "file")
    assert Path("file").read_bytes() == DATA


def test_what_is_too_large_for_memory_can_be_downloaded(tmp_path: Path) -> None:
    with open_bucket(S3Site(), max_body_size=2000) as here:
        here.bucket.put("key", DATA)
        with pytest.raises(ResponseTooLarge):
            here.bucket.get("key")
        here.bucket.download("key", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == DATA


def part_beside(path: Path) -> Path:
    """Return the file that a download to *path* has, which is under way."""
    (part,) = (each for each in path.parent.iterdir() if each.name.endswith(".part"))
    return part


def test_what_a_download_has_left_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    parts: list[Path] = []
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        here.bucket.download("key", path, progress=lambda *_: parts.append(part_beside(path)))
        parts[0].write_bytes(bytes(9999))
        here.bucket.download("key", path)
    assert path.read_bytes() == DATA
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "🐘" * 63])
def test_a_name_may_be_as_long_as_the_system_allows(name: str, tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        here.bucket.download("key", tmp_path / name)
    assert (tmp_path / name).read_bytes() == DATA


def test_one_download_at_a_time_writes_to_a_file(tmp_path: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("key", DATA)

        def another(*_: int) -> None:
            with pytest.raises(BlockingIOError, match="another download"):
                here.bucket.download("key", tmp_path / "file")

        here.bucket.download("key", tmp_path / "file", progress=another)
    assert (tmp_path / "file").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["file"]


def test_another_file_that_has_the_name_of_the_part_is_not_taken_for_it(tmp_path: Path) -> None:
    """So it is if a part that was left has been backed up, and is restored at the same time."""
    path, other = tmp_path / "file", tmp_path / "other"
    with open_bucket() as here:
        here.bucket.put("key", DATA)

        def replace(done: int, total: int) -> None:
            if done == total:
                other.write_bytes(b"another file")
                other.replace(part_beside(path))

        with pytest.raises(OSError, match="another file has taken its place"):
            here.bucket.download("key", path, progress=replace)
        assert not path.exists()
        assert part_beside(path).read_bytes() == b"another file"


# --- what goes on in a later run ------------------------------------------------------------------


class Stopped(Exception):
    """A run ends when it has *done* bytes."""

    def __init__(self, done: int) -> None:
        super().__init__(done)
        self.done = done


def stop_at(size: int) -> Callable[[int, int], None]:
    """Return a *progress* that ends a download when it has *size* bytes."""

    def told(done: int, total: int) -> None:
        if done >= size:
            raise Stopped(done)

    return told


def begin(here: S3Place, path: Path) -> int:
    """Download to *path*, and stop with about 3000 bytes; return how many are missing."""
    with pytest.raises(Stopped) as caught:
        here.bucket.download("key", path, progress=stop_at(3000))
    assert not path.exists()
    return len(DATA) - caught.value.done


def asked_by(requests: list[ReceivedRequest]) -> int:
    """Return how many bytes *requests* have asked for."""
    size = 0
    for request in requests:
        first, last = request.headers["range"].removeprefix("bytes=").split("-")
        size += int(last) + 1 - int(first)
    return size


def requests_of(here: S3Place, path: Path, key: str = "key") -> list[ReceivedRequest]:
    """Download to *path*; return the GETs of that."""
    before = len(here.received(f"GET /bucket/{key}"))
    here.bucket.download(key, path)
    assert os.listdir(path.parent) == ["file"]
    return here.received(f"GET /bucket/{key}")[before:]


@pytest.mark.parametrize("knows_checksums", [True, False])
@pytest.mark.parametrize("part_size", [1000, 5000])
def test_a_download_goes_on_where_it_has_stopped(
    tmp_path: Path, part_size: int, knows_checksums: bool
) -> None:
    path = tmp_path / "file"
    with open_bucket(S3Site(knows_checksums)) as here:
        if part_size > 1000:
            here.site.objects["key"] = Stored(DATA, md5(DATA), {})
        else:
            here.bucket.put("key", DATA)
        etag = here.bucket.head("key").etag
        assert ("-5" in etag) == (part_size == 1000)
        missing = begin(here, path)
        requests = requests_of(here, path)
        assert path.read_bytes() == DATA
        assert asked_by(requests) == missing
        assert {each.headers["if-match"] for each in requests} == {etag}


def test_progress_is_told_of_what_there_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    told: list[tuple[int, int]] = []
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        missing = begin(here, path)
        here.bucket.download("key", path, progress=lambda *each: told.append(each))
    assert 4500 - missing < told[0][0] <= told[-1][0] == 4500
    assert {total for _, total in told} == {4500}


def test_a_whole_part_is_verified_and_gets_its_name_without_a_request_for_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        with pytest.raises(Stopped):
            here.bucket.download("key", path, progress=stop_at(4500))
        assert requests_of(here, path) == []
    assert path.read_bytes() == DATA


def test_a_download_of_another_version_begins_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "file", random.Random(8).randbytes(4500)
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        begin(here, path)
        here.bucket.put("key", other)
        assert asked_by(requests_of(here, path)) == 4500
    assert path.read_bytes() == other


def test_a_download_of_another_object_begins_anew(tmp_path: Path) -> None:
    """It has the same ETag, but no server promises that this says something of two objects."""
    path = tmp_path / "file"
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        here.bucket.put("other", DATA)
        begin(here, path)
        assert asked_by(requests_of(here, path, "other")) == 4500


def test_without_a_strong_entity_tag_a_download_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "file"
    page = Page(DATA, headers='ETag: W/"weak"\r\n')
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        here.site.faults.append(lambda request: page if request.method == "HEAD" else None)
        here.site.faults.append(lambda request: page if request.method == "GET" else None)
        with pytest.raises(Stopped):
            here.bucket.download("key", path, progress=stop_at(1))
        assert os.listdir(tmp_path) == []


def test_what_was_damaged_between_two_runs_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open_bucket() as here:
        here.bucket.put("key", DATA)
        begin(here, path)
        with part_beside(path).open("r+b") as file:
            file.write(bytes(3000))
        with pytest.raises(ChecksumError):
            here.bucket.download("key", path)
        assert os.listdir(tmp_path) == []
        here.bucket.download("key", path)
    assert path.read_bytes() == DATA


def test_objects_that_are_called_like_the_parts_of_others_come_at_the_same_time(
    tmp_path: Path,
) -> None:
    names = ["file", "file.part", "file.part.state"]

    def download_next(name: str) -> None:
        later = names[names.index(name) + 1 :]

        def told(done: int, total: int) -> None:
            if done == total and later:
                download_next(later[0])

        here.bucket.download(name, tmp_path / name, progress=told)

    with open_bucket() as here:
        for name in names:
            here.bucket.put(name, name.encode() * 500)
        download_next("file")
    assert sorted(os.listdir(tmp_path)) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == name.encode() * 500
