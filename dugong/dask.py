"""Requests from many machines: `map` and `crawl` have the workers of a Dask cluster send them.

Guarantees: each request has one `Result`. All requests of an origin belong to one shard, and a
shard is worked on by one worker at a time, so what a pool does for the sake of a host (its limits,
its policy) holds for the cluster. If a worker is lost, the idempotent requests that it had are sent
by another one; the others are never sent again, and have `WorkerLost` as their error.

Nothing else of dugong imports this module. It needs the package distributed
(``pip install dugong[dask]``), and touches the network by that alone: the requests are sent by the
workers.
"""

from __future__ import annotations

import pickle
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any
from zlib import crc32

from dugong.client.client import Client
from dugong.crawl.delays import keep_to_delay
from dugong.errors import Delivery, DugongError
from dugong.pool.checks import check_call, check_counts
from dugong.pool.many import check_is_iterable, more_of, request_of
from dugong.pool.pool import ConnectionPool
from dugong.pool.request import Request
from dugong.pool.response import Response
from dugong.pool.retry.policy import RetryPolicy

try:
    import distributed
    from distributed.protocol.pickle import dumps
except ImportError as exc:
    raise ImportError("dugong.dask needs distributed: pip install dugong[dask]") from exc

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dugong.crawl.frontier import Frontier
    from dugong.pool.url import Origin

__all__ = ["Result", "WorkerLost", "crawl", "map"]

#: How many requests a worker is given at once: of a shard that begins, and at most.
FIRST_BATCH = 16
LARGEST_BATCH = 1024
#: Seconds that a worker is to have a batch for. The results of a batch come back together.
BATCH_TIME = 1.0
#: How many requests are taken from their source before their shards can have them.
AHEAD = 16 * LARGEST_BATCH
#: Seconds that the source may take while there is something else to do.
PATIENCE = 0.05


class WorkerLost(DugongError):
    """The worker that had the request was lost with it, and it was not sent again.

    Its `delivery` is None: nothing is known of it. The request may have been processed.
    """

    msg = "the worker that had the request was lost; whether it was sent is unknown"


@dataclass(frozen=True)
class Result:
    """What became of one request.

    *index* is its position among the requests that were given to `map`, and *request* the request
    itself. Either *response* or *error* is None.
    """

    index: int
    request: Request
    response: Response | None
    error: Exception | None

    @property
    def delivery(self) -> Delivery | None:
        """How far the request got before *error*; None if that is unknown, or if none occurred."""
        return getattr(self.error, "delivery", None)


#: What sends the requests of a worker.
Sender = ConnectionPool | Client

#: Returns how many seconds there are to be between two requests to an origin, or None.
DelayOf = Callable[["Origin"], float | None]

# What a worker is given: an index and a request each, and if the request may be sent once more.
_Item = tuple[int, Request, bool]


def map(  # noqa: A001  # as that of a pool is
    client: distributed.Client,
    requests: Iterable[str | Request],
    *,
    shards: int | None = None,
    key: Callable[[Request], str] | None = None,
    pool: Callable[[], Sender] = ConnectionPool,
) -> Iterator[Result]:
    """Have the workers of *client* send *requests*, and yield a `Result` for each as they are done.

    *requests* are URLs for GET, and `Request` objects with bodies that are bytes or callables. They
    are taken as they are needed, so they may be endless. Each belongs to one of *shards* (default:
    as many as the workers have threads), which a stable hash of its *key* determines. The *key* is
    the origin by default, so that one worker at a time has all requests to a host; if all requests
    are to one host, the key may be the target, for example. Each worker calls *pool* once, and
    closes what that returns when the iterator ends: `ConnectionPool`, `Client`, or a callable that
    returns one of these, such as a `functools.partial`. It is pickled, as the requests are, and the
    responses.

    The `DugongError` of a request that fails is in its result. If a worker is lost, its idempotent
    requests are sent by another one; its other requests have `WorkerLost` as their error. So have
    requests that were lost with more workers than the configuration of the scheduler allows
    (``allowed-failures``: 3).

    Raises TypeError or ValueError at the call if the arguments make no sense. What *requests*
    raise, and a TypeError for a request that cannot be sent elsewhere, is raised behind the results
    of all requests before it. For one thread at a time.
    """
    if key is not None:
        check_call("key", key)
    return _results(client, requests, shards, key or _origin_of, pool)


def crawl(
    client: distributed.Client,
    frontier: Frontier,
    *,
    shards: int | None = None,
    pool: Callable[[], Sender] = Client,
) -> Iterator[Result]:
    """Have the workers of *client* fetch the URLs of *frontier*; yield a `Result` for each.

    Mark the request of each result as `done`, with the links of its page::

        for result in dugong.dask.crawl(client, frontier):
            page = result.response
            frontier.done(result.request, [] if page is None else links(page))

    The iterator waits while the frontier has nothing to give, and ends when all is done. *shards*
    and *pool* are as for `map`, and so is all else; each worker makes a `Client` by default. If the
    frontier has `Robots`, each robots.txt is asked for from here, and the workers keep to the crawl
    delays: the policy of the host gets the delay as its *min_interval*, if that is longer.

    Raises TypeError or ValueError at the call if the arguments make no sense, and what iterating
    over the frontier raises. For one thread at a time.
    """
    robots = frontier.robots

    def delay_of(origin: Origin) -> float | None:
        return None if robots is None else robots.rules(str(origin)).result().crawl_delay

    return _results(client, frontier, shards, _origin_of, pool, delay_of)


