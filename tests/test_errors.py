"""The exception tree: what is a kind of what, what each says, and which faults may pass."""

from __future__ import annotations

import errno
import pickle
import socket
import ssl
import subprocess
import sys

import pytest

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


PASSING = [
    ConnectionClosed(),
    ConnectionTimedOut(),
    DNSUnavailable("nowhere.test"),
    ProxyError(503, "Service Unavailable"),
    ProxyError(429, "Too Many Requests"),
    TimeoutError(),
    ConnectionResetError(),
    ConnectionRefusedError(),
    ConnectionAbortedError(),
    BrokenPipeError(),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    OSError(errno.ENETDOWN, "Network is down"),
    OSError(errno.ETIMEDOUT, "Connection timed out"),
    OSError(errno.EINTR, "Interrupted"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol"),
    ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "TLS/SSL connection has been closed"),
]

LASTING = [
    DugongError(),
    StateError(),
    ExcessBodyData(),
    InvalidResponse(),
    UnsupportedResponse(),
    HostnameNotResolvable("nowhere.test"),
    ProxyError(403, "Forbidden"),
    ProxyError(407, "Proxy Authentication Required"),
    OSError(errno.EACCES, "Permission denied"),
    OSError(errno.ENOENT, "No such file or directory"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError("no number"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ssl.SSLCertVerificationError(1, "certificate verify failed"),
    # The numbers of OpenSSL mean something else than those of the operating system.
    ssl.SSLError(errno.EINTR, "a library error"),
    ValueError("bad"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("exc", PASSING, ids=repr)
def test_a_fault_that_may_pass_is_temporary(exc: BaseException) -> None:
    assert is_temp_network_error(exc)


@pytest.mark.parametrize("exc", LASTING, ids=repr)
def test_a_fault_that_will_last_is_not_temporary(exc: BaseException) -> None:
    assert not is_temp_network_error(exc)


def test_asking_about_an_error_does_not_load_ssl() -> None:
    program = (
        "import sys, dugong\n"
        "assert dugong.is_temp_network_error(ConnectionResetError())\n"
        "assert not dugong.is_temp_network_error(OSError(2, 'No such file'))\n"
        "assert 'ssl' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
