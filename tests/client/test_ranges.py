"""What a response says of the part of a file that it has."""

from __future__ import annotations

import pytest

from dugong import Headers
from dugong.client.ranges import content_range, strong_validator


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("bytes 5-9/100", (5, 9, 100)),
        ("bytes 0-0/*", (0, 0, None)),
        ("bytes */100", None),
        ("items 5-9/100", None),
        ("bytes 5-9/100, 20-29/100", None),
        ("bytes 9-5/100", None),
        ("bytes 9-5/*", None),
        ("bytes 5-100/100", None),
        (f"bytes 0-0/{'9' * 5000}", None),
        ("", None),
    ],
)
def test_the_part_and_the_size_are_said(
    value: str, said: tuple[int, int, int | None] | None
) -> None:
    assert content_range(Headers([("Content-Range", value)])) == said


def test_nothing_is_said_without_the_field() -> None:
    assert content_range(Headers()) is None


OLD = "Sat, 01 Jan 2000 00:00:00 GMT"
NEW = "Sat, 01 Jan 2000 00:00:01 GMT"


@pytest.mark.parametrize(
    ("fields", "validator"),
    [
        ({"ETag": '"a"'}, '"a"'),
        ({"ETag": 'W/"a"'}, ""),
        ({"ETag": "a"}, ""),
        ({"Last-Modified": OLD, "Date": NEW}, OLD),
        ({"Last-Modified": OLD, "Date": OLD}, ""),
        ({"Last-Modified": NEW, "Date": OLD}, ""),
        ({"Last-Modified": OLD}, ""),
        ({"Last-Modified": "then", "Date": NEW}, ""),
        ({"Last-Modified": OLD, "Date": NEW, "ETag": 'W/"a"'}, ""),
        ({}, ""),
    ],
)
def test_a_version_has_a_name_that_no_other_version_can_have(
    fields: dict[str, str], validator: str
) -> None:
    assert strong_validator(Headers(fields.items())) == validator
