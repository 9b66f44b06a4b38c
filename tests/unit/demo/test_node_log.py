"""Facts from the nodes' logs, from lines as nodes write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spegel_py.demo import node_log
from spegel_py.demo.node_log import LogTail, Takeover

A, B, C = "127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003"
LAYER = "sha256:" + "a" * 64


def attempt(addr: str, offset: int, count: int, outcome: str = "ok") -> dict[str, Any]:
    return {
        "peer": "12D3KooW",
        "addr": addr,
        "offset": offset,
        "bytes": count,
        "ms": 1.0,
        "outcome": outcome,
    }


def finished(
    *attempts: dict[str, Any], method: str = "GET", outcome: str = "complete"
) -> dict[str, Any]:
    total = sum(one["bytes"] for one in attempts)
    return {
        "event": "relay finished",
        "digest": LAYER,
        "name": None,
        "kind": "blob",
        "method": method,
        "total": total,
        "outcome": outcome,
        "attempts": list(attempts),
    }


def continued(addr: str, offset: int) -> dict[str, Any]:
    return {
        "event": "relay continued",
        "digest": LAYER,
        "kind": "blob",
        "addr": addr,
        "offset": offset,
        "timestamp": "1970-01-01T00:00:10.250000Z",
    }


def test_lines_that_are_no_events_are_passed_by() -> None:
    """A traceback, half a line or another program's JSON is no event."""
    lines = [
        "Traceback",
        '{"event": "node up"',
        '{"event": "node up"}',
        "[1]",
        '{"event": 1}',
        "7",
        "",
    ]
    assert node_log.parse(lines) == [{"event": "node up"}]


def test_bytes_are_counted_by_peer() -> None:
    """Each attempt of a finished relay counts for its peer, with any outcome; HEAD has no bytes."""
    events = [
        finished(attempt(A, 0, 40, "unreachable"), attempt(B, 40, 60)),
        finished(attempt(C, 0, 0, "not_found"), attempt(A, 0, 7)),
        finished(attempt(A, 0, 9), method="HEAD"),
        finished(attempt(B, 0, 5, "unreachable"), outcome="cut"),
        {"event": "peer failed", "addr": C},
    ]
    assert node_log.received(events) == {A: 47, B: 65}


def test_only_answers_for_want_of_a_peer_are_misses() -> None:
    """A client that left is no request that went upstream."""
    missed = {"event": "relay missed", "outcome": "missed"}
    assert node_log.misses([missed, missed | {"outcome": "client_gone"}, missed, finished()]) == 2


def test_own_peer_ids() -> None:
    """A node's ids are in the addresses that it listens on."""
    up = {
        "event": "libp2p up",
        "addresses": ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWA", "/ip4/10.0.0.1/tcp/1"],
    }
    assert node_log.peer_ids([up, {"event": "node up"}]) == {"12D3KooWA"}


def test_sources_in_order() -> None:
    """The sender of a blob is logged at its start, and again when another peer continues."""
    started = {"event": "relay started", "digest": LAYER, "kind": "blob", "addr": A}
    manifest = {"event": "relay started", "digest": LAYER, "kind": "manifest", "addr": C}
    assert node_log.sources([manifest, started, continued(B, 40)]) == [(LAYER, A), (LAYER, B)]


def test_links_in_order() -> None:
    """A node's source is the coordinator's answer, then the peer of each relay."""
    leads: dict[str, Any] = {"event": "in flight", "digest": LAYER, "role": "lead", "parent": None}
    follows = leads | {"role": "follow", "parent": "12D3KooWB"}
    started: dict[str, Any] = {
        "event": "relay started",
        "digest": LAYER,
        "kind": "blob",
        "peer": "12D3KooWA",
    }
    by_tag = started | {"digest": None, "kind": "manifest"}
    went_on = started | {"event": "relay continued", "peer": "12D3KooWC"}
    events = [
        leads,
        by_tag,
        follows,
        started,
        went_on,
        finished(),
        {"event": "flight ended", "digest": LAYER},
    ]
    assert node_log.links(events) == [
        (LAYER, peer) for peer in (None, "12D3KooWB", "12D3KooWA", "12D3KooWC")
    ]


def test_a_takeover_is_found() -> None:
    """The mirror's log has the byte at which the dead peer stopped, the next peer, and the time."""
    events = [continued(B, 40), finished(attempt(A, 0, 40, "unreachable"), attempt(B, 40, 60))]
    found = Takeover(from_addr=A, to_addr=B, at=40, total=100, when=10.25)
    assert node_log.takeover(events, LAYER, A) == found


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(finished(attempt(A, 0, 100)), id="all was sent before it died"),
        pytest.param(
            finished(attempt(A, 0, 0, "unreachable"), attempt(B, 0, 100)),
            id="it died before its first byte",
        ),
        pytest.param(
            finished(attempt(A, 0, 40, "unreachable"), outcome="cut"), id="nobody went on"
        ),
        pytest.param(
            finished(attempt(C, 0, 40, "unreachable"), attempt(B, 40, 60)), id="another one died"
        ),
        pytest.param(
            finished(attempt(A, 0, 40, "unreachable"), attempt(B, 40, 9, "stalled")),
            id="not to its end",
        ),
    ],
)
def test_what_is_no_takeover(event: dict[str, Any]) -> None:
    """A body counts only if the dead peer began it and another peer finished it."""
    assert node_log.takeover([event], LAYER, A) is None


@pytest.mark.parametrize(
    ("samples", "killed", "seconds"),
    [
        pytest.param(
            [(1.0, 10), (1.1, 40), (1.5, 60)], 1.05, 0.4, id="from the dead peer's last byte"
        ),
        pytest.param([(1.0, 40), (1.5, 60)], 1.2, 0.3, id="from the kill, if that is later"),
        pytest.param([(1.0, 10), (1.4, 60)], 1.05, 0.35, id="one piece with bytes of both"),
        pytest.param([(1.0, 10), (1.4, 60)], 2.0, 0.0, id="never negative"),
        pytest.param([(1.0, 10), (1.4, 40)], 1.0, None, id="nothing came after"),
    ],
)
def test_gap(samples: list[tuple[float, int]], killed: float, seconds: float | None) -> None:
    """The gap is the time for which the client got nothing, and no more than that."""
    assert node_log.gap(samples, at=40, killed=killed) == (
        seconds if seconds is None else pytest.approx(seconds)
    )


def test_tail_gives_each_event_once(tmp_path: Path) -> None:
    """A line that is still being written is read when it is whole."""
    log = tmp_path / "node.log"
    log.write_text(json.dumps({"event": "one"}) + "\n" + '{"event": ')
    tail = LogTail(log)
    assert tail.read() == [{"event": "one"}]
    assert tail.read() == []
    with log.open("a") as file:
        file.write('"two"}\n')
    assert tail.read() == [{"event": "two"}]
