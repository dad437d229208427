"""Signatures: each attempt has its own, and none goes where it does not belong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials

from dugong import Client, Request
from dugong.s3 import S3Auth, S3Error
from tests.support.client import Page, Place, moved
from tests.support.s3 import KEY, QUICK, REGION, SECRET, S3Site, error, open_bucket

URL = "http://h:9000/bucket/a%20b?list-type=2&prefix=a%2Bb"


def made(auth: S3Auth, request: Request) -> dict[str, str]:
    return dict(auth.headers(request))  # type: ignore[arg-type]  # it is a list of pairs


@pytest.fixture
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let botocore find no credentials and no region."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_a_server_accepts_the_signature_of_each_kind_of_request() -> None:
    with open_bucket() as here, Client(auth=S3Auth((KEY, SECRET), REGION)) as client:
        url = here.bucket.url
        assert client.put(f"{url}/a", body=b"content").status == 200
        assert client.get(f"{url}/a", headers={"Range": "bytes=0-1"}).body == b"co"
        assert client.get(f"{url}/", params="list-type=2&prefix=%2F%20%2B").status == 200
        assert client.post(f"{url}/a", params="uploads").status == 200
        headers = {"x-amz-meta-a": "b", "Content-Type": "text/plain", "Cache-Control": "no-cache"}
        assert client.put(f"{url}/b", body=b"", headers=headers).status == 200
        assert client.delete(f"{url}/b").status == 204
        assert here.site.refused == []


def test_a_body_in_memory_is_hashed_and_another_is_not_signed() -> None:
    auth = S3Auth((KEY, SECRET), REGION)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for body, digest in (
        (None, empty),
        (b"", empty),
        (b"abc", abc),
        (bytearray(b"abc"), abc),
        (iter([b"abc"]), "UNSIGNED-PAYLOAD"),
    ):
        assert made(auth, Request("PUT", URL, body=body))["X-Amz-Content-SHA256"] == digest
    given = Request("PUT", URL, headers={"x-amz-content-sha256": abc}, body=iter([b"abc"]))
    assert made(auth, given)["X-Amz-Content-SHA256"] == abc


def test_each_attempt_has_a_signature_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 27, 7, 0, tzinfo=UTC)

    def later(**_: Any) -> datetime:
        nonlocal now
        now += timedelta(seconds=1)
        return now

    monkeypatch.setattr(botocore.auth, "get_current_datetime", later)
    with open_bucket() as here:
        here.site.faults.append(lambda request: error("503 Slow Down", "SlowDown"))
        here.bucket.put("key", b"content")
        first, second = here.received("PUT")
    assert first.headers["x-amz-date"] == "20261127T070001Z"
    assert second.headers["x-amz-date"] == "20261127T070002Z"
    assert first.headers["authorization"] != second.headers["authorization"]


def test_a_signature_is_of_its_day_and_of_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter((27, 27, 28))
    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda **_: datetime(2026, 11, next(days), tzinfo=UTC),
    )

    class Changing:
        secret = SECRET

        def get_frozen_credentials(self) -> Credentials:
            return Credentials(KEY, self.secret)

    credentials = Changing()
    with open_bucket(credentials=credentials) as here:
        here.bucket.put("key", b"content")
        credentials.secret = "another"
        with pytest.raises(S3Error, match="the signature is wrong"):
            here.bucket.put("key", b"content")
        credentials.secret = SECRET
        here.bucket.put("key", b"content")
        assert [each.headers["x-amz-date"][6:8] for each in here.received("PUT")] == [
            "27",
            "27",
            "28",
        ]


def test_the_signature_is_that_of_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever white space and names the header fields have."""
    now = datetime(2026, 11, 27, tzinfo=UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: now)
    headers = {"X-Amz-Meta-B": " a  b ", "x-amz-meta-a": "", "Content-Type": "text/plain", "A": "b"}
    mine = made(S3Auth((KEY, SECRET, "token"), REGION), Request("PUT", URL, headers, body=b"abc"))
    signed = {name: value for name, value in headers.items() if name != "A"}
    request = AWSRequest("PUT", URL, {**signed, "host": "h:9000"}, b"abc")
    S3SigV4Auth(Credentials(KEY, SECRET, "token"), "s3", REGION).add_auth(request)
    assert mine == {name: request.headers[name] for name in mine}
    assert len(mine) == 4


