"""Judges `dugong.s3` against three real servers, which are killed in the middle.

    python -m tests.s3.judge_s3 [--python PYTHON] [SERVER...]

Each scenario is played against SeaweedFS, rclone and moto, over http and https. What is stored is
read by boto3, and counted by it: nothing may be lost, nothing may be doubled, and no upload may be
left open. Prints a table, and exits with 1 if something is wrong, or has not ended. The servers and
boto3 are installed from PyPI into a temporary environment, unless *PYTHON* has them. Takes some
minutes; all traffic stays on the loopback interface.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from dugong import DugongError, RetryPolicy
from dugong.s3 import Bucket, S3Error
from tests.adapters.judge_botocore import (
    KEY,
    ODD_KEYS,
    PACKAGES,
    ROOT,
    SECRET,
    RealServer,
    data_of,
    front,
)

SCENARIO_TIME = 300.0  # seconds that a scenario may take
READY_TIME = 60.0  # seconds until a server that was started again, and responds, finds its data
PART = 5 * 2**20
LARGE = 9 * PART + 12_345
PATIENT = RetryPolicy(attempts=60, max_backoff=2.0)
#: Forgets everything when it is killed; forgets the uploads that are open.
FORGETFUL = {"moto"}


class Stage(NamedTuple):
    """Where a scenario is played. *s3* is a client of boto3, by which all is checked."""

    server: RealServer
    s3: Any
    name: str
    folder: Path

    def bucket(self, url: str | None = None, **options: Any) -> Bucket:
        options = {"retry": PATIENT, "timeout": 20, "part_size": PART, **options}
        if self.server.url.startswith("https"):
            options.setdefault("verify", os.environ["JUDGE_AUTHORITY"])
        return Bucket(
            self.name,
            endpoint=url or self.server.url,
            credentials=(KEY, SECRET),
            region="us-east-1",
            **options,
        )

    def content(self, key: str) -> bytes:
        deadline = time.monotonic() + READY_TIME
        while True:
            try:
                body: bytes = self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()
                return body
            except ClientError as exc:
                if exc.response["Error"]["Code"] != "InternalError" or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def keys(self) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    def check(self, expected: dict[str, bytes]) -> None:
        """Raise unless the bucket has *expected*, nothing else, and no upload is open."""
        assert sorted(self.keys()) == sorted(expected), (len(self.keys()), len(expected))
        with ThreadPoolExecutor(8) as executor:
            found = dict(zip(expected, executor.map(self.content, expected), strict=True))
        wrong = [key for key, content in expected.items() if found[key] != content]
        assert not wrong, wrong
        assert self.open_uploads() == []

    def open_uploads(self) -> list[str]:
        try:
            found = self.s3.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        except ClientError as exc:
            if exc.response["Error"]["Code"] == "NoSuchUpload":  # so rclone says that there is none
                return []
            raise
        return [each["Key"] for each in found]

    def restart(self, seconds: float = 0.5) -> None:
        """Kill the server, and start it again after some *seconds*."""
        self.server.kill()
        time.sleep(seconds)
        self.server.start()
        if self.server.name in FORGETFUL:
            self.s3.create_bucket(Bucket=self.name)


class Killer:
    """Restarts a server once, in a thread of its own, when it is told of enough progress."""

    def __init__(self, stage: Stage, after: int) -> None:
        self._stage = stage
        self._after = after
        self._thread = threading.Thread(target=stage.restart)

    def __call__(self, done: int, total: int | None) -> None:
        if done >= self._after and self._thread.ident is None:
            self._thread.start()

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def has_killed(self) -> bool:
        return self._thread.ident is not None


def error_of(action: Callable[[], object]) -> str:
    """Return the code or the name of the error that *action* ends with, or "" if there is none."""
    try:
        action()
    except S3Error as exc:
        return exc.code
    except DugongError as exc:
        return type(exc).__name__
    return ""


# --- the scenarios --------------------------------------------------------------------------------


def small_objects(stage: Stage) -> str:
    expected = {f"small/{n}": data_of(1000 + n, n) for n in range(300)}
    with stage.bucket() as bucket, ThreadPoolExecutor(16) as executor:
        list(executor.map(lambda item: bucket.put(*item), expected.items()))
        stage.check(expected)
        for key, response in zip(expected, executor.map(bucket.get, expected), strict=True):
            assert response.body == expected[key]
        listed = {each.key: each.size for each in bucket.list("small/")}
        assert listed == {key: len(content) for key, content in expected.items()}
        assert error_of(lambda: bucket.get("nothing")) == "NoSuchKey"
        assert error_of(lambda: bucket.head("nothing")) == "NotFound"
        list(executor.map(bucket.delete, expected))
        bucket.delete("nothing")
    stage.check({})
    return ""


def odd_keys(stage: Stage) -> str:
    """Some servers refuse some keys, or say that they have stored what they have not."""
    otherwise = []
    with stage.bucket() as bucket:
        for n, key in enumerate(ODD_KEYS):
            body = b"%d" % n
            code = error_of(lambda key=key, body=body: bucket.put(key, body))  # type: ignore[misc]  # mypy knows no defaults of lambdas
            if code:
                assert code in ("InvalidArgument", "InvalidRequest"), (key, code)
                otherwise.append(key)
                continue
            if stage.content(key) != body:
                assert error_of(lambda key=key: bucket.get(key)) == "ChecksumError"  # type: ignore[misc]  # as above
                otherwise.append(key)
            else:
                assert bucket.get(key).body == body
            response = stage.s3.list_objects_v2(Bucket=stage.name, Prefix=key)
            theirs = [each["Key"] for each in response.get("Contents", [])]
            assert [each.key for each in bucket.list(key)] == theirs, key
            bucket.delete(key)
            assert error_of(lambda key=key: bucket.head(key)) == "NotFound"  # type: ignore[misc]  # as above
    stage.check({})
    return f"not {' '.join(otherwise)}" if otherwise else ""


def multipart(stage: Stage) -> str:
    data = data_of(LARGE)
    path, copy = stage.folder / "file", stage.folder / "copy"
    path.write_bytes(data)
    with stage.bucket() as bucket, open(path, "rb") as file:
        bucket.put("bytes", data)
        bucket.put("path", path, headers={"x-amz-meta-colour": "blue"})
        bucket.put("file", file)
        bucket.put("stream", (data[n : n + 700_000] for n in range(0, LARGE, 700_000)))
        stage.check(dict.fromkeys(("bytes", "path", "file", "stream"), data))
        assert bucket.head("path").headers["x-amz-meta-colour"] == "blue"
        found = bucket.download("path", copy)
        assert (copy.read_bytes() == data, found.size) == (True, LARGE)
        assert bucket.get("path").body == data
    return ""


def sync(stage: Stage) -> str:
    root = stage.folder / "root"
    expected = {f"deep/{n % 7}/file {n}": data_of(n, n) for n in range(400)}
    expected |= {f"large {n}": data_of(2 * PART + n, n) for n in range(3)}
    write(root, expected)
    with stage.bucket() as bucket:
        assert len(bucket.sync(root).stored) == len(expected)
        stage.check(expected)
        assert bucket.sync(root) == ([], len(expected), [])
        changed = {f"deep/{n % 7}/file {n}": data_of(n, n + 1) for n in range(1, 400, 50)}
        changed["large 1"] = data_of(2 * PART + 1, 100)
        write(root, changed)
        assert sorted(bucket.sync(root).stored) == sorted(changed)
        stage.check(expected | changed)
        assert bucket.sync(root) == ([], len(expected), [])
    return ""


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def busy(stage: Stage) -> str:
    if stage.server.url.startswith("https"):
        return "over http only"
    data = data_of(LARGE)
    with front(stage.server, 10) as url, stage.bucket(url) as bucket:
        bucket.put("key", data)
        bucket.close()
    stage.check({"key": data})
    return ""


def killed_while_storing_parts(stage: Stage) -> str:
    data = data_of(LARGE)
    path = stage.folder / "file"
    path.write_bytes(data)
    for after in (PART, 5 * PART):
        with stage.bucket() as bucket, Killer(stage, after) as killer:
            put(stage, bucket, path, killer)
            assert killer.has_killed
        stage.check({"key": data})
    return ""


def put(stage: Stage, bucket: Bucket, body: Any, killer: Killer) -> None:
    """Store *body*, again if the server has forgotten even the bucket in the middle."""
    forgets = stage.server.name in FORGETFUL
    # moto responds 500 to a part of an upload that it does not know.
    options: dict[str, Any] = {"retry": RetryPolicy(max_backoff=3.0)} if forgets else {}
    with stage.bucket(**options) as own:
        code = error_of(lambda: own.put("key", body, progress=killer))
    with killer:
        pass  # the server has been started again
    if forgets:
        bucket.put("key", body)
    else:
        assert not code, code


def killed_while_completing(stage: Stage) -> str:
    """Killed when all parts have been stored, so in the middle of the last request, or near it."""
    data = data_of(LARGE)
    for seconds in (0.0, 0.002, 0.01):

        class Late(Killer):
            def __call__(self, done: int, total: int | None, seconds: float = seconds) -> None:
                super().__call__(done, total)
                if self.has_killed:
                    time.sleep(seconds)

        with stage.bucket() as bucket, Late(stage, LARGE) as killer:
            put(stage, bucket, data, killer)
        stage.check({"key": data})
    return ""


def killed_while_syncing(stage: Stage) -> str:
    root = stage.folder / "root"
    expected = {f"file {n}": data_of(20_000 + n, n) for n in range(1500)}
    expected |= {f"large {n}": data_of(3 * PART + n, n) for n in range(3)}
    write(root, expected)
    runs = 0
    with stage.bucket() as bucket:
        killer = threading.Timer(0.3, stage.restart)
        killer.start()
        try:
            while True:
                runs += 1
                # What is stored before moto forgets it is missed by the next run.
                with suppress(DugongError):
                    if not bucket.sync(root).stored and not killer.is_alive():
                        break
        finally:
            killer.join()
        stage.check(expected)
    return f"{runs} runs"


def killed_while_fetching(stage: Stage) -> str:
    data = data_of(LARGE)
    path = stage.folder / "file"
    stage.s3.put_object(Bucket=stage.name, Key="key", Body=data)
    with stage.bucket() as bucket, Killer(stage, PART) as killer:
        code = error_of(lambda: bucket.download("key", path, progress=killer))
        assert killer.has_killed
    if stage.server.name in FORGETFUL:
        if code:
            assert code in ("NoSuchKey", "NoSuchBucket"), code
            assert os.listdir(stage.folder) == []
            return code
    else:
        assert not code, code
    assert path.read_bytes() == data
    assert os.listdir(stage.folder) == ["file"]
    return ""


def killed_client(stage: Stage) -> str:
    """The process that stores is killed, and the next one goes on."""
    data = data_of(LARGE)
    path = stage.folder / "file"
    path.write_bytes(data)
    program = (
        "import os, sys, signal\n"
        "from dugong.s3 import Bucket\n"
        f"options = {{'verify': {os.environ['JUDGE_AUTHORITY']!r}}}\n"
        "def tell(done, total):\n"
        f"    if done >= {4 * PART}: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"with Bucket({stage.name!r}, endpoint={stage.server.url!r}, region='us-east-1',\n"
        f"    credentials=({KEY!r}, {SECRET!r}), part_size={PART}, **options) as bucket:\n"
        f"    from pathlib import Path; bucket.put('key', Path({str(path)!r}), progress=tell)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert stage.keys() == []
    assert stage.open_uploads() == ["key"]
    told: list[int] = []
    sent: list[str] = []

    def count(event: Any) -> None:
        if event.request is not None and "partNumber" in event.request.url and event.kind == "sent":
            sent.append(event.request.url)

    with stage.bucket(on_event=count) as bucket:
        bucket.put("key", path, progress=lambda done, total: told.append(done))
    stage.check({"key": data})
    assert told[-1] == LARGE
    assert len(sent) <= 6, len(sent)
    return f"{len(sent)} of 10 parts were sent again"


def failing(stage: Stage) -> str:
    """An upload whose body fails, or whose parts are refused, leaves nothing."""

    def pieces() -> Any:
        for _ in range(4):
            yield data_of(PART)
        raise RuntimeError("the disk is gone")

    with stage.bucket() as bucket:
        try:
            bucket.put("key", pieces())
        except RuntimeError:
            pass
        else:
            raise AssertionError("the failure of the body was lost")
    stage.check({})
    return ""


SCENARIOS: tuple[Callable[[Stage], str], ...] = (
    small_objects,
    odd_keys,
    multipart,
    sync,
    busy,
    failing,
    killed_while_storing_parts,
    killed_while_completing,
    killed_while_syncing,
    killed_while_fetching,
    killed_client,
)


# --- the judgement --------------------------------------------------------------------------------


def play(scenario: Callable[[Stage], str], server: RealServer) -> tuple[bool, str]:
    """Return whether *scenario* has come out well, and what is said of it."""
    came_out: list[tuple[bool, str]] = []
    name = f"judge-{random.randrange(10**9):09}"

    def run() -> None:
        s3 = server.client()
        s3.create_bucket(Bucket=name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                came_out.append((True, scenario(Stage(server, s3, name, Path(folder)))))
            except Exception:
                came_out.append((False, traceback.format_exc()))

    start = time.monotonic()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SCENARIO_TIME)
    is_well, said = came_out[0] if came_out else (False, "has not ended")
    return is_well, f"{said} [{time.monotonic() - start:.1f} s]".strip()


def judge(names: list[str], only: list[str]) -> int:
    """Play the scenarios against the servers *names*; print how they come out; return 1 or 0."""
    import trustme

    bad = 0
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
                data_folder = folder / f"{name}-{scheme}"
                data_folder.mkdir()
                server = RealServer(name, data_folder, paths if scheme == "https" else None)
                server.start()
                try:
                    for scenario in SCENARIOS:
                        if only and scenario.__name__ not in only:
                            continue
                        is_well, said = play(scenario, server)
                        bad += not is_well
                        word = "well" if is_well else "WRONG"
                        print(f"{name:10} {scheme:6} {scenario.__name__:28} {word:6} {said}")
                        sys.stdout.flush()
                finally:
                    server.kill()
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="an interpreter that has " + ", ".join(PACKAGES))
    parser.add_argument("--only", action="append", default=[], help="play this scenario only")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("servers", nargs="*", default=["seaweedfs", "rclone", "moto"])
    args = parser.parse_args()
    if args.inside:
        return judge(args.servers, args.only)
    with tempfile.TemporaryDirectory() as folder:
        python = args.python
        if python is None:
            venv.create(folder, with_pip=True)
            python = str(Path(folder) / "bin" / "python")
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        only = [f"--only={name}" for name in args.only]
        command = [python, "-m", "tests.s3.judge_s3", "--inside", *only, *args.servers]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
