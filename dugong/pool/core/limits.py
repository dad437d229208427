"""The numbers that a caller has given for a pool. Touches nothing."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Limits"]


class Limits(NamedTuple):
    """The numbers of a pool; times are in seconds, None is no limit."""

    max_connections_per_host: int
    max_connections: int
    pipeline_depth: int | None
    timeout: float | None
    max_queued: int
    max_body_size: int
    idle_timeout: float
    max_age: float | None
    max_requests: int | None
    connect_timeout: float | None
    min_rate: float | None  # bytes a second of a body
