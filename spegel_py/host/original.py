"""The original content of containerd's `config_path`, kept safe from a crash at any step.

One rule makes this correct: as long as `_backup` exists, it is the original. The backup is copied
under another name, and appears with one rename. It disappears with one rename as well, once all of
it was copied back. Spegel keeps its own backup under the same name, so each program can clean up
after the other.

An entry that somebody changed by hand since it was written is copied before it is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from spegel_py.errors import HostError
from spegel_py.host.disk_steps import Disk
from spegel_py.host.file_tree import Entry, File, Folder, Meta, matches, relocated
from spegel_py.host.host_files import locked, names, read, reported
from spegel_py.host.own_names import (
    BACKUP,
    COPY,
    EDITED,
    LASTING,
    MADE,
    PREFIX,
    STAGED,
    TRASH,
    is_own,
)
from spegel_py.host.written import Written, copy_of, keep_copies

Plan = Callable[[Folder], Mapping[str, Entry]]
"""Returns the wanted content of the folder, from the original content."""


def is_changed(root: Path) -> bool:
    """Return True if this program or Spegel has changed the folder, and not restored it."""
    return (root / BACKUP).is_dir() or (root / MADE).exists()


def look(root: Path) -> tuple[Folder, Mapping[str, Entry]]:
    """Return the original content of a folder, and its present entries. Raises HostError.

    Both are empty for a folder that is missing.
    """
    with reported("read", root):
        if not root.exists():
            return Folder({}, Meta()), {}
        return _original(root), present(root)


def present(root: Path) -> dict[str, Entry]:
    """Return the present entries of a folder, without those of this program. Raises HostError."""
    return {
        name: entry
        for name in names(root)
        if not is_own(name) and (entry := read(root / name)) is not None
    }


def edited(root: Path, wanted: Mapping[str, Entry]) -> Mapping[str, Path]:
    """Return the entries that somebody changed by hand and that a change to `wanted` replaces.

    Each has the path at which the change will put its copy. Raises HostError.
    """
    with reported("read", root):
        if not (root / BACKUP).is_dir():
            return {}
        found = Written.read(root).edited(present(root), wanted, _original(root).entries)
        return {name: copy_of(root, name, entry) for name, entry in found.items()}


def change(
    root: Path, plan: Plan, disk: Disk, *, is_made: Callable[[Entry], bool] = lambda _: True
) -> Mapping[str, Path]:
    """Change a folder to the planned content, and keep the original as backup.

    Entries that somebody added since the backup was made, as `is_made` tells, join the backup.
    Returns the copies of entries that somebody changed by hand, by name. The path is absolute and
    without links. If the plan raises, nothing has changed. After HostError or a crash, this can be
    run again.
    """
    with reported("change", root):
        _make(root, disk)
        with locked(root):
            has_backup = (root / BACKUP).is_dir()
            written, now = (Written.read(root), present(root)) if has_backup else (Written(), {})
            if has_backup:
                _adopt(root, now, disk, lambda name, entry: written.knows(name) or is_made(entry))
            original = _original(root)
            # Large files are copied from the backup, which exists until the end.
            entries = plan(Folder(_kept(original, root), original.meta))
            if not has_backup:
                _back_up(root, original, disk)
            copies = keep_copies(root, written.edited(now, entries, original.entries), disk)
            written = written.announce(root, now, entries, disk)
            _settle(root, entries, disk)
            written.forget_others(root, entries, disk)
            return copies


def restore(root: Path, disk: Disk, *, is_locked: bool = False) -> Mapping[str, Path] | None:
    """Restore the original content of a folder, or remove a folder that did not exist before.

    Returns the copies of entries that somebody changed by hand, by name. None means that there was
    no backup: then only the remains of a crash are removed. After HostError, this can be run again.

    Args:
        root: the folder.
        disk: the steps.
        is_locked: True if the caller holds the folder's lock.
    """
    with reported("restore", root):
        _remove_temporary(root, disk)
        if not root.is_dir():
            return None
        with nullcontext() if is_locked else locked(root):
            return _restore(root, disk)


def _restore(root: Path, disk: Disk) -> Mapping[str, Path] | None:
    copies = None
    if (root / BACKUP).is_dir():
        entries = _original(root).entries
        copies = keep_copies(root, Written.read(root).edited(present(root), entries), disk)
        _settle(root, entries, disk)
        disk.move(root / BACKUP, root / TRASH)
    for name in names(root):
        if name.startswith(PREFIX) and name not in (MADE, EDITED):
            disk.remove(root / name)
    if (root / MADE).exists():
        _unmake(root, disk)
    else:
        disk.reset_mtime(root)
    return copies


def _original(root: Path) -> Folder:
    backup = root / BACKUP
    if os.path.lexists(backup) and (backup.is_symlink() or not backup.is_dir()):
        raise HostError(
            f"{backup} is no folder, so it is no backup: move it away and run this again"
        )
    found = read(backup if backup.is_dir() else root)
    if not isinstance(found, Folder):
        raise HostError(f"{root} is no folder: name the folder of containerd's config_path")
    return Folder(
        {name: entry for name, entry in found.entries.items() if not is_own(name)}, found.meta
    )


def _kept(original: Folder, root: Path) -> Mapping[str, Entry]:
    """Return the original's entries as they will be in the backup."""
    return {
        name: relocated(entry, root / BACKUP / name) for name, entry in original.entries.items()
    }


