"""The Bloom filter: all that was added is found, and next to nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from hashlib import blake2b

import pytest

from dugong.crawl import bloom as module
from dugong.crawl.bloom import DIGEST, TABLE, Bloom, stages


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    monkeypatch.setattr(module, "_FIRST", 1024)
    made = sqlite3.connect(":memory:")
    made.execute(TABLE)
    yield made
    made.close()


def digest(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=DIGEST).digest()


def test_what_was_added_is_found_and_next_to_nothing_else(database: sqlite3.Connection) -> None:
    bloom = Bloom(database)
    count = 10 * 1024
    for number in range(count):
        if digest(number) in bloom:
            pytest.fail("it is one in a million, but these are always the same ones")
        bloom.add(digest(number))
    assert all(digest(number) in bloom for number in range(count))
    assert not any(digest(number) in bloom for number in range(count, 3 * count))
    assert stages(bloom.count) == 4
    (size,) = database.execute("SELECT sum(length(bits)) FROM bloom").fetchone()
    assert size <= 4 * 1024 * (2**4 - 1)


def test_few_are_found_that_were_not_added_even_if_it_is_full(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eight times as many in a block, which makes errors that are often enough to count."""
    monkeypatch.setattr(module, "_PER_BLOCK", 512)
    bloom = Bloom(database)
    for number in range(1024):
        bloom.add(digest(number))
    bloom.count -= 1  # all are in the first stage
    found = sum(digest(number) in bloom for number in range(1024, 21024))
    expected = (1 - (1 - 1 / 4096) ** (16 * 512)) ** 16
    assert 0.5 * expected < found / 20000 < 2 * expected


def test_a_filter_goes_on_where_the_table_stands(database: sqlite3.Connection) -> None:
    first = Bloom(database)
    for number in range(2000):
        first.add(digest(number))
    second = Bloom(database)
    second.count = 2000
    assert all(digest(number) in second for number in range(2000))


def test_what_is_rolled_back_was_not_added(database: sqlite3.Connection) -> None:
    database.isolation_level = None
    bloom = Bloom(database)
    database.execute("BEGIN")
    bloom.add(digest(1))
    database.execute("ROLLBACK")
    bloom.count = 1
    assert digest(1) not in bloom


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, 1), (2**20 - 1, 1), (2**20, 2), (3 * 2**20 - 1, 2), (3 * 2**20, 3), (7 * 2**20, 4)],
)
def test_each_stage_is_twice_as_large_as_the_one_before(count: int, expected: int) -> None:
    assert stages(count) == expected
