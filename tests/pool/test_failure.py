"""What a request fails with: whose the exception is, what it says, and what it keeps."""

from __future__ import annotations

import copy
import errno
import ssl
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from dugong import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    Delivery,
    DugongError,
    Headers,
    HostnameNotResolvable,
    Request,
    Response,
    TLSError,
    is_temp_network_error,
)
from dugong.errors import is_out_of_descriptors, is_tls_refusal
from dugong.pool.failure import (
    Abandoned,
    BodyError,
    as_exception,
    connect_error,
    describe,
    ends_program,
    failure,
    forget_frames,
    incomplete_upload,
)

REQUEST = Request("GET", "https://host:81/path?signature=secret")


def tls_error(reason: str, verify_message: str | None = None) -> ssl.SSLError:
    """Return what the ssl module raises."""
    text = f"[SSL: {reason}] {reason.lower()} (_ssl.c:1000)"
    exc = ssl.SSLError(1, text) if verify_message is None else ssl.SSLCertVerificationError(1, text)
    exc.reason = reason
    if verify_message is not None:
        exc.verify_message = verify_message  # type: ignore[attr-defined]
    return exc


# --- one request's own ----------------------------------------------------------------------------


def test_each_request_gets_a_copy_of_what_concerns_many() -> None:
    error = ConnectionClosed("reset by peer")
    error.__cause__ = ConnectionResetError()
    own, other = (
        failure(error, delivery, REQUEST) for delivery in (Delivery.SENT, Delivery.UNSENT)
    )
    assert isinstance(own, ConnectionClosed)
    assert isinstance(other, ConnectionClosed)
    assert len({id(exc) for exc in (error, own, other)}) == 3
    assert (own.delivery, other.delivery) == (Delivery.SENT, Delivery.UNSENT)
    assert own.request is REQUEST
    assert own.__cause__ is error.__cause__
    assert (error.delivery, error.request) == (None, None)
    assert str(own) == "GET https://host:81/path: reset by peer"


def test_a_copy_keeps_neither_frames_nor_what_was_being_handled() -> None:
    try:
        try:
            raise LookupError
        except LookupError:
            raise ConnectionClosed  # noqa: B904  # that is what is tested
    except ConnectionClosed as exc:
        own = failure(exc, Delivery.SENT)
    assert own.__traceback__ is None
    assert own.__context__ is None


def test_without_a_request_the_text_is_what_the_error_says() -> None:
    own = failure(Abandoned(), Delivery.SENT)
    assert type(own) is Abandoned
    assert str(own) == Abandoned.msg
    assert own.delivery is Delivery.SENT  # type: ignore[attr-defined]


def test_what_has_a_name_of_its_own_keeps_it() -> None:
    own = failure(HostnameNotResolvable("nowhere.test"), Delivery.UNSENT, REQUEST)
    assert isinstance(own, HostnameNotResolvable)
    assert own.name == "nowhere.test"
    assert str(own) == "GET https://host:81/path: host name has no address: nowhere.test"


# --- the caller's own -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "the disk"),
        ConnectionResetError("of another connection"),
        ConnectionClosed("of another connection"),
        tls_error("WRONG_VERSION_NUMBER"),
        LookupError("anything"),
    ],
    ids=repr,
)
def test_what_a_body_has_raised_reaches_the_caller_as_it_is(error: Exception) -> None:
    text = str(error)
    own = failure(BodyError(error), Delivery.PARTLY_SENT)
    assert own is error
    assert str(own) == text
    assert own.delivery is Delivery.PARTLY_SENT  # type: ignore[attr-defined]


def test_what_another_request_has_failed_with_keeps_its_verdict_if_a_body_raises_it() -> None:
    other = Request("GET", "http://h/source")
    theirs = failure(ConnectionClosed("cut"), Delivery.UNSENT, other)
    own: Any = failure(BodyError(theirs), Delivery.PARTLY_SENT, REQUEST)
    assert type(own) is ConnectionClosed
    assert (own.request, own.delivery, own.__cause__) == (REQUEST, Delivery.PARTLY_SENT, theirs)
    assert str(own) == (
        "GET https://host:81/path: the body of a request has raised an exception: "
        "GET http://h/source: cut"
    )
    assert theirs.request is other  # type: ignore[attr-defined]
    assert theirs.delivery is Delivery.UNSENT  # type: ignore[attr-defined]
    assert str(theirs) == "GET http://h/source: cut"
    assert failure(BodyError(own), Delivery.PARTLY_SENT, REQUEST) is own


