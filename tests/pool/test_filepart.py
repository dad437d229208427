"""Parts of files as bodies: which bytes they are, several at a time, again, and what is refused."""

from __future__ import annotations

import copy
import gzip
import io
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dugong import FilePart, Request, RetryPolicy
from dugong.pool.body import RequestBody, request_body
from tests.support.pool import OpenSite, each, open_site, url
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, Script

PIECE = 256 * 1024  # bytes; the largest piece there is
DATA = Random(12).randbytes(3 * PIECE + 1000)


def made_of(body: Any, content_length: int | None = None) -> RequestBody:
    made = request_body(body, content_length)
    assert made is not None
    return made


def send(body: RequestBody) -> bytes:
    """Do as the sender does: use each piece before the next is asked for."""
    body.rewind()
    try:
        return b"".join(map(bytes, body.pieces()))
    finally:
        body.end_sending()


class Seeks:
    """A file by the methods that are needed only, which no weak reference can be made to."""

    __slots__ = ("_file",)

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds DATA."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture(
    params=["unbuffered", "buffered", "update", "temporary", "BytesIO", "gzip", "seeks"]
)
def file(request: pytest.FixtureRequest, path: Path) -> Iterator[Any]:
    """Each kind of file that there may be parts of, with DATA in it."""
    match request.param:
        case "unbuffered":
            file: Any = open(path, "rb", buffering=0)  # noqa: SIM115
        case "buffered":
            file = open(path, "rb")  # noqa: SIM115
        case "update":
            file = open(path, "r+b")  # noqa: SIM115
        case "temporary":
            file = tempfile.NamedTemporaryFile()  # noqa: SIM115
            file.write(DATA)
        case "BytesIO":
            file = io.BytesIO(DATA)
        case "gzip":
            path.write_bytes(gzip.compress(DATA, 1))
            file = gzip.open(path)  # noqa: SIM115
        case _:
            yield Seeks(DATA)
            return
    with file:
        yield file


# --- which bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (1, None),
        (0, 10),
        (PIECE - 1, PIECE + 2),
        (len(DATA), None),
        (7, 0),
        (5, len(DATA) - 5),
    ],
)
def test_a_part_is_the_bytes_it_names(file: Any, offset: int, length: int | None) -> None:
    body = made_of(FilePart(file, offset, length))
    expected = DATA[offset:][:length]
    assert body.length == len(expected)
    assert body.rewindable
    assert send(body) == send(body) == expected


def test_the_position_of_the_file_does_not_matter_and_stays(file: Any) -> None:
    file.seek(100)
    body = made_of(FilePart(file, 10, 20))
    file.seek(200)
    pieces = body.pieces()
    assert bytes(next(pieces)) == DATA[10:30]
    assert file.tell() == 200
    assert list(pieces) == []
    assert file.tell() == 200


def test_without_arguments_it_is_all_of_the_file(file: Any) -> None:
    file.seek(0, os.SEEK_END)
    assert send(made_of(FilePart(file))) == DATA


def test_a_part_ends_where_the_file_does_when_the_request_is_made(path: Path) -> None:
    with path.open("r+b") as file:
        part = FilePart(file, 10)
        file.seek(0, os.SEEK_END)
        file.write(b"more")  # which the buffer of the file has until the request is made
        body = made_of(part)
        file.write(b"and more")
        file.flush()
        assert send(body) == DATA[10:] + b"more"


def test_the_attributes_are_the_parameters() -> None:
    file = io.BytesIO(DATA)
    part = FilePart(file, 3, 4)
    assert (part.file, part.offset, part.length) == (file, 3, 4)
    assert FilePart(file).length is None


def test_a_part_of_a_file_on_disk_is_sent_by_its_descriptor(path: Path) -> None:
    with path.open("rb") as file:
        assert made_of(FilePart(file, 5, 6)).file_range == (file.fileno(), 5, 6)
        assert made_of(FilePart(file, 5, 0)).file_range is None


def test_a_callable_may_return_a_part(path: Path) -> None:
    with path.open("rb") as file:
        body = made_of(lambda: FilePart(file, 5, 6), 6)
        assert send(body) == DATA[5:11]


def test_the_content_length_must_be_that_of_the_part() -> None:
    part = FilePart(io.BytesIO(DATA), 5, 6)
    assert made_of(part, 6).length == 6
    with pytest.raises(ValueError, match="Content-Length 7 contradicts a body of 6 bytes"):
        request_body(part, 7)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
