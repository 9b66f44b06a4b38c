"""Files replaced as a whole."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from spegel_py.tools.files import hash_file, is_public, replace_file


def test_a_file_and_its_name_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole content is synced before the rename, and the folder after it."""
    path, synced = tmp_path / "file", []

    def fsync(fd: int) -> None:
        found = os.fstat(fd)
        synced.append(("folder", path.exists()) if stat.S_ISDIR(found.st_mode) else found.st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    replace_file(path, b"hello", mode=0o600)
    assert synced == [5, ("folder", True)]
    assert path.read_bytes() == b"hello"
    assert path.stat().st_mode & 0o777 == 0o600
    replace_file(path, b"again", is_durable=False)
    assert len(synced) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old content is kept, and no temporary file is left."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fsync(fd: int) -> None:
        raise OSError("the disk is broken")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="broken"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_file_is_hashed(tmp_path: Path, algorithm: str) -> None:
    """The digest is that of the whole content."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000))
    assert hash_file(path, algorithm) == hashlib.new(algorithm, bytes(3_000_000)).hexdigest()


def test_a_file_is_public_if_every_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    for mode, found in ((0o644, True), (0o640, False), (0o600, False)):
        path.chmod(mode)
        assert is_public(path) is found
        with path.open("rb") as file:
            assert is_public(file.fileno()) is found
    assert not is_public(tmp_path / "gone")
