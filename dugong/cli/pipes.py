"""What comes through pipes and from terminals, as the bodies of requests.

Guarantees: a body is sent as it comes, and ends where the writers have closed the pipe; what was
cut off by `Pipes.stop` is an error, and never the end of a body. No thread waits for a pipe after
that.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dugong.cli.settings import TimeLimit

__all__ = ["Pipes"]

_PIECE = 64 * 1024


class Pipes:
    """Reads pipes, terminals and devices, until it is stopped or *limit* has come.

    The block that it is entered for must not be left before all that iterate over `pieces` have
    ended, which is soon after `stop`. Any thread may call the methods.
    """

    def __init__(self, limit: TimeLimit) -> None:
        self._limit = limit  # never changes
        # The first becomes readable when nothing is to be waited for any more. Neither changes.
        self._stopping, self._stop = os.pipe()

    def pieces(self, file: int | str) -> Iterator[bytes]:
        """Yield what comes from *file*, a descriptor or a path, which is opened and closed.

        Raises OSError, and `ConnectionTimedOut`.
        """
        if isinstance(file, int):
            yield from self._read(file)
            return
        # To open a named pipe would wait for a writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            yield from self._read(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int) -> Iterator[bytes]:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        while True:
            left = self._limit.left()
            # Ended by what comes, by the end of that, by the time limit, or by stop().
            ready = poll.poll(None if left is None else left * 1000 + 1)
            if any(each == self._stopping for each, _ in ready):
                raise InterruptedError("the upload has been stopped")
            if not ready:
                continue
            try:
                piece = os.read(descriptor, _PIECE)
            except BlockingIOError:  # another process that reads there was faster
                continue
            if not piece:
                return
            yield piece

    def stop(self) -> None:
        """End all reads, from now on. May be called twice."""
        os.write(self._stop, b"x")

    def __enter__(self) -> Pipes:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._stopping)
        os.close(self._stop)