def _results(
    client: distributed.Client,
    requests: Iterable[str | Request],
    shards: int | None,
    key: Callable[[Request], str],
    pool: Callable[[], Sender],
    delay_of: DelayOf | None = None,
) -> Iterator[Result]:
    check_is_iterable(requests)
    if shards is not None:
        check_counts(shards=shards)
    if not callable(pool):
        raise TypeError(f"pool must be a callable that returns a pool, not {pool!r}")
    count = shards or sum(client.nthreads().values())
    if not count:
        raise ValueError("the cluster has no workers yet: wait_for_workers() waits for some")
    return _Run(client, iter(requests), count, key, pool, delay_of).results()


def _origin_of(request: Request) -> str:
    return str(request.origin)


class _Shard:
    """The requests that one worker at a time is to send."""

    def __init__(self) -> None:
        # All of these belong to the thread that iterates.
        self.waiting: deque[tuple[int, Request]] = deque()
        self.batch_size = FIRST_BATCH
        self.is_busy = False  # a worker has a batch of it
        self.worker: str | None = None  # that had the last batch, and has the connections


class _Run:
    """One iteration. All of it belongs to the thread that iterates."""

    def __init__(
        self,
        client: distributed.Client,
        source: Iterator[str | Request],
        shards: int,
        key: Callable[[Request], str],
        pool: Callable[[], Sender],
        delay_of: DelayOf | None,
    ) -> None:
        self._client = client
        self._source = source
        self._call_when_more = more_of(source)
        self._delay_of = delay_of
        self._key = key
        self._name = f"dugong-{uuid.uuid4().hex}"
        self._pool = pool
        self._shards = [_Shard() for _ in range(shards)]
        self._waiting = 0  # requests, in all shards
        self._taken = 0  # requests, from the source
        self._failure: Exception | None = None  # what the source ended with
        self._is_over = False  # the source has ended
        self._is_dry = False  # it has nothing at the moment
        #: Batches that are done; None: the source has more. Any thread may put something.
        self._news: SimpleQueue[Any] = SimpleQueue()
        self._tell = partial(self._news.put, None)
        # What is under way: the shard, what it was given, and what marks that it has begun.
        self._live: dict[Any, tuple[_Shard, list[tuple[int, Request]], distributed.Event | None]]
        self._live = {}

    def results(self) -> Iterator[Result]:
        try:
            self._client.register_plugin(_Pools(self._pool), name=self._name)
        except BaseException:  # such as what keeps one worker from making its pool
            with suppress(Exception):
                self._client.unregister_worker_plugin(self._name)
            raise
        try:
            while True:
                self._take()
                for shard in self._shards:
                    if shard.waiting and not shard.is_busy:
                        self._begin(shard)
                if not self._live and self._is_over:
                    break
                if self._has_enough() or not self._news.empty():
                    future = self._news.get()  # ended by a worker, or by the source
                    if future is None:
                        self._is_dry = False
                    else:
                        yield from self._end(future)
            if self._failure is not None:
                raise self._failure
        finally:
            self._failure = None  # which refers to this frame
            self._source = iter(())
            self._client.cancel(list(self._live))
            for _, _, event in self._live.values():
                if event is not None:
                    event.clear()
            self._client.unregister_worker_plugin(self._name)

    def _has_enough(self) -> bool:
        """Return True if nothing is to be taken from the source for now."""
        return (
            self._is_over
            or self._is_dry
            or self._waiting >= AHEAD
            or all(len(shard.waiting) >= shard.batch_size for shard in self._shards)
        )

    def _take(self) -> None:
        """Take requests from the source: enough, or as many as come in `PATIENCE`."""
        until = monotonic() + PATIENCE
        while not self._has_enough() and monotonic() < until:
            try:
                request = _portable(request_of(next(self._source)))
                shard = self._shards[crc32(self._key(request).encode()) % len(self._shards)]
            except StopIteration:
                more = self._call_when_more
                self._is_dry = more is not None and more(self._tell)
                self._is_over = not self._is_dry
            except Exception as exc:
                self._is_over, self._failure = True, exc
            else:
                shard.waiting.append((self._taken, request))
                self._taken += 1
                self._waiting += 1

    def _begin(self, shard: _Shard) -> None:
        """Have a worker send the next requests of *shard*."""
        size = min(shard.batch_size, len(shard.waiting))
        batch = [shard.waiting.popleft() for _ in range(size)]
        self._waiting -= size
        items: list[_Item] = [
            (index, request.replace(context=None), request.is_idempotent)
            for index, request in batch
        ]
        event = None
        if not all(repeatable for _, _, repeatable in items):
            event = distributed.Event(f"{self._name}-{batch[0][0]}", client=self._client)
        future = self._client.submit(
            _perform,
            self._name,
            None if event is None else event.name,
            items,
            self._delays(batch),
            pure=False,
            workers=None if shard.worker is None else [shard.worker],
            allow_other_workers=shard.worker is not None,
        )
        shard.is_busy = True
        self._live[future] = shard, batch, event
        future.add_done_callback(self._news.put)

    def _delays(self, batch: list[tuple[int, Request]]) -> list[tuple[Origin, float]]:
        """Return the delays that the origins of *batch* ask for."""
        if self._delay_of is None:
            return []
        origins = dict.fromkeys([request.origin for _, request in batch])
        delays = [(origin, self._delay_of(origin)) for origin in origins]
        return [(origin, delay) for origin, delay in delays if delay]

    def _end(self, future: Any) -> Iterator[Result]:
        """Yield the results of a batch."""
        shard, batch, event = self._live.pop(future)
        shard.is_busy = False
        if event is not None:
            event.clear()
        if future.status == "finished":
            shard.worker, seconds, outcomes = future.result()
            if seconds < BATCH_TIME / 2:
                shard.batch_size = min(LARGEST_BATCH, shard.batch_size * 2)
            elif seconds > BATCH_TIME * 2:
                shard.batch_size = max(1, shard.batch_size // 2)
        else:
            lost = f"{WorkerLost.msg} ({future.exception()})"
            outcomes = [pickle.dumps(WorkerLost(lost)) for _ in batch]
            shard.worker = None
        future.release()
        for (index, request), pickled in zip(batch, outcomes, strict=True):
            outcome = pickle.loads(pickled)
            if getattr(outcome, "request", outcome) is None:
                outcome.request = request
            is_response = isinstance(outcome, Response)
            yield Result(
                index,
                request,
                outcome if is_response else None,
                None if is_response else outcome,
            )


def _portable(request: Request) -> Request:
    """Return *request*; raise TypeError if it says that it cannot be sent by another process."""
    body = request.body
    if not (body is None or isinstance(body, (bytes, bytearray, memoryview)) or callable(body)):
        raise TypeError(
            "the body of a request that a worker sends must be bytes, or a callable that returns "
            f"it there, not {type(body).__name__}"
        )
    if request.progress is not None:
        raise TypeError("a request that a worker sends cannot tell of its progress")
    made = (body, request.headers, request.trailers)
    if isinstance(request.retry, RetryPolicy) or any(callable(each) for each in made):
        try:
            dumps(request.replace(context=None))  # type: ignore[no-untyped-call]  # it has no types
        except Exception as exc:
            kind = type(exc).__name__
            raise TypeError(f"a request that a worker sends must be pickled ({kind})") from exc
    return request


# --- in the worker -------------------------------------------------------------------------------


class _Pools(distributed.WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """Has each worker make its pool when it begins, or when the iteration does, and close it."""

    def __init__(self, make: Callable[[], Sender]) -> None:
        self._make = make  # never changes
        self.pool: Sender | None = None  # set by setup; any thread may use it

    def setup(self, worker: object) -> None:
        self.pool = self._make()

    def teardown(self, worker: object) -> None:
        # In a thread, since the event loop of the worker must not wait for the pool's.
        import threading

        if self.pool is not None:
            threading.Thread(target=self.pool.close, name="dugong-close", daemon=True).start()


def _perform(
    name: str, event: str | None, items: list[_Item], delays: list[tuple[Origin, float]]
) -> tuple[str, float, list[bytes]]:
    """Send *items*, with *delays* between those of an origin.

    Returns the address of the worker, how long it took, and all outcomes, pickled.

    Called once more by another worker if this one is lost. The *event* then says so.
    """
    began = monotonic()
    worker = distributed.get_worker()
    pool: Sender = worker.plugins[name].pool
    for origin, delay in delays:
        keep_to_delay(pool, origin, delay)
    is_repeated = False
    if event is not None:
        mark = distributed.Event(event)
        is_repeated = mark.is_set()
        mark.set()  # the scheduler has it before anything is sent
    outcomes: dict[int, bytes] = {}
    futures: dict[Future[Response], tuple[int, Request]] = {}
    for index, request, may_be_repeated in items:
        if is_repeated and not may_be_repeated:
            outcomes[index] = pickle.dumps(WorkerLost())
            continue
        try:
            futures[pool.submit(request)] = index, request
        except Exception as exc:
            outcomes[index] = _pickled(exc, request)
    for future in as_completed(futures):
        index, request = futures.pop(future)
        outcomes[index] = _pickled(future.exception() or future.result(), request)
    return worker.address, monotonic() - began, [outcomes[index] for index, _, _ in items]


def _pickled(outcome: Any, request: Request) -> bytes:
    """Return *outcome* without the *request*, which is at home where it goes."""
    if getattr(outcome, "request", None) is request:
        outcome.request = None
    try:
        return pickle.dumps(outcome)
    except Exception as exc:
        kind = type(outcome).__name__
        return pickle.dumps(DugongError(f"what has come, a {kind}, cannot be pickled: {exc}"))
