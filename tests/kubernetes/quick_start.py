"""The quick start of the guide for Kubernetes, run as it is written.

`kubectl` and `helm` are those of the test's cluster. `registry.example` is a registry with TLS that
the nodes know by that name, with the project's image in it: `.ci/image` has built it, without
Docker. In the expected output only the address of a Pod and the size of the image are replaced.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from spegel_py.oci import build as oci
from spegel_py.tools.human import size
from tests.deploy.chart import ROOT
from tests.docs.examples import Example, examples, fits
from tests.kubernetes import addresses
from tests.kubernetes.cluster import NAMESPACE, Cluster
from tests.support import images
from tests.support.hosts import make_certificate
from tests.support.lab import Registry
from tests.support.processes import CommandFailed, run

PAGE = ROOT / "docs" / "guides" / "kubernetes.md"
NAME = "registry.example"

POD_ADDRESS, IMAGE_SIZE = "10.244.1.5", "26.3 MB"
"""The values of the page's example."""

PATIENCE = 30.0
"""Seconds within which a command prints the page's output. A person looks again, too."""

_FUNCTION = re.compile(r"\w+\(\) \{")


async def follow_the_page(cluster: Cluster, folder: Path) -> None:
    """Run all commands of the page in their order.

    Raises AssertionError if a command fails or prints something else.
    """
    layers = [images.random_layer(f"quick start {number}", 2_621_440) for number in range(10)]
    command = ("/bin/sleep", "3600")
    app = oci.image([images.runnable_layer(), *layers], command=command)
    await cluster.push("app:1", app)
    bytes_of_app = sum(len(blob.data) for blob in app.blobs)
    shell = Shell(cluster, folder)
    async with known_registry(cluster, folder) as registry:
        for one in examples(PAGE):
            if one.event == "the registry is stopped":
                await registry.stop()
            elif one.event == "the registry is back":
                await registry.start()
            await shell.perform(one, {IMAGE_SIZE: size(bytes_of_app)})


class Shell:
    """A shell on the administrator's machine. Functions that a page defines stay defined."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._definitions = ""
        self._programs = folder / "programs"
        self._programs.mkdir(parents=True)
        for name in ("kubectl", "helm"):
            program = self._programs / name
            program.write_text(f'#!/bin/sh\nexec {cluster.command(name)} "$@"\n')
            program.chmod(0o755)

    async def perform(self, one: Example, replaced: Mapping[str, str] | None = None) -> None:
        """Run commands until they print the output that the page shows.

        `replaced` are the values of the page's example, with those of this cluster.
        """
        where = f"{PAGE.name}, line {one.line}"
        end = time.monotonic() + PATIENCE
        while True:
            output, failure = await self._attempt(one.code)
            if one.prints is None:
                assert failure is None, f"{where} fails: {failure}"
                break
            expected = await self._expected(one.prints, replaced or {})
            if failure is None and fits(output, expected):
                break
            assert time.monotonic() < end, f"{where} prints:\n{failure or output}"
            await asyncio.sleep(0.5)
        if _FUNCTION.match(one.code):
            self._definitions += one.code

    async def _attempt(self, code: str) -> tuple[str, str | None]:
        """Run commands once; returns their output, and the failure of one of them."""
        path = f"{self._programs}:{os.environ['PATH']}"
        try:
            output = await run(
                *("bash", "-ec", f"cd {ROOT}\n{self._definitions}{code}"),
                environment={"PATH": path},
                deadline=180.0,
            )
        except CommandFailed as error:
            return "", str(error)
        return output, None

    async def _expected(self, text: str, replaced: Mapping[str, str]) -> str:
        for old, new in replaced.items():
            text = text.replace(old, new)
        if POD_ADDRESS in text:
            pod = await self._cluster.spegel_pod(self._cluster.nodes[0])
            found = await self._cluster.get_json("pod", pod, f"--namespace={NAMESPACE}")
            text = text.replace(POD_ADDRESS, found["status"]["podIP"])
        return text


@asynccontextmanager
async def known_registry(cluster: Cluster, folder: Path) -> AsyncIterator[Registry]:
    """Serve the images of the cluster's registry with TLS too, under the name of the page."""
    address = addresses.REGISTRY.partition(":")[0]
    certificate = make_certificate(folder, NAME)
    registry = Registry(
        folder=folder / "registry",
        namespace=cluster.registry.namespace,
        address=f"{address}:443",
        certificate=certificate,
    )
    (registry.folder / "data").symlink_to(cluster.registry.folder / "data")
    trusted = certificate[0].read_text()
    trust = (
        f"printf '%s %s\\n' {address} {NAME} >>/etc/hosts\n"
        f"cat >>/etc/ssl/certs/ca-certificates.crt <<'END'\n{trusted}END\n"
    )
    await asyncio.gather(*(node.run("sh", "-ec", trust) for node in cluster.nodes))
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()
