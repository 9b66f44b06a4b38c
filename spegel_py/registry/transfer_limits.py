"""The limits on transfers to other nodes: one peer with many layers must not shut out the rest."""

from __future__ import annotations

import asyncio
import math
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
"""Bytes per second that a client has to read while others are refused because no slot is free.
containerd on a slow disk, with several layers at a time, reads ten times as much."""

PATIENCE = 10.0
"""Seconds of waiting for a client over which its rate is measured. Time in which the client waits
for this node (its disk, a peer or `--max-upload-rate`) does not count."""

PATIENCE_WITH_NODES = 20.0
"""The same for another node. That node disconnects its own slow client first, and so does not
count the broken transfer as a failure of this node."""

CONTENDED = 30.0
"""Seconds after a refusal for which slow clients are disconnected."""

LINGER = 4.0
"""Seconds for which a runtime is still busy after its last request: it asks for layers after the
manifests, and unpacks them after the last one."""

CHECK_INTERVAL = 2.0
"""Seconds between two checks of the clients in that time."""

_Scope = tuple[str, str]
"""The limit that was reached, and the client if the limit is for one client."""

_AT_A_PEER: _Scope = ("at a peer", "")


class BodyReader(Protocol):
    """The client that reads a body."""

    @property
    def waited(self) -> float:
        """The seconds of waiting for the client so far."""
        ...

    @property
    def taken(self) -> int:
        """Bytes of the body that have reached the client."""
        ...

    def drop(self) -> None:
        """Disconnect the client."""
        ...


@dataclass(slots=True, eq=False)
class TransferSlot:
    """A transfer to a client.

    Args:
        address: the address of the client.
        client: the id of a proven peer, else the address.
        patience: seconds of waiting for the client over which its rate is measured.
        grows: True if the content is still being downloaded here.
        relays: True if the transfer also uses a slot of a peer.
        is_counted: True if the transfer counts towards the limits.
        is_background: True if the transfer lets others go first.
        reader: the client, once the body is sent.
        taken: bytes that the client had read at the last check.
        waited: seconds of waiting for the client at the last check.
    """

    address: str
    client: str
    patience: float
    grows: bool = False
    relays: bool = False
    is_counted: bool = True
    is_background: bool = False
    reader: BodyReader | None = None
    taken: int = 0
    waited: float = 0.0

    @property
    def is_stranger(self) -> bool:
        """True if the transfer counts, and its client is no proven peer."""
        return self.is_counted and not self.grows and self.client == self.address

    def is_slow(self) -> bool:
        """Return True if the client read too little since the last check."""
        if self.reader is None or (waited := self.reader.waited) - self.waited < self.patience:
            return False
        count, seconds = self.reader.taken - self.taken, waited - self.waited
        self.taken, self.waited = self.taken + count, waited
        return count < LEAST_RATE * seconds


