"""Requests: what is refused at once, what they keep, and that they never change."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import pytest

from dugong import Headers, RetryPolicy
from dugong.pool.request import POOL_DEFAULT, ElaborateHeaders, Origin, Request, checked_headers

# --- the URL -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h/a/b", "/a/b"),
        ("http://h/a?b=c", "/a?b=c"),
        ("http://h", "/"),
        ("http://h?q=/x", "/?q=/x"),
        ("http://h/a?b#c", "/a?b"),
    ],
)
def test_the_target_is_what_the_url_says(url: str, target: str) -> None:
    request = Request("GET", url)
    assert (request.target, request.url, request.origin) == (target, url, Origin("http", "h", 80))


@pytest.mark.parametrize("url", [None, b"http://h/", 7])
def test_a_url_that_is_no_text_is_a_type_error(url: Any) -> None:
    with pytest.raises(TypeError, match="URL must be a str"):
        Request("GET", url)


@pytest.mark.parametrize(
    ("url", "shown", "advice"),
    [
        ("h/a?secret", "h/a?...", "must begin with http:// or https://, as in http://host/path"),
        ("/a?secret", "/a?...", "must begin with http"),
        ("ftp://h/a", "ftp://h/a", "must begin with http"),
        ("http:///a?secret", "http:///a?...", "names no host"),
        ("http://h:http/", "http://h:.../", "port"),
        ("http://a b/", "http://a b/", "host name"),
        ("http://h/a b?secret", "http://h/a b?...", "percent-encoded"),
        ("http://h/a?secret b", "http://h/a?...", "percent-encoded"),
        ("http://h/\u00e4", "http://h/\u00e4", "percent-encoded"),
        ("http://h/a\r\nX: y", "http://h/a\\r\\nX: y", "percent-encoded"),
        ("http://user:secret@h/", "http://...@h/", "send an Authorization header"),
        ("http://secret@h/", "http://...@h/", "user name or password"),
        ("http://user:secret@[::1]:80/", "http://...@[::1]:80/", "user name or password"),
        ("http://user:sec:secret@h:80/", "http://...@h:80/", "user name or password"),
        ("http://user:secret/@h/", "http://...@h/", "port"),
        ("http://user:secret", "http://user:...", "port"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_without_its_secrets(
    url: str, shown: str, advice: str
) -> None:
    with pytest.raises(ValueError, match="invalid URL") as caught:
        Request("GET", url)
    text = str(caught.value)
    assert text.startswith(f"invalid URL '{shown}': ")
    assert advice in text
    assert "secret" not in text
    assert caught.value.__cause__ is None


def test_a_method_and_a_url_the_wrong_way_round_are_not_quoted() -> None:
    with pytest.raises(ValueError, match="the method comes first") as caught:
        Request("http://h/a?secret", "GET")
    assert "secret" not in str(caught.value)


def test_an_origin_is_shared_by_the_requests_to_it() -> None:
    assert Request("GET", "http://h/a").origin is Request("GET", "http://h/b?c").origin


def test_a_url_is_what_it_is_equal_to() -> None:
    class Url(str):
        def __getitem__(self, key: object) -> str:
            return "/\r\nX-Smuggled: yes"

    request = Request("GET", Url("http://h/a"))
    assert type(request.url) is str
    assert request.target == "/a"


# --- the request -------------------------------------------------------------------------------


def test_a_method_is_what_it_is_equal_to() -> None:
    class Method(str, Enum):  # noqa: UP042  # a StrEnum is formatted as what it is equal to
        GET = "GET"

    assert f"{Request(Method.GET, 'http://h/').method}" == "GET"


def test_a_request_keeps_what_it_was_given() -> None:
    headers, body = {"A": "b"}, bytearray(b"body")
    request = Request(
        "PUT",
        "https://h:81/a?b",
        headers,
        body,
        timeout=1.5,
        deadline=2,
        expect100=True,
        idempotent=False,
        context=body,
    )
    assert (request.method, request.url) == ("PUT", "https://h:81/a?b")
    assert request.headers == (("A", "b"),)
    assert request.body is body
    assert (request.timeout, request.deadline) == (1.5, 2)
    assert (request.expect100, request.idempotent) == (True, False)
    assert request.context is body
    assert request.origin == Origin("https", "h", 81)
    assert request.target == "/a?b"


def test_a_plain_request_asks_for_nothing_special() -> None:
    request = Request("GET", "http://h/")
    assert (request.headers, request.body, request.context) == (None, None, None)
    assert (request.deadline, request.idempotent) == (None, None)
    assert request.timeout is POOL_DEFAULT
    assert request.expect100 is False


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


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "GÄT", "GET:"])
def test_a_method_that_is_no_token_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="invalid method"):
        Request(method, "http://h/")


@pytest.mark.parametrize("method", [None, b"GET", 7])
def test_a_method_that_is_no_text_is_a_type_error(method: Any) -> None:
    with pytest.raises(TypeError, match="method must be a str"):
        Request(method, "http://h/")


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


# --- what it promises --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_methods_that_promise_it_are_idempotent(method: str) -> None:
    assert Request(method, "http://h/").is_idempotent


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "PROPFIND", "get"])
def test_methods_that_do_not_promise_it_are_not_idempotent(method: str) -> None:
    assert not Request(method, "http://h/").is_idempotent
    assert not Request(method, "http://h/", {"Accept": "*/*"}).is_idempotent


@pytest.mark.parametrize("make", [dict, Headers, list, iter], ids=["dict", "Headers", "list", "it"])
def test_a_key_makes_any_method_idempotent(make: Callable[[Any], Any]) -> None:
    headers = make([("Accept", "*/*"), ("idempotency-KEY", "8e03978e")])
    assert Request("POST", "http://h/", headers).is_idempotent


def test_the_caller_knows_best_what_is_idempotent() -> None:
    assert Request("POST", "http://h/", idempotent=True).is_idempotent
    assert not Request("GET", "http://h/", {"Idempotency-Key": "1"}, idempotent=False).is_idempotent


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_says_nothing_leaves_it_to_its_method(method: str) -> None:
    assert Request(method, "http://h/").says_idempotent is None
    assert Request(method, "http://h/", {"Accept": "*/*"}).says_idempotent is None


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_says_it_says_so_whatever_its_method(method: str) -> None:
    assert Request(method, "http://h/", {"Idempotency-Key": "1"}).says_idempotent is True
    for said in (True, False):
        request = Request(method, "http://h/", {"Idempotency-Key": "1"}, idempotent=said)
        assert request.says_idempotent is said


# --- as a value --------------------------------------------------------------------------------


def test_requests_are_equal_only_to_themselves() -> None:
    one, other = Request("GET", "http://h/"), Request("GET", "http://h/")
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_the_repr_of_a_request() -> None:
    assert repr(Request("GET", "http://h/a#b")) == "<Request GET http://h/a>"


def test_the_repr_of_a_request_tells_no_secrets() -> None:
    request = Request(
        "GET",
        "http://h/a?X-Amz-Signature=secret",
        {"Authorization": "secret"},
        context="secret",
    )
    assert repr(request) == "<Request GET http://h/a?...>"
    assert request.public_url == "http://h/a?..."


ATTRIBUTES = """
    method url headers body timeout deadline expect100 idempotent retry context origin target
    is_idempotent says_idempotent public_url _target _options other
