"""What all downloads of a run have in common."""

from __future__ import annotations

import pytest

from dugong import ConnectionTimedOut, Headers, HTTPStatusError, Request, Response
from dugong.cli.download import Fetching, check_status
from dugong.cli.names import Names
from dugong.cli.settings import Settings


def response(status: int = 200, headers: dict[str, str] | None = None) -> Response:
    request = Request("GET", "http://h/")
    return Response(status, "Whatever", Headers((headers or {}).items()), b"", request)


def test_a_success_is_none_to_speak_of() -> None:
    for status in (200, 201, 204, 206):
        check_status(response(status))


@pytest.mark.parametrize("status", [304, 404, 500])
def test_all_else_is_a_failure(status: int) -> None:
    with pytest.raises(HTTPStatusError):
        check_status(response(status))


@pytest.mark.parametrize(
    ("method", "headers", "repeats", "continues"),
    [
        ("GET", (), True, True),
        ("GET", (("range", "bytes=1-"),), True, False),
        ("HEAD", (), True, False),
        ("POST", (), False, False),
        ("PUT", (), False, False),
    ],
)
def test_what_may_be_asked_for_twice(
    method: str, headers: tuple[tuple[str, str], ...], repeats: bool, continues: bool
) -> None:
    fetching = Fetching(Settings(headers=headers), method)
    assert fetching.may_continue is continues
    assert fetching.streams_all is not repeats


def test_a_limit_on_the_rate_has_all_bodies_streamed() -> None:
    assert Fetching(Settings(rate=1.0)).streams_all
    assert not Fetching(Settings()).streams_all


def test_each_request_has_what_is_left_of_the_time() -> None:
    assert Fetching(Settings(), options={"body": b"x"}).options() == {"body": b"x"}
    options = Fetching(Settings(deadline=100.0)).options()
    assert 90 < options["deadline"] <= 100


def test_no_request_is_made_after_the_deadline() -> None:
    fetching = Fetching(Settings(deadline=1e-9))
    with pytest.raises(ConnectionTimedOut, match="the deadline has passed"):
        fetching.options()


def test_a_server_names_a_file_only_if_it_may() -> None:
    named = response(headers={"Content-Disposition": "attachment; filename=a"})
    assert Fetching(Settings()).names_for(named) is None
    fetching = Fetching(Settings(), names=Names())
    assert fetching.names_for(response()) is None
    names = fetching.names_for(named)
    assert names is not None
    assert [next(names), next(names)] == ["a", "a.1"]
