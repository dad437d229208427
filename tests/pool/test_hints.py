"""What other clients call things is refused with the names that they have here."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from dugong import ConnectionPool, Headers, Request, Response, StreamedResponse
from tests.support.pool import each, name_target, open_site

NOWHERE = "http://127.0.0.1:9/"

OPTIONS = {
    "params": "urlencode",
    "json": "json.dumps",
    "data": "body=",
    "content": "body=",
    "files": "body=",
    "verify": "ssl_context=",
    "cert": "ssl_context=",
    "allow_redirects": "Location",
    "follow_redirects": "Location",
    "stream": "with pool.stream",
    "auth": "Authorization",
    "cookies": "Cookie",
    "proxies": "proxy=",
}

CALLS: dict[str, Callable[..., object]] = {
    "request": lambda pool, **options: pool.request("GET", NOWHERE, **options),
    "submit": lambda pool, **options: pool.submit("GET", NOWHERE, **options),
    "stream": lambda pool, **options: pool.stream("GET", NOWHERE, **options),
    "Request": lambda pool, **options: Request("GET", NOWHERE, **options),
    "replace": lambda pool, **options: Request("GET", NOWHERE).replace(**options),
    "ConnectionPool": lambda pool, **options: ConnectionPool(**options),
    **{
        name: lambda pool, name=name, **options: getattr(pool, name)(NOWHERE, **options)
        for name in ("get", "head", "put", "post", "patch", "delete", "options")
    },
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("name", "ours"), OPTIONS.items())
def test_an_option_of_another_client_is_refused_with_what_to_write_instead(
    call: Callable[..., object], name: str, ours: str
) -> None:
    with ConnectionPool() as pool:
        with pytest.raises(TypeError, match=f"no option '{name}'") as caught:
            call(pool, **{name: "secret"})
        assert pool.statistics().queued == 0
    assert ours in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_option_that_nothing_is_known_of_is_refused_with_all_that_there_are(
    call: Callable[..., object],
) -> None:
    with ConnectionPool() as pool, pytest.raises(TypeError, match="no option 'nonsense'") as caught:
        call(pool, nonsense=1)
    assert "headers" in str(caught.value)
    assert "timeout" in str(caught.value)


def whole() -> Response:
    return Response(200, "OK", Headers(), b"{}", Request("GET", NOWHERE))


def streamed() -> StreamedResponse:
    return StreamedResponse(
        200, "OK", Headers(), Request("GET", NOWHERE), 5, io.BytesIO(b'["\xc3\xa4"]')
    )


@pytest.mark.parametrize(
    ("make", "name", "ours"),
    [
        (whole, "status_code", ".status"),
        (whole, "content", ".body"),
        (whole, "ok", ".status < 400"),
        (whole, "is_success", ".status < 400"),
        (whole, "reason_phrase", ".reason"),
        (whole, "iter_content", "pool.stream("),
        (whole, "iter_bytes", "pool.stream("),
        (whole, "read", ".body"),
        (whole, "apparent_encoding", "detected_text()"),
        (streamed, "status_code", ".status"),
        (streamed, "content", "read()"),
        (streamed, "body", "read()"),
        (streamed, "ok", ".status < 400"),
        (streamed, "text", "iter_lines()"),
        (streamed, "json", "json.load"),
        (streamed, "iter_content", "iterate"),
    ],
)
def test_an_attribute_of_another_client_is_refused_with_ours(
    make: Callable[[], object], name: str, ours: str
) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}': ") as caught:
        getattr(make(), name)
    assert ours in str(caught.value)
    assert not hasattr(make(), name)


def test_what_the_hints_say_of_a_stream_is_so() -> None:
    assert json.load(streamed()) == ["\u00e4"]
    assert list(io.TextIOWrapper(streamed(), encoding="utf-8")) == ['["\u00e4"]']  # type: ignore[type-var]


@pytest.mark.parametrize("make", [whole, streamed])
def test_dir_names_only_the_attributes_that_there_are(make: Callable[[], object]) -> None:
    names = dir(make())
    assert "status" in names
    assert [name for name in names if not hasattr(make(), name)] == []


@pytest.mark.parametrize("make", [whole, streamed])
def test_any_other_attribute_is_missing_as_usual(make: Callable[[], object]) -> None:
    with pytest.raises(AttributeError) as caught:
        make().nonsense  # type: ignore[attr-defined]  # noqa: B018
    assert caught.value.name == "nonsense"


def test_a_response_can_be_copied_and_pickled_all_the_same() -> None:
    for other in (copy.copy(whole()), pickle.loads(pickle.dumps(whole()))):
        assert (other.status, other.body) == (200, b"{}")


USES: dict[str, Callable[[Any], object]] = {
    "status": lambda stream: stream.status,
    "read": lambda stream: stream.read(),
    "iteration": list,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_stream_without_a_with_block_says_that_it_needs_one(use: Callable[[Any], object]) -> None:
    with ConnectionPool() as pool:
        stream = pool.stream("GET", NOWHERE)
        with pytest.raises((AttributeError, TypeError), match=r"`with pool\.stream") as caught:
            use(stream)
        assert caught.value.__cause__ is None
        assert "with pool.stream" in repr(stream)


def test_a_stream_whose_block_is_never_reached_lets_go_of_its_connection() -> None:
    with open_site(each(name_target), repeat=True) as here:
        stream = here.pool.stream("GET", here.url("/a"))
        assert stream.__enter__().read() == b"/a"
        del stream
        assert here.goes_on()
        assert here.server.connections == 1
