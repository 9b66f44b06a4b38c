"""The command line and the loop over rows that chaos, crowd and drill share."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.benchmarks.machine import conditions
from tests.faults.report import Outcome
from tests.support.processes import end_in_good_order


class NamedRow(Protocol):
    """A row can be chosen by its name."""

    @property
    def name(self) -> str: ...


RowT = TypeVar("RowT", bound=NamedRow)
ItemT = TypeVar("ItemT")
OutcomeT = TypeVar("OutcomeT", bound=Outcome)

Play = Callable[[ItemT], Awaitable[OutcomeT]]
"""Plays one row and returns its outcome."""

View = Callable[[Mapping[str, Any], Sequence[OutcomeT]], str]
"""Renders the conditions of a run and its outcomes as the text of a file."""


def parser(program: str, description: str, *formats: str) -> argparse.ArgumentParser:
    """Return a parser with `--only`, and an option for each file format that can be written."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    made.add_argument("--only", action="append", metavar="ROW", help="play this row; repeatable")
    for name in formats:
        made.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"write the result as {name}"
        )
    return made


def chosen(rows: Sequence[RowT], names: Collection[str]) -> list[RowT]:
    """Return the rows with these names, all rows without names.

    Raises SystemExit for a name that no row has.
    """
    known = {row.name for row in rows}
    if unknown := set(names) - known:
        raise SystemExit(
            f"no such rows: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}"
        )
    return [row for row in rows if not names or row.name in names]


def run(
    items: Sequence[ItemT],
    start: Callable[[list[OutcomeT]], AbstractAsyncContextManager[Play[ItemT, OutcomeT]]],
    views: Mapping[str, View[OutcomeT]],
    options: argparse.Namespace,
    **given: object,
) -> int:
    """Play rows, print the page, write the files that the options name, and return the exit status.

    The status is 1 if a bound was missed and 130 if the run was interrupted. An interrupted run
    still shows the rows it has played.

    Args:
        items: The rows to play, in order.
        start: Starts a cluster and yields the function that plays a row on it. It is passed the
            list of outcomes, to which it may add outcomes of its own.
        views: The text of each file by format; the page that is printed is `markdown`.
        options: The parsed command line, with a path or None for each format.
        given: Conditions of this run besides those of the machine.
    """
    facts = conditions() | given
    began = time.monotonic()
    outcomes: list[OutcomeT] = []
    is_interrupted = False
    try:
        asyncio.run(_play_all(items, start, outcomes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        is_interrupted = True
    facts["seconds"] = round(time.monotonic() - began)
    for name, view in views.items():
        if file := getattr(options, name):
            file.write_text(view(facts, outcomes))
    print(views["markdown"](facts, outcomes))
    return 130 if is_interrupted else int(any(outcome.missed for outcome in outcomes))


async def _play_all(
    items: Sequence[ItemT],
    start: Callable[[list[OutcomeT]], AbstractAsyncContextManager[Play[ItemT, OutcomeT]]],
    outcomes: list[OutcomeT],
) -> None:
    end_in_good_order()
    async with start(outcomes) as play:
        for item in items:
            outcome = await play(item)
            print(f"{outcome.label}: {outcome.verdict}", file=sys.stderr, flush=True)
            outcomes.append(outcome)


@contextmanager
def recorded(errors: list[str]) -> Iterator[None]:
    """Record an exception as text: a row that cannot be played must not stop the rows after it."""
    try:
        yield
    except Exception as failure:
        traceback.print_exc()
        errors.append(" ".join(f"{type(failure).__name__}: {failure}".split())[-200:])
