"""How far a host may be pipelined, by what it has shown."""

from __future__ import annotations

import pytest

from dugong.pool.core.pipelining import (
    CROWDED,
    FAR,
    FAR_STEP,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_STRIKES,
    MIN_SLOW,
    NEAR_DEPTH,
    OVERCROWDED,
    PENALTY,
    QUOTA_TIME,
    PipeliningState,
)

NOW = 1000.0


def test_nothing_is_known_at_first() -> None:
    state = PipeliningState(64)
    assert (state.window, state.quota, state.lesson) == (1, None, None)
    assert state.state(NOW) == "unproven"


def test_each_good_response_widens_the_window_by_one_up_to_the_depth() -> None:
    state = PipeliningState(5)
    windows = []
    for count in (1, 1, 2, 10):
        state.responded(count, NOW)
        windows.append((state.window, state.state(NOW)))
    assert windows == [(2, "growing"), (3, "growing"), (5, "full"), (5, "full")]


def test_pipelining_is_off_if_the_caller_allows_one() -> None:
    state = PipeliningState(1)
    state.responded(1, NOW)
    assert (state.window, state.state(NOW)) == (1, "off")


@pytest.mark.parametrize(
    ("name", "lesson"),
    [
        ("old_version", "it responds as HTTP/1.0"),
        ("broke_the_rules", "it has sent what is no response"),
    ],
)
def test_a_host_that_cannot_do_it_is_asked_one_at_a_time_for_a_while(
    name: str, lesson: str
) -> None:
    state = PipeliningState(64)
    state.responded(10, NOW)
    getattr(state, name)(NOW)
    assert (state.window, state.lesson) == (1, lesson)
    assert state.state(NOW + PENALTY - 1) == "one at a time"
    state.responded(10, NOW + PENALTY - 1)
    assert state.window == 1
    assert state.state(NOW + PENALTY) == "unproven"
    state.responded(1, NOW + PENALTY)
    assert (state.window, state.state(NOW + PENALTY)) == (2, "growing")


def test_a_connection_that_died_with_requests_pending_narrows_the_window_to_one() -> None:
    state = PipeliningState(64)
    state.responded(10, NOW)
    state.died(10, 1, NOW)
    assert (state.window, state.state(NOW)) == (1, "unproven")


def test_a_lone_request_that_got_no_response_says_nothing_about_pipelines() -> None:
    state = PipeliningState(64)
    for _ in range(2 * MAX_STRIKES):
        state.died(10, 1, NOW)
    assert (state.lesson, state.state(NOW)) == (None, "unproven")


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (1, "a connection ended after 1 response with 2 to come"),
        (7, "a connection ended after 7 responses with 2 to come"),
    ],
)
def test_pipelines_that_keep_dying_make_it_one_at_a_time(answered: int, words: str) -> None:
    state = PipeliningState(64)
    for strike in range(MAX_STRIKES):
        assert state.state(NOW) != "one at a time", f"after {strike} strikes"
        state.responded(3, NOW)
        state.died(answered, 2, NOW)
        assert state.lesson == words
    assert state.state(NOW) == "one at a time"
    assert state.state(NOW + PENALTY) == "unproven"


def test_a_pipeline_that_grew_to_its_full_depth_makes_up_for_those_that_died() -> None:
    state = PipeliningState(4)
    for _ in range(MAX_STRIKES - 1):
        state.died(1, 2, NOW)
    state.responded(10, NOW)
    state.died(1, 2, NOW)
    assert state.state(NOW) == "unproven"


def test_after_a_penalty_strikes_are_counted_anew() -> None:
    state = PipeliningState(64)
    for _ in range(MAX_STRIKES):
        state.died(1, 2, NOW)
    later = NOW + PENALTY
    state.died(1, 2, later)
    assert state.state(later) == "unproven"


def test_a_host_that_ends_connections_after_the_same_number_of_responses_has_a_quota() -> None:
    state = PipeliningState(64)
    state.closed(100, 5, NOW)
    assert state.quota is None
    state.closed(100, 5, NOW)
    assert state.quota == 100


