"""A host: its queue, and what it has taught us."""

from __future__ import annotations

import pytest

from dugong.pool.host import (
    BUDGET_TIME,
    FREE_REPEATS,
    MAX_STRIKES,
    PENALTY,
    QUOTA_TIME,
    Host,
    Lessons,
)
from tests.support.parts import make_host, make_job, make_pipeline, queue, queue_suspects

NOW = 1000.0


# --- lessons --------------------------------------------------------------------------------------


def test_nothing_is_known_at_first() -> None:
    lessons = Lessons(64)
    assert (lessons.window, lessons.quota, lessons.lesson) == (1, None, None)
    assert lessons.state(NOW) == "unproven"


def test_each_good_answer_widens_the_window_by_one_up_to_the_depth() -> None:
    lessons = Lessons(5)
    windows = []
    for count in (1, 1, 2, 10):
        lessons.answered(count, NOW)
        windows.append((lessons.window, lessons.state(NOW)))
    assert windows == [(2, "growing"), (3, "growing"), (5, "full"), (5, "full")]


def test_pipelining_is_off_if_the_caller_allows_one() -> None:
    lessons = Lessons(1)
    lessons.answered(1, NOW)
    assert (lessons.window, lessons.state(NOW)) == (1, "off")


@pytest.mark.parametrize(
    ("name", "lesson"),
    [
        ("old_version", "it answers as HTTP/1.0"),
        ("broke_the_rules", "it has sent what is no answer"),
    ],
)
def test_a_host_that_cannot_do_it_is_asked_one_at_a_time_for_a_while(
    name: str, lesson: str
) -> None:
    lessons = Lessons(64)
    lessons.answered(10, NOW)
    getattr(lessons, name)(NOW)
    assert (lessons.window, lessons.lesson) == (1, lesson)
    assert lessons.state(NOW + PENALTY - 1) == "one at a time"
    lessons.answered(10, NOW + PENALTY - 1)
    assert lessons.window == 1
    assert lessons.state(NOW + PENALTY) == "unproven"
    lessons.answered(1, NOW + PENALTY)
    assert (lessons.window, lessons.state(NOW + PENALTY)) == (2, "growing")


def test_a_connection_that_died_with_requests_unanswered_narrows_the_window_to_one() -> None:
    lessons = Lessons(64)
    lessons.answered(10, NOW)
    lessons.died(10, 1, NOW)
    assert (lessons.window, lessons.state(NOW)) == (1, "unproven")


def test_a_lone_request_that_was_not_answered_says_nothing_about_pipelines() -> None:
    lessons = Lessons(64)
    for _ in range(2 * MAX_STRIKES):
        lessons.died(10, 1, NOW)
    assert (lessons.lesson, lessons.state(NOW)) == (None, "unproven")


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (1, "a connection ended after 1 answer with 2 to come"),
        (7, "a connection ended after 7 answers with 2 to come"),
    ],
)
def test_pipelines_that_keep_dying_make_it_one_at_a_time(answered: int, words: str) -> None:
    lessons = Lessons(64)
    for strike in range(MAX_STRIKES):
        assert lessons.state(NOW) != "one at a time", f"after {strike} strikes"
        lessons.answered(3, NOW)
        lessons.died(answered, 2, NOW)
        assert lessons.lesson == words
    assert lessons.state(NOW) == "one at a time"
    assert lessons.state(NOW + PENALTY) == "unproven"


def test_a_pipeline_that_grew_to_its_full_depth_makes_up_for_those_that_died() -> None:
    lessons = Lessons(4)
    for _ in range(MAX_STRIKES - 1):
        lessons.died(1, 2, NOW)
    lessons.answered(10, NOW)
    lessons.died(1, 2, NOW)
    assert lessons.state(NOW) == "unproven"


def test_after_a_penalty_strikes_are_counted_anew() -> None:
    lessons = Lessons(64)
    for _ in range(MAX_STRIKES):
        lessons.died(1, 2, NOW)
    later = NOW + PENALTY
    lessons.died(1, 2, later)
    assert lessons.state(later) == "unproven"


def test_a_host_that_ends_connections_after_the_same_number_of_answers_has_a_quota() -> None:
    lessons = Lessons(64)
    lessons.closed(100, 5, NOW)
    assert lessons.quota is None
    lessons.closed(100, 5, NOW)
    assert lessons.quota == 100


def test_a_host_that_ends_them_after_different_numbers_has_none() -> None:
    lessons = Lessons(64)
    for answered in (100, 99, 100, 99):
        lessons.closed(answered, 0, NOW)
    assert lessons.quota is None


