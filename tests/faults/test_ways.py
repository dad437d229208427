"""Every fault again, in each way to send and to receive that is not a matter of one piece.

A request has the fault on a connection that has been used, and is tried again; or it cannot be,
and then its caller is told. Those stalls that need no more than time are waited for together.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pytest

from dugong import DugongError, Request, Response, RetryPolicy
from tests.faults.faults import Fault, Kind, OneFault, Phase, Where, faults
from tests.faults.server import FORMS
from tests.faults.site import Contexts, Site, is_right, open_site

#: The default policy, but for its waits.
QUICK = RetryPolicy(backoff=0.001)

HIT = "hit"  # the request that is to have the fault
UPLOAD = bytes(range(256)) * 500  # more than goes in one piece with a head
PATIENCE = 8.0  # seconds; what takes longer hangs
STALL = 1.5  # seconds, if that is what has to be found out
NEVER_AGAIN = "the body of the request could not have been sent again"


def in_pieces(body: bytes) -> list[bytes]:
    """Return *body* as an iterable that can be read again."""
    return [body[i : i + 10_000] for i in range(0, len(body), 10_000)]


def once_only(body: bytes) -> Iterator[bytes]:
    """Return *body* as an iterable that cannot."""
    return iter(in_pieces(body))


def afresh(body: bytes) -> Callable[[], Iterable[bytes]]:
    """Return a callable that makes *body*."""
    return lambda: once_only(body)


def file_afresh(body: bytes) -> Callable[[], io.BytesIO]:
    """Return a callable that opens a file of *body*."""
    return lambda: io.BytesIO(body)


_OF_UPLOADS = (Phase.REQUEST_HEAD, Phase.CONTINUE, Phase.REQUEST_BODY)
_BEHIND_HEAD = (Phase.BODY, Phase.CHUNK_SIZE, Phase.TRAILER)
_OF_RESPONSES = (Phase.STATUS_LINE, Phase.HEADER, *_BEHIND_HEAD, Phase.BETWEEN)


class Way(NamedTuple):
    """How a request is made, and what its response looks like.

    *options* are those of `make_request`. A request with `again` False is not sent again once its
    body has been read from.
    """

    name: str
    method: str = "GET"
    form: str = FORMS[0]
    body: bytes | None = None
    options: dict[str, Any] = {}  # noqa: RUF012  # it is never changed
    again: bool = True
    streamed: bool = False
    as_proxy: bool = False

    def can_have(self, fault: Fault, tls: bool) -> bool:
        """Return whether *fault* has an effect that a client can notice."""
        phase = fault.phase
        if fault.hits_connection:
            return self.as_proxy  # which is where there are others
        if fault.needs_body and self.body is None:
            return False
        if phase is Phase.CONTINUE:
            return "expect100" in self.options
        if phase not in (_OF_RESPONSES if self.body is None else _OF_UPLOADS):
            return False  # that is no matter of the way
        if fault.needs_chunks:
            return self.form == "chunks" and self.method != "HEAD"
        if self.method == "HEAD" and phase is Phase.BODY:
            return False
        if self.form == "close":
            return self._can_have_until_close(fault, tls)
        return True

    def _can_have_until_close(self, fault: Fault, tls: bool) -> bool:
        if fault.phase is Phase.BODY:
            # What is cut there looks whole, unless it is torn off.
            return fault.kind is not Kind.CLOSE and (tls or fault.kind is not Kind.CUT)
        return fault.phase is not Phase.BETWEEN

    def spares(self, fault: Fault) -> bool:
        """Return whether the request gets through with *fault*, and so its response."""
        behind_request = (Kind.GARBLE, Phase.REQUEST_BODY, Where.AFTER)
        return fault.phase is Phase.BETWEEN or fault[:3] == behind_request

    def request(self, site: Site) -> Request:
        """Return the request that is to have the fault."""
        return site.request(HIT, self.method, self.form, self.body, **self.options)

    def do(self, site: Site, request: Request) -> Response | Exception:
        """Make *request*; return the response with its whole body, or the exception."""
        try:
            if not self.streamed:
                return site.pool.request(request)
            with site.pool.stream(request) as response:
                body = response.read()
        except (DugongError, OSError) as exc:
            return exc
        status, reason, headers = response.status, response.reason, response.headers
        return Response(status, reason, headers, body, request, response.attempts)


CHUNKED = {"in_chunks": True}

WAYS = [
    Way("HEAD", "HEAD"),
    Way("HEAD of chunks", "HEAD", form="chunks"),
    Way("until close", form="close"),
    Way("streamed", streamed=True),
    Way("streamed chunks", form="chunks", streamed=True),
    Way("streamed until close", form="close", streamed=True),
    Way("in pieces", "PUT", body=UPLOAD, options={"upload": in_pieces, **CHUNKED}),
    Way("once only", "PUT", body=UPLOAD, options={"upload": once_only, **CHUNKED}, again=False),
    Way("afresh", "PUT", body=UPLOAD, options={"upload": afresh, **CHUNKED}),
    Way("file afresh", "PUT", body=UPLOAD, options={"upload": file_afresh}),
    Way("expect100", "PUT", body=UPLOAD, options={"upload": io.BytesIO, "expect100": True}),
    Way(
        "expect100, afresh",
        "PUT",
        body=UPLOAD,
        options={"upload": afresh, "expect100": True, **CHUNKED},
    ),
    Way(
        "expect100, once only",
        "PUT",
        body=UPLOAD,
        options={"upload": once_only, "expect100": True, **CHUNKED},
        again=False,
    ),
    Way("by a proxy", as_proxy=True),
    Way("POST by a proxy", "POST", body=b"body", options={"idempotent": True}, as_proxy=True),
    Way("upload by a proxy", "PUT", body=UPLOAD, options={"upload": io.BytesIO}, as_proxy=True),
]


class Case(NamedTuple):
    """A request that has a fault, in plain or with TLS."""

    way: Way
    fault: Fault
    tls: bool

    def __str__(self) -> str:
        return f"{self.way.name}, {'tls' if self.tls else 'plain'}: {self.fault}"

    def open(self, contexts: Contexts) -> AbstractContextManager[Site]:
        """Open a site where the fault will happen, once."""
        return open_site(
            OneFault(self.fault, f"/{HIT}/{self.way.form}"),
            contexts if self.tls else None,
            self.way.as_proxy,
            retry=QUICK,
            timeout=STALL if self.fault.kind is Kind.STALL else PATIENCE,
        )


def survives(case: Case, contexts: Contexts) -> None:
    """The request gets the right response or the right exception, and the others go on."""
    way, fault = case.way, case.fault
    with case.open(contexts) as site:
        if not fault.hits_connection:
            assert site.goes_on()
        request = way.request(site)
        outcome = way.do(site, request)
        if isinstance(outcome, Response):
            assert is_right(outcome)
            assert site.processed(request) >= 1
            if not fault.hits_connection:
                assert len(outcome.attempts) == (not way.spares(fault))
        else:
            handed_over = way.streamed and fault.phase in _BEHIND_HEAD
            assert handed_over or (not way.again and NEVER_AGAIN in outcome.__notes__)
            assert site.processed(request) <= 1
        assert site.goes_on()
        assert [struck.fault for struck in site.proxy.struck] == [fault]


CASES = [
    Case(way, fault, tls)
    for way in WAYS
    for tls in (False, True)
    for fault in faults(tls, special=True)
    if way.can_have(fault, tls)
]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.fault.kind is not Kind.STALL], ids=str
)
def test_it_survives_in_each_way(case: Case, tls_contexts: Contexts) -> None:
    survives(case, tls_contexts)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_so_it_does_when_nothing_more_comes(tls: bool, tls_contexts: Contexts) -> None:
    stalls = [case for case in CASES if case.fault.kind is Kind.STALL and case.tls == tls]
    with ThreadPoolExecutor(len(stalls)) as executor:
        ends = [executor.submit(survives, case, tls_contexts) for case in stalls]
    errors = [(str(case), end.exception()) for case, end in zip(stalls, ends, strict=True)]
    assert [error for error in errors if error[1] is not None] == []
