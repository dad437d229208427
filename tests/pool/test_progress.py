"""What is told of the progress of bodies, and when."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dugong import Progress, Request
from dugong.pool import progress
from dugong.pool.progress import Meter, progress_of
from tests.support.clock import Clock

Calls = list[tuple[int, int | None]]


class Told(Calls):
    """Is told of the progress of a body."""

    def __call__(self, done: int, total: int | None) -> None:
        self.append((done, total))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, progress)


# --- when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [10_000, None])
def test_it_is_told_at_most_20_times_in_each_second(clock: Clock, total: int | None) -> None:
    times: list[float] = []
    meter = Meter(lambda done, total: times.append(clock.now), total)
    meter.add(0)
    for _ in range(10_000):
        clock.now += 0.0009
        meter.add(1)
    meter.finish()
    within = [sum(begin <= time < begin + 1 for time in times) for begin in times]
    assert max(within) <= 20
    assert min(within[: len(within) // 2]) >= 18


def test_the_first_call_is_with_nothing_and_the_last_with_all(clock: Clock) -> None:
    told = Told()
    meter = Meter(told, 30)
    for count in (0, 10, 10, 10):
        meter.add(count)
    assert told == [(0, 30), (30, 30)]
    meter.finish()
    assert told == [(0, 30), (30, 30)]


def test_without_a_total_the_end_is_told(clock: Clock) -> None:
    told = Told()
    meter = Meter(told, None)
    for count in (0, 10, 10):
        meter.add(count)
    meter.finish()
    assert told == [(0, None), (20, None)]
    clock.now += 1
    meter.add(5)
    meter.finish()  # what has been told is not told again
    assert told == [(0, None), (20, None), (25, None)]


def test_an_empty_body_is_told_of_once(clock: Clock) -> None:
    for total in (0, None):
        told = Told()
        meter = Meter(told, total)
        meter.add(0)
        meter.finish()
        assert told == [(0, total)]


# --- who -----------------------------------------------------------------------------------------


def test_a_callable_is_for_the_body_if_there_is_one_and_else_for_the_response() -> None:
    told = Told()
    put = Request("PUT", "http://host/", body=b"", progress=told).progress
    get = Request("GET", "http://host/", progress=told).progress
    assert put is not None
    assert get is not None
    assert (put.upload, put.download) == (told, None)
    assert (get.upload, get.download) == (None, told)


def test_another_request_made_of_one_tells_the_same() -> None:
    request = Request("PUT", "http://host/", body=b"a", progress=Told())
    assert request.replace(method="GET", body=None).progress is request.progress
    assert Request("GET", "http://host/").progress is None


def test_a_request_with_progress_can_be_pickled_if_its_callables_can() -> None:
    request = Request("GET", "http://host/", progress=print)
    loaded = pickle.loads(pickle.dumps(request)).progress
    assert loaded.download is print


def test_nothing_is_made_of_nothing() -> None:
    assert progress_of(None, has_body=True) is None
    both = Progress(upload=print, download=print)
    assert progress_of(both, has_body=False) is both


async def _coroutine(done: int, total: int | None) -> None: ...


@pytest.mark.parametrize("given", ["text", 3, b"x", _coroutine])
def test_what_cannot_be_told_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="progress must"):
        Request("GET", "http://host/", progress=given)
    with pytest.raises(TypeError, match="upload must"):
        Progress(upload=given)
    with pytest.raises(TypeError, match="download must"):
        Progress(download=given)
