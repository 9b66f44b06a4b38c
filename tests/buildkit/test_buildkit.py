"""BuildKit. It takes three minutes of CPU to build, so this test is not in `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.nodes import Node
from tests.interop.go_peer import GO_IS_MISSING
from tests.support import processes
from tests.support.client_nodes import APP, NAME, configure, nodes, short

__all__ = ["nodes", "short"]  # fixtures

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

GO_PROGRAM = Path(__file__).parents[2] / ".ci" / "go-program"


@pytest.mark.root
@pytest.mark.skipif(GO_IS_MISSING, reason="there is no Go to build BuildKit with")
@pytest.mark.timeout(1200)  # the first test builds it
async def test_buildkit_builds_on_an_image(nodes: list[Node], short: Path) -> None:
    """The base image comes through the mirror that `configuration` added to buildkitd.toml."""
    other, file, address = nodes[1], short / "buildkitd.toml", f"unix://{short}/socket"
    (short / "Dockerfile").write_text(f"FROM {NAME}\n")
    mirror = f"http://127.0.0.1:{other.registry}"
    named = ["--mirrored-registries", "registry.example", "--mirror-targets", mirror]
    configure("buildkit", file, *named)
    buildkitd, buildctl = [
        (await processes.run(str(GO_PROGRAM), name, deadline=1000.0)).splitlines()[-1]
        for name in ("buildkitd", "buildctl")
    ]
    worker = ["--oci-worker=true", "--containerd-worker=false", "--oci-worker-snapshotter=native"]
    daemon = processes.Process(
        command=[
            *[buildkitd, "--config", str(file), "--addr", address],
            *["--root", f"{short}/root", *worker],
        ],
        log=short / "buildkitd.log",
    )

    async def is_up() -> bool:
        try:
            await processes.run(buildctl, "--addr", address, "debug", "workers")
        except processes.CommandFailed:
            return False
        return True

    try:
        await daemon.start(is_up, deadline=60.0)
        context = ["--local", f"context={short}", "--local", f"dockerfile={short}"]
        output = ["--output", f"type=oci,tar=false,dest={short}/out"]
        build = ["build", "--frontend", "dockerfile.v0", *context, *output]
        await processes.run(buildctl, "--addr", address, *build)
    finally:
        await daemon.end()
    built = {path.name for path in (short / "out" / "blobs" / "sha256").iterdir()}
    assert {layer.digest.hex for layer in APP.blobs[2:]} <= built
