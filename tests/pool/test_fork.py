"""Forks, at any place and time: a child has pools of its own, and no thread waits for ever.

A child never uses a connection of its parent's: the server says on which connection a response was
sent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from dugong import ConnectionPool, ResponseFuture, RetryPolicy
from tests.support.byhand import HandServer
from tests.support.fork import holds_in_child
from tests.support.pool import OpenSite, url, wait_for
from tests.support.server import TIMEOUT, Peer, ScriptedServer

# What Python says of it is true, and what the tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


class Numbered:
    """A script that responds to each request with the number of its connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def __call__(self, peer: Peer) -> None:
        with self._lock:
            self._count += 1
            number = self._count
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = peer.request()
                status = "503 Busy" if request.target == "/fail" else "200 OK"
                peer.respond(str(number).encode(), status=status)


def serves_in_child(pool: ConnectionPool, where: str, *parents: bytes) -> Callable[[], bool]:
    """Return what is true in a child where *pool* serves, on connections that are not *parents*."""

    def serves() -> bool:
        with pool:
            bodies = {pool.get(where, deadline=5).body}
            bodies.add(pool.submit("GET", where, deadline=5).result(6).body)
        return not bodies & set(parents)

    return serves


def is_over(future: ResponseFuture) -> bool:
    """Return True if *future* is done, or will be: in a child, with whatever outcome."""
    with contextlib.suppress(Exception):
        future.result(5)
    return future.done()


# --- in callbacks ---------------------------------------------------------------------------------


class Forking:
    """Forks when it is called for the first time; `held` says if *condition* did in the child."""

    def __init__(self, condition: Callable[[], object]) -> None:
        self._condition = condition
        self._lock = threading.Lock()
        self.held: bool | None = None
        self.done = threading.Event()

    def __call__(self, *_: object) -> None:
        if self._lock.acquire(blocking=False):
            self.held = holds_in_child(self._condition)
            self.done.set()


def begin(context: str, pool: ConnectionPool, where: str, fork: Forking) -> ResponseFuture:
    """Make a request that has *fork* called in a thread of *pool*."""
    if context == "should_retry":

        def ask(attempt: object) -> bool:
            fork()
            return False

        return pool.submit("GET", where + "fail", retry=RetryPolicy(should_retry=ask))
    if context == "body":

        def body() -> Iterator[bytes]:
            yield b"body"
            fork()
            yield b"body"

        return pool.submit("PUT", where, body=body())
    future = pool.submit("GET", where)
    if context == "callback":
        future.add_done_callback(fork)
    return future


@pytest.mark.parametrize("context", ["callback", "event", "should_retry", "body"])
def test_a_child_that_was_forked_in_a_thread_of_the_pool_has_a_working_pool(
    site: OpenSite, context: str
) -> None:
    first: list[bytes] = []

    def condition() -> bool:
        return serves_in_child(here.pool, here.url(), *first, b"1")()

    fork = Forking(condition)
    listener = fork if context == "event" else None
    with site(Numbered(), repeat=True, on_event=listener) as here:
        future = begin(context, here.pool, here.url(), fork)
        wait_for(fork.done)
        assert fork.held
        future.result(TIMEOUT)
        assert here.pool.get(here.url(), deadline=5).status == 200


def test_what_came_with_a_response_whose_callback_forks_is_over_in_the_child() -> None:
    """Both were parsed before the first future was resolved."""
    with HandServer() as server, ConnectionPool(max_connections_per_host=1) as pool:
        for target in ("/1", "/2"):
            future = pool.submit("GET", server.url(target))
            if target == "/1":
                peer = server.accept()
            assert peer.burst() == [target]
            peer.responds(target)
            future.result(TIMEOUT)
        first = pool.submit("GET", server.url("/a"))
        assert peer.burst() == ["/a"]
        second = pool.submit("GET", server.url("/b"))
        third = pool.submit("GET", server.url("/c"))
        assert peer.targets(2) == ["/b", "/c"]
        fork = Forking(lambda: is_over(second) and is_over(third))
        first.add_done_callback(fork)
        peer.responds("/a", "/b", "/c")
        wait_for(fork.done)
        assert [future.result(TIMEOUT).text for future in (first, second, third)] == [
            "/a",
            "/b",
            "/c",
        ]
        assert fork.held


