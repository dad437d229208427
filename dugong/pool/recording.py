"""What the *record* of a pool is given: an exchange, as its bytes were on the wire.

Touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from dugong.connection.peer import PeerInfo
    from dugong.pool.request import Request

__all__ = ["Record", "RecordedExchange"]


class RecordedExchange(NamedTuple):
    """A request that was sent and its final response, as their bytes were on the wire.

    `request` is the `Request`. `sent` and `received` are binary files, at their beginning, with all
    bytes of the request and of the response: the heads, with the credentials in them, and the
    bodies, with their content coding and their chunks. They are closed when *record* returns.
    Interim responses (1xx) are left out.

    `started` is when the request was about to be sent, in UTC. `peer` is the `PeerInfo` of the
    connection, with the IP address of the server; None if there is a proxy in between.
    `is_request_whole` is False if the response came before all of the request was sent, which was
    not sent to its end then.
    """

    request: Request
    sent: BinaryIO
    received: BinaryIO
    started: datetime
    peer: PeerInfo | None
    is_request_whole: bool


#: What is called with each exchange.
Record = Callable[[RecordedExchange], object]
