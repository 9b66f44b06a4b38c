"""The guard of private images, made of a node's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spegel_py.config import Config
from spegel_py.errors import ConfigError
from spegel_py.image_parts import make_image_guard
from spegel_py.metrics import NodeMetrics
from spegel_py.tools.basic_auth import Credentials


def config(tmp_path: Path, **flags: Any) -> Config:
    given = {"private_images": "guard", "runtime_token": str(tmp_path / "token"), **flags}
    return Config.load(flags=given, environment={}, file=None)


def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert make_image_guard(config(tmp_path, private_images="off"), None, NodeMetrics()) is None
    assert Config().private_images == "off"


async def test_it_asks_listed_registries_whatever_their_address_is(tmp_path: Path) -> None:
    named = ["http://10.0.0.9:5000", "_default", "https://index.docker.io"]
    given = config(tmp_path, mirrored_registries=named)
    assert given.listed_registries == {"10.0.0.9:5000", "docker.io"}
    guard = make_image_guard(given, None, NodeMetrics())
    assert guard is not None
    assert guard.describe() == {"when_down": "cached", "faults": {}}


def test_a_password_beside_it_is_one_clear_line(tmp_path: Path) -> None:
    auth = Credentials(username="user", password="secret")
    with pytest.raises(ConfigError, match="need the same header") as raised:
        make_image_guard(config(tmp_path), auth, NodeMetrics())
    assert "secret" not in str(raised.value).replace("/etc/secrets", "")
