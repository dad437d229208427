"""`DugongDownloadHandler`: what Scrapy asks for, and what it gets.

The handler runs in an event loop of asyncio, without a reactor, as it may: that of Twisted would
leave its pipes behind. Whole crawls are in processes of their own.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import scrapy
from scrapy import exceptions as errors
from scrapy import signals
from scrapy.http import HtmlResponse
from scrapy.settings import Settings
from scrapy.signalmanager import SignalManager

from dugong import ConnectionClosed, ConnectionPool, HTTPConnection, PoolClosed
from dugong.adapters import scrapy as adapter
from dugong.adapters.scrapy import DugongDownloadHandler
from tests.support.client import Page, Place
from tests.support.names import FakeNames
from tests.support.pool import GONE, discard_rest, each, name_target
from tests.support.proxies import HttpProxy, SocksProxy
from tests.support.server import TIMEOUT, Peer, ScriptedServer

HTTP = "HTTP/1.1 200 OK\r\n"


def crawler_of(**settings: Any) -> Any:
    """Return what a handler needs of a crawler with *settings*."""
    crawler = SimpleNamespace(settings=Settings(settings), spider=None)
    crawler.signals = SignalManager(crawler)
    return crawler


def download(request: scrapy.Request, crawler: Any = None, **settings: Any) -> Any:
    """Download *request* with a handler of its own; return the response."""
    (response,) = download_all([request], crawler, **settings)
    return response


def download_all(requests: list[scrapy.Request], crawler: Any = None, **settings: Any) -> list[Any]:
    """Download *requests* at once with one handler; return the responses."""

    async def main() -> list[Any]:
        handler = DugongDownloadHandler.from_crawler(crawler or crawler_of(**settings))
        try:
            return await asyncio.gather(*map(handler.download_request, requests))
        finally:
            await handler.close()

    return asyncio.run(main())


def url(server: ScriptedServer, target: str = "/", scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.port}{target}"


def sends(*parts: str) -> Callable[[Peer], None]:
    """Return a script that responds to a request with *parts*, and closes the connection."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send("".join(parts).encode())

    return script


CUT = f"{HTTP}Content-Length: 9\r\n\r\n", "cut"


# --- requests and responses -----------------------------------------------------------------------


def test_a_response_is_as_scrapy_has_them() -> None:
    page = Page(
        b"<p>fish</p>", "404 Gone fishing", "Content-Type: text/html\r\nX-A: 1\r\nX-A: 2\r\n"
    )
    here = Place(lambda request: page)
    with here.server:
        request = scrapy.Request(here.url("/page?a=b"))
        response = download(request)
    assert type(response) is HtmlResponse
    assert (response.status, response.body, response.flags) == (404, b"<p>fish</p>", [])
    assert response.url == request.url
    assert response.headers.getlist("X-A") == [b"1", b"2"]
    assert response.ip_address == ipaddress.ip_address("127.0.0.1")
    assert (response.protocol, response.certificate) == ("HTTP/1.1", None)
    assert 0 < request.meta["download_latency"] < TIMEOUT


def test_a_body_stays_coded() -> None:
    here = Place(lambda request: Page(b"\x1f\x8bzip", headers="Content-Encoding: gzip\r\n"))
    with here.server:
        assert download(scrapy.Request(here.url())).body == b"\x1f\x8bzip"


def test_the_header_fields_are_those_of_the_request() -> None:
    here = Place({})
    with here.server:
        headers = {"X-A": ["1", "2"], "Accept-Encoding": "br", "Cookie": None}
        download(scrapy.Request(here.url(), headers=headers))
        headers = {"User-Agent": "spider"}
        download(scrapy.Request(here.url(), method="POST", headers=headers, body=b"body"))
        download(scrapy.Request(here.url(), method="POST"))
    first, second, third = here.requests
    host = f"127.0.0.1:{here.server.port}"
    assert first.headers.keys() == {"host", "x-a", "accept-encoding"}
    assert first.head.count(b"\r\nX-A: ") == 2
    assert second.headers["user-agent"] == "spider"
    assert (second.headers["host"], second.headers["content-length"]) == (host, "4")
    assert second.body == b"body"
    assert third.headers["content-length"] == "0"


def test_a_redirect_is_scrapys_to_follow() -> None:
    here = Place(lambda request: Page(status="302 Found", headers="Location: /there\r\n"))
    with here.server:
        response = download(scrapy.Request(here.url()))
    assert (response.status, response.headers["Location"]) == (302, b"/there")
    assert here.targets == ["GET /"]


