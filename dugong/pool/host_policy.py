"""`HostPolicy`: how a pool treats one host.

Guarantees: a policy that exists makes sense, and never changes. No message and no repr of it quotes
a header value. Touches nothing.
"""

from __future__ import annotations

from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING

from dugong.connection.encode import HeaderPairs
from dugong.pool.checks import (
    check_bool,
    check_counts,
    check_not_negative,
    check_positive,
    check_rates,
)
from dugong.pool.options import default_headers
from dugong.pool.settings import Settings

if TYPE_CHECKING:
    from dugong.connection.encode import HeadersLike

__all__ = ["HostPolicy"]

# Requests a second: what is beyond these is a mistake, and not to be calculated with.
_MIN_RATE = 1 / TIMEOUT_MAX
_MAX_RATE = 1e9


class HostPolicy(Settings):
    """How a pool treats one host. Times are in seconds.

    * *max_connections*: how many connections there are at most; None: *max_connections_per_host* of
      the pool.
    * *pipeline_depth*: how many requests may be unanswered on one connection; None: that of the
      pool.
    * *min_interval*: how long after the start of a request the next one starts, at the earliest.
    * *rate*: how many requests start in a second, on the average; None: any number.
    * *burst*: how many of these may start at once when there were fewer before.
    * *headers*: sent with every request to the host that does not set the same names itself. They
      replace those of the pool.
    * *adaptive*: find out by what the host responds how many requests a second it takes.
    * *max_in_flight*: how many requests may be unanswered, on all connections together; None: any
      number.
    * *upload_rate*, *download_rate*: how many bytes a second all connections to the host send, and
      receive, at most; None: *host_upload_rate* and *host_download_rate* of the pool.

    A request that may not start yet waits in the queue of the host, and holds no connection.
    Repetitions count as any other request.

    Raises TypeError or ValueError for values that make no sense. Immutable, so any thread may use
    it; `replace` makes another one. Policies with equal values are equal, and can be pickled.
    """

    __slots__ = (  # noqa: RUF023  # in the order of the parameters, for the repr
        "max_connections",
        "pipeline_depth",
        "min_interval",
        "rate",
        "burst",
        "headers",
        "adaptive",
        "max_in_flight",
        "upload_rate",
        "download_rate",
    )
    _names = __slots__

    max_connections: int | None
    pipeline_depth: int | None
    min_interval: float
    rate: float | None
    burst: int
    headers: HeaderPairs
    adaptive: bool
    max_in_flight: int | None
    upload_rate: float | None
    download_rate: float | None

    def __init__(
        self,
        *,
        max_connections: int | None = None,
        pipeline_depth: int | None = None,
        min_interval: float = 0.0,
        rate: float | None = None,
        burst: int = 1,
        headers: HeadersLike | None = None,
        adaptive: bool = False,
        max_in_flight: int | None = None,
        upload_rate: float | None = None,
        download_rate: float | None = None,
    ) -> None:
        for name, count in (
            ("max_connections", max_connections),
            ("pipeline_depth", pipeline_depth),
            ("max_in_flight", max_in_flight),
        ):
            if count is not None:
                check_counts(**{name: count})
        check_not_negative("min_interval", min_interval, "seconds", TIMEOUT_MAX)
        if rate is not None:
            check_positive("rate", rate, "requests a second or None", _MAX_RATE)
            if rate < _MIN_RATE:
                raise ValueError(f"rate must be at least {_MIN_RATE:.1g}, not {rate!r}")
        check_counts(burst=burst)
        if burst != 1 and rate is None:
            raise ValueError("burst says how a rate is kept, so it needs a rate")
        check_bool("adaptive", adaptive)
        check_rates(upload_rate=upload_rate, download_rate=download_rate)
        self._set(
            max_connections=max_connections,
            pipeline_depth=pipeline_depth,
            min_interval=min_interval,
            rate=rate,
            burst=burst,
            headers=default_headers(headers).fixed,
            adaptive=adaptive,
            max_in_flight=max_in_flight,
            upload_rate=upload_rate,
            download_rate=download_rate,
        )

    def __repr__(self) -> str:
        """Show what differs from the defaults, and of the headers the names alone."""
        fields = self._fields()
        fields["headers"] = tuple(name for name, _ in self.headers)
        shown = [f"{n}={v!r}" for n, v in fields.items() if v != _DEFAULTS[n]]
        return f"HostPolicy({', '.join(shown)})"


_DEFAULTS = {**(HostPolicy.__init__.__kwdefaults__ or {}), "headers": ()}
