"""Pings the connected peers, asks other members about silent ones, and answers their questions.

`failure_detector` decides; this module has its clock, its connections and its messages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID

from spegel_py.errors import PeerError
from spegel_py.routing.libp2p import compat, member_messages
from spegel_py.routing.libp2p.bounds import MessageBudget, bound_key
from spegel_py.routing.libp2p.failure_detector import (
    LATE,
    PERIOD,
    PING_TIMEOUT,
    AskOthers,
    DropPeer,
    FailureDetector,
    Stage,
    SuspectPeer,
)
from spegel_py.routing.libp2p.member_messages import MemberAnswer, MemberKind, MemberMessage
from spegel_py.routing.libp2p.request_response import RequestResponseClient

log = structlog.get_logger(__name__)

PROTOCOL = TProtocol(member_messages.PROTOCOL)
TIMEOUT = 5.0
"""Seconds for one question and its answer: a patient helper takes up to three."""
RECENT = 0.5
"""Seconds for which an answered ping counts for the next question about the same peer."""
ASKING_COST = 5
"""Messages of a peer's budget that a question costs."""
SHORTEST = 0.02
"""Least seconds between two looks at the doubts."""
REFUSAL_AGAIN = 10.0
"""Least seconds between two checks of one registry because other members report it."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the pings show about a peer. Times are monotonic seconds.

    Args:
        heard: when it last answered, None if it never did.
        pings_too: True if the peer watches others by pings itself, so that it announces rarely.
        left: seconds until it is dropped, None if it is not suspected.
        refused: when other members last reported that its registry does not answer.
    """

    heard: float | None
    pings_too: bool
    left: float | None
    refused: float | None


