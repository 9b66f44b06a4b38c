"""This node's side of in-flight sharing: parents for its runtime's pulls, and its heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.inflight.coordinator_client import CoordinatorClient
from spegel_py.inflight.messages import (
    CoordinatorResponse,
    FetchUpstream,
    FollowParent,
    Heartbeat,
    HeartbeatAck,
    ParentFault,
    ParentRequest,
    RetryLater,
    Role,
    TreeQuery,
)
from spegel_py.inflight.participation import Participation
from spegel_py.inflight.rules import InFlightRules
from spegel_py.inflight.tree_view import TreeView, tree_view
from spegel_py.inflight.wait_budget import WaitBudget
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import Peer, RequestResponse
from spegel_py.store.base import Ingest, Ingests, Store

log = structlog.get_logger(__name__)

MAX_TRIES = 8
"""Parents tried for one request: a parent that is not connected with this node is no use."""

MAX_VIEWS = 6
"""Digests whose trees are shown at once, the oldest: a runtime fetches three layers at a time."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The peer to get content from, and the silent seconds after which to ask for another peer."""

    peer: Peer
    stall: float


@dataclass(frozen=True, slots=True)
class OpenIngest:
    """An unfinished file of this node's runtime, open until `stack` ends."""

    ingest: Ingest
    stack: AsyncExitStack

    def keep_open(self) -> AsyncExitStack:
        """Keep the file open beyond `stack`, until the returned stack ends."""
        return self.stack.pop_all()


