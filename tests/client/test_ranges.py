"""What a response says of the part of a file that it has."""

from __future__ import annotations

import pytest

from dugong import Headers
from dugong.client.ranges import content_range


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("bytes 5-9/100", (5, 100)),
        ("bytes 0-0/*", (0, None)),
        ("bytes */100", None),
        ("items 5-9/100", None),
        ("bytes 5-9/100, 20-29/100", None),
        ("", None),
    ],
)
def test_the_first_byte_and_the_size_are_said(value: str, said: tuple[int, int | None]) -> None:
    assert content_range(Headers([("Content-Range", value)])) == said


def test_nothing_is_said_without_the_field() -> None:
    assert content_range(Headers()) is None
