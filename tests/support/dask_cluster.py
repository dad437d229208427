"""Plays scenarios with `dugong.dask` on a cluster of two processes; prints what it saw, as JSON.

`main` is for a process of its own, for Dask leaves threads and sockets behind.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from typing import Any
from unittest import mock

import distributed

import dugong.dask
from dugong import Client, ConnectionPool, Headers, Request
from dugong.crawl import Frontier, Robots
from dugong.testing import Peer, Server

HOSTS = 3
#: What the servers say to robots.
DELAY = 0.2
ROBOTS = f"User-agent: *\nDisallow: /forbidden\nCrawl-delay: {DELAY}\n".encode()
#: Seconds that anything here may take.
TIME = 40


class Hosts:
    """Servers that count what they get, and say which client has asked."""

    def __init__(self, stack: ExitStack) -> None:
        self.lock = threading.Lock()
        # Guarded by the lock: how often what was asked for, and when.
        self.seen: Counter[str] = Counter()
        self.times: list[tuple[str, float]] = []
        self.held = threading.Event()  # a request for /hold has come
        self.released = threading.Event()  # it may be responded to
        self.servers = [stack.enter_context(Server(self._serve, repeat=True)) for _ in range(HOSTS)]

    def _serve(self, peer: Peer) -> None:
        for request in peer.requests():
            with self.lock:
                self.seen[f"{request.method} {request.target}"] += 1
                self.times.append((request.target, time.monotonic()))
            if request.target == "/hold" and not self.held.is_set():
                self.held.set()
                self.released.wait(TIME)
            body = ROBOTS if request.target == "/robots.txt" else request.target.encode()
            try:
                peer.respond(body, headers=f"By: {request.headers.get('by', '')}\r\n")
            except OSError:
                return

    def url(self, host: int, target: str) -> str:
        return self.servers[host].url(target)


def make_pool() -> ConnectionPool:
    return ConnectionPool(headers={"By": str(os.getpid())})


def make_pool_once(path: str) -> ConnectionPool:
    """Make a pool in the first worker that asks for one; raise FileExistsError in the others."""
    os.mkdir(path)
    return ConnectionPool()


class Unpicklable(Headers):
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("not to be pickled")


class SpoilingPool(ConnectionPool):
    """Gives responses that cannot be pickled."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        future = super().submit(*args, **kwargs)
        future.result()._headers = Unpicklable()
        return future


run = functools.partial(dugong.dask.map, pool=make_pool)


def in_order(results: Iterator[dugong.dask.Result]) -> list[dugong.dask.Result]:
    return sorted(results, key=lambda result: result.index)


def every_request_has_a_result(client: distributed.Client, hosts: Hosts) -> Any:
    contexts = [object() for _ in range(300)]
    requests = [
        Request("GET", hosts.url(number % HOSTS, f"/{number}"), context=context)
        for number, context in enumerate(contexts)
    ]
    results = in_order(run(client, requests))
    by: dict[int, set[str]] = {}
    for result in results:
        assert result.response is not None
        by.setdefault(result.index % HOSTS, set()).add(result.response.headers["by"])
    return {
        "indexes": [result.index for result in results] == list(range(300)),
        "bodies": all(result.response.body == result.request.target.encode() for result in results),
        "requests": all(
            result.request is result.response.request is request
            for result, request in zip(results, requests, strict=True)
        ),
        "workers of each host": sorted({len(workers) for workers in by.values()}),
    }


def a_failure_is_a_result(client: distributed.Client, hosts: Hosts) -> Any:
    refused = Request("GET", "http://127.0.0.1:1/", retry=None)
    first, second = in_order(run(client, [refused, hosts.url(0, "/after")]))
    return {
        "error": type(first.error).__name__,
        "delivery": first.delivery and first.delivery.name,
        "request": first.error.request is refused,
        "other": second.response.status,
    }


def what_cannot_be_sent_elsewhere(client: distributed.Client, hosts: Hosts) -> Any:
    seen, errors = 0, []
    bad = Request("PUT", hosts.url(0, "/"), body=iter([b"once"]))
    told = Request("GET", hosts.url(0, "/"), progress=lambda done, total: None)
    lock = threading.Lock()  # which cannot be pickled
    made = Request("GET", hosts.url(0, "/"), headers=lambda request: {"X": str(lock)})
    for wrong in (bad, told, made, "nonsense"):
        try:
            for result in run(client, [hosts.url(0, "/before"), wrong, hosts.url(0, "/never")]):
                seen += result.response.status == 200
        except Exception as exc:
            errors.append(f"{type(exc).__name__}: {exc}")
    return {"seen": seen, "errors": errors, "never": hosts.seen["GET /never"]}


def a_worker_cannot_make_its_pool(client: distributed.Client, hosts: Hosts) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        make = functools.partial(make_pool_once, os.path.join(directory, "made"))
        try:
            list(dugong.dask.map(client, [hosts.url(0, "/")], pool=make))
        except FileExistsError:
            return plugins_in(client)
    return None


