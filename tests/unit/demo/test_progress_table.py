"""The display of progress: a table and trees on a terminal, lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from spegel_py.demo.progress_table import ProgressTable
from spegel_py.demo.source_tree import UPSTREAM
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.pull import BlobFinished, BlobOpened, BytesFetched, PullEvent

BLOB = Child(Digest.of(b"layer"), 1_000_000, "")
PULLED: list[PullEvent] = [
    BlobOpened(BLOB, 0, "x"),
    BytesFetched(BLOB, 500_000, 500_000, "x"),
    BlobFinished(BLOB, was_here=False),
]


def test_board_names_the_source_and_who_took_over() -> None:
    """A cell shows a node's progress and source; after a failure, also the next source."""
    out = io.StringIO()
    board = ProgressTable(console=Console(file=out, width=120))
    board.expect(["node 2"], [BLOB], holders=["node 1"])
    for event in PULLED[:2]:
        board.record_event("node 2", event, "node 1")
    board.record_source("node 2", BLOB.digest, "node 1")
    board.record_source("node 2", BLOB.digest, "node 3")
    board.mark_killed("node 1")
    Console(file=out, width=120).print(board.render())
    assert "████░░░░  50% ← node 1 → node 3" in out.getvalue()
    assert "node 1 ✗ killed" in out.getvalue()


@pytest.mark.parametrize("is_silent", [False, True])
def test_board_writes_lines_without_a_terminal(is_silent: bool) -> None:
    """Without a terminal a finished blob is a line; with --json there is nothing at all."""
    out = io.StringIO()
    board = ProgressTable(console=Console(file=out, width=120), is_silent=is_silent)
    board.expect(["node 2"], [BLOB])
    with board.live():
        for event in PULLED:
            board.record_event("node 2", event, "node 1")
    assert out.getvalue() == (
        "" if is_silent else f"  node 2: {BLOB.digest.hex[:12]} 1.0 MB from node 1, verified\n"
    )


OTHER = Child(Digest.of(b"another image's layer"), 2_000_000, "")


def test_board_draws_the_tree_as_it_grows() -> None:
    """Below the table is a tree of sources per blob, with upstream on top and each node's progress.

    A node without this image has no column.
    """
    out = io.StringIO()
    board = ProgressTable(console=Console(file=out, width=120, force_terminal=True))
    board.expect(["node 2"], [OTHER], holders=["node 1"])
    board.expect(["node 2", "node 3"], [BLOB])
    board.record_link("node 2", BLOB.digest, UPSTREAM)
    board.record_event(
        "node 2", BytesFetched(BLOB, 500_000, 500_000, None, is_upstream=True), UPSTREAM
    )
    board.record_link("node 3", BLOB.digest, "node 2")
    shown = io.StringIO()
    Console(file=shown, width=120).print(board.render())
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[-3:] == [f"{BLOB.digest.hex[:12]} upstream", "└── node 2 50%", "    └── node 3 0%"]
    assert "node 1" not in shown.getvalue()
    assert out.getvalue() == ""


def test_board_tells_the_tree_in_lines() -> None:
    """Without a terminal a blob's tree is one line once all nodes are in it, and one more when it
    changes.
    """
    out = io.StringIO()
    board = ProgressTable(console=Console(file=out, width=120))
    board.expect(["node 1", "node 2", "node 3"], [BLOB])
    for node, source in (
        ("node 3", "node 2"),
        ("node 1", UPSTREAM),
        ("node 2", "node 1"),
        ("node 2", "node 1"),
    ):
        board.record_link(node, BLOB.digest, source)
    board.record_link("node 1", OTHER.digest, UPSTREAM)
    board.record_link("node 2", BLOB.digest, UPSTREAM)
    blob = f"  {BLOB.digest.hex[:12]} 1.0 MB: "
    assert out.getvalue().splitlines() == [
        blob + "upstream → node 1 → node 2 → node 3",
        blob + "upstream → (node 1, node 2 → node 3)",
    ]
