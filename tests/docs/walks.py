"""Read the walks of ARCHITECTURE.md, and look their hops up in the code.

A walk is a nested list. An item is a hop, `module:function`, or several with arrows between them:
each calls the next one, and the last one calls the hops of the items below it.

A hop without a hop above it runs in another task, or on another node. The hop before such a hop
says how it gets there: `over` a protocol, with a value that it `hands over`, or by state that it
`sets`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "ARCHITECTURE.md"

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.AnnAssign

_WALK = re.compile(r"^### (.+?)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
_HOP = r"`[\w.]+:[\w.]+`"
_ITEM = re.compile(
    rf"^( *)- ({_HOP}(?: →\s+{_HOP})*)(.*?)(?=^ *- |\Z|^\n)", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\b(over|hands\s+over|sets)\s+`(?:[\w.]+:)?(\w+)`")


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a walk.

    `caller` is the hop above it, None at the margin. `link` is the way to the next hop at the
    margin: a kind and the name of a protocol's constant, of a value's type, or of an event.
    """

    module: str
    name: str
    caller: Hop | None = None
    link: tuple[str, str] | None = None

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
    above: list[tuple[int, Hop]] = []
    for indentation, chain, rest in _ITEM.findall(body):
        while above and above[-1][0] >= len(indentation):
            above.pop()
        caller = above[-1][1] if above else None
        *before, last = re.findall(r"`([\w.]+):([\w.]+)`", chain)
        for module, name in before:
            caller = Hop(module, name, caller=caller)
            yield caller
        link = _LINK.search(rest)
        to_next = (" ".join(link[1].split()), link[2]) if link else None
        hop = Hop(last[0], last[1], caller=caller, link=to_next)
        above.append((len(indentation), hop))
        yield hop


def decisions() -> list[tuple[list[Hop], list[Hop]]]:
    """Return the functions of each row of the table of decisions, and their callers."""
    text = PAGE.read_text()
    section = text[text.index("\n## Where it is decided") :]
    return [
        (_named(decided), _named(called))
        for decided, called in re.findall(
            r"^\|[^|]*\|([^|]*:[^|]*)\|([^|]*)\|$", section, re.MULTILINE
        )
    ]


def _named(cell: str) -> list[Hop]:
    return [Hop(module, name) for module, name in re.findall(r"`([\w.]+):([\w.]+)`", cell)]


def is_called_by(decider: Hop, callers: list[Hop]) -> bool:
    """Return True if one of these functions, or methods of these classes, calls the function."""
    return any(_mentions(definition(caller), decider.attribute) for caller in callers)


def definition(hop: Hop) -> Definition | None:
    """Return the function, method, class or callable field of a hop; None if there is none."""
    found: ast.AST | None = tree(hop.module)
    for part in hop.name.split("."):
        body = getattr(found, "body", ())
        found = next((each for each in body if _defines(each, part)), None)
    return found if isinstance(found, Definition) else None


def is_reached(hop: Hop, before: Hop, below: list[Hop]) -> bool:
    """Return True if a hop is called by its caller, or reached by the link of the hop before.

    `below` are the hops that follow until the next hop at the margin.

    Case 1: the caller is a port's method; the hop has the same name in an implementation.
    Case 2: the caller is a callable field; a call of the package fills the field with the hop.
    Case 3: the caller calls or references the hop by its name.
    Case 4: the hop handles the messages of a protocol that the hop before sends.
    Case 5: the hop's class knows the type of the value that is handed over.
    Case 6: the hop, or a hop below it, reads the state or awaits the event that is set.
    """
    if hop.caller is not None:
        caller = definition(hop.caller)
        if _is_port(hop.caller):
            return hop.attribute == hop.caller.attribute and not _is_port(hop)
        if isinstance(caller, ast.AnnAssign):
            return any(
                keyword.arg == hop.caller.attribute and _mentions(keyword.value, hop.attribute)
                for call in _calls()
                for keyword in call.keywords
            )
        return _mentions(caller, hop.attribute)
    if before.link is None:
        return False
    kind, name = before.link
    if kind == "over":
        return _mentions(tree(before.module), name) and any(
            any(_mentions(each, name) for each in call.args)
            and any(_mentions(each, hop.attribute) for each in call.args)
            for call in _calls()
        )
    if not _mentions(definition(before), name):
        return False
    if kind == "hands over":
        return _mentions(_around(hop), name)
    return any(_mentions(definition(each), name) for each in (hop, *below))


@cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module of the package; an empty one if there is none."""
    path = ROOT / "spegel_py" / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text() if source.exists() else "")


@cache
def _calls() -> list[ast.Call]:
    """Return every call of the package."""
    return [
        node
        for path in sorted((ROOT / "spegel_py").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def _defines(node: ast.AST, name: str) -> bool:
    match node:
        case ast.AnnAssign(target=ast.Name(id=found)):
            return found == name
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name == name
    return False


def _around(hop: Hop) -> ast.AST:
    """Return the class of a method, or the hop's module."""
    owner = hop.name.rpartition(".")[0]
    return (definition(Hop(hop.module, owner)) if owner else None) or tree(hop.module)


def _mentions(node: ast.AST | None, name: str) -> bool:
    """Return True if a name is used below a node, as a variable or an attribute."""
    if node is None:
        return False
    plain = name.lstrip("_")
    return any(
        (isinstance(each, ast.Attribute) and each.attr.lstrip("_") == plain)
        or (isinstance(each, ast.Name) and each.id.lstrip("_") == plain)
        for each in ast.walk(node)
    )


def _is_port(hop: Hop) -> bool:
    """Return True if a hop is a method of a Protocol."""
    owner = _around(hop)
    return isinstance(owner, ast.ClassDef) and any(
        _mentions(base, "Protocol") for base in owner.bases
    )
