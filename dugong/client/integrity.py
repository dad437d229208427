"""Digests of what is transferred: of fields (RFC 9530, Content-MD5), and of a caller.

Guarantees: no message quotes a digest. Touches nothing.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as BinasciiError
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from dugong.headers import Headers

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = [
    "ALGORITHMS",
    "Digest",
    "digests_in",
    "field_value",
    "hash_name",
    "mismatch",
    "parse_digest",
]

#: The algorithms of RFC 9530 that are not broken, and what hashlib calls them.
ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
_MEMBER = re.compile(r"(?:^|,)[ \t]*(sha-256|sha-512)=:([A-Za-z0-9+/]*={0,2}):[ \t]*(?=$|[,;])")
_GIVEN = re.compile(r"([A-Za-z0-9_-]+)[=:](.+)")
_IN_FIELD = re.compile(r":([A-Za-z0-9+/]+={0,2}):")


class Digest(NamedTuple):
    """The *value* of a digest; *name* is that of hashlib, and *source* says where it stands."""

    name: str
    value: bytes
    source: str


def hash_name(algorithm: str) -> str:
    """Return what hashlib calls *algorithm*, such as ``sha-256``. Raises ValueError for others."""
    import hashlib

    name = algorithm.lower()
    for known in (name, name.replace("-", ""), name.replace("-", "_")):
        if known in hashlib.algorithms_guaranteed and not known.startswith("shake"):
            return known
    raise ValueError(f"the algorithm {algorithm!r} of the digest is not known")


def parse_digest(given: object) -> Digest:
    """Return what *given*, a caller's digest, says.

    That is an algorithm and a value: ``sha256:HEX`` or ``sha-256=HEX``, or as Repr-Digest has it,
    ``sha-256=:BASE64:``. Raises TypeError and ValueError for anything else.
    """
    if not isinstance(given, str):
        raise TypeError(f"digest must be a str, not {type(given).__name__}")
    match = _GIVEN.fullmatch(given)
    if match is None:
        raise ValueError("digest must be an algorithm and a value, such as 'sha256:HEX'")
    name = hash_name(match[1])
    try:
        in_field = _IN_FIELD.fullmatch(match[2])
        value = bytes.fromhex(match[2]) if in_field is None else b64decode(in_field[1])
    except ValueError:
        raise ValueError("the value of the digest must be hexadecimal, or :BASE64:") from None
    if len(value) != _hash(name).digest_size:
        raise ValueError(f"the value of the digest does not have the length of a {name}")
    return Digest(name, value, "that was given")


def digests_in(headers: Headers, field: str) -> list[Digest]:
    """Return the digests in the *field* of *headers* whose algorithms are known.

    *field* is Content-Digest, Repr-Digest or Content-MD5. What is malformed is as if it were not
    there (RFC 9651 §4.2).
    """
    value = ", ".join(headers.get_all(field, []))
    if not value:
        return []
    members = [("md5", value)] if field == "Content-MD5" else _MEMBER.findall(value)
    found = []
    for name, text in members:
        try:
            digest = b64decode(text, validate=True)
        except BinasciiError:
            continue
        known = ALGORITHMS.get(name, name)
        if len(digest) == _hash(known).digest_size:
            found.append(Digest(known, digest, f"in {field}"))
    return found


def mismatch(digests: Iterable[Digest], pieces: Iterable[bytes]) -> Digest | None:
    """Return one of *digests* that is not that of *pieces*; None if there is none.

    *pieces* are not asked for without a digest.
    """
    wanted = [(each, _hash(each.name)) for each in digests]
    if wanted:
        for piece in pieces:
            for _, made in wanted:
                made.update(piece)
    return next((each for each, made in wanted if made.digest() != each.value), None)


def field_value(algorithm: str, value: bytes) -> str:
    """Return what Content-Digest is for a digest *value* by *algorithm*, one of `ALGORITHMS`."""
    return f"{algorithm}=:{b64encode(value).decode()}:"


def _hash(name: str) -> _Hash:
    import hashlib

    return hashlib.new(name, usedforsecurity=False)
