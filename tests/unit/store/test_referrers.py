"""The referrers among a store's content."""

from __future__ import annotations

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST, Referrer, referrer
from spegel_py.store.memory_store import MemoryStore
from spegel_py.store.referrers import Referrers
from tests.support.images import image, signature

APP = image()
SIGNED = signature(APP)


def held(*images: Image) -> tuple[MemoryStore, Referrers]:
    store = MemoryStore()
    for one in images:
        for blob in one.blobs:
            store.add(blob.data, algorithm=blob.digest.algorithm)
    return store, Referrers(store=store, held=lambda: store.keys)


async def test_only_manifests_with_the_subject_are_found() -> None:
    other = signature(image("other"))
    store, referrers = held(APP, SIGNED, other)
    store.add(b"no manifest", "r.io/app:1")
    [found] = await referrers.of(APP.root.digest)
    assert (found.digest, found.size) == (SIGNED.root.digest, len(SIGNED.root.data))
    assert found.artifact_type == "application/vnd.example.signature"
    assert found.annotations == {"made.by": "a test"}
    assert await referrers.of(SIGNED.root.digest) == []


async def test_new_content_is_found_and_removed_content_is_not() -> None:
    store, referrers = held(APP)
    assert await referrers.of(APP.root.digest) == []
    store.add(SIGNED.root.data)
    assert [each.digest for each in await referrers.of(APP.root.digest)] == [SIGNED.root.digest]
    store.remove(SIGNED.root.digest)
    assert await referrers.of(APP.root.digest) == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_an_index_of_either_algorithm_may_be_the_subject(algorithm: str) -> None:
    many = image("many", platforms=("amd64", "arm64"), algorithm=algorithm)
    signed = signature(many, algorithm=algorithm)
    _, referrers = held(many, signed)
    assert [each.digest for each in await referrers.of(many.root.digest)] == [signed.root.digest]


async def test_large_content_is_no_manifest() -> None:
    store, referrers = held(APP)
    store.add(SIGNED.root.data + b" " * MAX_MANIFEST)
    assert await referrers.of(APP.root.digest) == []


async def test_a_store_that_is_away_is_told() -> None:
    """Nothing is remembered of content that could not be read."""
    store, referrers = held(APP, SIGNED)
    store.leave()
    with pytest.raises(StoreUnavailable):
        await referrers.of(APP.root.digest)
    store.come_back()
    assert len(await referrers.of(APP.root.digest)) == 1


def test_an_index_has_no_type_but_its_own() -> None:
    """Without artifactType, a manifest has the type of its config, and an index has none."""
    digest = "sha256:" + "a" * 64
    subject = f'"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":3}}'
    config = f'"config":{{"mediaType":"c/d","digest":"{digest}","size":3}}'
    manifest = f'{{"mediaType":"{OCI_MANIFEST}",{config},"layers":[],{subject}}}'
    index = f'{{"mediaType":"{OCI_INDEX}","manifests":[],{subject}}}'
    found = Digest.parse(digest)
    assert referrer(manifest.encode()) == Referrer(found, OCI_MANIFEST, "c/d", {})
    assert referrer(index.encode()) == Referrer(found, OCI_INDEX, "", {})
    assert referrer(manifest.replace(digest, "sha256:x").encode()) is None
    assert referrer(b"{}") is None
