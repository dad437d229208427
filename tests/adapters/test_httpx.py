"""The transports for httpx and httpx2: what comes out is what their own would do."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dugong
from dugong import ConnectionPool, ConnectionTimedOut, Delivery, RetryPolicy
from dugong.client.aioloop import running_loop
from tests.support.pool import discard_rest, each, wait_for, wait_until
from tests.support.proxies import HttpProxy
from tests.support.server import Peer, ReceivedRequest, Script, ScriptedServer

PACKAGES = [pytest.importorskip("httpx"), pytest.importorskip("httpx2")]
trio = pytest.importorskip("trio")
module = pytest.importorskip("dugong.adapters.httpx")
DugongTransport = module.DugongTransport
AsyncDugongTransport = module.AsyncDugongTransport

LARGE = bytes(1_000_000)
SOON = 0.05  # seconds

Run = Callable[[Callable[[], Awaitable[object]]], object]


@pytest.fixture(params=PACKAGES, ids=lambda package: package.__name__)
def httpx(request: pytest.FixtureRequest) -> Any:
    """Each of the packages."""
    return request.param


def run_asyncio(main: Callable[[], Any]) -> object:
    return asyncio.run(main())


@pytest.fixture(params=[run_asyncio, trio.run], ids=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """What runs a coroutine function in an event loop."""
    return request.param  # type: ignore[no-any-return]  # one of the two


def serve(respond: Callable[[Peer, ReceivedRequest], object]) -> ScriptedServer:
    return ScriptedServer(each(respond), repeat=True)


def sends(data: bytes, *, wait: bool = False) -> Script:
    """Return a script that responds with *data*, and closes, or waits for the client to do so."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        if wait:
            peer.until_eof()

    return script


def name_target(peer: Peer, request: ReceivedRequest) -> None:
    peer.respond(LARGE if request.target == "/large" else request.target.encode())


async def came(event: threading.Event) -> None:
    """Wait for *event*, which a script sets."""
    await running_loop().run_to_end(partial(wait_for, event))


# --- what a transport is --------------------------------------------------------------------------


def test_a_transport_is_one_of_each_package() -> None:
    for made in (DugongTransport(), AsyncDugongTransport()):
        bases = ["BaseTransport", "AsyncBaseTransport"]
        for package in PACKAGES:
            kinds = [isinstance(made, getattr(package, name)) for name in bases]
            assert kinds == [isinstance(made, DugongTransport), not kinds[0]]
        assert type(made).__name__ == ("DugongTransport" if kinds[0] else "AsyncDugongTransport")


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_only_what_the_program_uses_is_imported(name: str) -> None:
    program = (
        "import sys; from dugong.adapters.httpx import DugongTransport\n"
        "assert not {'httpx', 'httpx2'} & sys.modules.keys()\n"
        f"import {name}; assert isinstance(DugongTransport(), {name}.BaseTransport)\n"
        "print(*sorted({'httpx', 'httpx2'} & sys.modules.keys()))"
    )
    assert of_program(program).stdout.split() == [name]


def test_an_alias_is_one_package() -> None:
    program = (
        "import httpx2; httpx2.alias_httpx(); import httpx\n"
        "from dugong.adapters.httpx import DugongTransport\n"
        "print(isinstance(DugongTransport(), httpx.BaseTransport))"
    )
    assert of_program(program).stdout.split() == ["True"]


def test_without_httpx_a_transport_says_what_is_missing() -> None:
    program = (
        "import sys; sys.modules['httpx'] = sys.modules['httpx2'] = None\n"
        "import dugong.adapters.httpx as module; module.DugongTransport()"
    )
    assert of_program(program).stderr.splitlines()[-1] == (
        "ImportError: dugong.adapters.httpx needs the package httpx or httpx2: "
        "pip install dugong[httpx]"
    )


def of_program(program: str) -> subprocess.CompletedProcess[str]:
    root = Path(dugong.__file__).parents[1]
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.mark.parametrize("kind", [DugongTransport, AsyncDugongTransport])
def test_bad_options_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="max_conections"):
        kind(max_conections=1)
    with pytest.raises(ValueError, match="deadline"):
        kind(deadline=0)
    with ConnectionPool() as pool, pytest.raises(TypeError, match="timeout: give the options"):
        kind(pool, timeout=5)


def test_what_is_no_request_is_refused() -> None:
    with DugongTransport() as transport, pytest.raises(TypeError, match="not object"):
        transport.handle_request(object())


