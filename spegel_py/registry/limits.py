"""How many transfers are served to peers at a time: one peer with many layers must not shut out the others."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from spegel_py.errors import Busy
from spegel_py.registry.metrics import ServerMetrics, TransferLimit

log = structlog.get_logger(__name__)

_TRANSFERS: Mapping[TransferLimit, str] = {
    TransferLimit.OVERALL: "transfers to peers",
    TransferLimit.PEER: "transfers to you",
    TransferLimit.IN_FLIGHT: "transfers of what is still being pulled",
}

LEAST_RATE = 64 * 1024
"""Bytes per second that a client has to read while others are refused for want of a slot. containerd
on a slow disk, with several layers at a time, reads ten times as much."""

PATIENCE = 10.0
"""Seconds of waiting for a client over which its rate is measured. Time in which the client waits for
this node, for its disk, a peer or `--max-upload-rate`, does not count."""

PATIENCE_WITH_NODES = 20.0
"""The same for another node: it hangs up its own slow client first, and so does not hold the broken
transfer against this node."""

CONTENDED = 30.0
"""Seconds after a refusal for which slow clients are looked for."""

LOOK = 2.0
"""Seconds between two looks at the clients meanwhile."""


_Scope = tuple[str, str]
"""Where there is no room: the limit that was reached, and the address for the limit of one."""

_AT_A_PEER: _Scope = ("at a peer", "")


class Reader(Protocol):
    """A client that a body is sent to."""

    @property
    def waited(self) -> float:
        """Seconds for which the client was waited for so far."""
        ...

    @property
    def taken(self) -> int:
        """Bytes of the body that have reached the client."""
        ...

    def drop(self) -> None:
        """Hang up."""
        ...


@dataclass(slots=True, eq=False)
class Slot:
    """A transfer under way to an address; a relayed one uses a slot of a peer as well.

    `patience` is for how many seconds of waiting the client may hardly read. Only a counted one takes
    room from others here. `taken` and `waited` are what was seen of the reader when it was judged last.
    """

    address: str
    patience: float
    grows: bool = False
    relays: bool = False
    is_counted: bool = True
    reader: Reader | None = None
    taken: int = 0
    waited: float = 0.0

    def hardly_reads(self) -> bool:
        """Return True if the client read too little over the seconds for which it was waited for lately."""
        if self.reader is None or (waited := self.reader.waited) - self.waited < self.patience:
            return False
        count, seconds = self.reader.taken - self.taken, waited - self.waited
        self.taken, self.waited = self.taken + count, waited
        return count < LEAST_RATE * seconds


class Limits:
    """Admits transfers to other nodes, at most `per_peer` to one address and `overall` to all; 0 is no limit.

    Who is refused asks another peer, which is better than to share a link with everybody else. Blobs that still grow
    here take as long as this node's own pull of them; they have `growing` slots of their own, so that they leave room
    for what is whole.

    A slot is for a client that reads. Where somebody was refused, here or by a peer, clients that
    hardly read are hung up.
    """

    def __init__(
        self,
        *,
        per_peer: int,
        overall: int,
        growing: int = 0,
        metrics: ServerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_peer = per_peer
        self._overall = overall
        self._most_growing = growing
        self._growing = 0
        self._metrics = metrics
        self._clock = clock
        self._under_way: Counter[str] = Counter()
        self._relayed: Counter[str] = Counter()
        self._slots: dict[Slot, None] = {}
        self._contended: dict[
            _Scope, float
        ] = {}  # where somebody was refused, until when it matters
        self._look: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Limits {self._under_way.total()} transfers to {len(self._under_way)} peers>"

    @property
    def under_way(self) -> Mapping[str, int]:
        """How many transfers go to which address now."""
        return self._under_way

    @contextmanager
    def admit(
        self, address: str, *, grows: bool = False, relays: bool = False, is_node: bool = True
    ) -> Iterator[Slot]:
        """Count a transfer to a peer while the context is open. Raises Busy where there is no room for it.

        A transfer that `relays` takes a slot at a peer too. Of those one address gets half of what
        it may have here, so that it cannot take all slots that this node has at a peer.
        """
        if grows:
            self._check(TransferLimit.IN_FLIGHT, self._growing, self._most_growing)
        else:
            self._check(
                TransferLimit.OVERALL, self._under_way.total() - self._growing, self._overall
            )
            self._check(TransferLimit.PEER, self._under_way[address], self._per_peer, address)
            if relays:
                self._check(
                    TransferLimit.PEER, self._relayed[address], (self._per_peer + 1) // 2, address
                )
        slot = Slot(address, PATIENCE_WITH_NODES if is_node else PATIENCE, grows, relays)
        self._count(slot, 1)
        self._slots[slot] = None
        try:
            yield slot
        finally:
            del self._slots[slot]
            self._count(slot, -1)

    @contextmanager
    def relay(self, address: str) -> Iterator[Slot]:
        """Watch a transfer from a peer to this node's own runtime, which is not limited, while the context is open."""
        slot = Slot(address, PATIENCE, relays=True, is_counted=False)
        self._slots[slot] = None
        try:
            yield slot
        finally:
            del self._slots[slot]

    def refused_by_a_peer(self) -> None:
        """Note that a peer had no slot for this node: clients that hardly read what is relayed may hold them."""
        self._contend(_AT_A_PEER)

    def _check(self, limit: TransferLimit, under_way: int, most: int, address: str = "") -> None:
        if most and under_way >= most:
            self._metrics.refused(limit)
            self._contend((limit, address))
            raise Busy(f"{most} {_TRANSFERS[limit]} are under way")

    def _count(self, slot: Slot, change: int) -> None:
        self._growing += change if slot.grows else 0
        for counter in (self._under_way, self._relayed) if slot.relays else (self._under_way,):
            counter[slot.address] += change
            if not counter[slot.address]:
                del counter[slot.address]
        self._metrics.transfers.set(self._under_way.total())

    # Clients that hold slots

    def hang_up_slow(self) -> None:
        """Hang up the clients that hardly read, of those whose slots others were refused of late."""
        now = self._clock()
        self._contended = {scope: until for scope, until in self._contended.items() if until > now}
        for slot in list(self._slots):
            if slot.reader is not None and self._is_contended(slot) and slot.hardly_reads():
                log.info("slow client hung up", client=slot.address, taken=slot.taken)
                slot.reader.drop()

    def _is_contended(self, slot: Slot) -> bool:
        if slot.relays and _AT_A_PEER in self._contended:
            return True
        if slot.grows or not slot.is_counted:
            return slot.is_counted and (TransferLimit.IN_FLIGHT, "") in self._contended
        return (TransferLimit.OVERALL, "") in self._contended or (
            TransferLimit.PEER,
            slot.address,
        ) in self._contended

    def _contend(self, scope: _Scope) -> None:
        self._contended[scope] = self._clock() + CONTENDED
        if self._look is None:
            self.hang_up_slow()
            self._look_again()

    def _look_again(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # nothing is sent without one
            return
        self._look = loop.call_later(LOOK, self._look_once_more)

    def _look_once_more(self) -> None:
        self._look = None
        self.hang_up_slow()
        if self._contended and self._slots:
            self._look_again()
