"""What the threads of a connection ask the pool and report to it; the test plays the threads."""

from __future__ import annotations

import pytest

from dugong import RetryPolicy
from dugong.errors import ConnectionClosed, ConnectionTimedOut, Delivery, InternalError
from dugong.pool.core import traffic
from dugong.pool.core.connection import Phase, PooledConnection
from dugong.pool.core.job import Job, Place
from dugong.pool.core.traffic import SMALL_HEAD, THREAD_IDLE_TIME
from dugong.pool.failure import Abandoned, BodyError
from tests.support.parts import (
    NO_RETRY,
    Rig,
    borrow_again,
    engine_of,
    listen,
    send_upload,
    would_wait,
)
from tests.support.uploads import interrupts, releases, upload


@pytest.fixture
def rig(single: Rig) -> Rig:
    """A rig with one connection to each host."""
    return single


# --- a connection begins --------------------------------------------------------------------------


def test_a_connection_that_is_connected_is_open(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    connection = rig.connect(host)
    assert connection.phase is Phase.OPEN
    assert rig.core.totals.opened == 1
    assert rig.heard("opened") == [""]


def test_a_sender_takes_no_request_of_a_pool_that_is_being_closed(rig: Rig) -> None:
    host = rig.host()
    [job] = rig.submit(host, "/a")
    connection = rig.connect(host)
    rig.core.closed = True
    assert rig.look_for_work(connection) == []
    assert job.place is Place.QUEUED


def test_a_second_sender_of_a_connection_ends_at_once(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    connection = rig.connect(host)
    assert not rig.traffic.begin_sending(connection)


def test_a_sender_whose_connection_is_not_wanted_any_more_ends_it(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    connection = rig.latest(host)
    rig.lose(connection, Abandoned())
    assert connection.phase is Phase.CLOSING
    assert not rig.traffic.begin_sending(connection)
    assert connection.phase is Phase.CLOSED
    assert (rig.core.totals.opened, rig.core.totals.ended) == (0, 0)


def test_a_connection_that_was_ended_while_it_connected_is_not_opened(rig: Rig) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    connection = rig.latest(host)
    rig.traffic.begin_sending(connection)
    rig.lose(connection, Abandoned())
    rig.traffic.connected(connection)
    assert connection.phase is Phase.CLOSING
    assert rig.look_for_work(connection) == []
    assert connection.phase is Phase.CLOSED
    assert rig.core.totals.opened == 0


@pytest.mark.parametrize("uploading", [False, True])
def test_the_requests_of_a_thread_that_has_crashed_fail(rig: Rig, uploading: bool) -> None:
    if uploading:
        connection, job = send_upload(rig, retry=NO_RETRY)
    else:
        connection, (job,) = rig.send(rig.host(), "/a", retry=NO_RETRY)
    crash = RuntimeError("a bug")
    rig.traffic.faults.crashed(connection, crash, is_sender=True)
    error = job.future.exception()
    assert type(error) is InternalError
    assert error.__cause__ is crash
    assert connection.phase is Phase.CLOSED


def test_a_thread_that_has_crashed_before_it_was_the_sender_ends_nothing_of_the_one_that_is(
    rig: Rig,
) -> None:
    host = rig.host()
    (job,) = rig.submit(host, "/a")
    connection = rig.connect(host)
    rig.traffic.next_batch(connection, None)
    rig.traffic.faults.crashed_before(connection, RuntimeError("a bug"))
    assert (connection.phase, job.place) == (Phase.OPEN, Place.IN_FLIGHT)
    assert connection.sending


def test_a_connection_whose_only_thread_has_crashed_before_it_was_the_sender_is_closed(
    rig: Rig,
) -> None:
    host = rig.host()
    rig.submit(host, "/a")
    connection = rig.latest(host)
    rig.traffic.faults.crashed_before(connection, RuntimeError("a bug"))
    assert connection.phase is Phase.CLOSED


# --- sending --------------------------------------------------------------------------------------


def test_a_sender_gets_what_is_queued_and_then_waits(rig: Rig) -> None:
    host = rig.host()
    jobs = rig.submit(host, "/a", "/b")
    connection = rig.connect(host)
    assert rig.traffic.next_batch(connection, None) == jobs
    assert [job.place for job in jobs] == [Place.IN_FLIGHT] * 2
    assert (rig.core.queued, host.queued, host.in_flight, host.sent) == (0, 0, 2, 2)
    assert connection.sending
    assert would_wait(lambda: rig.traffic.next_batch(connection, None))
    assert connection.sender_parked
    assert not connection.sending


def test_a_sender_whose_connection_ends_closes_it_and_ends(rig: Rig) -> None:
    host = rig.host()
    (job,) = rig.submit(host, "/a", retry=NO_RETRY)
    connection = rig.connect(host)
    rig.traffic.next_batch(connection, None)
    rig.lose(connection, ConnectionTimedOut("slow"))
    assert connection.phase is Phase.CLOSING  # for its sender is at work
    assert rig.traffic.next_batch(connection, None) == []
    assert connection.phase is Phase.CLOSED
    assert isinstance(job.future.exception(), ConnectionTimedOut)


def test_a_sender_does_what_follows_before_it_waits(rig: Rig) -> None:
    """Such as a request that an event has caused: the sender may take that itself."""
    host = rig.host()
    connection = rig.idle(host)
    later: list[Job] = []

    def submit_once() -> None:
        if not later:
            later.extend(rig.submit(host, "/later"))

    rig.core.callbacks.add(submit_once)
    assert rig.traffic.next_batch(connection, None) == later


def test_each_request_that_is_sent_is_an_event(rig: Rig) -> None:
    rig.send(rig.host(), "/a", "/b")
    targets = [e.request.target for e in rig.events if e.request is not None and e.kind == "sent"]
    assert targets == ["/a", "/b"]


def test_nothing_is_sent_behind_an_exclusive_request(rig: Rig) -> None:
    host = rig.host()
    connection, _ = rig.send(host, "/a", exclusive=True)
    rig.submit(host, "/b")
    assert rig.look_for_work(connection) == []
    assert host.queued == 1


def test_a_receiver_that_waits_is_woken_when_a_response_is_due(rig: Rig) -> None:
    connection, _ = rig.send(rig.host(), "/a")
    woken = listen(connection)
    engine_of(connection).is_awaiting = True
    assert rig.traffic.await_responses(connection)
    rig.traffic.wake_receiver(connection)
    assert woken == []
    engine_of(connection).is_awaiting = False
    assert would_wait(lambda: rig.traffic.await_responses(connection))
    woken = listen(connection)
    rig.traffic.wake_receiver(connection)
    assert woken == ["receiver"]


# --- threads that end, and start again ------------------------------------------------------------


def both_end(rig: Rig, connection: PooledConnection) -> None:
    """Have both threads of *connection* find that it has been idle for long enough."""
    rig.clock.now += THREAD_IDLE_TIME
    assert rig.traffic.next_batch(connection, None) == []
    assert rig.traffic.await_responses(connection) is False
    assert (connection.sender_started, connection.receiver_started) == (False, False)


def test_the_threads_of_an_idle_connection_end_and_it_stays_open(rig: Rig) -> None:
    connection = rig.idle(rig.host())
    both_end(rig, connection)
    assert connection.phase is Phase.OPEN
    assert connection in rig.core.idle


@pytest.mark.parametrize("passed", [0.0, THREAD_IDLE_TIME / 2])
def test_the_threads_of_a_connection_that_was_in_use_wait(rig: Rig, passed: float) -> None:
    connection = rig.idle(rig.host())
    rig.clock.now += passed
    assert would_wait(lambda: rig.traffic.next_batch(connection, None))
    assert would_wait(lambda: rig.traffic.await_responses(connection))


def test_the_threads_of_a_connection_that_owes_a_response_wait(rig: Rig) -> None:
    connection, _ = rig.send(rig.host(), "/a")
    rig.clock.now += 10 * THREAD_IDLE_TIME
    assert would_wait(lambda: rig.traffic.next_batch(connection, None))
    assert would_wait(lambda: rig.traffic.await_responses(connection))


def test_the_end_of_its_sender_does_not_change_how_long_a_connection_is_idle(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, younger = rig.idle(rig.host(name="a")), rig.idle(rig.host(name="b"))

    def wait(condition: object, timeout: float) -> None:
        rig.clock.now += timeout
        rig.connections.leave_idle_locked(younger)  # it was used meanwhile
        rig.connections.enter_idle_locked(younger)

    monkeypatch.setattr(rig.core, "wait", wait)
    assert rig.traffic.next_batch(older, None) == []
    assert list(rig.core.idle) == [older, younger]


def test_idle_threads_end_at_once_if_there_are_many(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = rig.idle(rig.host())
    monkeypatch.setattr(traffic, "MANY_THREADS", 0)
    rig.core.threads.idents[1] = None
    assert rig.traffic.next_batch(connection, None) == []
    assert rig.traffic.await_responses(connection) is False


def test_a_request_for_a_connection_without_threads_starts_one_that_sends_and_receives(
    rig: Rig,
) -> None:
    host = rig.host()
    connection = rig.idle(host)
    both_end(rig, connection)
    rig.started.clear()
    (job,) = rig.submit(host, "/a")
    assert rig.started.names == ["dugong-host:80-1-send"]
    assert rig.traffic.begin_sending(connection)
    assert rig.traffic.next_batch(connection, None) == [job]
    rig.traffic.ensure_receiver(connection, [job])
    engine_of(connection).is_awaiting = True
    assert rig.traffic.next_batch(connection, None) is None
    assert rig.traffic.await_responses(connection)
    rig.respond(connection, job)
    assert job.future.result().status == 200
    assert rig.started.names == ["dugong-host:80-1-send"]


def test_a_caller_that_makes_the_request_itself_starts_no_thread(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    both_end(rig, connection)
    rig.started.clear()
    job = borrow_again(rig, host)
    assert rig.respond_to_caller(connection, job)
    assert rig.started.names == []
    assert connection in rig.core.idle


@pytest.mark.parametrize(
    "what", ["two requests", "a request behind another", "an upload", "a large head"]
)
def test_what_may_have_to_be_sent_and_received_at_the_same_time_has_two_threads(
    rig: Rig, what: str
) -> None:
    host = rig.host()
    connection = rig.idle(host)
    both_end(rig, connection)
    batch = [rig.job(host, "/a")]
    if what == "two requests":
        batch.append(rig.job(host, "/b"))
    elif what == "a request behind another":
        Job.dispatch([rig.job(host, "/earlier")], connection, rig.clock.now)
    elif what == "an upload":
        batch[0].own_extras().upload = upload()
    else:
        batch[0].head = bytes(SMALL_HEAD + 1)
    Job.dispatch(batch, connection, rig.clock.now)
    rig.started.clear()
    rig.traffic.ensure_receiver(connection, batch)
    rig.traffic.ensure_receiver(connection, batch)
    assert rig.started.names == ["dugong-host:80-1-recv"]


def test_without_a_second_thread_the_sender_receives_what_it_has_sent(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    both_end(rig, connection)
    jobs = rig.submit(host, "/a", "/b")
    assert rig.traffic.begin_sending(connection)
    assert rig.traffic.next_batch(connection, None) == jobs
    rig.started.refused = True
    rig.traffic.ensure_receiver(connection, jobs)
    engine_of(connection).is_awaiting = True
    assert rig.traffic.next_batch(connection, None) is None


def test_a_receiver_that_waits_becomes_the_sender_that_is_wanted(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    both_end(rig, connection)
    connection.receiver_started = True  # it has become the receiver, and waits
    rig.started.clear()
    (job,) = rig.submit(host, "/a")
    assert rig.started.names == []
    assert rig.traffic.await_responses(connection) is None
    assert rig.traffic.next_batch(connection, None) == [job]


def test_a_receiver_that_is_at_work_becomes_the_sender_afterwards_if_no_thread_can_be_had(
    rig: Rig,
) -> None:
    host = rig.host()
    connection, (first,) = rig.send(host, "/first")
    connection.sender_started = False
    engine_of(connection).is_awaiting = True
    assert rig.traffic.await_responses(connection)
    rig.started.refused = True
    host.pipelining.window = 4
    with rig.core.transaction():
        rig.connections.update_availability_locked(connection)
    (second,) = rig.submit(host, "/second")
    assert connection.phase is Phase.OPEN
    engine_of(connection).is_awaiting = False
    rig.respond(connection, first)
    assert rig.traffic.await_responses(connection) is None
    assert rig.traffic.next_batch(connection, None) == [second]


@pytest.mark.parametrize("is_done", [False, True])
def test_that_a_thread_cannot_be_had_does_not_matter_once_another_is_the_sender(
    rig: Rig, is_done: bool
) -> None:
    host = rig.host()
    connection = rig.idle(host)
    both_end(rig, connection)
    connection.receiver_started = True
    connection.receiver_parked = False  # it is at work, so a thread is to be started
    (job,) = rig.submit(host, "/a")
    assert rig.started.names[-1] == "dugong-host:80-1-send"
    assert rig.traffic.await_responses(connection) is None
    assert rig.traffic.next_batch(connection, None) == [job]
    if is_done:
        rig.respond(connection, job)
        rig.park(host)
        both_end(rig, connection)
    rig.connections._start_failed(connection, RuntimeError("can't start new thread"))
    assert (connection.phase, connection.sending) == (Phase.OPEN, not is_done)


def test_the_thread_that_was_started_for_a_sender_that_is_there_ends(rig: Rig) -> None:
    host = rig.host()
    connection = rig.idle(host)
    both_end(rig, connection)
    rig.submit(host, "/a")
    connection.receiver_started = True
    assert rig.traffic.await_responses(connection) is None
    assert not rig.traffic.begin_sending(connection)


# --- what a batch has met with --------------------------------------------------------------------


def test_a_sender_that_fails_while_responses_may_come_leaves_them_to_the_receiver(
    rig: Rig,
) -> None:
    connection, _ = rig.send(rig.host(), "/a")
    engine_of(connection).has_unread = True
    rig.look_for_work(connection, ConnectionClosed())
    assert connection.phase is Phase.WRITE_FAILED


def test_a_sender_that_fails_while_no_response_may_come_ends_the_connection(rig: Rig) -> None:
    connection, (job,) = rig.send(rig.host(), "/a", retry=RetryPolicy(backoff=1.0))
    rig.look_for_work(connection, ConnectionClosed("broken"))
    assert connection.phase is Phase.CLOSED
    assert connection.close_reason == "broken"
    assert job.place is Place.WAITING


def test_a_body_that_fails_ends_the_connection_though_a_response_may_come(rig: Rig) -> None:
    connection, job = send_upload(rig)
    engine_of(connection).has_unread = True
    error = ValueError("the caller's")
    job.fatal_error = error
    assert rig.look_for_work(connection, BodyError(error)) == []
    assert job.future.exception() is error
    assert connection.phase is Phase.CLOSED


def test_why_the_pool_has_shut_a_connection_is_known_from_its_sender(rig: Rig) -> None:
    """The receiver knows only that it was shut."""
    connection, job = send_upload(rig, retry=NO_RETRY)
    rig.lose(connection, ConnectionClosed())
    rig.look_for_work(connection, ConnectionTimedOut("nothing sent for 1 s"))
    assert isinstance(job.future.exception(), ConnectionTimedOut)


def test_a_response_waits_until_the_sender_has_let_go_of_the_body(rig: Rig) -> None:
    connection, job = send_upload(rig)
    rig.respond(connection, job)
    assert not job.future.done()
    assert releases(job) == 0
    rig.look_for_work(connection)
    assert job.future.result().status == 200
    assert releases(job) == 1


@pytest.mark.parametrize("early", [True, False])
def test_a_success_is_a_failure_if_the_body_could_not_be_sent(rig: Rig, early: bool) -> None:
    """Whichever thread is the first to tell of it."""
    connection, job = send_upload(rig, retry=NO_RETRY)
    connection.engine.has_unread = True  # type: ignore[misc]  # a fake
    if early:
        rig.respond(connection, job)
    rig.look_for_work(connection, ConnectionClosed("the peer has had enough"))
    if not early:
        rig.respond(connection, job)
    error = job.future.exception()
    assert isinstance(error, ConnectionClosed)
    assert "200" in str(error)
    assert "the peer has had enough" in str(error)
    assert error.response is not None
    assert error.response.status == 200
    assert error.delivery is Delivery.PARTLY_SENT


@pytest.mark.parametrize("early", [True, False])
def test_a_refusal_is_the_outcome_though_the_body_could_not_be_sent(rig: Rig, early: bool) -> None:
    connection, job = send_upload(rig)
    connection.engine.has_unread = True  # type: ignore[misc]  # a fake
    if early:
        rig.respond(connection, job, status=413)
    rig.look_for_work(connection, ConnectionClosed())
    if not early:
        rig.respond(connection, job, status=413)
    assert job.future.result().status == 413


@pytest.mark.parametrize(("status", "times"), [(200, 0), (204, 0), (301, 1), (413, 1), (503, 1)])
def test_what_waits_for_a_body_is_told_of_a_response_that_needs_no_more_of_it(
    rig: Rig, status: int, times: int
) -> None:
    connection, job = send_upload(rig)
    rig.respond(connection, job, status=status)
    assert interrupts(job) == times


def test_a_success_that_is_the_last_response_lets_the_sender_go_on(rig: Rig) -> None:
    connection, job = send_upload(rig)
    connection.engine.was_ended_by_peer = True  # type: ignore[misc]  # a fake
    rig.respond(connection, job, persistent=False)
    assert connection.phase is Phase.DRAINING
    assert not job.future.done()
    assert rig.look_for_work(connection) == []
    assert job.future.result().status == 200
    assert connection.phase is Phase.CLOSED
    assert rig.heard("closed") == ["the server ended it"]


def test_a_refusal_that_is_the_last_response_stops_the_sender(rig: Rig) -> None:
    connection, job = send_upload(rig)
    rig.respond(connection, job, status=413, persistent=False)
    assert connection.phase is Phase.CLOSING
    rig.look_for_work(connection, ConnectionClosed())
    assert job.future.result().status == 413


def test_a_cancelled_upload_ends_when_the_sender_has_let_go_of_the_body(rig: Rig) -> None:
    connection, job = send_upload(rig)
    job.cancelled = True
    rig.lose(connection, Abandoned("a request was cancelled"))
    assert not job.future.done()
    rig.look_for_work(connection)
    assert job.future.cancelled()
    assert releases(job) == 1


# --- 100 (Continue) -------------------------------------------------------------------------------


def test_a_sender_waits_for_100_only_as_long_as_it_is_to_wait(rig: Rig) -> None:
    connection, _ = send_upload(rig)
    assert would_wait(lambda: rig.traffic.wait_for_continue(connection, lambda: True))
    assert not would_wait(lambda: rig.traffic.wait_for_continue(connection, lambda: False))
    rig.lose(connection, Abandoned())
    assert not would_wait(lambda: rig.traffic.wait_for_continue(connection, lambda: True))


@pytest.mark.parametrize("what", ["100", "response"])
def test_a_sender_that_waits_for_100_is_woken(rig: Rig, what: str) -> None:
    connection, job = send_upload(rig)
    woken = listen(connection)
    if what == "100":
        rig.traffic.continue_sending(connection)
    else:
        rig.respond(connection, job)
    assert woken == ["sender"]


@pytest.mark.parametrize(
    ("has_body", "is_sending", "released", "sends"),
    [
        (False, False, 0.0, False),
        (True, True, 0.0, True),
        (True, False, 29.9, True),
        (True, False, 30.1, False),
    ],
)
def test_a_body_is_on_its_way_until_a_timeout_after_its_last_piece(
    rig: Rig, has_body: bool, is_sending: bool, released: float, sends: bool
) -> None:
    connection, (job,) = rig.send(rig.host(), "/a")
    job.own_extras().upload = upload() if has_body else None
    if is_sending:
        assert job.extras.upload is not None
        job.extras.upload.begin()
    connection.body_released_at = rig.clock.now
    rig.clock.now += released
    assert rig.traffic.sends_body(connection) is sends


# --- receiving ------------------------------------------------------------------------------------


def test_a_receiver_waits_until_a_response_is_due(rig: Rig) -> None:
    connection, _ = rig.send(rig.host(), "/a")
    assert would_wait(lambda: rig.traffic.await_responses(connection))
    assert not connection.receiving
    engine_of(connection).is_awaiting = True
    assert rig.traffic.await_responses(connection)
    assert connection.receiving
    assert rig.traffic.await_responses(connection)


@pytest.mark.parametrize("lent", ["borrowed", "streaming"])
def test_a_receiver_leaves_a_connection_that_is_lent_to_a_caller_alone(rig: Rig, lent: str) -> None:
    connection, (job,) = rig.send(rig.host(), "/a")
    engine_of(connection).is_awaiting = True
    connection.borrower = job if lent == "borrowed" else None
    connection.streaming = lent == "streaming"
    assert would_wait(lambda: rig.traffic.await_responses(connection))


def test_a_receiver_whose_connection_ends_closes_it_and_ends(rig: Rig) -> None:
    connection, _ = rig.send(rig.host(), "/a")
    engine_of(connection).is_awaiting = True
    rig.traffic.await_responses(connection)
    rig.lose(connection, Abandoned())
    assert connection.phase is Phase.CLOSING
    assert not rig.traffic.await_responses(connection)
    assert connection.phase is Phase.CLOSED


def test_a_receiver_ends_a_connection_that_cannot_be_written_to_once_all_has_come(
    rig: Rig,
) -> None:
    connection, _ = rig.send(rig.host(), "/a")
    engine_of(connection).has_unread = True
    rig.look_for_work(connection, ConnectionClosed())
    assert not rig.traffic.await_responses(connection)
    assert connection.phase is Phase.CLOSED


def test_responses_end_their_requests(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a", "/b", "/c")
    rig.respond(connection, *jobs[:2])
    assert [job.future.done() for job in jobs] == [True, True, False]
    assert (connection.answered, host.answered, host.in_flight, host.has_progressed) == (
        2,
        2,
        1,
        True,
    )
    assert rig.heard("answered") == ["200 Reason"] * 2
    assert all(job.exchange is None for job in jobs[:2])


def test_a_connection_without_requests_is_idle(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a")
    connection.receiving = True
    rig.respond(connection, *jobs)
    assert list(host.idle) == list(rig.core.idle) == [connection]
    assert not connection.receiving


def test_a_response_to_a_request_that_is_done_is_dropped(rig: Rig) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a")
    with rig.core.transaction():
        rig.retries.complete_locked(job, None)
    rig.respond(connection, job)
    assert job.future.cancelled()
    assert connection in host.idle
    assert rig.heard("answered") == []


def test_an_error_behind_responses_ends_the_connection(rig: Rig) -> None:
    connection, jobs = rig.send(rig.host(), "/a", "/b", retry=NO_RETRY)
    rig.respond(connection, jobs[0], error=ConnectionTimedOut("slow"))
    assert jobs[0].future.result().status == 200
    assert isinstance(jobs[1].future.exception(), ConnectionTimedOut)
    assert connection.phase is Phase.CLOSED


def test_an_error_behind_the_last_response_of_a_connection_is_no_news(rig: Rig) -> None:
    connection, jobs = rig.send(rig.host(), "/a")
    rig.respond(connection, *jobs, error=ConnectionClosed(), persistent=False)
    assert rig.heard("closed") == ["the server ended it"]
    assert connection.failure is None


def test_requests_behind_the_last_response_of_a_connection_go_back(rig: Rig) -> None:
    host = rig.host()
    connection, jobs = rig.send(host, "/a", "/b")
    engine_of(connection).delivery = Delivery.DISCLAIMED
    rig.respond(connection, jobs[0], persistent=False)
    assert jobs[1].place is Place.QUEUED
    assert jobs[1].number == 1


def test_a_status_that_is_worth_another_attempt_is_not_counted_as_accepted(rig: Rig) -> None:
    host = rig.host()
    connection, (job,) = rig.send(host, "/a")
    rig.respond(connection, job, status=503)
    assert (host.answered, host.has_progressed) == (1, False)
    assert job.place is Place.WAITING