def test_a_pool_that_was_given_stays_open(httpx: Any, run: Run) -> None:
    with serve(name_target) as server, ConnectionPool() as pool:
        with httpx.Client(transport=DugongTransport(pool)) as client:
            assert client.get(server.url("/a")).text == "/a"

        async def main() -> None:
            async with httpx.AsyncClient(transport=AsyncDugongTransport(pool)) as client:
                assert (await client.get(server.url("/b"))).text == "/b"

        run(main)
        assert pool.get(server.url("/c")).body == b"/c"
        assert server.connections == 1


def test_a_pool_of_its_own_is_closed_with_the_client(httpx: Any, run: Run) -> None:
    transport = DugongTransport()
    with serve(name_target) as server, httpx.Client(transport=transport) as client:
        client.get(server.url())
    with pytest.raises(httpx.ConnectError, match="closed"):
        transport.handle_request(httpx.Request("GET", server.url()))

    async def main() -> None:
        other = AsyncDugongTransport()
        async with httpx.AsyncClient(transport=other):
            pass
        with pytest.raises(httpx.ConnectError, match="closed"):
            await other.handle_async_request(httpx.Request("GET", server.url()))

    run(main)


# --- what is sent ---------------------------------------------------------------------------------


def received(httpx: Any, run: Run, **options: Any) -> list[ReceivedRequest]:
    """Return the request that each of the transports has sent for *options*."""
    requests = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        requests.append(request)
        peer.respond()

    def made() -> dict[str, Any]:
        return {name: value() if callable(value) else value for name, value in options.items()}

    with serve(respond) as server:
        with httpx.Client(transport=DugongTransport()) as client:
            client.request(url=server.url("/a%20b?c=%2F"), **made())

        async def main() -> None:
            async with httpx.AsyncClient(transport=AsyncDugongTransport()) as client:
                await client.request(url=server.url("/a%20b?c=%2F"), **made())

        if not isinstance(options.get("content"), Unasynchronous):
            run(main)
    return requests


class Unasynchronous:
    """Makes a body that an asynchronous client does not take."""

    def __call__(self) -> Iterator[bytes]:
        return iter([b"ab", b"", b"cd"])


def test_a_request_without_a_body_has_no_length(httpx: Any, run: Run) -> None:
    for request in received(httpx, run, method="GET", headers={"X-A": b"\xe4"}):
        assert (request.method, request.target) == ("GET", "/a%20b?c=%2F")
        assert list(request.headers) == [
            *("host", "accept", "accept-encoding", "connection", "user-agent", "x-a")
        ]
        assert request.headers["user-agent"].startswith(f"python-{httpx.__name__}/")
        assert request.headers["x-a"] == "\u00e4"
        assert request.body == b""


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"content": b"data"}, b"data"),
        ({"content": b""}, b""),
        ({"json": {"a": 1}}, b'{"a":1}'),
        ({"data": {"a": "b c"}}, b"a=b+c"),
        ({"content": LARGE}, LARGE),
    ],
    ids=["bytes", "empty", "json", "form", "large"],
)
def test_a_body_in_memory_has_its_length(httpx: Any, run: Run, options: Any, body: bytes) -> None:
    for request in received(httpx, run, method="POST", **options):
        assert request.body == body
        assert request.headers["content-length"] == str(len(body))
        assert "transfer-encoding" not in request.headers


def test_files_are_sent_as_httpx_prepares_them(httpx: Any, run: Run) -> None:
    for request in received(httpx, run, method="POST", files={"a": b"content"}):
        assert request.headers["content-length"] == str(len(request.body))
        assert b'name="a"' in request.body
        assert b"\r\n\r\ncontent\r\n" in request.body


async def items() -> AsyncIterator[bytes]:
    for item in (b"ab", b"", b"cd"):
        yield item


@pytest.mark.parametrize("length", [None, 4])
def test_an_iterator_is_sent_in_chunks_or_with_its_length(
    httpx: Any, run: Run, length: int | None
) -> None:
    headers = {} if length is None else {"Content-Length": str(length)}
    requests = received(httpx, run, method="POST", content=Unasynchronous(), headers=headers)

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        requests.append(request)
        peer.respond()

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncDugongTransport()) as client:
            await client.post(server.url(), content=items(), headers=headers)

    with serve(respond) as server:
        run(main)
    assert len(requests) == 2
    for request in requests:
        assert request.body == b"abcd"
        framing = "transfer-encoding" if length is None else "content-length"
        assert request.headers[framing] == ("chunked" if length is None else "4")


