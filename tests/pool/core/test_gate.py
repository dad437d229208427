"""When the requests to a host may start: decisions that touch nothing."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from dugong import HostPolicy
from dugong.pool.core.gate import LATE, Gate

NOW = 1000.0


def gate_of(**policy: Any) -> Gate:
    """Return a gate that nothing has passed yet."""
    gate = Gate()
    gate.follow(HostPolicy(**policy))
    return gate


def pass_through(gate: Gate, now: float, until: float) -> list[float]:
    """Return when requests start until then that start as soon as the gate lets them."""
    starts = []
    while now < until:
        if gate.allowed(now, 0):
            gate.started(1, now)
            starts.append(now)
        else:
            now = gate.wait(now)
    return starts


def test_a_gate_of_a_policy_that_says_nothing_is_open() -> None:
    gate = gate_of()
    gate.started(1000, NOW)
    assert gate.allowed(NOW, 10**6) == sys.maxsize
    assert gate.opens_at() <= NOW


# --- a host that asks to be left alone ------------------------------------------------------------


def test_nothing_starts_before_the_time_that_the_host_has_asked_for() -> None:
    gate = Gate()
    gate.hold(NOW + 7)
    assert (gate.allowed(NOW + 6.9, 0), gate.held_for(NOW), gate.opens_at()) == (0, 7.0, NOW + 7)
    assert (gate.allowed(NOW + 7, 0), gate.held_for(NOW + 8)) == (sys.maxsize, 0.0)


def test_a_hold_is_never_made_shorter() -> None:
    gate = Gate()
    gate.hold(NOW + 7)
    gate.hold(NOW + 5)
    assert gate.opens_at() == NOW + 7


def test_a_hold_counts_beside_a_policy() -> None:
    gate = gate_of(min_interval=2.0)
    gate.started(1, NOW)
    gate.hold(NOW + 1)
    assert gate.opens_at() == NOW + 2
    gate.hold(NOW + 3)
    assert gate.opens_at() == NOW + 3


# --- intervals ------------------------------------------------------------------------------------


def test_the_first_request_starts_at_once() -> None:
    assert gate_of(min_interval=10.0).allowed(0.0, 0) == 1


def test_the_next_request_starts_an_interval_after_the_start_of_the_last() -> None:
    gate = gate_of(min_interval=2.0)
    gate.started(1, NOW)
    assert (gate.allowed(NOW + 1.99, 0), gate.opens_at()) == (0, NOW + 2)
    assert gate.allowed(NOW + 2, 0) == 1


def test_an_interval_is_never_shorter_though_the_one_before_it_was_longer() -> None:
    gate = gate_of(min_interval=2.0)
    gate.started(1, NOW)
    gate.wait(NOW)
    gate.started(1, NOW + 2.5)
    assert gate.opens_at() == NOW + 4.5


def test_the_last_start_counts_for_a_new_interval() -> None:
    gate = gate_of(min_interval=2.0)
    gate.started(1, NOW)
    gate.follow(HostPolicy(min_interval=5.0))
    assert gate.opens_at() == NOW + 5
    gate.follow(HostPolicy(min_interval=1.0))
    assert gate.opens_at() == NOW + 1


def test_the_last_start_counts_for_an_interval_though_there_was_none_before() -> None:
    gate = gate_of()
    gate.started(1, NOW)
    gate.follow(HostPolicy(min_interval=5.0))
    assert gate.opens_at() == NOW + 5


# --- rates ----------------------------------------------------------------------------------------


def test_requests_start_at_the_rate() -> None:
    starts = pass_through(gate_of(rate=4.0), NOW, NOW + 2)
    assert starts == pytest.approx([NOW + i / 4 for i in range(8)])


def test_as_many_as_a_burst_start_at_once() -> None:
    gate = gate_of(rate=4.0, burst=3)
    assert gate.allowed(NOW, 0) == 3
    gate.started(3, NOW)
    assert (gate.allowed(NOW, 0), gate.opens_at()) == (0, NOW + 0.25)
    assert gate.allowed(NOW + 0.5, 0) == 2


def test_no_more_than_a_burst_is_left_over_from_an_idle_time() -> None:
    gate = gate_of(rate=4.0, burst=3)
    gate.started(3, NOW)
    assert gate.allowed(NOW + 3600, 0) == 3


@pytest.mark.parametrize("rate", [3.0, 7.0, 49.0, 1000.0])
@pytest.mark.parametrize("burst", [1, 10])
def test_in_any_time_there_are_no_more_than_the_rate_and_the_burst_allow(
    rate: float, burst: int
) -> None:
    starts = pass_through(gate_of(rate=rate, burst=burst), 123456.789, 123456.789 + 300 / rate)
    assert len(starts) == pytest.approx(300 + burst, abs=1.1)
    for i in range(0, len(starts), 7):
        for j in range(i, len(starts), 13):
            assert j - i + 1 <= burst + (starts[j] - starts[i]) * rate + 1e-3


def test_what_a_timer_was_late_by_is_made_up_for() -> None:
    gate = gate_of(rate=10.0)
    gate.started(1, NOW)
    assert gate.wait(NOW) == NOW + 0.1
    gate.started(1, NOW + 0.105)
    assert gate.wait(NOW) == pytest.approx(NOW + 0.2)


@pytest.mark.parametrize(("rate", "most"), [(2.0, LATE), (10.0, 0.005), (20.0, LATE)])
def test_only_a_little_lateness_is_made_up_for(rate: float, most: float) -> None:
    gate = gate_of(rate=rate)
    gate.started(1, NOW)
    gate.wait(NOW)
    gate.started(1, NOW + 2)
    assert gate.wait(NOW) == pytest.approx(NOW + 2 + 1 / rate - most)


def test_what_no_request_was_late_for_is_not_made_up_for() -> None:
    gate = gate_of(rate=10.0)
    gate.started(1, NOW)
    gate.wait(NOW)
    gate.pass_by()
    gate.started(1, NOW + 0.11)
    assert gate.opens_at() == pytest.approx(NOW + 0.21)


def test_at_a_high_rate_those_that_are_late_start_together() -> None:
    gate = gate_of(rate=1000.0)
    gate.started(1, NOW)
    gate.wait(NOW)
    assert gate.allowed(NOW + 0.011, 0) == 11
    assert gate.allowed(NOW + 60, 0) == 1000 * LATE + 1


def test_an_interval_counts_beside_a_rate() -> None:
    gate = gate_of(rate=100.0, burst=10, min_interval=0.5)
    assert gate.allowed(NOW, 0) == 1
    gate.started(1, NOW)
    assert gate.opens_at() == NOW + 0.5


def test_what_has_started_counts_for_a_new_rate() -> None:
    gate = gate_of(rate=1.0)
    gate.started(1, NOW)
    gate.follow(HostPolicy(rate=2.0, burst=2))
    assert gate.allowed(NOW, 0) == 0
    assert gate.opens_at() == NOW + 0.5


# --- how many are in flight -----------------------------------------------------------------------


@pytest.mark.parametrize(("in_flight", "allowed"), [(0, 3), (2, 1), (3, 0), (5, 0)])
def test_no_more_start_than_may_be_in_flight(in_flight: int, allowed: int) -> None:
    gate = gate_of(max_in_flight=3)
    assert gate.allowed(NOW, in_flight) == allowed
    assert gate.opens_at() <= NOW  # a response opens it


def test_what_may_be_in_flight_counts_beside_a_rate() -> None:
    gate = gate_of(max_in_flight=3, rate=10.0, burst=10)
    assert gate.allowed(NOW, 0) == 3
    gate.started(9, NOW)
    assert gate.allowed(NOW, 0) == 1


# --- extremes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst", [1, sys.maxsize])
@pytest.mark.parametrize("rate", [1e-6, 1e9])
def test_extreme_rates_overflow_nothing(rate: float, burst: int) -> None:
    gate = gate_of(rate=rate, burst=burst)
    assert gate.allowed(NOW, 0) >= 1
    gate.started(1, NOW)
    gate.wait(NOW)
    assert gate.allowed(NOW + 1e6 + 1, 0) >= 1
    assert math.isfinite(gate.opens_at())


def test_a_gate_can_be_looked_at() -> None:
    assert repr(gate_of(rate=2.0)) == "<Gate HostPolicy(rate=2.0)>"


def test_what_waits_for_a_response_is_not_late() -> None:
    gate = gate_of(max_in_flight=1, rate=1000.0)
    gate.started(1, NOW)
    assert gate.wait(NOW + 1) <= NOW + 1
    assert gate.allowed(NOW + 2, 0) == 1
    gate.started(1, NOW + 2)
    assert gate.opens_at() == pytest.approx(NOW + 2.001)


@pytest.mark.parametrize("policy", [{"min_interval": 0.5}, {"max_in_flight": 1}])
def test_a_rate_is_not_found_while_something_else_delays_requests(policy: dict[str, Any]) -> None:
    gate = gate_of(adaptive=True, **policy)
    rate = gate.rate
    for i in range(100):
        gate.wait(NOW + i - 0.9)
        gate.started(1, NOW + i)
        gate.accepted(NOW + i, NOW + i, 1)
    assert gate.rate == rate
