"""The list of the image's packages, as `make sbom` writes it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.deploy.chart import ROOT
from tests.support import locks

pytestmark = pytest.mark.timeout(300)  # the first time it installs the tool


def test_it_lists_every_locked_package_with_its_hashes() -> None:
    """It is a CycloneDX document of exactly the packages of the lock."""
    made = subprocess.run([ROOT / ".ci" / "sbom"], stdout=subprocess.PIPE, text=True, check=True)
    document = json.loads(Path(made.stdout.strip()).read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "spegel-py"
    listed = {
        component["purl"]: {
            entry["content"]
            for reference in component["externalReferences"]
            for entry in reference["hashes"]
        }
        for component in document["components"]
    }
    locked = locks.packages((ROOT / "requirements.lock").read_text())
    assert listed == {
        f"pkg:pypi/{name}@{package.version}": package.hashes for name, package in locked.items()
    }
