"""Many requests at a time: what `ConnectionPool.map` and `ConnectionPool.as_completed` do.

Guarantees: each takes only so many requests from its source that there is enough under way. When
one ends, however that happens, the requests that it has submitted are done or cancelled. For one
thread at a time.

*Under way* is what has been submitted and was not taken by the consumer yet, whether its response
has come or not. What is under way is filled up, and then not before half of it is left. If a
request were submitted for each response that is taken, then a consumer that releases the GIL in
between would have each request sent by itself.

The source is called by the consumer's thread, so a response cannot be given while the source is
waited for. What follows from this:

- Filling up is broken off once it has taken `PATIENCE` and there is a response to give. The next
  step goes on with it.
- A source that has taken longer is then left alone for as long as it took, while there are
  responses to give. So a source that is slow takes no more than half of the consumer's time.
- While there is no response to give, the source is called, though one may come in the meantime. It
  is given as soon as that call is over.
- A source that has nothing more is asked again when half of what is under way is left; for each
  response, if that is few. A `RequestSource` says when it has more: `as_completed` asks it then if
  there is no response to give, and else when half is left, however few. So a loop that is slower
  than the network has requests submitted several at a time. What ends a wait for such a source is
  the call that it makes.

What `as_completed` takes for a host that lets few requests start is parked (`dugong.pool.parking`)
and does not count as under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from operator import attrgetter
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from dugong.pool.parking import Parking, gate_of
from dugong.pool.request import Request, make_request
from dugong.pool.response import Response

if TYPE_CHECKING:
    from dugong.pool.future import ResponseFuture

__all__ = [
    "AHEAD",
    "AHEAD_SIZE",
    "AtHand",
    "Allowance",
    "CallWhenMore",
    "RequestSource",
    "Submit",
    "Supply",
    "as_completed",
    "batch_of",
    "check_is_iterable",
    "each_of",
    "in_order",
    "more_of",
    "request_of",
    "sizes_of",
]

#: How many requests are kept under way, at most.
AHEAD = 1024
#: Bytes of the bodies of what is under way, as far as they are known: the default of
#: *max_ahead_size*.
AHEAD_SIZE = 64 * 1024 * 1024
#: Bytes that a body is expected to have before the first has come.
EXPECTED_SIZE = 1024 * 1024
#: If fewer may be under way than this, each that is taken is replaced at once: bodies are large
#: then, so that it costs nothing to send each request by itself.
FEW = 128
#: Seconds that filling up may take while there is a response to give.
PATIENCE = 0.01

# How many are submitted at once, if the source never has its caller wait.
_BATCH = 64
#: How much of what is expected is left of it after a body of another size.
_KEPT = 15 / 16

T = TypeVar("T")
#: Submits at least the first of a list, removes from it what it has submitted, and returns that.
Submit = Callable[[list[T]], "list[ResponseFuture]"]
#: Has a source make a call when it has more: `RequestSource.call_when_more`.
CallWhenMore = Callable[[Callable[[], object]], bool]
_outcome_of = attrgetter("_outcome")
_body_of = attrgetter("body")


class RequestSource(Protocol):
    """An iterator of URLs and Requests that may have nothing for a moment, and more later.

    `map` and `as_completed` of a pool and of a client wait for it. It is what `iter()` returns for
    their *requests*; any iterator with this method is one.
    """

    def __iter__(self) -> Iterator[str | Request]: ...

    def __next__(self) -> str | Request:
        """Return the next one, without waiting for it; StopIteration: there is none at the moment.

        It may be called again after that.
        """

    def call_when_more(self, call: Callable[[], object], /) -> bool:
        """Have *call* called once, when it is worth to call `__next__` again; return True.

        That is when there is more, or when there will never be more. It may be called at once, and
        by any thread; it is quick, raises nothing, and may be called too often. To ask for the same
        *call* twice is to ask once. Return False if there will never be more: nothing is called.
        """


def each_of(items: Iterable[str | Request], make: Callable[[str | Request], T]) -> Iterator[T]:
    """Return what *make* makes of each of *items*, which may be endless, when it is its turn.

    Raises TypeError if they are no iterable. What *make* raises for an item is raised when it is
    its turn; the next one may be asked for then.
    """
    check_is_iterable(items)
    # Not a generator, which would end for good when the source has nothing for a while.
    return map(make, items)


def check_is_iterable(items: object) -> None:
    """Raise TypeError if *items* cannot be an iterable of URLs and Requests."""
    if isinstance(items, (str, bytes, Request)) or not isinstance(items, Iterable):
        kind = type(items).__name__
        raise TypeError(f"requests must be an iterable of URLs and Requests, not {kind}")


def request_of(item: str | Request) -> Request:
    """Return *item*, or the GET of that URL. Raises what `Request` raises."""
    return item if isinstance(item, Request) else make_request(Request, "GET", item)


def more_of(items: Iterator[str | Request]) -> CallWhenMore | None:
    """Return `RequestSource.call_when_more` of *items*; None if they are no such source."""
    return getattr(items, "call_when_more", None)


class AtHand(Iterator[T]):
    """Gives *items*, which are made without waiting, so that *at_once* may be submitted together.

    That takes much less time than to submit them one by one. For one thread.
    """

    __slots__ = ("_items", "at_once")

    def __init__(self, items: Iterable[T], at_once: int) -> None:
        self._items = iter(items)
        self.at_once: int = at_once  # never changes

    def __next__(self) -> T:
        return next(self._items)


def batch_of(items: Iterable[str | Request]) -> int:
    """Return how many of *items* may be submitted at once: more than one if all are there."""
    if isinstance(items, AtHand):
        return items.at_once
    return _BATCH if type(items) in (list, tuple, set, frozenset, dict, deque) else 1


class Allowance:
    """Says how many requests may be under way.

    *max_size* is how many bytes the bodies of what is under way may have together. That is exact
    for those that have come; each other one is expected to be as large as the last ones were on the
    average (*expected_size* for the first ones). One may be under way in any case.
    """

    __slots__ = ("_expected", "_max_size")

    def __init__(self, max_size: int, expected_size: float = EXPECTED_SIZE) -> None:
        self._max_size = max_size
        self._expected = float(expected_size)  # bytes of a body that has not come yet

    def taken(self, size: int, count: int = 1) -> None:
        """Note that the consumer has taken *count* bodies, of *size* bytes together."""
        if count:
            self._expected += (size / count - self._expected) * (1 - _KEPT**count)

    def most(self, came: int, size: int, apart: int = 0) -> int:
        """Return how many may be under way, *came* of which have come, with *size* bytes.

        *apart* of them wait for hosts that let few requests start.
        """
        expected = int((self._max_size - size) / max(self._expected, 1.0))
        return max(1, min(AHEAD + apart, came + max(0, expected)))

    @staticmethod
    def low(most: int) -> int:
        """Return how many are left under way when there are to be *most* again."""
        return most // 2 if most >= FEW else max(0, most - 1)


class Supply(Generic[T]):
    """Says which items of a *source* are to be begun, so that enough is under way.

    *max_size* and *expected_size* are as for `Allowance`. *batch* is how many may be begun at once.
    *parking*, if there is one, is for a source of jobs: it is to be told of those that are taken.
    *tells*: whether the source says when it has more.

    *clock* is `time.monotonic`, but for tests.
    """

    __slots__ = (
        "_allowance",
        "_batch",
        "_clock",
        "_failure",
        "_kept",
        "_parking",
        "_rest_until",
        "_source",
        "_tells",
        "exhausted",
        "low",
        "taken",
    )

    def __init__(
        self,
        source: Iterator[T],
        max_size: int,
        expected_size: float = EXPECTED_SIZE,
        clock: Callable[[], float] = monotonic,
        batch: int = 1,
        parking: Parking | None = None,
        tells: bool = False,
    ) -> None:
        self._source = source
        self._tells = tells  # never changes
        self._parking = parking
        self._batch = batch
        self._kept: list[T] = []  # taken from the source, and not begun
        self._failure: Exception | None = None  # what the source has raised behind that
        self._clock = clock
        self._allowance = allowance = Allowance(max_size, expected_size)
        #: See there.
        self.taken: Callable[[int, int], None] = allowance.taken
        self._rest_until = 0.0  # when the source may be called though there is a response to give
        #: `more` is to be called when no more than this are under way.
        self.low: int = 0
        #: Whether the source had nothing more when `more` was called last.
        self.exhausted: bool = False

    def more(
        self, under_way: int, came: Callable[[], Collection[int]], is_ready: Callable[[], bool]
    ) -> Iterator[list[T]]:
        """Yield what is to be begun now, if *under_way* are under way, in batches.

        What has been begun is to be removed from its batch: the first item at least. What is left
        comes again: at once, or with the next call if there is a response to give.

        *came* returns the sizes of the bodies that have come (0 for a failure); *is_ready* returns
        whether there is a response to give. Raises what the source raises.
        """
        self.exhausted = False
        clock = self._clock
        began = clock()
        if began < self._rest_until and is_ready():
            return
        parking, allowance = self._parking, self._allowance
        sizes = came()
        count, size = len(sizes), sum(sizes)
        until = began + PATIENCE
        batch, self._kept = self._kept, []
        under_way += len(batch)
        is_over = False
        while True:
            apart = 0 if parking is None else parking.apart
            most = allowance.most(count, size, apart)
            self.low = apart + allowance.low(most - apart)
            room = min(self._batch - len(batch), most - under_way)
            if room > 0 and not is_over:
                before = len(batch)
                is_over = not self._take(batch, room)
                under_way += len(batch) - before
            if batch:
                yield batch
            elif is_over or under_way >= most:
                break
            if clock() > until and is_ready():
                now = clock()
                self.low = most - 1
                self._rest_until = now + (now - began)
                self._kept = batch
                return
        if under_way < most:  # the source may have more later
            apart = 0 if parking is None else parking.apart
            under_way -= apart
            self.low = apart + (under_way // 2 if self._tells else allowance.low(under_way))
        if self._failure is not None and not (parking is not None and parking.count):
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure  # which refers to this frame

    def _take(self, batch: list[T], most: int) -> bool:
        """Add up to *most* items to *batch*; return False if there is nothing more for now.

        Others may be parked.
        """
        parking, before = self._parking, len(batch)
        try:
            if parking is not None:
                return self._take_or_park(parking, batch, most)
            if self._failure is not None:
                return False
            batch += islice(self._source, most)  # which keeps those before an exception
        except StopIteration:
            self.exhausted = True
            return False
        except Exception as exc:
            self._failure = exc
            return False
        self.exhausted = len(batch) - before < most
        return not self.exhausted

    def _take_or_park(self, parking: Parking, batch: list[T], most: int) -> bool:
        """Do the same for a source of jobs that may be parked. Raises what the source raises."""
        for _ in range(most):
            item: Any = parking.pop() if parking.has_free else None
            if item is None:
                if parking.is_full or self._failure is not None:
                    return False
                item = next(self._source)
                if gate_of(item) is not None and parking.parks(item):
                    continue
            batch.append(item)
        return True


def sizes_of(futures: Iterable[ResponseFuture]) -> list[int]:
    """Return how large the bodies of those *futures* are that are done; 0 for a failure."""
    # Not result(), which would add to the traceback of a failure.
    outcomes = list(filter(None, map(_outcome_of, futures)))
    if set(map(type, outcomes)) <= {Response}:  # no step of Python for each of them
        return list(map(len, map(_body_of, outcomes)))
    return [_size_of(outcome) for outcome in outcomes]


def _size_of(outcome: object) -> int:
    return len(outcome.body) if isinstance(outcome, Response) else 0


def in_order(
    source: Iterator[T],
    submit: Submit[T],
    check_may_wait: Callable[[], None],
    max_size: int = AHEAD_SIZE,
    batch: int = 1,
    call_when_more: CallWhenMore | None = None,
) -> Iterator[Response]:
    """Submit what *source* gives, and yield the responses in its order.

    *check_may_wait* raises in a thread that must not wait; each step may be in another thread.
    *max_size* is as for `Supply`, *call_when_more* as of a `RequestSource`.
    """
    news: SimpleQueue[None] = SimpleQueue()  # *source* has more
    tell = partial(news.put, None)
    is_over = call_when_more is None
    ahead: deque[ResponseFuture] = deque()
    supply = Supply(source, max_size, batch=batch)
    failed: Exception | None = None  # what *source* ends with, after all that came before

    def came() -> list[int]:
        return sizes_of(ahead)

    def is_ready() -> bool:
        return bool(ahead) and ahead[0].done()

    try:
        while True:
            check_may_wait()
            if failed is None:
                try:
                    for items in supply.more(len(ahead), came, is_ready):
                        ahead += submit(items)
                    if call_when_more is not None:
                        is_over = supply.exhausted and not call_when_more(tell)
                except Exception as exc:
                    failed = exc
            if not ahead:
                if is_over or failed is not None:
                    break
                news.get()  # ended by *source*
                continue
            low = 0 if failed is not None else min(supply.low, len(ahead) - 1)
            size, count = 0, len(ahead) - low
            for _ in range(count):
                # Not taken out before: it is cancelled, too, if the wait is interrupted.
                response = ahead[0].result()
                ahead.popleft()
                size += len(response.body)
                yield response
                del response  # while the next one is waited for
            supply.taken(size, count)
        if failed is not None:
            raise failed
    finally:
        failed = None  # which refers to this frame
        for future in ahead:
            future.cancel()


def as_completed(
    source: Iterator[T],
    submit: Submit[T],
    check_may_wait: Callable[[], None],
    max_size: int = AHEAD_SIZE,
    batch: int = 1,
    call_when_more: CallWhenMore | None = None,
    parking: Parking | None = None,
) -> Iterator[ResponseFuture]:
    """Submit what *source* gives, and yield the futures as they are done.

    *check_may_wait*, *max_size* and *call_when_more* are as for `in_order`, *parking* is as for
    `Supply`.
    """
    done: SimpleQueue[Any] = SimpleQueue()  # futures; None: *source* has more
    tell = partial(done.put, None)
    is_over = call_when_more is None
    ready: deque[ResponseFuture] = deque()  # taken from `done`
    sizes: deque[int] = deque()  # of their bodies; the source may be asked for each of them
    pending: set[ResponseFuture] = set()
    if not is_over:
        batch = _BATCH  # of a `RequestSource`, which never has its caller wait
    supply = Supply(source, max_size, batch=batch, parking=parking, tells=not is_over)
    failed: Exception | None = None  # what *source* ends with, after all that came before

    def add(future: ResponseFuture) -> None:
        ready.append(future)
        sizes.append(_size_of(future._outcome))

    def came() -> deque[int]:
        while not done.empty():
            if (future := done.get()) is not None:  # or the source is asked, as it is to be
                add(future)
        return sizes

    def is_ready() -> bool:
        return bool(ready) or not done.empty()

    try:
        while True:
            check_may_wait()
            if failed is None:
                try:
                    for items in supply.more(len(pending), came, is_ready):
                        futures = submit(items)
                        pending.update(futures)
                        for future in futures:
                            future.add_done_callback(done.put)
                        del future, futures  # which would keep their bodies in memory
                    if call_when_more is not None:
                        is_over = supply.exhausted and not call_when_more(tell)
                except Exception as exc:
                    failed = exc
                    for future in pending:  # one is not told of, if a signal handler has raised
                        future.add_done_callback(done.put)
            if not pending and (is_over or failed is not None):
                break
            low = 0 if failed is not None else min(supply.low, len(pending) - 1)
            size = count = 0
            while len(pending) > low:
                if not ready:
                    if done.empty():
                        (next(iter(pending))._check_may_wait if pending else check_may_wait)()
                    future = done.get()  # ended by a response, or by *source*
                    if future is None:
                        if failed is None:
                            break
                        continue
                    add(future)
                future = ready.popleft()
                sizes.popleft()
                if future not in pending:
                    continue  # it was told of twice
                pending.remove(future)
                if parking is not None and parking.apart:
                    parking.took(future.request)
                outcome = future._outcome
                if isinstance(outcome, Response):  # a failure says nothing about sizes
                    size += len(outcome.body)
                    count += 1
                del outcome
                yield future
                if parking is not None and parking.has_free:
                    break
            supply.taken(size, count)
        if failed is not None:
            raise failed
    finally:
        failed = None  # which refers to this frame
        for future in pending:
            future.cancel()
