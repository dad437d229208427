"""417 (Expectation Failed): the request is sent once more, without Expect (RFC 9110 §10.1.1)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dugong import Delivery, RetryPolicy
from tests.support.pool import OpenSite, discard_rest, each, name_target
from tests.support.server import Peer, ReceivedRequest

BODY = b"All of the body." * 10_000

#: What may be tried again is, without a wait.
AT_ONCE = RetryPolicy(backoff=0)

REFUSAL = "417 Expectation Failed"


class Refuses:
    """A server that expects nothing of itself: it refuses what has an Expect, with or without end.

    It responses everything else with its target. `requests` are those that have come.
    """

    def __init__(self, *, version: str = "HTTP/1.1", headers: str = "") -> None:
        self.requests: list[ReceivedRequest] = []
        self._refusal = f"{version} {REFUSAL}\r\nContent-Length: 2\r\n{headers}\r\nno".encode()

    def __call__(self, peer: Peer) -> None:
        while True:
            try:
                head = peer.head()
            except (EOFError, OSError):
                return
            if "expect" in head.headers:
                self.requests.append(head)
                peer.send(self._refusal)
                # Whether the client goes on here or with another connection is its affair.
                continue
            body = self._body(peer, head)
            self.requests.append(head._replace(body=body))
            name_target(peer, head)

    @staticmethod
    def _body(peer: Peer, head: ReceivedRequest) -> bytes:
        if "transfer-encoding" not in head.headers:
            return peer.exactly(int(head.headers.get("content-length", 0)))
        body = b""
        while size := int(peer._until(b"\r\n")[:-2], 16):
            body += peer.exactly(size)
            peer.exactly(2)
        peer.exactly(2)
        return body


def file_of(path: Path) -> Any:
    (path / "body").write_bytes(BODY)
    return (path / "body").open("rb")


def pieces() -> Iterator[bytes]:
    yield BODY[:1000]
    yield BODY[1000:]


BODIES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda _: BODY,
    "bytesio": lambda _: io.BytesIO(BODY),
    "file": file_of,
    "list": lambda _: [BODY[:1000], BODY[1000:]],
    "callable": lambda _: lambda: [BODY],
    # It has not been read from, so it is whole.
    "generator": lambda _: pieces(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_what_is_refused_for_its_expect_is_sent_without(
    site: OpenSite, tmp_path: Path, method: str, body: Callable[[Path], Any]
) -> None:
    script = Refuses()
    data = body(tmp_path)
    with site(script, repeat=True, retry=AT_ONCE) as here:
        response = here.pool.request(method, here.url("/up"), body=data, expect100=True)
        assert (response.status, response.body) == (200, b"/up")
        assert here.goes_on()
    first, second, _ = script.requests
    assert first.headers["expect"] == "100-continue"
    assert "expect" not in second.headers
    assert second.body == BODY
    assert second.method == method
    without = {name: value for name, value in first.headers.items() if name != "expect"}
    assert second.headers == without
    if hasattr(data, "close"):
        data.close()


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("HTTP/1.1", "Connection: close\r\n"),
        ("HTTP/1.0", ""),
        ("HTTP/1.1", "Retry-After: 3600\r\n"),
    ],
)
def test_any_server_may_refuse_an_expect(site: OpenSite, version: str, headers: str) -> None:
    script = Refuses(version=version, headers=headers)
    with site(script, repeat=True, retry=AT_ONCE) as here:
        response = here.pool.put(here.url("/up"), BODY, expect100=True)
        assert (response.status, response.body) == (200, b"/up")
        assert here.goes_on()
    assert [request.body for request in script.requests] == [b"", BODY, b""]


def test_a_stream_that_is_refused_for_its_expect_is_sent_without(site: OpenSite) -> None:
    script = Refuses()
    with site(script, repeat=True, retry=AT_ONCE) as here:
        with here.pool.stream("PUT", here.url("/up"), body=BODY, expect100=True) as response:
            assert (response.status, response.read()) == (200, b"/up")
        assert here.goes_on()


def test_the_refusal_is_an_attempt_that_the_server_has_disclaimed(site: OpenSite) -> None:
    with site(Refuses(), repeat=True, retry=AT_ONCE) as here:
        response = here.pool.post(here.url(), BODY, expect100=True)
        (attempt,) = response.attempts
        assert attempt.status == 417
        assert attempt.delivery is Delivery.DISCLAIMED


def test_the_hook_of_the_policy_is_asked(site: OpenSite) -> None:
    statuses = []

    def should_retry(attempt: Any) -> bool:
        statuses.append(attempt.status)
        return False

    script = Refuses()
    with site(script, repeat=True, retry=RetryPolicy(should_retry=should_retry)) as here:
        assert here.pool.put(here.url(), BODY, expect100=True).status == 417
        assert here.goes_on()
    assert statuses == [417]
    assert len(script.requests) == 2


def test_a_policy_of_one_attempt_makes_no_other(site: OpenSite) -> None:
    script = Refuses()
    with site(script, repeat=True, retry=None) as here:
        assert here.pool.put(here.url(), BODY, expect100=True).status == 417
        assert here.goes_on()
    assert len(script.requests) == 2


def test_there_is_no_wait_before_it_is_sent_without(site: OpenSite) -> None:
    """Nothing has failed that time would mend."""
    with site(Refuses(), repeat=True, retry=RetryPolicy(backoff=1000, max_backoff=1000)) as here:
        future = here.pool.submit("PUT", here.url(), body=BODY, expect100=True)
        assert future.result(5).status == 200


def test_it_is_sent_without_once_only(site: OpenSite) -> None:
    """A server that refuses what does not expect anything means something else."""
    count = 0

    def script(peer: Peer) -> None:
        nonlocal count
        while True:
            try:
                head = peer.head()
            except (EOFError, OSError):
                return
            if head.method != "PUT":
                name_target(peer, head)
                continue
            count += 1
            peer.respond(b"no", REFUSAL, "Connection: close\r\n")
            discard_rest(peer)
            return

    with site(script, repeat=True, retry=AT_ONCE) as here:
        assert here.pool.put(here.url(), BODY, expect100=True).status == 417
        assert here.goes_on()
    assert count == 2


@pytest.mark.parametrize("body", [b"", b"some", BODY])
def test_what_expects_nothing_is_not_sent_again(site: OpenSite, body: bytes) -> None:
    count = 0

    def refuse(peer: Peer, request: ReceivedRequest) -> None:
        nonlocal count
        if request.method == "PUT":
            count += 1
            peer.respond(b"no", REFUSAL)
        else:
            name_target(peer, request)

    with site(each(refuse), repeat=True, retry=AT_ONCE) as here:
        assert here.pool.put(here.url(), body).status == 417
        assert here.goes_on()
    assert count == 1


def test_a_body_that_was_read_from_before_the_refusal_is_not_sent_again(site: OpenSite) -> None:
    """The server was silent for so long that the body was begun."""
    refused = []

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(10)  # which come when the client has waited for long enough
        refused.append(1)
        peer.respond(b"no", REFUSAL, "Connection: close\r\n")
        discard_rest(peer)

    with site(script, each(name_target), retry=AT_ONCE) as here:
        response = here.pool.put(here.url(), pieces(), expect100=True)
        assert response.status == 417
        assert here.goes_on()
    assert refused == [1]


def test_a_body_that_can_be_rewound_is_sent_again_though_it_was_begun(site: OpenSite) -> None:
    received = []

    def script(peer: Peer) -> None:
        peer.head()
        peer.exactly(10)
        peer.respond(b"no", REFUSAL, "Connection: close\r\n")
        discard_rest(peer)

    def good(peer: Peer, request: ReceivedRequest) -> None:
        received.append(request)
        name_target(peer, request)

    with site(script, each(good), retry=AT_ONCE) as here:
        assert here.pool.put(here.url("/up"), BODY, expect100=True).body == b"/up"
        assert here.goes_on()
    assert received[0].body == BODY
    assert "expect" not in received[0].headers
