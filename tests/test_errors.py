"""The exception tree: what is a kind of what, what each says, and which faults may pass."""

from __future__ import annotations

import asyncio
import copy
import errno
import os
import pickle
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import trustme

from dugong import Attempt, Headers, Request, Response, errors
from dugong.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionTimedOut,
    DecodingError,
    Delivery,
    DNSUnavailable,
    DugongError,
    ExcessBodyData,
    HostnameNotResolvable,
    HTTPStatusError,
    IntegrityError,
    InvalidResponse,
    PoolClosed,
    PoolFull,
    ProxyError,
    RedirectError,
    ResponseTooLarge,
    StateError,
    TLSError,
    TooManyRedirects,
    UnsupportedResponse,
    is_out_of_descriptors,
    is_temp_network_error,
    is_tls_refusal,
    printable,
)
from dugong.pool.core.core import Entering, Nested
from dugong.pool.core.waiting import NoConnectionFree
from dugong.pool.failure import Abandoned, BodyInterrupted
from dugong.s3.errors import ChecksumError, S3Error, SyncError

PLAIN = [
    DugongError,
    ConnectionClosed,
    ConnectionTimedOut,
    StateError,
    ExcessBodyData,
    InvalidResponse,
    UnsupportedResponse,
    PoolClosed,
    PoolFull,
    ResponseTooLarge,
    DecodingError,
    IntegrityError,
    RedirectError,
]

ASKED = Request("PUT", "http://host:81/path/x?signature=secret", {"X": "y"}, b"body")
NOT_FOUND = Response(404, "Not Found", Headers(), b"", Request("GET", "http://host/missing?a=b"))

#: How to make one of each class that needs something.
MADE = {
    HostnameNotResolvable: lambda: HostnameNotResolvable("nowhere.test"),
    DNSUnavailable: lambda: DNSUnavailable("nowhere.test"),
    ProxyError: lambda: ProxyError(407, "Proxy Authentication Required"),
    HTTPStatusError: lambda: HTTPStatusError(NOT_FOUND),
    ConnectError: lambda: ConnectError("connecting to host:81 (refused)", errno.ECONNREFUSED),
    S3Error: lambda: S3Error(NOT_FOUND, "NoSuchKey", "there is none"),
    SyncError: lambda: SyncError(["a"], 1, {"b": OSError("cannot be read")}, ["c"]),
    TLSError: lambda: TLSError("certificate verify failed", "CERTIFICATE_VERIFY_FAILED"),
}


def kinds(cls: type[DugongError]) -> list[type[DugongError]]:
    """Return *cls* and all that is derived from it in the package."""
    derived = [kind for sub in cls.__subclasses__() for kind in kinds(sub)]
    return [kind for kind in (cls, *derived) if kind.__module__.startswith("dugong.")]


EVERY_CLASS = sorted(set(kinds(DugongError)) - {errors._NameError}, key=lambda cls: cls.__name__)


def made(cls: type[DugongError]) -> DugongError:
    """Return an instance of *cls*."""
    make = MADE.get(cls)
    return cls("what happened") if make is None else make()


def test_every_exception_of_the_module_is_a_dugong_error() -> None:
    names = [name for name in errors.__all__ if name[0].isupper() and name != "Delivery"]
    classes = [getattr(errors, name) for name in names]
    internal = {Abandoned, BodyInterrupted, Entering, Nested, NoConnectionFree}
    assert set(EVERY_CLASS) == {*classes, *internal, ChecksumError, S3Error, SyncError}
    assert all(issubclass(cls, DugongError) for cls in classes)


def test_a_status_error_has_the_response_and_says_what_was_asked() -> None:
    exc = HTTPStatusError(NOT_FOUND)
    assert exc.response is NOT_FOUND
    assert str(exc) == "404 Not Found for GET http://host/missing"
    assert exc.request is NOT_FOUND.request
    assert str(HTTPStatusError(NOT_FOUND)) == str(exc)


@pytest.mark.parametrize("cls", PLAIN)
def test_an_exception_says_what_happened(cls: type[DugongError]) -> None:
    assert str(cls("it broke")) == cls("it broke").msg == "it broke"


@pytest.mark.parametrize("cls", PLAIN)
def test_an_exception_without_a_message_still_says_something(cls: type[DugongError]) -> None:
    assert str(cls()) == cls.msg != ""


