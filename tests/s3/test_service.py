"""What operations on a bucket have in common: what is under way ends with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dugong import Client, ConnectionPool, PoolClosed, ResponseFuture, RetryPolicy
from dugong.s3.errors import ChecksumError
from dugong.s3.service import AT_ONCE, Service, bucket_url, object_of, under_way
from tests.support.client import Page, Place
from tests.support.server import Peer, ReceivedRequest, ScriptedServer


def test_no_more_are_under_way_than_may_be() -> None:
    place = Place(lambda request: Page())
    submitted: list[ResponseFuture] = []
    taken = 0

    with place.server, Client() as client:

        def source() -> Iterator[ResponseFuture]:
            for _ in range(30):
                submitted.append(client.submit("GET", place.url()))
                assert len(submitted) - taken <= AT_ONCE
                yield submitted[-1]

        for future in under_way(source()):
            assert future.done()
            taken += 1
    assert taken == 30


def test_all_are_done_when_the_consumer_stops() -> None:
    stopped = threading.Event()

    def serve(request: ReceivedRequest) -> Page:
        if request.target != "/0":
            stopped.wait(10)
        return Page()

    place = Place(serve)
    submitted: list[ResponseFuture] = []
    with place.server, Client(max_connections_per_host=4) as client:

        def source() -> Iterator[ResponseFuture]:
            for n in range(30):
                submitted.append(client.submit("PUT", place.url(f"/{n}"), body=b"body"))
                yield submitted[-1]

        futures = under_way(source())
        next(futures)
        futures.close()  # type: ignore[attr-defined]  # it is a generator
        assert len(submitted) == AT_ONCE
        assert all(future.done() for future in submitted)
        stopped.set()


def test_all_are_done_when_the_source_fails() -> None:
    place = Place(lambda request: Page())
    submitted: list[ResponseFuture] = []
    with place.server, Client() as client:

        def source() -> Iterator[ResponseFuture]:
            submitted.append(client.submit("GET", place.url()))
            yield submitted[-1]
            raise RuntimeError("the disk is gone")

        with pytest.raises(RuntimeError, match="the disk is gone"):
            list(under_way(source()))
        assert submitted[0].done()


def test_the_wait_for_another_attempt_ends_with_the_pool() -> None:
    client = Client()
    service = Service(client, "http://h/bucket", RetryPolicy(backoff=1e6, max_backoff=1e6))

    def attempt() -> None:
        client.close()
        raise ChecksumError

    with pytest.raises(PoolClosed):
        service.repeated(attempt)


def test_a_size_that_a_server_says_twice_is_one() -> None:
    def serve(peer: Peer) -> None:
        for _ in peer.requests():
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7, 7\r\n\r\n")

    with ScriptedServer(serve) as server, ConnectionPool() as pool:
        assert object_of("key", pool.head(server.url())).size == 7


def test_the_url_of_a_bucket_keeps_its_path() -> None:
    assert bucket_url("http://h:9000/a/b/", None, "r") == "http://h:9000/a/b"