def test_a_field_that_httpx_has_not_is_not_sent(httpx: Any) -> None:
    heads = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        heads.append(request.headers)
        peer.respond()

    with serve(respond) as server, httpx.Client(transport=DugongTransport()) as client:
        del client.headers["User-Agent"]
        client.get(server.url())
    assert "user-agent" not in heads[0]


def test_a_body_may_wait_until_the_server_wants_it(httpx: Any) -> None:
    def script(peer: Peer) -> None:
        assert peer.head().headers["expect"] == "100-continue"
        peer.respond(b"no", "417 Expectation Failed", "Connection: close\r\n")
        assert peer.until_eof() == b""

    with ScriptedServer(script) as server, httpx.Client(transport=DugongTransport()) as client:
        headers = {"Expect": "100-continue"}
        assert client.put(server.url(), content=LARGE, headers=headers).status_code == 417


@pytest.mark.parametrize("extension", ["sni_hostname", "target"])
def test_an_extension_that_would_change_what_is_sent_is_refused(httpx: Any, extension: str) -> None:
    with (
        httpx.Client(transport=DugongTransport()) as client,
        pytest.raises(ValueError, match=extension),
    ):
        client.get("http://127.0.0.1:9/", extensions={extension: "www.example.com"})


def test_what_a_body_raises_is_raised(httpx: Any, run: Run) -> None:
    def body() -> Iterator[bytes]:
        yield b"a"
        raise KeyError("own")

    async def async_body() -> AsyncIterator[bytes]:
        yield b"a"
        raise KeyError("own")

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncDugongTransport()) as client:
            with pytest.raises(KeyError, match="own"):
                await client.post(server.url(), content=async_body())

    with ScriptedServer(lambda peer: peer.until_eof(), repeat=True) as server:
        with (
            httpx.Client(transport=DugongTransport()) as client,
            pytest.raises(KeyError, match="own"),
        ):
            client.post(server.url(), content=body())
        run(main)


def test_a_generator_is_closed_when_no_more_of_it_is_wanted(httpx: Any, run: Run) -> None:
    closed = threading.Event()

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(65536)
            finally:
                closed.set()

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(1)
        peer.respond(b"enough", "413 Content Too Large", "Connection: close\r\n")
        discard_rest(peer)

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncDugongTransport()) as client:
            headers = {"Transfer-Encoding": "chunked"}
            request = httpx.Request("POST", server.url(), headers=headers, stream=Body())
            response = await client.send(request)
            assert (response.status_code, response.text) == (413, "enough")

    with ScriptedServer(script) as server:
        run(main)
    assert closed.wait(10)


# --- what is received -----------------------------------------------------------------------------


def test_a_response_is_that_of_httpx(httpx: Any, run: Run) -> None:
    headers = "Content-Type: text/plain; charset=latin-1\r\nX-Two: a\r\nx-two: b\r\nX-L: \u00e4\r\n"

    def look(response: Any) -> None:
        assert (response.status_code, response.reason_phrase) == (200, "Very Well")
        assert response.http_version == "HTTP/1.1"
        assert response.headers.get_list("X-TWO") == ["a", "b"]
        assert (b"x-two", b"b") in response.headers.raw or (b"X-Two", b"a") in response.headers.raw
        assert response.headers["x-l"] == "\u00e4"
        assert response.text == "\u00e4"
        assert response.elapsed.total_seconds() > 0
        assert response.is_closed

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncDugongTransport()) as client:
            look(await client.get(server.url()))

    data = f"HTTP/1.1 200 Very Well\r\nContent-Length: 1\r\n{headers}\r\n\u00e4".encode("latin-1")
    with serve(lambda peer, _: peer.send(data)) as server:
        with httpx.Client(transport=DugongTransport()) as client:
            look(client.get(server.url()))
        run(main)


def test_cookies_redirects_and_codings_are_left_to_httpx(httpx: Any, run: Run) -> None:
    cookies = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        cookies.append(request.headers.get("cookie"))
        if request.target == "/old":
            peer.respond(b"", "302 Found", "Location: /new\r\nSet-Cookie: a=1\r\n")
        else:
            peer.respond(gzip.compress(LARGE), headers="Content-Encoding: gzip\r\n")

    def look(client: Any, response: Any) -> None:
        assert response.content == LARGE
        assert response.url == server.url("/new")
        assert [earlier.status_code for earlier in response.history] == [302]
        assert dict(client.cookies) == {"a": "1"}

    async def main() -> None:
        transport = AsyncDugongTransport()
        async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
            look(client, await client.get(server.url("/old")))

    with serve(respond) as server:
        with httpx.Client(transport=DugongTransport(), follow_redirects=True) as client:
            look(client, client.get(server.url("/old")))
        run(main)
        assert server.connections == 2
    assert cookies == [None, "a=1"] * 2