def test_a_url_is_sent_as_it_stands() -> None:
    here = Place({})
    with here.server:
        request = scrapy.Request(here.url("/a?b[0]=c"), meta={"verbatim_url": True})
        assert download(request).url == here.url("/a?b[0]=c")
    assert here.targets == ["GET /a?b[0]=c"]


def test_requests_at_once_are_pipelined() -> None:
    here = Place({})
    with here.server:
        requests = [scrapy.Request(here.url(f"/{number}")) for number in range(50)]
        responses = download_all(requests, DUGONG_POOL={"max_connections_per_host": 1})
        assert here.server.connections == 1
    assert [response.body for response in responses] == [b"/%d" % n for n in range(50)]


def test_options_of_a_pool_may_be_set_on_the_command_line() -> None:
    here = Place({})
    with here.server:
        download(scrapy.Request(here.url()), DUGONG_POOL='{"headers": {"X-A": "1"}}')
    assert here.requests[0].headers["x-a"] == "1"


@pytest.mark.parametrize("options", [{"max_connections": 0}, {"connections": 3}])
def test_options_that_make_no_sense_are_told_at_once(options: dict[str, int]) -> None:
    with pytest.raises((ValueError, TypeError), match="connections"):
        download_all([], DUGONG_POOL=options)


@pytest.mark.parametrize("request_", ["ftp://127.0.0.1/", "unsupp://a.b"])
def test_another_scheme_is_not_supported(request_: str) -> None:
    with pytest.raises(errors.UnsupportedURLSchemeError):
        download(scrapy.Request(request_))


def test_what_cannot_be_sent_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="X-A"):
        download(scrapy.Request("http://127.0.0.1:1/", headers={"X-A": "a\r\nb"}))


def test_without_asyncio_it_is_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "is_asyncio_available", lambda: False)
    with pytest.raises(errors.NotConfigured, match="asyncio"):
        DugongDownloadHandler(crawler_of())


# --- what goes wrong ------------------------------------------------------------------------------


def refused() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_a_refused_connection() -> None:
    with pytest.raises(errors.DownloadConnectionRefusedError) as caught:
        download(scrapy.Request(refused() + "?secret"))
    assert "secret" not in str(caught.value)


