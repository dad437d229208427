"""What a mock pool is asked, and what it responds: as objects."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dugong import (
    ConnectError,
    ConnectionClosed,
    Delivery,
    DugongError,
    Headers,
    HostnameNotResolvable,
    Request,
)
from dugong.testing import MockRequest, MockResponse, failed
from dugong.testing.messages import response_of, verdict_on


def message(response: MockResponse, method: str = "GET") -> tuple[dict[str, str], bytes]:
    """Return the header fields of a *response* to *method*, and its body."""
    headers, body = response.message_for(method)
    return dict(headers.items()), b"".join(map(bytes, body.pieces()))


# --- a response -----------------------------------------------------------------------------------


def test_a_response_is_empty_and_200_unless_it_says_otherwise() -> None:
    response = MockResponse()
    assert (response.status, response.reason) == (200, "OK")
    assert message(response) == ({"Content-Length": "0"}, b"")


def test_a_status_without_a_reason_phrase_is_sent_without_one() -> None:
    assert MockResponse(299).reason == ""


def test_a_str_is_sent_as_utf8() -> None:
    headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "2"}
    assert message(MockResponse(body="ä")) == (headers, "ä".encode())


def test_a_dict_is_sent_as_json() -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "8"}
    assert message(MockResponse(body={"a": 1})) == (headers, b'{"a": 1}')


def test_the_content_type_that_is_given_is_kept() -> None:
    headers, _ = message(MockResponse(headers={"content-type": "text/html"}, body="<p>"))
    assert headers == {"content-type": "text/html", "Content-Length": "3"}


def test_a_body_whose_length_is_not_known_has_no_content_length() -> None:
    assert message(MockResponse(body=[b"ab", b"c"])) == ({}, b"abc")


def test_a_body_that_can_be_read_again_is_for_many_responses() -> None:
    response = MockResponse(body=[b"ab", b"c"])
    assert message(response) == message(response)


def test_a_body_that_can_be_read_once_is_for_one_response() -> None:
    response = MockResponse(body=iter((b"ab",)))
    message(response)
    with pytest.raises(ValueError, match="an earlier request"):
        message(response)


def test_a_content_length_that_is_wrong_is_an_error() -> None:
    with pytest.raises(ValueError, match="contradicts a body of 3 bytes"):
        MockResponse(headers={"Content-Length": "4"}, body=b"abc").message_for("GET")


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_content_has_no_body(status: int) -> None:
    assert message(MockResponse(status, body=b"abc")) == ({}, b"")


def test_the_response_to_a_head_has_the_length_of_the_body_and_no_body() -> None:
    assert message(MockResponse(body=b"abc"), "HEAD") == ({"Content-Length": "3"}, b"")


def test_the_response_to_a_head_may_name_a_length_without_a_body() -> None:
    response = MockResponse(headers={"Content-Length": "9"})
    assert message(response, "HEAD") == ({"Content-Length": "9"}, b"")


def test_the_repr_of_a_response_has_no_header_value_and_no_body() -> None:
    response = MockResponse(404, {"Set-Cookie": "secret"}, b"secret")
    assert repr(response) == "<MockResponse 404 Not Found>"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"status": "200"}, TypeError),
        ({"status": True}, TypeError),
        ({"status": 100}, ValueError),
        ({"status": 600}, ValueError),
        ({"headers": {"a b": "c"}}, ValueError),
        ({"headers": {"A": "b\r\nC: d"}}, ValueError),
        ({"headers": "A: b"}, TypeError),
        ({"trailers": {"A": "b\nc"}}, ValueError),
        ({"body": None}, TypeError),
        ({"body": 1.5}, TypeError),
        ({"body": {"a": object()}}, TypeError),
        ({"delay": -1}, ValueError),
        ({"delay": math.nan}, ValueError),
        ({"delay": math.inf}, ValueError),
        ({"delay": "1"}, TypeError),
        ({"delay": True}, TypeError),
    ],
    ids=str,
)
def test_a_response_that_makes_no_sense_is_refused(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        MockResponse(**arguments)


# --- what stands for a response -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "status", "body"),
    [
        (404, 404, b""),
        (b"abc", 200, b"abc"),
        ("abc", 200, b"abc"),
        ({}, 200, b"{}"),
        ([b"a", b"b"], 200, b"ab"),
        (MockResponse(201, body=b"abc"), 201, b"abc"),
    ],
    ids=repr,
)
def test_a_status_or_a_body_stands_for_a_response(given: object, status: int, body: bytes) -> None:
    response = response_of(given)
    assert (response.status, message(response)[1]) == (status, body)


def test_no_response_is_an_error_that_says_so() -> None:
    with pytest.raises(TypeError, match="respond has returned None"):
        response_of(None)


# --- a failure ------------------------------------------------------------------------------------


def test_a_failure_is_the_end_of_the_connection_unless_it_says_otherwise() -> None:
    assert type(failed(Delivery.SENT)) is ConnectionClosed


@pytest.mark.parametrize("delivery", Delivery)
def test_a_failure_has_the_verdict_that_it_was_given(delivery: Delivery) -> None:
    assert verdict_on(failed(delivery, ConnectError())) is delivery


@pytest.mark.parametrize(
    ("error", "delivery"),
    [
        (ConnectionClosed(), Delivery.SENT),
        (ConnectError(), Delivery.UNSENT),
        (HostnameNotResolvable("host"), Delivery.UNSENT),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_alone_has_the_verdict_that_it_mostly_has(
    error: DugongError, delivery: Delivery
) -> None:
    assert verdict_on(error) is delivery


@pytest.mark.parametrize("arguments", [("SENT",), (Delivery.SENT, OSError())], ids=repr)
def test_a_failure_of_something_else_is_refused(arguments: Any) -> None:
    with pytest.raises(TypeError):
        failed(*arguments)


# --- a request ------------------------------------------------------------------------------------


def test_the_repr_of_a_request_has_no_query_and_no_header_value() -> None:
    request = Request("GET", "https://host/path?secret", {"Authorization": "secret"})
    headers = Headers({"Authorization": "secret"})
    mock = MockRequest("GET", request.url, headers, b"secret", request)
    assert repr(mock) == "<MockRequest GET https://host/path?..., 6 bytes>"
    assert mock.target == "/path?secret"