def test_a_body_comes_as_it_is_sent(httpx: Any, run: Run) -> None:
    go_on = threading.Semaphore(0)

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
        assert go_on.acquire(timeout=10)
        peer.send(b"7\r\nsecond\n\r\n0\r\nX-T: a\r\nX-T: b\r\n\r\n")

    trailers = [(b"X-T", b"a"), (b"X-T", b"b")]

    async def main() -> None:
        async with (
            httpx.AsyncClient(transport=AsyncDugongTransport()) as client,
            client.stream("GET", server.url()) as response,
        ):
            lines = response.aiter_lines()
            assert await anext(lines) == "first"
            assert response.extensions["trailers"] == []
            go_on.release()
            assert [line async for line in lines] == ["second"]
            assert response.extensions["trailers"] == trailers

    with serve(respond) as server:
        with (
            httpx.Client(transport=DugongTransport()) as client,
            client.stream("GET", server.url()) as response,
        ):
            lines = response.iter_lines()
            assert next(lines) == "first"
            assert response.extensions["trailers"] == []
            go_on.release()
            assert list(lines) == ["second"]
            assert response.extensions["trailers"] == trailers
        run(main)


def test_a_response_that_is_closed_early_gives_its_connection_back(httpx: Any, run: Run) -> None:
    options = {"max_connections_per_host": 1, "deadline": 10}

    async def main() -> None:
        transport = AsyncDugongTransport(**options)
        async with httpx.AsyncClient(transport=transport) as client:
            async with client.stream("GET", server.url("/large")) as response:
                assert response.status_code == 200
            request = httpx.Request("GET", server.url("/large"))
            response = await transport.handle_async_request(request)
            async with aclosing(aiter(response.stream)) as pieces:
                assert await anext(pieces)
            await response.aclose()
            assert (await client.get(server.url("/a"))).text == "/a"

    with serve(name_target) as server:
        with httpx.Client(transport=DugongTransport(**options)) as client:
            with client.stream("GET", server.url("/large")) as response:
                assert response.status_code == 200
            with client.stream("GET", server.url("/large")) as response:
                assert next(response.iter_raw())
            assert client.get(server.url("/a")).text == "/a"
        run(main)


def test_a_body_that_was_read_gives_its_connection_back_before_it_is_closed(
    httpx: Any, run: Run
) -> None:
    options = {"max_connections_per_host": 1, "deadline": 10}
    request = httpx.Request("GET", "http://127.0.0.1/")

    async def main() -> None:
        async with AsyncDugongTransport(**options) as transport:
            for _ in range(2):
                response = await transport.handle_async_request(request)
                assert b"".join([piece async for piece in response.stream]) == LARGE

    with serve(name_target) as server:
        request.url = httpx.URL(server.url("/large"))
        with DugongTransport(**options) as transport:
            for _ in range(2):
                assert b"".join(transport.handle_request(request).stream) == LARGE
        run(main)


def test_a_response_that_is_forgotten_gives_its_connection_back(httpx: Any) -> None:
    with (
        serve(name_target) as server,
        ConnectionPool(max_connections_per_host=1) as pool,
        httpx.Client(transport=DugongTransport(pool)) as client,
    ):
        response = client.send(client.build_request("GET", server.url("/large")), stream=True)
        del response
        gc.collect()
        wait_until(pool, lambda: not pool.statistics().in_flight)
        assert client.get(server.url("/a")).text == "/a"


def test_many_threads_and_tasks_get_their_own_responses(httpx: Any, run: Run) -> None:
    paths = [f"/{number}" for number in range(100)]

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncDugongTransport(pool)) as client:
            if run is run_asyncio:
                responses = await asyncio.gather(*(client.get(server.url(p)) for p in paths))
                assert [response.text for response in responses] == paths
                return
            texts = {}

            async def get(path: str) -> None:
                texts[path] = (await client.get(server.url(path))).text

            async with trio.open_nursery() as nursery:
                for path in paths:
                    nursery.start_soon(get, path)
            assert texts == {path: path for path in paths}

    with (
        serve(name_target) as server,
        ConnectionPool() as pool,
        httpx.Client(transport=DugongTransport(pool), timeout=None) as client,
        ThreadPoolExecutor(8) as executor,
    ):
        texts = executor.map(lambda path: client.get(server.url(path)).text, paths)
        assert list(texts) == paths
        run(main)


