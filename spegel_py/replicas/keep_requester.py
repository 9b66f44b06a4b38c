"""Asks other nodes to keep this node's images, as `keep_plan` decides."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import structlog

from spegel_py.errors import OCIError, PeerError
from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference, is_tag
from spegel_py.replicas.drain_state import DrainState
from spegel_py.replicas.keep_messages import (
    MAX_REPOSITORY,
    ImageKept,
    ImageTaking,
    ImageUsed,
    KeepAnswer,
    KeepMessage,
    KeepRefused,
    KeepRequest,
    RefusalReason,
    UsedRequest,
    decode_answer,
    encode,
)
from spegel_py.replicas.keep_plan import (
    KeeperChoice,
    KeeperView,
    KeepState,
    choose_keepers,
    is_speaker,
    target,
)
from spegel_py.replicas.keep_promises import KeepPromises
from spegel_py.replicas.lost_members import LostMembers
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_plan import ImageState, missing_replicas
from spegel_py.replicas.replica_rules import GRACE, ReplicaRules
from spegel_py.replicas.zone_spread import ZoneMap
from spegel_py.routing.base import RequestResponse
from spegel_py.store.base import ReplicaReason

log = structlog.get_logger(__name__)

ANSWER = 2.0
"""Seconds for an answer, which needs no disk and no other node."""

ROUNDS = 3
"""Times that refusals of one scan are followed by requests to the next nodes in the rank."""

MISSED = GRACE + 300.0
"""Seconds for which an image must be below its floor before people are told."""

EXPECTED_RATE = 5.0 * 1024 * 1024
"""Bytes per second that a keeper is expected to take an image with; it gives way to pulls."""

USED_ASKED = 6
"""Nodes that are asked whether an image is used, or pulled often, before it is released."""


@dataclass(frozen=True, slots=True)
class MissedFloor:
    """An image that this node speaks for, and that has been below its floor for long.

    `reasons` are those of the nodes that refused, with their numbers.
    """

    manifest: Digest
    names: tuple[str, ...]
    missing: int
    reasons: Mapping[str, int]

    @property
    def name(self) -> str:
        """The image's first tag, else its digest."""
        return next(filter(is_tag, self.names), str(self.manifest))

    def __str__(self) -> str:
        refused = ", ".join(f"{count} × {why}" for why, count in sorted(self.reasons.items()))
        return f"{self.missing} replicas are missing; refused: {refused or 'nobody is left to ask'}"


