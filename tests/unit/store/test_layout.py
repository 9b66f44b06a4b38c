"""Layout folders with wrong, odd and unfinished files."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import ConfigError, ContentNotFound, StoreError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.store.file_access import Signature
from spegel_py.store.layout import LayoutStore, LayoutWatcher, LayoutWriter, check_layout
from spegel_py.store.layout.blob_verifier import BlobVerdict, BlobVerdicts
from spegel_py.store.layout.folder import REF_NAME, read_index, scan_blobs
from tests.contract.test_watcher import listening
from tests.support.images import image, write_layout
from tests.support.processes import descriptors

NAME = "registry.example/team/app:1"
DATA = b"some content"
DIGEST = Digest.of(DATA)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A layout with one image in it."""
    write_layout(tmp_path / "layout", {NAME: image()})
    return tmp_path / "layout"


def blob_path(root: Path, digest: Digest = DIGEST) -> Path:
    return root / "blobs" / digest.algorithm / digest.hex


async def refuses(store: LayoutStore, digest: Digest = DIGEST) -> None:
    with pytest.raises(ContentNotFound):
        await store.stat(digest)
    with pytest.raises(ContentNotFound):
        async with store.open(digest):
            pass


def _no_folder(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def _a_file(root: Path) -> None:
    _no_folder(root)
    root.write_text("hello")


def _write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / name).write_text(text)

    return spoil


def _remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def _marker_is_a_link(root: Path) -> None:
    (root / "oci-layout").rename(root.parent / "marker")
    (root / "oci-layout").symlink_to(root.parent / "marker")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_no_folder, "is not a folder", id="missing"),
        pytest.param(_a_file, "is not a folder", id="a file"),
        pytest.param(_remove("oci-layout"), "no file oci-layout", id="no marker"),
        pytest.param(_write("oci-layout", "?"), "not an OCI image layout", id="marker is no JSON"),
        pytest.param(_write("oci-layout", '{"imageLayoutVersion":"2.0.0"}'), "2.0.0", id="version"),
        pytest.param(_write("oci-layout", "[]"), "None", id="marker is a list"),
        pytest.param(_marker_is_a_link, "no file oci-layout", id="marker is a link"),
        pytest.param(_remove("index.json"), "no file index.json", id="no index"),
        pytest.param(
            _write("index.json", '{"manifests":[1]}'), "index.json", id="index of numbers"
        ),
        pytest.param(
            _write("index.json", "[" * 100_000), "not an OCI image layout", id="deep index"
        ),
    ],
)
async def test_a_folder_that_is_no_layout_is_a_config_error(
    root: Path, spoil: Callable[[Path], None], words: str
) -> None:
    """One line names the fault, the place and a remedy."""
    await check_layout(root)
    spoil(root)
    with pytest.raises(ConfigError, match=words) as caught:
        await check_layout(root)
    text = str(caught.value)
    assert str(root) in text
    assert "give an OCI image layout" in text
    assert "\n" not in text


async def test_a_damaged_blob_is_named_once_and_the_rest_is_served(root: Path) -> None:
    """A blob with wrong bytes is neither announced nor served. All other content is."""
    layer = image().blobs[-1]
    blob_path(root, layer.digest).write_bytes(b"x" * len(layer.data))
    store = LayoutStore(root=root, settle=0.1)
    with structlog.testing.capture_logs() as logs:
        async with listening(LayoutWatcher(store=store)) as listener:
            await listener.until(lambda: bool(listener.events))
            await refuses(store, layer.digest)
            async with asyncio.timeout(5):
                while not logs:
                    await asyncio.sleep(0.02)
            (root / "blobs" / "unrelated").touch()  # another listing does not log it again
            await asyncio.sleep(0.3)
            await refuses(store, layer.digest)
    assert [(one["event"], one["digest"]) for one in logs] == [
        ("damaged blob is not served", str(layer.digest))
    ]
    assert listener.keys == {NAME, *(str(blob.digest) for blob in image().blobs[:-1])}


async def test_a_damaged_blob_that_is_replaced_is_told(root: Path) -> None:
    """Replacing the file by a rename is enough."""
    blob_path(root).write_bytes(b"wrong")
    async with listening(LayoutWatcher(store=LayoutStore(root=root, settle=0.1))) as listener:
        await listener.until(lambda: bool(listener.events))
        assert str(DIGEST) not in listener.keys
        LayoutWriter(root=root).put(DATA)
        await listener.until(lambda: str(DIGEST) in listener.keys)


