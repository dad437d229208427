"""A `Request` becomes a `Job`: with the defaults of the pool, and for the host of the URL.

Guarantees: what a caller got wrong is raised here, before anything is sent or queued. Nothing here
changes once it has been made, unless it says so, and any thread may use it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dugong._version import __version__
from dugong.connection.encode import HeaderPairs, RequestBuilder
from dugong.connection.framing import list_members, parse_content_length
from dugong.connection.head import field_line
from dugong.connection.proxy import FOR_PROXIES, Proxy, ProxyLike, absolute_form
from dugong.connection.writers import BodyFollowing
from dugong.pool.body import request_body
from dugong.pool.core.host import Host
from dugong.pool.core.job import Extras, Job, Upload
from dugong.pool.host_policy import HostPolicy
from dugong.pool.options import (
    IDENTITY,
    PLAIN_OPTIONS,
    POOL_DEFAULT,
    ElaborateHeaders,
    HeadersMaker,
    checked_trailers,
    default_headers,
    made_headers,
)
from dugong.pool.progress import Progress
from dugong.pool.request import Request
from dugong.pool.retry.policy import RetryPolicy
from dugong.pool.url import Origin

if TYPE_CHECKING:
    from dugong.connection.encode import HeadersLike
    from dugong.pool.core.scheduler import Scheduler
    from dugong.pool.dialer import Dialer

__all__ = ["Preparer", "ProxyChooser", "proxy_chooser"]

#: What follows a head: a body, the announcement of one, or nothing.
_Following = BodyFollowing | bytes | None
#: Returns which proxy leads to an origin.
ProxyChooser = Callable[[Origin], ProxyLike | None]

_USER_AGENT = (("User-Agent", f"dugong/{__version__}"),)
_NOTHING_TOLD = Progress()
_SMALL_BODY = 64 * 1024  # bytes; what is sent in one piece with its head
_NO_BODY = frozenset(("GET", "HEAD", "DELETE", "OPTIONS", "TRACE"))
_HEDGED = frozenset(("GET", "HEAD", "OPTIONS"))

# What a request is prepared by, and so cannot be changed when it is sent.
_DECIDED_BEFORE = frozenset(("connection", "upgrade"))


class Preparer:
    """Prepares the jobs of a pool, of which *headers*, *timeout* and *retry* are the defaults.

    *proxy_for* is asked, once a host, which proxy leads there; None: none does, anywhere. So is
    *policy_for*, which policy the host has, unless one was set by hand. Raises ValueError or
    TypeError if *headers* cannot be sent with every request.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        dialer: Dialer,
        proxy_for: Callable[[Origin], Proxy | None] | None,
        headers: HeadersLike | ElaborateHeaders | None,
        timeout: float | None,
        retry: RetryPolicy | None,
        policy_for: Callable[[Origin], HostPolicy | None] | None = None,
        hedge: float | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._known_host = scheduler.hosts.get  # a look-up in an OrderedDict itself takes longer
        self._dialer = dialer
        self._proxy_for = proxy_for
        self._headers = pairs = default_headers(headers).with_defaults(_USER_AGENT).fixed
        self._header_lines = b"".join(field_line(*field) for field in pairs)
        self._timeout = timeout
        self._retry = RetryPolicy.never if retry is None else retry
        self._hedge = hedge
        #: Returns what each job notes of its call, in the thread of that. Set once, if at all; any
        #: thread may read it.
        self.get_trace: Callable[[], object] | None = None
        self._policy_for = policy_for
        scheduler.have_heads_made(self)

    def prepare(self, request: Request, pool: object) -> Job:
        """Return what *pool*, whose preparer this is, is to do for *request*.

        Raises ValueError or TypeError if it cannot be sent, and OSError for a file as its body.
        """
        scheduler = self._scheduler
        options = request._options
        host = self._known_host(request.origin) or self._new_host(request.origin)
        hedge = self._hedge
        if options is PLAIN_OPTIONS and request.method in _NO_BODY:
            job = Job(request, scheduler, pool, host, None, self._timeout, self._retry)
        else:
            timeout, retry = self._timeout, self._retry
            if options.timeout is not POOL_DEFAULT:
                timeout = options.timeout
            if options.retry is not POOL_DEFAULT:
                retry = RetryPolicy.never if options.retry is None else options.retry
            if options.hedge is not POOL_DEFAULT:
                hedge = options.hedge
            if (
                request.method in _NO_BODY
                and options.headers is None
                and options.body is None
                and options.progress is None
            ):
                job = Job(request, scheduler, pool, host, None, timeout, retry)
                job.deadline = options.deadline
                job.exclusive = options.idempotent is False
            else:
                job = self._prepare_elaborate(request, pool, host, timeout, retry)
        if hedge is not None and _may_be_hedged(request):
            job.own_extras().hedge = hedge
            scheduler.traffic.hedges = True
        if self.get_trace is not None:
            job.own_extras().trace = self.get_trace()
        return job

    def failing(self, request: Request, pool: object, error: Exception) -> Job:
        """Return a job for *request* that fails with *error* as soon as it is submitted.

        *error* is why nothing better could be made of it. Its host is not known to the pool.
        """
        origin = request.origin
        host = Host(origin, RequestBuilder(origin.netloc), None)
        job = Job(request, self._scheduler, pool, host, None, None, RetryPolicy.never)
        job.fatal_error = error
        return job

    def _prepare_elaborate(
        self,
        request: Request,
        pool: object,
        host: Host,
        timeout: float | None,
        retry: RetryPolicy,
    ) -> Job:
        if request.method == "CONNECT":
            raise ValueError("a pool cannot CONNECT to make a tunnel: use an HTTPConnection")
        headers = _headers_of(request)
        given = headers.fixed
        fields = {name.lower(): value for name, value in reversed(given)}
        if "upgrade" in fields:
            raise ValueError("a pool cannot change protocols: use an HTTPConnection")
        close = "connection" in fields and any(
            name.lower() == "connection" and "close" in list_members(value) for name, value in given
        )
        length = fields.get("content-length")
        content_length = None if length is None else _content_length(length)
        told = request.progress or _NOTHING_TOLD
        body = request_body(request._options.source, content_length)
        upload = None
        following: _Following = None
        if body is not None:
            data = body.data
            is_small = data is not None and data.nbytes <= _SMALL_BODY
            if is_small and not request.expect100 and told.upload is None:
                following = bytes(data or b"")
            else:
                upload = Upload(body, request.expect100 and body.length != 0)
                upload.progress = told.upload
                following = BodyFollowing(body.length)
        if request.trailers is not None:
            if upload is None or upload.body.length is not None:
                raise ValueError(
                    "trailers can be sent behind a body in chunks only, and this one has a length: "
                    "give it as an iterator, such as iter([data])"
                )
            upload.make_trailers = partial(_fresh_trailers, request)
        job = Job(request, self._scheduler, pool, host, None, timeout, retry)
        job.deadline = request.deadline
        if close or upload is not None or told.download is not None or headers.make is not None:
            job.extras = extras = Extras()
            extras.upload = upload
            extras.close = close
            extras.download = told.download
        job.builder = host.builder
        job.head = self._head(job, headers, following)
        if headers.make is not None:
            make = headers.make
            job.extras.make_head = partial(_fresh_head, headers, make, self._head, following)
        needs_connection = (
            close
            or upload is not None
            or told.download is not None  # if that raises, it is to harm no other request
        )
        job.exclusive = needs_connection or not request.is_idempotent
        return job

    def _head(self, job: Job, headers: ElaborateHeaders, following: _Following) -> bytes:
        """Return the head of *job* with *headers*, and its body if that is small.

        It is for the connections of the host that the job has now, which may tell a proxy more.
        """
        # No fields at all would stand for the default ones.
        fields = headers.with_defaults(job.host.fields).fixed or IDENTITY
        request, upload, builder = job.request, job.extras.upload, job.host.builder
        method, target = request.method, request.target
        if following is None and method in _NO_BODY and target.startswith("/"):
            return builder.bodiless_head(method, target, fields)
        expect100 = upload is not None and upload.expect100
        built = builder.build(method, target, fields, following, expect100)
        return built.head if built.body is None else built.head + built.body

    def rebuild(self, job: Job) -> None:
        """Make anew what is sent first of *job*, whose host has changed since it was prepared.

        That is the same origin, but *proxy_for* may have said something else of it, or a policy.
        """
        assert job.head is not None
        following: _Following
        if job.extras.upload is not None:
            following = BodyFollowing(job.extras.upload.body.length)
        elif job.request._options.source is None:
            following = None
        else:  # a small body, which stands behind the head
            following = job.head.partition(b"\r\n\r\n")[2]
        job.builder = job.host.builder
        job.head = self._head(job, _headers_of(job.request), following)

    def _new_host(self, origin: Origin) -> Host:
        proxy = None if self._proxy_for is None else self._proxy_for(origin)
        policy = None
        if self._policy_for is not None and not self._scheduler.is_set_by_hand(origin):
            policy = self.policy_of(origin)
        if self._dialer.needs_context(origin, proxy):
            self._dialer.need_context()
        depth = self._scheduler.limits.pipeline_depth
        host = Host(origin, self._builder(origin, proxy, self._header_lines), depth, proxy)
        host.fields = self._headers
        if policy is not None:
            self._scheduler.follow_policy(host, policy)
        return self._scheduler.know(host)

    def policy_of(self, origin: Origin) -> HostPolicy | None:
        """Return what *policy_for* says of *origin*. Raises what that raises, or TypeError."""
        policy = None if self._policy_for is None else self._policy_for(origin)
        if policy is not None and not isinstance(policy, HostPolicy):
            kind = type(policy).__name__
            raise TypeError(f"host_policy must return a HostPolicy or None, not {kind}")
        return policy

    def equip(self, host: Host, headers: HeaderPairs) -> None:
        """Have requests to *host* made with *headers*, which replace default ones of the pool."""
        host.fields = fields = ElaborateHeaders(headers).with_defaults(self._headers).fixed
        lines = b"".join(field_line(*field) for field in fields)
        host.builder = self._builder(host.origin, host.proxy, lines)

    def _builder(self, origin: Origin, proxy: Proxy | None, lines: bytes) -> RequestBuilder:
        """Return what makes heads of requests to *origin*, with *lines* as default headers."""
        prefix, fields = absolute_form(origin.netloc, proxy if origin.scheme == "http" else None)
        # A header that is meant for a proxy may be given with a request that does not go there.
        omitted = frozenset() if self._proxy_for is None or prefix else FOR_PROXIES
        return RequestBuilder(origin.netloc, prefix, fields, lines, True, omitted)