def test_a_negative_number_is_refused(offset: int, length: int | None) -> None:
    with pytest.raises(ValueError, match=r"(offset|length) must be at least 0, not -1"):
        FilePart(io.BytesIO(DATA), offset, length)


@pytest.mark.parametrize("number", [1.0, "1", True])
def test_an_offset_or_a_length_that_is_no_int_is_a_type_error(number: Any) -> None:
    with pytest.raises(TypeError, match="offset must be an int"):
        FilePart(io.BytesIO(DATA), number)
    with pytest.raises(TypeError, match="length must be an int"):
        FilePart(io.BytesIO(DATA), 0, number)


@pytest.mark.parametrize(
    ("offset", "length"), [(len(DATA) + 1, None), (len(DATA), 1), (0, len(DATA) + 1)]
)
def test_a_part_beyond_the_end_of_the_file_is_refused(
    file: Any, offset: int, length: int | None
) -> None:
    with pytest.raises(ValueError, match=f"beyond the end of the file, which has {len(DATA)} byte"):
        FilePart(file, offset, length)


@pytest.mark.parametrize("file", ["name", Path("name"), b"data", None, iter([b"data"])])
def test_what_is_no_file_is_a_type_error(file: Any) -> None:
    with pytest.raises(TypeError, match="needs an open binary file that can seek"):
        FilePart(file)


def test_a_file_in_text_mode_is_a_type_error(path: Path) -> None:
    with path.open() as file, pytest.raises(TypeError, match="text mode"):
        FilePart(file)  # type: ignore[arg-type]  # that is the mistake


def test_a_file_that_cannot_be_read_or_sought_is_refused(path: Path) -> None:
    with path.open("ab") as file, pytest.raises(ValueError, match="not open for reading"):
        FilePart(file)
    reads, writes = os.pipe()
    with (
        open(writes, "wb"),
        open(reads, "rb") as pipe,
        pytest.raises(ValueError, match="needs a file that can seek"),
    ):
        FilePart(pipe)
    with pytest.raises(ValueError, match="closed"):
        FilePart(pipe)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_a_file_of_unknown_size_is_refused() -> None:
    with open("/proc/self/status", "rb") as file, pytest.raises(ValueError, match="size is known"):
        FilePart(file)


def test_a_file_that_shrinks_before_the_request_is_refused(path: Path) -> None:
    with path.open("rb") as file:
        part = FilePart(file, 10, 20)
        os.truncate(path, 29)
        with pytest.raises(ValueError, match="beyond the end of the file, which has 29 bytes"):
            request_body(part)


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_file_that_shrinks_meanwhile_is_not_a_whole_body(path: Path, buffering: int) -> None:
    with path.open("rb", buffering=buffering) as file:
        body = made_of(FilePart(file, 10, 20))
        os.truncate(path, 25)
        with pytest.raises(ValueError, match="ended 5 bytes short"):
            send(body)


def test_a_file_in_memory_that_shrinks_is_not_a_whole_body() -> None:
    file = io.BytesIO(DATA)
    body = made_of(FilePart(file, 10, 20))
    file.truncate(25)
    with pytest.raises(ValueError, match="ended 5 bytes short"):
        send(body)


# --- copies, threads and forks ----------------------------------------------------------------