def test_a_host_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    names = FakeNames()
    names("origin.test", socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    with pytest.raises(errors.CannotResolveHostError):
        download(scrapy.Request("http://origin.test/"))


@pytest.mark.parametrize("fails", [True, False])
def test_a_response_that_does_not_come(fails: bool) -> None:
    meta = {"download_fail_on_dataloss": fails}
    with (
        ScriptedServer(lambda peer: peer.request() and None) as server,
        pytest.raises(errors.DownloadFailedError) as caught,
    ):
        download(scrapy.Request(url(server), meta=meta))
    assert isinstance(caught.value.__cause__, ConnectionClosed)


@pytest.mark.parametrize("meta", [{"download_timeout": 0.2}, {}])
@pytest.mark.parametrize("parts", [[], CUT])
def test_a_download_that_takes_too_long(meta: dict[str, Any], parts: list[str]) -> None:
    def script(peer: Peer) -> None:
        with suppress(*GONE):
            sends(*parts)(peer)
            discard_rest(peer)

    with (
        ScriptedServer(script) as server,
        pytest.raises(errors.DownloadTimeoutError, match="GET http://127"),
    ):
        download(scrapy.Request(url(server), meta=meta), DOWNLOAD_TIMEOUT=0.2)


def test_a_certificate_that_is_not_trusted(server_context: ssl.SSLContext) -> None:
    def fails() -> None:
        with ScriptedServer(lambda peer: peer.until_eof(), context=server_context) as server:
            request = scrapy.Request(url(server, scheme="https"))
            download(request, DOWNLOAD_VERIFY_CERTIFICATES=True)

    with pytest.raises(errors.DownloadFailedError, match=r"the certificate of \S+ is refused"):
        fails()


def test_data_loss_fails_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main(request: scrapy.Request) -> None:
        handler = DugongDownloadHandler(crawler_of())
        for _ in range(2):
            with pytest.raises(errors.ResponseDataLossError):
                await handler.download_request(request)
        await handler.close()

    with ScriptedServer(sends(*CUT), repeat=True) as server:
        asyncio.run(main(scrapy.Request(url(server))))
    assert caplog.text.count("data loss") == 1


@pytest.mark.parametrize("by_meta", [True, False])
@pytest.mark.parametrize(
    "parts", [CUT, (f"{HTTP}Transfer-Encoding: chunked\r\n\r\n", "3\r\ncut\r\nbad")]
)
def test_what_has_come_is_kept_if_data_loss_is_allowed(parts: list[str], by_meta: bool) -> None:
    meta = {"download_fail_on_dataloss": False} if by_meta else {}
    with ScriptedServer(sends(*parts)) as server:
        request = scrapy.Request(url(server), meta=meta)
        response = download(request, DOWNLOAD_FAIL_ON_DATALOSS=by_meta)
    assert (response.body, response.flags) == (b"cut", ["dataloss"])


def test_a_task_that_is_cancelled_cancels_its_download() -> None:
    asked, gone = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        asked.set()
        discard_rest(peer)
        gone.set()

    async def main(request: scrapy.Request) -> None:
        handler = DugongDownloadHandler(crawler_of())
        task = asyncio.create_task(handler.download_request(request))
        await asyncio.to_thread(asked.wait, TIMEOUT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gone.wait, TIMEOUT)
        await handler.close()

    with ScriptedServer(script) as server:
        asyncio.run(main(scrapy.Request(url(server))))


@pytest.mark.parametrize("fails", [True, False])
def test_closing_lets_what_is_under_way_end(fails: bool) -> None:
    asked, closed = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        request = peer.request()
        asked.set()
        assert closed.wait(TIMEOUT)
        name_target(peer, request)

    async def main(request: scrapy.Request) -> ConnectionPool:
        handler = DugongDownloadHandler(crawler_of())
        task = asyncio.create_task(handler.download_request(request))
        await asyncio.to_thread(asked.wait, TIMEOUT)
        (pool,) = handler._bridges
        await handler.close()
        closed.set()
        assert (await task).body == b"/a"
        return pool

    with ScriptedServer(script) as server:
        meta = {"download_fail_on_dataloss": fails}
        pool = asyncio.run(main(scrapy.Request(url(server, "/a"), meta=meta)))
        with pytest.raises(PoolClosed):
            pool.get(url(server))
        pool.close()  # which waits for its threads


# --- sizes ----------------------------------------------------------------------------------------

CHUNKED = (
    f"{HTTP}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    "5\r\n12345\r\n0\r\n\r\n",
)
ANNOUNCED = f"{HTTP}Content-Length: 5\r\nConnection: close\r\n\r\n", "12345"

Limits = dict[str, int]


@pytest.mark.parametrize(
    ("parts", "said"), [(ANNOUNCED, "Expected to receive 5 bytes"), (CHUNKED, "Received 5 bytes")]
)
@pytest.mark.parametrize(
    ("settings", "meta"),
    [({"DOWNLOAD_MAXSIZE": 4}, {}), ({"DOWNLOAD_MAXSIZE": 9}, {"download_maxsize": 4})],
)
def test_a_body_that_is_too_large_is_cancelled(
    parts: list[str],
    said: str,
    settings: Limits,
    meta: Limits,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        ScriptedServer(sends(*parts)) as server,
        pytest.raises(errors.DownloadCancelledError, match=f"{said}.*max size .4.") as caught,
    ):
        download(scrapy.Request(url(server), meta=meta), **settings)
    assert str(caught.value) in caplog.text


@pytest.mark.parametrize("parts", [ANNOUNCED, CHUNKED])
@pytest.mark.parametrize(
    ("settings", "meta"),
    [
        ({"DOWNLOAD_MAXSIZE": 5}, {}),
        ({"DOWNLOAD_MAXSIZE": 0}, {}),
        ({"DOWNLOAD_MAXSIZE": 4}, {"download_maxsize": 5}),
        ({"DOWNLOAD_MAXSIZE": 4}, {"download_maxsize": 0}),
    ],
)
def test_a_body_may_be_as_large_as_the_limit(
    parts: list[str], settings: Limits, meta: Limits
) -> None:
    with ScriptedServer(sends(*parts)) as server:
        assert download(scrapy.Request(url(server), meta=meta), **settings).body == b"12345"


def test_a_head_is_never_too_large() -> None:
    here = Place({"/": Page(b"12345")})
    with here.server:
        for meta in ({}, {"download_maxsize": 3}):
            request = scrapy.Request(here.url(), method="HEAD", meta=meta)
            response = download(request, DOWNLOAD_MAXSIZE=4, DOWNLOAD_WARNSIZE=4)
            assert (response.body, response.headers["Content-Length"]) == (b"", b"5")


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("parts", "said"), [(ANNOUNCED, "Expected to receive 5 bytes"), (CHUNKED, "Received 5 bytes")]
)
def test_a_large_body_is_warned_of_once(
    parts: list[str], said: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    meta = {"download_warnsize": 4, "download_fail_on_dataloss": not streamed}
    with ScriptedServer(sends(*parts)) as server:
        download(scrapy.Request(url(server), meta=meta))
    warned = [record.message for record in caplog.records if "warn size (4)" in record.message]
    assert [message[: len(said)] for message in warned] == [said]


# --- signals --------------------------------------------------------------------------------------

BODY = bytes(range(256)) * 1000


def test_the_signals_tell_of_head_and_body() -> None:
    heads: list[Any] = []
    pieces: list[bytes] = []

    def note_head(headers: Any, body_length: int, request: Any, spider: Any) -> None:
        heads.append((headers["X-A"], body_length, request, spider))

    def note_piece(data: bytes, request: Any, spider: Any) -> None:
        pieces.append(data)

    here = Place(lambda request: Page(BODY, headers="X-A: 1\r\n"))
    crawler = crawler_of()
    crawler.signals.connect(note_head, signals.headers_received)
    crawler.signals.connect(note_piece, signals.bytes_received)
    with here.server:
        request = scrapy.Request(here.url())
        assert download(request, crawler).body == BODY
    assert heads == [(b"1", len(BODY), request, None)]
    assert b"".join(pieces) == BODY
    assert len(pieces) > 1


@pytest.mark.parametrize("fail", [True, False])
@pytest.mark.parametrize("signal", [signals.headers_received, signals.bytes_received])
def test_a_receiver_stops_a_download(signal: object, fail: bool) -> None:
    asked: list[str] = []

    def stop() -> None:
        raise errors.StopDownload(fail=fail)

    def script(peer: Peer) -> None:
        asked.append(peer.request().target)
        with suppress(*GONE):
            peer.send(f"{HTTP}Content-Length: {10**12}\r\n\r\n".encode() + BODY)
            while True:  # until the client has closed the connection
                peer.send(BODY)

    crawler = crawler_of(DOWNLOAD_MAXSIZE=0)
    crawler.signals.connect(stop, signal)
    with ScriptedServer(script) as server:
        request = scrapy.Request(url(server))
        if fail:
            with pytest.raises(errors.StopDownload) as caught:
                download(request, crawler)
            response: Any = caught.value.response
        else:
            response = download(request, crawler)
    assert response.flags == ["download_stopped"]
    assert response.body == BODY[: len(response.body)]
    assert bool(response.body) == (signal is signals.bytes_received)


def test_a_receiver_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("no")

    crawler = crawler_of()
    crawler.signals.connect(fail, signals.headers_received)
    here = Place({})
    with here.server:
        assert download(scrapy.Request(here.url("/a")), crawler).body == b"/a"
    assert "Error caught on signal handler" in caplog.text


# --- proxies, addresses, TLS ----------------------------------------------------------------------

CREDENTIALS = "Basic dTpwQHc="  # of u, p@w


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_proxy_gets_its_credentials(scheme: str) -> None:
    script = HttpProxy(("127.0.0.1", 1))
    with ScriptedServer(script) as proxy:
        meta = {"proxy": f"{scheme}127.0.0.1:{proxy.port}"}
        headers = {"Proxy-Authorization": CREDENTIALS}
        response = download(scrapy.Request("http://origin.test/", meta=meta, headers=headers))
    assert response.body == b"http://origin.test/"
    assert script.requests[0].headers["proxy-authorization"] == CREDENTIALS


def test_the_credentials_for_a_proxy_do_not_go_to_the_server(
    server_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        peer.respond(peer.request().head)

    with ScriptedServer(script, context=server_context) as server:
        relay = HttpProxy(server.address)
        with ScriptedServer(relay) as proxy:
            meta = {"proxy": f"http://127.0.0.1:{proxy.port}"}
            headers = {"Proxy-Authorization": CREDENTIALS}
            request = scrapy.Request("https://localhost/", meta=meta, headers=headers)
            response = download(request)
    assert b"authorization" not in response.body.lower()
    assert relay.requests[0].method == "CONNECT"
    assert relay.requests[0].headers["proxy-authorization"] == CREDENTIALS


def test_credentials_are_not_sent_without_a_proxy() -> None:
    here = Place({})
    with here.server:
        download(scrapy.Request(here.url(), headers={"Proxy-Authorization": CREDENTIALS}))
    assert "proxy-authorization" not in here.requests[0].headers


def test_a_socks_proxy_gets_user_and_password() -> None:
    here = Place({})
    with here.server:
        relay = SocksProxy(here.server.address, (b"u", b"p@w"))
        with ScriptedServer(relay) as proxy:
            meta = {"proxy": f"socks5h://127.0.0.1:{proxy.port}"}
            headers = {"Proxy-Authorization": CREDENTIALS}
            request = scrapy.Request("http://origin.test/a", meta=meta, headers=headers)
            assert download(request).body == b"/a"
    assert relay.users == [(b"u", b"p@w")]


def test_a_socks_proxy_takes_basic_credentials_alone() -> None:
    meta = {"proxy": "socks5://127.0.0.1:1"}
    headers = {"Proxy-Authorization": "Bearer secret"}
    with pytest.raises(ValueError, match="Basic") as caught:
        download(scrapy.Request("http://origin.test/", meta=meta, headers=headers))
    assert "secret" not in str(caught.value)


def test_a_proxy_that_refuses_a_tunnel() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.respond(status="407 Proxy Authentication Required")

    with ScriptedServer(script) as proxy:
        meta = {"proxy": f"http://127.0.0.1:{proxy.port}"}
        request = scrapy.Request("https://origin.test/", meta=meta)
        with pytest.raises(errors.DownloadConnectionRefusedError, match="407"):
            download(request)


def tell_address(peer: Peer) -> None:
    peer.request()
    peer.respond(peer.sock.getpeername()[0].encode())


@pytest.mark.parametrize("address", ["127.0.0.3", ("127.0.0.3", 0), ["127.0.0.3", 0]])
def test_connections_come_from_the_address_of_the_request_or_the_setting(address: Any) -> None:
    with ScriptedServer(tell_address, repeat=True) as server:
        requests = [scrapy.Request(url(server)), scrapy.Request(url(server))]
        requests[1].meta["bindaddress"] = "127.0.0.2"
        responses = download_all(requests, DOWNLOAD_BIND_ADDRESS=address)
    assert [response.body for response in responses] == [b"127.0.0.3", b"127.0.0.2"]


def test_a_response_over_tls_has_the_certificate(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with ScriptedServer(each(name_target), repeat=True, context=server_context) as server:
        request = scrapy.Request(url(server, scheme="https"))
        response = download(request, DOWNLOADER_CLIENT_TLS_VERBOSE_LOGGING=True)
        with HTTPConnection("127.0.0.1", server.port, client_context) as conn:
            conn.connect()
            assert response.certificate == conn.get_ssl_peercert(binary_form=True)
    assert "SSL connection to 127.0.0.1 using protocol TLSv1.3, cipher TLS_" in caplog.text


# --- crawls ---------------------------------------------------------------------------------------

CRAWL = """
import sys

import scrapy
from scrapy.crawler import AsyncCrawlerProcess

HANDLER = "dugong.adapters.scrapy.DugongDownloadHandler"


class Spider(scrapy.Spider):
    name = "spider"

    async def start(self):
        for number in range(20):
            yield scrapy.Request(f"{sys.argv[1]}/{number}")

    def parse(self, response):
        yield {"body": response.text}


process = AsyncCrawlerProcess({
    "DOWNLOAD_HANDLERS": {"http": HANDLER, "https": HANDLER},
    "TWISTED_REACTOR_ENABLED": sys.argv[2] == "reactor",
    "TELNETCONSOLE_ENABLED": False,
    "LOG_LEVEL": "WARNING",
})
crawler = process.create_crawler(Spider)
process.crawl(crawler)
process.start()
stats = crawler.stats.get_stats()
print(stats["item_scraped_count"], stats["finish_reason"], stats["downloader/response_count"])
"""


@pytest.mark.parametrize("mode", ["reactor", "none"])
def test_a_crawl(mode: str) -> None:
    targets: list[str] = []

    def script(peer: Peer) -> None:
        with suppress(*GONE, TimeoutError):  # a connection may be idle while the crawl ends
            while True:
                request = peer.request()
                targets.append(request.target)
                name_target(peer, request)

    with ScriptedServer(script, repeat=True) as server:
        done = subprocess.run(
            [sys.executable, "-c", CRAWL, f"http://127.0.0.1:{server.port}", mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
    assert "20 finished 20" in done.stdout.splitlines(), done.stdout
    # What waits behind a slow response may have been sent a second time (`pipeline_rescue`).
    assert set(targets) == {f"/{number}" for number in range(20)}


def test_a_handler_that_was_closed_is_collected() -> None:
    async def main() -> weakref.ref[DugongDownloadHandler]:
        handler = DugongDownloadHandler(crawler_of())
        await handler.download_request(scrapy.Request(here.url()))
        await handler.close()
        return weakref.ref(handler)

    here = Place({})
    with here.server:
        forgotten = asyncio.run(main())
    gc.collect()
    assert forgotten() is None