class TransferLimits:
    """Admits transfers to other nodes: `per_peer` to one client, `overall` in all; 0 is no limit.

    A client is a peer that proved its id, or an address. Once proven peers take content here, all
    other clients together get only half of the slots: so strangers cannot shut out the peers.

    A refused node asks another peer, which is better than sharing a link with all other nodes. A
    blob that is still being downloaded here takes as long as this node's own pull. Such transfers
    have `growing` slots of their own, so that they leave slots for complete content.

    A slot is for a client that reads. After a refusal, here or by a peer, clients that read too
    slowly are disconnected.
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
        self._by_client: Counter[str] = Counter()
        self._has_proven = False
        self._relayed: Counter[str] = Counter()
        self._slots: dict[TransferSlot, None] = {}
        # For each limit with a refusal: until when slow clients are disconnected.
        self._contended: dict[_Scope, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._foreground_until = -math.inf

    def __repr__(self) -> str:
        return f"<Limits {self._under_way.total()} transfers to {len(self._under_way)} peers>"

    @property
    def under_way(self) -> Mapping[str, int]:
        """The number of transfers to each address now."""
        return self._under_way

    @property
    def has_foreground(self) -> bool:
        """True while a runtime pulls, here or at another node."""
        return self._clock() < self._foreground_until or any(
            not slot.is_background for slot in self._slots
        )

    def record_foreground(self) -> None:
        """Record a request that background transfers give way to."""
        self._foreground_until = self._clock() + LINGER

    @contextmanager
    def admit(
        self,
        address: str,
        *,
        grows: bool = False,
        relays: bool = False,
        is_node: bool = True,
        is_background: bool = False,
        proven: str = "",
    ) -> Iterator[TransferSlot]:
        """Count a transfer to a peer while the context is open. Raises Busy if no slot is free.

        `proven` is the id of a peer that proved it, empty for another client.

        A transfer that `relays` takes a slot at a peer too. One address gets only half as many of
        these transfers, so that it cannot take all slots at a peer. Background transfers together
        get only half of all slots.
        """
        client = proven or address
        self._has_proven = self._has_proven or bool(proven)
        if grows:
            self._check(TransferLimit.IN_FLIGHT, self._growing, self._most_growing)
        else:
            self._check(
                TransferLimit.OVERALL, self._under_way.total() - self._growing, self._overall
            )
            self._check(TransferLimit.PEER, self._by_client[client], self._per_peer, client)
            if self._has_proven and not proven:
                strangers = sum(slot.is_stranger for slot in self._slots)
                self._check(TransferLimit.OVERALL, strangers, (self._overall + 1) // 2)
            if is_background:
                background = sum(slot.is_background for slot in self._slots)
                self._check(TransferLimit.OVERALL, background, (self._overall + 1) // 2)
            if relays:
                self._check(
                    TransferLimit.PEER, self._relayed[client], (self._per_peer + 1) // 2, client
                )
        patience = PATIENCE_WITH_NODES if is_node else PATIENCE
        slot = TransferSlot(address, client, patience, grows, relays, is_background=is_background)
        self._count(slot, 1)
        self._slots[slot] = None
        try:
            yield slot
        finally:
            del self._slots[slot]
            self._count(slot, -1)

    @contextmanager
    def relay(self, address: str, *, is_background: bool = False) -> Iterator[TransferSlot]:
        """Track a transfer from a peer to this node's own runtime, which is not limited."""
        slot = TransferSlot(
            address, address, PATIENCE, relays=True, is_counted=False, is_background=is_background
        )
        self._slots[slot] = None
        try:
            yield slot
        finally:
            del self._slots[slot]

    def refused_by_a_peer(self) -> None:
        """Record that a peer had no slot for this node: slow clients may hold the slots."""
        self._contend(_AT_A_PEER)

    def _check(self, limit: TransferLimit, under_way: int, most: int, client: str = "") -> None:
        if most and under_way >= most:
            self._metrics.refused(limit)
            self._contend((limit, client))
            raise Busy(f"{most} {_TRANSFERS[limit]} are under way")

    def _count(self, slot: TransferSlot, change: int) -> None:
        self._growing += change if slot.grows else 0
        counted = [(self._under_way, slot.address), (self._by_client, slot.client)]
        if slot.relays:
            counted.append((self._relayed, slot.client))
        for counter, name in counted:
            counter[name] += change
            if not counter[name]:
                del counter[name]
        self._metrics.transfers.set(self._under_way.total())

    # Clients that hold slots

    def hang_up_slow(self) -> None:
        """Disconnect slow clients that hold a slot which was refused to another client lately."""
        now = self._clock()
        self._contended = {scope: until for scope, until in self._contended.items() if until > now}
        for slot in list(self._slots):
            if slot.reader is not None and self._is_contended(slot) and slot.is_slow():
                log.info("slow client hung up", client=slot.address, taken=slot.taken)
                slot.reader.drop()

    def _is_contended(self, slot: TransferSlot) -> bool:
        # Case 1: the transfer holds a slot at a peer, and a peer refused this node.
        if slot.relays and _AT_A_PEER in self._contended:
            return True
        # Case 2: the transfer holds a slot of its own kind here, or none.
        if slot.grows or not slot.is_counted:
            return slot.is_counted and (TransferLimit.IN_FLIGHT, "") in self._contended
        # Case 3: the transfer holds an ordinary slot.
        return (TransferLimit.OVERALL, "") in self._contended or (
            TransferLimit.PEER,
            slot.client,
        ) in self._contended

    def _contend(self, scope: _Scope) -> None:
        self._contended[scope] = self._clock() + CONTENDED
        if self._timer is None:
            self.hang_up_slow()
            self._check_later()

    def _check_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # without a loop no body is sent
            return
        self._timer = loop.call_later(CHECK_INTERVAL, self._check_again)

    def _check_again(self) -> None:
        self._timer = None
        self.hang_up_slow()
        if self._contended and self._slots:
            self._check_later()
