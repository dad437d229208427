"""The process that a client runs in: performs rounds on command and says what each of them cost.

Called as ``python -m clients.NAME PORT TLS_PORT CA_FILE``. A line ``WORK COUNT`` on standard input
asks for a round; the reply is a line of JSON with the ``wall`` and ``cpu`` seconds that it took.
The end of the input ends the process. Everything but the requests themselves (imports, connections,
a first request) happens before the clocks are read, in rounds that `rig.Client` throws away.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

HOST = "127.0.0.1"
SMALL = "/1k"
SMALL_SIZE = 1024
LARGE = "/512m"
LARGE_SIZE = 512 * 1024 * 1024
BUFFER_SIZE = 256 * 1024

#: Pipelined requests are counted in batches, so that counting them costs next to nothing: at most
#: `BATCHES` times `BATCH` requests are unanswered.
BATCH = 64
BATCHES = 4


class Server(NamedTuple):
    """Where the server listens; `ca_file` is the authority that its certificate is from."""

    port: int
    tls_port: int
    ca_file: str

    def tls_context(self) -> ssl.SSLContext:
        """Return the context that every client uses for TLS."""
        return ssl.create_default_context(cafile=self.ca_file)


#: Performs a round of so many requests (or of so many bodies).
Round = Callable[[int], None]


def main(works: dict[str, Callable[[Server], Round]]) -> None:
    """Serve the *works* of one client: each makes its connection and returns its `Round`."""
    port, tls_port, ca_file = sys.argv[1:]
    server = Server(int(port), int(tls_port), ca_file)
    rounds: dict[str, Round] = {}
    for line in sys.stdin:
        name, count = line.split()
        if name not in rounds:
            rounds[name] = works[name](server)
        cpu, wall = time.process_time(), time.perf_counter()
        rounds[name](int(count))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)


def check(status: int, size: int) -> None:
    """Raise unless a small answer is what it should be."""
    if status != 200 or size != SMALL_SIZE:
        raise AssertionError(f"expected 200 with {SMALL_SIZE} bytes, got {status} with {size}")


def in_two_threads(send: Callable[[], object], receive: Callable[[], object], count: int) -> None:
    """Call *send* and *receive*, each for one batch, in two threads until *count* were answered.

    Each batch of answers makes room for a batch of requests.
    """
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(BATCHES):
        room.put(None)

    def sender() -> None:
        for _ in range(count // BATCH):
            room.get()
            send()

    thread = Thread(target=sender, daemon=True)
    thread.start()
    for _ in range(count // BATCH):
        receive()
        room.put(None)
    thread.join()
