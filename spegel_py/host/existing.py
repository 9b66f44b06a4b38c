"""What an operator had set up for a registry, out of the original tree: its hosts.toml, and the files it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from spegel_py.errors import ConfigError
from spegel_py.host import hosts_toml
from spegel_py.host.registries import Registry
from spegel_py.host.tree import MAX_HELD, MAX_HELD_TOGETHER, Entry, File, Folder, LargeFile, Link

HOSTS = "hosts.toml"

_DEPTH = 8
"""Links followed one after another, and folders within folders: more is a circle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """One registry's folder. `others` holds all files but hosts.toml, links replaced by what they lead to."""

    name: str
    text: str
    others: Folder


class Tree:
    """The original tree as it was seen under its path `root`; what links lead to elsewhere is read by `outside`."""

    def __init__(
        self, *, root: Path, original: Folder, outside: Callable[[Path], Entry | None]
    ) -> None:
        self._root = root
        self._original = original
        self._outside = outside

    def existing(self, registry: Registry) -> Existing | None:
        """Return what is set up for a registry; None if it has no folder. Raises ConfigError for what is not TOML."""
        for name in registry.folders:
            folder = self._solid(self._root / name)
            if isinstance(folder, Folder):
                return self._existing(name, folder)
        return None

    def needed(self, existing: Existing) -> Iterator[tuple[tuple[str, ...], File | LargeFile]]:
        """Yield the files of the tree that the registry's hosts.toml names outside its own folder, with their paths."""
        folder = self._root / existing.name
        for text in hosts_toml.certificates(existing.text):
            path = Path(
                os.path.normpath(folder / text)
            )  # as containerd reads it: `..` before links
            file = self._solid(path)
            if (
                isinstance(file, File | LargeFile)
                and path.is_relative_to(self._root)
                and not path.is_relative_to(folder)
            ):
                yield path.relative_to(self._root).parts, file

    def _existing(self, name: str, folder: Folder) -> Existing:
        entries = dict(folder.entries)
        file = entries.pop(HOSTS, None)
        try:
            text = _text(file)
            list(hosts_toml.certificates(text))
        except ValueError as error:
            path = self._root / name / HOSTS
            raise ConfigError(
                f"{path}: {error}; correct it, or run this without --prepend-existing"
            ) from error
        others = Folder(entries, replace(folder.meta, mtime_ns=None))
        # containerd looks at Docker's certificate files only where there is no hosts.toml or an empty one
        return Existing(name=name, text=text or hosts_toml.from_files(entries), others=others)

    def _solid(self, path: Path, depth: int = _DEPTH) -> Entry | None:
        """Return what a path leads to, links followed; None where that is nothing."""
        if not depth:
            return None
        if not path.is_relative_to(self._root):
            outside = self._outside(path)
            return outside and self._followed(path, outside, depth)
        entry: Entry | None = self._original
        here = self._root
        for part in path.relative_to(self._root).parts:
            if isinstance(entry, Link):
                return self._solid(_target(here, entry) / path.relative_to(here), depth - 1)
            entry = entry.entries.get(part) if isinstance(entry, Folder) else None
            here /= part
        return entry and self._followed(path, entry, depth)

    def _followed(self, path: Path, entry: Entry, depth: int) -> Entry:
        """Return an entry, and all below it, with links replaced by what they lead to; one that leads nowhere stays."""
        match entry:
            case Link():
                return self._solid(_target(path, entry), depth - 1) or entry
            case Folder():
                within = {
                    name: self._followed(path / name, child, depth - 1)
                    for name, child in entry.entries.items()
                }
                return Folder(within, entry.meta)
            case _:
                return entry


def _target(path: Path, link: Link) -> Path:
    return Path(os.path.normpath(path.parent / link.target))


def _text(file: Entry | None) -> str:
    if isinstance(file, LargeFile):
        raise ValueError(
            f"it has {file.size} bytes and is not read: a hosts.toml may have {MAX_HELD}, and all small "
            f"files of the folder {MAX_HELD_TOGETHER}"
        )
    data = file.data if isinstance(file, File) else b""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: it is not UTF-8") from error
