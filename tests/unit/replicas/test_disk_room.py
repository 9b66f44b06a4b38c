"""The measurement of the disk for replicas."""

from __future__ import annotations

from pathlib import Path

from spegel_py.replicas.disk_room import DiskRoom
from spegel_py.replicas.replica_rules import UNKNOWN_DISK, ReplicaRules


async def test_the_folder_may_be_missing_yet(tmp_path: Path) -> None:
    """containerd 1.7 makes it with its first content. A node without any takes replicas too."""
    rules = ReplicaRules(floor=2)
    here = await DiskRoom(content=tmp_path, rules=rules).use()
    missing = await DiskRoom(content=tmp_path / "yet", rules=rules).use()
    assert missing.total == here.total
    assert missing.total > 0


async def test_an_unknown_folder_is_not_measured() -> None:
    """The content is reached over the socket only."""
    assert await DiskRoom(content=None, rules=ReplicaRules(floor=2)).use() == UNKNOWN_DISK
