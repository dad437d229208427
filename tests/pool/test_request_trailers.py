"""Trailers of requests: fields behind a body in chunks."""

from __future__ import annotations

import hashlib
import io
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dugong import Client, ConnectionPool, HTTPConnection, Request, StateError
from dugong.connection.writers import BodyFollowing
from dugong.pool.filepart import FilePart
from tests.support.pool import each, name_target, open_site
from tests.support.refusing import AT_ONCE, TOO_MANY, UNAVAILABLE, Refusing
from tests.support.server import TIMEOUT, Peer, ReceivedRequest


def chunks() -> Iterator[bytes]:
    yield b"hello "
    yield b"world"


@pytest.mark.parametrize("body", [chunks, lambda: [b"hello ", b"world"], lambda: chunks])
def test_they_are_sent_behind_the_body_and_announced_before_it(body: Any) -> None:
    script = Refusing()
    with open_site(script) as here:
        here.pool.put(here.url("/a"), body(), trailers={"X-Sum": "1", "X-Size": 11})
    (received,) = script.requests
    assert received.headers["trailer"] == "X-Sum, X-Size"
    assert received.body == b"hello world"
    assert received.trailers == {"x-sum": "1", "x-size": "11"}


def test_an_empty_body_has_them_too() -> None:
    script = Refusing()
    with open_site(script) as here:
        here.pool.put(here.url("/a"), [], trailers=[("X-Sum", "0")])
    assert (script.requests[0].body, script.requests[0].trailers) == (b"", {"x-sum": "0"})


def test_a_callable_is_asked_behind_the_body_of_each_attempt() -> None:
    script = Refusing(UNAVAILABLE, TOO_MANY)
    digests: list[Any] = []
    threads: list[str] = []

    def body() -> Iterator[bytes]:
        digests.append(digest := hashlib.sha256(b"%d" % len(digests)))
        for piece in chunks():
            digest.update(piece)
            yield piece

    def trailers(request: Request) -> dict[str, str]:
        assert request.context == "mine"
        threads.append(threading.current_thread().name)
        return {"X-Sum": digests[-1].hexdigest()}

    with open_site(script, repeat=True, retry=AT_ONCE) as here:
        here.pool.put(
            here.url("/a"), body, headers={"Trailer": "X-Sum"}, trailers=trailers, context="mine"
        )
    expected = [hashlib.sha256(b"%dhello world" % n).hexdigest() for n in range(3)]
    assert [received.trailers for received in script.requests] == [
        {"x-sum": text} for text in expected
    ]
    assert {received.headers["trailer"] for received in script.requests} == {"X-Sum"}
    assert threads[0].startswith("dugong-")


def test_a_callable_may_return_none() -> None:
    script = Refusing()
    with open_site(script) as here:
        here.pool.put(here.url("/a"), chunks(), trailers=lambda request: None)
    assert "trailer" not in script.requests[0].headers
    assert (script.requests[0].body, script.requests[0].trailers) == (b"hello world", {})


