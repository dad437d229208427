"""What a `dugong.crawl.Frontier` has on disk: a SQLite database of the URLs that are known or wait.

Guarantees: what is inserted and removed in a `with` block of a `Store` is in the database when that
is left, or none of it if an exception leaves it, or if the program is killed. What is taken is
forgotten then, and when the file is closed. One process at a time can open a file, and a forked
child of it harms nothing, unless it uses a `Store`. For one thread at a time. Touches the file, and
those of SQLite beside it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b

from dugong.client.forking import begin_anew_in_child
from dugong.crawl.bloom import DIGEST, TABLE, Bloom
from dugong.errors import StateError

__all__ = ["HostIsFull", "Store", "Waiting"]

_APPLICATION = 0x6475676F  # says that a database is one of these
_VERSION = 2
# Bytes of the digest of a URL that stand for it: no two URLs of a crawl have the same ones.
_EXACT = 16

_SCHEMA = f"""
CREATE TABLE host (id INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE, added INTEGER NOT NULL);
CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID;
{TABLE};
CREATE TABLE page (
    id INTEGER PRIMARY KEY, host INTEGER NOT NULL, target TEXT NOT NULL, depth INTEGER NOT NULL,
    priority INTEGER NOT NULL, taken INTEGER NOT NULL, redirects INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX next ON page (host, priority DESC, id) WHERE NOT taken;
CREATE INDEX taken ON page (id) WHERE taken;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""

#: What makes a database of a version one of the next.
_CHANGES = {1: "ALTER TABLE page ADD COLUMN redirects INTEGER NOT NULL DEFAULT 0"}

#: A URL that waits: its key, target, depth and priority, and how many redirects led to it.
Waiting = tuple[int, str, int, int, int]


class HostIsFull(Exception):
    """A host has as many URLs as are taken in."""


class Store:
    """The URLs of a crawl, in the database *path*, or in memory if that is None.

    *max_per_host* is how many URLs of a host are taken in (None: any number), *max_exact* of how
    many it is known for certain whether they were (the others are in a Bloom filter). Raises
    ValueError if *path* is something else, `StateError` if it is in use, OSError if it cannot be
    opened. A `with` block of it raises OSError if the database cannot be read or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        max_per_host: int | None = None,
        max_exact: int | None = None,
    ) -> None:
        # None of these changes.
        self._name = _name_of(path)
        self._max_per_host = max_per_host
        self._max_exact = max_exact
        self._database = _open(path)
        self._bloom = Bloom(self._database)
        # How many URLs were ever inserted, but for those in the filter, which knows how many it
        # has. After a failure both are to be read again by `load`.
        self._exact = 0
        # A transaction goes on from block to block until there is something to be kept: to commit
        # takes longer than all else.
        self._is_to_be_kept = False
        self._is_inside = False  # whether a block has begun, and not ended
        begin_anew_in_child(self)

    def _begin_in_child(self) -> None:
        # To close it takes away the log that the parent goes on to write to, even if the end of the
        # interpreter does it. So one reference is never given back.
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))

    @property
    def known(self) -> int:
        """How many URLs were ever inserted."""
        return self._exact + self._bloom.count

    def __enter__(self) -> Store:
        if self._is_inside:  # an interrupt has kept the last one from its end
            self._roll_back()
        self._is_inside = True
        if not self._database.in_transaction:
            self._database.execute("BEGIN")
        return self

    def __exit__(self, exc_type: object, exc: object, _: object) -> None:
        if exc_type is None and self._is_to_be_kept:
            try:
                self._database.execute("COMMIT")
                self._is_to_be_kept = False
            except sqlite3.DatabaseError as failure:
                exc = failure
        if exc is not None:
            self._roll_back()
        self._is_inside = False
        if isinstance(exc, sqlite3.DatabaseError):
            raise OSError(f"cannot use {self._name}: {exc}") from exc

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
        self._is_to_be_kept = False

    def load(self) -> Iterator[tuple[int, str, int, int]]:
        """Yield each host that has URLs: its key and origin, how many wait, and how many do not."""
        execute = self._database.execute
        self._exact = execute("SELECT count(*) FROM seen").fetchone()[0]
        known = execute("SELECT coalesce(sum(added), 0) FROM host").fetchone()[0]
        self._bloom.count = known - self._exact
        yield from execute(
            "SELECT host.id, origin, count(*) - sum(taken), sum(taken) FROM page"
            " JOIN host ON host.id = page.host GROUP BY host.id"
        )

    def taken(self) -> list[int]:
        """Return the keys of those that are taken."""
        return [key for (key,) in self._database.execute("SELECT id FROM page WHERE taken")]

    def insert(
        self, origin: str, target: str, depth: int, priority: int, redirects: int = 0
    ) -> int | None:
        """Insert a URL; return the key of its host, or None if it is known.

        Raises `HostIsFull` if it is one too many.
        """
        execute = self._database.execute
        digest = blake2b((origin + target).encode(), digest_size=DIGEST).digest()
        exact = digest[:_EXACT]
        if execute("SELECT 1 FROM seen WHERE digest = ?", (exact,)).fetchone():
            return None
        if self._bloom.count and digest in self._bloom:
            return None
        row = execute("SELECT id, added FROM host WHERE origin = ?", (origin,)).fetchone()
        if row is None:
            row = execute("INSERT INTO host (origin, added) VALUES (?, 0)", (origin,)).lastrowid, 0
        host: int = row[0]
        if self._max_per_host is not None and row[1] >= self._max_per_host:
            raise HostIsFull
        self._is_to_be_kept = True
        execute("UPDATE host SET added = added + 1 WHERE id = ?", (host,))
        if self._max_exact is None or self._exact < self._max_exact:
            execute("INSERT INTO seen VALUES (?)", (exact,))
            self._exact += 1
        else:
            self._bloom.add(digest)
        execute(
            "INSERT INTO page (host, target, depth, priority, redirects, taken)"
            " VALUES (?, ?, ?, ?, ?, 0)",
            (host, target, depth, priority, redirects),
        )
        return host

    def take(self, host: int) -> Waiting:
        """Return the next URL of *host*, which has one, and mark it as taken."""
        row: Waiting = self._database.execute(
            "SELECT id, target, depth, priority, redirects FROM page WHERE host = ? AND NOT taken"
            " ORDER BY priority DESC, id LIMIT 1",
            (host,),
        ).fetchone()
        self._database.execute("UPDATE page SET taken = 1 WHERE id = ?", row[:1])
        return row

    def take_again(self, key: int) -> bool:
        """Mark a URL as taken, after a failure; return False if it is gone."""
        cursor = self._database.execute("UPDATE page SET taken = 1 WHERE id = ?", (key,))
        return cursor.rowcount == 1

    def put_back(self, key: int) -> int:
        """Mark a URL that is taken as waiting; return the key of its host."""
        self._database.execute("UPDATE page SET taken = 0 WHERE id = ?", (key,))
        return self.host_of(key)

    def host_of(self, key: int) -> int:
        """Return the key of the host of a URL that is there."""
        query = "SELECT host FROM page WHERE id = ?"
        host: int = self._database.execute(query, (key,)).fetchone()[0]
        return host

    def remove(self, key: int, url: str) -> int | None:
        """Remove a URL, and return the key of its host; None if it is gone."""
        execute = self._database.execute
        row: tuple[int] | None = execute(
            "SELECT host FROM page JOIN host ON host.id = page.host"
            " WHERE page.id = ? AND origin || target = ?",
            (key, url),
        ).fetchone()
        if row is None:
            return None
        self._is_to_be_kept = True
        execute("DELETE FROM page WHERE id = ?", (key,))
        return row[0]

    def close(self) -> None:
        """Close the database. May be called more than once."""
        self._database.close()


def _name_of(path: str | os.PathLike[str] | None) -> str:
    return ":memory:" if path is None else os.fspath(path)


def _open(path: str | os.PathLike[str] | None) -> sqlite3.Connection:
    name = _name_of(path)
    try:
        database = sqlite3.connect(name, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as exc:
        raise OSError(f"cannot open {name}: {exc}") from exc
    try:
        _prepare(database, name)
    except sqlite3.DatabaseError as exc:
        database.close()
        if "locked" in str(exc):
            raise StateError(f"{name} is in use by another Frontier") from exc
        if exc.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ValueError(f"{name} is not the file of a Frontier") from exc
        raise OSError(f"cannot open {name}: {exc}") from exc
    except BaseException:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection, name: str) -> None:
    execute = database.execute
    execute("PRAGMA locking_mode = EXCLUSIVE")
    is_new = not execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    kind = execute("PRAGMA application_id").fetchone()[0]
    version = execute("PRAGMA user_version").fetchone()[0]
    if not is_new and (kind != _APPLICATION or version not in {*_CHANGES, _VERSION}):
        raise ValueError(f"{name} is not the file of a Frontier of this version of dugong")
    # No wait for the disk at each change: the system has it, which is enough if the program dies.
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = NORMAL")
    execute("BEGIN EXCLUSIVE")  # until it is closed, by the locking mode
    try:
        if is_new:
            for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
                execute(statement)
        else:
            for each in range(version, _VERSION):
                execute(_CHANGES[each])
            execute(f"PRAGMA user_version = {_VERSION}")
        execute("UPDATE page SET taken = 0 WHERE taken")
        execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            execute("ROLLBACK")
        raise
