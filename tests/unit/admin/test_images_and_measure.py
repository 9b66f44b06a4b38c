"""`images` and `measure` as a person meets them: what a node answers is read over a real socket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from spegel_py.admin.measurement import MeasuredPart, Measurement
from spegel_py.cli import main
from spegel_py.errors import Denied, Occupied, OCIError
from spegel_py.outcomes import ContentSource
from spegel_py.registry import responses
from spegel_py.registry.server import serve

DIGEST = "sha256:" + "a" * 64
IMAGE = {
    "name": "r.io/app:v1",
    "digest": DIGEST,
    "size": 2_500_000,
    "blobs": 3,
    "missing": 1,
    "pulled": 1_764_028_800.0,
    "peers": [{"id": "12D3Koo-c", "address": "[fd00::3]:5000"}],
}
LISTING = {"images": [IMAGE], "total": 1, "held": 4, "offset": 0, "error": None}

Command = Callable[..., Awaitable[tuple[int, str, str]]]


class Page:
    """What a node would answer: a listing, and the steps of a measurement or why there is none."""

    def __init__(self) -> None:
        self.listing: dict[str, Any] = dict(LISTING)
        self.steps: list[Measurement] = []
        self.refusal: OCIError | None = None
        self.asked: dict[str, str] = {}

    async def images(self, request: web.Request) -> web.Response:
        self.asked = dict(request.query)
        return web.json_response(self.listing)

    async def measure(self, request: web.Request) -> web.StreamResponse:
        self.asked = dict(request.query)
        if self.refusal:
            return responses.error(self.refusal)
        assert request.headers["Accept"] == "application/x-ndjson"
        return web.Response(
            body=b"".join(json.dumps(step.as_json()).encode() + b"\n" for step in self.steps)
        )


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
async def command(page: Page, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Command]:
    """Return what runs a command against the page, and gives its status, output and complaint."""
    app = web.Application()
    app.router.add_get("/debug/images", page.images)
    app.router.add_post("/debug/measure", page.measure)
    async with serve(app, "127.0.0.1:0") as port:

        async def run(*arguments: str) -> tuple[int, str, str]:
            status = await asyncio.to_thread(main, [*arguments, "--node", f"127.0.0.1:{port}"])
            out, err = capsys.readouterr()
            return status, out, err

        yield run


def measured(*, is_over: bool, missing: bool = False) -> Measurement:
    """Return a measurement of a manifest from a peer and a layer from here, or from nobody."""
    layer = MeasuredPart(kind="blob", digest=DIGEST, size=1_000_000)
    if missing:
        layer.source = ContentSource.NONE
    else:
        layer.source, layer.moved = ContentSource.LOCAL, 1_000_000
        layer.first_byte, layer.seconds = 0.001, 0.5
    manifest = MeasuredPart(
        kind="manifest",
        digest=DIGEST,
        size=500,
        moved=500,
        source=ContentSource.PEER,
        peer="12D3Koo-abcdef",
    )
    return Measurement(
        reference="r.io/app:v1", at=0.0, parts=[manifest, layer], seconds=0.5, is_over=is_over
    )


async def test_images_are_shown_with_how_many_peers_have_them(page: Page, command: Command) -> None:
    """One line each; a part of the name and a limit are the node's to heed."""
    status, out, _ = await command("images", "app", "--limit", "7")
    assert (status, page.asked) == (0, {"part": "app", "limit": "7"})
    line = " ".join(out.splitlines()[-1].split())
    assert re.fullmatch(rf"r.io/app:v1 2.5 MB 3, 1 missing 1 [\d.]+ d ago {DIGEST[7:19]}", line)
    _, out, _ = await command("images", "--wide")
    line = " ".join(out.splitlines()[-1].split())
    assert line == f"r.io/app:v1 2.5 MB 3, 1 missing 1 2025-11-25 00:00:00 {DIGEST}"
    _, out, _ = await command("images", "--json")
    assert json.loads(out) == LISTING


async def test_images_say_what_is_not_known(page: Page, command: Command) -> None:
    """Who has one, that there are more, that there are none, or that the store is away."""
    page.listing |= {"images": [IMAGE | {"peers": None}], "total": 9}
    _, out, _ = await command("images")
    assert " - " in out.splitlines()[1]
    assert out.splitlines()[-1].strip() == "1 of 9: --limit shows more"
    page.listing |= {"images": [], "total": 0}
    _, out, _ = await command("images", "zzz")
    assert "shares 4 images, none with 'zzz' in its name" in out
    page.listing |= {"held": 0}
    assert (await command("images"))[1].endswith(" shares 0 images\n")
    page.listing |= {"error": "containerd is away"}
    status, out, err = await command("images")
    assert (status, out) == (1, "")
    assert err.endswith("cannot list its images: containerd is away\n")
    status, out, _ = await command("images", "--json")
    assert (status, json.loads(out)["error"]) == (1, "containerd is away")


async def test_a_measurement_is_followed_to_its_end(page: Page, command: Command) -> None:
    """Each part with where it came from, and the sum; as JSON it is the last that the node told."""
    page.steps = [measured(is_over=False), measured(is_over=True)]
    status, out, _ = await command("measure", "r.io/app:v1")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert (status, page.asked) == (0, {"image": "r.io/app:v1"})
    assert lines[1] == "manifest aaaaaaaaaaaa 500 B peer …o-abcdef - -"
    assert lines[2] == "blob aaaaaaaaaaaa 1.0 MB this node 1.0 ms 500.0 ms"
    assert lines[3] == "1.0 MB in 0.50 s (2.0 MB/s), 500 B from peers, 1.0 MB from this node"
    status, out, _ = await command("measure", "r.io/app:v1", "--json")
    assert (status, json.loads(out)) == (0, page.steps[-1].as_json())


async def test_what_a_runtime_would_get_from_the_registry_is_1(
    page: Page, command: Command
) -> None:
    """It is said how many parts nobody has."""
    page.steps = [measured(is_over=True, missing=True)]
    status, out, _ = await command("measure", "r.io/app:v1")
    assert status == 1
    assert "1 part that a runtime would get from the registry" in out
    assert "nobody" in out


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (
            Denied("measuring is switched off on this node, by --debug-web-enabled=false"),
            "switched off on this node",
        ),
        (
            Occupied("r.io/b:1 is being measured, and one is at a time"),
            "r.io/b:1 is being measured",
        ),
    ],
    ids=["switched off", "another one"],
)
async def test_a_refusal_is_one_line(
    refusal: OCIError, told: str, page: Page, command: Command
) -> None:
    """As the node says it; status 1."""
    page.refusal = refusal
    status, out, err = await command("measure", "r.io/app:v1")
    assert (status, out) == (1, "")
    assert told in err
    assert err.count("\n") == 1


async def test_a_node_that_goes_away_meanwhile_is_told(page: Page, command: Command) -> None:
    """What it told until then is no result."""
    page.steps = [measured(is_over=False)]
    status, out, err = await command("measure", "r.io/app:v1")
    assert (status, out) == (1, "")
    assert "went away while it measured" in err
