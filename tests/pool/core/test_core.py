"""The core of a pool: the transaction, what follows it, and what an interrupt leaves of it."""

from __future__ import annotations

import concurrent.futures
import inspect
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from dugong.errors import PoolClosed, PoolFull, StateError
from dugong.pool.core import core as module
from dugong.pool.core.core import Mending, PoolCore
from dugong.pool.core.job import Job
from dugong.pool.core.maintenance import Maintenance
from tests.support.parts import finish, in_thread, make_core, make_host, make_job, make_response
from tests.support.points import Interrupt
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT


def exit_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it look to the core as if the interpreter were exiting."""
    for place in (sys, module):
        monkeypatch.setattr(place, "is_finalizing", lambda: True, raising=False)


def is_free(core: PoolCore) -> bool:
    """Return True if another thread could take the lock."""
    free: list[bool] = []

    def take() -> None:
        free.append(core.lock.acquire(False))
        if free[0]:
            core.lock.release()

    in_thread(take)
    return free[0]


# --- the transaction ------------------------------------------------------------------------------


def test_a_transaction_holds_the_lock(core: PoolCore) -> None:
    with core.transaction():
        assert core.is_locked_here()
        assert not is_free(core)
    assert not core.is_locked_here()
    assert is_free(core)


def test_the_lock_is_held_here_only_in_the_thread_that_holds_it(core: PoolCore) -> None:
    elsewhere: list[bool] = []
    with core.transaction():
        in_thread(lambda: elsewhere.append(core.is_locked_here()))
    assert elsewhere == [False]


def test_an_exception_in_a_transaction_releases_the_lock(core: PoolCore) -> None:
    with pytest.raises(PoolFull), core.transaction():
        raise PoolFull
    assert is_free(core)


def test_a_transaction_waits_for_that_of_another_thread(core: PoolCore) -> None:
    log: list[str] = []
    begun = threading.Event()

    def other() -> None:
        begun.set()
        with core.transaction():
            log.append("second")

    with core.transaction():
        thread = threading.Thread(target=other)
        thread.start()
        wait_for(begun)
        log.append("first")
    thread.join()
    assert log == ["first", "second"]


class BusyLock:
    """A lock that other threads hold until it has been tried *tries* times more."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.has_waited = False

    def acquire(self, blocking: bool = True) -> bool:
        self.tries -= 1
        self.has_waited = blocking
        return blocking or self.tries < 0

    def release(self) -> None:
        pass


