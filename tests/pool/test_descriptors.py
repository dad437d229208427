"""Descriptors that are used up mean that there is no room yet: nothing fails for it.

Fewer connections are opened then, idle ones make room, and an event of the kind "limited" says so.
A connection that is being opened holds two descriptors at most.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from dugong import ConnectionPool, ConnectionTimedOut, Delivery, Event, PoolClosed
from tests.support.loopback import BlackHole, ManyHosts
from tests.support.pool import Held, each, name_target, url, wait_for
from tests.support.server import ScriptedServer

ROOT = str(Path(__file__).parents[2])
SOON = 0.3  # seconds

CODES = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]


class Scarcity:
    """Has the system refuse sockets while it lasts."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.refused = threading.Event()

    def begin(self, code: str = "EMFILE") -> None:
        self.code = getattr(errno, code)

    def end(self) -> None:
        self.code = None

    def check(self) -> None:
        if self.code is not None:
            self.refused.set()
            raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def scarcity(monkeypatch: pytest.MonkeyPatch) -> Scarcity:
    """Descriptors, which may become scarce: for new sockets, not for those that are accepted."""
    scarcity = Scarcity()

    class Socket(socket.socket):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if len(args) < 4 and kwargs.get("fileno") is None:  # or else it is open already
                scarcity.check()
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(socket, "socket", Socket)
    return scarcity


class Limited:
    """Hears of the events of a pool; `told` is set once one says that there is no room."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.reasons: list[str] = []
        self.kinds: list[str] = []

    def __call__(self, event: Event) -> None:
        kind: str = event.kind
        self.kinds.append(kind)
        if kind == "limited":
            self.reasons.append(event.reason)
            self.told.set()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_waits_for_descriptors_and_is_then_sent(
    scarcity: Scarcity, code: str, method: str
) -> None:
    limited = Limited()
    with (
        ScriptedServer(each(name_target)) as server,
        ConnectionPool(on_event=limited, retry=None) as pool,
    ):
        scarcity.begin(code)
        future = pool.submit(method, url(server, "/a"))
        wait_for(scarcity.refused)
        assert limited.told.wait(3)
        assert not future.done()
        scarcity.end()
        response = future.result(5)
        assert response.body == b"/a"
        assert response.attempts == ()
    assert os.strerror(getattr(errno, code)) in limited.reasons[0]
    assert "gave up" not in limited.kinds
    assert len(limited.reasons) < 20  # it is told, not poured out


def test_a_caller_who_waits_is_served_when_there_is_room(scarcity: Scarcity) -> None:
    with (
        ScriptedServer(each(name_target)) as server,
        ConnectionPool(retry=None) as pool,
    ):
        scarcity.begin()
        timer = threading.Timer(SOON, scarcity.end)
        timer.start()
        try:
            assert pool.get(url(server, "/a")).body == b"/a"
        finally:
            timer.join()


def test_name_resolution_may_want_descriptors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = threading.Event()
    getaddrinfo = socket.getaddrinfo

    def scarce(*args: Any, **kwargs: Any) -> Any:
        if not refused.is_set():
            refused.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return getaddrinfo(*args, **kwargs)

    with (
        ScriptedServer(each(name_target)) as server,
        ConnectionPool(retry=None) as pool,
    ):
        monkeypatch.setattr(socket, "getaddrinfo", scarce)
        assert pool.get(url(server, "/a")).body == b"/a"
    assert refused.is_set()


def test_an_idle_connection_of_another_host_makes_room(scarcity: Scarcity) -> None:
    """At once, not after some time."""
    limited = Limited()

    def listen(event: Event) -> None:
        limited(event)
        if event.kind == "closed" and event.origin == other_origin:
            scarcity.end()

    with (
        ScriptedServer(each(name_target)) as other,
        ScriptedServer(each(name_target)) as server,
        ConnectionPool(on_event=listen, retry=None) as pool,
    ):
        other_origin = url(other, "")
        pool.get(url(other))
        scarcity.begin()
        assert pool.submit("GET", url(server, "/a")).result(3).body == b"/a"
        assert pool.statistics().connections == 1


def test_a_host_goes_on_with_the_connections_that_it_has(scarcity: Scarcity) -> None:
    held = Held()
    with (
        ScriptedServer(held) as server,
        ConnectionPool(retry=None) as pool,
    ):
        first = pool.submit("GET", url(server, "/a"))
        held.wait()
        scarcity.begin()
        others = [pool.submit("GET", url(server, f"/{i}")) for i in range(5)]
        wait_for(scarcity.refused)
        held.release()
        assert first.result(3).body == b"/a"
        assert [other.result(3).text for other in others] == [f"/{i}" for i in range(5)]
        assert all(other.result().attempts == () for other in others)


def test_a_deadline_passes_while_there_is_no_room(scarcity: Scarcity) -> None:
    with ScriptedServer() as server, ConnectionPool() as pool:
        scarcity.begin()
        began = time.monotonic()
        future = pool.submit("GET", url(server), deadline=SOON)
        error: Any = future.exception(5)
        assert isinstance(error, ConnectionTimedOut)
        assert error.delivery is Delivery.UNSENT
        assert time.monotonic() - began < SOON + 0.5
        assert not pool.statistics().queued
        scarcity.end()


def test_a_request_can_be_cancelled_while_there_is_no_room(scarcity: Scarcity) -> None:
    with ScriptedServer() as server, ConnectionPool() as pool:
        scarcity.begin()
        future = pool.submit("GET", url(server))
        wait_for(scarcity.refused)
        assert future.cancel()
        assert not pool.statistics().queued
        scarcity.end()


def test_a_pool_can_be_closed_while_there_is_no_room(scarcity: Scarcity) -> None:
    with ScriptedServer() as server, ConnectionPool() as pool:
        scarcity.begin()
        future = pool.submit("GET", url(server))
        wait_for(scarcity.refused)
        pool.close()
        assert isinstance(future.exception(3), PoolClosed)


# --- with real limits, in a process of its own ----------------------------------------------------


def run(script: str, *arguments: object) -> Any:
    """Run *script* in another interpreter; return what it prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


