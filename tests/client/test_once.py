"""One request with a client of its own."""

from __future__ import annotations

import pytest

import dugong
from tests.support.client import moved, open_places

METHODS = ["delete", "get", "head", "options", "patch", "post", "put"]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_sends_one_request(method: str) -> None:
    with open_places({}) as (_, [here]):
        response = getattr(dugong, method)(here.url("/a"), params={"x": "1"})
        assert response.status == 200
        assert here.targets == [f"{method.upper()} /a?x=1"]


def test_any_other_method_can_be_sent() -> None:
    with open_places({}) as (_, [here]):
        dugong.request("PROPFIND", here.url("/a"))
        assert here.targets == ["PROPFIND /a"]


def test_redirects_are_followed_and_nothing_is_kept() -> None:
    pages = {"/a": moved("/b", headers="Set-Cookie: a=1\r\n")}
    with open_places(pages) as (_, [here]):
        assert dugong.get(here.url("/a")).url == here.url("/b")
        dugong.get(here.url("/c"))
        assert ["cookie" in request.headers for request in here.requests] == [False, True, False]
