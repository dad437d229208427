"""Redirects: which request follows a response."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from dugong import Headers, RedirectError, Request, Response
from dugong.client.redirects import is_redirect, next_request
from dugong.pool.options import ElaborateHeaders

HERE = "http://a.example/dir/page?q=1#part"


def response(request: Request, status: int = 302, location: str | None = "/there") -> Response:
    fields = {} if location is None else {"Location": location}
    return Response(status, "", Headers(fields), b"", request)


def follow(status: int = 302, location: str = "/there", **parameters: Any) -> Request:
    parameters.setdefault("method", "GET")
    request = Request(url=HERE, **parameters)
    return next_request(request, response(request, status, location))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_these_statuses_lead_elsewhere(status: int) -> None:
    assert is_redirect(response(Request("GET", HERE), status))


@pytest.mark.parametrize("status", [200, 201, 300, 304, 305, 306, 399, 404])
def test_other_statuses_do_not_though_they_have_a_location(status: int) -> None:
    assert not is_redirect(response(Request("GET", HERE), status))


@pytest.mark.parametrize("location", [None, ""])
def test_a_redirect_that_names_no_place_is_a_response(location: str | None) -> None:
    assert not is_redirect(response(Request("GET", HERE), 302, location))


METHODS = {
    (301, "GET"): "GET",
    (301, "HEAD"): "HEAD",
    (301, "POST"): "GET",
    (301, "PUT"): "PUT",
    (302, "POST"): "GET",
    (302, "DELETE"): "DELETE",
    (303, "GET"): "GET",
    (303, "HEAD"): "HEAD",
    (303, "POST"): "GET",
    (303, "PUT"): "GET",
    (303, "DELETE"): "GET",
    (307, "POST"): "POST",
    (308, "POST"): "POST",
    (308, "PUT"): "PUT",
}


@pytest.mark.parametrize(("status", "method"), METHODS)
def test_the_method_of_what_follows(status: int, method: str) -> None:
    body = None if method in ("GET", "HEAD", "DELETE") else b"body"
    following = follow(status, method=method, body=body)
    assert following.method == METHODS[status, method]
    assert following.body == (body if following.method == method else None)


def test_what_describes_the_body_goes_with_it() -> None:
    headers = {"Content-Type": "a/b", "content-language": "de", "Digest": "x", "X-Own": "1"}
    assert follow(302, method="POST", body=b"body", headers=headers).headers == (("X-Own", "1"),)
    kept = follow(307, method="POST", body=b"body", headers=headers).headers
    assert kept == tuple(headers.items())


def test_what_a_request_is_told_goes_on() -> None:
    following = follow(307, method="PUT", body=b"b", timeout=3, deadline=4, expect100=True)
    assert (following.timeout, following.deadline, following.expect100) == (3, 4, True)


def test_a_request_without_its_body_does_not_expect_100() -> None:
    assert follow(303, method="PUT", body=b"b", expect100=True).expect100 is False


LOCATIONS = {
    "/there": "http://a.example/there#part",
    "there": "http://a.example/dir/there#part",
    "../there": "http://a.example/there#part",
    "?x=2": "http://a.example/dir/page?x=2#part",
    "//b.example/": "http://b.example/#part",
    "https://b.example/x#other": "https://b.example/x#other",
    "/a b": "http://a.example/a%20b#part",
    "/gr\u00c3\u00bcn": "http://a.example/gr%C3%BCn#part",
    "  /there ": "http://a.example/there#part",
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_where_it_leads(location: str) -> None:
    assert follow(location=location).url == LOCATIONS[location]


REFUSED = {
    "ftp://a.example/": "ftp",
    "file:///etc/passwd": "file",
    "javascript:alert(1)": "javascript",
    "http://user:secret@b.example/": "credentials",
    "//secret@b.example/": "credentials",
    "http://": "cannot be followed",
    "http://b.example:99999/": "cannot be followed",
    "http://[::1/": "cannot be followed",
}


@pytest.mark.parametrize("location", REFUSED)
def test_a_place_that_is_refused_is_refused_by_name(location: str) -> None:
    with pytest.raises(RedirectError, match=REFUSED[location]) as caught:
        follow(location=location)
    assert caught.value.response is not None
    assert caught.value.response.status == 302
    assert caught.value.request is not None
    assert "secret" not in str(caught.value)


SECRETS = {"Authorization": "a", "Cookie": "b", "Proxy-Authorization": "c", "Host": "d"}


@pytest.mark.parametrize(
    "location",
    ["http://b.example/", "http://a.example:81/", "https://a.example/", "//www.a.example/"],
)
def test_credentials_do_not_go_to_another_origin(location: str) -> None:
    following = follow(location=location, headers={**SECRETS, "X-Own": "1"})
    assert following.headers == (("X-Own", "1"),)


def test_credentials_stay_within_their_origin() -> None:
    assert follow(headers=SECRETS).headers == tuple(SECRETS.items())
    assert follow(location="http://A.EXAMPLE:80/", headers=SECRETS).headers


def test_what_makes_headers_is_not_asked_for_another_origin() -> None:
    headers = ElaborateHeaders((("X-Own", "1"),), lambda request: SECRETS)
    following = follow(location="//b.example/", headers=headers)
    assert following._options.headers == ElaborateHeaders((("X-Own", "1"),), None)


class Once:
    """A file that can be read once."""

    def read(self, size: int) -> bytes:
        return b""


def used_up() -> Iterator[bytes]:
    generator = (piece for piece in [b"a"])
    list(generator)
    return generator


@pytest.mark.parametrize("body", [iter([b"a"]), Once(), used_up()])
@pytest.mark.parametrize("status", [307, 308])
def test_a_body_that_can_be_read_once_is_not_sent_again(status: int, body: Any) -> None:
    with pytest.raises(RedirectError, match="read only once"):
        follow(status, method="PUT", body=body)


@pytest.mark.parametrize("body", [b"a", [b"a"], io.BytesIO(b"a"), lambda: [b"a"], memoryview(b"a")])
def test_a_body_that_can_be_read_again_is_sent_again(body: Any) -> None:
    assert follow(307, method="PUT", body=body).body is body
