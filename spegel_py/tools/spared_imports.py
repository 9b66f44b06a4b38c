"""Imports that dependencies make, and that this program spares itself or puts off.

Each package that a node loads costs it memory, and time at its start. Two kinds are not loaded:

1. An optional package, without which its importer goes on (`SPARED`).
2. The `__init__` of a package of which a node uses some modules only (`LatePackage`). It runs once
   somebody asks for one of its names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

SPARED = {"greenlet": "structlog", "rich": "structlog"}
"""Each optional package, with the one that imports it. structlog formats tracebacks with rich, for
a terminal only; here they are formatted before. rich and pygments take 3 MB."""

LATE = frozenset({"aiohttp"})
"""Packages whose `__init__` is put off. That of aiohttp imports its client, which only the HTTP
bootstrap and the commands use."""

_VERSION = re.compile(r"^__version__ = \"([^\"]+)\"", re.MULTILINE)


class LatePackage(ModuleType):
    """A package whose `__init__` runs once a name is asked for that is none of its modules."""

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            value = self._version()
        elif name.startswith("__"):
            raise AttributeError(name)
        elif PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__):
            return import_module(f"{self.__name__}.{name}")
        else:
            run_init(self)
            return getattr(self, name)
        setattr(self, name, value)
        return value

    def _version(self) -> str:
        found = _VERSION.search((Path(self.__path__[0]) / "__init__.py").read_text())
        if found is None:
            raise AttributeError("__version__")
        return found[1]


def run_init(package: ModuleType) -> None:
    """Run the `__init__` of a late package now."""
    parent = sys.modules.get(package.__name__.rpartition(".")[0])
    spec = PathFinder.find_spec(package.__name__, parent.__path__ if parent else None)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(package.__name__, name=package.__name__)
    package.__class__ = ModuleType
    spec.loader.exec_module(package)


class LateLoader(Loader):
    """Loads a package without its `__init__`."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return LatePackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: that is the point."""


def late_spec(fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Return the spec of a package that is put off, None if it is no package of source files."""
    real = PathFinder.find_spec(fullname, path)
    if real is None or real.submodule_search_locations is None or real.origin is None:
        return None
    spec = ModuleSpec(fullname, LateLoader(), is_package=True)
    spec.submodule_search_locations = real.submodule_search_locations
    return spec


class _Sparer(MetaPathFinder):
    """Hides optional packages while their importer is being loaded, and makes packages late."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in LATE:
            return late_spec(fullname, path)
        importer = sys.modules.get(SPARED.get(fullname, ""))
        if getattr(getattr(importer, "__spec__", None), "_initializing", False):
            raise ModuleNotFoundError(f"{fullname} is spared, see {__name__}", name=fullname)
        return None


def install() -> None:
    """Spare these imports from now on, once per process; modules loaded before stay."""
    if not any(isinstance(finder, _Sparer) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Sparer())
