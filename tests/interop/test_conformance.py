"""The conformance suite of the OCI distribution spec, from a store and by a peer: the categories
pull and content discovery.

The suite names no registry in the query, so its repository does, or the node's default registry. A
proxy before the node adds the query or the header for it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node, layout
from tests.interop.go_peer import GO_IS_MISSING
from tests.support import processes
from tests.support.images import image, signature

pytestmark = [
    pytest.mark.skipif(GO_IS_MISSING, reason="there is no Go to build the suite with"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the first test builds the suite
]

BUILD = Path(__file__).parents[2] / ".ci" / "go-program"
APP = image("conformance", layers=3)
SIGNED = signature(APP)
NAME, SECOND = "registry.example/team/app:1", "registry.example/team/app:2"
SIGNATURE = f"registry.example/team/app:{APP.root.digest.algorithm}-{APP.root.digest.hex}.sig"
TESTED = (
    "Tag listing",
    "Referrers",
    "Ping",
    "Blob get",
    "Blob head",
    "Manifest get by digest",
    "Manifest get by tag",
    "Manifest head by digest",
    "Manifest head by tag",
)
"""The suite's names for what a registry without pushes has to pass."""

_SWITCHED_OFF = dict.fromkeys(
    (
        "OCI_API_PUSH",
        "OCI_API_BLOBS_DELETE",
        "OCI_API_MANIFESTS_DELETE",
        "OCI_API_TAGS_DELETE",
    ),
    "false",
)
_RESULT = re.compile(r"^ *([A-Z][\w ]+?)\.+: +(\w+)$", re.MULTILINE)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Node]]:
    """A node that holds the image, and one that gets it from that node."""
    folder = tmp_path_factory.mktemp("conformance")
    given = {"default-registry": "registry.example", "lists": "always"}
    held = layout(folder / "layout", {NAME: APP, SECOND: APP, SIGNATURE: SIGNED})
    holder = Node(folder=folder / "holder", store={**held, **given})
    empty = layout(folder / "empty", {})
    other = Node(folder=folder / "other", store={**empty, **given}, bootstrap=holder.router)
    try:
        await holder.start()
        await other.start()

        async def is_found() -> bool:
            with Client(other.registry) as client:
                tags, _ = client.read("/v2/team/app/tags/list")
                return (client.get("/v2/team/app/manifests/1")[0], tags) == (200, 200)

        await processes.until(is_found, deadline=60.0)
        yield [holder, other]
    finally:
        await other.process.end()
        await holder.process.end()


@asynccontextmanager
async def naming(port: int, way: str) -> AsyncIterator[int]:
    """Serve a proxy before a node's port that names the registry in the query or in a header."""

    async def forward(request: web.Request) -> web.StreamResponse:
        query = [*request.query.items(), *([("ns", "registry.example")] if way == "query" else [])]
        headers = {"OCI-Namespace": "registry.example"} if way == "header" else {}
        if "Range" in request.headers:
            headers["Range"] = request.headers["Range"]
        url = f"http://127.0.0.1:{port}{request.path}"
        async with client.request(
            request.method, url, params=query, headers=headers, auto_decompress=False
        ) as answer:
            body = await answer.read()
            return web.Response(status=answer.status, body=body, headers=answer.headers)

    app = web.Application(client_max_size=1024**3)
    app.router.add_route("*", "/{tail:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as client:
        yield int(runner.addresses[0][1])
    await runner.cleanup()


@pytest.mark.parametrize("way", ["path", "default registry", "query", "header"])
@pytest.mark.parametrize("number", [0, 1], ids=["own store", "through a peer"])
async def test_pulls_and_lists_conform(
    nodes: list[Node], number: int, way: str, tmp_path: Path
) -> None:
    async with naming(nodes[number].registry, way) as port:
        repository = "registry.example/team/app" if way == "path" else "team/app"
        await _conforms(nodes[number].registry if way in DIRECT else port, repository, tmp_path)


DIRECT = ("path", "default registry")
"""Ways that the suite goes by itself."""


async def _conforms(port: int, repository: str, tmp_path: Path) -> None:
    program = (await processes.run(str(BUILD), "conformance", deadline=500.0)).splitlines()[-1]
    blobs = [str(blob.digest) for blob in APP.blobs if blob.digest != APP.root.digest]
    environment = _SWITCHED_OFF | {
        "OCI_REGISTRY": f"127.0.0.1:{port}",
        "OCI_TLS": "disabled",
        "OCI_REPO1": repository,
        "OCI_RO_DATA_TAGS": f"1 2 {SIGNATURE.rpartition(':')[2]}",
        "OCI_RO_DATA_REFERRERS": str(APP.root.digest),
        "OCI_RO_DATA_MANIFESTS": str(APP.root.digest),
        "OCI_RO_DATA_BLOBS": " ".join(blobs),
        "OCI_RESULTS_DIR": str(tmp_path),
    }
    report = await _report(program, environment)
    results = dict(_RESULT.findall(report))
    assert {name: results.get(name) for name in TESTED} == dict.fromkeys(TESTED, "Pass"), report
    assert (results["FAIL"], results["Error"]) == ("0", "0"), report


async def _report(program: str, environment: dict[str, str]) -> str:
    """Return the suite's report.

    After the report it ends with a nil pointer (ReportResultsYAML), as it does for each registry
    that is only read.
    """
    try:
        return await processes.run(program, environment=environment)
    except processes.CommandFailed as error:
        if "ReportResultsYAML" not in str(error):
            raise
        return str(error)
