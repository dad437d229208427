"""The adapter for requests: what is sent and received is what requests' own adapter would do."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

import dugong
from dugong import ConnectionPool, RetryPolicy
from tests.support.httpbin import open_httpbin
from tests.support.proxies import HttpProxy, SocksProxy
from tests.support.server import Peer, ReceivedRequest, Script, ScriptedServer

requests = pytest.importorskip("requests")
module = pytest.importorskip("dugong.adapters.requests")
DugongAdapter = module.DugongAdapter
mount = module.mount
kinds = requests.exceptions

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def _no_certificates_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def session() -> Iterator[Any]:
    """A session with the adapter, which is closed at the end."""
    with requests.Session() as session:
        mount(session)
        yield session


def each(respond: Callable[[Peer, ReceivedRequest], object]) -> Script:
    """Return a script that has *respond* called for each request."""

    def script(peer: Peer) -> None:
        for request in peer.requests():
            respond(peer, request)

    return script


def serve(*responses: bytes) -> ScriptedServer:
    """Return a server that sends the *responses* in turn, on any number of connections."""
    left = list(responses)

    def respond(peer: Peer, _: ReceivedRequest) -> None:
        peer.send(left.pop(0) if len(left) > 1 else left[0])

    return ScriptedServer(each(respond), repeat=True)


def ok(body: bytes = b"body", headers: str = "", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode("latin-1") + body


# --- what is received -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_that_of_requests(session: Any, stream: bool) -> None:
    headers = "Content-Type: text/plain; charset=utf-8\r\nX-Two: a\r\nX-Two: b\r\n"
    with serve(ok("\u00e4".encode(), headers)) as server, session:
        response = session.get(server.url("/a?b=c"), stream=stream)
        assert (response.status_code, response.reason, response.ok) == (200, "OK", True)
        assert response.headers["x-two"] == "a, b"
        assert response.encoding == "utf-8"
        assert response.url == server.url("/a?b=c")
        assert response.text == "\u00e4"
        assert response.elapsed.total_seconds() > 0
        assert response.raw.version == 11
        assert response.request.headers["User-Agent"].startswith("python-requests/")
        assert not response.history


@pytest.mark.parametrize("stream", [False, True])
def test_cookies_are_kept_and_sent(session: Any, stream: bool) -> None:
    heads = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        heads.append(request.headers)
        peer.respond(headers="Set-Cookie: a=1\r\nSet-Cookie: b=2; Path=/\r\n")

    with ScriptedServer(each(respond), repeat=True) as server, session:
        response = session.get(server.url(), stream=stream)
        assert response.cookies.get_dict() == {"a": "1", "b": "2"}
        assert session.cookies.get_dict() == {"a": "1", "b": "2"}
        session.get(server.url(), stream=stream)
    assert [head.get("cookie") for head in heads] == [None, "a=1; b=2"]


@pytest.mark.parametrize("stream", [False, True])
def test_redirects_are_followed_by_requests(session: Any, stream: bool) -> None:
    moved = ok(b"gone", "Location: /new\r\nSet-Cookie: a=1\r\n", "302 Found")
    with serve(moved, ok()) as server, session:
        response = session.post(server.url("/old"), data=b"data", stream=stream)
        assert response.content == b"body"
        assert response.url == server.url("/new")
        assert [earlier.status_code for earlier in response.history] == [302]
        assert response.request.method == "GET"
        assert session.cookies.get_dict() == {"a": "1"}
        assert server.connections == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [204, 304, 404, 500])
def test_any_status_is_a_response(session: Any, stream: bool, status: int) -> None:
    data = ok(b"", status=f"{status} Any") if status >= 400 else b"HTTP/1.1 %d Any\r\n\r\n" % status
    with serve(data) as server, session:
        response = session.get(server.url(), stream=stream)
        assert (response.status_code, response.content) == (status, b"")


def test_a_streamed_body_comes_as_it_is_sent(session: Any) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + b"6\r\nfirst\n\r\n")
        assert go_on.wait(10)
        peer.send(b"7\r\nsecond\n\r\n0\r\n\r\n")

    with (
        ScriptedServer(script) as server,
        session,
        session.get(server.url(), stream=True) as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == b"first"
        go_on.set()
        assert list(lines) == [b"second"]


def test_raw_is_a_file(session: Any) -> None:
    with serve(ok(b"0123456789")) as server, session:
        raw = session.get(server.url(), stream=True).raw
        assert raw.read(4) == b"0123"
        assert raw.tell() == 4
        assert raw.read() == b"456789"
        assert raw.closed


def test_responses_that_are_held_open_do_not_keep_others_waiting(session: Any) -> None:
    with serve(ok()) as server, session:
        held = [session.get(server.url(), stream=True) for _ in range(20)]
        assert session.get(server.url()).content == b"body"
        assert [response.content for response in held] == [b"body"] * 20


# --- what is sent ---------------------------------------------------------------------------------


def heads_of(send: Callable[[Any, str], object], session: Any) -> list[ReceivedRequest]:
    """Return the requests that *send* sends with *session* to a server."""
    received = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        received.append(request)
        peer.respond()

    with ScriptedServer(each(respond), repeat=True) as server, session:
        send(session, server.url("/path?query"))
    return received


def lines_of(request: ReceivedRequest) -> list[bytes]:
    """Return the lines of the head, but for what differs: the port, and the name of a boundary."""
    lines = request.head.split(b"\r\n")
    kept = (b"host: 127", b"content-type: multipart", b"transfer-encoding")
    return [line for line in lines if not line.lower().startswith(kept)]


CALLS: dict[str, Callable[[Any, str], object]] = {
    "plain": lambda s, url: s.get(url),
    "head": lambda s, url: s.head(url),
    "options": lambda s, url: s.options(url),
    "delete": lambda s, url: s.delete(url),
    "own method": lambda s, url: s.request("PURGE", url),
    "post without a body": lambda s, url: s.post(url),
    "form": lambda s, url: s.post(url, data={"a": "1"}),
    "json": lambda s, url: s.put(url, json={"a": 1}),
    "bytes": lambda s, url: s.post(url, data=b"bytes"),
    "text": lambda s, url: s.post(url, data="t\u00e4xt"),
    "bytearray": lambda s, url: s.post(url, data=bytearray(b"bytes")),
    "file": lambda s, url: s.post(url, data=io.BytesIO(b"content")),
    "rest of a file": lambda s, url: s.post(url, data=opened_at(__file__, 7)),
    "generator": lambda s, url: s.post(url, data=iter([b"a", b"", b"b"])),
    "texts": lambda s, url: s.post(url, data=iter(["\u00e4", b"b"])),
    "nothing": lambda s, url: s.post(url, data=iter([])),
    "header": lambda s, url: s.get(url, headers={"X-B": "1", "X-a": b"2", b"X-C": "\u00e4"}),
    "host": lambda s, url: s.get(url, headers={"Host": "example.com"}),
    "coding": lambda s, url: s.get(url, headers={"Accept-Encoding": "br"}),
    "close": lambda s, url: s.get(url, headers={"Connection": "close"}),
    "credentials": lambda s, url: s.get(url.replace("//", "//user:p%40ss@")),
    "fragment": lambda s, url: s.get(url + "#part"),
    "odd": lambda s, url: s.get(url + "&\u00e4='\"|%zz /b"),
    "cookies": lambda s, url: s.get(url, cookies={"a": "1"}),
}


def opened_at(path: str, offset: int) -> Any:
    file = io.BytesIO(Path(path).read_bytes()[:1000])
    file.seek(offset)
    return file


@pytest.mark.parametrize("name", CALLS)
def test_a_request_is_sent_as_requests_prepared_it(session: Any, name: str) -> None:
    [ours] = heads_of(CALLS[name], session)
    [theirs] = heads_of(CALLS[name], requests.Session())
    assert lines_of(ours) == lines_of(theirs)
    assert ours.headers.keys() == theirs.headers.keys()
    assert ours.headers.get("transfer-encoding") == theirs.headers.get("transfer-encoding")
    assert ours.body == theirs.body


def test_files_of_a_form_are_sent(session: Any) -> None:
    [received] = heads_of(lambda s, url: s.post(url, files={"f": ("n", b"content")}), session)
    assert b'name="f"; filename="n"\r\n\r\ncontent\r\n' in received.body
    assert int(received.headers["content-length"]) == len(received.body)


@pytest.mark.filterwarnings("ignore::requests.exceptions.FileModeWarning")
def test_a_file_in_text_mode_is_encoded(session: Any, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text", encoding="ascii")
    with open(path, encoding="ascii") as file:
        [received] = heads_of(lambda s, url: s.post(url, data=file), session)
    assert received.body == b"text"


def test_headers_that_are_left_out_are_not_sent(session: Any) -> None:
    headers = {"User-Agent": None, "Accept": None, "Accept-Encoding": None, "Connection": None}
    [received] = heads_of(lambda s, url: s.get(url, headers=headers), session)
    # As http.client does, for what is coded could not be understood.
    assert received.headers.pop("host")
    assert received.headers == {"accept-encoding": "identity"}


def test_a_redirect_that_keeps_the_method_sends_the_file_again(
    session: Any, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    bodies = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        bodies.append(request.body)
        status = "307 Again" if len(bodies) == 1 else "200 OK"
        peer.respond(status=status, headers="Location: /b\r\n")

    with ScriptedServer(each(respond), repeat=True) as server, session, open(path, "rb") as file:
        assert session.put(server.url(), data=file).status_code == 200
    assert bodies == [b"content", b"content"]


def test_the_server_may_refuse_a_body_before_it_is_sent(session: Any) -> None:
    def script(peer: Peer) -> None:
        request = peer.head()
        assert request.headers["expect"] == "100-continue"
        peer.respond(b"no", status="413 Too Large", headers="Connection: close\r\n")
        assert peer.until_eof() == b""

    with ScriptedServer(script) as server, session:
        headers = {"Expect": "100-continue"}
        response = session.put(server.url(), data=bytes(1_000_000), headers=headers)
        assert (response.status_code, response.content) == (413, b"no")


# --- exceptions -----------------------------------------------------------------------------------


def closed_port() -> int:
    with ScriptedServer() as server:
        return server.port


def sends(data: bytes, *, wait: bool = False) -> Script:
    """Return a script that responds with *data*, and closes, or waits for the client to do so."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        if wait:
            peer.until_eof()

    return script


