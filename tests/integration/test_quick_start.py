"""The quick starts of the pages, run as they are written: each command, and each output.

Hosts are network and mount namespaces with a real containerd at its usual paths. The package is
installed with pip from this checkout, as the pages say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.examples import Example, examples
from tests.integration.guides import FOLDERS, GUIDES, ROOT, perform
from tests.support.hosts import (
    K3S,
    PROGRAMS,
    ContainerdPaths,
    plain_hosts,
)
from tests.support.images import image

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

APP = image("quick start", layers=10, size=2_621_440)


@pytest.fixture(scope="module", autouse=True)
def crictl() -> None:
    """Build crictl, which Debian has no package of, and put it where the hosts find programs."""
    if shutil.which("go") is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Go to build crictl with")
    built = subprocess.run(
        [ROOT / ".ci" / "go-program", "crictl"], capture_output=True, text=True, check=True
    )
    PROGRAMS.mkdir(exist_ok=True)
    link = PROGRAMS / "crictl"
    link.unlink(missing_ok=True)
    link.symlink_to(built.stdout.strip())


async def follow(
    pages: Mapping[str, list[Example]], *, folder: Path, checkout: Path, paths: ContainerdPaths
) -> None:
    """Follow the pages on two hosts; at the end the hosts are as before, but for the image."""
    certs = str(Path(paths.config).parent)
    async with plain_hosts(
        "10.0.0.1", "10.0.0.2", folder=folder, checkout=checkout, paths=paths
    ) as lab:
        await lab.registry.push(f"{lab.registry.address}/app:1", APP)
        before = {host: await host.tree(certs, *FOLDERS) for host in lab.hosts.values()}
        for page, found in pages.items():
            for one in found:
                await perform(one, lab, page)
        for host, tree in before.items():
            assert await host.tree(certs, *FOLDERS) == tree
            images = await host.shell(f"ctr -a {paths.socket} -n k8s.io images ls -q")
            assert "registry.example/app:1" in images.splitlines()
            assert "spegel" not in await host.shell("ls /run /var/log /var/lib")


async def test_two_plain_hosts(tmp_path: Path, checkout: Path) -> None:
    """From the bare checkout to a pull from the other host, and back to the state before."""
    await follow(
        {"host.md": examples(GUIDES / "host.md")},
        folder=tmp_path / "lab",
        checkout=checkout,
        paths=ContainerdPaths(),
    )


async def test_two_hosts_with_k3s(tmp_path: Path, checkout: Path) -> None:
    """The same with the paths of k3s's containerd. A script stands for its program `k3s`, which
    runs crictl on its own socket."""
    program = PROGRAMS / "k3s"
    program.write_text(
        "#!/bin/sh\nshift\n"
        f"exec crictl --runtime-endpoint unix://{K3S.socket} --image-endpoint unix://{K3S.socket} "
        '"$@"\n'
    )
    program.chmod(0o755)
    install = next(one for one in examples(GUIDES / "host.md") if one.needs_internet)
    await follow(
        {"host.md": [install], "k3s.md": examples(GUIDES / "k3s.md")},
        folder=tmp_path / "lab",
        checkout=checkout,
        paths=K3S,
    )
