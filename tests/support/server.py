"""The scripted server of `dugong.testing`, under the name that these tests have for it."""

from __future__ import annotations

from dugong.testing.server import TIMEOUT, Peer, ReceivedRequest, Script
from dugong.testing.server import Server as ScriptedServer

__all__ = ["TIMEOUT", "Peer", "ReceivedRequest", "Script", "ScriptedServer"]
