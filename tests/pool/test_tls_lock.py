"""While TLS works, which may take long, no other caller of the pool waits for it.

The work is scripted: the TLS objects of the client wait at a gate, or take some time a record.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
import trustme

from dugong import ConnectionPool, ConnectionTimedOut, DugongError
from tests.support.pool import GONE, discard_rest, each, name_target, url, wait_for
from tests.support.server import TIMEOUT, Peer, Script, ScriptedServer

LARGE = 8 * 1024 * 1024  # bytes; hundreds of records
STEP = 0.002  # seconds that TLS takes for each record of at most 16 KiB, where it is slow
SOON = 0.15  # seconds until a deadline
TOLERANCE = 0.1  # seconds by which a deadline may be missed
SETTLED = 0.3  # seconds after which a deadline of `SOON`, or another call, has had its effect


def working_context(
    authority: trustme.CA,
    reading: Callable[[], None] = lambda: None,
    writing: Callable[[], None] = lambda: None,
) -> ssl.SSLContext:
    """Return a client's context that calls *reading* and *writing* before each record."""

    class Working(ssl.SSLObject):
        def read(self, *args: Any) -> Any:
            reading()
            return super().read(*args)

        def write(self, *args: Any) -> int:
            writing()
            return super().write(*args)

    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.sslobject_class = Working
    return context


class Gate:
    """Where TLS waits once the gate is shut, until it is opened."""

    def __init__(self) -> None:
        self._shut = False
        self._entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        if self._shut:
            self._entered.set()
            wait_for(self._opened)

    def shut(self) -> None:
        self._shut = True

    def wait_until_entered(self) -> None:
        wait_for(self._entered)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


