"""`Progress`: what is told how far the bodies of a request and of its response have come.

Guarantees: what is told counts the bytes of one body as they are on the wire, without the framing
of chunks; it begins with 0, never gets less, is told at most 20 times a second, and ends with all
of the body if that was transferred. Touches nothing; calls code of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from dugong.pool.checks import refuse_coroutine_function

__all__ = ["Meter", "Progress", "ProgressCall", "progress_of"]

#: Is told how many bytes have been transferred, and of how many (None: that is not known).
ProgressCall = Callable[[int, int | None], object]

#: Seconds between two calls. The last one comes at once, and may be the 20th of a second.
_INTERVAL = 1 / 19


class Progress:
    """What is told of the progress of a request: *upload* of its body, *download* of the response.

    Both are callables, or None for none. They are called with two ints: how many bytes of the body
    have been transferred, and how many it has, or None if that is not known, as of a body in
    chunks. They count what is on the wire: the coded bytes of a response that is decoded.

    The first call is with 0, and another one comes at most 20 times a second; the last one is with
    all of the body. Each sending of a body, by a retry or after a redirect, begins with 0 again,
    and so does each body that is received. Only responses with a status 2xx are told of.

    *upload* is called in a thread of the pool, and so is *download*, unless the response is
    streamed: then the thread that reads it makes the call. Both may be called at the same time, if
    a response comes early. They must not wait, for the transfer waits for them. What one raises
    fails its request, and is not retried. Sent bytes may still be on their way: the system takes
    up to some MiB before the server has them.

    It never changes; any thread may use it for any number of requests. Raises TypeError for what
    cannot be called, and for coroutine functions.
    """

    __slots__ = ("download", "upload")

    def __init__(
        self, *, upload: ProgressCall | None = None, download: ProgressCall | None = None
    ) -> None:
        _check_call("upload", upload)
        _check_call("download", download)
        # Neither changes.
        self.upload: ProgressCall | None = upload
        self.download: ProgressCall | None = download


def progress_of(given: Progress | ProgressCall | None, has_body: bool) -> Progress | None:
    """Return what *given*, the *progress* of a request, stands for.

    A callable is told of the upload, if the request *has_body*, and else of the download. Raises
    TypeError for anything else.
    """
    if given is None or isinstance(given, Progress):
        return given
    _check_call("progress", given)
    return Progress(upload=given) if has_body else Progress(download=given)


def _check_call(name: str, call: object) -> None:
    if call is None:
        return
    if not callable(call):
        raise TypeError(f"{name} must be a callable or a Progress, not {type(call).__name__}")
    refuse_coroutine_function(name, call)


class Meter:
    """Counts the bytes of one body. For one thread at a time.

    Parameters: *call* is told of them; the body has *total* bytes, or None. All methods raise what
    *call* raises.
    """

    __slots__ = ("_call", "_done", "_next", "_told", "_total")

    def __init__(self, call: ProgressCall, total: int | None) -> None:
        self._call = call
        self._total = total
        self._done = 0
        self._told = -1  # with what the last call was made
        self._next = 0.0  # when the next one may be

    def add(self, count: int) -> None:
        """Note that *count* more bytes have been transferred; 0 at the beginning."""
        self._done += count
        if self._done == self._total:
            self.finish()
        elif (now := monotonic()) >= self._next:
            self._next = now + _INTERVAL
            self._tell()

    def finish(self) -> None:
        """Note that all of the body has been transferred."""
        if self._told != self._done:
            self._tell()

    def _tell(self) -> None:
        self._told = self._done
        self._call(self._done, self._total)
