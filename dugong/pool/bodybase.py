"""What all request bodies have in common: what the sender asks of them, and how bytes are counted.

Guarantees: never one byte more than `length`, and fewer only with an exception. Touches nothing. A
body is for one thread at a time: the sender.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

__all__ = [
    "PIECE",
    "BodyMaker",
    "CountedBody",
    "RequestBody",
    "cut",
    "cut_short",
    "view_if_bytes_like",
]

PIECE = 256 * 1024  #: bytes; what is sent in one step


class RequestBody(ABC):
    """The body of one request, to be sent once or more often."""

    __slots__ = ()

    @property
    @abstractmethod
    def length(self) -> int | None:
        """How many bytes it has; None if that is not known, so that it goes in chunks."""

    def declare(self, length: int | None) -> None:
        """Have the next sending be one of *length* bytes; None: in chunks.

        For bodies whose `length` was None when they were made; before `rewind`.
        """
        raise ValueError(f"Content-Length {length} contradicts a body of {self.length} bytes")

    @property
    def data(self) -> memoryview | None:
        """All of it, if it is in memory."""
        return None

    def segments(self) -> Iterable[RequestBody]:
        """Return what it consists of, to be called after `rewind`: itself, or several.

        Each is to be sent before the next is asked for. If they are several, all have a length.
        """
        return (self,)

    @property
    def file_range(self) -> tuple[int, int, int] | None:
        """Descriptor, offset and count, if it is a part of a regular file (and not empty).

        Raises ValueError if the file has been closed. Ask for it before each step, for the
        descriptor may then belong to another file.
        """
        return None

    @property
    def rewindable(self) -> bool:
        """Whether `rewind` can do what it is for."""
        return True

    @property
    def is_repeatable(self) -> bool:
        """Whether another request with the same source would send the same."""
        return True

    def rewind(self) -> None:
        """Go back to where it stood when the request was made. To be called before each sending.

        Raises ValueError if that is impossible, and something has been taken.
        """
        if not self.rewindable:
            raise ValueError("the body cannot be sent again, for it cannot be rewound")

    def end_sending(self) -> None:  # noqa: B027  # most have nothing to close
        """Undo what `rewind` did, and the sending. To be called after that, however it ended."""

    def interrupt(self) -> None:  # noqa: B027  # most do not wait
        """Have `pieces` raise `BodyInterrupted` if it waits: its connection has been given up.

        Any thread may call this, also when nothing is sent. It may have an effect on a sending that
        has begun in this moment: that is another attempt then.
        """

    def release(self) -> None:  # noqa: B027  # most have nothing to let go of
        """Give the body back to the caller. It is not asked for anything any more."""

    @abstractmethod
    def pieces(self) -> Iterator[memoryview]:
        """Return the bytes, in order, none of the pieces empty.

        A piece is to be used before the next is asked for. Raises ValueError if there are fewer or
        more bytes than `length`, TypeError if what comes is not bytes, and whatever the file or the
        iterable raises.
        """


class BodyMaker(ABC):
    """What makes the body of each request that it is given to."""

    __slots__ = ()

    @abstractmethod
    def make_body(self, content_length: int | None) -> RequestBody:
        """Return the body of one request, as `request_body` does, and raise what that raises."""


def cut_short(missing: int) -> ValueError:
    """Return the error for a body that ended *missing* bytes before its `length`."""
    return ValueError(f"the body ended {missing} bytes short of its length")


def view_if_bytes_like(data: object) -> memoryview | None:
    try:
        view = memoryview(data)  # type: ignore[arg-type]
    except TypeError:
        return None
    if not view.c_contiguous:
        raise TypeError("the body is a memoryview that is not contiguous")
    return view.cast("B")


def _view(data: object) -> memoryview:
    """Return the bytes of what a file or an iterable gave."""
    view = view_if_bytes_like(data)
    if view is None:
        raise TypeError(f"the body gave {type(data).__name__}, not a bytes-like object")
    return view


def cut(view: memoryview) -> Iterator[memoryview]:
    """Cut *view* into pieces."""
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


class CountedBody(RequestBody):
    """What comes bit by bit, and has to be counted if a length was declared, or measured."""

    __slots__ = ("_length", "_taken")

    def __init__(self, length: int | None) -> None:
        self._length = length
        self._taken = False

    @property
    def length(self) -> int | None:
        return self._length

    def declare(self, length: int | None) -> None:
        self._length = length

    def pieces(self) -> Iterator[memoryview]:
        left = self._length
        items = self._items()
        self._taken = True
        for item in items:
            # Released before the next is asked for, lest a bytearray of the caller's could not
            # change its size.
            with _view(item) as view:
                if left is not None:
                    if len(view) > left:
                        raise ValueError(f"the body is longer than its length of {self._length}")
                    left -= len(view)
                for piece in cut(view):
                    with piece:
                        yield piece
        if left:
            raise cut_short(left)

    @abstractmethod
    def _items(self) -> Iterator[object]:
        """Return what the body consists of. Each is sent before the next is asked for."""
