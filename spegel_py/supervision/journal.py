"""JSON lines in a file that is rotated by its size; a disk that takes nothing costs lines, never the node.

Records wait in memory until `flush`, which does all the I/O and may block: it belongs in a thread. A line that was torn
(kill -9, a full disk) is ended before the next one is written, and passed over by the reader.
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
"""Size at which a file is put aside: about a thousand records."""
FILES = 3
"""Files kept of one journal, the present one included."""
MAX_WAITING = 1000
"""Records that wait for a disk; what comes beyond is counted and lost."""

Record = Mapping[str, object]


class Journal:
    """One journal, `name` below `folder`. Without a folder nothing is written.

    `carried` gives the records that a new file begins with, so that what is still true is not rotated away.
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
        """Why the last flush failed; None if it did not."""

    def __repr__(self) -> str:
        return f"<Journal {self._path} waiting={len(self._waiting)} trouble={self.trouble!r}>"

    def append(self, record: Record) -> None:
        """Note a record; it is on the disk after the next flush that succeeds."""
        if self._path is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
        else:
            self._waiting.append(_line(record))

    def flush(self) -> None:
        """Write what waits. A failure is kept as `trouble`, and what was not written goes on waiting."""
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
        aside = [path.with_name(f"{path.name}.{number}") for number in range(1, self._files)]
        for older, newer in zip(reversed(aside), [*reversed(aside[:-1]), path], strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._waiting.extendleft(reversed([_line(record) for record in self._carried()]))


def read(folder: Path, name: str) -> Iterator[dict[str, object]]:
    """Yield the records of a journal, oldest first; torn and foreign lines are passed over. Raises OSError."""
    for path in _written(folder, name):
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:  # it was rotated away just now, or never written
            continue
        for line in lines:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


def _written(folder: Path, name: str) -> list[Path]:
    aside = [path for path in folder.glob(f"{name}.*") if path.suffix[1:].isdigit()]
    return [*sorted(aside, key=lambda path: -int(path.suffix[1:])), folder / name]


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _is_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
