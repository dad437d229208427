"""The client and httpbin, a server that was not written by us."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dugong import DigestAuth, HTTPStatusError
from dugong.client.client import Client
from tests.support.httpbin import open_httpbin


@pytest.fixture(scope="module")
def httpbin() -> Iterator[str]:
    """The URL of httpbin, which runs while the tests of this module do."""
    with open_httpbin() as url:
        yield url


@pytest.fixture
def client(httpbin: str) -> Iterator[Client]:
    """A client of httpbin."""
    with Client(base_url=httpbin, trust_env=False) as client:
        yield client


def test_parameters_and_headers_arrive(client: Client) -> None:
    params = {"a": ["1", "2"], "b": "\u00e4 &"}
    received = client.get("/get", params=params, headers={"X-Own": "1"}).json()
    assert received["args"] == params
    assert received["headers"]["X-Own"] == "1"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_coded_responses_are_decoded(client: Client, coding: str) -> None:
    name = {"gzip": "gzipped", "deflate": "deflated"}[coding]
    response = client.get(f"/{coding}")
    assert response.headers["Content-Encoding"] == coding
    assert response.json()[name] is True


def test_forms_arrive(client: Client) -> None:
    assert client.post("/post", data={"a": ["1", "2"], "b": "\u00e4"}).json()["form"] == {
        "a": ["1", "2"],
        "b": "\u00e4",
    }


def test_json_arrives(client: Client) -> None:
    value = {"a": ["\u00e4", None, 1.5]}
    assert client.put("/put", json=value).json()["json"] == value


def test_files_arrive(client: Client) -> None:
    files = {"file": ("n\u00e4me.txt", b"content", "text/plain")}
    received = client.post("/post", data={"field": "value"}, files=files).json()
    assert received["form"] == {"field": "value"}
    assert received["files"] == {"file": "content"}


@pytest.mark.parametrize("path", ["/redirect/3", "/absolute-redirect/3", "/relative-redirect/3"])
def test_redirects_are_followed(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.url.endswith("/get")
    assert [earlier.status for earlier in response.history] == [302] * 3


def test_a_redirect_that_keeps_the_method_keeps_the_body(client: Client) -> None:
    params = {"url": "/post", "status_code": "307"}
    assert client.post("/redirect-to", params=params, json=1).json()["json"] == 1


def test_cookies_are_kept(client: Client) -> None:
    assert client.get("/cookies/set", params={"a": "1"}).json()["cookies"] == {"a": "1"}
    assert client.get("/cookies/delete", params={"a": ""}).json()["cookies"] == {}


def test_basic_authentication(client: Client) -> None:
    response = client.get("/basic-auth/user/p%C3%A4ss", auth=("user", "p\u00e4ss"))
    assert response.json()["authenticated"] is True
    assert client.get("/basic-auth/user/other", auth=("user", "wrong")).status == 401


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_digest_authentication(client: Client, qop: str, algorithm: str) -> None:
    auth = DigestAuth("user", "password")
    path = f"/digest-auth/{qop}/user/password/{algorithm}"
    for _ in range(2):
        assert client.get(path, auth=auth).json()["authenticated"] is True
    wrong = DigestAuth("user", "wrong")
    assert client.get(path, auth=wrong).status == 401


def test_a_status_is_an_error_if_it_is_asked_for(client: Client) -> None:
    with pytest.raises(HTTPStatusError, match="418"):
        client.get("/status/418").raise_for_status()


def test_a_body_of_unknown_length_is_streamed(client: Client) -> None:
    with client.stream("GET", "/stream/20") as response:
        assert response.length is None
        assert [line.startswith('{"') for line in response.iter_lines()] == [True] * 20


def test_many_responses_come_in_order(client: Client) -> None:
    responses = client.map([f"/get?n={number}" for number in range(100)])
    assert [response.json()["args"]["n"] for response in responses] == list(map(str, range(100)))
