"""Spans of two real nodes, taken by a collector that speaks OTLP for real: a pull through a peer is
one tree.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from spegel_py.demo.demo_node import Ports, free_ports
from spegel_py.demo.probe import answers
from spegel_py.oci.build import Image
from tests.support.images import image, write_layout
from tests.support.processes import CommandFailed, Process, run, until

NAME = "registry.example/app:1"
ROOT_TRACE, ROOT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans at `/v1/traces`, by the id of the node that sent them."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            given = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert given["service.name"] == "spegel-py"
            self.spans += [
                (given["service.instance.id"], span)
                for each in resource.scope_spans
                for span in each.spans
            ]
        return web.Response(content_type="application/x-protobuf")

    async def found(self, **attributes: object) -> tuple[str, Span]:
        """Wait for the span that says this of itself; return it with its node's id."""

        def matching() -> list[tuple[str, Span]]:
            return [
                (node, span)
                for node, span in self.spans
                if attributes.items() <= said(span).items()
            ]

        async def is_there() -> bool:
            return bool(matching())

        await until(is_there, deadline=20)
        [found] = matching()
        return found


def said(span: Span) -> dict[str, object]:
    """Return a span's attributes, with underscores for dots."""
    return {
        each.key.replace(".", "_"): getattr(
            each.value, each.value.WhichOneof("value") or "string_value"
        )
        for each in span.attributes
    }


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    one = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", one.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        one.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        yield one
    finally:
        await runner.cleanup()


@asynccontextmanager
async def node(
    folder: Path, collector: Collector, ports: Ports, bootstrap: Ports, held: Image | None
) -> AsyncIterator[str]:
    """Run a node over a layout that holds an image, or nothing; give the URL of its registry."""
    folder.mkdir()
    write_layout(folder / "layout", {NAME: held} if held else {})
    url = f"http://127.0.0.1:{ports.registry}"
    flags = {
        "oci-layout": str(folder / "layout"),
        "registry-addr": f"127.0.0.1:{ports.registry}",
        "router-addr": f"127.0.0.1:{ports.router}",
        "metrics-addr": f"127.0.0.1:{ports.metrics}",
        "static-bootstrap-peers": f"/ip4/127.0.0.1/tcp/{bootstrap.router}",
        "tracing-endpoint": collector.url,
    }
    process = Process(
        command=[
            sys.executable,
            "-m",
            "spegel_py",
            "registry",
            *(f"--{name}={value}" for name, value in flags.items()),
        ],
        log=folder / "log",
        environment={"OTEL_BSP_SCHEDULE_DELAY": "100"},
    )
    async with aiohttp.ClientSession() as session:
        await process.start(lambda: answers(session, f"{url}/livez"), deadline=30)
        try:
            yield url
        finally:
            await process.end()


async def test_a_peer_s_span_is_a_child_of_the_asker_s_attempt(
    collector: Collector, tmp_path: Path
) -> None:
    """A client's trace goes on through its node's request and what that asked of a peer, to the
    peer's own request.
    """
    app = image("tracing", layers=1)
    one, other = free_ports(), free_ports()
    layer = app.blobs[-1].digest
    target = f"/v2/app/blobs/{layer}?ns=registry.example"
    async with (
        node(tmp_path / "holder", collector, one, one, app),
        node(tmp_path / "asker", collector, other, one, None) as asker,
        aiohttp.ClientSession() as session,
    ):
        await until(lambda: answers(session, f"{asker}/readyz"), deadline=30)
        given = {"traceparent": f"00-{ROOT_TRACE}-{ROOT_SPAN}-01"}

        async def is_pulled() -> bool:  # the holder tells what it has a moment after they met
            async with session.get(asker + target, headers=given) as answer:
                return answer.status == 200 and await answer.read() == app.blobs[-1].data

        await until(is_pulled, deadline=20, pause=0.1)
        asking, request = await collector.found(spegel_source="peer", spegel_mirrored=False)
        _, attempt = await collector.found(spegel_outcome="ok")
        serving, mirrored = await collector.found(spegel_mirrored=True)
        async with session.get(f"{asker}/v2/app/manifests/none?ns=registry.example"):
            pass
        _, alone = await collector.found(spegel_reference="registry.example/app:none")

    assert {span.trace_id.hex() for span in (request, attempt, mirrored)} == {ROOT_TRACE}
    assert request.parent_span_id.hex() == ROOT_SPAN
    assert attempt.parent_span_id == request.span_id
    assert mirrored.parent_span_id == attempt.span_id
    assert (request.name, attempt.name, mirrored.name) == ("GET blobs", "ask peer", "GET blobs")
    assert (request.kind, attempt.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert said(attempt)["server_address"] == f"127.0.0.1:{one.registry}"
    assert said(attempt)["spegel_peer"] == serving != asking
    assert (
        said(request)["spegel_bytes"] == said(mirrored)["spegel_bytes"] == len(app.blobs[-1].data)
    )
    assert said(mirrored)["spegel_source"] == "local"
    assert request.status.code == Status.STATUS_CODE_UNSET
    assert not alone.parent_span_id
    assert said(alone)["spegel_reason"] == "not_found"


async def test_a_collector_that_is_away_holds_nothing_up(
    collector: Collector, tmp_path: Path
) -> None:
    """Spans are lost, pulls are not, and the node ends in time."""
    collector.url = f"http://127.0.0.1:{free_ports().registry}"
    app, ports = image("tracing away", layers=1), free_ports()
    async with (
        node(tmp_path / "node", collector, ports, ports, app) as url,
        aiohttp.ClientSession() as session,
    ):
        async with session.get(
            f"{url}/v2/app/blobs/{app.blobs[-1].digest}?ns=registry.example"
        ) as answer:
            assert await answer.read() == app.blobs[-1].data
        end = asyncio.get_running_loop().time() + 10
    assert asyncio.get_running_loop().time() < end


async def test_the_missing_extra_is_named(tmp_path: Path) -> None:
    """Without OpenTelemetry the flag ends the start with one line that says what to install."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('No module named opentelemetry')")
    write_layout(tmp_path / "layout", {})
    ports = free_ports()
    with pytest.raises(CommandFailed, match=r"pip install 'spegel-py\[tracing\]'") as failure:
        await run(
            sys.executable,
            "-m",
            "spegel_py",
            "registry",
            f"--oci-layout={tmp_path / 'layout'}",
            f"--registry-addr=127.0.0.1:{ports.registry}",
            f"--router-addr=127.0.0.1:{ports.router}",
            f"--metrics-addr=127.0.0.1:{ports.metrics}",
            "--tracing-endpoint=http://127.0.0.1:4318",
            environment={
                "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
            },
        )
    assert "Traceback" not in str(failure.value)
