"""From an image to its content: the bytes decide, not the claims of records and indexes."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager

import pytest
import structlog

from spegel_py.oci import build
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_INDEX, OCI_LAYER_GZIP, Child
from spegel_py.store.base import Content
from spegel_py.store.memory_store import MemoryStore
from spegel_py.store.walker import Walker
from tests.support import images
from tests.support.images import image

ODD = ["application/octet-stream", "", OCI_LAYER_GZIP, "text/html; charset=utf-8"]
"""Media types of no manifest."""


def stored(*these: build.Image) -> MemoryStore:
    """Return a store that holds these images."""
    store = MemoryStore()
    for one in these:
        for blob in one.blobs:
            store.add(blob.data)
    return store


@pytest.mark.parametrize("media_type", ODD)
async def test_a_root_is_walked_whatever_its_record_says(media_type: str) -> None:
    """A wrong record leads to all content. So does a right record of its target after it."""
    many = image("many", platforms=("amd64", "arm64"))
    walker = Walker(open=stored(many).open)
    odd = images.child(many)._replace(media_type=media_type, size=7)
    with structlog.testing.capture_logs() as logs:
        assert await walker.reachable(odd) == {blob.digest for blob in many.blobs}
        assert await walker.reachable(images.child(many)) == {blob.digest for blob in many.blobs}
    assert logs == []


@pytest.mark.parametrize("media_type", ODD)
async def test_an_entry_of_an_index_is_walked_whatever_the_index_says(media_type: str) -> None:
    """An image manifest that an index calls a layer leads to the image's content."""
    one = image()
    entry = {"mediaType": media_type, "digest": str(one.root.digest), "size": len(one.root.data)}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    store = stored(one)
    walker = Walker(open=store.open)
    root = Child(store.add(index), len(index), OCI_INDEX)
    assert await walker.reachable(root) == {root.digest} | {blob.digest for blob in one.blobs}


async def test_a_root_that_is_no_manifest_is_a_leaf_without_a_word() -> None:
    """A record of content that does not claim to be a manifest is in order."""
    store = MemoryStore()
    data = b"\x7fELF no manifest"
    walker = Walker(open=store.open)
    with structlog.testing.capture_logs() as logs:
        root = Child(store.add(data), len(data), "application/octet-stream")
        assert await walker.reachable(root) == {root.digest}
    assert logs == []


async def test_a_manifest_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children and its kind come from one reading."""
    parsed: list[str] = []
    loads = json.loads

    def counted(text: str) -> object:
        parsed.append(text)
        return loads(text)

    one = image()
    store = stored(one)
    monkeypatch.setattr(json, "loads", counted)
    await Walker(open=store.open).reachable(images.child(one))
    assert len(parsed) == 1


async def test_layers_are_not_read() -> None:
    """Only manifests are opened, though a layer's bytes could be a manifest."""
    one = image(layers=3)
    store = stored(one)
    opened: list[Digest] = []

    def noted(digest: Digest) -> AbstractAsyncContextManager[Content]:
        opened.append(digest)
        return store.open(digest)

    await Walker(open=noted).reachable(images.child(one))
    assert opened == [one.root.digest]
