"""How a request ends, or is tried again: every outcome of every request passes `complete_locked`.

Guarantees: a request that waits holds no connection, no thread and no place in a queue, and is not
forgotten: a timer wakes it, or its deadline, `cancel` or `close` ends it. No code of a caller runs
while the lock is held.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Protocol

from dugong.errors import ConnectionTimedOut, Delivery, DugongError, PoolClosed
from dugong.pool.core.core import Outcome, PoolCore
from dugong.pool.core.emitting import emit_of
from dugong.pool.core.host import Host
from dugong.pool.core.job import Flow, Job, Place
from dugong.pool.core.locked import locked
from dugong.pool.core.maintenance import Maintenance
from dugong.pool.core.politeness import HOLDING, Politeness
from dugong.pool.core.timers import Timer
from dugong.pool.failure import as_exception, describe, ends_program, failure, incomplete_upload
from dugong.pool.response import Attempt, Response, StreamedResponse, status_text
from dugong.pool.retry.policy import DISCLAIMING, retry_refusal_reason

__all__ = ["RetryEngine"]

_EXPECTATION_FAILED = 417


class Servers(Protocol):
    """What the retry engine asks of the connection manager."""

    def ensure_all_served_locked(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""


class Hedges(Protocol):
    """What the retry engine asks of the part that sends slow requests once more."""

    def keep_locked(self, job: Job, reason: str) -> None:
        """End the twin of *job*."""

    def fail_locked(self, job: Job, attempt: Attempt) -> None:
        """The sending of *job* has failed: its twin goes on."""


class RetryEngine:
    """Decides what becomes of requests that have an outcome."""

    def __init__(self, core: PoolCore, maintenance: Maintenance, politeness: Politeness) -> None:
        self._core = core  # never changes
        self._maintenance = maintenance  # never changes
        self._politeness = politeness  # never changes
        self.servers: Servers  # set once, before the first request
        #: Puts a request into the queue of its host; set once, before the first request.
        self.enqueue_locked: Callable[[Job], None]
        self.hedging: Hedges  # set once, before the first request
        self.reset()

    def reset(self) -> None:
        """Begin with nothing: also for a child process, after a fork."""
        #: Requests that wait to be tried again, with what will wake them (None: a hook of the
        #: caller's decides on them); guarded by the lock.
        self.waiting: dict[Job, Timer | None] = {}

    # --- the outcome of a request -----------------------------------------------------------------

    @locked
    def complete_locked(
        self,
        job: Job,
        outcome: Outcome,
        attempt: Attempt | None = None,
        delay: float = 0.0,
        final: bool = False,
    ) -> bool:
        """End *job* with *outcome*, or have it tried again.

        The only way to either, but for two short cuts: a response below 400 that needs nothing
        else (`Traffic.responded`), and one of a caller who makes the request itself (`Lending`).

        *outcome* is a response, an exception, or None for a cancellation. *attempt* is the attempt
        that has failed, if another may follow, in *delay* seconds. Without it, an exception is
        final, and a response unless its status is one that the policy of *job* has tried again;
        *final* says that it is not. Returns True if it was final, and not what a last attempt has
        failed with.
        """
        if attempt is None and not final and isinstance(outcome, Response):
            retryable = self._attempt_of_response_locked(job, outcome)
            if retryable is not None:
                attempt, delay = retryable
        if job.twin is not None and not self._ends_twins_locked(job, outcome, attempt):
            return False
        if attempt is not None:
            reason = self._refusal_locked(job, attempt, delay)
            if reason is None and not self._core.closed:
                self._schedule_locked(job, outcome, attempt, delay)
                return False
            if reason is None and isinstance(outcome, Exception):
                self._close_failed_locked(job, outcome, attempt)
                return False
            self._emit_gave_up(job, outcome, attempt.connection, reason or PoolClosed.msg)
        if job.flow is not None and self._flows_on_locked(job, job.flow, outcome):
            return attempt is None
        self._settle_locked(job, outcome)
        return attempt is None

    @locked
    def _ends_twins_locked(self, job: Job, outcome: Outcome, attempt: Attempt | None) -> bool:
        """Return True if *outcome* is that of the request; False: the twin of *job* goes on."""
        if attempt is None:
            if not isinstance(outcome, Exception):
                self.hedging.keep_locked(job, "another sending was faster")
                return True
            connection = "" if job.connection is None else job.connection.name
            delivery = getattr(outcome, "delivery", Delivery.SENT)
            attempt = make_attempt(job, connection, _describe(outcome), delivery)
            attempt = attempt._replace(exception=outcome)
        self.hedging.fail_locked(job, attempt)
        return False

    @locked
    def _settle_locked(self, job: Job, outcome: Outcome) -> None:
        """End *job* with *outcome*."""
        if outcome is None and job.sending is not None and job.connection is not None:
            emit_of(self._core, "cancelled", job, job.connection.name, "by its caller")
        if isinstance(outcome, Exception):
            with suppress(AttributeError, TypeError):  # a caller's exception may be frozen
                outcome.delivery = job.max_delivery(outcome.delivery)  # type: ignore[attr-defined]  # set by failure()
                outcome.attempts = job.attempts  # type: ignore[attr-defined]  # any exception has a dict
        if job.extras.upload is not None and not isinstance(outcome, StreamedResponse):
            job.extras.upload.body.release()  # before its caller can see that it is done
        if job.extras.patience is not None and job.extras.patience.timer is not None:
            self._maintenance.cancel_locked(job.extras.patience.timer)
        # Before the job changes its place: an interrupt in between must not lose the future.
        self._core.settle_locked(job.future, outcome)
        if isinstance(outcome, StreamedResponse):
            job.begin_streaming()  # its deadline goes on, and its body may be on its way
        else:
            job.finish()
            if job.timer is not None:
                self._maintenance.cancel_locked(job.timer)

    @locked
    def fail_upload_locked(
        self, job: Job, response: Response, connection: str, reason: Exception
    ) -> None:
        """*response* accepts *job*, but has come before its body was sent, which then failed.

        So the server has got a part of the body, and the response may be about that. *reason* is
        why the rest could not be sent.
        """
        if self._core.closed:
            self.close_locked(job, Delivery.PARTLY_SENT)
            return
        if job.fatal_error is not None:  # it was the caller's body that failed
            error = failure(job.fatal_error, Delivery.PARTLY_SENT, job.request)
            self.give_up_locked(job, error, connection, "it cannot be tried again")
            return
        job.forget_expectation()  # a server that did not ask for the body would not do so again
        cause = incomplete_upload(response, reason)
        error = failure(cause, Delivery.PARTLY_SENT, job.request)
        attempt = make_attempt(job, connection, cause.msg, Delivery.PARTLY_SENT)
        attempt = attempt._replace(exception=error)
        self.complete_locked(job, error, attempt, job.retry.delay(attempt.number))

    @locked
    def give_up_locked(self, job: Job, error: Exception, connection: str, reason: str) -> None:
        """End *job*, whatever its policy says, because of *reason*."""
        self._emit_gave_up(job, error, connection, reason)
        self.complete_locked(job, error)

    @locked
    def close_locked(self, job: Job, delivery: Delivery = Delivery.UNSENT) -> None:
        """Fail *job*, for the pool is being closed."""
        error = failure(PoolClosed(), delivery, job.request)
        emit_of(self._core, "gave up", job, "", describe(error), error)
        self.complete_locked(job, error)

    @locked
    def _close_failed_locked(self, job: Job, error: Exception, attempt: Attempt) -> None:
        """Fail *job*, whose *attempt* has failed with *error*, because the pool is being closed.

        But for that, another attempt would follow.
        """
        own = failure(PoolClosed(), attempt.delivery or Delivery.UNSENT, job.request)
        own.__cause__ = error
        self.give_up_locked(job, own, attempt.connection, describe(error))

    def may_be_retried(self, job: Job, status: int) -> bool:
        """Return whether the policy of *job* has a response with *status* tried again.

        Needs no lock.
        """
        policy, upload = job.retry, job.extras.upload
        expects = upload is not None and upload.expect100
        return policy.attempts > 1 and (
            status in policy.statuses or (status == _EXPECTATION_FAILED and expects)
        )

    @locked
    def _attempt_of_response_locked(
        self, job: Job, response: Response
    ) -> tuple[Attempt, float] | None:
        """Return what may be tried again after *response*, and in how many seconds, or None.

        The first request that is told to wait holds all others to that host back. Those that were
        under way beside it hear the same, and are not charged: a host that takes so many requests a
        second tells all others to wait, again and again. A host that takes none is asked no more
        often than the policy says.
        """
        policy, host, status = job.retry, job.host, response.status
        connection = "" if job.connection is None else job.connection.name
        if not self.may_be_retried(job, status):
            return None
        if job.fatal_error is not None:
            reason = f"{status_text(response)}; it cannot be tried again"
            emit_of(self._core, "gave up", job, connection, reason, response)
            return None
        job.needs_fresh_connection = False  # this one has responded
        if status == _EXPECTATION_FAILED and job.forget_expectation():  # RFC 9110 §10.1.1
            attempt = make_attempt(job, connection, status_text(response), Delivery.DISCLAIMED)
            return attempt._replace(status=status, response=response), 0.0
        charged, delay = True, policy.delay(job.number)
        wanted = policy.wanted_delay(response.headers)
        if wanted is not None and status in HOLDING:  # its Retry-After concerns all requests to it
            charged = not (host.is_held(monotonic()) and host.progresses)
            if wanted > 0:
                self._politeness.hold_locked(host, wanted, f"{status} with Retry-After {wanted:g}")
        delivery = Delivery.DISCLAIMED if status in DISCLAIMING else Delivery.ANSWER_STARTED
        attempt = make_attempt(job, connection, status_text(response), delivery, charged)
        attempt = attempt._replace(status=status, response=response)
        return attempt, max(delay, wanted or 0.0)

    @locked
    def requeues_uncharged_locked(self, job: Job, error: Exception, attempt: Attempt) -> bool:
        """Return True if *job*, which was lost because of another request, goes back to the queue.

        If it may not, it ends with *error*.
        """
        if job.twin is not None:
            self.hedging.fail_locked(job, attempt)
            return False
        refusal = _refusal_reason(job, attempt)
        if refusal is not None:
            self.give_up_locked(job, error, attempt.connection, refusal)
            return False
        if self._core.closed:
            self._close_failed_locked(job, error, attempt)
            return False
        job.attempts += (attempt._replace(request=None),)
        emit_of(self._core, "resent", job, attempt.connection, attempt.outcome, attempt.exception)
        return True

    # --- what goes on above it --------------------------------------------------------------------

    @locked
    def _flows_on_locked(self, job: Job, flow: Flow, outcome: Outcome) -> bool:
        """Return True if *flow* says what becomes of *job*; False: *outcome* ends it now."""
        if not isinstance(outcome, Response):
            self._core.callbacks.add(flow.close)
            return False
        if job.is_accepted:
            return False
        job.is_answered = True
        if self._core.closed:
            self._core.callbacks.add(flow.close)
            self._settle_locked(job, failure(PoolClosed(), Delivery.ANSWER_STARTED, job.request))
            return True
        if job.extras.upload is not None:
            job.extras.upload.body.release()
        self._wait_locked(job)
        self._core.callbacks.add(partial(self._advance, job, flow, outcome))
        return True

    def _advance(self, job: Job, flow: Flow, response: Response) -> None:
        """Ask *flow* what comes behind *response*. Called without the lock, for it asks callers."""
        following: Response | Job | Exception
        try:
            if job.is_decided:  # a stale value costs a question that has no effect
                return
            following = flow.advance(response)
        except BaseException as exc:
            error = as_exception(exc, "what follows a response")
            following = failure(error, Delivery.ANSWER_STARTED, response.request)
        with self._core.transaction():
            if not self.end_wait_locked(job):
                return  # it was cancelled, or its deadline has passed
            if not isinstance(following, Job):
                self._settle_locked(job, following)
            elif self._core.closed:
                self.close_locked(job, Delivery.ANSWER_STARTED)
            elif job.timer is not None and job.timer.when <= monotonic():
                # It may have been too late to end the request that has responded meanwhile.
                late = ConnectionTimedOut("the deadline passed between two requests")
                self._settle_locked(job, failure(late, Delivery.ANSWER_STARTED, job.request))
            else:
                job.continue_with(following)
                self.enqueue_locked(following)
                self.servers.ensure_all_served_locked(following.host)
            self.reset_connect_backoff_locked(job.host)

    # --- may it be tried again? -------------------------------------------------------------------

    @locked
    def _refusal_locked(self, job: Job, attempt: Attempt, delay: float) -> str | None:
        """Return why *job* is not tried again after *attempt*, or None if it is."""
        refusal = _refusal_reason(job, attempt)
        return refusal or self._no_time_locked(job, delay) or self._no_budget_locked(job, attempt)

    @locked
    def _no_time_locked(self, job: Job, delay: float) -> str | None:
        if job.timer is None:
            return None
        next_attempt = monotonic() + delay
        if job.host.gate is not None:
            next_attempt = max(next_attempt, job.host.gate.opens_at())
        if job.timer.when <= next_attempt:
            return "the deadline would pass before the next attempt"
        return None

    @locked
    def _no_budget_locked(self, job: Job, attempt: Attempt) -> str | None:
        budget = job.retry.budget
        if budget is None or not attempt.charged or job.host.may_repeat(budget, monotonic()):
            return None
        return f"the retry budget of {job.host.name} is used up"

    def _emit_gave_up(self, job: Job, outcome: Outcome, connection: str, reason: str) -> None:
        # An exception of the caller's may be that of many requests, and says enough.
        if isinstance(outcome, DugongError) and not job.is_rewindable:
            outcome.add_note("the body of the request could not have been sent again")
        said = _describe(outcome)
        why = said if said == reason else f"{said}; {reason}"
        emit_of(self._core, "gave up", job, connection, why, outcome)

    # --- the caller's hook ------------------------------------------------------------------------

    @locked
    def _schedule_locked(self, job: Job, outcome: Outcome, attempt: Attempt, delay: float) -> None:
        """Have *job* tried again, unless the hook of its policy is against it."""
        # From now on, so that what ends the wait can tell of it, too.
        job.attempts += (attempt._replace(response=None, request=None),)
        if job.retry.should_retry is not None and attempt.charged:
            self._wait_locked(job)
            self._core.callbacks.add(partial(self._ask, job, outcome, attempt, delay))
        else:
            self._try_again_locked(job, attempt, delay)

    def _ask(self, job: Job, outcome: Outcome, attempt: Attempt, delay: float) -> None:
        """Ask the policy's hook. Called without the lock, as all code of a caller."""
        should_retry = job.retry.should_retry
        assert should_retry is not None
        if job.is_decided:  # a stale value costs a question that has no effect
            return
        against = None
        try:
            if not should_retry(attempt):
                against = "the policy's should_retry was against it"
        except BaseException as exc:
            against = f"should_retry has raised {exc!r}"
            outcome = _raised_by_hook(exc, attempt)
            if ends_program(exc):
                raise
        finally:
            with self._core.transaction():
                if self.end_wait_locked(job):
                    if against is not None:
                        job.attempts = job.attempts[:-1]  # this one is the outcome
                        self._emit_gave_up(job, outcome, attempt.connection, against)
                        self.complete_locked(job, outcome, final=True)
                        self.reset_connect_backoff_locked(job.host)
                    else:
                        self._try_again_locked(job, attempt, delay)

    # --- to be tried again ------------------------------------------------------------------------

    @locked
    def _try_again_locked(self, job: Job, attempt: Attempt, delay: float) -> None:
        """Have *job* queued in *delay* seconds."""
        if self._core.closed:
            self.close_locked(job)
            return
        job.host.repeated += attempt.charged and attempt.delivery is not Delivery.UNSENT
        outcome = attempt.exception or attempt.response
        emit_of(self._core, "resent", job, attempt.connection, attempt.outcome, outcome)
        if delay > 0 and attempt.charged:
            self._wait_locked(job, delay)
        else:
            self.requeue_locked([job])
            self.servers.ensure_all_served_locked(job.host)

    @locked
    def _wait_locked(self, job: Job, delay: float | None = None) -> None:
        """Keep *job* for *delay* seconds, or until `end_wait_locked`."""
        job.wait()
        job.host.waiting += 1
        resume = partial(self._resume_locked, job)
        timer = None
        if delay is not None:
            timer = self._maintenance.at_locked(monotonic() + delay, resume)
        self.waiting[job] = timer

    @locked
    def end_wait_locked(self, job: Job) -> bool:
        """Have *job* wait no more; return False if it did not, for it has been ended."""
        if job.place is not Place.WAITING or job not in self.waiting:
            return False
        self.forget_waiting_locked(job)
        return True

    @locked
    def forget_waiting_locked(self, job: Job) -> None:
        """*job*, which has waited to be tried again, is elsewhere now."""
        job.host.waiting -= 1
        timer = self.waiting.pop(job, None)
        if timer is not None:
            self._maintenance.cancel_locked(timer)

    @locked
    def _resume_locked(self, job: Job) -> None:
        if self.end_wait_locked(job):
            self.requeue_locked([job])
            self.servers.ensure_all_served_locked(job.host)

    @locked
    def requeue_locked(self, jobs: list[Job]) -> None:
        """Put *jobs*, which are all of one host, back at the head of its queue."""
        if jobs:
            host = jobs[0].host
            host.put_back(jobs)
            host.resent += len(jobs)
            self._core.queued += len(jobs)
            if host.connections and monotonic() < host.connect_backoff_until:
                # Or else the others would be closed to make room for a connection that is not
                # opened yet.
                host.let_any_connection_serve()

    # --- a host that cannot be reached -----------------------------------------------------------

    @locked
    def cannot_reach_locked(self, host: Host, connection: str, error: Exception) -> None:
        """No connection to *host* could be opened, because of *error*, and there is none.

        That is an attempt of every request in its queue. Those that may have another stay there,
        and the host is left alone for a while: as long as the most patient of them wants, for the
        impatience of others is not to cost that one its attempts. A request that has failed before,
        most likely because connections broke when the host went away, wants its next, longer wait.
        """
        host.connect_failures += 1
        jobs = host.pop_all()
        self._core.unqueue_locked(len(jobs))
        now = monotonic()
        delay = 0.0
        # There may be many thousands, to nearly all of which the same happens.
        alike: dict[tuple[int, int, bool], tuple[Attempt, str | None]] = {}
        for job in jobs:
            policy, kind = job.retry, (id(job.retry), job.number, job.is_rewindable)
            if kind not in alike:
                own = failure(error, Delivery.UNSENT)
                attempt = make_attempt(job, connection, describe(own), Delivery.UNSENT)
                attempt = attempt._replace(exception=own, request=None)
                refusal = retry_refusal_reason(policy, job.request, attempt, job.is_rewindable)
                alike[kind] = attempt, refusal
                if refusal is None:
                    number = max(host.connect_failures, attempt.number)
                    delay = max(delay, policy.outage_delay(number))
        stay: list[Job] = []
        asking: list[Callable[[], None]] = []
        for job in jobs:
            attempt, refusal = alike[id(job.retry), job.number, job.is_rewindable]
            refusal = refusal or self._no_time_locked(job, delay)
            if refusal is not None:
                own = failure(error, Delivery.UNSENT, job.request)
                self.give_up_locked(job, own, connection, refusal)
                continue
            job.attempts += (attempt,)
            if job.retry.should_retry is not None:
                self._wait_locked(job)
                own = failure(error, Delivery.UNSENT, job.request)
                asked = attempt._replace(request=job.request)
                asking.append(partial(self._ask, job, own, asked, 0.0))
            else:
                emit_of(self._core, "resent", job, connection, attempt.outcome, attempt.exception)
                stay.append(job)
        host.put_back(stay)
        self._core.queued += len(stay)
        # The last first, for a request that may be tried again is put at the head of the queue.
        for question in reversed(asking):
            self._core.callbacks.add(question)
        host.connect_backoff_until = now + delay
        self.reset_connect_backoff_locked(host)

    @locked
    def reset_connect_backoff_locked(self, host: Host) -> None:
        """Have the next request try at once to reach *host*, if all that have tried are gone."""
        if host.connect_failures and not (host.queued or host.waiting):
            host.connect_failures = 0
            host.connect_backoff_until = 0.0

    @locked
    def fail_some_waiting_locked(self, most: int) -> bool:
        """Fail up to *most* of the requests that wait to be tried again, for the pool is closed.

        Return False if there are none left.
        """
        for job in list(itertools.islice(self.waiting, most)):
            self.close_locked(job)  # first: an interrupt in between must not lose the future
            self.forget_waiting_locked(job)
        return bool(self.waiting)

    @locked
    def repair_locked(self) -> None:
        """Mend what an interrupt between two steps has left."""
        for job in list(self.waiting):
            if job.place is not Place.WAITING:
                del self.waiting[job]
        for host in self._core.hosts.values():
            host.waiting = sum(job.host is host for job in self.waiting)


def make_attempt(
    job: Job, connection: str, outcome: str, delivery: Delivery, charged: bool = True
) -> Attempt:
    """Return the attempt that has just failed of *job*."""
    request, number = job.request, job.number
    return Attempt(time.time(), connection, outcome, delivery, number, charged, request=request)


def _raised_by_hook(exc: BaseException, attempt: Attempt) -> Exception:
    """Return what a request fails with because a should_retry has raised *exc*."""
    frames = exc.__traceback__
    if frames is not None:
        exc.__traceback__ = frames.tb_next  # for ours refer to the pool
    error = as_exception(exc, "should_retry")
    outcome = failure(error, attempt.delivery or Delivery.SENT, attempt.request)
    outcome.__context__ = attempt.exception
    return outcome


def _refusal_reason(job: Job, attempt: Attempt) -> str | None:
    """Return why *attempt* of *job* must not be followed by another one, or None."""
    if isinstance(attempt.exception, PoolClosed):
        return PoolClosed.msg
    return retry_refusal_reason(job.retry, job.request, attempt, job.is_rewindable)


def _describe(outcome: Outcome) -> str:
    if isinstance(outcome, (Response, StreamedResponse)):
        return status_text(outcome)
    return "cancelled" if outcome is None else describe(outcome)
