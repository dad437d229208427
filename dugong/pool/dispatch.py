"""Which requests go to which connection, and what is opened: decisions without I/O and locks.

Guarantees: requests leave a queue in its order; none leaves it while the host is to be left alone;
nothing is sent before or behind a request that has to be alone; as long as there are requests and a
connection that is free, and may have them, that one gets some. Called under the lock of the
scheduler; changes nothing but the queues and the pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.pool.host import Host
    from dugong.pool.job import Job
    from dugong.pool.pipeline import Pipeline

__all__ = ["has_room", "needs_fresh", "room", "should_refill", "take", "wants_connection"]


def room(host: Host, pipeline: Pipeline) -> int:
    """Return how many more requests *pipeline* may have in flight, as far as the rules go."""
    if pipeline.closed_to_more:
        return 0
    room = host.lessons.window - len(pipeline.in_flight)
    quota = host.lessons.quota
    if quota is not None:
        room = min(room, quota - pipeline.sent)
    if pipeline.max_requests is not None:
        room = min(room, pipeline.max_requests - pipeline.sent)
    return room


def has_room(host: Host, pipeline: Pipeline) -> bool:
    """Return True if *pipeline* might take a request that can be pipelined."""
    return room(host, pipeline) > 0


def should_refill(host: Host, pipeline: Pipeline) -> bool:
    """Return True if it is time to wake the sender: not for each answer, but for a batch."""
    flying = len(pipeline.in_flight)
    return host.queued > 0 and flying <= host.lessons.window // 2


def wants_connection(host: Host, limit: int, now: float) -> bool:
    """Return True if *host* should have another connection, of at most *limit*.

    One for each request, before any request is put behind another. But only one at a time, as long
    as the host cannot be reached.
    """
    have = len(host.pipelines)
    return (
        host.queued > 0
        and not host.held
        and have < limit
        and (have < host.queued + host.in_flight or needs_fresh(host))
        and now >= host.unopenable_until
        and not (host.unreachable and any(not pipeline.connected for pipeline in host.pipelines))
    )


def needs_fresh(host: Host) -> bool:
    """Return True if a request needs a connection that has not been used, and there is none.

    It has lost a used one, which the server may have closed just then. That of another one which
    was idle for as long would show no more.
    """
    return bool(host.suspects) and all(pipeline.sent for pipeline in host.pipelines)


def take(host: Host, pipeline: Pipeline) -> list[Job]:
    """Remove from the queue of *host*, and return, what *pipeline* is to send now.

    A request that has lost a connection before is left for one that has not been used; the first
    pipeline that comes across it makes room for that: it takes nothing more, and ends once it is
    empty. One that has to be alone, and that no free connection could have, is reserved by the
    first pipeline that comes across it, which takes nothing else until it is empty and can send
    that.
    """
    if host.held:
        return []
    if pipeline.reserved is not None:
        if pipeline.in_flight or pipeline.closed_to_more:
            return []
        reserved, pipeline.reserved = pipeline.reserved, None
        return [reserved]
    most = room(host, pipeline)
    if most <= 0 or not host.queued:
        return []
    flying = len(pipeline.in_flight)
    if host.suspects:
        if not pipeline.sent:
            return [host.pop_suspect()]
        making_room = any(other.retiring and not other.streaming for other in host.pipelines)
        if needs_fresh(host) and not (flying and making_room):
            pipeline.retiring = True  # and make room for one
            return []
    # An equal share, so that no request waits behind others while a connection has nothing to do.
    share = -(-(host.queued + host.in_flight) // len(host.pipelines))
    most = min(most, max(share, 1) - flying)
    batch: list[Job] = []
    while len(batch) < most and (job := host.pop()) is not None:
        if not job.alone:
            batch.append(job)
            continue
        if not (flying or batch):
            return [job]
        if any(_is_free(host, other) for other in host.pipelines):
            host.put_back([job])
        else:
            pipeline.reserved, job.pipeline = job, pipeline
        break
    return batch


def _is_free(host: Host, pipeline: Pipeline) -> bool:
    """Return True if *pipeline* has nothing to wait for: it is idle, just woken or connecting."""
    return not pipeline.in_flight and pipeline.reserved is None and has_room(host, pipeline)