@pytest.mark.parametrize("cls", PLAIN[1:])
def test_kinds_that_need_different_handling_are_not_caught_together(cls: type[DugongError]) -> None:
    assert cls.__mro__[1] is DugongError


@pytest.mark.parametrize("cls", [HostnameNotResolvable, DNSUnavailable])
def test_a_name_that_does_not_resolve_is_named(
    cls: type[HostnameNotResolvable | DNSUnavailable],
) -> None:
    exc = cls("nowhere.test")
    assert exc.name == "nowhere.test"
    assert "nowhere.test" in str(exc)


def test_a_proxy_error_has_status_and_reason() -> None:
    exc = ProxyError(407, "Proxy Authentication Required")
    assert (exc.status, exc.reason) == (407, "Proxy Authentication Required")
    assert "407 Proxy Authentication Required" in str(exc)
    assert str(ProxyError(502, "")).endswith("502")


def test_a_proxy_error_is_a_connection_error_without_errno() -> None:
    exc = ProxyError(407, "No")
    assert isinstance(exc, ConnectionError)
    assert exc.errno is None


def test_what_a_peer_says_cannot_control_a_terminal() -> None:
    assert str(ProxyError(403, "\x1b[2J\nNo")).endswith(r"403 \x1b[2J\nNo")
    response = Response(500, "\x1b]0;", Headers(), b"", Request("GET", "http://host/"))
    assert str(HTTPStatusError(response)) == r"500 \x1b]0; for GET http://host/"
    assert printable("as it is: \N{LATIN SMALL LETTER E WITH ACUTE}").startswith("as it is")


def test_the_text_names_the_request_without_its_query() -> None:
    exc = ConnectionTimedOut("nothing received for 1 s")
    assert exc.request is None
    exc.request = ASKED
    assert str(exc) == "PUT http://host:81/path/x: nothing received for 1 s"
    assert exc.msg == "nothing received for 1 s"
    exc.request = Request("OPTIONS", "http://host/")
    assert str(exc) == "OPTIONS http://host/: nothing received for 1 s"


def test_a_connect_error_has_the_number_of_the_system() -> None:
    exc = ConnectError("connecting to host:81 (refused)", errno.ECONNREFUSED)
    assert isinstance(exc, OSError)
    assert exc.errno == errno.ECONNREFUSED
    assert exc.strerror == os.strerror(errno.ECONNREFUSED)
    assert str(exc) == "connecting to host:81 (refused)"


# --- copies ---------------------------------------------------------------------------------------


def pickled(exc: DugongError) -> DugongError:
    result: DugongError = pickle.loads(pickle.dumps(exc))
    return result


copying = pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])


@copying
@pytest.mark.parametrize("cls", EVERY_CLASS)
def test_a_copy_holds_all_that_the_exception_does(
    cls: type[DugongError], copied: Callable[[DugongError], DugongError]
) -> None:
    exc = made(cls)
    exc.delivery = Delivery.PARTLY_SENT
    exc.attempts = (Attempt(1.0, "host-1", "refused", Delivery.UNSENT),)
    exc.request = ASKED
    exc.add_note("a note")
    exc.of_the_caller = ["anything"]  # type: ignore[attr-defined]  # any exception has a dict
    exc.__cause__ = OSError(errno.ECONNREFUSED, "refused")
    own = copied(exc)
    assert own is not exc
    assert type(own) is cls
    assert (str(own), own.msg, own.args) == (str(exc), exc.msg, exc.args)
    assert vars(own).keys() == vars(exc).keys()
    assert own.delivery is Delivery.PARTLY_SENT
    assert own.attempts == exc.attempts
    assert own.request is not None
    assert (own.request.method, own.request.url, own.request.body) == ("PUT", ASKED.url, b"body")
    assert own.__notes__ == exc.__notes__
    assert own.of_the_caller == ["anything"]  # type: ignore[attr-defined]
    assert repr(own.__cause__) == repr(exc.__cause__)
    for name in ("name", "status", "reason", "errno", "strerror", "filename"):
        assert getattr(own, name, None) == getattr(exc, name, None)


