"""The exception tree: what is a kind of what, what each says, and which faults may pass."""

from __future__ import annotations

import asyncio
import copy
import errno
import pickle
import socket
import ssl
import subprocess
import sys

import pytest
import trustme

from dugong import Headers, Request, Response, errors
from dugong.errors import (
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    DugongError,
    ExcessBodyData,
    HostnameNotResolvable,
    HTTPStatusError,
    InvalidResponse,
    PoolClosed,
    PoolFull,
    ProxyError,
    ResponseTooLarge,
    StateError,
    UnsupportedResponse,
    is_temp_network_error,
)

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
]

NOT_FOUND = Response(404, "Not Found", Headers(), b"", Request("GET", "http://host/missing"))

EVERY_KIND: list[DugongError] = [
    *(cls("what happened") for cls in PLAIN),
    HostnameNotResolvable("nowhere.test"),
    DNSUnavailable("nowhere.test"),
    ProxyError(407, "Proxy Authentication Required"),
    HTTPStatusError(NOT_FOUND),
]


def test_every_exception_of_the_module_is_a_dugong_error() -> None:
    names = [name for name in errors.__all__ if name[0].isupper() and name != "Delivery"]
    classes = [getattr(errors, name) for name in names]
    assert {type(exc) for exc in EVERY_KIND} == set(classes)
    assert all(issubclass(cls, DugongError) for cls in classes)


def test_a_status_error_has_the_response_and_says_what_was_asked() -> None:
    exc = HTTPStatusError(NOT_FOUND)
    assert exc.response is NOT_FOUND
    assert str(exc) == "404 Not Found for GET http://host/missing"


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


@pytest.mark.parametrize("exc", EVERY_KIND, ids=lambda exc: type(exc).__name__)
def test_exceptions_can_be_pickled(exc: DugongError) -> None:
    copy = pickle.loads(pickle.dumps(exc))
    assert type(copy) is type(exc)
    assert str(copy) == str(exc)
    assert vars(copy).keys() == vars(exc).keys()


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
    answer, request = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(answer, request, server_hostname="localhost")
    answer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
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