class KeepRequester:
    """This node's requests to other nodes.

    Args:
        requests: carries the messages.
        floors: returns the floors of the connected nodes that answer such requests, by id.
        connected: returns the ids of all connected nodes.
        zones: returns the zones of the nodes that named one, by id, with those of lost nodes.
        zone: the zone of this node.
        wall: Unix time.
        monotonic: seconds.
    """

    def __init__(
        self,
        *,
        requests: RequestResponse,
        floors: Callable[[], Mapping[str, int]],
        connected: Callable[[], Collection[str]],
        rules: ReplicaRules,
        metrics: ReplicaMetrics,
        zones: Callable[[], Mapping[str, str]] = dict,
        zone: str = "",
        drain: DrainState | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._floors = floors
        self._connected = connected
        self._zones = zones
        self._zone = zone
        self._rules = rules
        self._metrics = metrics
        self._drain = drain or DrainState()
        self._wall = wall
        self._monotonic = monotonic
        self._promises = KeepPromises(rate=EXPECTED_RATE)
        self._lost = LostMembers()
        self._known: dict[Digest, float] = {}
        self._missing: dict[Digest, float] = {}
        self.missed: tuple[MissedFloor, ...] = ()
        """The images below their floor for MISSED, as of the last scan."""

    def __repr__(self) -> str:
        return f"<KeepRequester {self._promises!r} {self._lost!r}>"

    def view(self) -> KeeperView:
        """Return the other nodes as they are seen now."""
        own = self._requests.id
        keepers = frozenset(node for node, floor in self._floors().items() if floor > 0)
        keepers -= self._drain.leaving_peers
        is_leaving = self._drain.is_draining
        of = {**self._zones(), own: self._zone}
        counted = keepers if is_leaving else keepers | {own}
        return KeeperView(
            own=own,
            keepers=keepers,
            is_braked=self._lost.is_braked(self._connected(), self._monotonic()),
            is_leaving=is_leaving,
            zones=ZoneMap(of=of, present=frozenset(of.get(node, "") for node in counted)),
        )

    async def ask(self, images: Mapping[Digest, ImageState]) -> None:
        """Ask other nodes to keep those of these images that need it."""
        view, now = self.view(), self._monotonic()
        self._update_times(images, view, now)
        for _ in range(ROUNDS):
            choices = self._choices(images, view)
            answers = await asyncio.gather(
                *(self._keep(images[choice.manifest], choice.node) for choice in choices)
            )
            if not any(isinstance(answer, KeepRefused) or answer is None for answer in answers):
                break
        self.missed = tuple(self._missed(images, view))

    async def last_used(self, image: ImageState) -> float | None:
        """Return the latest Unix time at which a runtime had an image, as other nodes know it.

        It is 0 if they know of none, and None if a node that may know did not answer.
        """
        answers = await self._use_elsewhere(image)
        found = [answer.used for answer in answers if answer is not None]
        latest = max(found, default=0.0)
        return latest if len(found) == len(answers) or latest else None

    async def mean_heat(self, image: ImageState) -> float:
        """Return the heat of an image: the mean of this node's and of those of others."""
        answers = await self._use_elsewhere(image)
        heats = [image.heat, *(answer.heat for answer in answers if answer is not None)]
        return sum(heats) / len(heats)

    async def _use_elsewhere(self, image: ImageState) -> list[ImageUsed | None]:
        """Return the answers of a few nodes that have an image; None for a node without one."""
        nodes = sorted((image.holders | image.replicas) & self._requests.partners().keys())
        answers = await asyncio.gather(
            *(self._request(node, UsedRequest(image.manifest)) for node in nodes[:USED_ASKED])
        )
        return [answer if isinstance(answer, ImageUsed) else None for answer in answers]

    def _choices(self, images: Mapping[Digest, ImageState], view: KeeperView) -> list[KeeperChoice]:
        now = self._monotonic()
        states = [
            KeepState(
                image=image,
                known_for=now - self._known[manifest],
                missing_for=now - self._missing.get(manifest, now),
                promised=self._promises.promised(manifest, now),
                refused=frozenset(self._promises.refused(manifest, now)),
            )
            for manifest, image in images.items()
            if _request_of(image, 0.0) is not None
        ]
        replicas = {manifest: image.replicas for manifest, image in images.items()}
        taking = self._promises.taking(replicas, now)
        return choose_keepers(states, view=view, rules=self._rules, without=taking)

    def _update_times(
        self, images: Mapping[Digest, ImageState], view: KeeperView, now: float
    ) -> None:
        """Record since when each image has been known, and since when replicas are missing."""
        self._promises.keep(images)
        self._known = {manifest: self._known.get(manifest, now) for manifest in images}
        before = self._missing
        self._missing = {
            manifest: self._missing.get(manifest, now)
            for manifest, image in images.items()
            if self._count_missing(image, view)
        }
        for manifest in before.keys() & images.keys() - self._missing.keys():
            if is_speaker(images[manifest], view):
                self._metrics.repaired(now - before[manifest])

    def _missed(
        self, images: Mapping[Digest, ImageState], view: KeeperView
    ) -> Iterator[MissedFloor]:
        now = self._monotonic()
        for manifest, since in self._missing.items():
            image = images[manifest]
            if now - since < MISSED or image.is_excluded or not is_speaker(image, view):
                continue
            reasons = Counter(why.value for why in self._promises.refused(manifest, now).values())
            missing = self._count_missing(image, view)
            yield MissedFloor(manifest, image.names, missing, reasons)

    def _count_missing(self, image: ImageState, view: KeeperView) -> int:
        wanted = target(self._rules, view)
        return missing_replicas(image, wanted, own=view.own, zones=view.zones)

    async def _keep(self, image: ImageState, node: str) -> KeepAnswer | None:
        request = _request_of(image, self._wall() - image.idle)
        if request is None:
            return None
        if not self._count_missing(image, self.view()):
            request = replace(request, reason=ReplicaReason.HEAT)
        answer = await self._request(node, request)
        self._promises.record(image.manifest, node, answer, size=image.size, now=self._monotonic())
        outcome = _outcome(answer)
        self._metrics.asked(request.reason, outcome)
        log.info(
            "replica asked for",
            peer=node,
            manifest=str(image.manifest),
            names=list(image.names),
            bytes=image.size,
            outcome=outcome,
        )
        return answer

    async def _request(self, node: str, message: KeepMessage) -> KeepAnswer | None:
        """Return a node's answer; None without a usable one."""
        try:
            raw = await self._requests.request(node, encode(message), timeout=ANSWER)
            return decode_answer(raw)
        except (PeerError, MessageError) as error:
            log.debug("keeper does not answer", peer=node, error=str(error))
            return None


def _outcome(answer: KeepAnswer | None) -> str:
    match answer:
        case ImageKept():
            return "kept"
        case ImageTaking():
            return "taking"
        case KeepRefused(why):
            return why.value
    return RefusalReason.SILENT.value


def _request_of(image: ImageState, used: float) -> KeepRequest | None:
    """Return the request to keep an image; None for an image without a name.

    The tags of one repository are told, of the one with the tag that was pulled last.
    """
    latest = sorted(image.names, key=lambda name: (-image.pulled.get(name, 0.0), name))
    for name in latest:
        try:
            reference = Reference.parse(name)
        except OCIError:
            continue
        repository = f"{reference.registry}/{reference.repository}"
        if len(repository) > MAX_REPOSITORY:
            continue
        tags = {
            each.rpartition(":")[2]: image.pulled.get(each, 0.0)
            for each in image.names
            if is_tag(each) and each.rpartition(":")[0] == repository
        }
        return KeepRequest(
            manifest=image.manifest,
            root=image.root or image.manifest,
            repository=repository,
            tags=tags,
            size=image.size,
            reason=ReplicaReason.FLOOR,
            used=max(0.0, used),
            heat=image.heat,
        )
    return None
