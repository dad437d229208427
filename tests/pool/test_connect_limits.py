"""Hosts that do not respond hold up nothing but their own requests, and not for long."""

from __future__ import annotations

import inspect
import ssl
import threading
import time
from typing import Any

import pytest
import trustme

from dugong import ConnectionPool, ConnectionTimedOut, Delivery, RetryPolicy
from tests.support.loopback import BlackHole, ManyHosts
from tests.support.pool import discard_rest, each, name_target, url
from tests.support.server import Peer, ScriptedServer

SOON = 0.3  # seconds
#: Seconds for a host that responds at once, on a busy machine; those that do not take five.
PROMPT = 3.0

#: What may be tried again is, without a wait.
AT_ONCE = RetryPolicy(backoff=0)


# --- the time that connecting may take ------------------------------------------------------------


def fails_soon(pool: ConnectionPool, where: str, **options: Any) -> None:
    began = time.monotonic()
    error: Any = pool.submit("GET", where, **options).exception(5)
    assert isinstance(error, ConnectionTimedOut)
    assert error.delivery is Delivery.UNSENT
    assert SOON <= time.monotonic() - began < SOON + 0.7


@pytest.mark.parametrize("timeout", [30, None])
def test_connecting_has_a_limit_of_its_own(timeout: float | None) -> None:
    with (
        BlackHole() as hole,
        ConnectionPool(connect_timeout=SOON, timeout=timeout, retry=None) as pool,
    ):
        fails_soon(pool, hole.url())
        fails_soon(pool, hole.url(), timeout=30)
        fails_soon(pool, hole.url(), timeout=None)


def test_shaking_hands_is_a_part_of_connecting(client_context: ssl.SSLContext) -> None:
    with (
        ScriptedServer(discard_rest, repeat=True) as server,
        ConnectionPool(connect_timeout=SOON, retry=None, ssl_context=client_context) as pool,
    ):
        fails_soon(pool, url(server, scheme="https"))


def test_a_proxy_that_is_silent_has_the_time_for_connecting(
    client_context: ssl.SSLContext,
) -> None:
    with (
        ScriptedServer(discard_rest, repeat=True) as proxy,
        ConnectionPool(
            connect_timeout=SOON, retry=None, ssl_context=client_context, proxy=proxy.address
        ) as pool,
    ):
        fails_soon(pool, "https://server.test/")


def test_what_follows_has_the_other_limit() -> None:
    def slow(peer: Peer) -> None:
        peer.request()
        time.sleep(2 * SOON)
        peer.respond(b"ok")

    with (
        ScriptedServer(slow) as server,
        ConnectionPool(connect_timeout=SOON, timeout=5, retry=None) as pool,
    ):
        assert pool.get(url(server)).body == b"ok"


def test_a_shorter_limit_for_any_progress_holds_for_connecting_too() -> None:
    with BlackHole() as hole, ConnectionPool(timeout=SOON, retry=None) as pool:
        fails_soon(pool, hole.url())


def test_ten_seconds_is_the_default() -> None:
    assert inspect.signature(ConnectionPool).parameters["connect_timeout"].default == 10.0
    assert "connect_timeout" in (ConnectionPool.__doc__ or "")


@pytest.mark.parametrize("seconds", [-1, 0, float("nan"), float("inf")])
def test_the_limit_must_make_sense(seconds: float) -> None:
    with pytest.raises(ValueError, match="connect_timeout"):
        ConnectionPool(connect_timeout=seconds)


@pytest.mark.parametrize("seconds", ["1", True])
def test_the_limit_is_a_number(seconds: Any) -> None:
    with pytest.raises(TypeError, match="connect_timeout"):
        ConnectionPool(connect_timeout=seconds)


def test_there_may_be_no_limit() -> None:
    with BlackHole() as hole, ConnectionPool(connect_timeout=None, timeout=None) as pool:
        future = pool.submit("GET", hole.url(), deadline=SOON)
        assert isinstance(future.exception(5), ConnectionTimedOut)


# --- how many are dialled -------------------------------------------------------------------------


@pytest.mark.parametrize(("holes", "limit"), [(20, 4), (300, 16), (300, 256), (1000, 256)])
def test_hosts_that_respond_are_served_at_once_though_many_others_do_not(
    holes: int, limit: int
) -> None:
    with (
        BlackHole() as hole,
        ManyHosts(each(name_target)) as hosts,
        ConnectionPool(max_connections=limit, timeout=5, retry=None) as pool,
    ):
        lost = [pool.submit("GET", hole.url(i)) for i in range(holes)]
        try:
            for i in range(10):
                began = time.monotonic()
                assert pool.submit("GET", hosts.url(i, "/a")).result(4).text == "/a"
                assert time.monotonic() - began < PROMPT
        finally:
            for future in lost:
                future.cancel()