@pytest.mark.parametrize("what", ["answered", "failed", "cancelled", "closed"])
def test_what_waits_behind_a_callback_is_over_in_a_child_of_another_thread(what: str) -> None:
    """Its outcome is decided; the thread that is to resolve it does not exist in the child."""
    began, go_on = threading.Event(), threading.Event()

    def hold_up(future: object) -> None:
        began.set()
        wait_for(go_on)

    with HandServer() as server, ConnectionPool(max_connections_per_host=1) as pool:
        for target in ("/1", "/2"):
            future = pool.submit("GET", server.url(target))
            if target == "/1":
                peer = server.accept()
            assert peer.burst() == [target]
            peer.responds(target)
            future.result(TIMEOUT)
        futures = [pool.submit("GET", server.url(target), retry=None) for target in ("/a", "/b")]
        assert peer.targets(2) == ["/a", "/b"]
        futures[0].add_done_callback(hold_up)
        closer = threading.Thread(target=pool.close)
        if what == "answered":
            peer.responds("/a", "/b")
        elif what == "failed":
            peer.close()
        elif what == "cancelled":
            peer.responds("/a")
        else:
            closer.start()
        wait_for(began)
        if what == "cancelled":
            futures[1].cancel()
        held = holds_in_child(lambda: is_over(futures[1]))
        go_on.set()
        if what == "closed":
            closer.join(TIMEOUT)
        assert held


# --- in handlers of signals, and beside others ----------------------------------------------------


def run(code: str, where: str, seconds: float = 30.0) -> str:
    """Run *code* in another interpreter, in its main thread; return what it writes."""
    preamble = f"import os, signal, sys, threading, dugong; served = {where!r}\n"
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", preamble + code],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.fail("it hangs")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


#: What a child does: it says so if a response came on a connection of its parent's.
CHILD = """
def child(pool):
    signal.alarm(10)
    status = 1
    try:
        if pool.get(served, deadline=5).body in parents:
            os.write(1, b"the child has used a connection of its parent's\\n")
        elif pool.submit("GET", served, deadline=5).result(6).body in parents:
            os.write(1, b"the child has used a connection of its parent's\\n")
        else:
            status = 0
    except BaseException as exc:
        os.write(1, f"in the child: {exc!r}\\n".encode())
    finally:
        os._exit(status)

def fork(pool):
    pid = os.fork()
    if pid == 0:
        child(pool)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        os.write(1, f"a child has ended with {status}\\n".encode())
"""


@pytest.fixture(params=["plain", "tls"])
def numbered(
    request: pytest.FixtureRequest, server_context: ssl.SSLContext
) -> Iterator[tuple[str, str]]:
    """The URL of a server that responds with the number of the connection, and a pool for it."""
    tls = server_context if request.param == "tls" else None
    scheme = "http" if tls is None else "https"
    verify = "" if tls is None else "ssl_context=context"
    with ScriptedServer(Numbered(), repeat=True, context=tls) as server:
        yield url(server, scheme=scheme), f"dugong.ConnectionPool({verify})"


UNVERIFIED = """
import ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
"""


def test_a_thread_may_make_pools_while_another_forks(numbered: tuple[str, str]) -> None:
    where, pool = numbered
    code = f"""
{UNVERIFIED}{CHILD}
pool = {pool}
parents = {{pool.get(served).body for _ in range(3)}}
many = [dugong.ConnectionPool() for _ in range(100)]
stop = threading.Event()
def make():
    while not stop.is_set():
        made = [dugong.ConnectionPool() for _ in range(20)]
        del made
makers = [threading.Thread(target=make)]
for maker in makers:
    maker.start()
sys.setswitchinterval(1e-4)
for _ in range(5):
    fork(pool)
stop.set()
for maker in makers:
    maker.join()
assert pool.get(served, deadline=5).body in parents
pool.close()
"""
    assert run(code, where) == ""


def test_threads_may_use_a_pool_while_another_forks(numbered: tuple[str, str]) -> None:
    where, pool = numbered
    pool = pool.replace("(", "(max_connections_per_host=1, ")
    code = f"""
{UNVERIFIED}{CHILD}
pool = {pool}
parents = {{pool.get(served).body}}
stop = threading.Event()
def use():
    while not stop.is_set():
        pool.get(served)
        list(pool.map([served] * 10))
users = [threading.Thread(target=use) for _ in range(3)]
for user in users:
    user.start()
for _ in range(8):
    fork(pool)
stop.set()
for user in users:
    user.join()
pool.close()
"""
    assert run(code, where) == ""


