"""`ConnectionPool`: the public face of the pool. Arguments are checked and given names here;
`dugong.pool.prepare` makes jobs of requests, and `dugong.pool.scheduler` decides what happens to
those.

Guarantees: what a caller got wrong is raised at the call, before anything is sent or queued. Starts
no threads itself; may be used by any thread, and in a forked child.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Never, Unpack

from dugong.connection.dial import check_ssl_context
from dugong.connection.network import Network
from dugong.pool import fork
from dugong.pool.body import BodyLike
from dugong.pool.checks import (
    check_bool,
    check_call,
    check_counts,
    check_positive,
    check_rates,
    check_seconds,
)
from dugong.pool.core.job import NO_EXTRAS
from dugong.pool.core.limits import Limits
from dugong.pool.core.scheduler import Scheduler
from dugong.pool.dialer import Dialer
from dugong.pool.future import ResponseFuture
from dugong.pool.hints import refuse_options
from dugong.pool.host_policy import HostPolicy
from dugong.pool.io import caller_runs, roles
from dugong.pool.io.bandwidth import BandwidthLimits
from dugong.pool.io.http1 import Http1Engine
from dugong.pool.io.stream import Stream
from dugong.pool.many import (
    AHEAD_SIZE,
    CallWhenMore,
    Submit,
    as_completed,
    batch_of,
    check_is_iterable,
    each_of,
    in_order,
    more_of,
    request_of,
)
from dugong.pool.options import PLAIN_OPTIONS, Options, OptionsAndBody, check_retry, checked_options
from dugong.pool.parking import Parking
from dugong.pool.prepare import Preparer, proxy_chooser
from dugong.pool.request import Request, make_request
from dugong.pool.response import Response, StreamedResponse
from dugong.pool.retry.policy import RetryPolicy
from dugong.pool.url import Origin, known_origins, split_url

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from dugong.connection.encode import HeadersLike
    from dugong.connection.names import Resolver
    from dugong.connection.network import AddressFilter, SocketOption
    from dugong.connection.polling import Coroutine
    from dugong.connection.proxy import ProxyLike
    from dugong.connection.transport import Transport
    from dugong.pool.core.host import Host
    from dugong.pool.core.job import Flow, Job
    from dugong.pool.core.waiting import Patience
    from dugong.pool.events import Event
    from dugong.pool.io.engine import Engine
    from dugong.pool.prepare import ProxyChooser
    from dugong.pool.recording import Record
    from dugong.pool.statistics import PoolStatistics

__all__ = ["ConnectionPool"]

_DEFAULT_RETRY = RetryPolicy()


class ConnectionPool:
    """A few connections to each of many hosts, kept alive, over which requests are pipelined.

    Parameters (times are in seconds; None is no limit, unless it says otherwise):

    * *max_connections_per_host* (default: 6), *max_connections* (256): how many connections there
      are at most, to each host and to all hosts together.
    * *pipeline_depth*: how many requests may be unanswered on one connection. 1 turns pipelining
      off; None, the default: as many as keep a connection busy, 1024 at most. The number in use
      depends on what the host has shown (see `statistics`).
    * *timeout* (30): how long sending or receiving may go without any progress. Each request may
      have its own. The head of a response must be complete within this time after its first byte.
    * *connect_timeout* (10): how long opening a connection may take, with a proxy's tunnel and the
      TLS handshake, but without name resolution; None: *timeout* bounds it.
    * *min_rate* (1): how many bytes a second the body of a response must bring, on the average of
      30 seconds of waiting for it. If it brings less, the request fails as after *timeout*.
    * *ssl_context*: for https; default: `ssl.create_default_context()`, which verifies
      certificates and host names.
    * *proxy*: ``(host, port)`` or ``http://user:password@host:port``, as of `HTTPConnection`, which
      lists the other schemes; or a callable that is given the origin of a URL (it has ``scheme``,
      ``host`` and ``port``), and returns one of these, or None for no proxy. It is called once for
      each host, by the thread that requests the first URL there.
    * *proxy_ssl_context*: for TLS with https proxies; default: *ssl_context*, with a certificate of
      the client that it may have.
    * *proxy_headers*: header fields for http and https proxies: sent with each CONNECT, and with
      each request without TLS.
    * *headers*: sent with every request that does not set the same names itself.
    * *retry*: the `RetryPolicy` of requests that have none of their own; None: one attempt only.
    * *max_queued* (100,000): how many requests may wait; beyond that, `submit` blocks.
    * *max_body_size* (64 MiB): how many bytes the body of a response in memory may have; a larger
      one is a `ResponseTooLarge`.
    * *idle_timeout* (60): the time after which an idle connection is closed.
    * *max_age*, *max_requests*: the age and the number of requests after which a connection is
      replaced, between responses.
    * *pipeline_rescue* (True): when a response is slow (it takes more than four times as long as
      those of this host took before, and at least 0.1 s) and another connection of the host is
      idle, the requests that wait behind it are sent there, if they may be sent twice. False: they
      wait.
    * *unix_socket*: the path of a socket that all connections go to. The host name of a URL is used
      for Host and TLS only.
    * *local_address*: the IP address, or (address, port), that connections come from.
    * *socket_options*: a sequence of (level, option, value) for `socket.socket.setsockopt`, which
      are set on every TCP socket before it connects; such as ``(SOL_SOCKET, SO_KEEPALIVE, 1)``.
    * *resolver*: called with the name and the port of a host, instead of `socket.getaddrinfo`.
      Returns addresses: each a str, or a tuple that begins with address and port. An exception
      that it raises is a `DNSUnavailable`, unless it is a `socket.gaierror` that says more.
    * *upload_rate*, *download_rate*: how many bytes a second all connections together send, and
      receive, at most; *host_upload_rate*, *host_download_rate*: the same for each host, unless its
      `HostPolicy` has other rates. Heads and bodies count, TLS and TCP do not. *timeout* and
      *min_rate* do not include the waits for a rate.
    * *hedge*: after so many seconds without a response, a GET, HEAD or OPTIONS request that has no
      body is sent once more, on another connection. The response that begins first is used. At
      most 5 % of the recent requests to a host are sent twice, and three more. Not for `stream`.
      None, the default: no request is.
    * *allow_address*: called with each address (a str) and port before a connection is opened to
      it, or a proxy is asked to connect to it; with the addresses of proxies, too. The address is
      used if it returns True or None; not if it returns anything else, or raises an exception. If
      no address is left, the request fails with `ConnectError`, and is not retried.
    * *host_policy*: called with the origin of a URL (as *proxy*), and returns the `HostPolicy` of
      that host, or None. It is called when the host is first used, without a lock, by the thread
      that requests the first URL there; for a redirect that may be a thread of the pool, where it
      must not wait for the pool. If it raises, that call raises the same, and the next call tries
      again. If two threads are the first at the same moment, both call it, and one result is used.
      See `set_host_policy`.
    * *record*: called with each `RecordedExchange`: the bytes of a request and its response, as on
      the wire. The thread that has received the response calls it before the caller gets that; or
      the thread that has sent the request, if that ends later. So it must not wait for the pool,
      and several threads may call it at a time. An exception that it raises is logged. See
      `dugong.crawl.WarcWriter`.
    * *on_event*: called with each `Event`, mostly in a thread of the pool, where it must not wait
      for the pool. Several threads may call it at a time: `Event.when` tells the order.

    Raises TypeError or ValueError if these make no sense.

    Guarantees: each request gets its own response, whole, or one exception, whose `delivery` says
    how far the request had got. Any thread may call any method. A pool is a context manager, which
    closes it at the end. A pool that is forgotten closes itself, and an open pool does not keep the
    interpreter from exiting. In a forked child the pool starts afresh.
    """

    def __init__(
        self,
        *,
        max_connections_per_host: int = 6,
        max_connections: int = 256,
        pipeline_depth: int | None = None,
        timeout: float | None = 30.0,
        ssl_context: ssl.SSLContext | None = None,
        proxy: ProxyLike | ProxyChooser | None = None,
        headers: HeadersLike | None = None,
        retry: RetryPolicy | None = _DEFAULT_RETRY,
        max_queued: int = 100_000,
        max_body_size: int = 64 * 1024 * 1024,
        idle_timeout: float = 60.0,
        max_age: float | None = None,
        max_requests: int | None = None,
        on_event: Callable[[Event], object] | None = None,
        connect_timeout: float | None = 10.0,
        min_rate: float | None = 1.0,
        pipeline_rescue: bool = True,
        proxy_headers: HeadersLike | None = None,
        unix_socket: str | os.PathLike[str] | None = None,
        local_address: str | tuple[str, int] | None = None,
        resolver: Resolver | None = None,
        allow_address: AddressFilter | None = None,
        proxy_ssl_context: ssl.SSLContext | None = None,
        host_policy: Callable[[Origin], HostPolicy | None] | None = None,
        record: Record | None = None,
        upload_rate: float | None = None,
        download_rate: float | None = None,
        host_upload_rate: float | None = None,
        host_download_rate: float | None = None,
        hedge: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_options(unknown, ConnectionPool.__init__.__kwdefaults__ or ())
        check_counts(
            max_connections_per_host=max_connections_per_host,
            max_connections=max_connections,
            max_queued=max_queued,
            max_body_size=max_body_size,
        )
        if pipeline_depth is not None:
            check_counts(pipeline_depth=pipeline_depth)
        if max_requests is not None:
            check_counts(max_requests=max_requests)
        for name, seconds in (
            ("timeout", timeout),
            ("connect_timeout", connect_timeout),
            ("max_age", max_age),
            ("hedge", hedge),
        ):
            if seconds is not None:
                check_seconds(name, seconds)
        check_positive("idle_timeout", idle_timeout, "seconds", TIMEOUT_MAX)
        check_ssl_context(ssl_context)
        check_ssl_context(proxy_ssl_context, "proxy_ssl_context")
        check_retry(retry)
        check_rates(
            min_rate=min_rate,
            upload_rate=upload_rate,
            download_rate=download_rate,
            host_upload_rate=host_upload_rate,
            host_download_rate=host_download_rate,
        )
        calls = {"on_event": on_event, "host_policy": host_policy, "record": record}
        for name, call in calls.items():
            if call is not None:
                check_call(name, call)
        check_bool("pipeline_rescue", pipeline_rescue)
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
            connect_timeout,
            min_rate,
        )
        # Its threads refer to the scheduler, but not to the pool, except through requests that are
        # not done. So a pool that is forgotten is collected, and the threads are told then.
        network = Network(unix_socket, local_address, resolver, allow_address, socket_options)
        if unix_socket is not None and proxy is not None:
            raise ValueError("all connections of a pool go to its unix_socket, so none to a proxy")
        dialer = Dialer(ssl_context, timeout, connect_timeout, network, proxy_ssl_context)
        bandwidth = BandwidthLimits(
            (upload_rate, download_rate), (host_upload_rate, host_download_rate)
        )
        self._scheduler = Scheduler(
            limits,
            self._engine_maker(dialer, bandwidth, record),
            roles.run_sender,
            roles.run_receiver,
            on_event,
            pipeline_rescue,
        )
        proxy_for = proxy_chooser(proxy, proxy_headers)
        self._preparer = Preparer(
            self._scheduler, dialer, proxy_for, headers, timeout, retry, host_policy, hedge
        )
        self._scheduler.close_when_forgotten(self)
        fork.register(self._scheduler.recovery)

    def _engine_maker(
        self, dialer: Dialer, bandwidth: BandwidthLimits, record: Record | None
    ) -> Callable[[Host], Engine]:
        """Return what makes the engine of a connection to a host, with the lock held.

        It must not keep the pool.
        """

        def dial(host: Host) -> Callable[[], Coroutine[Transport]]:
            return bandwidth.apply_locked(partial(dialer, host.origin, host.proxy), host)

        if record is None:
            return lambda host: Http1Engine(dial(host))
        from dugong.pool.io.recording import Recorder

        return lambda host: Http1Engine(dial(host), Recorder(record, host.proxy is None))

    # --- requests ---------------------------------------------------------------------------------

    def request(
        self,
        method: str | Request,
        url: str | None = None,
        **options: Unpack[OptionsAndBody],
    ) -> Response:
        """Send a request and return its `Response`; block until then.

        Takes either a `Request` or the parameters of one. Raises ValueError or TypeError for bad
        arguments, and what `submit(...).result()` raises.
        """
        if url is None or options:
            made = _made(method, url, options)
        else:
            made = make_request(Request, method, url)  # as `_made`, once more for speed
        scheduler = self._scheduler
        scheduler.check_may_wait()
        job = self._preparer.prepare(made, self)
        return scheduler.protect(self._make, scheduler.abandon, job)

    def _make(self, job: Job) -> Response:
        """Make the request of *job*, which nothing else knows of; return its response."""
        scheduler = self._scheduler
        # Most jobs need none, as can be seen without the property, which costs more.
        if (job.extras is NO_EXTRAS and job.deadline is None) or job.needs_no_thread:
            connection = scheduler.lending.borrow(job)
        else:
            connection = None
        if connection is None:
            future = job.future
            scheduler.submit(job)
            return future.result()
        response = caller_runs.perform(scheduler.traffic, connection, job)
        return job.future.result() if response is None else response

    def submit(
        self,
        method: str | Request,
        url: str | None = None,
        *,
        block: bool = True,
        **options: Unpack[OptionsAndBody],
    ) -> ResponseFuture:
        """Queue a request and return its future, a `concurrent.futures.Future` of a `Response`.

        Takes either a `Request` or the parameters of one. If `max_queued` requests are waiting,
        waits for room (not beyond *deadline*), or raises `PoolFull` unless *block* is set. Raises
        ValueError or TypeError for bad arguments and `PoolClosed`; everything else is raised by
        `result()` of the future.
        """
        if block is not True:
            check_bool("block", block)
        if url is None or options:
            made = _made(method, url, options)
        else:
            made = make_request(Request, method, url)  # as `_made`, once more for speed
        job = self._preparer.prepare(made, self)
        future = job.make_future()  # from here as `_submit`, once more for speed
        try:
            self._scheduler.submit(job, block)
        except BaseException:
            future.cancel()
            raise
        return future

    # The layers above the pool use these, too: with jobs that have a flow, or limits of their own.

    def _request(self, request: Request, patience: Patience) -> Response:
        scheduler = self._scheduler
        scheduler.check_may_wait()
        job = self._preparer.prepare(request, self)
        job.own_extras().patience = patience
        return scheduler.protect(self._make, scheduler.abandon, job)

    def _prepare(self, request: Request, flow: Flow | None = None) -> Job:
        job = self._preparer.prepare(request, self)
        job.flow = flow
        return job

    def _prepare_item(self, item: str | Request) -> Job:
        request = request_of(item)
        try:
            return self._preparer.prepare(request, self)
        except Exception as exc:
            return self._failing(request, exc)

    def _failing(self, request: Request, error: Exception) -> Job:
        """Return what fails with *error* in place of *request*, while others of it go on."""
        return self._preparer.failing(request, self, error)

    def _stream(self, request: Request, patience: Patience | None = None) -> Stream:
        job = self._preparer.prepare(request, self)
        job.exclusive = True
        extras = job.own_extras()
        extras.patience = patience
        extras.streamed = True
        extras.hedge = None
        return Stream(self._scheduler, job)

    def _submit(self, job: Job, block: bool) -> ResponseFuture:
        future = job.make_future()
        try:
            self._scheduler.submit(job, block)
        except BaseException:  # an interrupt, too: the caller never sees the future
            future.cancel()
            raise
        return future

    def _submit_some(self, jobs: list[Job]) -> list[ResponseFuture]:
        """Submit the first of *jobs* and those behind it for which there is room; remove them."""
        futures = [job.make_future() for job in jobs]
        try:
            count = self._scheduler.submit_some(jobs)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        del jobs[:count]
        return futures[:count]

    def map(
        self, requests: Iterable[str | Request], *, max_ahead_size: int = AHEAD_SIZE
    ) -> Iterator[Response]:
        """Yield the response to each of *requests* (URLs for GET, or `Request` objects), in order.

        Takes from *requests* only so much that there is enough under way, so they may be endless:
        up to 1024, and fewer if their bodies would have more than *max_ahead_size* bytes together
        (default: 64 MiB; a body that has not come yet is taken for as large as the last ones on the
        average). If a request fails, its exception is raised in place of its response, and the
        later requests are cancelled: use `as_completed` to go on. So it is for an invalid URL, and
        for an exception of *requests* itself. Raises TypeError or ValueError at the call if the
        arguments make no sense, and `StateError` in a callback: at the call, and in each step. One
        thread at a time may iterate.
        """
        return self._map(requests, self._prepare_item, max_ahead_size)

    def _map(
        self,
        requests: Iterable[str | Request],
        prepare: Callable[[str | Request], Job],
        max_ahead_size: int,
    ) -> Iterator[Response]:
        return in_order(*self._supplied(requests, prepare, max_ahead_size))

    def as_completed(
        self, requests: Iterable[str | Request], *, max_ahead_size: int = AHEAD_SIZE
    ) -> Iterator[ResponseFuture]:
        """Yield a future for each of *requests* (URLs for GET, or `Request` objects), when done.

        `future.request` says which request it is for. Takes from *requests* only so much that there
        is enough under way, and *max_ahead_size* is the same as for `map`. Beside these, it takes
        up to 32768 requests to hosts whose `HostPolicy` lets them start one by one, and submits a
        few of each host at a time, so that they do not keep requests to other hosts waiting. Waits
        for a `RequestSource` that has nothing at the moment. A mistake in a `Request`, such as a
        body whose file does not exist, is in its future. An invalid URL, an item that is neither a
        URL nor a `Request`, and an exception of *requests* itself are raised here, after the
        futures of all requests before. Raises TypeError or ValueError at the call if the arguments
        make no sense, and `StateError` in a callback: at the call, and in each step. One
        thread at a time may iterate.
        """
        return self._as_completed(requests, self._prepare_item, max_ahead_size)

    def _as_completed(
        self,
        requests: Iterable[str | Request],
        prepare: Callable[[str | Request], Job],
        max_ahead_size: int,
    ) -> Iterator[ResponseFuture]:
        return as_completed(*self._supplied(requests, prepare, max_ahead_size), Parking())

    def _supplied(
        self,
        requests: Iterable[str | Request],
        prepare: Callable[[str | Request], Job],
        max_ahead_size: int,
    ) -> tuple[Iterator[Job], Submit[Job], Callable[[], None], int, int, CallWhenMore | None]:
        """Return what `in_order` and `as_completed` take."""
        check_is_iterable(requests)
        source = iter(requests)
        check_counts(max_ahead_size=max_ahead_size)
        check_may_wait = self._scheduler.check_may_wait
        check_may_wait()
        return (
            each_of(source, prepare),
            self._submit_some,
            check_may_wait,
            max_ahead_size,
            batch_of(requests),
            more_of(source),
        )

    def stream(
        self,
        method: str | Request,
        url: str | None = None,
        **options: Unpack[OptionsAndBody],
    ) -> AbstractContextManager[StreamedResponse]:
        """Send a request and, in the `with` block, read the body of its response as it comes.

        Takes either a `Request` or the parameters of one, and raises as `request`: at the call for
        bad arguments, and everything else when the block is entered. The block has the connection
        to itself. If it is left before the end of the body, up to 64 KiB are received and dropped;
        if more is left, the connection is closed. With a request body, the block begins when the
        response does, which may be before all of the body was sent. If then the rest of it cannot
        be sent, though the status is below 300, reading raises `ConnectionClosed`, or else leaving
        the block does.
        """
        made = _made(method, url, options)
        return self._stream(made)

    def get(self, url: str, **options: Unpack[OptionsAndBody]) -> Response:
        """Send a GET; see `request`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[OptionsAndBody]) -> Response:
        """Send a HEAD; see `request`."""
        return self.request("HEAD", url, **options)

    def put(self, url: str, body: BodyLike | None = None, **options: Unpack[Options]) -> Response:
        """Send a PUT; see `request`."""
        return self.request("PUT", url, body=body, **options)

    def post(self, url: str, body: BodyLike | None = None, **options: Unpack[Options]) -> Response:
        """Send a POST; see `request`."""
        return self.request("POST", url, body=body, **options)

    def patch(self, url: str, body: BodyLike | None = None, **options: Unpack[Options]) -> Response:
        """Send a PATCH (RFC 5789); see `request`."""
        return self.request("PATCH", url, body=body, **options)

    def delete(self, url: str, **options: Unpack[OptionsAndBody]) -> Response:
        """Send a DELETE; see `request`."""
        return self.request("DELETE", url, **options)

    def options(self, url: str, **options: Unpack[OptionsAndBody]) -> Response:
        """Send an OPTIONS (RFC 9110 §9.3.7); see `request`."""
        return self.request("OPTIONS", url, **options)

    # --- the pool itself --------------------------------------------------------------------------

    def set_host_policy(self, origin: str | Origin, policy: HostPolicy | None) -> None:
        """Treat the host of *origin* by *policy* from now on, not by what *host_policy* returns.

        *origin* is a URL, such as ``https://host:8443``, of which only scheme, host and port are
        used, or the `origin` of a `Request`. The policy applies to all requests that have not been
        sent yet. It is kept until it is replaced, even if the pool forgets the host because it
        knows many others. None removes it: then *host_policy*, if there is one, is called now, and
        decides. Any thread may call this at any time, also in a callback of the pool. Raises
        ValueError or TypeError for what is not an origin or a policy, and what *host_policy*
        raises.
        """
        if policy is not None and not isinstance(policy, HostPolicy):
            raise TypeError(f"policy must be a HostPolicy or None, not {type(policy).__name__}")
        known = origin if isinstance(origin, Origin) else known_origins[split_url(origin)[0]]
        otherwise = self._preparer.policy_of(known) if policy is None else None
        self._scheduler.set_policy(known, policy, otherwise or HostPolicy())

    def statistics(self) -> PoolStatistics:
        """Return what the pool is doing, and has learned of its hosts; a snapshot."""
        return self._scheduler.statistics()

    def close(self) -> None:
        """End all connections, and fail every request that is not done with `PoolClosed`.

        Returns when the pool's threads have ended, at the latest after five seconds. To have the
        results of all futures, wait for these first. May be called more than once.
        """
        self._scheduler.shutdown.close()

    def _observe(
        self, listener: Callable[[Event], object], get_trace: Callable[[], object]
    ) -> None:
        """Have *listener* hear of all further events, beside *on_event*.

        Their `trace` is what *get_trace* returns in the thread that makes a request.
        """
        self._preparer.get_trace = get_trace
        self._scheduler.add_listener(listener)

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


def _made(method: str | Request, url: str | None, options: OptionsAndBody) -> Request:
    """Return the `Request` that the caller has given, or has given the parameters of."""
    if url is not None:
        checked = checked_options(**options) if options else PLAIN_OPTIONS
        return make_request(Request, method, url, checked)
    if not isinstance(method, Request):
        raise TypeError("a method and a URL are needed, or a Request")
    if options:
        plain = PLAIN_OPTIONS._asdict()
        if any(name not in plain or value is not plain[name] for name, value in options.items()):
            raise TypeError("give either a Request or the parameters of one, not both")
    return method
