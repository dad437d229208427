"""The interpreter exits, whatever then still wants something of a pool.

When it does, the threads of the pool have been stopped where they were, and hold what they held.
So nothing may wait for them: a call either does what it can, or raises.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from tests.support.pool import each, name_target, url
from tests.support.server import Peer, ReceivedRequest, ScriptedServer

MANY = 10 if os.environ.get("DUGONG_ALL_POINTS") == "1" else 2

LIMIT = 12.0  # seconds that an interpreter may take, most of them for a deadline of 2 s and a close

PREAMBLE = """
import gc, ssl, sys, threading
import dugong
from dugong import ConnectionPool

served, never = sys.argv[1:3]
context = ssl.create_default_context(cafile=sys.argv[3])

class AtExit:
    # Collected when the interpreter tears its modules down.
    def __init__(self, pool, call):
        self.pool = pool
        self.call = call
    def __del__(self):
        try:
            self.call(self.pool)
        except Exception as exc:
            self.pool = None

def a_stream(pool, url):
    with pool.stream("GET", url, timeout=1, deadline=2) as response:
        response.read()

pool = ConnectionPool(max_connections_per_host=4, ssl_context=context)
"""

#: In what state the pool is then.
STATES = {
    "unused": "",
    "idle": "pool.get(served); pool.get(served)",
    "busy": "pool.get(served); f = pool.submit('GET', never)",
    "queued": "pool.get(served); f = [pool.submit('GET', never) for _ in range(500)]",
    "uploading": "f = pool.submit('PUT', never, body=iter(lambda: bytes(100000), None))",
    "streaming": "s = pool.stream('GET', served); s.__enter__()",
    # Threads that change places all the time are likely to be stopped within a change.
    "working": (
        "f = [pool.submit('GET', served) for _ in range(3000)]; "
        "sys.setswitchinterval(1e-6); "
        "[x.result() for x in f[:300]]"
    ),
}

#: What a finalizer calls then.
CALLS = {
    "close": "lambda pool: pool.close()",
    "get": "lambda pool: pool.get(served, timeout=1, deadline=2)",
    "get elsewhere": "lambda pool: pool.get(never, timeout=1, deadline=2)",
    "submit": "lambda pool: pool.submit('GET', served)",
    "result": "lambda pool: pool.submit('GET', served, timeout=1, deadline=2).result()",
    "cancel": "lambda pool: pool.submit('GET', never).cancel()",
    "stream": "lambda pool: a_stream(pool, served)",
    "map": ("lambda pool: list(pool.map([dugong.Request('GET', served, timeout=1, deadline=2)]))"),
    "as_completed": (
        "lambda pool: list("
        "pool.as_completed([dugong.Request('GET', served, timeout=1, deadline=2)]))"
    ),
    "statistics": "lambda pool: pool.statistics()",
    "make": "lambda pool: type(pool)()",
    "make and get": "lambda pool: type(pool)().get(served, timeout=1, deadline=2)",
}


class Exits:
    """Runs programs that use a server which serves, and one that never does."""

    def __init__(self, served: str, never: str, authority: Path) -> None:
        self._arguments = [served, never, str(authority)]

    def __call__(self, *code: str) -> str:
        """Return what the program of these lines writes; fail if it does not end in time."""
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-c", "\n".join([PREAMBLE, *code]), *self._arguments],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "the interpreter does not exit"
        if done.returncode or time.monotonic() - began > LIMIT:
            return f"it has ended with {done.returncode} too late: {done.stderr}"
        return done.stdout + done.stderr

    def wrong(self, programs: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Run *programs*, some at a time; return what those write that write something."""
        with ThreadPoolExecutor(4) as executor:
            said = executor.map(lambda code: self(*code), programs.values())
            return {name: text for name, text in zip(programs, said, strict=True) if text}


def respond(peer: Peer, request: ReceivedRequest) -> None:
    if request.target != "/never":
        name_target(peer, request)


