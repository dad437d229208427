"""The connections of a mock pool: what they do in place of a network, seen from the pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dugong import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DugongError,
    InvalidResponse,
    PoolClosed,
    Request,
    ResponseTooLarge,
    RetryPolicy,
)
from dugong.testing import MockPool, MockRequest, MockResponse, failed
from tests.support.server import TIMEOUT

URL = "https://host/path"
AT_ONCE = RetryPolicy(attempts=2, backoff=0)


def targets(pool: MockPool) -> list[str]:
    return [request.target for request in pool.requests]


# --- what is sent ---------------------------------------------------------------------------------


def test_a_request_comes_with_all_header_fields_that_are_sent() -> None:
    with MockPool(lambda request: 200, headers={"X-Pool": "a"}) as pool:
        pool.get("http://host:8080/path", headers={"X-Own": "b"})
        headers = pool.requests[0].headers
    assert (headers["host"], headers["x-pool"], headers["x-own"]) == ("host:8080", "a", "b")
    assert headers["user-agent"].startswith("dugong/")


def pieces() -> Iterator[bytes]:
    yield b"ab"
    yield b"c"


@pytest.mark.parametrize("body", [b"abc", bytearray(b"abc"), pieces, [b"ab", b"c"]], ids=repr)
def test_a_body_comes_as_a_whole(body: object) -> None:
    with MockPool(lambda request: 200) as pool:
        pool.put(URL, body)
    assert pool.requests[0].body == b"abc"


@pytest.mark.parametrize("expect100", [False, True])
@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_body_comes_with_its_length(size: int, expect100: bool) -> None:
    with MockPool(lambda request: 200) as pool:
        pool.put(URL, bytes(size), expect100=expect100)
    request = pool.requests[0]
    assert (request.headers["content-length"], len(request.body)) == (str(size), size)


def test_a_body_is_rewound_for_another_attempt() -> None:
    def respond(request: MockRequest) -> int:
        if len(pool.requests) == 1:
            raise failed(Delivery.SENT)
        return 200

    with MockPool(respond, retry=AT_ONCE) as pool:
        pool.put(URL, [b"ab", b"c"])
        assert [request.body for request in pool.requests] == [b"abc", b"abc"]


def test_what_the_body_raises_is_the_outcome() -> None:
    def body() -> Iterator[bytes]:
        yield b"ab"
        raise LookupError("no more")

    with MockPool(lambda request: 200, retry=AT_ONCE) as pool:
        with pytest.raises(LookupError, match="no more") as caught:
            pool.put(URL, body)
        assert pool.requests == []
    assert caught.value.delivery is Delivery.PARTLY_SENT


def test_headers_are_made_anew_for_each_attempt() -> None:
    def respond(request: MockRequest) -> int:
        return 503 if len(pool.requests) == 1 else 200

    numbers = iter("12")
    with MockPool(respond, retry=AT_ONCE) as pool:
        pool.get(URL, headers=lambda request: {"X-Number": next(numbers)})
        assert [request.headers["x-number"] for request in pool.requests] == ["1", "2"]


# --- what is received -----------------------------------------------------------------------------


def test_responses_come_in_the_order_of_the_requests() -> None:
    urls = [f"{URL}/{number}" for number in range(500)]
    with MockPool(lambda request: request.target) as pool:
        texts = [response.text for response in pool.map(urls)]
    assert texts == [f"/path/{number}" for number in range(500)]


def test_requests_are_pipelined() -> None:
    with MockPool(lambda request: 200, max_connections_per_host=1) as pool:
        futures = [pool.submit("GET", URL) for _ in range(200)]
        assert [future.result(TIMEOUT).status for future in futures] == [200] * 200
        assert pool.statistics().opened == 1


def test_trailers_come_behind_the_body() -> None:
    response = MockResponse(body=[b"abc"], trailers={"X-Sum": "6"})
    with MockPool(lambda request: response) as pool:
        assert pool.get(URL).trailers["x-sum"] == "6"
        with pool.stream("GET", URL) as streamed:
            assert streamed.trailers["x-sum"] is None
            assert streamed.read() == b"abc"
            assert streamed.trailers["x-sum"] == "6"


def test_a_body_is_streamed_as_it_is_made() -> None:
    made: list[bytes] = []

    def body() -> Iterator[bytes]:
        for piece in (b"ab", b"cd"):
            made.append(piece)
            yield piece

    with MockPool(lambda request: MockResponse(body=body())) as pool:
        with pool.stream("GET", URL, retry=None) as response:
            assert (response.read(1), response.read(9), made) == (b"a", b"b", [b"ab"])
            assert (response.read(9), response.read(9)) == (b"cd", b"")
        assert pool.get(URL).body == b"abcd"


def test_a_stream_that_is_left_early_ends_its_connection_alone() -> None:
    with MockPool(lambda request: MockResponse(body=iter([b"ab", b"cd"]))) as pool:
        with pool.stream("GET", URL, retry=None) as response:
            response.read(1)
        assert pool.get(URL).body == b"abcd"


def test_the_rest_of_a_stream_of_known_length_is_drained() -> None:
    response = MockResponse(headers={"Content-Length": "4"}, body=[b"ab", b"cd"])
    with MockPool(lambda request: response) as pool:
        with pool.stream("GET", URL, retry=None) as streamed:
            assert streamed.length == 4
            streamed.read(1)
        assert pool.get(URL).body == b"abcd"
        assert pool.statistics().opened == 1


def test_an_upload_and_its_response_are_streamed() -> None:
    pool = MockPool(lambda request: MockResponse(body=[request.body, b"!"]))
    with pool, pool.stream("POST", URL, body=iter([b"ab", b"c"])) as response:
        assert response.read() == b"abc!"


def test_a_body_that_is_too_large_is_refused() -> None:
    pool = MockPool(lambda request: b"abc", max_body_size=2, retry=None)
    with pool, pytest.raises(ResponseTooLarge):
        pool.get(URL)


def test_a_connection_ends_behind_a_response_that_says_so() -> None:
    with MockPool(lambda request: MockResponse(headers={"Connection": "close"})) as pool:
        pool.get(URL)
        pool.get(URL)
        assert pool.statistics().opened == 2


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", [each for each in Delivery if each is not Delivery.UNSENT])
def test_a_request_fails_with_the_verdict_that_is_raised(delivery: Delivery) -> None:
    def respond(request: MockRequest) -> int:
        raise failed(delivery)

    with MockPool(respond, retry=None) as pool, pytest.raises(ConnectionClosed) as caught:
        pool.get(URL)
    assert caught.value.delivery is delivery


def test_a_connection_that_cannot_be_opened_sends_nothing() -> None:
    def respond(request: MockRequest) -> int:
        raise ConnectError("no such port")

    with MockPool(respond, retry=None) as pool, pytest.raises(ConnectError) as caught:
        pool.post(URL, b"abc")
    assert caught.value.delivery is Delivery.UNSENT


@pytest.mark.parametrize("delivery", [Delivery.SENT, Delivery.PARTLY_SENT])
def test_a_post_that_was_sent_is_not_sent_again(delivery: Delivery) -> None:
    def respond(request: MockRequest) -> int:
        raise failed(delivery)

    with MockPool(respond, retry=AT_ONCE) as pool:
        with pytest.raises(ConnectionClosed):
            pool.post(URL, b"abc")
        assert len(pool.requests) == 1


@pytest.mark.parametrize("delivery", [Delivery.UNSENT, Delivery.DISCLAIMED])
def test_a_post_that_was_not_taken_is_sent_again(delivery: Delivery) -> None:
    def respond(request: MockRequest) -> int:
        if len(pool.requests) == 1:
            raise failed(delivery)
        return 200

    with MockPool(respond, retry=AT_ONCE) as pool:
        assert pool.post(URL, b"abc").status == 200
        assert len(pool.requests) == 2


def test_a_failure_that_is_raised_again_and_again_is_new_to_each_request() -> None:
    error = InvalidResponse("nonsense")

    def respond(request: MockRequest) -> int:
        raise error

    caught: list[DugongError] = []
    with MockPool(respond, retry=None) as pool:
        for _ in range(2):
            with pytest.raises(InvalidResponse) as info:
                pool.get(URL)
            caught.append(info.value)
    assert error.request is None
    assert caught[0] is not caught[1]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_mistake_of_what_responds_is_raised_to_the_caller_at_once(is_first: bool) -> None:
    def respond(request: MockRequest) -> int:
        if request.target == "/fine":
            return 200
        raise LookupError("no such page")

    with MockPool(respond, retry=AT_ONCE) as pool:
        if not is_first:
            pool.get("https://host/fine")
        with pytest.raises(LookupError, match="no such page"):
            pool.get(URL)
        assert targets(pool).count("/path") == 1
        assert pool.get("https://host/fine").status == 200


def test_no_response_is_raised_to_the_caller() -> None:
    pool = MockPool(lambda request: None)
    with pool, pytest.raises(TypeError, match="respond has returned None"):
        pool.get(URL)


class EndOfTest(BaseException):
    """As test runners raise it."""


def test_what_ends_a_test_does_not_end_a_thread_of_the_pool() -> None:
    def respond(request: MockRequest) -> int:
        raise EndOfTest("the request is wrong")

    with MockPool(respond) as pool:
        future = pool.submit("GET", URL)
        with pytest.raises(RuntimeError, match="the request is wrong") as caught:
            future.result(TIMEOUT)
    assert isinstance(caught.value.__cause__, EndOfTest)


def test_what_ends_a_test_in_the_body_of_a_response_is_no_bug_of_the_pool() -> None:
    def body() -> Iterator[bytes]:
        yield b"ab"
        raise EndOfTest("the request is wrong")

    with MockPool(lambda request: MockResponse(body=body())) as pool:
        future = pool.submit("GET", URL)
        with pytest.raises(RuntimeError, match="the request is wrong") as caught:
            future.result(TIMEOUT)
        assert isinstance(caught.value.__cause__, EndOfTest)
        assert len(pool.requests) == 1


def test_a_body_that_fails_in_the_middle_is_an_answer_that_had_begun() -> None:
    def body() -> Iterator[bytes]:
        yield b"ab"
        raise ConnectionClosed("cut short")

    with MockPool(lambda request: MockResponse(body=body()), retry=None) as pool:
        with pytest.raises(ConnectionClosed, match="cut short") as caught:
            pool.get(URL)
        assert caught.value.delivery is Delivery.ANSWER_STARTED
        with pool.stream("GET", URL) as response:
            assert response.read(2) == b"ab"
            with pytest.raises(ConnectionClosed, match="cut short"):
                response.read(2)


def test_a_mistake_in_the_body_of_a_response_is_raised_to_the_caller_at_once() -> None:
    def body() -> Iterator[bytes]:
        yield b"ab"
        raise LookupError("no more")

    with MockPool(lambda request: MockResponse(body=body()), retry=AT_ONCE) as pool:
        with pytest.raises(LookupError, match="no more"):
            pool.get(URL)
        assert len(pool.requests) == 1


# --- time -----------------------------------------------------------------------------------------


def test_a_delay_counts_for_the_timeout() -> None:
    pool = MockPool(lambda request: MockResponse(delay=60), retry=None)
    with pool, pytest.raises(ConnectionTimedOut, match=r"nothing received for 0\.01 s") as caught:
        pool.get(URL, timeout=0.01)
    assert caught.value.delivery is Delivery.SENT


def test_a_delay_counts_for_the_deadline() -> None:
    pool = MockPool(lambda request: MockResponse(delay=60))
    with pool, pytest.raises(ConnectionTimedOut, match="the deadline passed"):
        pool.get(URL, deadline=0.01)


def test_a_delay_below_the_timeout_is_waited_for() -> None:
    with MockPool(lambda request: MockResponse(delay=0.01)) as pool:
        assert pool.get(URL).elapsed.total_seconds() >= 0.01


def test_a_delay_ends_with_the_pool() -> None:
    asked = threading.Event()

    def respond(request: MockRequest) -> MockResponse:
        asked.set()
        return MockResponse(delay=60)

    with MockPool(respond) as pool:
        future = pool.submit("GET", URL)
        assert asked.wait(TIMEOUT)
    with pytest.raises(PoolClosed):
        future.result(0)


def test_a_delay_holds_back_no_other_connection() -> None:
    def respond(request: MockRequest) -> MockResponse:
        return MockResponse(delay=60 if request.target == "/slow" else 0)

    with MockPool(respond, max_connections_per_host=2) as pool:
        slow = pool.submit(Request("GET", "https://host/slow", idempotent=False))
        assert pool.get(URL).status == 200
        assert pool.get("https://other/").status == 200
        slow.cancel()


def test_a_body_that_never_ends_is_ended_by_the_deadline() -> None:
    def body() -> Iterator[bytes]:
        while True:
            yield b"abc"

    with MockPool(lambda request: 200) as pool, pytest.raises(ConnectionTimedOut):
        pool.put(URL, body, deadline=0.01)
