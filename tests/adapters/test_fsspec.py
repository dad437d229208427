"""`DugongFileSystem`: files behind URLs, as fsspec has them."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.asyn import get_loop
from fsspec.callbacks import Callback

from dugong import AsyncClient, DugongError, HTTPStatusError
from dugong.adapters.fsspec import DugongFileSystem
from tests.support.client import Page, Place, moved, open_places
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

get_loop()  # its thread stays for good

DATA = bytes(range(256)) * 200
LISTING = Page(
    b'<a href="b.bin">b</a> <A HREF="/d/sub/">sub</A> <a href="../up">up</a> <a name="x">no</a>'
    b' <a href="http://[bad">bad</a> <a href="b.bin">again</a>',
    headers="Content-Type: text/html; charset=utf-8\r\n",
)

Files = dict[str, bytes]


def served(files: Files, respects_ranges: bool = True) -> Callable[[ReceivedRequest], Page]:
    """Return what serves *files*, and takes more of them."""

    def serve(request: ReceivedRequest) -> Page:
        path = request.target
        if request.method in ("PUT", "POST"):
            files[path] = request.body
            return Page(status="201 Created")
        if request.method == "DELETE" and path in files:
            del files[path]
            return Page(status="204 No Content")
        if path in ("/d/", "/d"):
            return LISTING
        if path not in files:
            return Page(status="403 Forbidden" if path == "/secret" else "404 Not Found")
        data, limits = files[path], request.headers.get("range")
        if limits is None or not respects_ranges:
            return Page(data, headers='ETag: "v1"\r\n')
        first, _, last = limits.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            return Page(status="416 Range Not Satisfiable")
        part = f"Content-Range: bytes {start}-{end - 1}/{len(data)}\r\n"
        return Page(data[start:end], "206 Partial Content", part)

    return serve


@contextmanager
def open_files(
    files: Files | None = None, respects_ranges: bool = True, **options: Any
) -> Iterator[tuple[DugongFileSystem, Place, Files]]:
    """Yield a file system, the place that it is for, and the files there."""
    there = {"/a": DATA, "/d/b.bin": b"b"} if files is None else files
    with open_places(served(there, respects_ranges)) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False, **options)
        try:
            yield fs, here, there
        finally:
            fs.client.close()


def test_a_file_is_read_as_a_whole_or_in_part() -> None:
    with open_files() as (fs, here, _):
        url = here.url("/a")
        assert fs.cat(url) == DATA
        assert fs.cat_file(url, 10, 20) == DATA[10:20]
        assert fs.cat_file(url, start=-7) == DATA[-7:]
        assert fs.cat_file(url, -7, -3) == DATA[-7:-3]
        assert fs.cat_file(url, end=5) == DATA[:5]
        assert fs.cat_file(url, 5, 5) == b""
        assert fs.cat_file(url, len(DATA), len(DATA) + 5) == b""
        assert fs.tail(url, 4) == DATA[-4:]


def test_many_files_and_ranges_are_read_at_once() -> None:
    with open_files() as (fs, here, _):
        urls = [here.url("/a"), here.url("/d/b.bin")]
        assert fs.cat(urls) == dict(zip(urls, (DATA, b"b"), strict=True))
        starts = list(range(500))
        parts = fs.cat_ranges([urls[0]] * 500, starts, [start + 3 for start in starts])
        assert parts == [DATA[start : start + 3] for start in starts]
        assert fs.cat_ranges([urls[0]] * 2, 1, [1, -1]) == [b"", DATA[1:-1]]


def test_urls_with_a_query_are_asked_for_once_and_at_once() -> None:
    paths = [f"/a?{number}" for number in range(100)]
    with open_files(dict.fromkeys(paths, DATA)) as (fs, here, _):
        urls = [here.url(path) for path in paths]
        assert fs.cat(urls) == dict.fromkeys(urls, DATA)
        assert sorted(request.target for request in here.requests) == sorted(paths)
        assert {request.method for request in here.requests} == {"GET"}
        assert fs.cat(urls[0]) == DATA


def test_a_url_with_a_query_that_is_not_there_is_not_left_out() -> None:
    with open_files({"/a?1": DATA}) as (fs, here, _):
        urls = [here.url("/a?1"), here.url("/a?2")]
        with pytest.raises(FileNotFoundError):
            fs.cat(urls)
        assert fs.cat(urls, on_error="omit") == {urls[0]: DATA}
        with pytest.raises(FileNotFoundError):
            fs.cat(urls[1])


def test_what_no_file_fits_is_left_out_beside_a_url_with_a_query() -> None:
    with open_files({"/a?1": DATA}) as (fs, here, _):
        assert fs.cat([here.url("/a?1"), here.url("/d/*.none")]) == {here.url("/a?1"): DATA}
        with pytest.raises(FileNotFoundError):
            fs.cat([here.url("/d/*.none")])


def test_a_range_that_fails_is_returned_or_raised() -> None:
    with open_files() as (fs, here, _):
        urls = [here.url("/a"), here.url("/none"), "no url"]
        whole, none, bad = fs.cat_ranges(urls, 0, 2)
        assert whole == DATA[:2]
        assert isinstance(none, FileNotFoundError)
        assert isinstance(bad, ValueError)
        with pytest.raises(FileNotFoundError):
            fs.cat_ranges(urls[:2], 0, 2, on_error="raise")
        with pytest.raises(ValueError, match="zip"):
            fs.cat_ranges(urls, [0], [1])


def test_a_range_is_cut_out_of_what_a_server_without_ranges_sends() -> None:
    with open_files(respects_ranges=False) as (fs, here, _):
        assert fs.cat_file(here.url("/a"), 10, 20) == DATA[10:20]
        assert fs.cat_file(here.url("/a"), -10, -2) == DATA[-10:-2]
        with fs.open(here.url("/a")) as file:
            assert file.read(5) == DATA[:5]
        with fs.open(here.url("/a"), block_size=1000) as file:
            file.seek(5000)
            with pytest.raises(ValueError, match="block_size=0"):
                file.read(5)


def test_an_open_file_is_not_received_as_a_whole_for_each_part_that_is_read() -> None:
    def serve(request: ReceivedRequest) -> Page:
        return Page(DATA, headers=f"Content-Range: bytes 0-{len(DATA) - 1}/{len(DATA)}\r\n")

    with open_places(serve) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        with fs.open(here.url("/a"), block_size=1000) as file:
            assert file.read(5) == DATA[:5]
            file.seek(5000)
            with pytest.raises(ValueError, match="block_size=0"):
                file.read(5)
        fs.client.close()


def test_another_range_than_was_asked_for_is_an_error() -> None:
    def serve(request: ReceivedRequest) -> Page:
        part = "Content-Range: bytes 0-3/100\r\n"
        return Page(b"abcd", "206 Partial Content", part)

    with open_places(serve) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        with pytest.raises(ValueError, match="bytes 10-13 were requested, not bytes 0-3/100"):
            fs.cat_file(here.url("/a"), 10, 14)
        fs.client.close()


@pytest.mark.parametrize(
    ("start", "end", "part", "expected"),
    [
        (10, 20, (10, 15), None),  # less than was asked for
        (10, None, (10, 99), None),
        (None, 20, (0, 19), None),
        (-10, None, (991, 1000), None),
        (-10, None, (990, 999), None),
        (-10, -5, (990, 994), None),
        (10, 20, (10, 30), (10, 20)),  # more
        (10, 20, (0, 1000), (10, 20)),
        (-10, None, (0, 1000), (990, 1000)),
        (-10, -5, (980, 1000), (990, 995)),
        (990, 2000, (990, 1000), (990, 1000)),  # all that there is
        (-2000, None, (0, 1000), (0, 1000)),
    ],
)
@pytest.mark.parametrize("says_size", [True, False])
def test_a_part_is_what_was_asked_for_and_not_more_or_less(
    start: int | None,
    end: int | None,
    part: tuple[int, int],
    expected: tuple[int, int] | None,
    says_size: bool,
) -> None:
    size = 1000 if says_size else "*"
    body = DATA[slice(*part)]

    def serve(request: ReceivedRequest) -> Page:
        if request.method == "HEAD":
            return Page(DATA[:1000])
        came = f"Content-Range: bytes {part[0]}-{part[1] - 1}/{size}\r\n"
        return Page(body, "206 Partial Content", came)

    with open_places(serve) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        if expected is None and says_size:
            with pytest.raises(ValueError, match=r"were requested, not bytes"):
                fs.cat_file(here.url("/a"), start, end)
        elif expected is not None and (says_size or (start or 0) >= 0):
            assert fs.cat_file(here.url("/a"), start, end) == DATA[slice(*expected)]
        fs.client.close()


@pytest.mark.parametrize("change", ["shrinks", "goes", "is cut short"])
def test_a_file_that_loses_bytes_while_it_is_open_is_an_error(change: str) -> None:
    there = {"/a": DATA}
    if change == "is cut short":
        served_as_usual = served(there)

        def serve(request: ReceivedRequest) -> Page:
            page = served_as_usual(request)
            return page if request.method == "HEAD" else Page(b"short", "206 Partial Content")
    else:
        serve = served(there)
    error = FileNotFoundError if change == "goes" else (ValueError, HTTPStatusError)
    with open_places(serve) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        with fs.open(here.url("/a"), block_size=100, cache_type="none") as file:
            if change == "shrinks":
                there["/a"] = DATA[:10]
            elif change == "goes":
                del there["/a"]
            file.seek(5)
            with pytest.raises(error):
                file.read(10)
            file.seek(50)
            with pytest.raises(error):
                file.read(10)
        fs.client.close()


@pytest.mark.parametrize("kind", ["W/", ""])
def test_an_open_file_never_gives_parts_of_two_versions(kind: str) -> None:
    versions = iter(["v1", "v1", "v2"])

    def serve(request: ReceivedRequest) -> Page:
        if request.method == "HEAD":
            return Page(DATA)
        first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
        fields = f"Content-Range: bytes {first}-{last}/{len(DATA)}\r\n"
        fields += f'ETag: {kind}"{next(versions)}"\r\n'
        return Page(DATA[first : last + 1], "206 Partial Content", fields)

    with open_places(serve) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        with fs.open(here.url("/a"), block_size=100, cache_type="none") as file:
            assert file.read(10) + file.read(10) == DATA[:20]
            if kind:  # weak ones may differ: they say nothing of bytes
                assert file.read(10) == DATA[20:30]
            else:
                with pytest.raises(ValueError, match="replaced while it was open"):
                    file.read(10)
        fs.client.close()


def test_a_device_is_not_removed_when_a_download_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with ScriptedServer(cut) as server:
            fs = DugongFileSystem(skip_instance_cache=True, trust_env=False, retry=None)
            with pytest.raises(DugongError):
                fs.get_file("http://{}:{}/a".format(*server.address), str(pipe))
            fs.client.close()
    finally:
        os.close(reading)
    assert pipe.is_fifo()


def test_what_is_not_there_is_not_found_and_other_failures_are_told() -> None:
    with open_files() as (fs, here, _):
        for call in (fs.cat, fs.info, fs.ls, fs.open):
            with pytest.raises(FileNotFoundError):
                call(here.url("/none"))
        with pytest.raises(HTTPStatusError, match="403"):
            fs.cat(here.url("/secret"))
        assert fs.exists(here.url("/a"))
        assert not fs.exists(here.url("/none"))
        assert not fs.exists(here.url("/secret"))
        with pytest.raises(HTTPStatusError, match="403"):
            fs.exists(here.url("/secret"), strict=True)


def test_info_is_what_the_server_says() -> None:
    with open_files() as (fs, here, _):
        url = here.url("/a")
        known = {"size": len(DATA), "type": "file", "ETag": '"v1"'}
        assert fs.info(url) == {"name": url, "url": url, **known}
        assert here.requests[-1].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("Content-Length: 7, 7", 7),
        ("Transfer-Encoding: chunked\r\nContent-Range: bytes 0-6/7", 7),
        (f"Transfer-Encoding: chunked\r\nContent-Range: bytes 0-6/{'9' * 5000}", None),
    ],
)
def test_info_of_a_file_has_its_size_however_a_server_says_it(
    fields: str, size: int | None
) -> None:
    def serve(peer: Peer) -> None:
        for request in peer.requests():
            body = "" if request.method == "HEAD" else "0\r\n\r\n"
            peer.send(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}".encode())

    with ScriptedServer(serve, repeat=True) as server:
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        try:
            assert fs.info(server.url())["size"] == size
        finally:
            fs.client.close()


def test_a_directory_is_what_its_page_links_to_below_it() -> None:
    with open_files() as (fs, here, _):
        url = here.url("/d/")
        assert fs.ls(url, detail=False) == [url + "b.bin", url + "sub/"]
        assert [entry["type"] for entry in fs.ls(url)] == ["file", "directory"]
        assert fs.isdir(url)
        assert not fs.isdir(here.url("/a"))
        assert fs.glob(url + "*.bin") == [url + "b.bin"]
        assert fs.glob(url + "*/") == [url + "sub/"]
        assert list(fs.glob(here.url("/a"), detail=True)) == [here.url("/a")]
        assert fs.glob(here.url("/none?x=1")) == []


@pytest.mark.parametrize("text", ["<a ", "<!--", "<![", "<a href='", "http://", "<a href=//[ "])
def test_no_page_makes_a_listing_fail_or_take_long(text: str) -> None:
    page = Page(b"<a href=x>" + text.encode() * 30_000, headers="Content-Type: text/html\r\n")
    with open_places(lambda request: page) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        try:
            assert fs.ls(here.url("/d/"), detail=False) == [here.url("/d/x")]
        finally:
            fs.client.close()


def test_files_are_fetched_at_once_and_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with open_files() as (fs, here, _):
        told = Callback()
        fs.get_file(here.url("/a"), tmp_path / "a", callback=told)
        assert (tmp_path / "a").read_bytes() == DATA
        assert (told.size, told.value) == (len(DATA), len(DATA))
        fs.get([here.url("/a"), here.url("/d/b.bin")], [str(tmp_path / "1"), str(tmp_path / "2")])
        assert (tmp_path / "2").read_bytes() == b"b"
        with pytest.raises(FileNotFoundError):
            fs.get_file(here.url("/none"), tmp_path / "none")
        assert not (tmp_path / "none").exists()


def test_a_tree_is_fetched_with_its_directories(tmp_path: Path) -> None:
    with open_files() as (fs, here, _):
        fs.get(here.url("/d/"), str(tmp_path / "d"), recursive=True)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == {"d", "d/b.bin", "d/sub"}


def test_a_file_is_not_saved_as_a_directory(tmp_path: Path) -> None:
    with open_files() as (fs, here, _):
        with pytest.raises(IsADirectoryError):
            fs.get_file(here.url("/a"), str(tmp_path))
        assert tmp_path.is_dir()


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_files_are_sent(method: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with open_files({}) as (fs, here, files):
        fs.put_file(tmp_path / "file", here.url("/1"), method=method)
        fs.put_file(io.BytesIO(b"bytes"), here.url("/2"), method=method)
        fs.pipe(here.url("/3"), b"piped")
        with fs.open(here.url("/4"), "wb") as file:
            for _ in range(3):
                file.write(DATA)
        assert files == {"/1": DATA, "/2": b"bytes", "/3": b"piped", "/4": DATA * 3}
        assert [r.method for r in here.requests] == [method, method, "PUT", "PUT"]
        fs.rm(here.url("/1"))
        assert "/1" not in files


def test_a_file_that_is_written_in_a_transaction_is_sent_at_its_end() -> None:
    with open_files({}) as (fs, here, files):
        with fs.transaction:
            with fs.open(here.url("/1"), "wb") as file:
                file.write(b"1")
            assert files == {}
        assert files == {"/1": b"1"}


@pytest.mark.parametrize(
    "call",
    [
        lambda fs, url: fs.open(url, "ab"),
        lambda fs, url: fs.put_file(io.BytesIO(), url, mode="create"),
        lambda fs, url: fs.pipe_file(url, b"", mode="create"),
        lambda fs, url: fs.put_file(io.BytesIO(), url, method="PATCH"),
        lambda fs, url: fs.cat_ranges([url], 0, 1, max_gap=10),
    ],
)
def test_what_http_cannot_do_is_refused(call: Callable[[DugongFileSystem, str], object]) -> None:
    with open_files({}) as (fs, here, _):
        with pytest.raises((NotImplementedError, ValueError)):
            call(fs, here.url("/1"))
        assert here.requests == []


def test_an_open_file_reads_what_it_needs() -> None:
    with open_files() as (fs, here, _), fs.open(here.url("/a"), block_size=100) as file:
        file.seek(1000)
        assert file.read(10) == DATA[1000:1010]
        file.seek(-5, io.SEEK_END)
        assert file.read() == DATA[-5:]
        gets = [r.headers["range"] for r in here.requests if r.method == "GET"]
        assert len(gets) == 2


@pytest.mark.parametrize("cache", ["none", "bytes", "readahead", "blockcache", "background", "all"])
def test_an_open_file_has_the_cache_that_is_asked_for(cache: str) -> None:
    with (
        open_files() as (fs, here, _),
        fs.open(here.url("/a"), block_size=10_000, cache_type=cache) as file,
    ):
        assert file.read(5) == DATA[:5]
        file.seek(-5, io.SEEK_END)
        assert file.read() == DATA[-5:]
        file.seek(0)
        assert file.read() == DATA


_DATE = "Date: Sat, 28 Nov 2026 04:00:00 GMT\r\n"
_MODIFIED = "Last-Modified: Sat, 28 Nov 2026 {} GMT\r\n"
OLD_AND_NEW = [
    ('ETag: "1"\r\n', 'ETag: "2"\r\n', True),
    (_MODIFIED.format("03:00:00"), _MODIFIED.format("03:00:01"), True),
    ('ETag: "1"\r\n' + _MODIFIED.format("03:00:00"), 'ETag: "2"\r\n', True),
    ('ETag: "1"\r\n' + _MODIFIED.format("03:00:00"), 'ETag: "1"\r\n', False),
    ('ETag: "1"\r\n', 'ETag: W/"1"\r\n', False),
    ('ETag: "1"\r\n', "", False),
    ('ETag: W/"1"\r\n', 'ETag: W/"2"\r\n', False),
    (_MODIFIED.format("04:00:00"), _MODIFIED.format("04:00:01"), False),  # of the same second
    ("", 'ETag: "2"\r\n', False),
]


@pytest.mark.parametrize("cache", ["none", "background"])
@pytest.mark.parametrize(("old", "new", "is_told"), OLD_AND_NEW, ids=repr)
def test_a_file_that_is_replaced_while_it_is_open_is_an_error(
    old: str, new: str, is_told: bool, cache: str
) -> None:
    version = old
    serve_data = served({"/a": DATA})

    def serve(request: ReceivedRequest) -> Page:
        page = serve_data(request)
        return Page(page.body, page.status, page.headers.partition("ETag")[0] + version + _DATE)

    with open_places(serve) as (_, [here]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        with fs.open(here.url("/a"), block_size=10_000, cache_type=cache) as file:
            assert file.read(5) == DATA[:5]
            assert file.read(20_000) == DATA[5:20_005]
            version = new
            file.seek(-5, io.SEEK_END)
            if is_told:
                with pytest.raises(ValueError, match="/a: it was replaced while it was open"):
                    file.read()
            else:
                assert file.read() == DATA[-5:]
        with fs.open(here.url("/a")) as file:
            assert file.read() == DATA
        fs.client.close()


def test_each_mirror_may_name_the_versions_of_a_file_in_its_own_way() -> None:
    def moving(request: ReceivedRequest) -> Page:
        mirrors.reverse()
        return moved(mirrors[0].url("/a?signed"), headers="Cache-Control: no-store\r\n")

    def mirror(number: int) -> Callable[[ReceivedRequest], Page]:
        serve = served({"/a?signed": DATA})

        def tagged(request: ReceivedRequest) -> Page:
            page = serve(request)
            etag = f'ETag: "{number}"\r\n'
            return Page(page.body, page.status, page.headers.partition("ETag")[0] + etag)

        return tagged

    with open_places(moving, mirror(1), mirror(2)) as (_, [here, *mirrors]):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        with fs.open(here.url("/a"), block_size=10_000, cache_type="none") as file:
            assert b"".join(file.read(10_000) for _ in range(6)) == DATA
        fs.client.close()
    assert all(len(place.requests) > 2 for place in mirrors)


def test_an_open_file_survives_pickle() -> None:
    with open_files() as (fs, here, _), fs.open(here.url("/a")) as file:
        file.seek(7)
        with pickle.loads(pickle.dumps(file)) as same:
            assert same.read() == DATA[7:]
            same.fs.client.close()


def test_a_file_may_be_read_from_start_to_end_only() -> None:
    with open_files() as (fs, here, _), fs.open(here.url("/a"), block_size=0) as file:
        assert file.read(10) == DATA[:10]
        file.seek(10)
        with pytest.raises(ValueError, match="from start to end"):
            file.seek(0)
        assert file.read() == DATA[10:]


def test_tasks_may_use_it() -> None:
    async def main(here: Place) -> None:
        fs = DugongFileSystem(asynchronous=True, skip_instance_cache=True, trust_env=False)
        async with await fs.set_session():
            assert await fs._cat_file(here.url("/a"), 0, 4) == DATA[:4]
            async with await fs.open_async(here.url("/a")) as file:
                assert await file.read(3) == DATA[:3]
                assert await file.read() == DATA[3:]

    with open_files() as (_, here, _files):
        asyncio.run(main(here))


def test_an_error_page_is_never_what_a_file_contains() -> None:
    async def main(here: Place) -> None:
        fs = DugongFileSystem(asynchronous=True, skip_instance_cache=True, trust_env=False)
        async with await fs.set_session():
            file = await fs.open_async(here.url("/secret"))
            for _ in range(2):
                with pytest.raises(HTTPStatusError):
                    await file.read()
            await file.close()
            assert fs.client.statistics().in_flight == 0

    with open_files() as (_, here, _files):
        asyncio.run(main(here))


def test_a_client_may_be_given_and_is_left_open() -> None:
    with open_files() as (_, here, _files):
        client = AsyncClient(trust_env=False)
        fs = DugongFileSystem(client=client, skip_instance_cache=True)
        assert fs.cat(here.url("/d/b.bin")) == b"b"
        del fs
        gc.collect()
        assert DugongFileSystem(client=client, skip_instance_cache=True).exists(here.url("/a"))
        client.close()
        with pytest.raises(TypeError, match="client="):
            DugongFileSystem(client=client, headers={"A": "b"})


def test_its_own_client_is_closed_when_it_is_forgotten() -> None:
    with open_files() as (_, here, _files):
        fs = DugongFileSystem(skip_instance_cache=True, trust_env=False)
        fs.cat(here.url("/a"))
        client, gone = fs.client, weakref.ref(fs)
        del fs
        gc.collect()
        assert gone() is None
        assert client.statistics().connections == 0


def test_headers_of_the_client_are_sent_and_unknown_options_refused() -> None:
    with open_files(headers={"X-Key": "1"}, client_kwargs={"auth": ("u", "p")}) as (fs, here, _):
        fs.cat(here.url("/a"), headers={"X-Call": "2"})
        assert {"x-key", "x-call", "authorization"} <= set(here.requests[0].headers)
        with pytest.raises(TypeError, match="no option 'use_foobar'"):
            DugongFileSystem(use_foobar=True)
        with pytest.raises(ValueError, match="size_policy"):
            DugongFileSystem(size_policy="guess")


def test_fsspec_finds_it_by_its_protocol() -> None:
    name = "dugong.adapters.fsspec.DugongFileSystem"
    fsspec.register_implementation("dugong-test", name)
    with open_files() as (_, here, _files):
        fs = fsspec.filesystem("dugong-test", trust_env=False, skip_instance_cache=True)
        assert fs.cat(here.url("/d/b.bin")) == b"b"
        same = pickle.loads(pickle.dumps(fs))
        assert isinstance(same, DugongFileSystem)
        same.client.close()
        fs.client.close()