@copying
@pytest.mark.parametrize("cls", EVERY_CLASS)
def test_an_exception_that_nothing_was_added_to_can_be_copied(
    cls: type[DugongError], copied: Callable[[DugongError], DugongError]
) -> None:
    exc = made(cls)
    own = copied(exc)
    assert type(own) is cls
    assert (str(own), own.args, vars(own).keys()) == (str(exc), exc.args, vars(exc).keys())
    assert own.__cause__ is None
    assert own.delivery is exc.delivery


def test_a_deep_copy_shares_nothing_of_the_callers() -> None:
    exc = ConnectionClosed()
    exc.of_the_caller = []  # type: ignore[attr-defined]  # any exception has a dict
    own = copy.deepcopy({"one": exc, "two": exc})
    assert own["one"] is own["two"]
    assert own["one"].of_the_caller is not exc.of_the_caller  # type: ignore[attr-defined]


class Unlike(ProxyError):
    """A class of a program's, which takes something else than its base."""

    def __init__(self, *, code: int) -> None:
        super().__init__(code, "Unlike")


@copying
def test_a_class_of_a_program_may_take_what_it_likes(
    copied: Callable[[DugongError], DugongError],
) -> None:
    own = copied(Unlike(code=407))
    assert isinstance(own, Unlike)
    assert (own.status, str(own)) == (407, "the proxy refused the tunnel: 407 Unlike")


def generator() -> Iterator[bytes]:
    yield b""


def test_what_cannot_be_pickled_is_left_out() -> None:
    exc = ConnectionClosed()
    exc.request = Request("PUT", "http://host/path?secret", body=generator())
    exc.attempts = (Attempt(1.0, "c", "it", None, exception=Local()),)
    exc.__cause__ = Local()
    own = pickled(exc)
    assert (own.request, own.attempts, own.__cause__) == (None, (), None)
    assert str(own) == str(exc) == "PUT http://host/path: connection closed unexpectedly"
    assert str(pickled(own)) == str(exc)
    assert copy.deepcopy(exc).request is exc.request


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_response_is_pickled_with_its_exception_though_its_request_cannot_be(
    protocol: int,
) -> None:
    request = Request("PUT", "http://host/path?a=b", {"A": "b"}, generator())
    headers = Headers([("C", "d")])
    attempts = (Attempt(1.0, "host-1", "refused", Delivery.UNSENT),)
    response = Response(404, "Not Found", headers, b"body", request, attempts)
    broken_off = ConnectionClosed()
    broken_off.response = response
    for exc in (HTTPStatusError(response), broken_off):
        own = pickle.loads(pickle.dumps(exc, protocol))
        assert (str(own), own.attempts) == (str(exc), exc.attempts)
        assert (own.response.status, own.response.reason) == (404, "Not Found")
        assert (own.response.headers, own.response.body) == (headers, b"body")
        assert (own.response.request.method, own.response.url) == ("PUT", request.url)
        assert own.response.attempts == attempts
        assert exc.response is response


def test_attempts_that_cannot_be_pickled_are_left_out_of_a_response() -> None:
    attempts = (Attempt(1.0, "c", "it", None, exception=Local()),)
    request = Request("GET", "http://host/")
    exc = HTTPStatusError(Response(404, "Not Found", Headers(), b"body", request, attempts))
    own = pickled(exc)
    assert isinstance(own, HTTPStatusError)
    assert (own.response.body, own.response.attempts) == (b"body", ())


class Local(Exception):
    def __reduce__(self) -> str:
        raise RuntimeError("not to be pickled")


# --- is_out_of_descriptors ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_a_want_of_descriptors_is_told_from_other_errors(number: int) -> None:
    exc = OSError(number, "too many")
    assert is_out_of_descriptors(exc)
    assert is_out_of_descriptors(ConnectError("connecting", number))
    assert is_out_of_descriptors(caused(ConnectError("connecting"), exc))
    assert is_out_of_descriptors(pickled(ConnectError("connecting", number)))


