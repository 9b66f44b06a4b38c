"""The folder of containerd's content: the given one, else the daemon's own, else the socket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spegel_py.oci.digest import Digest
from spegel_py.store.containerd import FolderState, choose, look
from spegel_py.store.containerd.content_folder import FolderChoice

GIVEN, TOLD = Path("/given"), Path("/told")
MISSING = "there is no content path /given yet"
FOREIGN = "the content path /given holds none of containerd's blobs"


@pytest.mark.parametrize(
    ("given", "told", "chosen"),
    [
        pytest.param(FolderState(GIVEN), None, FolderChoice(GIVEN), id="nothing listed yet"),
        pytest.param(FolderState(GIVEN, "", 8, 7), None, FolderChoice(GIVEN), id="right"),
        pytest.param(
            FolderState(GIVEN, MISSING), FolderState(TOLD), FolderChoice(TOLD, MISSING), id="told"
        ),
        pytest.param(
            FolderState(GIVEN, "", 8, 0),
            FolderState(TOLD, "", 8, 8),
            FolderChoice(TOLD, FOREIGN),
            id="another daemon's",
        ),
        pytest.param(FolderState(GIVEN, MISSING), None, FolderChoice(None, MISSING), id="not told"),
        pytest.param(
            FolderState(GIVEN, MISSING),
            FolderState(TOLD, "no folder"),
            FolderChoice(None, MISSING),
            id="told, but not mounted",
        ),
        pytest.param(
            FolderState(GIVEN, "", 8, 0),
            FolderState(TOLD, "", 8, 0),
            FolderChoice(None, FOREIGN),
            id="neither has the blobs",
        ),
        pytest.param(
            FolderState(GIVEN, MISSING),
            FolderState(GIVEN),
            FolderChoice(None, MISSING),
            id="told the same",
        ),
    ],
)
def test_which_folder_is_read(
    given: FolderState, told: FolderState | None, chosen: FolderChoice
) -> None:
    """The given folder goes first; the reason is always that of the given one."""
    assert choose(given, told) == chosen


def test_a_folder_is_looked_at(tmp_path: Path) -> None:
    """Missing, empty, with some of the listed blobs, with none, and a file."""
    here, other = Digest.of(b"here"), Digest.of(b"other")
    blobs = tmp_path / "content" / "blobs" / "sha256"
    assert "there is no content path" in look(tmp_path / "content", [here]).fault
    blobs.mkdir(parents=True)
    assert look(tmp_path / "content", []).fault == ""
    assert "holds none" in look(tmp_path / "content", [here]).fault
    (blobs / here.hex).write_bytes(b"here")
    assert look(tmp_path / "content", [here, other]) == FolderState(tmp_path / "content", "", 2, 1)
    (tmp_path / "file").touch()
    assert "not a folder" in look(tmp_path / "file", []).fault


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_this_user_may_not_reach_is_named(tmp_path: Path) -> None:
    """Without a raw PermissionError."""
    hidden = tmp_path / "hidden"
    (hidden / "content").mkdir(parents=True)
    hidden.chmod(0)
    os.seteuid(65534)
    try:
        fault = look(hidden / "content", []).fault
    finally:
        os.seteuid(0)
    assert "cannot be reached by user 65534" in fault or "may not" in fault