@pytest.mark.parametrize("limit", [4, 16])
def test_hosts_that_do_not_shake_hands_do_not_hold_up_others(
    limit: int, client_context: ssl.SSLContext
) -> None:
    with (
        ManyHosts(discard_rest) as silent,
        ManyHosts(each(name_target)) as hosts,
        ConnectionPool(
            max_connections=limit, timeout=5, retry=None, ssl_context=client_context
        ) as pool,
    ):
        lost = [
            pool.submit("GET", silent.url(i).replace("http:", "https:")) for i in range(5 * limit)
        ]
        try:
            for i in range(5):
                began = time.monotonic()
                assert pool.submit("GET", hosts.url(i, "/a")).result(4).text == "/a"
                assert time.monotonic() - began < PROMPT
        finally:
            for future in lost:
                future.cancel()


def test_a_host_that_was_served_before_is_served_though_its_connection_has_ended() -> None:
    def once(peer: Peer) -> None:
        name_target(peer, peer.request())

    with (
        BlackHole() as hole,
        ManyHosts(once) as hosts,
        ConnectionPool(max_connections=4, timeout=5, retry=AT_ONCE) as pool,
    ):
        pool.get(hosts.url(0))
        lost = [pool.submit("GET", hole.url(i)) for i in range(50)]
        try:
            for _ in range(5):
                began = time.monotonic()
                assert pool.submit("GET", hosts.url(0, "/a")).result(4).text == "/a"
                assert time.monotonic() - began < PROMPT
        finally:
            for future in lost:
                future.cancel()


def test_each_host_that_does_not_respond_fails_when_its_own_time_is_over() -> None:
    """They do not have to wait for each other, either."""
    with (
        BlackHole() as hole,
        ConnectionPool(max_connections=8, connect_timeout=SOON, retry=None) as pool,
    ):
        began = time.monotonic()
        futures = [pool.submit("GET", hole.url(i)) for i in range(32)]
        assert all(isinstance(future.exception(10), ConnectionTimedOut) for future in futures)
        assert time.monotonic() - began < 10 * SOON


def test_there_are_never_more_open_connections_than_allowed() -> None:
    """However many are dialled."""
    now, most = 0, 0
    lock = threading.Lock()

    def script(peer: Peer) -> None:
        nonlocal now, most
        try:
            request = peer.request()
        except (EOFError, OSError):
            return  # it has made room before it was used
        with lock:
            now += 1
            most = max(most, now)
        name_target(peer, request)
        with lock:
            now -= 1
        each(name_target)(peer)

    with ManyHosts(script) as hosts, ConnectionPool(max_connections=4, retry=AT_ONCE) as pool:
        futures = [pool.submit("GET", hosts.url(i, f"/{i}")) for i in range(60)]
        for i, future in enumerate(futures):
            assert future.result(10).text == f"/{i}"
            assert pool.statistics().connections <= 4
    assert most <= 4


# --- what is final --------------------------------------------------------------------------------


def counted(server: ScriptedServer, pool: ConnectionPool, method: str = "GET") -> int:
    """Make a request that fails; return how many connections that took."""
    future = pool.submit(method, url(server, scheme="https"))
    error: Any = future.exception(5)
    assert isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError)
    assert error.attempts == ()
    assert error.delivery is Delivery.UNSENT
    return server.connections


def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a context for a server and one for a client that trusts it."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    return theirs, ours


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_version_of_tls_that_the_server_does_not_speak_is_final(
    authority: trustme.CA, method: str
) -> None:
    theirs, ours = contexts(authority)
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    ours.minimum_version = ssl.TLSVersion.TLSv1_3
    with (
        ScriptedServer(each(name_target), context=theirs, repeat=True) as server,
        ConnectionPool(ssl_context=ours, retry=AT_ONCE) as pool,
    ):
        assert counted(server, pool, method) == 1


def test_a_version_of_tls_that_we_do_not_speak_is_final(authority: trustme.CA) -> None:
    theirs, ours = contexts(authority)
    theirs.minimum_version = ssl.TLSVersion.TLSv1_3
    ours.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        ScriptedServer(each(name_target), context=theirs, repeat=True) as server,
        ConnectionPool(ssl_context=ours, retry=AT_ONCE) as pool,
    ):
        assert counted(server, pool) == 1


def test_that_no_cipher_is_shared_is_final(authority: trustme.CA) -> None:
    theirs, ours = contexts(authority)
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    theirs.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256")
    ours.maximum_version = ssl.TLSVersion.TLSv1_2
    ours.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384")
    with (
        ScriptedServer(each(name_target), context=theirs, repeat=True) as server,
        ConnectionPool(ssl_context=ours, retry=AT_ONCE) as pool,
    ):
        assert counted(server, pool) == 1


@pytest.mark.parametrize("fault", ["untrusted", "another name"])
def test_a_certificate_that_does_not_do_is_final(authority: trustme.CA, fault: str) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer = trustme.CA() if fault == "untrusted" else authority
    issuer.issue_cert("elsewhere.test").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    with (
        ScriptedServer(each(name_target), context=theirs, repeat=True) as server,
        ConnectionPool(ssl_context=ours, retry=AT_ONCE) as pool,
    ):
        assert counted(server, pool) == 1