def test_temporary_credentials_are_renewed_by_botocore() -> None:
    renewed: list[str] = []

    def renew() -> dict[str, str]:
        renewed.append(f"token-{len(renewed)}")
        until = datetime.now(UTC) + timedelta(seconds=1 if len(renewed) == 1 else 7200)
        return {
            "access_key": KEY,
            "secret_key": SECRET,
            "token": renewed[-1],
            "expiry_time": until.isoformat(),
        }

    credentials = RefreshableCredentials.create_from_metadata(renew(), renew, "test")
    auth = S3Auth(credentials, REGION)
    request = Request("GET", URL)
    # What has expired is renewed in the thread of the call, before the request is queued.
    next(auth.flow(request))
    assert renewed == ["token-0", "token-1"]
    assert made(auth, request)["X-Amz-Security-Token"] == "token-1"
    assert len(renewed) == 2


def test_the_token_of_temporary_credentials_is_signed() -> None:
    with open_bucket(credentials=(KEY, SECRET, "a token")) as here:
        here.bucket.put("key", b"content")
        (request,) = here.received("PUT")
        assert request.headers["x-amz-security-token"] == "a token"
        assert here.site.refused == []


def test_no_credentials_follow_a_redirect_to_another_host() -> None:
    elsewhere = Place(lambda request: Page(b"here"))
    site = S3Site()
    auth = S3Auth((KEY, SECRET, "a token"), REGION)
    with elsewhere.server, open_bucket(site) as here, Client(auth=auth, retry=QUICK) as client:
        site.faults.append(lambda request: moved(elsewhere.url("/key"), "307 Temporary Redirect"))
        response = client.put(f"{here.bucket.url}/key", body=b"content")
        assert response.body == b"here"
        (request,) = elsewhere.requests
        assert request.body == b"content"
        assert not [name for name in request.headers if name.startswith("x-amz-")]
        assert "authorization" not in request.headers


def test_a_field_that_is_given_twice_is_signed_as_it_is_sent() -> None:
    auth = S3Auth((KEY, SECRET), REGION)
    twice = Request("PUT", URL, headers=[("x-amz-meta-a", "1"), ("X-Amz-Meta-A", "2")])
    joined = Request("PUT", URL, headers={"x-amz-meta-a": "1,2"})
    assert made(auth, twice)["Authorization"] == made(auth, joined)["Authorization"]


def test_the_host_that_is_sent_is_the_one_that_is_signed() -> None:
    auth = S3Auth((KEY, SECRET), REGION)
    plain = made(auth, Request("GET", URL))
    named = made(auth, Request("GET", URL, headers={"Host": "other"}))
    assert "host" in plain["Authorization"]
    assert "Host" not in plain
    assert plain["Authorization"] != named["Authorization"]


@pytest.mark.usefixtures("_nowhere")
def test_credentials_and_region_are_those_that_botocore_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="there are no credentials"):
        S3Auth()
    assert S3Auth((KEY, SECRET)).region == "us-east-1"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FOUND")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    auth = S3Auth()
    assert auth.region == REGION
    scope = made(auth, Request("GET", URL))["Authorization"].partition(",")[0]
    assert scope.startswith("AWS4-HMAC-SHA256 Credential=FOUND/")
    assert scope.endswith(f"/{REGION}/s3/aws4_request")


def test_what_are_no_credentials_is_refused_and_not_quoted() -> None:
    for credentials in ("KEY:SECRET", (KEY,), (KEY, SECRET, "token", 4), object()):
        with pytest.raises(TypeError, match="credentials must be") as caught:
            S3Auth(credentials, REGION)
        assert SECRET not in str(caught.value)
    assert SECRET not in repr(S3Auth((KEY, SECRET), REGION))
