"""Checksums: of what is sent, and of what the server says that it has.

Guarantees: a body is read in pieces, and never kept in memory. Touches only the files it is given.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dugong.pool.body import request_body
from dugong.s3.auth import UNSIGNED_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dugong.headers import Headers
    from dugong.pool.body import BodyLike

__all__ = ["Expected", "Sums", "expected_of", "hash_of_etag", "sums_of", "verifier", "whole_of"]

CRC32 = "x-amz-checksum-crc32"
_HASH = re.compile(r"[0-9a-f]{32}(?:-[1-9][0-9]*)?")
_POLYNOMIAL = 0xEDB88320  # that of zlib.crc32, the highest power last


class Expected(NamedTuple):
    """What a server should say of an object: its hash as in an ETag, and its CRC32 in base64.

    The hash is None if it is not known.
    """

    size: int
    etag: str | None
    crc32: str

    def contradicts(self, etag: str, crc32: str | None, headers: Headers) -> bool:
        """Return True if a server that has said this has something else.

        The CRC32 counts if there is one, of all of the object. Otherwise the *etag* does, if it is
        made of MD5s. *headers* are those of the response.
        """
        if crc32 is not None and "-" not in crc32:
            return crc32 != self.crc32
        known = hash_of_etag(etag, headers)
        return None not in (known, self.etag) and known != self.etag


class Sums(NamedTuple):
    """The checksums of a body. `sha256` is in hex, or stands for none; `md5` may not be known."""

    size: int
    md5: bytes | None
    crc32: int
    sha256: str

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields by which the server verifies it."""
        fields = ((CRC32, _in_base64(self.crc32)), ("x-amz-content-sha256", self.sha256))
        if self.md5 is None:
            return fields
        return (("Content-MD5", base64.b64encode(self.md5).decode()), *fields)


def sums_of(body: BodyLike, is_signed: bool, with_md5: bool = True) -> Sums:
    """Return the checksums of *body*, which can be read more than once.

    With *is_signed*, they have a SHA-256. The MD5 takes more time than all others together.
    """
    if isinstance(body, bytes):
        return _sums((body,), is_signed, with_md5)
    made = request_body(body)
    assert made is not None
    made.rewind()
    try:
        return _sums(made.pieces(), is_signed, with_md5)
    finally:
        made.end_sending()


def _sums(pieces: Iterable[Any], is_signed: bool, with_md5: bool) -> Sums:
    md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
    sha256 = hashlib.sha256() if is_signed else None
    size = crc32 = 0
    for piece in pieces:
        size += len(piece)
        crc32 = zlib.crc32(piece, crc32)
        if md5 is not None:
            md5.update(piece)
        if sha256 is not None:
            sha256.update(piece)
    digest = None if md5 is None else md5.digest()
    return Sums(size, digest, crc32, UNSIGNED_PAYLOAD if sha256 is None else sha256.hexdigest())


def expected_of(sums: Sums) -> Expected:
    """Return what a server should say of an object with *sums*, stored by one request."""
    etag = None if sums.md5 is None else sums.md5.hex()
    return Expected(sums.size, etag, _in_base64(sums.crc32))


def whole_of(parts: Sequence[Sums]) -> Expected:
    """Return what a server should say of an object that was stored in *parts*."""
    size = crc32 = 0
    md5s: list[bytes] = []
    for part in parts:
        size += part.size
        crc32 = _times(_power(8 * part.size), crc32) ^ part.crc32
        if part.md5 is not None:
            md5s.append(part.md5)
    etag = None
    if len(md5s) == len(parts):
        etag = f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(parts)}"
    return Expected(size, etag, _in_base64(crc32))


def hash_of_etag(etag: str | None, headers: Headers | None = None) -> str | None:
    """Return the MD5 in hex that *etag* is, or that of the MD5s of parts with their number.

    None if it is something else, as it is if *headers* tell of a key of the customer's or of KMS.
    """
    if headers is not None and (
        headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
        or "x-amz-server-side-encryption-customer-algorithm" in headers
    ):
        return None
    value = (etag or "").strip('"').lower()
    return value if _HASH.fullmatch(value) else None


def verifier(headers: Headers) -> Callable[[Iterable[Any]], bool] | None:
    """Return what says if the pieces of an object are what *headers* of its response promise.

    None if they promise nothing that can be calculated here.
    """
    for name, make in (("sha256", hashlib.sha256), ("sha1", hashlib.sha1)):
        value = headers.get(f"x-amz-checksum-{name}", "-")
        if "-" not in value:
            return lambda pieces: _digest(make, pieces) == value
    value = headers.get(CRC32, "-")
    if "-" not in value:
        return lambda pieces: _in_base64(_crc32(pieces)) == value
    known = hash_of_etag(headers.get("ETag"), headers)
    if known is None or "-" in known:
        return None
    return lambda pieces: _md5(pieces) == known


def _digest(make: Callable[..., Any], pieces: Iterable[Any]) -> str:
    digest = make(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return base64.b64encode(digest.digest()).decode()


def _md5(pieces: Iterable[Any]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _crc32(pieces: Iterable[Any]) -> int:
    crc32 = 0
    for piece in pieces:
        crc32 = zlib.crc32(piece, crc32)
    return crc32


def _in_base64(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4)).decode()


# A CRC is a polynomial over GF(2), kept with its lowest power in the highest bit. That of A and
# then B is that of A times x to the number of the bits of B, plus that of B.


def _times(a: int, b: int) -> int:
    """Return *a* times *b*, modulo the polynomial of CRC32."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _power(exponent: int) -> int:
    """Return x to the *exponent*, modulo the polynomial of CRC32."""
    result, square = 1 << 31, 1 << 30
    while exponent:
        if exponent & 1:
            result = _times(result, square)
        square = _times(square, square)
        exponent >>= 1
    return result
