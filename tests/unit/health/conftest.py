"""Every test here leaves the logger of `health.health` as it was."""

from __future__ import annotations

import pytest

from spegel_py.health import health


@pytest.fixture(autouse=True)
def keep_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "log", health.log)
