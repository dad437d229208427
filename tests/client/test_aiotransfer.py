"""Files of an `AsyncClient`: what those of a `Client` are, and that a task can be cancelled."""

from __future__ import annotations

import contextvars
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dugong import (
    AsyncClient,
    Attempt,
    Client,
    ConnectionClosed,
    HTTPStatusError,
    IntegrityError,
    PoolClosed,
    RetryPolicy,
)
from dugong.client import download as module
from dugong.client import part
from dugong.client.aioloop import running_loop
from dugong.client.aiotransfer import StoppableClient
from dugong.client.integrity import mismatch
from dugong.client.upload import upload
from dugong.pool.core import cancellation, scheduler
from tests.client.test_download import (
    FILE,
    QUICK,
    TAG,
    Answer,
    Files,
    Twist,
    cut,
    names_beside,
    status,
)
from tests.client.test_upload import Store, in_field
from tests.support.aio import LIBRARIES, came, cancelled
from tests.support.aio import run as run_under
from tests.support.pool import GONE
from tests.support.server import TIMEOUT, Peer, Script, ScriptedServer

Run = Callable[[Callable[[], Any]], None]


@pytest.fixture(params=LIBRARIES)
def run(request: pytest.FixtureRequest) -> Run:
    return partial(run_under, request.param)


@pytest.fixture(autouse=True)
def _connections_that_owe_a_response_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "DRAIN_TIME", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@asynccontextmanager
async def serving(
    *twists: Twist | None, **options: Any
) -> AsyncIterator[tuple[Files, AsyncClient, str]]:
    files = Files(*twists)
    options.setdefault("retry", QUICK)
    with ScriptedServer(files.converse, repeat=True) as files.server:
        async with AsyncClient(trust_env=False, **options) as client:
            yield files, client, files.server.url("/file")


class Stall:
    """A server that sends *sent* bytes of a body, and no more before `over` is set.

    `asked` says that it does; None for *sent*: it sends no head either.
    """

    def __init__(self, sent: int | None) -> None:
        self.asked = threading.Event()
        self.over = threading.Event()
        self._sent = sent

    def __call__(self, peer: Peer) -> None:
        peer.request()
        if self._sent is not None:
            Answer("200 OK", f"ETag: {TAG}\r\n", FILE, sent=self._sent).send(peer)
        self.asked.set()
        with suppress(*GONE):
            peer.until_eof()
        self.over.set()


