"""This node's part in sharing what is being pulled: it asks stewards on behalf of its runtime, tells them how far it
is, and is a steward itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from spegel_py.errors import ContentNotFound, PeerError, StoreError
from spegel_py.flight.messages import (
    Ask,
    Follow,
    Lead,
    Look,
    MessageError,
    Note,
    Noted,
    Question,
    Reply,
    Role,
    Wait,
    Why,
    decode_question,
    decode_reply,
    encode,
)
from spegel_py.flight.part import Part
from spegel_py.flight.rendezvous import stewards
from spegel_py.flight.rules import Rules
from spegel_py.flight.shape import Sight, sight
from spegel_py.flight.steward import Steward
from spegel_py.flight.waiting import Waiting
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import Peer, RequestResponse
from spegel_py.store.base import Ingest, Ingests, Store

log = structlog.get_logger(__name__)

TRIES = 8
"""Sources that are tried for one question: those that are not connected here are no use."""

SEEN = 6
"""Digests whose trees are looked at together, the oldest: a runtime fetches three layers of an image at a time."""


@dataclass(frozen=True, slots=True)
class Source:
    """Whom to take content from, and after how many silent seconds to ask for another."""

    peer: Peer
    stall: float


@dataclass(frozen=True, slots=True)
class Writing:
    """What this node's runtime writes, open until `stack` ends, or whoever keeps it does."""

    ingest: Ingest
    stack: AsyncExitStack

    def keep(self) -> AsyncExitStack:
        """Have it stay open until what is returned ends."""
        return self.stack.pop_all()


