"""The page as it is rendered: whole with nothing and with much, strangers' text escaped, made once
for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from structlog.testing import capture_logs

from spegel_py.admin.measurement import Measurement
from spegel_py.admin.web.page import PARTS, PERIOD, Page, _so_far
from spegel_py.health.peer_health import HealthState
from spegel_py.inflight.messages import Role, TreeNode, TreeSnapshot
from spegel_py.outcomes import ContentSource
from spegel_py.tools.human import short_digest as short
from tests.browser import props
from tests.browser.stage import NOW, Stage

VOID = {"meta", "link", "img", "input", "br"}
FOREIGN = {"circle", "line", "path", "rect"}


class Outline(HTMLParser):
    """Checks that every element ends, and keeps texts and what is numbered among the attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | FOREIGN, tag
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


def page_of(stage: Stage) -> Page:
    page = stage.page()
    return page._page


@pytest.fixture
def busy() -> Stage:
    stage = Stage(images=60)
    stage.live_through(minutes=3)
    stage.worry()
    stage.measured()
    return stage


async def test_a_node_with_nothing_has_a_whole_page() -> None:
    """Without peers, images and requests it says so, in HTML whose elements all end."""
    outline = Outline(await page_of(Stage(peers=0, images=0)).whole())
    assert outline.open == []
    for text in (
        "This node has no peers: right for a single node.",
        "This node shares no image yet.",
        "No client has asked this node for anything since it started.",
        "Nothing is being pulled through this node now.",
        "Nothing is wrong that this node knows of.",
    ):
        assert text in outline.text


async def test_a_busy_node_shows_all_of_it(busy: Stage) -> None:
    """Peers with health, alerts, images with whereabouts, decisions, and what was measured; each id
    once.
    """
    with busy.pulling():
        outline = Outline(await page_of(busy).whole())
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {f"part-{name}" for name in PARTS} <= set(outline.ids)
    for peer in busy.peers:
        assert peer.authority in outline.text
    for text in (
        "✕ unhealthy",
        "? suspected",
        "peer-lost",
        "The first 20 of 60 images",
        "1 part left to the registry",
    ):
        assert text in outline.text
    assert "72.4 MB of 118.0 MB" in outline.text
    assert f"from {busy.peers[1].authority}" in outline.text
    assert "from here, to a peer" in outline.text


async def test_a_request_without_an_answer_is_not_in_the_plots(busy: Stage) -> None:
    """Nobody knows yet where it will be answered from, so it counts as neither hit nor miss."""

    def requests(page: Page) -> int:
        rows = _so_far(busy.pull_log.under_way, NOW)
        return len([*page._read(), *rows])

    page = page_of(busy)
    before = requests(page)
    with busy.pull_log.recording(props.request("r.io/app:1", "asked")) as context:
        assert requests(page) == before
        context.source, context.length = ContentSource.PEER, 10
        assert requests(page) == before + 1


async def test_what_is_in_flight_is_drawn(busy: Stage) -> None:
    """Each digest with its nodes by their addresses, this one marked, who takes it from whom, and
    how far each is.
    """
    busy.share()
    assert busy.sights
    led, followed = busy.sights
    outline = Outline(await page_of(busy).whole())
    assert outline.open == []
    names = {
        place.node: peer.authority
        for place in led.snapshot.places
        for peer in busy.peers
        if peer.id == place.node
    }
    for name in names.values():
        assert name in outline.text
    assert f"{short(str(led.digest))} 118.0 MB, fetched by this node" in outline.text
    assert "this node fetches it 73.2 MB" in outline.text
    assert "And 3 nodes that are not drawn." in outline.text
    assert f"this node from {busy.peers[7].authority} 9.6 MB" in outline.text
    assert f"{short(str(followed.digest))} 31.5 MB, taken from another node" in outline.text


async def test_where_the_coordinator_does_not_tell_it_is_said(busy: Stage) -> None:
    """What this node knows itself is shown: also that it is one of those that are left out."""
    giver = busy.peers[0]
    places = (TreeNode(giver.id, None, None, 0), TreeNode(busy.id, 0, Role.FOLLOWER, 5_000_000))
    alone = props.sight("x", None, Role.FOLLOWER, TreeSnapshot(places), is_told=False)
    many = props.sight(
        "y", 100, Role.FOLLOWER, TreeSnapshot((TreeNode(giver.id, None, Role.LEADER, 50),), 40)
    )
    busy.sights = [alone, many]
    text = Outline(await page_of(busy).whole()).text
    assert "of unknown length, taken from another node" in text
    assert (
        f"{giver.authority} not known here how far this node from {giver.authority} 5.0 MB" in text
    )
    assert "this is what this node knows itself" in text
    assert "And 40 nodes that are not drawn, this one among them." in text


async def test_without_sharing_it_is_said_how_to_switch_it_on(busy: Stage) -> None:
    """And with it that nothing is in flight."""
    assert "--share-in-flight true" in Outline(await page_of(busy).whole()).text
    busy.sights = []
    text = Outline(await page_of(busy).whole()).text
    assert "Nothing that this node pulls is shared now." in text
    assert "--share-in-flight" not in text


async def test_coordinators_are_asked_once_a_period_and_only_for_who_looks(busy: Stage) -> None:
    """However many look within it; a page that is not made asks nobody."""
    busy.share()
    now = [100.0]
    page = Page(sources=busy.sources(), clock=lambda: now[0], now=lambda: busy.wall)
    assert busy.looks == 0
    for _ in range(3):
        await page.parts()
    assert busy.looks == 1
    now[0] += PERIOD
    await page.parts()
    assert busy.looks == 2