def plugins_in(client: distributed.Client) -> int:
    """Return how many plugins of dugong there are, in the workers and for those to come."""
    found = client.run(lambda dask_worker: [n for n in dask_worker.plugins if "dugong" in n])
    to_come = client.run_on_scheduler(
        lambda dask_scheduler: [n for n in dask_scheduler.worker_plugins if "dugong" in n]
    )
    return sum(map(len, found.values())) + len(to_come)


def what_cannot_come_back(client: distributed.Client, hosts: Hosts) -> Any:
    (result,) = dugong.dask.map(client, [hosts.url(0, "/a")], pool=SpoilingPool)
    return str(result.error)


def a_worker_is_lost(client: distributed.Client, hosts: Hosts) -> Any:
    requests = [
        Request("POST", hosts.url(0, "/hold"), body=b"x"),
        *[Request("GET", hosts.url(0, f"/beside/{number}")) for number in range(5)],
        Request("POST", hosts.url(0, "/marked"), body=b"x", idempotent=True),
        Request("GET", hosts.url(1, "/other")),
    ]
    processes = client.run(os.getpid)

    def kill() -> None:
        assert hosts.held.wait(TIME)
        (worker,) = [name for name, tasks in client.processing().items() if tasks]
        os.kill(processes[worker], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    results = in_order(run(client, requests, shards=1))
    killer.join()
    hosts.released.set()
    return {
        "sent": hosts.seen["POST /hold"],
        "error": type(results[0].error).__name__,
        "text": str(results[0].error).partition(": ")[2],
        "delivery": results[0].delivery,
        "others": [result.response and result.response.status for result in results[1:]],
    }


def the_source_is_endless(client: distributed.Client, hosts: Hosts) -> Any:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            yield hosts.url(taken % HOSTS, "/endless")
            taken += 1

    results = run(client, endless())
    some = [next(results).response.status for _ in range(100)]
    results.close()
    plugins = plugins_in(client)
    return {"some": set(some) == {200}, "taken": taken < 100_000, "plugins": plugins}


def a_frontier_is_crawled(client: distributed.Client, hosts: Hosts) -> Any:
    links = {"/0": ["/1", "/forbidden", "/2"], "/1": ["/2", "/3"]}
    with Client() as asking, Frontier(robots=Robots(asking)) as frontier:
        for host in range(2):
            frontier.add(hosts.url(host, "/0"))
        statuses = []
        for result in dugong.dask.crawl(client, frontier):
            statuses.append(result.response.status)
            base = result.request.url.removesuffix(result.request.target)
            found = [base + link for link in links.get(result.request.target, ())]
            frontier.done(result.request, found)
        left = len(frontier)
    times = [when for target, when in hosts.times if target != "/robots.txt"]
    return {
        "statuses": statuses,
        "left": left,
        "seen": dict(hosts.seen),
        "time": max(times) - min(times),
    }


class NoWorkers:
    """A client of a cluster that has none."""

    def nthreads(self) -> dict[str, int]:
        return {}


def what_makes_no_sense(client: distributed.Client, hosts: Hosts) -> Any:
    errors = []
    for requests, options in (
        (hosts.url(0, "/"), {}),
        ([], {"shards": 0}),
        ([], {"pool": None}),
        ([], {"key": "origin"}),
        ([], {}),
    ):
        try:
            dugong.dask.map(NoWorkers(), requests, **options)
        except Exception as exc:
            errors.append(f"{type(exc).__name__}: {exc}")
    return errors


def the_page_on_clusters(client: distributed.Client, hosts: Hosts) -> Any:
    """Run the examples of the page, and return what they print and what they say that they do."""
    from tests.test_docs import examples_of

    examples = examples_of("docs/cluster.rst")
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    with mock.patch("distributed.Client", return_value=client), redirect_stdout(printed):
        for example in examples:
            code = example.code.replace("http://www.example.com/", hosts.url(0, "/"))
            example._replace(code=code).run(namespace)
    return {
        "printed": printed.getvalue().splitlines(),
        "said": [line for example in examples for line in example.output],
    }


SCENARIOS: list[Callable[[distributed.Client, Hosts], Any]] = [
    every_request_has_a_result,
    a_failure_is_a_result,
    what_makes_no_sense,
    what_cannot_be_sent_elsewhere,
    what_cannot_come_back,
    a_worker_cannot_make_its_pool,
    the_source_is_endless,
    a_frontier_is_crawled,
    the_page_on_clusters,
    a_worker_is_lost,  # last, for the other worker begins anew
]


def main() -> None:
    seen = {}
    with ExitStack() as stack:
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None
            )
        )
        client = stack.enter_context(distributed.Client(cluster))
        for scenario in SCENARIOS:
            with ExitStack() as servers:
                seen[scenario.__name__] = scenario(client, Hosts(servers))
    json.dump(seen, sys.stdout)
