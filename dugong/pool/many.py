"""Many requests at a time: what `ConnectionPool.map` and `ConnectionPool.as_completed` do.

Guarantees: each takes only so many requests from its source that there is enough under way. When
one ends, however that happens, the requests that it has submitted are done or cancelled. For one
thread at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dugong.pool.request import Request

if TYPE_CHECKING:
    from dugong.pool.future import ResponseFuture
    from dugong.pool.response import Response

__all__ = ["AHEAD", "as_completed", "in_order", "requests_of"]

#: How many requests are kept under way, at most.
AHEAD = 1024

Submit = Callable[[Request], "ResponseFuture"]


def requests_of(items: Iterable[str | Request]) -> Iterator[Request]:
    """Return what is to be sent for *items*, which may be endless.

    Raises TypeError if they are no iterable. What an item is no request for is raised when it is
    its turn; the next one may be asked for then.
    """
    if isinstance(items, (str, bytes, Request)) or not isinstance(items, Iterable):
        kind = type(items).__name__
        raise TypeError(f"requests must be an iterable of URLs and Requests, not {kind}")
    # Not a generator, which would end for good when the source has nothing for a while.
    return map(_request, items)


def _request(item: str | Request) -> Request:
    return item if isinstance(item, Request) else Request("GET", item)


def in_order(
    source: Iterator[Request], submit: Submit, check_may_wait: Callable[[], None]
) -> Iterator[Response]:
    """Submit what *source* gives, and yield the responses in its order.

    *check_may_wait* raises in a thread that must not wait; each step may be in another thread.
    """
    ahead: deque[ResponseFuture] = deque()
    failed: Exception | None = None  # what *source* ends with, after all that came before
    try:
        while True:
            check_may_wait()
            try:
                while failed is None and len(ahead) < AHEAD:
                    if (request := next(source, None)) is None:
                        break
                    ahead.append(submit(request))
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


def as_completed(
    source: Iterator[Request], submit: Submit, check_may_wait: Callable[[], None]
) -> Iterator[ResponseFuture]:
    """Submit what *source* gives, and yield the futures as they are done.

    *check_may_wait* is as for `in_order`.
    """
    done: SimpleQueue[Any] = SimpleQueue()
    pending: set[ResponseFuture] = set()
    failed: Exception | None = None  # what *source* ends with, after all that came before
    try:
        while True:
            check_may_wait()
            while failed is None and len(pending) < AHEAD:
                try:
                    if (request := next(source, None)) is None:
                        break
                    future = submit(request)
                except Exception as exc:
                    failed = exc
                    break
                pending.add(future)
                future.add_done_callback(done.put)
                if not done.empty():
                    break
            if pending:
                if done.empty():
                    next(iter(pending))._check_may_wait()
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
