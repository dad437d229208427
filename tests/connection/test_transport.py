"""Transports without TLS: what their ends mean, tracing, and being cut off by another thread."""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dugong import (
    BodyFollowing,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    HTTPConnection,
    PollNeeded,
    eval_coroutine,
)
from dugong.connection.polling import Coroutine, co_sleep
from dugong.connection.tracing import TracingTransport
from dugong.connection.transport import PlainTransport, Transport
from tests.support.names import unresponsive
from tests.support.server import TIMEOUT, Peer, ScriptedServer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection; the first does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


@pytest.fixture(params=["plain", "traced"])
def transport(
    request: pytest.FixtureRequest, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> Iterator[Transport]:
    transport: Transport = PlainTransport(pair[0])
    if request.param == "traced":
        transport = TracingTransport(transport, str(tmp_path / "trace-%d"))
    yield transport
    transport.close()


def wait_for(sock: socket.socket, event: int = select.POLLIN) -> None:
    poller = select.poll()
    poller.register(sock, event)
    assert poller.poll(10_000)


def receive(transport: Transport, size: int = 100) -> bytes:
    """Receive once, waiting for it."""
    view = memoryview(bytearray(size))
    while not isinstance(got := transport.recv_into(view), int):
        assert got.poll(10)
    return bytes(view[:got])


def test_receiving_takes_what_there_is_or_says_what_to_wait_for(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    view = memoryview(bytearray(10))
    wanted = transport.recv_into(view)
    assert isinstance(wanted, PollNeeded)
    assert (wanted.fd, wanted.mask) == (pair[0].fileno(), select.POLLIN)
    pair[1].sendall(b"hello")
    assert wanted.poll(10)
    assert transport.recv_into(view) == 5
    assert bytes(view[:5]) == b"hello"
    assert isinstance(transport.recv_into(view), PollNeeded)


def test_a_full_view_may_leave_more_behind(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].sendall(b"hello")
    wait_for(pair[0])
    assert [receive(transport, 2), receive(transport, 2), receive(transport, 2)] == [
        b"he",
        b"ll",
        b"o",
    ]


def test_what_does_not_follow_a_full_view_is_waited_for_as_long_as_may_be(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    view = memoryview(bytearray(5))
    pair[1].sendall(b"hello")
    wait_for(pair[0])
    assert receive(transport, 5) == b"hello"
    transport.block_timeout = 0.05
    with pytest.raises(ConnectionTimedOut, match="nothing received"):
        transport.recv_into(view)
    pair[1].sendall(b"again")
    transport.block_timeout = TIMEOUT
    assert transport.recv_into(view) == 5
    assert bytes(view) == b"again"


def test_sending_into_a_full_socket_says_what_to_wait_for(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    data = bytes(2**20)
    total = 0
    while isinstance(sent := transport.send(data), int):
        total += sent
    assert (sent.fd, sent.mask) == (pair[0].fileno(), select.POLLOUT)
    assert not sent.poll(0)
    while total:
        total -= len(pair[1].recv(2**20))
    assert sent.poll(10)


def test_an_orderly_end_is_zero_each_time(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].sendall(b"last")
    pair[1].close()
    assert receive(transport) == b"last"
    assert receive(transport) == b""
    assert receive(transport) == b""


def test_a_reset_is_no_orderly_end(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    wait_for(pair[0])
    with pytest.raises(ConnectionClosed, match="reset"):
        transport.recv_into(memoryview(bytearray(1)))
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")


def test_our_own_shutdown_is_no_orderly_end(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    transport.shutdown()
    assert transport.is_shut
    assert pair[1].recv(1) == b""
    with pytest.raises(ConnectionClosed):
        transport.recv_into(memoryview(bytearray(1)))
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")


@pytest.mark.parametrize("block_timeout", [0, None])
def test_what_has_come_before_our_own_shutdown_may_be_kept(
    transport: Transport, pair: tuple[socket.socket, socket.socket], block_timeout: float | None
) -> None:
    pair[1].sendall(b"some data")
    wait_for(pair[0])
    transport.block_timeout = block_timeout
    transport.keep_arrivals()
    transport.shutdown()
    view = memoryview(bytearray(5))
    assert transport.recv_into(view) == 5
    assert transport.recv_into(view) == 4
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match="disconnected"):
            transport.recv_into(view)
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")


def test_no_thread_is_told_to_wait_for_a_descriptor_that_is_gone(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].sendall(b"data")
    assert receive(transport) == b"data"  # the next call would advise to wait
    transport.shutdown()
    transport.close()
    with pytest.raises(ConnectionClosed):
        transport.recv_into(memoryview(bytearray(1)))
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")
    assert not transport.is_quiet()


def test_closing_and_shutting_may_be_repeated(transport: Transport) -> None:
    transport.shutdown()
    transport.shutdown()
    transport.close()
    transport.close()
    transport.shutdown()
    assert transport.sock.fileno() == -1


def test_only_an_open_connection_without_stray_bytes_is_quiet(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    assert transport.is_quiet()
    pair[1].sendall(b"stray")
    wait_for(pair[0])
    assert not transport.is_quiet()
    receive(transport)
    assert transport.is_quiet()
    pair[1].close()
    wait_for(pair[0])
    assert not transport.is_quiet()


def test_what_has_arrived_is_seen_until_it_is_received(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    assert not transport.has_arrivals()
    pair[1].sendall(b"data")
    wait_for(pair[0])
    assert transport.has_arrivals()
    assert receive(transport) == b"data"
    assert not transport.has_arrivals()
    pair[1].close()
    wait_for(pair[0])
    assert transport.has_arrivals()
    transport.close()
    assert not transport.has_arrivals()


def test_a_look_at_what_has_arrived_leaves_a_reset_to_the_receiver(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    wait_for(pair[0])
    assert transport.has_arrivals()
    with pytest.raises(ConnectionClosed, match="reset"):
        receive(transport)


# --- gathering ------------------------------------------------------------------------------------

LARGE = 256 * 1024  # bytes; so large a view is worth a moment of waiting
MOMENT = 1  # seconds; the moment is much shorter, but tests may be slow


@pytest.fixture
def patient(transport: Transport, pair: tuple[socket.socket, socket.socket]) -> Transport:
    """A transport that may block, and has just received less than it had room for."""
    transport.block_timeout = TIMEOUT
    pair[1].settimeout(TIMEOUT)
    pair[1].sendall(b"small")
    assert receive(transport) == b"small"
    return transport


@pytest.fixture
def while_gathering(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[], object]], list[bool]]:
    """Return a function that has something done when the next wait begins.

    The wait may then last long; the list that is returned gets whether something ended it earlier.
    """
    poll = PollNeeded.poll
    ended: list[bool] = []

    def wait_for(action: Callable[[], object]) -> list[bool]:
        def act_and_poll(wanted: PollNeeded, timeout: float | None = None) -> bool:
            assert timeout is not None
            assert timeout < MOMENT
            monkeypatch.undo()
            action()
            ended.append(poll(wanted, TIMEOUT))
            return ended[-1]

        monkeypatch.setattr(PollNeeded, "poll", act_and_poll)
        return ended

    return wait_for


def low_water_mark(transport: Transport) -> int:
    return transport.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_a_large_view_is_filled_with_what_comes_within_a_moment(
    patient: Transport, pair: tuple[socket.socket, socket.socket], while_gathering: Any
) -> None:
    pair[1].sendall(b"x")
    wait_for(pair[0])
    ended = while_gathering(lambda: pair[1].sendall(bytes(LARGE - 1)))
    assert patient.recv_into(memoryview(bytearray(LARGE))) == LARGE
    assert ended == [True]
    assert low_water_mark(patient) == 1


@pytest.mark.parametrize("size", [LARGE, 2 * LARGE])
def test_a_small_piece_is_given_after_a_moment_though_no_more_comes(
    patient: Transport, pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    for piece in (b"a", b"bc"):
        pair[1].sendall(piece)
        began = time.monotonic()
        assert receive(patient, size) == piece
        assert time.monotonic() - began < MOMENT
        assert low_water_mark(patient) == 1


def test_a_time_out_leaves_nothing_of_the_gathering_behind(patient: Transport) -> None:
    patient.block_timeout = 0.001
    for _ in range(2):
        with pytest.raises(ConnectionTimedOut):
            patient.recv_into(memoryview(bytearray(LARGE)))
        assert low_water_mark(patient) == 1


@pytest.mark.parametrize("last", [b"last", b""])
def test_the_end_ends_the_gathering(
    patient: Transport,
    pair: tuple[socket.socket, socket.socket],
    while_gathering: Any,
    last: bytes,
) -> None:
    pair[1].sendall(last)
    ended = while_gathering(pair[1].close)
    assert receive(patient, LARGE) == last
    assert ended == [True]
    assert receive(patient, LARGE) == b""
    assert low_water_mark(patient) == 1


def test_our_own_shutdown_ends_the_gathering(patient: Transport, while_gathering: Any) -> None:
    ended = while_gathering(patient.shutdown)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            patient.recv_into(memoryview(bytearray(LARGE)))
    assert ended == [True]


@pytest.mark.parametrize(
    ("block_timeout", "size"), [(0, LARGE), (TIMEOUT, LARGE - 1)], ids=["impatient", "small view"]
)
def test_otherwise_nothing_is_gathered(
    patient: Transport,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    block_timeout: float,
    size: int,
) -> None:
    poll = PollNeeded.poll

    def watched(needed: PollNeeded, timeout: float | None = None) -> bool:
        assert low_water_mark(patient) == 1
        return poll(needed, timeout)

    pair[1].sendall(b"x")
    wait_for(pair[0])
    patient.block_timeout = block_timeout
    view = memoryview(bytearray(size))
    with monkeypatch.context() as patch:
        patch.setattr(PollNeeded, "poll", watched)
        got = patient.recv_into(view)
        if isinstance(got, PollNeeded):  # which is what a coroutine does instead
            got = patient.recv_into(view)
    assert got == 1


# --- the low-water mark ---------------------------------------------------------------------------


class Scripted(socket.socket):
    """Has something done before each receiving (see `script`)."""

    script: Iterator[Callable[[], object]] = iter(())
    has_options = True

    def setsockopt(self, *args: Any) -> None:
        if not self.has_options:
            raise OSError(errno.EINVAL, "no options")
        super().setsockopt(*args)

    def recv_into(self, *args: Any) -> int:
        next(self.script, int)()
        return super().recv_into(*args)


@pytest.fixture
def scripted(pair: tuple[socket.socket, socket.socket]) -> Iterator[PlainTransport]:
    """A transport that may block, with a socket that is `Scripted`."""
    transport = PlainTransport(Scripted(fileno=pair[0].detach()))
    transport.block_timeout = TIMEOUT
    yield transport
    transport.close()


def script(transport: PlainTransport, *actions: Callable[[], object]) -> None:
    """Have the next of *actions* done before each receiving."""
    assert isinstance(transport.sock, Scripted)
    transport.sock.script = iter(actions)


@pytest.fixture
def long_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is worth waiting for is waited for until it comes."""
    monkeypatch.setattr("dugong.connection.transport._MOMENT", TIMEOUT)


@pytest.mark.usefixtures("long_moment")
def test_what_is_worth_waiting_for_comes_in_one_piece(
    scripted: PlainTransport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].sendall(b"some")
    thread = threading.Thread(target=pair[1].sendall, args=(b" more",))
    script(scripted, thread.start)
    scripted.receive_low_water = 9
    assert receive(scripted, 20) == b"some more"
    assert (scripted.receive_low_water, low_water_mark(scripted)) == (1, 1)
    thread.join()


def test_what_there_is_comes_after_a_moment(
    scripted: PlainTransport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].sendall(b"some")
    scripted.receive_low_water = 9
    assert receive(scripted, 20) == b"some"
    assert (scripted.receive_low_water, low_water_mark(scripted)) == (1, 1)


def test_if_there_is_nothing_whatever_comes_next_is_waited_for(
    scripted: PlainTransport, pair: tuple[socket.socket, socket.socket]
) -> None:
    script(scripted, int, lambda: pair[1].sendall(b"x"))
    scripted.receive_low_water = 9
    # In the main thread, waiting and receiving are two steps.
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(receive, scripted, 20).result() == b"x"
    assert (scripted.receive_low_water, low_water_mark(scripted)) == (1, 1)


def test_patience_is_what_it_was_when_nothing_comes_in_a_moment(scripted: PlainTransport) -> None:
    scripted.block_timeout = 0.001
    for scripted.receive_low_water in (9, 1):
        with pytest.raises(ConnectionTimedOut):
            receive(scripted, 20)
    assert low_water_mark(scripted) == 1


@pytest.mark.usefixtures("long_moment")
@pytest.mark.parametrize("last", [b"last", b""])
def test_nothing_more_is_waited_for_at_the_end(
    scripted: PlainTransport, pair: tuple[socket.socket, socket.socket], last: bytes
) -> None:
    pair[1].sendall(last)
    pair[1].close()
    scripted.receive_low_water = 9
    assert receive(scripted, 20) == last
    scripted.receive_low_water = 9
    assert receive(scripted, 20) == b""


@pytest.mark.usefixtures("long_moment")
def test_our_own_shutdown_ends_the_wait_for_more(scripted: PlainTransport) -> None:
    script(scripted, scripted.shutdown)
    scripted.receive_low_water = 9
    with pytest.raises(ConnectionClosed, match="disconnected"):
        receive(scripted, 20)


def test_what_has_come_is_received_though_the_system_takes_no_options_any_more(
    scripted: PlainTransport, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Some systems refuse them once the peer has closed the connection."""
    pair[1].sendall(b"some")
    pair[1].close()
    assert isinstance(scripted.sock, Scripted)
    scripted.sock.has_options = False
    scripted.receive_low_water = 9
    assert receive(scripted, 20) == b"some"
    scripted._drained = True
    assert receive(scripted, LARGE) == b""


def test_a_coroutine_does_not_wait_for_more(
    scripted: PlainTransport, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].sendall(b"some")
    scripted.block_timeout, scripted.receive_low_water = 0, 9
    assert receive(scripted, 20) == b"some"
    assert low_water_mark(scripted) == 1


def test_a_trace_passes_the_mark_on(
    scripted: PlainTransport, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    traced = TracingTransport(scripted, str(tmp_path / "trace"))
    pair[1].sendall(b"some")
    traced.block_timeout, traced.receive_low_water = TIMEOUT, 9
    assert receive(traced, 20) == b"some"
    assert (traced.receive_low_water, scripted.receive_low_water) == (1, 1)
    traced.close()


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def plain(pair: tuple[socket.socket, socket.socket]) -> PlainTransport:
    """A transport that can send files, to a peer that does not wait for ever."""
    pair[1].settimeout(TIMEOUT)
    return PlainTransport(pair[0])


@pytest.fixture
def file(tmp_path: Path) -> Iterator[io.FileIO]:
    """An empty file."""
    with open(tmp_path / "file", "w+b", buffering=0) as file:
        yield file


def co_send_file(transport: Transport, fd: int, offset: int, count: int) -> Coroutine[int]:
    """Send *count* bytes, or what there is of them; return how many."""
    left = count
    while left and (sent := transport.send_file(fd, offset + count - left, left)):
        if isinstance(sent, PollNeeded):
            yield sent
        else:
            left -= sent
    return count - left


def receive_exactly(peer: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        assert piece
        data += piece
    return bytes(data)


def test_a_file_is_sent_from_the_offset_that_is_given_and_is_not_moved(
    plain: PlainTransport, pair: tuple[socket.socket, socket.socket], file: io.FileIO
) -> None:
    file.write(b"0123456789")
    file.seek(3)
    assert plain.can_send_files
    assert plain.send_file(file.fileno(), 5, 4) == 4
    assert receive_exactly(pair[1], 4) == b"5678"
    assert file.tell() == 3


def test_a_file_that_became_shorter_is_told_by_zero(
    plain: PlainTransport, pair: tuple[socket.socket, socket.socket], file: io.FileIO
) -> None:
    file.write(b"0123456789")
    file.truncate(7)
    assert eval_coroutine(co_send_file(plain, file.fileno(), 5, 5), TIMEOUT) == 2
    assert plain.send_file(file.fileno(), 7, 3) == 0
    assert receive_exactly(pair[1], 2) == b"56"


def test_a_step_is_short_however_large_the_file_is(
    plain: PlainTransport, file: io.FileIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sendfile", lambda out, fd, offset, count: count)
    assert plain.send_file(file.fileno(), 0, 2**40) == 2**22


def test_a_full_socket_is_not_tried_before_waiting(
    plain: PlainTransport,
    pair: tuple[socket.socket, socket.socket],
    file: io.FileIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Failing would take a tick of the system's clock, and each signal would make it begin anew."""
    file.truncate(2**20)
    size = 0
    while isinstance(sent := plain.send(bytes(2**20)), int):
        size += sent
    sendfile = os.sendfile
    offsets: list[int] = []

    def noting(out: int, fd: int, offset: int, count: int) -> int:
        offsets.append(offset)
        return sendfile(out, fd, offset, count)

    monkeypatch.setattr(os, "sendfile", noting)
    wanted = plain.send_file(file.fileno(), 3, 3)
    assert isinstance(wanted, PollNeeded)
    assert offsets == []
    receive_exactly(pair[1], size)
    assert wanted.poll(TIMEOUT)
    assert plain.send_file(file.fileno(), 3, 3) == 3
    assert offsets == [3]


@pytest.mark.parametrize(
    "number",
    [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EOVERFLOW, errno.EPERM],
)
def test_a_file_that_the_system_does_not_send_is_read_and_sent(
    number: int,
    plain: PlainTransport,
    pair: tuple[socket.socket, socket.socket],
    file: io.FileIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(out: int, fd: int, offset: int, count: int) -> int:
        raise OSError(number, os.strerror(number))

    size = 2**22
    data = Random(4).randbytes(size)
    file.write(data)
    file.seek(3)
    monkeypatch.setattr(os, "sendfile", refused)
    received: list[bytes] = []
    receiver = threading.Thread(target=lambda: received.append(receive_exactly(pair[1], size - 5)))
    receiver.start()
    assert eval_coroutine(co_send_file(plain, file.fileno(), 5, size - 5), TIMEOUT) == size - 5
    receiver.join()
    assert received == [data[5:]]
    assert file.tell() == 3
    assert plain.send_file(file.fileno(), size, 3) == 0  # the file ends there


def test_a_pool_uploads_a_file_that_the_system_does_not_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def refused_later(out: int, fd: int, offset: int, count: int) -> int:
        calls.append(offset)
        if offset > 0:  # after a part was sent
            raise OSError(errno.EINVAL, "Invalid argument")
        return sendfile(out, fd, offset, min(count, 100_000))

    sendfile = os.sendfile
    monkeypatch.setattr(os, "sendfile", refused_later)
    data = Random(5).randbytes(2**20)
    (tmp_path / "file").write_bytes(data)

    def script(peer: Peer) -> None:
        assert peer.request().body == data
        peer.respond()

    with (
        ScriptedServer(script) as server,
        ConnectionPool(retry=None) as pool,
        open(tmp_path / "file", "rb") as file,
    ):
        assert pool.put(f"http://127.0.0.1:{server.port}/", body=file).status == 200
    assert len(calls) > 1


def test_a_file_that_fills_the_socket_says_what_to_wait_for_and_arrives_whole(
    plain: PlainTransport, pair: tuple[socket.socket, socket.socket], file: io.FileIO
) -> None:
    size = 16 * 2**20
    data = Random(3).randbytes(size)
    file.write(data)
    sending = co_send_file(plain, file.fileno(), 0, size)
    wanted = next(sending)
    assert (wanted.fd, wanted.mask) == (pair[0].fileno(), select.POLLOUT)
    assert not wanted.poll(0)
    received: list[bytes] = []
    receiver = threading.Thread(target=lambda: received.append(receive_exactly(pair[1], size)))
    receiver.start()
    assert eval_coroutine(sending, TIMEOUT) == size
    receiver.join()
    assert received == [data]


def test_a_peer_that_takes_nothing_of_a_file_is_a_time_out(
    plain: PlainTransport, file: io.FileIO
) -> None:
    file.truncate(2**30)
    with pytest.raises(ConnectionTimedOut):
        eval_coroutine(co_send_file(plain, file.fileno(), 0, 2**30), 0.01)


def test_shutting_down_ends_a_wait_within_a_file(plain: PlainTransport, file: io.FileIO) -> None:
    waiting = threading.Event()

    def sending() -> Coroutine[None]:
        steps = co_send_file(plain, file.fileno(), 0, 2**30)
        wanted = next(steps)
        waiting.set()
        yield wanted
        yield from steps

    file.truncate(2**30)
    sender = Outcome(eval_coroutine, sending())
    assert waiting.wait(TIMEOUT)
    plain.shutdown()
    assert isinstance(sender.result(), ConnectionClosed)


def test_a_shutdown_in_the_last_moment_is_no_error_of_the_file(
    plain: PlainTransport,
    pair: tuple[socket.socket, socket.socket],
    file: io.FileIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sendfile = os.sendfile

    def shut_down_and_send(*args: int) -> int:
        plain.shutdown()
        return sendfile(*args)

    file.truncate(2**30)
    monkeypatch.setattr(os, "sendfile", shut_down_and_send)
    with pytest.raises(ConnectionClosed):
        plain.send_file(file.fileno(), 0, 2**30)
    assert pair[1].recv(1) == b""


def test_a_thread_that_receives_meanwhile_may_go_on_blocking(
    plain: PlainTransport, pair: tuple[socket.socket, socket.socket], file: io.FileIO
) -> None:
    file.truncate(2**30)
    responses: list[bytes] = []
    plain.block_timeout = TIMEOUT
    receiver = Outcome(lambda: responses.append(receive(plain)))
    next(co_send_file(plain, file.fileno(), 0, 2**30))
    assert os.get_blocking(pair[0].fileno())
    pair[1].sendall(b"answer")
    assert receiver.result() is None
    assert responses == [b"answer"]


def test_a_reset_that_the_sender_of_a_file_heard_of_is_no_orderly_end(
    plain: PlainTransport, pair: tuple[socket.socket, socket.socket], file: io.FileIO
) -> None:
    file.write(b"data")
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair[1].close()
    wait_for(pair[0])
    with pytest.raises(ConnectionClosed, match="reset"):
        plain.send_file(file.fileno(), 0, 4)
    with pytest.raises(ConnectionClosed, match="reset"):
        plain.recv_into(memoryview(bytearray(1)))


def test_an_error_of_the_file_is_not_taken_for_one_of_the_connection(
    plain: PlainTransport, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    with open(tmp_path / "file", "wb", buffering=0) as file:
        file.write(b"data")
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            plain.send_file(file.fileno(), 0, 4)
    assert caught.value.errno == errno.EBADF
    assert not isinstance(caught.value, ConnectionClosed)
    assert plain.send(b"still here") == 10
    assert receive_exactly(pair[1], 10) == b"still here"


def test_after_a_shutdown_no_file_is_sent(plain: PlainTransport, file: io.FileIO) -> None:
    file.write(b"data")
    plain.shutdown()
    with pytest.raises(ConnectionClosed):
        plain.send_file(file.fileno(), 0, 4)
    plain.close()
    with pytest.raises(ConnectionClosed):
        plain.send_file(file.fileno(), 0, 4)


# --- signals --------------------------------------------------------------------------------------


@pytest.fixture
def _signals() -> Iterator[None]:
    """Interrupts the main thread every few milliseconds, with a handler that returns."""
    stop = threading.Event()
    main = threading.get_ident()
    assert main == threading.main_thread().ident

    def interrupt() -> None:
        while not stop.wait(0.005):
            signal.pthread_kill(main, signal.SIGUSR1)

    old = signal.signal(signal.SIGUSR1, lambda *args: None)
    thread = threading.Thread(target=interrupt)
    thread.start()
    yield
    stop.set()
    thread.join()
    signal.signal(signal.SIGUSR1, old)


def read_response(conn: HTTPConnection) -> None:
    conn.send_request("GET", "/")
    conn.read_response()


def read_body(conn: HTTPConnection) -> None:
    conn.send_request("GET", "/body")
    conn.read_response()
    conn.readall()


def read_into_a_large_buffer(conn: HTTPConnection) -> None:
    conn.send_request("GET", "/body")
    conn.read_response()
    buffer = bytearray(2**20)
    while conn.readinto(buffer):
        pass


def write(conn: HTTPConnection) -> None:
    conn.send_request("PUT", "/", body=BodyFollowing(2**30))
    conn.write(bytes(2**26))


def pool_request(conn: HTTPConnection) -> None:
    scheme = "http" if conn.ssl_context is None else "https"
    with ConnectionPool(timeout=conn.timeout, retry=None, ssl_context=conn.ssl_context) as pool:
        pool.get(f"{scheme}://127.0.0.1:{conn.port}/")


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize(
    "wait", [read_response, read_body, read_into_a_large_buffer, write, pool_request]
)
def test_signals_that_are_handled_do_not_put_a_time_out_off(
    wait: Callable[[HTTPConnection], None], contexts: Any
) -> None:
    def script(peer: Peer) -> None:
        if peer.head().target == "/body":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome")
        over.wait(TIMEOUT)

    over = threading.Event()
    with ScriptedServer(script, context=contexts[0]) as server:
        conn = HTTPConnection(*server.address, ssl_context=contexts[1])
        conn.timeout = 0.3
        began = time.monotonic()
        with pytest.raises(ConnectionTimedOut):
            wait(conn)
        assert time.monotonic() - began < 5
        over.set()
        conn.disconnect()


@pytest.mark.usefixtures("_signals")
def test_signals_that_are_handled_do_not_put_the_sending_of_a_file_off(
    plain: PlainTransport, file: io.FileIO
) -> None:
    file.truncate(2**30)
    began = time.monotonic()
    with pytest.raises(ConnectionTimedOut):
        eval_coroutine(co_send_file(plain, file.fileno(), 0, 2**30), 0.3)
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("_signals")
def test_signals_that_are_handled_do_not_put_the_end_of_a_sleep_off() -> None:
    began = time.monotonic()
    eval_coroutine(co_sleep(0.1))
    assert 0.1 <= time.monotonic() - began < 5


@pytest.mark.usefixtures("_signals")
def test_signals_that_are_handled_do_not_put_the_time_for_connecting_off() -> None:
    began = time.monotonic()
    with unresponsive() as silent:
        conn = HTTPConnection(*silent)
        conn.timeout = 0.3
        with pytest.raises(ConnectionTimedOut):
            conn.connect()
    assert time.monotonic() - began < 5


# --- a forked child -------------------------------------------------------------------------------


def test_dropping_says_nothing_to_the_peer(
    transport: Transport, pair: tuple[socket.socket, socket.socket]
) -> None:
    with pair[0].dup() as parents:
        transport.drop()
        assert transport.is_shut
        assert transport.sock.fileno() == -1
        parents.sendall(b"the parent's")
        assert receive_exactly(pair[1], 12) == b"the parent's"
        with pytest.raises(BlockingIOError):
            pair[1].recv(1, socket.MSG_DONTWAIT)


def test_dropping_does_not_wait_for_a_sender_that_does_not_exist_here(
    plain: PlainTransport,
) -> None:
    plain._send_lock.acquire()
    plain.drop()
    with pytest.raises(ConnectionClosed):
        plain.send(b"data")


def test_every_call_is_safe_after_dropping(transport: Transport) -> None:
    transport.drop()
    transport.drop()
    with pytest.raises(ConnectionClosed):
        transport.recv_into(memoryview(bytearray(1)))
    with pytest.raises(ConnectionClosed):
        transport.send(b"data")
    assert not transport.is_quiet()
    transport.shutdown()
    transport.close()


# --- disconnecting while another thread waits ---------------------------------------------------


class Outcome:
    """A call in a thread of its own; `result` waits for it and returns what it raised."""

    def __init__(self, call: Any, *args: Any) -> None:
        self._raised: BaseException | None = None
        self._call = call
        self._args = args
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call(*self._args)
        except BaseException as exc:
            self._raised = exc

    def result(self) -> BaseException | None:
        self._thread.join()
        return self._raised


@pytest.fixture(params=["plain", "tls"])
def contexts(request: pytest.FixtureRequest, server_context: Any, client_context: Any) -> Any:
    return (server_context, client_context) if request.param == "tls" else (None, None)


def fd_is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def descriptor(conn: HTTPConnection) -> int:
    transport = conn._session.state.transport
    assert transport is not None
    return transport.sock.fileno()


def test_disconnecting_ends_a_wait_for_a_response(contexts: Any) -> None:
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        asked.set()
        peer.until_eof()

    with ScriptedServer(script, context=contexts[0]) as server:
        conn = HTTPConnection(*server.address, ssl_context=contexts[1])
        conn.send_request("GET", "/")
        fd = descriptor(conn)
        reader = Outcome(conn.read_response)
        asked.wait()
        conn.disconnect()
        assert isinstance(reader.result(), ConnectionClosed)
        assert not fd_is_open(fd)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["length", "chunked", "until-close"],
)
def test_a_body_that_we_cut_short_ourselves_is_not_complete(contexts: Any, head: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head)
        peer.until_eof()

    with ScriptedServer(script, context=contexts[0]) as server:
        conn = HTTPConnection(*server.address, ssl_context=contexts[1])
        conn.send_request("GET", "/")
        conn.read_response()
        crt = conn.co_readall()
        next(crt)  # it waits for the body
        conn.disconnect()
        with pytest.raises(ConnectionClosed):
            next(crt)
        with pytest.raises(ConnectionClosed):
            conn.read(10)


def test_disconnecting_ends_a_send_that_is_not_received(contexts: Any) -> None:
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.exactly(2**20)
        begun.set()
        gone.wait(TIMEOUT)

    gone = threading.Event()
    with ScriptedServer(script, context=contexts[0]) as server:
        conn = HTTPConnection(*server.address, ssl_context=contexts[1])
        conn.send_request("PUT", "/", body=BodyFollowing())
        fd = descriptor(conn)

        sender = Outcome(conn.write, bytes(2**26))
        begun.wait()
        conn.disconnect()
        assert isinstance(sender.result(), ConnectionClosed)
        assert not fd_is_open(fd)
        gone.set()


def test_a_sender_between_two_writes_hears_of_the_disconnection() -> None:
    with ScriptedServer(lambda peer: peer.until_eof()) as server:
        conn = HTTPConnection(*server.address)
        conn.send_request("PUT", "/", body=BodyFollowing(10))
        conn.write(b"12345")
        conn.disconnect()
        with pytest.raises(ConnectionClosed):
            conn.write(b"12345")


def test_disconnecting_ends_both_directions_and_the_last_one_out_closes(contexts: Any) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        gone.wait(TIMEOUT)

    gone = threading.Event()
    with ScriptedServer(script, context=contexts[0]) as server:
        conn = HTTPConnection(*server.address, ssl_context=contexts[1])
        conn.send_request("PUT", "/", body=BodyFollowing(2**30))
        fd = descriptor(conn)
        (exchange,) = conn._session.state.awaiting_response
        assert exchange.writer is not None
        exchange.writer.thread = 0  # as if another thread had sent the request
        conn.read_response()
        receiving = conn.co_read(10)
        next(receiving)
        sending = conn.co_write(bytes(2**26))
        next(sending)
        conn.disconnect()
        with pytest.raises(ConnectionClosed):
            next(sending)
        assert fd_is_open(fd)  # the receiver might be waiting for it, and must not see a stranger
        with pytest.raises(ConnectionClosed):
            next(receiving)
        assert not fd_is_open(fd)
        gone.set()


def test_a_descriptor_in_use_survives_until_its_waiter_is_gone(contexts: Any) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.until_eof()

    def second(peer: Peer) -> None:
        peer.request()
        peer.respond(b"second")

    with (
        ScriptedServer(script, second, context=contexts[0]) as server,
        HTTPConnection(*server.address, ssl_context=contexts[1]) as conn,
    ):
        conn.send_request("GET", "/first")
        fd = descriptor(conn)
        old = conn.co_read_response()
        next(old)
        conn.disconnect()
        conn.send_request("GET", "/second")
        assert descriptor(conn) != fd
        with pytest.raises(ConnectionClosed):
            next(old)
        conn.read_response()
        assert conn.readall() == b"second"
