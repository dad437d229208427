"""What OpenTelemetry is told of a pool: spans and metrics, as its conventions name them."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dugong import (
    Client,
    ConnectError,
    ConnectionClosed,
    ConnectionPool,
    Delivery,
    Event,
    Request,
    RetryPolicy,
)
from dugong.deadline import Deadline
from dugong.telemetry import instrument
from dugong.testing import MockPool, MockRequest, MockResponse, failed
from tests.support.names import refusing
from tests.support.server import TIMEOUT

URL = "https://host:8443/path?secret"
AT_ONCE = RetryPolicy(attempts=3, backoff=0)
OF_HOST = {"server.address": "host", "server.port": 8443, "url.scheme": "https"}
GET = {"http.request.method": "GET", **OF_HOST}
OK = {"http.response.status_code": 200, "network.protocol.version": "1.1"}


class Telemetry:
    """Providers that keep what they are told in memory."""

    def __init__(self) -> None:
        pytest.importorskip("opentelemetry.sdk")
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._metrics = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._metrics], shutdown_on_exit=False)

    def watch(self, target: ConnectionPool | Client) -> None:
        instrument(target, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider)

    def mock(self, respond: Callable[[MockRequest], Any], **options: Any) -> MockPool:
        pool = MockPool(respond, **options)
        self.watch(pool)
        return pool

    @property
    def spans(self) -> list[Any]:
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time)

    def points(self, name: str) -> list[tuple[dict[str, object], Any]]:
        """Return the attributes of each point of the metric *name*, and the point."""
        data = self._metrics.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [
            (dict(point.attributes), point)
            for metric in metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.tracer_provider.shutdown()
    telemetry.meter_provider.shutdown()


# --- spans ----------------------------------------------------------------------------------------


def test_a_request_is_a_span(telemetry: Telemetry) -> None:
    from opentelemetry.trace import SpanKind

    with telemetry.mock(lambda request: MockResponse(delay=0.01)) as pool:
        pool.get(URL)
    (span,) = telemetry.spans
    assert (span.name, span.kind, span.status.is_unset) == ("GET", SpanKind.CLIENT, True)
    assert dict(span.attributes) == {**GET, **OK, "url.full": "https://host:8443/path?..."}
    assert span.end_time - span.start_time >= 10_000_000


def test_the_parent_is_the_span_in_which_the_request_is_made(telemetry: Telemetry) -> None:
    tracer = telemetry.tracer_provider.get_tracer("test")
    with telemetry.mock(lambda request: 200) as pool:
        with tracer.start_as_current_span("outer") as outer:
            pool.submit("GET", URL).result(TIMEOUT)
        pool.put(URL, b"abc")
    parents = {span.name: span.parent for span in telemetry.spans}
    assert parents["GET"].span_id == outer.get_span_context().span_id
    assert parents["PUT"] is None


def test_each_request_of_a_client_is_a_span_of_the_same_parent(telemetry: Telemetry) -> None:
    def respond(request: MockRequest) -> MockResponse | int:
        return MockResponse(302, {"Location": "/new"}) if request.target == "/old" else 200

    tracer = telemetry.tracer_provider.get_tracer("test")
    with MockPool(respond) as pool, Client(pool=pool, trust_env=False) as client:
        telemetry.watch(client)
        with tracer.start_as_current_span("outer"):
            client.submit("GET", "https://host/old").result(TIMEOUT)
    outer, first, second = telemetry.spans
    statuses = [span.attributes["http.response.status_code"] for span in (first, second)]
    assert statuses == [302, 200]
    assert first.parent.span_id == second.parent.span_id == outer.context.span_id


def test_a_response_that_is_an_error_is_a_span_with_an_error(telemetry: Telemetry) -> None:
    from opentelemetry.trace import StatusCode

    with telemetry.mock(lambda request: 404) as pool:
        pool.get(URL)
    (span,) = telemetry.spans
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert span.attributes["error.type"] == "404"


def test_each_attempt_is_a_span(telemetry: Telemetry) -> None:
    def respond(request: MockRequest) -> int:
        if len(pool.requests) == 1:
            raise failed(Delivery.SENT)
        return 503 if len(pool.requests) == 2 else 200

    with telemetry.mock(respond, retry=AT_ONCE) as pool:
        pool.get(URL)
    told = [
        (
            span.attributes.get("http.request.resend_count"),
            span.attributes.get("http.response.status_code"),
            span.attributes.get("error.type"),
        )
        for span in telemetry.spans
    ]
    assert told == [(None, None, "ConnectionClosed"), (1, 503, "503"), (2, 200, None)]


def test_a_request_that_fails_is_a_span_that_says_why(telemetry: Telemetry) -> None:
    def respond(request: MockRequest) -> int:
        raise failed(Delivery.SENT, ConnectionClosed("the server has crashed"))

    with telemetry.mock(respond, retry=None) as pool, pytest.raises(ConnectionClosed):
        pool.post(URL)
    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "ConnectionClosed"
    assert span.status.description.startswith("the server has crashed")


def test_a_request_that_could_not_be_sent_is_a_span(telemetry: Telemetry) -> None:
    with ConnectionPool(retry=None) as pool:
        telemetry.watch(pool)
        with refusing() as (host, port), pytest.raises(ConnectError):
            pool.get(f"http://{host}:{port}/")
    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "ConnectError"
    assert telemetry.points("http.client.active_requests") == []


def test_a_request_that_is_cancelled_is_a_span(telemetry: Telemetry) -> None:
    asked = threading.Event()

    def respond(request: MockRequest) -> MockResponse:
        asked.set()
        return MockResponse(delay=60)

    with telemetry.mock(respond) as pool:
        future = pool.submit("GET", URL)
        assert asked.wait(TIMEOUT)
        assert future.cancel()
    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "cancelled"


def test_the_span_of_a_stream_ends_with_the_head(telemetry: Telemetry) -> None:
    pool = telemetry.mock(lambda request: MockResponse(body=[b"abc"]))
    with pool, pool.stream("GET", URL) as response:
        response.read()
    (span,) = telemetry.spans
    assert span.attributes["http.response.status_code"] == 200


def test_a_method_that_is_not_known_is_another(telemetry: Telemetry) -> None:
    with telemetry.mock(lambda request: 200) as pool:
        pool.request("PURGE", URL)
    (span,) = telemetry.spans
    assert span.name == "HTTP"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "PURGE"


# --- metrics --------------------------------------------------------------------------------------


def test_the_duration_of_each_attempt_is_measured(telemetry: Telemetry) -> None:
    with telemetry.mock(lambda request: 200 if request.target == "/" else 404) as pool:
        for target in ("/", "/", "/dodo"):
            pool.get(f"https://host:8443{target}")
    not_found = {**OK, "http.response.status_code": 404, "error.type": "404"}
    points = telemetry.points("http.client.request.duration")
    counts = {attributes["http.response.status_code"]: point.count for attributes, point in points}
    assert [attributes for attributes, _ in points] == [{**GET, **OK}, {**GET, **not_found}]
    assert counts == {200: 2, 404: 1}


def test_requests_are_counted_while_they_are_active(telemetry: Telemetry) -> None:
    told = threading.Event()
    during: list[tuple[dict[str, object], int]] = []

    def hear(event: Event) -> None:
        if event.kind == "sent":
            told.set()

    def respond(request: MockRequest) -> int:
        assert told.wait(TIMEOUT)
        points = telemetry.points("http.client.active_requests")
        during.extend((attributes, point.value) for attributes, point in points)
        return 200

    with telemetry.mock(respond) as pool:
        pool._observe(hear, lambda: None)  # behind the one that counts
        pool.get(URL)
    assert during == [(GET, 1)]
    ((_, after),) = telemetry.points("http.client.active_requests")
    assert after.value == 0


def test_connections_are_counted_by_their_state(telemetry: Telemetry) -> None:
    during: list[tuple[dict[str, object], int]] = []

    def look() -> None:
        points = telemetry.points("http.client.open_connections")
        during.extend((attributes, point.value) for attributes, point in points)

    with telemetry.mock(lambda request: MockResponse(body=[b"abc"])) as pool:
        with pool.stream("GET", URL, retry=None) as response:
            look()
            response.read()
        look()
    assert during == [
        ({**OF_HOST, "http.connection.state": "active"}, 1),
        ({**OF_HOST, "http.connection.state": "idle"}, 1),
    ]
    assert telemetry.points("http.client.open_connections") == []


def test_the_connections_of_all_pools_are_counted(telemetry: Telemetry) -> None:
    with telemetry.mock(lambda request: 200) as first, telemetry.mock(lambda request: 200) as other:
        first.get(URL)
        other.get(URL)
        ((_, point),) = telemetry.points("http.client.open_connections")
    assert point.value == 2


def test_the_duration_of_connections_is_measured(telemetry: Telemetry) -> None:
    with telemetry.mock(lambda request: MockResponse(headers={"Connection": "close"})) as pool:
        pool.get(URL)
        pool.get(URL)
    ((attributes, point),) = telemetry.points("http.client.connection.duration")
    assert (attributes, point.count) == (OF_HOST, 2)


# --- the pool -------------------------------------------------------------------------------------


def test_the_listener_of_the_pool_hears_its_events_as_before(telemetry: Telemetry) -> None:
    heard: list[Event] = []
    with telemetry.mock(lambda request: 200, on_event=heard.append) as pool:
        pool.get(URL)
    assert {event.kind for event in heard} == {"opened", "sent", "answered", "closed"}
    assert len(telemetry.spans) == 1


def test_a_listener_of_the_pool_that_fails_costs_no_span(telemetry: Telemetry) -> None:
    def fail(event: Event) -> None:
        raise LookupError("listener")

    with telemetry.mock(lambda request: 200, on_event=fail) as pool:
        pool.get(URL)
    assert len(telemetry.spans) == 1


def test_a_pool_that_is_forgotten_is_collected(telemetry: Telemetry) -> None:
    pool = telemetry.mock(lambda request: 200)
    pool.get(URL)
    forgotten = weakref.ref(pool)
    threads = pool._scheduler._core.threads
    del pool
    gc.collect()
    assert forgotten() is None
    threads.join(Deadline(10))


def test_what_is_no_pool_is_refused() -> None:
    with pytest.raises(TypeError, match="target must be a pool or a client, not Request"):
        instrument(Request("GET", URL))


def test_without_opentelemetry_an_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with ConnectionPool() as pool, pytest.raises(ImportError, match=r"dugong\[telemetry\]"):
        instrument(pool)
