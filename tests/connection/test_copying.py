"""A transport that shows what goes over another one."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from dugong.connection.copying import CopyingTransport
from dugong.connection.polling import PollNeeded
from dugong.connection.transport import PlainTransport, Transport
from dugong.errors import ConnectionClosed


class Shown(CopyingTransport):
    """Keeps what it is shown."""

    __slots__ = ("received", "sent")

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.sent = b""
        self.received = b""

    def note_sent(self, data: memoryview) -> None:
        self.sent += data

    def note_received(self, data: memoryview) -> None:
        self.received += data


@pytest.fixture
def ends() -> Iterator[tuple[Shown, socket.socket]]:
    """A transport, and the socket of its peer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Shown(PlainTransport(ours)), theirs


def test_what_was_sent_and_received_is_shown_once(ends: tuple[Shown, socket.socket]) -> None:
    transport, peer = ends
    assert transport.send(b"ping") == 4
    peer.sendall(b"pong, and more")
    view = memoryview(bytearray(4))
    transport.block_timeout = 5
    while isinstance(transport.recv_into(view), PollNeeded):
        pass
    assert (transport.sent, transport.received) == (b"ping", b"pong")
    assert bytes(view) == b"pong"


def test_what_was_not_sent_is_not_shown(ends: tuple[Shown, socket.socket]) -> None:
    transport, peer = ends
    sent, piece = 0, bytes(range(256)) * 4096
    while isinstance(step := transport.send(piece[sent % 256 :]), int):
        sent += step
    assert isinstance(step, PollNeeded)
    assert len(transport.sent) == sent
    peer.close()
    with pytest.raises(ConnectionClosed):
        transport.send(b"more")
    assert len(transport.sent) == sent


def test_the_end_shows_nothing(ends: tuple[Shown, socket.socket]) -> None:
    transport, peer = ends
    peer.close()
    transport.block_timeout = 5
    assert transport.recv_into(memoryview(bytearray(4))) == 0
    assert transport.received == b""


def test_no_file_is_sent_unseen(ends: tuple[Shown, socket.socket]) -> None:
    transport, _ = ends
    assert not transport.can_send_files
    with open(__file__, "rb") as file, pytest.raises(io.UnsupportedOperation):
        transport.send_file(file.fileno(), 0, 4)


@pytest.mark.parametrize("end", ["shutdown", "close", "drop"])
def test_its_end_is_that_of_what_it_shows(ends: tuple[Shown, socket.socket], end: str) -> None:
    transport, peer = ends
    assert transport.is_quiet()
    getattr(transport, end)()
    assert transport.is_shut
    assert not transport.is_quiet()
    peer.settimeout(5)
    assert peer.recv(1) == b""


def test_what_only_the_inner_one_knows_is_asked_of_it(ends: tuple[Shown, Any]) -> None:
    transport, _ = ends
    assert (transport.ssl_object, transport.refusal, transport.on_its_way) == (None, None, 0)
