"""How a pool connects: directly or through its proxy, with TLS for https.

Guarantees: `ssl` is imported, and the certificates of the system are loaded, only once somebody
asks for an https URL, in the thread of whoever does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dugong.connection.dial import Proxy, co_dial

if TYPE_CHECKING:
    import ssl

    from dugong.connection.polling import Coroutine
    from dugong.connection.transport import Transport
    from dugong.pool.request import Origin

__all__ = ["Dialer"]


class Dialer:
    """Connects to origins, through *proxy* if there is one; *timeout* is in seconds.

    `proxy` never changes. Any thread may use it. `need_context` is to be called before it connects
    to the first https origin.
    """

    def __init__(
        self, proxy: Proxy | None, ssl_context: ssl.SSLContext | None, timeout: float | None
    ) -> None:
        self.proxy = proxy
        self._ssl_context = ssl_context
        self._timeout = timeout

    def need_context(self) -> None:
        """Make the default context, unless there is one. Two threads may both, at no harm."""
        if self._ssl_context is None:
            import ssl

            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            self._ssl_context = context

    def __call__(self, origin: Origin) -> Coroutine[Transport]:
        """Return a coroutine that connects to *origin*."""
        context = self._ssl_context if origin.scheme == "https" else None
        return co_dial(origin.host, origin.port, context, self.proxy, self._timeout)
