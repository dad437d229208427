"""The parts of a pool without a pool: hosts, pipelines and jobs that touch no network."""

from __future__ import annotations

from threading import Lock
from typing import Any, cast

from dugong import ConnectionPool, Request, RetryPolicy
from dugong.connection.encode import RequestBuilder
from dugong.connection.polling import Coroutine
from dugong.connection.transport import Transport
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.pipeline import Pipeline
from dugong.pool.request import Origin

__all__ = ["fly", "land", "make_host", "make_job", "make_pipeline", "queue", "queue_suspects"]


def make_host(window: int = 64, depth: int = 64) -> Host:
    """Return a host that *window* requests may be in flight to on each connection."""
    host = Host(Origin("http", "host", 80), RequestBuilder("host"), None, depth)
    host.lessons.window = window
    return host


def make_job(host: Host, target: str = "/", alone: bool = False, pool: object = None) -> Job:
    """Return a job for a GET, with the default policy."""
    request = Request("GET", f"http://host{target}")
    head = b"head of " + target.encode()
    job = Job(request, cast(ConnectionPool, pool), host, head, 30.0, RetryPolicy())
    job.alone = alone
    return job


def queue(host: Host, *targets: str) -> list[Job]:
    """Queue a job for each of *targets*, to go alone if its name says so; return them."""
    jobs = [make_job(host, target, alone="alone" in target) for target in targets]
    for job in jobs:
        host.append(job)
    return jobs


def queue_suspects(host: Host, *targets: str) -> list[Job]:
    """Queue a job that has lost a connection for each of *targets*; return them."""
    jobs = [make_job(host, target) for target in targets]
    for job in jobs:
        job.suspect = True
    host.put_back(jobs)
    return jobs


def make_pipeline(host: Host, in_flight: int = 0, max_requests: int | None = None) -> Pipeline:
    """Return a connected pipeline of *host* with so many requests in flight."""

    def dial() -> Coroutine[Transport]:
        raise AssertionError("this one is not to be connected")

    pipeline = Pipeline(host, Lock(), cast(Any, dial), opened=0.0, max_requests=max_requests)
    pipeline.connected = True
    host.pipelines[pipeline] = None
    fly(pipeline, *[make_job(host, f"/flying{i}") for i in range(in_flight)])
    return pipeline


def fly(pipeline: Pipeline, *jobs: Job) -> None:
    """Put *jobs* in flight."""
    pipeline.in_flight.extend(jobs)
    pipeline.sent += len(jobs)
    pipeline.host.in_flight += len(jobs)


def land(pipeline: Pipeline) -> None:
    """Have all that is in flight answered."""
    pipeline.answered += len(pipeline.in_flight)
    pipeline.host.in_flight -= len(pipeline.in_flight)
    pipeline.in_flight.clear()