async def test_a_good_blob_that_is_damaged_later_is_withdrawn(root: Path) -> None:
    """A file changed in place with the same size and mtime is noticed, withdrawn and not served."""
    LayoutWriter(root=root).put(DATA)
    store = LayoutStore(root=root)
    async with listening(LayoutWatcher(store=store)) as listener:
        await listener.until(lambda: str(DIGEST) in listener.keys)
        status = blob_path(root).stat()
        blob_path(root).write_bytes(DATA[::-1])
        os.utime(blob_path(root), ns=(status.st_atime_ns, status.st_mtime_ns))
        await refuses(store)
        await listener.until(lambda: str(DIGEST) not in listener.keys)


async def test_a_blob_being_written_is_told_when_it_is_whole(root: Path) -> None:
    """A copy that grows in place is announced once it is right, and never called damaged."""
    data = b"piece" * 1000
    digest = Digest.of(data)
    store = LayoutStore(root=root, settle=0.3)
    with structlog.testing.capture_logs() as logs:
        async with listening(LayoutWatcher(store=store)) as listener:
            await listener.until(lambda: bool(listener.events))
            with blob_path(root, digest).open("wb", buffering=0) as file:
                for start in range(0, len(data), 1000):
                    file.write(data[start : start + 1000])
                    await asyncio.sleep(0.05)
                    assert str(digest) not in listener.keys or start + 1000 == len(data)
            await listener.until(lambda: str(digest) in listener.keys)
    assert logs == []


async def test_blobs_without_a_tag_are_content(root: Path) -> None:
    """Every file with the right name is content, sha512 too. Temporary names are ignored."""
    writer = LayoutWriter(root=root)
    loose = writer.put(DATA), writer.put(DATA, "sha512")
    (root / "blobs" / "sha256" / f"{DIGEST.hex}.tmp").write_bytes(DATA)
    (root / "blobs" / "sha256" / DIGEST.hex.upper()).write_bytes(DATA)
    store = LayoutStore(root=root)
    async with listening(LayoutWatcher(store=store)) as listener:
        await listener.until(lambda: bool(listener.events))
    assert {str(digest) for digest in loose} < listener.keys
    assert len(listener.keys) == 1 + len(image().blobs) + 2
    for digest in loose:
        assert (await store.stat(digest)).size == len(DATA)


def _link_file(root: Path) -> None:
    (root.parent / "secret").write_bytes(DATA)
    blob_path(root).symlink_to(root.parent / "secret")


def _link_folder(root: Path) -> None:
    (root / "blobs" / "sha256").rename(root.parent / "sha256")
    (root / "blobs" / "sha256").symlink_to(root.parent / "sha256")
    (root.parent / "sha256" / DIGEST.hex).write_bytes(DATA)


def _link_blobs(root: Path) -> None:
    (root / "blobs").rename(root.parent / "blobs")
    (root / "blobs").symlink_to(root.parent / "blobs")
    (root.parent / "blobs" / "sha256" / DIGEST.hex).write_bytes(DATA)


def _fifo(root: Path) -> None:
    os.mkfifo(blob_path(root))


def _folder(root: Path) -> None:
    blob_path(root).mkdir()


def _socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(blob_path(root).parent)
        try:
            one.bind(DIGEST.hex)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("put", [_link_file, _link_folder, _link_blobs, _fifo, _folder, _socket])
async def test_nothing_but_regular_files_inside_is_served(
    root: Path, put: Callable[[Path], None]
) -> None:
    """Links that lead out, pipes, folders and sockets are refused without hanging, and logged."""
    put(root)
    store = LayoutStore(root=root)
    async with asyncio.timeout(5):
        await refuses(store)
        assert DIGEST not in scan_blobs(root).blobs
    assert scan_blobs(root).refused


async def test_a_folder_that_vanishes_is_unavailable(root: Path) -> None:
    """Reads raise StoreUnavailable, also if only the marker is gone: an unmounted disk leaves an
    empty folder.
    """
    store = LayoutStore(root=root)
    root.rename(root.with_name("elsewhere"))
    for spoil in (None, root.mkdir):
        if spoil:
            spoil()
        with pytest.raises(StoreUnavailable):
            await store.resolve(NAME)
        with pytest.raises(StoreUnavailable):
            await store.stat(DIGEST)


