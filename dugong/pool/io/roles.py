"""The threads of a connection: each is its sender or its receiver, and may become the other.

Guarantees: a connection has one sender and one receiver at most. One thread is both in turns where
that is safe; it needs a second one to send and to receive at the same time.
"""

from __future__ import annotations

from threading import current_thread
from typing import TYPE_CHECKING

from dugong.pool.io import receiver, sender

if TYPE_CHECKING:
    from dugong.pool.core.connection import PooledConnection
    from dugong.pool.core.traffic import Traffic

__all__ = ["run_receiver", "run_sender"]


def run_sender(traffic: Traffic, connection: PooledConnection) -> None:
    """Be the sender of *connection*, which connects it first unless that was done before."""
    try:
        if not traffic.begin_sending(connection):
            return
    except BaseException as exc:
        traffic.faults.crashed_before(connection, exc)
        return
    try:
        if not connection.was_open:
            try:
                connection.engine.connect(traffic.limits.timeout)
            except Exception as failed:
                traffic.connect_failed(connection, failed)
                return
            traffic.connected(connection)
    except BaseException as exc:
        traffic.faults.crashed(connection, exc, True)
        return
    _take_turns(traffic, connection, is_sender=True)


def run_receiver(traffic: Traffic, connection: PooledConnection) -> None:
    """Be the receiver of *connection*."""
    _take_turns(traffic, connection, is_sender=False)


def _take_turns(traffic: Traffic, connection: PooledConnection, is_sender: bool) -> None:
    try:
        while (sender.run if is_sender else receiver.run)(traffic, connection):
            is_sender = not is_sender
            role = "send" if is_sender else "recv"
            current_thread().name = f"dugong-{connection.name}-{role}"
    except BaseException as exc:
        traffic.faults.crashed(connection, exc, is_sender)
