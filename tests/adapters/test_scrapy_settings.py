"""What the settings of Scrapy mean for a pool."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from scrapy.settings import Settings

from dugong.adapters.scrapy_settings import options_of


def options(**settings: Any) -> dict[str, Any]:
    return options_of(Settings(settings))


def context(**settings: Any) -> ssl.SSLContext:
    made = options(**settings)["ssl_context"]
    assert isinstance(made, ssl.SSLContext)
    return made


def test_a_pool_has_as_many_connections_as_scrapy_has_requests() -> None:
    made = options(CONCURRENT_REQUESTS=500, CONCURRENT_REQUESTS_PER_DOMAIN=20)
    assert (made["max_connections_per_host"], made["max_connections"]) == (20, 500)
    made = options(CONCURRENT_REQUESTS=0, CONCURRENT_REQUESTS_PER_DOMAIN=0)
    assert (made["max_connections_per_host"], made["max_connections"]) == (256, 256)


@pytest.mark.parametrize(("limit", "size"), [(5, 5), (0, sys.maxsize)])
def test_the_largest_body_is_that_of_scrapy(limit: int, size: int) -> None:
    assert options(DOWNLOAD_MAXSIZE=limit)["max_body_size"] == size


def test_options_of_the_pool_come_before_what_follows_from_settings() -> None:
    own = ssl.create_default_context()
    pool = {"max_connections_per_host": 2, "timeout": 5, "ssl_context": own}
    made = options(CONCURRENT_REQUESTS_PER_DOMAIN=20, DUGONG_POOL=pool)
    assert {name: made[name] for name in pool} == pool


def test_certificates_are_verified_if_scrapy_is_to() -> None:
    assert (context().verify_mode, context().check_hostname) == (ssl.CERT_NONE, False)
    verifying = context(DOWNLOAD_VERIFY_CERTIFICATES=True)
    assert (verifying.verify_mode, verifying.check_hostname) == (ssl.CERT_REQUIRED, True)
    defaults = ssl.create_default_context()
    assert verifying.cert_store_stats() == defaults.cert_store_stats()


def test_the_versions_of_tls_are_limited() -> None:
    made = context(DOWNLOAD_TLS_MIN_VERSION="TLSv1.2", DOWNLOAD_TLS_MAX_VERSION="TLSv1.3")
    expected = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    assert (made.minimum_version, made.maximum_version) == expected


@pytest.mark.parametrize("name", ["DOWNLOAD_TLS_MIN_VERSION", "DOWNLOAD_TLS_MAX_VERSION"])
def test_a_version_of_tls_that_does_not_exist(name: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown {name} value: SSLv3; use one of TLSv1.0, "):
        options(**{name: "SSLv3"})


def test_the_ciphers_are_those_of_the_setting() -> None:
    made = context(DOWNLOADER_CLIENT_TLS_CIPHERS="ECDHE-RSA-AES128-GCM-SHA256")
    names = {cipher["name"] for cipher in made.get_ciphers()}
    assert {name for name in names if not name.startswith("TLS_")} == {
        "ECDHE-RSA-AES128-GCM-SHA256"
    }
    assert len(context(DOWNLOADER_CLIENT_TLS_CIPHERS=None).get_ciphers()) > len(names)


def test_keys_are_logged_for_wireshark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    assert context().keylog_filename == str(path)


def test_keys_that_cannot_be_logged_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    assert context().keylog_filename is None
    assert "Cannot write TLS session keys" in caplog.text