#: A handler forks at each point of what the fork hooks of the package do, and of other calls.
IN_HANDLER = """
sys.path.insert(0, {path!r})
from tests.support.points import Interrupter
{unverified}{child}
pool = {pool}
parents = {{pool.get(served).body for _ in range(3)}}
def operate():
    {operation}
with Interrupter() as listing:
    operate()
number = len(listing.points)
for at in range(0, number, max(1, number // {points})):
    with Interrupter(at, lambda: fork(pool)):
        operate()
assert pool.get(served, deadline=5).status == 200
pool.close()
"""

#: At how many points, about.
POINTS = 100 if os.environ.get("DUGONG_ALL_POINTS") == "1" else 8

OPERATIONS = {
    "fork": "fork(pool)",
    "request": "pool.get(served, deadline=5)",
    "request directly": "pool.get(served)",
    "submit": "pool.submit('GET', served).result(5)",
    "make": "dugong.ConnectionPool().close()",
    "statistics": "pool.statistics()",
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_handler_of_a_signal_may_fork_at_any_point_of(
    numbered: tuple[str, str], operation: str
) -> None:
    where, pool = numbered
    code = IN_HANDLER.format(
        path=os.getcwd(),
        unverified=UNVERIFIED,
        child=CHILD,
        pool=pool,
        operation=OPERATIONS[operation],
        points=POINTS,
    )
    assert run(code, where, 50.0) == ""


@pytest.mark.parametrize("options", [{"deadline": 3}, {}], ids=["queued", "direct"])
def test_a_child_may_go_on_with_the_call_that_a_handler_has_forked_in(
    options: dict[str, int],
) -> None:
    """As after a handler that returns in the child: both finish what they were at."""
    with ScriptedServer(Numbered(), repeat=True) as server:
        code = f"""
sys.path.insert(0, {os.getcwd()!r})
from tests.support.points import Interrupter
pool = dugong.ConnectionPool()
pool.get(served)
def fork():
    global pid
    pid = os.fork()
    if pid == 0:
        signal.alarm(8)
def operate():
    try:
        pool.get(served, **{options})
    except dugong.DugongError:
        if pid:
            raise
with Interrupter() as listing:
    pid = 1
    operate()
number = len(listing.points)
for at in range(0, number, max(1, number // {2 * POINTS})):
    pid = 1
    with Interrupter(at, fork):
        operate()
    if pid == 0:
        pool.get(served, deadline=5)
        os._exit(0)
    if pid == 1:
        continue  # it did not get so far this time
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        print("a child has ended with", status, "after a fork in", listing.points[at])
pool.close()
"""
        assert run(code, url(server), 50.0) == ""


@pytest.mark.parametrize("number", [signal.SIGUSR1])
def test_a_handler_that_forks_is_no_danger_to_a_thread_that_forks(
    numbered: tuple[str, str], number: int
) -> None:
    """With real signals, which come at any time: mostly within a fork, for there is little else."""
    where, pool = numbered
    code = f"""
{UNVERIFIED}{CHILD}
pool = {pool}
parents = {{pool.get(served).body for _ in range(3)}}
forks = 0
def handler(*_):
    global forks
    forks += 1
    if forks <= 20:
        fork(pool)
signal.signal({int(number)}, handler)
stop = threading.Event()
def send():
    while not stop.wait(0.005):
        os.kill(os.getpid(), {int(number)})
sender = threading.Thread(target=send)
sender.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
stop.set()
sender.join()
pool.close()
"""
    assert run(code, where) == ""


def test_a_handler_that_forks_in_a_change_while_another_thread_forks_does_not_hang(
    numbered: tuple[str, str],
) -> None:
    """Each has a lock then that the other waits for."""
    where, pool = numbered
    code = f"""
{UNVERIFIED}{CHILD}
sys.path.insert(0, {os.getcwd()!r})
from dugong.pool import fork as module
from tests.support.points import Interrupter
module.LOCK_TIME = 0.1
pool = {pool}
parents = {{pool.get(served).body for _ in range(3)}}
begun = threading.Event()
def other():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
os.register_at_fork(before=begun.set)  # the last is the first that is called
def handler():
    begun.clear()
    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(5)
    thread.join(0.05)  # if this thread has the lock of the pool, it cannot end
    fork(pool)
    threads.append(thread)
threads = []
pool.statistics()  # which loads a module the first time
with Interrupter() as listing:
    pool.statistics()
for at, point in enumerate(listing.points):
    if "core.py" in point.file:
        with Interrupter(at, handler):
            pool.statistics()
        threads.pop().join()
pool.close()
"""
    assert run(code, where, 40.0) == ""
