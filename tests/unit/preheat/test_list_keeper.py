"""The list on one node: it comes, changes, is wrong, and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spegel_py.oci.reference import Reference
from spegel_py.preheat import list_keeper
from spegel_py.preheat.list_keeper import ListKeeper
from spegel_py.preheat.node_choice import KnownNode
from spegel_py.preheat.preheat_messages import ListedTag
from tests.support.images import image
from tests.support.processes import until
from tests.unit.preheat.preheated import Preheated, preheated, tells_nothing


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_keeper, "LOOK", 0.02)
    monkeypatch.setattr(list_keeper, "CHECK", 0.05)
    monkeypatch.setattr(list_keeper, "AGAIN", 0.1)
    monkeypatch.setattr("spegel_py.pull.resume.PAUSE_FIRST", 0.001)


@asynccontextmanager
async def keeping(keeper: ListKeeper) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def write(path: Path, *entries: str) -> Path:
    path.write_text(
        "preheat:\n" + "".join(f"- {{{one}, platform: linux/amd64}}\n" for one in entries)
    )
    return path


async def holds(node: Preheated, *images: object) -> None:
    wanted = {one.root.digest for one in images}  # type: ignore[attr-defined]

    async def are_held() -> bool:
        return set(node.replicas.held()) == wanted

    await until(are_held)


async def test_images_are_here_while_they_are_listed(tmp_path: Path) -> None:
    """The file is read again after each change."""
    one, two = image("one"), image("two")
    async with preheated(one, two) as node:
        path = write(tmp_path / "list.yaml", f"image: '{node.name('1')}'")
        async with keeping(node.list_keeper(path)):
            await holds(node, one)
            write(path, f"image: '{node.name('1')}'", f"image: '{node.name('2')}'")
            await holds(node, one, two)
            write(path, f"image: '{node.name('2')}'")
            await holds(node, two)
            write(path)
            await holds(node)
            assert node.is_empty()


async def test_a_wrong_file_keeps_the_old_list_and_says_why(tmp_path: Path) -> None:
    one = image()
    async with preheated(one) as node:
        path = write(tmp_path / "list.yaml", f"image: '{node.name()}'")
        keeper = node.list_keeper(path)
        async with keeping(keeper):
            await holds(node, one)
            write(path, f"image: '{node.name()}', node: all")

            async def is_said() -> bool:
                return "preheat[0]: unknown key 'node'" in str(keeper.describe()["fault"])

            await until(is_said)
            assert "unknown key 'node'" in keeper.faults()[str(path)]
            path.unlink()

            async def is_missed() -> bool:
                return "No such file" in keeper.fault

            await until(is_missed)
            assert node.replicas.held()


async def test_an_image_that_cannot_be_had_is_a_fault_until_it_is_here(tmp_path: Path) -> None:
    """Also while it is tried again."""
    one = image()
    async with preheated() as node:
        keeper = node.list_keeper(write(tmp_path / "list.yaml", f"image: '{node.name()}'"))
        async with keeping(keeper):

            async def is_told() -> bool:
                return keeper.faults().get(node.name(), "").startswith("not-found: ")

            await until(is_told)
            node.registry.add(one, "1")
            await holds(node, one)
            assert keeper.faults() == {}


async def test_a_node_that_is_not_meant_fetches_nothing(tmp_path: Path) -> None:
    """Names of other nodes are theirs. With a number, all nodes agree on who is meant."""
    one, two = image("one"), image("two")
    others = [KnownNode(f"node-{number}") for number in range(500)]
    async with preheated(one, two) as node:
        path = write(
            tmp_path / "list.yaml",
            f"image: '{node.name('1')}', nodes: [worker-2, worker-3]",
            f"image: '{node.name('2')}', nodes: 1",
        )
        keeper = node.list_keeper(path, others=others)
        async with keeping(keeper):

            async def is_decided() -> bool:
                images = keeper.describe()["images"]
                assert isinstance(images, list)
                return len(images) == 2 and all(one["meant"] is False for one in images)

            await until(is_decided)
            write(path, f"image: '{node.name('1')}', nodes: [worker-1]")
            await holds(node, one)


async def test_a_tag_that_moved_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old image goes."""
    old, new = image("old"), image("new")
    monkeypatch.setattr("spegel_py.preheat.preheat_list.values.seconds", lambda low, high: float)
    async with preheated(old) as node:
        path = write(tmp_path / "list.yaml", f"image: '{node.name()}', refresh: 0.05")
        async with keeping(node.list_keeper(path)):
            await holds(node, old)
            node.registry.add(new, "1")
            await holds(node, new)


