"""The list of replicas in a layout's folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.store.base import PlatformImage, Replica, ReplicaReason
from spegel_py.store.layout import LayoutStore
from spegel_py.store.layout.layout_replicas import REPLICAS
from spegel_py.store.walker import Walker
from tests.support.images import child, image, write_layout

NAME = "registry.example/team/app:1"


async def _content(root: Path) -> PlatformImage:
    one = image()
    write_layout(root, {NAME: one})
    store = LayoutStore(root=root)
    [found] = (await Walker(open=store.open).images(child(one), store.stat)).values()
    return found


@pytest.mark.parametrize("damaged", ['[{"manifest": 7}]', "[", '[{"manifest": "sha256:0"}]', "{}x"])
async def test_a_damaged_list_is_not_overwritten(tmp_path: Path, damaged: str) -> None:
    """The replicas in it may still be repaired, so holding another one is refused."""
    content = await _content(tmp_path)
    (tmp_path / REPLICAS).write_text(damaged)
    replicas = LayoutStore(root=tmp_path).replicas
    await replicas.load()
    replica = Replica(
        image=content,
        names={},
        reason=ReplicaReason.FLOOR,
        used=0.0,
        expires=time.time() + 60,
    )
    with pytest.raises(StoreUnavailable, match=r"replicas\.json cannot be read"):
        await replicas.hold(replica)
    assert (tmp_path / REPLICAS).read_text() == damaged
    (tmp_path / REPLICAS).unlink()
    await replicas.load()
    await replicas.hold(replica)
    assert set(replicas.held()) == {content.manifest}
