"""Tests that need root say so, and are skipped only where there is no root."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import libp2p  # noqa: F401 - all of it: tests have it beside nodes, which load less (stand_ins.py)
import pytest
from hypothesis import settings


def pytest_configure() -> None:
    """Have what tests start be interrupted by SIGINT: a shell that runs this in the background lets
    it be ignored.

    No example of a property is timed either: a busy machine is no fault of what is tested. EXAMPLES
    is their number for each property.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    examples = int(os.environ.get("EXAMPLES", "100"))  # 100 is hypothesis's default
    settings.register_profile("untimed", settings.default, deadline=None, max_examples=examples)
    settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests on real daemons for users who are not root."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: it makes network namespaces and runs containerd")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """The folder whose whole content is compared: nothing may be left anywhere in it."""
    os.utime(tmp_path, ns=(1, 1))
    return tmp_path
