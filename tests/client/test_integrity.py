"""Digests: what a caller and a server say, and whether it is so."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any

import pytest

from dugong import Headers
from dugong.client.integrity import digests_in, field_value, hash_name, mismatch, parse_digest

BODY = b"all of it"
SHA256 = hashlib.sha256(BODY).digest()
SHA512 = hashlib.sha512(BODY).digest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).digest()


def base64(value: bytes) -> str:
    return b64encode(value).decode()


@pytest.mark.parametrize(
    "given",
    [
        f"sha256:{SHA256.hex()}",
        f"sha-256={SHA256.hex().upper()}",
        f"SHA-256=:{base64(SHA256)}:",
        f"sha512:{SHA512.hex()}",
        f"md5:{MD5.hex()}",
        f"sha3-256:{hashlib.sha3_256(BODY).hexdigest()}",
        f"blake2b={hashlib.blake2b(BODY).hexdigest()}",
    ],
)
def test_a_digest_of_a_caller_is_an_algorithm_and_a_value(given: str) -> None:
    digest = parse_digest(given)
    assert mismatch([digest], [BODY]) is None
    assert mismatch([digest], [BODY, b"."]) is digest


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (SHA256, TypeError),
        (SHA256.hex(), ValueError),
        ("sha256:", ValueError),
        ("sha256:ab", ValueError),
        ("sha256:nonsense", ValueError),
        ("sha256=:!:", ValueError),
        (f"sha-1024:{SHA256.hex()}", ValueError),
        ("shake128:ab", ValueError),
    ],
)
def test_what_is_no_digest_is_refused(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="digest"):
        parse_digest(given)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (f"sha-256=:{base64(SHA256)}:", ["sha256"]),
        (f"sha-256=:{base64(SHA256)}:, sha-512=:{base64(SHA512)}:", ["sha256", "sha512"]),
        (f"md5=:{base64(MD5)}:,sha-512=:{base64(SHA512)}:;x=1", ["sha512"]),
        (f"sha-256=:{base64(SHA512)}:", []),
        (f"sha-256={base64(SHA256)}", []),
        (f"not-sha-256=:{base64(SHA256)}:", []),
        ("sha-256=:A:", []),
        ("", []),
    ],
)
def test_a_field_has_the_digests_that_are_known_and_well_formed(
    value: str, names: list[str]
) -> None:
    found = digests_in(Headers([("Repr-Digest", value)]), "Repr-Digest")
    assert [digest.name for digest in found] == names
    assert mismatch(found, [BODY[:3], BODY[3:]]) is None


def test_a_field_may_stand_in_several_lines() -> None:
    lines = [f"sha-256=:{base64(SHA256)}:", f"sha-512=:{base64(SHA512)}:"]
    found = digests_in(Headers([("Content-Digest", line) for line in lines]), "Content-Digest")
    assert [digest.name for digest in found] == ["sha256", "sha512"]


@pytest.mark.parametrize(("value", "count"), [(base64(MD5), 1), (base64(SHA256), 0), ("?", 0)])
def test_content_md5_is_one_digest(value: str, count: int) -> None:
    found = digests_in(Headers([("Content-MD5", value)]), "Content-MD5")
    assert len(found) == count
    assert mismatch(found, [BODY]) is None


def test_without_a_digest_nothing_is_read() -> None:
    def pieces() -> Any:
        raise AssertionError
        yield b""

    assert mismatch([], pieces()) is None


def test_a_digest_is_sent_as_it_is_received() -> None:
    value = field_value("sha-512", SHA512)
    [found] = digests_in(Headers([("Repr-Digest", value)]), "Repr-Digest")
    assert (found.name, found.value) == (hash_name("sha-512"), SHA512)
