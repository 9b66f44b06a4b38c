"""Facts read from the nodes' logs: the bytes from each peer, and the effect of a kill.

Pure, except LogTail.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

LogEvent = Mapping[str, Any]
"""One line of a node's log (`--log-format json`):

`event`, `timestamp`, and the event's own fields.
"""


def parse(lines: Iterable[str]) -> list[LogEvent]:
    """Return the events among the lines; other output of the process is skipped."""
    found: list[LogEvent] = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found


def peer_ids(events: Iterable[LogEvent]) -> set[str]:
    """Return the node's own peer ids, from the addresses it listens on."""
    up = (event for event in events if event["event"] == "libp2p up")
    return {
        address.rpartition("/p2p/")[2]
        for event in up
        for address in event["addresses"]
        if "/p2p/" in address
    }


def is_up(events: Iterable[LogEvent]) -> bool:
    """Return True if the node has come up with all its parts."""
    return any(event["event"] == "node up" for event in events)


def received(events: Iterable[LogEvent]) -> dict[str, int]:
    """Return the body bytes that the node relayed from each peer, by registry address."""
    total: Counter[str] = Counter()
    for event in events:
        if event["event"] == "relay finished" and event["method"] == "GET":
            for attempt in event["attempts"]:
                total[attempt["addr"]] += attempt["bytes"]
    return {address: count for address, count in total.items() if count}


def misses(events: Iterable[LogEvent]) -> int:
    """Return the number of requests answered with 404 for lack of a peer.

    A runtime sends these upstream.
    """
    return sum(
        1 for event in events if event["event"] == "relay missed" and event["outcome"] == "missed"
    )


def sources(events: Iterable[LogEvent]) -> list[tuple[str, str]]:
    """Return (digest, registry address) for each peer that began to send a blob, in order."""
    return [
        (event["digest"], event["addr"])
        for event in events
        if event["event"] in ("relay started", "relay continued") and event["kind"] == "blob"
    ]


def links(events: Iterable[LogEvent]) -> list[tuple[str, str | None]]:
    """Return (digest, peer id) for each source of content that the log names, in order.

    None stands for upstream. The first source of a blob is the coordinator's answer. Later ones
    are the peers that sent it, or continued it after a failure.
    """
    found: list[tuple[str, str | None]] = []
    for event in events:
        if event["event"] == "in flight":
            found.append((event["digest"], event["parent"]))
        elif event["event"] in ("relay started", "relay continued") and event["digest"]:
            found.append((event["digest"], event["peer"]))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """A body that two peers sent one after the other, in one response to the client."""

    from_addr: str
    to_addr: str
    at: int
    """First byte of the content that the other peer sent."""
    total: int
    """Bytes of the whole response."""
    when: float | None
    """Unix time of the other peer's response."""


def takeover(events: Sequence[LogEvent], digest: str, victim: str) -> Takeover | None:
    """Return how another peer continued the body of `digest` after the peer at `victim` failed.

    None if no peer did.
    """
    for event in events:
        if (
            event["event"] != "relay finished"
            or event["digest"] != digest
            or event["outcome"] != "complete"
        ):
            continue
        attempts = [attempt for attempt in event["attempts"] if attempt["bytes"]]
        for broken, other in pairwise(attempts):
            if broken["addr"] == victim and broken["outcome"] != "ok" and other["outcome"] == "ok":
                return Takeover(
                    from_addr=victim,
                    to_addr=other["addr"],
                    at=other["offset"],
                    total=event["total"],
                    when=_continued(events, digest, other["addr"]),
                )
    return None


def _continued(events: Sequence[LogEvent], digest: str, address: str) -> float | None:
    for event in events:
        if event["event"] == "relay continued" and (event["digest"], event["addr"]) == (
            digest,
            address,
        ):
            return datetime.fromisoformat(event["timestamp"]).timestamp()
    return None


def gap(samples: Sequence[tuple[float, int]], *, at: int, killed: float) -> float | None:
    """Return the seconds between the last byte before `at` and the first byte after it.

    `samples` are pairs of time and bytes received by then, as the client read them. Bytes of the
    dead peer may still arrive from the sockets' buffers. So the gap begins at the last
    arrival, or at the kill if that is later.
    """
    before = [when for when, count in samples if count <= at]
    after = [when for when, count in samples if count > at]
    return max(0.0, after[0] - max(killed, before[-1] if before else killed)) if after else None


class LogTail:
    """Reads the lines that were added to a log since the last read; whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def __repr__(self) -> str:
        return f"<LogTail {self._path} offset={self._offset}>"

    def read(self) -> list[LogEvent]:
        """Return the new events."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return parse(whole.decode(errors="replace").splitlines())
