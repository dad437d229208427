"""Uploads that are sent again, from where they have to begin; and streams, until they are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from dugong import (
    ConnectionClosed,
    Delivery,
    RetryPolicy,
)
from tests.support.byhand import HandServer
from tests.support.clock import Listener, no_luck
from tests.support.pool import each, name_target, open_site
from tests.support.refusing import (
    AT_ONCE,
    FOR_EVER,
    UNAVAILABLE,
    Refusing,
    dies,
    one_connection,
)
from tests.support.server import Peer

# --- uploads --------------------------------------------------------------------------------------

MUCH = bytes(range(256)) * 1024  # more than is sent with a head


class Closing(io.BytesIO):
    """A body that tells of its end."""

    closings = 0

    def close(self) -> None:
        type(self).closings += 1
        super().close()


REWINDABLE: dict[str, Callable[[], Any]] = {
    "bytes": lambda: MUCH,
    "a bytearray": lambda: bytearray(MUCH),
    "a BytesIO": lambda: io.BytesIO(MUCH),
    "a list": lambda: [MUCH[:1000], MUCH[1000:]],
    "a callable that returns bytes": lambda: lambda: MUCH,
    "a callable that returns a file": lambda: lambda: io.BytesIO(MUCH),
    "a callable that returns an iterator": lambda: lambda: iter([MUCH[:1000], MUCH[1000:]]),
}


@pytest.mark.parametrize("kind", REWINDABLE)
def test_an_upload_that_was_refused_is_sent_again_whole(kind: str) -> None:
    script = Refusing(UNAVAILABLE, UNAVAILABLE)
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        response = here.pool.put(here.url("/a"), REWINDABLE[kind]())
    assert response.status == 200
    assert [request.body for request in script.requests] == [MUCH] * 3


@pytest.mark.parametrize("kind", REWINDABLE)
def test_an_upload_whose_connection_died_is_sent_again_from_the_start(kind: str) -> None:
    script = Refusing()

    def dies_within(peer: Peer) -> None:
        peer.head()
        peer.exactly(5)
        peer.reset()

    with open_site(dies_within, script, repeat=True, retry=AT_ONCE) as here:
        response = here.pool.put(here.url("/a"), REWINDABLE[kind]())
    assert response.status == 200
    assert [request.body for request in script.requests] == [MUCH]
    (attempt,) = response.attempts
    assert attempt.delivery in (Delivery.PARTLY_SENT, Delivery.SENT)


def test_a_file_is_sent_again_from_where_it_stood(server: HandServer) -> None:
    file = io.BytesIO(b"not this" + MUCH)
    file.seek(8)
    script = Refusing(UNAVAILABLE)
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        assert here.pool.put(here.url("/a"), file).status == 200
    assert [request.body for request in script.requests] == [MUCH] * 2


def refuse_early(peer: Peer) -> None:
    """Refuse before the body has come, and take no more."""
    peer.head()
    peer.respond(b"refused", UNAVAILABLE, headers="Connection: close\r\n")
    try:
        peer.until_eof()
    except ConnectionError:
        pass


@pytest.mark.parametrize("kind", REWINDABLE)
def test_an_upload_that_was_refused_early_is_sent_again_whole(kind: str) -> None:
    script = Refusing()
    with open_site(refuse_early, script, repeat=True, retry=AT_ONCE) as here:
        response = here.pool.put(here.url("/a"), REWINDABLE[kind]())
    assert response.status == 200
    assert [attempt.status for attempt in response.attempts] == [503]
    assert [request.body for request in script.requests] == [MUCH]


def test_a_body_that_cannot_be_rewound_is_not_sent_again_after_a_refusal() -> None:
    script = Refusing(UNAVAILABLE)
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        response = here.pool.put(here.url("/a"), iter([MUCH]))
        assert here.goes_on()
    assert response.status == 503
    assert response.attempts == ()
    assert [request.target for request in script.requests] == ["/a", "/next"]


def test_a_body_that_cannot_be_rewound_is_not_sent_again_after_a_fault_and_the_error_says_so() -> (
    None
):
    with open_site(dies, each(name_target), retry=AT_ONCE) as here:
        with pytest.raises(ConnectionClosed) as caught:
            here.pool.put(here.url("/a"), iter([MUCH]))
        assert here.goes_on()
    assert caught.value.__notes__ == ["the body of the request could not have been sent again"]


def test_a_body_that_can_be_rewound_leaves_no_note() -> None:
    with open_site(dies, retry=None) as here, pytest.raises(ConnectionClosed) as caught:
        here.pool.put(here.url("/a"), [MUCH])
    assert not hasattr(caught.value, "__notes__")


def test_a_body_that_cannot_be_rewound_is_sent_again_if_nothing_was_read_of_it() -> None:
    def refuses_at_the_gate(peer: Peer) -> None:
        assert peer.head().headers["expect"] == "100-continue"
        peer.respond(b"", UNAVAILABLE, headers="Connection: close\r\n")

    script = Refusing()

    def agrees(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(peer._until(b"\r\n")[:-2], 16)
        assert peer.exactly(size) == b"once only"
        peer.exactly(len(b"\r\n0\r\n\r\n"))
        peer.respond(b"stored")
        peer.until_eof()

    with open_site(refuses_at_the_gate, agrees, retry=AT_ONCE) as here:
        response = here.pool.put(here.url("/a"), iter([b"once only"]), expect100=True)
    assert response.body == b"stored"
    assert len(response.attempts) == 1
    assert script.requests == []


def test_a_body_is_made_afresh_for_each_sending_and_closed_after_it() -> None:
    made: list[Closing] = []

    def make() -> Closing:
        assert all(body.closed for body in made)
        made.append(Closing(MUCH))
        return made[-1]

    script = Refusing(UNAVAILABLE, UNAVAILABLE)
    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        assert here.pool.put(here.url("/a"), make).status == 200
        assert [body.closed for body in made] == [True, True, True]
    assert [request.body for request in script.requests] == [MUCH] * 3


def test_a_body_whose_making_fails_is_not_made_again() -> None:
    calls: list[str] = []

    def make() -> bytes:
        calls.append("made")
        if len(calls) == 2:
            raise ConnectionResetError("not even that")
        return MUCH

    script = Refusing(UNAVAILABLE)
    with open_site(script, each(name_target), repeat=True, retry=AT_ONCE) as here:
        with pytest.raises(ConnectionResetError, match="not even that") as caught:
            here.pool.put(here.url("/a"), make)
        assert here.goes_on()
    assert calls == ["made", "made"]
    assert [attempt.status for attempt in caught.value.attempts] == [503]  # type: ignore[attr-defined]


def test_a_bytearray_may_be_changed_when_its_upload_is_given_up() -> None:
    body = bytearray(MUCH)
    script = Refusing(UNAVAILABLE, UNAVAILABLE)
    with open_site(script, repeat=True, retry=RetryPolicy(attempts=2, backoff=0)) as here:
        assert here.pool.put(here.url("/a"), body).status == 503
        body.clear()


def test_a_bytearray_may_be_changed_when_its_upload_was_cancelled_while_it_waited(
    server: HandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_luck(monkeypatch)
    body = bytearray(MUCH)
    with one_connection(FOR_EVER, on_event=(heard := Listener())) as pool:
        future = pool.submit("PUT", server.url("/a"), body=body)
        peer = server.accept()
        assert peer.request().body == MUCH
        peer.respond(b"", UNAVAILABLE)
        heard.wait_for("resent")
        assert future.cancel()
        body.clear()


# --- streams --------------------------------------------------------------------------------------

REFUSED = b"refused" * 1000


@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_a_stream_that_is_refused_is_tried_again(framing: str) -> None:
    def refuses(peer: Peer) -> None:
        peer.request()
        if framing == "length":
            peer.respond(REFUSED, UNAVAILABLE, headers="Connection: close\r\n")
            return
        peer.send(f"HTTP/1.1 {UNAVAILABLE}\r\nConnection: close\r\n".encode())
        if framing == "chunks":
            peer.send(b"Transfer-Encoding: chunked\r\n\r\n")
            peer.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(REFUSED), REFUSED))
        else:
            peer.send(b"\r\n" + REFUSED)

    with (
        open_site(refuses, each(name_target), retry=AT_ONCE) as here,
        here.pool.stream("GET", here.url("/a")) as response,
    ):
        assert response.read() == b"/a"
    assert [attempt.status for attempt in response.attempts] == [503]


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_stream_that_is_refused_at_length_is_handed_over(framing: str) -> None:
    refused = b"refused" * 50_000

    def refuses(peer: Peer) -> None:
        peer.request()
        if framing == "length":
            peer.respond(refused, UNAVAILABLE)
        else:
            peer.send(f"HTTP/1.1 {UNAVAILABLE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            peer.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(refused), refused))
        peer.until_eof()

    with (
        open_site(refuses, retry=AT_ONCE) as here,
        here.pool.stream("GET", here.url("/a")) as response,
    ):
        assert response.status == 503
        assert response.read() == refused


def test_a_stream_is_tried_again_if_its_connection_died_before_the_head() -> None:
    with (
        open_site(dies, each(name_target), retry=AT_ONCE) as here,
        here.pool.stream("GET", here.url("/a")) as response,
    ):
        assert response.read() == b"/a"
    assert len(response.attempts) == 1


def test_a_stream_is_not_tried_again_once_it_was_handed_over() -> None:
    def dies_within(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        peer.cut()

    with (
        open_site(dies, dies_within, retry=AT_ONCE) as here,
        here.pool.stream("GET", here.url("/a")) as response,
        pytest.raises(ConnectionClosed) as caught,
    ):
        response.read()
    assert caught.value.delivery is Delivery.ANSWER_STARTED
    assert caught.value.attempts == response.attempts
    assert len(response.attempts) == 1


def test_a_stream_that_gets_the_last_refusal_can_be_read() -> None:
    script = Refusing(UNAVAILABLE, UNAVAILABLE)
    with (
        open_site(script, retry=RetryPolicy(attempts=2, backoff=0)) as here,
        here.pool.stream("GET", here.url("/a")) as response,
    ):
        assert (response.status, response.length) == (503, 7)
        assert response.read(3) == b"ref"
        assert response.read() == b"used"