""".split()


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_request_never_changes(name: str) -> None:
    request = Request("PUT", "http://h/a", {"A": "b"}, b"x")
    before = request.__reduce__()
    with pytest.raises(AttributeError, match="never changes"):
        setattr(request, name, "/b HTTP/1.1\r\nX-Smuggled: yes")
    with pytest.raises(AttributeError, match="never changes"):
        delattr(request, name)
    assert request.__reduce__() == before
    assert request.target == "/a"


def test_a_request_cannot_be_made_into_another() -> None:
    request = Request("GET", "http://h/a")
    with contextlib.suppress(TypeError):
        request.__init__("GET", "http://other/b")  # type: ignore[misc]
    assert request.url == "http://h/a"


def test_a_request_can_be_replaced_by_one_that_differs() -> None:
    request = Request(
        "POST", "http://h/a", {"Idempotency-Key": "1"}, b"x", deadline=2, context="mine"
    )
    other = request.replace(url="https://i/b?c", headers={"A": "b"}, timeout=3)
    assert (other.method, other.url, other.target) == ("POST", "https://i/b?c", "/b?c")
    assert other.origin == Origin("https", "i", 443)
    assert (other.headers, other.body) == ((("A", "b"),), b"x")
    assert (other.deadline, other.timeout, other.context) == (2, 3, "mine")
    assert request.is_idempotent
    assert not other.is_idempotent
    assert request.url == "http://h/a"


def test_what_a_request_is_replaced_by_is_checked() -> None:
    request = Request("GET", "http://h/a")
    with pytest.raises(ValueError, match="invalid URL"):
        request.replace(url="h")
    with pytest.raises(TypeError):
        request.replace(origin="http://h")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda request: pickle.loads(pickle.dumps(request))]
)
@pytest.mark.parametrize("url", ["http://h:81/a", "http://h?a"])
def test_a_request_can_be_copied_and_pickled(
    copied: Callable[[Request], Request], url: str
) -> None:
    request = Request(
        "PUT",
        url,
        {"A": "b"},
        b"x",
        deadline=3,
        expect100=True,
        idempotent=False,
        retry=RetryPolicy(attempts=2),
        context={"a": "b"},
    )
    other = copied(request)
    assert (other.method, other.url, other.origin) == ("PUT", url, request.origin)
    assert (other.target, other.headers, other.body) == (request.target, (("A", "b"),), b"x")
    assert other.timeout is POOL_DEFAULT
    assert (other.deadline, other.expect100, other.idempotent) == (3, True, False)
    assert other.retry == RetryPolicy(attempts=2)
    assert other.context == {"a": "b"}
    assert repr(copied(Request("GET", url))) == repr(Request("GET", url))


def test_a_deep_copy_has_a_body_of_its_own() -> None:
    body = bytearray(b"x")
    request = Request("PUT", "http://h/", body=body)
    assert copy.copy(request).body is body
    deep = copy.deepcopy(request)
    body[:] = b"y"
    assert deep.body == b"x"


def test_a_request_whose_body_cannot_be_copied_says_so() -> None:
    request = Request("PUT", "http://h/", body=(b"x" for _ in range(2)))
    with pytest.raises(TypeError, match="generator"):
        copy.deepcopy(request)


def test_a_waiting_request_takes_little_memory_beside_its_url() -> None:
    urls = [f"http://h/a/path/of/some/length/{number}" for number in range(1000)]
    requests = [Request("GET", url) for url in urls]
    tracemalloc.start()
    try:
        requests = [Request("GET", url) for url in urls]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(requests) < 100


def test_default_headers_are_those_that_a_request_says_nothing_of() -> None:
    headers = ElaborateHeaders((("X-A", "own"),), without=frozenset(("x-b",)))
    defaults = (("x-a", "default"), ("X-B", "default"), ("X-C", "default"))
    assert headers.decided == {"x-a", "x-b"}
    assert headers.with_defaults(defaults).fixed == (("X-A", "own"), ("X-C", "default"))


def test_fresh_headers_take_the_place_of_all_fixed_ones_of_their_names() -> None:
    headers = ElaborateHeaders((("X-A", "1"), ("X-B", "2"), ("x-a", "3")))
    assert headers.with_fresh((("X-a", "4"),)).fixed == (("X-B", "2"), ("X-a", "4"))
