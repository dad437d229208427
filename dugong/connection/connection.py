"""`HTTPConnection`: the public face of one HTTP/1.1 connection.

Each operation exists once, as a coroutine (``co_*``) that yields `PollNeeded` where it has to
wait; the blocking method of the same name drives it. What happens on the wire is in
`dugong.connection.session`; here arguments are checked and names are given.
"""

from __future__ import annotations

import sys
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, overload

from dugong.connection.dial import check_ssl_context, co_dial
from dugong.connection.encode import RequestBuilder, byte_view, check_size, writable_view
from dugong.connection.names import check_address, dns_test_hostnames, netloc
from dugong.connection.polling import Coroutine, eval_coroutine
from dugong.connection.proxy import FOR_PROXIES, Proxy, absolute_form
from dugong.connection.session import Http1Session
from dugong.connection.trailers import trailer_lines
from dugong.connection.transport import Transport
from dugong.connection.writers import ChunkedWriter
from dugong.errors import ConnectionClosed, StateError

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from dugong.connection.encode import Body, HeadersLike
    from dugong.connection.exchange import HTTPResponse

__all__ = ["HTTPConnection"]


class HTTPConnection:
    """A connection to one HTTP/1.1 server, over which requests may be pipelined.

    Parameters:

    * *hostname*: name or address of the server.
    * *port*: defaults to 443 with *ssl_context*, else to 80.
    * *ssl_context*: speak TLS with this context, which decides about certificates and host names.
    * *proxy*: ``(host, port)``, or a URL ``http://user:password@host:port`` whose credentials are
      sent to the proxy only. https goes through a tunnel. The scheme may also be https (for TLS
      with the proxy), socks4, socks4a, socks5 or socks5h; with socks4 and socks5, *hostname* is
      resolved here, else by the proxy.
    * *proxy_ssl_context*: for TLS with the proxy; default: *ssl_context*, with a certificate of the
      client that it may have, or `ssl.create_default_context()`.

    Raises TypeError or ValueError if these make no sense; connecting happens at the first request.

    Guarantees: responses come in the order of the requests, each complete or an exception. One
    thread may send (`send_request`, `write`, `write_eof`) while another receives (`read_response`
    and the methods that read bodies); a `read_response` that comes while the other thread is still
    connecting or sending waits for it. `disconnect`, `reset` and `close` may be called from any
    thread and end the calls of the others with `ConnectionClosed`. Anything else that two threads
    do at once raises `StateError`.

    A context manager, which disconnects at the end. *hostname*, *port*, *ssl_context* and *proxy*
    are attributes, not to be changed; *timeout* may be.
    """

    def __init__(
        self,
        hostname: str,
        port: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: tuple[str, int] | str | None = None,
        proxy_ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        default_port = 80 if ssl_context is None else 443
        self.hostname = hostname
        self.port: int = default_port if port is None else port
        self.ssl_context = ssl_context
        self.proxy = proxy
        check_address(self.hostname, self.port)
        check_ssl_context(ssl_context)
        check_ssl_context(proxy_ssl_context, "proxy_ssl_context")
        self._proxy = None if proxy is None else Proxy(proxy)
        self._proxy_context = proxy_ssl_context or ssl_context
        if self._proxy is not None and self._proxy.scheme == "https" and not self._proxy_context:
            from dugong.connection.tls import default_context

            self._proxy_context = default_context()
        self._timeout: float | None = None
        self._closed = False
        host = netloc(self.hostname, None if self.port == default_port else self.port)
        prefix, fixed = absolute_form(host, self._proxy if ssl_context is None else None)
        is_tunnel = self._proxy is not None and not prefix
        omitted = FOR_PROXIES if is_tunnel else frozenset()
        self._builder = RequestBuilder(host, prefix, fixed, omitted=omitted)
        # Held while `_session` is replaced. Reentrant, for a signal handler may disconnect, too.
        self._replacing = RLock()
        # Replaced as a whole by disconnect(), so that calls in flight keep to what they began with.
        self._session = Http1Session(self._co_dial)

    def _co_dial(self) -> Coroutine[Transport]:
        return co_dial(
            self.hostname,
            self.port,
            self.ssl_context,
            self._proxy,
            self._timeout,
            dns_test_hostnames(),
            proxy_context=self._proxy_context,
        )

    @property
    def timeout(self) -> float | None:
        """Seconds without any progress after which a blocking call raises `ConnectionTimedOut`.

        None, the default, waits for ever. It also bounds all of connecting, with the tunnel and
        the TLS handshake but without name resolution, in blocking calls and in coroutines.
        """
        return self._timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        if seconds is not None:
            if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
                raise TypeError(f"timeout must be a number of seconds or None, not {seconds!r}")
            if not 0 < seconds <= sys.float_info.max:
                raise ValueError(f"timeout must be positive and finite, not {seconds!r}")
        self._timeout = seconds

    # --- connecting ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect now. Not necessary: `send_request` connects if there is no connection.

        Raises `ConnectionTimedOut`, `HostnameNotResolvable`, `DNSUnavailable`, `ProxyError`,
        `ConnectionClosed`, and OSError (also `ssl.SSLError`) as the system gave it. For the
        sending thread.
        """
        eval_coroutine(self.co_connect(), self._timeout)

    def co_connect(self) -> Coroutine[None]:
        """As `connect`, as a coroutine. Name resolution blocks all the same."""
        self._closed = False
        return self._session.sender.co_connect()

    def disconnect(self) -> None:
        """Close the connection and forget all requests whose responses have not been read.

        The next `send_request` connects again. A body that was being read will not look complete:
        until then, reading raises `ConnectionClosed`. May be called from any thread.
        """
        with self._replacing:
            old = self._session
            old.abort()
            # Asked after abort(), since when no response can begin there.
            unread = old.unread or old.body.truncation_reason is not None
            cut = "disconnected before all responses were read" if unread else None
            self._session = Http1Session(self._co_dial, cut)

    def reset(self) -> None:
        """Return to the state before the first request; does the same as `disconnect`."""
        self.disconnect()

    def close(self) -> None:
        """Disconnect, and be `closed` as a file would be until the next request."""
        self._closed = True
        self.disconnect()

    @property
    def closed(self) -> bool:
        """True after `close()`, until the next request; `io.TextIOWrapper` asks for it."""
        return self._closed

    def __enter__(self) -> HTTPConnection:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    def __repr__(self) -> str:
        session = self._session
        state = (
            "connected"
            if session.state.transport and not session.state.closing
            else "not connected"
        )
        waiting = len(session.state.awaiting_response)
        return f"<HTTPConnection {netloc(self.hostname, self.port)} {state}, {waiting} unanswered>"

    @overload
    def get_ssl_peercert(self, binary_form: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def get_ssl_peercert(self, binary_form: Literal[True]) -> bytes | None: ...
    def get_ssl_peercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """Return the server's certificate as `ssl.SSLSocket.getpeercert` does.

        None if there is no TLS, or no connection.
        """
        tls = self._ssl_object()
        return None if tls is None else tls.getpeercert(binary_form)

    def get_ssl_cipher(self) -> tuple[str, str, int] | None:
        """Return the cipher in use as `ssl.SSLSocket.cipher` does; None as for the certificate."""
        tls = self._ssl_object()
        return None if tls is None else tls.cipher()

    def _ssl_object(self) -> ssl.SSLObject | None:
        transport = self._session.state.transport
        return None if transport is None or transport.is_shut else transport.ssl_object

    # --- sending ---------------------------------------------------------------------------------

    def send_request(
        self,
        method: str,
        path: str,
        headers: HeadersLike | None = None,
        body: Body | None = None,
        expect100: bool = False,
    ) -> None:
        """Send a request, connecting first if there is no connection.

        A connection that the server has closed while nothing was under way is replaced silently.

        Parameters:

        * *method*: a token such as ``GET`` (RFC 9110 §9).
        * *path*: the request target, percent-encoded (RFC 9112 §3.2).
        * *headers*: a mapping or (name, value) pairs. Host and Accept-Encoding (``identity``) are
          added if missing. A Content-Length must agree with *body*; Transfer-Encoding and Expect
          are ours.
        * *body*: None; bytes, with which Content-Length and Content-MD5 are sent; or a
          `BodyFollowing` if the body will be given to `write`.
        * *expect100*: with a `BodyFollowing`, ask the server first (RFC 9110 §10.1.1):
          `read_response` then returns either the response 100, whereupon the body is to be
          written, or a final response, which cancels the body. If the body is empty, there is
          nothing to ask, and `read_response` returns a 100 of our own.

        Raises ValueError or TypeError for bad arguments and `StateError` if another request's body
        is outstanding, both before anything is sent; `ConnectionClosed` if the connection ends, and
        `ConnectionTimedOut` (`read_response` may still return a response then); and whatever
        `connect` raises. For the sending thread.
        """
        request = self._builder.build(method, path, headers, body, expect100)
        self._closed = False
        self._session.sender.send_request(*request, self._timeout)

    def co_send_request(
        self,
        method: str,
        path: str,
        headers: HeadersLike | None = None,
        body: Body | None = None,
        expect100: bool = False,
    ) -> Coroutine[None]:
        """As `send_request`, as a coroutine; bad arguments raise at this call already."""
        request = self._builder.build(method, path, headers, body, expect100)
        self._closed = False
        return self._session.sender.co_send_request(*request)

    def write(self, buf: bytes | bytearray | memoryview) -> int:
        """Send *buf* as the next piece of the body announced by `BodyFollowing`.

        Returns its size in bytes, all of which have been sent. Empty pieces are allowed, and do not
        end a chunked body. Raises `ExcessBodyData`, before anything is sent, if it is more than
        was announced; `StateError` if no body is due; `ConnectionClosed` if the connection ended or
        the server responded with an error before all was sent; `ConnectionTimedOut`, after which
        nothing more can be sent. After these two, `read_response` returns a response that had
        arrived, and does not wait for one. For the sending thread.
        """
        return eval_coroutine(self.co_write(buf), self._timeout)

    def co_write(self, buf: bytes | bytearray | memoryview) -> Coroutine[int]:
        """As `write`, as a coroutine."""
        return self._session.sender.co_write(byte_view(buf))

    def write_eof(self, trailers: HeadersLike | None = None) -> None:
        """End a chunked body (RFC 9112 §7.1), with *trailers* behind it (RFC 9110 §6.5).

        These are a mapping or (name, value) pairs, for which a Trailer header of the request should
        have announced the names. Without any, `read_response` ends the body by itself, in the
        thread that last wrote to it (or that sent the request, if nothing was written). With a body
        of known length it only checks: `StateError` if there is a rest.

        Raises TypeError and ValueError for trailers that cannot be sent, or that are for framing,
        routing, authentication or the like, before anything is sent; `StateError` for trailers of a
        body that has a length or has ended. For the sending thread.
        """
        eval_coroutine(self.co_write_eof(trailers), self._timeout)

    def co_write_eof(self, trailers: HeadersLike | None = None) -> Coroutine[None]:
        """As `write_eof`, as a coroutine; bad arguments raise at this call already."""
        lines = b"" if trailers is None else trailer_lines(trailers)
        return self._session.sender.co_write_eof(lines)

    # --- receiving -------------------------------------------------------------------------------

    def response_pending(self) -> bool:
        """Return True if there is a response, or a rest of one, to be read. For any thread."""
        return self._session.pending()

    def read_response(self) -> HTTPResponse:
        """Receive the head of the next response, in the order of the requests.

        The body has to be read, with any of the methods below, before the next call. Responses 1xx
        are skipped, except for an expected 100 and a 101 to a request with an Upgrade header.

        Raises `StateError` if nothing was asked, the previous body has not been read, or this
        thread has body data to write first; `ConnectionClosed`; `InvalidResponse`,
        `UnsupportedResponse`; `ConnectionTimedOut`, after which the call may be made again. For the
        receiving thread.
        """
        session = self._session
        if session.sender.outgoing is not None and (owed := session.owed_body()) is not None:
            if not isinstance(owed.writer, ChunkedWriter):
                raise StateError("the body of the request has not been written completely yet")
            try:
                eval_coroutine(session.sender.co_write_eof(), self._timeout)
            except ConnectionClosed:
                pass  # the server may have said why
        return session.receiver.read_response(self._timeout)

    def co_read_response(self) -> Coroutine[HTTPResponse]:
        """As `read_response`, as a coroutine; it never ends a chunked body by itself."""
        return self._session.receiver.co_read_response()

    def read(self, len_: int | None = None) -> bytes:
        """Receive up to *len_* bytes of the body; fewer only says that there were not more yet.

        b"" is the end of the body. With None, or a negative number, does the same as `readall`.
        Raises `ConnectionClosed` if the body is cut short, `InvalidResponse`, and
        `ConnectionTimedOut`, after which the call may be made again. For the receiving thread.
        """
        if len_ is not None:
            check_size("len_", len_)
        if len_ is None or len_ < 0:
            return self.readall()
        return eval_coroutine(self._session.body.co_read(len_, self._timeout), self._timeout)

    def co_read(self, len_: int | None = None) -> Coroutine[bytes]:
        """As `read`, as a coroutine."""
        if len_ is not None:
            check_size("len_", len_)
        if len_ is None or len_ < 0:
            return self._session.body.co_readall()
        return self._session.body.co_read(len_)

    def readinto(self, buf: bytearray | memoryview) -> int:
        """Receive the next part of the body straight into *buf*; return the number of bytes.

        0 is the end of the body. Raises as `read`. For the receiving thread.
        """
        return self._session.body.readinto(writable_view(buf), self._timeout)

    def co_readinto(self, buf: bytearray | memoryview) -> Coroutine[int]:
        """As `readinto`, as a coroutine."""
        return self._session.body.co_readinto(writable_view(buf))

    def readall(self) -> bytes:
        """Receive the rest of the body. After a time-out within it, the connection is unusable.

        Raises as `read`. For the receiving thread.
        """
        session = self._session
        body = session.body.take_body()
        if body is not None:  # which it mostly is, if it is small
            return body
        return eval_coroutine(session.body.co_readall(self._timeout), self._timeout)

    def co_readall(self) -> Coroutine[bytes]:
        """As `readall`, as a coroutine."""
        return self._session.body.co_readall()

    def discard(self) -> None:
        """Receive the rest of the body and drop it. Raises as `read`. For the receiving thread."""
        eval_coroutine(self._session.body.co_discard(self._timeout), self._timeout)

    def co_discard(self) -> Coroutine[None]:
        """As `discard`, as a coroutine."""
        return self._session.body.co_discard()

    def read_raw(self, size: int) -> bytes:
        """Receive up to *size* bytes as they are on the wire, whatever they belong to.

        For looking at what came after `InvalidResponse` or `UnsupportedResponse`, and for another
        protocol after 101. b"" is the end of the connection. Once bytes have been taken like this,
        nothing else can be read from the connection. For the receiving thread.
        """
        view = memoryview(bytearray(size))
        return bytes(
            view[
                : eval_coroutine(self._session.body.co_read_raw(view, self._timeout), self._timeout)
            ]
        )

    # --- file ------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Return True, as `io.TextIOWrapper` wants to know."""
        return True

    def writable(self) -> bool:
        """Return True: request bodies can be written."""
        return True

    def seekable(self) -> bool:
        """Return False."""
        return False

    def flush(self) -> None:
        """Do nothing: `write` keeps nothing back."""
