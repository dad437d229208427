"""The pools of an adapter for a library that names certificates and a proxy with each request.

Guarantees: a pool that is in use is closed when it is not any more. Starts no threads but those of
the pools. Reads the files that it is told. Any thread may use it.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dugong.client.forking import begin_anew_in_child
from dugong.client.trust import context_of
from dugong.pool.pool import ConnectionPool
from dugong.pool.retry.policy import RetryPolicy

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from dugong.pool.io.stream import Stream
    from dugong.pool.response import Attempt, StreamedResponse

__all__ = ["MAX_POOLS", "ONLY_LOST", "UNLIMITED", "OwnPools", "PoolKey", "Trust", "Use", "trust_of"]


def _lost_by_another(attempt: Attempt) -> bool:
    return not attempt.charged


#: Sends again only what was lost because of another request on the same connection: without
#: pipelining, it would not have been. All other failures are the library's to retry.
ONLY_LOST = RetryPolicy(attempts=2, backoff=0, statuses=(), should_retry=_lost_by_another)

#: Options of a pool for what has its own limits, and tries again by itself.
UNLIMITED: Final[dict[str, Any]] = {
    "timeout": None,
    "connect_timeout": None,
    "min_rate": None,
    "retry": ONLY_LOST,
    "max_body_size": sys.maxsize,
}

#: Pools of an adapter. When there is another one, the oldest is closed.
MAX_POOLS = 32


class _File(NamedTuple):
    """A file, and what tells if it was replaced."""

    path: str
    changed: int
    number: int


class Trust(NamedTuple):
    """What a context for TLS is made of."""

    verify: bool | _File
    cert: tuple[_File, ...]


class PoolKey(NamedTuple):
    """What the requests of one pool have in common.

    *trust* is None if they need no certificates; *proxy* is the URL of a proxy, or None. *options*
    are further ones of their pool, which come before those that all pools are made with.
    """

    trust: Trust | None
    proxy: str | None
    options: tuple[tuple[str, Any], ...] = ()


class Use:
    """The use of *pool*, until it ends; of one request, so for one thread at a time.

    As a block, it is that of *stream*, and ends with that.
    """

    stream: Stream

    def __init__(self, pool: ConnectionPool, own: _OwnPool | None = None) -> None:
        self.pool = pool  # of the thread that makes the request, as is the next
        self._own = own
        if own is not None:
            own.uses[self] = None

    def __enter__(self) -> StreamedResponse:
        try:
            return self.stream.__enter__()
        except BaseException:
            self.end()
            raise

    def __exit__(self, *exc_info: Any) -> None:
        try:
            self.stream.__exit__(*exc_info)
        finally:
            self.end()

    def end(self) -> None:
        """End the use. May be called again."""
        own, self._own = self._own, None
        if own is not None:
            own.end(self)


class _OwnPool:
    """A pool of an adapter, and what uses it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.pool: ConnectionPool = ConnectionPool(**options)  # never changes
        #: Each thread adds and removes its own, and looks if there are any: single operations of a
        #: dict are atomic, in free-threaded CPython, too.
        self.uses: dict[Use, None] = {}
        #: Set before it is looked if there are uses, and looked at after one was added or removed.
        #: So the last use and `close` cannot both leave the pool open, and no use that begins
        #: while it is closed is given out.
        self.is_closing: bool = False

    def end(self, use: Use) -> None:
        """End *use*. This may be a finalizer, in any thread, so it does not wait."""
        self.uses.pop(use, None)
        if self.is_closing and not self.uses:
            self.pool._scheduler.shutdown.close(wait=False)

    def close(self) -> None:
        """Close the pool: now, or if it is in use, when it is not any more."""
        self.is_closing = True
        if not self.uses:
            self.pool.close()


class OwnPools:
    """The pools of an adapter, which are made with *options*, those of `ConnectionPool`.

    *bundle* is the path of the certificates that are trusted by default, for keys with a trust.
    """

    def __init__(self, options: Mapping[str, Any], bundle: str = "") -> None:
        self._options = options  # never changes
        self._bundle = bundle  # never changes
        #: Guards that pools are added and removed.
        self._lock = Lock()
        #: Changed with the lock. To get an item is atomic, in free-threaded CPython, too.
        self._pools: dict[PoolKey, _OwnPool] = {}
        begin_anew_in_child(self)

    def _begin_in_child(self) -> None:
        self._lock = Lock()
        for own in self._pools.values():
            own.uses.clear()  # those of other threads of the parent would never end

    def use(self, key: PoolKey) -> Use:
        """Return the use of the pool for *key*.

        Raises TypeError or ValueError if its options make no sense, and OSError (`ssl.SSLError` is
        one) if the files that it is to trust cannot be used.
        """
        while True:
            own = self._pools.get(key) or self._add(key)
            use = Use(own.pool, own)
            if not own.is_closing:  # nor will it be closed as long as it has this use
                return use
            use.end()

    def _add(self, key: PoolKey) -> _OwnPool:
        options = dict(self._options)
        # A context of the caller's stands for what is trusted by default.
        if key.trust is not None and (key.trust != (True, ()) or "ssl_context" not in options):
            options["ssl_context"] = _context(key.trust, self._bundle)
        if key.proxy is not None:
            options["proxy"] = key.proxy
        options.update(key.options)
        made = _OwnPool(options)
        oldest = None
        with self._lock:
            own = self._pools.setdefault(key, made)
            if len(self._pools) > MAX_POOLS:
                oldest = self._pools.pop(next(iter(self._pools)))
        if oldest is not None:
            oldest.close()
        return own

    def close(self) -> None:
        """Close all pools, but those in use. May be called again, and `use` after it."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for own in pools.values():
            own.close()


def trust_of(verify: Any, cert: Any) -> Trust:
    """Return what *verify* and *cert* name, as requests and botocore take them.

    *verify* is True, false, or the path of certificates to trust; *cert* is nothing, the path of a
    certificate with its key, or the paths of both. Raises OSError if a file does not exist.
    """
    paths = (cert,) if isinstance(cert, (str, os.PathLike)) else cert or ()
    kinds = ("the TLS certificate file", "the TLS key file")
    return Trust(
        bool(verify)
        if verify is True or not verify
        else _file("a suitable TLS CA certificate bundle", verify),
        tuple(_file(kind, path) for kind, path in zip(kinds, paths, strict=False) if path),
    )


def _file(kind: str, path: Any) -> _File:
    name = os.fspath(path)
    try:
        status = os.stat(name)
    except OSError as exc:
        raise OSError(f"Could not find {kind}, invalid path: {name}") from exc
    return _File(name, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=MAX_POOLS)
def _context(trust: Trust, bundle: str) -> ssl.SSLContext:
    verify = trust.verify and bundle if isinstance(trust.verify, bool) else trust.verify.path
    return context_of(verify, tuple(file.path for file in trust.cert) or None)
