"""Sync: what differs is stored, and nothing else."""

from __future__ import annotations

import os
import pickle
import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from dugong.s3 import S3Error, SyncError
from tests.support.client import Page
from tests.support.s3 import S3Site, Stored, Upload, error, md5, open_bucket
from tests.support.server import ReceivedRequest

LARGE = random.Random(7).randbytes(4500)  # five parts of 1000 bytes
FILES = {
    "a b": b"a",
    "deep/er/ä": b"b" * 999,
    "empty": b"",
    "large": LARGE,
    "deep/full": bytes(1000),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with some files."""
    for name, content in FILES.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "root"


def bodies(site: S3Site) -> dict[str, bytes]:
    return {key: each.body for key, each in site.objects.items()}


@pytest.mark.parametrize("prefix", ["", "pre", "pre/"])
def test_a_directory_is_stored_once(prefix: str, root: Path) -> None:
    start = "pre/" if prefix else ""
    with open_bucket(S3Site(page_size=2)) as here:
        result = here.bucket.sync(root, prefix)
        assert bodies(here.site) == {start + name: content for name, content in FILES.items()}
        assert sorted(result.stored) == sorted(here.site.objects)
        assert result.unchanged == 0
        sent = len(here.received("PUT|POST"))
        assert here.bucket.sync(root, prefix) == ([], 5, [])
        assert len(here.received("PUT|POST")) == sent
        assert here.site.refused == []


def test_what_differs_is_stored_again(root: Path) -> None:
    with open_bucket() as here:
        here.bucket.sync(root)
        (root / "a b").write_bytes(b"A")  # of the same size
        (root / "empty").write_bytes(b"no more")
        changed = bytearray(LARGE)
        changed[2500] ^= 1
        (root / "large").write_bytes(changed)
        (root / "new").write_bytes(b"new")
        result = here.bucket.sync(root)
        assert sorted(result.stored) == ["a b", "empty", "large", "new"]
        assert result.unchanged == 2
        assert bodies(here.site)["large"] == changed


def test_what_is_there_with_another_kind_of_etag_is_known_by_its_md5(root: Path) -> None:
    with open_bucket() as here:
        here.site.objects["large"] = Stored(LARGE, md5(LARGE), {})
        here.site.objects["empty"] = Stored(b"", "no hash", {})
        result = here.bucket.sync(root)
        assert "large" not in result.stored
        assert "empty" in result.stored


def test_what_is_not_in_the_directory_stays(root: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("pre/old", b"old")
        here.bucket.put("prefix", b"other")
        here.bucket.sync(root, "pre")
        assert bodies(here.site)["pre/old"] == b"old"
        assert bodies(here.site)["prefix"] == b"other"


def test_the_partial_files_of_downloads_are_left_out(root: Path) -> None:
    with open_bucket() as here:
        here.bucket.put("new", LARGE)
        with pytest.raises(ZeroDivisionError):
            here.bucket.download("new", root / "deep" / "new", progress=lambda done, size: 1 / 0)
        (root / "own.part").write_bytes(b"mine")
        result = here.bucket.sync(root, "pre")
        assert sorted(result.stored) == sorted(f"pre/{name}" for name in (*FILES, "own.part"))
        assert [path.removeprefix(f"{root}/deep/.new.")[16:] for path in result.left_out] == [
            ".part",
            ".part.state",
        ]
        (root / "gone").symlink_to(root / "nowhere")
        with pytest.raises(SyncError) as caught:
            here.bucket.sync(root, "pre")
        assert caught.value.left_out == result.left_out


def test_a_file_that_fails_does_not_stop_the_others(root: Path) -> None:
    (root / "gone").symlink_to(root / "nowhere")
    (root / "link").symlink_to(root / "a b")
    os.mkfifo(root / "pipe")

    with open_bucket() as here:
        for key in ("deep/full", "large"):
            here.site.faults.append(
                lambda request, key=key: (
                    error("403 Forbidden", "AccessDenied")
                    if request.method != "GET" and request.target.startswith(f"/bucket/{key}")
                    else None
                )
            )
        with pytest.raises(SyncError, match="3 files could not be stored") as caught:
            here.bucket.sync(root)
        exc = caught.value
        assert sorted(exc.stored) == ["a b", "deep/er/ä", "empty", "link"]
        assert exc.failures.keys() == {str(root / name) for name in ("gone", "deep/full", "large")}
        assert isinstance(exc.failures[str(root / "gone")], FileNotFoundError)
        assert isinstance(exc.failures[str(root / "large")], S3Error)
        assert pickle.loads(pickle.dumps(exc)).stored == exc.stored
        assert here.site.uploads == {}


def test_a_name_that_is_no_text_fails(root: Path) -> None:
    with open(os.path.join(os.fsencode(root), b"\xff"), "wb") as file:
        file.write(b"content")
    with open_bucket() as here, pytest.raises(SyncError) as caught:
        here.bucket.sync(root)
    (exc,) = caught.value.failures.values()
    assert isinstance(exc, ValueError)


def test_a_small_file_is_stored_as_it_was_when_it_was_read(root: Path) -> None:
    with open_bucket() as here:

        def change(request: ReceivedRequest) -> Page | None:
            if "full" not in request.target:
                return None
            (root / "deep/full").write_bytes(b"c" * 999)
            return error("503 Slow Down", "SlowDown")

        here.site.faults.append(change)
        assert "deep/full" in here.bucket.sync(root).stored
        assert bodies(here.site)["deep/full"] == FILES["deep/full"]
        assert here.bucket.sync(root).stored == ["deep/full"]


def test_a_file_that_has_shrunk_since_it_was_hashed_is_stored_as_it_is_now(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.s3.sync.SMALL", -1)
    with open_bucket() as here:

        def shrink(request: ReceivedRequest) -> Page | None:
            """Have the file opened once more, when it has another size than was announced."""
            if "full" not in request.target:
                return None
            (root / "deep/full").write_bytes(b"c" * 999)
            return error("503 Slow Down", "SlowDown")

        here.site.faults.append(shrink)
        assert "deep/full" in here.bucket.sync(root).stored
        assert bodies(here.site)["deep/full"] == b"c" * 999


@pytest.mark.parametrize("small", [-1, 2000])
def test_a_file_that_has_changed_since_it_was_hashed_is_stored_as_it_is_now(
    small: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dugong.s3.sync.SMALL", small)
    with open_bucket(max_connections_per_host=1) as here:

        def change(request: ReceivedRequest) -> Page | None:
            """Change the file between its first reading and the second, which this refuses."""
            if "full" not in request.target:
                return None
            (root / "deep/full").write_bytes(b"c" * 1000)
            return error("400 Bad Request", "BadDigest")

        here.site.faults.append(change)
        assert "deep/full" in here.bucket.sync(root).stored
        assert bodies(here.site)["deep/full"] == b"c" * 1000


def test_a_sync_goes_on_with_what_was_left_open(root: Path) -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("large", {}, {1: LARGE[:1000], 2: LARGE[1000:2000]})
    with open_bucket(site) as here:
        here.bucket.sync(root)
        assert len(here.received("PUT .*partNumber")) == 3
        assert site.uploads == {}


def test_a_sync_aborts_what_was_left_open_of_files_that_are_there_without_it(root: Path) -> None:
    """A process was killed while a file was large, which is small now, or is as it was before."""
    site = S3Site(page_size=1)
    with open_bucket(site) as here:
        here.bucket.sync(root)
        (root / "a b").write_bytes(b"changed")
        keys = ["a b", "large", "large", "empty", "not/there"]
        site.uploads |= {f"u0{n}": Upload(key, {}, {1: b"x"}) for n, key in enumerate(keys)}
        assert here.bucket.sync(root).stored == ["a b"]
        assert [each.key for each in here.bucket.uploads()] == ["not/there"]
        assert bodies(site)["large"] == LARGE


@pytest.mark.parametrize("name", ["a+b", "a%20b", "a&b", "ä"])
def test_what_was_left_open_is_aborted_by_its_name(name: str, root: Path) -> None:
    (root / name).write_bytes(b"it is there")
    site = S3Site()
    with open_bucket(site) as here:
        here.bucket.sync(root)
        site.uploads["u00"] = Upload(name, {}, {1: b"x"})
        here.bucket.sync(root)
        assert site.uploads == {}


def test_a_list_of_uploads_that_cannot_be_read_keeps_nothing_from_being_stored(root: Path) -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("\x01", {}, {1: b"x"})  # which XML cannot have
    with open_bucket(site) as here:
        assert len(here.bucket.sync(root).stored) == len(FILES)


def test_an_upload_of_a_file_that_could_not_be_stored_is_left_open(root: Path) -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("a b", {}, {1: b"x"})
    with open_bucket(site) as here:
        site.faults.append(
            lambda request: (
                error("403 Forbidden", "AccessDenied") if "/a%20b" in request.target else None
            )
        )
        with pytest.raises(SyncError):
            here.bucket.sync(root)
        assert [each.key for each in here.bucket.uploads()] == ["a b"]


@pytest.mark.parametrize("line", ["?uploads", "DELETE"])
def test_without_the_right_to_abort_what_is_open_all_is_stored(line: str, root: Path) -> None:
    site = S3Site()
    site.uploads["u00"] = Upload("a b", {}, {1: b"x"})
    with open_bucket(site) as here:
        site.faults.append(
            lambda request: (
                error("403 Forbidden", "AccessDenied")
                if line in f"{request.method} {request.target}"
                else None
            )
        )
        assert len(here.bucket.sync(root).stored) == len(FILES)
        assert site.uploads.keys() == {"u00"}


def test_a_directory_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    with open_bucket() as here, pytest.raises(FileNotFoundError):
        here.bucket.sync(tmp_path / "nowhere")


def test_large_files_are_stored_at_the_same_time(tmp_path: Path) -> None:
    content = random.Random(7).randbytes(140_000)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(content)
    together = threading.Barrier(2, timeout=10)
    with open_bucket(max_connections_per_host=4, part_size=70_000) as here:
        serve = here.place._serve

        def wait(request: ReceivedRequest) -> Page:
            if "partNumber=1" in request.target:
                together.wait()
            return serve(request)

        here.place._serve = wait
        assert sorted(here.bucket.sync(tmp_path).stored) == ["a", "b"]
        assert bodies(here.site) == {"a": content, "b": content}
        assert here.site.uploads == {}


def test_when_one_large_file_ends_a_sync_the_others_are_not_stored_to_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(LARGE)
    made: list[threading.Event] = []
    ends: list[type[BaseException]] = []
    b_began = threading.Event()

    def event() -> threading.Event:
        made.append(threading.Event())
        return made[-1]

    def store(_: Any, key: str, *args: Any) -> None:
        tell: Callable[[int, int], object] = args[-1]
        if key == "a":
            assert b_began.wait(10)
            raise RuntimeError("a bug")
        tell(1, 2)
        b_began.set()
        assert made[0].wait(10)
        try:
            tell(2, 2)
        except CancelledError as exc:
            ends.append(type(exc))
            raise

    monkeypatch.setattr("dugong.s3.sync.Event", event)
    monkeypatch.setattr("dugong.s3.sync.store", store)
    with open_bucket() as here, pytest.raises(RuntimeError, match="a bug"):
        here.bucket.sync(tmp_path)
    assert ends == [CancelledError]
