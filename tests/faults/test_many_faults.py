"""Thousands of requests with faults at random: nothing is lost, doubled or swapped.

The right response follows from the request, so that a swapped response is noticed.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dugong import DugongError, Request, Response
from dugong.pool.core import pipelining
from tests.faults.faults import Kind, RandomFaults
from tests.faults.server import FORMS
from tests.faults.site import Contexts, Site, is_right, open_site

RATE = 0.03
TIMEOUT = 0.5  # seconds; all else is as it is by default
HANG = 40.0  # seconds
THREADS = 8


def test_6000_gets_come_back_right(tls_contexts: Contexts) -> None:
    with (
        open_site(RandomFaults(1, RATE, tls=False), timeout=TIMEOUT) as plain,
        open_site(RandomFaults(2, RATE, tls=True), tls_contexts, timeout=TIMEOUT) as tls,
    ):
        futures = [
            site.pool.submit(site.request(number, form=FORMS[number % len(FORMS)]))
            for number in range(3000)
            for site in (plain, tls)
        ]
        responses = [future.result(HANG) for future in futures]
        assert all(is_right(response) for response in responses)
        assert all(plain.processed(response.request) for response in responses[::2])
        assert all(tls.processed(response.request) for response in responses[1::2])
        assert len(plain.proxy.struck) + len(tls.proxy.struck) > 6000 * RATE
        assert {struck.fault.kind for struck in tls.proxy.struck} == set(Kind)


def test_of_a_mixture_nothing_is_doubled(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or else there would be no pipelines any more after the first few faults.
    monkeypatch.setattr(pipelining, "PENALTY", 0.02)
    plan = RandomFaults(3, RATE, tls=contexts is not None)
    with open_site(plan, contexts, timeout=TIMEOUT) as site:
        with ThreadPoolExecutor(THREADS) as executor:
            ends = [executor.submit(ask_for_all_kinds, site, i) for i in range(THREADS)]
        failed = sum(end.result() for end in ends)
        assert 0 < failed < len(site.proxy.struck)
        garbled = [
            struck.fault.hits_request and struck.fault.kind is Kind.GARBLE
            for struck in site.proxy.struck
        ]
        assert len(site.book.damaged) <= sum(garbled)


def ask_for_all_kinds(site: Site, number: int) -> int:
    """Make requests of all kinds and check the outcomes; return how many had no response."""
    dice = random.Random(number)
    failed = 0
    for batch in range(20):
        names = (f"{number}-{batch}-{i}" for i in range(dice.choice((1, 5, 30))))
        futures = [site.pool.submit(some_request(site, name, dice)) for name in names]
        outcomes = [
            (future.request, lambda future=future: future.result(HANG)) for future in futures
        ]
        direct = some_request(site, f"{number}-{batch}", dice)
        outcomes.append((direct, lambda direct=direct: site.pool.request(direct)))
        failed += sum(not check(site, request, outcome) for request, outcome in outcomes)
    return failed


def some_request(site: Site, name: str, dice: random.Random) -> Request:
    """Return a request of a random kind."""
    form = dice.choice(FORMS)
    method = dice.choice(("GET", "GET", "PUT", "POST"))
    if method == "GET":
        return site.request(name, method, form)
    if dice.random() < 0.2:
        return site.request(name, method, form, dice.randbytes(100_000), upload=io.BytesIO)
    return site.request(name, method, form, dice.randbytes(100))


def check(site: Site, request: Request, outcome: Callable[[], Response]) -> bool:
    """Return True if *request* has a response; only a POST may fail, as it is not sent again.

    *outcome* returns the response or raises.
    """
    try:
        response = outcome()
    except (DugongError, OSError):
        assert request.method == "POST"
        assert site.processed(request) <= 1
        return False
    assert is_right(response)
    times = site.processed(request)
    assert times == 1 if request.method == "POST" else times >= 1
    return True
