"""The options of a request: what is refused at once, and what of it is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import pytest

from dugong import Headers, Request, RetryPolicy
from dugong.pool.options import POOL_DEFAULT, ElaborateHeaders, checked_headers


@pytest.mark.parametrize("name", ["timeout", "retry"])
def test_what_the_pool_was_made_with_is_told_from_none(name: str) -> None:
    request = Request("GET", "http://h/", **{name: None})  # type: ignore[arg-type]
    assert getattr(request, name) is None
    assert getattr(Request("GET", "http://h/"), name) is POOL_DEFAULT
    assert repr(POOL_DEFAULT) == "POOL_DEFAULT"


def test_a_request_may_have_a_policy_of_its_own() -> None:
    policy = RetryPolicy(attempts=2)
    assert Request("GET", "http://h/", retry=policy).retry is policy


@pytest.mark.parametrize("retry", [0, 3, True, "never", RetryPolicy, {"attempts": 3}])
def test_a_policy_that_is_none_is_a_type_error(retry: Any) -> None:
    with pytest.raises(TypeError, match="retry must be a RetryPolicy or None"):
        Request("GET", "http://h/", retry=retry)


def pairs_of(pairs: Any) -> Any:
    return dict(pairs).items()


@pytest.mark.parametrize("make", [dict, Headers, list, tuple, iter, pairs_of])
def test_headers_become_pairs_however_they_are_given(make: Callable[[Any], Any]) -> None:
    headers = make([("A", "b"), ("C", "d")])
    assert Request("GET", "http://h/", headers).headers == (("A", "b"), ("C", "d"))
    assert checked_headers({"A": "b"}) == (("A", "b"),)


@pytest.mark.parametrize("headers", [{}, [], (), Headers(), iter(())])
def test_no_headers_are_no_headers(headers: Any) -> None:
    assert Request("GET", "http://h/", headers).headers == ()


def test_headers_are_copied() -> None:
    pair = ["A", "b"]
    headers: list[Any] = [pair]
    request = Request("POST", "http://h/", headers)
    pair[1] = "c\r\nX-Smuggled: yes"
    headers.append(("Idempotency-Key", "1"))
    assert request.headers == (("A", "b"),)
    assert not request.is_idempotent


def test_a_key_that_is_added_to_the_same_dict_later_does_not_make_a_request_idempotent() -> None:
    headers = {"Accept": "*/*"}
    request = Request("POST", "http://h/", headers)
    headers["Idempotency-Key"] = "8e03978e"
    assert not request.is_idempotent
    assert Request("POST", "http://h/", headers).is_idempotent


class Broken(dict[str, str]):
    def items(self) -> Any:
        raise ZeroDivisionError


class BrokenMapping(Mapping[str, str]):
    def __getitem__(self, name: str) -> str:
        raise ZeroDivisionError

    def __iter__(self) -> Iterator[str]:
        return iter(["A"])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("headers", [Broken(A="b"), BrokenMapping()])
def test_headers_that_cannot_be_read_raise_when_the_request_is_made(headers: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        Request("GET", "http://h/", headers)


def test_headers_are_read_once() -> None:
    class Changing(dict[str, str]):
        times = 0

        def items(self) -> Any:
            self.times += 1
            return [("A", f"b{self.times}")]

    headers = Changing()
    request = Request("GET", "http://h/", headers)
    assert request.headers == (("A", "b1"),)
    assert request.is_idempotent
    assert headers.times == 1


def test_a_header_is_what_it_is_equal_to() -> None:
    class Text(str, Enum):  # noqa: UP042  # a StrEnum is formatted as what it is equal to
        NAME = "X-A"
        VALUE = "b"

    request = Request("GET", "http://h/", {Text.NAME: Text.VALUE, "Age": 7})  # type: ignore[dict-item]
    assert request.headers == (("X-A", "b"), ("Age", "7"))
    assert {type(part) for pair in request.headers for part in pair} == {str}


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Authorization": b"Basic secret"}, TypeError),
        ({"Authorization": None}, TypeError),
        ({"Authorization": True}, TypeError),
        ({"Authorization": 1.5}, TypeError),
        ({"Authorization": ["secret"]}, TypeError),
        ({b"secret": "x"}, TypeError),
        ({"secret": "x", None: "x"}, TypeError),
        (["Authorization: secret"], TypeError),
        ([("Authorization", "secret", "more")], TypeError),
        ([{"Authorization", "secret"}], TypeError),
        ("Authorization: secret", TypeError),
        (b"Authorization: secret", TypeError),
        ({"Authorization": "secret\r\nX: y"}, ValueError),
        ({"Authorization": "secret\0"}, ValueError),
        ({"Authorization": "secret\u20ac"}, ValueError),
        ({"Authorization: secret": ""}, ValueError),
        ({"": "secret"}, ValueError),
        ({"Autorisi\u00e9": "secret"}, ValueError),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(
    headers: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="header") as caught:
        Request("GET", "http://h/", headers)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("headers", ["A: b", b"A: b", 7, False])
def test_headers_that_could_be_none_are_a_type_error(headers: Any) -> None:
    with pytest.raises(TypeError, match="mapping or"):
        Request("GET", "http://h/", headers)


@pytest.mark.parametrize("name", ["timeout", "deadline"])
@pytest.mark.parametrize("value", [0, -1, 0.0, math.nan, math.inf, -math.inf, 10**400])
def test_a_limit_that_is_no_time_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
        Request("GET", "http://h/", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["timeout", "deadline"])
@pytest.mark.parametrize("value", ["1", True, (1, 2), 1j])
def test_a_limit_that_is_no_number_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
        Request("GET", "http://h/", **{name: value})


@pytest.mark.parametrize("name", ["expect100", "idempotent"])
@pytest.mark.parametrize("value", [0, 1, "yes"])
def test_a_yes_or_no_that_is_neither_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a bool"):
        Request("PUT", "http://h/", body=b"x", **{name: value})


def test_there_is_nothing_to_expect_without_a_body() -> None:
    with pytest.raises(ValueError, match="expect100 is only allowed with a body"):
        Request("PUT", "http://h/", expect100=True)


def test_default_headers_are_those_that_a_request_says_nothing_of() -> None:
    headers = ElaborateHeaders((("X-A", "own"),), without=frozenset(("x-b",)))
    defaults = (("x-a", "default"), ("X-B", "default"), ("X-C", "default"))
    assert headers.decided == {"x-a", "x-b"}
    assert headers.with_defaults(defaults).fixed == (("X-A", "own"), ("X-C", "default"))


def test_fresh_headers_take_the_place_of_all_fixed_ones_of_their_names() -> None:
    headers = ElaborateHeaders((("X-A", "1"), ("X-B", "2"), ("x-a", "3")))
    assert headers.with_fresh((("X-a", "4"),)).fixed == (("X-B", "2"), ("X-a", "4"))
