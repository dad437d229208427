"""`Client`: the public face of the client layer.

Guarantees: what a caller got wrong is raised at the call, before anything is sent. Starts no
threads itself; may be used by any thread. All requests go through one `ConnectionPool`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Unpack

from dugong.client.auth import auth_of
from dugong.client.calls import CallMaker, ClientOptions
from dugong.client.cookies import Cookies
from dugong.client.credentials import read_netrc, split_userinfo
from dugong.client.decoding import accept_encoding
from dugong.client.drivers import Decoder, FutureFlow, PlainFlow, Streaming, run
from dugong.client.flow import Hooks, Settings
from dugong.client.proxies import ProxyMap, environment_proxies
from dugong.client.trust import context_of
from dugong.client.urls import quoted
from dugong.connection.encode import HeaderPairs, RequestBuilder
from dugong.pool.checks import check_bool, check_call
from dugong.pool.hints import refuse_options
from dugong.pool.many import AHEAD_SIZE
from dugong.pool.options import ElaborateHeaders, default_headers
from dugong.pool.pool import ConnectionPool
from dugong.pool.request import Request, make_request

if TYPE_CHECKING:
    import os
    import ssl
    from types import TracebackType

    from dugong.client.calls import TransferOptions, UploadOptions
    from dugong.client.download import Downloaded
    from dugong.client.flow import Call
    from dugong.connection.encode import HeadersLike
    from dugong.connection.proxy import ProxyLike
    from dugong.pool.core.job import Job
    from dugong.pool.future import ResponseFuture
    from dugong.pool.host_policy import HostPolicy
    from dugong.pool.prepare import ProxyChooser
    from dugong.pool.progress import Progress, ProgressCall
    from dugong.pool.response import Response, StreamedResponse
    from dugong.pool.statistics import PoolStatistics
    from dugong.pool.url import Origin

__all__ = ["Client"]

#: What says nothing of who asks, and goes to every host.
_FOR_EVERY_HOST = frozenset(("accept", "accept-encoding", "accept-language", "user-agent"))


_POOL_OPTIONS = tuple(ConnectionPool.__init__.__kwdefaults__ or ())
#: What other clients call an option of a client, and what to write here instead.
_HINTS = {
    "allow_redirects": "use follow_redirects=",
    "http2": "dugong speaks HTTP/1.1",
    "limits": "use max_connections= and max_connections_per_host=",
    "max_retries": "use retry=RetryPolicy(attempts=...)",
    "mounts": "use proxy= with a mapping; a Client has one pool",
    "proxies": "use proxy=, which may be a mapping",
    "retries": "use retry=RetryPolicy(attempts=...)",
    "transport": "use pool=",
}


class Client:
    """Sends requests through a pool: follows redirects, decodes, keeps cookies, authenticates.

    Parameters:

    * *base_url*: relative URLs are below it, as in httpx: with ``https://host/v1/``, both ``items``
      and ``/items`` are ``https://host/v1/items``.
    * *headers*, *params*, *auth*: sent with every request to the origin of *base_url*, or if there
      is none, to the origin that a call names; not to another origin that a redirect leads to. But
      User-Agent, Accept and Accept-Language go to every host. None as the value of a header leaves
      out a header that is sent by default. (Accept-Encoding is ``identity`` then.) Host is sent as
      it is given; the connection, TLS and cookies are those of the host in the URL.
    * *cookies*: a mapping, a `http.cookiejar.CookieJar` or `Cookies`. `Cookies` are used as they
      are, so that clients may share them; the others are copied.
    * *auth*: ``(user, password)``, an `Auth`, or a callable that is given the `Request` before each
      sending and returns header fields.
    * *follow_redirects* (True), *max_redirects* (20): whether redirects are followed, and how many
      in one call.
    * *decode*: undo the content codings of responses (gzip, deflate; br and zstd if they are
      installed). `max_body_size` of the pool counts decoded bytes, too. Of the responses before the
      last one, in `history`, those with more than 1 MiB stay coded.
    * *trust_env* (True): read the netrc file of the user, now, for credentials of hosts that have
      no others; and without *proxy*, use the proxies that the environment variables HTTP_PROXY,
      HTTPS_PROXY and ALL_PROXY name now, except for the hosts in NO_PROXY.
    * *proxy*: as of `ConnectionPool`; or a mapping of proxies, or None for no proxy, by ``http``,
      ``https``, ``all``, ``http://host``, ``https://host`` or ``all://host``. The first key of
      ``https://host``, ``https``, ``all://host`` and ``all`` that exists is used.
    * *verify*: True; a file or folder with certificates of authorities; an `ssl.SSLContext`; or
      False, which makes TLS useless against an attacker.
    * *cert*: a file with the certificate of the client and its key, or ``(certificate, key)`` or
      ``(certificate, key, password)``. It is for servers, and not shown to an https proxy.
    * *event_hooks*: ``{"request": [...], "response": [...]}``: callables that are given each
      `Request` before it is queued, and each response before it is decoded: of redirects, too. They
      are called in the thread of the call, or in one of the pool if the call has a future.
    * *pool*: the `ConnectionPool` to use, which the caller closes; default: one of its own, with
      *pool_options*, which are those of `ConnectionPool`.

    Raises TypeError or ValueError if these make no sense.

    Attributes: *cookies*, the `Cookies`, to which those of responses are added.

    Guarantees: those of `ConnectionPool`, and that no credentials cross an origin. Any thread may
    call any method. A client is a context manager, which closes it at the end.
    """

    def __init__(
        self,
        *,
        base_url: str = "",
        headers: Mapping[str, str | None] | HeadersLike | None = None,
        params: Any = None,
        cookies: Any = None,
        auth: Any = None,
        follow_redirects: bool = True,
        max_redirects: int = 20,
        decode: bool = True,
        trust_env: bool = True,
        proxy: ProxyLike | ProxyChooser | Mapping[str, ProxyLike | None] | None = None,
        verify: bool | str | ssl.SSLContext = True,
        cert: str | tuple[str, ...] | None = None,
        event_hooks: Mapping[str, Iterable[Callable[..., object]]] | None = None,
        pool: ConnectionPool | None = None,
        **pool_options: Any,
    ) -> None:
        for name, value in (
            ("follow_redirects", follow_redirects),
            ("decode", decode),
            ("trust_env", trust_env),
        ):
            check_bool(name, value)
        if not isinstance(max_redirects, int) or isinstance(max_redirects, bool):
            raise TypeError(f"max_redirects must be an int, not {max_redirects!r}")
        if max_redirects < 0:
            raise ValueError(f"max_redirects must not be negative: {max_redirects}")
        base_url, base_auth = split_userinfo(quoted(base_url))
        defaults, host = _without_host(ElaborateHeaders.given(headers))
        defaults = default_headers(defaults)
        if decode:
            defaults = defaults.with_defaults((("Accept-Encoding", accept_encoding()),))
        for_all, own = _split(defaults.fixed)
        own += host
        everywhere = defaults._replace(fixed=for_all)
        hooks = _hooks(event_hooks)
        settings = Settings(
            cookies if isinstance(cookies, Cookies) else Cookies(cookies),
            own,
            max_redirects,
            hooks["request"],
            hooks["response"],
            read_netrc() if trust_env else None,
        )
        # None of these changes.
        self.cookies: Cookies = settings.cookies
        self._owns_pool = pool is None
        if pool is None:
            if unknown := pool_options.keys() - _POOL_OPTIONS:
                own_options = Client.__init__.__kwdefaults__ or ()
                refuse_options(sorted(unknown), (*own_options, *_POOL_OPTIONS), _HINTS)
            if verify is not True or cert is not None:
                if pool_options.get("ssl_context") is not None:
                    raise TypeError("verify and cert are for a client without an ssl_context")
                pool_options["ssl_context"] = context_of(verify, cert)
            if isinstance(proxy, Mapping):
                chooser = ProxyMap(proxy)
                proxy = chooser if any(each is not None for each in proxy.values()) else None
            elif proxy is None and trust_env and pool_options.get("unix_socket") is None:
                proxy = environment_proxies()
            of_proxy = pool_options.get("proxy_ssl_context")
            if cert is not None and proxy is not None and of_proxy is None:
                pool_options["proxy_ssl_context"] = context_of(verify, None)
            checked: Any = everywhere  # in a form that no caller can give
            pool = ConnectionPool(headers=checked, proxy=proxy, **pool_options)
            everywhere = ElaborateHeaders(())  # the pool does that by itself
        elif pool_options or proxy is not None or verify is not True or cert is not None:
            raise TypeError("with pool=, give the options of a pool to the ConnectionPool itself")
        elif not isinstance(pool, ConnectionPool):
            raise TypeError(f"pool must be a ConnectionPool, not {type(pool).__name__}")
        self._pool = pool
        self._decoder = Decoder(pool._scheduler.limits.max_body_size) if decode else None
        self._calls = CallMaker(
            settings,
            base_url,
            params,
            auth_of(auth) or base_auth,
            follow_redirects,
            everywhere,
            decode,
        )
        # Of requests that are sent as they are.
        self._plain_flow = PlainFlow(settings, follow_redirects, pool, self._decoder)

    # --- requests ---------------------------------------------------------------------------------

    def request(
        self, method: str | Request, url: str | None = None, **options: Unpack[ClientOptions]
    ) -> Response:
        """Send a request, follow its redirects, and return the final `Response`; block until then.

        Takes the parameters of a `Request`, such as *progress*, and these:

        * *url*: may be relative to *base_url*, have spaces and non-ASCII characters in it, which
          are quoted, and credentials, which are taken out and sent as Authorization.
        * *params*: appended to the query: a mapping, whose values may be sequences, or pairs.
        * *json*: a value that is sent as JSON. *data*: a mapping or pairs, sent as a form. *files*:
          a mapping or pairs of a name and a file, bytes, or a tuple (file name, file, content type,
          headers), sent together with *data* as multipart/form-data. *body*: as of a `Request`.
        * *headers*: a value of None leaves out a default header. They may be a callable.
        * *cookies*: sent with this call only, beside those of the client. *auth*: instead of that
          of the client; None: no credentials. *follow_redirects*: instead of that of the client.
        * *deadline*: for all requests of the call together.

        Or a `Request` instead of method and URL, and then none of these but *cookies*, *auth* and
        *follow_redirects*.

        Raises ValueError or TypeError for bad arguments, what `ConnectionPool.request` raises, and
        `RedirectError`, `TooManyRedirects` and `DecodingError`. Any thread may call it.
        """
        plain = self._calls.plain_request(method, url, options)
        if plain is not None:
            return self._plain_flow.finish(self._pool.request(plain))
        call = self._calls.call(method, url, options)
        return run(call, self._pool.request, self._decoder)

    def submit(
        self,
        method: str | Request,
        url: str | None = None,
        *,
        block: bool = True,
        **options: Unpack[ClientOptions],
    ) -> ResponseFuture:
        """Queue a request and return a `concurrent.futures.Future` of the final `Response`.

        Takes what `request` takes; *block* is as of `ConnectionPool.submit`. `cancel` of the future
        cancels the request that is under way, also after redirects; its `request` is the first one.
        Raises what `ConnectionPool.submit` raises; everything else is raised by `result`.
        """
        check_bool("block", block)
        return self._pool._submit(self._prepare(method, url, options), block)

    def map(
        self, requests: Iterable[str | Request], *, max_ahead_size: int = AHEAD_SIZE
    ) -> Iterator[Response]:
        """Yield the final response to each of *requests* (URLs for GET, or `Request`), in order.

        As `ConnectionPool.map`; URLs may be relative to *base_url*.
        """
        return self._pool._map(requests, self._prepare_item, max_ahead_size)

    def as_completed(
        self, requests: Iterable[str | Request], *, max_ahead_size: int = AHEAD_SIZE
    ) -> Iterator[ResponseFuture]:
        """Yield a future for each of *requests* (URLs for GET, or `Request`), when it is done.

        As `ConnectionPool.as_completed`; URLs may be relative to *base_url*.
        """
        return self._pool._as_completed(requests, self._prepare_item, max_ahead_size)

    def stream(
        self, method: str | Request, url: str | None = None, **options: Unpack[ClientOptions]
    ) -> AbstractContextManager[StreamedResponse]:
        """Send a request and, in the `with` block, read the body of the final response as it comes.

        Takes what `request` takes, and is otherwise as `ConnectionPool.stream`. What is read is
        decoded.
        """
        return self._stream(method, url, options)

    def get(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a GET; see `request`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a HEAD; see `request`."""
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send an OPTIONS; see `request`."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a POST; see `request`."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a PUT; see `request`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a PATCH; see `request`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Unpack[ClientOptions]) -> Response:
        """Send a DELETE; see `request`."""
        return self.request("DELETE", url, **options)

    # --- files ------------------------------------------------------------------------------------

    def download(
        self,
        url: str,
        path: str | os.PathLike[str],
        *,
        resume: bool = True,
        connections: int = 1,
        digest: str | None = None,
        progress: Progress | ProgressCall | None = None,
        **options: Unpack[TransferOptions],
    ) -> Downloaded:
        """Receive a file with GET, and return a `Downloaded` when it is complete at *path*.

        It is written to *path* with ``.part`` appended. When all of it is on the disk, it gets its
        name, and replaces a file of that name. If a body is cut short, the rest of it is requested.
        The `RetryPolicy` counts only attempts in a row that bring no bytes. To go on, the server
        must name the version of the file by a strong ETag or Last-Modified; if it does not, or
        sends another version or other bytes than were requested, the download begins anew.

        * *resume*: go on with what an earlier call, maybe of another process, has left there, and
          leave what this one has if it fails. *path* with ``.part.state`` appended says what it is.
          Both are hidden files beside *path* if these names are too long, or are those of other
          files. If not, the file has another hidden name until it is complete.
        * *connections*: over how many a large file is received at a time, in parts of 4 MiB.
        * *digest*: of the file, such as ``"sha256:HEX"``, with an algorithm that `hashlib` has, or
          as in Repr-Digest, ``"sha-256=:BASE64:"``. Digests that the server sends in
          Content-Digest, Repr-Digest (RFC 9530; sha-256 and sha-512) and Content-MD5 are verified,
          too.
        * *progress*: called in the thread of the call with how many bytes of the file there are,
          and how many it has (None: not known).
        * *deadline*: seconds for all of it; default: no limit.
        * all others: as of `request`.

        The request asks for no content coding. If the server uses one nevertheless, the body is
        decoded, unless the client has *decode* off. A download that is decoded cannot go on.

        Raises what `stream` raises; `HTTPStatusError` for a status that is no success; and
        `IntegrityError` if a digest is wrong. Then nothing is kept. OSError for the file, which it
        names; that is a BlockingIOError while another download writes to the same, and a
        FileExistsError if *path* is the partial file of another one. `PoolClosed` if the client is
        closed, which ends the wait for another attempt, too. Any thread may call it.
        """
        from dugong.client.download import download

        return download(self, url, path, resume, connections, digest, progress, options)

    def upload(
        self,
        path: str | os.PathLike[str],
        url: str,
        method: str = "PUT",
        *,
        digest: str | None = None,
        progress: Progress | ProgressCall | None = None,
        **options: Unpack[UploadOptions],
    ) -> Response:
        """Send the file at *path* as the body of a request, and return the final `Response`.

        The kernel sends it, unless TLS does. It is sent again from its beginning as often as the
        `RetryPolicy` allows. A file whose size is not known, such as a pipe, goes in chunks, and
        cannot be sent again.

        * *digest*: ``"sha-256"`` or ``"sha-512"`` sends a digest in Content-Digest and Repr-Digest
          (RFC 9530). The file is read before it is sent for that; the digest of a pipe is sent in
          the trailers.
        * *progress*: as of a `Request`. All others: as of `request`.

        Raises what `request` raises; `HTTPStatusError` for a status of 400 or more; OSError for a
        file that cannot be read; and `IntegrityError` if its size or its time of modification has
        changed meanwhile, even after a status of success. Any thread may call it.
        """
        from dugong.client.upload import upload

        return upload(self, path, url, method, digest, progress, options)

    def _pause(self, seconds: float) -> None:
        """Wait in the middle of a transfer, which that of a `StoppableClient` may end."""
        if seconds:
            self._pool._scheduler.pause(seconds)

    # `AsyncClient` uses these, too.

    def _stream(self, method: str | Request, url: str | None, options: ClientOptions) -> Streaming:
        call = self._calls.call(method, url, options)
        return Streaming(call, self._pool._stream, self._decoder)

    def _prepare(self, method: str | Request, url: str | None, options: ClientOptions) -> Job:
        plain = self._calls.plain_request(method, url, options)
        if plain is None:
            return self._begin(self._calls.call(method, url, options))
        return self._pool._prepare(plain, self._plain_flow)

    def _prepare_item(self, item: str | Request) -> Job:
        request = call = None
        if type(item) is str and self._calls.adds_nothing and not self.cookies._count:
            try:  # what `plain_request` comes to for most, in fewer steps
                request = make_request(Request, "GET", item)
            except ValueError:
                pass
        if request is None:
            method, url = (item, None) if isinstance(item, Request) else ("GET", item)
            request = self._calls.plain_request(method, url)
            if request is None:
                call = self._calls.call(method, url, {})
                request = call.request
        pool = self._pool
        try:
            if call is not None:
                return self._begin(call)
            job = pool._preparer.prepare(request, pool)
            job.flow = self._plain_flow
            return job
        except Exception as exc:
            return pool._failing(request, exc)

    def _begin(self, call: Call) -> Job:
        """Return the job of the first request of *call*. Hooks of the caller's are called."""
        return FutureFlow(call, self._pool, self._decoder).begin()

    # --- the client itself ------------------------------------------------------------------------

    def set_host_policy(self, origin: str | Origin, policy: HostPolicy | None) -> None:
        """Treat the host of *origin* by *policy*: see `ConnectionPool.set_host_policy`."""
        self._pool.set_host_policy(origin, policy)

    def statistics(self) -> PoolStatistics:
        """Return what the pool is doing, and has learned of its hosts; a snapshot."""
        return self._pool.statistics()

    def close(self) -> None:
        """Close the pool, unless that was given: see `ConnectionPool.close`."""
        if self._owns_pool:
            self._pool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client on {self._pool!r}>"


