"""The fields behind a body in chunks."""

from __future__ import annotations

from typing import Any

import pytest

from dugong import Headers
from dugong.connection.trailers import trailer_lines


@pytest.mark.parametrize(
    "fields",
    [
        {"X-Checksum": "1", "Server-Timing": "a; dur=2"},
        [("X-Checksum", "1"), ("Server-Timing", "a; dur=2")],
        Headers({"X-Checksum": "1", "Server-Timing": "a; dur=2"}),
    ],
)
def test_each_field_is_a_line(fields: Any) -> None:
    assert trailer_lines(fields) == b"X-Checksum: 1\r\nServer-Timing: a; dur=2\r\n"


def test_no_fields_are_no_lines() -> None:
    assert trailer_lines({}) == b""


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "CONNECTION",
        "content-encoding",
        "Content-Length",
        "Content-Range",
        "Content-Type",
        "Cookie",
        "Expect",
        "Host",
        "If-Match",
        "Proxy-Authorization",
        "Range",
        "TE",
        "Trailer",
        "transfer-encoding",
        "Upgrade",
    ],
)
def test_what_belongs_in_front_of_the_body_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be sent behind the body") as caught:
        trailer_lines({"X-Checksum": "1", name: "secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"X": "a\r\nb"}, {"a b": "c"}, {"": "c"}, {"X": "\0"}])
def test_what_cannot_be_sent_is_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match="header"):
        trailer_lines(fields)


@pytest.mark.parametrize("fields", ["text", b"bytes", 3, ["pair"]])
def test_what_are_no_fields_is_refused(fields: Any) -> None:
    with pytest.raises(TypeError, match="pairs"):
        trailer_lines(fields)
