"""How a pool makes a `Job` of a `Request`: with its defaults, and for the host of the URL.

Guarantees: what a caller got wrong is raised here, before anything is sent or queued. Nothing here
changes once it has been made, so any thread may use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dugong
from dugong.connection.dial import absolute_form
from dugong.connection.encode import RequestBuilder
from dugong.connection.framing import list_members, parse_content_length
from dugong.connection.head import field_line
from dugong.connection.writers import BodyFollowing
from dugong.pool.body import request_body
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.request import POOL_DEFAULT, Origin, Request, header_pairs
from dugong.pool.retry import RetryPolicy

if TYPE_CHECKING:
    from dugong.connection.encode import HeadersLike
    from dugong.pool.dialer import Dialer
    from dugong.pool.pool import ConnectionPool
    from dugong.pool.scheduler import Scheduler

__all__ = ["JobMaker"]

_SMALL_BODY = 64 * 1024  # bytes; what is sent in one piece with its head
_NO_BODY = frozenset(("GET", "HEAD", "DELETE", "OPTIONS", "TRACE"))
_FRAMING = frozenset(
    ("connection", "content-length", "expect", "host", "transfer-encoding", "upgrade")
)


class JobMaker:
    """Makes the jobs of a pool, of which *headers*, *timeout* and *retry* are the defaults.

    Raises ValueError or TypeError if *headers* cannot be sent with every request.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        dialer: Dialer,
        headers: HeadersLike | None,
        timeout: float | None,
        retry: RetryPolicy | None,
    ) -> None:
        self._scheduler = scheduler
        self._dialer = dialer
        self._headers = _default_headers(headers)
        self._timeout = timeout
        self._retry = RetryPolicy.never if retry is None else retry

    def make(self, request: Request, pool: ConnectionPool) -> Job:
        """Return what *pool*, whose maker this is, is to do for *request*.

        Raises ValueError or TypeError if it cannot be sent, and OSError for a file as its body.
        """
        host = self._scheduler.hosts.get(request.origin) or self._new_host(request.origin)
        timeout, retry = request.timeout, request.retry
        if timeout is POOL_DEFAULT:
            timeout = self._timeout
        if retry is POOL_DEFAULT:
            retry = self._retry
        elif retry is None:
            retry = RetryPolicy.never
        if (
            request.headers is None
            and request.body is None
            and request.method in _NO_BODY
            and host.plain_builder is not None
        ):
            job = Job(request, pool, host, None, timeout, retry)
            job.alone = request.idempotent is False
            return job
        return self._make_elaborate(request, pool, host, timeout, retry)

    def _make_elaborate(
        self,
        request: Request,
        pool: ConnectionPool,
        host: Host,
        timeout: float | None,
        retry: RetryPolicy,
    ) -> Job:
        if request.method == "CONNECT":
            raise ValueError("a pool cannot CONNECT to make a tunnel: use an HTTPConnection")
        given = [] if request.headers is None else list(header_pairs(request.headers))
        names = set()
        content_length = None
        close = False
        for name, value in given:
            field_line(name, value)
            lower = name.lower()
            names.add(lower)
            if lower == "content-length":
                content_length = _content_length(value)
            elif lower == "connection":
                close = close or "close" in list_members(value)
            elif lower == "upgrade":
                raise ValueError("a pool cannot change protocols: use an HTTPConnection")
        headers = given + [
            (name, value) for name, value in self._headers if name.lower() not in names
        ]
        body = request_body(request.body, content_length)
        upload = None
        following: BodyFollowing | bytes | None = None
        if body is not None:
            data = body.data
            if data is not None and data.nbytes <= _SMALL_BODY and not request.expect100:
                following = bytes(data)
            else:
                upload, following = body, BodyFollowing(body.length)
        expect100 = upload is not None and request.expect100 and upload.length != 0
        built = host.builder.build(request.method, request.target, headers, following, expect100)
        head = built.head if built.body is None else built.head + built.body
        job = Job(request, pool, host, head, timeout, retry)
        job.upload = upload
        job.expect100 = expect100
        job.close = close
        job.alone = close or upload is not None or not request.is_idempotent
        return job

    def _new_host(self, origin: Origin) -> Host:
        if origin.scheme == "https":
            self._dialer.need_context()
        proxy = self._dialer.proxy if origin.scheme == "http" else None
        prefix, credentials = absolute_form(origin.netloc, proxy)
        builder = RequestBuilder(origin.netloc, prefix, credentials, omit_legacy_headers=True)
        plain_builder = None
        if not any(name.lower() == "accept-encoding" for name, _ in self._headers):
            fixed = b"".join(field_line(*field) for field in self._headers)
            plain_builder = RequestBuilder(
                origin.netloc, prefix, credentials + fixed, omit_legacy_headers=True
            )
        depth = self._scheduler.limits.pipeline_depth
        return self._scheduler.know(Host(origin, builder, plain_builder, depth))


def _content_length(value: str) -> int:
    try:
        return parse_content_length(str(value).strip(" \t"))
    except ValueError as exc:
        raise ValueError(f"invalid header: {exc}") from None


def _default_headers(headers: HeadersLike | None) -> list[tuple[str, str]]:
    """Check the *headers* of a pool, and add ours."""
    pairs = [] if headers is None else list(header_pairs(headers))
    names = set()
    for name, value in pairs:
        field_line(name, value)
        names.add(name.lower())
    if bad := names & _FRAMING:
        raise ValueError(f"{', '.join(sorted(bad))} cannot be the same for every request")
    if "user-agent" not in names:
        pairs.append(("User-Agent", f"dugong/{dugong.__version__}"))
    return pairs
