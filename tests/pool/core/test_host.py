"""A host: its queue, and its retry budget."""

from __future__ import annotations

import pytest

from dugong.pool.core.host import BUDGET_TIME, FREE_REPEATS, Host
from dugong.pool.core.job import Job
from tests.support.parts import (
    hold,
    make_connection,
    make_host,
    make_job,
    queue,
    queue_needing_fresh,
)

NOW = 1000.0


# --- the queue ------------------------------------------------------------------------------------


def popped(host: Host) -> Job | None:
    """Take the next job of the queue; None if there is none."""
    jobs = host.pop(1)
    return jobs[0] if jobs else None


def test_the_queue_gives_what_was_put_in_first() -> None:
    host = make_host()
    jobs = queue(host, "/a", "/b")
    assert host.queued == 2
    assert [popped(host), popped(host), popped(host)] == [*jobs, None]
    assert host.queued == 0


def test_the_queue_gives_up_to_so_many_at_a_time() -> None:
    host = make_host()
    jobs = queue(host, "/a", "/b", "/c")
    assert (host.pop(2), host.queued) == (jobs[:2], 1)


def test_the_queue_gives_nothing_behind_a_request_that_has_to_be_exclusive() -> None:
    host = make_host()
    jobs = queue(host, "/a", "/b", "/c")
    jobs[1].exclusive = True
    assert (host.pop(3), host.queued) == (jobs[:2], 1)


def test_what_has_its_head_made_is_not_given_together_with_what_has_not() -> None:
    host = make_host()
    jobs = queue(host, "/a", "/b", "/c", "/d", "/e")
    for job in jobs[1:3]:
        job.own_extras().make_head = lambda job: b"head"
    assert (host.pop(5), host.queued) == (jobs[:1], 4)
    assert (host.pop(5), host.queued) == (jobs[1:3], 2)
    assert (host.pop(5), host.queued) == (jobs[3:], 0)


def test_what_is_put_back_comes_first_in_its_old_order() -> None:
    host = make_host()
    later = queue(host, "/c")
    back = [make_job(host, "/a"), make_job(host, "/b")]
    host.put_back(back)
    assert host.queued == 3
    assert [popped(host), popped(host), popped(host)] == back + later


def test_what_was_withdrawn_is_not_given() -> None:
    host = make_host()
    first, second, third = queue(host, "/a", "/b", "/c")
    second.finish()
    host.withdraw(second)
    assert host.queued == 2
    assert [popped(host), popped(host), popped(host)] == [first, third, None]
    assert host.queued == 0


@pytest.mark.parametrize("taken", [0, 1])
def test_nothing_is_kept_of_a_queue_of_which_the_rest_was_withdrawn(taken: int) -> None:
    host = make_host()
    jobs = queue(host, "/1", "/2", "/3")
    for job in jobs[taken:]:
        job.finish()
        host.withdraw(job)
    for _ in range(taken):
        popped(host)
    assert (len(host.queue), host.queued, host.withdrawn) == (0, 0, 0)


def test_withdrawn_requests_do_not_fill_a_queue_that_no_connection_takes_from() -> None:
    host = make_host()
    jobs = queue(host, *["/"] * 1000)
    for job in jobs[:-1]:
        job.finish()
        host.withdraw(job)
    assert host.queued == 1
    assert len(host.queue) < 200
    assert popped(host) is jobs[-1]


def test_all_that_is_queued_is_given_at_once_but_for_what_was_withdrawn() -> None:
    host = make_host()
    first, second, third = queue(host, "/a", "/b", "/c")
    (needy,) = queue_needing_fresh(host, "/fresh")
    second.finish()
    host.withdraw(second)
    assert host.pop_all() == [needy, first, third]
    assert (host.queued, host.withdrawn, len(host.queue), len(host.needing_fresh)) == (0, 0, 0, 0)


# --- requests that have lost a connection ---------------------------------------------------------


def test_a_request_that_needs_an_unused_connection_waits_apart_from_the_others() -> None:
    host = make_host()
    (ordinary,) = queue(host, "/a")
    needy, exclusive = make_job(host, "/fresh"), make_job(host, "/exclusive", exclusive=True)
    needy.needs_fresh_connection = True
    host.put_back([needy, exclusive])
    assert host.queued == 3
    assert [popped(host), popped(host), popped(host)] == [exclusive, ordinary, None]
    assert host.queued == 1
    assert host.pop_needing_fresh() is needy
    assert host.queued == 0


def test_what_is_put_back_comes_first_among_requests_that_need_an_unused_connection() -> None:
    host = make_host()
    later = queue_needing_fresh(host, "/c")
    back = queue_needing_fresh(host, "/a", "/b")
    assert [host.pop_needing_fresh() for _ in range(3)] == back + later


