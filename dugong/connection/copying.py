"""A transport that shows what goes over another one, to a trace or to a recording.

Guarantees: each byte that was sent or received is shown once, in order, in the thread that sends or
receives it; what was not is not shown. It costs nothing where it is not used. Touches no socket
itself.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from dugong.connection.transport import TransportLayer

if TYPE_CHECKING:
    from dugong.connection.polling import PollNeeded

__all__ = ["CopyingTransport"]


class CopyingTransport(TransportLayer):
    """Sends and receives over *inner*, and shows the bytes to `note_sent` and `note_received`.

    It cannot send files by itself: the system would not show what it sends.
    """

    __slots__ = ()

    @abstractmethod
    def note_sent(self, data: memoryview) -> None:
        """*data* has been sent. In the sending thread."""

    @abstractmethod
    def note_received(self, data: memoryview) -> None:
        """*data* has been received; it may change afterwards. In the receiving thread."""

    def recv_into(self, view: memoryview) -> int | PollNeeded:
        got = super().recv_into(view)
        if isinstance(got, int):
            self.note_received(view[:got])
        return got

    def send(self, data: bytes | memoryview) -> int | PollNeeded:
        sent = super().send(data)
        if isinstance(sent, int):
            self.note_sent(memoryview(data)[:sent])
        return sent
