"""One request and its response, as data."""

from __future__ import annotations

from dugong import Headers, HTTPResponse
from dugong.connection.exchange import Exchange, RequestSide


def test_a_response_says_what_was_asked_and_what_came() -> None:
    headers = Headers([("A", "b")])
    response = HTTPResponse("PUT", "/a", 201, "Created", headers, 5)
    assert (response.method, response.path) == ("PUT", "/a")
    assert (response.status, response.reason, response.length) == (201, "Created", 5)
    assert response.headers is headers


def test_headers_may_be_given_another_value() -> None:
    response = HTTPResponse("GET", "/", 200, "OK", Headers())
    response.headers = headers = Headers([("A", "b")])
    assert response.headers is headers


def test_a_length_is_not_known_unless_it_is_given() -> None:
    assert HTTPResponse("GET", "/", 200, "OK", Headers()).length is None


def test_the_repr_of_a_response() -> None:
    response = HTTPResponse("GET", "/a", 404, "Not Found", Headers())
    assert repr(response) == "<HTTPResponse 404 Not Found to GET /a>"


def test_no_repr_has_a_query() -> None:
    response = HTTPResponse("GET", "/a?signature=secret", 404, "Not Found", Headers())
    assert repr(response) == "<HTTPResponse 404 Not Found to GET /a?...>"
    assert repr(Exchange("GET", "/a?signature=secret")) == "<Exchange GET /a?... sent>"


def test_the_repr_of_a_response_has_nothing_that_controls_a_terminal() -> None:
    response = HTTPResponse("GET", "/a", 404, "\x1b[31mNot\x9bFound", Headers())
    assert repr(response) == r"<HTTPResponse 404 \x1b[31mNot\x9bFound to GET /a>"


def test_a_new_exchange_has_been_sent_and_asks_for_nothing_special() -> None:
    exchange = Exchange("GET", "/a")
    assert (exchange.method, exchange.path) == ("GET", "/a")
    assert exchange.request_side is RequestSide.SENT
    assert exchange.writer is exchange.reader is exchange.special is None
    assert exchange.interim == 0
    assert exchange.key is None


def test_an_exchange_keeps_the_key_of_its_owner() -> None:
    key = object()
    assert Exchange("GET", "/", key).key is key


def test_exchanges_share_nothing() -> None:
    one, other = Exchange("GET", "/"), Exchange("GET", "/")
    one.interim += 1
    one.request_side = RequestSide.BODY
    assert (other.interim, other.request_side) == (0, RequestSide.SENT)


def test_the_repr_of_an_exchange_says_where_the_request_is() -> None:
    exchange = Exchange("PUT", "/a")
    exchange.request_side = RequestSide.CONTINUE
    assert repr(exchange) == "<Exchange PUT /a waiting for 100 (Continue)>"
