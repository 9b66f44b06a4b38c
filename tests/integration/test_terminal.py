"""The commands as a person sees them: on a terminal of 80 columns, asked of real nodes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import spegel_py
from tests.integration.cluster import events, metric, publish, registry_away, start_cluster
from tests.support.images import image
from tests.support.lab import Lab, Node
from tests.support.processes import run, until
from tests.support.terminals import shown, terminal

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SOURCE = {"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)}
COLUMNS = 80
_WHOLE_ID = re.compile(r"[0-9a-f]{40}|12D3Koo\w{30}")
NAME = "test/a-team-with-a-long-name/and-a-project/application:2026.11.29-build-4711"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab() -> AsyncIterator[Lab]:
    async with start_cluster(3) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pulled(lab: Lab) -> str:
    """The name of an image that the second node has pulled from the first."""
    app, reference = image("terminal", layers=9, platforms=("amd64", "arm64")), lab.name(NAME)
    holder, puller, _ = lab.nodes
    await publish(lab, reference, app, holder)
    async with registry_away(lab):
        await puller.cri.pull(reference)
    return reference


def command(node: Node, *arguments: str) -> list[str]:
    return [*node.namespace.prefix, sys.executable, "-m", "spegel_py", *arguments]


async def on_terminal(node: Node, *arguments: str, **environment: str) -> tuple[str, int]:
    """Run a command on a terminal of 80 columns; returns its output and its status."""

    def see() -> tuple[str, int]:
        with terminal(
            command(node, *arguments), columns=COLUMNS, environment=SOURCE | environment
        ) as screen:
            return screen.read(), screen.status()

    return await asyncio.to_thread(see)


async def opened(node: Node, condition: str) -> None:
    """Wait until a node has opened an alert, or show the end of its log."""

    async def is_open() -> bool:
        return bool(events(node, "alert opened", condition=condition))

    try:
        await until(is_open, deadline=60.0)
    except TimeoutError:
        assert node.spegel
        log = node.spegel.output.splitlines()[-20:]
        pytest.fail(f"no alert {condition!r}; the log ends with\n" + "\n".join(log))


async def in_a_pipe(node: Node, *arguments: str, **environment: str) -> str:
    return await run(*command(node, *arguments), environment=SOURCE | environment)


def ways(reference: str) -> dict[str, tuple[str, ...]]:
    """Return the commands that show something, and their arguments."""
    return {
        "status": (),
        "peers": (),
        "images": (),
        "images nothing": ("nothing-has-this",),
        "why": (),
        "why of an image": (reference,),
        "why of a part": ("sha256:",),
        "why of requests": (reference, "--requests"),
        "measure": (reference,),
        "resolve": (reference,),
        "alerts": (),
        "replicas": (),
        "version": (),
        "pull": (reference, "--mirror", "http://127.0.0.1:5000", "--into", "LAYOUT"),
    }


@pytest.mark.parametrize("way", list(ways("")))
async def test_every_line_fits_on_a_terminal(
    lab: Lab, pulled: str, way: str, tmp_path: Path
) -> None:
    """No line is longer than 80 columns, and no id is folded: it is shortened."""
    layout = str(tmp_path / "layout")
    arguments = [layout if each == "LAYOUT" else each for each in ways(pulled)[way]]
    output, status = await on_terminal(lab.nodes[1], way.partition(" ")[0], *arguments)
    lines = shown(output)
    assert status == 0, output
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert not _WHOLE_ID.search("\n".join(lines))
    assert any(lines)


async def test_what_the_doctor_finds_fits_on_a_terminal(lab: Lab, pulled: str) -> None:
    """A remedy stays on one line, so that a command in it can be copied; so does a long path."""
    output, status = await on_terminal(lab.nodes[1], "doctor")
    lines = shown(output)
    assert status in (0, 1)
    long = [line for line in lines if len(line) > COLUMNS and "→" not in line]
    assert [line for line in long if not re.search(r"\S{50}$", line)] == []
    assert not _WHOLE_ID.search("\n".join(line for line in lines if "→" not in line))
    assert len([line for line in lines if line]) > 5


@pytest.mark.parametrize("name", ["status", "peers", "images", "why", "measure", "resolve"])
async def test_wide_and_json_have_whole_ids(lab: Lab, pulled: str, name: str) -> None:
    """As programs need them, and people who copy one."""
    arguments = (name, *((pulled,) if name in ("why", "measure", "resolve") else ()))
    for flag in ("--wide", "--json"):
        output = await in_a_pipe(lab.nodes[1], *arguments, flag)
        assert _WHOLE_ID.search(output), (flag, output)
    assert isinstance(json.loads(output), dict)


async def test_colours_are_for_terminals_only(lab: Lab, pulled: str) -> None:
    """Neither a pipe nor somebody with NO_COLOR gets them; a pipe has whole names too."""
    puller = lab.nodes[1]
    coloured, _ = await on_terminal(puller, "why", pulled)
    plain, _ = await on_terminal(puller, "why", pulled, NO_COLOR="1")
    assert "\x1b[1m" in coloured
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", plain)
    piped = await in_a_pipe(puller, "images")
    assert "\x1b" not in piped
    assert pulled in piped


async def test_a_pull_is_told_as_one_thing(lab: Lab, pulled: str) -> None:
    """Its bytes, its source, its parts and its time: of the image that containerd has pulled."""
    holder, puller, _ = lab.nodes
    output = await in_a_pipe(puller, "why", pulled)
    title, summary, *rows = output.splitlines()
    assert title.endswith(f"  {pulled}")
    facts = re.fullmatch(
        rf"  (\d+\.\d kB) from {holder.address}, 12 of 12 parts, [\d.]+ m?s", summary
    )
    assert facts, output
    [told] = json.loads(await in_a_pipe(puller, "why", pulled, "--json"))["pulls"]
    assert (told["image"], told["client"], told["total"]) == (pulled, "runtime", 12)
    kinds = [part["kind"] for part in told["parts"]]
    assert (kinds[:3], kinds.count("layer"), told["advice"]) == (
        ["index", "manifest", "config"],
        9,
        [],
    )
    assert sum(row.startswith("  layer ") and holder.address in row for row in rows) == 9


async def test_what_people_measure_is_kept_apart(lab: Lab, pulled: str, tmp_path: Path) -> None:
    """Neither the hit rate nor `why` mixes it with the pulls of containerd."""
    puller = lab.nodes[1]

    async def pulls() -> Any:
        return json.loads(await in_a_pipe(puller, "status", "--json"))["pulls"]

    before, counted = await pulls(), await metric(puller, "spegel_mirror_requests_total")
    await in_a_pipe(puller, "measure", pulled)
    mirror = f"http://{puller.address}:5000"
    await in_a_pipe(
        puller, "pull", pulled, "--mirror", mirror, "--into", str(tmp_path / "it"), "--quiet"
    )
    after = await pulls()
    assert after["measured"]["total"] > before["measured"]["total"]
    assert {**after, "measured": None} == {**before, "measured": None}
    assert await metric(puller, "spegel_mirror_requests_total") == counted
    by_people = await metric(puller, "spegel_measured_requests_total", source="local")
    assert by_people == after["measured"]["total"]
    assert "requests by people, not counted above" in await in_a_pipe(puller, "status")
    output = await in_a_pipe(puller, "why", pulled)
    assert output.count(" parts, ") == 1
    assert "by people (spegel-py measure or pull) not shown: --measured shows them" in output
    output = await in_a_pipe(puller, "why", pulled, "--measured")
    assert f"{pulled}, by spegel-py measure\n" in output
    assert f"{pulled}, by spegel-py pull\n" in output


async def test_open_alerts_fit_on_a_terminal(lab: Lab, pulled: str) -> None:
    """Those about containerd, with its long path, and about a peer, with its long id; also those
    that are kept in files. The last test: its nodes end with alerts.
    """
    holder, puller, _ = lab.nodes
    assert holder.spegel
    await holder.spegel.end(signal.SIGKILL)
    await puller.daemon.stop()

    for condition in ("containerd-away", "peer-lost"):
        await opened(puller, condition)
    for more in ((), ("--data-dir", str(puller.folder / "data"))):
        output, status = await on_terminal(puller, "alerts", *more)
        lines = shown(output)
        assert status == 0, output
        assert [line for line in lines if len(line) > COLUMNS] == []
        text = " ".join(" ".join(lines).split())
        assert not _WHOLE_ID.search(text)
        assert "containerd-away" in text
        assert re.search(r"peer-lost …\w{8}", text), output
        piped = await in_a_pipe(puller, "alerts", *more, "--wide")
        assert re.search(r"peer-lost 12D3Koo\w{40,}", piped), piped
