"""What the options of the command say about all of its requests, and the client that obeys them.

Guarantees: no message quotes a password or a header value. Touches nothing but the files of
certificates that it is told to read.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from dugong.cli import streams
from dugong.cli.errors import UsageError
from dugong.cli.url import without_password
from dugong.client.client import Client
from dugong.errors import ConnectionTimedOut, DugongError, HTTPStatusError, TLSError, printable
from dugong.pool.retry.policy import RetryPolicy

if TYPE_CHECKING:
    import ssl

    from dugong.pool.events import Event
    from dugong.pool.response import Attempt

__all__ = ["POLICY", "Settings", "TimeLimit", "describe", "make_client"]


def _should_retry(attempt: Attempt) -> bool:
    # The user has said by --timeout how long to wait.
    return not isinstance(attempt.exception, ConnectionTimedOut)


#: The policy of all requests, but for the number of attempts.
POLICY = RetryPolicy(should_retry=_should_retry)


_CONNECTIONS = 256  # at most, to all hosts
_OTHERS = 24  # descriptors that are neither of a connection nor of its file


class Settings(NamedTuple):
    """The options that all commands share. Times are in seconds, *rate* in bytes a second."""

    connections: int = 6
    timeout: float = 30.0
    retries: int = 2
    headers: tuple[tuple[str, str], ...] = ()
    auth: tuple[str, str] | None = None
    proxy: str | None = None  # "": none, whatever the environment says
    verify: bool | str | ssl.SSLContext = True
    follow_redirects: bool = True
    rate: float | None = None
    deadline: float | None = None
    verbose: bool = False
    quiet: bool = False

    @property
    def policy(self) -> RetryPolicy:
        """The policy of the requests."""
        return POLICY.replace(attempts=self.retries + 1)


class TimeLimit:
    """The end of all that a command does: *seconds* after this was made, or never."""

    __slots__ = ("_end",)

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds  # never changes

    def options(self) -> dict[str, Any]:
        """Return the options of a request that is made now. Raises `ConnectionTimedOut`."""
        left = self.left()
        return {} if left is None else {"deadline": left}

    def left(self) -> float | None:
        """Return how many seconds are left; None if it never ends. Raises `ConnectionTimedOut`."""
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise ConnectionTimedOut("the deadline has passed")
        return left


def make_client(settings: Settings, max_body_size: int, **options: Any) -> Client:
    """Return a client for *settings*, which keeps up to *max_body_size* bytes of a body in memory.

    Bodies are not decoded, and the server is asked for them as they are, unless *options* of a
    `Client` say something else. Raises `UsageError` if the options cannot be used.
    """
    try:
        return _client(settings, max_body_size, options)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    except OSError as exc:  # ssl.SSLError is one
        raise UsageError(f"--cacert {settings.verify}: {exc.strerror or exc}") from exc


def _client(settings: Settings, max_body_size: int, options: dict[str, Any]) -> Client:
    proxy: Any = settings.proxy
    if proxy == "":
        proxy = {}
    elif proxy is not None and "://" not in proxy:
        proxy = f"http://{proxy}"
    made: dict[str, Any] = {
        "decode": False,
        "headers": settings.headers or None,
        "auth": settings.auth,
        "proxy": proxy,
        "verify": settings.verify,
        "follow_redirects": settings.follow_redirects,
        "max_connections_per_host": settings.connections,
        "max_connections": _most_connections(),
        "timeout": settings.timeout,
        "retry": settings.policy,
        "max_body_size": max_body_size,
        "on_event": _tell if settings.verbose else None,
        "upload_rate": settings.rate,
        "download_rate": settings.rate,
    }
    return Client(**made | options)


def _most_connections() -> int:
    """Return how many connections leave descriptors for files."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _CONNECTIONS
    return max(1, min(_CONNECTIONS, (limit - _OTHERS) // 2))


def _tell(event: Event) -> None:
    """Write *event* to standard error, and the head of a response."""
    lines = [f"* {event}"]
    if event.kind == "answered" and event.outcome is not None:
        response: Any = event.outcome
        lines += [
            f"< {name}: {'...' if name.lower() in _SECRET else printable(value)}"
            for name, value in response.headers.items()
        ]
    streams.report("\n".join(lines))


_SECRET = frozenset(("set-cookie", "authentication-info", "proxy-authentication-info"))


def describe(exc: Exception) -> str:
    """Return what *exc* means in one line, without the URL, which the caller names."""
    if isinstance(exc, HTTPStatusError):
        location = exc.response.headers["Location"] if exc.response.status < 400 else None
        if location is None:
            return exc.msg
        return f"{exc.msg}, see {without_password(location)} (redirects are not followed)"
    if isinstance(exc, TLSError) and exc.reason == "CERTIFICATE_VERIFY_FAILED":
        # What follows the last semicolon is for programs.
        return f"{exc.msg.rpartition(';')[0]}; --cacert FILE says which authorities are trusted"
    if isinstance(exc, DugongError):
        return exc.msg
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
