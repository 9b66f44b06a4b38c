"""The problems in a result, and its output."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from spegel_py.demo.demo_report import as_json, as_table
from spegel_py.demo.demo_result import DemoResult, FreshImageResult, NodeKill, NodeResult, problems

NODE = NodeResult(
    node="node 2", from_peers={"node 1": 60, "node 3": 40}, fetched=100, seconds=2.0, verified=8
)
KILL = NodeKill(
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
LAYER = "sha256:" + "c" * 64
ARRIVAL = FreshImageResult(
    image="demo.local/fresh:1",
    digest="sha256:" + "d" * 64,
    bytes=10_000_000,
    blobs=1,
    line_rate=10.0,
    upstream_bytes=10_001_000,
    results=(
        replace(
            NODE, from_peers={}, from_upstream=10_000_000, fetched=10_000_000, upstream_requests=3
        ),
        replace(
            NODE,
            node="node 3",
            from_peers={"node 2": 10_000_000},
            fetched=10_000_000,
            upstream_requests=1,
        ),
    ),
    tree={LAYER: {"node 2": "upstream", "node 3": "node 2"}},
)
RIGHT = DemoResult(
    image="demo.local/app:1",
    digest="sha256:" + "b" * 64,
    bytes=100,
    blobs=7,
    rate_limit=30.0,
    results=(NODE, replace(NODE, node="node 4")),
    joiner="node 4",
    kill=KILL,
    arrival=ARRIVAL,
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
        pytest.param(
            replace(RIGHT, reverified=31), "1 of 32 digests are missing or wrong", id="digest"
        ),
        pytest.param(
            replace(RIGHT, results=(replace(NODE, upstream_requests=2),)),
            "2 requests",
            id="upstream",
        ),
        pytest.param(
            replace(RIGHT, results=(replace(NODE, error="nobody has it"),)),
            "nobody has it",
            id="failed",
        ),
        pytest.param(
            replace(RIGHT, results=(replace(NODE, fetched=101),)),
            "its log counts 100 bytes",
            id="account",
        ),
        pytest.param(replace(RIGHT, kill=None), "no node was killed", id="no kill"),
        pytest.param(
            replace(RIGHT, kill=replace(KILL, at_byte=None)),
            "did not hit the middle",
            id="too late",
        ),
        pytest.param(
            replace(RIGHT, kill=replace(KILL, at_byte=0)), "did not hit the middle", id="too early"
        ),
        pytest.param(
            replace(RIGHT, kill=replace(KILL, same_response=False)),
            "same response",
            id="client saw it",
        ),
        pytest.param(
            replace(RIGHT, arrival=None),
            "nobody pulled the image that no node had",
            id="no arrival",
        ),
        pytest.param(
            replace(
                RIGHT, arrival=replace(ARRIVAL, results=(replace(NODE, error="it broke off"),))
            ),
            "node 2: it broke off",
            id="failed in phase 3",
        ),
    ],
)
def test_every_fault_is_named(outcome: DemoResult, said: str) -> None:
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


def test_what_upstream_sent_is_said_and_no_problem() -> None:
    """The report counts how many times upstream sent the image, and what it would be without
    sharing; more than once is said, and nothing is wrong for it.
    """
    assert "upstream sent 1.00 × the image for 2 nodes, at 10 MB/s" in table(RIGHT)
    assert "would have taken 2.0 s" in table(RIGHT)
    assert "upstream: 10.0 MB" in table(RIGHT)
    twice = replace(RIGHT, arrival=replace(ARRIVAL, upstream_bytes=20_000_000))
    assert problems(twice) == []
    assert "upstream sent 2.00 × the image for 2 nodes (some of it more than once" in table(twice)


def test_json_holds_the_arrival() -> None:
    """The JSON of the new image has its copies, its nodes and the source of each blob."""
    found = json.loads(json.dumps(as_json(RIGHT)))["arrival"]
    assert (found["upstream_bytes"], found["copies"]) == (10_001_000, 1.0)
    assert [each["from_upstream"] for each in found["nodes"]] == [10_000_000, 0]
    assert found["tree"] == {LAYER: {"node 2": "upstream", "node 3": "node 2"}}
    assert as_json(replace(RIGHT, arrival=None))["arrival"] is None


def table(outcome: DemoResult) -> str:
    out = io.StringIO()
    Console(file=out, width=400).print(as_table(outcome))
    return out.getvalue()


def test_table_says_who_was_killed() -> None:
    """The table has a row a node; below it stand the kill, its byte and the gap, and what was
    wrong.
    """
    text = table(replace(RIGHT, reverified=31))
    assert "node 4 (joined late)" in text
    assert "node 1 (pid 4711) was killed" in text
    assert "40 of 100" in text
    assert "3.5 ms" in text
    assert "WRONG: 1 of 32" in text
