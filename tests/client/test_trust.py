"""What a client trusts, and shows of itself."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from dugong.client.trust import context_of


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_true_verifies() -> None:
    context = context_of(True, None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_false_does_not_verify() -> None:
    context = context_of(False, None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_a_file_has_the_authorities_that_are_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    for given in (path, str(path)):
        context = context_of(given, None)
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert len(context.get_ca_certs()) == 1


def test_a_folder_has_the_authorities_that_are_trusted(tmp_path: Path) -> None:
    context = context_of(str(tmp_path), None)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.get_ca_certs() == []


def test_a_context_is_used_as_it_is() -> None:
    context = ssl.create_default_context()
    assert context_of(context, None) is context
    with pytest.raises(TypeError, match="load_cert_chain"):
        context_of(context, "cert.pem")


def test_a_file_that_is_not_there_is_an_error_that_names_it(
    authority: trustme.CA, tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    authority.cert_pem.write_to_path(str(chain))
    absent = "/nonexistent/file.pem"
    for verify, cert in ((absent, None), (True, absent), (True, (str(chain), absent))):
        with pytest.raises(FileNotFoundError, match=absent):
            context_of(verify, cert)


@pytest.mark.parametrize("verify", [None, 1, b"path"])
def test_nothing_else_says_what_to_trust(verify: Any) -> None:
    with pytest.raises(TypeError, match="verify must be"):
        context_of(verify, None)


def test_a_certificate_of_the_client_may_have_its_key_beside_it(
    authority: trustme.CA, tmp_path: Path
) -> None:
    issued = authority.issue_cert("client@example.com")
    both, chain, key = (tmp_path / name for name in ("both.pem", "chain.pem", "key.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(both))
    issued.cert_chain_pems[0].write_to_path(str(chain))
    issued.private_key_pem.write_to_path(str(key))
    for cert in (both, str(both), (str(chain), str(key)), (str(chain), str(key), None)):
        assert context_of(True, cert).verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("cert", [b"path", (), ("a", "b", "c", "d"), ["a", "b"]])
def test_nothing_else_is_a_certificate(cert: Any) -> None:
    with pytest.raises(TypeError, match="cert must be"):
        context_of(True, cert)
