"""What becomes of requests that have failed: they end, or wait and are tried again.

Guarantees: a request that waits holds no connection, no thread and no place in a queue, and is not
forgotten: it is woken by a timer, or ended by its deadline, by `cancel` or by `close`. Nothing of a
caller's is called while the lock is held.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from time import monotonic

from dugong.errors import Delivery, PoolClosed
from dugong.pool.failure import ends_program, failure, in_words
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.pipeline import Pipeline
from dugong.pool.response import Attempt, Response, status_text
from dugong.pool.retry.policy import DISCLAIMING, retry_refusal_reason
from dugong.pool.shared import Shared

__all__ = ["Resending"]

#: Answers whose Retry-After concerns all requests to the host.
_HOLDING = frozenset((429, 503))


class Resending(Shared, ABC):
    """The part of a `dugong.pool.scheduler.Scheduler` that has requests tried again, or ends them.

    Methods whose name begins with an underscore are called under the lock, but for those of which
    it says otherwise.
    """

    @abstractmethod
    def _serve_all(self, host: Host) -> None:
        """See to it that requests which are queued are taken, however many there are."""

    @abstractmethod
    def _wake_sender(self, pipeline: Pipeline) -> None:
        """Have the sender of *pipeline* look for work, if it waits for some."""

    # --- a request has failed ---------------------------------------------------------------------

    def _is_outcome(self, job: Job, response: Response, connection: str) -> bool:
        """Return whether *response* is what *job* ends with; if not, it has been seen to.

        The first request that is told to wait holds all others to that host back. Those that were
        under way beside it hear the same, and are not charged: a host that takes so many requests a
        second tells all others to wait, again and again. But one that takes none is asked by nobody
        more often than the policy says.
        """
        policy, host = job.retry, job.host
        status = response.status
        if not self.may_not_be_outcome(job, status):
            return True
        if self.closed or job.error is not None:
            reason = f"{status_text(response)}; it cannot be tried again"
            self._tell("gave up", host, connection, job.request, reason)
            return True
        charged, delay = True, policy.delay(job.number)
        wanted = policy.wanted_delay(response.headers)
        if wanted is not None and status in _HOLDING:
            charged = not (host.held and host.progresses)
            if wanted > 0:
                self._hold(host, wanted, f"{status} with Retry-After {wanted:g}")
        delivery = Delivery.DISCLAIMED if status in DISCLAIMING else Delivery.ANSWER_STARTED
        attempt = self._attempt(job, connection, status_text(response), delivery, charged)
        attempt = attempt._replace(status=status, response=response)
        job.pipeline = None
        job.suspect = False
        self._consider(job, response, attempt, max(delay, wanted or 0.0))
        return False

    def may_not_be_outcome(self, job: Job, status: int) -> bool:
        """Return whether *job* may be tried again after an answer with *status*. Needs no lock."""
        policy = job.retry
        return policy.attempts > 1 and status in policy.statuses

    def _attempt(
        self, job: Job, connection: str, outcome: str, delivery: Delivery, charged: bool = True
    ) -> Attempt:
        request, number = job.request, job.number
        return Attempt(time.time(), connection, outcome, delivery, number, charged, request=request)

    def _consider(
        self, job: Job, outcome: Response | Exception, attempt: Attempt, delay: float
    ) -> None:
        """End *job*, which nothing has now, with *outcome*, or try it again in *delay* seconds."""
        if self.closed:
            against: str | None = "the pool has been closed"
        else:
            against = retry_refusal_reason(job.retry, job.request, attempt, job.rewindable)
        if against is None:
            against = self._no_time(job, delay) or self._no_budget(job, attempt)
        if against is not None:
            self._give_up(job, outcome, attempt.connection, against)
            return
        # From now on, so that whatever ends the wait can tell of it, too.
        job.attempts += (attempt._replace(response=None, request=None),)
        if job.retry.should_retry is not None and attempt.charged:
            self._wait(job)
            self._deferred.append(partial(self._ask, job, outcome, attempt, delay))
        else:
            self._try_again(job, attempt, delay)

    def _no_time(self, job: Job, delay: float) -> str | None:
        if job.timer is None:
            return None
        next_attempt = monotonic() + delay
        if job.host.held:
            next_attempt = max(next_attempt, job.host.held_until)
        if job.timer.when <= next_attempt:
            return "the deadline would pass before the next attempt"
        return None

    def _no_budget(self, job: Job, attempt: Attempt) -> str | None:
        budget = job.retry.budget
        if budget is None or not attempt.charged or job.host.may_repeat(budget, monotonic()):
            return None
        return f"the retry budget of {job.host.name} is used up"

    def _ask(self, job: Job, outcome: Response | Exception, attempt: Attempt, delay: float) -> None:
        """Ask the policy's hook. Called without the lock, by `_do_deferred`, which goes on then."""
        should_retry = job.retry.should_retry
        assert should_retry is not None
        if job.done:  # it has been ended since
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
            with self.lock:
                if self._end_wait(job):
                    if against is not None:
                        job.attempts = job.attempts[:-1]  # this one is the outcome
                        self._give_up(job, outcome, attempt.connection, against)
                        self._forgive(job.host)
                    else:
                        self._try_again(job, attempt, delay)

    def _ask_all(self, questions: list[Callable[[], None]]) -> None:
        """Ask each of *questions*, one after the other, though several threads may do that.

        The last first, for whoever may be tried again is put at the head of the queue. Called
        without the lock.
        """
        try:
            questions.pop()()
        finally:
            if questions:
                self._deferred.append(partial(self._ask_all, questions))

    def _give_up(
        self, job: Job, outcome: Response | Exception, connection: str, reason: str
    ) -> None:
        if isinstance(outcome, Exception) and not job.rewindable:
            outcome.add_note("the body of the request could not have been sent again")
        said = _said(outcome)
        why = said if said == reason else f"{said}; {reason}"
        self._tell("gave up", job.host, connection, job.request, why)
        self._finish(job, outcome)

    # --- to be tried again ------------------------------------------------------------------------

    def _try_again(self, job: Job, attempt: Attempt, delay: float) -> None:
        """Have *job* queued in *delay* seconds."""
        job.host.repeated += attempt.charged and attempt.delivery is not Delivery.UNSENT
        self._tell("resent", job.host, attempt.connection, job.request, attempt.outcome)
        if delay > 0 and attempt.charged:
            self._wait(job, delay)
        else:
            self._queue_again([job])
            self._serve_all(job.host)

    def _wait(self, job: Job, delay: float | None = None) -> None:
        """Keep *job*, which is not to do anything, for *delay* seconds, or until `_end_wait`."""
        job.pipeline = None
        job.host.waiting += 1
        timer = None if delay is None else self._at(monotonic() + delay, partial(self._resume, job))
        self.waiting[job] = timer

    def _end_wait(self, job: Job) -> bool:
        """Have *job* wait no more; return False if it did not, for it has been ended."""
        if job not in self.waiting:
            return False
        job.host.waiting -= 1
        timer = self.waiting.pop(job)
        if timer is not None:
            self._timers.cancel(timer)
        return True

    def _resume(self, job: Job) -> None:
        self._end_wait(job)
        self._queue_again([job])
        self._serve_all(job.host)

    def _queue_again(self, jobs: list[Job]) -> None:
        """Put *jobs*, which are all of one host, back at the head of its queue."""
        for job in jobs:
            job.pipeline = None
            job.queued = True  # which one whose caller made it by himself was not yet
        if jobs:
            host = jobs[0].host
            host.put_back(jobs)
            host.resent += len(jobs)
            self.queued += len(jobs)
            if host.pipelines and monotonic() < host.unopenable_until:
                host.trust_suspects()  # or else the others would be closed to make room for none

    # --- a host that is to be left alone ----------------------------------------------------------

    def _hold(self, host: Host, seconds: float, reason: str) -> None:
        """Send nothing more to *host* for so many *seconds*."""
        host.held_until = max(host.held_until, monotonic() + seconds)
        if not host.held:
            host.held = True
            host.progresses = host.accepted > host.accepted_before
            host.accepted_before = host.accepted
            self._tell("learned", host, reason=reason)
            self._at(host.held_until, partial(self._end_hold, host))

    def _end_hold(self, host: Host) -> None:
        if monotonic() < host.held_until:
            self._at(host.held_until, partial(self._end_hold, host))
            return
        host.held = False
        for pipeline in host.pipelines:
            if pipeline.reserved is not None:  # or else `_serve_all` sees to it
                self._wake_sender(pipeline)
        self._serve_all(host)

    def _cannot_reach(self, host: Host, connection: str, error: Exception) -> None:
        """No connection to *host* could be opened, because of *error*, and there is none.

        That is an attempt of every request in its queue. Those that may have another stay there,
        and the host is left alone for a while: as long as the most patient of them wants, for the
        impatience of others is not to cost that one its attempts. One that has failed before, most
        likely because connections broke when the host went away, wants its next, longer wait.
        """
        host.unreachable += 1
        jobs = host.pop_all()
        self._unqueue(len(jobs))
        now = monotonic()
        delay = 0.0
        # There may be many thousands, to nearly all of which the same happens.
        alike: dict[tuple[int, int, bool], tuple[Attempt, str | None]] = {}
        for job in jobs:
            policy, kind = job.retry, (id(job.retry), job.number, job.rewindable)
            if kind not in alike:
                own = failure(error, Delivery.UNSENT)
                attempt = self._attempt(job, connection, in_words(own), Delivery.UNSENT)
                attempt = attempt._replace(exception=own, request=None)
                against = retry_refusal_reason(policy, job.request, attempt, job.rewindable)
                alike[kind] = attempt, against
                if against is None:
                    number = max(host.unreachable, attempt.number)
                    delay = max(delay, policy.outage_delay(number))
        stay: list[Job] = []
        asking: list[Callable[[], None]] = []
        for job in jobs:
            attempt, against = alike[id(job.retry), job.number, job.rewindable]
            against = against or self._no_time(job, delay)
            if against is not None:
                self._give_up(job, failure(error, Delivery.UNSENT), connection, against)
                continue
            job.attempts += (attempt,)
            if job.retry.should_retry is not None:
                self._wait(job)
                own = failure(error, Delivery.UNSENT)
                asked = attempt._replace(request=job.request)
                asking.append(partial(self._ask, job, own, asked, 0.0))
            else:
                self._tell("resent", host, connection, job.request, attempt.outcome)
                stay.append(job)
        host.put_back(stay)
        self.queued += len(stay)
        if asking:
            self._deferred.append(partial(self._ask_all, asking))
        host.unopenable_until = now + delay
        self._forgive(host)

    def _forgive(self, host: Host) -> None:
        """Have the next request try at once to reach *host*, if all that have tried are gone."""
        if host.unreachable and not (host.queued or host.waiting):
            host.unreachable = 0
            host.unopenable_until = 0.0

    def _end_all_waits(self) -> None:
        """Fail whatever waits, for the pool is being closed."""
        for job in list(self.waiting):
            self._end_wait(job)
            self._end_closed(job)

    def _end_closed(self, job: Job, delivery: Delivery = Delivery.UNSENT) -> None:
        """Fail *job*, for the pool is being closed."""
        error = failure(PoolClosed(), delivery)
        self._tell("gave up", job.host, request=job.request, reason=str(error))
        self._finish(job, error)


def _raised_by_hook(exc: BaseException, attempt: Attempt) -> Exception:
    """Return what a request fails with because a should_retry has raised *exc*."""
    frames = exc.__traceback__
    if frames is not None:
        exc.__traceback__ = frames.tb_next  # for ours refer to the pool
    if not isinstance(exc, Exception):
        error = RuntimeError(f"should_retry has raised {exc!r}")
        error.__cause__ = exc
        exc = error
    outcome = failure(exc, attempt.delivery or Delivery.SENT)
    outcome.__context__ = attempt.exception
    return outcome


def _said(outcome: Response | Exception) -> str:
    return status_text(outcome) if isinstance(outcome, Response) else in_words(outcome)
