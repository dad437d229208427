"""A server that speaks the language of S3, for tests: `S3Site`.

It verifies the signature of each request by botocore's own signer, the checksums of each body, and
what is asked of an upload in parts. It can be told to fail.
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote_plus, unquote
from xml.sax.saxutils import escape

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from dugong import RetryPolicy
from dugong.s3 import Bucket
from tests.support.client import Page, Place
from tests.support.server import ReceivedRequest

__all__ = ["KEY", "QUICK", "REGION", "SECRET", "S3Place", "S3Site", "open_bucket"]

KEY, SECRET, REGION = "KEY", "SECRET", "eu-north-1"
QUICK = RetryPolicy(attempts=4, backoff=0.0)

#: Returns what is responded instead; None: go on.
Fault = Callable[[ReceivedRequest], Page | None]


def error(status: str, code: str, message: str = "so it is") -> Page:
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Page(text.encode(), status, "Content-Type: application/xml\r\n")


@dataclass
class Stored:
    body: bytes
    etag: str
    fields: dict[str, str]


@dataclass
class Upload:
    key: str
    fields: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4)).decode()


class S3Site:
    """One bucket, of any name. A function from a request to a response, for any thread.

    *knows_checksums*: it returns CRC32s. *page_size*: how many items a list has at most.
    """

    def __init__(self, knows_checksums: bool = True, page_size: int = 1000) -> None:
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Upload] = {}
        self.aborted: list[str] = []
        self.refused: list[str] = []  # why signatures or checksums were not accepted
        self.faults: list[Fault] = []  # each is asked until it has responded something once
        self.knows_checksums = knows_checksums
        self.page_size = page_size
        self.scheme = "http"
        self._lock = threading.RLock()
        self._created = 0

    def __call__(self, request: ReceivedRequest) -> Page:
        with self._lock:
            for fault in self.faults:
                try:
                    page = fault(request)
                except ConnectionError:
                    self.faults.remove(fault)
                    raise
                if page is not None:
                    self.faults.remove(fault)
                    return page
            if reason := self._objection(request):
                self.refused.append(reason)
                return error("403 Forbidden", "SignatureDoesNotMatch", reason)
            path, _, text = request.target.partition("?")
            query = dict(parse_qsl(text, keep_blank_values=True))
            key = unquote(path.split("/", 2)[2])
            if (page := self._bad_digest(request)) is not None:
                self.refused.append("checksum")
                return page
            return self._respond(request, key, query)

    def _objection(self, request: ReceivedRequest) -> str | None:
        """Return what is wrong with the signature of *request*."""
        match = re.fullmatch(
            rf"AWS4-HMAC-SHA256 Credential={KEY}/\d+/{REGION}/s3/aws4_request, "
            r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            request.headers.get("authorization", ""),
        )
        if match is None:
            return "there is no signature"
        names = match[1].split(";")
        for name in request.headers:
            if (name.startswith("x-amz-") or name == "host") and name not in names:
                return f"{name} is not signed"
        url = f"{self.scheme}://{request.headers['host']}{request.target}"
        signed = AWSRequest(request.method, url, {name: request.headers[name] for name in names})
        digest = request.headers["x-amz-content-sha256"]

        class Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
            def payload(self, request: Any) -> str:
                return digest

        signer = Signer(Credentials(KEY, SECRET), "s3", REGION)
        signed.context["timestamp"] = request.headers["x-amz-date"]
        text = signer.string_to_sign(signed, signer.canonical_request(signed))
        if signer.signature(text, signed) != match[2]:
            return "the signature is wrong"
        if digest == "UNSIGNED-PAYLOAD":
            return None if self.scheme == "https" else "the body is not signed"
        is_right = hashlib.sha256(request.body).hexdigest() == digest
        return None if is_right else "the hash of the body is wrong"

    def _bad_digest(self, request: ReceivedRequest) -> Page | None:
        given = request.headers.get("content-md5")
        mine = base64.b64encode(bytes.fromhex(md5(request.body))).decode()
        if given not in (None, mine):
            return error("400 Bad Request", "BadDigest")
        given = request.headers.get("x-amz-checksum-crc32")
        if request.method == "PUT" and given not in (None, crc32(request.body)):
            return error("400 Bad Request", "BadDigest")
        return None

    def _respond(self, request: ReceivedRequest, key: str, query: dict[str, str]) -> Page:
        method = request.method
        if not key:
            return self._open_uploads(query) if "uploads" in query else self._list(query)
        if "uploads" in query:
            return self._create(request, key)
        if "uploadId" in query:
            upload = self.uploads.get(query["uploadId"])
            if upload is None or upload.key != key:
                return error("404 Not Found", "NoSuchUpload")
            return self._of_upload(request, upload, query)
        if method == "PUT":
            fields = _kept(request)
            self.objects[key] = Stored(request.body, md5(request.body), fields)
            return Page(headers=self._fields_of(request.body))
        if method == "DELETE":
            self.objects.pop(key, None)
            return Page(status="204 No Content")
        return self._read(request, key)

    def _fields_of(self, body: bytes, etag: str | None = None) -> str:
        fields = f'ETag: "{etag or md5(body)}"\r\n'
        if self.knows_checksums:
            fields += f"x-amz-checksum-crc32: {crc32(body)}\r\n"
        return fields

    def _read(self, request: ReceivedRequest, key: str) -> Page:
        stored = self.objects.get(key)
        if stored is None:
            return error("404 Not Found", "NoSuchKey", "The specified key does not exist.")
        if request.headers.get("if-match") not in (None, f'"{stored.etag}"'):
            return error("412 Precondition Failed", "PreconditionFailed")
        fields = "".join(f"{name}: {value}\r\n" for name, value in stored.fields.items())
        fields += "Last-Modified: Fri, 27 Nov 2026 07:24:50 GMT\r\n"
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            start, end = int(match[1]), int(match[2]) + 1
            size = len(stored.body)
            fields += f'ETag: "{stored.etag}"\r\nContent-Range: bytes {start}-{end - 1}/{size}\r\n'
            return Page(stored.body[start:end], "206 Partial Content", fields)
        return Page(stored.body, headers=fields + self._fields_of(stored.body, stored.etag))

    # --- lists ------------------------------------------------------------------------------------

    def _list(self, query: dict[str, str]) -> Page:
        assert query["list-type"] == "2"
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted(
            key
            for key in self.objects
            if key.startswith(query.get("prefix", "")) and (not after or key > after)
        )
        page, rest = keys[: self.page_size], keys[self.page_size :]
        items = "".join(
            f"<Contents><Key>{quote_plus(key)}</Key><Size>{len(self.objects[key].body)}</Size>"
            f"<ETag>&quot;{self.objects[key].etag}&quot;</ETag>"
            "<LastModified>2026-11-27T07:24:50.778Z</LastModified></Contents>"
            for key in page
        )
        token = ""
        if rest:  # a key, as of many servers, less what XML does not have
            text = escape(re.sub("[\x00-\x08]", "\ufffd", page[-1]))
            token = f"<NextContinuationToken>{text}</NextContinuationToken>"
        return _xml("ListBucketResult", items + token, bool(rest), "url")

    def _open_uploads(self, query: dict[str, str]) -> Page:
        after = query.get("upload-id-marker", "")
        ids = [
            name
            for name, upload in sorted(self.uploads.items())
            if upload.key.startswith(query.get("prefix", "")) and name > after
        ]
        page, rest = ids[: self.page_size], ids[self.page_size :]
        items = "".join(
            f"<Upload><Key>{escape(self.uploads[name].key)}</Key><UploadId>{name}</UploadId>"
            f"<Initiated>2026-11-27T07:{name[1:]}:00Z</Initiated></Upload>"
            for name in page
        )
        if rest:
            items += f"<NextKeyMarker>{escape(self.uploads[page[-1]].key)}</NextKeyMarker>"
            items += f"<NextUploadIdMarker>{page[-1]}</NextUploadIdMarker>"
        # As SeaweedFS does, which says what was asked for, and has done nothing.
        coding = query.get("encoding-type", "")
        return _xml("ListMultipartUploadsResult", items, bool(rest), coding)

    # --- uploads in parts -------------------------------------------------------------------------

    def _create(self, request: ReceivedRequest, key: str) -> Page:
        self._created += 1
        name = f"u{self._created:02}"
        self.uploads[name] = Upload(key, _kept(request))
        fields = "x-amz-checksum-type: FULL_OBJECT\r\n" if self.knows_checksums else ""
        page = _xml("InitiateMultipartUploadResult", f"<UploadId>{name}</UploadId>")
        return page._replace(headers=fields)

    def _of_upload(self, request: ReceivedRequest, upload: Upload, query: dict[str, str]) -> Page:
        if request.method == "PUT":
            upload.parts[int(query["partNumber"])] = request.body
            return Page(headers=self._fields_of(request.body))
        if request.method == "DELETE":
            self.aborted.append(query["uploadId"])
            del self.uploads[query["uploadId"]]
            return Page(status="204 No Content")
        if request.method == "GET":
            return self._list_parts(upload, query)
        return self._complete(request, upload, query["uploadId"])

    def _list_parts(self, upload: Upload, query: dict[str, str]) -> Page:
        after = int(query.get("part-number-marker", 0))
        numbers = sorted(number for number in upload.parts if number > after)
        page, rest = numbers[: self.page_size], numbers[self.page_size :]
        items = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{len(upload.parts[number])}</Size>"
            f"<ETag>&quot;{md5(upload.parts[number])}&quot;</ETag></Part>"
            for number in page
        )
        if rest:
            items += f"<NextPartNumberMarker>{page[-1]}</NextPartNumberMarker>"
        if self.knows_checksums:
            items += "<ChecksumType>FULL_OBJECT</ChecksumType>"
        return _xml("ListPartsResult", items, bool(rest))

    def _complete(self, request: ReceivedRequest, upload: Upload, name: str) -> Page:
        if "if-none-match" in request.headers and upload.key in self.objects:
            return error("412 Precondition Failed", "PreconditionFailed")
        named = re.findall(
            r"<PartNumber>(\d+)</PartNumber><ETag>(?:&quot;|\")?([0-9a-f]+)", request.body.decode()
        )
        parts = [upload.parts.get(int(number), b"") for number, _ in named]
        if [md5(part) for part in parts] != [etag for _, etag in named] or not named:
            return error("400 Bad Request", "InvalidPart")
        body = b"".join(parts)
        if request.headers.get("x-amz-checksum-crc32") not in (None, crc32(body)):
            return error("400 Bad Request", "BadDigest")
        etag = f"{md5(b''.join(bytes.fromhex(md5(part)) for part in parts))}-{len(parts)}"
        self.objects[upload.key] = Stored(body, etag, upload.fields)
        del self.uploads[name]
        text = f"<ETag>&quot;{etag}&quot;</ETag>"
        if self.knows_checksums:
            text += f"<ChecksumCRC32>{crc32(body)}</ChecksumCRC32>"
        return _xml("CompleteMultipartUploadResult", text)


def _xml(name: str, text: str, is_truncated: bool = False, coding: str = "") -> Page:
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="http://s3.amazonaws.com/doc/">'
        f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
        f"<EncodingType>{coding}</EncodingType>{text}</{name}>"
    )
    return Page(text.encode())


def _kept(request: ReceivedRequest) -> dict[str, str]:
    """Return the header fields of *request* that are kept with an object."""
    return {
        name: value
        for name, value in request.headers.items()
        if name.startswith("x-amz-meta-") or name in ("content-type", "content-encoding")
    }


@dataclass
class S3Place:
    """A bucket, the site that has it, and what has been received."""

    bucket: Bucket
    site: S3Site
    place: Place

    def received(self, text: str) -> list[ReceivedRequest]:
        """Return the requests whose method and target, with a space between, match *text*."""
        return [
            each for each in self.place.requests if re.search(text, f"{each.method} {each.target}")
        ]


@contextmanager
def open_bucket(
    site: S3Site | None = None, context: ssl.SSLContext | None = None, **options: Any
) -> Iterator[S3Place]:
    """Start a server for *site*, which speaks TLS with *context*, and a `Bucket` with *options*."""
    site = site or S3Site()
    site.scheme = "http" if context is None else "https"
    place = Place(site, context)
    options = {
        "credentials": (KEY, SECRET),
        "region": REGION,
        "retry": QUICK,
        "part_size": 1000,
        "trust_env": False,
        **options,
    }
    with ExitStack() as stack:
        stack.enter_context(place.server)
        endpoint = place.server.url().rstrip("/")
        yield S3Place(
            stack.enter_context(Bucket("bucket", endpoint=endpoint, **options)), site, place
        )


def dropped(request: ReceivedRequest) -> Page:
    """Close the connection without a response, as a fault of a site."""
    raise ConnectionError
