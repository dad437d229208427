"""Forks beside calls of C libraries: the child finds none of their locks taken."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from dugong.connection import forking as module
from dugong.connection.forking import apart_from_forks
from tests.support.fork import holds_in_child
from tests.support.pool import wait_for
from tests.support.server import TIMEOUT

# What Python says of it is true, and what the tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for calls however long they take."""
    monkeypatch.setattr(module, "CALL_TIME", TIMEOUT)


@contextlib.contextmanager
def thread_in(function: Callable[[], object]) -> Iterator[None]:
    """Have a thread call *function* apart from forks while the block runs."""
    thread = threading.Thread(target=apart_from_forks, args=(function,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_call_returns_what_its_function_does() -> None:
    assert apart_from_forks(lambda: 1) == 1


def test_a_call_raises_what_its_function_does() -> None:
    def fail() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        apart_from_forks(fail)
    assert holds_in_child(lambda: True)


#: A fork comes when a thread is in the middle of a call, which has a lock of a library.
DURING_CALL = """
import os, socket, ssl, sys, threading
import dugong
from dugong.connection import forking
forking.CALL_TIME = 10
lock, in_call, forks = threading.Lock(), threading.Event(), threading.Event()
def call(*args, **kwargs):
    with lock:
        in_call.set()
        forks.wait(10)
    raise OSError("it is over")
class Context:
    def wrap_bio(self, *args, **kwargs):
        return self
    do_handshake = call
    def read(self, *args):
        return b""
def work():
    try:
        connect()
    except (OSError, dugong.DugongError):
        pass
{connect}
thread = threading.Thread(target=work)
thread.start()
in_call.wait(10)
os.register_at_fork(before=forks.set)  # the last is the first that is called
pid = os.fork()
if pid == 0:
    os._exit(0 if lock.acquire(blocking=False) else 1)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

CALLS = {
    "resolving": """
socket.getaddrinfo = call
connect = dugong.HTTPConnection("host").connect
""",
    "shaking hands": """
listener = socket.create_server(("127.0.0.1", 0))
connect = dugong.HTTPConnection(*listener.getsockname(), ssl_context=Context()).connect
""",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_child_finds_no_lock_of_a_library_taken_that_a_thread_has_while(call: str) -> None:
    code = DURING_CALL.format(connect=CALLS[call])
    options = ["-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run([sys.executable, *options], timeout=30, check=False)
    assert done.returncode == 0


def test_a_fork_does_not_wait_for_a_call_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the network."""
    monkeypatch.setattr(module, "CALL_TIME", 0.0)
    began, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        wait_for(go_on)

    with thread_in(wait):
        wait_for(began)
        assert holds_in_child(lambda: True)
        go_on.set()


def test_a_child_makes_calls_itself() -> None:
    assert holds_in_child(lambda: apart_from_forks(lambda: True))


def test_a_parent_makes_calls_after_a_fork() -> None:
    assert holds_in_child(lambda: True)
    assert apart_from_forks(lambda: True)
    made: list[bool] = []
    with thread_in(lambda: made.append(True)):
        pass
    assert made == [True]


def test_a_call_may_fork_and_goes_on_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a handler of a signal that comes in the middle of it."""
    monkeypatch.setattr(module, "CALL_TIME", 0.0)
    pid = apart_from_forks(os.fork)
    if pid == 0:
        os._exit(0 if apart_from_forks(lambda: True) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
