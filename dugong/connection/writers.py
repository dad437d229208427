"""Request bodies that are written piece by piece: what goes on the wire for each piece.

Guarantees: never one byte more than announced, and a body that is `complete` cannot be added to.
Touches no socket. Owner: the sending thread.
"""

from __future__ import annotations

from threading import get_ident

from dugong.errors import ExcessBodyData, StateError

__all__ = ["BodyFollowing", "ChunkedWriter", "LengthWriter", "Writer"]


class BodyFollowing:
    """Given as the body of a request, says that the body will be written with `write()`.

    Parameters: *length* is its size in bytes; None, the default, sends it in chunks
    (RFC 9112 §7.1), whose end `write_eof()` marks.
    """

    __slots__ = ("length",)

    def __init__(self, length: int | None = None) -> None:
        if length is not None:
            if not isinstance(length, int) or isinstance(length, bool):
                raise TypeError(f"length must be an int or None, not {length!r}")
            if length < 0:
                raise ValueError(f"length must not be negative: {length}")
        self.length: int | None = length

    def __repr__(self) -> str:
        return f"BodyFollowing({'' if self.length is None else self.length})"


class LengthWriter:
    """A body of exactly *remaining* bytes (RFC 9112 §6.2)."""

    __slots__ = ("remaining", "thread")

    def __init__(self, length: int) -> None:
        self.remaining: int = length  # the sending thread's
        self.thread: int = get_ident()  # that wrote to the body last; any thread may read it

    @property
    def complete(self) -> bool:
        return self.remaining == 0

    def frame(self, data: memoryview) -> tuple[bytes | memoryview, ...]:
        """Return the buffers to send for *data*. Raises `ExcessBodyData`, having done nothing."""
        if data.nbytes > self.remaining:
            raise ExcessBodyData(
                f"trying to write {data.nbytes} bytes, but only {self.remaining} bytes pending"
            )
        self.remaining -= data.nbytes
        return (data,) if data.nbytes else ()

    def end(self, trailers: bytes = b"") -> tuple[bytes, ...]:
        """Raise `StateError` if the body is not complete, or if there are *trailers*."""
        if trailers:
            raise StateError("trailers can be sent behind a body in chunks only")
        if self.remaining:
            raise StateError(f"{self.remaining} bytes of the body have not been written")
        return ()


class ChunkedWriter:
    """A body in chunks (RFC 9112 §7.1): one for each piece, and an empty one at the end."""

    __slots__ = ("complete", "thread")

    def __init__(self) -> None:
        self.complete: bool = False  # the sending thread's
        self.thread: int = get_ident()  # that wrote to the body last; any thread may read it

    def frame(self, data: memoryview) -> tuple[bytes | memoryview, ...]:
        """Return the buffers to send for *data*: none for no data, which would end the body."""
        if not data.nbytes:
            return ()
        return (b"%x\r\n" % data.nbytes, data, b"\r\n")

    def end(self, trailers: bytes = b"") -> tuple[bytes, ...]:
        """Return the last chunk, and the lines of the *trailers* (RFC 9112 §7.1.2)."""
        self.complete = True
        return (b"0\r\n%b\r\n" % trailers,)


Writer = LengthWriter | ChunkedWriter
