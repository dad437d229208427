"""`DugongFileSystem`: an `fsspec` file system for http and https, which sends through a pool.

    import fsspec
    fsspec.register_implementation("http", "dugong.adapters.fsspec.DugongFileSystem", clobber=True)

Guarantees: a range that a server does not respect is cut out of what it sends instead, or is an
error; a file that is cut short is an error, and is not left in the local file system. A page that
is listed is read in linear time, whatever it contains. Needs the extra ``fsspec``.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import stat
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from dugong.client.aio import AsyncClient
from dugong.client.ranges import content_range
from dugong.client.tags import tags
from dugong.client.urls import quoted
from dugong.connection.framing import parse_content_length
from dugong.errors import DugongError, HTTPStatusError
from dugong.pool.request import Request

try:
    from fsspec.asyn import AsyncFileSystem
    from fsspec.callbacks import DEFAULT_CALLBACK, Callback
    from fsspec.utils import glob_translate, isfilelike
except ImportError as exc:
    raise ImportError(
        "dugong.adapters.fsspec needs the package fsspec: pip install dugong[fsspec]", name="fsspec"
    ) from exc

from dugong.adapters.fsspec_files import (
    GONE,
    AsyncFile,
    RandomFile,
    StreamedFile,
    WrittenFile,
    check_found,
    found,
    part_of,
)

if TYPE_CHECKING:
    from fsspec.spec import AbstractBufferedFile

    from dugong.client.aiostream import AsyncStreamedResponse
    from dugong.headers import Headers
    from dugong.pool.response import Response

__all__ = ["DugongFileSystem"]

_BLOCK_SIZE = 5 * 2**20  # bytes
_IDENTITY = {"Accept-Encoding": "identity"}
_URL = re.compile(r"https?://[-\w@:%+.~#?&/=]+", re.ASCII)
_MAGIC = re.compile("[*[]")
#: Fields of a response that tell one version of a file from another.
_VERSION = ("ETag", "Content-MD5", "Digest", "Last-Modified")


class DugongFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files behind URLs, for all that takes a file system of `fsspec`.

    It takes the place of that of fsspec for the protocols http and https, and has its methods and
    parameters, but for *get_client*. `cat`, `cat_ranges` and `get` of many files send all requests
    at once, pipelined.

    Parameters:

    * *simple_links*: bare URLs on an HTML page are names in a directory, too, not only links.
    * *same_scheme*: names in a directory have the scheme of its URL.
    * *block_size*: bytes that an open file reads at once; with 0 it is read from start to end only.
      *cache_type* and *cache_options* are those of fsspec for open files.
    * *size_policy*: ``"head"`` asks for the size of a file by HEAD, and by GET if that fails;
      ``"get"`` by GET at once.
    * *encoded*: has no effect. What is quoted in a URL is left alone, what is to be quoted is
      quoted.
    * *client*: the `AsyncClient` to use, which the caller closes. Default: one of its own, with
      *options*, which are those of `Client`; *client_kwargs* is a mapping of more of them.
    * *asynchronous*, *loop*, *batch_size*, and those about caches of listings and of instances, are
      as in fsspec.

    Raises FileNotFoundError for responses 404 and 410, else what `AsyncClient.request` raises, and
    `HTTPStatusError`. Any thread may use it.
    """

    protocol: tuple[str, ...] = ("http", "https")
    sep = "/"

    def __init__(
        self,
        *,
        simple_links: bool = True,
        same_scheme: bool = True,
        block_size: int | None = None,
        cache_type: str = "bytes",
        cache_options: Mapping[str, Any] | None = None,
        size_policy: str | None = None,
        encoded: bool = False,
        client: AsyncClient | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        batch_size: int | None = None,
        use_listings_cache: bool = False,
        listings_expiry_time: float | None = None,
        max_paths: int | None = None,
        skip_instance_cache: bool = False,
        **options: Any,
    ) -> None:
        if size_policy not in (None, "head", "get"):
            raise ValueError(f'size_policy must be "head" or "get", not {size_policy!r}')
        own = None
        if client is None:
            client = own = AsyncClient(**options, **(client_kwargs or {}))
        elif options or client_kwargs:
            raise TypeError("with client=, give the options to the AsyncClient itself")
        super().__init__(
            asynchronous=asynchronous,
            loop=loop,
            batch_size=batch_size,
            use_listings_cache=use_listings_cache,
            listings_expiry_time=listings_expiry_time,
            max_paths=max_paths,
        )
        # None of these changes.
        self.client = client
        self.simple_links = simple_links
        self.same_scheme = same_scheme
        self.block_size: int = _BLOCK_SIZE if block_size is None else block_size
        self.cache_type = cache_type
        self.cache_options: dict[str, Any] = dict(cache_options or {})
        self.size_policy = size_policy or "head"
        self._caches_listings = use_listings_cache
        if own is not None:
            weakref.finalize(self, own.close)

    @property
    def fsid(self) -> str:
        """What fsspec calls this kind of file system."""
        return "http"

    async def set_session(self) -> AsyncClient:
        """Return the client. What uses an asynchronous file system of fsspec calls this first."""
        return self.client

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path  # the whole URL is the name

    @classmethod
    def _parent(cls, path: str) -> str:
        parts = urlsplit(path)
        return path.rstrip("/").rpartition("/")[0] if parts.path.strip("/") else ""

    # --- requests ---------------------------------------------------------------------------------

    async def _request(self, method: str, url: str, **options: Any) -> Response:
        return found(await self.client.request(method, url, **options), url)

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        if start is None and end is None:
            return (await self._request("GET", url, **options)).body
        if start is not None and start == end:
            return b""
        limits = await self._process_limits(url, start, end)
        headers = {**(options.pop("headers", None) or {}), "Range": limits}
        response = await self.client.get(url, headers=headers, **options)
        return part_of(response, url, start, end)

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **options: Any,
    ) -> list[bytes | Exception]:
        if max_gap is not None:
            raise NotImplementedError("ranges are not merged: max_gap must be None")
        if not isinstance(paths, list):
            raise TypeError(f"paths must be a list, not {type(paths).__name__}")
        starts, ends = (
            at if isinstance(at, Iterable) else [at] * len(paths) for at in (starts, ends)
        )
        found: list[bytes | Exception] = [b""] * len(paths)
        ranges = enumerate(zip(paths, starts, ends, strict=True))
        requests = self._range_requests(ranges, found, on_error, options)
        # Not by *batch_size*: the pool knows how many can be under way.
        async with aclosing(self.client.as_completed(requests)) as futures:
            async for future in futures:
                index, url, start, end = future.request.context
                try:
                    found[index] = part_of(future.result(), url, start, end)
                except Exception as exc:
                    if on_error != "return":
                        raise
                    found[index] = exc
        return found

    async def _range_requests(
        self,
        ranges: Iterable[tuple[int, tuple[str, int | None, int | None]]],
        found: list[bytes | Exception],
        on_error: str,
        options: dict[str, Any],
    ) -> AsyncIterator[Request]:
        """Yield the requests for *ranges*; put into *found* what needs none, or cannot be sent."""
        headers = options.pop("headers", None) or {}
        for index, (url, start, end) in ranges:
            try:
                if start is not None and start == end:
                    continue
                limits = await self._process_limits(url, start, end)
                fields = {**headers, **_IDENTITY, "Range": limits}
                context = (index, url, start, end)
                request = Request("GET", quoted(url), headers=fields, context=context, **options)
            except Exception as exc:
                if on_error != "return":
                    raise
                found[index] = exc
            else:
                yield request

    async def _info(self, url: str, **options: Any) -> dict[str, Any]:
        options["headers"] = {**(options.get("headers") or {}), **_IDENTITY}
        info: dict[str, Any] = {"name": url, "size": None, "type": "file"}
        if self.size_policy == "head":
            with suppress(DugongError):  # some servers cannot stand a HEAD
                response = await self.client.head(url, **{**options, "retry": None})
                if response.status < 400:
                    info |= _facts(response)
        if info["size"] is None:
            async with self.client.stream("GET", url, **options) as streamed:
                await check_found(streamed, url)
                info |= _facts(streamed)
        return info

    async def _exists(self, url: str, strict: bool = False, **options: Any) -> bool:
        """Return True if there is something at *url*; False also if that cannot be found out.

        With *strict*, only if there is nothing; else raise.
        """
        try:
            response = await self.client.head(url, **options)
            if response.status < 400 or response.status in GONE:
                return response.status < 400
            async with self.client.stream("GET", url, **options) as streamed:
                if strict:
                    await check_found(streamed, url)
                return streamed.status < 400
        except FileNotFoundError:
            return False
        except DugongError:
            if strict:
                raise
            return False

    async def _isfile(self, url: str, **options: Any) -> bool:
        return await self._exists(url, **options)

    async def _isdir(self, url: str) -> bool:
        try:
            return bool(await self._ls(url))
        except (FileNotFoundError, HTTPStatusError, ValueError):
            return False

    # --- directories ------------------------------------------------------------------------------

    async def _ls(self, url: str, detail: bool = True, **options: Any) -> list[Any]:
        names = self.dircache.get(url) if self._caches_listings else None
        if names is None:
            names = await self._names_in(url, **options)
            if not names and url.endswith("/"):
                names = await self._names_in(url.rstrip("/"), **options)
            if self._caches_listings:
                self.dircache[url] = names
        if not detail:
            return sorted(names)
        return [
            {"name": name, "size": None, "type": "directory" if name.endswith("/") else "file"}
            for name in names
        ]

    async def _names_in(self, url: str, **options: Any) -> list[str]:
        """Return the URLs below *url* that its page links to."""
        response = await self._request("GET", url, **options)
        if response.headers.get("Content-Type", "text/html").partition(";")[0] != "text/html":
            return []
        page = response.text
        links = [found.get("href", "") for name, found in tags(page) if name == "a"]
        if self.simple_links:
            links += _URL.findall(page)
        directory = url.rstrip("/") + "/"
        scheme, _, below = directory.partition("://")
        names = []
        for link in filter(None, links):
            with suppress(ValueError):  # a server may write anything
                name = urljoin(directory, link)
                its_scheme, _, rest = name.partition("://")
                is_same = its_scheme == scheme or not self.same_scheme
                if is_same and rest.startswith(below) and rest != below:
                    names.append(name)
        return list(dict.fromkeys(names))

    async def _expand_path(
        self, path: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any
    ) -> list[str]:
        # fsspec takes the question mark of a query for a pattern, and would look if there is such a
        # file, one after the other.
        names = [path] if isinstance(path, str) else path
        found = {name for name in names if "?" in name and _MAGIC.search(name) is None}
        if recursive or maxdepth is not None:
            found.clear()
        others = [name for name in names if name not in found]
        if others or not found:
            try:
                found.update(await super()._expand_path(others, recursive, maxdepth, **options))
            except FileNotFoundError:
                if not found:
                    raise
        return sorted(found)

    async def _glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        # A question mark begins the query here.
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        detail = options.pop("detail", False)
        magic = _MAGIC.search(path)
        if magic is not None:
            root = path[: magic.start()].rpartition("/")[0] + "/"
            depth: int | None = path[len(root) :].rstrip("/").count("/") + 1
            if "**" in path:
                before = path[len(root) : path.index("**")].count("/")
                depth = None if maxdepth is None else before + maxdepth
            infos = await self._find(root, maxdepth=depth, withdirs=True, detail=True, **options)
            fits = re.compile(glob_translate(path.rstrip("/").replace("?", "[?]"))).match
            found = {
                name: info
                for name, info in sorted(infos.items())
                if fits(name.rstrip("/")) and (name.endswith("/") or not path.endswith("/"))
            }
        elif await self._exists(path, **options):
            found = {path: await self._info(path, **options)} if detail else {path: {}}
        else:
            found = {}
        return found if detail else list(found)

    # --- whole files ------------------------------------------------------------------------------

    async def _get_file(
        self,
        url: str,
        path: Any,
        chunk_size: int = 2**20,
        callback: Callback = DEFAULT_CALLBACK,
        **options: Any,
    ) -> None:
        if not isfilelike(path):
            # With *recursive*, the directories come, too, beside all that is in them.
            is_named = url.endswith("/") and os.fspath(path).endswith("/")
            if is_named or (os.path.isdir(path) and await self._isdir(url)):
                os.makedirs(path, exist_ok=True)
                return
        async with self.client.stream("GET", url, **options) as response:
            await check_found(response, url)
            callback.set_size(response.length)
            if isfilelike(path):
                await _save(response, path, chunk_size, callback)
                return
            with open(path, "wb") as file:
                try:
                    await _save(response, file, chunk_size, callback)
                except BaseException:
                    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                        os.unlink(path)  # a part of a file looks like a file
                    raise

    async def _put_file(
        self,
        path: Any,
        url: str,
        chunk_size: int = 2**20,
        callback: Callback = DEFAULT_CALLBACK,
        method: str = "PUT",
        mode: str = "overwrite",
        **options: Any,
    ) -> None:
        if mode != "overwrite":
            raise NotImplementedError(f"files can be overwritten only, not {mode!r}")
        if method.upper() not in ("POST", "PUT"):
            raise ValueError(f"method must be POST or PUT, not {method!r}")
        if isfilelike(path):
            await self._send(method, url, path, callback, options)
        else:
            with open(path, "rb") as file:
                await self._send(method, url, file, callback, options)

    async def _send(
        self, method: str, url: str, file: IO[bytes], callback: Callback, options: dict[str, Any]
    ) -> None:
        size = None
        with suppress(OSError, ValueError, AttributeError):  # it cannot be sought in
            start = file.tell()
            size = file.seek(0, io.SEEK_END) - start
            file.seek(start)
        callback.set_size(size)
        await self._request(method.upper(), url, body=file, **options)
        if size is not None:
            callback.relative_update(size)

    async def _pipe_file(
        self, url: str, value: bytes, mode: str = "overwrite", **options: Any
    ) -> None:
        if mode != "overwrite":
            raise NotImplementedError(f"files can be overwritten only, not {mode!r}")
        await self._request("PUT", url, body=value, **options)

    async def _rm_file(self, url: str, **options: Any) -> None:
        await self._request("DELETE", url, **options)

    # --- open files -------------------------------------------------------------------------------

    async def open_async(self, path: str, mode: str = "rb", **options: Any) -> AsyncFile:
        """Return the file at *path*, to be read from start to end."""
        if mode != "rb":
            raise NotImplementedError(f"mode must be rb, not {mode!r}")
        return AsyncFile(self, path, **options)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_type: str | None = None,
        cache_options: Mapping[str, Any] | None = None,
        size: int | None = None,
        **options: Any,
    ) -> AbstractBufferedFile:
        block = self.block_size if block_size is None else block_size
        if mode == "wb":
            return WrittenFile(self, path, mode, autocommit=autocommit, **options)
        if mode != "rb":
            raise NotImplementedError(f"mode must be rb or wb, not {mode!r}")
        info = {"name": path, "size": size, "type": "file"}
        if size is None:
            info = self.info(path, **options)
        if not block or info["size"] is None or info.get("partial") is False:
            return StreamedFile(self, path, **options)
        return RandomFile(
            self,
            path,
            mode,
            block,
            cache_type=cache_type or self.cache_type,
            cache_options=dict(cache_options or self.cache_options),
            size=info["size"],
            **options,
        )


def _facts(response: Response | AsyncStreamedResponse) -> dict[str, Any]:
    """Return what *response* says of the file."""
    headers: Headers = response.headers
    info: dict[str, Any] = {"url": response.url}
    length, part = headers.get("Content-Length"), content_range(headers)
    if length is not None and headers.get("Content-Encoding", "identity") in ("identity", ""):
        info["size"] = parse_content_length(length)
    elif part is not None:
        info["size"] = part.size
    if "Content-Type" in headers:
        info["mimetype"] = headers.get("Content-Type", "").partition(";")[0]
    if headers.get("Accept-Ranges") == "none":
        info["partial"] = False
    return info | {name: headers[name] for name in _VERSION if name in headers}


async def _save(
    response: AsyncStreamedResponse, file: IO[bytes], size: int, callback: Callback
) -> None:
    while piece := await response.read(size):
        file.write(piece)
        callback.relative_update(len(piece))