def test_a_callable_is_not_asked_if_the_server_does_not_want_the_body() -> None:
    asked: list[Request] = []

    def refuse(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(status="413 Too Large", headers="Connection: close\r\n")

    def script(peer: Peer) -> None:
        refuse(peer, peer.head())

    def trailers(request: Request) -> None:
        asked.append(request)

    with open_site(script) as here:
        response = here.pool.put(here.url("/a"), chunks(), expect100=True, trailers=trailers)
    assert response.status == 413
    assert asked == []


@pytest.mark.parametrize(
    ("error", "raised"), [(LookupError("no sum"), LookupError), (KeyboardInterrupt(), RuntimeError)]
)
def test_what_a_callable_raises_fails_its_request_alone(
    error: BaseException, raised: type[Exception]
) -> None:
    asked: list[Request] = []

    def trailers(request: Request) -> dict[str, str]:
        asked.append(request)
        raise error

    with open_site(each(name_target), repeat=True, retry=AT_ONCE) as here:
        with pytest.raises(raised) as caught:
            here.pool.put(here.url("/a"), [b"body"], trailers=trailers)
        assert error in (caught.value, caught.value.__cause__)
        assert here.goes_on()
    assert len(asked) == 1


def test_what_a_callable_makes_is_checked() -> None:
    with open_site(each(name_target), repeat=True) as here:
        for made in ({"Content-Length": "3"}, {"X": "a\r\nb"}):
            with pytest.raises(ValueError, match="header"):
                here.pool.put(here.url("/a"), [b"body"], trailers=lambda request, made=made: made)
        assert here.goes_on()


@pytest.mark.parametrize(
    "body",
    [b"bytes", bytes(100_000), io.BytesIO(b"file"), FilePart(io.BytesIO(b"part"))],
    ids=["small", "large", "file", "part"],
)
def test_a_body_with_a_length_has_none(body: Any) -> None:
    with (
        ConnectionPool() as pool,
        pytest.raises(ValueError, match="in chunks only"),
    ):
        pool.submit("PUT", "http://host/", body=body, trailers={"X-Sum": "1"})


def test_a_declared_length_is_one() -> None:
    with ConnectionPool() as pool, pytest.raises(ValueError, match="in chunks only"):
        pool.submit(
            "PUT",
            "http://host/",
            headers={"Content-Length": "4"},
            body=iter([b"body"]),
            trailers={"X-Sum": "1"},
        )


def test_without_a_body_there_are_none() -> None:
    with pytest.raises(ValueError, match="with a body"):
        Request("PUT", "http://host/", trailers={"X-Sum": "1"})


@pytest.mark.parametrize("name", ["Content-Length", "authorization", "Host"])
def test_what_is_forbidden_is_refused_when_the_request_is_made(name: str) -> None:
    with pytest.raises(ValueError, match="behind the body"):
        Request("PUT", "http://host/", body=[b"a"], trailers={name: "1"})


def test_a_request_keeps_what_it_was_given() -> None:
    given = {"X-Sum": "1"}
    request = Request("PUT", "http://host/", body=[b"a"], trailers=given)
    given["X-Sum"] = "2"
    assert request.trailers == (("X-Sum", "1"),)
    assert request.replace(method="POST").trailers == request.trailers
    assert pickle.loads(pickle.dumps(request)).trailers == request.trailers
    made = Request("PUT", "http://host/", body=[b"a"], trailers=chunks)  # type: ignore[arg-type]
    assert made.trailers is chunks
    with ConnectionPool() as pool, pytest.raises(TypeError, match="give either a Request or"):
        pool.request(request, trailers=given)


@pytest.mark.parametrize("status", ["307 Temporary Redirect", "303 See Other"])
def test_they_go_with_the_body_through_redirects(status: str) -> None:
    received: list[ReceivedRequest] = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        received.append(request)
        if request.target == "/a":
            peer.respond(status=status, headers="Location: /b\r\n")
        else:
            peer.respond()

    with open_site(each(respond), repeat=True) as here, Client(pool=here.pool) as client:
        client.put(here.url("/a"), body=[b"body"], trailers={"X-Sum": "1"})
        future = client.submit("PUT", here.url("/a"), body=[b"body"], trailers={"X-Sum": "1"})
        future.result(TIMEOUT)
    kept = {"x-sum": "1"} if status.startswith("307") else {}
    assert [request.trailers for request in received] == [{"x-sum": "1"}, kept] * 2
    assert ("trailer" in received[1].headers) is bool(kept)


def test_a_connection_sends_them_at_the_end_of_a_chunked_body() -> None:
    script = Refusing()
    with open_site(script) as here, HTTPConnection("127.0.0.1", here.server.port) as conn:
        conn.send_request("PUT", "/a", {"Trailer": "X-Sum"}, BodyFollowing())
        conn.write(b"body")
        with pytest.raises(ValueError, match="behind the body"):
            conn.write_eof({"Content-Type": "text/plain"})
        conn.write_eof({"X-Sum": "1"})
        with pytest.raises(StateError):
            conn.write_eof({"X-Sum": "2"})
        conn.write_eof()
        assert conn.read_response().status == 200
        conn.discard()
        conn.send_request("PUT", "/b", None, BodyFollowing(4))
        with pytest.raises(StateError, match="in chunks only"):
            conn.write_eof({"X-Sum": "1"})
        conn.write(b"body")
        assert conn.read_response().status == 200
        conn.discard()
    assert [request.trailers for request in script.requests] == [{"x-sum": "1"}, {}]
