"""The changes of containerd's folder, per registry: for the log, and as a diff. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from spegel_py.host.file_tree import Entry, File, Folder, matches
from spegel_py.host.registries import DEFAULT, registry_of

HIDDEN = re.compile(r"(?im)^(\s*(?:authorization|x-spegel-runtime)\s*=\s*).*$")
"""A line with a password or a token in a hosts.toml, which no output shows."""


class ChangeKind(StrEnum):
    """What happens to the entry of one registry."""

    ADDED = "added"
    CHANGED = "changed"
    KEPT = "kept"
    REMOVED = "removed"
    SET_ASIDE = "set aside"
    """It was there before the first configuration, and is in the backup."""
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """The change of one entry in containerd's folder: a registry's folder, mostly."""

    name: str
    kind: ChangeKind
    remedy: str = ""
    """The flags that keep the registry's mirror, or its settings; empty if it loses nothing."""
    copy: Path | None = None
    """The copy of an entry that somebody changed by hand since it was written."""

    @property
    def registry(self) -> str:
        """The registry in words."""
        return "all registries" if self.name == DEFAULT else registry_of(self.name)

    def as_record(self) -> dict[str, object]:
        """Return the change as JSON values."""
        return {
            "registry": registry_of(self.name),
            "change": self.kind.value,
            "remedy": self.remedy or None,
            "copy": None if self.copy is None else str(self.copy),
        }


def changes(
    present: Mapping[str, Entry], wanted: Mapping[str, Entry], original: Mapping[str, Entry]
) -> list[RegistryChange]:
    """Return the changes from the present entries to the wanted ones, by name.

    `original` are the entries that `cleanup` restores.
    """
    found = []
    for name in sorted({*present, *wanted}):
        now, then = present.get(name), wanted.get(name)
        if then is None:
            is_original = now is not None and name in original and matches(now, original[name])
            kind = ChangeKind.SET_ASIDE if is_original else ChangeKind.REMOVED
        elif now is None:
            kind = ChangeKind.RESTORED if then is original.get(name) else ChangeKind.ADDED
        elif matches(now, then):
            kind = ChangeKind.KEPT
        else:
            kind = ChangeKind.RESTORED if then is original.get(name) else ChangeKind.CHANGED
        found.append(RegistryChange(name, kind))
    return found


def diff(present: Mapping[str, Entry], wanted: Mapping[str, Entry], *, root: Path) -> Iterator[str]:
    """Yield the lines of a diff of all files, without passwords."""
    before, after = dict(_files(present, root)), dict(_files(wanted, root))
    for path in sorted({*before, *after}):
        old, new = before.get(path, b""), after.get(path, b"")
        if old == new:
            continue
        yield from difflib.unified_diff(
            _lines(old),
            _lines(new),
            str(path) if path in before else "/dev/null",
            str(path) if path in after else "/dev/null",
            lineterm="",
        )


def _files(entries: Mapping[str, Entry], folder: Path) -> Iterator[tuple[Path, bytes]]:
    for name, entry in entries.items():
        match entry:
            case File():
                yield folder / name, entry.data
            case Folder():
                yield from _files(entry.entries, folder / name)


def _lines(data: bytes) -> list[str]:
    try:
        return HIDDEN.sub(r"\1'…'", data.decode()).splitlines()
    except UnicodeDecodeError:
        return [f"{len(data)} bytes that are no text"]
