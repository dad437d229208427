"""Files that several bodies read, each at its own offset."""

from __future__ import annotations

import io
import os
import threading
from typing import Any

import pytest

from dugong.pool.oneshot import rememberable
from dugong.pool.sharedfile import share
from tests.support.fork import holds_in_child
from tests.support.pool import wait_for

DATA = bytes(range(100))


class Sought(io.BytesIO):
    """Notes where it was sought."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.sought: list[tuple[int, int]] = []

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self.sought.append((offset, whence))
        return super().seek(offset, whence)


def test_all_that_read_a_file_share_it_and_no_other() -> None:
    file = io.BytesIO(DATA)
    assert share(file) is share(file)
    assert share(io.BytesIO(DATA)) is not share(file)


def test_what_stands_for_a_file_in_different_requests_shares_it() -> None:
    class NoWeakReference:
        __slots__ = ()

        def read(self, size: int, /) -> bytes:
            raise AssertionError("read")

    file = NoWeakReference()
    assert rememberable(file) is not rememberable(file)
    assert share(rememberable(file)) is share(rememberable(file)) is share(file)


def test_one_at_a_time_reads_alone() -> None:
    shared = share(io.BytesIO(DATA))
    assert shared.begin_alone()
    assert not shared.begin_alone()
    shared.end_alone()
    assert shared.begin_alone()


def test_the_extent_is_where_a_file_stands_and_its_size() -> None:
    file = io.BytesIO(DATA)
    file.seek(7)
    assert share(file).extent() == (7, 100)
    assert file.tell() == 7


def test_the_extent_may_be_asked_for_in_the_midst_of_itself() -> None:
    """So it is if a signal handler sends the file while its thread is about to."""

    class Interrupted(io.BytesIO):
        asked: tuple[int, int] | None = None

        def seek(self, offset: int, whence: int = 0, /) -> int:
            position = super().seek(offset, whence)
            if whence == os.SEEK_END and self.asked is None:
                self.asked = (0, 0)
                self.asked = share(self).extent()
            return position

    file = Interrupted(DATA)
    file.seek(7)
    shared = share(file)
    assert shared.extent() == (7, 100)
    assert file.asked == (7, 100)
    assert file.tell() == 7


def test_a_read_leaves_the_file_where_it_stands() -> None:
    file = io.BytesIO(DATA)
    file.seek(7)
    assert share(file).read(50, 3) == DATA[50:53]
    assert file.tell() == 7


def test_several_that_read_on_each_get_what_is_at_their_offset() -> None:
    shared = share(io.BytesIO(DATA))
    for start in (0, 50):
        shared.begin_reading_on(start)
    got = [shared.read_on(start + n, 5) for n in range(0, 50, 5) for start in (0, 50)]
    assert b"".join(got[::2] + got[1::2]) == DATA
    assert shared.read(3, 4) == DATA[3:7]
    assert shared.read_on(50, 5) == DATA[50:55]


def test_one_that_reads_on_alone_seeks_only_at_its_beginning_and_its_end() -> None:
    """To seek back in a compressed file takes as long as to read all before."""
    file = Sought(DATA)
    shared = share(file)
    shared.begin_reading_on(10)
    assert b"".join(shared.read_on(offset, 10) for offset in range(10, 100, 10)) == DATA[10:]
    shared.end_reading_on()
    assert file.sought == [(10, 0), (10, 0)]


def test_while_some_read_on_a_file_stands_where_it_will_stand_without_them() -> None:
    file = io.BytesIO(DATA)
    shared = share(file)
    for _ in range(2):
        shared.begin_reading_on(7)
    shared.read_on(40, 5)
    assert shared.extent() == (7, 100)
    shared.end_reading_on()
    assert shared.extent() == (7, 100)
    shared.read_on(60, 5)
    shared.end_reading_on()
    assert file.tell() == 7


def test_what_could_not_begin_does_not_count() -> None:
    class Stuck(io.BytesIO):
        stuck = True

        def seek(self, offset: int, whence: int = 0, /) -> int:
            if self.stuck:
                raise OSError("stuck")
            return super().seek(offset, whence)

    file = Stuck(DATA)
    shared = share(file)
    with pytest.raises(OSError, match="stuck"):
        shared.begin_reading_on(5)
    file.stuck = False
    file.seek(9)
    assert shared.extent() == (9, 100)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_without_what_reads_in_its_parent() -> None:
    file = io.BytesIO(DATA)
    shared: Any = share(file)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with shared.lock:
            held.set()
            wait_for(done)

    shared.begin_reading_on(5)
    thread = threading.Thread(target=hold)
    thread.start()
    wait_for(held)
    try:
        assert holds_in_child(lambda: file.seek(9) == 9 and shared.extent() == (9, 100))
    finally:
        done.set()
        thread.join()
