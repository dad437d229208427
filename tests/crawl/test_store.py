"""The file of a frontier: what can be opened, and by how many."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from dugong import StateError
from dugong.crawl.store import Store


def test_one_store_at_a_time_has_a_file(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    store = Store(path)
    with pytest.raises(StateError, match="in use"):
        Store(path)
    store.close()
    Store(path).close()


def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no database" * 1000)
    with pytest.raises(ValueError, match="not the file of a Frontier"):
        Store(path)
    assert path.read_text() == "no database" * 1000


def test_another_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE page (id)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not the file of a Frontier"):
        Store(path)
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot open"):
        Store(tmp_path / "missing" / "crawl.db")


@pytest.mark.parametrize(
    ("damaged", "message"),
    [("host", "cannot use .* malformed"), ("taken", "cannot open .* malformed")],
)
def test_a_damaged_file_is_an_os_error(damaged: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    store = Store(path)
    with store:
        store.insert("http://a", "/", 0, 0)
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        query = "SELECT rootpage - 1 FROM sqlite_master WHERE name = ?"
        (page,) = database.execute(query, (damaged,)).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with open(path, "r+b") as file:
        file.seek(page * size)
        file.write(b"\xff" * size)
    with pytest.raises(OSError, match=message), contextlib.closing(Store(path)) as store, store:
        list(store.load())


def test_what_an_exception_leaves_is_not_stored() -> None:
    store = Store(None)
    with contextlib.suppress(ZeroDivisionError), store:
        store.insert("http://a", "/", 0, 0)
        raise ZeroDivisionError
    with store:
        assert list(store.load()) == []
        assert store.known == 0
        assert store.insert("http://a", "/", 0, 0) is not None
        assert store.insert("http://a", "/", 0, 0) is None
    store.close()


def test_an_interrupt_that_kept_a_change_from_its_end_harms_no_later_one() -> None:
    store = Store(None)
    store.__enter__()
    store.insert("http://a", "/", 0, 0)
    with store:
        assert store.insert("http://a", "/", 0, 0) is not None
    store.close()


def test_what_is_taken_is_so_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    store = Store(path)
    with store:
        host = store.insert("http://a", "/", 0, 0)
        assert host is not None
    with store:
        key = store.take(host)[0]
    with store:
        assert list(store.load()) == [(host, "http://a", 0, 1)]
    store.close()
    store = Store(path)
    with store:
        assert list(store.load()) == [(host, "http://a", 1, 0)]
        assert store.take(host)[0] == key
    store.close()


#: What version 1 has made, before it kept how many redirects lead to a URL.
VERSION_1 = """
CREATE TABLE host (id INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE, added INTEGER NOT NULL);
CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE bloom (stage INTEGER, block INTEGER, bits BLOB, PRIMARY KEY (stage, block));
CREATE TABLE page (
    id INTEGER PRIMARY KEY, host INTEGER NOT NULL, target TEXT NOT NULL, depth INTEGER NOT NULL,
    priority INTEGER NOT NULL, taken INTEGER NOT NULL
);
CREATE INDEX next ON page (host, priority DESC, id) WHERE NOT taken;
CREATE INDEX taken ON page (id) WHERE taken;
INSERT INTO host VALUES (1, 'http://a', 2);
INSERT INTO page VALUES (1, 1, '/x', 3, 4, 1);
INSERT INTO page VALUES (2, 1, '/y', 5, 0, 0);
PRAGMA application_id = 1685415791;
PRAGMA user_version = 1;
"""


def test_a_file_of_an_older_version_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_1)
    store = Store(path)
    with store:
        assert list(store.load()) == [(1, "http://a", 2, 0)]
        assert store.insert("http://a", "/z", 0, 0, 7) == 1
    store.close()
    store = Store(path)
    with store:
        assert [store.take(1) for _ in range(3)] == [
            (1, "/x", 3, 4, 0),
            (2, "/y", 5, 0, 0),
            (3, "/z", 0, 0, 7),
        ]
    store.close()


def test_a_file_of_a_later_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "crawl.db"
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + 1}")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not the file of a Frontier of this version"):
        Store(path)
    assert path.read_bytes() == before