@pytest.mark.parametrize("stream", [False, True])
def test_a_host_that_cannot_be_reached_is_a_connection_error(session: Any, stream: bool) -> None:
    with pytest.raises(kinds.ConnectionError) as caught:
        session.get(f"http://127.0.0.1:{closed_port()}/", stream=stream)
    assert not isinstance(caught.value, kinds.Timeout)
    assert isinstance(caught.value.__cause__, dugong.ConnectError)
    assert caught.value.__cause__.delivery is dugong.Delivery.UNSENT
    assert caught.value.request.method == "GET"


def test_a_name_without_an_address_is_a_connection_error() -> None:
    def resolver(host: str, port: int) -> list[str]:
        return []

    with requests.Session() as session:
        mount(session, resolver=resolver)
        with pytest.raises(kinds.ConnectionError) as caught:
            session.get("http://www.example.com/")
    assert isinstance(caught.value.__cause__, dugong.HostnameNotResolvable)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("data", [b"", b"nonsense\r\n\r\n"])
def test_no_response_is_a_connection_error(session: Any, stream: bool, data: bytes) -> None:
    with ScriptedServer(sends(data)) as server, session:
        with pytest.raises(kinds.ConnectionError) as caught:
            session.get(server.url(), stream=stream)
        assert isinstance(caught.value.__cause__, dugong.DugongError)
        assert not isinstance(caught.value, kinds.Timeout)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cut", [ok(b"0123456789")[:-6], CHUNKED + b"a\r\n0123"])
