"""Files, links and folders as values, so the wanted and the present state can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

MAX_HELD = 64 * 1024
"""Bytes up to which a file is held in memory; a certificate has a few thousand."""

MAX_HELD_TOGETHER = 32 * 1024 * 1024
"""Bytes of all files of one tree that are held in memory, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """Mode, owner (uid, gid) and mtime in ns; None means that any value is right."""

    mode: int | None = None
    owner: tuple[int, int] | None = None
    mtime_ns: int | None = None

    def allows(self, found: Meta) -> bool:
        """Return True if the present state is the wanted one."""
        return (
            self.mode in (None, found.mode)
            and self.owner in (None, found.owner)
            and self.mtime_ns in (None, found.mtime_ns)
        )


@dataclass(frozen=True, slots=True)
class File:
    data: bytes
    meta: Meta


@dataclass(frozen=True, slots=True)
class LargeFile:
    """A file whose content is never held in memory, but copied from `source`.

    Two large files are equal if their size and their `meta`, including the mtime, are equal.
    """

    source: Path
    size: int
    meta: Meta


@dataclass(frozen=True, slots=True)
class Link:
    target: str
    meta: Meta


@dataclass(frozen=True, slots=True)
class Folder:
    entries: Mapping[str, Entry]
    meta: Meta


Entry = File | LargeFile | Link | Folder


def matches(found: Entry | None, wanted: Entry) -> bool:
    """Return True if nothing needs to change: same kinds and same content at every level."""
    match found, wanted:
        case File(), File():
            is_same = found.data == wanted.data
        case LargeFile(), LargeFile():
            is_same = found.size == wanted.size
        case Link(), Link():
            is_same = found.target == wanted.target
        case Folder(), Folder():
            is_same = found.entries.keys() == wanted.entries.keys() and all(
                matches(found.entries[name], entry) for name, entry in wanted.entries.items()
            )
        case _:
            return False
    return is_same and wanted.meta.allows(found.meta)


def at(folder: Folder, parts: tuple[str, ...]) -> Entry | None:
    """Return the entry at a path below a folder; links are not followed."""
    entry: Entry | None = folder
    for part in parts:
        entry = entry.entries.get(part) if isinstance(entry, Folder) else None
    return entry


def grafted(folder: Folder, parts: tuple[str, ...], entry: Entry) -> Folder:
    """Return the folder with a new entry below it; missing folders on its path are added."""
    first, *rest = parts
    if rest:
        inner = folder.entries.get(first)
        inner = inner if isinstance(inner, Folder) else Folder({}, Meta(mode=0o755))
        entry = grafted(inner, tuple(rest), entry)
    # An entry was added, so the folder's mtime changes.
    return Folder({**folder.entries, first: entry}, replace(folder.meta, mtime_ns=None))


def relocated(entry: Entry, path: Path) -> Entry:
    """Return an entry that is now at `path`, so that large files are copied from there."""
    match entry:
        case LargeFile():
            return replace(entry, source=path)
        case Folder():
            entries = entry.entries.items()
            return replace(
                entry, entries={name: relocated(child, path / name) for name, child in entries}
            )
        case _:
            return entry