@pytest.fixture(params=["plain", "tls"])
def exits(
    request: pytest.FixtureRequest,
    authority: trustme.CA,
    server_context: ssl.SSLContext,
    tmp_path: Path,
) -> Iterator[Exits]:
    """A program runner whose server speaks plain HTTP, or TLS."""
    yield from _exits(authority, server_context if request.param == "tls" else None, tmp_path)


@pytest.fixture
def exits_plain(authority: trustme.CA, tmp_path: Path) -> Iterator[Exits]:
    """The same without TLS."""
    yield from _exits(authority, None, tmp_path)


def _exits(authority: trustme.CA, tls: ssl.SSLContext | None, where: Path) -> Iterator[Exits]:
    file = where / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    scheme = "http" if tls is None else "https"

    def script(peer: Peer) -> None:
        try:
            each(respond)(peer)
        except OSError:
            pass  # the client is gone in the midst of something

    with ScriptedServer(script, repeat=True, context=tls) as server:
        yield Exits(url(server, "/", scheme), url(server, "/never", scheme), file)


def test_a_pool_that_is_open_does_not_keep_the_interpreter(exits: Exits) -> None:
    assert exits.wrong({state: [STATES[state]] for state in STATES}) == {}


def test_a_generator_that_holds_a_pool_open_does_not_keep_the_interpreter(exits: Exits) -> None:
    generate = (
        "def generate():",
        "    global pool",
        "    with ConnectionPool(max_connections_per_host=4, ssl_context=context) as pool:",
        "        yield",
        "generator = generate(); next(generator)",
    )
    states = ["unused", "idle", "busy", *MANY * ["working"]]
    programs = {f"{state} {i}": [*generate, STATES[state]] for i, state in enumerate(states)}
    assert exits.wrong(programs) == {}


def test_an_iterator_of_a_pool_that_is_not_used_up_does_not_keep_the_interpreter(
    exits_plain: Exits,
) -> None:
    begun = {
        "map": ["g = pool.map([served] * 100); next(g)"],
        "as_completed": ["g = pool.as_completed([served, never]); next(g)"],
        "stream": ["g = pool.stream('GET', served); g.__enter__().read(1)"],
    }
    assert exits_plain.wrong(begun) == {}


def test_a_finalizer_that_uses_a_pool_does_not_keep_the_interpreter(exits_plain: Exits) -> None:
    programs = {
        f"{name} {state} {i}": [STATES[state], f"at_exit = AtExit(pool, {call})"]
        for i, state in enumerate(["idle", *(MANY // 2) * ["working"]])
        for name, call in CALLS.items()
    }
    assert exits_plain.wrong(programs) == {}


def test_a_finalizer_with_tls_does_not_keep_the_interpreter(exits: Exits) -> None:
    programs = {
        call: [STATES["idle"], f"at_exit = AtExit(pool, {CALLS[call]})"]
        for call in ("close", "get", "stream")
    }
    assert exits.wrong(programs) == {}


def test_a_finalizer_of_an_object_in_a_cycle_does_not_keep_the_interpreter(
    exits_plain: Exits,
) -> None:
    programs = {
        call: [
            STATES["idle"],
            f"at_exit = AtExit(pool, {CALLS[call]}); at_exit.itself = at_exit",
            "gc.disable(); del pool, at_exit",
        ]
        for call in ("close", "get", "submit", "statistics")
    }
    assert exits_plain.wrong(programs) == {}


@pytest.mark.parametrize("call", ["close", "get", "result"])
def test_what_is_registered_with_atexit_may_use_a_pool_as_ever(
    exits_plain: Exits, call: str
) -> None:
    said = exits_plain(
        STATES["idle"],
        f"import atexit; call = {CALLS[call]}",
        "atexit.register(lambda: print(getattr(call(pool), 'status', None)))",
    )
    assert said == ("None\n" if call == "close" else "200\n")


def test_a_thread_that_outlives_the_main_thread_may_use_a_pool(exits_plain: Exits) -> None:
    said = exits_plain(
        "def work():",
        "    threading.main_thread().join()",
        "    print(pool.get(served).status, pool.submit('GET', served).result().status)",
        "    pool.close()",
        "pool.get(served)",
        "threading.Thread(target=work).start()",
    )
    assert said == "200 200\n"
