"""What counts as wrong, and how the outcome is shown."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from spegel_py.demo.board import Board
from spegel_py.demo.report import Kill, NodeResult, Outcome, as_json, as_table, problems
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.pull import Event, Fetched, Finished, Opened

NODE = NodeResult(node="node 2", from_peers={"node 1": 60, "node 3": 40}, fetched=100, seconds=2.0, verified=8)
KILL = Kill(
    node="node 1",
    pid=4711,
    layer="sha256:" + "a" * 64,
    size=100,
    client_byte=10,
    at_byte=40,
    continued_from="node 3",
    same_response=True,
    gap_ms=3.5,
    failover_ms=20.0,
)
RIGHT = Outcome(
    image="demo.local/app:1",
    digest="sha256:" + "b" * 64,
    bytes=100,
    blobs=7,
    rate_limit=30.0,
    results=(NODE, replace(NODE, node="node 4")),
    joiner="node 4",
    kill=KILL,
    reverified=32,
    expected=32,
    seconds=9.0,
)


def test_nothing_is_wrong() -> None:
    """An outcome without a fault has no problems."""
    assert problems(RIGHT) == []


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        pytest.param(replace(RIGHT, reverified=31), "1 of 32 digests are missing or wrong", id="digest"),
        pytest.param(replace(RIGHT, results=(replace(NODE, upstream_requests=2),)), "2 requests", id="upstream"),
        pytest.param(replace(RIGHT, results=(replace(NODE, error="nobody has it"),)), "nobody has it", id="failed"),
        pytest.param(replace(RIGHT, results=(replace(NODE, fetched=101),)), "its log counts 100 bytes", id="account"),
        pytest.param(replace(RIGHT, kill=None), "no node was killed", id="no kill"),
        pytest.param(replace(RIGHT, kill=replace(KILL, at_byte=None)), "did not hit the middle", id="too late"),
        pytest.param(replace(RIGHT, kill=replace(KILL, at_byte=0)), "did not hit the middle", id="too early"),
        pytest.param(replace(RIGHT, kill=replace(KILL, same_response=False)), "same response", id="client saw it"),
    ],
)
def test_every_fault_is_named(outcome: Outcome, said: str) -> None:
    """Each thing that must hold is one problem when it does not."""
    [problem] = problems(outcome)
    assert said in problem
    assert as_json(outcome)["ok"] is False


def test_json_holds_everything() -> None:
    """The object is plain JSON with the counts by node, the kill, and whether all was right."""
    found = json.loads(json.dumps(as_json(RIGHT)))
    assert found["ok"] is True
    assert found["nodes"][0]["from_peers"] == {"node 1": 60, "node 3": 40}
    assert found["kill"]["hit_mid_body"] is True
    assert found["kill"]["at_byte"] == 40
    assert found["upstream_requests"] == 0


def test_table_says_who_was_killed() -> None:
    """The table has a row a node; below it stand the kill, its byte and the gap, and what was wrong."""
    out = io.StringIO()
    Console(file=out, width=140).print(as_table(replace(RIGHT, reverified=31)))
    text = out.getvalue()
    assert "node 4 (joined late)" in text
    assert "node 1 (pid 4711) was killed" in text
    assert "40 of 100" in text
    assert "3.5 ms" in text
    assert "WRONG: 1 of 32" in text


BLOB = Child(Digest.of(b"layer"), 1_000_000, "")
PULLED: list[Event] = [Opened(BLOB, 0, "x"), Fetched(BLOB, 500_000, 500_000, "x"), Finished(BLOB, was_here=False)]


def test_board_names_the_source_and_who_took_over() -> None:
    """A cell shows how far a node is and from whom; after a failure, who went on."""
    out = io.StringIO()
    board = Board(console=Console(file=out, width=120))
    board.expect(["node 2"], [BLOB], holders=["node 1"])
    for event in PULLED[:2]:
        board.hear("node 2", event, "node 1")
    board.comes_from("node 2", BLOB.digest, "node 1")
    board.comes_from("node 2", BLOB.digest, "node 3")
    board.killed("node 1")
    Console(file=out, width=120).print(board.render())
    assert "████░░░░  50% ← node 1 → node 3" in out.getvalue()
    assert "node 1 ✗ killed" in out.getvalue()


@pytest.mark.parametrize("is_silent", [False, True])
def test_board_writes_lines_without_a_terminal(is_silent: bool) -> None:
    """Without a terminal a finished blob is a line; with --json there is nothing at all."""
    out = io.StringIO()
    board = Board(console=Console(file=out, width=120), is_silent=is_silent)
    board.expect(["node 2"], [BLOB])
    with board.live():
        for event in PULLED:
            board.hear("node 2", event, "node 1")
    assert out.getvalue() == ("" if is_silent else f"  node 2: {BLOB.digest.hex[:12]} 1.0 MB from node 1, verified\n")
