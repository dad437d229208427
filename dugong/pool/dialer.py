"""How a pool connects: directly or through its proxy, with TLS for https.

Guarantees: what goes wrong is a `DugongError`, and says which host or proxy it concerns. `ssl` is
imported, and the certificates of the system are loaded, when the first https URL is asked for, in
the thread that asks; or if the system has no descriptor for that, when a connection is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.dial import co_dial
from dugong.connection.names import need_descriptor, netloc
from dugong.errors import DugongError, is_out_of_descriptors
from dugong.pool.failure import connect_error

if TYPE_CHECKING:
    import ssl

    from dugong.connection.polling import Coroutine
    from dugong.connection.proxy import Proxy
    from dugong.connection.transport import Transport
    from dugong.pool.request import Origin

__all__ = ["Dialer"]


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

    def __call__(self, origin: Origin) -> Coroutine[Transport]:
        """Return a coroutine that connects to *origin*.

        Raises as `dugong.connection.dial.co_dial`, but `ConnectError` and `TLSError` instead of
        OSError and ValueError.
        """
        context = None
        try:
            if origin.scheme == "https":
                context = self._ssl_context or self._make_context()
            return (yield from co_dial(origin.host, origin.port, context, self.proxy, self.timeout))
        except DugongError:
            raise
        except (OSError, ValueError) as exc:
            server = netloc(origin.host, origin.port)
            raise connect_error(exc, server, self.proxy) from exc