class Flights:
    """What this node does with each digest that is in flight.

    Without `ingests` nobody can take from here what its runtime gets, so that it never leads either. `led` is told
    whenever this node is to lead, and why: first, or what was wrong with its source. What is `advertised`, peers find
    without a steward.
    """

    def __init__(
        self,
        *,
        requests: RequestResponse,
        ingests: Ingests | None,
        store: Store,
        rules: Rules | None = None,
        clock: Callable[[], float] = time.monotonic,
        led: Callable[[str], None] = lambda _: None,
        advertised: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._requests = requests
        self._ingests = ingests
        self._store = store
        self.rules = rules or Rules()
        self._clock = clock
        self._led = led
        self._advertised = advertised
        self._steward = Steward(own=requests.id, now=clock(), rules=self.rules)
        self._lock = threading.Lock()  # questions come in any thread
        self._parts: dict[Digest, Part] = {}
        self._untold: dict[
            Digest, asyncio.TimerHandle
        ] = {}  # what came in, until its steward is told
        self._deaf: dict[
            str, float
        ] = {}  # stewards that did not answer, until when they are asked last
        self._waiting: dict[Digest, Waiting] = {}  # where stewards said to wait
        self._tasks: asyncio.TaskGroup | None = None

    def __repr__(self) -> str:
        return f"<Flights of {len(self._parts)} digests, {self._steward!r}>"

    @property
    def id(self) -> str:
        """This node's own peer id."""
        return self._requests.id

    @property
    def parts(self) -> dict[Digest, Part]:
        """What this node does now, for people to look at."""
        return dict(self._parts)

    def counts(self) -> Mapping[str, int]:
        """Return with how many digests this node has each role."""
        return Counter(part.role.value for part in self._parts.values())

    def describe(self) -> Sequence[Mapping[str, object]]:
        """Return this node's parts as they are shown at `/debug/state`; nobody is asked."""
        return [part.as_json() for part in self._parts.values()]

    async def look(self) -> Sequence[Sight]:
        """Return who takes each digest of this node's parts from whom, as the stewards tell within `Rules.look`."""
        return await asyncio.gather(
            *(self._see(part) for part in list(self._parts.values())[:SEEN])
        )

    async def _see(self, part: Part) -> Sight:
        first, *_ = self._stewards(part.digest, self.rules.asked)
        reply = await self._ask_one(
            first, Look(part.digest), within=self.rules.look
        )  # the deadline: none is held deaf
        return sight(part, self._requests.id, reply)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Flights]:
        """Take part while the block lasts; the stewards are told at its end that this node is gone."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._requests.set_handler(self._answer)
            looking = tasks.create_task(self._look_around(), name="who takes part")
            try:
                yield self
            finally:
                self._tasks = None
                looking.cancel()
                for part in list(self._parts.values()):
                    part.leave()
                while self._untold:
                    self._untold.popitem()[1].cancel()

    async def find(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        bad: str | None = None,
        why: Why | None = None,
        within: float | None = None,
    ) -> Source | None:
        """Return whom to take the content from, of which the runtime has `offset` bytes; None if it is to go upstream.

        `bad` is the source it had, and `why` it wants another. It takes `within` seconds at most, by default as long as
        a runtime is left in silence.
        """
        if self.leads(digest):
            return None  # what resumes after a promotion must not be sent back
        end = self._clock() + (self.rules.silence if within is None else within)
        async with self._written(digest) as writing:
            for _ in range(TRIES):
                ask = Ask(digest, offset, writing is not None, bad=bad, why=why)
                match answer := await self._wait_for_answer(ask, end):
                    case Follow(parent):
                        if (peer := self._requests.partners().get(parent)) is not None:
                            self._take_part(digest, writing, Role.FOLLOW, answer.renew, parent)
                            return Source(peer, self.rules.stall_at(answer.depth))
                        bad, why = parent, Why.DEAD
                    case Lead(renew):
                        self._led(why.value if why else "first")
                        self._take_part(digest, writing, Role.LEAD, renew)
                        return None
                    case _:
                        return None
        return None

    async def line_up(self, digest: Digest, *, offset: int, held: int) -> Source | None:
        """Return whom of a crowd to take content from that `held` peers have; None where it is to be one of those.

        They are at hand: a steward that does not answer at once is not waited for.
        """
        [steward] = self._stewards(digest, 1)
        if steward in self._deaf or self.leads(digest):
            return None
        async with self._written(digest) as writing:
            if writing is None:
                return None
            ask = Ask(digest, offset, held=held)
            match await self._ask_one(steward, ask, within=self.rules.at_once):
                case Follow(parent, _, renew) if (
                    peer := self._requests.partners().get(parent)
                ) is not None:
                    self._take_part(digest, writing, Role.FOLLOW, renew, parent)
                    return Source(peer, self.rules.stall_lined_up)
                case Lead(renew):
                    self._take_part(digest, writing, Role.LEAD, renew)
        return None

    @asynccontextmanager
    async def _written(self, digest: Digest) -> AsyncIterator[Writing | None]:
        """Give what the runtime writes, open; None where others cannot take it from here while it comes in.

        A runtime begins to write before it asks; another client (curl, skopeo) writes elsewhere.
        """
        async with AsyncExitStack() as stack:
            writing = None
            if self._ingests is not None:
                with suppress(ContentNotFound, StoreError):
                    writing = Writing(
                        await stack.enter_async_context(self._ingests.open(digest)), stack
                    )
            yield writing

    async def _wait_for_answer(self, ask: Ask, end: float) -> Reply | None:
        """Ask until the answer is not to wait; None where that would take too long, or nobody answers.

        Until the first byte has come each steward can make this node wait only for so long; see
        `Rules.held_back`.
        """
        passed_over = set[str]()
        while len(passed_over) < self.rules.holders_back:
            name, answer = await self._ask(ask, without=passed_over)
            if not isinstance(answer, Wait):
                return answer
            waiting = self._waiting_for(ask.digest)
            pause = waiting.pause(answer.seconds)
            now, most = self._clock(), self.rules.held_back_at_most(len(self._requests.partners()))
            if not ask.offset and not waiting.allow(name, pause, now, most=most):
                passed_over.add(name)
                continue
            if now + pause >= end:
                return None
            await asyncio.sleep(pause)
            ask = Ask(ask.digest, ask.offset, ask.serves)  # a complaint is made once
        return None

    def _waiting_for(self, digest: Digest) -> Waiting:
        """Return the waits for a digest: pulls that follow each other soon are not all held back."""
        now = self._clock()
        self._waiting = {
            each: waiting for each, waiting in self._waiting.items() if waiting.until > now
        }
        return self._waiting.setdefault(digest, Waiting(until=now + self.rules.silence))

    def source_of(self, digest: Digest) -> str | None:
        """Return the id of the peer that this node takes the content from now, None if from none."""
        part = self._parts.get(digest)
        return part.parent if part is not None else None

    def leads(self, digest: Digest) -> bool:
        """Say whether this node's runtime is to fetch the content upstream."""
        part = self._parts.get(digest)
        return part is not None and part.role is Role.LEAD

    # Speaking with stewards

    async def _ask(
        self, question: Question, *, without: Collection[str] = ()
    ) -> tuple[str, Reply | None]:
        """Return the first steward that gives an answer, and that; None for the answer if none does."""
        name = ""
        for name in self._stewards(question.digest, self.rules.asked):
            if name not in without and (reply := await self._ask_one(name, question)) is not None:
                return name, reply
        return name, None

    async def tell(self, note: Note) -> float:
        """Tell the steward what this node does; return within how many seconds it wants to hear again."""
        _, reply = await self._ask(note)
        return reply.renew if isinstance(reply, Noted) else self.rules.renew

    def _stewards(self, digest: Digest, count: int) -> list[str]:
        """Return whom to ask about a digest, in this order: who did not answer of late comes last."""
        now = self._clock()
        self._deaf = {name: until for name, until in self._deaf.items() if until > now}
        names = stewards(digest, {self._requests.id, *self._requests.partners()}, count)
        return sorted(names, key=lambda name: name in self._deaf)

    async def _ask_one(
        self, name: str, question: Question, *, within: float | None = None
    ) -> Reply | None:
        if name == self._requests.id:
            return self._decide(name, question)
        timeout = within or self.rules.answer_within(len(self._requests.partners()))
        try:
            return decode_reply(
                await self._requests.request(name, encode(question), timeout=timeout)
            )
        except (PeerError, MessageError) as error:
            log.debug(
                "steward does not answer", peer=name, digest=str(question.digest), error=str(error)
            )
            if within is None:
                self._deaf[name] = self._clock() + self.rules.deaf
            return None

    # As a steward

    def _answer(self, name: str, raw: bytes) -> bytes:
        return encode(self._decide(name, decode_question(raw)))

    def _decide(self, name: str, question: Question) -> Reply:
        with self._lock:
            now = self._clock()
            self._steward.set_members(self._requests.partners().keys(), now)
            return self._steward.answer(name, question, now)

    async def _look_around(self) -> None:
        """Have all that is done here told at once whenever somebody comes or goes: another may be the steward now."""
        members: frozenset[str] = frozenset()
        while True:
            self._requests.changed.clear()
            if (now := frozenset(self._requests.partners())) != members:
                members = now
                with self._lock:
                    self._steward.set_members(members, self._clock())
                for part in self._parts.values():
                    part.hurry()
            await self._requests.changed.wait()

    # Taking part

    def _take_part(
        self,
        digest: Digest,
        writing: Writing | None,
        role: Role,
        renew: float,
        parent: str | None = None,
    ) -> None:
        """Do this with the digest from now on, and say so until it is over, the first time within `renew` seconds."""
        if (part := self._parts.get(digest)) is not None:
            if part.change(role, renew, parent):
                log.debug("in flight", digest=str(digest), role=role.value, parent=parent)
            return
        if self._tasks is None or writing is None:  # this node ends, or has nothing to tell of
            return
        if (untold := self._untold.pop(digest, None)) is not None:
            untold.cancel()
        part = Part(digest=digest, ingest=writing.ingest, role=role, renew=renew, parent=parent)
        self._parts[digest] = part
        log.debug("in flight", digest=str(digest), role=role.value, parent=parent)
        self._tasks.create_task(self._play(part, writing.keep()), name=f"in flight {digest}")

    async def _play(self, part: Part, kept: AsyncExitStack) -> None:
        try:
            try:
                async with kept:
                    last = await part.play(tell=self.tell, store=self._store)
            finally:
                del self._parts[part.digest]
            log.debug(
                "flight ended", digest=str(part.digest), role=part.role.value, ended=last.role.value
            )
            await self._say_last(part, last)
        except Exception:  # a bug must not end the node
            log.exception("flight lost", digest=str(part.digest))

    async def _say_last(self, part: Part, last: Note) -> None:
        """Tell the steward how it ended.

        Of what came by way of others it has time until the steward would forget this node, which it sends others to
        all the same, and need not be told what is advertised by then: so a crowd's words are half as many.
        """
        pause = part.lease(self.rules.leases) - self.rules.margin
        if (
            last.role is Role.HOLD
            and part.role is Role.FOLLOW
            and self._tasks is not None
            and pause > 0
        ):
            loop = asyncio.get_running_loop()
            self._untold[part.digest] = loop.call_later(pause, self._tell_untold, last)
        else:
            await self.tell(last)

    def _tell_untold(self, last: Note) -> None:
        del self._untold[last.digest]
        if self._tasks is not None and str(last.digest) not in self._advertised():
            self._tasks.create_task(self.tell(last), name=f"has {last.digest}")
