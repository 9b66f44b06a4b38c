"""The programs and the image that the cluster runs; each is built once and kept."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.chart import ROOT
from tests.support.processes import run

DEADLINE = 3600.0
"""Seconds that one build may take: Kubernetes takes about 15 minutes on two busy cores."""


@dataclass(frozen=True, slots=True)
class Built:
    """Paths of everything that a cluster needs."""

    kube: Path
    """etcd, every Kubernetes program and kubectl, chosen by the first argument."""
    coredns: Path
    helm: Path
    image: Path
    """An OCI layout folder with the project's image."""
    containerds: Mapping[str | None, Path]
    """The containerd of each wanted version; None stands for the installed one."""


def reason_to_skip() -> str | None:
    """Return why no cluster can run on this machine, or None if one can."""
    if os.geteuid():
        return "needs root: it makes namespaces and runs containerd"
    if not shutil.which("go"):
        return "there is no Go to build Kubernetes with"
    if not Path("/sys/fs/cgroup/memory").is_dir():
        return "needs the controllers of cgroup v1"
    return None


async def build(containerds: Iterable[str | None]) -> Built:
    """Build whatever is not built yet, one after the other, and return the paths."""
    folder = await _build("kubernetes")
    found = {version: await _containerd(version) for version in dict.fromkeys(containerds)}
    return Built(
        kube=folder / "kube",
        coredns=folder / "coredns",
        helm=await _build("go-program", "helm"),
        image=await _build("image"),
        containerds=found,
    )


async def _containerd(version: str | None) -> Path:
    if version is not None:
        return await _build("containerd", version)
    installed = await asyncio.to_thread(shutil.which, "containerd")
    assert installed, "containerd is not installed"
    return Path(installed)


async def _build(script: str, *arguments: str) -> Path:
    """Run one script of `.ci`, which prints the path of its result last."""
    output = await run(str(ROOT / ".ci" / script), *arguments, deadline=DEADLINE)
    return Path(output.splitlines()[-1])
