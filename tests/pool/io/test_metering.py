"""Progress of real transfers: of uploads and downloads, streamed and whole, plain and over TLS."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dugong import (
    AsyncClient,
    Client,
    ConnectionClosed,
    Delivery,
    FilePart,
    Progress,
    Request,
)
from dugong.testing import MockPool
from tests.support.pool import GONE, OpenSite, each, name_target, open_site
from tests.support.refusing import AT_ONCE, UNAVAILABLE, Refusing
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

LARGE = bytes(range(256)) * 4096 * 3  # 3 MiB


class Told(list[tuple[int, int | None]]):
    """Is told of progress; `threads` are those in which it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []

    def __call__(self, done: int, total: int | None) -> None:
        self.threads.append(threading.current_thread().name)
        self.append((done, total))

    def bodies(self) -> list[list[tuple[int, int | None]]]:
        """Return the calls for each body."""
        bodies: list[list[tuple[int, int | None]]] = []
        for call in self:
            if call[0] == 0:
                bodies.append([])
            bodies[-1].append(call)
        return bodies

    def is_of(self, *bodies: tuple[int, int | None]) -> bool:
        """Return True if *bodies*, each with a size and a total, were told of, to their ends."""
        found = self.bodies()
        return (
            [body[-1] for body in found] == list(bodies)
            and all(body == sorted(body, key=lambda call: call[0]) for body in found)
            and all({total for _, total in body} == {body[0][1]} for body in found)
        )


def fails_after(calls: int, error: BaseException) -> Callable[[int, int | None], None]:
    """Return what raises *error* when it is told for the *calls* + first time."""
    told: list[int] = []

    def tell(done: int, total: int | None) -> None:
        told.append(done)
        if len(told) > calls:
            raise error

    return tell


