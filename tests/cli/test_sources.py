"""URLs from arguments, files and pipes: which, and when."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dugong.cli.sources import Urls
from dugong.cli.streams import StreamError

TIMEOUT = 10.0


class Fed:
    """URLs from a named pipe, which tells when more may be there."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.urls = Urls(["first"], [str(path)])
        self._told = threading.Semaphore(0)
        self.urls.notify(self._told.release)
        self.writing = os.open(path, os.O_WRONLY)

    def feed(self, data: bytes) -> None:
        os.write(self.writing, data)

    def next_ones(self, count: int) -> list[str]:
        """Return *count* URLs, waiting until they have come."""
        found: list[str] = []
        while len(found) < count:
            found += self.urls
            if len(found) < count:
                assert self._told.acquire(timeout=TIMEOUT)
        return found

    def ends(self) -> bool:
        while not self.urls.exhausted:
            assert list(self.urls) == []
            if not self.urls.exhausted:
                assert self._told.acquire(timeout=TIMEOUT)
        return True


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Fed]:
    fed = Fed(tmp_path / "pipe")
    try:
        yield fed
    finally:
        fed.urls.close()
        if fed.writing >= 0:
            os.close(fed.writing)


def test_arguments_are_given_in_their_order() -> None:
    urls = Urls(["b", "a"])
    assert (urls.count, list(urls), urls.exhausted) == (2, ["b", "a"], True)


def test_the_lines_of_files_follow_the_arguments(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"c\nd")
    (tmp_path / "2").write_bytes(b"e\r\n")
    urls = Urls(["a", "b"], [str(tmp_path / "1"), str(tmp_path / "2")])
    assert urls.count is None
    assert list(urls) == ["a", "b", "c", "d", "e"]
    urls.close()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_file_in_another_encoding_is_an_error_that_says_so(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "urls").write_bytes("\ufeffhttp://h/a\r\nhttp://h/b".encode(encoding))
    urls = Urls([], [str(tmp_path / "urls")])
    with pytest.raises(StreamError, match=r"urls is in UTF-16: it has to be in UTF-8"):
        next(urls)
    urls.close()


def test_a_pipe_in_another_encoding_is_an_error_that_says_so(fed: Fed) -> None:
    fed.feed("\ufefffirst\r\nsecond\r\n".encode("utf-16-le"))
    with pytest.raises(StreamError, match=r"pipe is in UTF-16"):
        fed.next_ones(2)


def test_blank_lines_comments_and_a_byte_order_mark_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "urls").write_bytes(b"\xef\xbb\xbf# a comment\n\n  a \n\t#b\nc#d\n \n")
    urls = Urls([], [str(tmp_path / "urls")])
    assert list(urls) == ["a", "c#d"]
    urls.close()


def test_a_url_behind_a_byte_order_mark_is_one(tmp_path: Path) -> None:
    (tmp_path / "urls").write_bytes(b"\xef\xbb\xbfhttp://h/")
    urls = Urls([], [str(tmp_path / "urls")])
    assert list(urls) == ["http://h/"]
    urls.close()


def test_an_empty_file_has_no_urls(tmp_path: Path) -> None:
    (tmp_path / "urls").touch()
    urls = Urls([], [str(tmp_path / "urls")])
    assert list(urls) == []
    assert urls.exhausted
    urls.close()


def test_a_file_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(StreamError, match=r"cannot read /nonexistent: No such file"):
        Urls(["a"], ["/nonexistent"])


def test_a_directory_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="Is a directory"):
        Urls([], [str(tmp_path)])


def test_what_comes_through_a_pipe_is_given_before_its_end(fed: Fed) -> None:
    fed.feed(b"\xef\xbb\xbfa\n#no\nb\nc")
    assert fed.next_ones(3) == ["first", "a", "b"]
    assert not fed.urls.exhausted
    fed.feed(b"d\n")
    assert fed.next_ones(1) == ["cd"]
    fed.feed(b"last")
    os.close(fed.writing)
    fed.writing = -1
    assert fed.next_ones(1) == ["last"]
    assert fed.ends()


def test_a_pipe_that_is_read_slowly_is_not_read_far_ahead(fed: Fed) -> None:
    os.set_blocking(fed.writing, False)
    assert fed.next_ones(1) == ["first"]
    written = 0
    # Until the pipe stays full though it is read.
    while select.select([], [fed.writing], [], 0.2)[1]:
        written += os.write(fed.writing, (b"u" * 1023 + b"\n") * 4)
        assert written < 2 * 1024 * 1024


def test_closing_ends_the_thread_that_waits_for_a_pipe(fed: Fed) -> None:
    assert list(fed.urls) == ["first"]
    fed.urls.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "dugong-input"]
