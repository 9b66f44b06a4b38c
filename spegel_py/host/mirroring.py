"""The wanted content of containerd's `config_path`, from the settings and the original content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from spegel_py import values
from spegel_py.errors import ConfigError
from spegel_py.host import hosts_toml
from spegel_py.host.file_tree import (
    MAX_HELD,
    MAX_HELD_TOGETHER,
    Entry,
    File,
    Folder,
    LargeFile,
    Link,
    Meta,
    at,
    grafted,
)
from spegel_py.host.registries import DEFAULT, Registry, registry_of
from spegel_py.tools.basic_auth import Credentials

PLAIN, SECRET = Meta(mode=0o644), Meta(mode=0o600)
FOLDER = Meta(mode=0o755)

HOSTS = "hosts.toml"

_DEPTH = 8
"""Links followed in a row, and levels of folders, at most: more is a cycle."""


class KeptHosts(StrEnum):
    """The registries whose previous hosts stay, behind the mirror."""

    NONE = "false"
    NAMED = "true"
    ALL = "all"

    @classmethod
    def parse(cls, given: object) -> KeptHosts:
        """Return what a setting says. Raises ValueError."""
        text = str(given).lower()
        if text == cls.ALL:
            return cls.ALL
        try:
            return cls.NAMED if values.boolean(given) else cls.NONE
        except ValueError:
            raise ValueError(f"{values.quoted(given)} should be true, false or all") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """The settings of `configuration`: registries, mirrors and options.

    `targets` are the mirrors' URLs, in the order in which containerd asks them. Each mirror is told
    the name `node` of the runtime's node, and the first one the runtime's `token`, if it is not
    empty. `keeps_existing` says whose previous hosts are kept.
    """

    registries: tuple[Registry, ...]
    targets: tuple[str, ...]
    node: str
    resolves_tags: bool = True
    keeps_existing: KeptHosts = KeptHosts.NONE
    credentials: Credentials | None = None
    token: str = field(default="", repr=False)

    def plan(
        self,
        original: Folder,
        *,
        root: Path,
        outside: Callable[[Path], Entry | None] = lambda _: None,
    ) -> Mapping[str, Entry]:
        """Return the wanted content of `root`.

        Raises ConfigError for an existing hosts.toml that cannot be kept.
        """
        tree = OriginalTree(root=root, original=original, outside=outside)
        wanted = Folder({}, FOLDER)
        kept: list[Existing] = []
        others = self._others(original)
        for registry in (*self.registries, *(others if self._mirrors_all else ())):
            is_kept = self.keeps_existing is not KeptHosts.NONE
            existing = tree.existing(registry) if is_kept else None
            name = existing.name if existing else registry.host
            wanted = grafted(wanted, (name,), self._folder(registry, existing, root))
            kept += [existing] if existing else []
        for registry in () if self._mirrors_all else others:
            if existing := tree.existing(registry):
                wanted = grafted(wanted, (existing.name,), existing.folder)
                kept.append(existing)
        for existing in kept:
            for parts, file in tree.needed(existing):
                if at(wanted, parts) is None:
                    wanted = grafted(wanted, parts, file)
        return wanted.entries

    def set_aside(self, original: Folder, wanted: Mapping[str, Entry]) -> list[str]:
        """Return the folders that containerd used, and whose settings the plan does not keep."""
        heeded = [name for name, entry in original.entries.items() if _is_used(entry)]
        if self.keeps_existing is KeptHosts.ALL:
            return []
        is_kept = self.keeps_existing is KeptHosts.NAMED
        return [name for name in heeded if not (is_kept and _has_hosts(wanted, name))]

    def with_registries(self, folders: Mapping[str, Entry]) -> str:
        """Return the flag that names the present registries and those of these folders."""
        named = [registry.text for registry in self.registries]
        named += [_as_flag(name, entry) for name, entry in folders.items()]
        return f"--mirrored-registries {' '.join(dict.fromkeys(named))}"

    def keeping(self, name: str) -> str:
        """Return the advice how to keep a folder that is set aside."""
        named = [registry.text for registry in self.registries]
        registry = registry_of(name)
        named += [registry if registry == DEFAULT else f"https://{registry}"]
        flags = f"--mirrored-registries {' '.join(dict.fromkeys(named))}"
        if self.keeps_existing is KeptHosts.NAMED:
            return (
                "--prepend-existing keeps the registries that are named, and no other: to keep "
                f"it, give {flags}, or --prepend-existing=all"
            )
        return (
            "to keep it, after the mirror, give --prepend-existing=all, or --prepend-existing and "
            f"name it: {flags}"
        )

    @property
    def _mirrors_all(self) -> bool:
        return any(registry.host == DEFAULT for registry in self.registries)

    def _others(self, original: Folder) -> list[Registry]:
        """Return the registries that are not named, and whose previous hosts are kept too."""
        if self.keeps_existing is not KeptHosts.ALL:
            return []
        named = {name for registry in self.registries for name in registry.folders}
        return [
            Registry(registry_of(name), None)
            for name, entry in original.entries.items()
            if _is_used(entry) and name not in named
        ]

    def _folder(self, registry: Registry, existing: Existing | None, root: Path) -> Folder:
        others = existing.others if existing else Folder({}, FOLDER)
        meta = SECRET if self.credentials or self.token else PLAIN
        file = File(self._text(registry, existing, root).encode(), meta)
        return Folder({**others.entries, HOSTS: file}, others.meta)

    def _text(self, registry: Registry, existing: Existing | None, root: Path) -> str:
        mirrors = hosts_toml.blocks(
            self.targets,
            can_resolve=self.resolves_tags,
            node=self.node,
            credentials=self.credentials,
            token=self.token,
        )
        if not existing or not existing.text.strip():
            return hosts_toml.render(registry.server, mirrors)
        try:
            return hosts_toml.prepend(existing.text, registry.server, mirrors, self.targets)
        except ValueError as error:
            path = root / existing.name / HOSTS
            raise ConfigError(
                f"{path}: {error}; correct it, or run this without --prepend-existing"
            ) from error


def _as_flag(name: str, folder: Entry) -> str:
    """Return a registry's folder as `--mirrored-registries` names it."""
    file = at(Folder({name: folder}, FOLDER), (name, HOSTS))
    server = hosts_toml.server_of(_text(file)) if isinstance(file, File) else None
    registry = registry_of(name)
    scheme = (server or "").partition("://")[0]
    return registry if registry == DEFAULT or not server else f"{scheme}://{registry}"


