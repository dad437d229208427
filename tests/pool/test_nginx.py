"""A pool against a real nginx, which closes connections for reasons of its own."""

from __future__ import annotations

import io
import itertools
import os
import signal
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import pytest
import trustme

from dugong import ConnectionPool, DugongError, Request, Response
from dugong.pool.body import BodyLike
from dugong.pool.core.pipelining import NEAR_DEPTH
from dugong.pool.statistics import HostStatistics
from tests.support.nginx import Nginx, nginx
from tests.support.pool import each, open_site
from tests.support.server import Peer, ReceivedRequest

#: The body names the request, which no other response of these tests does.
SETTINGS = """
    add_header Worker $pid;
    location / { return 200 "$request_uri"; }
    location /three/ { keepalive_requests 3; return 200 "$request_uri"; }
    location /closing/ { keepalive_timeout 0; return 200 "$request_uri"; }
    location /dav/ { dav_methods PUT; create_full_put_path on; client_max_body_size 64m; }
"""


@pytest.fixture(scope="module")
def server(
    nginx_path: str, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Nginx]:
    with nginx(nginx_path, tmp_path_factory.mktemp("nginx"), authority, SETTINGS) as server:
        yield server


class Client:
    """A pool, and where nginx is."""

    def __init__(self, pool: ConnectionPool, base: str) -> None:
        self.pool = pool
        self.base = base

    def url(self, target: str) -> str:
        return self.base + target

    def urls(self, place: str, count: int) -> list[str]:
        return [self.url(f"{place}{i}?{i * i}") for i in range(count)]

    def host(self) -> HostStatistics:
        return self.pool.statistics().hosts[self.base]


@pytest.fixture(params=["plain", "tls"])
def client(
    request: pytest.FixtureRequest, server: Nginx, client_context: ssl.SSLContext
) -> Iterator[Client]:
    if request.param == "tls":
        base = f"https://127.0.0.1:{server.tls_port}"
    else:
        base = f"http://127.0.0.1:{server.port}"
    with ConnectionPool(ssl_context=client_context) as pool:
        yield Client(pool, base)


def check(response: Response) -> None:
    """Check that *response* is that to its request."""
    assert (response.status, response.text) == (200, response.request.target)


def by_submit(client: Client, urls: list[str]) -> Iterator[Response]:
    futures = [client.pool.submit("GET", url) for url in urls]
    return (future.result() for future in futures)


def by_map(client: Client, urls: list[str]) -> Iterator[Response]:
    return client.pool.map(urls)


def by_as_completed(client: Client, urls: list[str]) -> Iterator[Response]:
    futures = list(client.pool.as_completed(urls))
    assert all(future.result().request is future.request for future in futures)
    in_order = {future.request.url: future.result() for future in futures}
    return iter([in_order[url] for url in urls])


def by_threads(client: Client, urls: list[str]) -> Iterator[Response]:
    with ThreadPoolExecutor(8) as threads:
        return iter(list(threads.map(client.pool.get, urls)))


Way = Callable[[Client, list[str]], Iterable[Response]]


@pytest.mark.parametrize("way", [by_submit, by_map, by_as_completed, by_threads])
@pytest.mark.parametrize(("place", "count"), [("/", 2500), ("/three/", 300), ("/closing/", 100)])
def test_every_body_is_that_of_its_request(
    client: Client, way: Way, place: str, count: int
) -> None:
    urls = client.urls(place, count)
    answered = []
    for response in way(client, urls):
        check(response)
        answered.append(response.url)
    assert answered == urls


@pytest.mark.parametrize(("place", "quota"), [("/", 1000), ("/three/", 3)])
def test_after_how_many_responses_nginx_closes_is_learned(
    server: Nginx, place: str, quota: int
) -> None:
    with ConnectionPool(max_connections_per_host=1) as pool:
        client = Client(pool, f"http://127.0.0.1:{server.port}")
        for response in pool.map(client.urls(place, quota * 3)):
            check(response)
        assert client.host().quota == quota
        before = client.host()
        for response in pool.map(client.urls(place, quota * 3)):
            check(response)
        after = client.host()
    assert after.resent == before.resent
    assert after.answered == quota * 6