def _may_be_hedged(request: Request) -> bool:
    """Return True if *request* may be sent twice at once, and its body is none."""
    may_be = request.method in _HEDGED and request.says_idempotent is not False
    return may_be and request._options.source is None


def _headers_of(request: Request) -> ElaborateHeaders:
    """Return the headers of *request*, with the names of its trailers, if these are known."""
    headers = ElaborateHeaders.of(request)
    if request.trailers is None or callable(request.trailers) or "trailer" in headers.decided:
        return headers
    names = ", ".join(dict(request.trailers))
    return headers.with_defaults((("Trailer", names),)) if names else headers


def _fresh_head(
    headers: ElaborateHeaders,
    make: HeadersMaker,
    build: Callable[[Job, ElaborateHeaders, _Following], bytes],
    following: _Following,
    job: Job,
) -> bytes:
    """Return the head of *job* with what *make* returns now, which is code of the caller's.

    If nothing else knows the length of the body, that may say it, for this sending.
    """
    fresh = made_headers(make, job.request)
    if bad := _DECIDED_BEFORE.intersection(name.lower() for name, _ in fresh):
        raise ValueError(f"{', '.join(sorted(bad))} cannot be made anew for each sending")
    if isinstance(following, BodyFollowing) and following.length is None:
        lengths = [value for name, value in fresh if name.lower() == "content-length"]
        length = _content_length(lengths[0]) if lengths else None
        if length is not None and job.request.trailers is not None:
            raise ValueError("trailers can be sent behind a body in chunks only: no Content-Length")
        assert job.extras.upload is not None
        job.extras.upload.body.declare(length)
        following = BodyFollowing(length)
    return build(job, headers.with_fresh(fresh), following)


def _fresh_trailers(request: Request) -> HeaderPairs:
    """Return the trailers of *request*, which are made now, if code of the caller's makes them."""
    trailers = request.trailers
    if callable(trailers):
        made = trailers(request)
        return () if made is None else checked_trailers(made)
    return trailers or ()


def _content_length(value: str) -> int:
    try:
        return parse_content_length(value.strip(" \t"))
    except ValueError as exc:
        raise ValueError(f"invalid header: {exc}") from None


def proxy_chooser(
    proxy: ProxyLike | ProxyChooser | None, headers: HeadersLike | None
) -> Callable[[Origin], Proxy | None] | None:
    """Return what says which proxy leads to an origin: *proxy*, or what that returns.

    None, if there is no proxy at all. Each proxy is sent *headers*. Raises ValueError or TypeError
    if these make no sense.
    """
    fields = default_headers(headers).fixed
    if callable(proxy):
        return partial(_chosen, proxy, fields)
    if proxy is None:
        return None
    fixed = Proxy(proxy, fields)
    return lambda origin: fixed


def _chosen(choose: ProxyChooser, fields: HeaderPairs, origin: Origin) -> Proxy | None:
    chosen = choose(origin)
    return None if chosen is None else Proxy(chosen, fields)
