"""Whether the proof would notice: that faults do harm, and that harm is seen."""

from __future__ import annotations

import socket

import pytest

from dugong import DugongError, Request, Response, RetryPolicy
from tests.faults.faults import Fault, Kind, OneFault, Phase, RandomFaults, Where, faults
from tests.faults.server import Server, content, digest
from tests.faults.site import Contexts, is_right, make_request, open_site

BASE = "http://127.0.0.1"


@pytest.mark.parametrize(
    "fault",
    [
        fault
        for fault in faults(tls=True)
        if not fault.hits_connection
        and fault.kind is not Kind.STALL
        and fault.phase not in (Phase.REQUEST_BODY, Phase.BETWEEN)
        and fault != Fault(Kind.GARBLE, Phase.REQUEST_HEAD, Where.AFTER)  # it is the next one's
    ],
    ids=str,
)
def test_who_has_one_attempt_fails(fault: Fault, tls_contexts: Contexts) -> None:
    form = "chunks" if fault.needs_chunks else "length"
    with open_site(OneFault(fault, f"/hit/{form}"), tls_contexts, retry=None) as site:
        with pytest.raises((DugongError, OSError)):
            site.pool.request(site.request("hit", form=form))
        assert site.goes_on()


def test_what_is_processed_twice_is_counted_twice() -> None:
    fault = Fault(Kind.RESET, Phase.STATUS_LINE, Where.BEFORE)
    with open_site(OneFault(fault, "/hit/length"), retry=RetryPolicy(backoff=0.001)) as site:
        request = site.request("hit")
        assert is_right(site.pool.request(request))
        assert site.processed(request) == 2


def test_the_response_to_another_request_is_not_right() -> None:
    request = make_request(BASE, "mine")
    none = digest(b"")
    assert is_right(response_to(request, content("GET", "/mine/length", none)))
    assert not is_right(response_to(request, content("GET", "/yours/length", none)))
    assert not is_right(response_to(request, content("PUT", "/mine/length", none)))
    assert not is_right(response_to(request, content("GET", "/mine/length", digest(b"body"))))
    assert not is_right(response_to(request, content("GET", "/mine/length", none)[:-1]))


def response_to(request: Request, body: bytes) -> Response:
    return Response(200, "OK", [], body, request)


@pytest.mark.parametrize(
    "damaged",
    [
        b"GET /a\0/length HTTP/1.1\r\n\r\n",
        b"\0GET /a/length HTTP/1.1\r\n\r\n",
        b"PUT /a/length HTTP/1.1\r\nContent-Length: 4\r\nDigest: 0123456789abcdef\r\n\r\nbody",
    ],
)
def test_what_is_damaged_is_not_processed(damaged: bytes) -> None:
    with Server() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(damaged)
            assert sock.recv(1) == b""
        assert len(server.book.damaged) == 1
        assert server.book.processed("/a/length") == 0


def test_the_same_seed_has_the_same_faults() -> None:
    def thrown(seed: int) -> list[Fault | None]:
        plan = RandomFaults(seed, 0.5, tls=True)
        connections = [plan.for_connection(number) for number in range(50)]
        targets = [f"/{number}/length" for number in range(50)]
        return connections + [plan.for_request(target, has_body=False) for target in targets]

    assert thrown(1) == thrown(1) != thrown(2)
