"""`WarcWriter`: what a pool sends and receives, as a WARC file (ISO 28500), by the package warcio.

Guarantees: the blocks of the records are the bytes that were on the wire. The records of an
exchange are in the file side by side, or not at all, unless the program is killed while it writes
them: what could not be written is taken back. They are compressed before the lock is taken that
other threads wait for. Starts no threads; touches the file, and temporary ones.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from io import FileIO
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from dugong._version import __version__
from dugong.pool.checks import check_bool

if TYPE_CHECKING:
    from types import TracebackType

    from dugong.pool.recording import RecordedExchange

__all__ = ["WarcWriter"]

_VERSION = "1.1"
_IN_MEMORY = 1024 * 1024  # bytes of compressed records; more of them are in a temporary file
_PIECE = 256 * 1024  # bytes that are copied at a time
_GZIP = 16 + zlib.MAX_WBITS  # says that to zlib


class WarcWriter:
    """Writes what a pool or a client sends and receives to the WARC file *path*::

        with WarcWriter("pages.warc.gz") as warc, dugong.Client(record=warc.write) as client:
            ...

    For each exchange that a pool records (see *record* of `ConnectionPool`) there is a ``response``
    and a ``request`` record, as they were on the wire: chunked, compressed, and with credentials
    and cookies. Requests that got no response, or only a part of one, are not in the file, nor are
    interim responses (1xx). Each record is compressed by itself (gzip).

    Parameters:

    * *path*: the file, which must not exist.
    * *append*: write behind what the file has, if it exists. If a program was killed while it
      wrote the last record, what there is of that is cut off first; so all of the file is read.
    * *info*: fields of the ``warcinfo`` record that comes first, such as ``operator``, beside
      ``software`` and ``format``.

    Raises FileExistsError and other OSErrors; TypeError or ValueError if *info* makes no sense;
    ValueError if a file that is to be appended to is damaged, or not compressed; and ImportError
    without the package warcio (``pip install dugong[crawl]``).

    Attributes: *exchanges*, how many have been written; *error*, why the first of those that could
    not be written has failed, or None.

    Any thread may call any method. A forked child needs a writer of its own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        append: bool = False,
        info: Mapping[str, str] | None = None,
    ) -> None:
        try:
            from warcio.recordloader import ArcWarcRecordLoader
            from warcio.warcwriter import WARCWriter
        except ImportError as exc:
            raise ImportError(
                "WarcWriter needs the package warcio: pip install dugong[crawl]", name="warcio"
            ) from exc
        check_bool("append", append)
        fields = _checked({} if info is None else info)
        path = os.fspath(path)
        # None of these changes.
        self._path = path
        self._name = os.path.basename(path)
        self._make_writer = WARCWriter
        self._loader = ArcWarcRecordLoader(verify_http=False)  # which has no state
        self._process = os.getpid()
        self._lock = Lock()
        # All of these are guarded by _lock; any thread may read the public ones.
        self._file = FileIO(path, "a+" if append else "x+")
        self.exchanges: int = 0
        self.error: Exception | None = None
        try:
            self._file.truncate(_end_of_members(self._file))
            with self._temporary() as out:
                writer = self._writer(out)
                record = writer.create_warcinfo_record(self._name, fields)
                # Never changes.
                self._info_id: str = record.rec_headers.get_header("WARC-Record-ID")
                writer.write_record(record)
                self._append(out)
        except BaseException:
            self._file.close()
            raise

    def write(self, exchange: RecordedExchange) -> None:
        """Write *exchange*: the *record* of a pool.

        Raises OSError, which names the file, if that fails, and ValueError if the writer has been
        closed.
        """
        if os.getpid() != self._process:  # where the lock may be held for ever
            raise ValueError("a WARC file belongs to the process that has opened it")
        try:
            with self._temporary() as out:
                writer = self._writer(out)
                writer.write_request_response_pair(
                    self._record(writer, "request", exchange.sent, exchange),
                    self._record(writer, "response", exchange.received, exchange),
                )
                with self._lock:
                    self._append(out)
                    self.exchanges += 1
        except Exception as exc:
            with self._lock:
                if self.error is None:
                    self.error = exc
            raise

    def close(self) -> None:
        """Close the file; may be called again. Close the pool or client that records before.

        Raises `error`, the first time, if there is one.
        """
        if os.getpid() != self._process:
            self._file.close()
            return
        with self._lock:
            if self._file.closed:
                return
            self._file.close()
            if self.error is not None:
                raise self.error

    def __enter__(self) -> WarcWriter:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception:
            if exc_type is None:
                raise  # or else what has ended the block says more

    def __repr__(self) -> str:
        return f"<WarcWriter {self._name!r}, {self.exchanges} exchanges>"

    # --- records ----------------------------------------------------------------------------------

    def _temporary(self) -> SpooledTemporaryFile[bytes]:
        return SpooledTemporaryFile(_IN_MEMORY)

    def _writer(self, out: IO[bytes]) -> Any:
        """Return what makes records, and writes them to *out*."""
        return self._make_writer(out, gzip=True, warc_version=_VERSION)

    def _record(self, writer: Any, kind: str, message: BinaryIO, exchange: RecordedExchange) -> Any:
        """Return the record of *message*, which is the request or the response of *exchange*."""
        request = exchange.request
        url = f"{request.origin}{request.target}"  # in ASCII, without a fragment
        fields = {
            "WARC-Date": exchange.started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "WARC-Warcinfo-ID": self._info_id,
        }
        if exchange.peer is not None and exchange.peer.address is not None:
            # Without the zone of an IPv6 address.
            fields["WARC-IP-Address"] = exchange.peer.address.partition("%")[0]
        if kind == "request" and not exchange.is_request_whole:
            fields["WARC-Truncated"] = "unspecified"
        size = message.seek(0, os.SEEK_END)
        message.seek(0)
        # That of the payload is worked out from what is behind the head, as readers find that.
        head = self._loader.load_http_headers(kind, url, message, size)
        record = writer.create_warc_record(
            url,
            kind,
            payload=message,
            length=size - message.tell(),
            warc_headers_dict=fields,
            http_headers=head,
        )
        # But all of the block is to be written as it is, and not a head that was put together anew.
        message.seek(0)
        record.http_headers = None
        record.length = record.payload_length = size
        return record

    def _append(self, out: IO[bytes]) -> None:
        """Write all of *out* to the end of the file, or nothing. Only with the lock held."""
        file = self._file
        if file.closed:
            raise ValueError("the WARC file has been closed")
        end = file.seek(0, os.SEEK_END)
        out.seek(0)
        try:
            while piece := out.read(_PIECE):
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
        except BaseException as exc:
            file.truncate(end)
            if isinstance(exc, OSError) and exc.filename is None:
                exc.filename = self._path
            raise


def _checked(info: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a warcinfo record with *info*."""
    fields = {"software": f"dugong/{__version__}", "format": f"WARC File Format {_VERSION}"}
    if not isinstance(info, Mapping):
        raise TypeError(f"info must be a mapping of str to str, not {type(info).__name__}")
    for name, value in info.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("info must be a mapping of str to str")
        if not name or ":" in name or any(end in name + value for end in "\r\n"):
            raise ValueError(f"info {name!r} is not fit for a line of a file")
        fields[name] = value
    return fields


def _end_of_members(file: FileIO) -> int:
    """Return where the last whole gzip member of *file* ends.

    Raises ValueError if there is anything but members, and the beginning of one behind them.
    """
    file.seek(0)
    member, end, data = zlib.decompressobj(_GZIP), 0, b""
    while data or (data := file.read(_PIECE)):
        try:
            member.decompress(data, _PIECE)
        except zlib.error as exc:
            raise ValueError(f"cannot append: damaged, or not gzip, at byte {end}") from exc
        data = member.unconsumed_tail
        if member.eof:
            data = member.unused_data
            end = file.tell() - len(data)
            member = zlib.decompressobj(_GZIP)
    return end
