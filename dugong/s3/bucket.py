"""`Bucket`: the objects of one bucket. Its methods block; any thread may call them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dugong.client.client import Client
from dugong.pool.checks import check_call, check_counts, check_str
from dugong.pool.options import checked_headers
from dugong.pool.retry.policy import RetryPolicy
from dugong.s3.auth import S3Auth
from dugong.s3.documents import document, invalid, number_in, text_of
from dugong.s3.download import ASK_CHECKSUM, download, verified
from dugong.s3.service import Object, Service, bucket_url, check_key, object_of
from dugong.s3.sync import Synced, sync
from dugong.s3.upload import OpenUpload, abort, open_uploads, store

if TYPE_CHECKING:
    from types import TracebackType

    from dugong.connection.encode import HeadersLike
    from dugong.pool.body import BodyLike
    from dugong.pool.response import Response
    from dugong.pool.statistics import PoolStatistics

__all__ = ["Bucket"]

PART_SIZE = 16 * 2**20
#: Header fields of a body, which are calculated here.
_MADE = frozenset(("content-length", "content-md5", "x-amz-checksum-crc32", "x-amz-content-sha256"))
_REPLACED = "\ufffd"  # what stands for a character that cannot be written
_OWN = frozenset(("auth", "base_url", "decode", "follow_redirects"))


class Bucket:
    """A bucket of S3, or of a server with the same interface.

    Parameters:

    * *name*: of the bucket, or its URL, such as ``https://s3.example.com/backups``.
    * *endpoint*: the URL of the server, unless that is Amazon's: ``https://s3.example.com``.
    * *region*, *credentials*: as of `S3Auth`.
    * *part_size*: bytes. What is larger is stored in parts of this size. S3 wants at least 5 MiB,
      and has at most 10,000 parts: those of a very large file are larger.
    * *client_options*: those of `Client`, such as *pool*, *verify*, *proxy*, *timeout* and *retry*.
      But redirects are not followed, and what comes is not decoded.

    Raises TypeError or ValueError if these make no sense, and what botocore raises when it looks
    for credentials.

    All methods raise `S3Error` for what S3 refuses, `ChecksumError`, the exceptions of a pool, and
    what botocore raises when credentials cannot be renewed. Requests are retried as *retry* says,
    each attempt with a signature of its own.

    Guarantees: when `put` returns, the server has confirmed that it has stored the body, and its
    checksum was right. What `get` returns and `download` writes is complete, and of one version.
    No signature is older than its attempt, and none goes to another host. Any thread may call any
    method. A bucket is a context manager, which closes it at the end.

    Attributes: `url`, that of the bucket; `region`.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        credentials: Any = None,
        part_size: int = PART_SIZE,
        **client_options: Any,
    ) -> None:
        if taken := _OWN.intersection(client_options):
            raise TypeError(f"a Bucket does not take {', '.join(sorted(taken))}")
        check_counts(part_size=part_size)
        auth = S3Auth(credentials, region)
        # None of these changes.
        self.region: str = auth.region
        self.url: str = bucket_url(name, endpoint, auth.region)
        self._part_size = part_size
        # To another host a signature must not go, and no other would do.
        self._client = Client(
            base_url=self.url, auth=auth, decode=False, follow_redirects=False, **client_options
        )
        retry = client_options.get("retry", RetryPolicy())
        self._service = Service(self._client, self.url, retry or RetryPolicy.never)

    # --- objects ----------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: BodyLike | os.PathLike[str],
        *,
        headers: HeadersLike | None = None,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> Object:
        """Store *body* as the object *key*, and return that; block until then.

        * *body*: bytes-like; a path, such as a `pathlib.Path`; a binary file, from where it stands;
          or an iterable of bytes. What is no file on disk is kept in memory, a few parts at a time.
        * *headers*: such as Content-Type, Cache-Control, ``x-amz-meta-...``, or If-None-Match.
        * *progress*: called with how many bytes are stored, and of how many (None: not known), in
          the thread of the call, after each part.

        A body larger than *part_size* is stored in parts, several of them at the same time. Each is
        retried by itself. If one fails for good, the upload is aborted. If the process is killed,
        the next `put` of the key goes on: it finds the open upload, and sends the parts whose MD5
        differs. An upload with *headers* always begins anew, because a server does not tell which
        headers an open upload has.

        The server verifies the CRC32 of each request, without TLS also a signed SHA-256, and the
        MD5 unless it is known to return the CRC32. The checksum that it returns is compared here.
        The *body* is read twice.

        Raises OSError for a file that cannot be read, and ValueError and TypeError for a body that
        cannot be sent.
        """
        fields = () if headers is None else checked_headers(headers)
        if made := _MADE.intersection(name.lower() for name, _ in fields):
            raise ValueError(f"{', '.join(sorted(made))} cannot be given: it is calculated")
        check_key(key)
        if progress is not None:
            check_call("progress", progress)
        if isinstance(body, os.PathLike):
            with open(body, "rb") as file:
                return store(self._service, key, file, fields, self._part_size, progress)
        if body is None or isinstance(body, (str, Mapping)):
            raise TypeError(f"a body must be bytes, a path or a file, not {type(body).__name__}")
        return store(self._service, key, body, fields, self._part_size, progress)

    def get(self, key: str) -> Response:
        """Return the response with all of the object *key* in its `body`; block until then.

        An object larger than *max_body_size* of the pool is a `ResponseTooLarge`: use `download`.
        The checksum of the body is verified, if the server sends one that Python can compute.
        """
        return verified(self._service.send("GET", check_key(key), headers=ASK_CHECKSUM))

    def download(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> Object:
        """Write the object *key* to the file *path*, and return the object; block until then.

        A large object is fetched in several ranges at a time, of *part_size* or 16 MiB. If the
        object is replaced meanwhile, that is an `S3Error` with the code PreconditionFailed. The
        checksum is verified as by `get`. The file is replaced when all of that is done and on the
        disk; whatever fails, it is as it was before. Until then, what has come is in a hidden file
        beside it. If the download fails, or the process is killed, that stays, and the next
        download of *key* to *path* asks for the rest, if the object still has the same strong ETag;
        nothing stays if the checksum is wrong or the object was replaced. *progress* is called with
        how many bytes there are, and of how many, in the thread of the call, after each range.
        Raises OSError, too: BlockingIOError while another download to *path* is under way, and
        FileExistsError if that is the partial file of another one.
        """
        check_key(key)
        if progress is not None:
            check_call("progress", progress)
        size = min(self._part_size, PART_SIZE)
        return download(self._service, key, os.fsdecode(path), size, progress)

    def head(self, key: str) -> Object:
        """Return the object *key* without its content; its `headers` have all that is known of it.

        That there is none is an `S3Error` with the code NotFound.
        """
        return object_of(key, self._service.send("HEAD", check_key(key), headers=ASK_CHECKSUM))

    def delete(self, key: str) -> None:
        """Delete the object *key*. Does nothing if there is none."""
        self._service.send("DELETE", check_key(key))

    def list(self, prefix: str = "") -> Iterator[Object]:
        """Yield the objects whose keys begin with *prefix*, in the order of the server.

        A page of a thousand is requested when it is needed. So an object that is stored or deleted
        meanwhile may be among them or not.
        """
        check_str("prefix", prefix)
        return self._list(prefix)

    def _list(self, prefix: str) -> Iterator[Object]:
        query = {"list-type": "2", "encoding-type": "url"}
        if prefix:
            query["prefix"] = prefix
        key = ""
        after: dict[str, str] = {}
        while True:
            response = self._service.send("GET", "", (query | after).items())
            root = document(response, "ListBucketResult")
            coding = text_of(root, "EncodingType")
            for each in root.iter("Contents"):
                key = text_of(each, "Key", coding)
                yield Object(
                    key,
                    number_in(response, each, "Size"),
                    text_of(each, "ETag"),
                    _time_of(text_of(each, "LastModified")),
                )
            if text_of(root, "IsTruncated") != "true":
                return
            before, token = after, text_of(root, "NextContinuationToken")
            # XML has no control characters. Where a token is a key, it is another one without them,
            # and would leave out what is between the two.
            is_damaged = _REPLACED in token
            after = {"start-after": key} if is_damaged else {"continuation-token": token}
            if not token or after == before:
                raise invalid(response, "the server does not say where the list goes on")

    def sync(self, directory: str | os.PathLike[str], prefix: str = "") -> Synced:
        """Store the files below *directory* that differ from the objects below *prefix*.

        The key of a file is *prefix*, a slash (if the prefix is not empty, and has none at its
        end), and its path below the directory with slashes. A file is there if its object has the
        same size and the same MD5 as its ETag; or that of the MD5s of its parts, if these have the
        *part_size* of this bucket. So what another program has stored in parts is stored again,
        once; and what KMS encrypts is stored again each time, for its ETag is no MD5.

        All objects below the prefix are listed first. Small files are sent many at a time, then
        large ones in parts as by `put`, up to four files at a time. Nothing is deleted; but an
        upload in parts that was left open of a file that is there without it is aborted. Links to
        files are followed, those to directories are not; what is no file is left out, and so are
        the partial files of downloads by dugong that have failed or are under way.

        Returns which were stored. Raises `SyncError` if some files could not be read or stored,
        when all others are; and what `list` raises. OSError if *directory* cannot be read.
        """
        check_str("prefix", prefix)
        if prefix and not prefix.endswith("/"):
            prefix += "/"
        there = self.list(prefix)
        return sync(self._service, os.fspath(directory), prefix, there, self._part_size)

    # --- uploads that are open --------------------------------------------------------------------

    def uploads(self, prefix: str = "") -> Iterator[OpenUpload]:
        """Yield the uploads in parts that are open, of keys that begin with *prefix*.

        Those are the ones that are under way, and the ones whose process was killed: what they have
        stored costs money.
        """
        check_str("prefix", prefix)
        return open_uploads(self._service, prefix)

    def abort(self, upload: OpenUpload) -> None:
        """Abort *upload*, one of `uploads`: what it has stored is deleted."""
        if not isinstance(upload, OpenUpload):
            raise TypeError(f"upload must be an OpenUpload, not {type(upload).__name__}")
        abort(self._service, upload.key, upload.id)

    # --- the bucket itself ------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """Return what the pool is doing: see `Client.statistics`."""
        return self._client.statistics()

    def close(self) -> None:
        """Close the pool, unless that was given: see `Client.close`."""
        self._client.close()

    def __enter__(self) -> Bucket:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Bucket {self.url}>"


def _time_of(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