# --- downloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("body", [b"", b"x", FILE], ids=["empty", "a byte", "more"])
def test_a_file_is_what_the_server_has(
    run: Run, path: Path, body: bytes, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving() as (files, client, url):
            files.body = body
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            got = await client.download(url, path, connections=connections, digest=digest)
            assert (got.path, got.size, got.resumed) == (str(path), len(body), 0)
            assert (got.response.url, got.response.headers["ETag"]) == (url, TAG)

    monkeypatch.setattr(module, "SEGMENT", 16_000)
    run(main)
    assert path.read_bytes() == body
    assert names_beside(path) == ["file"]


def test_a_body_that_is_cut_goes_on_where_it_was_cut(run: Run, path: Path) -> None:
    async def main() -> None:
        async with serving(cut(30_000), cut(20_000)) as (files, client, url):
            await client.download(url, path, headers={"X-Own": "1"})
            assert files.asked == [None, "bytes=30000-99999", "bytes=50000-99999"]
            assert [each.headers["x-own"] for each in files.requests] == ["1"] * 3

    run(main)
    assert path.read_bytes() == FILE


def test_it_goes_on_with_what_a_client_has_left_that_is_not_async(run: Run, path: Path) -> None:
    async def main() -> None:
        async with serving(cut(30_000)) as (files, client, url):
            with Client(trust_env=False) as blocking, pytest.raises(ConnectionClosed):
                blocking.download(url, path, retry=None)
            got = await client.download(url, path)
            assert (got.resumed, files.asked) == (30_000, [None, "bytes=30000-99999"])

    run(main)
    assert path.read_bytes() == FILE


def test_failures_are_those_of_a_client(run: Run, path: Path) -> None:
    async def main() -> None:
        async with serving(status("404 Not Found"), retry=None) as (files, client, url):
            with pytest.raises(HTTPStatusError, match="404"):
                await client.download(url, path)
            with pytest.raises(IntegrityError, match="that was given"):
                await client.download(url, path, digest=f"sha256:{'0' * 64}")
            with pytest.raises(IsADirectoryError):
                await client.download(url, path.parent)
            asked = len(files.requests)
            with pytest.raises(ValueError, match="connections"):
                await client.download(url, path, connections=0)
            with pytest.raises(TypeError, match="json"):
                await client.download(url, path, json=1)  # type: ignore[call-arg]  # a mistake
            assert len(files.requests) == asked

    run(main)
    assert names_beside(path) == []


def test_progress_is_told_in_a_thread_and_in_the_context_of_the_call(run: Run, path: Path) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    told: list[Any] = []

    def note(done: int, total: int | None) -> None:
        told.append((done, total, variable.get(), threading.current_thread()))

    async def main() -> None:
        async with serving() as (_, client, url):
            variable.set("set")
            await client.download(url, path, progress=note)

    run(main)
    assert (told[0][:3], told[-1][:3]) == ((0, 100_000, "set"), (100_000, 100_000, "set"))
    assert threading.current_thread() not in [each[3] for each in told]


def test_the_loop_goes_on_meanwhile_and_a_path_is_for_one_download(run: Run, path: Path) -> None:
    async def main() -> None:
        stall, files = Stall(1000), Files()
        with ScriptedServer(stall, files.converse, repeat=True) as server:
            async with AsyncClient(trust_env=False) as client:
                url, done = server.url("/file"), threading.Event()

                async def other() -> None:
                    await came(stall.asked)
                    assert (await client.get(url)).body == FILE
                    with pytest.raises(BlockingIOError):
                        await client.download(url, path)
                    done.set()

                task = running_loop().create_task(other())
                await cancelled(partial(client.download, url, path), done)
                await task

    run(main)


# --- a download is cancelled ----------------------------------------------------------------------


@pytest.mark.parametrize("sent", [None, 0, 30_000], ids=["no head", "no body", "some of it"])
@pytest.mark.parametrize("warm", [False, True])
def test_a_download_that_is_cancelled_leaves_what_a_later_one_goes_on_with(
    run: Run, path: Path, sent: int | None, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is *warm* may be used by the thread of a blocking call itself."""
    stall, files = Stall(sent), Files()
    reached = threading.Event() if sent else stall.asked
    failed: list[Attempt] = []  # what the policy was asked about
    policy = RetryPolicy(should_retry=lambda attempt: bool(failed.append(attempt)))
    write = part.Part.write

    def writing(self: part.Part, offset: int, data: Any) -> int:
        new = write(self, offset, data)
        if self.received == sent:
            reached.set()
        return new

    def converse(peer: Peer) -> None:
        if warm:
            peer.request()
            peer.respond(b"")
        stall(peer)

    async def main() -> None:
        with ScriptedServer(converse, files.converse, repeat=True) as server:
            url = server.url("/file")
            async with AsyncClient(trust_env=False, retry=policy) as client:
                if warm:
                    await client.get(url)
                await cancelled(partial(client.download, url, path), reached)
                await came(stall.over)
                assert failed == []
                assert names_beside(path) == (["file.part", "file.part.state"] if sent else [])
                got = await client.download(url, path)
                assert (got.size, got.resumed) == (100_000, sent or 0)
                assert files.asked == ([f"bytes={sent}-99999"] if sent else [None])

    monkeypatch.setattr(part.Part, "write", writing)
    run(main)
    assert path.read_bytes() == FILE


def test_over_several_connections_all_requests_end(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 10_000)
    files, is_over = Files(), False
    all_asked, all_ended = threading.Event(), threading.Event()
    asked = threading.Barrier(3, all_asked.set)
    ended = threading.Barrier(3, all_ended.set)

    def converse(peer: Peer) -> None:
        with suppress(*GONE):
            while True:
                request = peer.request()
                if "bytes=0-" not in request.headers["range"] and not is_over:
                    asked.wait(TIMEOUT)
                    with suppress(*GONE):
                        peer.until_eof()
                    ended.wait(TIMEOUT)
                    return
                files.honest(request).send(peer)

    async def main() -> None:
        nonlocal is_over
        with ScriptedServer(converse, repeat=True) as server:
            url = server.url("/file")
            async with AsyncClient(trust_env=False) as client:
                await cancelled(partial(client.download, url, path, connections=3), all_asked)
                await came(all_ended)
                is_over = True
                got = await client.download(url, path, connections=3)
                assert (got.size, got.resumed) == (100_000, 10_000)

    run(main)
    assert path.read_bytes() == FILE


def test_nothing_is_left_without_resume(run: Run, path: Path) -> None:
    async def main() -> None:
        stall = Stall(30_000)
        with ScriptedServer(stall) as server:
            async with AsyncClient(trust_env=False) as client:
                call = partial(client.download, server.url("/file"), path, resume=False)
                await cancelled(call, stall.asked)

    run(main)
    assert names_beside(path) == []


def long_wait(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have attempts wait for ever; return what says that one does."""
    waits = threading.Event()

    def delay(self: RetryPolicy, number: int) -> float:
        waits.set()
        return 1000.0

    monkeypatch.setattr(RetryPolicy, "delay", delay)
    return waits


def test_the_wait_between_two_attempts_ends(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = long_wait(monkeypatch)

    async def main() -> None:
        async with serving(cut(30_000)) as (files, client, url):
            await cancelled(partial(client.download, url, path), waits)
            assert (await client.download(url, path)).resumed == 30_000
            assert files.asked == [None, "bytes=30000-99999"]

    run(main)


def test_a_pool_that_is_closed_ends_the_wait_between_two_attempts(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = long_wait(monkeypatch)
    closer = threading.Thread()

    async def main() -> None:
        nonlocal closer
        async with serving(cut(30_000)) as (_, client, url):

            def close() -> None:
                waits.wait()
                client.close()

            closer = threading.Thread(target=close)
            closer.start()
            with pytest.raises(PoolClosed):
                await client.download(url, path)

    run(main)
    closer.join()


def test_a_digest_that_takes_long_is_broken_off(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, is_cancelled = threading.Event(), threading.Event()
    read: list[bytes] = []

    def slow(digests: Any, pieces: Any) -> Any:
        def noted() -> Any:
            for piece in pieces:
                read.append(piece)
                begun.set()
                assert is_cancelled.wait(10)
                yield piece

        return mismatch(digests, noted())

    async def main() -> None:
        async with serving() as (_, client, url):
            digest = f"sha256:{hashlib.sha256(FILE).hexdigest()}"
            stop = StoppableClient.stop

            def stopping(self: StoppableClient) -> None:
                stop(self)
                is_cancelled.set()

            monkeypatch.setattr(StoppableClient, "stop", stopping)
            monkeypatch.setattr(module, "mismatch", slow)
            await cancelled(partial(client.download, url, path, digest=digest), begun)
            assert len(read) == 1
            assert names_beside(path) == ["file.part", "file.part.state"]

    monkeypatch.setattr(part, "_PIECE", 1000)
    run(main)


def test_what_waits_for_room_in_the_queues_ends(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    wait_for_room = scheduler.Scheduler._wait_for_room_locked

    def waiting(self: scheduler.Scheduler, job: Any, block: bool, deadline: float | None) -> None:
        if block:
            waits.set()  # with the lock, which the wait releases
        wait_for_room(self, job, block, deadline)

    monkeypatch.setattr(scheduler.Scheduler, "_wait_for_room_locked", waiting)

    async def main() -> None:
        stall = Stall(None)
        options: dict[str, Any] = {"max_connections_per_host": 1, "max_queued": 1}
        with ScriptedServer(stall) as server:
            async with AsyncClient(trust_env=False, **options) as client:
                url = server.url("/file")
                first = client.submit("GET", url)
                await came(stall.asked)
                second = client.submit("GET", url)
                await cancelled(partial(client.download, url, path), waits)
                for future in (first, second):
                    future.cancel()
                assert client.statistics().queued == 0

    run(main)
    assert names_beside(path) == []


def test_redirects_can_be_cancelled_as_well(run: Run, path: Path) -> None:
    stall = Stall(None)

    def moves(peer: Peer) -> None:
        peer.request()
        peer.respond(b"", "302 Found", "Location: /elsewhere\r\n")
        stall(peer)

    async def main() -> None:
        with ScriptedServer(moves) as server:
            async with AsyncClient(trust_env=False) as client:
                call = partial(client.download, server.url("/file"), path)
                await cancelled(call, stall.asked)
                await came(stall.over)

    run(main)
    assert names_beside(path) == []


# --- uploads --------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(FILE)
    return path


@asynccontextmanager
async def storing(*scripts: Script, **options: Any) -> AsyncIterator[tuple[AsyncClient, str]]:
    options.setdefault("retry", QUICK)
    with ScriptedServer(*scripts) as server:
        async with AsyncClient(trust_env=False, **options) as client:
            yield client, server.url("/file")


@pytest.mark.parametrize("digest", [None, "sha-256"])
def test_a_file_is_put(run: Run, source: Path, digest: str | None) -> None:
    store = Store()

    async def main() -> None:
        async with storing(store) as (client, url):
            told: list[Any] = []
            response = await client.upload(
                source, url, "POST", digest=digest, progress=lambda *each: told.append(each)
            )
            assert (response.status, response.headers["ETag"]) == (201, "stored")
            assert (told[0], told[-1]) == ((0, len(FILE)), (len(FILE), len(FILE)))

    run(main)
    assert (store.only.method, store.only.body) == ("POST", FILE)
    expected = None if digest is None else in_field(digest, FILE)
    assert store.only.headers.get("content-digest") == expected


def test_it_is_sent_again_from_its_beginning(run: Run, source: Path) -> None:
    def cuts(peer: Peer) -> None:
        peer.head()
        peer.exactly(50_000)
        peer.reset()

    store = Store()

    async def main() -> None:
        async with storing(cuts, store) as (client, url):
            assert len((await client.upload(source, url)).attempts) == 1

    run(main)
    assert store.only.body == FILE


def test_failures_of_an_upload_are_those_of_a_client(run: Run, source: Path) -> None:
    async def main() -> None:
        refuses = Store("403 Forbidden")
        changes = Store(then=lambda: os.truncate(source, 10))
        async with storing(refuses, changes) as (client, url):
            with pytest.raises(HTTPStatusError, match="403"):
                await client.upload(source, url, headers={"Connection": "close"})
            with pytest.raises(FileNotFoundError):
                await client.upload(source.with_name("missing"), url)
            with pytest.raises(ValueError, match="digest"):
                await client.upload(source, url, digest="md5")

    run(main)


def test_a_file_that_changes_while_it_is_sent_is_an_error(run: Run, source: Path) -> None:
    async def main() -> None:
        async with storing(Store(then=lambda: os.truncate(source, 10))) as (client, url):
            with pytest.raises(IntegrityError, match="has changed"):
                await client.upload(source, url)

    run(main)


@pytest.mark.parametrize("sent", [0, 10_000])
def test_an_upload_that_is_cancelled_ends_its_request(run: Run, source: Path, sent: int) -> None:
    os.truncate(source, 64 * 1024 * 1024)  # more than the system takes at once
    asked, over = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(sent)
        asked.set()
        with suppress(*GONE):
            peer.until_eof()
        over.set()

    async def main() -> None:
        async with storing(script) as (client, url):
            await cancelled(partial(client.upload, source, url), asked)
            await came(over)

    run(main)


def test_a_cancelled_upload_waits_for_no_response(run: Run, source: Path) -> None:
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        asked.set()
        with suppress(*GONE):
            peer.until_eof()

    async def main() -> None:
        async with storing(script) as (client, url):
            await cancelled(partial(client.upload, source, url), asked)

    run(main)


def test_a_pipe_that_nothing_writes_to_does_not_hold_up_a_task_that_is_cancelled(
    run: Run, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    begun = threading.Event()

    def noting(*args: Any) -> Any:
        begun.set()
        return upload(*args)

    async def main() -> None:
        async with storing() as (client, url):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("dugong.client.upload.upload", noting)
                await cancelled(partial(client.upload, pipe, url), begun)
            os.close(os.open(pipe, os.O_WRONLY))  # which ends the thread that opens it

    run(main)


def test_the_digest_of_a_cancelled_upload_is_broken_off(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, is_cancelled, over = threading.Event(), threading.Event(), threading.Event()
    read = 0

    def slow(file: Any, update: Any) -> Any:
        nonlocal read
        try:
            while True:
                begun.set()
                assert is_cancelled.wait(10)
                read += 1
                yield b""
        finally:
            over.set()

    async def main() -> None:
        async with storing() as (client, url):
            monkeypatch.setattr("dugong.client.upload._told_of", slow)
            await cancelled(partial(client.upload, source, url, digest="sha-256"), begun)
            is_cancelled.set()
            await came(over)

    run(main)
    assert read == 1


def test_a_client_that_is_closed_transfers_nothing(run: Run, path: Path, source: Path) -> None:
    async def main() -> None:
        async with serving() as (_, client, url):
            await client.download(url, path)
        with pytest.raises(PoolClosed):
            await client.download(url, path)
        with pytest.raises(PoolClosed):
            await client.upload(source, url)

    run(main)
    # A pool that is closed does not know the threads that have found that out.
    for thread in threading.enumerate():
        if thread.name == "dugong-stream":
            thread.join(TIMEOUT)
