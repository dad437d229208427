"""A bucket: put, get, head, delete, list; what it is made of; errors."""

from __future__ import annotations

import io
import ssl
from pathlib import Path
from typing import Any

import pytest

from dugong import Client, ConnectionPool, RetryPolicy
from dugong.errors import InvalidResponse
from dugong.s3 import Bucket, ChecksumError, S3Error
from tests.support.client import Page, moved
from tests.support.s3 import KEY, SECRET, S3Site, crc32, error, md5, open_bucket

ODD_KEYS = (
    "a b",
    "a+b",
    "a%20b",
    "a%2Fb",
    "ä€🐘",
    "a?b#c&d=e;f",
    "~'!()*,:@$",
    'q"<>|\\^`{}',
    "a..b",
    "x/../y",
    "./z",
    "a//b",
    "/a",
    "trailing/",
    "new\nline",
)


def test_what_was_put_is_got() -> None:
    with open_bucket() as here:
        made = here.bucket.put("a/b", b"content", headers={"x-amz-meta-colour": "blue"})
        assert (made.key, made.size, made.etag) == ("a/b", 7, f'"{md5(b"content")}"')
        response = here.bucket.get("a/b")
        assert response.body == b"content"
        assert response.headers["x-amz-meta-colour"] == "blue"
        found = here.bucket.head("a/b")
        assert (found.key, found.size, found.etag) == ("a/b", 7, made.etag)
        assert found.modified is not None
        assert found.modified.isoformat() == "2026-11-27T07:24:50+00:00"
        assert here.site.refused == []


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_is_quoted_as_it_is_signed(key: str) -> None:
    with open_bucket() as here:
        here.bucket.put(key, b"content")
        assert here.bucket.get(key).body == b"content"
        assert [each.key for each in here.bucket.list(key)] == [key]
        here.bucket.delete(key)
        assert here.site.objects == {}
        assert here.site.refused == []


@pytest.mark.parametrize("key", ["", None, b"key", "\ud800"])
def test_what_is_no_key_is_refused_before_anything_is_sent(key: Any) -> None:
    with open_bucket() as here:
        for call in (
            lambda: here.bucket.put(key, b""),
            lambda: here.bucket.get(key),
            lambda: here.bucket.head(key),
            lambda: here.bucket.delete(key),
            lambda: here.bucket.download(key, "file"),
        ):
            with pytest.raises((TypeError, ValueError), match=r"key|surrogates"):
                call()
        assert here.place.requests == []