def _back_up(root: Path, original: Folder, disk: Disk) -> None:
    disk.keep_mtime(root)
    disk.remove(root / COPY)
    disk.put(root / COPY, original)
    disk.move(root / COPY, root / BACKUP)


def _adopt(
    root: Path, now: Mapping[str, Entry], disk: Disk, is_made: Callable[[str, Entry], bool]
) -> None:
    """Copy entries into the backup that neither it nor a mirror's program has put there."""
    known = names(root / BACKUP)
    for name, entry in now.items():
        if name not in known and not is_made(name, entry):
            disk.remove(root / STAGED)
            disk.put(root / STAGED, entry)
            disk.move(root / STAGED, root / BACKUP / name)


def _settle(root: Path, entries: Mapping[str, Entry], disk: Disk) -> None:
    for name, entry in entries.items():
        if not matches(read(root / name), entry):
            disk.remove(root / STAGED)
            disk.put(root / STAGED, entry)
            disk.swap(root / STAGED, root / name, trash=root / TRASH)
    for name in names(root):
        if name not in entries and name not in LASTING:
            disk.discard(root / name, trash=root / TRASH)


# A folder that did not exist before


def _make(root: Path, disk: Disk) -> None:
    """Create the folder and its missing parents in one step, with the mark MADE."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    if not missing:
        return
    top = missing[-1]
    with locked(top.parent):
        meta = Meta(mode=0o755)
        made = Folder({MADE: File(f"{len(missing)}\n".encode(), Meta(mode=0o644))}, meta)
        for folder in missing[:-1]:
            made = Folder({folder.name: made}, meta)
        disk.remove(_temporary(top))
        disk.put(_temporary(top), made)
        disk.move(_temporary(top), top)


def _unmake(root: Path, disk: Disk) -> None:
    """Remove the folder and the parents created for it, unless others have added something."""
    if names(root) != [MADE]:
        disk.remove(root / MADE)
        return
    text = (root / MADE).read_text(errors="replace").strip()
    top = root
    for _ in range(int(text) - 1 if text.isdecimal() else 0):
        if names(top.parent) != [top.name]:
            break
        top = top.parent
    disk.move(top, _temporary(top))
    disk.remove(_temporary(top))


def _remove_temporary(root: Path, disk: Disk) -> None:
    for folder in (root, *root.parents):
        if folder.name and os.path.lexists(_temporary(folder)):
            disk.remove(_temporary(folder))


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.spegel-py")
