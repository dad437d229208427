"""A transport that shows what goes over another one, to a trace or to a recording.

Guarantees: each byte that was sent or received is shown once, in order, in the thread that sends or
receives it; what was not is not shown. It costs nothing where it is not used. Touches no socket
itself.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from dugong.connection.transport import Transport

if TYPE_CHECKING:
    import ssl

    from dugong.connection.polling import PollNeeded

__all__ = ["CopyingTransport"]


class CopyingTransport(Transport):
    """Sends and receives over *inner*, and shows the bytes to `note_sent` and `note_received`.

    It cannot send files by itself: nobody would see what the system sends.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner.sock)
        self._inner = inner  # never changes

    @abstractmethod
    def note_sent(self, data: memoryview) -> None:
        """*data* has been sent. In the sending thread."""

    @abstractmethod
    def note_received(self, data: memoryview) -> None:
        """*data* has been received; it may change afterwards. In the receiving thread."""

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        self._inner.block_timeout, self._inner.receive_low_water = (
            self.block_timeout,
            self.receive_low_water,
        )
        self.receive_low_water = 1
        got = self._inner.recv_into(view)
        if isinstance(got, int):
            self.note_received(view[:got])
        return got

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        sent = self._inner.send(data)
        if isinstance(sent, int):
            self.note_sent(memoryview(data)[:sent])
        return sent

    def is_quiet(self) -> bool:
        return not self.is_shut and self._inner.is_quiet()

    @property
    def on_its_way(self) -> int:
        return self._inner.on_its_way

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        return self._inner.ssl_object

    @property
    def refusal(self) -> Exception | None:
        return self._inner.refusal

    def shutdown(self) -> None:
        self.is_shut = True
        self._inner.shutdown()

    def close(self) -> None:
        self.is_shut = True
        self._inner.close()

    def drop(self) -> None:
        self.is_shut = True
        self._inner.drop()
