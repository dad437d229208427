"""HTTPConnection: requests and answers over one connection, blocking."""

from __future__ import annotations

from dugong import HTTPConnection
from tests.support.server import Peer, ScriptedServer


def test_an_answer_belongs_to_its_request() -> None:
    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.answer(peer.request().target.encode())

    with ScriptedServer(script) as server, HTTPConnection(*server.address) as conn:
        for path in ("/a", "/b"):
            conn.send_request("GET", path)
            response = conn.read_response()
            assert (response.method, response.path, response.status) == ("GET", path, 200)
            assert conn.readall() == path.encode()
