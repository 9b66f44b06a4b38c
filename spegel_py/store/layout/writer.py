"""Writing into an image-layout folder. Readers never see an incomplete file.

Everything here blocks: call it in a thread. Several processes may write into one folder at the same
time.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from spegel_py.errors import ConfigError, NameInvalid, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_INDEX, Child
from spegel_py.oci.reference import Reference
from spegel_py.store.layout.blob import BlobWriter, disk_errors
from spegel_py.store.layout.folder import BLOBS, INDEX, MARKER, PULLED, REF_NAME, VERSION
from spegel_py.tools.files import hash_file, replace_file

LOCK = ".index.lock"
"""File whose lock is held while index.json is read, changed and replaced."""


class LayoutWriter:
    """Adds blobs and tags to one layout.

    `is_durable` makes every file reach the disk before it gets its name. Tests turn it off for
    speed.
    """

    def __init__(self, *, root: Path, is_durable: bool = True) -> None:
        self.root = root
        self.is_durable = is_durable
        self._made: list[Path] = []

    def __repr__(self) -> str:
        return f"<LayoutWriter {self.root}>"

    @classmethod
    def create(cls, *, root: Path, is_durable: bool = True) -> Self:
        """Return a writer for the layout at `root`. An empty or missing folder becomes a layout.

        Raises ConfigError for a folder with other files, StoreUnavailable for an error of the disk.
        """
        writer = cls(root=root, is_durable=is_durable)
        writer._made = [folder for folder in (root, *root.parents) if not folder.exists()]
        with disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in root.iterdir()}
            if names - {MARKER, INDEX, BLOBS, LOCK} and MARKER not in names:
                raise ConfigError(
                    f"{root} holds other files and is not an OCI image layout; give an empty folder"
                )
            (root / BLOBS / "sha256").mkdir(parents=True, exist_ok=True)
            with writer._locked():
                if not (root / INDEX).exists():
                    empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
                    writer._replace(root / INDEX, empty)
                if not (root / MARKER).exists():
                    writer._replace(root / MARKER, {"imageLayoutVersion": VERSION})
        return writer

    def discard_unused(self) -> None:
        """Remove a folder that this writer made, with its parents, if no content came into it."""
        if self.root not in self._made:
            return
        with suppress(OSError):  # something is in it, or came into it meanwhile
            for folder in (self.root / BLOBS / "sha256", self.root / BLOBS):
                folder.rmdir()
            for name in (MARKER, INDEX, LOCK):
                (self.root / name).unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()

    def path(self, digest: Digest) -> Path:
        """Return the path of the blob, whether or not it exists."""
        return self.root / BLOBS / digest.algorithm / digest.hex

    def has(self, digest: Digest, size: int) -> bool:
        """Return True if a blob of this digest and size exists. It is not hashed."""
        try:
            return self.path(digest).lstat().st_size == size
        except OSError:
            return False

    def verify(self, digest: Digest) -> bool:
        """Return True if the blob exists and its content has this digest. The whole blob is hashed.

        Raises StoreUnavailable for a blob that cannot be read.
        """
        path = self.path(digest)
        try:
            return hash_file(path, digest.algorithm) == digest.hex
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be read: {error.strerror}") from error

    def begin(self, digest: Digest, total: int | None = None) -> BlobWriter:
        """Return a context manager that writes the blob, from where an earlier attempt stopped.

        `total` is the final length in bytes, if known. With it, this node can give peers the
        growing part.
        """
        return BlobWriter(
            folder=self.root / BLOBS, digest=digest, is_durable=self.is_durable, total=total
        )

    def put(self, data: bytes, algorithm: str = "sha256") -> Digest:
        """Add a blob from memory."""
        digest = Digest.of(data, algorithm)
        with self.begin(digest) as blob:
            blob.put(data)
        return digest

    def remove(self, digest: Digest) -> None:
        """Remove a blob, if it exists."""
        with disk_errors(self.root):
            self.path(digest).unlink(missing_ok=True)

    def tag(self, name: str, root: Child) -> None:
        """Point the full name `registry/repository:tag` at a manifest. Raises NameInvalid."""
        if Reference.parse(name).name != name:
            raise NameInvalid(f"a tag is registry/repository:tag, without a digest: {name[:160]!r}")
        entry = {
            "mediaType": root.media_type,
            "digest": str(root.digest),
            "size": root.size,
            "annotations": {
                REF_NAME: name,
                PULLED: datetime.now(UTC).isoformat(timespec="milliseconds"),
            },
        }
        self._change_index(lambda entries: [*_without(entries, name), entry])

    def untag(self, name: str) -> None:
        """Remove a tag, if it exists. Blobs stay."""
        self._change_index(lambda entries: _without(entries, name))

    def _change_index(self, change: Callable[[list[Any]], list[Any]]) -> None:
        with disk_errors(self.root), self._locked():
            try:
                index = json.loads((self.root / INDEX).read_bytes())
                index["manifests"] = change(index.get("manifests") or [])
            except (ValueError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"{self.root / INDEX} is not an image index; repair or remove it"
                ) from error
            self._replace(self.root / INDEX, index)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _replace(self, path: Path, value: object) -> None:
        replace_file(path, json.dumps(value).encode(), is_durable=self.is_durable)


def _without(entries: list[Any], name: str) -> list[Any]:
    return [entry for entry in entries if (entry.get("annotations") or {}).get(REF_NAME) != name]
