"""How a pool connects: directly or through its proxy, with TLS for https.

Guarantees: what goes wrong is a `DugongError`, and says which host or proxy it concerns. `ssl` is
imported, and the certificates of the system are loaded, when the first https URL is asked for, in
the thread that asks; or if the system has no descriptor for that, when a connection is opened.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dugong.connection.dial import co_dial
from dugong.connection.names import need_descriptor, netloc
from dugong.errors import DugongError, is_out_of_descriptors
from dugong.pool.failure import connect_error, is_of_tls

if TYPE_CHECKING:
    import ssl

    from dugong.connection.polling import Coroutine
    from dugong.connection.proxy import Proxy
    from dugong.connection.tls import TlsSession
    from dugong.connection.transport import Transport
    from dugong.pool.request import Origin

__all__ = ["Dialer"]

_MAX_SESSIONS = 256  # origins; a session takes some kilobytes


class Dialer:
    """Connects to origins, through *proxy* if there is one.

    *timeout* and *connect_timeout* are in seconds (None: no limit); connecting, with the tunnel and
    the TLS handshake but without resolving, may take the shorter of the two. Any thread may use
    it. `need_context` should be called before it connects to the first https origin.
    """

    def __init__(
        self,
        proxy: Proxy | None,
        ssl_context: ssl.SSLContext | None,
        timeout: float | None,
        connect_timeout: float | None = None,
    ) -> None:
        self.proxy = proxy  # never changes
        self.timeout = min(  # never changes
            (limit for limit in (timeout, connect_timeout) if limit is not None), default=None
        )
        # Set once, or twice by two threads at the same time, at no harm: either will do.
        self._ssl_context = ssl_context
        #: What the next TLS connection to an origin may resume, of those that were connected to
        #: last. Any thread may add and remove: single operations of a dict are atomic, in
        #: free-threaded CPython, too.
        self._sessions: dict[Origin, TlsSession] = {}

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
        need_descriptor()
        import ssl

        context = ssl.create_default_context()
        # Certificates that could not be read for want of a descriptor are left out without a word.
        need_descriptor()
        context.set_alpn_protocols(["http/1.1"])
        self._ssl_context = context
        return context

    def _session_of(self, origin: Origin) -> TlsSession:
        from dugong.connection.tls import TlsSession

        sessions = self._sessions
        if origin not in sessions and len(sessions) >= _MAX_SESSIONS:
            sessions.pop(next(iter(list(sessions))), None)
        return sessions.setdefault(origin, TlsSession())

    def __call__(self, origin: Origin) -> Coroutine[Transport]:
        """Return a coroutine that connects to *origin*.

        Raises as `dugong.connection.dial.co_dial`, but `ConnectError` and `TLSError` instead of
        OSError and ValueError.
        """
        try:
            if origin.scheme == "http":
                return (yield from co_dial(*origin[1:], None, self.proxy, self.timeout))
            context = self._ssl_context or self._make_context()
            session = self._session_of(origin)
            dial = partial(co_dial, *origin[1:], context, self.proxy, self.timeout, session=session)
            try:
                return (yield from dial())
            except (DugongError, OSError) as exc:
                # A server that should refuse to resume may end the connection instead.
                if not (session.forget() and is_of_tls(exc)):
                    raise
            return (yield from dial())
        except DugongError:
            raise
        except (OSError, ValueError) as exc:
            server = netloc(origin.host, origin.port)
            raise connect_error(exc, server, self.proxy) from exc
