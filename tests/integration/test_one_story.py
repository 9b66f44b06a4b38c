"""All outputs of a node tell one story, whatever is wrong: read here as an operator reads them.

`status`, `resolve`, `measure`, `why`, `doctor`, `images`, the status page, the log and the probes
of real nodes beside real containerds.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import spegel_py
from spegel_py.oci.build import Image
from tests.integration.cluster import events, joined, publish, registry_away
from tests.integration.conftest import Labs
from tests.support.images import image
from tests.support.lab import Lab, Node
from tests.support.processes import until

pytestmark = pytest.mark.root

PACKAGE = Path(spegel_py.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Story:
    """All that a node tells: texts of commands by their names, their exit statuses, and probes."""

    texts: dict[str, str]
    statuses: dict[str, int]
    findings: dict[str, dict[str, Any]]
    reasons: list[str]

    def is_everywhere(self, sentence: str) -> None:
        """Fail unless state, page and doctor have this sentence."""
        for name in ("status", "page"):
            assert sentence in self.texts[name], (name, self.texts[name])
        assert sentence in json.dumps(self.findings, ensure_ascii=False), self.findings


async def command(node: Node, *words: str) -> tuple[int, str]:
    """Run a command on the node's machine, without any flag of the node; returns its output."""
    process = await asyncio.create_subprocess_exec(
        *(*node.namespace.prefix, sys.executable, "-m", "spegel_py", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=PACKAGE,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return process.returncode or 0, " ".join(out.decode().split())


async def told(node: Node, reference: str) -> Story:
    """Return all that a node tells about itself and about an image."""
    commands = {
        "status": ("status",),
        "images": ("images",),
        "resolve": ("resolve", reference),
        "measure": ("measure", reference),
    }
    answers = {name: await command(node, *words) for name, words in commands.items()}
    answers["why"] = await command(node, "why", "--measured", "--requests", reference)
    status, output = await command(node, "doctor", "--json")
    page = (await node.get("/debug/web/", port=9090)).body.decode()
    texts = {name: text for name, (_, text) in answers.items()}
    texts["page"] = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    return Story(
        texts=texts,
        statuses={name: one for name, (one, _) in answers.items()} | {"doctor": status},
        findings={one["check"]: one for one in json.loads(output)["findings"]},
        reasons=json.loads((await node.get("/readyz")).body)["reasons"],
    )


def agree_on_readiness(story: Story) -> None:
    """Fail unless status, page, doctor and probe agree, reasons included."""
    if story.reasons:
        reason = "; ".join(story.reasons)
        assert f"ready no: {reason}" in story.texts["status"]
        assert f"not ready: {reason}" in story.texts["page"]
        assert story.findings["node"]["finding"] == f"runs, but is not ready: {reason}"
        assert story.statuses["status"] == 1
    else:
        assert "ready yes" in story.texts["status"]
        assert "not ready" not in story.texts["page"]
        assert story.findings["node"]["level"] == "ok"
        assert story.statuses["status"] == 0


def says_whole(story: Story) -> None:
    """Fail unless all outputs say that a peer has the whole image."""
    assert "on peers: 1" in story.texts["resolve"]
    assert story.statuses["resolve"] == story.statuses["measure"] == 0, story.texts
    assert "that a runtime would get from the registry" not in story.texts["measure"]
    assert " hit, peer" in story.texts["why"]
    assert " miss, " not in story.texts["why"]


async def pair(lab: Lab, app: Image, name: str, **flags: str | None) -> tuple[Node, Node, str]:
    """Start two nodes, the first of which holds an image; returns both, and the image's name."""
    holder, other = lab.nodes
    await asyncio.gather(holder.start_spegel(**flags), other.start_spegel())
    await joined(holder, other)
    reference = lab.name(f"test/story:{name}")
    await publish(lab, reference, app, holder)
    return holder, other, reference


async def test_containerd_is_away(labs: Labs) -> None:
    """Its content from before is still there for peers, tags included; newer content is not."""
    lab = await labs(2)
    holder, other, reference = await pair(lab, image("away"), "away")
    await holder.daemon.stop()

    async def is_seen() -> bool:
        return bool(events(holder, "alert opened", condition="containerd-away"))

    await until(is_seen, deadline=30.0)
    here, there = await told(holder, reference), await told(other, reference)
    away = f"containerd does not answer at {holder.daemon.socket}"
    assert "content from before is still shared, and newer content is not" in here.texts["status"]
    here.is_everywhere(away)
    assert here.findings["containerd"]["level"] == "error"
    assert "containerd-away" in here.texts["status"]
    assert here.texts["status"].count(away) == 2  # the alert has the same words
    [logged] = events(holder, "containerd is away")
    assert logged["error"].startswith(away)
    assert "on this node: yes" in here.texts["resolve"]
    assert here.statuses["measure"] == 0
    assert "UNAVAILABLE" not in str(here)
    assert "unavailable:" not in str(here)
    agree_on_readiness(here)
    says_whole(there)


async def test_the_content_path_is_missing_and_containerd_names_its_own(labs: Labs) -> None:
    """The node reads containerd's folder, is ready and shares; nothing says that it waits."""
    lab = await labs(2)
    holder, other, reference = await pair(
        lab, image("own"), "own", containerd_content_path="/nowhere/content"
    )
    here, there = await told(holder, reference), await told(other, reference)
    here.is_everywhere(
        f"{holder.daemon.content_path}, as containerd says: there is no content path "
        "/nowhere/content yet"
    )
    [logged] = events(holder, "content path not used")
    assert logged["reads"] == str(holder.daemon.content_path)
    assert here.findings["content_path"]["level"] == "warning"
    assert str(holder.daemon.content_path) in here.findings["content_path"]["remedy"]
    assert "advertises 1 tag" in here.texts["status"]
    agree_on_readiness(here)
    says_whole(there)


async def test_no_content_path_can_be_read(labs: Labs) -> None:
    """Neither the given folder nor containerd's own: blobs are read over the socket."""
    lab = await labs(2)
    [holder, *_] = lab.nodes
    hide = f'mount -t tmpfs none {holder.folder}/root && exec "$@"'
    holder.under = ("unshare", "--mount", "sh", "-c", hide, "sh")
    holder, other, reference = await pair(
        lab, image("socket"), "socket", containerd_content_path="/nowhere/content"
    )
    here, there = await told(holder, reference), await told(other, reference)
    here.is_everywhere("over containerd's socket: there is no content path /nowhere/content yet")
    agree_on_readiness(here)
    says_whole(there)
    await holder.daemon.stop()

    async def is_seen() -> bool:
        return (await holder.get("/readyz")).status == 500

    await until(is_seen, deadline=30.0)
    here = await told(holder, reference)
    agree_on_readiness(here)
    here.is_everywhere("this node shares nothing until then")


async def test_an_image_is_in_another_namespace(labs: Labs) -> None:
    """A pull with `ctr` and without `-n k8s.io` is not shared, and all outputs say where it is."""
    lab = await labs(1)
    [node] = lab.nodes
    await node.start_spegel(ready_when_alone="1s")
    reference = lab.name("test/story:other")
    await node.daemon.load({reference: image("other")}, namespace="default")

    async def is_ready() -> bool:
        return (await node.get("/readyz")).status == 200

    await until(is_ready, deadline=30.0)
    here = await told(node, reference)
    where = "1 image in default: not shared, only namespace k8s.io is"
    here.is_everywhere(where)
    assert where in here.texts["images"]
    assert "ctr -n k8s.io" in here.findings["pull"]["remedy"]
    assert (
        "on this node: no: it is in containerd's namespace default, which is not shared "
        "(only namespace k8s.io is)" in here.texts["resolve"]
    )
    assert here.statuses["resolve"] == here.statuses["measure"] == 1
    assert "miss, not_found" in here.texts["why"]
    agree_on_readiness(here)


async def test_the_registry_is_away(labs: Labs) -> None:
    """What a node has is whole everywhere; what no node has is missing everywhere."""
    lab = await labs(2)
    _, other, reference = await pair(lab, image("registry"), "registry")
    async with registry_away(lab):
        there = await told(other, reference)
        says_whole(there)
        agree_on_readiness(there)
        unknown = await told(other, lab.name("test/story:unknown"))
    assert "on this node: no" in unknown.texts["resolve"]
    assert "on peers: 0" in unknown.texts["resolve"]
    assert unknown.statuses["resolve"] == unknown.statuses["measure"] == 1
    assert "1 part that a runtime would get from the registry" in unknown.texts["measure"]
    assert "miss, not_found: nobody has it" in unknown.texts["why"]


async def test_an_image_is_excluded_by_a_filter(labs: Labs) -> None:
    """It is here and at a peer, but this node neither answers nor asks: each output says why."""
    lab = await labs(2)
    holder, other = lab.nodes
    app, reference = image("excluded"), lab.name("test/private:1")
    filters = {"registry_filters": "/private(:|$)"}
    await asyncio.gather(holder.start_spegel(**filters), other.start_spegel())
    await joined(holder, other)
    await lab.registry.push(reference, app)
    await asyncio.gather(*(node.cri.pull(reference) for node in lab.nodes))

    async def is_found() -> bool:
        texts = [(await command(node, "resolve", reference))[1] for node in lab.nodes]
        return "on peers: 1" in texts[0] and "on this node: yes" in texts[1]

    await until(is_found, deadline=30.0)
    here, there = await told(holder, reference), await told(other, reference)
    why = "it is not mirrored: --mirrored-registries or --registry-filters exclude it"
    assert "on this node: yes" in here.texts["resolve"]
    assert why in here.texts["resolve"]
    assert "miss, filtered" in here.texts["why"]
    assert "is not mirrored, by this node's settings" in here.texts["why"]
    assert "shares 0 images" in here.texts["images"]
    assert here.statuses["measure"] == 1
    assert why in (await command(holder, "resolve", str(app.root.digest)))[1]
    assert "on peers: 0" in there.texts["resolve"]
    assert why not in there.texts["resolve"]
    assert there.statuses["measure"] == 0
    agree_on_readiness(here)
    agree_on_readiness(there)


async def test_a_node_has_no_peers(labs: Labs) -> None:
    """Until it is ready alone, all outputs have the same reason; afterwards none has one."""
    lab = await labs(1)
    [node] = lab.nodes
    await node.start_spegel(ready_when_alone="off")
    reference = lab.name("test/story:alone")
    await node.daemon.load({reference: image("alone")})

    async def is_shared() -> bool:
        return "on this node: yes" in (await command(node, "resolve", reference))[1]

    await until(is_shared, deadline=30.0)
    alone = await told(node, reference)
    assert alone.reasons == ["no peer is connected"]
    agree_on_readiness(alone)
    assert "peers none" in alone.texts["status"]
    assert "isolated" in alone.findings["peers"]["finding"]
    assert "on peers: 0" in alone.texts["resolve"]
    assert alone.statuses["measure"] == 0
    assert "hit, local" in alone.texts["why"]


async def test_a_tag_is_too_old(labs: Labs) -> None:
    """It is here and at a peer, but no node answers it: each output says why."""
    lab = await labs(2)
    holder, other = lab.nodes
    app, reference = image("old"), lab.name("test/story:old")
    await asyncio.gather(*(node.start_spegel(tag_ttl="2s") for node in lab.nodes))
    await joined(holder, other)
    await lab.registry.push(reference, app)
    await holder.cri.pull(reference)
    too_old = "which is too long for --tag-ttl"

    async def is_old() -> bool:
        texts = [(await command(node, "resolve", reference))[1] for node in lab.nodes]
        return too_old in texts[0] and "too old for --tag-ttl" in texts[1]

    await until(is_old, deadline=30.0)
    here, there = await told(holder, reference), await told(other, reference)
    assert "on this node: yes" in here.texts["resolve"]
    for text in (here.texts["resolve"], here.texts["why"]):
        assert re.search(
            rf"the tag here was last seen at its registry [\d.]+ s ago, {too_old}", text
        )
    assert "miss, too_old" in here.texts["why"]
    assert here.statuses["measure"] == there.statuses["measure"] == 1
    assert "on peers: 1" in there.texts["resolve"]
    assert "too old for --tag-ttl" in there.texts["resolve"]
    agree_on_readiness(here)
    agree_on_readiness(there)
