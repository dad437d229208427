"""`python -m dugong demo`: what pipelining and 100-continue gain when the server is 20 ms away.

Guarantees: the SHA-256 of every body is compared with the one that is computed here; the exit
status is 0 only if all checks succeed. The server is a process that ends with this one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from time import perf_counter
from typing import TypeVar

from dugong import BodyFollowing, ConnectionPool, DugongError, HTTPConnection
from dugong.cli import streams
from dugong.cli.demo_server import DELAY, MAX_UPLOAD, content
from dugong.cli.pipelining import pipelined

__all__ = ["CheckFailed", "demo", "demo_server", "run"]

OBJECTS = 500
CONNECTIONS = 6
_TIMEOUT = 30.0
_PIECE = 64 * 1024
_UPLOAD = 1024 * 1024
_ROW = "{:<36}{:>6}{:>14}{:>10}"

_Client = TypeVar("_Client", HTTPConnection, ConnectionPool)


class CheckFailed(Exception):
    """A status, a body or a count differs from what the demo expects."""


def demo(objects: int = OBJECTS) -> int:
    """Start the server and run everything against it; return the exit status."""
    with demo_server() as (host, port):
        return run(host, port, objects)


@contextmanager
def demo_server() -> Iterator[tuple[str, int]]:
    """Run a server process while the block runs; give its address."""
    command = [sys.executable, "-m", "dugong.cli.demo_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline()
            if not port:
                raise OSError("the server of the demo has not started")
            yield "127.0.0.1", int(port)
        finally:
            process.stdin.close()  # this ends the server
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def run(host: str, port: int, objects: int) -> int:
    """Run all steps against the server at *host* and *port*; return the exit status.

    Writes a table to standard output; raises `streams.StreamError` if that fails.
    """
    digests = {f"/objects/{i}": _sha256(content(str(i))) for i in range(objects)}
    failures: list[str] = []

    def connection() -> HTTPConnection:
        conn = HTTPConnection(host, port)
        conn.timeout = _TIMEOUT
        return conn

    def timed(
        what: str, how_many: int, client: _Client, do: Callable[[_Client], int]
    ) -> tuple[str, float]:
        with client:
            start = perf_counter()
            try:
                size = f"{do(client) / 1024:,.0f} KiB"
            except (CheckFailed, DugongError, OSError) as exc:
                failures.append(f"{what}: {exc}")
                size = "FAILED"
            seconds = perf_counter() - start
        return _ROW.format(what, how_many, size, f"{seconds:.2f} s"), seconds

    write = streams.write_output
    write(f"The server at {host}:{port} responds after {DELAY * 1000:.0f} ms.\n")
    write(_ROW.format("what", "count", "bodies", "time"))
    row, slow = timed("GET, one at a time", objects, connection(), lambda c: one_by_one(c, digests))
    write(row)
    row, fast = timed("GET, pipelined", objects, connection(), lambda c: all_pipelined(c, digests))
    write(row if failures else f"{row}   {slow / fast:.0f}x as fast")
    pool = ConnectionPool(max_connections_per_host=CONNECTIONS, timeout=_TIMEOUT)
    what = f"GET, a pool of {CONNECTIONS} connections"
    row, fast = timed(what, objects, pool, lambda p: pooled(p, f"http://{host}:{port}", digests))
    write(row if failures else f"{row}   {slow / fast:.0f}x as fast")
    write(timed("upload accepted after 100-continue", 1, connection(), accepted_upload)[0])
    write(timed("upload refused before its body", 1, connection(), refused_upload)[0] + "\n")
    for failure in failures:
        write(f"FAILED: {failure}")
    if not failures:
        write("Every body had the expected SHA-256. No body was sent that the server had refused.")
    return 1 if failures else 0


def one_by_one(conn: HTTPConnection, digests: Mapping[str, str]) -> int:
    """GET each target of *digests* after the response to the one before; return their total size.

    Raises `CheckFailed` if the SHA-256 of a body is not the one in *digests*.
    """
    size = 0
    for target, digest in digests.items():
        conn.send_request("GET", target)
        size += _check_response(conn, target, digest)
    return size


def all_pipelined(conn: HTTPConnection, digests: Mapping[str, str]) -> int:
    """Do the same, with a second thread that sends while this one receives."""
    size = 0
    with closing(pipelined(conn, list(digests))) as sent:
        for target in sent:
            size += _check_response(conn, target, digests[target])
    return size


def pooled(pool: ConnectionPool, origin: str, digests: Mapping[str, str]) -> int:
    """Do the same over *pool*, which has several connections and pipelines on each."""
    size = 0
    for response in pool.map(origin + target for target in digests):
        target = response.request.target
        size += _check(target, response.status, response.body, digests[target])
    return size


def accepted_upload(conn: HTTPConnection) -> int:
    """Upload with "Expect: 100-continue"; return the size. Raises `CheckFailed`."""
    body = memoryview(hashlib.shake_256(b"upload").digest(_UPLOAD))
    conn.send_request("PUT", "/uploads/1", body=BodyFollowing(len(body)), expect100=True)
    _expect(conn.read_response().status, 100, "status before the body")
    for start in range(0, len(body), _PIECE):
        conn.write(body[start : start + _PIECE])
    _expect(conn.read_response().status, 201, "status")
    _expect(conn.readall().decode("latin-1"), _sha256(body), "SHA-256 that the server found")
    return len(body)


def refused_upload(conn: HTTPConnection) -> int:
    """Begin an upload that the server refuses, and send no body; return 0.

    Raises `CheckFailed`, also if the server received a part of the body.
    """
    conn.send_request("PUT", "/uploads/2", body=BodyFollowing(MAX_UPLOAD + 1), expect100=True)
    _expect(conn.read_response().status, 413, "status before the body")
    conn.discard()
    conn.send_request("GET", "/uploads/unasked")
    _expect(conn.read_response().status, 200, "status of the next request")
    _expect(conn.readall(), b"0", "number of bytes sent after the refusal")
    return 0


def _check_response(conn: HTTPConnection, target: str, digest: str) -> int:
    status = conn.read_response().status
    return _check(target, status, conn.readall(), digest)


def _check(target: str, status: int, body: bytes, digest: str) -> int:
    _expect(status, 200, f"{target}: status")
    _expect(_sha256(body), digest, f"{target}: SHA-256")
    return len(body)


def _expect(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise CheckFailed(f"{what} is {actual}, not {expected}")


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
