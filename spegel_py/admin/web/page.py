"""The parts of the page, rendered at most once a second, and only while somebody views them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from spegel_py.admin.images import ImageListing
from spegel_py.admin.web import plots, traffic, trees, views
from spegel_py.admin.web.page_sources import PageSources
from spegel_py.admin.web.rendering import load, render
from spegel_py.admin.web.replica_rows import job_rows, replica_rows
from spegel_py.admin.web.traffic import TrafficRow
from spegel_py.admin.web.trees import TreeDrawing
from spegel_py.oci.distribution import PullClient
from spegel_py.telemetry.pull_record import PullContext, RecordQuery

PERIOD = 1.0
"""Seconds for which rendered parts are reused."""

WIDTH, BINS = 10.0, 60
"""Seconds of a bar in the plots, and number of bars: the last ten minutes."""

IMAGES, DECISIONS, HISTORY = 20, 12, 20
"""Images, pull records and earlier alerts on the page. Images and records have own pages too."""

LISTED = 50
"""Images on a page of images."""

FOUND = 100
"""Pull records that a search shows."""

BEGIN = "begin.html"
"""The template of the head of every page."""

PARTS = (
    "node",
    "figures",
    "peers",
    "traffic",
    "pulls",
    "in-flight",
    "alerts",
    "images",
    "replicas",
    "decisions",
    "measure",
)
"""The parts that are replaced while somebody views the page; each is the name of a template."""

SECTIONS = tuple(
    (f"#{name}", name.replace("-", " ").capitalize())
    for name in PARTS
    if name not in ("node", "figures")
)
"""Links to the parts of the page that have a heading."""


class Page:
    """Renders the page from its `sources`.

    `clock` is monotonic, `now` Unix time, both in seconds.
    """

    def __init__(
        self,
        *,
        sources: PageSources,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sources = sources
        self._clock = clock
        self._now = now
        self._lock = asyncio.Lock()
        self._parts: Mapping[str, str] = {}
        self._made = -PERIOD
        self._rows: Sequence[TrafficRow] = ()
        self._seen = -1
        self._is_loaded = False

    def __repr__(self) -> str:
        return f"<Page of {len(self._rows)} records>"

    async def parts(self) -> Mapping[str, str]:
        """Return the HTML of each part by its name; the same object for all calls within PERIOD."""
        async with self._lock:
            await self._load()
            if self._clock() - self._made >= PERIOD or not self._parts:
                self._parts = await self._make()
                self._made = self._clock()
            return self._parts

    def forget(self) -> None:
        """Release the rendered parts, since nobody views the page any more."""
        self._parts, self._rows, self._seen = {}, (), -1

    async def pieces(self, *, reference: str = "", error: str = "") -> AsyncIterator[str]:
        """Yield the page, its head first, so that a browser can paint it early.

        `error` is the reason why `reference` was not measured.
        """
        await asyncio.to_thread(load, BEGIN)
        yield render(BEGIN, title="status", is_live=True, links=SECTIONS)
        yield render("page.html", parts=await self.parts(), reference=reference, error=error)

    async def whole(self, *, reference: str = "", error: str = "") -> str:
        """Return the whole page."""
        return "".join([piece async for piece in self.pieces(reference=reference, error=error)])

    async def decisions(self, key: str) -> str:
        """Return the page of the pull records that match, as `/debug/decisions` finds them."""
        await self._load()
        pull_log, query = self._sources.pull_log, RecordQuery.parse(key) if key else None
        found = pull_log.find(query, limit=FOUND)
        return render(
            "search.html",
            title="decisions",
            is_live=False,
            links=(("./", "Status"), ("images", "Images")),
            key=key,
            found=found,
            most=FOUND,
            kept=pull_log.kept,
        )

    async def images(self, part: str, number: int) -> str:
        """Return a page of the images with `part` in their names; pages count from 1."""
        await self._load()
        listing = await self._sources.images.list(
            part=part, offset=(number - 1) * LISTED, limit=LISTED
        )
        return render(
            "images-page.html",
            title="images",
            is_live=False,
            links=(("./", "Status"), ("decisions", "Decisions")),
            part=part,
            listing=listing,
            peers=len((await self._sources.state())["peers"]),
            number=number,
            pages=max(1, -(-listing.total // LISTED)),
        )

    async def _load(self) -> None:
        if not self._is_loaded:
            await asyncio.to_thread(load)
            self._is_loaded = True

    async def _make(self) -> Mapping[str, str]:
        sources, now = self._sources, self._now()
        state = await sources.state()
        listing, drawn = await asyncio.gather(sources.images.list(limit=IMAGES), self._trees(state))
        values = {
            **self._values(state, listing, now),
            "trees": drawn,
            "middle": trees.middle,
            "now": now,
        }
        return {name: render(f"{name}.html", **values) for name in PARTS}

    async def _trees(self, state: Mapping[str, Any]) -> Sequence[TreeDrawing] | None:
        """Return the trees of the digests in flight; None if in-flight sharing is off."""
        if self._sources.in_flight is None:
            return None
        addresses = {peer["id"]: peer["address"] for peer in state["peers"]}
        tree_views = await self._sources.in_flight()
        return [trees.tree(one, own=state["id"], addresses=addresses) for one in tree_views]

    def _values(
        self, state: Mapping[str, Any], listing: ImageListing, now: float
    ) -> dict[str, Any]:
        sources = self._sources
        replicas = sources.replicas()
        rows, under_way = self._read(), sources.pull_log.under_way
        by_peer = traffic.by_peer(rows)
        peers = views.peers(
            state["peers"],
            own=state["id"],
            traffic=by_peer,
            giving=views.addresses(sources.giving()),
        )
        bins = traffic.series([*rows, *_so_far(under_way, now)], now=now, width=WIDTH, count=BINS)
        pulls, names = state["pulls"], {peer.id: peer.address for peer in peers}
        return {
            "state": state,
            "listing": listing,
            "peers": peers,
            "zones": views.zone_bytes(state["peers"], own=state["zone"], traffic=by_peer),
            "names": names,
            "given": max(0, sources.sent() - _sent_to_clients(pulls)),
            "pulls": views.pulls(under_way, addresses=names, now=now),
            "throughput": plots.throughput(bins, width=WIDTH),
            "hit_rates": plots.hit_rates(bins),
            "total": views.total(bins),
            "minutes": views.minutes(bins, each=int(60 / WIDTH)),
            "reaches": self._reach(now),
            "decisions": sources.pull_log.find(None, limit=DECISIONS),
            "kept": sources.pull_log.kept,
            "history": {name: entries[:HISTORY] for name, entries in sources.history().items()},
            "measurement": sources.measurer.latest,
            "replicas": replicas,
            "replica_rows": replica_rows(replicas),
            "job_rows": job_rows(sources.jobs()),
        }

    def _read(self) -> Sequence[TrafficRow]:
        """Return the rows of the records, read again only if there are new records."""
        pull_log = self._sources.pull_log
        if self._seen != pull_log.added:
            self._rows = [
                TrafficRow.of(record) for record in pull_log.find(None, limit=pull_log.kept)
            ]
            self._seen = pull_log.added
        return self._rows

    def _reach(self, now: float) -> float | None:
        """Return the time of the oldest record, if the plots reach further back."""
        pull_log = self._sources.pull_log
        if (
            pull_log.added == pull_log.kept
            or not self._rows
            or self._rows[-1].at < now - WIDTH * BINS
        ):
            return None
        return self._rows[-1].at


def _sent_to_clients(pulls: Mapping[str, Any]) -> int:
    """Return the bytes that clients of this node got; all others went to peers."""
    return int(sum(pulls["bytes"].values()) + pulls["measured"]["bytes"])


def _so_far(under_way: Sequence[PullContext], now: float) -> list[TrafficRow]:
    """Return rows of the clients' open requests that have an answer."""
    return [
        TrafficRow(
            at=one.at,
            seconds=max(0.0, now - one.at),
            source=one.source,
            origin=one.source,
            bytes=one.progress(),
            is_measured=one.pull.client is not PullClient.RUNTIME,
        )
        for one in under_way
        if one.is_answered and not one.pull.mirrored
    ]