def test_a_body_that_is_cut_is_a_chunked_encoding_error(
    session: Any, stream: bool, cut: bytes
) -> None:
    with (
        ScriptedServer(sends(cut)) as server,
        session,
        pytest.raises(kinds.ChunkedEncodingError),
    ):
        _ = session.get(server.url(), stream=stream).content


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_does_not_come_is_a_read_timeout(session: Any, stream: bool) -> None:
    with ScriptedServer(sends(b"", wait=True)) as server, session:
        with pytest.raises(kinds.ReadTimeout, match="Read timed out") as caught:
            session.get(server.url(), stream=stream, timeout=(5, 0.05))
        assert isinstance(caught.value.__cause__, dugong.ConnectionTimedOut)


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_that_stops_coming_is_a_connection_error(session: Any, stream: bool) -> None:
    with (
        ScriptedServer(sends(ok(b"0123")[:-2], wait=True)) as server,
        session,
        pytest.raises(kinds.ConnectionError, match="Read timed out"),
    ):
        _ = session.get(server.url(), stream=stream, timeout=0.05).content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("timeout", [0.05, (0.05, None), (0.05, 10)])
def test_no_connection_in_time_is_a_connect_timeout(stream: bool, timeout: Any) -> None:
    go_on = threading.Event()

    def resolver(host: str, port: int) -> list[str]:
        assert go_on.wait(10)
        return ["127.0.0.1"]

    with requests.Session() as session:
        mount(session, resolver=resolver)
        with pytest.raises(kinds.ConnectTimeout) as caught:
            session.post("http://www.example.com/", data=b"x", stream=stream, timeout=timeout)
        assert caught.value.__cause__.delivery is dugong.Delivery.UNSENT
        go_on.set()


