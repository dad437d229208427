"""Which addresses are dialled, from where; and that a refused one is never connected to."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from dugong import (
    ConnectError,
    DNSUnavailable,
    HostnameNotResolvable,
    deadline,
    eval_coroutine,
)
from dugong.connection.dial import co_dial
from dugong.connection.network import Network
from dugong.connection.proxy import Proxy
from dugong.connection.transport import Transport
from tests.support.names import FakeNames, address, refusing
from tests.support.proxies import SocksProxy, UnixServer
from tests.support.server import TIMEOUT, Peer, ScriptedServer


def dial(host: str, port: int, network: Network, proxy: str | None = None) -> Transport:
    crt = co_dial(
        host, port, None, None if proxy is None else Proxy(proxy), TIMEOUT, network=network
    )
    return eval_coroutine(crt, TIMEOUT)


def name_peer(peer: Peer) -> None:
    host, port = peer.sock.getpeername()[:2]
    peer.send(f"{host} {port}\n".encode())


def received(transport: Transport) -> str:
    transport.block_timeout = TIMEOUT
    view = memoryview(bytearray(100))
    try:
        got = transport.recv_into(view)
        assert isinstance(got, int)
        return bytes(view[:got]).decode().rstrip()
    finally:
        transport.close()


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"unix_socket": b"/run/socket"}, TypeError),
        ({"unix_socket": 5}, TypeError),
        ({"unix_socket": ""}, ValueError),
        ({"unix_socket": "x" * 108}, ValueError),
        ({"unix_socket": "/run\0/socket"}, ValueError),
        ({"unix_socket": "/run/socket", "local_address": "127.0.0.1"}, ValueError),
        ({"unix_socket": "/run/socket", "resolver": print}, ValueError),
        ({"unix_socket": "/run/socket", "allow_address": print}, ValueError),
        ({"local_address": "localhost"}, ValueError),
        ({"local_address": ""}, ValueError),
        ({"local_address": "127.1"}, ValueError),
        ({"local_address": "fe80::1%nope"}, ValueError),
        ({"local_address": ("::1%lo", 80)}, ValueError),
        ({"local_address": ("127.0.0.1", -1)}, ValueError),
        ({"local_address": ("127.0.0.1", 65536)}, ValueError),
        ({"local_address": ("127.0.0.1", "80")}, TypeError),
        ({"local_address": ("127.0.0.1", True)}, TypeError),
        ({"local_address": ("127.0.0.1",)}, TypeError),
        ({"local_address": ["127.0.0.1", 80]}, TypeError),
        ({"local_address": (None, 80)}, TypeError),
        ({"local_address": b"127.0.0.1"}, TypeError),
        ({"resolver": "8.8.8.8"}, TypeError),
        ({"allow_address": "10.0.0.0/8"}, TypeError),
        ({"unix_socket": "/run/socket", "socket_options": []}, ValueError),
        ({"socket_options": 5}, TypeError),
        ({"socket_options": "abc"}, TypeError),
        ({"socket_options": [5]}, TypeError),
        ({"socket_options": (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)}, TypeError),
        ({"socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]}, TypeError),
        ({"socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, "1")]}, TypeError),
        ({"socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)]}, TypeError),
        ({"socket_options": [("SOL_SOCKET", socket.SO_KEEPALIVE, 1)]}, TypeError),
        ({"socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 2**31)]}, ValueError),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Network(**options)


# --- allow_address --------------------------------------------------------------------------------


def test_each_address_is_asked_about_before_it_is_dialled() -> None:
    asked = []

    def allow(ip: str, port: int) -> bool:
        asked.append((ip, port, server.connections))
        return True

    with ScriptedServer(name_peer) as server:
        received(dial(server.host, server.port, Network(allow_address=allow)))
    assert asked == [(server.host, server.port, 0)]


@pytest.mark.parametrize("given", [True, None])
def test_true_and_none_allow_an_address(given: bool | None) -> None:
    with ScriptedServer(name_peer) as server:
        received(dial(*server.address, Network(allow_address=lambda ip, port: given)))


@pytest.mark.parametrize("given", [0, 1, "", "yes", [], iter(())])
def test_nothing_is_allowed_by_mistake(given: Any) -> None:
    with ScriptedServer() as server, pytest.raises(PermissionError) as caught:
        dial(*server.address, Network(allow_address=lambda ip, port: given))
    assert isinstance(caught.value.__cause__, TypeError)


def refuse(ip: str, port: int) -> bool:
    return False


def fail(ip: str, port: int) -> bool:
    raise LookupError("not in the table")


def end(ip: str, port: int) -> bool:
    raise SystemExit("not in the table")


@pytest.mark.parametrize("allow", [refuse, fail, end])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f.1", "[::ffff:127.0.0.1]"]
)
def test_no_connection_is_made_to_a_refused_address_however_it_is_written(
    host: str, allow: Any, names: FakeNames
) -> None:
    names("localhost", ("127.0.0.1", 80))
    with ScriptedServer() as server, pytest.raises(PermissionError) as caught:
        dial(host.strip("[]"), server.port, Network(allow_address=allow))
    assert str(caught.value) == f"[Errno {errno.EACCES}] allow_address refuses 127.0.0.1"
    raised = {refuse: type(None), fail: LookupError, end: SystemExit}
    assert type(caught.value.__cause__) is raised[allow]
    assert server.connections == 0


def test_an_address_that_is_allowed_is_dialled_beside_one_that_is_not(names: FakeNames) -> None:
    def allow(ip: str, port: int) -> bool:
        return ip != "127.0.0.2"

    with ScriptedServer(name_peer) as server:
        names("origin.test", ("127.0.0.2", server.port), server.address)
        received(dial("origin.test", server.port, Network(allow_address=allow)))
    assert server.connections == 1


def test_a_proxy_is_asked_about_and_what_a_socks_proxy_is_told() -> None:
    asked = []

    def allow(ip: str, port: int) -> bool:
        asked.append((ip, port))
        return ip != "10.0.0.1"

    with ScriptedServer(lambda peer: peer.until_eof()) as server:
        script = SocksProxy(server.address)
        with ScriptedServer(script) as proxy:
            url = f"socks5://{proxy.host}:{proxy.port}"
            network = Network(allow_address=allow)
            dial("127.0.0.8", 81, network, url).close()
            assert asked == [("127.0.0.8", 81), proxy.address]
            with pytest.raises(ConnectError) as caught:
                dial("10.0.0.1", 81, network, url)
            said = "connecting to 10.0.0.1:81 (allow_address refuses 10.0.0.1)"
            assert str(caught.value) == said
    assert script.asked == [("127.0.0.8", 81)]


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks4a", "socks5", "socks5h"])
@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.43518",
        "0xa9fea9fe",
        "\uff11\uff16\uff19.254.169.254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe%lo",
        "0" * 70 + "251.254.169.254",
        "169.254.169.254.",
    ],
)
def test_no_proxy_is_told_a_refused_address_however_it_is_written(scheme: str, host: str) -> None:
    asked = []

    def allow(ip: str, port: int) -> bool:
        asked.append((ip, port))
        return ip == "127.0.0.1"

    with ScriptedServer() as proxy:
        network = Network(allow_address=allow)
        # Where no name can be looked up, one that is none cannot be found out either.
        unknown = HostnameNotResolvable, DNSUnavailable
        with pytest.raises((ConnectError, *unknown)) as caught:
            dial(host, 80, network, f"{scheme}://{proxy.host}:{proxy.port}")
    if scheme in ("socks4", "socks5") and isinstance(caught.value, unknown):
        assert asked == []  # the system does not read it as an address
    else:
        assert asked == [("169.254.169.254", 80)]
    assert proxy.connections == 0


def test_a_name_that_a_proxy_resolves_is_not_asked_about() -> None:
    asked = []

    def allow(ip: str, port: int) -> bool:
        asked.append((ip, port))
        return True

    with ScriptedServer(lambda peer: peer.until_eof()) as server:
        script = SocksProxy(server.address)
        with ScriptedServer(script) as proxy:
            url = f"socks5h://{proxy.host}:{proxy.port}"
            dial("origin.test", 81, Network(allow_address=allow), url).close()
    assert asked == [proxy.address]
    assert script.asked == [("origin.test", 81)]


@pytest.mark.parametrize(
    ("scheme", "resolved", "told"),
    [
        ("socks5", ["10.0.0.1", "127.0.0.1"], "127.0.0.1"),
        ("socks4", ["10.0.0.1", "127.0.0.1"], "127.0.0.1"),
        ("socks5", ["10.0.0.1", "::1"], "::1"),
        ("socks5", ["::1", "10.0.0.1"], "::1"),
        ("socks5", ["::1", "127.0.0.1"], "127.0.0.1"),
        ("socks4", ["::1", "127.0.0.1"], "127.0.0.1"),
        ("socks5", ["10.0.0.1", "10.0.0.2"], None),
        ("socks4", ["10.0.0.1", "::1"], None),
    ],
)
def test_a_socks_proxy_is_told_the_first_address_that_is_allowed(
    scheme: str, resolved: list[str], told: str | None
) -> None:
    def allow(ip: str, port: int) -> bool:
        return not ip.startswith("10.")

    with ScriptedServer(lambda peer: peer.until_eof()) as server:
        script = SocksProxy(server.address)
        with ScriptedServer(*[script] * (told is not None)) as proxy:
            network = Network(resolver=lambda host, port: resolved, allow_address=allow)
            url = f"{scheme}://{proxy.host}:{proxy.port}"
            if told is None:
                with pytest.raises(ConnectError, match=r"refuses 10\.0\.0\.1"):
                    dial("origin.test", 81, network, url)
            else:
                dial("origin.test", 81, network, url).close()
    assert script.asked == ([] if told is None else [(told, 81)])


def test_a_filter_is_asked_about_the_port_that_a_proxy_is_told() -> None:
    asked = []

    def allow(ip: str, port: int) -> bool:
        asked.append((ip, port))
        return port != 81

    with ScriptedServer() as proxy:
        network = Network(resolver=lambda host, port: [("127.0.0.1", 80)], allow_address=allow)
        with pytest.raises(ConnectError, match=r"connecting to origin\.test:81"):
            dial("origin.test", 81, network, f"socks5://{proxy.host}:{proxy.port}")
    assert asked == [("127.0.0.1", 81)]


def test_a_filter_sees_the_ipv4_address_that_is_dialled_by_ipv6() -> None:
    asked = []

    def allow(ip: str, port: int) -> None:
        asked.append(ip)

    network = Network(allow_address=allow)
    for ip in ("::ffff:10.0.0.1", "::ffff:a00:1", "2001:db8::1", "fe80::1%lo", "::10.0.0.1"):
        network.check(address((ip, 80)))
    assert asked == ["10.0.0.1", "10.0.0.1", "2001:db8::1", "fe80::1%lo", "::10.0.0.1"]


# --- resolver -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["str", "pair", "sockaddr"])
def test_a_resolver_is_asked_instead_of_the_system(form: str, names: FakeNames) -> None:
    asked = []

    def resolver(host: str, port: int) -> list[Any]:
        asked.append((host, port))
        return {
            "str": ["127.0.0.1"],
            "pair": [("127.0.0.1", server.port)],
            "sockaddr": [("::1", server.port, 0, 0)],
        }[form]

    with ScriptedServer(name_peer, host="::1" if form == "sockaddr" else "127.0.0.1") as server:
        port = server.port if form == "str" else 80
        received(dial("origin.test", port, Network(resolver=resolver)))
    assert asked == [("origin.test", port)]
    assert "origin.test" not in names.asked


def test_a_resolver_is_not_asked_for_an_address() -> None:
    with ScriptedServer(name_peer) as server:
        received(dial(*server.address, Network(resolver=lambda host, port: 1 / 0)))  # type: ignore[arg-type,return-value]  # it is not called


def test_the_time_that_resolving_takes_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(deadline, "monotonic", lambda: now[0])

    def resolver(host: str, port: int) -> list[Any]:
        now[0] += 2 * TIMEOUT
        return [server.address]

    with ScriptedServer(name_peer) as server:
        received(dial("origin.test", 80, Network(resolver=resolver)))


def test_a_resolver_is_asked_for_a_proxy() -> None:
    with ScriptedServer(lambda peer: peer.send(b"here")) as server:
        network = Network(resolver=lambda host, port: [server.address])
        assert received(dial("origin.test", 80, network, "http://proxy.test:3128")) == "here"


# --- socket_options -------------------------------------------------------------------------------


def option_of(transport: Transport, level: int, name: int) -> int:
    value = transport.sock.getsockopt(level, name)
    received(transport)
    return value


@pytest.mark.parametrize("value", [1, struct.pack("i", 1)], ids=["int", "bytes"])
def test_each_socket_has_the_options(value: int | bytes) -> None:
    network = Network(socket_options=iter([(socket.SOL_SOCKET, socket.SO_KEEPALIVE, value)]))
    with ScriptedServer(name_peer, repeat=True) as server:
        for _ in range(2):  # an iterator is read once
            transport = dial(*server.address, network)
            assert option_of(transport, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_options_are_set_before_a_socket_connects() -> None:
    seen = []

    class Noting(socket.socket):
        def connect(self, address: Any) -> None:
            seen.append(self.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            super().connect(address)

    with pytest.MonkeyPatch.context() as patch, ScriptedServer(name_peer) as server:
        patch.setattr(socket, "socket", Noting)
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        received(dial(*server.address, Network(socket_options=options)))
    assert seen == [1]


def test_without_options_nothing_is_kept_alive_and_small_packets_are_not_held_back() -> None:
    with ScriptedServer(name_peer, repeat=True) as server:
        transport = dial(*server.address, Network())
        assert option_of(transport, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        transport = dial(*server.address, Network())
        assert option_of(transport, socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_an_option_of_the_caller_comes_before_ours() -> None:
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)]
    with ScriptedServer(name_peer) as server:
        transport = dial(*server.address, Network(socket_options=options))
        assert option_of(transport, socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0


def test_an_option_that_the_system_refuses_is_an_error_of_the_connection() -> None:
    with ScriptedServer() as server, pytest.raises(OSError, match="Protocol not available"):
        dial(*server.address, Network(socket_options=[(socket.IPPROTO_TCP, 9999, 1)]))


# --- local_address --------------------------------------------------------------------------------


def test_connections_come_from_the_local_address() -> None:
    with ScriptedServer(name_peer) as server:
        transport = dial(*server.address, Network(local_address="127.0.0.5"))
        assert received(transport).startswith("127.0.0.5 ")


def test_connections_come_from_the_local_port_though_another_has_just_been_closed() -> None:
    with refusing() as (_, port):
        pass  # now it is free
    network = Network(local_address=("127.0.0.5", port))
    with ScriptedServer(name_peer) as one, ScriptedServer(name_peer) as other:
        for server in (one, other):
            assert received(dial(*server.address, network)) == f"127.0.0.5 {port}"


def test_only_addresses_of_the_family_of_the_local_one_are_dialled(names: FakeNames) -> None:
    network = Network(local_address="127.0.0.5")
    with ScriptedServer(name_peer) as server:
        names("origin.test", ("::1", server.port), server.address)
        assert received(dial("origin.test", server.port, network)).startswith("127.0.0.5 ")
    with pytest.raises(OSError, match="no address is of the family of local_address"):
        dial("::1", 80, network)


def test_an_address_that_is_not_of_this_host_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="Cannot assign") as caught:
        dial("127.0.0.1", 80, Network(local_address="192.0.2.1"))
    assert caught.value.errno == errno.EADDRNOTAVAIL


# --- unix_socket ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_all_connections_go_to_the_unix_socket(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with UnixServer(path, lambda peer: peer.send(b"here\n")):
        assert received(dial("no.such.test", 80, Network(unix_socket=kind(path)))) == "here"


def test_a_unix_socket_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    network = Network(unix_socket=tmp_path / "socket")
    with pytest.raises(FileNotFoundError) as caught:
        dial("origin.test", 80, network)
    assert caught.value.__notes__ == [f"while connecting to the socket {tmp_path / 'socket'}"]


def test_a_unix_socket_with_a_full_queue_refuses(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        network = Network(unix_socket=path)
        first = dial("origin.test", 80, network)
        try:
            with pytest.raises(ConnectionRefusedError, match="too many are waiting"):
                dial("origin.test", 80, network)
        finally:
            first.close()


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux has names that are no files")
def test_a_unix_socket_may_have_a_name_that_is_no_file() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0dugong-{os.getpid()}")
        listener.listen()
        network = Network(unix_socket=f"\0dugong-{os.getpid()}")
        transport = dial("origin.test", 80, network)
        with listener.accept()[0] as peer:
            peer.sendall(b"here")
        assert received(transport) == "here"
