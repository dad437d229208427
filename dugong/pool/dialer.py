"""How a pool connects: directly or through a proxy, with TLS for https.

Guarantees: what goes wrong is a `DugongError`, and says which host or proxy it concerns. `ssl` is
imported, and the certificates of the system are loaded, when the first URL is asked for that needs
TLS, in the thread that asks; or if the system has no descriptor for that, when a connection is
opened.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dugong.connection.dial import co_dial, peer_of
from dugong.connection.names import netloc
from dugong.connection.network import Network
from dugong.errors import DugongError, is_out_of_descriptors
from dugong.pool.failure import connect_error, is_of_tls

if TYPE_CHECKING:
    import ssl

    from dugong.connection.polling import Coroutine
    from dugong.connection.proxy import Proxy
    from dugong.connection.tls import TlsSession
    from dugong.connection.transport import Transport
    from dugong.pool.url import Origin

__all__ = ["Dialer"]

_MAX_SESSIONS = 256  # origins; a session takes some kilobytes


class Dialer:
    """Connects to origins.

    *timeout* and *connect_timeout* are in seconds (None: no limit); connecting, with the tunnel and
    the TLS handshake but without resolving, may take the shorter of the two. *network* opens the
    sockets. *proxy_ssl_context* is for TLS with proxies, *ssl_context* for all else and by default.
    Any thread may use it. `need_context` should be called before the first connection that
    `needs_context`.
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None,
        timeout: float | None,
        connect_timeout: float | None = None,
        network: Network | None = None,
        proxy_ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout: float | None = min(  # never changes
            (limit for limit in (timeout, connect_timeout) if limit is not None), default=None
        )
        self._network = network or Network()  # never changes
        self._proxy_ssl_context = proxy_ssl_context  # never changes
        # Set once, or twice by two threads at the same time, at no harm: either will do.
        self._ssl_context = ssl_context
        #: What the next TLS connection to an origin may resume, of those that were connected to
        #: last. Any thread may add and remove: single operations of a dict are atomic, in
        #: free-threaded CPython, too.
        self._sessions: dict[Origin, TlsSession] = {}

    def needs_context(self, origin: Origin, proxy: Proxy | None) -> bool:
        """Return True if a connection to *origin* through *proxy* needs `need_context`."""
        if origin.scheme == "https":
            return True
        is_tls = proxy is not None and proxy.scheme == "https"
        return is_tls and self._proxy_ssl_context is None

    def need_context(self) -> None:
        """Make the default context, unless there is one. May be called from any thread.

        If no descriptor is left to read the certificates with, it is made when it is used.
        """
        if self._ssl_context is None:
            try:
                self._make_context()
            except OSError as exc:
                if not is_out_of_descriptors(exc):
                    raise

    def _make_context(self) -> ssl.SSLContext:
        """Make the default context. Raises OSError if no descriptor is left."""
        from dugong.connection.tls import default_context

        self._ssl_context = context = default_context()
        return context

    def _session_of(self, origin: Origin) -> TlsSession:
        from dugong.connection.tls import TlsSession

        sessions = self._sessions
        if origin not in sessions and len(sessions) >= _MAX_SESSIONS:
            sessions.pop(next(iter(list(sessions))), None)
        return sessions.setdefault(origin, TlsSession())

    def __call__(self, origin: Origin, proxy: Proxy | None = None) -> Coroutine[Transport]:
        """Return a coroutine that connects to *origin*, through *proxy* if there is one.

        Raises as `dugong.connection.dial.co_dial`, but `ConnectError` and `TLSError` instead of
        OSError, ValueError, and whatever code of the caller's raises, such as a class of contexts.
        """
        _, host, port = origin
        context = None
        try:
            if self.needs_context(origin, proxy):
                context = self._ssl_context or self._make_context()
            dial = partial(
                co_dial,
                host,
                port,
                proxy=proxy,
                timeout=self.timeout,
                network=self._network,
                proxy_context=self._proxy_ssl_context or context,
            )
            if origin.scheme == "http":
                return (yield from dial(ssl_context=None))
            session = self._session_of(origin)
            try:
                return (yield from dial(ssl_context=context, session=session))
            except (DugongError, OSError) as refusal:
                # A server that should refuse to resume may end the connection instead.
                if not (session.forget() and is_of_tls(refusal)):
                    raise
            return (yield from dial(ssl_context=context, session=session))
        except (DugongError, GeneratorExit):
            raise
        except BaseException as exc:  # what is meant to end the program would only end this thread
            peer = peer_of(host, port, proxy, self._network)
            raise connect_error(exc, netloc(host, port), peer) from exc
