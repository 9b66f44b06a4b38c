"""A journal: JSON lines in a file that is rotated by its size.

A disk that fails costs lines, never the node. Records wait in memory until `flush`, which does all
I/O and may block, so it runs in a thread. A torn line (kill -9, a full disk) is ended before the
next line is written, and the reader skips it.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 256 * 1024
"""Bytes at which a file is rotated: about a thousand records."""

FILES = 3
"""Files of one journal, with the current one."""

MAX_WAITING = 1000
"""Records that wait for a disk at most; further records are counted and lost."""

Record = Mapping[str, object]


class Journal:
    """One journal, the file `name` in `folder`. Without a folder nothing is written.

    `carried` returns the records with which a new file begins, so that records which are still
    valid are not rotated away.
    """

    def __init__(
        self,
        *,
        folder: Path | None,
        name: str,
        carried: Callable[[], Iterable[Record]] = tuple,
        max_bytes: int = MAX_BYTES,
        files: int = FILES,
    ) -> None:
        self._path = folder / name if folder else None
        self._carried = carried
        self._max_bytes = max_bytes
        self._files = files
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._lock = threading.Lock()
        self.trouble: OSError | None = None
        """The error of the last flush, None if it succeeded."""

    def __repr__(self) -> str:
        return f"<Journal {self._path} waiting={len(self._waiting)} trouble={self.trouble!r}>"

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk after the next flush that succeeds."""
        if self._path is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
        else:
            self._waiting.append(_line(record))

    def flush(self) -> None:
        """Write the waiting records.

        An error is kept as `trouble`, and the records go on waiting.
        """
        if self._path is None or not (self._waiting or self._lost):
            return
        with self._lock:
            try:
                self._write(self._path)
                self.trouble = None
            except OSError as error:
                self.trouble = error

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size >= self._max_bytes:
            self._rotate(path)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _is_torn(descriptor):
                _write_all(descriptor, b"\n")
            while self._waiting:
                _write_all(descriptor, self._waiting[0])
                self._waiting.popleft()
            if self._lost:
                _write_all(descriptor, _line({"lost": self._lost}))
                self._lost = 0
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _rotate(self, path: Path) -> None:
        rotated = [path.with_name(f"{path.name}.{number}") for number in range(1, self._files)]
        for older, newer in zip(reversed(rotated), [*reversed(rotated[:-1]), path], strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._waiting.extendleft(reversed([_line(record) for record in self._carried()]))


def read(folder: Path, name: str) -> Iterator[dict[str, object]]:
    """Yield the records of a journal, oldest first; torn and foreign lines are skipped.

    Raises OSError.
    """
    for path in _written(folder, name):
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:  # it was just rotated, or never written
            continue
        for line in lines:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


def _written(folder: Path, name: str) -> list[Path]:
    rotated = [path for path in folder.glob(f"{name}.*") if path.suffix[1:].isdigit()]
    return [*sorted(rotated, key=lambda path: -int(path.suffix[1:])), folder / name]


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _is_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
