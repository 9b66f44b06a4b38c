"""What the nodes' logs say: who gave whom how many bytes, and what happened when one was killed. Pure but for Tail."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]
"""One line of a node's log (`--log-format json`): `event`, `timestamp`, and the event's own fields."""


def parse(lines: Iterable[str]) -> list[Event]:
    """Return the events among the lines; anything else that a process writes is passed by."""
    found: list[Event] = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found


def peer_ids(events: Iterable[Event]) -> set[str]:
    """Return the node's own peer ids, from the addresses it listens on."""
    up = (event for event in events if event["event"] == "libp2p up")
    return {
        address.rpartition("/p2p/")[2]
        for event in up
        for address in event["addresses"]
        if "/p2p/" in address
    }


def is_up(events: Iterable[Event]) -> bool:
    """Say whether the node has come up with all its parts."""
    return any(event["event"] == "node up" for event in events)


def received(events: Iterable[Event]) -> dict[str, int]:
    """Return how many body bytes the node passed on from each peer, by the peer's registry address."""
    total: Counter[str] = Counter()
    for event in events:
        if event["event"] == "relay finished" and event["method"] == "GET":
            for attempt in event["attempts"]:
                total[attempt["addr"]] += attempt["bytes"]
    return {address: count for address, count in total.items() if count}


def misses(events: Iterable[Event]) -> int:
    """Return how many requests the node answered with 404 for want of a peer: a runtime takes these upstream."""
    return sum(
        1 for event in events if event["event"] == "relay missed" and event["outcome"] == "missed"
    )


def sources(events: Iterable[Event]) -> list[tuple[str, str]]:
    """Return (digest, registry address) each time that a blob's bytes began to come from a peer, in order."""
    return [
        (event["digest"], event["addr"])
        for event in events
        if event["event"] in ("relay started", "relay continued") and event["kind"] == "blob"
    ]


def links(events: Iterable[Event]) -> list[tuple[str, str | None]]:
    """Return (digest, peer id) each time that it was said whom the node takes content from, in order; None is upstream.

    That is what its coordinator says at first, and who gives it then, or goes on where another one broke off.
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
    """A body that one peer began and another finished, within one answer to the client."""

    from_addr: str
    to_addr: str
    at: int
    """The byte of the content from which on the other peer sent."""
    total: int
    """Bytes of the whole answer."""
    when: float | None
    """Unix time at which the other peer's answer was there."""


def takeover(events: Sequence[Event], digest: str, victim: str) -> Takeover | None:
    """Return how the body of `digest` went on where the peer at `victim` broke off; None if it did not."""
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


def _continued(events: Sequence[Event], digest: str, address: str) -> float | None:
    for event in events:
        if event["event"] == "relay continued" and (event["digest"], event["addr"]) == (
            digest,
            address,
        ):
            return datetime.fromisoformat(event["timestamp"]).timestamp()
    return None


def gap(samples: Sequence[tuple[float, int]], *, at: int, killed: float) -> float | None:
    """Return for how many seconds the client got nothing between the last byte before `at` and the first one after it.

    `samples` are (time, bytes there by then) as the client read them. What the dead peer's bytes on their way still
    gave is no gap, so it begins when the last of them came, or at the kill, whichever is later.
    """
    before = [when for when, count in samples if count <= at]
    after = [when for when, count in samples if count > at]
    return max(0.0, after[0] - max(killed, before[-1] if before else killed)) if after else None


class Tail:
    """Reads what was added to a log since it was last asked, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def __repr__(self) -> str:
        return f"<Tail {self._path} offset={self._offset}>"

    def read(self) -> list[Event]:
        """Return the new events."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return parse(whole.decode(errors="replace").splitlines())
