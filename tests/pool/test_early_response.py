"""A response of success that comes before all of the request's body was sent.

It says nothing of the rest. So the rest is sent while the server reads, whether the connection ends
with this response or not; and if it cannot be sent, the caller is told: an upload that has not
arrived is never a plain success. The exception has the early response as its `response`.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dugong import (
    ConnectionPool,
    ConnectionTimedOut,
    Delivery,
    DugongError,
    PollNeeded,
    Request,
    RetryPolicy,
)
from dugong.pool.core.connection import PooledConnection
from dugong.pool.core.core import PoolCore
from dugong.pool.core.traffic import Traffic
from dugong.pool.core.waiting import Patience
from dugong.pool.io.http1 import Http1Engine
from tests.support.clock import Listener
from tests.support.pool import (
    GONE,
    OpenSite,
    Site,
    discard_rest,
    each,
    name_target,
    open_site,
    wait_for,
)
from tests.support.server import TIMEOUT, Peer, ReceivedRequest

MUCH = bytes(range(256)) * 20_000  # 5 MB: more than fits into the buffers of one side
TOO_MUCH = bytes(16_000_000)  # more than fits into all of them
SOME = b"All of the body." * 16
READ = 1_000_000  # bytes that a server reads before it breaks off
SOON = 0.2  # seconds

#: What may be tried again is, without a wait.
AT_ONCE = RetryPolicy(backoff=0)


class Pieces:
    """An iterable body, which can be read again."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), 100_000):
            yield self._data[start : start + 100_000]


