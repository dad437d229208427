"""The end of a pool: every future ends, every connection is closed, and the threads end.

Guarantees: whatever interrupts the thread that closes a pool, however often, nothing is left
undone; what waits for a request of the pool is woken. Nothing waits longer than `CLOSE_TIME`.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from dugong.deadline import Deadline
from dugong.errors import Delivery, PoolClosed
from dugong.pool.core.maintenance import SLICE as _SLICE

if TYPE_CHECKING:
    from dugong.pool.core.connections import ConnectionManager
    from dugong.pool.core.core import PoolCore
    from dugong.pool.core.host import Host
    from dugong.pool.core.maintenance import Maintenance
    from dugong.pool.core.retries import RetryEngine

__all__ = ["Shutdown"]

#: Seconds that `close` waits for threads, which name resolution or a caller's body may hold up.
CLOSE_TIME = 5.0


class Shutdown:
    """What ends everything in a pool."""

    def __init__(
        self,
        core: PoolCore,
        maintenance: Maintenance,
        retries: RetryEngine,
        connections: ConnectionManager,
    ) -> None:
        # None of these ever changes.
        self._core = core
        self._maintenance = maintenance
        self._retries = retries
        self._connections = connections

    def close(self, wait: bool = True) -> None:
        """End everything; every future ends. With *wait*, see the threads end, if they do.

        The maintenance thread does the work, so that an interrupt of the caller leaves none undone.
        """
        core = self._core
        if core.is_locked_here():
            self._maintenance.do_later(partial(self.close, wait=False))
            return
        if sys.is_finalizing():  # the threads have been stopped, and the sockets are closed soon
            core.closed = True
            return
        core.protect(self._close, self._close_elsewhere, wait)

    def _close(self, wait: bool) -> None:
        core = self._core
        with core.transaction():
            core.closed = True
            core.tell_of_room_locked()
            is_maintained = self._maintenance.is_running
        self._maintenance.wake()
        if not is_maintained:
            self.fail_everything()
        if wait and not core.threads.is_own():
            self._see_threads_end()

    def _close_elsewhere(self, wait: bool) -> None:
        """Go on with what was interrupted, without a wait."""
        self._close(wait=False)
        if wait:
            self._core.threads.start(self._be_closer, "dugong-close", lambda error: None)

    def _be_closer(self) -> None:
        """See the threads end in place of a caller, unless another thread does: one is enough.

        Two of them would wait for each other.
        """
        with self._core.transaction():
            if self._core.has_closer:
                return
            self._core.has_closer = True
        self._see_threads_end()

    def _see_threads_end(self) -> None:
        """Wait for all other threads of the pool that is closed; fail what those keep that stay."""
        core = self._core
        core.threads.join(Deadline(CLOSE_TIME))
        self._fail_what_is_late()
        core.threads.close()

    def fail_everything(self) -> None:
        """Fail all requests and close all connections; the pool is closed."""
        core = self._core
        with core.transaction():
            hosts = list(core.hosts.values())
            for host in hosts:
                for connection in list(host.connections):
                    self._connections.fail_locked(connection, PoolClosed())
        for host in hosts:
            while self._fail_some_queued(host):
                time.sleep(0)  # let others have the lock
        while self._fail_some_waiting():
            time.sleep(0)
        core.callbacks.close()
        core.readers.close()

    def _fail_some_queued(self, host: Host) -> bool:
        """Fail some of the requests of a closed pool; return False if there are none left."""
        with self._core.transaction():
            count = host.end_some(_SLICE, self._retries.close_locked)
            self._core.queued -= count
        return count > 0

    def _fail_some_waiting(self) -> bool:
        with self._core.transaction():
            return self._retries.fail_some_waiting_locked(_SLICE)

    def _fail_what_is_late(self) -> None:
        """Fail the requests of connections whose threads do not end."""
        with self._core.transaction():
            for host in self._core.hosts.values():
                for connection in host.connections:
                    late = connection.uploading
                    upload = None if late is None else late.extras.upload
                    response = None if upload is None else upload.pending_response
                    if late is not None and response is not None and not late.is_decided:
                        if response.status >= 300:
                            self._retries.complete_locked(late, response, final=True)
                        else:  # which says nothing of the rest of the body
                            self._retries.close_locked(late, Delivery.PARTLY_SENT)
                    for job in list(connection.in_flight):
                        if not job.is_decided:
                            delivery = self._connections.delivery_locked(connection, job)
                            self._retries.close_locked(job, delivery)
