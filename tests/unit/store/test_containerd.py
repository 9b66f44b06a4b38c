"""containerd's special cases: partial images, names without a tag, losses, wrong settings."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from spegel_py.errors import ConfigError, ContentNotFound, StoreUnavailable
from spegel_py.oci import build
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.oci.manifest import Child
from spegel_py.store.containerd import (
    Client,
    ContainerdStore,
    ContainerdWatcher,
    check_content_path,
    check_socket,
)
from spegel_py.store.containerd.blob_access import FileBlobs
from spegel_py.store.containerd.blob_records import BlobRecords, ContainerdOrigins
from spegel_py.store.containerd.grpc_client import SOURCE, BlobRecord
from spegel_py.store.walker import Walker
from tests.contract.test_watcher import keys, listening
from tests.support import images
from tests.support.containerd import Daemon, running_daemon
from tests.support.images import image
from tests.support.processes import until

NAME = "registry.example/team/app:1"


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    """A running containerd."""
    async with running_daemon() as one:
        yield one


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[Client]:
    """A client of the daemon."""
    async with Client(socket=daemon.socket) as one:
        yield one


def file_blobs(content_path: Path) -> FileBlobs:
    """Return the blobs of a folder whose daemon never answered."""
    client = Client(socket=content_path / "no.sock")
    return FileBlobs(content_path=content_path, records=BlobRecords(client=client))


@pytest.fixture(params=["path", "gRPC"])
def store(request: pytest.FixtureRequest, daemon: Daemon, client: Client) -> ContainerdStore:
    """A store over the daemon."""
    return ContainerdStore(
        client=client, content_path=daemon.content_path if request.param == "path" else None
    )


@pytest.mark.root
async def test_an_image_of_one_platform_lists_what_is_there(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """The manifests of other platforms are missing. They are left out, and nothing fails."""
    many = image("many", platforms=("amd64", "arm64"))
    await daemon.load({NAME: many})
    foreign = {str(blob.digest) for blob in image("many", platforms=("amd64", "arm64")).blobs}
    foreign -= {str(blob.digest) for blob in (many.root, *_platform("many", "amd64"))}
    await daemon.ctr("content", "rm", *foreign)
    async with listening(ContainerdWatcher(store=store)) as listener:
        await listener.until(lambda: bool(listener.events))
        assert listener.keys == keys(NAME, many) - foreign


@pytest.mark.root
async def test_names_with_a_digest_are_no_tags_but_their_content_counts(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """The CRI creates three names for one pull.

    Only the tag is a key; the name with a digest is counted.
    """
    one = image()
    await daemon.load({NAME: one})
    await daemon.ctr("images", "tag", NAME, f"registry.example/team/app@{one.root.digest}")
    await daemon.ctr("images", "tag", NAME, str(one.blobs[1].digest))
    await daemon.ctr("images", "rm", NAME)
    watcher = ContainerdWatcher(store=store)
    assert watcher.images_by_digest() == []
    async with listening(watcher) as listener:
        await listener.until(lambda: bool(listener.events))
        assert listener.keys == {str(blob.digest) for blob in one.blobs}
        assert watcher.images_by_digest() == [f"registry.example/team/app@{one.root.digest}"]


@pytest.mark.root
async def test_content_deleted_behind_an_image_is_told(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """A deleted layer is withdrawn. A deleted manifest takes its tag with it."""
    one = image()
    await daemon.load({NAME: one})
    async with listening(ContainerdWatcher(store=store)) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, one))
        await daemon.ctr("content", "rm", str(one.blobs[-1].digest))
        await listener.until(lambda: listener.keys == keys(NAME, one) - {str(one.blobs[-1].digest)})
        await daemon.ctr("content", "rm", str(one.root.digest))
        await listener.until(lambda: not listener.keys & {NAME, str(one.root.digest)})


@pytest.mark.root
async def test_collected_content_is_told_within_two_seconds(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """Garbage collection emits no event, so the loss is found by a check."""
    one = image()
    await daemon.load({NAME: one})
    async with listening(ContainerdWatcher(store=store)) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, one))
        blob = daemon.content_path / "blobs" / "sha256" / one.root.digest.hex
        await daemon.ctr("images", "rm", "--sync", NAME)
        async with asyncio.timeout(10):
            while blob.exists():
                await asyncio.sleep(0.005)
        gone = time.monotonic()
        await listener.until(lambda: listener.keys == set())
        assert time.monotonic() - gone < 2.0


@pytest.mark.root
async def test_an_absence_is_logged_once(daemon: Daemon, store: ContainerdStore) -> None:
    """One line when the daemon goes away and one when it is back, for any number of attempts."""
    with structlog.testing.capture_logs() as logs:
        async with listening(ContainerdWatcher(store=store)) as listener:
            await listener.until(lambda: bool(listener.events))
            await daemon.kill()
            await asyncio.sleep(1.0)
            await daemon.start()
            await listener.until(lambda: listener.inventories == 2)
    assert [one["event"] for one in logs] == ["containerd is away", "containerd is back"]


@pytest.mark.root
async def test_a_stopped_daemon_does_not_hold_a_request(daemon: Daemon) -> None:
    """A daemon that accepts connections and never answers is unavailable after the deadline."""
    async with Client(socket=daemon.socket, timeout=0.3) as client:
        await client.version()
        daemon.process.send(19)  # SIGSTOP
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await ContainerdStore(client=client).resolve(NAME)
        with pytest.raises(StoreUnavailable):
            await client.content()
        assert time.monotonic() - began < 2.0


@pytest.mark.root
async def test_a_label_that_is_set_on_an_image_makes_it_no_younger(
    daemon: Daemon, client: Client, store: ContainerdStore
) -> None:
    """A label counts for no reader as a pull, also after a start. An import counts."""
    await daemon.load({NAME: image()})
    async with listening(ContainerdWatcher(store=store)) as listener:
        await listener.until(lambda: NAME in listener.pulled)
        first = listener.pulled[NAME]
        await daemon.ctr("images", "label", NAME, "team=one")
        assert (await client.image(NAME)).updated > first
        assert (await store.resolve(NAME)).pulled == first
        await daemon.load(
            {"registry.example/team/last:1": image("last")}
        )  # announced after the label
        await listener.until(lambda: "registry.example/team/last:1" in listener.keys)
        assert listener.pulled[NAME] == first
        assert (await ContainerdStore(client=client).resolve(NAME)).pulled == pytest.approx(first)
        await daemon.load({NAME: image()})
        await listener.until(lambda: listener.pulled[NAME] > first)


@pytest.mark.root
async def test_reads_by_path_need_no_daemon(daemon: Daemon, client: Client) -> None:
    """Peers are served while containerd restarts."""
    one = image()
    await daemon.load({NAME: one})
    await daemon.kill()
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    for blob in one.blobs:
        assert (await store.stat(blob.digest)).size == len(blob.data)


@pytest.mark.root
async def test_the_other_namespace_is_not_ours(daemon: Daemon) -> None:
    """A gRPC client sees only the images and content of its namespace."""
    await daemon.load({NAME: image()})
    async with Client(socket=daemon.socket, namespace="moby") as client:
        assert await client.images() == []
        assert await client.content() == {}
        with pytest.raises(ContentNotFound):
            await client.image(NAME)


@pytest.mark.root
async def test_content_of_another_namespace_is_not_here(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """Its file lies in the same folder, before and after the first listing alike."""
    ours, theirs = image("ours"), image("theirs")
    await daemon.load({NAME: ours})
    await daemon.load({NAME: theirs}, namespace="default")

    async def check() -> None:
        for blob in theirs.blobs:
            with pytest.raises(ContentNotFound):
                await store.stat(blob.digest)
            with pytest.raises(ContentNotFound):
                async with store.open(blob.digest):
                    pass
        for blob in ours.blobs:
            assert (await store.stat(blob.digest)).size == len(blob.data)

    await check()
    async with listening(ContainerdWatcher(store=store)) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, ours))
        await check()
        late = image("late")
        await daemon.load({NAME: late}, namespace="default")
        with pytest.raises(ContentNotFound):
            await store.stat(late.root.digest)
        await daemon.load({NAME: theirs})  # both namespaces hold it from now on
        await listener.until(lambda: listener.keys >= keys(NAME, theirs))
        assert await store.stat(theirs.root.digest)


@pytest.mark.root
@pytest.mark.parametrize("how", ["image", "content"])
async def test_content_that_only_another_namespace_still_holds_is_withdrawn(
    daemon: Daemon, store: ContainerdStore, how: str
) -> None:
    """The file stays for the other namespace, and is neither announced nor served."""
    one = image()
    for namespace in ("k8s.io", "default"):
        await daemon.load({NAME: one}, namespace=namespace)
    async with listening(ContainerdWatcher(store=store)) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, one))
        if how == "image":
            await daemon.ctr("images", "rm", "--sync", NAME)
        else:
            await daemon.ctr("content", "rm", *(str(blob.digest) for blob in one.blobs))
        await listener.until(lambda: listener.keys == set())
        for blob in one.blobs:
            assert daemon.path(blob.digest).exists()
            with pytest.raises(ContentNotFound):
                await store.stat(blob.digest)


@pytest.mark.root
async def test_what_is_known_is_given_while_containerd_is_away(
    daemon: Daemon, client: Client
) -> None:
    """An unknown blob cannot be told from another namespace's content then."""
    one, theirs = image(), image("theirs")
    await daemon.load({NAME: one})
    await daemon.load({NAME: theirs}, namespace="default")
    store = ContainerdStore(client=client, content_path=daemon.content_path)
    async with listening(ContainerdWatcher(store=store)) as listener:
        await listener.until(lambda: listener.keys == keys(NAME, one))
        await daemon.kill()
        assert await store.stat(one.root.digest)
        with pytest.raises(StoreUnavailable):
            await store.stat(theirs.root.digest)