_COUNT = """
import json, os, sys, threading
import dugong

port, count = map(int, sys.argv[1:])
dialled = 0
all_dialled = threading.Event()

def hook(name, args):
    global dialled
    if name == "socket.connect":
        dialled += 1
        if dialled == count:
            all_dialled.set()

sys.addaudithook(hook)
pool = dugong.ConnectionPool(retry=None)
before = len(os.listdir("/proc/self/fd"))
for i in range(count):
    pool.submit("GET", f"http://127.0.1.{i + 1}:{port}/")
assert all_dialled.wait(10)
print(json.dumps(len(os.listdir("/proc/self/fd")) - before))
pool.close()
"""


def test_a_connection_that_is_being_opened_holds_two_descriptors_at_most() -> None:
    count = 10
    with BlackHole() as hole:
        held = run(_COUNT, hole.port, count)
    assert held <= 2 * count + 4  # a few for all of them


_LIMITED = """
import json, os, resource, sys
import dugong

limit, *urls = sys.argv[1:]
kinds, outcomes = set(), {}
pool = dugong.ConnectionPool(retry=None, timeout=20, on_event=lambda event: kinds.add(event.kind))
limit = len(os.listdir("/proc/self/fd")) + int(limit)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
futures = [pool.submit("GET", url, deadline=20) for url in urls]
for future in futures:
    try:
        outcome = future.result(20).text
    except Exception as exc:
        outcome = f"{type(exc).__name__}: {exc}"
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
pool.close()
print(json.dumps([outcomes, sorted(kinds)]))
"""


@pytest.mark.parametrize("limit", [10, 20, 40])
def test_many_hosts_are_served_with_few_descriptors(limit: int) -> None:
    with ManyHosts(each(name_target)) as hosts:
        urls = [hosts.url(i, "/a") for i in range(60)]
        outcomes, kinds = run(_LIMITED, limit, *urls)
    assert outcomes == {"/a": 60}
    assert "limited" in kinds


_BLACK_HOLES = """
import json, os, resource, sys
import dugong

limit, port = map(int, sys.argv[1:])
outcomes, kinds = [], set()
pool = dugong.ConnectionPool(retry=None, timeout=20, on_event=lambda event: kinds.add(event.kind))
limit = len(os.listdir("/proc/self/fd")) + limit
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
urls = [f"http://127.0.{1 + i // 250}.{1 + i % 250}:{port}/" for i in range(300)]
futures = [pool.submit("GET", url, deadline=2) for url in urls]
for future in futures:
    outcomes.append(type(future.exception(10)).__name__)
pool.close()
print(json.dumps([sorted(set(outcomes)), sorted(kinds)]))
"""


def test_hosts_that_do_not_respond_fail_for_that_and_not_for_descriptors() -> None:
    with BlackHole() as hole:
        errors, kinds = run(_BLACK_HOLES, 60, hole.port)
    assert errors == ["ConnectionTimedOut"]
    assert "limited" in kinds


_DEFAULT_CONTEXT = """
import json, os, resource, sys
import dugong
if sys.argv[2] == "loaded":
    import ssl

asked = []
def told(event):
    if event.kind == "limited":
        asked.append(event.kind)
        while held:
            os.close(held.pop())

pool = dugong.ConnectionPool(retry=None, timeout=10, on_event=told)
limit = len(os.listdir("/proc/self/fd")) + 10
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
future = pool.submit("GET", sys.argv[1], deadline=10)
text = future.result(10).text
pool.close()
print(json.dumps([text, asked]))
"""


@pytest.mark.parametrize("ssl_is", ["loaded", "not loaded"])
def test_certificates_that_could_not_be_read_yet_are_read_when_there_is_room(
    ssl_is: str,
    authority: trustme.CA,
    server_context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with ScriptedServer(each(name_target), context=server_context) as server:
        text, events = run(_DEFAULT_CONTEXT, url(server, "/a", "https"), ssl_is)
    assert text == "/a"
    assert events == ["limited"]