def test_a_part_can_be_copied_and_pickled_if_its_file_can(path: Path) -> None:
    part = FilePart(io.BytesIO(DATA), 5, 6)
    for again in (copy.copy(part), copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert send(made_of(again)) == DATA[5:11]
    assert copy.copy(part).file is part.file
    with path.open("rb") as file:
        assert copy.copy(FilePart(file)).file is file
        with pytest.raises(TypeError):
            pickle.dumps(FilePart(file))


class Recorded(Seeks):
    """A file that knows which threads have used it, in their order."""

    __slots__ = ("users",)

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.users: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.users.append(threading.get_ident())
        return super().read(size)

    def tell(self) -> int:
        self.users.append(threading.get_ident())
        return super().tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self.users.append(threading.get_ident())
        return super().seek(offset, whence)


def read_at_once(file: Any, size: int) -> list[bytes]:
    """Return what eight threads read of as many parts of *size* bytes, after the first byte."""
    bodies = [made_of(FilePart(file, 1 + n * size, size)) for n in range(8)]
    begin = threading.Barrier(8)

    def read(body: RequestBody) -> bytes:
        begin.wait(TIMEOUT)
        return send(body)

    with ThreadPoolExecutor(8) as executor:
        return list(executor.map(read, bodies))


def test_parts_of_one_file_are_read_by_several_threads_at_once(file: Any) -> None:
    size = len(DATA) // 9
    assert b"".join(read_at_once(file, size)) == DATA[1:][: 8 * size]


def test_a_file_without_a_descriptor_is_read_by_one_thread_at_a_time() -> None:
    file = Recorded(DATA)
    read_at_once(file, 1000)
    uses = [file.users[n : n + 4] for n in range(0, len(file.users), 4)]  # tell, seek, read, seek
    assert all(len(set(users)) == 1 for users in uses)


class Waits(Seeks):
    """A file of which one read waits, and says so."""

    __slots__ = ("goes_on", "is_reading")

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.is_reading = threading.Event()
        self.goes_on = threading.Event()

    def read(self, size: int, /) -> bytes:
        self.is_reading.set()
        assert self.goes_on.wait(10)
        return super().read(size)


def test_a_part_of_another_file_does_not_wait() -> None:
    file = Waits(DATA)
    slow = made_of(FilePart(file, 0, 5))
    thread = threading.Thread(target=send, args=(slow,))
    thread.start()
    assert file.is_reading.wait(10)
    assert send(made_of(FilePart(io.BytesIO(DATA), 5, 5))) == DATA[5:10]
    file.goes_on.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_threads_of_its_parent() -> None:
    file = Waits(DATA)
    part = FilePart(file, 0, 5)
    thread = threading.Thread(target=send, args=(made_of(part),))
    thread.start()
    assert file.is_reading.wait(10)
    if (child := os.fork()) == 0:
        try:
            file.goes_on.set()
            os._exit(0 if send(made_of(part)) == DATA[:5] else 1)
        finally:
            os._exit(2)
    file.goes_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_is_let_go_of_with_its_last_part() -> None:
    from dugong.pool.sharedfile import _shared_files

    before = len(_shared_files)
    file = io.BytesIO(DATA)
    parts = [FilePart(file), FilePart(file, 5)]
    assert len(_shared_files) == before + 1
    del parts
    assert len(_shared_files) == before


# --- from end to end --------------------------------------------------------------------------


def echo_together(count: int) -> Script:
    """Return a script that sends requests back, when *count* of them have come."""
    complete = threading.Barrier(count)

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        complete.wait(TIMEOUT)
        peer.respond(request.body)

    return each(respond)


def test_parts_of_one_file_are_sent_at_once(file: Any, site: OpenSite) -> None:
    size = len(DATA) // 4
    with site(*[echo_together(4)] * 4) as (server, pool, scheme):
        parts = [FilePart(file, n * size, size) for n in range(4)]
        requests = [Request("PUT", url(server, "/", scheme), body=part) for part in parts]
        bodies = [resp.body for resp in pool.map(requests)]
    assert bodies == [DATA[n * size : (n + 1) * size] for n in range(4)]


def test_a_part_of_a_file_is_sent_by_the_kernel(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile, sent = os.sendfile, []

    def noting(out: int, source: int, offset: int, count: int) -> int:
        sent.append((offset, count))
        return sendfile(out, source, offset, count)

    monkeypatch.setattr(os, "sendfile", noting)
    with (
        open_site(each(lambda peer, request: peer.respond(request.body))) as site,
        path.open("rb") as file,
    ):
        assert site.pool.put(site.url(), FilePart(file, 5, 6)).body == DATA[5:11]
    assert sent == [(5, 6)]


def test_a_part_is_sent_again_when_the_connection_is_lost(file: Any, site: OpenSite) -> None:
    bodies = []

    def lose(peer: Peer) -> None:
        bodies.append(peer.request().body)

    def keep(peer: Peer) -> None:
        bodies.append(peer.request().body)
        peer.respond()

    with site(lose, keep, retry=RetryPolicy(backoff=0)) as (server, pool, scheme):
        resp = pool.put(url(server, "/", scheme), FilePart(file, 5, 600_000))
    assert len(resp.attempts) == 1
    assert bodies == [DATA[5:600_005]] * 2
