"""Basic, Bearer and callables: what is sent, and that no message quotes a secret."""

from __future__ import annotations

from typing import Any

import pytest

from dugong import Request
from dugong.client.auth import Auth, BasicAuth, BearerAuth, auth_of
from tests.support.auth import SECRET, URL, authorization, basic


@pytest.mark.parametrize(
    ("user", "password"),
    [("Aladdin", "open sesame"), ("", ""), ("u", "a:b"), ("J\u00e4s", "\u20ac")],
)
def test_basic_sends_user_and_password_in_utf8(user: str, password: str) -> None:
    assert authorization(BasicAuth(user, password)) == basic(user, password)


@pytest.mark.parametrize(
    ("user", "password", "problem"),
    [
        ("u:v", SECRET, "colon"),
        ("u\n", SECRET, "control characters"),
        ("u", f"{SECRET}\x7f", "control characters"),
        ("u", f"{SECRET}\udc80", "surrogate"),
    ],
)
def test_credentials_that_basic_cannot_send_are_refused_without_being_quoted(
    user: str, password: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        BasicAuth(user, password)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("user", "password"), [(None, "p"), ("u", b"p")])
def test_credentials_that_are_no_text_are_a_type_error(user: Any, password: Any) -> None:
    with pytest.raises(TypeError, match="must be a str, not"):
        BasicAuth(user, password)


@pytest.mark.parametrize("token", ["mF_9.B5f-4.1JqM", "a+b/c~==", "x"])
def test_bearer_sends_the_token(token: str) -> None:
    assert authorization(BearerAuth(token)) == f"Bearer {token}"


@pytest.mark.parametrize("token", ["", "sesame open", "sesame=x", "sesame\r\n", "ses\u00e4me"])
def test_what_is_no_token_is_refused_without_being_quoted(token: str) -> None:
    with pytest.raises(ValueError, match="RFC 6750") as caught:
        BearerAuth(token)
    assert not token or token not in str(caught.value)
    with pytest.raises(ValueError, match="RFC 6750"):
        authorization(BearerAuth(lambda: token))


def test_a_token_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a token must be a str, not bytes"):
        BearerAuth(b"x")  # type: ignore[arg-type]  # that is what is tested


def test_a_callable_for_the_token_is_asked_before_each_sending() -> None:
    auth = BearerAuth(iter(["one", "two"]).__next__)
    assert [authorization(auth), authorization(auth)] == ["Bearer one", "Bearer two"]


def test_only_what_never_changes_is_static() -> None:
    assert BasicAuth("u", "p").is_static
    assert BearerAuth("t").is_static
    assert not BearerAuth(lambda: "t").is_static
    assert not Auth().is_static


def test_an_auth_adds_nothing_and_sends_the_request_once_unless_it_says_more() -> None:
    request = Request("GET", URL)
    assert Auth().headers(request) is None
    assert list(Auth().flow(request)) == [request]


@pytest.mark.parametrize("auth", [Auth(), BasicAuth("u", SECRET), BearerAuth(SECRET)])
def test_a_repr_tells_the_class_alone(auth: Auth) -> None:
    assert repr(auth) == f"<{type(auth).__name__}>"


def test_none_and_an_auth_stand_for_themselves() -> None:
    auth = Auth()
    assert auth_of(None) is None
    assert auth_of(auth) is auth


def test_a_tuple_of_two_is_basic() -> None:
    auth = auth_of(("u", "p"))
    assert auth is not None
    assert authorization(auth) == basic("u", "p")


def test_a_callable_is_asked_with_each_request() -> None:
    auth = auth_of(lambda request: {"Authorization": f"Signed {request.target}"})
    assert auth is not None
    assert not auth.is_static
    assert authorization(auth, Request("GET", "http://h/a")) == "Signed /a"
    assert authorization(auth, Request("GET", "http://h/b")) == "Signed /b"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("user:sesame", r"not str; for Basic, write \(user, password\)"),
        (("user", SECRET, 3), "not tuple"),
        (["user", SECRET], "not list"),
        (7, "not int"),
        (BasicAuth, "not type"),
    ],
)
def test_anything_else_as_auth_is_a_type_error(value: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem) as caught:
        auth_of(value)
    assert SECRET not in str(caught.value)
