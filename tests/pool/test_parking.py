"""Requests to hosts that let few start keep no others from being submitted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from dugong import Client, HostPolicy, Request
from dugong.pool import many, parking
from dugong.pool.core.gate import Gate
from dugong.pool.core.host import Host
from dugong.pool.core.job import Job
from dugong.pool.parking import Parking
from dugong.testing import MockPool, MockRequest
from tests.support.parts import make_host, make_job

NEVER = HostPolicy(min_interval=1000.0)  # but for the first request, and one that waits


def gated(name: str = "slow", **policy: Any) -> Host:
    """Return a host that lets a request start now and then."""
    host = make_host(name=name)
    host.gate = Gate()
    host.gate.follow(HostPolicy(**policy) if policy else NEVER)
    return host


def jobs_of(host: Host, count: int) -> list[Job]:
    return [make_job(host, f"/{i}") for i in range(count)]


# --- what is parked -------------------------------------------------------------------------------


def test_of_a_host_that_lets_few_start_few_are_submitted() -> None:
    lot, jobs = Parking(), jobs_of(gated(), 5)
    assert [lot.parks(job) for job in jobs] == [False, False, True, True, True]
    assert (lot.apart, lot.count, lot.has_free) == (2, 3, False)
    assert lot.pop() is None


def test_when_one_is_taken_the_next_of_its_host_is_submitted() -> None:
    lot, jobs, others = Parking(), jobs_of(gated(), 5), jobs_of(gated("other"), 5)
    for job in jobs + others:
        lot.parks(job)
    lot.took(others[0].request)
    assert lot.has_free
    assert lot.pop() is others[2]
    assert lot.pop() is None
    lot.took(jobs[1].request)
    lot.took(jobs[0].request)
    assert [lot.pop(), lot.pop(), lot.pop()] == [jobs[2], jobs[3], None]
    assert (lot.apart, lot.count) == (4, 3)


def test_what_comes_later_stays_behind_what_is_parked() -> None:
    lot, host = Parking(), gated()
    jobs = jobs_of(host, 3)
    for job in jobs:
        lot.parks(job)
    lot.took(jobs[0].request)
    late = make_job(host, "/late")
    assert lot.parks(late)
    assert lot.pop() is jobs[2]
    lot.took(jobs[1].request)
    assert lot.pop() is late


def test_what_was_submitted_before_there_was_a_policy_is_not_counted() -> None:
    lot, host = Parking(), make_host()
    before = make_job(host)
    host.gate = Gate()
    host.gate.follow(NEVER)
    lot.took(before.request)
    assert lot.apart == 0


def test_all_are_submitted_once_the_policy_allows_any_number() -> None:
    lot, host = Parking(), gated()
    jobs = jobs_of(host, 5)
    for job in jobs:
        lot.parks(job)
    assert host.gate is not None
    host.gate.follow(HostPolicy())
    assert not lot.parks(make_job(gated("other", max_connections=1)))
    lot.took(jobs[0].request)
    assert [lot.pop() for _ in range(4)] == [*jobs[2:], None]


def test_a_request_may_be_there_more_than_once() -> None:
    lot, host = Parking(), gated()
    job = make_job(host)
    assert [lot.parks(job), lot.parks(job), lot.parks(job)] == [False, False, True]
    lot.took(job.request)
    assert lot.apart == 1
    assert lot.pop() is job


@pytest.mark.parametrize(
    ("policy", "lead"),
    [
        ({"max_connections": 2, "pipeline_depth": 1}, None),
        ({"min_interval": 10.0}, 2),
        ({"min_interval": 0.01}, 27),
        ({"rate": 100.0, "burst": 10}, 37),
        ({"rate": 100.0, "min_interval": 1.0}, 2),
        ({"max_in_flight": 3}, 67),
        ({"max_in_flight": 3, "rate": 1.0}, 3),
    ],
)
def test_as_many_are_submitted_as_keep_the_gate_busy(
    policy: dict[str, Any], lead: int | None
) -> None:
    gate = gated(**policy).gate
    assert gate is not None
    assert gate.lead == lead


def test_of_a_host_that_is_held_few_are_submitted() -> None:
    gate = Gate()
    gate.hold(1000.0)
    assert gate.lead == 2


# --- in a pool ------------------------------------------------------------------------------------


def ok(request: MockRequest) -> str:
    return request.target


def policy_of(origin: Any) -> HostPolicy | None:
    return NEVER if origin.host.startswith("slow") else None


def urls(name: str, count: int) -> list[str]:
    return [f"http://{name}/{i}" for i in range(count)]


@pytest.mark.parametrize("kind", [list, iter])
def test_thousands_of_requests_to_a_slow_host_do_not_keep_others_out(kind: Any) -> None:
    with MockPool(ok, host_policy=policy_of) as pool:
        source = urls("slow", 5 * many.AHEAD) + urls("fast", 3 * many.AHEAD)
        done = pool.as_completed(kind(source))
        got = {next(done).request.url for _ in range(3 * many.AHEAD + 1)}
        assert got == {"http://slow/0", *urls("fast", 3 * many.AHEAD)}
        assert pool.statistics().queued <= 2


def test_a_client_does_the_same() -> None:
    with MockPool(ok, host_policy=policy_of) as pool, Client(pool=pool) as client:
        done = client.as_completed(urls("slow", 3 * many.AHEAD) + urls("fast", 100))
        got = {next(done).request.url for _ in range(101)}
        assert got == {"http://slow/0", *urls("fast", 100)}


def test_more_slow_hosts_than_may_be_under_way_keep_no_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(many, "AHEAD", 16)
    with MockPool(ok, host_policy=policy_of) as pool:
        slow = [f"http://slow{host}/{i}" for i in range(5) for host in range(50)]
        done = pool.as_completed(slow + urls("fast", 100))
        got = {next(done).request.url for _ in range(150)}
        assert got == {*slow[:50], *urls("fast", 100)}


def test_each_request_comes_once_and_those_of_a_host_in_their_order() -> None:
    policy = HostPolicy(min_interval=0.01, max_connections=1)
    with MockPool(ok, host_policy=lambda origin: policy) as pool:
        order = [f"http://{host}/{i}" for i in range(20) for host in "ab"]
        got = [future.result().request.url for future in pool.as_completed(iter(order))]
    assert [url for url in got if "//a" in url] == [f"http://a/{i}" for i in range(20)]
    assert [url for url in got if "//b" in url] == [f"http://b/{i}" for i in range(20)]


def test_no_more_is_taken_from_the_source_than_may_be_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parking, "PARKED", 100)
    numbers = itertools.count()
    with MockPool(ok, host_policy=policy_of) as pool:
        done = pool.as_completed(f"http://slow/{i}" for i in numbers)
        assert next(done).result().text == "/0"
        done.close()  # type: ignore[attr-defined]  # it is a generator
        assert next(numbers) == 102
        assert pool.statistics().queued == 0


def test_what_the_source_raises_comes_behind_all_that_was_parked() -> None:
    def source() -> Iterator[str]:
        yield from urls("slow", 10)
        raise ZeroDivisionError

    with MockPool(ok, host_policy=policy_of) as pool:
        done = pool.as_completed(source())
        got = [next(done).result().text]
        pool.set_host_policy("http://slow", HostPolicy())
        got += [next(done).result().text for _ in range(9)]
        assert sorted(got) == [f"/{i}" for i in range(10)]
        with pytest.raises(ZeroDivisionError):
            next(done)


def test_what_is_parked_is_bounded_by_the_sizes_of_bodies_once_it_is_submitted() -> None:
    policy = HostPolicy(rate=1e6, burst=1000)
    with MockPool(lambda request: bytes(1000), host_policy=lambda origin: policy) as pool:
        requests = (Request("GET", f"http://a/{i}") for i in itertools.count())
        done = pool.as_completed(requests, max_ahead_size=10_000)
        for taken in range(200):
            next(done)
            assert len(pool.requests) - taken <= 12
        done.close()  # type: ignore[attr-defined]  # it is a generator