class PeerProber:
    """Watches the connected peers.

    Args:
        address_of: returns the IP address of a connected peer.
        lost: is called with a peer that answers no pings.
        counted: counts pings and doubts by outcome.
        changed: is called when a peer said hello or left, and when `watched` shows something new.
    """

    def __init__(
        self,
        *,
        host: BasicHost,
        address_of: Callable[[ID], str | None],
        lost: Callable[[ID], None],
        counted: Callable[[str], None],
        changed: Callable[[], None],
        random: Random,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._address_of = address_of
        self._lost = lost
        self._counted = counted
        self._changed = changed
        self._clock = clock
        self._wall_clock = wall_clock
        self._phase = wall_clock() % PERIOD
        self._detector = FailureDetector(own=str(host.get_id()), random=random)
        self._ids: dict[str, ID] = {}
        self._pongs: dict[str, trio.Event] = {}
        self._refused: dict[str, float] = {}
        self._client = RequestResponseClient(host, protocol=PROTOCOL, timeout=TIMEOUT)
        self._budget = MessageBudget()
        self._nursery: trio.Nursery | None = None
        self._sooner = trio.Event()
        self._planned = math.inf
        self.beat_at = -math.inf
        """The monotonic time of the last round: at most a period ago, unless the loop hangs."""

    def __repr__(self) -> str:
        return f"<PeerProber {self._detector!r}>"

    # The peers

    def add(self, peer: ID) -> None:
        """Watch a connected peer."""
        self._ids[str(peer)] = peer
        self._detector.add(str(peer))

    def remove(self, peer: ID) -> None:
        """Stop watching a peer."""
        name = str(peer)
        self._ids.pop(name, None)
        self._refused.pop(name, None)
        self._detector.remove(name)
        self._changed()
        if (pong := self._pongs.pop(name, None)) is not None:
            pong.set()

    def set_pings_too(self, peer: ID, on: bool) -> None:
        """Record whether a peer watches others by pings too, as its hello says."""
        self._detector.set_helper(str(peer), on=on)
        self._changed()

    def pings_too(self, peer: ID) -> bool:
        """Return True if a peer watches others by pings too."""
        return self._detector.is_helper(str(peer))

    def watched(self) -> Mapping[str, Watched]:
        """Return what is known about each connected peer. It may be called in any thread."""
        now = self._clock()
        return {
            name: Watched(
                heard=self._detector.heard_at(name),
                pings_too=self._detector.is_helper(name),
                left=self._detector.left(name, now),
                refused=self._refused.get(name),
            )
            for name in list(self._ids)
        }

    # Pinging

    async def run(self) -> None:
        """Watch until cancelled."""
        async with self._client.running(), trio.open_nursery() as nursery:
            self._nursery = nursery
            next_ping = planned = self._clock()
            while True:
                now = self.beat_at = self._clock()
                if (late := now - planned) > LATE:
                    self._detector.stood_still(late)
                    self._counted("stalled")
                self._act(now)
                if now >= next_ping:
                    self._ping_next(now)
                    next_ping = next_ping + PERIOD if late < PERIOD else now + PERIOD
                self._sooner = trio.Event()
                planned = self._planned = max(
                    now + SHORTEST, min(next_ping, self._detector.next_at())
                )
                # A thread that waits for a core may be late already.
                with trio.move_on_after(max(0.0, planned - self._clock())):
                    await self._sooner.wait()
                    planned = self._clock()

    def _ping_next(self, now: float) -> None:
        turn = round((self._wall_clock() - self._phase) / PERIOD)
        if (peer := self._detector.next_target(turn)) is not None:
            self._ping(peer, now)

    def _ping(self, peer: str, now: float) -> None:
        for connection in self._host.get_network().get_connections(self._ids[peer]):
            compat.ping(connection)
        self._detector.pinged(peer, now)

    def answered(self, peer: ID) -> None:
        """Record a peer's answer to a ping."""
        name = str(peer)
        match self._detector.answered(name, self._clock()):
            case Stage.PINGED:
                self._counted("answered")
            case Stage.ASKED:
                self._counted("late")
            case Stage.SUSPECTED:
                self._counted("refuted")
                log.info("suspicion refuted", peer=name)
                self._changed()
        if (pong := self._pongs.pop(name, None)) is not None:
            pong.set()

    def _act(self, now: float) -> None:
        for action in self._detector.due(now):
            match action:
                case AskOthers(peer, members, is_suspicion):
                    kind = MemberKind.SUSPECT if is_suspicion else MemberKind.PROBE
                    for member in members:
                        self._start_asking(peer, member, kind)
                case SuspectPeer(peer, others):
                    self._counted("suspected")
                    log.info("peer silent", peer=peer, unheard_by=others)
                    self._changed()
                case DropPeer(peer, seconds):
                    self._counted("dropped")
                    log.debug("peer answers no ping", peer=peer, seconds=round(seconds, 1))
                    self._lost(self._ids[peer])

    # Asking other members

    def report_refusal(self, peer: str) -> None:
        """Tell all members that a peer's registry does not answer."""
        for member in list(self._ids):
            if member != peer and self._detector.is_helper(member):
                self._start_asking(peer, member, MemberKind.REFUSED)

    def _start_asking(self, peer: str, member: str, kind: MemberKind) -> None:
        if self._nursery is not None and peer in self._ids and member in self._ids:
            self._nursery.start_soon(self._ask, self._ids[peer], self._ids[member], kind)

    async def _ask(self, peer: ID, member: ID, kind: MemberKind) -> None:
        answer = MemberAnswer.UNKNOWN
        with suppress(PeerError):
            message = member_messages.encode(kind, peer.to_bytes())
            answer = member_messages.decode_answer(await self._client.request(member, message))
        if kind is not MemberKind.REFUSED:
            now = self._clock()
            self._detector.replied(str(peer), by=str(member), hears=_HEARS[answer], now=now)
            if self._detector.next_at() < self._planned:
                self._sooner.set()

    # Answering other members

    async def respond(self, sender: str, request: bytes) -> bytes:
        """Return the answer to a member's question. Raises ValueError if it is malformed."""
        message = member_messages.decode(request)
        if (member := self._ids.get(sender)) is None:
            return member_messages.encode_answer(MemberAnswer.UNKNOWN)
        await self._budget.spend(bound_key(self._address_of(member) or "", sender), ASKING_COST)
        return member_messages.encode_answer(await self._answer(sender, message))

    async def _answer(self, sender: str, message: MemberMessage) -> MemberAnswer:
        peer = str(ID(message.peer))
        if message.peer == self._host.get_id().to_bytes() or peer == sender:
            return MemberAnswer.HEARS
        if message.kind is None or peer not in self._ids:
            return MemberAnswer.UNKNOWN
        now = self._clock()
        if message.kind is MemberKind.REFUSED:
            if now - self._refused.get(peer, -math.inf) >= REFUSAL_AGAIN:
                self._refused[peer] = now
                self._changed()
            return MemberAnswer.UNKNOWN
        heard = self._detector.heard_at(peer)
        if heard is not None and now - heard < RECENT:
            return MemberAnswer.HEARS
        self._ping(peer, now)
        if message.kind is MemberKind.SUSPECT:
            self._detector.accused(peer, by=sender, now=now)
        return await self._wait_for(peer)

    async def _wait_for(self, peer: str) -> MemberAnswer:
        """Return whether a pinged peer answers within PING_TIMEOUT seconds of the ping."""
        since = self._detector.silent_since(peer)
        pong = self._pongs.setdefault(peer, trio.Event())
        left = 0.0 if since is None else since + PING_TIMEOUT - self._clock()
        with trio.move_on_after(max(0.0, left)):
            await pong.wait()
            return MemberAnswer.HEARS if peer in self._ids else MemberAnswer.UNKNOWN
        return MemberAnswer.DEAF


_HEARS = {MemberAnswer.HEARS: True, MemberAnswer.DEAF: False, MemberAnswer.UNKNOWN: None}
