"""A journal keeps what it can, on whatever disk, and reads what is there, in whatever state."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.supervision.journal import MAX_BYTES, MAX_WAITING, Journal, read

NAME = "a.jsonl"


def numbers(folder: Path) -> list[object]:
    return [record["n"] for record in read(folder, NAME) if "n" in record]


def journal(folder: Path, *, max_bytes: int = MAX_BYTES) -> Journal:
    return Journal(folder=folder, name=NAME, max_bytes=max_bytes)


def test_what_is_flushed_is_read_in_order_and_private(tmp_path: Path) -> None:
    """Records come back as they were appended; nobody else may read them."""
    one = journal(tmp_path / "new" / "folder")
    for number in range(5):
        one.append({"n": number})
    one.flush()
    journal(tmp_path / "new" / "folder").flush()
    assert numbers(tmp_path / "new" / "folder") == [0, 1, 2, 3, 4]
    assert (tmp_path / "new" / "folder" / NAME).stat().st_mode & 0o777 == 0o600


def test_files_are_rotated_and_few(tmp_path: Path) -> None:
    """However much is written, there are three files of bounded size, with the latest records in
    order.
    """
    one = journal(tmp_path, max_bytes=1000)
    for number in range(1000):
        one.append({"n": number})
        one.flush()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 3
    assert max(sizes) < 1100
    kept = numbers(tmp_path)
    assert kept == list(range(1000 - len(kept), 1000))
    assert len(kept) > 100


def test_a_fresh_file_begins_with_what_still_holds(tmp_path: Path) -> None:
    """What is carried over is written first after each rotation, so that it is never rotated
    away.
    """
    one = Journal(
        folder=tmp_path, name=NAME, carried=lambda: [{"n": "open"}], max_bytes=100, files=2
    )
    for number in range(100):
        one.append({"n": number})
        one.flush()
    assert "open" in numbers(tmp_path)
    assert numbers(tmp_path)[-1] == 99


@given(cut=st.integers(0, 200))
def test_a_torn_last_line_costs_that_line_only(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wherever the file was cut off, the lines before are read, and what is written afterwards
    too.
    """
    folder = tmp_path_factory.mktemp("torn")
    one = journal(folder)
    for number in range(10):
        one.append({"n": number})
    one.flush()
    whole = (folder / NAME).read_bytes()
    torn = whole[: min(cut, len(whole))]
    (folder / NAME).write_bytes(torn)
    before = [number for number in range(10) if f'{{"n":{number}}}'.encode() in torn]
    assert numbers(folder) == before
    later = journal(folder)
    later.append({"n": "later"})
    later.flush()
    assert numbers(folder) == [*before, "later"]


def test_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    """Lines that are no JSON, no object, or no text at all are not read, and do no harm."""
    (tmp_path / NAME).write_bytes(b'nonsense\n[1]\n\xff\xfe\n{"n":1}\n\n"x"\n')
    assert numbers(tmp_path) == [1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the kernel's full device is not there")
def test_a_full_disk_keeps_records_waiting(tmp_path: Path) -> None:
    """On a full disk a flush fails without raising; what waited is written when there is room, each
    once.
    """
    one = journal(tmp_path)
    one.append({"n": 1})
    (tmp_path / NAME).symlink_to("/dev/full")
    one.flush()
    one.append({"n": 2})
    one.flush()
    assert one.trouble is not None
    assert os.strerror(one.trouble.errno or 0) == "No space left on device"
    (tmp_path / NAME).unlink()
    one.flush()
    assert one.trouble is None
    assert numbers(tmp_path) == [1, 2]


def test_what_waits_is_bounded_and_the_loss_is_said(tmp_path: Path) -> None:
    """Where the disk takes nothing for long, the first records wait, and the others are counted."""
    (tmp_path / "file").write_text("")
    one = journal(tmp_path / "file")  # no folder: nothing can be written
    for number in range(MAX_WAITING + 7):
        one.append({"n": number})
    one.flush()
    assert one.trouble is not None
    (tmp_path / "file").unlink()
    one.flush()
    assert numbers(tmp_path / "file") == list(range(MAX_WAITING))
    assert [record for record in read(tmp_path / "file", NAME) if "n" not in record] == [
        {"lost": 7}
    ]


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    """A journal without a folder takes records and keeps none."""
    one = Journal(folder=None, name=NAME)
    one.append({"n": 1})
    one.flush()
    assert one.trouble is None
    assert list(tmp_path.iterdir()) == []
