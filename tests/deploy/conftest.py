"""Helm is built once, with Go; without Go the tests of the chart say so and are skipped, but not in
CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.chart import ROOT, Helm


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The Helm that the chart is tested with."""
    if not shutil.which("go") and os.environ.get("CI") != "true":
        pytest.skip("there is no Go to build Helm with")
    built = subprocess.run(
        [ROOT / ".ci" / "go-program", "helm"], stdout=subprocess.PIPE, text=True, check=True
    )
    return Helm(Path(built.stdout.strip()))
