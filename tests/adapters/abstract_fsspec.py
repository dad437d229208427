"""fsspec's abstract tests of getting files, for a file system that can only be read.

`judge_fsspec` runs them; they are not collected otherwise. The trees of files that they get are
made in a folder, which a server of the standard library lists and serves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests import abstract


class _Handler(SimpleHTTPRequestHandler):
    """Takes files, too, with all folders above them."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        path = Path(self.translate_path(self.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self._respond(201)

    def do_DELETE(self) -> None:
        Path(self.translate_path(self.path)).unlink()
        self._respond(204)

    def _respond(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


class ReadOnly(abstract.AbstractFixtures):
    """What the tests use: a folder, and the same seen through HTTP."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "served"
        folder.mkdir()
        return folder

    @pytest.fixture
    def fs_path(self, folder: Path) -> Iterator[str]:
        handler = partial(_Handler, directory=str(folder))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    @pytest.fixture
    def fs(self) -> Any:
        return fsspec.filesystem("http", skip_instance_cache=True)

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)

    def _served(self, make: Callable[..., str], folder: Path, fs_path: str) -> str:
        local = LocalFileSystem(auto_mkdir=True)
        return fs_path + make(local, os.path.join, str(folder)).removeprefix(str(folder))

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, folder: Path, fs_path: str) -> str:
        return self._served(self._bulk_operations_scenario_0, folder, fs_path)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, folder: Path, fs_path: str) -> str:
        return self._served(self._glob_edge_cases_files, folder, fs_path)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, folder: Path, fs_path: str) -> str:
        return self._served(self._dir_and_file_with_same_name_prefix, folder, fs_path)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, folder: Path, fs_path: str) -> str:
        return self._served(self._10_files_with_hashed_names, folder, fs_path)


class TestGet(abstract.AbstractGetTests, ReadOnly):
    """Only these: all others make and remove directories, of which HTTP knows nothing."""