# --- what goes wrong ------------------------------------------------------------------------------


def raised(
    httpx: Any, run: Run, url: str, error: type[Exception], method: str = "GET", **options: Any
) -> list[Any]:
    """Return the exceptions of the kind *error* that each of the transports raises."""
    of_transport = {
        name: options.pop(name)
        for name in ("pool", "proxy", "resolver", "deadline", "ssl_context")
        if name in options
    }
    caught = []

    async def main() -> None:
        transport = AsyncDugongTransport(**of_transport)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(error) as excinfo:
                await client.request(method, url, **options)
            caught.append(excinfo.value)

    with httpx.Client(transport=DugongTransport(**of_transport)) as client:
        with pytest.raises(error) as excinfo:
            client.request(method, url, **options)
        caught.append(excinfo.value)
    run(main)
    for exc in caught:
        assert type(exc) is error
        assert exc.request.url == url
    return caught


def test_what_is_no_url_of_http_is_an_unsupported_protocol(httpx: Any, run: Run) -> None:
    raised(httpx, run, "ftp://127.0.0.1/", httpx.UnsupportedProtocol)


def test_what_cannot_be_sent_is_a_local_protocol_error(httpx: Any, run: Run) -> None:
    for headers in ({"X-A": "a\nb"}, {"Upgrade": "x"}, {"Content-Length": "a"}):
        raised(httpx, run, "http://127.0.0.1:9/", httpx.LocalProtocolError, headers=headers)


def test_what_cannot_be_connected_to_is_a_connect_error(httpx: Any, run: Run) -> None:
    with ScriptedServer() as server:
        url = server.url()
    for exc in raised(httpx, run, url, httpx.ConnectError):
        assert isinstance(exc.__cause__, dugong.ConnectError)
        assert exc.__cause__.delivery is Delivery.UNSENT
    raised(httpx, run, "http://127.0.0.1:65536/", httpx.ConnectError)
    raised(httpx, run, "http://name.invalid/", httpx.ConnectError, resolver=lambda *_: [])


def test_a_certificate_that_is_not_trusted_is_a_connect_error(
    httpx: Any, run: Run, server_context: ssl.SSLContext
) -> None:
    with ScriptedServer(discard_rest, context=server_context, repeat=True) as server:
        url = server.url().replace("http:", "https:")
        for exc in raised(httpx, run, url, httpx.ConnectError):
            assert isinstance(exc.__cause__, dugong.TLSError)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
    ids=["nothing", "nonsense", "half a head", "half a body", "bad chunk"],
)
def test_what_breaks_the_protocol_is_a_remote_protocol_error(
    httpx: Any, run: Run, data: bytes
) -> None:
    with ScriptedServer(sends(data), repeat=True) as server:
        raised(httpx, run, server.url(), httpx.RemoteProtocolError)


