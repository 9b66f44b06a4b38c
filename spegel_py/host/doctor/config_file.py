"""containerd's configuration file, for daemons that do not report their settings.

Those are 2.0 to 2.3, and stopped ones. Files are merged as in 2.x: each file is first converted to
the newest form, then tables are merged key by key. A later file's empty value (false, "") does not
replace an earlier value.
"""

from __future__ import annotations

import glob
import re
import tomllib
from pathlib import Path
from typing import Any

from spegel_py.errors import ConfigError
from spegel_py.host.doctor.facts import FileSettings
from spegel_py.host.host_files import read_text
from spegel_py.store.containerd import ImageSettings

CRI = "io.containerd.grpc.v1.cri"
"""Plugin with all CRI settings up to version 2 of the file; plain `cri` in version 1."""

IMAGES = "io.containerd.cri.v1.images"
"""Plugin with the image settings from version 3 on."""

MAX_FILES = 64
"""Number of files that are read, at most, imports included."""

Table = dict[str, Any]

LONGEST = 400
"""Characters of a path that an error shows: an import may name one of thousands."""


def read(path: Path) -> FileSettings:
    """Return the settings in the file at `path` and its imports. Raises ConfigError."""
    merged: Table = {}
    version = 0
    pending, seen = [path.absolute()], set[Path]()
    while pending and len(seen) < MAX_FILES:
        file = pending.pop(0)
        if file in seen:
            continue
        seen.add(file)
        document = _document(file)
        version = version or _version(document)
        merged = _merge(merged, images(document))
        pending += _imports(file, document)
    return FileSettings(version, _settings(merged))


def images(document: Table) -> Table:
    """Return a file's image settings in the form of version 3."""
    plugins = _table(document, "plugins")
    found = dict(_table(plugins, IMAGES))
    if _version(document) < 3:
        old = _table(plugins, CRI) or _table(plugins, "cri")
        found |= {key: old[key] for key in ("registry",) if key in old}
        containerd = _table(old, "containerd")
        found |= {key: containerd[key] for key in ("discard_unpacked_layers",) if key in containerd}
    return found


def _settings(merged: Table) -> ImageSettings:
    registry = _table(merged, "registry")
    config_path = registry.get("config_path")
    return ImageSettings(
        config_path=config_path if isinstance(config_path, str) else "",
        discards_layers=merged.get("discard_unpacked_layers") is True,
        has_mirrors=bool(registry.get("mirrors")),
        pulls_locally=merged.get("use_local_image_pull") is True,
    )


def _document(file: Path) -> Table:
    try:
        return tomllib.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"{str(file)[:LONGEST]} cannot be read: {error.strerror}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not TOML, not UTF-8, or an endless number
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"{str(file)[:LONGEST]} is not TOML: {why}") from error


def _version(document: Table) -> int:
    version = document.get("version")
    return version if isinstance(version, int) else 1


def _imports(parent: Path, document: Table) -> list[Path]:
    """Return the files that `parent` imports, relative to its folder; `*` works as in a shell."""
    given = document.get("imports")
    texts = [text for text in given if isinstance(text, str)] if isinstance(given, list) else []
    return [path for text in texts for path in _imported(parent.parent / text)]


def _imported(path: Path) -> list[Path]:
    """Return the files that match a path; several `*` in a row count as one, as in Go."""
    pattern = re.sub(r"\*+", "*", str(path))
    if "*" not in pattern:
        return [path]
    try:
        found = glob.glob(pattern, include_hidden=True)  # noqa: PTH207 - see below
        return sorted(map(Path, found))
    except (OSError, ValueError, RecursionError):
        # The name is too long, has a NUL, or has a thousand folders. pathlib's own glob fails for
        # names such as "//*" too.
        return []


def _merge(into: Table, new: Table) -> Table:
    merged = dict(into)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merge(before, value)
        elif value or key not in merged:
            merged[key] = value
    return merged


def _table(document: Table, key: str) -> Table:
    found = document.get(key)
    return found if isinstance(found, dict) else {}
