"""Host names: what they are called in messages, and which addresses they have."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dugong
from dugong import DNSUnavailable, HostnameNotResolvable, HTTPConnection
from dugong.connection import names as module
from dugong.connection.names import ascii_host, check_address, is_numeric, netloc, resolve
from dugong.errors import is_out_of_descriptors
from tests.support.names import FakeNames, no_descriptors

# --- resolving ------------------------------------------------------------------------------------

NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "no such name")
NO_SERVER = socket.gaierror(socket.EAI_AGAIN, "no server")


def test_a_name_that_does_not_exist_is_not_resolvable(
    names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("bad.test", 1), ("good.test", 1)))
    names("bad.test", NO_SUCH_NAME)
    names("good.test", ("127.0.0.1", 1))
    with pytest.raises(HostnameNotResolvable) as caught:
        HTTPConnection("bad.test").connect()
    assert caught.value.name == "bad.test"


def test_if_no_name_resolves_then_dns_is_unavailable(
    names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("bad.test", 1), ("gone.test", 1)))
    names("bad.test", NO_SUCH_NAME)
    names("gone.test", OSError("the resolver is broken"))
    with pytest.raises(DNSUnavailable) as caught:
        HTTPConnection("bad.test").connect()
    assert caught.value.name == "bad.test"


def test_a_resolver_that_asks_to_try_again_is_unavailable(
    names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("good.test", 1),))
    names("good.test", ("127.0.0.1", 1))
    names("bad.test", NO_SERVER)
    with pytest.raises(DNSUnavailable):
        HTTPConnection("bad.test").connect()


def test_a_name_without_addresses_is_not_resolvable(names: FakeNames) -> None:
    names("empty.test")
    with pytest.raises(HostnameNotResolvable) as caught:
        HTTPConnection("empty.test").connect()
    assert caught.value.name == "empty.test"


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..test"])
def test_a_name_that_cannot_be_encoded_is_not_resolvable(host: str) -> None:
    with pytest.raises(HostnameNotResolvable):
        resolve(host, 80)


def test_an_unresolvable_proxy_is_named(names: FakeNames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", (("good.test", 1),))
    names("good.test", ("127.0.0.1", 1))
    names("proxy.test", NO_SUCH_NAME)
    with pytest.raises(HostnameNotResolvable) as caught:
        HTTPConnection("origin.test", proxy=("proxy.test", 3128)).connect()
    assert caught.value.name == "proxy.test"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("EAI_NONAME", HostnameNotResolvable),
        ("EAI_NODATA", HostnameNotResolvable),
        ("EAI_ADDRFAMILY", HostnameNotResolvable),
        ("EAI_AGAIN", DNSUnavailable),
        ("EAI_FAIL", DNSUnavailable),
        ("EAI_MEMORY", DNSUnavailable),
    ],
)
def test_without_names_to_test_with_the_resolver_is_believed(
    code: str, error: type[Exception], names: FakeNames
) -> None:
    if not hasattr(socket, code):
        pytest.skip(f"this system has no {code}")
    names("bad.test", socket.gaierror(getattr(socket, code), "what it says"))
    with pytest.raises(error):
        resolve("bad.test", 80)
    assert names.asked == ["bad.test"]  # and no name of another program


def test_what_a_program_sets_on_the_package_is_what_is_asked_for(
    names: FakeNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, "DNS_TEST_HOSTNAMES", [("mine.test", 1)])
    names("bad.test", NO_SUCH_NAME)
    names("mine.test", ("127.0.0.1", 1))
    with pytest.raises(HostnameNotResolvable):
        HTTPConnection("bad.test").connect()
    assert names.asked == ["bad.test", "mine.test"]


def test_a_resolver_without_descriptors_says_nothing_of_a_name(names: FakeNames) -> None:
    names("bad.test", NO_SUCH_NAME)
    with no_descriptors(), pytest.raises(OSError, match="Too many") as caught:
        resolve("bad.test", 80)
    assert is_out_of_descriptors(caught.value)


def test_a_want_of_descriptors_is_told_though_the_resolver_has_an_earlier_number(
    names: FakeNames,
) -> None:
    names("localhost", OSError(errno.EINVAL, "of an earlier call"))
    with pytest.raises(OSError, match="of an earlier call"):
        resolve("localhost", 80)
    with no_descriptors(), pytest.raises(OSError, match="Too many") as caught:
        resolve("localhost", 80)
    assert is_out_of_descriptors(caught.value)


def test_the_dot_at_the_end_is_for_the_resolver(names: FakeNames) -> None:
    names("absolute.test.", ("127.0.0.1", 1))
    assert resolve("absolute.test.", 80)
    assert names.asked == ["absolute.test."]


def test_a_zone_is_for_the_resolver(names: FakeNames) -> None:
    names("fe80::1%lo", ("127.0.0.1", 1))
    assert resolve("fe80::1%lo", 80)
    assert ascii_host("fe80::1%lo") == "fe80::1"
    assert netloc("fe80::1%lo", 80) == "[fe80::1]:80"


def test_the_name_that_is_resolved_is_the_one_in_messages(names: FakeNames) -> None:
    names("xn--bcher-kva.test", ("127.0.0.1", 1))
    assert resolve("B\N{LATIN CAPITAL LETTER U WITH DIAERESIS}cher.test", 80)


@pytest.mark.parametrize(
    "host", ["user:secret@host.test", "http://host.test/?secret", "host.test/secret", "h#secret"]
)
def test_a_url_instead_of_a_name_is_not_quoted(host: str) -> None:
    with pytest.raises(ValueError, match="must be a name") as caught:
        check_address(host, 80)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", [b"user:secret@host.test", 5, None])
def test_a_name_that_is_no_str_is_not_quoted(host: object) -> None:
    with pytest.raises(TypeError, match="must be a str, not ") as caught:
        check_address(host, 80)
    assert "secret" not in str(caught.value)


# --- IDNA -----------------------------------------------------------------------------------------

SHARP_S = "stra\N{LATIN SMALL LETTER SHARP S}e.de"
AMBIGUOUS = {
    SHARP_S: ("xn--strae-oqa.de", "strasse.de"),
    "STRA\N{LATIN CAPITAL LETTER SHARP S}E.de": ("xn--strae-oqa.de", "strasse.de"),
    "\u03b2\u03cc\u03bb\u03bf\u03c2.com": ("xn--nxasmm1c.com", "xn--nxasmq6b.com"),
    "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.com": (
        "xn--mgba3gch31f060k.com",
        "xn--mgba3gch31f.com",
    ),
    "\u0dc1\u0dca\u200d\u0dbb\u0dd3.com": ("xn--10cl1a0b660p.com", "xn--10cl1a0b.com"),
}


@pytest.mark.parametrize("host", AMBIGUOUS)
def test_a_name_with_two_meanings_is_refused_and_both_are_told(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "idna", None)  # as if it were not installed
    with pytest.raises(ValueError, match="ambiguous") as caught:
        ascii_host(host)
    for name in AMBIGUOUS[host]:
        assert repr(name.removesuffix(".com").removesuffix(".de")) in str(caught.value)
    with pytest.raises(ValueError, match="ambiguous"):
        HTTPConnection(host)
    with pytest.raises(ValueError, match="ambiguous"):
        dugong.Request("GET", f"http://{host}/")


@pytest.mark.parametrize("host", AMBIGUOUS)
def test_a_name_with_two_meanings_has_that_of_2008_if_there_is_a_package_for_it(host: str) -> None:
    pytest.importorskip("idna")
    assert ascii_host(host) == AMBIGUOUS[host][0]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("b\xfccher.test", "xn--bcher-kva.test"),
        ("B\xdcCHER.test", "xn--bcher-kva.test"),
        ("bu\u0308cher.test", "xn--bcher-kva.test"),
        ("\u65e5\u672c\u3002\u8a9e", "xn--wgv71a.xn--i42a"),
        ("\uff41\uff0e\uff42\uff61c", "a.b.c"),
        ("b\xfccher.test.", "xn--bcher-kva.test."),
        ("\u2603.test", "xn--n3h.test"),
        ("xn--strae-oqa.\xe9", "xn--strae-oqa.xn--9ca"),
        ("\u212aelvin.test", "kelvin.test"),
    ],
)
@pytest.mark.parametrize("with_package", [True, False])
def test_a_name_with_one_meaning_has_it_with_and_without_the_package(
    host: str, name: str, with_package: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_package:
        monkeypatch.setitem(sys.modules, "idna", None)
    assert ascii_host(host) == name


@pytest.mark.parametrize(
    "host",
    [
        "so\xadft.test",  # a soft hyphen
        "a\u200bb.test",  # a space without width
        "a\u3164b.test",  # a letter that looks like nothing
        "a\u2488b.test",  # a digit and a dot in one
        "a\uff0fb.test",  # a slash that is wide
        "a\u2100b.test",  # a/c in one
        "a\U000e01fa.test",  # not assigned
        "\xe9..test",
        "\xe9" * 64 + ".test",
        "\uff58n--a\xe9.test",  # xn-- that is wide
        "\ud800.test",
    ],
)
def test_what_cannot_be_a_name_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="invalid host name"):
        check_address(host, 80)


def test_every_character_means_what_uts_46_says_or_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    idna = pytest.importorskip("idna")
    monkeypatch.setitem(sys.modules, "idna", None)  # for our own code, which has to do without
    wrong = []
    for number in (*range(0x80, 0x3400), *range(0xA640, 0xAC00), *range(0xF900, 0x10000)):
        label = f"a{chr(number)}b"
        try:
            name = ascii_host(label)
        except ValueError:
            continue
        try:
            mapped = idna.uts46_remap(label, std3_rules=False, transitional=False)
        except idna.IDNAError:
            continue  # UTS 46 has no other meaning for it
        if not mapped.isascii():
            mapped = "xn--" + mapped.encode("punycode").decode()
        if name != mapped:
            wrong.append((hex(number), name, mapped))
    assert not wrong


def test_idna_is_imported_only_for_a_name_that_needs_it() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import dugong\n"
        "dugong.HTTPConnection('b\xfccher.test')\n"
        "assert 'idna' not in sys.modules\n"
    )
    root = Path(module.__file__).parents[2]
    subprocess.run([sys.executable, "-I", "-S", "-c", program, str(root)], check=True)


# --- another resolver -----------------------------------------------------------------------------


def no_such_name(host: str, port: int) -> list[Any]:
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


def out_of_order(host: str, port: int) -> list[Any]:
    raise RuntimeError("no server responds")


def ends(host: str, port: int) -> list[Any]:
    raise SystemExit


def gives_up(host: str, port: int) -> Iterator[str]:
    yield "192.0.2.1"
    raise asyncio.CancelledError


async def asynchronous(host: str, port: int) -> list[str]:
    return ["192.0.2.1"]


@pytest.mark.parametrize(
    ("resolver", "error"),
    [
        (no_such_name, HostnameNotResolvable),
        (out_of_order, DNSUnavailable),
        (ends, DNSUnavailable),
        (gives_up, DNSUnavailable),
        (lambda host, port: [], HostnameNotResolvable),
        (lambda host, port: None, HostnameNotResolvable),
        (asynchronous, HostnameNotResolvable),
        (lambda host, port: "127.0.0.1", HostnameNotResolvable),
        (lambda host, port: "1", HostnameNotResolvable),
        (lambda host, port: [("127.0.0.1", "80")], HostnameNotResolvable),
        (lambda host, port: [("127.0.0.1", 65536)], HostnameNotResolvable),
        (lambda host, port: [("127.0.0.1", 0)], HostnameNotResolvable),
        (lambda host, port: [("::1", 80, "a", "b")], HostnameNotResolvable),
        (lambda host, port: [("::1", 80, 1 << 20, 0)], HostnameNotResolvable),
        (lambda host, port: [("::1", 80, 0, 1 << 32)], HostnameNotResolvable),
        (lambda host, port: [("::1", 80, 0, -1)], HostnameNotResolvable),
        (lambda host, port: [("::1", 80, 0, 1.0)], HostnameNotResolvable),
        (lambda host, port: ["other.test"], HostnameNotResolvable),
        (lambda host, port: [""], HostnameNotResolvable),
        (lambda host, port: [None], HostnameNotResolvable),
        (lambda host, port: [(None, 80)], HostnameNotResolvable),
        (lambda host, port: [("127.0.0.1",)], HostnameNotResolvable),
        (lambda host, port: [b"127.0.0.1"], HostnameNotResolvable),
    ],
)
def test_a_resolver_that_has_no_addresses_says_why_or_is_wrong(
    resolver: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        resolve("origin.test", 80, resolver=resolver)
    assert "origin.test" in str(caught.value)


def test_the_addresses_of_a_resolver_keep_their_order_and_their_ports() -> None:
    found = resolve(
        "origin.test",
        80,
        resolver=lambda host, port: [
            "192.0.2.1",
            ("192.0.2.2", 81),
            ("2001:db8::1", 82, 0, 0),
            ("192.0.2.3", 83, 0, 0),
            ("2001:db8::2", 84, 5),
            ("2001:db8::3", 85, 5, 6, 7),
        ],
    )
    assert [(each[0], each[4]) for each in found] == [
        (socket.AF_INET, ("192.0.2.1", 80)),
        (socket.AF_INET, ("192.0.2.2", 81)),
        (socket.AF_INET6, ("2001:db8::1", 82, 0, 0)),
        (socket.AF_INET, ("192.0.2.3", 83)),
        (socket.AF_INET6, ("2001:db8::2", 84, 5, 0)),
        (socket.AF_INET6, ("2001:db8::3", 85, 5, 6)),
    ]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("127.1", False),
        ("0x7f000001", False),
        ("1.2.3.4.5", False),
        ("example.test", False),
        ("", False),
        ("1.2.3.4\0", False),
    ],
)
def test_an_address_in_its_usual_form_is_no_name(host: str, expected: bool) -> None:
    assert is_numeric(host) is expected
