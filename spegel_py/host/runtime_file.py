"""One configuration file of a runtime: changed in one step, and put back.

Before the file is changed, a record beside it has the original text and the digest of the new one.
So after a crash at any step the next run knows the original:

1. The file is as the record says it was written: the record has the original.
2. Somebody edited the file since. What it has now, without the mirrors of the record, is the
   original.

`cleanup` puts the original back byte for byte in the first case, and takes only the mirrors out in
the second one. A file that is this program's alone is copied before the edit is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from spegel_py.errors import HostError
from spegel_py.host.disk_steps import Disk
from spegel_py.host.file_tree import MAX_HELD, Entry, File, Folder, LargeFile, Meta
from spegel_py.host.host_files import locked, names, read, reported

SECRET = Meta(mode=0o600)
"""The record may have a copy of passwords that the user's file has."""

Edit = Callable[[str], str]
"""Returns a file's wanted text from another one; an empty text is a missing file. Raises
ValueError."""

Remove = Callable[[str, Sequence[str]], str]
"""Returns a file's text without the mirrors of an earlier run. Raises ValueError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """The state before a change.

    Args:
        original: the file's text; None if there was no file.
        written: the SHA-256 of the new text, and of the text before it if that was written too.
        mirrors: the mirrors in the new text.
        made_folder: True if the file's folder did not exist.
    """

    original: str | None
    written: tuple[str, ...]
    mirrors: tuple[str, ...]
    made_folder: bool = False

    def as_file(self) -> File:
        """Return the record as it is kept."""
        found = {
            "original": self.original,
            "written": list(self.written),
            "mirrors": list(self.mirrors),
            "made_folder": self.made_folder,
        }
        return File((json.dumps(found, indent=1) + "\n").encode(), SECRET)

    def beside(self, known: FileRecord | None) -> FileRecord:
        """Return the record for the moment in which the file may be of this run or of another."""
        if known is None:
            return self
        return replace(
            self,
            written=tuple(dict.fromkeys((*self.written, *known.written))),
            mirrors=tuple(dict.fromkeys((*self.mirrors, *known.mirrors))),
        )

    @classmethod
    def read(cls, path: Path) -> FileRecord | None:
        """Return the record at a path, None without one. Raises HostError if it is damaged."""
        if (file := read(path)) is None:
            return None
        try:
            found = json.loads(file.data if isinstance(file, File) else b"")
            return cls(
                original=found["original"],
                written=tuple(map(str, found["written"])),
                mirrors=tuple(map(str, found["mirrors"])),
                made_folder=found["made_folder"] is True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(
                f"{path} is damaged: take the mirrors out by hand, delete {path.name} and run this "
                "again"
            ) from error


@dataclass(frozen=True, slots=True)
class RuntimeFile:
    """The file at a `path` without links. Methods raise HostError, with advice.

    Args:
        remove: takes mirrors out of a text.
        head: the first line of a file that is this program's alone; empty for a user's file.
    """

    path: Path
    remove: Remove
    head: str = ""

    @property
    def record_path(self) -> Path:
        """The path of the record; no runtime reads a name with this ending."""
        return self.path.with_name(f".{self.path.name}.spegel-py")

    def preview(self, edit: Edit) -> tuple[str, str]:
        """Return the file's text before and after a change, empty for a missing file."""
        now = self._text()
        return now or "", self._edited(edit, self._original(now, FileRecord.read(self.record_path)))

    def change(self, edit: Edit, mirrors: Sequence[str], disk: Disk) -> bool:
        """Change the file to the text that `edit` returns of the original.

        Return False if it was changed already. Nothing has changed if `edit` raises ValueError.
        """
        made = self._make_folder(disk)
        with locked(self.path.parent):
            known, now = FileRecord.read(self.record_path), self._text()
            original = self._original(now, known)
            wanted = self._edited(edit, original)
            record = FileRecord(
                original=original,
                written=(_digest(wanted),),
                mirrors=tuple(mirrors),
                made_folder=made or (known is not None and known.made_folder),
            )
            if wanted == now and known == record:
                return False
            self._keep_edited(now, known, disk)
            self._put(self.record_path, record.beside(known).as_file(), disk)
            self._put(self.path, self._file(wanted), disk)
            self._put(self.record_path, record.as_file(), disk)
            return True

    def restore(self, disk: Disk) -> bool:
        """Put the original back; return False if there is nothing to put back."""
        if not self.path.parent.is_dir():
            return False
        with locked(self.path.parent):
            if (record := FileRecord.read(self.record_path)) is None:
                disk.remove(self._staged)
                return False
            now = self._text()
            original = self._original(now, record)
            self._keep_edited(now, record, disk)
            if original is None:
                disk.remove(self.path)
            elif original != now:
                self._put(self.path, self._file(original), disk)
            disk.sync(self.path.parent)
            disk.remove(self.record_path)
            disk.remove(self._staged)
            if record.made_folder and not names(self.path.parent):
                disk.remove(self.path.parent)
            return True

    @property
    def _staged(self) -> Path:
        return self.path.with_name(f".{self.path.name}.spegel-py.new")

    def _original(self, now: str | None, record: FileRecord | None) -> str | None:
        """Return the text without this program's mirrors; None for no file."""
        # Case 1: the file was deleted, or there never was one.
        if now is None:
            return None
        # Case 2: nothing was ever changed here.
        if record is None:
            if self.head and now.startswith(self.head):
                return None
            if self.head:
                raise HostError(f"{self.path} is not this program's: move it away")
            return now
        # Case 3: the file is as it was written.
        if _digest(now) in record.written:
            return record.original
        # Case 4: the change never came.
        if now == record.original:
            return now
        # Case 5: somebody edited the file since.
        if self.head:
            return None
        found = self._edited(lambda text: self.remove(text, record.mirrors), now)
        return found if found.strip() or record.original is not None else None

    def _keep_edited(self, now: str | None, record: FileRecord | None, disk: Disk) -> None:
        """Copy a file of this program's alone that somebody edited."""
        is_edited = record is not None and now is not None and _digest(now) not in record.written
        if self.head and now is not None and is_edited:
            self._put(self.path.with_name(f"{self.path.name}.edited"), self._file(now), disk)

    def _edited(self, edit: Edit, text: str | None) -> str:
        try:
            return edit(text or "")
        except ValueError as error:
            raise HostError(
                f"{self.path}: {error}; nothing was changed: correct it and run this again"
            ) from error

    def _text(self) -> str | None:
        file = read(self.path)
        if isinstance(file, LargeFile):
            raise HostError(f"{self.path} has {file.size} bytes: at most {MAX_HELD} are changed")
        if file is None:
            return None
        try:
            return _bytes(file).decode()
        except UnicodeDecodeError as error:
            raise HostError(f"{self.path} is not UTF-8: correct it and run this again") from error

    def _file(self, text: str) -> File:
        """Return the file with its present owner and mode."""
        found = read(self.path)
        meta = found.meta if isinstance(found, File) else Meta(mode=0o644)
        return File(text.encode(), replace(meta, mtime_ns=None))

    def _put(self, path: Path, file: File, disk: Disk) -> None:
        disk.remove(self._staged)
        disk.put(self._staged, file)
        disk.move(self._staged, path)

    def _make_folder(self, disk: Disk) -> bool:
        """Make the folder if only it is missing; return True then."""
        folder = self.path.parent
        with reported("read", folder):
            if folder.is_dir():
                return False
            if not folder.parent.is_dir():
                raise HostError(
                    f"there is no folder {folder.parent}: is the runtime installed here? Otherwise "
                    "name its file by --runtime-file"
                )
        disk.put(folder, Folder({}, Meta(mode=0o755)))
        return True


def _bytes(file: Entry) -> bytes:
    if not isinstance(file, File):
        raise HostError("it is no file: name the runtime's file by --runtime-file")
    return file.data


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
