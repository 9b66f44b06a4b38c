"""The entries that `configuration` has written, to tell them from changes by hand.

The record names each entry before it is written, beside the entry that it replaces. So after a
crash at any step the record knows every entry of this program. An entry that it does not know under
its name was changed by somebody, and is copied before it is replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from spegel_py.host.disk_steps import Disk
from spegel_py.host.file_tree import Entry, File, Folder, LargeFile, Link, Meta
from spegel_py.host.host_files import names, read
from spegel_py.host.own_names import EDITED, STAGED, WRITTEN

COPIES = 20
"""Copies that are kept, at most: then the one with the oldest time of change is removed."""


class Written:
    """The fingerprints of entries by their names: of the newest one, and of the one before it."""

    def __init__(self, fingerprints: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self._fingerprints = dict(fingerprints or {})

    def __repr__(self) -> str:
        return f"<Written {sorted(self._fingerprints)}>"

    @classmethod
    def read(cls, root: Path) -> Written:
        """Return the record in a folder. A record that is missing or damaged knows no entry."""
        file = read(root / WRITTEN)
        try:
            found = json.loads(file.data) if isinstance(file, File) else {}
        except ValueError:
            found = {}
        return cls(_checked(found))

    def knows(self, name: str) -> bool:
        """Return True if an entry of this name was written."""
        return name in self._fingerprints

    def edited(
        self, present: Mapping[str, Entry], *allowed: Mapping[str, Entry]
    ) -> dict[str, Entry]:
        """Return the entries that somebody changed since they were written.

        An entry that equals the one in `allowed` is not changed: nothing is lost with it.
        """
        return {
            name: entry
            for name, entry in present.items()
            if name in self._fingerprints
            and (mark := fingerprint(entry)) not in self._fingerprints[name]
            and mark not in {fingerprint(each[name]) for each in allowed if name in each}
        }

    def announce(
        self, root: Path, present: Mapping[str, Entry], wanted: Mapping[str, Entry], disk: Disk
    ) -> Written:
        """Record the wanted entries before they are written; returns the new record."""
        after = dict(self._fingerprints)
        for name, entry in wanted.items():
            mark = fingerprint(entry)
            known = self._fingerprints.get(name, ())
            if mark not in known:
                now = fingerprint(present[name]) if name in present else ""
                after[name] = (*(one for one in known if one == now), mark)
        return self._replaced(root, after, disk)

    def forget_others(self, root: Path, wanted: Mapping[str, Entry], disk: Disk) -> None:
        """Remove the entries from the record that are not in the folder any more."""
        after = {name: marks for name, marks in self._fingerprints.items() if name in wanted}
        self._replaced(root, after, disk)

    def _replaced(self, root: Path, after: dict[str, tuple[str, ...]], disk: Disk) -> Written:
        if after == self._fingerprints:
            return self
        text = json.dumps(after, sort_keys=True, indent=1) + "\n"
        disk.remove(root / STAGED)
        disk.put(root / STAGED, File(text.encode(), Meta(mode=0o644)))
        disk.move(root / STAGED, root / WRITTEN)
        return Written(after)


def keep_copies(root: Path, edited: Mapping[str, Entry], disk: Disk) -> dict[str, Path]:
    """Copy entries that somebody changed; returns the path of each copy by the entry's name.

    Equal entries have one copy, so a program that writes its own text again and again fills
    nothing.
    """
    folder = root / EDITED
    if edited and not folder.is_dir():
        disk.put(folder, Folder({}, Meta(mode=0o755)))
    copies = {}
    for name, entry in edited.items():
        copies[name] = copy_of(root, name, entry)
        if not os.path.lexists(copies[name]):
            disk.remove(root / STAGED)
            disk.put(root / STAGED, entry)
            disk.move(root / STAGED, copies[name])
    if edited:
        older = {folder / name for name in names(folder)} - {*copies.values()}
        by_time = sorted(older, key=lambda path: path.lstat().st_mtime_ns)
        for oldest in by_time[: max(0, len(older) + len(copies) - COPIES)]:
            disk.remove(oldest)
    return copies


def copy_of(root: Path, name: str, entry: Entry) -> Path:
    """Return the path of the copy of an entry that somebody changed by hand."""
    return root / EDITED / f"{name}.{fingerprint(entry)[:8]}"


def fingerprint(entry: Entry) -> str:
    """Return a digest of an entry's names and contents; owners, modes and times do not count.

    A large file counts with its size.
    """
    match entry:
        case File():
            parts = [b"file", entry.data]
        case LargeFile():
            parts = [b"large", str(entry.size).encode()]
        case Link():
            parts = [b"link", os.fsencode(entry.target)]
        case Folder():
            parts = [b"folder"]
            for name, child in sorted(entry.entries.items()):
                parts += [os.fsencode(name), fingerprint(child).encode()]
    return sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()


def _checked(found: Any) -> dict[str, tuple[str, ...]]:
    """Return the well-formed part of a record."""
    if not isinstance(found, dict):
        return {}
    return {
        str(name): tuple(map(str, marks))
        for name, marks in found.items()
        if isinstance(marks, list)
    }
