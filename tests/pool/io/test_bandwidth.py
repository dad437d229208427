"""Limits on the bandwidth of a pool: how exact they are, how fair, and what ends a wait."""

from __future__ import annotations

import heapq
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dugong import (
    Client,
    ConnectionClosed,
    ConnectionPool,
    ConnectionTimedOut,
    FilePart,
    HostPolicy,
    PoolClosed,
    Progress,
)
from dugong.connection.polling import Coroutine, PollNeeded
from dugong.connection.transport import PlainTransport, Transport
from dugong.pool.core.host import Host
from dugong.pool.io import bandwidth
from dugong.pool.io.bandwidth import Bandwidth, BandwidthLimits, Bucket, LimitedTransport
from dugong.pool.url import Origin
from tests.support.clock import Clock
from tests.support.fork import holds_in_child
from tests.support.pool import OpenSite, each, open_site, wait_for
from tests.support.server import TIMEOUT, Peer, ReceivedRequest
from tests.support.transport import run

RATE = 1_000_000.0
SECONDS = 2.0  # over which a limit is kept
SIZE = int(RATE * SECONDS)
#: So exactly.
TOLERANCE = 0.05


class WaitingClock(Clock):
    """The time of all limits, which passes only while a limit is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch, bandwidth)
        self.began = self.now

        def block(pause: PollNeeded, timeout: float | None) -> None:
            assert pause.timeout is not None
            self.now += pause.timeout

        monkeypatch.setattr(bandwidth._Pause, "block", block)

    @property
    def seconds(self) -> float:
        """How many seconds have passed."""
        return self.now - self.began


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WaitingClock:
    return WaitingClock(monkeypatch)


# --- the bucket -----------------------------------------------------------------------------------


def test_what_passes_at_once_is_in_time_later(clock: WaitingClock) -> None:
    bucket = Bucket(1000.0)
    first = bucket.add(500)
    assert first == pytest.approx(clock.now + 0.5, abs=TOLERANCE)
    assert bucket.add(1000) == pytest.approx(first + 1.0)


def test_what_was_not_used_may_be_made_up_for_only_for_a_moment(clock: WaitingClock) -> None:
    bucket = Bucket(1000.0)
    bucket.add(1000)
    clock.now += 100
    assert bucket.add(1000) == pytest.approx(clock.now + 1.0, abs=TOLERANCE)


def test_the_room_gets_less_while_others_are_ahead_of_their_time(clock: WaitingClock) -> None:
    bucket = Bucket(RATE)
    bucket.add(int(RATE * bandwidth._CREDIT))
    rooms = []
    for _ in range(5):
        rooms.append(bucket.room())
        bucket.add(rooms[-1])
    assert rooms == sorted(rooms, reverse=True)
    assert rooms[0] > rooms[-1] > 0


def test_a_byte_may_pass_however_small_the_rate(clock: WaitingClock) -> None:
    assert Bucket(0.001).room() == 1


@pytest.mark.parametrize("count", [1, 2, 6, 32])
def test_connections_share_a_rate_exactly_and_fairly(clock: WaitingClock, count: int) -> None:
    bucket = Bucket(RATE)
    waiting = [(clock.now, number) for number in range(count)]
    passed = [0] * count
    end = clock.now + SECONDS
    while waiting[0][0] < end:
        due, number = heapq.heappop(waiting)
        clock.now = max(clock.now, due)
        size = bucket.room()
        passed[number] += size
        heapq.heappush(waiting, (bucket.add(size), number))
    assert sum(passed) == pytest.approx(SIZE, rel=TOLERANCE)
    # None is ahead of another by more than what may be made up for at the beginning.
    assert max(passed) - min(passed) <= RATE * (bandwidth._CREDIT + bandwidth._AHEAD)


def test_a_bucket_may_be_used_in_the_middle_of_a_change(clock: WaitingClock) -> None:
    bucket = Bucket(RATE)
    with bucket._lock:  # where a signal handler may come
        bucket.add(1)


def test_a_child_does_not_wait_for_a_thread_of_its_parent(clock: WaitingClock) -> None:
    bucket = Bucket(RATE)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with bucket._lock:
            held.set()
            wait_for(over)

    thread = threading.Thread(target=hold)
    thread.start()
    wait_for(held)
    try:
        assert holds_in_child(lambda: bucket.add(1))
    finally:
        over.set()
        thread.join()


# --- one connection -------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def test_no_more_is_read_than_may_be(
    clock: WaitingClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    transport = LimitedTransport(PlainTransport(ours), (Bandwidth(None, 1000.0),))
    theirs.sendall(bytes(1000))
    got = transport.recv_into(memoryview(bytearray(1000)))
    assert isinstance(got, int)
    assert 0 < got <= 1000 * TOLERANCE
    assert len(ours.recv(1000, socket.MSG_PEEK)) == 1000 - got


def test_the_strictest_of_several_limits_counts(
    clock: WaitingClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    limits = Bandwidth(RATE, None), Bandwidth(1000.0, None)
    transport = LimitedTransport(PlainTransport(pair[0]), limits)
    sent = transport.send(bytes(1000))
    assert isinstance(sent, int)
    assert 0 < sent <= 1000 * TOLERANCE


def test_a_direction_without_a_limit_is_as_fast_as_it_is(
    clock: WaitingClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    transport = LimitedTransport(PlainTransport(pair[0]), (Bandwidth(None, 1.0),))
    assert transport.send(bytes(1000)) == 1000
    assert transport.send(bytes(1000)) == 1000


def test_what_a_full_socket_did_not_take_is_sent_as_it_was_offered(
    clock: WaitingClock,
) -> None:
    """TLS has taken it already, though it could not be sent."""
    offered: list[int] = []
    takes: list[int | PollNeeded] = [PollNeeded(0, 0), 10]

    class Full(PlainTransport):
        def send(self, data: bytes | memoryview) -> int | PollNeeded:
            offered.append(len(data))
            return takes.pop(0)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        share = Bandwidth(1000.0, None)
        assert share.upload is not None
        transport = LimitedTransport(Full(ours), (share,))
        assert isinstance(transport.send(bytes(1000)), PollNeeded)
        share.upload.add(1000)  # of another connection
        assert transport.send(bytes(1000)) == 10
    assert offered == [offered[0]] * 2


def run_to_its_end(transport: Transport) -> None:
    """Receive what had come before the end of the connection, and then that."""
    while isinstance(got := transport.recv_into(memoryview(bytearray(1))), int) and got:
        pass


End = Callable[[LimitedTransport, socket.socket], object]


def reset(transport: LimitedTransport, peer: socket.socket) -> None:
    Peer(peer).reset()


@pytest.mark.parametrize("end", [lambda transport, peer: transport.shutdown(), reset])
def test_a_wait_ends_with_the_connection(
    pair: tuple[socket.socket, socket.socket], end: End
) -> None:
    ours, theirs = pair
    share = Bandwidth(None, 1.0)
    assert share.download is not None
    transport = LimitedTransport(PlainTransport(ours), (share,))
    theirs.sendall(b"data")
    view = memoryview(bytearray(1))
    share.download.add(1_000_000)  # of another connection
    assert transport.recv_into(view) == 1
    pause = transport.recv_into(view)
    assert isinstance(pause, PollNeeded)
    waiting = threading.Thread(target=pause.block, args=[0.0])
    waiting.start()
    end(transport, theirs)
    waiting.join(TIMEOUT)
    assert not waiting.is_alive()
    with pytest.raises(ConnectionClosed):
        run_to_its_end(transport)


def test_a_wait_for_a_limit_is_known_while_it_lasts(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pause = bandwidth._Pause(pair[0].fileno())
    assert pause.total == 0
    pause.timeout = 0.01
    pause.block(0.0)
    total = pause.total
    assert total >= 0.01
    pause._begun = (total, time.monotonic() - 1.0)  # as if it went on
    assert pause.total >= total + 1.0


# --- requests -------------------------------------------------------------------------------------


def whole(peer: Peer, request: ReceivedRequest) -> None:
    peer.respond(bytes(SIZE))


def chunked(peer: Peer, request: ReceivedRequest) -> None:
    piece = bytes(SIZE // 20)
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20):
        peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    peer.send(b"0\r\n\r\n")


def until_close(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(SIZE))
    if isinstance(peer.sock, ssl.SSLSocket):
        with suppress(OSError):
            peer.sock.unwrap()  # or else it would be no orderly end


def small(peer: Peer, request: ReceivedRequest) -> None:
    peer.respond(bytes(SIZE // 200 - 44))


def get(pool: ConnectionPool, url: str) -> int:
    return len(pool.get(url).body)


def submit(pool: ConnectionPool, url: str) -> int:
    return len(pool.submit("GET", url).result(TIMEOUT).body)


def stream(pool: ConnectionPool, url: str) -> int:
    with pool.stream("GET", url) as response:
        return sum(map(len, response))


def read(pool: ConnectionPool, url: str) -> int:
    received = 0
    with pool.stream("GET", url) as response:
        while piece := response.read(10_000):
            received += len(piece)
    return received


def pipelined(pool: ConnectionPool, url: str) -> int:
    return sum(len(response.body) + 44 for response in pool.map([url] * 200))


def in_turn(pool: ConnectionPool, url: str) -> int:
    return sum(len(pool.get(url).body) + 44 for _ in range(200))


DOWNLOADS = {
    "whole": (each(whole), submit),
    "chunked": (each(chunked), get),
    "until close": (until_close, get),
    "a stream": (each(whole), stream),
    "a stream in parts": (each(whole), read),
    "a stream in chunks": (each(chunked), stream),
    "small and pipelined": (each(small), pipelined),
    "small, by its caller": (each(small), in_turn),
}


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_downloads_keep_to_the_rate(clock: WaitingClock, site: OpenSite, kind: str) -> None:
    script, download = DOWNLOADS[kind]
    with site(script, download_rate=RATE, max_connections_per_host=1) as here:
        assert download(here.pool, here.url()) == SIZE
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


UPLOADS: dict[str, Callable[[BinaryIO], Any]] = {
    "bytes": lambda file: bytes(SIZE),
    "a file": lambda file: file,
    "a part of a file": lambda file: FilePart(file),
    "a stream": lambda file: io.BytesIO(bytes(SIZE)),
    "chunks": lambda file: iter([bytes(SIZE // 20)] * 20),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_uploads_keep_to_the_rate(
    clock: WaitingClock, site: OpenSite, tmp_path: Path, kind: str
) -> None:
    received: list[int] = []

    def count(peer: Peer, request: ReceivedRequest) -> None:
        received.append(len(request.body))
        peer.respond()

    path = tmp_path / "body"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file, site(each(count), upload_rate=RATE) as here:
        here.pool.put(here.url(), UPLOADS[kind](file))
    assert received == [SIZE]
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


def test_a_host_may_have_a_limit_of_its_own(clock: WaitingClock) -> None:
    with open_site(each(whole), host_download_rate=RATE) as here:
        assert len(here.pool.get(here.url()).body) == SIZE
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


# --- limits that a policy sets --------------------------------------------------------------------


@pytest.mark.parametrize("pools", [None, RATE / 10, RATE * 10])
def test_the_rate_of_a_policy_comes_before_that_of_the_pool(
    clock: WaitingClock, pools: float | None
) -> None:
    policy = HostPolicy(download_rate=RATE)
    with open_site(
        each(whole), host_policy=lambda origin: policy, host_download_rate=pools
    ) as here:
        assert len(here.pool.get(here.url()).body) == SIZE
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


def test_a_policy_without_a_rate_leaves_that_of_the_pool(clock: WaitingClock) -> None:
    policy = HostPolicy(upload_rate=RATE)
    with open_site(each(whole), host_policy=lambda _: policy, host_download_rate=RATE) as here:
        assert len(here.pool.get(here.url()).body) == SIZE
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


def test_the_limit_of_the_pool_counts_as_well(clock: WaitingClock) -> None:
    policy = HostPolicy(download_rate=RATE * 10)
    with open_site(each(whole), host_policy=lambda origin: policy, download_rate=RATE) as here:
        assert len(here.pool.get(here.url()).body) == SIZE
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


def test_uploads_keep_to_the_rate_of_a_policy(clock: WaitingClock) -> None:
    policy = HostPolicy(upload_rate=RATE)
    with open_site(each(lambda peer, _: peer.respond()), host_policy=lambda _: policy) as here:
        here.pool.put(here.url(), bytes(SIZE))
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


def test_a_policy_that_is_set_limits_what_follows(clock: WaitingClock) -> None:
    """The connection that there was without a limit takes nothing more."""
    with open_site(each(whole), repeat=True) as here:
        assert len(here.pool.get(here.url()).body) == SIZE
        here.pool.set_host_policy(here.url(), HostPolicy(download_rate=RATE))
        assert clock.seconds == 0
        assert len(here.pool.get(here.url()).body) == SIZE
        assert here.pool.statistics().opened == 2
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("rate", "seconds"), [(RATE / 2, 1.5), (RATE * 10, 0.55), (None, 0.5)], ids=str
)
def test_a_policy_that_is_set_changes_the_limit_of_what_is_under_way(
    clock: WaitingClock, rate: float | None, seconds: float
) -> None:
    policy = HostPolicy(download_rate=RATE)
    with (
        open_site(each(whole), host_policy=lambda origin: policy) as here,
        here.pool.stream("GET", here.url()) as response,
    ):
        received = 0
        while received < SIZE / 2:
            received += len(response.read(SIZE // 2 - received))
        assert clock.seconds == pytest.approx(SECONDS / 2, rel=TOLERANCE)
        here.pool.set_host_policy(here.url(), HostPolicy(download_rate=rate))
        received += sum(map(len, response))
        assert here.pool.statistics().opened == 1
    assert received == SIZE
    assert clock.seconds == pytest.approx(SECONDS * seconds, rel=TOLERANCE)


def test_a_rate_that_is_set_again_gives_no_credit(clock: WaitingClock) -> None:
    share = Bandwidth(None, RATE)
    bucket = share.download
    assert bucket is not None
    due = bucket.add(SIZE)
    share.follow(None, RATE / 2)
    share.follow(None, None)
    assert share.download is bucket
    assert bucket.add(SIZE) == pytest.approx(due + SECONDS)


def a_host(name: str) -> Host:
    builder: Any = None
    return Host(Origin("http", name, 80), builder, None)


def test_the_connections_of_a_host_share_its_limit(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    limits = BandwidthLimits((None, None), (None, RATE))

    def dial() -> Coroutine[Transport]:
        yield from ()
        return PlainTransport(pair[0])

    def bucket(host: Host) -> Bucket:
        transport: Any = run(limits.apply_locked(dial, host)())
        (found,) = transport._receiving._find()
        assert isinstance(found, Bucket)
        return found

    host, other = a_host("a.test"), a_host("b.test")
    one = bucket(host)
    assert bucket(host) is one
    assert bucket(other) is not one


def test_without_a_limit_there_is_nothing_in_the_way() -> None:
    limits = BandwidthLimits((None, None), (None, None))
    dial: Any = object()
    assert limits.apply_locked(dial, a_host("a.test")) is dial


def test_several_connections_together_keep_to_the_rate() -> None:
    size, count = 25_000, 8
    rate = size * count / 0.5

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(bytes(size))

    options: dict[str, Any] = {"download_rate": rate, "max_connections_per_host": count}
    with open_site(each(respond), repeat=True, **options) as here:
        began = time.monotonic()
        ends: list[float] = []
        futures = [here.pool.submit("GET", here.url()) for _ in range(count)]
        for future in futures:
            future.add_done_callback(lambda _: ends.append(time.monotonic() - began))
        for future in futures:
            assert len(future.result(TIMEOUT).body) == size
    # It may be ahead of its time by so much; how late it is depends on the machine.
    assert max(ends) >= 0.5 - bandwidth._CREDIT - bandwidth._AHEAD - count * bandwidth._LEAST


# --- what a wait for a limit is not ---------------------------------------------------------------


def dribble(peer: Peer, request: ReceivedRequest) -> None:
    peer.respond(bytes(400))


def test_a_limit_is_no_stall() -> None:
    with open_site(each(dribble), download_rate=1000.0, timeout=0.1) as here:
        assert len(here.pool.get(here.url()).body) == 400
        with here.pool.stream("GET", here.url()) as response:
            assert len(response.read()) == 400


def test_a_limit_in_the_middle_of_a_head_is_no_stall() -> None:
    def respond(peer: Peer, request: ReceivedRequest) -> None:
        peer.respond(b"body", headers=f"X-Long: {'x' * 400}\r\n")

    with open_site(each(respond), download_rate=1000.0, timeout=0.1) as here:
        assert here.pool.get(here.url()).body == b"body"


def test_a_limit_on_a_small_request_is_no_stall() -> None:
    """The receiver waits for the response while all of the request is to be sent."""
    received: list[int] = []

    def respond(peer: Peer, request: ReceivedRequest) -> None:
        received.append(len(request.body))
        peer.respond()

    with open_site(each(respond), upload_rate=100_000.0, timeout=0.1) as here:
        future = here.pool.submit("PUT", here.url(), body=bytes(40_000))
        assert future.result(TIMEOUT).status == 200
    assert received == [40_000]


def test_a_server_that_does_not_respond_times_out_under_a_limit() -> None:
    over = threading.Event()

    def respond(peer: Peer) -> None:
        peer.request()
        wait_for(over)

    with open_site(respond, upload_rate=100_000.0, timeout=0.1) as here:
        try:
            with pytest.raises(ConnectionTimedOut):
                here.pool.submit("PUT", here.url(), body=bytes(20_000)).result(TIMEOUT)
        finally:
            over.set()


def test_a_limit_is_not_taken_for_a_slow_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dugong.pool.core.maintenance.RATE_INTERVAL", 0.05)
    # Nothing that is slower than min_rate passes without a limit, so all of the time is ours.
    with open_site(each(dribble), download_rate=1000.0, min_rate=2000.0) as here:
        assert len(here.pool.submit("GET", here.url()).result(TIMEOUT).body) == 400


def test_a_server_that_is_slow_is_found_under_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dugong.pool.core.maintenance.RATE_INTERVAL", 0.05)
    over = threading.Event()

    def respond(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        wait_for(over)

    with open_site(respond, download_rate=RATE, min_rate=1000.0) as here:
        try:
            with pytest.raises(ConnectionTimedOut, match="min_rate"):
                here.pool.submit("GET", here.url()).result(TIMEOUT)
        finally:
            over.set()


# --- what ends a wait for a limit -----------------------------------------------------------------


def endless(peer: Peer) -> None:
    peer.request()
    try:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(20_000_000))
    except OSError:
        pass


def test_a_deadline_ends_it() -> None:
    with open_site(endless, download_rate=100_000.0) as here, pytest.raises(ConnectionTimedOut):
        here.pool.get(here.url(), deadline=0.2)


def test_closing_the_pool_ends_it() -> None:
    with open_site(endless, download_rate=100_000.0) as here:
        started = Started()
        future = here.pool.submit("GET", here.url(), progress=Progress(download=started))
        wait_for(started.begun)
        here.pool.close()
        with pytest.raises(PoolClosed):
            future.result(TIMEOUT)


def test_cancelling_ends_it() -> None:
    with open_site(endless, each(dribble), download_rate=100_000.0) as here:
        started = Started()
        future = here.pool.submit("GET", here.url(), progress=Progress(download=started))
        wait_for(started.begun)
        assert future.cancel()
        assert len(here.pool.get(here.url()).body) == 400


def test_leaving_a_stream_ends_it() -> None:
    with open_site(endless, each(dribble), download_rate=100_000.0) as here:
        with here.pool.stream("GET", here.url()) as response:
            assert response.read(1)
        assert len(here.pool.get(here.url()).body) == 400


class Started:
    """Is told of progress; `begun` is set when a body has begun to come in."""

    def __init__(self) -> None:
        self.begun = threading.Event()

    def __call__(self, done: int, total: int | None) -> None:
        if done:
            self.begun.set()


def test_the_server_is_held_up() -> None:
    """What may not be received yet is not read from the socket."""
    sent: list[int] = []
    piece = bytes(256 * 1024)

    def pour(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            for _ in range(400):  # 100 MB
                peer.send(piece)
                sent.append(len(piece))
        except OSError:
            pass

    with (
        open_site(pour, download_rate=1_000_000.0) as here,
        here.pool.stream("GET", here.url()) as response,
    ):
        received = 0
        while received < 100_000:
            received += len(response.read(100_000 - received))
    assert received == 100_000
    assert sum(sent) < 40_000_000  # what the buffers of the system take


def test_a_client_passes_the_rates_on(clock: WaitingClock) -> None:
    with open_site(each(whole)) as here, Client(download_rate=RATE) as client:
        assert len(client.get(here.url()).body) == SIZE
    assert clock.seconds == pytest.approx(SECONDS, rel=TOLERANCE)