def test_what_a_proxy_refuses_is_a_proxy_error(httpx: Any, run: Run) -> None:
    def refuse(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(b"", "403 Forbidden")

    with serve(refuse) as server:
        proxy = f"http://{server.host}:{server.port}"
        raised(httpx, run, "https://www.example.com/", httpx.ProxyError, proxy=proxy)


def test_a_proxy_leads_to_the_server(httpx: Any) -> None:
    with serve(name_target) as server:
        there = HttpProxy((server.host, server.port))
        with ScriptedServer(there, repeat=True) as proxy:
            transport = DugongTransport(proxy=(proxy.host, proxy.port))
            with httpx.Client(transport=transport) as client:
                assert client.get(server.url("/a")).status_code == 200


def test_no_connection_in_time_is_a_connect_timeout(httpx: Any, run: Run) -> None:
    with ScriptedServer(discard_rest, repeat=True) as server:  # which says nothing of TLS
        url = server.url().replace("http:", "https:")
        options = {"method": "POST", "content": b"x", "timeout": httpx.Timeout(10, connect=SOON)}
        for exc in raised(httpx, run, url, httpx.ConnectTimeout, **options):
            assert exc.__cause__.delivery is Delivery.UNSENT


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd"])
def test_a_response_that_stops_coming_is_a_read_timeout(httpx: Any, run: Run, data: bytes) -> None:
    with ScriptedServer(sends(data, wait=True), repeat=True) as server:
        soon = httpx.Timeout(SOON, connect=10, pool=10)  # a busy machine may take long to connect
        for timeout in (soon, httpx.Timeout(10, read=SOON), httpx.Timeout(10, read=0)):
            for exc in raised(httpx, run, server.url(), httpx.ReadTimeout, timeout=timeout):
                assert isinstance(exc.__cause__, ConnectionTimedOut)


def test_a_body_that_is_not_taken_is_a_write_timeout(httpx: Any, run: Run) -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        assert done.wait(10)

    with ScriptedServer(script, repeat=True) as server:
        timeout = httpx.Timeout(10, write=SOON)
        options = {"method": "PUT", "content": LARGE * 20, "timeout": timeout}
        raised(httpx, run, server.url(), httpx.WriteTimeout, **options)
        done.set()


def test_no_free_connection_in_time_is_a_pool_timeout(httpx: Any, run: Run) -> None:
    options = {"max_connections_per_host": 1}
    timeout = httpx.Timeout(10, pool=SOON)

    async def main() -> None:
        transport = AsyncDugongTransport(**options)
        async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:
            async with client.stream("GET", server.url("/large")):
                with pytest.raises(httpx.PoolTimeout):
                    await client.get(server.url())
            assert (await client.get(server.url("/a"))).text == "/a"

    with serve(name_target) as server:
        with (
            httpx.Client(transport=DugongTransport(**options), timeout=timeout) as client,
            ThreadPoolExecutor(1) as executor,
        ):
            with client.stream("GET", server.url("/large")):
                other = executor.submit(client.get, server.url())
                assert isinstance(other.exception(10), httpx.PoolTimeout)
                with pytest.raises(httpx.PoolTimeout, match="would wait for itself"):
                    client.get(server.url())
            assert client.get(server.url("/a")).text == "/a"
        run(main)


def test_a_deadline_holds_for_all_of_a_request(httpx: Any, run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        discard_rest(peer)

    with ScriptedServer(script, repeat=True) as server:
        for exc in raised(
            httpx, run, server.url(), httpx.ReadTimeout, deadline=4 * SOON, timeout=None
        ):
            assert "deadline" in str(exc)


def test_a_request_without_limits_has_those_of_the_pool(httpx: Any) -> None:
    with (
        ScriptedServer(sends(b"", wait=True)) as server,
        DugongTransport(timeout=SOON) as transport,
        pytest.raises(httpx.ReadTimeout),
    ):
        transport.handle_request(httpx.Request("GET", server.url()))


def test_nothing_is_tried_again_unless_a_policy_says_so(httpx: Any) -> None:
    statuses = iter(["503 Busy", "503 Busy", "200 OK"])
    with serve(lambda peer, _: peer.respond(b"", next(statuses))) as server:
        with httpx.Client(transport=DugongTransport()) as client:
            assert client.get(server.url()).status_code == 503
        retry = RetryPolicy(backoff=0)
        with httpx.Client(transport=DugongTransport(retry=retry)) as client:
            assert client.get(server.url()).status_code == 200


# --- tasks that are cancelled ---------------------------------------------------------------------


def test_a_request_is_cancelled_with_its_task_and_no_other(httpx: Any, run: Run) -> None:
    asked, left = threading.Event(), threading.Event()

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        if request.target == "/held":
            asked.set()
            peer.until_eof()
            left.set()
        else:
            peer.respond(b"other")

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncDugongTransport(), timeout=None) as client:
            if run is run_asyncio:
                task = asyncio.create_task(client.get(server.url("/held")))
                await came(asked)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.get, server.url("/held"))
                    await came(asked)
                    nursery.cancel_scope.cancel()
            assert (await client.get(server.url("/other"))).text == "other"
            await came(left)

    with serve(respond) as server:
        run(main)


def test_a_stream_that_waits_is_ended_with_its_task(httpx: Any, run: Run) -> None:
    left = threading.Event()

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na")
        peer.until_eof()
        left.set()

    async def main() -> None:
        async with httpx.AsyncClient(transport=AsyncDugongTransport(), timeout=None) as client:

            async def read() -> None:
                async with client.stream("GET", server.url()) as response:
                    async for _ in response.aiter_raw():
                        begun.set()

            if run is run_asyncio:
                begun: Any = asyncio.Event()
                task = asyncio.create_task(read())
                await begun.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await came(left)
            else:
                begun = trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read)
                    await begun.wait()
                    nursery.cancel_scope.cancel()
                await came(left)

    with serve(respond) as server:
        run(main)
