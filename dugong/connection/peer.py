"""What is at the other end of a connection: `PeerInfo`.

Guarantees: it is found out once, when the connection is open, and stays known when that has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dugong.connection.transport import Transport

__all__ = ["NO_PEER", "PeerInfo", "find_peer"]


class PeerInfo(NamedTuple):
    """What a connection leads to. All responses of one connection share one.

    `address` and `port` are what its socket is connected to: the IP address of the server, or of
    the proxy. Both are None if that is a `unix_socket`, or if there was no network. The rest is of
    TLS with the server, and None without it: `certificate` is that of the server, DER-encoded, and
    there is one, too, if it was not verified (``cryptography.x509.load_der_x509_certificate`` reads
    it); `tls_version` is such as "TLSv1.3", and `cipher` the name of the cipher suite.
    """

    address: str | None = None
    port: int | None = None
    certificate: bytes | None = None
    tls_version: str | None = None
    cipher: str | None = None


#: Of what has not come from a network.
NO_PEER = PeerInfo()


def find_peer(transport: Transport) -> PeerInfo:
    """Return what *transport*, which has just been connected, leads to."""
    address = port = None
    try:
        name = transport.sock.getpeername()
    except OSError:
        pass  # it has ended already, which sending will say
    else:
        if isinstance(name, tuple):  # else it is a path
            address, port = name[:2]
    tls = transport.ssl_object
    if tls is None:
        return PeerInfo(address, port)
    cipher = tls.cipher()
    certificate = tls.getpeercert(binary_form=True)
    return PeerInfo(address, port, certificate, tls.version(), cipher and cipher[0])
