"""Write the page of all log events, from the program's own calls: `python -m tests.docs.events`."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "log-events.md"

LEVELS = ("debug", "info", "warning", "error", "critical", "exception")

_HEAD = """\
# Log events

<!-- Made by `make docs` from the program's own calls of its logger. -->

A node writes one JSON object a line to standard error (`--log-format json`), or coloured lines for
people (`--log-format console`). Every line has `event`, `level` and `timestamp`. Search for the
value of `event`. The [troubleshooting guide](../guides/troubleshooting.md) starts from symptoms.

Each request of a client of this node is one line at INFO, `pull decided`. Its fields are the
record that `spegel-py why` shows. The parts of a pull are further lines at DEBUG.
The events of a relay also have `digest`, `name`, `kind` and `method`. An ellipsis stands for fields
that depend on the case. A line of the level `exception` is an error with a traceback in the field
`exception`.

| event | level | fields |
|---|---|---|
"""


@dataclass(slots=True)
class Event:
    """An event's levels and fields, collected from all calls that log it."""

    levels: set[str]
    fields: list[str]


@cache
def events() -> dict[str, Event]:
    """Return every event that the program logs, by its name."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "spegel_py").rglob("*.py"))]
    helpers = dict(helper for tree in trees for helper in _helpers(tree))
    found: defaultdict[str, Event] = defaultdict(lambda: Event(set(), []))
    for tree in trees:
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            for name, levels in _logged(call, helpers):
                event = found[name]
                event.levels |= levels
                event.fields += [field for field in _fields(call) if field not in event.fields]
    return dict(found)


def render() -> str:
    """Return the page."""
    rows = []
    for name, event in sorted(events().items(), key=lambda item: item[0].lower()):
        levels = ", ".join(level for level in LEVELS if level in event.levels)
        fields = ", ".join(sorted(event.fields, key=lambda field: field == "…"))
        rows.append(f"| {name} | {levels} | {fields} |\n")
    return _HEAD + "".join(rows)


def _helpers(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Yield each function that logs its own parameter `event`, with the levels that it may use."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
            levels = {
                each.attr
                for each in ast.walk(node)
                if isinstance(each, ast.Attribute)
                and each.attr in LEVELS
                and _is_logger(each.value)
            }
            if "event" in parameters and levels:
                yield node.name, levels


def _logged(call: ast.Call, helpers: dict[str, set[str]]) -> Iterator[tuple[str, set[str]]]:
    """Yield the events of a call with their levels; nothing if the call logs nothing."""
    match call.func:
        case ast.Attribute(value=logger, attr=level) if level in LEVELS and _is_logger(logger):
            levels = {level}
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in helpers:
            levels = helpers[name]
        case _:
            return
    for name in _names(call.args[0]) if call.args else ():
        yield name, levels


def _fields(call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg is None:
            yield "…"
        elif keyword.arg != "exc_info":
            yield f"`{keyword.arg}`"


def _is_logger(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in ("log", "_log")
        case ast.Call(func=ast.Attribute(value=inner)):  # log.bind(…)
            return _is_logger(inner)
    return False


def _names(event: ast.expr) -> list[str]:
    """Return the texts that an expression may have."""
    match event:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.IfExp(body=first, orelse=second):
            return _names(first) + _names(second)
    return []


if __name__ == "__main__":
    PAGE.write_text(render())
