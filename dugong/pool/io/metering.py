"""How `Progress` is told of bodies, by the threads that transfer them.

Guarantees: what a caller's callable raises fails its request, and nothing else. It is not called
any more once the request is cancelled or its deadline has passed, but for a call under way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dugong.pool.core.job import Place
from dugong.pool.failure import BodyError, as_exception
from dugong.pool.progress import Meter

if TYPE_CHECKING:
    from dugong.pool.core.job import Job
    from dugong.pool.progress import ProgressCall
    from dugong.pool.response import BodySource

__all__ = ["MeteredSource", "download_meter", "is_metered", "upload_meter"]

_CULPRIT = "what is told of the progress of a request"


def upload_meter(job: Job) -> Meter | None:
    """Return what counts the body of *job*, which is about to be sent; None if nothing is told."""
    upload = job.extras.upload
    if upload is None or upload.progress is None:
        return None
    return _begun(job, upload.progress, upload.body.length)


def download_meter(job: Job, status: int, total: int | None) -> Meter | None:
    """Return what counts the body of the response to *job*; None if nothing is told."""
    if job.extras.download is None or not is_metered(status):
        return None
    return _begun(job, job.extras.download, total)


def is_metered(status: int) -> bool:
    """Return True if the body of a response with *status* is what was asked for."""
    return 200 <= status < 300


def _begun(job: Job, call: ProgressCall, total: int | None) -> Meter:
    meter = Meter(partial(_tell, job, call), total)
    meter.add(0)
    return meter


def _tell(job: Job, call: ProgressCall, done: int, total: int | None) -> None:
    # Stale values cost a call that comes late.
    if job.cancelled or job.place is Place.DONE:
        return
    try:
        call(done, total)
    except BaseException as exc:
        raise BodyError(as_exception(exc, _CULPRIT), _CULPRIT) from exc


class MeteredSource:
    """A `BodySource` whose bytes are counted while the caller reads them.

    What *call* raises is raised to the reader, now and whenever more is read: bytes are lost then.
    """

    __slots__ = ("_failure", "_has_begun", "_meter", "_source")

    def __init__(self, source: BodySource, call: ProgressCall, total: int | None) -> None:
        # All of these belong to the thread that reads.
        self._source = source
        self._meter = Meter(call, total)
        self._has_begun = False
        self._failure: BaseException | None = None

    def read(self, size: int) -> bytes:
        """Return the next 1 to *size* bytes of the body; b"" at its end, however often asked."""
        self._begin()
        piece = self._source.read(size)
        self._note(len(piece))
        return piece

    def readinto(self, view: memoryview) -> int:
        """Fill the beginning of *view*, which has room, and return by how much; 0 at the end."""
        self._begin()
        got = self._source.readinto(view)
        self._note(got)
        return got

    def _begin(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._has_begun:
            self._has_begun = True
            self._tell(partial(self._meter.add, 0))

    def _note(self, got: int) -> None:
        self._tell(partial(self._meter.add, got) if got else self._meter.finish)

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as exc:
            self._failure = exc
            raise
