"""A status page with a busy node behind it, made up in this process: ten peers, a thousand images,
minutes of pulls.

Store, router, pull log and page are real, over memory; what they hold is the same in every run, so
that pictures of it can be made again.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.holder_cache import HolderCache
from spegel_py.admin.images import LocalImages
from spegel_py.admin.measurement import Measurement
from spegel_py.admin.measurer import Measurer
from spegel_py.admin.state import describe
from spegel_py.admin.store_state import layout_state
from spegel_py.admin.web.page_sources import PageSources
from spegel_py.admin.web.status_page import StatusPage
from spegel_py.errors import ManifestUnknown
from spegel_py.health.peer_health import HealthState
from spegel_py.inflight.messages import Role
from spegel_py.inflight.tree_view import TreeView
from spegel_py.metrics import NodeMetrics
from spegel_py.oci.manifest import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, children
from spegel_py.outcomes import AttemptOutcome, ContentSource, LocalState, Lookup
from spegel_py.registry.server import serve
from spegel_py.routing.base import Member, Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryStore
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.telemetry.pull_record import PullContext
from tests.browser import props

NOW = 1_764_000_000.0
"""Unix time on the stage: 24 November 2025, 16:00 UTC."""

TEAMS = ("web", "search", "payments", "data", "ingest", "mail", "media", "edge")
APPS = (
    "api",
    "worker",
    "gateway",
    "cache",
    "indexer",
    "frontend",
    "exporter",
    "scheduler",
    "migrations",
)

UNDER_WAY = ((72_400_000, 118_000_000, 1), (9_100_000, 31_500_000, 5), (4_000_000, 6_200_000, None))
"""Bodies that are being sent: bytes sent, all of them, and the number of the peer that gives; None
where one gets.
"""

_LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Stage:
    """The node; `open` gives the address of its page."""

    def __init__(self, *, peers: int = 10, images: int = 1000, seed: int = 7) -> None:
        self.rng = random.Random(seed)
        self.metrics, self.store, network = NodeMetrics(), MemoryStore(), MemoryNetwork()
        self.wall = NOW
        self.clock = 0.0
        self.pull_log = PullLog(
            metrics=self.metrics.pulls, clock=lambda: self.clock, now=lambda: self.wall
        )
        self.id = self._peer_id()
        self.peers = [
            Peer(self._peer_id(), f"10.12.{number // 4}.{number * 7 + 4}", 5000)
            for number in range(peers)
        ]
        self.health = {peer.id: HealthState.HEALTHY for peer in self.peers}
        self.history: dict[str, Any] = {"alerts": [], "isolation": [], "actions": []}
        self.alerts: list[dict[str, Any]] = []
        self.tags: dict[str, float] = {}
        self.held: set[str] = set()
        self.network = network
        self.router = network.join(Peer(self.id, "10.12.0.1", 5000))
        self.sights: list[TreeView] | None = None
        self.looks = 0
        self.replicas: dict[str, Any] = props.NO_REPLICAS
        self.jobs: list[dict[str, Any]] = []
        self.draining: dict[str, str] | None = None
        self.measurer = Measurer(mirror="http://127.0.0.1:9")
        for peer in self.peers:
            network.join(peer)
        self._fill(images)

    @property
    def images(self) -> LocalImages:
        return LocalImages(
            store=self.store,
            holders=HolderCache(router=self.router),
            tags=lambda: self.tags,
            held=lambda: self.held,
        )

    def sources(self) -> PageSources:
        """Return what the page asks."""
        return PageSources(
            state=self.state,
            history=lambda: self.history,
            giving=lambda: {self.peers[2].host: 2} if self.peers else {},
            sent=lambda: self.metrics.server.sent_bytes,
            pull_log=self.pull_log,
            images=self.images,
            measurer=self.measurer,
            in_flight=None if self.sights is None else self._look,
            replicas=lambda: self.replicas,
            jobs=lambda: self.jobs,
        )

    def page(self) -> StatusPage:
        """Return the page over all this."""
        return StatusPage(sources=self.sources(), now=lambda: self.wall)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Serve the page while the block lasts; give its address."""
        app = create_admin_app(render=self.metrics.render, state=self.state)
        self.page().install(app)
        async with serve(app, "127.0.0.1:0", drain=0.2) as port:
            yield f"http://127.0.0.1:{port}/debug/web/"

    async def state(self) -> Mapping[str, Any]:
        made = describe(
            node_id=self.id,
            not_ready=None,
            store=layout_state(Path("/srv/images")),
            settings={},
            members=[self._member(number, peer) for number, peer in enumerate(self.peers)],
            advertised=[*self.tags, *self.held],
            supervision={
                "alerts": self.alerts,
                "isolation": {
                    "cut_off": False,
                    "seconds_without_peer": 0.0,
                    "known_peers": len(self.peers) + len(self.alerts),
                    "lost_peers": len(self.alerts),
                    "episodes": len(self.history["isolation"]),
                },
            },
            health=lambda peer: self.health[peer],
            pulls=self.metrics.pulls.summary(),
            in_flight=None if self.sights is None else props.parts(self.sights),
            draining=self.draining,
        )
        return {**made, "uptime_seconds": 64_000.0}

    def live_through(self, minutes: float = 9.5) -> None:
        """Let clients pull for so long, until now: in waves, most of it from peers, some from here,
        little missed.
        """
        begin, names = NOW - 60 * minutes, sorted(self.tags)
        at = begin
        while at < NOW - 6:
            wave = 0.35 + 0.65 * math.sin((at - begin) / 47) ** 2
            at += self.rng.expovariate(1.6 * wave)
            self._pull(self.rng.choice(names), at, wave)
        self.wall = NOW

    def worry(self) -> None:
        """Let a peer be silent, another fail its checks, and one be lost; and have a past."""
        self.health[self.peers[4].id] = HealthState.SUSPECTED
        self.health[self.peers[7].id] = HealthState.UNHEALTHY
        lost = props.alert(
            3, "P2", "peer-lost", "10.12.3.71:5000", "it left without a goodbye", NOW - 95, None
        )
        old = props.alert(
            2, "P1", "router-hung", "", "it did not answer for 12 s", NOW - 4000, 18.0
        )
        older = props.alert(
            1, "P2", "disk-full", "/var/lib/spegel-py", "0 bytes left", NOW - 9000, 7.2
        )
        self.alerts = [lost]
        self.history = {
            "alerts": [lost, old, older],
            "isolation": [
                {
                    "began": NOW - 7300,
                    "ended": NOW - 7212,
                    "seconds": 88.0,
                    "level": "warning",
                    "from_start": False,
                }
            ],
            "actions": [
                {
                    "alert": old["id"],
                    "actor": "spegel-py",
                    "action": "restart libp2p",
                    "outcome": "verified",
                    "began": NOW - 3990,
                    "seconds": 4.9,
                    "detail": "10 peers connected",
                }
            ],
        }

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Let three requests be under way while the block lasts, one of them a peer's."""
        name = sorted(self.tags)[41]
        with ExitStack() as stack:
            for sent, length, giver in UNDER_WAY:
                self.wall = NOW - 1 - length / 4e7
                request = props.request(name, f"part of {length}", mirrored=giver is None)
                context = stack.enter_context(self.pull_log.recording(request))
                context.source = ContentSource.LOCAL if giver is None else ContentSource.PEER
                context.length = length
                context.peer = None if giver is None else self.peers[giver].id
                context.progress = partial(int, sent)
            self.wall = NOW
            yield

    def share(self, far: float = 0.62) -> None:
        """Let two layers be in flight, one of them fetched here: `far` of it is here, less at those
        further away.
        """
        length, *names = 118_000_000, self.id, *(peer.id for peer in self.peers)
        led = props.shape(names[:7], [None, 0, 1, 2, 1, 4, 5], far=int(far * length))
        followed = props.shape(
            [names[8], self.id, names[9]], [None, 0, 1], far=int(0.4 * 31_500_000)
        )
        self.sights = [
            props.sight("led", length, Role.LEADER, replace(led, more=3)),
            props.sight("followed", 31_500_000, Role.FOLLOWER, followed),
        ]

    async def _look(self) -> Sequence[TreeView]:
        self.looks += 1
        return self.sights or ()

    def measured(self) -> None:
        """Let an image have been measured, of which one layer is nowhere."""
        giver = self.peers[1].id
        self.measurer.latest = Measurement(
            reference=sorted(self.tags)[12],
            at=NOW - 40,
            parts=[
                props.part("manifest", 1_180, ContentSource.PEER, giver, 0.0031),
                props.part("blob", 3_420, ContentSource.PEER, giver, 0.0044),
                props.part("blob", 31_200_000, ContentSource.LOCAL, None, 0.021),
                props.part("blob", 88_400_000, ContentSource.PEER, self.peers[6].id, 0.41),
                props.part("blob", 12_900_000, ContentSource.NONE, None, 0.002),
            ],
            seconds=0.438,
            is_over=True,
        )

    def _fill(self, count: int) -> None:
        """Hold so many images, each of which some peers have too."""
        for number in range(count):
            team, app = TEAMS[number % len(TEAMS)], APPS[number // len(TEAMS) % len(APPS)]
            name = f"registry.example/{team}/{app}:{1 + number // 72}.{number % 9}.{number % 5}"
            manifest = self._manifest(name)
            digest = self.store.add(manifest, name)
            self.tags[name] = NOW - 60 * number
            self.held |= {str(digest), *(str(child.digest) for child in children(manifest))}
            for peer in self.rng.sample(self.peers, self.rng.randrange(len(self.peers) + 1)):
                self.network.members[peer][str(digest)] = math.inf

    def _manifest(self, name: str) -> bytes:
        """Return the manifest of an image of a usual size, whose layers nobody will ask for."""
        sizes = [int(self.rng.lognormvariate(16.2, 1.2)) for _ in range(self.rng.randrange(2, 9))]
        layers = [
            props.descriptor(f"{name} {number}", OCI_LAYER_GZIP, size)
            for number, size in enumerate(sizes)
        ]
        config = props.descriptor(name, OCI_CONFIG, self.rng.randrange(1500, 9000))
        return json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
        ).encode()

    def _pull(self, name: str, at: float, wave: float) -> None:
        """Record what a pull of a layer came to."""
        request = props.request(name, f"{name} {self.rng.random()}")
        fate, size = self.rng.random(), int(self.rng.lognormvariate(16.2, 1.0))
        self.wall = at
        seconds = 0.004 + size / self.rng.uniform(60e6, 140e6) / wave
        with suppress(ManifestUnknown), self.pull_log.recording(request) as context:
            self.clock += seconds
            if fate < 0.045:
                context.local, context.lookup = LocalState.ABSENT, Lookup()
                raise ManifestUnknown("nobody has it")
            context.length = context.sent = size
            context.status = 200
            if fate < 0.27:
                context.local, context.source = LocalState.HELD, ContentSource.LOCAL
            else:
                self._give(context, size, seconds)
        self.metrics.server.sent(context.source, context.sent)
        self.metrics.server.sent(
            ContentSource.LOCAL, int(0.6 * context.sent)
        )  # and as much again to peers, nearly

    def _give(self, context: PullContext, size: int, seconds: float) -> None:
        peer = self.rng.choices(
            self.peers, [1 / (1 + number) for number in range(len(self.peers))]
        )[0]
        context.local, context.source = LocalState.ABSENT, ContentSource.PEER
        context.lookup = Lookup(found=3, first=0.0004)
        context.attempts = [props.attempt(peer, size, seconds * 1000)]
        if self.rng.random() < 0.03:
            context.attempts = [
                props.attempt(self.peers[7], 0, 50.0, AttemptOutcome.STALLED),
                *context.attempts,
            ]

    def _member(self, number: int, peer: Peer) -> Member:
        return Member(
            id=peer.id,
            address=peer.authority,
            agent="spegel-py/0.1.0",
            keys=4200 + 137 * number,
            heard=1.7 + 0.2 * number if self.health[peer.id] is HealthState.HEALTHY else 7.4,
            skew=0.01 * (number - 4),
            peer=peer,
            interval=4.0,
        )

    def _peer_id(self) -> str:
        return "12D3KooW" + "".join(self.rng.choices(_LETTERS, k=44))
