"""The `cluster` fixture: one cluster for a module, whose tests see each other's changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.deploy.chart import ROOT
from tests.kubernetes.built import reason_to_skip
from tests.kubernetes.cluster import Cluster, start_cluster

LOGS = ROOT / "build" / "kubernetes-logs"
"""Where the logs of a module are kept if a test of it fails."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests with the reason where no cluster can run, except in CI, where they fail."""
    reason = reason_to_skip()
    if reason is None or os.environ.get("CI") == "true":
        return
    for item in items:
        if item.get_closest_marker("kubernetes"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Three nodes, whose containerds have different versions; the chart is not installed."""
    failed_before = request.session.testsfailed
    async with start_cluster() as started:
        print({step: round(seconds, 1) for step, seconds in started.seconds.items()})
        yield started
        if request.session.testsfailed > failed_before:
            folder = LOGS / request.node.path.stem
            shutil.rmtree(folder, ignore_errors=True)
            started.keep_logs(folder)
            print(f"the logs are kept in {folder}")
