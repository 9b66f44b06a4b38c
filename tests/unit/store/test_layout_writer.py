"""Writing a layout: complete or not at all, resumable, and by several processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from spegel_py.errors import ConfigError, DigestMismatch, NameInvalid, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST, Child
from spegel_py.store.layout import LayoutWriter, check_layout
from spegel_py.store.layout.folder import read_index, scan_blobs

DATA = os.urandom(100_000)
DIGEST = Digest.of(DATA)


@pytest.fixture
def writer(tmp_path: Path) -> LayoutWriter:
    """A writer for a new layout."""
    return LayoutWriter.create(root=tmp_path / "layout")


async def test_a_new_layout_is_a_layout(writer: LayoutWriter) -> None:
    """A layout from `create` passes the start-up check. Creating it again changes nothing."""
    await check_layout(writer.root)
    writer.put(DATA)
    LayoutWriter.create(root=writer.root)
    assert writer.path(DIGEST).read_bytes() == DATA


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    """Nobody's home folder becomes a layout by mistake."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="empty folder"):
        LayoutWriter.create(root=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_blob_is_resumed_where_it_stopped(writer: LayoutWriter) -> None:
    """A second writer continues at the first one's size. The blob appears when complete."""
    with writer.begin(DIGEST) as blob:
        blob.write(DATA[:60_000])
    assert scan_blobs(writer.root).blobs == {}
    with writer.begin(DIGEST) as blob:
        assert blob.offset == 60_000
        assert not writer.has(DIGEST, len(DATA))
        blob.write(memoryview(DATA)[60_000:])
        blob.commit()
    assert writer.path(DIGEST).read_bytes() == DATA
    assert writer.has(DIGEST, len(DATA))
    assert list((writer.root / "blobs" / ".partial").iterdir()) == []


def test_a_blob_that_is_there_is_verified(writer: LayoutWriter) -> None:
    """`has` checks the size, `verify` the bytes."""
    assert not writer.verify(DIGEST)
    writer.put(DATA)
    assert writer.verify(DIGEST)
    writer.path(DIGEST).write_bytes(DATA[::-1])
    assert writer.has(DIGEST, len(DATA))
    assert not writer.verify(DIGEST)


def test_wrong_bytes_are_thrown_away(writer: LayoutWriter) -> None:
    """A mismatch leaves no blob and no part, so the next attempt starts at byte 0."""
    with writer.begin(DIGEST) as blob:
        blob.write(DATA[::-1])
        with pytest.raises(DigestMismatch, match="100000 bytes"):
            blob.commit()
    assert not writer.path(DIGEST).exists()
    with writer.begin(DIGEST) as blob:
        assert blob.offset == 0


def test_two_writers_of_one_blob_do_not_mix(writer: LayoutWriter) -> None:
    """The second writes a private copy, which is removed if it gives up. Both may commit."""
    with writer.begin(DIGEST) as first, writer.begin(DIGEST) as second:
        first.write(DATA[:5])
        second.write(DATA)
        with writer.begin(DIGEST) as third:
            third.write(b"gives up")
        second.commit()
        first.write(DATA[5:])
        first.commit()
    assert writer.path(DIGEST).read_bytes() == DATA
    assert list((writer.root / "blobs" / ".partial").iterdir()) == []


async def test_a_tag_is_added_moved_and_removed(writer: LayoutWriter) -> None:
    """Other entries and fields of the index stay as they are."""
    index = writer.root / "index.json"
    other = {"mediaType": "x/y", "digest": str(DIGEST), "size": 1, "annotations": None}
    index.write_text(
        json.dumps({"schemaVersion": 2, "manifests": [other], "annotations": {"mine": "1"}})
    )
    old, new = Child(DIGEST, 1, OCI_MANIFEST), Child(Digest.of(b""), 0, OCI_MANIFEST)
    writer.tag("registry.example/app:1", old)
    writer.tag("registry.example/app:1", new)
    assert [(name, tag.digest) for name, tag in (await read_index(writer.root)).items()] == [
        ("registry.example/app:1", new.digest)
    ]
    writer.untag("registry.example/app:1")
    assert json.loads(index.read_text()) == {
        "schemaVersion": 2,
        "manifests": [other],
        "annotations": {"mine": "1"},
    }


@pytest.mark.parametrize(
    "name",
    ["app:1", f"registry.example/app:1@{DIGEST}", f"registry.example/app@{DIGEST}"],
    ids=["short", "tag and digest", "digest"],
)
def test_only_full_names_are_tagged(writer: LayoutWriter, name: str) -> None:
    """A name that could not be looked up is not written."""
    with pytest.raises(NameInvalid):
        writer.tag(name, Child(DIGEST, 1, OCI_MANIFEST))


async def test_concurrent_taggers_lose_nothing(writer: LayoutWriter) -> None:
    """Processes that tag at the same time wait for each other."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_tag_many, args=(writer.root, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert len(await read_index(writer.root)) == 3 * 20


def _tag_many(root: Path, number: int) -> None:
    for count in range(20):
        LayoutWriter(root=root, is_durable=False).tag(
            f"registry.example/app:{number}-{count}", Child(DIGEST, 1, OCI_MANIFEST)
        )


def test_a_full_disk_is_said_in_one_line(
    writer: LayoutWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is kept, so that the next run resumes it."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with writer.begin(DIGEST) as blob:
        blob.write(DATA[:10])
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(StoreUnavailable, match="is full; make room"):
                blob.write(DATA[10:])
    with writer.begin(DIGEST) as blob:
        assert blob.offset == 10


def test_a_damaged_index_is_not_overwritten(writer: LayoutWriter) -> None:
    """Its author may want to repair it."""
    (writer.root / "index.json").write_text("{")
    with pytest.raises(ConfigError, match="repair or remove"):
        writer.tag("registry.example/app:1", Child(DIGEST, 1, OCI_MANIFEST))
    assert (writer.root / "index.json").read_text() == "{"
