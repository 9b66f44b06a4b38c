"""Read the walks of ARCHITECTURE.md, and look their hops up in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ARCHITECTURE.md"

Function = ast.FunctionDef | ast.AsyncFunctionDef

_WALK = re.compile(r"^### (.+)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
_HOP = re.compile(r"^\d+\. `([\w.]+):([\w.]+)`(?: calls back `(\w+)`)?(?: over `([\w.]+):(\w+)`)?")


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a walk.

    `callback` is the parameter through which the next hop is called, if it is no direct call.
    `protocol` is the constant (module, name) that names a protocol, if the next hop is on another
    node and handles the messages of that protocol.
    """

    module: str
    name: str
    callback: str | None = None
    protocol: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    @property
    def attribute(self) -> str:
        """The name by which a caller refers to the hop."""
        return self.name.rpartition(".")[2]


def walks() -> dict[str, list[Hop]]:
    """Return the hops of each walk, by its title."""
    text = PAGE.read_text()
    section = text[text.index("\n## Walks") :] + "\n##"
    return {title: list(_hops(body)) for title, body in _WALK.findall(section)}


def _hops(body: str) -> Iterator[Hop]:
    for line in body.splitlines():
        if re.match(r"\d+\. ", line):
            found = _HOP.match(line)
            if found is None:
                raise ValueError(f"no hop: {line}")
            module, name, callback, place, constant = found.groups()
            yield Hop(module, name, callback, (place, constant) if place else None)


def function(hop: Hop) -> Function | None:
    """Return the definition of a hop; None if there is none."""
    node: ast.AST | None = tree(hop.module)
    for part in hop.name.split("."):
        node = next(
            (
                each
                for each in getattr(node, "body", ())
                if isinstance(each, Function | ast.ClassDef) and each.name == part
            ),
            None,
        )
    return node if isinstance(node, Function) else None


def leads_to(hop: Hop, after: Hop) -> bool:
    """Return True if one hop calls the next one, or hands it over.

    Case 1: messages of a protocol go to another node, which handles them with the next hop.
    Case 2: the next hop was given to this one as a callback.
    Case 3: this hop is a port's method, and the next hop implements it.
    Case 4: this hop calls or references the next one by its name.
    """
    here = function(hop)
    if here is None:
        return False
    if hop.protocol is not None:
        constant = hop.protocol[1]
        return _mentions(tree(hop.module), constant) and any(
            _gives(call, after.attribute) and any(_mentions(each, constant) for each in call.args)
            for call in _calls()
        )
    if hop.callback is not None:
        return _mentions(here, hop.callback) and any(
            keyword.arg == hop.callback and _mentions(keyword.value, after.attribute)
            for call in _calls()
            for keyword in call.keywords
        )
    if _is_port(hop):
        return after.attribute == hop.attribute and not _is_port(after)
    return _mentions(here, after.attribute)


@cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module of the package."""
    path = ROOT / "spegel_py" / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text())


@cache
def _calls() -> list[ast.Call]:
    """Return every call of the package."""
    return [
        node
        for path in sorted((ROOT / "spegel_py").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def _mentions(node: ast.AST, name: str) -> bool:
    """Return True if a name is used below a node, as a variable or an attribute."""
    return any(
        (isinstance(each, ast.Attribute) and each.attr.lstrip("_") == name.lstrip("_"))
        or (isinstance(each, ast.Name) and each.id.lstrip("_") == name.lstrip("_"))
        for each in ast.walk(node)
    )


def _gives(call: ast.Call, name: str) -> bool:
    return any(_mentions(each, name) for each in call.args)


def _is_port(hop: Hop) -> bool:
    """Return True if a hop is a method of a Protocol."""
    owner = hop.name.rpartition(".")[0]
    return any(
        isinstance(node, ast.ClassDef)
        and node.name == owner
        and any(_mentions(base, "Protocol") for base in node.bases)
        for node in tree(hop.module).body
    )
