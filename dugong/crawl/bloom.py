"""A scalable Bloom filter whose blocks are rows of a table: which digests were added, or probably.

Guarantees: what was added is found. Of what was not, about one in a million is found, too, however
many there are. Each takes 4 bytes. All that changes is in the table, so a transaction of the
database is one of the filter. For one thread at a time.

A filter consists of stages, each twice as large as the one before, and of these the last one is
being filled. A digest names one block of a stage, and 16 of its 4096 bits. So there is one row to
be read for each stage, and one to be written.
"""

from __future__ import annotations

import sqlite3

__all__ = ["DIGEST", "TABLE", "Bloom", "stages"]

#: Bytes of the digests that a filter takes.
DIGEST = 32
#: What makes the table of a filter.
TABLE = "CREATE TABLE bloom (stage INTEGER, block INTEGER, bits BLOB, PRIMARY KEY (stage, block))"

_FIRST = 2**20  # digests that the first stage is for
_BLOCK = 512  # bytes of a block
_PER_BLOCK = 128  # digests that a block is for
_HASHES = 16  # bits that are set for each
_BITS = 12  # of a digest that name one bit of a block


def stages(count: int) -> int:
    """Return how many stages there are for *count* digests and one more."""
    return (count // _FIRST + 1).bit_length()


class Bloom:
    """The filter in *database*. `count` is how many were added, which the caller has to know."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._execute = database.execute  # never changes
        self.count: int = 0

    def __contains__(self, digest: bytes) -> bool:
        mask = _mask(digest)
        for stage in reversed(range(stages(self.count))):
            if self._bits(stage, digest) & mask == mask:
                return True
        return False

    def add(self, digest: bytes) -> None:
        """Add *digest*, which is not there."""
        stage = stages(self.count) - 1
        bits = self._bits(stage, digest) | _mask(digest)
        self._execute(
            "INSERT OR REPLACE INTO bloom VALUES (?, ?, ?)",
            (stage, _block(stage, digest), bits.to_bytes(_BLOCK, "little")),
        )
        self.count += 1

    def _bits(self, stage: int, digest: bytes) -> int:
        key = stage, _block(stage, digest)
        row = self._execute("SELECT bits FROM bloom WHERE stage = ? AND block = ?", key).fetchone()
        bits: bytes = b"" if row is None else row[0]
        return int.from_bytes(bits, "little")


def _block(stage: int, digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little") % ((_FIRST << stage) // _PER_BLOCK)


def _mask(digest: bytes) -> int:
    value = int.from_bytes(digest[8:], "little")
    mask = 0
    for _ in range(_HASHES):
        mask |= 1 << (value & (2**_BITS - 1))
        value >>= _BITS
    return mask