def test_a_request_that_needs_an_unused_connection_may_be_withdrawn() -> None:
    host = make_host()
    first, second = queue_needing_fresh(host, "/a", "/b")
    first.finish()
    host.withdraw(first)
    assert host.queued == 1
    assert host.pop_needing_fresh() is second


def test_nothing_is_kept_of_what_was_withdrawn_when_the_last_request_is_taken() -> None:
    host = make_host()
    (job,) = queue(host, "/a")
    queue_needing_fresh(host, "/fresh")
    job.finish()
    host.withdraw(job)
    host.pop_needing_fresh()
    assert (len(host.queue), host.queued, host.withdrawn) == (0, 0, 0)


def test_requests_that_any_connection_may_serve_again_are_exclusive_and_come_first() -> None:
    host = make_host()
    ordinary = queue(host, "/c")
    relieved = queue_needing_fresh(host, "/a", "/b")
    host.let_any_connection_serve()
    assert host.queued == 3
    assert not host.needing_fresh
    assert [(job.needs_fresh_connection, job.exclusive) for job in relieved] == [(False, True)] * 2
    assert [popped(host), popped(host), popped(host)] == relieved + ordinary


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
    """However long the budget was not asked for."""
    host = make_host()
    for i in range(100):
        send(host, 10, NOW + i)
    assert repeats(host, 1.0, NOW + 99.5) >= 10 * BUDGET_TIME


# --- the host itself ------------------------------------------------------------------------------


def test_a_host_is_unused_if_it_has_neither_connections_nor_requests() -> None:
    host = make_host()
    assert host.is_unused
    queue(host, "/")
    assert not host.is_unused
    popped(host)
    assert host.is_unused
    make_connection(host)
    assert not host.is_unused


def test_a_host_is_in_use_while_a_request_waits_to_be_tried_again() -> None:
    host = make_host()
    host.waiting = 1
    assert not host.is_unused


def test_the_repr_says_how_much_there_is_to_do() -> None:
    host = make_host()
    make_connection(host, in_flight=2)
    idle = make_connection(host)
    host.idle[idle] = None
    queue(host, "/")
    assert repr(host) == "<Host host:80 1 queued, 2 in flight, 2 connections (1 idle)>"


# --- after an interrupt ---------------------------------------------------------------------------


def test_what_an_interrupt_has_left_in_the_queues_is_recounted() -> None:
    """A request may be in a queue and not know it, and the other way round."""
    host = make_host()
    first, second, third = queue(host, "/a", "/b", "/c")
    (needy,) = queue_needing_fresh(host, "/fresh")
    make_connection(host, in_flight=2)
    second.finish()
    Job.dispatch([third], make_connection(host), 0.0)
    host.queue.append(make_job(host, "/new"))  # `append` was interrupted
    host.queued = host.in_flight = host.withdrawn = 77
    host.recount()
    assert (host.queued, host.in_flight) == (2, 3)
    assert host.pop_all() == [needy, first]


def test_a_queue_that_was_not_interrupted_stays_what_it_is() -> None:
    host = make_host()
    jobs = queue(host, "/a", "/b", "/c")
    jobs[1].finish()
    host.withdraw(jobs[1])
    host.recount()
    assert host.queued == 2
    assert [popped(host), popped(host), popped(host)] == [jobs[0], jobs[2], None]


def test_a_request_that_an_interrupt_has_left_in_both_queues_is_in_one() -> None:
    host = make_host()
    first, second = queue(host, "/1", "/2")
    host.needing_fresh.append(first)  # and not removed from the other yet
    host.recount()
    assert (list(host.needing_fresh), list(host.queue)) == ([], [first, second])
    assert host.queued == 2


def test_requests_are_ended_some_at_a_time_and_removed_behind_that() -> None:
    host = make_host()
    queue_needing_fresh(host, "/1")
    jobs = queue(host, "/2", "/3", "/4")
    jobs[1].finish()
    host.withdraw(jobs[1])
    ended: list[Job] = []

    def end(job: Job) -> None:
        assert job in (*host.needing_fresh, *host.queue)
        job.finish()
        ended.append(job)

    assert [host.end_some(2, end) for _ in range(3)] == [2, 1, 0]
    assert [job.request.target for job in ended] == ["/1", "/2", "/4"]
    assert host.queued == host.withdrawn == 0


def test_in_a_forked_child_a_host_has_nothing_but_what_it_has_shown() -> None:
    host = make_host(window=4)
    connection = make_connection(host, in_flight=2)
    connection.sender_parked = True
    (queued,) = queue(host, "/queued")
    hold(host)
    host.connect_failures = 3
    lost = host.begin_as_child()
    assert lost == [queued, *connection.in_flight]
    assert host.is_unused
    assert not connection.sender_parked  # it is to be woken by no one
    assert (host.in_flight, host.connect_failures, host.pipelining.window) == (0, 0, 4)