def test_pipelines_are_full_where_nothing_speaks_against_it(client: Client) -> None:
    for response in client.pool.map(client.urls("/", 900)):
        check(response)
    host = client.host()
    assert (host.pipelining, host.lesson) == ("full", None)
    assert host.window >= NEAR_DEPTH  # more if the machine is so slow that the server seems far
    assert host.sent == host.answered == 900


def test_a_server_that_closes_after_every_response_gets_one_request_a_connection(
    client: Client,
) -> None:
    for response in client.pool.map(client.urls("/closing/", 50)):
        check(response)
    statistics = client.pool.statistics()
    assert (statistics.opened, statistics.sent, statistics.resent) == (50, 50, 0)
    assert client.host().window == 1


def test_a_server_of_http_1_0_gets_one_request_at_a_time() -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        body = request.target.encode()
        head = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n"
        peer.send(head % len(body) + body)

    with open_site(each(respond), repeat=True) as site:
        for reply in site.pool.map([site.url(f"/{i}") for i in range(200)]):
            check(reply)
        (host,) = site.pool.statistics().hosts.values()
    assert (host.pipelining, host.window) == ("one at a time", 1)
    assert host.lesson == "it responds as HTTP/1.0"
    assert host.resent == 0


# --- uploads --------------------------------------------------------------------------------------


def test_what_is_uploaded_is_what_arrives(client: Client, server: Nginx) -> None:
    random = Random(6)
    data = random.randbytes(3_000_000)
    source = server.root.parent / "source"
    source.write_bytes(data)
    pieces = [data[:10], b"", data[10:400_000], data[400_000:]]
    with source.open("rb") as file, source.open("rb") as rest:
        rest.seek(1_000_000)
        for expect100 in (False, True):
            bodies: list[BodyLike] = [data, file, rest, io.BytesIO(data), pieces, iter(pieces)]
            for i, body in enumerate(bodies):
                target = f"/dav/{i}"
                response = client.pool.put(client.url(target), body, expect100=expect100)
                assert response.status in (201, 204)
                check(client.pool.get(client.url("/between")))
                expected = data[1_000_000:] if body is rest else data
                stored = server.root / target[1:]
                assert stored.read_bytes() == expected
                stored.unlink()


def test_threads_may_upload_the_same_file_at_once(client: Client, server: Nginx) -> None:
    data = Random(7).randbytes(2_000_000)
    source = server.root.parent / "shared"
    source.write_bytes(data)
    with source.open("rb") as file, ThreadPoolExecutor(6) as threads:
        urls = [client.url(f"/dav/shared-{i}") for i in range(12)]
        responses = list(threads.map(lambda url: client.pool.put(url, file), urls))
    assert {response.status for response in responses} <= {201, 204}
    assert all((server.root / "dav" / f"shared-{i}").read_bytes() == data for i in range(12))


# --- nginx goes away ------------------------------------------------------------------------------


def replace_worker(server: Nginx, worker: int) -> None:
    """Have a new worker take over, while the old one ends in good order."""
    master = int((server.root.parent / "nginx.pid").read_text())
    os.kill(master, signal.SIGHUP)


def kill_worker(server: Nginx, worker: int) -> None:
    """Have all connections reset; the master starts another worker."""
    with suppress(ProcessLookupError):  # it may have ended since it answered
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("end_worker", [replace_worker, kill_worker])
def test_no_request_gets_a_wrong_response_while_workers_come_and_go(
    client: Client, server: Nginx, end_worker: Callable[[Nginx, int], None]
) -> None:
    workers = [int(client.pool.get(client.url("/")).headers["Worker"] or 0)]
    enough = threading.Event()

    def requests() -> Iterator[Request]:
        for i in itertools.count():
            if enough.is_set():
                return
            # A worker that is to end may never look at a connection that it has just accepted.
            yield Request("GET", client.url(f"/{i}"), timeout=2)

    since = 0
    for future in client.pool.as_completed(requests()):
        error = future.exception()
        if error is not None:
            assert isinstance(error, (DugongError, OSError))
            assert error.delivery is not None  # type: ignore[union-attr]
            continue
        check(future.result())
        worker = int(future.result().headers["Worker"] or 0)
        if worker not in workers:
            workers.append(worker)
            since = 0
        since += 1
        if since % 200 == 0:
            if len(workers) >= 4:
                enough.set()
            else:
                end_worker(server, worker)
    check(client.pool.get(client.url("/after")))
    assert len(workers) >= 4
