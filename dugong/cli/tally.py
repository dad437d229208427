"""How far a command has got, for a display of its progress."""

from __future__ import annotations

__all__ = ["Tally", "Transfer"]


class Transfer:
    """A body that is being transferred.

    *size* is how many bytes it has (None: not known), *done* how many were transferred. Written by
    the thread that transfers it, and read by any.
    """

    __slots__ = ("done", "name", "size")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.size: int | None = None
        self.done: int = 0

    def tell(self, done: int, size: int | None) -> None:
        """Note how far it is."""
        self.done, self.size = done, size


class Tally:
    """What has been done. The numbers are written by one thread, and read by any."""

    def __init__(self, count: int | None) -> None:
        #: How many there are to be done; None if that is not known.
        self.count = count
        self.succeeded = 0
        self.failed = 0
        self.size = 0  # bytes of what has succeeded
        # Those that take long. Each key is added, and later removed, by one thread at a time, which
        # is atomic for a dict, without the GIL, too.
        self._transfers: dict[int, Transfer] = {}

    def begin(self, name: str) -> Transfer:
        """Note a transfer that takes long."""
        transfer = Transfer(name)
        self.add(transfer)
        return transfer

    def add(self, transfer: Transfer) -> None:
        """Note that *transfer* has begun."""
        self._transfers[id(transfer)] = transfer

    def end(self, transfer: Transfer) -> None:
        """Forget *transfer*."""
        self._transfers.pop(id(transfer), None)

    def transfers(self) -> list[Transfer]:
        """Return those that are under way."""
        return list(self._transfers.values())  # which no other thread interrupts, as for the above
