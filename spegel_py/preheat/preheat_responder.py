"""Fetches images at the request of other nodes, and tells them how far it is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from spegel_py.errors import StoreUnavailable
from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat.local_preheat import ImageOrder, LocalPreheat
from spegel_py.preheat.metrics import PreheatMetrics
from spegel_py.preheat.preheat_fault import PreheatFault
from spegel_py.preheat.preheat_job import NodeProgress, PreheatStage
from spegel_py.preheat.preheat_messages import (
    ListedTag,
    PreheatAsk,
    PreheatLook,
    PreheatResolve,
    decode_ask,
    encode_state,
    encode_tag,
)
from spegel_py.preheat.registry_lookup import is_of_this_machine
from spegel_py.replicas.drain_state import DrainState

log = structlog.get_logger(__name__)

MAX_PENDING, MAX_PENDING_PER_PEER = 256, 128
"""Images that are fetched, or wait for that, at the request of all other nodes, and of one."""

MAX_REMEMBERED = 1000
"""Images whose end is remembered for the node that asked."""

Key = tuple[str, str, Digest]
"""The asking node, its job, and the digest: no node can look at another one's jobs, or drop them.
"""


@dataclass(slots=True, eq=False)
class _Asked:
    ask: PreheatAsk
    progress: NodeProgress = field(default_factory=NodeProgress)
    task: asyncio.Task[None] | None = None


class PreheatResponder:
    """The images that other nodes asked this one for.

    Args:
        is_open: False to refuse all of them.
        name: the name of this node.
    """

    def __init__(
        self,
        *,
        local: LocalPreheat,
        metrics: PreheatMetrics,
        is_open: bool,
        drain: DrainState | None = None,
        name: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._local = local
        self._metrics = metrics
        self._is_open = is_open
        self._drain = drain or DrainState()
        self._name = name
        self._clock = clock
        self.listed_tag: Callable[[Reference], ListedTag | None] = lambda image: None
        """Returns the digest of a listed tag, if this node asks the registry for it."""
        self._lock = threading.Lock()  # requests come in any thread
        self._asked: dict[Key, _Asked] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: asyncio.TaskGroup | None = None

    def __repr__(self) -> str:
        return f"<PreheatResponder {len(self._asked)} images>"

    def handle(self, peer: str, raw: bytes) -> bytes:
        """Return the answer to a peer's message, in any thread. Raises MessageError."""
        loop = self._loop
        if loop is None:
            raise MessageError("this node is starting, or ends")
        match message := decode_ask(raw):
            case PreheatAsk():
                return encode_state(self._accept(peer, message, loop), name=self._name)
            case PreheatLook(job, digest, is_drop):
                key = (peer, job, digest)
                with self._lock:
                    known = self._asked.pop(key, None) if is_drop else self._asked.get(key)
                if is_drop:
                    loop.call_soon_threadsafe(self._begin_drop, key, known)
                return encode_state(known.progress if known else None, name=self._name)
            case PreheatResolve(image):
                return encode_tag(self.listed_tag(image))
        raise MessageError("no request")  # pragma: no cover - decode_ask knows no other

    async def run(self) -> None:
        """Fetch what is asked for, until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._loop = asyncio.get_running_loop()
                while True:
                    await asyncio.sleep(1.0)
                    self._local.refresh()
        finally:
            self._loop = self._group = None

    def _accept(self, peer: str, ask: PreheatAsk, loop: asyncio.AbstractEventLoop) -> NodeProgress:
        """Accept or refuse an image; return its progress.

        A repeated request changes nothing, unless the image could not be fetched before.
        """
        key = (peer, ask.job, ask.digest)
        with self._lock:
            known = self._asked.get(key)
            if known is not None and known.progress.stage is not PreheatStage.FAILED:
                return known.progress
            if (refusal := self._refusal(peer, ask)) is not None:
                return refusal
            asked = self._asked[key] = _Asked(ask)
            self._forget()
        loop.call_soon_threadsafe(self._begin, key, asked)
        return asked.progress

    def _refusal(self, peer: str, ask: PreheatAsk) -> NodeProgress | None:
        """Return the refusal of a request; None if the image may be fetched."""
        pending = Counter(key[0] for key, one in self._asked.items() if not one.progress.is_over)
        if not self._is_open:
            text = "the node fetches nothing for other nodes: --preheat-from-peers is false"
            return NodeProgress(PreheatStage.REFUSED, why=PreheatFault.OFF, error=text)
        if self._drain.is_draining:
            text = "the node drains: it is about to go away"
            return NodeProgress(PreheatStage.REFUSED, why=PreheatFault.DRAINING, error=text)
        if is_of_this_machine(ask.image.registry):
            text = f"{ask.image.registry} would be another registry on each node"
            return NodeProgress(PreheatStage.REFUSED, why=PreheatFault.REFUSED, error=text)
        if pending.total() >= MAX_PENDING or pending[peer] >= MAX_PENDING_PER_PEER:
            text = f"{pending.total()} images are fetched for other nodes already"
            return NodeProgress(PreheatStage.REFUSED, why=PreheatFault.FULL, error=text)
        return None

    def _forget(self) -> None:
        over = [key for key, one in self._asked.items() if one.progress.is_over]
        for key in over[: max(0, len(over) - MAX_REMEMBERED)]:
            del self._asked[key]

    # On the loop

    def _begin(self, key: Key, asked: _Asked) -> None:
        if self._group is not None:
            asked.task = self._group.create_task(self._fetch(key, asked))

    async def _fetch(self, key: Key, asked: _Asked) -> None:
        peer, job, digest = key
        ask, progress = asked.ask, asked.progress
        order = ImageOrder(
            image=ask.image,
            digest=digest,
            seen=None if ask.seen is None else min(ask.seen, self._clock()),
            platform=ask.platform,
            expires=self._clock() + ask.keep,
            rate=ask.rate,
            credentials=ask.credentials,
            depth=ask.depth,
            pin=ask.pin,
            is_for_peer=True,
        )
        log.info("preheat asked for", peer=peer, job=job, image=str(ask.image))
        try:
            async with asyncio.timeout(ask.within):
                await self._local.preheat(order, progress, owner=_owner(key))
        except TimeoutError:
            text = progress.error or "it was not ready when the job's time was over"
            why = progress.why or PreheatFault.TIMEOUT
            progress.end(PreheatStage.FAILED, why=why, error=text)
        except Exception as error:  # noqa: BLE001 - one image must not end the others
            log.error("preheat failed", image=str(ask.image), error=repr(error))
            text = repr(error)[:200]
            progress.end(PreheatStage.FAILED, why=PreheatFault.INTERNAL, error=text)
        self._metrics.ended(progress.stage)

    def _begin_drop(self, key: Key, asked: _Asked | None) -> None:
        if self._group is not None:
            self._group.create_task(self._drop(key, asked))

    async def _drop(self, key: Key, asked: _Asked | None) -> None:
        if asked is not None and asked.task is not None:
            asked.task.cancel()
            await asyncio.wait([asked.task])
        try:
            await self._local.drop(key[2], owner=_owner(key))
        except StoreUnavailable as error:
            log.info("preheat not dropped", image=str(key[2]), error=str(error))


def _owner(key: Key) -> str:
    return f"{key[0]}/{key[1]}"