@pytest.mark.parametrize(
    "exc",
    [
        OSError("no number"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        socket.gaierror(errno.EMFILE, "a number of another kind"),
        ssl.SSLError(errno.ENFILE, "a number of another kind"),
        ConnectionClosed(),
        ValueError(),
    ],
    ids=repr,
)
def test_other_errors_are_no_want_of_descriptors(exc: Exception) -> None:
    assert not is_out_of_descriptors(exc)


# --- is_tls_refusal -------------------------------------------------------------------------------

TLS_REFUSALS = (
    "CERTIFICATE_VERIFY_FAILED NO_PROTOCOLS_AVAILABLE UNSUPPORTED_PROTOCOL "
    "SSLV3_ALERT_HANDSHAKE_FAILURE SSLV3_ALERT_BAD_CERTIFICATE SSLV3_ALERT_CERTIFICATE_EXPIRED "
    "TLSV1_ALERT_PROTOCOL_VERSION TLSV1_ALERT_UNKNOWN_CA TLSV1_UNRECOGNIZED_NAME "
    "TLSV1_ALERT_ACCESS_DENIED TLSV13_ALERT_CERTIFICATE_REQUIRED"
).split()
NO_TLS_REFUSALS = (
    "WRONG_VERSION_NUMBER DECRYPTION_FAILED_OR_BAD_RECORD_MAC SSLV3_ALERT_BAD_RECORD_MAC "
    "TLSV1_ALERT_INTERNAL_ERROR TLSV1_ALERT_DECODE_ERROR SSLV3_ALERT_ILLEGAL_PARAMETER"
).split()


@pytest.mark.parametrize("reason", TLS_REFUSALS)
def test_who_refuses_a_certificate_or_a_version_will_do_so_again(reason: str) -> None:
    exc = tls_error(reason)
    assert is_tls_refusal(exc)
    assert is_tls_refusal(caused(TLSError("TLS", reason), exc))
    assert is_tls_refusal(pickled(TLSError("TLS", reason)))
    assert is_tls_refusal(caused(Wrapper(), exc))
    assert not is_temp_network_error(TLSError("TLS", reason))


@pytest.mark.parametrize("reason", NO_TLS_REFUSALS)
def test_what_may_have_been_garbled_is_no_refusal(reason: str) -> None:
    assert not is_tls_refusal(tls_error(reason))
    assert not is_tls_refusal(TLSError("TLS", reason))


def test_an_error_that_is_not_of_tls_is_no_refusal() -> None:
    assert is_tls_refusal(ssl.SSLCertVerificationError(1, "certificate verify failed"))
    assert not is_tls_refusal(ConnectionClosed())
    assert not is_tls_refusal(OSError(1, "refused"))
    assert not is_tls_refusal(ssl.SSLError(1, "without a reason"))


# --- is_temp_network_error ------------------------------------------------------------------------

PASSING_ERRNOS = (
    "EADDRNOTAVAIL ECONNABORTED ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH EINTR ENETDOWN "
    "ENETRESET ENETUNREACH ENOBUFS ENONET ENOTCONN EPIPE ESHUTDOWN ETIMEDOUT"
).split()
LASTING_ERRNOS = (
    "EACCES EADDRINUSE EAFNOSUPPORT EAGAIN EBADF EINVAL EIO EMFILE EMSGSIZE ENFILE ENOENT ENOMEM "
    "ENOSPC ENOTSOCK EPERM EPROTONOSUPPORT"
).split()

PASSING_TLS_REASONS = (
    "BAD_LENGTH BAD_RECORD_TYPE DECRYPTION_FAILED_OR_BAD_RECORD_MAC DIGEST_CHECK_FAILED "
    "LENGTH_MISMATCH PACKET_LENGTH_TOO_LONG RECORD_LAYER_FAILURE UNEXPECTED_EOF_WHILE_READING "
    "UNEXPECTED_MESSAGE UNEXPECTED_RECORD SSLV3_ALERT_BAD_RECORD_MAC "
    "SSLV3_ALERT_UNEXPECTED_MESSAGE TLSV1_ALERT_DECODE_ERROR TLSV1_ALERT_DECRYPT_ERROR "
    "TLSV1_ALERT_INTERNAL_ERROR TLSV1_ALERT_RECORD_OVERFLOW TLSV1_ALERT_USER_CANCELLED"
).split()
LASTING_TLS_REASONS = (
    "HTTP_REQUEST INTERNAL_ERROR NO_PROTOCOLS_AVAILABLE NO_SHARED_CIPHER "
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED UNSUPPORTED_PROTOCOL WRONG_VERSION_NUMBER "
    "SSLV3_ALERT_BAD_CERTIFICATE SSLV3_ALERT_CERTIFICATE_EXPIRED SSLV3_ALERT_HANDSHAKE_FAILURE "
    "TLSV1_ALERT_INSUFFICIENT_SECURITY TLSV1_ALERT_PROTOCOL_VERSION TLSV1_ALERT_UNKNOWN_CA "
    "TLSV13_ALERT_CERTIFICATE_REQUIRED"
).split()


def tls_error(reason: str) -> ssl.SSLError:
    """Return an error as OpenSSL gives it."""
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL: {reason}] something")
    error.reason = reason
    return error


