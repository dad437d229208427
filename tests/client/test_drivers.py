"""The drivers run the same flow: blocking, behind a future, as a stream."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from dugong import (
    Auth,
    ConnectionTimedOut,
    DecodingError,
    Delivery,
    RedirectError,
    Request,
    Response,
    ResponseTooLarge,
    StreamedResponse,
)
from dugong.client.client import Client
from tests.support.client import Page, moved, open_places
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

Way = Callable[..., Response | StreamedResponse]


def blocking(client: Client, method: str, url: str, **options: Any) -> Response:
    return client.request(method, url, **options)


def future(client: Client, method: str, url: str, **options: Any) -> Response:
    return client.submit(method, url, **options).result(TIMEOUT)


def streamed(client: Client, method: str, url: str, **options: Any) -> Response:
    with client.stream(method, url, **options) as response:
        whole = Response(
            response.status, response.reason, response.headers, response.read(), response.request
        )
        whole.history = response.history
    return whole


def mapped(client: Client, method: str, url: str) -> Response:
    [response] = client.map([url])
    return response


def completed(client: Client, method: str, url: str) -> Response:
    [done] = client.as_completed([url])
    return done.result()


WAYS = [blocking, future, streamed, mapped, completed]
WITH_OPTIONS = WAYS[:3]


def gzipped(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(body) + compressor.flush()


CODED = Page(gzipped(b"decoded"), headers="Content-Encoding: gzip\r\n")


@pytest.mark.parametrize("way", WAYS)
def test_the_body_of_a_redirect_is_not_decoded_to_more_than_a_mebibyte(way: Way) -> None:
    """A few KiB of each of twenty redirects may stand for all of the memory."""
    small, bomb = gzipped(bytes(1024 * 1024)), gzipped(bytes(1024 * 1024 + 1))
    pages = {
        "/a": moved("/b", headers="Content-Encoding: gzip\r\n")._replace(body=bomb),
        "/b": moved("/c", headers="Content-Encoding: gzip\r\n")._replace(body=small),
    }
    with open_places(pages) as (client, [here]):
        response = way(client, "GET", here.url("/a"))
        assert response.body == b"/c"
        assert [earlier.body for earlier in response.history] == [bomb, bytes(1024 * 1024)]


@pytest.mark.parametrize("way", WAYS)
def test_each_follows_redirects_and_tells_them(way: Way) -> None:
    with open_places({"/a": moved("/b"), "/b": moved("/c")}) as (client, [here]):
        response = way(client, "GET", here.url("/a"))
        assert isinstance(response, Response)
        assert response.body == b"/c"
        assert response.url == here.url("/c")
        assert [(earlier.status, earlier.body) for earlier in response.history] == [
            (302, b"elsewhere"),
            (302, b"elsewhere"),
        ]


@pytest.mark.parametrize("way", WAYS)
def test_each_decodes(way: Way) -> None:
    with open_places({"/a": moved("/b"), "/b": CODED}) as (client, [here]):
        response = way(client, "GET", here.url("/a"))
        assert isinstance(response, Response)
        assert response.body == b"decoded"
        assert "gzip" in here.requests[0].headers["accept-encoding"]


@pytest.mark.parametrize("way", WAYS)
def test_a_client_that_does_not_decode_asks_for_no_codings(way: Way) -> None:
    with open_places({"/a": CODED}, decode=False) as (client, [here]):
        response = way(client, "GET", here.url("/a"))
        assert isinstance(response, Response)
        assert response.body == CODED.body
        assert here.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "field", ["content-encoding:gzip", "CONTENT-ENCODING:\tGZip ", "cOnTeNt-eNcOdInG: x-gzip"]
)
def test_each_decodes_however_the_field_is_written(way: Way, field: str) -> None:
    with open_places({"/a": CODED._replace(headers=f"{field}\r\n")}) as (client, [here]):
        assert way(client, "GET", here.url("/a")).body == b"decoded"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "headers",
    [
        "Content-Encoding: gzip\r\nCONTENT-ENCODING: identity\r\n",
        "X-Content-Encoding: br\r\nContent-Encoding: gzip\r\n",
        "Content-Encoding: gzip\r\nX: Content-Encoding: br\r\n",
        "Content-Encoding: gzip, identity\r\n",
    ],
)
def test_each_decodes_what_all_the_fields_together_say(way: Way, headers: str) -> None:
    with open_places({"/a": CODED._replace(headers=headers)}) as (client, [here]):
        assert way(client, "GET", here.url("/a")).body == b"decoded"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "headers", ["X-Content-Encoding: gzip\r\n", "X: content-encoding: gzip\r\n"]
)
def test_each_leaves_alone_what_only_looks_coded(way: Way, headers: str) -> None:
    with open_places({"/a": Page(b"plain", headers=headers)}) as (client, [here]):
        assert way(client, "GET", here.url("/a")).body == b"plain"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("last", ["Content-Encoding: gzip", "Content-Encoding: identity, gzip"])
def test_each_decodes_if_the_last_field_says_so(way: Way, last: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(CODED.body)}\r\n{last}\r\n\r\n"

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head.encode() + CODED.body)

    with ScriptedServer(script) as server, Client(trust_env=False) as client:
        assert way(client, "GET", f"http://{server.host}:{server.port}/").body == b"decoded"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["Set-Cookie", "set-cookie", "SET-COOKIE", "sEt-cOoKiE"])
@pytest.mark.parametrize("decode", [True, False])
def test_each_keeps_cookies_however_the_field_is_written(way: Way, name: str, decode: bool) -> None:
    page = Page(headers=f"{name}:a=1\r\n")
    with open_places({"/a": page}, decode=decode) as (client, [here]):
        way(client, "GET", here.url("/a"))
        assert client.cookies["a"] == "1"
        way(client, "GET", here.url("/b"))
        assert here.requests[1].headers["cookie"] == "a=1"


@pytest.mark.parametrize("way", WAYS)
def test_a_coding_that_is_cut_is_an_error(way: Way) -> None:
    with open_places({"/a": CODED._replace(body=CODED.body[:-1])}) as (client, [here]):
        with pytest.raises(DecodingError) as caught:
            way(client, "GET", here.url("/a"))
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        assert caught.value.request is not None


@pytest.mark.parametrize("way", [blocking, future])
def test_the_limit_of_bodies_counts_decoded_bytes(way: Way) -> None:
    page = CODED._replace(body=gzipped(bytes(100_000)))
    with (
        open_places({"/a": page}, max_body_size=50_000) as (client, [here]),
        pytest.raises(ResponseTooLarge),
    ):
        way(client, "GET", here.url("/a"))


@pytest.mark.parametrize("way", WITH_OPTIONS)
def test_a_part_of_a_coded_body_is_left_as_it_is(way: Way) -> None:
    page = CODED._replace(status="206 Partial Content", body=CODED.body[3:])
    with open_places({"/a": page}) as (client, [here]):
        response = way(client, "GET", here.url("/a"), headers={"Range": "bytes=3-"})
        assert isinstance(response, Response)
        assert response.body == page.body
        assert here.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("way", WAYS)
def test_what_a_redirect_cannot_do_is_told_by_each(way: Way) -> None:
    with open_places({"/a": moved("ftp://x/")}) as (client, [here]):
        with pytest.raises(RedirectError, match="ftp") as caught:
            way(client, "GET", here.url("/a"))
        assert caught.value.response is not None


@pytest.mark.parametrize("way", WITH_OPTIONS)
def test_the_deadline_is_for_all_requests_together(way: Way) -> None:
    times = iter(range(1000))
    slow = threading.Event()

    def serve(request: ReceivedRequest) -> Page:
        slow.wait(0.02)
        return moved(f"/{next(times)}")

    with open_places(serve, max_redirects=1000) as (client, [here]):
        with pytest.raises(ConnectionTimedOut, match="deadline"):
            way(client, "GET", here.url("/a"), deadline=0.3)
        assert 2 < len(here.requests) < 20
        slow.set()


def test_the_deadline_of_a_request_is_for_all_that_follow_it() -> None:
    times = iter(range(1000))
    slow = threading.Event()

    def serve(request: ReceivedRequest) -> Page:
        slow.wait(0.02)
        return moved(f"/{next(times)}")

    with open_places(serve, max_redirects=1000) as (client, [here]):
        request = Request("GET", here.url("/a"), deadline=0.3)
        with pytest.raises(ConnectionTimedOut, match="deadline"):
            client.request(request)
        with pytest.raises(ConnectionTimedOut, match="deadline"):
            client.submit(request).result(TIMEOUT)
        slow.set()


def test_a_request_may_be_mapped_and_is_that_of_the_response() -> None:
    with open_places({"/c": CODED}) as (client, [here]):
        requests = [
            Request("PUT", here.url(path), body=b"x", context=path) for path in ("/a", "/c")
        ]
        assert [(r.request, r.body) for r in client.map(requests)] == [
            (requests[0], b"/a"),
            (requests[1], b"decoded"),
        ]
        done = {future.request: future.result() for future in client.as_completed(requests)}
        assert {request: response.request for request, response in done.items()} == {
            request: request for request in requests
        }
        assert client.request(requests[0]).request is requests[0]


class Text(str):
    """A str of another class."""

    __slots__ = ()


@pytest.mark.parametrize("cookies", [None, {"a": "1"}])
def test_what_is_mapped_may_be_of_each_kind(cookies: dict[str, str] | None) -> None:
    options: dict[str, Any] = {"cookies": cookies, "max_connections_per_host": 1}
    with open_places({}, **options) as (client, [here]):
        url = here.url("/a")
        items = [url, here.url("/a b"), Text(url), url.replace("//", "//u:p@"), Request("PUT", url)]
        assert [r.body for r in client.map(items)] == [b"/a", b"/a%20b", b"/a", b"/a", b"/a"]
        assert [r.headers.get("cookie") for r in here.requests] == 5 * [cookies and "a=1"]
        assert ["authorization" in r.headers for r in here.requests] == [False] * 3 + [True, False]
        assert [r.method for r in here.requests] == ["GET"] * 4 + ["PUT"]
        with pytest.raises(ValueError, match="ftp"):
            list(client.map([url, "ftp://h/"]))
        with pytest.raises(TypeError):
            list(client.map([url, 7]))  # type: ignore[list-item]  # what the test is about


def test_a_request_that_is_mapped_is_redirected_with_its_body_and_its_context() -> None:
    pages = {"/a": moved("/b", "307 Temporary Redirect"), "/c": moved("/d", "303 See Other")}
    with open_places(pages) as (client, [here]):
        requests = [
            Request("PUT", here.url(path), body=b"x", context=path) for path in ("/a", "/c")
        ]
        got = [*client.map(requests), *map(client.request, requests)]
        assert [(r.url, r.request.body, r.request.context, len(r.history)) for r in got] == 2 * [
            (here.url("/b"), b"x", "/a", 1),
            (here.url("/d"), None, "/c", 1),
        ]


def test_a_future_can_be_cancelled_at_any_hop() -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def serve(request: ReceivedRequest) -> Page:
        if request.target == "/c":
            arrived.set()
            wait_for(go_on)
        return Page()

    with open_places({"/a": moved("/b")}, serve) as (client, [here, there]):
        here.pages["/b"] = moved(there.url("/c"))
        done = client.submit("GET", here.url("/a"))
        wait_for(arrived)
        assert done.running()
        assert done.cancel()
        with pytest.raises(CancelledError):
            done.result(TIMEOUT)
        go_on.set()


def test_the_request_of_a_future_is_the_first_one() -> None:
    with open_places({"/a": moved("/b")}) as (client, [here]):
        done = client.submit("GET", here.url("/a"))
        assert done.result(TIMEOUT).request.url == here.url("/b")
        assert done.request.url == here.url("/a")


def test_the_responses_on_the_way_are_decoded_if_they_can_be() -> None:
    coded = "Content-Encoding: gzip\r\nLocation: /b\r\n"
    page = Page(gzipped(b"moved"), "302 Found", coded)
    with open_places({"/a": page}) as (client, [here]):
        for way in WITH_OPTIONS:
            assert way(client, "GET", here.url("/a")).history[0].body == b"moved"


def test_a_stream_that_cannot_be_decoded_gives_its_connection_back() -> None:
    page = Page(b"x", headers=f"Content-Encoding: {', '.join(['gzip'] * 6)}\r\n")
    with open_places({"/a": page}, max_connections_per_host=1) as (client, [here]):
        with pytest.raises(DecodingError) as caught, client.stream("GET", here.url("/a")):
            pass
        assert caught.value.request is not None
        assert client.get(here.url("/b"), timeout=TIMEOUT).body == b"/b"


def test_a_stream_that_is_cut_says_what_it_is_the_response_to() -> None:
    page = CODED._replace(body=CODED.body[:-1])
    with open_places({"/a": page}) as (client, [here]):
        with pytest.raises(DecodingError, match="GET") as caught:
            streamed(client, "GET", here.url("/a"))
        assert caught.value.delivery is Delivery.ANSWER_STARTED


class Unclean(Auth):
    """Raises when it is closed."""

    def flow(self, request: Request) -> Any:
        try:
            yield request
        finally:
            raise KeyError


def test_a_flow_that_fails_when_it_is_closed_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = threading.Event()
    held = threading.Event()

    def serve(request: ReceivedRequest) -> Page:
        wait_for(held)
        return Page()

    with open_places(serve, max_connections_per_host=1, pipeline_depth=1) as (client, [here]):
        first = client.submit("GET", here.url("/a"), auth=Unclean())
        second = client.submit("GET", here.url("/b"))
        second.add_done_callback(lambda future: told.set())
        assert first.cancel()
        assert second.cancel()
        wait_for(told)
        held.set()
    assert "a flow has failed" in caplog.text


def test_a_stream_is_read_as_it_comes() -> None:
    body = bytes(range(256)) * 4000
    page = Page(gzipped(body), headers="Content-Encoding: gzip\r\n")
    with (
        open_places({"/a": moved("/b"), "/b": page}) as (client, [here]),
        client.stream("GET", here.url("/a")) as response,
    ):
        assert response.length is None
        assert response.read(10) == body[:10]
        assert b"".join(response) == body[10:]


def test_a_stream_that_is_not_entered_says_so() -> None:
    with open_places({}) as (client, [here]):
        stream = client.stream("GET", here.url("/a"))
        with pytest.raises(AttributeError, match="with pool"):
            stream.status  # type: ignore[attr-defined]  # noqa: B018  # what the test is about


def test_a_map_keeps_its_order_through_redirects() -> None:
    def serve(request: ReceivedRequest) -> Page:
        number = request.target[1:]
        if number.isdigit() and int(number) % 3 == 0:
            return moved(f"/x{number}")
        return Page(number.removeprefix("x").encode())

    with open_places(serve) as (client, [here]):
        urls = [here.url(f"/{number}") for number in range(300)]
        assert [response.text for response in client.map(urls)] == list(map(str, range(300)))
