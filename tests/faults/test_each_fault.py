"""Every fault alone: it costs one request an attempt, and no other request anything.

Each request is in one of three situations: alone, in a pipeline, and not idempotent. Those stalls
that need no more than time are waited for together.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple

import pytest

from dugong import Delivery, DugongError, RetryPolicy
from tests.faults.faults import Fault, Kind, OneFault, Phase, Where, faults
from tests.faults.site import Contexts, Site, is_right, open_site

#: The default policy, but for its waits.
QUICK = RetryPolicy(backoff=0.001)

HIT = "hit"  # the request that is to have the fault
AHEAD, BEHIND = 3, 4  # how many are in flight with it
UPLOAD = bytes(range(256)) * 500  # more than goes in one piece with a head
HUGE_UPLOAD = bytes(range(256)) * 16_000  # more than vanishes in the buffers of the system
PATIENCE = 8.0  # seconds; what takes longer hangs
STALL = 1.5  # seconds, if that is what has to be found out
MAYBE_PROCESSED = (Delivery.PARTLY_SENT, Delivery.SENT, Delivery.ANSWER_STARTED)


class Case(NamedTuple):
    """A fault, in plain or with TLS."""

    fault: Fault
    tls: bool

    def __str__(self) -> str:
        return f"{'tls' if self.tls else 'plain'}: {self.fault}"

    @property
    def form(self) -> str:
        """The form of a response that can have the fault."""
        return "chunks" if self.fault.needs_chunks else "length"

    def spares(self, has_body: bool) -> bool:
        """Return whether a request, which maybe has a body, gets through, and so its response."""
        fault = self.fault
        end = Phase.REQUEST_BODY if has_body else Phase.REQUEST_HEAD
        behind_request = fault.kind is Kind.GARBLE and fault[1:3] == (end, Where.AFTER)
        return fault.phase is Phase.BETWEEN or behind_request

    def open(self, contexts: Contexts, connections: int) -> AbstractContextManager[Site]:
        """Open a site where the fault will happen, once."""
        return open_site(
            OneFault(self.fault, f"/{HIT}/{self.form}"),
            contexts if self.tls else None,
            retry=QUICK,
            timeout=STALL if self.fault.kind is Kind.STALL else PATIENCE,
            max_connections_per_host=connections,
        )


def has_happened(site: Site, case: Case) -> bool:
    """Return True if the fault has, and the pool goes on."""
    return site.goes_on() and [struck.fault for struck in site.proxy.struck] == [case.fault]


# --- the three situations -------------------------------------------------------------------------


def alone(case: Case, contexts: Contexts) -> None:
    """One request, on a connection that has been used if it is not that which has the fault."""
    has_body = case.fault.needs_body
    with case.open(contexts, connections=6) as site:
        if not case.fault.hits_connection:
            assert site.goes_on()
        method, body = ("PUT", UPLOAD) if has_body else ("GET", None)
        request = site.request(HIT, method, case.form, body)
        response = site.pool.request(request)
        assert is_right(response)
        assert site.processed(request) >= 1
        if not case.fault.hits_connection:
            assert len(response.attempts) == (not case.spares(has_body))
        assert has_happened(site, case)


def in_a_pipeline(case: Case, contexts: Contexts) -> None:
    """One request of many on one connection, all of which have been sent."""
    has_body = case.fault.needs_body
    with case.open(contexts, connections=1) as site:
        if not case.fault.hits_connection:
            for _ in range(AHEAD + 1 + BEHIND):  # each of which has one more be allowed in flight
                assert site.goes_on()
            site.proxy.gather(AHEAD + 1 + BEHIND)
        method, body = ("PUT", b"body") if has_body else ("GET", None)
        requests = [site.request(f"ahead{i}") for i in range(AHEAD)]
        requests.append(site.request(HIT, method, case.form, body))
        requests += [site.request(f"behind{i}") for i in range(BEHIND)]
        futures = [site.pool.submit(request) for request in requests]
        responses = [future.result(PATIENCE) for future in futures]
        assert all(is_right(response) for response in responses)
        assert all(site.processed(request) >= 1 for request in requests)
        if not case.fault.hits_connection:
            charged = [
                index
                for index, response in enumerate(responses)
                for attempt in response.attempts
                if attempt.charged
            ]
            assert charged == [AHEAD + case.spares(has_body)]
        assert has_happened(site, case)


def not_idempotent(case: Case, contexts: Contexts) -> None:
    """A POST, with others before and behind it."""
    with case.open(contexts, connections=1) as site:
        post = site.request(HIT, "POST", case.form, b"body")
        others = []
        if not case.fault.hits_connection:
            others = [site.pool.submit(site.request(f"ahead{i}")) for i in range(AHEAD)]
        future = site.pool.submit(post)
        others += [site.pool.submit(site.request(f"behind{i}")) for i in range(BEHIND)]
        error = future.exception(PATIENCE)
        assert all(is_right(other.result(PATIENCE)) for other in others)
        if error is None:
            assert is_right(future.result())
            assert site.processed(post) == 1
        else:
            assert isinstance(error, (DugongError, OSError))
            assert getattr(error, "delivery", None) in MAYBE_PROCESSED
            assert site.processed(post) <= 1
        if not sent_by_chance(case):
            succeeds = case.fault.hits_connection or case.spares(has_body=True)
            assert (error is None) == succeeds
        assert has_happened(site, case)


def sent_by_chance(case: Case) -> bool:
    """Return True if the connection is open for a moment, in which the request may be sent."""
    if case.tls:
        return case.fault[1:3] == (Phase.HANDSHAKE, Where.AFTER)
    return case.fault.phase is Phase.CONNECT


# --- the tests ------------------------------------------------------------------------------------

CASES = [Case(fault, tls) for tls in (False, True) for fault in faults(tls)]
each_fault = pytest.mark.parametrize(
    "case", [case for case in CASES if case.fault.kind is not Kind.STALL], ids=str
)


@each_fault
def test_what_is_idempotent_survives(case: Case, tls_contexts: Contexts) -> None:
    alone(case, tls_contexts)


@each_fault
def test_a_pipeline_survives_and_only_one_request_is_charged(
    case: Case, tls_contexts: Contexts
) -> None:
    in_a_pipeline(case, tls_contexts)


@each_fault
def test_what_is_not_idempotent_is_done_at_most_once(case: Case, tls_contexts: Contexts) -> None:
    not_idempotent(case, tls_contexts)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("situation", [alone, in_a_pipeline, not_idempotent])
def test_so_it_is_when_nothing_more_comes(
    situation: Callable[[Case, Contexts], None], tls: bool, tls_contexts: Contexts
) -> None:
    stalls = [case for case in CASES if case.fault.kind is Kind.STALL and case.tls == tls]
    with ThreadPoolExecutor(len(stalls)) as executor:
        ends = [executor.submit(situation, case, tls_contexts) for case in stalls]
    errors = [(str(case), end.exception()) for case, end in zip(stalls, ends, strict=True)]
    assert [error for error in errors if error[1] is not None] == []


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.STALL], ids=lambda kind: kind.value)
def test_an_upload_is_sent_again_from_where_it_began(kind: Kind, contexts: Contexts) -> None:
    fault = Fault(kind, Phase.REQUEST_BODY, Where.INSIDE, share=0.01)
    file = io.BytesIO(b"not to be sent" + HUGE_UPLOAD)
    file.seek(-len(HUGE_UPLOAD), io.SEEK_END)
    with Case(fault, contexts is not None).open(contexts, connections=1) as site:
        upload = site.request(HIT, "PUT", body=HUGE_UPLOAD, upload=lambda data: file)
        response = site.pool.request(upload)
        assert is_right(response)  # which says the digest of what has come
        assert [attempt.delivery for attempt in response.attempts] == [Delivery.PARTLY_SENT]
        assert site.book.damaged == []