def test_the_time_to_connect_is_not_that_for_the_response(session: Any) -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        time.sleep(0.2)
        peer.respond(b"body")

    with ScriptedServer(each(respond)) as server, session:
        for stream in (False, True):
            response = session.get(server.url(), timeout=(0.1, 10), stream=stream)
            assert response.content == b"body"


def test_time_outs_of_urllib3_are_understood(session: Any) -> None:
    from urllib3.util import Timeout

    with ScriptedServer(sends(b"", wait=True), repeat=True) as server, session:
        for timeout in (Timeout(connect=5, read=0.05), Timeout(total=0.05)):
            with pytest.raises(kinds.ReadTimeout):
                session.get(server.url(), timeout=timeout)


@pytest.mark.parametrize("timeout", [0, -1, "foo", (1, 2, 3), (1, "foo"), True])
def test_a_timeout_that_makes_no_sense_is_a_value_error(session: Any, timeout: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)time"):
        session.get("http://127.0.0.1/", timeout=timeout)


def test_a_deadline_holds_for_all_of_a_request() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nX-A: ")
        with contextlib.suppress(OSError):  # the client closes the connection
            while True:
                peer.send(b"a")
                time.sleep(0.02)

    with ScriptedServer(script) as server, requests.Session() as session:
        mount(session, deadline=0.2)
        with pytest.raises(kinds.ReadTimeout):
            session.get(server.url(), timeout=10)


def test_a_url_that_cannot_be_asked_for_is_invalid(session: Any) -> None:
    request = requests.Request("GET", "http://127.0.0.1/").prepare()
    request.url = "http://exa mple/"
    with pytest.raises(kinds.InvalidURL) as caught:
        session.send(request)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_header_that_cannot_be_sent_is_invalid(session: Any) -> None:
    request = requests.Request("GET", "http://127.0.0.1/").prepare()
    request.headers["a b"] = "c"
    with pytest.raises(kinds.InvalidHeader):
        session.send(request)


def test_contradictory_lengths_are_an_invalid_header(session: Any) -> None:
    with (
        serve(ok(b"body", "Content-Length: 5\r\n")) as server,
        session,
        pytest.raises(kinds.InvalidHeader),
    ):
        session.get(server.url())


def test_what_the_body_of_a_request_raises_is_raised(session: Any) -> None:
    def body() -> Iterator[bytes]:
        yield b"a"
        raise KeyError("own")

    with (
        ScriptedServer(lambda peer: peer.until_eof()) as server,
        session,
        pytest.raises(KeyError, match="own"),
    ):
        session.post(server.url(), data=body())


def test_nothing_is_tried_again_unless_a_policy_says_so(session: Any) -> None:
    busy = ok(b"", status="503 Busy")
    with serve(busy, ok()) as server, session:
        assert session.get(server.url()).status_code == 503
    with serve(busy, ok()) as server, requests.Session() as other:
        mount(other, retry=RetryPolicy(backoff=0))
        assert other.get(server.url()).status_code == 200