def _without_host(headers: ElaborateHeaders) -> tuple[ElaborateHeaders, HeaderPairs]:
    """Return *headers* without Host, which is for one origin alone, and what they say of that.

    Raises ValueError if it could not be sent.
    """
    host = tuple(field for field in headers.fixed if field[0].lower() == "host")
    RequestBuilder("host").build("GET", "/", host, None, expect100=False)  # which checks it
    kept = tuple(field for field in headers.fixed if field not in host)
    return headers._replace(fixed=kept), host


def _split(headers: HeaderPairs) -> tuple[HeaderPairs, HeaderPairs]:
    """Return those of *headers* that go to every host, and the others."""
    every = tuple(field for field in headers if field[0].lower() in _FOR_EVERY_HOST)
    return every, tuple(field for field in headers if field[0].lower() not in _FOR_EVERY_HOST)


def _hooks(given: Mapping[str, Iterable[Callable[..., object]]] | None) -> dict[str, Hooks]:
    hooks: dict[str, Hooks] = {"request": (), "response": ()}
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"event_hooks must be a mapping, not {type(given).__name__}")
    for name, functions in (given or {}).items():
        if name not in hooks:
            raise ValueError(f"event_hooks are for 'request' and 'response', not {name!r}")
        if not isinstance(functions, Iterable):
            kind = type(functions).__name__
            raise TypeError(f"event_hooks[{name!r}] must be an iterable of callables, not {kind}")
        hooks[name] = tuple(functions)
        for function in hooks[name]:
            check_call("a hook", function)
    return hooks