def test_each_kind_of_body_is_stored(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with open_bucket() as here, open(tmp_path / "file", "rb") as file:
        file.seek(3)
        kinds: dict[str, Any] = {
            "bytes": b"content",
            "bytearray": bytearray(b"content"),
            "path": tmp_path / "file",
            "bytesio": io.BytesIO(b"content"),
            "iterator": iter([b"con", b"", b"tent"]),
        }
        for key, body in kinds.items():
            here.bucket.put(key, body)
        here.bucket.put("from where it stands", file)
        here.bucket.put("empty", b"")
        for key in kinds:
            assert here.site.objects[key].body == b"content"
        assert here.site.objects["from where it stands"].body == b"tent"
        assert here.site.objects["empty"].body == b""


@pytest.mark.parametrize("name", ["Content-MD5", "x-amz-checksum-crc32", "Content-Length"])
def test_what_is_calculated_cannot_be_given(name: str) -> None:
    with open_bucket() as here:
        with pytest.raises(ValueError, match=name.lower()):
            here.bucket.put("key", b"content", headers={name: "7"})
        assert here.place.requests == []


@pytest.mark.parametrize("body", ["text", None, {"a": b"b"}, 7])
def test_what_is_no_body_is_refused(body: Any) -> None:
    with open_bucket() as here:
        with pytest.raises(TypeError):
            here.bucket.put("key", body)
        assert here.place.requests == []


def test_a_coded_body_comes_back_as_it_was_stored() -> None:
    with open_bucket() as here:
        here.bucket.put("coded", b"no gzip at all", headers={"Content-Encoding": "gzip"})
        assert here.bucket.get("coded").body == b"no gzip at all"


def test_over_https_the_body_is_not_signed_but_verified(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with open_bucket(context=server_context, ssl_context=client_context) as here:
        here.bucket.put("key", b"content")
        (request,) = here.received("PUT")
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert request.headers["x-amz-checksum-crc32"] == crc32(b"content")
        assert "content-md5" in request.headers
        assert here.bucket.get("key").body == b"content"


# --- lists ----------------------------------------------------------------------------------------


def test_a_list_is_asked_for_page_by_page_when_it_is_needed() -> None:
    with open_bucket(S3Site(page_size=2)) as here:
        for n in range(5):
            here.bucket.put(f"list/{n}", bytes(n))
        here.bucket.put("other", b"")
        found = here.bucket.list("list/")
        assert here.received("list-type") == []
        first = next(found)
        assert (first.key, first.size, first.etag) == ("list/0", 0, f'"{md5(b"")}"')
        assert first.modified is not None
        assert len(here.received("list-type")) == 1
        assert [each.key for each in found] == ["list/1", "list/2", "list/3", "list/4"]
        assert len(here.received("list-type")) == 3
        assert [each.size for each in here.bucket.list()] == [0, 1, 2, 3, 4, 0]


def test_a_list_goes_on_behind_a_key_that_xml_cannot_have() -> None:
    keys = ["list/\x01/a", "list/\x01/b", "list/c", "list/\ufffd"]
    with open_bucket(S3Site(page_size=1)) as here:
        for key in keys:
            here.bucket.put(key, b"")
        assert [each.key for each in here.bucket.list()] == keys


def test_a_list_that_does_not_go_on_is_no_end() -> None:
    def endless(request: Any) -> Page:
        text = (
            "<ListBucketResult><IsTruncated>true</IsTruncated>"
            "<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
        )
        return Page(text.encode())

    site = S3Site()
    site.faults += [endless, endless]
    with open_bucket(site) as here, pytest.raises(InvalidResponse, match="goes on"):
        list(here.bucket.list())


def test_a_page_that_is_no_list_is_no_empty_list() -> None:
    site = S3Site()
    site.faults.append(lambda request: Page(b"<html></html>"))
    with open_bucket(site) as here, pytest.raises(InvalidResponse, match="is not a "):
        list(here.bucket.list())


# --- what goes wrong ------------------------------------------------------------------------------


def test_an_error_has_its_code_and_message() -> None:
    with open_bucket() as here, pytest.raises(S3Error) as caught:
        here.bucket.get("nothing")
    assert caught.value.code == "NoSuchKey"
    assert caught.value.message == "The specified key does not exist."
    assert caught.value.response.status == 404
    assert "404 NoSuchKey (The specified key does not exist.)" in str(caught.value)


def test_an_error_without_a_document_has_the_name_of_its_status() -> None:
    with open_bucket() as here, pytest.raises(S3Error) as caught:
        here.bucket.head("nothing")
    assert (caught.value.code, caught.value.message) == ("NotFound", "")


def test_a_busy_server_is_asked_again_with_another_signature() -> None:
    with open_bucket() as here:
        for _ in range(2):
            here.site.faults.append(lambda request: error("503 Slow Down", "SlowDown"))
        here.bucket.put("key", b"content")
        assert here.site.objects["key"].body == b"content"
        assert len(here.received("PUT")) == 3


@pytest.mark.parametrize("code", ["BadDigest", "RequestTimeout"])
def test_a_body_that_was_damaged_on_its_way_is_sent_again(code: str) -> None:
    with open_bucket() as here:
        here.site.faults.append(lambda request: error("400 Bad Request", code))
        here.bucket.put("key", b"content")
        assert len(here.received("PUT")) == 2


def test_without_retries_nothing_is_sent_again() -> None:
    with open_bucket(retry=None) as here:
        here.site.faults.append(lambda request: error("400 Bad Request", "BadDigest"))
        with pytest.raises(S3Error, match="BadDigest"):
            here.bucket.put("key", b"content")
        assert len(here.received("PUT")) == 1


@pytest.mark.parametrize("knows_checksums", [True, False])
def test_what_was_damaged_by_the_server_is_no_success(knows_checksums: bool) -> None:
    site = S3Site(knows_checksums)
    with open_bucket(site, retry=None) as here:
        wrong = here.site._fields_of(b"other")
        here.site.faults.append(lambda request: Page(headers=wrong))
        with pytest.raises(ChecksumError, match="something else"):
            here.bucket.put("key", b"content")


@pytest.mark.parametrize("knows_checksums", [True, False])
def test_what_comes_damaged_is_not_returned(knows_checksums: bool) -> None:
    site = S3Site(knows_checksums)
    with open_bucket(site) as here:
        here.bucket.put("key", b"content")
        fields = here.site._fields_of(b"content")
        here.site.faults.append(lambda request: Page(b"c0ntent", headers=fields))
        with pytest.raises(ChecksumError, match="what the server sent"):
            here.bucket.get("key")


def test_the_etag_of_what_kms_has_encrypted_is_no_md5() -> None:
    with open_bucket() as here:
        fields = f'ETag: "{md5(b"x")}"\r\nx-amz-server-side-encryption: aws:kms\r\n'
        here.site.faults += [lambda request: Page(b"content", headers=fields)] * 2
        here.bucket.put("key", b"content")
        assert here.bucket.get("key").body == b"content"


def test_a_redirect_is_not_followed_and_tells_the_region() -> None:
    elsewhere = S3Site()
    with open_bucket(elsewhere) as other, open_bucket() as here:
        location = f"{other.bucket.url}/key"
        page = moved(location, "307 Temporary Redirect", "x-amz-bucket-region: eu-west-1\r\n")
        here.site.faults.append(lambda request: page)
        with pytest.raises(S3Error, match=r"307 .*the bucket is in the region eu-west-1"):
            here.bucket.put("key", b"content")
        assert other.place.requests == []


# --- what a bucket is made of ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "endpoint", "region", "url"),
    [
        ("backups", None, "eu-west-1", "https://backups.s3.eu-west-1.amazonaws.com"),
        ("my.site", None, "eu-west-1", "https://s3.eu-west-1.amazonaws.com/my.site"),
        ("backups", None, "cn-north-1", "https://backups.s3.cn-north-1.amazonaws.com.cn"),
        ("backups", "http://h:9000/", "r", "http://h:9000/backups"),
        ("https://h/backups/", None, "r", "https://h/backups"),
    ],
)
def test_a_bucket_has_a_url(name: str, endpoint: str | None, region: str, url: str) -> None:
    with Bucket(name, endpoint=endpoint, region=region, credentials=(KEY, SECRET)) as bucket:
        assert bucket.url == url
        assert repr(bucket) == f"<Bucket {url}>"


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": 7},
        {"name": "s3://backups"},
        {"name": "https://h/b?query"},
        {"name": "https://h/b", "endpoint": "https://h"},
        {"endpoint": "h:9000"},
        {"part_size": 0},
        {"part_size": "5M"},
        {"credentials": "KEY:SECRET"},
        {"credentials": ("KEY",)},
        {"decode": True},
        {"follow_redirects": True},
        {"auth": ("user", "password")},
        {"no_such_option": 1},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    parameters = {"name": "backups", "region": "r", "credentials": (KEY, SECRET), **options}
    with pytest.raises((TypeError, ValueError)) as caught:
        Bucket(**parameters)
    assert SECRET not in str(caught.value)


def test_a_pool_that_was_given_is_not_closed() -> None:
    with open_bucket() as here, ConnectionPool() as pool:
        with Bucket(
            here.bucket.url, credentials=(KEY, SECRET), region=here.bucket.region, pool=pool
        ) as bucket:
            bucket.put("key", b"content")
        with Client(pool=pool) as client:
            assert client.get(here.bucket.url).status == 403


def test_never_retrying_is_a_policy_too() -> None:
    with open_bucket(retry=RetryPolicy.never) as here:
        here.site.faults.append(lambda request: error("503 Slow Down", "SlowDown"))
        with pytest.raises(S3Error, match="SlowDown"):
            here.bucket.get("key")
