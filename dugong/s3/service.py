"""What all operations on a bucket have in common: its URL, its requests, and `Object`.

Guarantees: a key stands in a URL as S3 signs it, whatever characters it has. No more requests are
under way than `AT_ONCE` says, and none when `under_way` has ended. Any thread may use a `Service`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from email.utils import parsedate_to_datetime
from itertools import count, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from dugong.connection.framing import parse_content_length
from dugong.errors import DugongError
from dugong.headers import Headers
from dugong.pool.checks import check_str
from dugong.pool.request import Request
from dugong.s3.checksums import Sums, sums_of
from dugong.s3.documents import invalid
from dugong.s3.errors import check, may_pass

if TYPE_CHECKING:
    from datetime import datetime

    from dugong.client.client import Client
    from dugong.pool.body import BodyLike
    from dugong.pool.future import ResponseFuture
    from dugong.pool.response import Response
    from dugong.pool.retry.policy import RetryPolicy

__all__ = ["Object", "Service", "bucket_url", "check_key", "object_of", "under_way"]

#: Parts of an object that are under way at the same time.
AT_ONCE = 8

T = TypeVar("T")
Fields = Iterable[tuple[str, str]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Object(NamedTuple):
    """An object of a bucket, without its content.

    `size` is in bytes; `etag` is as the server gives it, in quotes; `modified` is when it was
    stored, or None if the response does not tell. `headers` are those of the response to a request
    for this object alone; those of a list have none.
    """

    key: str
    size: int
    etag: str
    modified: datetime | None
    headers: Headers = Headers()


def bucket_url(name: str, endpoint: str | None, region: str) -> str:
    """Return the URL of the bucket *name*, without a slash at its end.

    *name* may be that URL. Raises TypeError and ValueError if it is none.
    """
    check_str("the name of a bucket", name)
    if endpoint is not None:
        check_str("endpoint", endpoint)
    if "://" in name:
        if endpoint is not None:
            raise TypeError("give the URL of the bucket, or its name and an endpoint")
        url = name
    elif not _NAME.fullmatch(name):
        raise ValueError("the name of a bucket consists of letters, digits and .-_")
    elif endpoint is not None:
        url = f"{endpoint.rstrip('/')}/{name}"
    else:
        domain = f"s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
        # A certificate for *.domain is not for a name with dots in it.
        url = f"https://{domain}/{name}" if "." in name else f"https://{name}.{domain}"
    if "?" in url or "#" in url:
        raise ValueError("the URL of a bucket must have neither a query nor a fragment")
    return Request("GET", url).url.rstrip("/")


class Service:
    """Sends the requests of one bucket, and repeats what the pool cannot repeat, as *retry* says.

    *is_signed* says whether the hash of a body is signed. *tells_crc32* says whether the server has
    told the CRC32 of what it has stored last; then nothing needs the MD5 of what is sent next.
    """

    def __init__(self, client: Client, url: str, retry: RetryPolicy) -> None:
        # None of these changes.
        self.client: Client = client
        self.url: str = url
        self.retry: RetryPolicy = retry
        self.is_signed: bool = not url.lower().startswith("https:")
        # Any thread may set it, and read it; what is sent with the MD5 or without is verified.
        self.tells_crc32: bool = False

    def request(
        self,
        method: str,
        key: str = "",
        query: Fields = (),
        headers: Fields = (),
        body: BodyLike | None = None,
        **options: Any,
    ) -> Request:
        """Return the request for *key*, or for the bucket if that is "". *query* is not encoded."""
        url = f"{self.url}/{quote(key, safe='/~')}"
        if encoded := "&".join(f"{name}={quote(value, safe='~')}" for name, value in query):
            url = f"{url}?{encoded}"
        return Request(method, url, headers=tuple(headers) or None, body=body, **options)

    def send(self, *args: Any, **options: Any) -> Response:
        """Send the `request` of these; return its response. Raises `S3Error` and DugongError."""
        return check(self.client.request(self.request(*args, **options)))

    def submit(self, *args: Any, **options: Any) -> ResponseFuture:
        """Submit the `request` of these."""
        return self.client.submit(self.request(*args, **options))

    def sums_of(self, body: BodyLike) -> Sums:
        """Return the checksums that *body* is sent with now."""
        return sums_of(body, self.is_signed, with_md5=not self.tells_crc32)

    def repeated(self, attempt: Callable[[], T]) -> T:
        """Return what *attempt* returns, which is called again if its error may pass."""
        for number in count(1):
            try:
                return attempt()
            except DugongError as exc:
                if number >= self.retry.attempts or not may_pass(exc):
                    raise
            self.client._pool._scheduler.pause(self.retry.delay(number))
        raise AssertionError


def check_key(key: str) -> str:
    """Return *key*; raise TypeError or ValueError if it cannot be that of an object."""
    check_str("a key", key)
    if not key:
        raise ValueError("a key must not be empty")
    key.encode()  # a surrogate is no text
    return key


def object_of(key: str, response: Response) -> Object:
    """Return the `Object` *key*, of which *response* is that to a GET or HEAD without a range."""
    headers = response.headers
    try:
        size = parse_content_length(headers.get("Content-Length", ""))
    except ValueError:
        raise invalid(response, "the server does not say how large the object is") from None
    try:
        modified = parsedate_to_datetime(headers.get("Last-Modified", ""))
    except ValueError:
        modified = None
    return Object(key, size, headers.get("ETag", ""), modified, headers)


def under_way(submitted: Iterator[ResponseFuture]) -> Iterator[ResponseFuture]:
    """Yield the futures that *submitted* gives, as they are done, no more than `AT_ONCE` before.

    When this ends, however it does, all of them are done: what they send is not used any more.
    """
    pending: set[ResponseFuture] = set()
    try:
        while True:
            for future in islice(submitted, AT_ONCE - len(pending)):
                pending.add(future)
            if not pending:
                return
            wait(pending, return_when=FIRST_COMPLETED)
            for future in [each for each in pending if each.done()]:
                pending.remove(future)
                yield future
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
