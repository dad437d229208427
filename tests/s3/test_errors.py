"""Errors of S3: what they say, and which may pass."""

from __future__ import annotations

import copy
import pickle

import pytest

from dugong import HTTPStatusError, Request, Response
from dugong.s3 import ChecksumError, S3Error, SyncError
from dugong.s3.errors import check, is_error, may_pass


def response(status: int, code: str = "", message: str = "") -> Response:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    request = Request("GET", "http://h/bucket/key?X-Amz-Signature=secret")
    return Response(status, "A Reason", b"", body.encode(), request)


def error(status: int, code: str = "", message: str = "") -> S3Error:
    with pytest.raises(S3Error) as caught:
        check(response(status, code, message))
    return caught.value


def test_a_success_is_returned() -> None:
    for status in (200, 204, 206):
        made = response(status)
        assert check(made) is made


def test_an_error_is_an_http_status_error() -> None:
    exc = error(403, "AccessDenied", "No.")
    assert isinstance(exc, HTTPStatusError)
    assert (exc.code, exc.message, exc.response.status) == ("AccessDenied", "No.", 403)
    assert str(exc) == "403 AccessDenied (No.) for GET http://h/bucket/key"


def test_an_error_without_a_document_has_a_code_too() -> None:
    assert error(404).code == "NotFound"
    assert error(304).code == "NotModified"
    assert error(599).code == "599"


def test_a_server_cannot_control_a_terminal_or_fill_a_log() -> None:
    exc = error(400, "Bad", "a&#x9B;b" + "c" * 10_000)
    assert exc.message.startswith("a\\x9bb")
    assert len(str(exc)) < 1000


def test_a_traceback_shows_some_of_the_failures_of_a_sync() -> None:
    failures: dict[str, Exception] = {f"file {n}": OSError("gone") for n in range(100)}
    exc = SyncError(["key"], 7, failures, [])
    assert str(exc) == "100 files could not be stored"
    assert exc.__notes__[0] == "file 0: gone"
    assert len(exc.__notes__) == 10
    assert pickle.loads(pickle.dumps(exc)).__notes__ == exc.__notes__


def test_an_error_can_be_copied_and_pickled() -> None:
    exc = error(403, "AccessDenied", "No.")
    for other in (copy.copy(exc), pickle.loads(pickle.dumps(exc))):
        assert (other.code, other.message, str(other)) == (exc.code, exc.message, str(exc))


def test_the_body_of_an_error_is_known() -> None:
    assert is_error(response(200, "InternalError"))
    assert not is_error(Response(200, "OK", b"", b"<Result/>", response(200).request))


def test_only_what_the_pool_does_not_try_again_may_pass() -> None:
    assert may_pass(error(400, "RequestTimeout"))
    assert may_pass(ChecksumError())
    assert not may_pass(error(503, "SlowDown"))
    assert not may_pass(error(403, "AccessDenied"))
    assert not may_pass(error(404, "NoSuchUpload"))
