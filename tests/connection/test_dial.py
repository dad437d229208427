"""Dialling: resolving, racing addresses, proxies, time limits, and that nothing is left open."""

from __future__ import annotations

import os
import select
import selectors
import socket
import ssl
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import dugong
from dugong import (
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    ProxyError,
    eval_coroutine,
)
from dugong.connection import dial
from dugong.connection.dial import Proxy, co_connect, interleave, resolve
from dugong.deadline import Deadline
from tests.support.server import Peer, ScriptedServer

SHORT = 0.05  # seconds, where running into the limit is what is tested
FOREVER = 3600.0

Address = tuple[Any, ...]
FakeNames = Callable[..., None]


def address(sockaddr: tuple[str, int]) -> Address:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", sockaddr)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> FakeNames:
    """Makes a name resolve to some loopback addresses, or to an error; others stay as they are."""
    known: dict[str, list[Address] | Exception] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        answer = known.get(host)
        if answer is None:
            return real(host, port, *args, **kwargs)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def add(host: str, *answer: tuple[str, int] | Exception) -> None:
        if len(answer) == 1 and isinstance(answer[0], Exception):
            known[host] = answer[0]
        else:
            known[host] = [address(sockaddr) for sockaddr in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return add


@contextmanager
def unanswering() -> Iterator[tuple[str, int]]:
    """An address that neither accepts nor refuses: a listener whose backlog is full."""
    with ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        connected = True
        while connected:
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            poller = select.poll()
            poller.register(filler, select.POLLOUT)
            connected = bool(poller.poll(50))
        yield listener.getsockname()


@contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    """An address that refuses: the port is taken, but nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def connect(*sockaddrs: tuple[str, int], timeout: float | None = None) -> socket.socket:
    addresses = [address(sockaddr) for sockaddr in sockaddrs]
    return eval_coroutine(co_connect(addresses, Deadline(timeout), "example.test:80"))


# --- RFC 8305 -----------------------------------------------------------------------------------


def test_families_take_turns_and_keep_their_order() -> None:
    six = [(socket.AF_INET6, i) for i in range(3)]
    four = [(socket.AF_INET, i) for i in range(2)]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleave([four[0], *six]) == [four[0], *six]
    assert interleave([]) == []


def test_the_first_to_connect_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0.01)
    with (
        unanswering() as silent,
        listening() as good,
        connect(silent, silent, good.getsockname()) as sock,
    ):
        assert sock.getpeername() == good.getsockname()


def test_the_preferred_address_wins_if_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", FOREVER)
    with listening() as good, listening() as other:
        with connect(good.getsockname(), other.getsockname()) as sock:
            assert sock.getpeername() == good.getsockname()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):  # it was not even tried
            other.accept()


def test_an_attempt_has_250_ms_before_the_next_begins_beside_it() -> None:
    with unanswering() as silent, listening() as good:
        crt = co_connect([address(silent), address(good.getsockname())], Deadline(None), "peer")
        needed = next(crt)
        assert needed.timeout is not None
        assert 0.2 < needed.timeout <= 0.25
        crt.close()


def test_a_failure_moves_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", FOREVER)
    with refusing() as bad, listening() as good, connect(bad, bad, good.getsockname()) as sock:
        assert sock.getpeername() == good.getsockname()


def test_a_family_the_system_does_not_have_is_a_failure_like_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", FOREVER)
    with listening() as good:
        addresses = [(9999, socket.SOCK_STREAM, 0, "", ("::1", 80)), address(good.getsockname())]
        with eval_coroutine(co_connect(addresses, Deadline(None), "peer")) as sock:
            assert sock.getpeername() == good.getsockname()


def test_if_all_fail_the_first_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", FOREVER)
    with refusing() as bad, pytest.raises(ConnectionRefusedError) as caught:
        connect(bad, ("255.255.255.255", 1))  # the second fails as "network is unreachable"
    assert caught.value.__notes__ == ["while connecting to example.test:80"]


def test_one_address_is_not_waited_for_in_steps() -> None:
    with unanswering() as silent:
        crt = co_connect([address(silent)], Deadline(None), "peer")
        assert next(crt).timeout is None
        crt.close()


def test_no_selector_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not every POSIX system has epoll or kqueue, whose selectors have a descriptor of their own.
    for name in ("EpollSelector", "KqueueSelector", "DevpollSelector"):
        monkeypatch.delattr(selectors, name, raising=False)
    for name in ("epoll", "kqueue", "devpoll"):
        monkeypatch.delattr(select, name, raising=False)
    for kind in (selectors.PollSelector, selectors.SelectSelector):
        monkeypatch.setattr(selectors, "DefaultSelector", kind)
        monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0.01)
        with (
            unanswering() as silent,
            ScriptedServer(lambda peer: (peer.request(), peer.answer())) as server,
        ):
            addresses = [address(silent), address(server.address)]
            monkeypatch.setattr(dial, "resolve", lambda *args, found=addresses: found)
            with HTTPConnection("server.test") as conn:
                conn.send_request("GET", "/")
                assert conn.read_response().status == 200


def test_a_connection_that_connects_holds_one_descriptor_for_each_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0.01)

    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

    with unanswering() as silent:
        monkeypatch.setattr(dial, "resolve", lambda *args: [address(silent)] * 2)
        conn = HTTPConnection("silent.test")
        before = open_descriptors()
        crt = conn.co_connect()
        needed = next(crt)
        assert open_descriptors() - before == 1
        assert needed.poll(5)
        needed = next(crt)
        assert open_descriptors() - before == 2
        assert [needed.mask, *(mask for _, mask in needed.others)] == [select.POLLOUT] * 2
        crt.close()
        assert open_descriptors() == before


def test_a_driver_that_looks_at_one_descriptor_is_resumed_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with unanswering() as silent:
        addresses = [address(silent)] * 2
        monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0)
        crt = co_connect(addresses, Deadline(None), "peer")
        next(crt)
        monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0.25)
        needed = next(crt)
        assert len(needed.others) == 1
        assert needed.timeout == 0.25
        crt.close()


def test_a_cancelled_race_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0)
    with unanswering() as silent:
        crt = co_connect([address(silent)] * 3, Deadline(None), "peer")
        next(crt)
        crt.close()  # what is left open is found by the fixture for leaks


def test_every_loser_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0)
    with listening() as one, listening() as two:
        connect(one.getsockname(), two.getsockname(), one.getsockname()).close()


# --- time limits --------------------------------------------------------------------------------


def test_the_timeout_covers_connecting(names: FakeNames) -> None:
    with unanswering() as silent:
        names("silent.test", silent, silent)
        conn = HTTPConnection("silent.test", 80)
        conn.timeout = SHORT
        with pytest.raises(ConnectionTimedOut, match=r"connecting to silent\.test:80"):
            conn.connect()


def test_the_timeout_covers_the_answer_of_a_proxy() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.until_eof()

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        conn.timeout = SHORT
        with pytest.raises(ConnectionTimedOut, match=f"the proxy {server.host}:{server.port}"):
            conn.connect()


def test_the_timeout_covers_a_handshake_that_never_proceeds() -> None:
    with ScriptedServer(lambda peer: peer.until_eof()) as server:
        conn = HTTPConnection(*server.address, ssl_context=ssl.create_default_context())
        conn.timeout = SHORT
        with pytest.raises(ConnectionTimedOut, match="shaking hands"):
            conn.connect()


def test_a_proxy_that_answers_byte_by_byte_does_not_renew_the_timeout() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 ")
        peer.until_eof()

    with ScriptedServer(script) as server:
        proxy = Proxy(server.address)
        crt = dial.co_dial("h.test", 443, ssl.create_default_context(), proxy, FOREVER)
        limits = []
        for _ in range(3):
            needed = next(crt)
            limits.append(needed.timeout)
            needed._poller.poll(int(SHORT * 1000))
        crt.close()
        assert all(limit is not None and limit <= FOREVER for limit in limits)
        assert limits == sorted(set(limits), reverse=True)


# --- names --------------------------------------------------------------------------------------

NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "no such name")
NO_SERVER = socket.gaierror(socket.EAI_AGAIN, "no server")


def test_a_name_that_does_not_exist_is_not_resolvable(
    names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("bad.test", 1), ("good.test", 1)))
    names("bad.test", NO_SUCH_NAME)
    names("good.test", ("127.0.0.1", 1))
    with pytest.raises(HostnameNotResolvable) as caught:
        HTTPConnection("bad.test").connect()
    assert caught.value.name == "bad.test"


def test_if_no_name_resolves_then_dns_is_unavailable(
    names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("bad.test", 1), ("gone.test", 1)))
    names("bad.test", NO_SUCH_NAME)
    names("gone.test", OSError("the resolver is broken"))
    with pytest.raises(DNSUnavailable) as caught:
        HTTPConnection("bad.test").connect()
    assert caught.value.name == "bad.test"


def test_a_resolver_that_asks_to_try_again_is_unavailable(
    names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("good.test", 1),))
    names("good.test", ("127.0.0.1", 1))
    names("bad.test", NO_SERVER)
    with pytest.raises(DNSUnavailable):
        HTTPConnection("bad.test").connect()


def test_a_name_without_addresses_is_not_resolvable(names: FakeNames) -> None:
    names("empty.test")
    with pytest.raises(HostnameNotResolvable) as caught:
        HTTPConnection("empty.test").connect()
    assert caught.value.name == "empty.test"


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..test"])
def test_a_name_that_cannot_be_encoded_is_not_resolvable(host: str) -> None:
    with pytest.raises(HostnameNotResolvable):
        resolve(host, 80)


def test_an_unresolvable_proxy_is_named(names: FakeNames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("good.test", 1),))
    names("good.test", ("127.0.0.1", 1))
    names("proxy.test", NO_SUCH_NAME)
    with pytest.raises(HostnameNotResolvable) as caught:
        HTTPConnection("origin.test", proxy=("proxy.test", 3128)).connect()
    assert caught.value.name == "proxy.test"


# --- proxy arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "host", "port"),
    [
        (("proxy.test", 3128), "proxy.test", 3128),
        (("::1", 3128), "::1", 3128),
        ("http://proxy.test", "proxy.test", 80),
        ("http://proxy.test:3128/", "proxy.test", 3128),
        ("http://[::1]:3128", "::1", 3128),
        ("HTTP://user:pass@proxy.test:3128", "proxy.test", 3128),
    ],
)
def test_a_proxy_is_a_pair_or_a_url(proxy: Any, host: str, port: int) -> None:
    parsed = Proxy(proxy)
    assert (parsed.host, parsed.port) == (host, port)


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("http://user:pass@proxy.test", b"user:pass"),
        ("http://user@proxy.test", b"user:"),
        ("http://us%20er:p%40ss%3aword@proxy.test", b"us er:p@ss:word"),
        ("http://user:p%C3%A9%FF@proxy.test", b"user:p\xc3\xa9\xff"),
        ("http://user:p\N{LATIN SMALL LETTER E WITH ACUTE}@proxy.test", b"user:p\xc3\xa9"),
    ],
)
def test_credentials_are_percent_decoded(url: str, credentials: bytes) -> None:
    authorization = Proxy(url).authorization
    assert authorization is not None
    scheme, _, encoded = authorization.partition(" ")
    assert (scheme, b64decode(encoded)) == ("Basic", credentials)


def test_without_credentials_there_is_no_authorization() -> None:
    assert Proxy("http://proxy.test").authorization is None
    assert Proxy(("proxy.test", 80)).authorization is None


@pytest.mark.parametrize(
    ("proxy", "error"),
    [
        (("proxy.test",), TypeError),
        (("proxy.test", 80, 1), TypeError),
        (("proxy.test", "80"), TypeError),
        ((b"proxy.test", 80), TypeError),
        (b"http://user:secret@proxy.test", TypeError),
        (3128, TypeError),
        (("proxy.test", 0), ValueError),
        (("proxy.test", 65536), ValueError),
        (("proxy\r\n.test", 80), ValueError),
        (("", 80), ValueError),
        ("proxy.test:3128", ValueError),
        ("https://user:secret@proxy.test", ValueError),
        ("socks5://user:secret@proxy.test", ValueError),
        ("http://", ValueError),
        ("http://user:secret@proxy.test:0", ValueError),
        ("http://user:secret@proxy.test:port", ValueError),
        ("http://user:secret@proxy.test:99999", ValueError),
        ("http://user:secret@proxy.test/path", ValueError),
        ("http://user:secret@proxy.test?query", ValueError),
        ("http://user:secret?@proxy.test", ValueError),
        ("http://user:secret#@proxy.test", ValueError),
        ("http://user:secret/@proxy.test", ValueError),
        ("http://user:[secret]@proxy.test", ValueError),
        ("http://user:secret\N{ACCOUNT OF}@proxy.test", ValueError),
        ("http://user:secret@[::1", ValueError),
    ],
)
def test_an_invalid_proxy_is_refused_without_telling_its_password(
    proxy: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        HTTPConnection("origin.test", proxy=proxy)
    assert "secret" not in str(caught.value)


def test_no_repr_tells_the_password() -> None:
    url = "http://user:secret@proxy.test:3128"
    assert repr(Proxy(url)) == "<Proxy proxy.test:3128>"
    assert "secret" not in repr(HTTPConnection("origin.test", proxy=url))


# --- http through a proxy -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "method", "path", "target", "host"),
    [
        (("o.test", None), "GET", "/a?b=c", "http://o.test/a?b=c", "o.test"),
        (("o.test", 80), "GET", "/", "http://o.test/", "o.test"),
        (("o.test", 8080), "GET", "/", "http://o.test:8080/", "o.test:8080"),
        (("o.test", 443), "GET", "/", "http://o.test:443/", "o.test:443"),
        (("::1", 80), "GET", "/", "http://[::1]/", "[::1]"),
        (("fe80::1%eth0", 8080), "GET", "/", "http://[fe80::1]:8080/", "[fe80::1]:8080"),
        (("o.test", None), "OPTIONS", "*", "http://o.test", "o.test"),
        (("o.test", 8080), "OPTIONS", "*", "http://o.test:8080", "o.test:8080"),
        (("o.test", None), "GET", "http://p.test/x", "http://p.test/x", "o.test"),
    ],
)
def test_a_proxy_is_given_the_absolute_form(
    origin: tuple[str, int | None], method: str, path: str, target: str, host: str
) -> None:
    def script(peer: Peer) -> None:
        request = peer.request()
        assert (request.method, request.target) == (method, target)
        assert request.headers["host"] == host
        assert "proxy-authorization" not in request.headers
        peer.answer()

    with (
        ScriptedServer(script) as server,
        HTTPConnection(*origin, proxy=server.address) as conn,
    ):
        conn.send_request(method, path)
        response = conn.read_response()
        assert (response.method, response.path) == (method, path)


def test_each_request_to_a_proxy_carries_the_credentials() -> None:
    def script(peer: Peer) -> None:
        for _ in range(2):
            encoded = peer.request().headers["proxy-authorization"].removeprefix("Basic ")
            assert b64decode(encoded) == b"us:er:p@ss"
            peer.answer()

    with ScriptedServer(script) as server:
        proxy = f"http://us%3Aer:p%40ss@{server.host}:{server.port}"
        with HTTPConnection("origin.test", proxy=proxy) as conn:
            conn.send_request("GET", "/")
            conn.read_response()
            conn.send_request("PUT", "/", headers={"X": "y"}, body=b"body")
            conn.read_response()


# --- https through a proxy ----------------------------------------------------------------------


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 3])
@pytest.mark.parametrize(
    ("origin", "target"), [("localhost", "localhost:443"), ("::1", "[::1]:443")]
)
def test_the_origin_behind_a_tunnel_does_not_see_the_credentials(
    origin: str,
    target: str,
    interim: bytes,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    def script(peer: Peer) -> None:
        connect = peer.head()
        assert (connect.method, connect.target) == ("CONNECT", target)
        assert set(connect.headers) == {"host", "proxy-authorization"}
        assert connect.headers["host"] == target
        assert connect.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"
        # A successful answer to CONNECT has no body, whatever it says (RFC 9110 §9.3.6).
        peer.send(interim + b"HTTP/1.1 200 Established\r\nContent-Length: 5\r\n\r\n")
        with server_context.wrap_socket(peer.sock, server_side=True) as tls:
            inner = Peer(tls)
            request = inner.request()
            assert request.target == "/private"
            assert not [name for name in request.headers if name.startswith("proxy")]
            assert b"dXNlcjpwYXNz" not in request.head
            inner.answer(b"hello")

    with ScriptedServer(script) as server:
        proxy = f"http://user:pass@{server.host}:{server.port}"
        with HTTPConnection(origin, ssl_context=client_context, proxy=proxy) as conn:
            conn.send_request("GET", "/private")
            conn.read_response()
            assert conn.readall() == b"hello"


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "302 Found", "502 "])
def test_a_refused_tunnel_says_why(status: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.answer(b"explanation", status=status)
        peer.until_eof()  # the socket is closed, or this would time out

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        with pytest.raises(ProxyError) as caught:
            conn.send_request("GET", "/")
        assert f"{caught.value.status} {caught.value.reason}" == status
        assert not conn.response_pending()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nsmuggled", InvalidResponse),
        (b"SSH-2.0-OpenSSH\r\n", InvalidResponse),
        (b"HTTP/1.1 abc OK\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 200 OK\r\nbroken\0\r\n\r\n", InvalidResponse),
        (b"HTTP/1.1 200 OK\r\n", ConnectionClosed),
        (b"", ConnectionClosed),
    ],
)
def test_nonsense_from_a_proxy_is_no_tunnel(answer: bytes, error: type[Exception]) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(answer)
        peer.cut()
        peer.until_eof()

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        with pytest.raises(error):
            conn.connect()


def test_a_proxy_that_sends_only_interim_answers_is_given_up() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)
        peer.until_eof()

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        with pytest.raises(InvalidResponse):
            conn.connect()


# --- disconnecting from another thread, and failing late ------------------------------------------


def in_thread(call: Callable[[], object]) -> Callable[[], Exception | None]:
    """Run *call* in a thread; what is returned waits for it and gives what it raised."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> Exception | None:
        thread.join()
        return raised[0] if raised else None

    return result


def test_disconnecting_ends_a_connect_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with unanswering() as silent:
        resolving = threading.Event()

        def getaddrinfo(*args: Any, **kwargs: Any) -> list[Address]:
            resolving.set()
            return [address(silent), address(silent)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        conn = HTTPConnection("silent.test")
        result = in_thread(conn.connect)
        resolving.wait()
        conn.disconnect()
        assert isinstance(result(), ConnectionClosed)


@pytest.mark.parametrize("through_proxy", [True, False], ids=["tunnel", "handshake"])
def test_disconnecting_ends_a_wait_for_the_proxy_or_the_handshake(through_proxy: bool) -> None:
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.exactly(1)
        begun.set()
        peer.until_eof()

    with ScriptedServer(script) as server:
        context = ssl.create_default_context()
        proxy = server.address if through_proxy else None
        conn = HTTPConnection(*server.address, ssl_context=context, proxy=proxy)
        result = in_thread(lambda: conn.send_request("GET", "/"))
        begun.wait()
        conn.disconnect()
        assert isinstance(result(), ConnectionClosed)
        assert not conn.response_pending()


def test_after_a_disconnect_while_connecting_the_connection_is_usable() -> None:
    begun = threading.Event()

    def silent(peer: Peer) -> None:
        peer.head()
        begun.set()
        peer.until_eof()

    def refuse(peer: Peer) -> None:
        peer.head()
        peer.answer(status="403 Forbidden")

    with ScriptedServer(silent, refuse) as server:
        context = ssl.create_default_context()
        conn = HTTPConnection("origin.test", ssl_context=context, proxy=server.address)
        result = in_thread(conn.connect)
        begun.wait()
        conn.disconnect()
        with pytest.raises(ProxyError):
            conn.connect()
        assert isinstance(result(), ConnectionClosed)


def test_a_trace_file_that_cannot_be_opened_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    monkeypatch.setenv("DUGONG_TRACEFILE", str(tmp_path / "missing" / "%d"))

    def script(peer: Peer) -> None:
        peer.until_eof()

    with ScriptedServer(script, context=server_context) as server:
        conn = HTTPConnection(*server.address, ssl_context=client_context)
        with pytest.raises(FileNotFoundError):
            conn.connect()
