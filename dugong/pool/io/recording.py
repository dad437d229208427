"""The bytes of exchanges, kept as they are on the wire for the *record* of a pool.

Guarantees: an exchange is recorded once, when its response has come to its end and its request will
be sent no further; any other is not. Its bytes are those of this exchange alone, also if it was
pipelined. Memory is bounded: what is long is in a file without a name, which is closed as soon as
it is not needed. What goes wrong with a recording is logged, and disturbs no request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import BufferedReader, BytesIO, FileIO
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO

from dugong.connection.buffer import BUFFER_SIZE
from dugong.connection.copying import CopyingTransport
from dugong.connection.exchange import Exchange, RequestSide, Special
from dugong.connection.peer import PeerInfo, find_peer
from dugong.pool.failure import ends_program
from dugong.pool.recording import Record, RecordedExchange

if TYPE_CHECKING:
    from dugong.connection.polling import Coroutine
    from dugong.connection.transport import Transport
    from dugong.pool.core.job import Job

__all__ = ["Recorder"]

_IN_MEMORY = 256 * 1024  # bytes of a message; what is longer is in a file


class Recorder:
    """Records the exchanges of one connection: gives each to *record*.

    *is_direct* says that the connection leads to the server, and not to a proxy.
    """

    __slots__ = (
        "_body",
        "_is_direct",
        "_outgoing",
        "_peer",
        "_received",
        "_record",
        "_records",
        "_response",
    )

    def __init__(self, record: Record, is_direct: bool) -> None:
        self._record = record  # never changes
        self._is_direct = is_direct  # never changes
        self._peer: PeerInfo | None = None  # set by the sender when it connects
        #: Those whose response has not ended. The sender adds, and the receiver removes, each in
        #: one operation of a dict, which is atomic in free-threaded CPython, too.
        self._records: dict[Exchange, _Record] = {}
        # Both of these belong to the sender.
        self._outgoing: _Record | None = None  # of the request whose body is to be sent
        self._body: _Spool | None = None  # what is sent is copied to it
        # Both of these belong to the receiver: the beginning of a response, and what came behind
        # that; as much of it as the receive buffer can hold may belong to further responses.
        self._response = _Spool()
        self._received = bytearray()

    def co_dial(self, dial: Callable[[], Coroutine[Transport]]) -> Coroutine[Transport]:
        """Connect by *dial*; return what records what is sent and received."""
        transport = yield from dial()
        self._peer = find_peer(transport) if self._is_direct else None
        return _RecordingTransport(transport, self)

    # --- for the thread that sends ----------------------------------------------------------------

    def begin(self, exchanges: Sequence[Exchange], heads: Sequence[bytes]) -> None:
        """*exchanges* are about to be sent, with *heads*; only the last may have a body behind.

        If sending fails within a head, and the server responds all the same, that head is recorded
        as a whole: a response is not kept waiting until it is known how sending has ended.
        """
        now = datetime.now(UTC)
        for exchange, head in zip(exchanges, heads, strict=True):
            # So that the end of its response is told.
            exchange.special = exchange.special or Special()
            record = self._records[exchange] = _Record(exchange, now)
            record.sent.write(head)
            if record.job.extras.upload is None:
                record.end_side()
            else:
                self._outgoing = record

    def begin_body(self) -> None:
        """The body of the last request that has begun is about to be sent."""
        assert self._outgoing is not None
        self._body = self._outgoing.sent

    def request_ended(self) -> None:
        """No more of the last request that has begun is sent."""
        record, self._outgoing = self._outgoing, None
        self._body = None
        if record is not None and record.end_side():
            self._deliver(record)

    def note_sent(self, data: memoryview) -> None:
        """*data* has been sent."""
        if self._body is not None:
            self._body.write(data)

    # --- for the thread that receives -------------------------------------------------------------

    def note_received(self, data: memoryview) -> None:
        """*data* has been received."""
        received = self._received
        received += data
        if len(received) > 2 * BUFFER_SIZE:
            self._move(len(received) - BUFFER_SIZE)

    def interim_ended(self, behind: int) -> None:
        """Forget the 1xx response which *behind* bytes have come behind."""
        self._move(len(self._received) - behind)
        self._forget_response()

    def response_ended(self, exchange: Exchange, behind: int) -> None:
        """Record *exchange*, whose response *behind* bytes have come behind."""
        self._move(len(self._received) - behind)
        record = self._records.pop(exchange, None)
        if record is None:  # `close` has come first
            self._forget_response()
            return
        record.received, self._response = self._response, record.received
        if record.end_side():
            self._deliver(record)

    def _forget_response(self) -> None:
        self._response.close()
        self._response = _Spool()

    def _move(self, size: int) -> None:
        """Move the first *size* bytes of what has come to the response that they belong to."""
        with memoryview(self._received) as view, view[:size] as piece:
            self._response.write(piece)
        del self._received[:size]

    # --- for either of them -----------------------------------------------------------------------

    def _deliver(self, record: _Record) -> None:
        exchange, request = record.exchange, record.job.request
        try:
            recorded = RecordedExchange(
                request,
                record.sent.reader(),
                record.received.reader(),
                record.started,
                self._peer,
                exchange.request_side is RequestSide.SENT,
            )
            self._record(recorded)
        except BaseException as exc:
            if ends_program(exc):
                raise
            import logging

            logging.getLogger(__name__).exception("%r could not be recorded", request)
        finally:
            record.close()

    def close(self) -> None:
        """Forget what has not been recorded; may be called again.

        Only when no thread sends or receives.
        """
        self._forget_response()
        for record in list(self._records.values()):
            record.close()
        self._records.clear()


class _RecordingTransport(CopyingTransport):
    """Shows what goes over *inner* to *recorder*."""

    __slots__ = ("_recorder",)

    def __init__(self, inner: Transport, recorder: Recorder) -> None:
        super().__init__(inner)
        self._recorder = recorder  # never changes

    def note_sent(self, data: memoryview) -> None:
        self._recorder.note_sent(data)

    def note_received(self, data: memoryview) -> None:
        self._recorder.note_received(data)

    def close(self) -> None:
        super().close()
        self._recorder.close()

    def drop(self) -> None:
        super().drop()
        self._recorder.close()


class _Record:
    """One exchange: the bytes of its two sides."""

    __slots__ = ("_sides", "exchange", "received", "sent", "started")

    def __init__(self, exchange: Exchange, started: datetime) -> None:
        self.exchange = exchange  # never changes
        self.started = started  # never changes
        self.sent = _Spool()  # the sender's
        self.received = _Spool()  # the receiver's
        # Taken by the side that ends first. To take from a list is atomic in free-threaded CPython,
        # too.
        self._sides = [True]

    @property
    def job(self) -> Job:
        """What was sent."""
        job: Job = self.exchange.key  # type: ignore[assignment]  # the keys of a pool are jobs
        return job

    def end_side(self) -> bool:
        """Note that one side has ended; return True if the other has, too: it is the caller's."""
        try:
            self._sides.pop()
        except IndexError:
            return True
        return False

    def close(self) -> None:
        """Free the memory and the files."""
        self.sent.close()
        self.received.close()


class _Spool:
    """A message, as far as it has come: in memory, or in a file without a name if it is long.

    For one thread at a time. What goes wrong while writing is raised by `reader`.
    """

    __slots__ = ("_error", "_file")

    def __init__(self) -> None:
        self._file: BytesIO | FileIO = BytesIO()
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*."""
        if self._error is not None:
            return
        file = self._file
        try:
            if isinstance(file, BytesIO) and file.tell() + len(data) > _IN_MEMORY:
                # Not buffered: a forked child that closes it must not write to it first.
                self._file = TemporaryFile(buffering=0)  # noqa: SIM115  # until `close`
                with file:
                    _write(self._file, file.getvalue())
            _write(self._file, data)
        except OSError as exc:
            self._error = exc.with_traceback(None)  # whose frames would keep views of *data*

    def reader(self) -> BinaryIO:
        """Return a file to read the message from. Raises OSError if it could not be written."""
        if self._error is not None:
            raise self._error
        self._file.seek(0)
        return self._file if isinstance(self._file, BytesIO) else BufferedReader(self._file)

    def close(self) -> None:
        self._file.close()


def _write(file: BytesIO | FileIO, data: bytes | memoryview) -> None:
    """Write all of *data*; a file that is not buffered may take a part of it."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
