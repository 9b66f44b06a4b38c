"""The display of a pre-heat job: a bar for each node on a terminal, else a line for each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from spegel_py.commands.output import short_id, shortened, size

Show = Callable[[Mapping[str, Any]], None]


class PreheatBars:
    """Shows a job, as the control socket describes it, with bars on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            expand=True,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._told: set[str] = set()

    def __enter__(self) -> Show:
        self._progress.start()
        return self.show

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, job: Mapping[str, Any]) -> None:
        """Show the present state of the job."""
        for image in job["images"]:
            if image["why"] and image["image"] not in self._told:
                self._told.add(image["image"])
                self._progress.console.print(escape(_failure(image)), highlight=False)
        for image, node, one in _nodes(job):
            key = image, node
            title = _title(job, image, node)
            if key not in self._tasks:
                self._tasks[key] = self._progress.add_task(escape(title), total=None, state="")
            task = self._tasks[key]
            text = one["state"] + (f": {one['why']}" if one["why"] else "")
            self._progress.update(
                task, completed=one["done"], total=one["total"] or None, state=escape(text)
            )


class PreheatLines:
    """Shows a job with one line for each change of a node's state."""

    def __init__(self, line: Callable[[str], None]) -> None:
        self._line = line
        self._shown: dict[tuple[str, str], tuple[str, str]] = {}

    def __enter__(self) -> Show:
        return self.show

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def show(self, job: Mapping[str, Any]) -> None:
        """Print the changes since the last call."""
        for image in job["images"]:
            if image["why"] and self._is_new(image["image"], "", (image["why"], "")):
                self._line(_failure(image))
        for image, node, one in _nodes(job):
            if not self._is_new(image, node, (one["state"], one["why"])):
                continue
            amount = f", {size(one['done'])} of {size(one['total'])}" if one["total"] else ""
            why = f", {one['why']}: {shortened(one['error'])}" if one["why"] else ""
            self._line(f"{_title(job, image, node)}: {one['state']}{amount}{why}")

    def _is_new(self, image: str, node: str, state: tuple[str, str]) -> bool:
        before = self._shown.get((image, node))
        self._shown[image, node] = state
        return before != state


def _nodes(job: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the image, the node and the progress of every image on every node."""
    for image in job["images"]:
        for node, one in image["nodes"].items():
            yield image["image"], node, one


def _title(job: Mapping[str, Any], image: str, node: str) -> str:
    where = job["nodes"].get(node) or short_id(node)
    name = image.rpartition("/")[2] if len(job["images"]) > 1 else ""
    return f"{where} {name}".strip()


def _failure(image: Mapping[str, Any]) -> str:
    return f"{image['image']}: {image['why']}: {shortened(image['error'])}"
