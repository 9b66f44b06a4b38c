"""The image that is made, the image that is brought, and the rate."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.demo import demo_image, image_import, probe
from spegel_py.demo.demo_image import MB, NAME
from spegel_py.errors import ConfigError
from spegel_py.oci.digest import Digest
from spegel_py.pull.plan import Platform
from spegel_py.store.layout import LayoutWriter
from spegel_py.transfer.bucket import TokenBucket
from tests.support import images

FULL = "registry.example/team/app:1.0"


@given(size=st.integers(20, 512), layers=st.integers(1, 100))
def test_layer_sizes(size: int, layers: int) -> None:
    """The sizes add up, none is negative, and the first is large enough for a kill in its
    middle.
    """
    sizes = demo_image.layer_sizes(size * MB, layers)
    assert len(sizes) == layers
    assert sum(sizes) == size * MB
    assert min(sizes) >= 0
    assert sizes[0] == max(sizes) >= demo_image.CUT_SIZE


def test_the_made_image(tmp_path: Path) -> None:
    """It is complete and tagged, has one very large layer, and is the same in every run."""
    writer = LayoutWriter.create(root=tmp_path, is_durable=False)
    made = demo_image.make(writer, size=2 * MB, layers=3)
    assert len(made.blobs) == 4
    assert all(
        Digest.of(writer.path(child.digest).read_bytes()) == child.digest for child in made.all
    )
    assert 2 * MB <= made.size < 2.1 * MB
    assert NAME in (tmp_path / "index.json").read_text()
    assert demo_image.make(writer, size=2 * MB, layers=3) == made
    other = demo_image.make(writer, size=2 * MB, layers=3, seed="fresh", name=demo_image.FRESH_NAME)
    assert not {child.digest for child in other.all} & {child.digest for child in made.all}
    with pytest.raises(ConfigError, match="needs 12000000"):
        made.check()


def test_noise_of_any_length() -> None:
    """Random bytes are made in pieces, so that a layer may be larger than one call of the library
    gives.
    """
    size = 2 * demo_image.PIECE + 1
    assert len(demo_image._noise(random.Random("x"), size)) == size
    assert demo_image._noise(random.Random("x"), 0) == b""


@given(counts=st.lists(st.integers(1, 10_000), min_size=1), rate=st.integers(1, 10_000))
def test_pace(counts: list[int], rate: int) -> None:
    """A sender that waits as required is neither faster nor slower than the rate, on average."""
    bucket, now = TokenBucket(rate=rate, burst=0.0), 100.0
    for count in counts:
        now += bucket.pay(count, now)
    assert now - 100.0 == pytest.approx(sum(counts) / rate)


def test_no_rate_is_no_wait() -> None:
    """Rate 0 never waits; unused time is not saved up."""
    assert TokenBucket(rate=0).pay(10**9, 1.0) == 0
    bucket = TokenBucket(rate=10, burst=0.0)
    assert bucket.pay(10, 0.0) == 1.0
    assert bucket.pay(10, 100.0) == 1.0


def test_metrics_page() -> None:
    """Meters without labels are read; the rest is passed by."""
    page = '# HELP x\nspegel_records_held 27.0\nspegel_x{a="b"} 1.0\nprocess_open_fds 3.0\n'
    assert probe.parse(page) == {"spegel_records_held": 27.0}


def test_a_meter_over_all_its_labels() -> None:
    """Bytes of all sources are counted, and no other metric."""
    page = (
        'spegel_x_total{source="local"} 3.0\nspegel_x_total{source="peer"} 4.0\n'
        'spegel_x_total_y{a="b"} 9.0\n'
    )
    assert probe.total(page, "spegel_x_total") == 7.0


# An image that somebody brings


def bring(path: Path, tmp_path: Path) -> tuple[demo_image.DemoImage, LayoutWriter]:
    (tmp_path / "scratch").mkdir()
    writer = LayoutWriter.create(root=tmp_path / "copied", is_durable=False)
    return image_import.import_image(path, writer, tmp_path / "scratch"), writer


def archive(tmp_path: Path, *, is_packed: bool = False) -> Path:
    images.write_layout(tmp_path / "given", {FULL: images.image()})
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w:gz" if is_packed else "w") as out:
        for name in ("oci-layout", "index.json", "blobs"):
            out.add(tmp_path / "given" / name, f"./{name}")
    return path


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
def test_an_image_is_copied(tmp_path: Path, kind: str) -> None:
    """A layout folder and a plain or packed archive of one give the same image."""
    path = archive(tmp_path, is_packed=kind == "tar.gz")
    found, writer = bring(tmp_path / "given" if kind == "folder" else path, tmp_path)
    one = images.image()
    assert found.name == FULL
    assert {child.digest for child in found.all} == {blob.digest for blob in one.blobs}
    assert all(writer.path(blob.digest).read_bytes() == blob.data for blob in one.blobs)
    assert FULL in (writer.root / "index.json").read_text()


def test_this_machines_platform_first_else_one_that_is_there(tmp_path: Path) -> None:
    """Of several platforms this machine's is taken; if its content is not there, one whose content
    is.
    """
    one = images.image(platforms=("s390x", Platform.here().architecture))
    writer = images.write_layout(tmp_path / "given", {FULL: one})
    (tmp_path / "a").mkdir()
    found, _ = bring(tmp_path / "given", tmp_path / "a")
    assert found.platform == Platform.here()
    mine = found.manifests[1].digest
    writer.remove(mine)
    (tmp_path / "b").mkdir()
    found, _ = bring(tmp_path / "given", tmp_path / "b")
    assert str(found.platform) == "linux/s390x"


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({}, "demo.local/image:latest"),
        ({"org.opencontainers.image.ref.name": "1.2"}, "demo.local/image:1.2"),
        ({"org.opencontainers.image.ref.name": FULL}, FULL),
        ({"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": FULL}, FULL),
        ({"org.opencontainers.image.ref.name": "no tag!"}, "demo.local/image:latest"),
        ({"io.containerd.image.name": 7}, "demo.local/image:latest"),
        (None, "demo.local/image:latest"),
    ],
)
def test_names(annotations: dict[str, object] | None, name: str) -> None:
    """A full name is kept; a tag alone, as skopeo and docker write it, and none at all, are
    completed.
    """
    child = images.child(images.image())
    entry = {
        "mediaType": child.media_type,
        "digest": str(child.digest),
        "size": child.size,
        "annotations": annotations,
    }
    chosen = image_import.choose(json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    assert (chosen.name, chosen.root) == (name, child)


def test_the_first_of_several_is_taken(tmp_path: Path) -> None:
    """Of several images the first is shared, and the names of all are known."""
    images.write_layout(
        tmp_path, {FULL: images.image("a"), "registry.example/other:2": images.image("b")}
    )
    chosen = image_import.choose((tmp_path / "index.json").read_bytes())
    assert chosen.tags == (FULL, "registry.example/other:2")
    assert chosen.root == images.child(images.image("a"))


def _damage(root: Path) -> None:
    path = root / "blobs" / "sha256" / images.image().blobs[-1].digest.hex
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))


def _link(root: Path) -> None:
    path = root / "blobs" / "sha256" / images.image().blobs[-1].digest.hex
    path.rename(root.parent / "outside")
    path.symlink_to(root.parent / "outside")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: (root / "oci-layout").unlink(), "no OCI image layout"),
        (lambda root: (root / "index.json").write_text("{"), "JSON document"),
        (
            lambda root: (root / "index.json").write_text('{"schemaVersion": 2, "manifests": []}'),
            "names no image",
        ),
        (_damage, "are not the content of"),
        (_link, "no file|not a regular file"),
    ],
    ids=["no marker", "no JSON", "no image", "damaged", "link"],
)
def test_what_is_no_image_is_refused(
    tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    """A missing or damaged file, or one outside the folder, is one line with the path."""
    images.write_layout(tmp_path / "given", {FULL: images.image()})
    harm(tmp_path / "given")
    with pytest.raises(ConfigError, match=f"--image .*given: .*({said})"):
        bring(tmp_path / "given", tmp_path)


def test_an_archive_cannot_reach_out(tmp_path: Path) -> None:
    """Only the files of a layout are unpacked: no other names, no links, nothing outside the
    scratch folder.
    """
    path = archive(tmp_path)
    digest = "a" * 64
    with tarfile.open(path, "a") as out:
        for name in (
            "../evil",
            "/evil",
            "blobs/sha256/../../evil",
            "manifest.json",
            f"blobs/sha256/{digest}/x",
        ):
            member = tarfile.TarInfo(name)
            member.size = 4
            out.addfile(member, io.BytesIO(b"evil"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"blobs/sha256/{digest}")
            member.type, member.linkname = kind, "/etc/passwd"
            out.addfile(member)
    found, _ = bring(path, tmp_path)
    assert found.name == FULL
    inside = {
        str(file.relative_to(tmp_path / "scratch"))
        for file in (tmp_path / "scratch").rglob("*")
        if file.is_file()
    }
    assert inside == {"oci-layout", "index.json"} | {
        f"blobs/sha256/{blob.digest.hex}" for blob in images.image().blobs
    }
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    "data", [b"", b"no archive", os.urandom(5000)], ids=["empty", "text", "noise"]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    """A file that is not an archive is one line with advice."""
    path = tmp_path / "image.tar"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="give an OCI image layout"):
        bring(path, tmp_path)


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    """An archive that ends early is refused, packed or not."""
    path = archive(tmp_path, is_packed=True)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match=r"image\.tar: "):
        bring(path, tmp_path)