def test_a_host_that_ends_them_after_different_numbers_has_none() -> None:
    state = PipeliningState(64)
    for answered in (100, 99, 100, 99):
        state.closed(answered, 0, NOW)
    assert state.quota is None


def test_an_end_that_was_announced_teaches_no_more_than_its_number_if_all_had_responses() -> None:
    state = PipeliningState(64)
    state.responded(9, NOW)
    state.closed(10, 0, NOW)
    assert (state.window, state.lesson) == (10, None)


def test_a_host_that_ends_each_connection_after_one_response_has_no_quota() -> None:
    state = PipeliningState(64)
    for _ in range(3):
        state.closed(1, 0, NOW)
    assert state.quota is None


def test_an_announced_end_with_pipelined_requests_pending_counts_as_a_death() -> None:
    state = PipeliningState(64)
    for answered in range(1, MAX_STRIKES + 1):
        state.closed(answered, 2, NOW)
    assert state.state(NOW) == "one at a time"


def test_a_known_quota_is_no_reason_to_be_careful() -> None:
    state = PipeliningState(64)
    state.responded(9, NOW)
    for _ in range(2):
        state.closed(100, 0, NOW)
    state.closed(100, 3, NOW)
    assert state.window == 10


def test_a_quota_is_forgotten_after_a_while() -> None:
    state = PipeliningState(4)
    for _ in range(2):
        state.closed(100, 0, NOW)
    state.responded(4, NOW)
    state.responded(1, NOW + QUOTA_TIME - 1)
    assert state.quota == 100
    state.responded(1, NOW + QUOTA_TIME)
    assert state.quota is None


# --- what is slow ---------------------------------------------------------------------------------


def test_nothing_is_slow_before_a_tenth_of_a_second() -> None:
    state = PipeliningState(64)
    assert state.slow_after == MIN_SLOW == 0.1
    state.took(0.002, True)
    assert state.slow_after == MIN_SLOW


def test_what_takes_four_times_as_long_as_before_is_slow() -> None:
    state = PipeliningState(64)
    for _ in range(3):
        state.took(1.0, True)
    assert state.slow_after == 4.0
    for _ in range(40):
        state.took(0.5, True)
    assert state.slow_after == pytest.approx(2.0, rel=0.01)


def test_a_slow_response_does_not_hide_the_next() -> None:
    state = PipeliningState(64)
    state.took(0.001, True)
    state.took(100.0, True)
    state.took(100.0, False)
    assert state.slow_after == MIN_SLOW


def test_a_host_that_has_become_slower_for_good_is_not_slow_for_long() -> None:
    state = PipeliningState(64)
    state.took(0.001, True)
    count = 0
    while state.slow_after < 1.0:
        state.took(0.5, True)
        count += 1
    assert count < 30


def test_a_response_behind_others_does_not_show_how_far_the_host_is_away() -> None:
    """It comes right after the one before it, whatever the way there and back takes."""
    state = PipeliningState(64)
    state.took(1.0, True)
    for _ in range(100):
        state.took(0.001, False)
    assert state.slow_after == 4.0


def test_a_host_that_takes_longer_for_many_requests_than_for_one_is_not_slow() -> None:
    state = PipeliningState(64)
    state.took(0.1, True)
    for _ in range(100):
        state.took(0.3, False)
    assert state.slow_after == pytest.approx(1.2, rel=0.01)


# --- a host that is far ---------------------------------------------------------------------------

AWAY = 0.040  # seconds from a lone request to its response
KIBIBYTE = 1024


def proven(away: float = AWAY, depth: int | None = None) -> PipeliningState:
    """Return what is known of a host that takes the window of a near one."""
    state = PipeliningState(depth)
    state.took(away, alone=True)
    state.responded(NEAR_DEPTH, NOW)
    return state


def respond(
    state: PipeliningState, count: int, seconds: float, now: float = NOW, size: int = KIBIBYTE
) -> int:
    """Have *count* responses come that took *seconds* while others waited; return the window."""
    state.waited(seconds, size, now)
    state.responded(count, now)
    return state.window