class InFlightSharing:
    """This node's participations in all digests that are in flight.

    Args:
        requests: the port that carries the messages.
        ingests: the runtime's unfinished files. Without them no peer can follow this node, and so
            it never leads.
        store: complete content.
        rules: deadlines and bounds.
        clock: monotonic seconds.
        on_lead: called when this node becomes a leader, with the reason: "first", or the fault of
            the parent before.
        advertised: returns the keys that peers find through the router, without a coordinator.
    """

    def __init__(
        self,
        *,
        requests: RequestResponse,
        ingests: Ingests | None,
        store: Store,
        rules: InFlightRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_lead: Callable[[str], None] = lambda _: None,
        advertised: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._requests = requests
        self._ingests = ingests
        self._store = store
        self.rules = rules or InFlightRules()
        self._clock = clock
        self._on_lead = on_lead
        self._advertised = advertised
        self._coordinators = CoordinatorClient(requests=requests, rules=self.rules, clock=clock)
        self._participations: dict[Digest, Participation] = {}
        self._final_heartbeats: dict[Digest, asyncio.TimerHandle] = {}  # not sent yet
        self._wait_budgets: dict[Digest, WaitBudget] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def __repr__(self) -> str:
        return f"<InFlightSharing of {len(self._participations)} digests, {self._coordinators!r}>"

    @property
    def id(self) -> str:
        """This node's own peer id."""
        return self._requests.id

    @property
    def participations(self) -> dict[Digest, Participation]:
        """The participations, for people to look at."""
        return dict(self._participations)

    def counts(self) -> Mapping[str, int]:
        """Return the number of digests in which this node has each role."""
        return Counter(each.role.value for each in self._participations.values())

    def describe(self) -> Sequence[Mapping[str, object]]:
        """Return the participations as they are shown at `/debug/state`; no peer is asked."""
        return [each.as_json() for each in self._participations.values()]

    async def views(self) -> Sequence[TreeView]:
        """Return the trees of the digests in flight here, asking each coordinator for its tree."""
        shown = list(self._participations.values())[:MAX_VIEWS]
        return await asyncio.gather(*(self._view(each) for each in shown))

    async def _view(self, participation: Participation) -> TreeView:
        [first] = self._coordinators.ranked(participation.digest, self.rules.coordinators)[:1]
        answer = await self._coordinators.request_one(
            first, TreeQuery(participation.digest), within=self.rules.tree_answer
        )
        return tree_view(participation, self._requests.id, answer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[InFlightSharing]:
        """Take part while the block lasts; at its end all participations send a final heartbeat."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._coordinators.serve()
            watching = tasks.create_task(self._watch_members(), name="who takes part")
            try:
                yield self
            finally:
                self._tasks = None
                watching.cancel()
                for participation in list(self._participations.values()):
                    participation.leave()
                while self._final_heartbeats:
                    self._final_heartbeats.popitem()[1].cancel()

    async def _watch_members(self) -> None:
        """Send all heartbeats at once when a node joins or leaves: the coordinator may change."""
        members: frozenset[str] = frozenset()
        while True:
            self._requests.changed.clear()
            if (now := frozenset(self._requests.partners())) != members:
                members = now
                self._coordinators.update_members()
                for participation in self._participations.values():
                    participation.send_now()
            await self._requests.changed.wait()

    # Parents for pulls

    async def find_parent(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        bad: str | None = None,
        why: ParentFault | None = None,
        within: float | None = None,
    ) -> Parent | None:
        """Return the parent to get the content from; None if the runtime is to go upstream.

        Args:
            digest: the content.
            offset: bytes that the runtime already has.
            bad: id of the parent that failed.
            why: that parent's fault.
            within: most seconds that this takes, by default the silence that a runtime is left in.
        """
        if self.is_leader(digest):
            return None  # a request that resumes after a promotion must not be sent back
        end = self._clock() + (self.rules.max_silence if within is None else within)
        async with self._open_ingest(digest) as ingest:
            for _ in range(MAX_TRIES):
                request = ParentRequest(digest, offset, ingest is not None, bad=bad, why=why)
                match answer := await self._request_until_assigned(request, end):
                    case FollowParent(parent):
                        if (peer := self._requests.partners().get(parent)) is not None:
                            self._take_part(digest, ingest, Role.FOLLOWER, answer.renew, parent)
                            return Parent(peer, self.rules.stall_at(answer.depth))
                        bad, why = parent, ParentFault.DEAD
                    case FetchUpstream(interval):
                        self._on_lead(why.value if why else "first")
                        self._take_part(digest, ingest, Role.LEADER, interval)
                        return None
                    case _:
                        return None
        return None

    async def find_parent_in_crowd(
        self, digest: Digest, *, offset: int, held: int
    ) -> Parent | None:
        """Return the parent for content that `held` peers hold; None if this node is to ask those.

        The holders are known already, so a coordinator that does not answer at once is not waited
        for.
        """
        [first] = self._coordinators.ranked(digest, 1)
        if first in self._coordinators.unresponsive or self.is_leader(digest):
            return None
        async with self._open_ingest(digest) as ingest:
            if ingest is None:
                return None
            match await self._coordinators.request_one(
                first, ParentRequest(digest, offset, held=held), within=self.rules.crowd_answer
            ):
                case FollowParent(parent, _, interval) if (
                    peer := self._requests.partners().get(parent)
                ) is not None:
                    self._take_part(digest, ingest, Role.FOLLOWER, interval, parent)
                    return Parent(peer, self.rules.crowd_stall)
                case FetchUpstream(interval):
                    self._take_part(digest, ingest, Role.LEADER, interval)
        return None

    def parent_of(self, digest: Digest) -> str | None:
        """Return the id of the peer that this node gets the content from now, or None."""
        participation = self._participations.get(digest)
        return participation.parent if participation is not None else None

    def takes_part(self, digest: Digest) -> bool:
        """Return True while this node downloads the content, until it is in the store."""
        return digest in self._participations

    def is_leader(self, digest: Digest) -> bool:
        """Return True if this node's runtime is to fetch the content upstream."""
        participation = self._participations.get(digest)
        return participation is not None and participation.role is Role.LEADER

    @asynccontextmanager
    async def _open_ingest(self, digest: Digest) -> AsyncIterator[OpenIngest | None]:
        """Open the runtime's unfinished file; give None where peers cannot read it as it grows.

        A runtime begins to write before it asks. Another client (curl, skopeo) writes elsewhere.
        """
        async with AsyncExitStack() as stack:
            opened = None
            if self._ingests is not None:
                with suppress(ContentNotFound, StoreError):
                    ingest = await stack.enter_async_context(self._ingests.open(digest))
                    opened = OpenIngest(ingest, stack)
            yield opened

    async def _request_until_assigned(
        self, request: ParentRequest, end: float
    ) -> CoordinatorResponse | None:
        """Ask until the answer is not to wait; return None after the time `end` or if none comes.

        Until the first byte has come each coordinator can make this node wait only for so long; see
        `InFlightRules.max_wait`.
        """
        passed_over = set[str]()
        while len(passed_over) < self.rules.max_waits:
            name, answer = await self._coordinators.request(request, without=passed_over)
            if not isinstance(answer, RetryLater):
                return answer
            budget = self._wait_budget(request.digest)
            pause = budget.next_pause(answer.seconds)
            now, most = self._clock(), self.rules.max_wait_among(len(self._requests.partners()))
            if not request.offset and not budget.spend(name, pause, now, most=most):
                passed_over.add(name)
                continue
            if now + pause >= end:
                return None
            await asyncio.sleep(pause)
            # a complaint is made once
            request = ParentRequest(request.digest, request.offset, request.serves)
        return None

    def _wait_budget(self, digest: Digest) -> WaitBudget:
        """Return the wait budget of a digest, which pulls that follow each other soon share."""
        now = self._clock()
        self._wait_budgets = {
            each: budget for each, budget in self._wait_budgets.items() if budget.until > now
        }
        until = now + self.rules.max_silence
        return self._wait_budgets.setdefault(digest, WaitBudget(until=until))

    # Taking part

    async def send_heartbeat(self, heartbeat: Heartbeat) -> float:
        """Send a heartbeat; return the seconds within which the coordinator wants the next one."""
        _, answer = await self._coordinators.request(heartbeat)
        return answer.renew if isinstance(answer, HeartbeatAck) else self.rules.heartbeat

    def _take_part(
        self,
        digest: Digest,
        ingest: OpenIngest | None,
        role: Role,
        interval: float,
        parent: str | None = None,
    ) -> None:
        """Take a role in the digest's tree; send the first heartbeat within `interval` seconds."""
        if (participation := self._participations.get(digest)) is not None:
            if participation.update(role, interval, parent):
                log.debug("in flight", digest=str(digest), role=role.value, parent=parent)
            return
        if self._tasks is None or ingest is None:  # this node ends, or no peer can follow it
            return
        if (unsent := self._final_heartbeats.pop(digest, None)) is not None:
            unsent.cancel()
        participation = Participation(
            digest=digest, ingest=ingest.ingest, role=role, interval=interval, parent=parent
        )
        self._participations[digest] = participation
        log.debug("in flight", digest=str(digest), role=role.value, parent=parent)
        self._tasks.create_task(
            self._run(participation, ingest.keep_open()), name=f"in flight {digest}"
        )

    async def _run(self, participation: Participation, opened: AsyncExitStack) -> None:
        digest = participation.digest
        try:
            try:
                async with opened:
                    last = await participation.run(send=self.send_heartbeat, store=self._store)
            finally:
                del self._participations[digest]
            log.debug(
                "flight ended",
                digest=str(digest),
                role=participation.role.value,
                ended=last.role.value,
            )
            await self._send_final_heartbeat(participation, last)
        except Exception:  # a bug must not end the node
            log.exception("flight lost", digest=str(digest))

    async def _send_final_heartbeat(self, participation: Participation, last: Heartbeat) -> None:
        """Send the final heartbeat at once, or for a complete follower just before its lease ends.

        Until its lease ends the coordinator sends peers to the follower in any case. Content that
        is advertised by then needs no heartbeat at all. This halves the messages in a crowd.
        """
        pause = participation.lease_left(self.rules.heartbeats_missed) - self.rules.margin
        is_complete_follower = last.role is Role.COMPLETE and participation.role is Role.FOLLOWER
        if is_complete_follower and self._tasks is not None and pause > 0:
            loop = asyncio.get_running_loop()
            self._final_heartbeats[last.digest] = loop.call_later(
                pause, self._send_unless_advertised, last
            )
        else:
            await self.send_heartbeat(last)

    def _send_unless_advertised(self, last: Heartbeat) -> None:
        del self._final_heartbeats[last.digest]
        if self._tasks is not None and str(last.digest) not in self._advertised():
            self._tasks.create_task(self.send_heartbeat(last), name=f"has {last.digest}")
