"""What goes wrong with S3, and what a caller may do next. Touches nothing."""

from __future__ import annotations

from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING

from dugong.errors import DugongError, HTTPStatusError, printable
from dugong.s3.documents import parse

if TYPE_CHECKING:
    from dugong.pool.response import Response

__all__ = ["ChecksumError", "S3Error", "SyncError", "check", "is_error", "may_pass"]

#: Of an error with a status below 500, which the pool does not try again by itself.
_PASSING = frozenset(
    "BadDigest InternalError RequestTimeout ServiceUnavailable SlowDown "
    "XAmzContentSHA256Mismatch".split()
)
_MAX_NOTES = 10  # failures that a traceback shows
_MAX_TEXT = 500  # characters of what a server says that are kept


class S3Error(HTTPStatusError):
    """S3 has refused a request, or says that it has failed.

    `code` is S3's code for it, such as ``NoSuchKey`` or ``AccessDenied``, `message` what it says
    about it. If the response has no such document, as that to a HEAD, `code` is what HTTP calls its
    status, without spaces, such as ``NotFound``. `response` is the response. Its status may be 200:
    S3 may begin to respond before it knows how the request ends.
    """

    def __init__(self, response: Response, code: str, message: str) -> None:
        super().__init__(response)
        self.code: str = code
        self.message: str = message
        self.msg: str = f"{response.status} {code}" + (f" ({message})" if message else "")


class ChecksumError(DugongError):
    """What the server has stored, or has sent, has another checksum than it should have.

    An object that `Bucket.put` has raised this for must not be relied on: put it again.
    """

    msg: str = "the checksum is wrong"


class SyncError(DugongError):
    """`Bucket.sync` could not store some files; all others are stored.

    `failures` are the exceptions by the paths of those files. `stored`, `unchanged` and `left_out`
    are as in what `Bucket.sync` returns.
    """

    def __init__(
        self,
        stored: list[str],
        unchanged: int,
        failures: dict[str, Exception],
        left_out: list[str],
    ) -> None:
        super().__init__(f"{len(failures)} files could not be stored")
        self.stored: list[str] = stored
        self.unchanged: int = unchanged
        self.failures: dict[str, Exception] = failures
        self.left_out: list[str] = left_out
        for path, exc in islice(failures.items(), _MAX_NOTES):
            self.add_note(f"{path}: {exc}")


def check(response: Response) -> Response:
    """Return *response*; raise `S3Error` if it is not a success."""
    if response.status >= 300:
        raise error_of(response)
    return response


def is_error(response: Response) -> bool:
    """Return True if the body of *response*, whose status may be 200, is that of an error."""
    return b"<Error" in response.body[:4096]


def error_of(response: Response) -> S3Error:
    """Return the exception for *response*, which is not a success."""
    code = message = ""
    try:
        root = parse(response.body)
    except ValueError:
        pass  # as of a HEAD, or of a proxy
    else:
        if root.tag == "Error":
            code, message = root.findtext("Code") or "", root.findtext("Message") or ""
    region = response.headers.get("x-amz-bucket-region")
    if 300 <= response.status < 400 and region:
        message = f"the bucket is in the region {region}"
    if not code:
        try:
            code = HTTPStatus(response.status).phrase.replace(" ", "")
        except ValueError:
            code = str(response.status)
    return S3Error(response, printable(code[:_MAX_TEXT]), printable(message[:_MAX_TEXT]))


def may_pass(error: DugongError) -> bool:
    """Return True if the request may succeed if it is sent again, which the pool does not do."""
    if isinstance(error, S3Error):
        return error.code in _PASSING and error.response.status < 500
    return isinstance(error, ChecksumError)
