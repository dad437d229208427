"""One request and its response in flight: how far the request is, and what the response will need.

Guarantees: the request side is moved on by the sending thread and the response side by the
receiving thread; the two exceptions are named at `RequestSide`. Touches nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dugong.connection.head import headers_of, public_target
from dugong.connection.readers import NO_TRAILERS
from dugong.errors import Delivery, printable

if TYPE_CHECKING:
    from dugong.connection.readers import Reader
    from dugong.connection.writers import Writer
    from dugong.headers import Headers

__all__ = ["Exchange", "ExchangeRecorder", "HTTPResponse", "RequestSide", "Special"]


class RequestSide(Enum):
    """Where the request is.

    The receiver moves it from CONTINUE to BODY or REFUSED, when a response comes; from BODY to
    CANCELLED, when a response refuses the rest or is the connection's last; and from
    SELF_CONTINUE to SENT, when it gives the 100. Everything else is the sender's. Both may move on
    from CONTINUE at the same time, if the sender does not wait any longer: whichever move is the
    later one counts, and a final response is read, and is the connection's last, in both cases.
    """

    CONTINUE = "waiting for 100 (Continue)"
    BODY = "body outstanding"
    SENT = "sent"
    REFUSED = "responded to before the body began"
    CANCELLED = "body cut short"
    #: 100 was asked for by the caller, but not of the server, because there is no body to wait for.
    SELF_CONTINUE = "sent, and 100 (Continue) is given without the server"


_SENT = RequestSide.SENT  # members are looked up slowly in their class,
_DELIVERED = Delivery.SENT  # and this is done for every request


class HTTPResponse:
    """The head of a response; the body is read from the connection it came from.

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
        # All of these belong to the caller who has the response.
        self.method: str = method
        self.path: str = path
        self.status: int = status
        self.reason: str = reason
        self._headers = headers  # as in headers_of()
        self.length: int | None = length

    @property
    def headers(self) -> Headers:
        """The header fields."""
        # Two threads may both do this: each gets equal headers, and one of them is kept.
        headers = self._headers = headers_of(self._headers)
        return headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    def __repr__(self) -> str:
        reason = printable(self.reason)
        target = public_target(self.path)
        return f"<HTTPResponse {self.status} {reason} to {self.method} {target}>"


class Special(NamedTuple):
    """What a request asks for beside its response, which can so change more than that it has come.

    If it asks for nothing of it, but the response has to be looked at with care all the same, this
    is what it has, too.
    """

    close: bool = False  # that the connection is closed
    upgrade: bool = False  # another protocol
    #: That the body is sent to its end though a response below 300 has come that is the last of the
    #: connection. Then the owner of the session ends the connection.
    sends_to_end: bool = False


class Exchange:
    """A request whose response has not been read to its end.

    Parameters: *method* and *path* are the request's; *key* is anything that its owner wants to
    find again when the response has come. The session never looks at it.
    """

    __slots__ = (
        "delivery",
        "interim",
        "key",
        "method",
        "minor_version",
        "path",
        "persistent",
        "reader",
        "request_side",
        "special",
        "trailers",
        "writer",
    )

    def __init__(self, method: str, path: str, key: object = None) -> None:
        # These never change once the request has been handed to a session:
        self.method: str = method
        self.path: str = path
        self.key: object = key
        self.special: Special | None = None  # if not None, the parser's fast path is not for it
        # The sender's; the receiver only looks whether there is a writer at all.
        self.writer: Writer | None = None
        self.request_side: RequestSide = _SENT  # see RequestSide
        self.delivery: Delivery = _DELIVERED  # set by the sender if sending fails; read after that
        # The receiver's:
        self.reader: Reader | None = None
        self.interim: int = 0  # how many 1xx came
        self.trailers: Headers = NO_TRAILERS  # of the response; once its body has been read
        # The receiver's, too, and set with the final response:
        self.persistent: bool  # another response may follow this one
        self.minor_version: int  # the x of its HTTP/1.x

    def __repr__(self) -> str:
        return f"<Exchange {self.method} {public_target(self.path)} {self.request_side.value}>"


class ExchangeRecorder(Protocol):
    """Is told where the responses end in what is received, in the receiving thread.

    *behind* is how many bytes have been received behind that place.
    """

    def interim_ended(self, behind: int) -> None:
        """A 1xx response has ended."""

    def response_ended(self, exchange: Exchange, behind: int) -> None:
        """The final response to *exchange* has ended, with its body."""
