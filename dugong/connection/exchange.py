"""One request and its answer in flight, as two enums: how far the request is, and the answer.

Guarantees: the request side is moved on by the sending thread and the answer side by the
receiving thread; the two exceptions are named at `RequestSide`. Touches nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from dugong.connection.head import headers_of
from dugong.errors import Delivery

if TYPE_CHECKING:
    from dugong.connection.readers import Reader
    from dugong.connection.writers import Writer
    from dugong.headers import Headers

__all__ = ["Exchange", "HTTPResponse", "RequestSide"]


class RequestSide(Enum):
    """Where the request is.

    The receiver moves it from CONTINUE to BODY or REFUSED, when an answer comes, and from BODY to
    CANCELLED, when an answer refuses the rest or is the connection's last; everything else is the
    sender's. Both may move on from CONTINUE at the same time, if the sender will not wait any
    longer: whoever wins, the answer is read, and is the connection's last if it was a final one.
    """

    CONTINUE = "waiting for 100 (Continue)"
    BODY = "body outstanding"
    SENT = "sent"
    REFUSED = "answered before the body began"
    CANCELLED = "body cut short"


class HTTPResponse:
    """The head of an answer; the body is read from the connection it came from.

    Attributes: *method* and *path* are those of the request, as given to
    `HTTPConnection.send_request`; *status* is an int, *reason* a str that may be empty; *headers*
    are `Headers`; *length* is the size of the body in bytes, or None if only its end will tell.
    """

    __slots__ = ("_headers", "length", "method", "path", "reason", "status")

    def __init__(
        self,
        method: str,
        path: str,
        status: int,
        reason: str,
        headers: Headers | bytes,
        length: int | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.status = status
        self.reason = reason
        self._headers = headers  # as in headers_of()
        self.length = length

    @property
    def headers(self) -> Headers:
        """The header fields."""
        # Two threads may both do this, at no harm.
        headers = self._headers = headers_of(self._headers)
        return headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.status} {self.reason} to {self.method} {self.path}>"


class Exchange:
    """A request whose answer has not been read to its end.

    `method`, `path`, `close` (the request asked for the connection to be closed) and `upgrade` (it
    offered another protocol) and `special` (an answer may mean more to it than that it is answered)
    never change. `request_side`: see there. `thread` (who wrote to the
    body last) is set by the sender and read by any thread. `writer` belongs to the sender, except
    that anybody may see if there is one; `answer_100` (an answer 100 that we give ourselves),
    `interim` (how many 1xx came), `reader`, `persistent` and `minor_version` (the x of the answer's
    HTTP/1.x) belong to the receiver. `delivery` is set by the sender if sending fails.
    """

    request_side = RequestSide.SENT
    writer: Writer | None = None
    thread = 0
    close = False
    upgrade = False
    special = False
    answer_100 = False
    interim = 0
    reader: Reader | None = None
    persistent = False
    minor_version = 1
    delivery = Delivery.SENT
    key: Any = None

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.path = path

    def __repr__(self) -> str:
        return f"<Exchange {self.method} {self.path} {self.request_side.value}>"
