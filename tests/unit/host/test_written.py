"""The record of written entries: which of them somebody changed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from spegel_py.host.file_tree import Entry, File, Folder, LargeFile, Link, Meta
from spegel_py.host.own_names import EDITED, WRITTEN
from spegel_py.host.written import COPIES, Written, fingerprint, keep_copies
from tests.support.host_trees import quick

ANY = Meta()


def folder(text: str, **more: Entry) -> Folder:
    return Folder({"hosts.toml": File(text.encode(), ANY), **more}, ANY)


def test_an_entry_is_known_from_before_it_is_written(tmp_path: Path) -> None:
    """After the announcement both the old and the new entry are this program's own."""
    disk = quick()
    first, second = {"a": folder("1")}, {"a": folder("2")}
    Written().announce(tmp_path, {}, first, disk)
    Written.read(tmp_path).announce(tmp_path, first, second, disk)
    written = Written.read(tmp_path)
    assert written.knows("a")
    assert written.edited(first) == written.edited(second) == {}
    by_hand = {"a": folder("3")}
    assert written.edited(by_hand) == by_hand
    assert written.edited(by_hand, second, by_hand) == {}
    assert written.edited({"b": folder("1")}) == {}


def test_entries_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """So a folder that somebody makes later under the same name is theirs."""
    both = {"a": folder("1"), "b": folder("1")}
    Written().announce(tmp_path, {}, both, quick())
    Written.read(tmp_path).forget_others(tmp_path, {"a": both["a"]}, quick())
    assert not Written.read(tmp_path).knows("b")
    assert Written.read(tmp_path).knows("a")


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"a": 1}', '{"a": {}}', "\xff"])
def test_a_damaged_record_knows_nothing(tmp_path: Path, text: str) -> None:
    """Then the program does as before there were records."""
    (tmp_path / WRITTEN).write_bytes(text.encode("latin-1"))
    assert not Written.read(tmp_path).knows("a")


def test_a_fingerprint_is_of_names_and_contents() -> None:
    """Of everything in a folder; modes, owners and times do not count."""
    entries: list[Entry] = [
        folder("1"),
        folder("2"),
        folder("1", more=File(b"", ANY)),
        folder("1", more=Link("x", ANY)),
        folder("1", more=Folder({}, ANY)),
        folder("1", more=LargeFile(Path("a"), 1, ANY)),
        folder("1", more=LargeFile(Path("a"), 2, ANY)),
        folder("1", other=File(b"", ANY)),
        File(b"1", ANY),
    ]
    assert len(set(map(fingerprint, entries))) == len(entries)
    assert fingerprint(File(b"1", Meta(mode=0o600, mtime_ns=5))) == fingerprint(File(b"1", ANY))


def test_copies_are_bounded_and_equal_ones_are_kept_once(tmp_path: Path) -> None:
    """The copy of the oldest change goes first; a copy has the mode of the file."""
    for number in [*range(COPIES + 2), COPIES + 1]:
        meta = Meta(mode=0o700, mtime_ns=number)
        secret = File(f"{number}".encode(), Meta(mode=0o600))
        copies = keep_copies(tmp_path, {"a": Folder({"hosts.toml": secret}, meta)}, quick())
        file = copies["a"] / "hosts.toml"
        assert file.read_text() == str(number)
        assert file.stat().st_mode & 0o777 == 0o600
    found = [path.read_text() for path in (tmp_path / EDITED).glob("*/hosts.toml")]
    assert sorted(map(int, found)) == list(range(2, COPIES + 2))
    assert [path.name for path in tmp_path.iterdir()] == [EDITED]
