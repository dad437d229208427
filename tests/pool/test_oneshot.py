"""What is remembered of iterators and streams that were used."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from dugong import Request
from dugong.pool.oneshot import can_be_remembered, is_used, mark_used, rememberable
from tests.support.pool import each, name_target, open_site


def items() -> Iterator[bytes]:
    yield b"a"


def test_what_was_marked_is_used_and_nothing_else_is() -> None:
    one, other = items(), items()
    mark_used(one)
    mark_used(one)
    assert is_used(one)
    assert not is_used(other)


def test_a_generator_that_has_ended_is_used() -> None:
    ended, closed, begun = items(), items(), items()
    list(ended)
    closed.close()  # type: ignore[attr-defined]
    next(begun)
    assert is_used(ended)
    assert is_used(closed)
    assert not is_used(begun)


async def async_items() -> AsyncIterator[bytes]:
    yield b"a"


def test_an_async_generator_that_has_ended_is_used() -> None:
    async def end() -> None:
        ended, begun = async_items(), async_items()
        assert [item async for item in ended] == [b"a"]
        await anext(begun)
        assert is_used(ended)
        assert not is_used(begun)

    asyncio.run(end())


def test_what_was_marked_is_forgotten_with_its_object() -> None:
    one = items()
    mark_used(one)
    alive = weakref.ref(one)
    del one
    gc.collect()
    assert alive() is None
    # One of these is bound to get the place of the first, and its id.
    others = [items() for _ in range(100)]
    assert not any(map(is_used, others))


@pytest.mark.parametrize("source", [[b"a"], b"a", items()])
def test_what_needs_nothing_to_stand_for_it_is_left_as_it_is(source: object) -> None:
    assert rememberable(source) is source


def test_what_stands_for_an_iterator_gives_what_that_gives() -> None:
    iterator = map(bytes, [b"a", b"b", b"c"])
    assert not can_be_remembered(iterator)
    source = rememberable(iterator)
    assert can_be_remembered(source)
    assert isinstance(source, Iterator)
    assert next(source) == b"a"
    assert list(source) == [b"b", b"c"]
    mark_used(iterator)
    assert not is_used(iterator)


class Slotted:
    """A file that can be read once, and that no weak reference can be made to."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = [b"a" * 1000, b"b" * 1000]

    def read(self, size: int) -> bytes:
        return self._left.pop() if self._left else b""


@pytest.mark.parametrize("make", [Slotted, lambda: map(bytes, [[1], [2]])])
def test_a_request_that_is_made_of_another_knows_that_the_body_was_used(
    make: Callable[[], Any],
) -> None:
    with open_site(each(name_target)) as here:
        request = Request("PUT", here.url("/a"), body=make())
        assert here.pool.request(request).body == b"/a"
        with pytest.raises(ValueError, match="used"):
            here.pool.request(request.replace(timeout=3))