@pytest.mark.parametrize("tries", [0, 1, 5])
def test_a_transaction_takes_the_lock_when_it_runs_and_is_not_given_it_before(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """Else the thread that runs would have to wait for one that has the lock, but not the GIL."""
    lock = BusyLock(tries)
    monkeypatch.setattr(core, "lock", lock)
    with core.transaction():
        assert not lock.has_waited
        assert lock.tries == -1


def test_a_transaction_waits_in_line_for_a_lock_that_stays_busy(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = BusyLock(10**9)
    monkeypatch.setattr(core, "lock", lock)
    with core.transaction():
        assert lock.has_waited


def test_a_transaction_within_a_transaction_is_refused_and_harms_the_outer_one_not(
    core: PoolCore,
) -> None:
    """A finalizer or a signal handler may begin one there."""
    with core.transaction():
        with pytest.raises(StateError, match="in the middle of a change"), core.transaction():
            pass
        assert core.is_locked_here()
        assert not is_free(core)
    with core.transaction():
        pass


def test_a_thread_does_not_wait_for_one_that_was_stopped_when_the_interpreter_exits(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with core.transaction():
                pass
        except PoolClosed as exc:
            errors.append(exc)

    with core.transaction():
        exit_interpreter(monkeypatch)
        in_thread(enter)
        monkeypatch.undo()
    assert [str(error) for error in errors] == ["the interpreter is exiting"]


# --- what follows ---------------------------------------------------------------------------------


def test_what_follows_is_done_in_order_once_the_lock_is_released(core: PoolCore) -> None:
    log: list[tuple[str, bool]] = []
    with core.transaction():
        for name in "ab":
            core.follow_up(lambda name=name: log.append((name, is_free(core))))  # type: ignore[misc]
        assert core.has_follow_ups
        assert log == []
    assert log == [("a", True), ("b", True)]
    assert not core.has_follow_ups
    with core.transaction():
        pass
    assert len(log) == 2


def test_what_follows_is_done_by_the_thread_that_leaves(core: PoolCore) -> None:
    who: list[int] = []
    with core.transaction():
        core.follow_up(lambda: who.append(threading.get_ident()))
    assert who == [threading.get_ident()]


def test_what_follows_is_done_though_the_transaction_ends_with_an_exception(
    core: PoolCore,
) -> None:
    log: list[str] = []

    def fail() -> None:
        with core.transaction():
            core.follow_up(lambda: log.append("done"))
            raise PoolFull

    with pytest.raises(PoolFull):
        fail()
    assert log == ["done"]


def test_what_follows_what_follows_comes_after_it(core: PoolCore) -> None:
    log: list[str] = []

    def first() -> None:
        log.append("first begins")
        with core.transaction():
            core.follow_up(lambda: log.append("third"))
        log.append("first ends")

    with core.transaction():
        core.follow_up(first)
        core.follow_up(lambda: log.append("second"))
    assert log == ["first begins", "first ends", "second", "third"]


def test_what_follows_what_follows_does_not_nest(core: PoolCore) -> None:
    left = 20 * sys.getrecursionlimit()

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            with core.transaction():
                core.follow_up(again)

    with core.transaction():
        core.follow_up(again)
    assert left == 0


@pytest.mark.parametrize("later", ["transaction", "wait"])
def test_what_an_interrupt_has_left_is_done_though_another_has_kept_it_from_being_mended(
    core: PoolCore, later: str
) -> None:
    log: list[str] = []

    def interrupted() -> None:
        log.append("first")
        if len(log) == 1:
            raise Interrupt

    def change() -> None:
        with core.transaction():
            core.follow_up(interrupted)
            core.follow_up(lambda: log.append("second"))

    with pytest.raises(Interrupt):
        change()  # what calls it could call `recover` now, but for another interrupt
    assert log == ["first"]
    if later == "wait":
        core.check_not_entering()
        assert log == ["first", "first", "second"]
    with core.transaction():
        core.follow_up(lambda: log.append("third"))
    assert log == ["first", "first", "second", "third"]


def test_what_follows_in_one_thread_keeps_no_other_thread_from_what_follows_there(
    core: PoolCore,
) -> None:
    log: list[str] = []

    def other() -> None:
        with core.transaction():
            core.follow_up(lambda: log.append("other"))

    def slow() -> None:
        in_thread(other)
        log.append("slow")

    with core.transaction():
        core.follow_up(slow)
    assert log == ["other", "slow"]


@pytest.mark.parametrize("depth", [1, 2])
def test_what_follows_between_the_two_steps_of_another_begin_is_done_without_the_lock(
    core: PoolCore, depth: int
) -> None:
    """As in a signal handler that comes there."""
    free: list[bool] = []
    for _ in range(depth):
        core.lock.acquire()  # `begin` has come so far
    with core.transaction():
        core.follow_up(lambda: free.append(is_free(core)))
    assert free == [True]
    for _ in range(depth):
        assert not is_free(core)
        core.lock.release()
    assert is_free(core)


# --- the ends of futures --------------------------------------------------------------------------


def make_observed_job(core: PoolCore) -> Job:
    """Return a job whose future ends when the transaction is left."""
    (job,) = make_jobs(1, core)
    job.future.add_done_callback(lambda future: None)
    return job


def make_jobs(count: int, core: PoolCore) -> list[Job]:
    scheduler = SimpleNamespace(
        check_may_wait_for=lambda job: None,
        is_running=lambda job: False,
        exclusively=core.exclusively,
        is_nested=core.is_nested,
        call_later=core.call_later,
    )
    host, pool = make_host(), SimpleNamespace(_scheduler=scheduler)
    return [make_job(host, f"/{i}", pool=pool) for i in range(count)]


@pytest.mark.parametrize("is_observed", [True, False])
def test_a_future_that_something_observes_ends_when_the_transaction_is_left(
    core: PoolCore, is_observed: bool
) -> None:
    good, bad, cancelled = jobs = make_jobs(3, core)
    if is_observed:
        for job in jobs:
            job.future.add_done_callback(lambda future: None)
    response, error = make_response(good), PoolClosed()
    with core.transaction():
        core.settle_locked(good.future, response)
        core.settle_locked(bad.future, error)
        core.settle_locked(cancelled.future, None)
        assert {job.future.done() for job in jobs} == {not is_observed}
    finish(core)
    assert good.future.result() is response
    assert bad.future.exception() is error
    assert cancelled.future.cancelled()


def test_a_finalizer_finds_itself_nested_where_a_future_is_observed(core: PoolCore) -> None:
    seen: list[bool] = []
    core.exclusively(lambda: seen.append(core.is_nested()))
    assert seen == [True]
    assert not core.is_nested()


def test_the_first_end_of_a_future_counts(core: PoolCore) -> None:
    (job,) = make_jobs(1, core)
    first, second = make_response(job), make_response(job)
    with core.transaction():
        core.settle_locked(job.future, first)
        core.settle_locked(job.future, second)
    with core.transaction():
        core.settle_locked(job.future, PoolClosed())
    assert job.future.result() is first


def test_a_thread_that_waits_for_a_future_is_woken(core: PoolCore) -> None:
    (job,) = make_jobs(1, core)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(job.future.result, TIMEOUT)
        with core.transaction():
            core.settle_locked(job.future, make_response(job))
        assert waiting.result(TIMEOUT).status == 200


def test_a_future_ends_between_the_two_steps_of_another_begin_though_a_thread_observes_it(
    core: PoolCore,
) -> None:
    """As `concurrent.futures.wait` does, when it is about to observe another one, too."""
    observed, (new,) = make_observed_job(core).future, make_jobs(1, core)
    taken = threading.Event()

    def observe() -> None:
        with observed._condition:
            taken.set()
            assert new.future._condition is not None  # for which it takes the lock of the pool

    def cancel() -> None:
        core.lock.acquire()  # `begin` has come so far when a signal handler runs
        observer.start()
        wait_for(taken)
        with core.transaction():
            core.settle_locked(observed, None)
        core.lock.release()

    observer = threading.Thread(target=observe, daemon=True)
    canceller = threading.Thread(target=cancel, daemon=True)
    canceller.start()
    canceller.join(TIMEOUT)
    assert observed.cancelled()
    observer.join(TIMEOUT)


def test_a_callback_of_a_future_runs_in_a_thread_of_the_pool(core: PoolCore) -> None:
    (job,) = make_jobs(1, core)
    where: list[str] = []
    job.future.add_done_callback(lambda future: where.append(threading.current_thread().name))
    with core.transaction():
        core.settle_locked(job.future, make_response(job))
    finish(core)
    assert where == ["dugong-callbacks"]


def test_a_callback_of_a_future_runs_once(core: PoolCore) -> None:
    (job,) = make_jobs(1, core)
    calls: list[object] = []
    job.future.add_done_callback(calls.append)
    for _ in range(2):
        with core.transaction():
            core.settle_locked(job.future, make_response(job))
            core.settle_locked(job.future, None)
    finish(core)
    assert calls == [job.future]


def test_futures_that_were_to_end_are_known_before_the_transaction_is_left(
    core: PoolCore,
) -> None:
    """A forked child ends them, for the threads of its parent do not."""
    job = make_observed_job(core)
    with core.transaction():
        core.settle_locked(job.future, None)
        assert [future for future, _ in core.unsettled()] == [job.future]
    assert core.unsettled() == []


def test_futures_that_another_thread_is_about_to_end_are_known(core: PoolCore) -> None:
    job = make_observed_job(core)
    seen: list[object] = []

    def settle_and_look() -> None:
        with core.transaction():
            core.settle_locked(job.future, None)
        in_thread(lambda: seen.extend(future for future, _ in core.unsettled()))

    with core.transaction():
        core.follow_up(settle_and_look)
    assert seen == [job.future]
    assert job.future.cancelled()


# --- who may wait ---------------------------------------------------------------------------------


def test_a_thread_of_a_caller_may_wait_for_the_pool(core: PoolCore) -> None:
    core.check_may_wait()


def test_a_thread_of_the_pool_may_not_wait_for_the_pool(core: PoolCore) -> None:
    errors: list[str] = []

    def wait() -> None:
        try:
            core.check_may_wait()
        except StateError as exc:
            errors.append(str(exc))

    core.threads.start(wait, "dugong-test", pytest.fail)
    finish(core)
    assert errors == ["a callback of the pool cannot wait for the pool"]


def test_a_thread_in_a_transaction_may_not_wait_for_the_pool(core: PoolCore) -> None:
    assert not core.is_locked_here()
    with core.transaction():
        assert core.is_locked_here()
        with pytest.raises(StateError, match="in the middle of a change"):
            core.check_may_wait()


def test_no_thread_may_wait_once_the_interpreter_exits(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as exiting:
        exit_interpreter(exiting)
        with pytest.raises(StateError, match="exiting"):
            core.check_may_wait()


# --- waiting --------------------------------------------------------------------------------------


def test_a_thread_that_waits_lets_others_have_the_lock_and_is_woken(core: PoolCore) -> None:
    waits, log = threading.Event(), list[bool]()

    def wait() -> None:
        with core.transaction():
            waits.set()  # the lock is not free before this thread waits
            core.wait(core.room, TIMEOUT)
            log.append(core.is_locked_here())

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(waits)
    with core.transaction():
        log.append(core.is_locked_here())
        core.room.notify_all()
    thread.join()
    assert log == [True, True]


def test_waiting_ends_when_its_time_is_over(core: PoolCore) -> None:
    with core.transaction():
        core.wait(core.room, 0.001)
        assert core.is_locked_here()


def test_no_thread_waits_once_the_interpreter_exits(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as exiting, core.transaction():
        exit_interpreter(exiting)
        with pytest.raises(PoolClosed):
            core.wait(core.room)


def test_room_in_full_queues_is_told_to_those_who_wait_for_it() -> None:
    core = make_core(max_queued=2)
    core.queued = 3
    waits, woken = threading.Event(), list[int]()

    def wait() -> None:
        with core.transaction():
            waits.set()
            while core.queued >= 2:
                core.wait(core.room, TIMEOUT)
            woken.append(core.queued)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(waits)
    with core.transaction():
        core.unqueue_locked(2)
    thread.join()
    assert woken == [1]


# --- after an interrupt ---------------------------------------------------------------------------


class Repair:
    """Counts repairs, which are made with the lock held."""

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self.count = 0
        core.repair_locked = self

    def __call__(self) -> None:
        assert self._core.is_locked_here()
        self.count += 1


def test_an_interrupt_between_the_lock_and_its_block_leaves_nothing_held(core: PoolCore) -> None:
    repair = Repair(core)
    core.lock.acquire()  # `__enter__` has come so far
    core.recover(Interrupt())
    assert is_free(core)
    assert repair.count == 1
    with core.transaction():
        pass


def test_an_interrupt_before_the_lock_is_released_leaves_nothing_held(core: PoolCore) -> None:
    Repair(core)
    core.transaction().__enter__()
    core.recover(Interrupt())
    assert is_free(core)
    assert not core.is_locked_here()


def test_an_interrupt_within_a_wait_leaves_nothing_held(
    core: PoolCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The condition may not have got the lock back then, or have it twice."""
    repair = Repair(core)

    def wait_and_lose_lock(timeout: float | None = None) -> None:
        core.lock.release()
        raise Interrupt

    def wait_and_have_it_twice(timeout: float | None = None) -> None:
        core.lock.acquire()
        raise Interrupt

    for wait in (wait_and_lose_lock, wait_and_have_it_twice):
        monkeypatch.setattr(core.room, "wait", wait)
        try:
            with core.transaction():
                core.wait(core.room)
        except Interrupt as exc:
            core.recover(exc)
        assert is_free(core)
        assert not core.is_locked_here()
    assert repair.count == 2


def test_what_follows_and_was_interrupted_is_done_when_it_is_mended(core: PoolCore) -> None:
    """It may be done a second time, but not left undone."""
    Repair(core)
    log: list[str] = []

    def interrupted() -> None:
        log.append("first")
        if len(log) == 1:
            raise Interrupt

    def change() -> None:
        with core.transaction():
            core.follow_up(interrupted)
            core.follow_up(lambda: log.append("second"))

    with pytest.raises(Interrupt) as caught:
        change()
    assert log == ["first"]
    core.recover(caught.value)
    assert log == ["first", "first", "second"]


def test_a_future_that_was_to_end_when_an_interrupt_came_ends(core: PoolCore) -> None:
    Repair(core)
    job = make_observed_job(core)
    core.transaction().__enter__()
    core.settle_locked(job.future, None)
    core.recover(Interrupt())  # it came before the transaction was left
    assert job.future.cancelled()


def test_a_future_that_was_to_end_behind_what_was_interrupted_ends(core: PoolCore) -> None:
    Repair(core)
    job = make_observed_job(core)
    interrupts = [Interrupt()]

    def interrupted() -> None:
        with core.transaction():
            core.settle_locked(job.future, None)
        if interrupts:
            raise interrupts.pop()

    with pytest.raises(Interrupt) as caught, core.transaction():
        core.follow_up(interrupted)
    assert not job.future.done()
    core.recover(caught.value)
    assert job.future.cancelled()


def test_an_exception_of_the_pool_leaves_nothing_to_mend(core: PoolCore) -> None:
    repair = Repair(core)
    core.recover(PoolFull())
    assert repair.count == 0


def test_any_other_exception_is_mended_if_it_came_out_of_a_transaction(core: PoolCore) -> None:
    """A signal handler may raise it; what a caller has got wrong is raised elsewhere."""
    repair = Repair(core)
    core.recover(ValueError("wrong"))
    assert repair.count == 0
    with pytest.raises(ValueError, match="handler") as caught, core.transaction():
        raise ValueError("from a signal handler")
    core.recover(caught.value)
    core.recover(caught.value)
    assert repair.count == 1


def test_an_interrupt_while_another_is_mended_keeps_that_from_nothing(core: PoolCore) -> None:
    counts = iter([1, 2, 3])

    def interrupted() -> None:
        if next(counts) < 3:
            raise Interrupt

    core.repair_locked = interrupted
    core.transaction().__enter__()
    core.recover(Interrupt())
    assert is_free(core)
    assert next(counts, None) is None


def test_what_comes_where_a_transaction_begins_may_not_wait(core: PoolCore) -> None:
    """A finalizer may run when the lock has been taken, and its owner is not noted yet."""
    core.check_not_entering()
    core.lock.acquire()
    with pytest.raises(StateError) as caught:
        core.check_not_entering()
    core.recover(caught.value)
    assert not is_free(core)  # the lock is left to the transaction
    core.lock.release()


def test_what_comes_behind_a_transaction_may_not_wait_for_what_follows_it(core: PoolCore) -> None:
    caught: list[StateError] = []

    def check() -> None:
        try:
            core.check_not_entering()
        except StateError as exc:
            caught.append(exc)

    with core.transaction():
        core.follow_up(check)
    assert len(caught) == 1
    core.check_not_entering()


def test_what_the_repair_decides_is_done_as_well(core: PoolCore) -> None:
    log: list[str] = []
    core.repair_locked = lambda: core.follow_up(lambda: log.append("done"))
    core.recover(Interrupt())
    assert log == ["done"]


def test_an_interrupt_of_one_thread_leaves_the_transaction_of_another_alone(
    core: PoolCore,
) -> None:
    Repair(core)
    holds, release, log = threading.Event(), threading.Event(), list[str]()

    def other() -> None:
        with core.transaction():
            holds.set()
            wait_for(release)
            log.append("other")
            assert core.is_locked_here()

    thread = threading.Thread(target=other)
    thread.start()
    wait_for(holds)
    recovering = threading.Thread(target=lambda: (core.recover(Interrupt()), log.append("mended")))
    recovering.start()
    release.set()
    thread.join()
    recovering.join()
    assert log == ["other", "mended"]


# --- after an interrupt, and another one ----------------------------------------------------------


class Interrupted:
    """What is left to the maintenance thread of *core*, as other interrupts come at once.

    `protect` has the core protect an action, and nothing mended in this thread.
    """

    def __init__(self, core: PoolCore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._core = core
        self._left: list[Mending] = []
        core.have_mended = self._left.append
        monkeypatch.setattr(core, "recover", self._interrupt)

    def _interrupt(self, exc: BaseException) -> None:
        raise Interrupt

    def protect(
        self, action: Callable[[], object], remedy: Callable[[], object] = lambda: None
    ) -> None:
        with pytest.raises(Interrupt):
            self._core.protect(lambda _: action(), lambda _: remedy(), None)

    def maintain(self) -> None:
        """Do what is left to the maintenance thread, in another one than this."""
        while self._left:
            in_thread(partial(self._core.mend, *self._left.pop()))


@pytest.fixture
def interrupted(core: PoolCore, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    return Interrupted(core, monkeypatch)


def test_what_a_thread_is_kept_from_by_interrupts_is_done_by_another(
    core: PoolCore, interrupted: Interrupted
) -> None:
    log: list[str] = []

    def first() -> None:
        log.append("first")
        if len(log) == 1:
            raise Interrupt

    def change() -> None:
        with core.transaction():
            core.follow_up(first)
            core.follow_up(lambda: log.append("second"))

    interrupted.protect(change)
    assert log == ["first"]
    interrupted.maintain()
    assert log == ["first", "first", "second"]


def test_a_future_that_was_to_end_when_interrupts_came_ends(
    core: PoolCore, interrupted: Interrupted
) -> None:
    job = make_observed_job(core)

    def interrupt() -> None:
        raise Interrupt

    def change() -> None:
        with core.transaction():
            core.settle_locked(job.future, None)
            core.callbacks.add = lambda call: interrupt()  # type: ignore[method-assign]

    interrupted.protect(change)
    del core.callbacks.add  # type: ignore[method-assign]
    interrupted.maintain()
    assert job.future.cancelled()


def test_a_transaction_that_interrupts_have_kept_from_its_end_keeps_no_thread_waiting(
    core: PoolCore, interrupted: Interrupted
) -> None:
    repair = Repair(core)

    def begin() -> None:
        core.begin()
        raise Interrupt

    interrupted.protect(begin)
    assert is_free(core)
    assert not core.is_locked_here()
    interrupted.maintain()
    assert repair.count == 1


def test_an_interrupt_where_the_maintenance_thread_is_told_leaves_nothing_held(
    core: PoolCore, interrupted: Interrupted
) -> None:
    tell = core.have_mended

    def tell_and_interrupt(mending: Mending) -> None:
        tell(mending)
        raise Interrupt

    core.have_mended = tell_and_interrupt
    repair = Repair(core)

    def begin() -> None:
        core.begin()
        raise Interrupt

    interrupted.protect(begin)
    assert is_free(core)
    interrupted.maintain()
    assert repair.count == 1


def test_what_remedies_an_interrupt_is_done_though_others_come(
    core: PoolCore, interrupted: Interrupted
) -> None:
    log: list[str] = []

    def interrupt() -> None:
        raise Interrupt

    interrupted.protect(interrupt, lambda: log.append("remedied"))
    assert log == []
    interrupted.maintain()
    assert log == ["remedied"]


def test_an_exception_of_the_pool_is_nothing_for_the_maintenance_thread(core: PoolCore) -> None:
    left: list[object] = []
    log: list[str] = []
    core.have_mended = left.append

    def refuse(subject: str) -> None:
        with core.transaction():
            raise PoolFull

    with pytest.raises(PoolFull):
        core.protect(refuse, log.append, "remedied")
    assert left == []
    assert log == ["remedied"]


def test_what_is_done_later_may_be_asked_for_in_one_step_of_the_maintenance_thread(
    core: PoolCore,
) -> None:
    """It is no function in Python, at the beginning of which another interrupt could come."""
    Maintenance(core, lambda: None, lambda: None)
    assert inspect.isbuiltin(core.have_mended)