SECRET, PUBLIC = "registry.example/secret/app:1", "registry.example/public/app:1"
FILTERS = Filters(patterns=[re.compile("/secret/")])


async def label(daemon: Daemon, repositories: str, *blobs: build.Blob) -> None:
    """Label blobs as a pull from these repositories of registry.example does."""
    for blob in blobs:
        await daemon.ctr(
            "content", "label", str(blob.digest), f"{SOURCE}registry.example={repositories}"
        )


@pytest.mark.root
async def test_content_comes_from_where_its_labels_say(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """The image's name here does not matter.

    Announcements agree, and follow a label that a pull adds.
    """
    one = image()
    await daemon.load({SECRET: one})
    await label(daemon, "secret/app", *one.blobs)
    await daemon.ctr("images", "tag", SECRET, PUBLIC)
    async with listening(ContainerdWatcher(store=store, filters=FILTERS)) as listener:
        await listener.until(lambda: bool(listener.events))
        assert listener.keys == set()
        for blob in one.blobs:
            assert await store.origins.sources(blob.digest) == {"registry.example/secret/app"}
        await label(daemon, "secret/app,public/app", *one.blobs)
        await daemon.ctr("images", "tag", "--force", SECRET, PUBLIC)  # an event, as after a pull
        await listener.until(lambda: listener.keys == keys(PUBLIC, one))
        both = {"registry.example/secret/app", "registry.example/public/app"}
        assert await store.origins.sources(one.root.digest) == both


async def test_the_port_that_a_label_lacks_is_that_of_the_images_name() -> None:
    """The name's port is used if host and repository agree. Otherwise the port stays unknown."""
    digest = Digest.of(b"layer")
    async with FakeClient(
        BlobRecord(digest, 5, frozenset({"10.0.0.1/a", "::1/b", "10.0.0.1/c"}))
    ) as client:
        records = BlobRecords(client=client)
        await records.list()
        origins = ContainerdOrigins(client=client, records=records)
        images = frozenset({"10.0.0.1:5000/a", "10.0.0.1/a", "[::1]:5000/b", "r.io/c"})
        origins.of_images = {digest: images}
        assert await origins.sources(digest) == images | {"10.0.0.1/c"}


class FakeClient(Client):
    """A client that returns one record."""

    def __init__(self, record: BlobRecord) -> None:
        super().__init__(socket=Path("/nonexistent/sock"))
        self._record = record

    async def content(self) -> dict[Digest, BlobRecord]:
        return {self._record.digest: self._record}


@pytest.mark.root
async def test_content_without_a_label_comes_from_where_its_images_say(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """The content belongs to all their repositories. Once they are gone its origin is unknown."""
    one = image()
    await daemon.load({SECRET: one})
    async with listening(ContainerdWatcher(store=store, filters=FILTERS)) as listener:
        await listener.until(lambda: bool(listener.events))
        assert listener.keys == set()
        assert await store.origins.sources(one.root.digest) == {"registry.example/secret/app"}
        await daemon.load({PUBLIC: one})
        await listener.until(lambda: listener.keys == keys(PUBLIC, one))
        assert FILTERS.shares(await store.origins.sources(one.blobs[-1].digest))
        await daemon.ctr("images", "rm", PUBLIC)
        await listener.until(lambda: listener.keys == set())
        assert await store.origins.sources(one.blobs[-1].digest) == {"registry.example/secret/app"}
        await daemon.ctr("images", "tag", SECRET, str(one.root.digest))
        await daemon.ctr("images", "rm", SECRET)

        async def is_unknown() -> bool:
            return await store.origins.sources(one.root.digest) == frozenset()

        await until(is_unknown)
        assert listener.keys == set()


@pytest.mark.root
async def test_content_that_is_being_pulled_comes_from_where_its_manifest_came(
    daemon: Daemon, store: ContainerdStore
) -> None:
    """containerd labels a manifest before it fetches the manifest's content."""
    one = image()
    await daemon.load({SECRET: one})
    layer = one.blobs[-1]
    await daemon.ctr("content", "rm", str(layer.digest))
    await label(daemon, "secret/app", one.root)
    assert await store.origins.sources(layer.digest) == {"registry.example/secret/app"}
    assert await store.origins.sources(Digest.of(b"nothing")) == frozenset()


async def test_a_manifest_that_cannot_be_read_ends_its_branch(tmp_path: Path) -> None:
    """Garbage and manifests that are too long are leaves, logged once. The walk continues."""
    garbage, one = b"\x00garbage", image()
    images.write_layout(tmp_path, {NAME: one}).put(garbage)
    walker = Walker(open=file_blobs(tmp_path).open)
    root = images.child(one)._replace(digest=Digest.of(garbage))
    with structlog.testing.capture_logs() as logs:
        assert await walker.reachable(root) == await walker.reachable(root) == {root.digest}
    assert [log["event"] for log in logs] == ["manifest cannot be read"]
    assert await walker.reachable(images.child(one)) == {blob.digest for blob in one.blobs}


async def test_an_odd_descriptor_hides_no_other_content(tmp_path: Path) -> None:
    """The config and the other layers are shared. The odd descriptor's size is not used."""
    one = image(layers=3)
    expected: list[Child] = []
    document = json.loads(one.root.data)
    odd = document["layers"][1]
    odd["size"] = -1
    data = json.dumps(document).encode()
    images.write_layout(tmp_path, {NAME: one}).put(data)
    walker = Walker(open=file_blobs(tmp_path).open, expect=expected.append)
    root = images.child(one)._replace(digest=Digest.of(data))
    parts = {str(blob.digest) for blob in one.blobs[1:]} - {odd["digest"]}
    assert {str(digest) for digest in await walker.reachable(root)} == {str(root.digest)} | parts
    assert {str(child.digest) for child in expected} == parts


async def test_a_content_path_that_went_away_is_unavailable(tmp_path: Path) -> None:
    """The whole folder of containerd must be missing: the content folder is created with the first
    blob.
    """
    blobs = file_blobs(tmp_path / "containerd" / "content")
    with pytest.raises(StoreUnavailable):
        await blobs.stat(Digest.of(b""))
    with pytest.raises(StoreUnavailable):
        await blobs.all()
    with pytest.raises(StoreUnavailable):
        await blobs.present([Digest.of(b"")])
    for folder in (tmp_path / "containerd", tmp_path / "containerd" / "content"):
        folder.mkdir()
        with pytest.raises(ContentNotFound):
            await blobs.stat(Digest.of(b""))
        assert await blobs.all() == await blobs.present([Digest.of(b"")]) == frozenset()


def test_a_socket_that_is_none_is_a_config_error(tmp_path: Path) -> None:
    """Another kind of file is an error; a missing socket may come. The text has path and advice."""
    (tmp_path / "file").touch()
    for path, kind, words in (
        (tmp_path / "missing", StoreUnavailable, "there is no"),
        (tmp_path / "file", ConfigError, "is not a socket"),
    ):
        with pytest.raises(kind, match=words) as caught:
            check_socket(path)
        assert str(path) in str(caught.value)
        assert "/run/containerd/containerd.sock" in str(caught.value)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        check_socket(Path(folder) / "s")


def test_a_content_path_that_is_none_is_a_config_error(tmp_path: Path) -> None:
    """A file or a folder with other files is an error.

    A missing folder may come, and None is allowed.
    """
    (tmp_path / "file").touch()
    for path, kind, words in (
        (tmp_path / "missing", StoreUnavailable, "there is no"),
        (tmp_path / "file", ConfigError, "not a folder"),
        (tmp_path, ConfigError, "neither blobs nor ingest"),
    ):
        with pytest.raises(kind, match=words) as caught:
            check_content_path(path)
        assert str(path) in str(caught.value)
    (tmp_path / "ingest").mkdir()
    check_content_path(tmp_path)
    (tmp_path / "io.containerd.metadata.v1.bolt").mkdir()
    check_content_path(tmp_path / "not yet")
    check_content_path(None)


def _platform(seed: str, architecture: str) -> tuple[build.Blob, ...]:
    return build.image(
        [images.random_layer(f"{seed}/{architecture}/{number}", 4096) for number in range(2)],
        architecture=architecture,
    ).blobs


@pytest.mark.parametrize("kind", ["missing", "refuses", "hangs"])
async def test_a_daemon_that_is_away_is_told_in_words(kind: str) -> None:
    """With its socket and the cause, and without the texts of gRPC."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "c.sock"
        if kind != "missing":
            listener.bind(str(path))
        if kind == "hangs":
            listener.listen()
        async with Client(socket=path, timeout=0.3) as client:
            with pytest.raises(StoreUnavailable) as caught:
                await client.version()
    causes = {
        "missing": "No such file or directory",
        "refuses": "Connection refused",
        "hangs": "no answer in time",
    }
    assert str(caught.value) == f"containerd does not answer at {path}: {causes[kind]}"