def test_an_error_of_the_callers_file_is_not_wrapped() -> None:
    error = OSError(errno.EIO, "the disk")
    assert failure(error, Delivery.PARTLY_SENT, REQUEST) is error
    assert error.request is REQUEST  # type: ignore[attr-defined]


def test_an_attribute_of_the_callers_is_left_alone() -> None:
    error = LookupError()
    error.request = "theirs"  # type: ignore[attr-defined]
    assert failure(BodyError(error), Delivery.PARTLY_SENT, REQUEST) is error
    assert error.request == "theirs"  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Frozen(Exception):
    text: str


def test_an_exception_that_cannot_be_changed_is_raised_all_the_same() -> None:
    error = Frozen("no more")
    assert failure(BodyError(error), Delivery.SENT, REQUEST) is error


# --- what it says ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("msg", "delivery", "text"),
    [
        ("nothing received for 1 s", Delivery.SENT, "waiting for the response"),
        ("nothing received for 1 s", Delivery.PARTLY_SENT, "waiting for the response"),
        ("nothing received for 1 s", Delivery.ANSWER_STARTED, "in the middle of the response"),
        ("nothing sent for 1 s", Delivery.PARTLY_SENT, "sending the request"),
        (
            "nothing sent for 1 s",
            Delivery.ANSWER_STARTED,
            "sending the request, whose response has begun",
        ),
    ],
)
def test_a_time_out_says_what_was_waited_for(msg: str, delivery: Delivery, text: str) -> None:
    own = failure(ConnectionTimedOut(msg), delivery, REQUEST)
    assert str(own) == f"GET https://host:81/path: {msg} ({text})"
    assert describe(own) == own.args[0] == f"{msg} ({text})"
    again = failure(own, Delivery.UNSENT, REQUEST)
    assert str(again) == str(own)


def test_a_time_out_that_says_it_already_says_no_more() -> None:
    msg = "timed out after 1 s while connecting to host:81"
    assert describe(failure(ConnectionTimedOut(msg), Delivery.UNSENT, REQUEST)) == msg


def test_a_refused_connection_names_the_address() -> None:
    error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    own = connect_error(error, "127.0.0.1:1", "127.0.0.1:1")
    assert isinstance(own, ConnectError)
    assert str(own) == "connecting to 127.0.0.1:1 (Connection refused)"
    assert own.errno == errno.ECONNREFUSED
    named = failure(own, Delivery.UNSENT, REQUEST)
    assert str(named) == f"GET https://host:81/path: {own}"


def test_what_a_connection_was_to_be_opened_to_is_named() -> None:
    error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    own = connect_error(error, "host:80", "the proxy proxy.test:3128")
    assert str(own) == "connecting to the proxy proxy.test:3128 (Connection refused)"


def test_a_file_that_cannot_be_opened_is_named() -> None:
    own = connect_error(
        FileNotFoundError(errno.ENOENT, "No such file", "/trace"), "host:80", "host:80"
    )
    assert str(own) == "connecting to host:80 (No such file: '/trace')"


def test_a_want_of_descriptors_is_one_when_it_is_wrapped() -> None:
    own = connect_error(OSError(errno.EMFILE, "Too many open files"), "host:80", "host:80")
    assert is_out_of_descriptors(own)
    assert is_out_of_descriptors(failure(own, Delivery.UNSENT, REQUEST))


