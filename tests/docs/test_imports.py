"""Rules of imports that import-linter has no contract for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path

import grimp

PACKAGE = Path(__file__).parents[2] / "spegel_py"


def test_no_module_imports_itself_through_others() -> None:
    """There is no cycle of imports, those for type checking and within functions included."""
    graph = grimp.build_graph("spegel_py", exclude_type_checking_imports=False)
    imports = {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }
    assert _left_by_pruning(imports) == []


def test_oci_imports_the_standard_library_only() -> None:
    """Of this package it knows the errors."""
    found = set()
    for path in (PACKAGE / "oci").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    foreign = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("spegel_py.oci")} == {
        "spegel_py.errors"
    }


def _left_by_pruning(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the modules on cycles, and between them.

    Modules that import no remaining one, or that no remaining one imports, are removed in turn.
    """
    left = set(imports)
    while True:
        imported = {each for module in left for each in imports[module] & left}
        removed = {
            module for module in left if not imports[module] & left or module not in imported
        }
        if not removed:
            return sorted(left)
        left -= removed
