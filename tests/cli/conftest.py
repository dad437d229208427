"""What is tried again in the tests of the command line is tried at once."""

from __future__ import annotations

import pytest

from dugong.cli import settings


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "POLICY", settings.POLICY.replace(backoff=0))