def os_errors(names: list[str]) -> list[OSError]:
    """Return an error for each name of an errno that this system knows."""
    return [OSError(getattr(errno, name), name) for name in names if hasattr(errno, name)]


PASSING = [
    ConnectionClosed(),
    ConnectionTimedOut(),
    DNSUnavailable("nowhere.test"),
    *(ProxyError(status, "") for status in (408, 429, 500, 502, 503, 504)),
    TimeoutError(),
    ConnectionError(),
    ConnectionResetError(),
    ConnectionRefusedError(),
    ConnectionAbortedError(),
    BrokenPipeError(),
    *os_errors(PASSING_ERRNOS),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    socket.herror(2, "Host name lookup failure"),
    ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol"),
    ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "TLS/SSL connection has been closed"),
    ssl.SSLSyscallError(ssl.SSL_ERROR_SYSCALL, "Some I/O error occurred"),
    *map(tls_error, PASSING_TLS_REASONS),
]

LASTING = [
    DugongError(),
    StateError(),
    ExcessBodyData(),
    InvalidResponse(),
    UnsupportedResponse(),
    ResponseTooLarge(),
    DecodingError(),
    IntegrityError(),
    RedirectError(),
    TooManyRedirects(),
    PoolClosed(),
    PoolFull(),
    HostnameNotResolvable("nowhere.test"),
    HTTPStatusError(Response(503, "Service Unavailable", Headers(), b"", NOT_FOUND.request)),
    ProxyError(403, "Forbidden"),
    ProxyError(407, "Proxy Authentication Required"),
    *os_errors(LASTING_ERRNOS),
    OSError("no number"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    socket.herror(1, "Unknown host"),
    socket.herror(errno.EINTR, "No address associated with name"),
    ssl.SSLCertVerificationError(1, "certificate verify failed"),
    # The numbers of OpenSSL mean something else than those of the operating system.
    ssl.SSLError(errno.EINTR, "a library error"),
    ssl.SSLError("made by hand"),
    ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)"),
    *map(tls_error, LASTING_TLS_REASONS),
    ValueError("bad"),
    EOFError(),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("exc", PASSING, ids=repr)
def test_a_fault_that_may_pass_is_temporary(exc: BaseException) -> None:
    assert is_temp_network_error(exc)


@pytest.mark.parametrize("exc", LASTING, ids=repr)
def test_a_fault_that_will_last_is_not_temporary(exc: BaseException) -> None:
    assert not is_temp_network_error(exc)


def test_a_copy_of_a_tls_error_is_what_the_error_was() -> None:
    # As a pool makes for each of the requests that one error concerns.
    assert is_temp_network_error(copy.copy(tls_error("SSLV3_ALERT_BAD_RECORD_MAC")))


class Wrapper(Exception):
    """What a program raises that does not want to tell of sockets."""


def caused(exc: BaseException, cause: BaseException | None) -> BaseException:
    """Return *exc* as ``raise exc from cause`` would leave it."""
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize("exc", PASSING, ids=repr)
def test_what_wraps_a_passing_fault_is_temporary(exc: BaseException) -> None:
    assert is_temp_network_error(caused(Wrapper(), exc))
    assert is_temp_network_error(caused(Wrapper(), caused(OSError("no number"), exc)))


@pytest.mark.parametrize("exc", [*PASSING, *LASTING], ids=repr)
@pytest.mark.parametrize("wrapper", [ConnectError, TLSError])
def test_an_error_of_the_system_says_the_same_when_it_is_wrapped(
    exc: BaseException, wrapper: type[DugongError]
) -> None:
    wrapped = caused(wrapper("what it says"), exc)
    assert is_temp_network_error(wrapped) is is_temp_network_error(exc)


@pytest.mark.parametrize("name", [*PASSING_ERRNOS, *LASTING_ERRNOS])
def test_a_connect_error_without_a_cause_says_what_its_number_does(name: str) -> None:
    number = getattr(errno, name)
    expected = is_temp_network_error(OSError(number, "it"))
    assert is_temp_network_error(ConnectError("connecting", number)) is expected
    assert is_temp_network_error(TLSError("TLS", "SSLV3_ALERT_BAD_RECORD_MAC"))


@pytest.mark.parametrize("exc", LASTING, ids=repr)
def test_what_wraps_a_lasting_fault_is_not_temporary(exc: BaseException) -> None:
    assert not is_temp_network_error(caused(Wrapper(), exc))


@pytest.mark.parametrize(
    "exc",
    [
        HostnameNotResolvable("nowhere.test"),
        InvalidResponse(),
        DugongError("internal error"),
        ProxyError(407, "Proxy Authentication Required"),
        OSError(errno.EACCES, "Permission denied"),
        tls_error("WRONG_VERSION_NUMBER"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        KeyboardInterrupt(),
        SystemExit(),
    ],
    ids=repr,
)
def test_what_says_itself_that_it_will_last_does_whatever_its_cause(exc: BaseException) -> None:
    assert not is_temp_network_error(caused(exc, ConnectionClosed()))


def test_a_passing_fault_passes_whatever_its_cause() -> None:
    assert is_temp_network_error(caused(ConnectionClosed(), ValueError()))


def test_what_is_raised_while_a_passing_fault_is_handled_is_not_temporary() -> None:
    def clean_up() -> None:
        try:
            raise ConnectionClosed
        finally:
            raise LookupError("a bug in the cleaning up")

    with pytest.raises(LookupError) as caught:
        clean_up()
    assert isinstance(caught.value.__context__, ConnectionClosed)
    assert not is_temp_network_error(caught.value)


def test_causes_that_go_in_a_circle_are_not_followed_for_ever() -> None:
    first, second = Wrapper(), Wrapper()
    caused(first, caused(second, first))
    assert not is_temp_network_error(first)
    assert not is_temp_network_error(caused(Wrapper(), second))


class Tampered:
    """A TLS client and a server with a line between them, on which a byte can be changed."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext) -> None:
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname="localhost")
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)

    def shake_hands(self) -> None:
        """Run the handshake; raise what goes wrong for the client."""
        for end in (self.client, self.server) * 3:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                if end is self.client:
                    raise
        # The session tickets, which only reading takes from the line.
        with pytest.raises(ssl.SSLWantReadError):
            self.client.read()

    def damage(self, line: ssl.MemoryBIO) -> None:
        """Change the last byte of what is on the way."""
        data = bytearray(line.read())
        data[-1] ^= 1
        line.write(data)


def test_a_record_that_was_damaged_on_the_way_is_a_passing_fault(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    line = Tampered(client_context, server_context)
    line.shake_hands()
    line.server.write(b"an answer")
    line.damage(line.to_client)
    with pytest.raises(ssl.SSLError) as caught:
        line.client.read()
    assert is_temp_network_error(caught.value)


def test_to_hear_that_a_record_was_damaged_is_a_passing_fault(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    line = Tampered(client_context, server_context)
    line.shake_hands()
    line.client.write(b"a request")
    line.damage(line.to_server)
    with pytest.raises(ssl.SSLError):
        line.server.read()
    with pytest.raises(ssl.SSLError) as caught:
        line.client.read()
    assert is_temp_network_error(caught.value)


def test_a_server_that_speaks_another_version_of_tls_is_a_lasting_fault(
    authority: trustme.CA,
) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new = ssl.create_default_context()
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(ssl.SSLError) as caught:
        Tampered(new, old).shake_hands()
    assert not is_temp_network_error(caught.value)


def test_a_server_without_tls_is_a_lasting_fault(client_context: ssl.SSLContext) -> None:
    response, request = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(response, request, server_hostname="localhost")
    response.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert not is_temp_network_error(caught.value)


def test_a_certificate_that_nobody_vouches_for_is_a_lasting_fault(
    server_context: ssl.SSLContext,
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        Tampered(ssl.create_default_context(), server_context).shake_hands()
    assert not is_temp_network_error(caught.value)


def test_asking_about_an_error_does_not_load_ssl() -> None:
    program = (
        "import sys, dugong\n"
        "assert dugong.is_temp_network_error(ConnectionResetError())\n"
        "assert not dugong.is_temp_network_error(OSError(2, 'No such file'))\n"
        "assert 'ssl' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