@pytest.fixture(params=["http", "https"])
def open_any(
    request: pytest.FixtureRequest, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> OpenSite:
    def open_it(*scripts: Any, **options: Any) -> Any:
        if request.param == "https":
            options.update(server_context=server_context, client_context=client_context)
        return open_site(*scripts, **options)

    return open_it


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    return path


def respond_with(body: bytes, headers: str = "") -> Any:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        with suppress(*GONE):
            peer.respond(body, headers=headers)

    return each(respond)


def respond_in_chunks(*chunks: bytes) -> Any:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            peer.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        peer.send(b"0\r\n\r\n")

    return each(respond)


# --- uploads -------------------------------------------------------------------------------------


def _pieces() -> Iterator[bytes]:
    for start in range(0, len(LARGE), 300_000):
        yield LARGE[start : start + 300_000]


@pytest.mark.parametrize(
    ("make", "total"),
    [
        (lambda: LARGE, len(LARGE)),
        (lambda: b"small", 5),
        (lambda: b"", 0),
        (lambda: io.BytesIO(LARGE), len(LARGE)),
        (lambda: FilePart(io.BytesIO(LARGE), 100, 1_000_000), 1_000_000),
        (_pieces, None),
        (list, None),
    ],
    ids=["bytes", "small", "empty", "seekable", "part", "chunks", "no chunks"],
)
def test_an_upload_is_told_of_to_its_end(
    open_any: OpenSite, make: Callable[[], Any], total: int | None
) -> None:
    script, told = Refusing(), Told()
    with open_any(script) as here:
        here.pool.put(here.url("/a"), make(), progress=told)
    assert told.is_of((len(script.requests[0].body), total))
    assert told.threads[0].startswith("dugong-")


def test_a_file_is_told_of(open_any: OpenSite, path: Path) -> None:
    script, told = Refusing(), Told()
    with open_any(script) as here, open(path, "rb") as file:
        here.pool.put(here.url("/a"), file, progress=told)
        here.pool.put(here.url("/b"), FilePart(file, 5, 100_000), progress=told)
    assert [len(request.body) for request in script.requests] == [len(LARGE), 100_000]
    assert told.is_of((len(LARGE), len(LARGE)), (100_000, 100_000))


def test_the_kernel_sends_a_file_that_is_told_of(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile, sent = os.sendfile, []

    def noting(out: int, source: int, offset: int, count: int) -> int:
        sent.append(sendfile(out, source, offset, count))
        return sent[-1]

    monkeypatch.setattr(os, "sendfile", noting)
    told = Told()
    with open_site(Refusing()) as here, open(path, "rb") as file:
        here.pool.put(here.url("/a"), file, progress=told)
    assert sum(sent) == len(LARGE)
    assert told.is_of((len(LARGE), len(LARGE)))


def test_a_form_with_files_is_told_of_as_one_body(path: Path) -> None:
    script, told = Refusing(), Told()
    with open_site(script) as here, Client(pool=here.pool) as client, open(path, "rb") as file:
        client.post(here.url("/a"), files={"one": file, "two": b"small"}, progress=told)
    size = len(script.requests[0].body)
    assert size > len(LARGE)
    assert told.is_of((size, size))


def test_each_attempt_begins_anew() -> None:
    script, told = Refusing(UNAVAILABLE, UNAVAILABLE), Told()
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        here.pool.put(here.url("/a"), LARGE, progress=told)
    assert told.is_of(*[(len(LARGE), len(LARGE))] * 3)


def test_each_redirect_that_takes_the_body_begins_anew() -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.target == "/a":
            peer.respond(status="307 Temporary Redirect", headers="Location: /b\r\n")
        else:
            peer.respond(status="303 See Other", headers="Location: /c\r\n")

    told = Told()
    with (
        open_site(each(respond), repeat=True) as here,
        Client(pool=here.pool, max_redirects=2) as client,
    ):
        future = client.submit("PUT", here.url("/a"), body=b"body", progress=told)
        with pytest.raises(Exception, match="redirects"):
            future.result(TIMEOUT)
    assert told.is_of((4, 4), (4, 4))  # and not the response to what has no body


def test_an_upload_that_is_refused_is_not_told_of_as_whole() -> None:
    def refuse(peer: Peer) -> None:
        peer.head()
        peer.respond(status="413 Too Large", headers="Connection: close\r\n")

    told = Told()
    with open_site(refuse) as here:
        assert here.pool.put(here.url("/a"), LARGE, expect100=True, progress=told).status == 413
    assert told == []


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("body", [b"small", LARGE, [b"chunk"]], ids=["small", "large", "chunks"])
@pytest.mark.parametrize(
    ("error", "raised"), [(LookupError("mine"), LookupError), (KeyboardInterrupt(), RuntimeError)]
)
def test_what_an_upload_raises_fails_its_request_alone(
    body: Any, error: BaseException, raised: type[Exception], calls: int
) -> None:
    tell = fails_after(calls, error)
    with open_site(each(name_target), repeat=True, retry=AT_ONCE) as here:
        with pytest.raises(raised) as caught:
            here.pool.put(here.url("/a"), body, progress=tell)
        assert error in (caught.value, caught.value.__cause__)
        assert caught.value.request.target == "/a"  # type: ignore[attr-defined]  # as of each
        assert here.goes_on()


def test_an_upload_may_be_cancelled_by_what_is_told_of_it() -> None:
    cancelled: list[bool] = []

    def tell(done: int, total: int | None) -> None:
        cancelled.append(future.cancel())

    given = threading.Event()

    def body() -> Iterator[bytes]:
        given.wait(TIMEOUT)
        yield b"first"
        yield from _pieces()

    with open_site(each(name_target), repeat=True) as here:
        # The first call is made when the body is about to be sent, so the future has to be there.
        ready = threading.Event()

        def tell_when_ready(done: int, total: int | None) -> None:
            ready.wait(TIMEOUT)
            tell(done, total)

        future = here.pool.submit("PUT", here.url("/a"), body=body(), progress=tell_when_ready)
        ready.set()
        given.set()
        with pytest.raises(BaseException):  # noqa: B017, PT011  # a CancelledError of futures
            future.result(TIMEOUT)
        assert here.goes_on()
    assert cancelled == [True]
    assert future.cancelled()


# --- downloads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, len(LARGE)])
def test_a_download_is_told_of_to_its_end(open_any: OpenSite, size: int) -> None:
    told = Told()
    with open_any(respond_with(LARGE[:size])) as here:
        assert here.pool.get(here.url("/a"), progress=told).body == LARGE[:size]
    assert told.is_of((size, size))
    assert told.threads[0].startswith("dugong-")


@pytest.mark.parametrize("chunks", [(), (b"small",), tuple(_pieces())], ids=["none", "one", "many"])
def test_a_download_in_chunks_has_no_total(open_any: OpenSite, chunks: tuple[bytes, ...]) -> None:
    told = Told()
    with open_any(respond_in_chunks(*chunks)) as here:
        body = here.pool.get(here.url("/a"), progress=told).body
    assert told.is_of((len(body), None))


@pytest.mark.parametrize("method", ["request", "submit", "as_completed", "map"])
def test_each_way_of_asking_tells(method: str) -> None:
    told = Told()
    with (
        open_site(respond_with(b"body"), repeat=True) as here,
        Client(pool=here.pool, decode=False) as client,
    ):
        for caller in (here.pool, client):
            request = Request("GET", here.url("/a"), progress=told)
            if method == "request":
                caller.request(request)
            elif method == "submit":
                caller.submit(request).result(TIMEOUT)
            else:
                list(getattr(caller, method)([request]))
        client.get(here.url("/b"), progress=told)
    assert told.is_of(*[(4, 4)] * 3)


def test_coded_bytes_are_counted_and_not_what_they_decode_to() -> None:
    coded = gzip.compress(LARGE)
    told = Told()
    with (
        open_site(respond_with(coded, "Content-Encoding: gzip\r\n"), repeat=True) as here,
        Client(pool=here.pool) as client,
    ):
        assert client.get(here.url("/a"), progress=told).body == LARGE
        with client.stream("GET", here.url("/a"), progress=told) as response:
            assert response.read() == LARGE
    assert told.is_of(*[(len(coded), len(coded))] * 2)


def test_only_responses_that_succeed_are_told_of() -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.target == "/a":
            peer.respond(b"moved", "302 Found", "Location: /b\r\n")
        elif request.target == "/b":
            peer.respond(b"the body")
        else:
            peer.respond(b"not found", "404 Not Found")

    told = Told()
    with (
        open_site(each(respond), repeat=True) as here,
        Client(pool=here.pool) as client,
    ):
        for target in ("/a", "/c"):
            client.get(here.url(target), progress=told)
            client.submit("GET", here.url(target), progress=told).result(TIMEOUT)
            with client.stream("GET", here.url(target), progress=told) as response:
                response.read()
    assert told.is_of(*[(8, 8)] * 3)


def test_a_download_that_is_cut_short_is_told_of_from_the_beginning_again() -> None:
    def cut(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
        peer.send(LARGE[:1_000_000])

    told = Told()
    with open_site(cut, respond_with(LARGE), retry=AT_ONCE) as here:
        assert here.pool.get(here.url("/a"), progress=told).body == LARGE
    first, second = told.bodies()
    assert first[-1][0] <= 1_000_000
    assert second[-1] == (len(LARGE), len(LARGE))


def test_both_ways_are_told_of_if_that_is_asked_for() -> None:
    up, down = Told(), Told()
    with open_site(respond_with(b"response")) as here:
        progress = Progress(upload=up, download=down)
        here.pool.post(here.url("/a"), b"body", progress=progress)
        here.pool.post(here.url("/a"), b"body", progress=Progress(download=down))
    assert up.is_of((4, 4))
    assert down.is_of((8, 8), (8, 8))


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("size", [10, len(LARGE)])
@pytest.mark.parametrize(
    ("error", "raised"), [(LookupError("mine"), LookupError), (KeyboardInterrupt(), RuntimeError)]
)
def test_what_a_download_raises_fails_its_request_alone(
    size: int, error: BaseException, raised: type[Exception], calls: int
) -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        with suppress(*GONE):
            peer.respond(LARGE[:size] if request.target == "/a" else request.target.encode())

    tell = fails_after(calls, error)
    with open_site(each(respond), repeat=True, retry=AT_ONCE, max_connections_per_host=1) as here:
        future = here.pool.submit("GET", here.url("/a"), progress=tell)
        others = [here.pool.submit("GET", here.url(f"/{n}")) for n in range(5)]
        caught = future.exception(TIMEOUT)
        assert isinstance(caught, raised)
        assert error in (caught, caught.__cause__)
        assert caught.delivery is Delivery.ANSWER_STARTED  # type: ignore[attr-defined]  # as of each
        assert [other.result(TIMEOUT).text for other in others] == [f"/{n}" for n in range(5)]
        assert all(not other.result().attempts for other in others)


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, len(LARGE)])
@pytest.mark.parametrize("way", ["read", "readinto", "iterate", "all"])
def test_a_stream_is_told_of_by_the_thread_that_reads(
    open_any: OpenSite, size: int, way: str
) -> None:
    told, received = Told(), bytearray()
    with (
        open_any(respond_with(LARGE[:size])) as here,
        here.pool.stream("GET", here.url("/a"), progress=told) as response,
    ):
        assert told == []
        if way == "all":
            received += response.read()
        elif way == "iterate":
            received += b"".join(response)
        elif way == "read":
            while piece := response.read(100_000):
                received += piece
        else:
            view = memoryview(bytearray(100_000))
            while got := response.readinto(view):
                received += view[:got]
    assert received == LARGE[:size]
    assert told.is_of((size, size))
    assert set(told.threads) == {threading.current_thread().name}


def test_a_stream_in_chunks_is_told_of_to_its_end() -> None:
    told = Told()
    with (
        open_site(respond_in_chunks(*_pieces())) as here,
        here.pool.stream("GET", here.url("/a"), progress=told) as response,
    ):
        assert response.read() == LARGE
        assert response.read() == b""
    assert told.is_of((len(LARGE), None))


@pytest.mark.parametrize("size", [10, len(LARGE)])
@pytest.mark.parametrize("coding", ["", "Content-Encoding: gzip\r\n"])
def test_what_is_told_of_a_stream_raises_where_it_is_read(size: int, coding: str) -> None:
    body = gzip.compress(LARGE[:size]) if coding else LARGE[:size]
    tell = fails_after(1, LookupError("mine"))
    with (
        open_site(respond_with(body, coding), repeat=True) as here,
        Client(pool=here.pool) as client,
    ):
        with client.stream("GET", here.url("/a"), progress=tell) as response:
            for _ in range(2):  # as bytes are lost
                with pytest.raises(LookupError, match="mine"):
                    response.read()
        assert here.pool.get(here.url("/next")).status == 200


def test_a_streamed_upload_goes_on_when_its_response_has_begun() -> None:
    has_begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        peer.exactly(len(LARGE))
        assert has_begun.wait(TIMEOUT)  # or all of it may come at once, so that its size is known
        peer.send(b"0\r\n\r\n")

    up, down = Told(), Told()
    with open_site(script) as here:
        progress = Progress(upload=up, download=down)
        with here.pool.stream("PUT", here.url("/a"), body=LARGE, progress=progress) as response:
            has_begun.set()
            assert response.read() == b"ok"
    assert up.is_of((len(LARGE), len(LARGE)))
    assert down.is_of((2, None))


def test_what_an_upload_raises_is_raised_where_its_response_is_read() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        with suppress(*GONE):
            peer.until_eof()

    has_begun = threading.Event()

    def tell(done: int, total: int | None) -> None:
        has_begun.wait(TIMEOUT)
        raise LookupError("mine")

    with open_site(script) as here:
        progress = Progress(upload=tell)
        with here.pool.stream("PUT", here.url("/a"), body=LARGE, progress=progress) as response:
            has_begun.set()
            with pytest.raises(LookupError, match="mine"):
                response.read()


def test_a_stream_that_is_cut_short_is_not_told_of_as_whole() -> None:
    def cut(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbeginning")

    told = Told()
    with (
        open_site(cut) as here,
        here.pool.stream("GET", here.url("/a"), progress=told) as response,
        pytest.raises(ConnectionClosed),
    ):
        response.read()
    assert (1000, 1000) not in told


# --- elsewhere -----------------------------------------------------------------------------------


def test_a_mock_pool_tells_too() -> None:
    up, down = Told(), Told()
    with MockPool(lambda request: b"response", retry=None) as pool:
        pool.put("http://host/", LARGE, progress=Progress(upload=up, download=down))
        pool.put("http://host/", [b"chunk"], progress=up)
        with pytest.raises(LookupError):
            pool.put("http://host/", LARGE, progress=fails_after(1, LookupError()))
    assert up.is_of((len(LARGE), len(LARGE)), (5, None))
    assert down.is_of((8, 8))


def test_an_async_client_tells_too() -> None:
    up, down = Told(), Told()

    async def main(url: str) -> None:
        async with AsyncClient() as client:
            await client.put(url, body=LARGE, progress=up)
            async with client.stream("GET", url, progress=down) as response:
                assert await response.read() == b"/a"

    with open_site(each(name_target), repeat=True) as here:
        asyncio.run(main(here.url("/a")))
    assert up.is_of((len(LARGE), len(LARGE)))
    assert down.is_of((2, 2))


def test_nothing_is_sent_behind_such_a_request() -> None:
    with open_site(each(name_target), repeat=True, max_connections_per_host=1) as here:
        told = Told()
        requests = [
            Request("GET", here.url(f"/{n}"), progress=told if n % 2 else None) for n in range(20)
        ]
        bodies = [response.text for response in here.pool.map(requests)]
    assert bodies == [f"/{n}" for n in range(20)]
    assert len(told.bodies()) == 10