def file_of(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "body"
    path.write_bytes(data)
    return path.open("rb")


Body = Callable[[Path, bytes], Any]

#: Bodies, and whether their length is announced.
BODIES: dict[str, Body] = {
    "bytes": lambda _, data: data,
    "bytesio": lambda _, data: io.BytesIO(data),
    "file": file_of,
    "iterable": lambda _, data: Pieces(data),
    "generator": lambda _, data: iter(Pieces(data)),
}

each_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
each_method = pytest.mark.parametrize("method", ["PUT", "POST"])

#: What a server says that reads on, though this is the last response of the connection.
LAST = {
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\ngladly",
    "close-chunked": b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\ngladly\r\n0\r\n\r\n",
    "1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\ngladly",
    "201": b"HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 6\r\n\r\ngladly",
}
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"

each_last = pytest.mark.parametrize("last", LAST.values(), ids=LAST)

#: What a server says that does not speak of an end.
GLADLY = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ngladly"


def at_once(peer: Peer, response: bytes) -> None:
    """Send *response* so that nothing holds it back; have the system keep little of what comes."""
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    peer.send(response)


def rest_of(peer: Peer, head: ReceivedRequest) -> bytes:
    """Receive the body that belongs to *head*."""
    if "transfer-encoding" not in head.headers:
        return peer.exactly(int(head.headers["content-length"]))
    pieces = []
    while size := int(peer._until(b"\r\n")[:-2], 16):
        pieces.append(peer.exactly(size))
        peer.exactly(2)
    peer.exactly(2)
    return b"".join(pieces)


class ReadsOn:
    """A script that sends *response* after the head of a request, and then reads the body."""

    def __init__(self, response: bytes, then: Callable[[Peer], None] = lambda peer: None) -> None:
        self.received: list[bytes] = []
        self._response = response
        self._then = then

    def __call__(self, peer: Peer) -> None:
        head = peer.head()
        at_once(peer, self._response)
        try:
            self.received.append(rest_of(peer, head))
            self._then(peer)
        except GONE:
            self.received.append(b"only a part")


# --- the rest is sent -----------------------------------------------------------------------------


@each_method
@each_last
def test_the_rest_of_a_body_is_sent_though_the_response_is_the_last(
    site: OpenSite, last: bytes, method: str
) -> None:
    script = ReadsOn(last)
    with site(script, each(name_target)) as here:
        response = here.pool.request(method, here.url(), body=MUCH)
        assert (response.status // 100, response.body) == (2, b"gladly")
        assert response.attempts == ()
        assert here.goes_on()
        assert here.server.connections == 2
    assert script.received == [MUCH]


@each_body
def test_the_rest_of_any_body_is_sent_though_the_response_is_the_last(
    site: OpenSite, tmp_path: Path, body: Body
) -> None:
    script = ReadsOn(LAST["close"])
    data = body(tmp_path, MUCH)
    with site(script, each(name_target)) as here:
        assert here.pool.put(here.url(), data).body == b"gladly"
        assert here.goes_on()
    assert script.received == [MUCH]
    if hasattr(data, "close"):
        data.close()


def test_the_rest_of_a_body_is_sent_though_the_response_has_none(site: OpenSite) -> None:
    script = ReadsOn(NO_CONTENT)
    with site(script, each(name_target)) as here:
        assert here.pool.put(here.url(), MUCH).status == 204
        assert here.goes_on()
    assert script.received == [MUCH]


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_the_rest_of_a_body_is_sent_though_the_server_has_closed_its_own_direction(
    version: bytes,
) -> None:
    """The end of that direction is the end of a response without a length."""
    received = []

    def script(peer: Peer) -> None:
        head = peer.head()
        peer.send(version + b" 200 OK\r\n\r\ngladly")
        peer.sock.shutdown(socket.SHUT_WR)
        try:
            received.append(rest_of(peer, head))
        except GONE:
            received.append(b"only a part")

    with open_site(script, each(name_target)) as here:
        assert here.pool.put(here.url(), MUCH).body == b"gladly"
        assert here.goes_on()
    assert received == [MUCH]


@each_last
def test_the_rest_of_a_body_is_sent_though_the_response_is_streamed(
    site: OpenSite, last: bytes
) -> None:
    script = ReadsOn(last)
    with site(script, each(name_target)) as here:
        with here.pool.stream("PUT", here.url(), body=MUCH) as response:
            assert response.read() == b"gladly"
        assert here.goes_on()
    assert script.received == [MUCH]


@each_last
def test_a_body_that_is_made_slowly_is_sent_to_its_end(site: OpenSite, last: bytes) -> None:
    """The response has come, and is the last, long before the end of the body is made."""
    heard = Listener()

    def body() -> Iterator[bytes]:
        yield SOME
        heard.wait_for("answered")
        yield SOME

    script = ReadsOn(last)
    with site(script, each(name_target), on_event=heard) as here:
        headers = {"Content-Length": str(2 * len(SOME))}
        assert here.pool.put(here.url(), body(), headers=headers).body == b"gladly"
        assert here.goes_on()
    assert script.received == [SOME + SOME]


@pytest.mark.parametrize("last", [LAST["close"], LAST["1.0"]], ids=["close", "1.0"])
def test_a_body_that_the_server_reads_no_more_is_not_sent_for_ever(last: bytes) -> None:
    """The limit of time holds, and the caller hears of it."""
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        at_once(peer, last)
        wait_for(release)  # without reading any more

    with open_site(script, each(name_target)) as here:
        future = here.pool.submit("POST", here.url(), body=TOO_MUCH, timeout=SOON)
        error: Any = future.exception(10)
        release.set()
        assert isinstance(error, DugongError)
        assert error.response.body == b"gladly"
        assert here.goes_on()


def test_a_deadline_holds_while_the_rest_of_a_body_is_sent(site: OpenSite) -> None:
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        at_once(peer, LAST["close"])
        wait_for(release)

    with site(script, each(name_target)) as here:
        future = here.pool.submit("POST", here.url(), body=TOO_MUCH, deadline=SOON)
        error = future.exception(10)
        release.set()
        assert isinstance(error, ConnectionTimedOut)
        assert here.goes_on()


# --- a refusal still stops the upload -------------------------------------------------------------


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("status", ["301 Moved", "403 No", "413 Too Large", "500 Oh"])
def test_a_refusal_stops_the_upload(site: OpenSite, status: str, version: str) -> None:
    answered = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        at_once(peer, f"{version} {status}\r\nContent-Length: 2\r\n\r\nno".encode())
        wait_for(answered)  # or else all of the body may have been sent before this is seen
        discard_rest(peer)

    with site(script, each(name_target)) as here:
        response = here.pool.put(here.url(), iter(Pieces(TOO_MUCH)), retry=None)
        answered.set()
        assert (response.status, response.body) == (int(status[:3]), b"no")
        assert here.goes_on()


# --- the rest cannot be sent ----------------------------------------------------------------------


def resets(peer: Peer, end: threading.Event) -> None:
    peer.reset()


def closes(peer: Peer, end: threading.Event) -> None:
    """Close with unread data, which the system makes a reset of."""
    peer.sock.close()


def stalls(peer: Peer, end: threading.Event) -> None:
    """Read no more, until the test is over."""
    wait_for(end)


Break = Callable[[Peer, threading.Event], None]


class BreaksOff:
    """A script that sends *response* after the head, reads a part of the body, and breaks off.

    A connection that stalls does so until `end` is called.
    """

    def __init__(self, response: bytes, how: Break) -> None:
        self._response = response
        self._how = how
        self._end = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.head()
        at_once(peer, self._response)
        try:
            peer.exactly(READ)
        except GONE:
            return  # the client would not send so much: so it has broken off itself
        self._how(peer, self._end)

    def end(self) -> None:
        self._end.set()


each_break = pytest.mark.parametrize("how", [resets, closes, stalls])
each_response = pytest.mark.parametrize(
    "response",
    [GLADLY, LAST["close"], LAST["1.0"]],
    ids=["keep-alive", "close", "1.0"],
)


@each_break
@each_response
def test_a_post_that_was_broken_off_has_failed_though_its_response_was_a_success(
    response: bytes, how: Break
) -> None:
    script = BreaksOff(response, how)
    with open_site(script, each(name_target), retry=AT_ONCE) as here:
        future = here.pool.submit("POST", here.url(), body=TOO_MUCH, timeout=SOON)
        error: Any = future.exception(10)
        script.end()
        assert isinstance(error, DugongError)
        assert error.delivery in (Delivery.ANSWER_STARTED, Delivery.PARTLY_SENT)
        if how is stalls:  # a reset may overtake the response
            assert error.response.status == 200
            assert error.response.body == b"gladly"
            assert error.delivery is Delivery.PARTLY_SENT
        assert here.goes_on()


@each_break
@each_response
def test_a_put_that_was_broken_off_is_tried_again_though_its_response_was_a_success(
    site: OpenSite, response: bytes, how: Break
) -> None:
    script, good = BreaksOff(response, how), ReadsOn(GLADLY, each(name_target))
    with site(script, good, retry=AT_ONCE) as here:
        future = here.pool.submit("PUT", here.url(), body=TOO_MUCH, timeout=SOON)
        error = future.exception(10)
        script.end()
        assert error is None
        response = future.result()
        assert response.body == b"gladly"
        assert len(response.attempts) == 1
        assert response.attempts[0].charged
        assert here.goes_on()
    assert good.received == [TOO_MUCH]


@each_body
def test_any_body_that_was_broken_off_is_tried_again_if_it_can_be(
    site: OpenSite, tmp_path: Path, body: Body
) -> None:
    script, good = BreaksOff(GLADLY, stalls), ReadsOn(GLADLY, each(name_target))
    data = body(tmp_path, TOO_MUCH)
    rewindable = not isinstance(data, Iterator) or hasattr(data, "seek")
    next_one = good if rewindable else each(name_target)
    with site(script, next_one, retry=AT_ONCE) as here:
        future = here.pool.submit("PUT", here.url(), body=data, timeout=SOON)
        error: Any = future.exception(10)
        script.end()
        if rewindable:
            assert error is None
            assert len(future.result().attempts) == 1
        else:
            assert isinstance(error, DugongError)
            assert error.response.status == 200
        assert here.goes_on()
    assert good.received == ([TOO_MUCH] if rewindable else [])
    if hasattr(data, "close"):
        data.close()


@each_response
def test_a_put_that_is_broken_off_each_time_fails_with_all_its_attempts(response: bytes) -> None:
    scripts = [BreaksOff(response, stalls) for _ in range(2)]
    retry = RetryPolicy(attempts=2, backoff=0)
    with open_site(*scripts, each(name_target), retry=retry) as here:
        future = here.pool.submit("PUT", here.url(), body=TOO_MUCH, timeout=SOON)
        error: Any = future.exception(10)
        for script in scripts:
            script.end()
        assert isinstance(error, DugongError)
        assert len(error.attempts) == 1
        assert error.response.body == b"gladly"
        assert here.goes_on()


@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
@each_break
@pytest.mark.parametrize("response", [GLADLY, LAST["close"]], ids=["keep-alive", "close"])
def test_a_stream_whose_upload_was_broken_off_fails_in_its_block(
    response: bytes, how: Break, reads: bool
) -> None:
    """A streamed response cannot be taken back: so reading it, or leaving the block, fails."""
    script = BreaksOff(response, how)

    def stream(here: Site) -> None:
        with here.pool.stream("PUT", here.url(), body=TOO_MUCH, timeout=SOON) as response:
            assert response.status == 200
            if reads:
                response.read()

    with open_site(script, each(name_target)) as here:
        try:
            with pytest.raises(DugongError) as caught:
                stream(here)
        finally:
            script.end()
        assert caught.value.delivery in (Delivery.ANSWER_STARTED, Delivery.PARTLY_SENT)
        assert here.goes_on()


def test_the_deadline_of_a_stream_is_for_the_rest_of_its_upload_too(site: OpenSite) -> None:
    """The response has been read to its end, so nothing but the sender is waited for."""
    script = BreaksOff(GLADLY, stalls)

    def stream(here: Site) -> None:
        with here.pool.stream("PUT", here.url(), body=TOO_MUCH, deadline=SOON) as response:
            assert response.read() == b"gladly"

    with site(script, each(name_target), timeout=2) as here:
        try:
            with pytest.raises(ConnectionTimedOut, match="the deadline passed while the body was"):
                stream(here)
        finally:
            script.end()
        assert here.goes_on()


def test_what_a_block_raises_is_not_hidden_by_its_upload(site: OpenSite) -> None:
    script = BreaksOff(GLADLY, stalls)
    with site(script, each(name_target)) as here:
        with (
            pytest.raises(ZeroDivisionError),
            here.pool.stream("PUT", here.url(), body=TOO_MUCH, timeout=SOON),
        ):
            raise ZeroDivisionError
        script.end()
        assert here.goes_on()


def test_what_a_body_raises_after_an_early_response_is_what_the_caller_gets(
    site: OpenSite,
) -> None:
    heard = Listener()

    def body() -> Iterator[bytes]:
        yield SOME
        heard.wait_for("answered")
        raise LookupError("no more to be had")

    def script(peer: Peer) -> None:
        peer.head()
        at_once(peer, GLADLY)
        discard_rest(peer)

    with site(script, each(name_target), on_event=heard) as here:
        with pytest.raises(LookupError, match="no more"):
            here.pool.put(here.url(), body())
        assert here.goes_on()


# --- a final response instead of 100 --------------------------------------------------------------


@each_method
@pytest.mark.parametrize("last", [GLADLY, LAST["close"], LAST["1.0"]], ids=["keep", "close", "1.0"])
def test_a_success_instead_of_100_does_not_hide_that_the_body_was_not_sent(
    site: OpenSite, last: bytes, method: str
) -> None:
    """Either the body is sent, or the caller is told."""
    script = ReadsOn(last)
    with site(script, each(name_target), retry=None) as here:
        future = here.pool.submit(method, here.url(), body=MUCH, expect100=True, timeout=2)
        error: Any = future.exception(10)
        if error is not None:
            assert isinstance(error, DugongError)
            assert error.response.body == b"gladly"
        assert here.goes_on()
    assert (error is None) == (script.received == [MUCH])


# --- the rest cannot be sent in time --------------------------------------------------------------

#: What a server says that reads no more, and how far the request has got then.
SAID = {
    "nothing": (b"", Delivery.PARTLY_SENT),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n", Delivery.PARTLY_SENT),
    "200": (GLADLY, Delivery.PARTLY_SENT),
    "200 as the last": (LAST["close"], Delivery.PARTLY_SENT),
    "a part of 200": (GLADLY[:-1], Delivery.ANSWER_STARTED),
    "a part of 403": (
        b"HTTP/1.1 403 No\r\nContent-Length: 6\r\n\r\nsadly",
        Delivery.ANSWER_STARTED,
    ),
}


#: Seconds that sending may take; receiving has longer.
PATIENCE = Patience(None, None, write=SOON)


class SpeaksLate:
    """A script that reads no body, and sends *response* when the sender waits for it to do so."""

    def __init__(self, response: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        self._response = response
        self._is_blocked = threading.Event()
        self._end = threading.Event()
        sending = threading.local()
        send_body, poll = Http1Engine.send_body, PollNeeded.poll

        def send_body_noted(*args: Any) -> None:
            sending.engine = args[0]
            try:
                send_body(*args)
            finally:
                del sending.engine

        def poll_noted(needed: PollNeeded, timeout: float | None = None) -> bool:
            if hasattr(sending, "engine"):
                self._is_blocked.set()
            return poll(needed, timeout)

        monkeypatch.setattr(Http1Engine, "send_body", send_body_noted)
        monkeypatch.setattr(PollNeeded, "poll", poll_noted)

    def __call__(self, peer: Peer) -> None:
        peer.head()
        at_once(peer, b"")
        wait_for(self._is_blocked)
        peer.send(self._response)
        wait_for(self._end)

    def end(self) -> None:
        self._end.set()


@pytest.mark.parametrize("kind", [bytes, Pieces])
@pytest.mark.parametrize("said", SAID)
def test_a_body_that_is_not_taken_in_time_is_told_as_a_time_out(
    site: OpenSite, said: str, kind: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    response, delivery = SAID[said]
    script = SpeaksLate(response, monkeypatch)
    with site(script, each(name_target)) as here:
        request = Request("PUT", here.url(), body=kind(TOO_MUCH), timeout=TIMEOUT)
        try:
            with pytest.raises(ConnectionTimedOut, match=r"nothing sent for 0\.2 s") as caught:
                here.pool._request(request, PATIENCE)
        finally:
            script.end()
        assert caught.value.delivery is delivery
        early = caught.value.response
        assert (early is not None) is said.startswith("200")
        assert here.goes_on()


@pytest.mark.parametrize("said", ["a part of 200", "a part of 403"])
def test_a_reader_of_a_stream_is_told_that_the_body_was_not_taken_in_time(
    site: OpenSite, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it may find the connection ended before the sender has said why."""
    is_told = threading.Event()
    reader = threading.get_ident()
    next_batch, wait = Traffic.next_batch, PoolCore.wait

    def next_batch_late(traffic: Traffic, connection: PooledConnection, error: Any) -> Any:
        if isinstance(error, ConnectionTimedOut):
            wait_for(is_told)
        return next_batch(traffic, connection, error)

    def wait_and_tell(core: PoolCore, *args: Any) -> None:
        if threading.get_ident() == reader:
            is_told.set()
        wait(core, *args)

    def read(here: Site) -> None:
        request = Request("PUT", here.url(), body=TOO_MUCH, timeout=TIMEOUT)
        with here.pool._stream(request, PATIENCE) as response:
            monkeypatch.setattr(PoolCore, "wait", wait_and_tell)
            try:
                response.read()
            finally:
                is_told.set()

    monkeypatch.setattr(Traffic, "next_batch", next_batch_late)
    script = SpeaksLate(SAID[said][0], monkeypatch)
    with site(script, each(name_target)) as here:
        try:
            with pytest.raises(ConnectionTimedOut, match=r"nothing sent for 0\.2 s") as caught:
                read(here)
        finally:
            script.end()
        is_success = said == "a part of 200"
        expected = Delivery.PARTLY_SENT if is_success else Delivery.ANSWER_STARTED
        assert caught.value.delivery is expected
        assert (caught.value.response is not None) is is_success
        assert here.goes_on()


# --- what is told ---------------------------------------------------------------------------------


def test_an_upload_that_was_broken_off_is_told_as_such() -> None:
    events = []
    script = BreaksOff(GLADLY, stalls)
    with (
        open_site(script, each(name_target)) as here,
        ConnectionPool(on_event=events.append, retry=None) as pool,
    ):
        future = pool.submit("PUT", here.url(), body=TOO_MUCH, timeout=SOON)
        error = future.exception(10)
        script.end()
        assert error is not None
        assert "200" in str(error)
        assert "body" in str(error)
    assert [event.kind for event in events if event.kind == "gave up"] == ["gave up"]
