"""Growing files: how changes are seen with and without the kernel's events."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.store import growing, inotify
from spegel_py.store.containerd import ContainerdIngests, ContentFolder
from spegel_py.store.inotify import Inotify
from tests.support.processes import descriptors, until

DIGEST = Digest.of(b"layer")


def ingests_of(root: Path, namespace: str | None = None) -> ContainerdIngests:
    """Return the ingests below a content store's folder."""
    return ContainerdIngests(folder=ContentFolder(root), namespaces=namespace and [namespace])


def ingest(root: Path, name: str, ref: str, *, data: bytes = b"", total: str | None = "10") -> Path:
    """Create an ingest as containerd does. Return its data file."""
    folder = root / "ingest" / name
    folder.mkdir(parents=True)
    (folder / "ref").write_text(ref)
    (folder / "data").write_bytes(data)
    if total is not None:
        (folder / "total").write_text(total)
    return folder / "data"


@pytest.mark.parametrize(
    "ref",
    [
        f"k8s.io/1/layer-{DIGEST}",
        f"k8s.io/12/manifest-{DIGEST}",
        f"default/3/config-{DIGEST}",
        f"default/3/index-{DIGEST}",
        f"k8s.io/1/registry.example/app@{DIGEST}",
    ],
)
async def test_an_ingest_is_known_by_its_ref(tmp_path: Path, ref: str) -> None:
    """The digest at the end counts, after any text."""
    ingest(tmp_path, "other", f"k8s.io/1/layer-{Digest.of(b'other')}")
    ingest(tmp_path, "one", ref, data=b"1234")
    async with ingests_of(tmp_path).open(DIGEST) as found:
        assert (found.size, found.total) == (4, 10)


async def test_an_ingest_of_another_namespace_is_not_ours(tmp_path: Path) -> None:
    """It is not found alone, and not as the ingest that was written last."""
    ingest(tmp_path, "theirs", f"default/1/layer-{DIGEST}", data=b"theirs")
    ingests = ingests_of(tmp_path, "k8s.io")
    with pytest.raises(ContentNotFound):
        async with ingests.open(DIGEST):
            pass
    ours = ingest(tmp_path, "ours", f"k8s.io/2/layer-{DIGEST}", data=b"1234")
    os.utime(ours, (1, 1))
    async with ingests.open(DIGEST) as found:
        assert found.size == 4


@pytest.mark.parametrize(
    "ref", [f"k8s.io/1/layer-{DIGEST}-attempt", f"k8s.io/1/x{DIGEST}", str(DIGEST)[:-1], ""]
)
async def test_other_refs_are_passed_over(tmp_path: Path, ref: str) -> None:
    """A ref that does not end in a separator and the digest is something else."""
    ingest(tmp_path, "one", ref)
    with pytest.raises(ContentNotFound):
        async with ingests_of(tmp_path).open(DIGEST):
            pass


@pytest.mark.parametrize("total", [None, "", "0", "-1", "many"])
async def test_a_length_that_is_not_said_is_not_known(tmp_path: Path, total: str | None) -> None:
    """Then no client can be told the length of the body."""
    ingest(tmp_path, "one", f"k8s.io/1/layer-{DIGEST}", total=total)
    async with ingests_of(tmp_path).open(DIGEST) as found:
        assert found.total is None
        assert not found.is_complete


async def test_of_two_ingests_the_one_that_grew_last_is_taken(tmp_path: Path) -> None:
    """Another namespace may pull the same content, and an earlier pull may have left an ingest."""
    old = ingest(tmp_path, "old", f"k8s.io/1/layer-{DIGEST}", data=b"123456")
    ingest(tmp_path, "new", f"k8s.io/2/layer-{DIGEST}", data=b"12")
    os.utime(old, (1, 1))
    before = descriptors()
    async with ingests_of(tmp_path).open(DIGEST) as found:
        assert found.size == 2
    assert descriptors() == before + 1  # the inotify descriptor, which is kept for a while


async def test_it_is_looked_for_once_for_all_who_open_it(tmp_path: Path) -> None:
    """Seven readers of one layer share one descriptor until the last of them leaves."""
    ingest(tmp_path, "one", f"k8s.io/1/layer-{DIGEST}")
    ingests, before = (
        ingests_of(tmp_path),
        descriptors(),
    )
    async with ingests.open(DIGEST) as first:
        async with ingests.open(DIGEST) as second:
            assert second is first
            assert descriptors() == before + 2  # one of them is the inotify descriptor
        assert first.size == 0
    assert descriptors() == before + 1


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A process that can write there must not make this node read other files."""
    data = ingest(tmp_path, "one", f"k8s.io/1/layer-{DIGEST}")
    data.unlink()
    data.symlink_to("/etc/passwd")
    with pytest.raises(ContentNotFound):
        async with ingests_of(tmp_path).open(DIGEST):
            pass


async def test_without_inotify_files_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a kernel watch, growth and a commit are seen all the same."""

    def refuse(*_: object) -> int:
        raise OSError(28, "no watch left")

    monkeypatch.setattr(inotify, "_check", refuse)
    monkeypatch.setattr(growing, "POLL", 0.001)
    data = ingest(tmp_path, "one", f"k8s.io/1/layer-{DIGEST}")
    async with (
        asyncio.timeout(10),
        ingests_of(tmp_path).open(DIGEST) as found,
    ):
        waiting = asyncio.create_task(found.wait_beyond(0))
        await asyncio.sleep(0)
        data.write_bytes(b"x" * 10)
        await waiting
        data.rename(tmp_path / "blob")
        await found.wait_beyond(10)
        assert found.is_over


async def test_lost_events_wake_everybody(tmp_path: Path) -> None:
    """After an overflow of the kernel's queue no reader stays asleep."""
    data = ingest(tmp_path, "one", f"k8s.io/1/layer-{DIGEST}", data=b"x")
    told: list[bool] = []
    watcher = Inotify()
    with data.open("rb") as file, watcher.watching(file.fileno(), told.append):
        watcher._notify(-1, 0x4000)
    assert told == [False]


async def test_the_kernel_s_descriptor_is_kept_for_the_next_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing takes milliseconds. It is done after a pause, and not on the event loop."""
    closed: dict[int, int] = {}

    def close(fd: int) -> None:
        closed[fd] = threading.get_ident()
        os_close(fd)

    os_close = os.close
    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(inotify, "LINGER", 0.2)
    data, watcher, before = (
        ingest(tmp_path, "one", f"k8s.io/1/layer-{DIGEST}"),
        Inotify(),
        descriptors(),
    )
    with data.open("rb") as file:
        for _ in range(2):
            with watcher.watching(file.fileno(), lambda _: None):
                kept = watcher._fd
            assert kept not in closed

    async def is_closed() -> bool:
        return descriptors() <= before

    await until(is_closed)
    assert closed[kept] != threading.get_ident()
