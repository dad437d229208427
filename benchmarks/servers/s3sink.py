"""A server that says it has stored what it is sent, as S3 does: for uploads, whole and in parts.

Guarantees: it responds to an upload once it has received all of it. The kernel discards the bodies,
so it needs less time than any client. Its ETags are made of the Content-MD5 that it is sent, and it
returns the CRC32 that it is sent, as S3 does; signatures and checksums are not verified. Lists are
empty. A connection may be pipelined.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import sys
from contextlib import suppress
from threading import Thread

from clients.worker import BUFFER_SIZE, HOST

_FIELDS = re.compile(rb"\r\n([^:\r\n]+): *([^\r\n]*)")
_PART = re.compile(rb"<ETag>(?:&#34;|&quot;|\")?([0-9a-f]{32})")
_UPLOAD = b"upload"
_XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'
#: Of a body whose Content-MD5 was not sent.
_SOME_ETAG = "0" * 32


def accept(listener: socket.socket) -> None:
    """Serve each connection in a thread of its own."""
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Thread(target=serve, args=(sock,), daemon=True).start()


def serve(sock: socket.socket) -> None:
    """Respond to one request after the other."""
    waste = bytearray(4 * BUFFER_SIZE)
    received = b""
    with sock, suppress(ConnectionError):  # a client may be killed
        while True:
            while b"\r\n\r\n" not in received:
                data = sock.recv(BUFFER_SIZE)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            start, _, _ = head.partition(b"\r\n")
            fields = {name.lower(): value for name, value in _FIELDS.findall(head)}
            length = int(fields.get(b"content-length", 0))
            if length and not received and fields.get(b"expect") == b"100-continue":
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            keeps = start.startswith(b"POST")
            while (left := length - len(received)) > 0:
                if keeps:
                    data = sock.recv(left)
                    received += data
                    got = len(data)
                else:
                    got = sock.recv_into(waste, min(left, len(waste)), socket.MSG_TRUNC)
                    length -= got
                if not got:
                    return
            body, received = received[:length], received[length:]
            sock.sendall(response(start, fields, body))


def response(start: bytes, fields: dict[bytes, bytes], body: bytes) -> bytes:
    """Return the response to a request, of which *body* is kept if it is a POST."""
    method, target, _ = start.split(b" ")
    if method == b"PUT":
        md5 = base64.b64decode(fields.get(b"content-md5", b"")).hex() or _SOME_ETAG
        more = f'ETag: "{md5}"\r\n'
        crc32 = fields.get(b"x-amz-checksum-crc32")
        if crc32 is not None:
            more += f"x-amz-checksum-crc32: {crc32.decode()}\r\n"
        return f"HTTP/1.1 200 OK\r\n{more}Content-Length: 0\r\n\r\n".encode()
    if method == b"DELETE":
        return b"HTTP/1.1 204 No Content\r\n\r\n"
    if method == b"HEAD":
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    if method == b"POST" and b"uploadId=" in target:
        parts = [bytes.fromhex(md5.decode()) for md5 in _PART.findall(body)]
        etag = f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}".encode()
        return document(b"CompleteMultipartUploadResult", b"<ETag>&quot;%b&quot;</ETag>" % etag)
    if method == b"POST":
        return document(b"InitiateMultipartUploadResult", b"<UploadId>%b</UploadId>" % _UPLOAD)
    name = b"ListMultipartUploadsResult" if b"uploads" in target else b"ListBucketResult"
    return document(name, b"<IsTruncated>false</IsTruncated>")


def document(name: bytes, text: bytes) -> bytes:
    body = b'%b<%b xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%b</%b>' % (
        _XML,
        name,
        text,
        name,
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def main() -> None:
    listener = socket.create_server((HOST, 0))
    print(listener.getsockname()[1], flush=True)
    Thread(target=accept, args=(listener,), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