def test_a_request_is_not_lost_with_another_one_on_its_connection() -> None:
    def close_early(peer: Peer) -> None:
        peer.request()
        peer.respond(b"body")
        peer.request()
        peer.request()  # which was sent behind the one before

    go_on = each(lambda peer, _: peer.respond(b"body"))
    with ScriptedServer(close_early, go_on) as server, requests.Session() as session:
        mount(session, deadline=10, max_connections_per_host=1)
        session.get(server.url())

        def get(_: int) -> str:
            try:
                return session.get(server.url()).text
            except kinds.ConnectionError:
                return "lost"

        with ThreadPoolExecutor(2) as executor:
            assert sorted(executor.map(get, range(2))) == ["body", "lost"]


def test_a_thread_that_would_wait_for_itself_is_told() -> None:
    with serve(ok(bytes(1_000_000))) as server, requests.Session() as session:
        mount(session, max_connections_per_host=1)
        with (
            session.get(server.url(), stream=True),
            pytest.raises(kinds.ConnectionError, match="would wait for itself") as caught,
        ):
            session.get(server.url())
        assert isinstance(caught.value.__cause__, dugong.StateError)


# --- certificates ---------------------------------------------------------------------------------


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def test_each_request_says_whom_it_trusts(
    session: Any, server_context: ssl.SSLContext, ca_file: str
) -> None:
    script = each(lambda peer, _: peer.respond(b"body"))
    with ScriptedServer(script, repeat=True, context=server_context) as server, session:
        for _ in range(2):
            assert session.get(server.url(), verify=ca_file).content == b"body"
            assert session.get(server.url(), verify=False).content == b"body"
        assert server.connections == 2
        with pytest.raises(kinds.SSLError) as caught:
            session.get(server.url())
        assert isinstance(caught.value.__cause__, dugong.TLSError)


def test_certificates_that_were_replaced_are_read_again(
    session: Any, server_context: ssl.SSLContext, ca_file: str
) -> None:
    script = each(lambda peer, _: peer.respond(b"body"))
    with ScriptedServer(script, repeat=True, context=server_context) as server, session:
        other = Path(ca_file).with_suffix(".other")
        trustme.CA().cert_pem.write_to_path(other)
        good = Path(ca_file).read_bytes()
        os.replace(other, ca_file)
        with pytest.raises(kinds.SSLError):
            session.get(server.url(), verify=ca_file)
        other.write_bytes(good)
        os.replace(other, ca_file)
        assert session.get(server.url(), verify=ca_file).content == b"body"