@pytest.mark.parametrize("connecting", [True, False])
def test_a_certificate_error_names_the_host_and_the_parameter(connecting: bool) -> None:
    error = tls_error("CERTIFICATE_VERIFY_FAILED", "self-signed certificate.")
    own = (
        connect_error(error, "host:81", "host:81")
        if connecting
        else failure(error, Delivery.UNSENT, REQUEST)
    )
    assert isinstance(own, TLSError)
    assert own.reason == "CERTIFICATE_VERIFY_FAILED"
    assert own.msg == (
        "the certificate of host:81 is refused (self-signed certificate); the ssl_context= of the "
        "pool says which certificates are accepted"
    )
    assert is_tls_refusal(own)


def test_an_alert_is_the_message() -> None:
    error = tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED")
    own = failure(error, Delivery.SENT, REQUEST)
    assert isinstance(own, TLSError)
    assert own.__cause__ is error
    assert own.request is REQUEST
    assert own.delivery is Delivery.SENT
    assert str(own).startswith(
        "GET https://host:81/path: TLS with host:81 has failed (tlsv13 alert certificate required)"
    )
    assert "ssl_context=" in str(own)
    assert describe(failure(error, Delivery.SENT)).startswith("TLS with the server has failed")


def test_an_error_without_a_reason_says_what_it_does() -> None:
    own = connect_error(ssl.SSLError("something else"), "host:81", "host:81")
    assert own.msg == "TLS with host:81 has failed (('something else',))"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        OSError(errno.EACCES, "Permission denied"),
        tls_error("SSLV3_ALERT_BAD_RECORD_MAC"),
        tls_error("TLSV1_ALERT_UNKNOWN_CA"),
    ],
    ids=repr,
)
def test_what_is_wrapped_may_pass_as_before(error: OSError) -> None:
    own = connect_error(error, "host:80", "host:80")
    own.__cause__ = error
    expected = is_temp_network_error(error)
    assert is_temp_network_error(own) is expected
    assert is_temp_network_error(failure(own, Delivery.UNSENT, REQUEST)) is expected
    assert is_temp_network_error(copy.copy(own)) is expected


def test_what_says_nothing_is_described_by_its_name() -> None:
    assert describe(LookupError()) == "LookupError"
    assert describe(LookupError("it")) == "'it'" or describe(LookupError("it")) == "it"
    assert describe(DugongError()) == "dugong error"


# --- what it keeps --------------------------------------------------------------------------------


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    """Return *error* with the frames of having been raised."""
    try:
        raise error from cause
    except Exception as exc:
        return exc


def test_frames_are_forgotten_along_the_chain() -> None:
    cause = raised(OSError())
    error = raised(ConnectionClosed(), cause)
    forget_frames(error)
    assert error.__traceback__ is None
    assert cause.__traceback__ is None


def test_the_frames_of_the_callers_body_are_the_callers() -> None:
    cause = raised(LookupError())
    error = raised(BodyError(LookupError()), cause)
    forget_frames(error)
    assert error.__traceback__ is None
    assert cause.__traceback__ is not None


def test_a_chain_that_leads_back_to_itself_has_an_end() -> None:
    one, two = ConnectionClosed(), ConnectionClosed()
    one.__cause__, two.__cause__ = two, one
    forget_frames(one)
    forget_frames(None)


def test_ctrl_c_ends_the_program_and_no_thread_of_the_pool() -> None:
    assert ends_program(KeyboardInterrupt())
    assert not ends_program(LookupError())
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(ends_program(KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert seen == [False]


def test_what_would_end_the_program_is_told_of_by_an_exception() -> None:
    error = LookupError()
    assert as_exception(error, "a hook") is error
    wrapped = as_exception(SystemExit(3), "a hook")
    assert str(wrapped) == "a hook has raised SystemExit(3)"
    assert isinstance(wrapped.__cause__, SystemExit)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (ConnectionTimedOut("nothing sent for 5 s"), ConnectionTimedOut),
        (OSError(), ConnectionClosed),
    ],
)
def test_an_upload_that_has_stopped_is_told_from_one_that_has_failed(
    reason: Exception, kind: type[DugongError]
) -> None:
    response = Response(200, "OK", Headers(), b"", REQUEST)
    error = incomplete_upload(response, reason)
    assert type(error) is kind
    assert error.response is response
    assert "200 OK before the body was sent" in str(error)
