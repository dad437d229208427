"""PollNeeded, and driving a coroutine in a thread that blocks."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dugong import ConnectionClosed, ConnectionTimedOut, HTTPConnection, PollNeeded, eval_coroutine
from dugong.connection import polling
from dugong.connection.polling import Coroutine, Interrupt, co_interruptible, co_sleep
from tests.support.clock import Clock
from tests.support.server import TIMEOUT, ScriptedServer

SHORT = 0.01  # seconds, where running into the limit is what is tested
MANY_YEARS = 1e12


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Steps:
    """A coroutine that waits for *needed* in turn, and remembers what became of it."""

    def __init__(self, *needed: PollNeeded, error: Exception | None = None) -> None:
        self.needed = needed
        self.error = error
        self.resumed = 0
        self.closed = False

    def run(self) -> Coroutine[str]:
        try:
            for needed in self.needed:
                yield needed
                self.resumed += 1
            if self.error is not None:
                raise self.error
            return "result"
        finally:
            self.closed = True


def test_poll_says_whether_it_is_time_to_resume(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    needed = PollNeeded(pair[0].fileno(), select.POLLIN)
    assert needed.poll(0) is False
    assert needed.poll(SHORT) is False
    assert needed.is_ready() is False
    pair[1].send(b"x")
    assert needed.poll(0) is True
    assert needed.poll() is True
    assert needed.is_ready() is True
    assert PollNeeded(pair[0].fileno(), select.POLLOUT).poll() is True


def test_the_attributes_say_what_is_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    fd = pair[0].fileno()
    needed = PollNeeded(fd, select.POLLIN | select.POLLOUT, 3)
    assert (needed.fd, needed.mask, needed.timeout) == (fd, select.POLLIN | select.POLLOUT, 3)
    assert repr(needed) == f"<PollNeeded fd={fd} in|out>"
    assert repr(PollNeeded(fd, select.POLLIN)) == f"<PollNeeded fd={fd} in>"


def test_a_coroutine_may_ask_to_be_resumed_though_nothing_happens(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    needed = PollNeeded(pair[0].fileno(), select.POLLIN, SHORT)
    assert needed.poll() is True
    assert needed.poll(MANY_YEARS) is True
    assert needed.is_ready() is False
    assert needed.poll(0) is False  # the caller's limit comes first


def test_the_end_of_the_peer_is_a_reason_to_resume(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[1].close()
    assert PollNeeded(pair[0].fileno(), select.POLLIN).poll()


@pytest.mark.parametrize("seconds", [-1, -MANY_YEARS])
def test_a_limit_that_is_over_does_not_wait(
    seconds: float, pair: tuple[socket.socket, socket.socket]
) -> None:
    assert PollNeeded(pair[0].fileno(), select.POLLIN).poll(seconds) is False
    assert PollNeeded(pair[0].fileno(), select.POLLIN, seconds).poll() is True


def test_a_limit_may_be_longer_than_poll_can_wait(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[1].send(b"x")
    assert PollNeeded(pair[0].fileno(), select.POLLIN).poll(MANY_YEARS) is True
    assert PollNeeded(pair[0].fileno(), select.POLLIN, MANY_YEARS).poll() is True


def test_a_connection_may_have_a_timeout_of_many_years() -> None:
    with (
        ScriptedServer(lambda peer: (peer.request(), peer.respond())) as server,
        HTTPConnection(*server.address) as conn,
    ):
        conn.timeout = MANY_YEARS
        conn.send_request("GET", "/")
        assert conn.read_response().status == 200


def test_a_coroutine_is_run_to_its_result(pair: tuple[socket.socket, socket.socket]) -> None:
    steps = Steps(*[PollNeeded(pair[0].fileno(), select.POLLOUT)] * 3)
    assert eval_coroutine(steps.run()) == "result"
    assert (steps.resumed, steps.closed) == (3, True)


def test_a_coroutine_that_never_waits_has_a_result_too() -> None:
    assert eval_coroutine(Steps().run(), timeout=0) == "result"


def test_what_a_coroutine_raises_reaches_the_caller() -> None:
    error = LookupError("from within")
    steps = Steps(error=error)
    with pytest.raises(LookupError) as caught:
        eval_coroutine(steps.run())
    assert caught.value is error
    assert steps.closed


def test_a_wait_that_is_too_long_closes_the_coroutine(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    steps = Steps(PollNeeded(pair[0].fileno(), select.POLLIN))
    crt = steps.run()
    with pytest.raises(ConnectionTimedOut):
        eval_coroutine(crt, timeout=SHORT)
    assert (steps.resumed, steps.closed) == (0, True)


def test_the_timeout_is_for_each_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    asks_back = PollNeeded(pair[0].fileno(), select.POLLIN, SHORT)
    steps = Steps(*[asks_back] * 5)
    assert eval_coroutine(steps.run(), timeout=2 * SHORT) == "result"


def test_an_interrupt_of_the_wait_closes_the_coroutine(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    class Interrupted(PollNeeded):
        def poll(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    steps = Steps(Interrupted(pair[0].fileno(), select.POLLIN))
    crt = steps.run()
    with pytest.raises(KeyboardInterrupt):
        eval_coroutine(crt)
    assert steps.closed


def test_several_descriptors_can_be_waited_for_at_once(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    silent, gone = socket.socketpair()
    with silent, gone:
        others = ((ours.fileno(), select.POLLIN),)
        needed = PollNeeded(silent.fileno(), select.POLLIN, None, others)
        assert needed.others == others
        assert not needed.is_ready()
        theirs.send(b"x")
        assert needed.is_ready()
        assert needed.poll(0)
        ours.recv(1)
        assert not needed.poll(0)
        gone.send(b"x")
        assert needed.poll(0)


# --- co_interruptible ---------------------------------------------------------------------------


def test_without_an_interrupt_nothing_changes(pair: tuple[socket.socket, socket.socket]) -> None:
    waits = [
        PollNeeded(pair[0].fileno(), select.POLLOUT),
        PollNeeded(pair[0].fileno(), select.POLLIN, SHORT),
    ]
    steps = Steps(*waits)
    crt = co_interruptible(steps.run(), Interrupt(threading.RLock()))
    assert [next(crt), next(crt)] == waits  # as they are: nothing is put before them
    with pytest.raises(StopIteration) as ended:
        next(crt)
    assert ended.value.value == "result"


def test_what_the_coroutine_raises_comes_through() -> None:
    steps = Steps(error=LookupError("from within"))
    with pytest.raises(LookupError):
        eval_coroutine(co_interruptible(steps.run(), Interrupt(threading.RLock())))
    assert steps.closed


@pytest.mark.parametrize("others", [False, True])
def test_an_interrupt_ends_any_wait(
    pair: tuple[socket.socket, socket.socket], others: bool
) -> None:
    silent, gone = socket.socketpair()
    with silent, gone:
        more = ((silent.fileno(), select.POLLIN),) if others else ()
        steps = Steps(PollNeeded(pair[0].fileno(), select.POLLIN, None, more))
        interrupt = Interrupt(threading.RLock())
        crt = co_interruptible(steps.run(), interrupt)
        needed = next(crt)
        assert not needed.is_ready()
        interrupt.set()
        interrupt.set()
        assert needed.is_ready()
        assert (gone.recv(1) == b"") if others else True  # all of them are shut down
        with pytest.raises(ConnectionClosed):
            next(crt)
        assert (steps.resumed, steps.closed) == (0, True)


def test_an_interrupt_wakes_a_thread_that_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    waiting = threading.Event()

    class Announced(PollNeeded):
        __slots__ = ()

        def poll(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().poll(timeout)

    steps = Steps(Announced(pair[0].fileno(), select.POLLIN))
    interrupt = Interrupt(threading.RLock())
    with ThreadPoolExecutor(1) as executor:
        result = executor.submit(eval_coroutine, co_interruptible(steps.run(), interrupt), TIMEOUT)
        assert waiting.wait(TIMEOUT)
        interrupt.set()
        with pytest.raises(ConnectionClosed):
            result.result(TIMEOUT)


def test_an_interrupt_that_came_before_lets_nothing_begin() -> None:
    begun = []

    def crt() -> Coroutine[None]:
        begun.append(True)
        yield from ()

    interrupt = Interrupt(threading.RLock())
    interrupt.set()
    with pytest.raises(ConnectionClosed):
        eval_coroutine(co_interruptible(crt(), interrupt))
    assert not begun


def test_an_interrupt_that_comes_between_two_waits_ends_the_next(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    interrupt = Interrupt(threading.RLock())

    def crt() -> Coroutine[None]:
        interrupt.set()  # as another thread may, while a name is resolved
        yield PollNeeded(pair[0].fileno(), select.POLLIN)

    with pytest.raises(ConnectionClosed):
        next(co_interruptible(crt(), interrupt))


def test_an_interrupt_leaves_alone_what_is_not_waited_for_any_more(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    interrupt = Interrupt(threading.RLock())
    steps = Steps(PollNeeded(pair[0].fileno(), select.POLLOUT))
    assert eval_coroutine(co_interruptible(steps.run(), interrupt)) == "result"
    interrupt.set()
    pair[1].send(b"x")
    assert pair[0].recv(1) == b"x"


def test_closing_an_interruptible_coroutine_closes_the_one_within(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    steps = Steps(PollNeeded(pair[0].fileno(), select.POLLIN))
    crt = co_interruptible(steps.run(), Interrupt(threading.RLock()))
    next(crt)
    crt.close()
    assert steps.closed


# --- co_sleep -----------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, polling)


def test_a_sleep_is_over_after_its_time(clock: Clock) -> None:
    crt = co_sleep(5)
    needed = next(crt)
    assert needed.timeout == 5
    assert not needed.is_ready()
    clock.now += 5
    with pytest.raises(StopIteration) as ended:
        next(crt)
    assert ended.value.value is None


def test_a_sleep_that_is_resumed_too_early_asks_for_the_rest(clock: Clock) -> None:
    crt = co_sleep(5)
    next(crt)
    clock.now += 2
    assert next(crt).timeout == 3
    crt.close()


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_sleep_of_no_time_does_not_wait(seconds: float) -> None:
    assert list(co_sleep(seconds)) == []


def test_a_sleep_that_is_closed_leaves_no_descriptor(clock: Clock) -> None:
    crt = co_sleep(5)
    needed = next(crt)
    crt.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(needed.fd)


def test_a_thread_may_sleep_in_a_coroutine() -> None:
    begun = time.monotonic()
    eval_coroutine(co_sleep(SHORT))
    assert time.monotonic() - begun >= SHORT


def test_a_sleep_may_be_longer_than_the_limit_of_a_wait() -> None:
    eval_coroutine(co_sleep(2 * SHORT), timeout=SHORT)
