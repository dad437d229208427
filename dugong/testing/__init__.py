"""For the tests of programs that use dugong. Nothing else of dugong imports it.

mock.py         MockPool: a pool without a network
messages.py     what such a pool is asked, and what it responds
engine.py       the engine of its connections
server.py       Server: a scripted server on the loopback interface
"""

from dugong.testing.messages import MockRequest, MockResponse, failed
from dugong.testing.mock import MockPool
from dugong.testing.server import Peer, ReceivedRequest, Server

__all__ = [
    "MockPool",
    "MockRequest",
    "MockResponse",
    "Peer",
    "ReceivedRequest",
    "Server",
    "failed",
]
