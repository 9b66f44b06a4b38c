"""The contract of filters, for the watchers of stores that know images."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spegel_py.oci.filters import Filters
from tests.contract.conftest import SOURCES, make_source
from tests.contract.sources import Source
from tests.contract.test_watcher import keys, listening
from tests.support.images import image

SHOWN, HIDDEN = "registry.example/team/app:1", "other.example/team/app:1"
FILTERS = Filters(registries=["registry.example"], patterns=[re.compile(r":latest$")])


@pytest.fixture(params=SOURCES[1:])
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Source]:
    """A source that knows images, with nothing in it yet."""
    made = await make_source(request.param, tmp_path)
    yield made
    await made.close()


async def test_a_filtered_image_is_not_told(source: Source) -> None:
    """Its tag and content are not announced, before and after the start. Shared content is."""
    shown, hidden = image("shown", layers=2), image("hidden", layers=1)
    await source.add(HIDDEN, hidden)
    async with listening(source.filtered(FILTERS)) as listener:
        await listener.until(lambda: bool(listener.events))
        assert listener.keys == set()
        await source.add(SHOWN, shown)
        await listener.until(lambda: listener.keys == keys(SHOWN, shown))
        await source.add("other.example/team/more:1", image("more"))
        await source.add("registry.example/team/hidden:1", hidden)
        expected = keys(SHOWN, shown) | keys("registry.example/team/hidden:1", hidden)
        await listener.until(lambda: listener.keys == expected)
        for blob in hidden.blobs:
            assert FILTERS.shares(await source.origins.sources(blob.digest))
        for blob in image("more").blobs:
            assert await source.origins.sources(blob.digest) == {"other.example/team/more"}


async def test_content_that_only_a_filtered_image_still_holds_is_withdrawn(source: Source) -> None:
    """With the last allowed image its content is withdrawn, though it is still here."""
    one = image()
    await source.add(HIDDEN, one)
    await source.add(SHOWN, one)
    async with listening(source.filtered(FILTERS)) as listener:
        await listener.until(lambda: listener.keys == keys(SHOWN, one))
        await source.untag(SHOWN)
        await listener.until(lambda: listener.keys == set())
        assert await source.store.stat(one.root.digest)
        assert not FILTERS.shares(await source.origins.sources(one.root.digest))


async def test_a_filtered_tag_is_not_told_but_its_content_is(source: Source) -> None:
    """A rule for a tag does not apply to digests, which are requested without a tag."""
    name = "registry.example/team/app:latest"
    async with listening(source.filtered(FILTERS)) as listener:
        await listener.until(lambda: bool(listener.events))
        await source.add(name, image())
        await listener.until(lambda: listener.keys == keys(name, image()) - {name})