def test_an_end_that_was_announced_teaches_no_more_than_its_number_if_all_was_answered() -> None:
    lessons = Lessons(64)
    lessons.answered(9, NOW)
    lessons.closed(10, 0, NOW)
    assert (lessons.window, lessons.lesson) == (10, None)


def test_a_host_that_ends_each_connection_after_one_answer_has_no_quota() -> None:
    lessons = Lessons(64)
    for _ in range(3):
        lessons.closed(1, 0, NOW)
    assert lessons.quota is None


def test_an_announced_end_with_pipelined_requests_unanswered_counts_as_a_death() -> None:
    lessons = Lessons(64)
    for answered in range(1, MAX_STRIKES + 1):
        lessons.closed(answered, 2, NOW)
    assert lessons.state(NOW) == "one at a time"


def test_a_known_quota_is_no_reason_to_be_careful() -> None:
    lessons = Lessons(64)
    lessons.answered(9, NOW)
    for _ in range(2):
        lessons.closed(100, 0, NOW)
    lessons.closed(100, 3, NOW)
    assert lessons.window == 10


def test_a_quota_is_forgotten_after_a_while() -> None:
    lessons = Lessons(4)
    for _ in range(2):
        lessons.closed(100, 0, NOW)
    lessons.answered(4, NOW)
    lessons.answered(1, NOW + QUOTA_TIME - 1)
    assert lessons.quota == 100
    lessons.answered(1, NOW + QUOTA_TIME)
    assert lessons.quota is None


# --- the queue ------------------------------------------------------------------------------------


def test_the_queue_gives_what_was_put_in_first() -> None:
    host = make_host()
    jobs = queue(host, "/a", "/b")
    assert host.queued == 2
    assert [host.pop(), host.pop(), host.pop()] == [*jobs, None]
    assert host.queued == 0


def test_what_is_put_back_comes_first_in_its_old_order() -> None:
    host = make_host()
    later = queue(host, "/c")
    back = [make_job(host, "/a"), make_job(host, "/b")]
    host.put_back(back)
    assert host.queued == 3
    assert [host.pop(), host.pop(), host.pop()] == back + later


def test_what_was_withdrawn_is_not_given() -> None:
    host = make_host()
    first, second, third = queue(host, "/a", "/b", "/c")
    second.done = True
    host.withdraw(second)
    assert host.queued == 2
    assert [host.pop(), host.pop(), host.pop()] == [first, third, None]
    assert host.queued == 0


@pytest.mark.parametrize("popped", [0, 1])
def test_nothing_is_kept_of_a_queue_of_which_the_rest_was_withdrawn(popped: int) -> None:
    host = make_host()
    jobs = queue(host, "/1", "/2", "/3")
    for job in jobs[popped:]:
        job.done = True
        host.withdraw(job)
    for _ in range(popped):
        host.pop()
    assert (len(host.queue), host.queued, host.withdrawn) == (0, 0, 0)


def test_withdrawn_requests_do_not_fill_a_queue_that_nobody_takes_from() -> None:
    host = make_host()
    jobs = queue(host, *["/"] * 1000)
    for job in jobs[:-1]:
        job.done = True
        host.withdraw(job)
    assert host.queued == 1
    assert len(host.queue) < 200
    assert host.pop() is jobs[-1]


def test_all_that_is_queued_is_given_at_once_but_for_what_was_withdrawn() -> None:
    host = make_host()
    first, second, third = queue(host, "/a", "/b", "/c")
    (suspect,) = queue_suspects(host, "/suspect")
    second.done = True
    host.withdraw(second)
    assert host.pop_all() == [suspect, first, third]
    assert (host.queued, host.withdrawn, len(host.queue), len(host.suspects)) == (0, 0, 0, 0)


# --- those that have lost a connection ------------------------------------------------------------


def test_one_that_has_lost_a_connection_waits_apart_from_the_others() -> None:
    host = make_host()
    (ordinary,) = queue(host, "/a")
    suspect, alone = make_job(host, "/suspect"), make_job(host, "/alone", alone=True)
    suspect.suspect = True
    host.put_back([suspect, alone])
    assert host.queued == 3
    assert [host.pop(), host.pop(), host.pop()] == [alone, ordinary, None]
    assert host.queued == 1
    assert host.pop_suspect() is suspect
    assert host.queued == 0


def test_those_that_are_put_back_come_first_among_these_too() -> None:
    host = make_host()
    later = queue_suspects(host, "/c")
    back = queue_suspects(host, "/a", "/b")
    assert [host.pop_suspect() for _ in range(3)] == back + later