async def test_what_strangers_write_is_text(busy: Stage) -> None:
    """Agents, references that were searched for or to be measured, and details of alerts come from
    elsewhere.
    """
    evil = '"><script>alert(1)</script>'
    busy.alerts[0] |= {"detail": evil, "subject": evil}
    busy.measurer.latest = Measurement(reference=evil, at=NOW)
    page = page_of(busy)
    for html in (
        await page.whole(reference=evil, error=evil),
        await page.decisions(evil),
        await page.images(evil, 1),
    ):
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1)" in html


async def test_nothing_is_inline_and_nothing_is_from_elsewhere(busy: Stage) -> None:
    """No style, no handler, no address with a host: the policy would forbid it, and it would not
    work air-gapped.
    """
    page = page_of(busy)
    for html in (await page.whole(), await page.decisions("web"), await page.images("web", 1)):
        outline = Outline(html)
        names = {name for name, _ in outline.attributes}
        assert not {name for name in names if name == "style" or name.startswith("on")}
        targets = [
            value
            for name, value in outline.attributes
            if name in ("href", "src", "action") and value
        ]
        assert targets
        assert not [target for target in targets if ":" in target or target.startswith("/")]


async def test_decisions_are_searched(busy: Stage) -> None:
    """By a part of a reference; what is not there is said, with how many requests were looked
    through.
    """
    page = page_of(busy)
    found = Outline(await page.decisions("registry.example/web")).text
    assert "registry.example/web" in found
    assert "registry.example/mail" not in found
    missing = Outline(await page.decisions("registry.example/nothing")).text
    assert f"among its last {busy.pull_log.kept} requests" in missing


async def test_images_are_searched_and_paged(busy: Stage) -> None:
    """Fifty on a page, and a page behind the last one is empty, not wrong."""
    page = page_of(busy)
    assert "1 to 50 of 60 images" in Outline(await page.images("", 1)).text
    assert "51 to 60 of 60 images" in Outline(await page.images("", 2)).text
    assert "No image here has nothing in its name." in Outline(await page.images("nothing", 1)).text
    assert Outline(await page.images("", 3)).open == []


async def test_a_store_that_is_away_is_said(busy: Stage) -> None:
    """The rest of the page is there."""
    busy.store.leave()
    text = Outline(await page_of(busy).whole()).text
    assert "the memory store is away" in text
    assert busy.peers[0].authority in text


async def test_the_parts_are_made_once_a_period_for_all(busy: Stage) -> None:
    """Within it all who look get the same; after it a new look is taken."""
    now = [100.0]
    page = Page(sources=busy.sources(), clock=lambda: now[0], now=lambda: busy.wall)
    first = await page.parts()
    busy.health[busy.peers[0].id] = HealthState.UNHEALTHY
    now[0] += PERIOD / 2
    assert await page.parts() is first
    now[0] += PERIOD / 2
    second = await page.parts()
    assert second["peers"] != first["peers"]
    assert second["measure"] == first["measure"]


async def test_where_records_were_dropped_it_is_said_since_when_all_are_kept(busy: Stage) -> None:
    """The plots then show too little before that."""
    assert "All requests are recorded since" not in await page_of(busy).whole()
    busy.pull_log._limit = 20
    busy.live_through(minutes=0.2)
    assert "All requests are recorded since" in Outline(await page_of(busy).whole()).text


async def test_replicas_are_shown_with_their_targets_and_zones(busy: Stage) -> None:
    """Images with too few replicas come first, then those that are pulled most."""
    busy.replicas = props.NO_REPLICAS | {
        "floor": 2,
        "ceiling": 4,
        "images": [
            props.replica("registry.example/calm:1"),
            props.replica("registry.example/hot:1", target=4, replicas=4, heat=20.0, reason="heat"),
            props.replica(
                "registry.example/low:1",
                replicas=1,
                replica=False,
                zones=["eu-1a"],
                kept_since=None,
                reason=None,
            ),
            props.replica("registry.example/<left>:1", selected=False, zones=[]),
        ],
        "taking": [
            {
                "manifest": "sha256:1",
                "names": ["registry.example/new:1"],
                "reason": "floor",
                "peer": "x",
                "offset": 1_000_000,
                "total": 4_000_000,
            }
        ],
    }
    part = Outline((await page_of(busy).parts())["replicas"]).text
    names = ["low:1", "hot:1", "<left>:1", "calm:1"]
    places = [part.index(name) for name in names]
    assert places == sorted(places)
    assert "The floor is 2, the ceiling 4." in part
    assert "1 of 2" in part
    assert "4 of 4 eu-1a, eu-1b 3 20.0 for heat, since 2026-09-21 14:13 UTC" in part
    assert "not selected – 3" in part
    assert "registry.example/new:1 is being taken for floor: 1.0 MB of 4.0 MB" in part


async def test_a_node_that_drains_and_its_jobs_are_shown(busy: Stage) -> None:
    busy.draining = {"disk": "the disk has I/O errors"}
    busy.jobs = [
        {
            "id": "c0ffee00",
            "state": "running",
            "created": NOW - 60,
            "ended": None,
            "evacuation": True,
            "request": {"images": ["registry.example/a:1", "registry.example/b:1"]},
            "images": [{"nodes": {"x": {"state": "done"}, "y": {"state": "taking"}}}],
        }
    ]
    part = Outline((await page_of(busy).parts())["replicas"]).text
    assert "draining, disk : the disk has I/O errors" in part
    assert "keeps no replicas" in part
    assert "c0ffee00 registry.example/a:1 +1 evacuation, running 1 of 2" in part
