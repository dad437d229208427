"""The server of the demo."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter

import pytest

from dugong import BodyFollowing, HTTPConnection
from dugong.cli.demo import demo_server
from dugong.cli.demo_server import DELAY, MAX_UPLOAD, content


@pytest.fixture
def conn() -> Iterator[HTTPConnection]:
    with demo_server() as address, HTTPConnection(*address) as conn:
        conn.timeout = 10
        yield conn


def test_objects_are_always_the_same_and_of_all_sizes() -> None:
    objects = [content(str(i)) for i in range(500)]
    assert objects == [content(str(i)) for i in range(500)]
    assert len(set(objects)) > 450  # some are empty
    sizes = [len(body) for body in objects]
    assert min(sizes) < 10
    assert 90 * 1024 < max(sizes) <= 100 * 1024


def test_an_object_is_served(conn: HTTPConnection) -> None:
    conn.send_request("GET", "/objects/x")
    assert conn.read_response().status == 200
    assert conn.readall() == content("x")


def test_a_response_leaves_after_the_delay(conn: HTTPConnection) -> None:
    conn.connect()
    start = perf_counter()
    conn.send_request("GET", "/objects/x")
    conn.read_response()
    assert perf_counter() - start >= DELAY
    conn.discard()


def test_pipelined_requests_wait_at_the_same_time(conn: HTTPConnection) -> None:
    start = perf_counter()
    for i in range(100):
        conn.send_request("GET", f"/objects/{i}")
    for i in range(100):
        conn.read_response()
        assert conn.readall() == content(str(i))
    assert perf_counter() - start < 50 * DELAY


def test_an_upload_is_digested(conn: HTTPConnection) -> None:
    conn.send_request("PUT", "/uploads/1", body=BodyFollowing(10), expect100=True)
    assert conn.read_response().status == 100
    conn.write(b"0123456789")
    assert conn.read_response().status == 201
    assert conn.readall().decode() == hashlib.sha256(b"0123456789").hexdigest()


def test_an_upload_that_is_too_large_is_refused(conn: HTTPConnection) -> None:
    conn.send_request("PUT", "/uploads/1", body=BodyFollowing(MAX_UPLOAD + 1), expect100=True)
    assert conn.read_response().status == 413


def test_what_is_sent_after_a_refusal_is_counted(conn: HTTPConnection) -> None:
    head = f"PUT /uploads/1 HTTP/1.1\r\nContent-Length: {MAX_UPLOAD + 1}\r\n"
    with socket.create_connection((conn.hostname, conn.port)) as sock:
        sock.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n12345")
        assert sock.recv(100).startswith(b"HTTP/1.1 413 ")
    conn.send_request("GET", "/uploads/unasked")
    conn.read_response()
    assert conn.readall() == b"5"


def test_other_requests_are_not_found(conn: HTTPConnection) -> None:
    conn.send_request("GET", "/")
    assert conn.read_response().status == 404


def test_it_ends_when_its_parent_goes() -> None:
    command = [sys.executable, "-m", "dugong.cli.demo_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        process.stdin.close()  # as the system does when a process ends
        assert process.wait(10) == 0
