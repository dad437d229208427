"""Dialling: resolving, racing addresses, proxies, time limits, and that nothing is left open."""

from __future__ import annotations

import os
import select
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dugong import (
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    ProxyError,
    eval_coroutine,
)
from dugong.connection import dial
from dugong.connection.dial import co_connect, interleave
from dugong.connection.network import Network
from dugong.connection.proxy import Proxy
from dugong.deadline import Deadline
from dugong.errors import is_out_of_descriptors
from tests.support.names import (
    Address,
    FakeNames,
    address,
    no_descriptors,
    refusing,
    unresponsive,
)
from tests.support.server import Peer, ScriptedServer

SHORT = 0.05  # seconds, where running into the limit is what is tested
FOREVER = 3600.0


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
        unresponsive() as silent,
        listening() as good,
        connect(silent, silent, good.getsockname()) as sock,
    ):
        assert sock.getpeername() == good.getsockname()


def test_the_preferred_address_wins_if_it_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", FOREVER)
    with listening() as good, listening() as other:
        with connect(good.getsockname(), other.getsockname()) as sock:
            assert sock.getpeername() == good.getsockname()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):  # it was not even tried
            other.accept()


def test_an_attempt_has_250_ms_before_the_next_begins_beside_it() -> None:
    with unresponsive() as silent, listening() as good:
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


@pytest.mark.parametrize("refused", ["127.0.0.1", "127.0.0.2"])
def test_an_address_that_was_tried_tells_more_than_one_that_is_not_allowed(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", FOREVER)
    network = Network(allow_address=lambda ip, port: ip != refused)
    with refusing() as (_, port):
        addresses = [address((f"127.0.0.{number}", port)) for number in (1, 2)]
        crt = co_connect(addresses, Deadline(None), "example.test:80", network)
        with pytest.raises(ConnectionRefusedError):
            eval_coroutine(crt)


def test_one_address_is_not_waited_for_in_steps() -> None:
    with unresponsive() as silent:
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
            unresponsive() as silent,
            ScriptedServer(lambda peer: (peer.request(), peer.respond())) as server,
        ):
            addresses = [address(silent), address(server.address)]
            monkeypatch.setattr(dial, "resolve", lambda *args, found=addresses, **kwargs: found)
            with HTTPConnection("server.test") as conn:
                conn.send_request("GET", "/")
                assert conn.read_response().status == 200


def test_a_connection_that_connects_holds_one_descriptor_for_each_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0.01)

    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

    with unresponsive() as silent:
        monkeypatch.setattr(dial, "resolve", lambda *args, **kwargs: [address(silent)] * 2)
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
    with unresponsive() as silent:
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
    with unresponsive() as silent:
        crt = co_connect([address(silent)] * 3, Deadline(None), "peer")
        next(crt)
        crt.close()  # what is left open is found by the fixture for leaks


def test_every_loser_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0)
    with listening() as one, listening() as two:
        connect(one.getsockname(), two.getsockname(), one.getsockname()).close()


# --- descriptors --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_want_of_descriptors_is_told_from_a_host_that_cannot_be_reached(host: str) -> None:
    conn = HTTPConnection(host, 1)
    with no_descriptors(), pytest.raises(OSError, match="Too many open files") as caught:
        conn.connect()
    assert is_out_of_descriptors(caught.value)


def test_an_address_without_a_descriptor_to_try_it_is_what_is_told_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dial, "CONNECTION_ATTEMPT_DELAY", 0)
    no_such_family = (9999, socket.SOCK_STREAM, 0, "", ("::1", 80))
    crt = co_connect([no_such_family, address(("127.0.0.1", 1))], Deadline(None), "peer")
    with no_descriptors(), pytest.raises(OSError, match="Too many") as caught:
        eval_coroutine(crt)
    assert is_out_of_descriptors(caught.value)


# --- time limits --------------------------------------------------------------------------------


def test_the_timeout_covers_connecting(names: FakeNames) -> None:
    with unresponsive() as silent:
        names("silent.test", silent, silent)
        conn = HTTPConnection("silent.test", 80)
        conn.timeout = SHORT
        with pytest.raises(ConnectionTimedOut, match=r"connecting to silent\.test:80"):
            conn.connect()


def test_the_timeout_covers_the_response_of_a_proxy() -> None:
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


def test_a_proxy_that_responds_byte_by_byte_does_not_renew_the_timeout() -> None:
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
            needed.poll(SHORT)
        crt.close()
        assert all(limit is not None and limit <= FOREVER for limit in limits)
        assert limits == sorted(set(limits), reverse=True)


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


def test_disconnecting_ends_a_connect_that_gets_no_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with unresponsive() as silent:
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
        peer.respond(status="403 Forbidden")

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
