"""A new connection costs little processor time, and not more because there are many others.

The servers are another process, and what is compared was measured in the same test.

An idle connection costs the garbage collector of Python little: it looks at each of its objects
again and again, while the pool is busy with others.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from dugong import ConnectionPool
from dugong.pool.core import traffic
from tests.support.loopback import host_address
from tests.support.server import TIMEOUT

ROUNDS = 5  # of which the best counts, for others use this machine, too
BATCH = 40  # connections that are opened in a round

_SERVER = """
import selectors, socket

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
listener.bind(("0.0.0.0", 0))
listener.listen(1024)
print(listener.getsockname()[1], flush=True)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            sock, _ = listener.accept()
            selector.register(sock, selectors.EVENT_READ)
        elif key.fileobj.recv(65536):
            key.fileobj.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        else:
            selector.unregister(key.fileobj)
            key.fileobj.close()
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server in another process, on each address of the loopback interface."""
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def cost(pool: ConnectionPool, port: int, first: int, count: int = BATCH) -> float:
    """Return the seconds of processor time that each of *count* new connections takes."""
    urls = [f"http://{host_address(i)}:{port}/" for i in range(first, first + count)]
    began = time.process_time()
    for url in urls:
        assert pool.get(url).body == b"ok"
    return (time.process_time() - began) / count


def best_cost(pool: ConnectionPool, port: int, first: int) -> float:
    return min(cost(pool, port, first + i * BATCH) for i in range(ROUNDS))


def test_a_connection_does_not_cost_more_because_there_are_many_others(port: int) -> None:
    with ConnectionPool(max_connections=2000) as pool:
        cost(pool, port, 0, 10)
        few = best_cost(pool, port, 10)
        cost(pool, port, 200, 400)
        many = best_cost(pool, port, 600)
        assert pool.statistics().connections >= 500
    # Work for each connection that there is would make it several times as much.
    assert many <= 2 * few, f"{many * 1000:.2f} ms instead of {few * 1000:.2f} ms"


def count_objects() -> int:
    """Return how many objects the garbage collector looks at, once no thread of a pool is left."""
    for thread in threading.enumerate():
        if thread.name.endswith(("-send", "-recv")):
            thread.join(TIMEOUT)
    gc.collect()
    return len(gc.get_objects())


def test_an_idle_host_costs_the_garbage_collector_little(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "THREAD_IDLE_TIME", 0)
    with ConnectionPool() as pool:
        cost(pool, port, 0, 10)
        before = count_objects()
        cost(pool, port, 10, 100)
        objects = (count_objects() - before) / 100
    assert objects <= 40
