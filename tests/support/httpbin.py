"""httpbin, a server that was not written by us."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

__all__ = ["open_httpbin"]

_SERVER = """
from werkzeug.serving import make_server
from httpbin import app
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


@contextmanager
def open_httpbin() -> Iterator[str]:
    """Run httpbin, and yield its URL. The test is skipped if it is not installed."""
    pytest.importorskip("httpbin")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONDEVMODE": ""},
    ) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()