async def test_an_absence_is_logged_once(root: Path) -> None:
    """One line when the folder goes away and one when it is back."""
    store = LayoutStore(root=root)
    with structlog.testing.capture_logs() as logs:
        async with listening(LayoutWatcher(store=store)) as listener:
            await listener.until(lambda: bool(listener.events))
            root.rename(root.with_name("elsewhere"))
            await asyncio.sleep(1.5)
            root.with_name("elsewhere").rename(root)
            await listener.until(lambda: listener.inventories == 2)
    assert [one["event"] for one in logs] == ["image layout is away", "image layout is back"]


async def test_an_index_written_in_place_keeps_the_tags(root: Path) -> None:
    """An incomplete index.json removes no tag and is logged once. The complete one counts again."""
    store = LayoutStore(root=root)
    assert await store.resolve(NAME)
    whole = (root / "index.json").read_text()
    with structlog.testing.capture_logs() as logs:
        (root / "index.json").write_text(whole[:40])
        assert await store.resolve(NAME) == await store.resolve(NAME)
        (root / "index.json").write_text('{"manifests":null}')
        with pytest.raises(ContentNotFound):
            await store.resolve(NAME)
    assert len(logs) == 1


async def test_a_cancelled_reader_of_the_index_leaves_nothing_open(root: Path) -> None:
    """A request may end at any moment, also while the file is being opened."""
    before = descriptors()
    for steps in range(40):
        reading = asyncio.create_task(read_index(root))
        for _ in range(steps % 8):
            await asyncio.sleep(0.0001 * (steps // 8))
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
    assert descriptors() <= before  # descriptors of an earlier test may be closed meanwhile


async def test_only_full_references_are_tags(root: Path) -> None:
    """Short names, references with a digest and garbage in the annotation are no tags."""
    entry = json.loads((root / "index.json").read_text())["manifests"][0]
    names = [
        "latest",
        "app:1",
        f"registry.example/app@{DIGEST}",
        f"registry.example/app:1@{DIGEST}",
        "../x/y:1",
        "",
        5,
    ]
    entries = [entry | {"annotations": {REF_NAME: name}} for name in names]
    entries += [entry | {"annotations": None}, entry | {"digest": "sha256:zz"}, entry]
    (root / "index.json").write_text(json.dumps({"manifests": entries}))
    assert [(name, tag.digest) for name, tag in (await read_index(root)).items()] == [
        (NAME, image().root.digest)
    ]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", NAME, str(DIGEST), REF_NAME]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["manifests", "digest", "annotations", REF_NAME]), inner)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40) | _json.map(lambda value: json.dumps(value).encode()))
def test_no_index_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any index.json results in tags or one of the documented errors."""
    root = tmp_path_factory.getbasetemp()
    (root / "index.json").write_bytes(data)
    try:
        tags = asyncio.run(read_index(root))
    except (ValueError, StoreError):
        return
    assert all(isinstance(digest, Digest) for digest in tags.values())


def test_hashing_a_file_that_keeps_changing_stays_rare() -> None:
    """After a mismatch a changed file must stay unchanged for four times the last hashing time."""
    verdicts = BlobVerdicts(settle=2.0)
    first, later = _signature(changed=100.0, size=1), _signature(changed=110.0, size=2)
    assert verdicts.of(DIGEST, first, 100.0) is BlobVerdict.UNKNOWN
    verdicts.record(DIGEST, first, is_good=False, seconds=5.0)
    assert verdicts.of(DIGEST, first, 1000.0) is BlobVerdict.BAD
    assert verdicts.of(DIGEST, later, 129.9) is BlobVerdict.UNSETTLED
    assert verdicts.of(DIGEST, later, 130.0) is BlobVerdict.UNKNOWN
    verdicts.record(DIGEST, later, is_good=True, seconds=5.0)
    assert verdicts.of(DIGEST, later, 130.0) is BlobVerdict.GOOD
    assert verdicts.of(DIGEST, first, 130.0) is BlobVerdict.UNKNOWN, (
        "a good file that changed is looked at at once"
    )
    verdicts.keep([])
    assert verdicts.of(DIGEST, later, 130.0) is BlobVerdict.UNKNOWN


def test_a_file_is_called_damaged_once_and_only_when_it_lies_still() -> None:
    """An unfinished file is not damaged."""
    verdicts = BlobVerdicts(settle=2.0)
    signature = _signature(changed=100.0, size=1)
    verdicts.record(DIGEST, signature, is_good=False, seconds=0.0)
    assert [verdicts.should_report(DIGEST, signature, now) for now in (101.0, 102.0, 103.0)] == [
        False,
        True,
        False,
    ]


def _signature(*, changed: float, size: int) -> Signature:
    return Signature(1, 1, size, int(changed * 1e9), int(changed * 1e9))
