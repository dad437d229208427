"""OpenTelemetry: the spans and metrics of the requests of a pool, from its events.

The names and the attributes are those of the semantic conventions for HTTP clients. Nothing else of
dugong imports this module, which imports `opentelemetry` when `instrument` is called.

Guarantees: no attribute has a query, a header value or credentials in it. Starts no threads. What
an event ends is told as a whole then, so it does not matter in which order events are heard.
"""

from __future__ import annotations

import weakref
from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING

from dugong._version import __version__
from dugong.pool.pool import ConnectionPool
from dugong.pool.url import parse_origin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Tracer, TracerProvider

    from dugong.client.client import Client
    from dugong.pool.events import Event
    from dugong.pool.request import Request
    from dugong.pool.url import Origin

__all__ = ["instrument"]

Attributes = dict[str, str | int]

#: What others are called _OTHER, lest there be any number of them.
_METHODS = frozenset("CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT TRACE".split())

#: Upper ends of the intervals of a histogram, in seconds, as the conventions give them.
_REQUEST_TIMES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_CONNECTION_TIMES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


def instrument(
    target: ConnectionPool | Client,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Make spans and metrics of OpenTelemetry for all further requests of *target*.

    *target* is a pool or a client. The providers are those of the program unless they are given.

    Each sending of a request is a span: a retry, and the request that follows a redirect, has its
    own. The parent of the span is the span that is current where the request is made. It ends when
    the response has come, or the head of a response that is streamed. The metrics are
    ``http.client.request.duration``, ``http.client.active_requests``,
    ``http.client.open_connections`` and ``http.client.connection.duration``. No header field is
    added to a request: to pass the trace on to the server, add what
    `opentelemetry.propagate.inject` makes to its *headers*.

    Raises TypeError if *target* is neither, and ImportError without the package opentelemetry-api
    (``pip install dugong[telemetry]``). Any thread may call it, once for each pool.
    """
    pool = getattr(target, "_pool", target)
    if not isinstance(pool, ConnectionPool):
        raise TypeError(f"target must be a pool or a client, not {type(target).__name__}")
    try:
        from opentelemetry import context, metrics, trace
    except ImportError as exc:
        raise ImportError(
            "instrument() needs the package opentelemetry-api: pip install dugong[telemetry]",
            name="opentelemetry",
        ) from exc
    tracer = trace.get_tracer("dugong", __version__, tracer_provider)
    instruments = _instruments_of(meter_provider or metrics.get_meter_provider())
    instruments.watch(pool)
    pool._observe(_Listener(tracer, instruments), context.get_current)


class _Listener:
    """Hears of the events of a pool, in any thread. It does not keep the pool."""

    def __init__(self, tracer: Tracer, instruments: _Instruments) -> None:
        self._tracer = tracer  # never changes
        self._instruments = instruments  # never changes

    def __call__(self, event: Event) -> None:
        request, since = event.request, event.since
        if request is None:
            if event.kind == "closed" and since is not None:
                attributes = _server(parse_origin(event.origin))
                self._instruments.connected.record(_seconds(since, event), attributes)
        elif event.kind == "sent":
            self._instruments.active.add(1, _asked(request))
        elif since is not None:
            self._instruments.active.add(-1, _asked(request))
            self._tell(request, since, event)
        elif isinstance(event.outcome, Exception):  # nothing was sent: there was no connection
            self._tell(request, event.when, event)

    def _tell(self, request: Request, since: float, event: Event) -> None:
        """Tell that the attempt of *request* that began at *since* has ended with *event*."""
        from opentelemetry.trace import SpanKind, StatusCode

        asked, outcome = _asked(request), _outcome(event)
        self._instruments.took.record(_seconds(since, event), asked | outcome)
        method = asked["http.request.method"]
        attributes = {**asked, **outcome, "url.full": request.public_url}
        if method != request.method:
            attributes["http.request.method_original"] = request.method
        if event.resends:
            attributes["http.request.resend_count"] = event.resends
        span = self._tracer.start_span(
            "HTTP" if method == "_OTHER" else str(method),
            event.trace,
            SpanKind.CLIENT,
            attributes,
            start_time=int(since * 1e9),
        )
        if "error.type" in outcome:
            has_status = "http.response.status_code" in outcome  # which says it all
            span.set_status(StatusCode.ERROR, None if has_status else event.reason)
        span.end(int(event.when * 1e9))


def _seconds(since: float, event: Event) -> float:
    return max(0.0, event.when - since)  # for the clock may be set back


def _server(origin: Origin) -> Attributes:
    return {
        "server.address": origin.host,
        "server.port": origin.port,
        "url.scheme": origin.scheme,
    }


def _asked(request: Request) -> Attributes:
    method = request.method if request.method in _METHODS else "_OTHER"
    return {"http.request.method": method, **_server(request.origin)}


def _outcome(event: Event) -> Attributes:
    outcome = event.outcome
    if outcome is None:  # it was cancelled, or taken back from a slow connection
        return {"error.type": event.kind}
    if isinstance(outcome, Exception):
        return {"error.type": type(outcome).__qualname__}
    attributes: Attributes = {
        "http.response.status_code": outcome.status,
        "network.protocol.version": outcome.http_version.removeprefix("HTTP/"),
    }
    if outcome.status >= 400:
        attributes["error.type"] = str(outcome.status)
    return attributes


class _Instruments:
    """The instruments of one meter provider, for all pools that it is told of."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("dugong", __version__)
        self._lock = Lock()
        self._pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()  # guarded by the lock
        # None of the others changes; any thread may use them.
        self.took = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_REQUEST_TIMES,
        )
        self.active = meter.create_up_down_counter(
            "http.client.active_requests", "{request}", "Number of active HTTP requests."
        )
        self.connected = meter.create_histogram(
            "http.client.connection.duration",
            "s",
            "The duration of the successfully established outbound HTTP connections.",
            explicit_bucket_boundaries_advisory=_CONNECTION_TIMES,
        )
        meter.create_observable_up_down_counter(
            "http.client.open_connections",
            [self._count_connections],
            "{connection}",
            "Number of outbound HTTP connections that are currently active or idle on the client.",
        )

    def watch(self, pool: ConnectionPool) -> None:
        """Count the connections of *pool*, too."""
        with self._lock:
            self._pools.add(pool)

    def _count_connections(self, options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        with self._lock:
            pools = list(self._pools)
        counts: Counter[tuple[str, str]] = Counter()
        for pool in pools:
            for host in pool.statistics().hosts.values():
                for connection in host.connections:
                    if connection.state != "connecting":
                        state = "idle" if connection.state == "idle" else "active"
                        counts[host.origin, state] += 1
        return [
            Observation(count, {**_server(parse_origin(origin)), "http.connection.state": state})
            for (origin, state), count in counts.items()
        ]


# A meter takes an instrument of a name once. A provider lives as long as the program.
_instruments: dict[MeterProvider, _Instruments] = {}  # guarded by the lock
_instruments_lock = Lock()


def _instruments_of(provider: MeterProvider) -> _Instruments:
    with _instruments_lock:
        if provider not in _instruments:
            _instruments[provider] = _Instruments(provider)
        return _instruments[provider]