class Call:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except DugongError:
            pass  # what becomes of the request is not what is asked here

    def returns(self, seconds: float) -> bool:
        """Return True if the call returns within *seconds*."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()


def others_are_served(pool: ConnectionPool, other: str, gate: Gate) -> bool:
    """Return True if *pool* serves other callers at once, though TLS waits at *gate*."""

    def use() -> None:
        pool.statistics()
        pool.get(other)

    call = Call(use)
    served = call.returns(3)
    gate.open()
    call.join()
    return served


def sends_much(peer: Peer) -> None:
    """Response one request with a large body."""
    try:
        peer.request()
        send_until_refused(peer, LARGE)
    except GONE:
        pass


def send_until_refused(peer: Peer, size: int) -> None:
    """Response with *size* bytes, of which the client does not want all."""
    peer.sock.settimeout(2)  # a system may not tell the end of a connection whose window is shut
    try:
        peer.respond(bytes(size))
        discard_rest(peer)
    except OSError:
        pass


def sends_much_to(gate: Gate) -> Script:
    """Return the same script, at whose response TLS is to wait at *gate*."""

    def script(peer: Peer) -> None:
        peer.request()
        gate.shut()
        send_until_refused(peer, LARGE)

    return script


def takes_a_head(peer: Peer) -> None:
    """Receive the head of a request, and its body, and respond nothing."""
    peer.head()
    discard_rest(peer)


def test_a_deadline_does_not_wait_for_tls_under_the_lock(
    authority: trustme.CA, server_context: ssl.SSLContext, gate: Gate
) -> None:
    context = working_context(authority, reading=gate)
    with (
        ScriptedServer(sends_much_to(gate), context=server_context) as server,
        ScriptedServer(each(name_target)) as other,
        ConnectionPool(ssl_context=context, retry=None) as pool,
    ):
        future = pool.submit("GET", url(server, scheme="https"), deadline=SOON)
        gate.wait_until_entered()
        time.sleep(SETTLED)
        assert others_are_served(pool, url(other), gate)
        assert isinstance(future.exception(5), ConnectionTimedOut)


def test_a_deadline_of_a_stream_does_not_wait_for_tls_under_the_lock(
    authority: trustme.CA, server_context: ssl.SSLContext, gate: Gate
) -> None:
    context = working_context(authority, reading=gate)
    with (
        ScriptedServer(sends_much, context=server_context) as server,
        ScriptedServer(each(name_target)) as other,
        ConnectionPool(ssl_context=context, retry=None) as pool,
        pool.stream("GET", url(server, scheme="https"), deadline=SOON) as response,
    ):
        gate.shut()
        reading = Call(response.read)
        gate.wait_until_entered()
        time.sleep(SETTLED)
        served = others_are_served(pool, url(other), gate)
        reading.join()
        assert served


def test_a_deadline_of_an_upload_does_not_wait_for_tls_under_the_lock(
    authority: trustme.CA, server_context: ssl.SSLContext, gate: Gate
) -> None:
    context = working_context(authority, writing=gate)

    def body() -> Iterator[bytes]:
        yield b"first"
        gate.shut()
        yield b"second"

    with (
        ScriptedServer(takes_a_head, context=server_context) as server,
        ScriptedServer(each(name_target)) as other,
        ConnectionPool(ssl_context=context, retry=None) as pool,
    ):
        future = pool.submit("PUT", url(server, scheme="https"), body=body(), deadline=SOON)
        gate.wait_until_entered()
        time.sleep(SETTLED)
        assert others_are_served(pool, url(other), gate)
        assert isinstance(future.exception(5), ConnectionTimedOut)


def test_cancelling_an_upload_does_not_wait_for_tls_under_the_lock(
    authority: trustme.CA, server_context: ssl.SSLContext, gate: Gate
) -> None:
    context = working_context(authority, writing=gate)

    def body() -> Iterator[bytes]:
        yield b"first"
        gate.shut()
        yield b"second"

    with (
        ScriptedServer(takes_a_head, context=server_context) as server,
        ScriptedServer(each(name_target)) as other,
        ConnectionPool(ssl_context=context, retry=None) as pool,
    ):
        future = pool.submit("PUT", url(server, scheme="https"), body=body())
        gate.wait_until_entered()
        cancelling = Call(future.cancel)
        time.sleep(SETTLED)
        served = others_are_served(pool, url(other), gate)
        cancelling.join()
        assert served
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)


@pytest.mark.parametrize("direction", ["reading", "writing"])
def test_closing_a_pool_does_not_wait_for_tls_under_the_lock(
    authority: trustme.CA, server_context: ssl.SSLContext, gate: Gate, direction: str
) -> None:
    context = working_context(authority, **{direction: gate})

    def body() -> Iterator[bytes]:
        yield b"first"
        gate.shut()
        yield b"second"

    with (
        ScriptedServer(
            sends_much_to(gate) if direction == "reading" else takes_a_head,
            context=server_context,
        ) as server,
        ConnectionPool(ssl_context=context, retry=None) as pool,
    ):
        where = url(server, scheme="https")
        if direction == "reading":
            pool.submit("GET", where)
        else:
            pool.submit("PUT", where, body=body())
        gate.wait_until_entered()
        closing = Call(pool.close)
        time.sleep(SETTLED)
        asking = Call(pool.statistics)
        in_time = asking.returns(3)
        gate.open()
        asking.join()
        closing.join()
        assert in_time


def late_by(began: float) -> float:
    """Return how many seconds ago a deadline of `SOON` passed that *began* to count then."""
    return time.monotonic() - began - SOON


def work() -> None:
    """Take as long as TLS may for a record."""
    time.sleep(STEP)


def test_a_deadline_is_kept_though_tls_has_much_to_do(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    """A receive ends soon, though there is always more to be received."""
    context = working_context(authority, reading=work)
    with (
        ScriptedServer(sends_much, context=server_context) as server,
        ConnectionPool(ssl_context=context, retry=None) as pool,
    ):
        began = time.monotonic()
        future = pool.submit("GET", url(server, scheme="https"), deadline=SOON)
        error = future.exception(10)
        late = late_by(began)
        assert isinstance(error, ConnectionTimedOut)
        assert late < TOLERANCE


@pytest.mark.parametrize("how", ["read", "readinto"])
def test_a_deadline_of_a_stream_is_kept_though_tls_has_much_to_do(
    authority: trustme.CA, server_context: ssl.SSLContext, how: str
) -> None:
    context = working_context(authority, reading=work)
    buffer = bytearray(LARGE)

    def stream(pool: ConnectionPool, where: str) -> None:
        with pool.stream("GET", where, deadline=SOON) as response:
            if how == "read":
                response.read()
            else:
                while response.readinto(buffer):
                    pass

    with (
        ScriptedServer(sends_much, context=server_context) as server,
        ConnectionPool(ssl_context=context, retry=None) as pool,
    ):
        began = time.monotonic()
        with pytest.raises(ConnectionTimedOut):
            stream(pool, url(server, scheme="https"))
        assert late_by(began) < TOLERANCE


def test_a_deadline_of_an_upload_is_kept_though_tls_has_much_to_do(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    context = working_context(authority, writing=work)
    with (
        ScriptedServer(takes_a_head, context=server_context) as server,
        ConnectionPool(ssl_context=context, retry=None) as pool,
    ):
        where = url(server, scheme="https")
        began = time.monotonic()
        future = pool.submit("PUT", where, body=bytes(LARGE), deadline=SOON)
        error = future.exception(10)
        late = late_by(began)
        assert isinstance(error, ConnectionTimedOut)
        assert late < TOLERANCE


def test_nothing_waits_for_the_pool_while_much_is_received_over_tls(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """The same without a script: TLS at its own speed, which other threads share."""

    def sends_very_much(peer: Peer) -> None:
        peer.request()
        send_until_refused(peer, 64 * 1024 * 1024)

    with (
        ScriptedServer(sends_very_much, context=server_context) as server,
        ConnectionPool(ssl_context=client_context, retry=None) as pool,
    ):
        future = pool.submit("GET", url(server, scheme="https"), deadline=SOON)
        longest = 0.0
        while not future.done():
            before = time.monotonic()
            pool.statistics()
            longest = max(longest, time.monotonic() - before)
            time.sleep(0.001)  # or else this would be all that is done
        assert longest < TOLERANCE
