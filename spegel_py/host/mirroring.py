"""What is to lie in containerd's `config_path`: decided from the settings and from what lay there before us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spegel_py.errors import ConfigError
from spegel_py.host import hosts_toml
from spegel_py.host.existing import HOSTS, Existing, Tree
from spegel_py.host.registries import DEFAULT, Registry, registry_of
from spegel_py.host.tree import Entry, File, Folder, Link, Meta, at, grafted
from spegel_py.tools.basic_auth import Credentials

PLAIN, SECRET = Meta(mode=0o644), Meta(mode=0o600)
FOLDER = Meta(mode=0o755)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """Which registries are mirrored, where, and how.

    `targets` are the mirrors' URLs, the first one asked first; each is told that the runtime of `node` asks.
    """

    registries: tuple[Registry, ...]
    targets: tuple[str, ...]
    node: str
    resolves_tags: bool = True
    keeps_existing: bool = False
    credentials: Credentials | None = None

    def plan(
        self,
        original: Folder,
        *,
        root: Path,
        outside: Callable[[Path], Entry | None] = lambda _: None,
    ) -> Mapping[str, Entry]:
        """Return what is to lie in `root`. Raises ConfigError for an existing hosts.toml that cannot be kept."""
        tree = Tree(root=root, original=original, outside=outside)
        wanted = Folder({}, FOLDER)
        kept: list[Existing] = []
        for registry in self.registries:
            existing = tree.existing(registry) if self.keeps_existing else None
            name = existing.name if existing else registry.host
            wanted = grafted(wanted, (name,), self._folder(registry, existing, root))
            kept += [existing] if existing else []
        for existing in kept:
            for parts, file in tree.needed(existing):
                if at(wanted, parts) is None:
                    wanted = grafted(wanted, parts, file)
        return wanted.entries

    def set_aside(self, original: Folder, wanted: Mapping[str, Entry]) -> list[str]:
        """Return the names of what containerd heeded and whose settings are not in the plan."""
        heeded = [name for name, entry in original.entries.items() if _is_heeded(entry)]
        return [name for name in heeded if not (self.keeps_existing and _has_hosts(wanted, name))]

    def keeping(self, name: str) -> str:
        """Return how to keep a folder that is set aside."""
        named = [registry.text for registry in self.registries]
        registry = registry_of(name)
        named += [registry if registry == DEFAULT else f"https://{registry}"]
        flags = f"--mirrored-registries {' '.join(dict.fromkeys(named))}"
        if self.keeps_existing:
            return f"--prepend-existing keeps the registries that are named, and no other: to keep it, give {flags}"
        return f"to keep it, after the mirror, give --prepend-existing and name it: {flags}"

    def _folder(self, registry: Registry, existing: Existing | None, root: Path) -> Folder:
        others = existing.others if existing else Folder({}, FOLDER)
        meta = SECRET if self.credentials else PLAIN
        file = File(self._text(registry, existing, root).encode(), meta)
        return Folder({**others.entries, HOSTS: file}, others.meta)

    def _text(self, registry: Registry, existing: Existing | None, root: Path) -> str:
        mirrors = hosts_toml.blocks(
            self.targets,
            can_resolve=self.resolves_tags,
            node=self.node,
            credentials=self.credentials,
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


def _is_heeded(entry: Entry) -> bool:
    if isinstance(entry, Folder):
        return any(name == HOSTS or name.endswith((".crt", ".cert")) for name in entry.entries)
    return isinstance(entry, Link)


def _has_hosts(wanted: Mapping[str, Entry], name: str) -> bool:
    return at(Folder(wanted, FOLDER), (name, HOSTS)) is not None