async def test_one_node_asks_the_registry_whether_a_tag_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others take its digest; an older one than theirs, or none, is no answer."""
    old, new = image("old"), image("new")
    others = [KnownNode(f"node-{number}") for number in range(500)]
    monkeypatch.setattr("spegel_py.preheat.preheat_list.values.seconds", lambda low, high: float)
    told: list[ListedTag | None] = [None]

    async def ask(node: str, reference: Reference) -> ListedTag | None:
        return told[0]

    async with preheated(old) as node:
        node.mirror.add(new)
        path = write(tmp_path / "list.yaml", f"image: '{node.name()}', refresh: 0.05")
        keeper = node.list_keeper(path, others=others, ask=ask)
        async with keeping(keeper):
            await holds(node, old)
            tag = keeper.listed_tag(Reference.parse(node.name()))
            assert tag is not None
            assert tag.digest == old.root.digest
            # later than what this node may see at the registry itself meanwhile
            told[0] = ListedTag(new.root.digest, tag.seen + 3600.0)
            await holds(node, new)
            told[0] = ListedTag(new.root.digest, 1.0)
            await holds(node, old)
            assert keeper.listed_tag(Reference.parse("registry.example/other:1")) is None


async def test_an_image_that_comes_later_is_found_then(tmp_path: Path) -> None:
    """A list may be written before the image is pushed, and a copy may be taken away."""
    one = image()
    async with preheated() as node:
        path = write(tmp_path / "list.yaml", f"image: '{node.name()}'")
        keeper = node.list_keeper(path)
        async with keeping(keeper):

            async def is_missing() -> bool:
                images = keeper.describe()["images"]
                assert isinstance(images, list)
                return [one["why"] for one in images] == ["not-found"]

            await until(is_missing)
            failed = node.metrics.get_sample_value(
                "spegel_preheat_nodes_total", {"outcome": "failed"}
            )
            assert failed == 1
            node.registry.add(one, "1")
            await holds(node, one)
            await node.replicas.release(one.root.digest)  # for want of space
            await holds(node, one)


async def test_readiness_waits_for_marked_images_and_not_for_ever(tmp_path: Path) -> None:
    """Once the node was ready, an image that is added does not take that away."""
    one, two = image("one"), image("two")
    async with preheated(one) as node:
        marked = f"image: '{node.name('1')}', ready: true"
        path = write(tmp_path / "list.yaml", marked, f"image: '{node.name('2')}'")
        keeper = node.list_keeper(path)
        assert keeper.not_ready() == "the pre-heat list was not read yet"
        async with keeping(keeper):
            await holds(node, one)

            async def is_ready() -> bool:
                return keeper.not_ready() is None

            await until(is_ready)
            write(path, marked, f"image: '{node.name('2')}', ready: true")
            node.registry.add(two, "2")
            await holds(node, one, two)
            assert keeper.not_ready() is None
        waiting = Preheated(node.mirror, node.registry)
        late = ListKeeper(
            path=write(path, f"image: '{node.name('3')}', ready: true"),
            own=KnownNode("a"),
            others=tuple,
            ask=tells_nothing,
            local=waiting.local,
            lookup=waiting.lookup,
            metrics=waiting.counted,
            longest=0.3,
            rng=waiting.rng,
        )
        async with keeping(late):

            async def is_held_up() -> bool:
                return "not here yet" in (late.not_ready() or "")

            await until(is_held_up)

            async def is_let_go() -> bool:
                return late.not_ready() is None

            await until(is_let_go)
