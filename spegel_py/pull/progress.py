"""The display of a pull: a bar for each blob on a terminal, else a line for each finished blob."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.pull.pull_events import (
    BlobFinished,
    BlobInterrupted,
    BlobOpened,
    BytesFetched,
    OnProgress,
    PullEvent,
    PullPlanned,
)
from spegel_py.tools.human import plural

PEER_LENGTH = 8
"""Characters of a peer id that are shown: its end, because ids of all nodes begin alike."""


@contextmanager
def show_progress(console: Console) -> Iterator[OnProgress]:
    """Show a pull's events on `console` while the block lasts."""
    if not console.is_terminal:
        yield _Lines(console).show
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[source]}"),
    )
    with Progress(*columns, console=console, expand=True, refresh_per_second=10) as progress:
        yield _Bars(progress).show


def short_digest(digest: Digest) -> str:
    """Return the first digits of a digest, enough to tell digests apart on a screen."""
    return digest.hex[:12]


def source_text(peer: str | None, *, is_upstream: bool = False) -> str:
    """Return the text for the source of bytes. A mirror names no peer for its own content."""
    if is_upstream:
        return "from upstream"
    return f"from …{peer[-PEER_LENGTH:]}" if peer else "from the mirror"


class _Bars:
    """Turns events into the tasks of a rich Progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[Child, TaskID] = {}

    def show(self, event: PullEvent) -> None:
        match event:
            case PullPlanned(root, _, blobs):
                title = f"{short_digest(root.digest)}: {plural(len(blobs), 'blob')}"
                self._progress.console.print(title, highlight=False)
                for blob in blobs:
                    self._tasks[blob] = self._progress.add_task(
                        short_digest(blob.digest),
                        total=blob.size,
                        start=False,
                        source="waiting",
                    )
            case BlobOpened(blob, offset, peer, is_upstream):
                self._progress.start_task(self._tasks[blob])
                where = source_text(peer, is_upstream=is_upstream)
                self._progress.update(self._tasks[blob], completed=offset, source=escape(where))
            case BytesFetched(blob, offset):
                self._progress.update(self._tasks[blob], completed=offset)
            case BlobInterrupted(blob, offset, error):
                self._progress.update(
                    self._tasks[blob], completed=offset, source=escape(f"again: {error[:60]}")
                )
            case BlobFinished(blob, was_here):
                self._progress.start_task(self._tasks[blob])
                end = "was here" if was_here else "verified"
                self._progress.update(self._tasks[blob], completed=blob.size, source=end)


class _Lines:
    """Prints one line for each blob that finishes or breaks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._sources: dict[Child, str] = {}

    def show(self, event: PullEvent) -> None:
        match event:
            case PullPlanned(root, _, blobs):
                size = sum(blob.size for blob in blobs)
                self._line(f"{root.digest}: {plural(len(blobs), 'blob')}, {size} bytes")
            case BlobOpened(blob, offset, peer, is_upstream):
                self._sources[blob] = source_text(peer, is_upstream=is_upstream)
                if offset:
                    self._line(
                        f"{short_digest(blob.digest)}: going on at byte {offset} of {blob.size}"
                    )
            case BlobInterrupted(blob, offset, error):
                self._line(
                    f"{short_digest(blob.digest)}: "
                    f"broke off at byte {offset} of {blob.size}: {error}"
                )
            case BlobFinished(blob, was_here):
                how = "was here" if was_here else self._sources.get(blob, source_text(None))
                self._line(f"{short_digest(blob.digest)}: {blob.size} bytes, {how}, verified")
            case BytesFetched():
                pass

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