def is_made(entry: Entry) -> bool:
    """Return True if `configuration`, or Spegel's, has made this entry and nothing else."""
    if not isinstance(entry, Folder) or entry.entries.keys() - {HOSTS}:
        return False
    try:
        return hosts_toml.is_made(_text(entry.entries.get(HOSTS)))
    except ValueError:
        return False


def _is_used(entry: Entry) -> bool:
    if isinstance(entry, Folder):
        return any(name == HOSTS or name.endswith((".crt", ".cert")) for name in entry.entries)
    return isinstance(entry, Link)


def _has_hosts(wanted: Mapping[str, Entry], name: str) -> bool:
    return at(Folder(wanted, FOLDER), (name, HOSTS)) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """One registry's folder, with the text of its hosts.toml.

    `others` has all other files, `folder` the hosts.toml too; links are replaced by their targets.
    """

    name: str
    text: str
    others: Folder
    folder: Folder


class OriginalTree:
    """The original content of the folder `root`.

    `outside` reads the targets of links that point elsewhere.
    """

    def __init__(
        self, *, root: Path, original: Folder, outside: Callable[[Path], Entry | None]
    ) -> None:
        self._root = root
        self._original = original
        self._outside = outside

    def existing(self, registry: Registry) -> Existing | None:
        """Return the settings of a registry; None if it has no folder.

        Raises ConfigError for a file that is not TOML.
        """
        for name in registry.folders:
            folder = self._solid(self._root / name)
            if isinstance(folder, Folder):
                return self._existing(name, folder)
        return None

    def needed(self, existing: Existing) -> Iterator[tuple[tuple[str, ...], File | LargeFile]]:
        """Yield path and content of the files that hosts.toml names outside the registry's
        folder.
        """
        folder = self._root / existing.name
        for text in hosts_toml.certificates(existing.text):
            # As in containerd, `..` is resolved before links.
            path = Path(os.path.normpath(folder / text))
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
        # containerd uses Docker's certificate files only if hosts.toml is missing or empty.
        text = text or hosts_toml.from_files(entries)
        return Existing(name=name, text=text, others=others, folder=folder)

    def _solid(self, path: Path, depth: int = _DEPTH) -> Entry | None:
        """Return the entry at a path, with links followed; None if there is none."""
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
        """Return an entry with all links in it replaced by their targets.

        A link without a target stays.
        """
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
            f"it has {file.size} bytes and is not read: a hosts.toml may have {MAX_HELD}, and all "
            "small "
            f"files of the folder {MAX_HELD_TOGETHER}"
        )
    data = file.data if isinstance(file, File) else b""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: it is not UTF-8") from error