def test_a_window_grows_as_long_as_the_line_to_a_far_host_has_time_to_spare() -> None:
    state = proven()
    assert respond(state, 10, AWAY) == NEAR_DEPTH + 10 * FAR_STEP
    assert respond(state, 20, CROWDED * AWAY) == NEAR_DEPTH + 30 * FAR_STEP
    assert respond(state, 5000, AWAY) == MAX_DEPTH
    assert state.state(NOW) == "full"


@pytest.mark.parametrize("away", [FAR / 100, 0.99 * FAR])
def test_a_window_to_a_near_host_does_not(away: float) -> None:
    assert respond(proven(away), 64, away) == NEAR_DEPTH


def test_a_host_that_took_long_now_and_then_is_not_far() -> None:
    state = proven(20 * FAR)
    state.took(0.5 * FAR, alone=True)
    state.took(20 * FAR, alone=True)
    assert respond(state, 64, 20 * FAR) == NEAR_DEPTH
    assert state.has_nothing_to_learn()


def test_a_window_that_has_grown_is_that_of_a_near_host_once_it_proves_near() -> None:
    state = proven()
    respond(state, 500, AWAY)
    state.took(0.5 * FAR, alone=True)
    assert respond(state, 1, 0.5 * FAR) == NEAR_DEPTH


def test_a_window_does_not_grow_beyond_that_while_no_request_waits_for_a_place() -> None:
    state = proven()
    state.responded(1000, NOW)
    assert state.window == NEAR_DEPTH


def test_what_was_seen_a_round_trip_ago_does_not_let_a_window_grow() -> None:
    state = proven()
    respond(state, 1, AWAY)
    state.responded(10, NOW + AWAY)
    assert state.window == NEAR_DEPTH + FAR_STEP


def test_a_window_does_not_grow_for_a_round_trip_if_responses_wait_for_each_other() -> None:
    state = proven()
    late = 1.01 * CROWDED * AWAY
    assert respond(state, 64, late) == NEAR_DEPTH
    assert respond(state, 64, AWAY, NOW + 0.99 * late) == NEAR_DEPTH
    assert respond(state, 64, AWAY, NOW + late) == NEAR_DEPTH + 64 * FAR_STEP


def test_a_window_is_halved_once_a_round_trip_if_they_wait_for_long() -> None:
    state = proven()
    state.window = 200
    late = 1.01 * OVERCROWDED * AWAY
    assert respond(state, 1, late) == 100
    assert respond(state, 1, late, NOW + 0.9 * late) == 100
    assert respond(state, 1, late, NOW + late) == NEAR_DEPTH
    assert respond(state, 1, late, NOW + 2 * late) == NEAR_DEPTH


def test_a_window_below_that_is_not_halved() -> None:
    state = proven()
    state.window = 10
    assert respond(state, 1, 2 * OVERCROWDED * AWAY) == 10 + FAR_STEP


def test_a_window_to_a_far_host_grows_by_more_once_two_may_be_in_flight() -> None:
    state = PipeliningState(None)
    state.took(AWAY, alone=True)
    windows = []
    for _ in range(3):
        state.responded(1, NOW)
        windows.append(state.window)
    assert windows == [2, 2 + FAR_STEP, 2 + 2 * FAR_STEP]


def test_a_window_is_for_so_many_bytes_of_responses() -> None:
    assert respond(proven(), 5000, AWAY, size=MAX_BYTES // 100) == 100
    assert respond(proven(), 5000, AWAY, size=MAX_BYTES) == NEAR_DEPTH


@pytest.mark.parametrize("depth", [3, NEAR_DEPTH, 100])
def test_a_window_is_no_larger_than_the_caller_allows(depth: int) -> None:
    assert respond(proven(depth=depth), 5000, AWAY) == depth


def test_after_a_connection_died_a_window_grows_from_one_again() -> None:
    state = proven()
    respond(state, 500, AWAY)
    state.died(10, 5, NOW)
    assert state.window == 1
    state.responded(1000, NOW)
    assert state.window == NEAR_DEPTH
