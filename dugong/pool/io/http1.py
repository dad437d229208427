"""HTTP/1.1 as the engine of a connection: what the pool asks for, done by the machinery that
`HTTPConnection` uses as well.

Guarantees: the body of a request is not touched any more once `send_body` has returned. Starts no
threads, and decides nothing about requests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from dugong.connection.exchange import Exchange, RequestSide, Special
from dugong.connection.peer import NO_PEER, PeerInfo, find_peer
from dugong.connection.polling import eval_coroutine
from dugong.connection.session import Http1Session
from dugong.connection.trailers import trailer_lines
from dugong.connection.writers import ChunkedWriter, LengthWriter
from dugong.deadline import Deadline
from dugong.errors import ConnectionClosed, Delivery, InvalidResponse, UnsupportedResponse
from dugong.pool.body import cut_short
from dugong.pool.failure import BodyError, BodyInterrupted, as_exception
from dugong.pool.io.metering import upload_meter

if TYPE_CHECKING:
    from dugong.connection.polling import Coroutine
    from dugong.connection.transport import Transport
    from dugong.pool.body import RequestBody
    from dugong.pool.core.job import Job
    from dugong.pool.io.engine import Completion
    from dugong.pool.io.recording import Recorder
    from dugong.pool.progress import Meter

__all__ = ["Http1Engine"]

T = TypeVar("T")

_METERED_PIECE = 64 * 1024  # bytes of what does not come from a file
_FILE_PIECE = 4 * 1024 * 1024  # bytes in one system call, so that progress can be seen


class Http1Engine:
    """One HTTP/1.1 connection, as `dugong.pool.io.engine.Engine` describes it.

    *dial* returns a coroutine that connects; *recorder* records the exchanges, if it is given.
    """

    __slots__ = (
        "_body",
        "_outgoing",
        "_receiver",
        "_recorder",
        "_sender",
        "_session",
        "_state",
        "peer",
    )

    #: RFC 9112 §9.3.2 sets no limit; the pool learns what a host can take.
    capacity: int = sys.maxsize

    def __init__(
        self, dial: Callable[[], Coroutine[Transport]], recorder: Recorder | None = None
    ) -> None:
        # None of these changes.
        self._recorder = recorder
        if recorder is not None:
            dial = partial(recorder.co_dial, dial)
        self._session = session = Http1Session(dial)
        session.state.recorder = recorder
        self._state, self._body = session.state, session.body
        self._sender, self._receiver = session.sender, session.receiver
        self._outgoing: Exchange | None = None  # the last that was sent; owner: the sending thread
        #: Replaced by `connect`, before anything is sent; after that, any thread may read it.
        self.peer: PeerInfo = NO_PEER

    @property
    def is_awaiting(self) -> bool:
        # Whether a deque is empty is seen without a lock, in free-threaded CPython, too.
        return bool(self._state.awaiting_response)

    @property
    def has_unread(self) -> bool:
        return self._session.unread

    @property
    def has_stray_bytes(self) -> bool:
        buffer = self._state.buffer
        return buffer.start != buffer.end

    @property
    def was_ended_by_peer(self) -> bool:
        return self._state.last_response_reason is not None

    @property
    def keep_alive_timeout(self) -> float | None:
        return self._state.parser.keep_alive_timeout

    @property
    def paused(self) -> float:
        transport = self._state.transport
        return 0.0 if transport is None else transport.paused

    @property
    def held_up_until(self) -> float:
        transport = self._state.transport
        return float("-inf") if transport is None else transport.held_up_until

    @property
    def gave_up_sending(self) -> bool:
        return self._state.gave_up_sending

    def is_at_rest(self, keep_alive: float | None) -> bool:
        state = self._state
        buffer = state.buffer
        return buffer.start == buffer.end and state.parser.keep_alive_timeout == keep_alive

    # --- sending ----------------------------------------------------------------------------------

    def connect(self, timeout: float | None) -> None:
        eval_coroutine(self._sender.co_connect(), timeout)
        transport = self._state.transport
        if transport is not None:  # else it was ended at once
            self.peer = find_peer(transport)

    def send(self, batch: Sequence[Job], begun: Callable[[], None] | None) -> None:
        exchanges, heads = [], []
        for job in batch:
            exchange, head = _begin(job)
            exchanges.append(exchange)
            heads.append(head)
        last, recorder = batch[-1], self._recorder
        self._outgoing = exchange if last.extras.upload is not None else None
        if recorder is not None:
            recorder.begin(exchanges, heads)
        try:
            self._sender.send_requests(exchanges, heads, last.write_timeout, begun)
        except BaseException:
            if recorder is not None:
                recorder.request_ended()
            raise

    def send_body(
        self, job: Job, wait_for_continue: Callable[[Callable[[], bool]], object]
    ) -> None:
        exchange, self._outgoing = self._outgoing, None
        assert exchange is not None
        recorder = self._recorder
        if recorder is None:
            self._send_body(job, exchange, wait_for_continue)
            return
        recorder.begin_body()
        try:
            self._send_body(job, exchange, wait_for_continue)
        finally:
            recorder.request_ended()

    def _send_body(
        self,
        job: Job,
        exchange: Exchange,
        wait_for_continue: Callable[[Callable[[], bool]], object],
    ) -> None:
        sender, state = self._sender, self._state
        assert job.extras.upload is not None
        body = job.extras.upload.body
        if exchange.request_side is RequestSide.CONTINUE:
            wait_for_continue(lambda: exchange.request_side is RequestSide.CONTINUE)
            if not state.aborted:
                sender.proceed(exchange)
        if exchange.request_side is RequestSide.SENT:
            upload_meter(job)
            return  # it is empty
        if exchange.request_side is RequestSide.REFUSED:
            raise ConnectionClosed("the server responded without asking for the body")
        if exchange.request_side is not RequestSide.BODY:
            raise ConnectionClosed("the server responded or closed before the body was sent")
        transport = state.transport
        meter = upload_meter(job)
        for segment in _blaming(body.segments()):
            with blaming_body():
                file_range = segment.file_range
            if file_range is not None and transport is not None and transport.can_send_files:
                self._send_file(segment, file_range, job.write_timeout, meter)
            else:
                for part in _blaming(segment.pieces()):
                    with part:  # or an exception would keep it, and a bytearray its size
                        if meter is None:
                            eval_coroutine(sender.co_write(part), job.write_timeout)
                        else:
                            self._send_metered(part, job.write_timeout, meter)
        trailers = b""
        if job.extras.upload.make_trailers is not None:
            with blaming_body("what makes the trailers of a request"):
                trailers = trailer_lines(job.extras.upload.make_trailers())
        eval_coroutine(sender.co_write_eof(trailers), job.write_timeout)
        if meter is not None:
            meter.finish()

    def _send_metered(self, part: memoryview, timeout: float | None, meter: Meter) -> None:
        """Send *part*, so little at a time that its progress can be seen on a slow connection."""
        for start in range(0, len(part), _METERED_PIECE):
            with part[start : start + _METERED_PIECE] as piece:
                meter.add(eval_coroutine(self._sender.co_write(piece), timeout))

    def _send_file(
        self,
        body: RequestBody,
        file_range: tuple[int, int, int],
        timeout: float | None,
        meter: Meter | None,
    ) -> None:
        _, offset, count = file_range
        while count:
            piece = self._co_send_file(body, offset, min(count, _FILE_PIECE))
            sent = eval_coroutine(piece, timeout)
            if not sent:
                raise BodyError(cut_short(count))
            offset += sent
            count -= sent
            if meter is not None:
                meter.add(sent)

    def _co_send_file(self, body: RequestBody, offset: int, count: int) -> Coroutine[int]:
        """Send a piece of the file of *body*; return how many bytes were sent.

        Looks again after each wait whether the file is open: its descriptor may be another's then.
        """
        sending = self._sender.co_write_file(_descriptor(body), offset, count)
        try:
            while True:
                needed = next(sending)
                yield needed
                _descriptor(body)
        except StopIteration as exc:
            sent: int = exc.value
            return sent
        finally:
            sending.close()

    # --- receiving --------------------------------------------------------------------------------

    def receive(self) -> tuple[list[Completion], Exception | None]:
        # The sender appends to the deque, and this thread alone removes from it; its first item can
        # be looked at without a lock, in free-threaded CPython, too.
        awaiting = self._state.awaiting_response
        oldest: Any = awaiting[0].key if awaiting else None  # the job
        received: Any = self._receiver.read_responses(0 if oldest is None else oldest.timeout)
        return received  # type: ignore[no-any-return]  # the keys of its exchanges are jobs

    def readinto(self, view: memoryview, timeout: float | None) -> int:
        return self._body.readinto(view, timeout)

    def read(self, size: int, timeout: float | None) -> bytes:
        return eval_coroutine(self._body.co_read(size, timeout), timeout)

    def finish_body(self, most: int, timeout: float | None) -> bool:
        body, state = self._body, self._state
        unread = body.unread_length
        if unread is not None and unread <= most:
            view = memoryview(bytearray(unread))
            deadline = Deadline(timeout)
            while state.incoming is not None and (left := deadline.remaining()) != 0:
                if not body.readinto(view, left):
                    break
        return state.incoming is None and body.truncation_reason is None

    # --- both -------------------------------------------------------------------------------------

    def exchange(self, job: Job) -> tuple[list[Completion], Exception | None]:
        exchange, head = _begin(job)
        if self._recorder is not None:
            self._recorder.begin((exchange,), (head,))
        # The keys of its exchanges are jobs.
        return self._session.exchange(exchange, head, job.timeout)  # type: ignore[return-value]

    # --- any thread -------------------------------------------------------------------------------

    def verdict(self, job: Job, is_oldest: bool, failure: Exception | None) -> Delivery:
        exchange: Exchange | None = job.exchange
        if exchange is None or exchange.delivery is Delivery.UNSENT:
            return Delivery.UNSENT
        state = self._state
        if failure is None and state.said_close:
            return Delivery.DISCLAIMED  # RFC 9112 §9.6
        is_bad = isinstance(failure, (InvalidResponse, UnsupportedResponse))
        if is_oldest and (job.response_started or is_bad or state.buffer):
            return Delivery.ANSWER_STARTED
        delivery = exchange.delivery
        if delivery is Delivery.SENT and exchange.request_side is not RequestSide.SENT:
            return Delivery.PARTLY_SENT  # the head was, but not all of the body
        return delivery

    def has_arrivals(self, oldest: Job) -> bool:
        state, exchange = self._state, oldest.exchange
        transport, buffer = state.transport, state.buffer
        if exchange is None or transport is None:
            return False
        if buffer.start != buffer.end or transport.has_arrivals():
            return True
        try:
            due = state.awaiting_response[0]
        except IndexError:  # as another thread may take the last at any moment
            due = None
        # In this order, for its exchange becomes `incoming` before it ceases to be due.
        return due is not exchange and state.incoming is not exchange

    def abort(self) -> None:
        self._session.abort()

    def release_memory(self) -> None:
        self._state.buffer.release()

    def drop(self) -> None:
        transport = self._state.transport
        if transport is not None:
            transport.drop()


def _begin(job: Job) -> tuple[Exchange, bytes]:
    """Return the record of the next sending of *job*, and what is sent first."""
    request = job.request
    method = request.method
    url = request.url
    exchange = job.exchange = Exchange(method, url, job)
    head = job.head
    if head is None:
        target = request._target  # as `Request.target`, once more for speed
        path = url[target:] if type(target) is int else request.target
        head = job.host.builder.plain_head(method, path)
    else:
        _describe(job, exchange)
    return exchange, head


def _describe(job: Job, exchange: Exchange) -> None:
    """Say in *exchange* what is not plain about the sending of *job*."""
    upload, close = job.extras.upload, job.extras.close
    length = 0 if upload is None else upload.body.length
    if close or length != 0:
        exchange.special = Special(close, sends_to_end=length != 0)
    if upload is not None and length != 0:
        exchange.writer = ChunkedWriter() if length is None else LengthWriter(length)
        exchange.request_side = RequestSide.CONTINUE if upload.expect100 else RequestSide.BODY


def _descriptor(body: RequestBody) -> int:
    with blaming_body():
        file_range = body.file_range
    assert file_range is not None
    return file_range[0]


def _blaming(items: Iterable[T]) -> Iterator[T]:
    """Yield *items* of the caller's body."""
    with blaming_body():
        yield from items


@contextmanager
def blaming_body(culprit: str = "the body of a request") -> Iterator[None]:
    """Have an exception that *culprit*, which is the caller's, raises be a `BodyError`."""
    try:
        yield
    except (GeneratorExit, BodyInterrupted):
        raise
    except BaseException as exc:
        raise BodyError(as_exception(exc, culprit), culprit) from exc
