"""The process that a client runs in: performs rounds on command and says what each of them cost.

Called as ``python -m clients.NAME SERVER``, where SERVER is a `Server` in JSON. A line ``WORK
COUNT`` on standard input asks for a round; the reply is a line of JSON, which `Cost` describes.
The end of the input ends the process. Everything but the requests themselves (imports, connections,
a first request) happens before the clocks are read, in rounds that `compare.run` throws away.
"""

from __future__ import annotations

import json
import resource
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple, TypeVar

T = TypeVar("T")

HOST = "127.0.0.1"
SMALL = "/1k"
SMALL_SIZE = 1024
#: What begins with this is `SMALL`, too, under any name.
ROUND_FILES = "/files/"
MEDIUM = "/64k"
MEDIUM_SIZE = 64 * 1024
#: Bytes a second of the line at `Server.line_port`.
LINE_RATE = 25_000_000
PAGE = "/page.html"
LARGE = "/512m"
LARGE_SIZE = 512 * 1024 * 1024
BUFFER_SIZE = 256 * 1024
#: All files are objects in this, too.
BUCKET = "bucket"
#: What the servers of S3 know.
S3_KEY, S3_SECRET, S3_REGION = "key", "secret", "us-east-1"
#: Directories in `Server.scratch`, with the files that are stored.
S3_SMALL, S3_LARGE = "s3-small", "s3-large"
S3_SMALL_COUNT, S3_SMALL_SIZE = 2000, 4096
S3_LARGE_COUNT, S3_LARGE_SIZE = 4, 64 * 1024 * 1024

#: What is served as `PAGE`: 30 paragraphs with a link each.
PAGE_TEXT = (
    "<!DOCTYPE html>\n<html><head><title>A page</title></head><body>\n{}</body></html>\n".format(
        "".join(
            f'<p class="entry">Entry <a href="/entry/{n}">{n}</a> &amp; more.</p>\n'
            for n in range(30)
        )
    )
)

CODED = "/coded"
#: What is served as `CODED`, with gzip: 16 KiB of text, which become 3 KiB.
CODED_TEXT = "".join(
    f"<tr><td>{n * 7919 % 104729}</td><td>{n * n % 9973}</td></tr>\n" for n in range(450)
).encode()[: 16 * 1024]

#: No round has more requests.
MOST = 100_000

#: Where nginx listens besides `HOST`, on the same port: a host of its own each.
ORIGINS = [f"127.1.{number // 100}.{number % 100 + 1}" for number in range(301)]
#: Those where the sites are that are crawled (see `clients.sites`), on `Server.far_port`, too.
SITES = ORIGINS[:50]

#: Threads of a client that is measured as it is and with dugong.
THREADS = 16

#: Pipelined requests are counted in batches, so that counting them costs next to nothing: at most
#: `BATCHES` times `BATCH` requests are outstanding.
BATCH = 64
BATCHES = 4


class Server(NamedTuple):
    """Where the servers listen, and two files.

    *port* and *tls_port* are nginx's, and *far_port* and *far_h2_port* (HTTP/2) lead to it, too,
    40 ms away, *farther_port* and *farther_h2_port* 100 ms, and *line_port* 40 ms over a line;
    *ca_file* is the authority that its certificate is from, *large_file* is what it serves as
    `LARGE`. *scratch* is a directory for the files of clients. *s3_port* and *s3_filer_port* are
    SeaweedFS's, if it is needed.
    """

    port: int
    tls_port: int
    far_port: int
    far_h2_port: int
    farther_port: int
    farther_h2_port: int
    line_port: int
    sink_port: int
    tls_sink_port: int
    s3_sink_port: int
    s3_port: int
    s3_filer_port: int
    ca_file: str
    large_file: str
    scratch: str

    def tls_context(self) -> ssl.SSLContext:
        """Return the context that every client uses for TLS."""
        return ssl.create_default_context(cafile=self.ca_file)


class Cost(NamedTuple):
    """What a round took: seconds by the clock, and of CPU (user and system, all threads).

    Processes that were started and have ended in the round are part of that.

    *memory* is by how much the process has grown since before its first round, in bytes; *peak* is
    by how much it had while the round went on.
    """

    wall: float
    cpu: float
    memory: int
    peak: int


#: Performs a round of so many requests (or of so many bodies). If it has a method *prepare*, that
#: is called before, with the same.
Round = Callable[[int], None]


#: Makes the connection of a client, and returns its `Round`.
Work = Callable[[Server], Round]


def near_and_far(
    name: str, plain: Callable[[], T], adapted: Callable[[], T], perform: Callable[[T, int], Round]
) -> dict[str, Work]:
    """Return the works of the library *name*: as it is and with dugong, near and 40 ms away.

    *perform* is called with what *plain* or *adapted* makes, and with the port of nginx.
    """

    def work(make: Callable[[], T], is_far: bool) -> Work:
        return lambda server: perform(make(), server.far_port if is_far else server.port)

    return {
        name: work(plain, False),
        f"{name}-dugong": work(adapted, False),
        f"{name}-far": work(plain, True),
        f"{name}-far-dugong": work(adapted, True),
    }


def main(works: dict[str, Work]) -> None:
    """Serve the *works* of one client: each makes its connection and returns its `Round`."""
    server = Server(**json.loads(sys.argv[1]))
    rounds: dict[str, tuple[Round, int]] = {}
    for line in sys.stdin:
        name, count = line.split()
        if name not in rounds:
            rounds[name] = works[name](server), _resident()
        perform, before = rounds[name]
        cost = _cost(perform, int(count), before)
        print(json.dumps(cost._asdict()), flush=True)


def _cost(perform: Round, count: int, before: int) -> Cost:
    prepare = getattr(perform, "prepare", None)
    if prepare is not None:
        prepare(count)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak counts from now on
    cpu, wall = _cpu_time(), time.perf_counter()
    perform(count)
    wall, cpu = time.perf_counter() - wall, _cpu_time() - cpu
    return Cost(wall, cpu, _resident() - before, _kibibytes("status", "VmHWM:") - before)


def _cpu_time() -> float:
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + of_children.ru_utime + of_children.ru_stime


def _resident() -> int:
    """Return how much memory this process has, in bytes (`status` is not as exact)."""
    return _kibibytes("smaps_rollup", "Rss:")


def _kibibytes(name: str, key: str) -> int:
    """Return, in bytes, what the file called *name* gives as *key*."""
    with open(f"/proc/self/{name}") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def small_urls(port: int, path: str = SMALL, scheme: str = "http") -> list[str]:
    """Return `MOST` different URLs of a file, so that a cache of URLs does not help."""
    return [f"{scheme}://{HOST}:{port}{path}?{number}" for number in range(MOST)]


def check(status: int, size: int, expected: int = SMALL_SIZE) -> None:
    """Raise an exception unless a response is 200 and has the *expected* size."""
    if status != 200 or size != expected:
        raise AssertionError(f"expected 200 with {expected} bytes, got {status} with {size}")


def in_threads(get: Callable[[str], object], urls: list[str], count: int = 8) -> None:
    """Call *get* for each of the *urls* in *count* threads."""
    waiting = iter(urls)

    def work() -> None:
        for url in waiting:
            get(url)

    with ThreadPoolExecutor(count) as executor:
        for future in [executor.submit(work) for _ in range(count)]:
            future.result()


def in_two_threads(send: Callable[[], object], receive: Callable[[], object], count: int) -> None:
    """Call *send* and *receive*, each for one batch, in two threads until *count* responses came.

    Each batch of responses makes room for a batch of requests.
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
