"""Blocking calls of a pull, made in threads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest

from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.pull.blob_fetcher import BlobFetcher
from spegel_py.pull.hosts import Hosts
from spegel_py.store.layout import BlobWriter, LayoutWriter


async def test_a_part_that_is_opened_while_the_pull_is_cancelled_is_closed(tmp_path: Path) -> None:
    """Its lock would prevent the next pull from resuming it."""
    began, may_end = threading.Event(), threading.Event()
    writer = LayoutWriter.create(root=tmp_path, is_durable=False)
    opened: list[BlobWriter] = []

    def begin(digest: Digest, total: int | None = None) -> BlobWriter:
        began.set()
        may_end.wait(10)
        opened.append(LayoutWriter.begin(writer, digest, total))
        return opened[0]

    writer.begin = begin  # type: ignore[method-assign]
    fetcher = BlobFetcher(hosts=cast("Hosts", None), writer=writer, on_progress=None)
    fetching = asyncio.create_task(fetcher.fetch(Child(Digest.of(b"x"), 1, "")))
    await asyncio.to_thread(began.wait, 10)
    fetching.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert opened[0]._fd < 0
    assert not list((tmp_path / "blobs" / ".partial").iterdir())
