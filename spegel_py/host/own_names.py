"""The names of this program's own entries in containerd's folder. containerd reads none of them."""

from __future__ import annotations

BACKUP = "_backup"
"""The folder with the original. Spegel has the same, so each program can clean up after the other.
"""

PREFIX = "_spegel-py."
"""Beginning of all other names. Those that exist only during a change are removed by the next run.
"""

MADE = f"{PREFIX}made"
"""File that marks a folder which did not exist before; it has the number of folders created for it.

It is beside the backup, because Spegel would copy everything in the backup back.
"""

WRITTEN = f"{PREFIX}written"
"""File with the fingerprints of the entries that were written last."""

EDITED = f"{PREFIX}edited"
"""Folder with copies of entries that somebody changed by hand. Only people remove it."""

STAGED, COPY, TRASH = f"{PREFIX}new", f"{PREFIX}backup", f"{PREFIX}old"

LASTING = (BACKUP, MADE, WRITTEN, EDITED)
"""The entries that a change leaves in the folder."""


def is_own(name: str) -> bool:
    """Return True if an entry of containerd's folder is this program's."""
    return name == BACKUP or name.startswith(PREFIX)
