"""A check that a folder is one of containerd's hosts.toml files, before it is changed.

`configuration` sets everything aside that is in its folder. With a mistyped name that would be
other programs' files, or a new folder that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spegel_py.errors import ConfigError
from spegel_py.host import original
from spegel_py.host.own_names import is_own
from spegel_py.host.registries import registry_of
from spegel_py.oci.reference import is_host

STANDARD = Path("/etc/containerd/certs.d")
"""The folder of containerd's own packages and documentation."""

NAME = STANDARD.name

CONFIGS = (
    Path("/etc/containerd/config.toml"),
    Path("/var/lib/rancher/k3s/agent/etc/containerd/config.toml"),
    Path("/var/lib/rancher/rke2/agent/etc/containerd/config.toml"),
)
"""Configuration files of containerd whose `config_path` counts."""

OF_REGISTRY = ("hosts.toml",)
SUFFIXES = (".crt", ".cert", ".key")
"""Names of files, and their endings, in the folder of a registry."""


def why_foreign(root: Path, configs: Sequence[Path] = CONFIGS) -> str | None:
    """Return why a folder is not one of containerd's hosts.toml files; None if it can be.

    A folder that this user may not read can be one: changing it fails with a clear error.
    """
    try:
        return _why_foreign(root, configs)
    except PermissionError:
        return None


def _why_foreign(root: Path, configs: Sequence[Path]) -> str | None:
    if root == STANDARD or original.is_changed(root):
        return None
    if not root.exists():
        if _begins_with_a_file(root) or (root.name == NAME and root.parent.is_dir()):
            return None
        problem = f"there is no folder {root}"
    elif _can_hold_registries(root):
        return None
    else:
        problem = f"{root} holds other files than those of registries"
    searched = dict.fromkeys(folder for config in configs for folder in _searched(config))
    if root in searched:
        return None
    names = ", ".join(map(str, searched)) or f"{STANDARD}, unless config_path was set"
    return f"{problem}, so containerd does not read it: it reads {names}"


def _begins_with_a_file(root: Path) -> bool:
    """Return True if a parent is a file: then creating the folder fails with a clear error."""
    return any(parent.exists() and not parent.is_dir() for parent in root.parents)


def _can_hold_registries(root: Path) -> bool:
    if not root.is_dir():
        return True  # changing it fails with a clear error
    entries = [entry for entry in root.iterdir() if not is_own(entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    registries = sum(_is_registry(folder) for folder in folders)
    if registries and registries >= len(entries) - len(folders):  # a file or two may lie beside
        return True
    is_flat = not any(below.is_dir() for folder in folders for below in folder.iterdir())
    return len(folders) == len(entries) and is_flat


def _is_registry(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    if any(name in OF_REGISTRY for name in names):
        return True
    has_certificates = any(name.endswith(SUFFIXES) for name in names)
    return has_certificates and is_host(registry_of(folder.name))


def _searched(config: Path) -> tuple[Path, ...]:
    if not config.exists():
        return ()
    # Imported here because gRPC takes longer to load than everything else together.
    from spegel_py.host.doctor import config_file
    from spegel_py.host.doctor.containerd_checks import roots

    with suppress(ConfigError):
        return roots(config_file.read(config).images)
    return ()
