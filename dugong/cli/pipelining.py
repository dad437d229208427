"""GET requests sent by a thread of their own, ahead of the thread that reads the answers.

Guarantees: the thread has ended when the iterator of `pipelined` is closed or exhausted.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from queue import SimpleQueue

from dugong import HTTPConnection

__all__ = ["MAX_DEPTH", "pipelined"]

MAX_DEPTH = 64


def pipelined(
    conn: HTTPConnection, targets: Sequence[str], max_depth: int = MAX_DEPTH
) -> Generator[str, None, None]:
    """Send a GET for each of *targets* over *conn*; yield each target once it has been sent.

    The caller reads the answer to a target, with all of its body, before it asks for the next.
    The first request goes alone; with every answer one more may be in flight, up to *max_depth*.
    Raises what `HTTPConnection.send_request` did, after the answers that were due before it.
    Closing the iterator early ends the connection. Without threads of others on *conn*.
    """
    window = threading.Semaphore(1)  # how many more requests may be sent now
    outcomes: SimpleQueue[Exception | None] = SimpleQueue()  # of each send_request, in order
    given_up = threading.Event()

    def send() -> None:
        try:
            for target in targets:
                window.acquire()  # ended by an answer, or by giving up
                if given_up.is_set():
                    return
                conn.send_request("GET", target)
                outcomes.put(None)
        except Exception as exc:
            outcomes.put(exc)

    sender = threading.Thread(target=send, name=f"{conn.hostname}:{conn.port}-send", daemon=True)
    sender.start()
    depth = 1
    try:
        for target in targets:
            failure = outcomes.get()  # ended by the sender: all that it waits for has been read
            if failure is not None:
                raise failure
            yield target
            if depth < max_depth:
                depth += 1
                window.release()
            window.release()
    except BaseException:
        given_up.set()
        window.release()
        # The sender may be about to send, and would connect again: that costs a request that
        # nobody reads, and is undone below.
        conn.disconnect()
        sender.join()
        conn.disconnect()
        raise
    sender.join()
