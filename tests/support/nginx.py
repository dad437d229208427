"""A real nginx on random loopback ports, for as long as a `with` block runs.

    with nginx(path, directory, authority) as server:
        conn = HTTPConnection("127.0.0.1", server.port)

It is a child in the foreground that inherits its listening sockets, so there is no port to be
guessed and no start to be waited for: what connects early is served a little later.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

CERTS = Path(__file__).parent.parent / "certs"

_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    types {{ text/plain txt; }}
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        root {root};
        {settings}
    }}
}}
"""


class Nginx(NamedTuple):
    """`root` is the directory that is served, at `port` and with TLS at `tls_port`."""

    port: int
    tls_port: int
    root: Path


@contextmanager
def nginx(path: str, directory: Path, authority: trustme.CA, settings: str = "") -> Iterator[Nginx]:
    """Run the nginx at *path*, which writes below *directory*.

    *settings* go into its server block. It speaks TLS as 127.0.0.1, certified by *authority*.
    """
    root = directory / "root"
    root.mkdir()
    certificate = tempfile.NamedTemporaryFile(dir=CERTS, suffix=".pem")  # noqa: SIM115
    plain = socket.create_server(("127.0.0.1", 0))
    tls = socket.create_server(("127.0.0.1", 0))
    with plain, tls, certificate:
        leaf = authority.issue_cert("127.0.0.1")
        leaf.private_key_and_cert_chain_pem.write_to_path(certificate.name)
        server = Nginx(plain.getsockname()[1], tls.getsockname()[1], root)
        config = directory / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                directory=directory,
                # If we may write below the directory only as root, then so may the worker.
                user="user root;" if os.geteuid() == 0 else "",
                certificate=certificate.name,
                settings=settings,
                **server._asdict(),
            )
        )
        process = subprocess.Popen(
            [path, "-c", config, "-p", directory],
            pass_fds=(plain.fileno(), tls.fileno()),
            # This is how nginx hands its sockets over to a new version of itself.
            env={"NGINX": f"{plain.fileno()};{tls.fileno()};"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        plain.close()  # or, if nginx did not start, who connects would wait for ever
        tls.close()
        try:
            yield server
        finally:
            died = process.poll()
            process.terminate()
            _, output = process.communicate(timeout=10)
        assert died is None, f"nginx ended with status {died}: {output.decode()}"