def test_one_that_has_lost_a_connection_may_be_withdrawn() -> None:
    host = make_host()
    first, second = queue_suspects(host, "/a", "/b")
    first.done = True
    host.withdraw(first)
    assert host.queued == 1
    assert host.pop_suspect() is second


def test_nothing_is_kept_of_what_was_withdrawn_when_the_last_of_these_is_taken() -> None:
    host = make_host()
    (job,) = queue(host, "/a")
    queue_suspects(host, "/suspect")
    job.done = True
    host.withdraw(job)
    host.pop_suspect()
    assert (len(host.queue), host.queued, host.withdrawn) == (0, 0, 0)


def test_those_that_are_trusted_again_go_alone_on_any_connection_before_the_rest() -> None:
    host = make_host()
    ordinary = queue(host, "/c")
    trusted = queue_suspects(host, "/a", "/b")
    host.trust_suspects()
    assert host.queued == 3
    assert not host.suspects
    assert [(job.suspect, job.alone) for job in trusted] == [(False, True)] * 2
    assert [host.pop(), host.pop(), host.pop()] == trusted + ordinary


# --- the retry budget -----------------------------------------------------------------------------


def repeats(host: Host, budget: float, now: float) -> int:
    """Repeat as often as is allowed; return how often that was."""
    count = 0
    while host.may_repeat(budget, now):
        host.repeated += 1
        count += 1
    return count


def send(host: Host, count: int, now: float) -> None:
    host.note_time(now)
    host.sent += count


@pytest.mark.parametrize("budget", [0, 0.1, 5.0])
def test_a_few_repetitions_are_within_any_budget(budget: float) -> None:
    assert repeats(make_host(), budget, NOW) == FREE_REPEATS


@pytest.mark.parametrize(("budget", "allowed"), [(0, 0), (0.1, 100), (1, 1000)])
def test_a_budget_is_a_share_of_the_requests_that_were_sent(budget: float, allowed: int) -> None:
    host = make_host()
    send(host, 1000, NOW)
    assert repeats(host, budget, NOW) == allowed + FREE_REPEATS


def test_it_does_not_matter_when_in_the_interval_they_were_sent() -> None:
    host = make_host()
    for i in range(10):
        send(host, 100, NOW + i * BUDGET_TIME / 10)
    assert repeats(host, 0.1, NOW + BUDGET_TIME) == 100 + FREE_REPEATS


def test_requests_of_the_interval_before_count_and_earlier_ones_do_not() -> None:
    host = make_host()
    send(host, 5000, NOW)
    send(host, 300, NOW + BUDGET_TIME)
    send(host, 20, NOW + 2 * BUDGET_TIME)
    assert repeats(host, 0.1, NOW + 2 * BUDGET_TIME) == 32 + FREE_REPEATS


def test_repetitions_of_the_interval_before_count_and_earlier_ones_do_not() -> None:
    host = make_host()
    assert repeats(host, 0, NOW) == FREE_REPEATS
    assert repeats(host, 0, NOW + BUDGET_TIME) == 0
    assert repeats(host, 0, NOW + 2 * BUDGET_TIME) == FREE_REPEATS


def test_after_a_long_time_nothing_counts() -> None:
    host = make_host()
    send(host, 1000, NOW)
    repeats(host, 0.1, NOW)
    assert repeats(host, 0.1, NOW + 10 * BUDGET_TIME) == FREE_REPEATS


def test_what_was_sent_before_the_first_failure_counts() -> None:
    """However long nobody has asked for the budget."""
    host = make_host()
    for i in range(100):
        send(host, 10, NOW + i)
    assert repeats(host, 1.0, NOW + 99.5) >= 10 * BUDGET_TIME


# --- the host itself ------------------------------------------------------------------------------


def test_a_host_is_unused_if_it_has_neither_connections_nor_requests() -> None:
    host = make_host()
    assert host.unused
    queue(host, "/")
    assert not host.unused
    host.pop()
    assert host.unused
    make_pipeline(host)
    assert not host.unused


def test_a_host_is_in_use_while_a_request_waits_to_be_tried_again() -> None:
    host = make_host()
    host.waiting = 1
    assert not host.unused


def test_a_host_is_in_use_while_it_is_held() -> None:
    host = make_host()
    host.held = True
    assert not host.unused


def test_the_repr_says_how_much_there_is_to_do() -> None:
    host = make_host()
    make_pipeline(host, in_flight=2)
    idle = make_pipeline(host)
    host.idle[idle] = None
    queue(host, "/")
    assert repr(host) == "<Host host:80 1 queued, 2 in flight, 2 connections (1 idle)>"
