"""Requests: what is refused at once, what they keep, and that they never change."""

from __future__ import annotations

import contextlib
import copy
import pickle
import tracemalloc
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from dugong import Headers, RetryPolicy
from dugong.pool.options import POOL_DEFAULT
from dugong.pool.request import Request
from dugong.pool.url import Origin

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


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "GÄT", "GET:"])
def test_a_method_that_is_no_token_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="invalid method"):
        Request(method, "http://h/")


@pytest.mark.parametrize("method", [None, b"GET", 7])
def test_a_method_that_is_no_text_is_a_type_error(method: Any) -> None:
    with pytest.raises(TypeError, match="method must be a str"):
        Request(method, "http://h/")


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