def test_a_client_shows_its_certificate(
    session: Any, authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    issued = authority.issue_cert("client.example.com")
    both, cert, key = (str(tmp_path / name) for name in ("both", "cert", "key"))
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    script = each(lambda peer, _: peer.respond(b"body"))
    with ScriptedServer(script, repeat=True, context=context) as server, session:
        for shown in (both, (cert, key)):
            got = session.get(server.url(), verify=ca_file, cert=shown)
            assert got.content == b"body"
        with pytest.raises(kinds.ConnectionError):
            session.get(server.url(), verify=ca_file)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"verify": "/missing/ca"}, "a suitable TLS CA certificate bundle"),
        ({"cert": "/missing/cert"}, "the TLS certificate file"),
        ({"cert": (__file__, "/missing/key")}, "the TLS key file"),
    ],
)
def test_a_file_that_is_not_there_is_named(
    session: Any, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(OSError, match=f"Could not find {named}, invalid path: /missing/"):
        session.get("https://127.0.0.1/", **options)


def test_a_file_that_is_no_certificate_is_an_ssl_error(session: Any) -> None:
    with pytest.raises(kinds.SSLError):
        session.get("https://127.0.0.1/", verify=__file__)


# --- proxies --------------------------------------------------------------------------------------


def test_each_request_names_its_proxy(session: Any) -> None:
    script = HttpProxy(("127.0.0.1", 9))
    with ScriptedServer(script, repeat=True) as proxy, serve(ok(b"direct")) as server, session:
        proxies = {"http": f"http://user:p%40ss@{proxy.host}:{proxy.port}"}
        for _ in range(2):
            got = session.get("http://www.example.com/a?b", proxies=proxies)
            assert got.content == b"http://www.example.com/a?b"
            assert session.get(server.url()).content == b"direct"
        assert proxy.connections == 1
    for request in script.requests:
        assert request.head.lower().count(b"\r\nproxy-authorization: basic dxnlcjpwqhnz\r\n") == 1
        assert request.headers["host"] == "www.example.com"


def test_a_proxy_may_stand_in_the_environment(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(HttpProxy(("127.0.0.1", 9)), repeat=True) as proxy, session:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert session.get("http://www.example.com/").content == b"http://www.example.com/"
        with serve(ok(b"direct")) as server:
            assert session.get(server.url()).content == b"direct"
            session.close()


def test_https_goes_through_a_tunnel(
    session: Any, server_context: ssl.SSLContext, ca_file: str
) -> None:
    script = each(lambda peer, _: peer.respond(b"body"))
    with ScriptedServer(script, repeat=True, context=server_context) as server:
        http, socks = HttpProxy(server.address), SocksProxy(server.address)
        with (
            ScriptedServer(http, repeat=True) as one,
            ScriptedServer(socks, repeat=True) as two,
            session,
        ):
            for url in (f"http://{one.host}:{one.port}", f"socks5h://{two.host}:{two.port}"):
                got = session.get(server.url(), proxies={"https": url}, verify=ca_file)
                assert got.content == b"body"
    assert [request.method for request in http.requests] == ["CONNECT"]
    assert socks.asked == [server.address]


def test_a_tunnel_that_is_refused_is_a_proxy_error(session: Any) -> None:
    with serve(ok(b"", status="407 No")) as proxy, session:
        with pytest.raises(kinds.ProxyError) as caught:
            session.get("https://www.example.com/", proxies={"https": proxy.url()})
        assert isinstance(caught.value.__cause__, dugong.ProxyError)


def test_a_proxy_that_cannot_be_reached_is_a_proxy_error(session: Any) -> None:
    proxies = {"http": f"http://127.0.0.1:{closed_port()}"}
    with pytest.raises(kinds.ProxyError):
        session.get("http://www.example.com/", proxies=proxies)


@pytest.mark.parametrize(
    "proxy",
    [
        "http:/bad:3128",
        "http://:8080",
        "https://",
        "ftp://a",
        "http://user:secret@a:99999",
        "user:secret@a:b",
        "http://user:secret@bad name",
        "http://user:secret@[::1",
    ],
)
def test_a_proxy_that_makes_no_sense_is_an_invalid_proxy_url(session: Any, proxy: str) -> None:
    with pytest.raises(kinds.InvalidProxyURL) as caught:
        session.get("http://www.example.com/", proxies={"http": proxy})
    assert "secret" not in "".join(traceback.format_exception(caught.value, limit=0))


# --- the adapter ----------------------------------------------------------------------------------


def test_a_pool_that_is_given_is_used_and_stays_open() -> None:
    with serve(ok()) as server, ConnectionPool() as pool:
        for _ in range(2):
            with requests.Session() as session:
                mount(session, pool)
                assert session.get(server.url()).content == b"body"
                assert session.get(server.url(), stream=True).content == b"body"
        assert server.connections == 1
        assert pool.get(server.url()).body == b"body"


@pytest.mark.parametrize(
    "options", [{"verify": False}, {"cert": "/cert"}, {"proxies": {"https": "http://127.0.0.1"}}]
)
def test_a_pool_that_is_given_decides_whom_to_trust(options: dict[str, Any]) -> None:
    with ConnectionPool() as pool, requests.Session() as session:
        mount(session, pool)
        with pytest.raises(ValueError, match="the pool that the adapter was given"):
            session.get("https://127.0.0.1/", **options)


def test_options_are_those_of_a_pool() -> None:
    with pytest.raises(TypeError, match="max_conections"):
        DugongAdapter(max_conections=1)
    with pytest.raises(ValueError, match="deadline"):
        DugongAdapter(deadline=-1)
    with ConnectionPool() as pool, pytest.raises(TypeError, match="timeout"):
        DugongAdapter(pool, timeout=1)


def test_the_time_out_of_the_pool_is_for_requests_that_have_none() -> None:
    with ScriptedServer(sends(b"", wait=True)) as server, requests.Session() as session:
        mount(session, timeout=0.05)
        with pytest.raises(kinds.ReadTimeout):
            session.get(server.url())


def test_a_response_can_be_read_after_the_session_was_closed() -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(ok(bytes(1_000_000))[:-1])
        assert go_on.wait(10)
        peer.send(b"\0")
        peer.until_eof()

    before = set(threading.enumerate())
    with ScriptedServer(script) as server:
        with requests.Session() as session:
            mount(session)
            response = session.get(server.url(), stream=True)
        go_on.set()
        assert len(response.content) == 1_000_000
    join(before)


def test_a_response_that_is_forgotten_after_that_ends_its_pool() -> None:
    before = set(threading.enumerate())
    with serve(ok(bytes(1_000_000))) as server:
        with requests.Session() as session:
            mount(session)
            response = session.get(server.url(), stream=True)
        assert response.status_code == 200
        del response
        gc.collect()
        join(before | {t for t in threading.enumerate() if "server" in t.name})


def join(others: set[threading.Thread]) -> None:
    """Wait for the threads of pools to end."""
    for thread in set(threading.enumerate()) - others:
        thread.join(10)
        assert not thread.is_alive()


def test_an_adapter_may_be_used_again_after_it_was_closed(session: Any) -> None:
    with serve(ok()) as server, session:
        assert session.get(server.url()).content == b"body"
        session.close()
        assert session.get(server.url()).content == b"body"
        assert server.connections == 2


def test_a_session_can_be_pickled() -> None:
    with requests.Session() as session:
        mount(session, timeout=5, deadline=10, retry=RetryPolicy(attempts=2))
        copied = pickle.loads(pickle.dumps(session))
    with serve(ok()) as server, copied:
        assert isinstance(copied.get_adapter(server.url()), DugongAdapter)
        assert copied.get(server.url()).content == b"body"
    with ConnectionPool() as pool, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(DugongAdapter(pool))


def test_many_threads_may_use_one_session(session: Any) -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(request.target.encode() + request.body)

    with ScriptedServer(each(respond), repeat=True) as server, session:

        def call(number: int) -> None:
            path = f"/{number}"
            if number % 3 == 0:
                got = session.get(server.url(path)).content
            elif number % 3 == 1:
                got = session.get(server.url(path), stream=True).content
            else:
                got = session.post(server.url(path), data=b"!", timeout=10).content
            assert got == path.encode() + (b"!" if number % 3 == 2 else b"")

        with ThreadPoolExecutor(8) as executor:
            list(executor.map(call, range(240)))


def test_without_requests_the_module_says_what_is_missing() -> None:
    program = "import sys; sys.modules['requests'] = None; import dugong.adapters.requests"
    root = Path(dugong.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.stderr.splitlines()[-1] == (
        "ImportError: dugong.adapters.requests needs the packages requests and urllib3: "
        "pip install dugong[requests]"
    )


# --- a server that was not written by us ----------------------------------------------------------


@pytest.fixture(scope="module")
def httpbin() -> Iterator[str]:
    """The URL of httpbin, which runs while the tests of this module do."""
    with open_httpbin() as url:
        yield url


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("coding", "name"), [("gzip", "gzipped"), ("deflate", "deflated")])
def test_codings_are_undone(
    session: Any, httpbin: str, stream: bool, coding: str, name: str
) -> None:
    assert session.get(f"{httpbin}/{coding}", stream=stream).json()[name] is True


def test_digest_authentication_works(session: Any, httpbin: str) -> None:
    auth = requests.auth.HTTPDigestAuth("user", "secret")
    url = f"{httpbin}/digest-auth/auth/user/secret"
    assert session.get(url, auth=auth).json()["authenticated"] is True
    assert session.get(url, auth=auth, stream=True).json()["authenticated"] is True


def test_forms_and_files_arrive(session: Any, httpbin: str) -> None:
    files = {"file": ("name", io.BytesIO(b"content"))}
    got = session.post(f"{httpbin}/post", data={"a": "1"}, files=files).json()
    assert (got["form"], got["files"]) == ({"a": "1"}, {"file": "content"})


def test_redirects_and_cookies_work_together(session: Any, httpbin: str) -> None:
    assert session.get(f"{httpbin}/cookies/set?a=1").json() == {"cookies": {"a": "1"}}
    assert len(session.get(f"{httpbin}/redirect/5").history) == 5


def test_lines_of_a_stream_arrive(session: Any, httpbin: str) -> None:
    with session.get(f"{httpbin}/stream/20", stream=True) as response:
        assert len(list(response.iter_lines())) == 20
