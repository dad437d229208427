"""`ConnectionPool`: the public face of the pool. Arguments are checked and given names here; what
happens to a request is decided in `dugong.pool.scheduler`.

Guarantees: what a caller got wrong is raised at the call, before anything is sent or queued. Starts
no threads itself; may be used by any thread, and in a forked child.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

import dugong
from dugong.connection.dial import Proxy, absolute_form, check_ssl_context, co_dial
from dugong.connection.framing import list_members, parse_content_length
from dugong.connection.head import field_line
from dugong.connection.request import RequestBuilder
from dugong.connection.writers import BodyFollowing
from dugong.pool import direct, receiver
from dugong.pool.body import request_body
from dugong.pool.future import ResponseFuture
from dugong.pool.host import Host
from dugong.pool.job import Job
from dugong.pool.request import (
    POOL_DEFAULT,
    BodyLike,
    Origin,
    PoolDefault,
    Request,
    check_retry,
    check_seconds,
    header_pairs,
)
from dugong.pool.response import Response, StreamedResponse
from dugong.pool.retry import RetryPolicy
from dugong.pool.scheduler import Limits, Scheduler
from dugong.pool.statistics import PoolStatistics

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from dugong.connection.polling import Coroutine
    from dugong.connection.request import HeadersLike
    from dugong.connection.transport import Transport
    from dugong.pool.events import Event

__all__ = ["ConnectionPool"]

_DEFAULT_RETRY = RetryPolicy()
_SMALL_BODY = 64 * 1024  # bytes; what is sent in one piece with its head
_AHEAD = 1024  # requests that map() and as_completed() keep under way, at most
_NO_BODY = frozenset(("GET", "HEAD", "DELETE", "OPTIONS", "TRACE"))
_FRAMING = frozenset(
    ("connection", "content-length", "expect", "host", "transfer-encoding", "upgrade")
)


class ConnectionPool:
    """A few connections to each of many hosts, kept alive, over which requests are pipelined.

    Parameters (times in seconds):

    * *max_connections_per_host*, *max_connections*: how many connections there are at most.
    * *pipeline_depth*: how many requests may be unanswered on one connection. 1 turns pipelining
      off. How many really are depends on what the host has shown (see `statistics`).
    * *timeout*: how long connecting, sending or receiving may go without any progress; None: for
      ever. Each request may have its own for all but connecting.
    * *ssl_context*: for https; default: `ssl.create_default_context()`, which verifies.
    * *proxy*: ``(host, port)`` or ``http://user:password@host:port``, as of `HTTPConnection`.
    * *headers*: sent with every request that does not set the same names itself.
    * *retry*: the `RetryPolicy` of requests that have none of their own; None: one attempt only.
    * *max_queued*: how many requests may wait; beyond that, `submit` blocks.
    * *max_body_size*: bytes of a response body kept in memory; beyond that, `ResponseTooLarge`.
    * *idle_timeout*: after which an idle connection is closed.
    * *max_age*, *max_requests*: after which a connection is replaced, between answers.
    * *on_event*: called with each `Event`, mostly in a thread of the pool, where it must not wait
      for the pool; by several threads at a time, so only `Event.when` tells the order.

    Raises TypeError or ValueError if these make no sense.

    Guarantees: each request gets its own answer, whole, or one exception, whose `delivery` says how
    far the request had got. Any thread may call any method. A context manager, which closes the
    pool at the end; a pool that is forgotten closes itself, and one that is open does not keep the
    interpreter from exiting. In a forked child the pool starts afresh.
    """

    def __init__(
        self,
        *,
        max_connections_per_host: int = 6,
        max_connections: int = 256,
        pipeline_depth: int = 64,
        timeout: float | None = 30.0,
        ssl_context: ssl.SSLContext | None = None,
        proxy: tuple[str, int] | str | None = None,
        headers: HeadersLike | None = None,
        retry: RetryPolicy | None = _DEFAULT_RETRY,
        max_queued: int = 100_000,
        max_body_size: int = 64 * 1024 * 1024,
        idle_timeout: float = 60.0,
        max_age: float | None = None,
        max_requests: int | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:
        _check_counts(
            max_connections_per_host=max_connections_per_host,
            max_connections=max_connections,
            pipeline_depth=pipeline_depth,
            max_queued=max_queued,
            max_body_size=max_body_size,
        )
        if max_requests is not None:
            _check_counts(max_requests=max_requests)
        _check_times(timeout=timeout, idle_timeout=idle_timeout, max_age=max_age)
        if idle_timeout is None:
            raise TypeError("idle_timeout must be a number of seconds")
        check_ssl_context(ssl_context)
        check_retry(retry)
        if on_event is not None and not callable(on_event):
            raise TypeError(f"on_event must be callable, not {on_event!r}")
        self._timeout = timeout
        self._retry = RetryPolicy.never if retry is None else retry
        self._proxy = None if proxy is None else Proxy(proxy)
        self._default_headers = _default_headers(headers)
        limits = Limits(
            max_connections_per_host,
            max_connections,
            pipeline_depth,
            timeout,
            max_queued,
            max_body_size,
            idle_timeout,
            max_age,
            max_requests,
        )
        # Its threads refer to the scheduler, but not to the pool, except through requests that are
        # not done. So a pool that nobody waits for is collected, and the threads are told then.
        self._dialer = _Dialer(self._proxy, ssl_context, timeout)
        self._scheduler = Scheduler(limits, self._dialer, on_event)
        self._finalizer = weakref.finalize(self, self._scheduler.forget)
        # When the interpreter exits, nothing is to be tidied up, and nobody to be called back.
        self._finalizer.atexit = False
        _pools.add(self)

    # --- requests ---------------------------------------------------------------------------------

    def request(
        self,
        method: str | Request,
        url: str | None = None,
        *,
        headers: HeadersLike | None = None,
        body: BodyLike | None = None,
        timeout: float | PoolDefault | None = POOL_DEFAULT,
        deadline: float | None = None,
        expect100: bool = False,
        idempotent: bool | None = None,
        retry: RetryPolicy | PoolDefault | None = POOL_DEFAULT,
    ) -> Response:
        """Send a request and return its `Response`; block until then.

        Takes either a `Request` or the parameters of one. Raises ValueError or TypeError for bad
        arguments, and what `submit(...).result()` raises.
        """
        made = _made(method, url, headers, body, timeout, deadline, expect100, idempotent, retry)
        scheduler = self._scheduler
        scheduler.check_may_wait()
        job = self._job(made)
        try:
            pipeline = None
            if made.deadline is None and job.upload is None:
                pipeline = scheduler.borrow(job)
            if pipeline is None:
                scheduler.submit(job, True, _deadline(made))
            elif (response := direct.perform(scheduler, pipeline, job)) is not None:
                return response
            return job.future.result()
        except BaseException:
            job.future.cancel()  # does nothing if it is done
            raise

    def submit(
        self,
        method: str | Request,
        url: str | None = None,
        *,
        headers: HeadersLike | None = None,
        body: BodyLike | None = None,
        timeout: float | PoolDefault | None = POOL_DEFAULT,
        deadline: float | None = None,
        expect100: bool = False,
        idempotent: bool | None = None,
        retry: RetryPolicy | PoolDefault | None = POOL_DEFAULT,
        block: bool = True,
    ) -> ResponseFuture:
        """Queue a request and return its future, a `concurrent.futures.Future` of a `Response`.

        Takes either a `Request` or the parameters of one. If `max_queued` requests are waiting,
        waits for room (not beyond *deadline*), or raises `PoolFull` unless *block* is set. Raises
        ValueError or TypeError for bad arguments and `PoolClosed`; everything else is raised by
        `result()` of the future.
        """
        made = _made(method, url, headers, body, timeout, deadline, expect100, idempotent, retry)
        job = self._job(made)
        try:
            self._scheduler.submit(job, block, _deadline(made))
        except BaseException:  # an interrupt, too, for nobody else knows of the future
            job.future.cancel()
            raise
        return job.future

    def map(self, requests: Iterable[str | Request]) -> Iterator[Response]:
        """Yield the response to each of *requests* (URLs for GET, or `Request` objects), in order.

        Takes from *requests* only so much that there is enough under way, so they may be endless.
        A request that fails, or cannot be made, raises here when it is its turn, and the later ones
        are cancelled: use `as_completed` to go on. So does what *requests* raise themselves. Raises
        TypeError at the call if they are no iterable.
        """
        return self._map(_requests(requests))

    def _map(self, source: Iterator[Request]) -> Iterator[Response]:
        ahead: deque[ResponseFuture] = deque()
        failed: Exception | None = None  # what *source* ends with, after all that came before
        try:
            while True:
                try:
                    while failed is None and len(ahead) < _AHEAD:
                        if (request := next(source, None)) is None:
                            break
                        ahead.append(self.submit(request))
                        if ahead[0].done():
                            break
                except Exception as exc:
                    failed = exc
                if ahead:
                    yield ahead[0].result()  # which is cancelled, too, if the wait is interrupted
                    ahead.popleft()
                elif failed is not None:
                    raise failed
                else:
                    return
        finally:
            failed = None  # which refers to this frame
            for future in ahead:
                future.cancel()

    def as_completed(self, requests: Iterable[str | Request]) -> Iterator[ResponseFuture]:
        """Yield a future for each of *requests* (URLs for GET, or `Request` objects), when done.

        `future.request` says whose it is. Takes from *requests* only so much that there is enough
        under way, so they may be endless. One that cannot be made raises here, as does what
        *requests* raise themselves, once there is a future for all that came before. Raises
        TypeError at the call if they are no iterable.
        """
        return self._as_completed(_requests(requests))

    def _as_completed(self, source: Iterator[Request]) -> Iterator[ResponseFuture]:
        done: SimpleQueue[Any] = SimpleQueue()
        pending: set[ResponseFuture] = set()
        failed: Exception | None = None  # what *source* ends with, after all that came before
        try:
            while True:
                try:
                    while failed is None and len(pending) < _AHEAD:
                        if (request := next(source, None)) is None:
                            break
                        future = self.submit(request)
                        pending.add(future)
                        future.add_done_callback(done.put)
                        if not done.empty():
                            break
                except Exception as exc:
                    failed = exc
                if pending:
                    future = done.get()
                    pending.remove(future)
                    yield future
                elif failed is not None:
                    raise failed
                else:
                    return
        finally:
            failed = None  # which refers to this frame
            for future in pending:
                future.cancel()

    def stream(
        self,
        method: str | Request,
        url: str | None = None,
        *,
        headers: HeadersLike | None = None,
        body: BodyLike | None = None,
        timeout: float | PoolDefault | None = POOL_DEFAULT,
        deadline: float | None = None,
        expect100: bool = False,
        idempotent: bool | None = None,
        retry: RetryPolicy | PoolDefault | None = POOL_DEFAULT,
    ) -> AbstractContextManager[StreamedResponse]:
        """Send a request and, in the `with` block, read the body of its answer as it comes.

        Takes either a `Request` or the parameters of one, and raises as `request`: at the call for
        bad arguments, and everything else when the block is entered. The connection is the block's
        until it is left; if the body has not been read then, what little is left of it is drained,
        or the connection closed. With a request body, the block begins when the answer does, which
        may be before all of the body was sent.
        """
        made = _made(method, url, headers, body, timeout, deadline, expect100, idempotent, retry)
        job = self._job(made)
        job.alone = job.streamed = True
        return self._stream(job)

    @contextmanager
    def _stream(self, job: Job) -> Iterator[StreamedResponse]:
        self._scheduler.check_may_wait()
        answer: StreamedResponse | None = None
        try:
            self._scheduler.submit(job, True, _deadline(job.request))
            answer = receiver.streamed(job.future.result())
            yield answer
        finally:
            job.future.cancel()  # does nothing if it is done
            if answer is not None:
                answer.close()
            if job.reading is not None:
                job.reading.close()

    def get(self, url: str, **options: Any) -> Response:
        """Send a GET; see `request`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Any) -> Response:
        """Send a HEAD; see `request`."""
        return self.request("HEAD", url, **options)

    def put(self, url: str, body: BodyLike | None = None, **options: Any) -> Response:
        """Send a PUT; see `request`."""
        return self.request("PUT", url, body=body, **options)

    def post(self, url: str, body: BodyLike | None = None, **options: Any) -> Response:
        """Send a POST; see `request`."""
        return self.request("POST", url, body=body, **options)

    def delete(self, url: str, **options: Any) -> Response:
        """Send a DELETE; see `request`."""
        return self.request("DELETE", url, **options)

    # --- the pool itself --------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """Return what the pool is doing, and has learned of its hosts; a snapshot."""
        return self._scheduler.statistics()

    def close(self) -> None:
        """End all connections, and fail every request that is not done with `PoolClosed`.

        Returns when the pool's threads have ended: within seconds, whatever the servers do. Wait
        for the futures first if their results are wanted. May be called more than once.
        """
        self._finalizer.detach()
        self._scheduler.close()

    def __enter__(self) -> ConnectionPool:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ConnectionPool {self._scheduler}>"

    # --- from a request to a job ------------------------------------------------------------------

    def _job(self, request: Request) -> Job:
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
            head = host.plain_builder.plain_head(request.method, request.target)
            job = Job(request, self, host, head, timeout, retry)
            job.alone = not request.is_idempotent
            return job
        return self._elaborate_job(request, host, timeout, retry)

    def _elaborate_job(
        self, request: Request, host: Host, timeout: float | None, retry: RetryPolicy
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
            (name, value) for name, value in self._default_headers if name.lower() not in names
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
        job = Job(request, self, host, head, timeout, retry)
        job.upload = upload
        job.expect100 = expect100
        job.close = close
        job.alone = close or upload is not None or not request.is_idempotent
        return job

    def _new_host(self, origin: Origin) -> Host:
        if origin.scheme == "https":
            self._dialer.need_context()
        proxy = self._proxy if origin.scheme == "http" else None
        prefix, credentials = absolute_form(origin.netloc, proxy)
        builder = RequestBuilder(origin.netloc, prefix, credentials, lean=True)
        plain_builder = None
        if not any(name.lower() == "accept-encoding" for name, _ in self._default_headers):
            fixed = b"".join(field_line(*field) for field in self._default_headers)
            plain_builder = RequestBuilder(origin.netloc, prefix, credentials + fixed, lean=True)
        depth = self._scheduler.limits.pipeline_depth
        return self._scheduler.know(Host(origin, builder, plain_builder, depth))


class _Dialer:
    """How a pool connects. The context for https is made when the first such URL is asked for."""

    def __init__(
        self, proxy: Proxy | None, ssl_context: ssl.SSLContext | None, timeout: float | None
    ) -> None:
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._timeout = timeout

    def need_context(self) -> None:
        """Make the default context, unless there is one. Two threads may both, at no harm."""
        if self._ssl_context is None:
            import ssl

            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            self._ssl_context = context

    def __call__(self, origin: Origin) -> Coroutine[Transport]:
        context = self._ssl_context if origin.scheme == "https" else None
        return co_dial(origin.host, origin.port, context, self._proxy, self._timeout)


def _made(
    method: str | Request,
    url: str | None,
    headers: HeadersLike | None,
    body: BodyLike | None,
    timeout: float | PoolDefault | None,
    deadline: float | None,
    expect100: bool,
    idempotent: bool | None,
    retry: RetryPolicy | PoolDefault | None,
) -> Request:
    """Return the `Request` that the caller has given, or has given the parameters of."""
    if not isinstance(method, Request):
        if url is None:
            raise TypeError("a method and a URL are needed, or a Request")
        return Request(
            method,
            url,
            headers,
            body,
            timeout=timeout,
            deadline=deadline,
            expect100=expect100,
            idempotent=idempotent,
            retry=retry,
        )
    others = (url, headers, body, deadline, idempotent)
    defaults = timeout is POOL_DEFAULT and retry is POOL_DEFAULT and not expect100
    if others != (None, None, None, None, None) or not defaults:
        raise TypeError("a Request says all of it: give that, or the parameters of one")
    return method


def _requests(items: Iterable[str | Request]) -> Iterator[Request]:
    """Return what is to be sent for *items*, which may be endless."""
    if isinstance(items, (str, bytes, Request)) or not isinstance(items, Iterable):
        raise TypeError(f"requests must be an iterable of URLs and Requests, not {items!r}")
    # Not a generator, which would be over for good when a frontier is empty for a while.
    return map(_request, items)


def _request(item: str | Request) -> Request:
    return item if isinstance(item, Request) else Request("GET", item)


def _deadline(request: Request) -> float | None:
    return None if request.deadline is None else monotonic() + request.deadline


def _content_length(value: str) -> int:
    try:
        return parse_content_length(str(value).strip(" \t"))
    except ValueError as exc:
        raise ValueError(f"invalid header: {exc}") from None


def _default_headers(headers: HeadersLike | None) -> list[tuple[str, str]]:
    """Check the headers of a pool, and add ours."""
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


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"{name} must be an int, not {count!r}")
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def _check_times(**times: float | None) -> None:
    for name, seconds in times.items():
        if seconds is not None:
            check_seconds(name, seconds)


# Those that a forked child has to clean up after.
_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()
_fork_turn = Lock()  # held while a thread forks; guards `_forking`
_forking: list[Scheduler] = []  # whose locks are held


def _before_fork() -> None:
    # With all locks in hand, what the child finds was not left in the middle of a change.
    _fork_turn.acquire()
    for pool in list(_pools):
        pool._scheduler.lock.acquire()
        _forking.append(pool._scheduler)


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().lock.release()
    _fork_turn.release()


def _after_fork_in_child() -> None:
    while _forking:
        _forking.pop().begin_as_child()
    _fork_turn.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
