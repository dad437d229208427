"""The sender: it connects, lets go of what it has sent, and knows whose fault a failure is."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import weakref
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dugong import ConnectionPool, Delivery, ProxyError
from dugong.pool import sender
from dugong.pool.scheduler import Scheduler
from tests.support.pool import OpenSite, discard_rest, each, name_target, open_site, url, wait_for
from tests.support.server import TIMEOUT, Peer, ReceivedRequest, ScriptedServer

# --- files ----------------------------------------------------------------------------------------


def test_the_descriptor_of_a_file_that_was_closed_is_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives the number of a closed descriptor to the next file that is opened."""
    monkeypatch.setattr(sender, "_FILE_PIECE", 1000)
    (tmp_path / "ours").write_bytes(b"o" * 3000)
    (tmp_path / "secret").write_bytes(b"s" * 3000)
    received = []

    def script(peer: Peer) -> None:
        peer.head()
        received.append(peer.until_eof())

    sendfile = os.sendfile

    with (tmp_path / "ours").open("rb") as ours, open_site(script, each(name_target)) as here:

        def then_closing(out: int, source: int, offset: int, count: int) -> int:
            sent = sendfile(out, source, offset, count)
            if not ours.closed:
                ours.close()
                secrets.append((tmp_path / "secret").open("rb"))
                assert secrets[0].fileno() == source
            return sent

        secrets: list[object] = []
        monkeypatch.setattr(os, "sendfile", then_closing)
        with pytest.raises(ValueError, match="closed"):
            here.pool.put(here.url(), ours)
        secrets[0].close()  # type: ignore[attr-defined]
        assert here.goes_on()
    assert received == [b"o" * 1000]


def test_a_file_that_is_closed_while_the_server_does_not_read_is_not_read_further(
    tmp_path: Path,
) -> None:
    """The sender waits within a step then, and takes the next one with the old descriptor."""
    full, read_on = threading.Event(), threading.Event()
    received = []

    def script(peer: Peer) -> None:
        head = peer.head()
        wait_for(read_on)
        with pytest.raises((EOFError, ConnectionResetError)):
            while True:
                received.append(peer.exactly(65536).strip(b"o"))
        assert "content-length" in head.headers

    class Full(threading.Event):
        pass

    path = tmp_path / "ours"
    path.touch()
    os.truncate(path, 1 << 30)  # sparse
    with path.open("rb") as ours, open_site(script, each(name_target)) as here:
        from dugong.connection.transport import PlainTransport

        send_file = PlainTransport.send_file

        def noting(self: PlainTransport, fd: int, offset: int, count: int) -> object:
            sent = send_file(self, fd, offset, count)
            if not isinstance(sent, int):
                full.set()
            return sent

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PlainTransport, "send_file", noting)
            future = here.pool.submit("PUT", here.url(), body=ours)
            wait_for(full)
            ours.close()
            read_on.set()
            with pytest.raises(ValueError, match="closed"):
                future.result()
        assert here.goes_on()
