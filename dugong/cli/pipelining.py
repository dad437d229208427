"""GET requests that one thread sends while another thread reads the responses.

Guarantees: the sending thread has ended when the iterator of `pipelined` is closed or exhausted.
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

    The caller reads the response to a target, with all of its body, before it takes the next
    target. The first request is sent alone; each response allows one more request in flight, up
    to *max_depth*. An exception of `HTTPConnection.send_request` is raised after the responses to
    the requests before it have been read. Closing the iterator early disconnects *conn*. No other
    thread may use *conn* meanwhile.
    """
    window = threading.Semaphore(1)  # how many more requests may be sent now
    outcomes: SimpleQueue[Exception | None] = SimpleQueue()  # of each send_request, in order
    closed = threading.Event()

    def send() -> None:
        try:
            for target in targets:
                window.acquire()  # ended by a response, or when the iterator is closed
                if closed.is_set():
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
            failure = outcomes.get()  # ended by the sender, which may send as the window is open
            if failure is not None:
                raise failure
            yield target
            if depth < max_depth:
                depth += 1
                window.release()
            window.release()
    except BaseException:
        closed.set()
        window.release()
        # The sender may be about to send, and would connect again. The second disconnect() below
        # closes that connection.
        conn.disconnect()
        sender.join()
        conn.disconnect()
        raise
    sender.join()
