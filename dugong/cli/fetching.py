"""Downloads over a client, into files.

Guarantees: each download ends once, with a complete file or with an error, and leaves no partial
file, unless it is told to. Memory does not depend on the size or the number of the bodies: what is
under way is what `Supply` allows for `MEMORY` bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from dugong.cli.download import Download, Fetching, check_status
from dugong.cli.settings import describe, make_client
from dugong.cli.sources import Urls
from dugong.cli.streams import StreamError
from dugong.cli.workers import Workers
from dugong.client.part import Part, save
from dugong.errors import ConnectionTimedOut, DugongError, ResponseTooLarge
from dugong.pool.future import ResponseFuture
from dugong.pool.many import Supply, sizes_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dugong.client.client import Client
    from dugong.pool.response import Response

    # What ends: a future, a download that needs none, or None if URLs have come.
    _Event = Future[Response] | Download | None

__all__ = ["fetch"]

MEMORY = 64 * 1024 * 1024  # bytes of small bodies that are under way

#: Bytes. A body up to this size is received into memory, so that its request can be pipelined. If
#: the response head or the bytes received show that the body is larger, the request is made again
#: and the body streamed. That costs a new connection only: the pool does not pipeline requests
#: behind a body of this size.
SMALL = 256 * 1024

_STREAMS = 8  # threads, each of which receives one large body; more if there are more connections
_BATCH = 64  # downloads that are yielded at once


def fetch(
    urls: Urls, plan: Callable[[str], Download], fetching: Fetching
) -> Generator[list[Download], None, None]:
    """Fetch what *plan* makes of each of *urls*, and yield some when they have ended.

    Closing the generator cancels the downloads that have not ended; they get neither a file nor an
    error. Raises what *urls* raise, and `StreamError` if they have no end before the deadline, once
    all that came before has ended, and what `make_client` raises.
    """
    settings = fetching.settings
    client = make_client(settings, SMALL)
    events: SimpleQueue[_Event] = SimpleQueue()
    streams = max(settings.connections, _STREAMS)
    # `with` closes the client first, which ends the streams; then their threads can be waited for.
    with (
        Workers(streams, "dugong-get", partial(_receive, client, fetching, events.put)) as workers,
        client,
    ):
        run = _Run(client, fetching, workers, events)
        urls.notify(partial(events.put, None))
        yield from run.batches(urls, plan)


def _receive(
    client: Client, fetching: Fetching, tell: Callable[[Download], None], download: Download
) -> None:
    """Receive *download*, whose body may be large, into its file as it comes."""
    from dugong.client.download import FileReceiver  # which most runs do not need

    transfer = fetching.tally.begin(download.text)
    try:
        receiver = FileReceiver(
            client,
            fetching.method,
            download.url,
            fetching.options(),
            transfer.tell,
            continues=fetching.may_continue,
        )
        url = receiver.request.url if fetching.keeps_parts else None
        with Part(download.path, url, syncs=fetching.keeps_parts, wanted=fetching.wanted) as part:
            got = receiver.into(part, fetching.names_for)
        download.path, download.size = got.path, got.size
    except (DugongError, OSError, ValueError) as exc:
        download.error = _why(exc, fetching)
    fetching.tally.end(transfer)
    tell(download)


def _why(exc: Exception, fetching: Fetching) -> str:
    """Return why there is no file."""
    if not isinstance(exc, OSError) or isinstance(exc, DugongError):
        return describe(exc)
    if fetching.spool is None:
        return f"cannot write the file: {describe(exc)}"
    place = f"cannot keep the body in {fetching.spool} until it is complete"
    return f"{place}: {describe(exc)}; TMPDIR may name another directory, or -o a file"


class _Run:
    """The downloads of one run. For one thread."""

    def __init__(
        self,
        client: Client,
        fetching: Fetching,
        workers: Workers[Download],
        events: SimpleQueue[_Event],
    ) -> None:
        self._submit = client.submit
        self._fetching = fetching
        self._workers = workers
        self._events = events
        self._ready: deque[_Event] = deque()  # taken from `_events`
        self._pending: dict[Future[Response], Download] = {}
        self._under_way = 0

    def batches(
        self, urls: Urls, plan: Callable[[str], Download]
    ) -> Generator[list[Download], None, None]:
        ready = self._ready
        supply = Supply(map(plan, urls), MEMORY, SMALL, batch=_BATCH)
        failure: Exception | None = None
        have_come = True
        while True:
            if failure is None and (have_come or self._under_way <= supply.low):
                have_come = False
                try:
                    for batch in supply.more(self._under_way, self._came, self._is_ready):
                        self._under_way += len(batch)
                        for download in batch:
                            self._start(download)
                        batch.clear()
                except Exception as exc:
                    failure = exc
            if not self._under_way and (failure is not None or urls.exhausted):
                break
            if not ready and not self._wait():
                text = "the deadline has passed, and there was no end of the URLs"
                failure = StreamError(text)
                continue
            ended: list[Download] = []
            while ready and len(ended) < _BATCH:
                event = ready.popleft()
                if event is None:
                    have_come = True
                else:
                    self._end(event, supply, ended)
                if not ready:
                    self._came()
            if ended:
                yield ended
        if failure is not None:
            raise failure

    def _wait(self) -> bool:
        """Wait until a download under way ends, or URLs come; False if the deadline comes first."""
        try:
            # What is under way has an end by itself.
            left = None if self._under_way else self._fetching.limit.left()
            self._ready.append(self._events.get(timeout=left))
        except (Empty, ConnectionTimedOut):
            return False
        return True

    def _came(self) -> list[int]:
        while not self._events.empty():
            self._ready.append(self._events.get())
        return sizes_of(event for event in self._ready if isinstance(event, ResponseFuture))

    def _is_ready(self) -> bool:
        return bool(self._ready) or not self._events.empty()

    def _start(self, download: Download) -> None:
        fetching = self._fetching
        if download.error is not None or download.was_there:
            self._events.put(download)
            return
        if download.large:
            self._workers.put(download)
            return
        try:
            options = {} if fetching.is_plain else fetching.options()
            future = self._submit(fetching.method, download.url, **options)
        except (DugongError, ValueError) as exc:
            download.error = describe(exc)
            self._events.put(download)
            return
        self._pending[future] = download
        future.add_done_callback(self._events.put)

    def _end(
        self, event: Future[Response] | Download, supply: Supply[Download], ended: list[Download]
    ) -> None:
        """Finish a download, unless its body is to be streamed; append it to *ended*."""
        if isinstance(event, Download):
            download = event
        else:
            download = self._pending.pop(event)
            if self._is_to_be_streamed(download, event):
                self._workers.put(download)
                return
        self._under_way -= 1
        if download.error is None and not download.was_there:
            supply.taken(min(download.size, SMALL), 1)
        ended.append(download)

    def _is_to_be_streamed(self, download: Download, future: Future[Response]) -> bool:
        """Write the file of *download*, unless *future* shows that its body is large."""
        try:
            response = future.result()
            check_status(response)
            body = response.body
            download.path = save(body, download.path, self._fetching.names_for(response))
            download.size = len(body)
        except ResponseTooLarge:
            download.large = True
            return True
        except (DugongError, OSError) as exc:
            download.error = _why(exc, self._fetching)
        return False
