"""Checksums: those of parts together are those of the whole."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dugong import FilePart
from dugong.headers import Headers
from dugong.s3.checksums import expected_of, hash_of_etag, sums_of, verifier, whole_of

DATA = random.Random(7).randbytes(700_000)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_sums_of_a_body_are_those_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with open(tmp_path / "file", "rb") as file:
        for body in (DATA, memoryview(DATA), io.BytesIO(DATA), FilePart(file)):
            sums = sums_of(body, is_signed=True)
            assert sums.size == len(DATA)
            assert dict(sums.fields) == {
                "Content-MD5": b64(hashlib.md5(DATA).digest()),
                "x-amz-checksum-crc32": b64(zlib.crc32(DATA).to_bytes(4)),
                "x-amz-content-sha256": hashlib.sha256(DATA).hexdigest(),
            }
        part = sums_of(FilePart(file, 100, 50), is_signed=False)
        assert part.md5 == hashlib.md5(DATA[100:150]).digest()
        assert part.sha256 == "UNSIGNED-PAYLOAD"
        assert "Content-MD5" not in dict(sums_of(DATA, True, with_md5=False).fields)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_the_sums_of_parts_make_those_of_the_whole(parts: list[bytes]) -> None:
    whole = whole_of([sums_of(part, False) for part in parts])
    data = b"".join(parts)
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    assert whole.size == len(data)
    assert whole.crc32 == b64(zlib.crc32(data).to_bytes(4))
    assert whole.etag == f"{hashlib.md5(md5s).hexdigest()}-{len(parts)}"


def test_a_whole_has_no_hash_if_a_part_has_none() -> None:
    parts = [sums_of(b"a", False), sums_of(b"b", False, with_md5=False)]
    assert whole_of(parts).etag is None
    assert not whole_of(parts).contradicts(f'"{hashlib.md5(b"x").hexdigest()}-2"', None, Headers())


def test_a_crc_counts_before_an_etag() -> None:
    expected = expected_of(sums_of(b"content", False))
    nothing = Headers()
    other = expected_of(sums_of(b"other", False))
    assert not expected.contradicts(f'"{expected.etag}"', None, nothing)
    assert expected.contradicts(f'"{other.etag}"', None, nothing)
    assert not expected.contradicts(f'"{other.etag}"', expected.crc32, nothing)
    assert expected.contradicts(f'"{expected.etag}"', other.crc32, nothing)
    # That of the checksums of parts says nothing of the whole.
    assert not expected.contradicts(f'"{expected.etag}"', f"{other.crc32}-2", nothing)
    assert not expected.contradicts("no hash", None, nothing)
    assert not expected.contradicts("", None, nothing)


@pytest.mark.parametrize(
    ("etag", "known"),
    [
        (f'"{"a" * 32}"', "a" * 32),
        ("A" * 32, "a" * 32),
        (f'"{"a" * 32}-12"', f"{'a' * 32}-12"),
        (f'W/"{"a" * 32}"', None),
        ('"1-2"', None),
        ("", None),
        (None, None),
    ],
)
def test_an_etag_is_a_hash_if_it_looks_like_one(etag: str | None, known: str | None) -> None:
    assert hash_of_etag(etag) == known


def test_what_the_customer_or_kms_has_encrypted_has_no_hash() -> None:
    etag = "a" * 32
    for name, value, known in (
        ("x-amz-server-side-encryption", "AES256", etag),
        ("x-amz-server-side-encryption", "aws:kms", None),
        ("x-amz-server-side-encryption", "aws:kms:dsse", None),
        ("x-amz-server-side-encryption-customer-algorithm", "AES256", None),
    ):
        assert hash_of_etag(etag, Headers([(name, value)])) == known


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-amz-checksum-sha256", b64(hashlib.sha256(DATA).digest())),
        ("x-amz-checksum-sha1", b64(hashlib.sha1(DATA).digest())),
        ("x-amz-checksum-crc32", b64(zlib.crc32(DATA).to_bytes(4))),
        ("ETag", f'"{hashlib.md5(DATA).hexdigest()}"'),
    ],
)
def test_a_body_is_verified_by_what_is_known(name: str, value: str) -> None:
    verify = verifier(Headers([(name, value)]))
    assert verify is not None
    assert verify([DATA[:1000], DATA[1000:]])
    assert not verify([DATA[:1000]])


def test_what_cannot_be_calculated_verifies_nothing() -> None:
    for fields in (
        [],
        [("ETag", f'"{"a" * 32}-2"')],
        [("x-amz-checksum-crc32", "AAAAAA==-2")],
        [("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")],
    ):
        assert verifier(Headers(fields)) is None
