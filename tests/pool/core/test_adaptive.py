"""How many requests a second a host takes: the controller against servers that are simulated."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import pytest

from dugong import HostPolicy
from dugong.pool.core.adaptive import FIRST_RATE, MAX_RATE, MIN_RATE, ROUND_TIME, Adaptive
from dugong.pool.core.gate import Gate

NOW = 1000.0

#: Says at what time the response to a request comes that arrives at a time; None: it is refused.
Server = Callable[[float], float | None]


def bucket(rate: float, burst: float) -> Server:
    """Return a server with a token bucket."""
    tokens, then = burst, NOW

    def serve(now: float) -> float | None:
        nonlocal tokens, then
        tokens, then = min(burst, tokens + (now - then) * rate), now
        if tokens < 1:
            return None
        tokens -= 1
        return now

    return serve


def fixed_windows(rate: float) -> Server:
    """Return a server that counts in each second of its clock."""
    window, count = 0, 0

    def serve(now: float) -> float | None:
        nonlocal window, count
        if int(now) != window:
            window, count = int(now), 0
        count += 1
        return now if count <= rate else None

    return serve


def sliding_window(rate: float) -> Server:
    """Return a server that looks back on the last second."""
    accepted: deque[float] = deque()

    def serve(now: float) -> float | None:
        while accepted and accepted[0] <= now - 1:
            accepted.popleft()
        if len(accepted) >= rate:
            return None
        accepted.append(now)
        return now

    return serve


def waiting_line(rate: float) -> Server:
    """Return a server that refuses nothing, and does one request after the other."""
    free_at = 0.0

    def serve(now: float) -> float | None:
        nonlocal free_at
        free_at = max(free_at, now) + 1 / rate
        return free_at

    return serve


SERVERS: dict[str, Callable[[float], Server]] = {
    "small bucket": lambda rate: bucket(rate, max(1.0, rate / 10)),
    "large bucket": lambda rate: bucket(rate, rate),
    "fixed windows": fixed_windows,
    "sliding window": sliding_window,
}


class Result(NamedTuple):
    """What has come of the requests that began in the time that was looked at."""

    accepted: float  # a second
    refused: float  # of all
    latency: float  # seconds, at the end


class Simulation:
    """A gate with an adaptive policy, and always enough requests for it."""

    def __init__(self, server: Server, latency: float = 0.002, retry_after: float = 0.0) -> None:
        self.gate = Gate()
        self.gate.follow(HostPolicy(adaptive=True))
        self.now = NOW + 0.3
        self.server = server
        self._latency = latency
        self._retry_after = retry_after
        self._chance = random.Random(1)
        # What is in flight: when it is over, a number, when it began, and whether it is accepted.
        self._in_flight: list[tuple[float, int, float, bool]] = []
        self._count = 0
        self.falls: list[str] = []

    def run(self, seconds: float) -> Result:
        """Let *seconds* pass."""
        outcomes: list[tuple[float, bool]] = []
        begin = self.now
        while self.now < begin + seconds:
            if count := min(self.gate.allowed(self.now, len(self._in_flight)), 100):
                self._start(count)
                continue
            wakes_at = self.gate.wait(self.now) + self._chance.uniform(0.0001, 0.002)
            if self._in_flight and self._in_flight[0][0] <= wakes_at:
                self.now, _, began, is_accepted = heapq.heappop(self._in_flight)
                self._end(began, is_accepted)
                if began >= begin:
                    outcomes.append((self.now - began, is_accepted))
            else:
                self.now = wakes_at
        accepted = [latency for latency, is_accepted in outcomes if is_accepted]
        refused = len(outcomes) - len(accepted)
        latency = min(accepted[-50:], default=0.0)
        return Result(len(accepted) / seconds, refused / len(outcomes), latency)

    def _start(self, count: int) -> None:
        self.gate.started(count, self.now)
        for _ in range(count):
            self._count += 1
            done = self.server(self.now)
            over = (self.now if done is None else done) + self._latency * self._chance.uniform(1, 2)
            heapq.heappush(self._in_flight, (over, self._count, self.now, done is not None))

    def _end(self, began: float, is_accepted: bool) -> None:
        if is_accepted:
            why = self.gate.accepted(began, self.now, len(self._in_flight))
            if why is not None:
                self.falls.append(why)
        else:
            if self.gate.refused(began, self.now, self._retry_after):
                self.falls.append("refused")
            if self._retry_after:
                self.gate.hold(self.now + self._retry_after)


# --- servers that refuse --------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after", [0.0, 1.0])
@pytest.mark.parametrize(
    ("rate", "kind"),
    [(rate, kind) for rate in (5, 50) for kind in SERVERS] + [(500, "small bucket")],
)
def test_it_finds_what_a_server_takes(rate: float, kind: str, retry_after: float) -> None:
    simulation = Simulation(SERVERS[kind](rate), retry_after=retry_after)
    simulation.run(20)
    result = simulation.run(40)
    assert result.accepted >= 0.9 * rate
    assert result.refused < 0.05


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("rate", [5, 50])
def test_it_does_so_if_the_server_is_far_away(rate: float, kind: str) -> None:
    simulation = Simulation(SERVERS[kind](rate), latency=0.15)
    simulation.run(20)
    result = simulation.run(40)
    assert result.accepted >= 0.9 * rate
    assert result.refused < 0.05


@pytest.mark.parametrize("rate", [5, 50])
def test_it_finds_what_a_server_takes_that_wants_requests_one_by_one(rate: float) -> None:
    simulation = Simulation(bucket(rate, 1))
    simulation.run(20)
    result = simulation.run(40)
    assert result.accepted >= 0.9 * rate
    assert result.refused < 0.05


def test_it_follows_a_server_that_takes_less_and_then_more() -> None:
    simulation = Simulation(bucket(100, 10))
    simulation.run(20)
    simulation.server = bucket(20, 2)
    simulation.run(10)
    assert 18 <= simulation.run(20).accepted <= 20.5
    simulation.server = bucket(100, 10)
    simulation.run(90)
    assert simulation.run(20).accepted >= 90


def test_a_server_that_refuses_all_for_a_while_is_not_asked_less_for_long() -> None:
    simulation = Simulation(bucket(100, 10))
    simulation.run(30)
    before, simulation.server = simulation.server, lambda now: None
    assert simulation.run(2).refused == 1.0
    assert simulation.gate.rate is not None
    assert simulation.gate.rate < 50
    simulation.server = before
    simulation.run(20)
    assert simulation.run(20).accepted >= 90


# --- servers that take longer ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [5, 50, 250])
def test_it_finds_what_a_server_takes_that_only_gets_slow(rate: float) -> None:
    simulation = Simulation(waiting_line(rate))
    simulation.run(30)
    result = simulation.run(20)
    assert result.accepted >= 0.9 * rate
    assert result.latency < 0.1 + 3 / rate
    assert "its fastest response takes" in simulation.falls[0]


def test_responses_that_take_longer_for_another_reason_cost_one_fall() -> None:
    simulation = Simulation(bucket(100, 10))
    simulation.run(30)
    falls = len(simulation.falls)
    rate = simulation.gate.rate
    slow = simulation.server

    def slower(now: float) -> float | None:
        done = slow(now)
        return None if done is None else done + 0.5

    simulation.server = slower
    simulation.run(20)
    assert len([why for why in simulation.falls[falls:] if why != "refused"]) == 1
    assert rate is not None
    assert simulation.gate.rate is not None
    assert simulation.gate.rate > 0.9 * rate


def test_large_pages_among_small_ones_are_no_reason() -> None:
    simulation = Simulation(bucket(100, 10))
    small, large = simulation.server, 0

    def mixed(now: float) -> float | None:
        nonlocal large
        done = small(now)
        large += 1
        return None if done is None else done + (large % 5 != 0)

    simulation.run(20)
    simulation.server = mixed
    simulation.run(20)
    assert set(simulation.falls) == {"refused"}


# --- the controller by itself ---------------------------------------------------------------------


def accept(adaptive: Adaptive, now: float, waited: bool = True) -> None:
    """Have a request start and be accepted at once."""
    if waited:
        adaptive.waited(now)
    adaptive.accepted(now, now, 1)


def test_the_rate_doubles_each_second_at_first() -> None:
    adaptive = Adaptive()
    for i in range(31):
        accept(adaptive, NOW + i / 10)
    assert adaptive.rate == pytest.approx(8 * FIRST_RATE, rel=0.2)


def test_the_rate_does_not_grow_if_no_request_waits_for_it() -> None:
    adaptive = Adaptive()
    for i in range(100):
        accept(adaptive, NOW + i / 10, waited=False)
    assert adaptive.rate == FIRST_RATE


def test_a_time_without_requests_is_no_time_of_growth() -> None:
    adaptive = Adaptive()
    accept(adaptive, NOW)
    before = adaptive.rate
    accept(adaptive, NOW + 3600)
    assert adaptive.rate < 1.3 * before


def test_the_rate_is_never_higher_than_the_policy_allows() -> None:
    adaptive = Adaptive()
    adaptive.most = 25.0
    for i in range(100):
        accept(adaptive, NOW + i / 10)
    assert adaptive.rate == 25.0


def test_the_rate_is_bounded() -> None:
    adaptive = Adaptive()
    for i in range(1000):
        accept(adaptive, NOW + i / 4)
    assert adaptive.rate == MAX_RATE
    for i in range(1000):
        adaptive.refused(NOW + 300 + i, NOW + 300 + i)
    assert adaptive.rate == MIN_RATE


def test_what_was_sent_before_a_fall_causes_no_other() -> None:
    adaptive = Adaptive()
    assert adaptive.refused(NOW, NOW + 1)
    rate = adaptive.rate
    assert not adaptive.refused(NOW + 0.9, NOW + 2)
    assert adaptive.rate == rate


def test_there_is_some_time_between_two_falls() -> None:
    adaptive = Adaptive()
    assert adaptive.refused(NOW, NOW)
    assert not adaptive.refused(NOW + 0.1, NOW + 0.1)
    assert adaptive.refused(NOW + 0.1, NOW + ROUND_TIME + 0.1)


def test_the_rate_returns_to_where_the_first_of_several_falls_was() -> None:
    adaptive = Adaptive()
    adaptive.rate = 100.0
    for i in range(4):
        assert adaptive.refused(NOW + i, NOW + i)
    assert adaptive.rate < 50
    for i in range(2900):
        accept(adaptive, NOW + 3 + i / 100)
    assert 95 < adaptive.rate < 100


def test_the_longer_a_host_wants_to_be_left_alone_the_longer_the_rate_takes_to_return() -> None:
    rates = []
    for wait in (0.0, 5.0):
        adaptive = Adaptive()
        adaptive.rate = 100.0
        adaptive.refused(NOW, NOW, wait)
        for i in range(500):
            accept(adaptive, NOW + i / 100)
        rates.append(adaptive.rate)
    assert rates[0] > rates[1] + 5


def test_it_can_be_looked_at() -> None:
    assert repr(Adaptive()) == "<Adaptive 10 requests a second>"


# --- the gate -------------------------------------------------------------------------------------


def test_a_policy_that_is_not_adaptive_any_more_ends_it() -> None:
    gate = Gate()
    gate.follow(HostPolicy(adaptive=True))
    assert gate.rate == FIRST_RATE
    gate.follow(HostPolicy(rate=70.0))
    assert (gate.rate, gate.adaptive) == (70.0, None)
    gate.follow(HostPolicy())
    assert gate.rate is None


def test_what_was_found_counts_for_another_adaptive_policy() -> None:
    gate = Gate()
    gate.follow(HostPolicy(adaptive=True))
    gate.refused(NOW, NOW)
    gate.follow(HostPolicy(adaptive=True, max_connections=3))
    assert gate.rate == pytest.approx(0.7 * FIRST_RATE)
    gate.follow(HostPolicy(adaptive=True, rate=3.0))
    assert gate.rate == 3.0
