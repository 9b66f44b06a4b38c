"""The progress of the demonstration.

It is a table of nodes and layers on a terminal, lines elsewhere, and nothing with --json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as Drawing

from spegel_py.demo.demo_image import shown
from spegel_py.demo.source_tree import UPSTREAM, SourceTree
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.pull import BlobFinished, BlobInterrupted, BlobOpened, BytesFetched, PullEvent
from spegel_py.pull.progress import short_digest

WIDTH = 8
"""Characters of a bar in a cell."""

_COLORS = ("green", "cyan", "magenta", "yellow", "blue", "red", "bright_green", "bright_cyan")


@dataclass(slots=True)
class BlobProgress:
    """The bytes of a blob that a node has, and the node or nodes that sent them."""

    offset: int = 0
    source: str = ""
    is_done: bool = False


class ProgressTable:
    """The progress of every node with every blob. `node` and `source` are the nodes' names."""

    def __init__(self, *, console: Console, is_silent: bool = False) -> None:
        self._console = console
        self._is_silent = is_silent
        self._blobs: tuple[Child, ...] = ()
        self._cells: dict[tuple[str, Digest], BlobProgress] = {}
        self.tree = SourceTree()
        self._nodes: list[str] = []
        self._pulling: tuple[str, ...] = ()
        self._dead: set[str] = set()

    def __repr__(self) -> str:
        return f"<ProgressTable {self._nodes} {len(self._blobs)} blobs>"

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the table while the block lasts, if this is a terminal."""
        if self._is_silent or not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self.render, console=self._console, refresh_per_second=10):
            yield

    def say(self, text: str) -> None:
        """Print a line about the step that begins."""
        if not self._is_silent:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def expect(
        self, nodes: Sequence[str], blobs: Sequence[Child], *, holders: Sequence[str] = ()
    ) -> None:
        """Show these blobs from now on, which `nodes` will pull and `holders` have already.

        Blobs shown before are no longer shown.
        """
        self._blobs, self._pulling, self.tree = tuple(blobs), tuple(nodes), SourceTree()
        for node in (*holders, *nodes):
            if node not in self._nodes:
                self._nodes.append(node)
            for blob in blobs:
                cell = self._cells.setdefault((node, blob.digest), BlobProgress())
                if node in holders:
                    cell.offset, cell.is_done = blob.size, True

    def record_event(self, node: str, event: PullEvent, source: str | None) -> None:
        """Record an event of the pull of `node`; `source` is the name of the event's peer."""
        match event:
            case BlobOpened(blob, offset, _) | BlobInterrupted(blob, offset, _):
                self._cell(node, blob.digest).offset = offset
                self.record_source(node, blob.digest, source or "")
            case BytesFetched(blob, offset, _, _):
                self._cell(node, blob.digest).offset = offset
            case BlobFinished(blob, _):
                cell = self._cell(node, blob.digest)
                cell.offset, cell.is_done = blob.size, True
                if not self._console.is_terminal:
                    self.say(
                        f"  {node}: {short_digest(blob.digest)} {shown(blob.size)} from "
                        f"{cell.source or '?'}, verified"
                    )

    def record_source(self, node: str, digest: Digest, source: str) -> None:
        """Record the source of a blob's bytes; after a failure, also the source that continued."""
        cell = self._cell(node, digest)
        if source and not cell.source.endswith(source):
            cell.source = f"{cell.source} → {source}" if cell.source and cell.offset else source

    def record_link(self, node: str, digest: Digest, source: str) -> None:
        """Record the source of a blob at a node in the blob's tree.

        Without a terminal, the tree is printed once all nodes are in it, and at each later change.
        """
        blob = next((blob for blob in self._blobs if blob.digest == digest), None)
        if blob is None or not self.tree.place(digest, node, source):
            return
        if not self._console.is_terminal and self.tree.reaches(digest, self._pulling):
            self.say(f"  {short_digest(digest)} {shown(blob.size)}: {self.tree.line(digest)}")

    def mark_killed(self, node: str) -> None:
        """Show that a node was killed."""
        self._dead.add(node)

    def render(self) -> Group:
        """Return the table, and below it the blobs' trees."""
        trees = [self._drawn(blob) for blob in self._blobs if self.tree.sources(blob.digest)]
        return Group(self._table(), *([Columns(trees, padding=(0, 3))] if trees else []))

    def _table(self) -> Table:
        nodes = [
            node
            for node in self._nodes
            if any((node, blob.digest) in self._cells for blob in self._blobs)
        ]
        table = Table(expand=False, header_style="bold")
        table.add_column("layer")
        table.add_column("size", justify="right")
        for node in nodes:
            table.add_column(
                Text(f"{node} ✗ killed", "bold red") if node in self._dead else self._name(node)
            )
        for blob in self._blobs:
            cells = (self._show(self._cell(node, blob.digest), blob) for node in nodes)
            table.add_row(short_digest(blob.digest), shown(blob.size), *cells)
        return table

    def _drawn(self, blob: Child) -> Drawing:
        top = Drawing(Text(f"{short_digest(blob.digest)} {UPSTREAM}"), guide_style="dim")
        self._grow(top, blob, UPSTREAM)
        return top

    def _grow(self, drawing: Drawing, blob: Child, source: str) -> None:
        for node in self.tree.below(blob.digest, source):
            cell = self._cell(node, blob.digest)
            how_far = " ✓" if cell.is_done else f" {_share(cell, blob):.0%}"
            self._grow(
                drawing.add(self._name(node).append(how_far, "not bold default")), blob, node
            )

    def _cell(self, node: str, digest: Digest) -> BlobProgress:
        return self._cells.setdefault((node, digest), BlobProgress())

    def _show(self, cell: BlobProgress, blob: Child) -> Text:
        share = _share(cell, blob)
        full = round(share * WIDTH)
        text = Text("█" * full, "green" if cell.is_done else "yellow")
        text.append("░" * (WIDTH - full), "dim")
        text.append(" ✓" if cell.is_done else f" {share:4.0%}" if cell.source else "")
        if cell.source:
            text.append(" ← ")
            text.append(cell.source, self._color(cell.source.rpartition("→")[2].strip()))
        return text

    def _name(self, node: str) -> Text:
        return Text(node, f"bold {self._color(node)}")

    def _color(self, node: str) -> str:
        return _COLORS[self._nodes.index(node) % len(_COLORS)] if node in self._nodes else "white"


def _share(cell: BlobProgress, blob: Child) -> float:
    return cell.offset / blob.size if blob.size else float(cell.is_done)
