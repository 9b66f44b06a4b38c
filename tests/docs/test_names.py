"""A public class name exists once in the package, and so does a module name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "spegel_py"

REPEATED_MODULES = frozenset({"__init__", "__main__", "base", "metrics"})
"""Module names that every room may have."""


def test_a_public_class_name_exists_once() -> None:
    """A reader who finds a class by its name finds the only one."""
    found = defaultdict(list)
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert _repeated(found) == {}


def test_a_module_name_exists_once() -> None:
    """A reader who finds a module by its name finds the only one."""
    found = defaultdict(list)
    for path in _modules():
        if path.stem not in REPEATED_MODULES:
            found[path.stem].append(str(path.relative_to(PACKAGE)))
    assert _repeated(found) == {}


def _modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "_pb2" not in path.name]


def _repeated(found: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {name: places for name, places in found.items() if len(places) > 1}
