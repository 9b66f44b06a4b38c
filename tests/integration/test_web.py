"""The status page of a real node in a real Chromium: what it asks for, shows, and tells of while it
is looked at.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from spegel_py.oci.build import Image
from spegel_py.pull import BytesFetched, OnProgress, PullEvent, pull
from spegel_py.store.layout import LayoutWriter
from tests.benchmarks import nodes
from tests.benchmarks.nodes import Node
from tests.browser.chromium import DESKTOP, PHONE, chromium, look
from tests.browser.stage import Stage
from tests.support.images import image
from tests.support.routers import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELD = {
    f"registry.test/web/app{number}:1": image(f"web/{number}", layers=2, size=40_000)
    for number in range(4)
}
SHARED = "registry.test/web/shared:1"
CONTENT: list[dict[str, Image]] = [
    HELD | {SHARED: image("web/shared", layers=1, size=40_000_000)},
    {},
]
"""What the nodes hold; one layer is far larger than what kernels buffer, so that it is under way
until it is read.
"""

expect.set_options(
    timeout=15_000
)  # milliseconds; news come every second, but the machine may be busy


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair() -> AsyncIterator[list[Node]]:
    """A node that holds images, and one that has none."""
    async with nodes.cluster(CONTENT) as pair:
        await nodes.told(pair, nodes.records(CONTENT[0]))
        yield pair


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


def address(node: Node) -> str:
    return f"http://127.0.0.1:{node.metrics}/debug/web/"


def connections(node: Node) -> int:
    """Return how many connections there are to the node's metrics port."""
    return sum(
        each.laddr.port == node.metrics and each.status == psutil.CONN_ESTABLISHED
        for each in psutil.Process(node.pid).net_connections("tcp")
    )


async def into_layout(node: Node, reference: str, *, on_progress: OnProgress) -> None:
    """Pull an image through a node's mirror into its own layout, as a runtime would."""
    root = node.process.log.parent / "layout"
    writer = LayoutWriter(root=root, is_durable=False)
    await pull(
        reference,
        mirror=f"http://127.0.0.1:{node.registry}",
        writer=writer,
        platform=None,
        on_progress=on_progress,
    )


async def test_a_pull_shows_while_somebody_looks(pair: list[Node], browser: Browser) -> None:
    """Without a reload: the body on its way with its bar, then the image, the decision and the
    figures.

    All that the page asks for is the node's own; nothing is complained of; afterwards no stream is
    left.
    """
    _, puller = pair
    blocked = asyncio.Event()
    async with look(browser, address(puller)) as seen, asyncio.TaskGroup() as pulling:
        page = seen.page
        await expect(page.locator("#live")).to_have_text("live")
        await expect(page.locator("#images")).to_contain_text("This node shares no image yet")
        await expect(page.locator("#peers tbody tr")).to_have_count(1)
        assert connections(puller) > 0
        await page.evaluate("window.isSame = true")
        pulling.create_task(into_layout(puller, SHARED, on_progress=_held_back_by(blocked)))
        await expect(page.locator("#pulls progress").first).to_be_visible()
        await expect(page.locator("#pulls")).to_contain_text(f"from 127.0.0.1:{pair[0].registry}")
        blocked.set()
        await expect(page.locator("#images tbody th").first).to_contain_text(SHARED)
        await expect(page.locator("#pulls")).to_contain_text("Nothing is being pulled")
        await expect(page.locator("#images tbody td").last).to_contain_text("1 of 1")
        await expect(page.locator("#decisions .records li").first).to_contain_text(
            "hit, from a peer"
        )
        await expect(page.locator(".figures")).to_contain_text("100%")
        await expect(page.locator("#traffic figure").first.locator("path.peer")).to_be_attached()
        assert await page.evaluate("window.isSame")
        assert {urlsplit(url).netloc for url in seen.requests} == {f"127.0.0.1:{puller.metrics}"}
        assert seen.complaints == []
    await until(lambda: connections(puller) == 0)


def _held_back_by(event: asyncio.Event) -> OnProgress:
    """Return what holds a pull back, from the first bytes of a large blob on, until the event is
    set.
    """

    async def hear(news: PullEvent) -> None:
        if isinstance(news, BytesFetched) and news.blob.size > 1_000_000:
            await event.wait()

    return hear


async def test_news_moves_neither_the_focus_nor_what_was_opened(
    pair: list[Node], browser: Browser
) -> None:
    """A decision that was opened stays so, with the focus on it, while new ones come above; so does
    what is typed.
    """
    _, puller = pair
    await _ask(puller, "registry.test/web/first:1")
    async with look(browser, address(puller)) as seen:
        page = seen.page
        await expect(page.locator("#live")).to_have_text("live")
        first = page.locator("#decisions .records li", has_text="web/first")
        await first.locator("summary").focus()
        await page.keyboard.press("Enter")
        await page.locator("#image").fill("registry.test/half-typ")
        await first.locator("summary").focus()
        await _ask(puller, "registry.test/web/second:1")
        await expect(page.locator("#decisions .records li").first).to_contain_text("web/second")
        assert await first.locator("details").get_attribute("open") is not None
        assert await page.evaluate("document.activeElement.textContent.includes('web/first')")
        await expect(page.locator("#image")).to_have_value("registry.test/half-typ")


async def test_a_pause_is_kept(pair: list[Node], browser: Browser) -> None:
    """Nothing is asked for meanwhile; afterwards the page is brought up to date."""
    _, puller = pair
    async with look(browser, address(puller)) as seen:
        page = seen.page
        await expect(page.locator("#live")).to_have_text("live")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("#live")).to_have_text("paused")
        streams = sum(url.endswith("events") for url in seen.requests)
        await _ask(puller, "registry.test/web/unseen:1")
        await expect(page.locator("#decisions")).not_to_contain_text("web/unseen")
        await page.get_by_role("button", name="Go on").click()
        await expect(page.locator("#decisions")).to_contain_text("web/unseen")
        assert sum(url.endswith("events") for url in seen.requests) == streams + 1


async def test_all_of_it_works_by_keyboard_and_without_script(
    pair: list[Node], browser: Browser
) -> None:
    """The skip link leads to the content; an image is measured, searched and found, from one field
    to the next.
    """
    _, puller = pair
    async with look(browser, address(puller), has_script=False) as seen:
        page = seen.page
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        assert page.url.endswith("#main")
        await _tab_to(page, "image")
        await page.keyboard.type("registry.test/web/app2:1")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/debug/web/#measure")
        await _reload_until(page, "whole")
        await expect(page.locator("#measure")).to_contain_text("from peers, 0 B from here")
        await _tab_to(page, "key")
        await page.keyboard.type("web/app2")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/decisions?key=web%2Fapp2")
        await expect(page.locator(".records li").first).to_contain_text("registry.test/web/app2")
        await page.go_back()
        await _tab_to(page, "image")
        await page.keyboard.type("no reference")
        await page.keyboard.press("Enter")
        await expect(page.locator("#measure-error")).to_contain_text("name the registry")
        await expect(page.locator("#image")).to_have_value("no reference")


async def _tab_to(page: Page, name: str) -> None:
    """Press Tab until the field of this id has the focus."""
    for _ in range(120):
        if await page.evaluate("document.activeElement.id") == name:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"#{name} is not reached by the keyboard")


async def _reload_until(page: Page, text: str) -> None:
    async def is_there() -> bool:
        await page.reload()
        return text in (await page.locator("#part-measure").text_content() or "")

    await until(is_there)


async def _ask(node: Node, reference: str) -> None:
    """Ask for an image that nobody has."""
    name, _, tag = reference.removeprefix("registry.test/").partition(":")
    url = f"http://127.0.0.1:{node.registry}/v2/{name}/manifests/{tag}?ns=registry.test"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 404


async def test_a_tree_grows_while_somebody_looks(browser: Browser) -> None:
    """One node after the other appears below the one that feeds it, as high as its text, and the
    bars get longer.
    """
    stage = Stage(images=0)
    stage.sights = []
    async with stage.open() as url, look(browser, url) as seen:
        section = seen.page.locator("#in-flight")
        await expect(section).to_contain_text("Nothing that this node pulls is shared now")
        stage.share(far=0.5)
        tree = section.get_by_role("list", name=re.compile("^Who takes")).first
        await expect(tree.get_by_role("listitem")).to_have_count(7)
        first = tree.get_by_role("listitem").first
        await expect(first).to_have_text(re.compile(r"this node\s+fetches it\s+59\.0 MB"))
        await expect(first.get_by_role("progressbar")).to_have_attribute("value", "0.500")
        box = await first.bounding_box()
        assert box is not None
        assert box["height"] < 40
        stage.share(far=1.0)
        await expect(first.get_by_role("progressbar")).to_have_attribute("value", "1.000")
        stage.sights = []
        await expect(section).to_contain_text("Nothing that this node pulls is shared now")
        assert seen.complaints == []


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def busy() -> AsyncIterator[str]:
    """The address of a page with much on it."""
    stage = Stage()
    stage.live_through()
    stage.worry()
    stage.measured()
    stage.share()
    with stage.pulling():
        async with stage.open() as url:
            yield url


LOOKS = {
    "desktop": ("", DESKTOP, "light"),
    "desktop, dark": ("", DESKTOP, "dark"),
    "phone": ("", PHONE, "light"),
    "decisions": ("decisions?key=registry.example/web/api", PHONE, "dark"),
    "images": ("images?part=web&page=2", PHONE, "dark"),
}


@pytest.mark.parametrize(("path", "size", "scheme"), LOOKS.values(), ids=LOOKS)
async def test_everybody_can_use_it(
    browser: Browser, busy: str, path: str, size: tuple[int, int], scheme: str
) -> None:
    """axe-core finds no serious fault, with all details open, and nothing is wider than the
    screen.
    """
    async with look(browser, busy + path, size=size, scheme=scheme) as seen:
        await seen.page.evaluate(
            "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
        )
        assert await seen.faults() == []
        assert await seen.overflow() <= 0
        assert seen.complaints == []


async def test_a_fault_would_be_found(browser: Browser, busy: str) -> None:
    """axe-core does run under the page's policy, and the console is heard: an image without a text,
    a script inline.
    """
    async with look(browser, busy) as seen:
        await seen.page.evaluate(
            "document.querySelector('footer').insertAdjacentHTML('beforeend', '<img "
            "src=icon.svg><p onclick=alert(1)>')"
        )
        assert any(fault.startswith("image-alt") for fault in await seen.faults("footer"))
        assert any("Content Security Policy" in text for text in seen.complaints)


async def test_the_page_ends_with_its_node(browser: Browser) -> None:
    """SIGTERM ends a node in time though somebody looks; the page says that it does not answer."""
    async with nodes.cluster([HELD]) as [node]:
        async with look(browser, address(node)) as seen:
            await expect(seen.page.locator("#live")).to_have_text("live")
            await node.process.end(deadline=9.0)
            await expect(seen.page.locator("#live")).to_have_text(re.compile("does not answer"))
        assert '"event": "stopped"' in node.process.output


async def test_the_setting_switches_it_off(pair: list[Node]) -> None:
    """Then there is no page, and nobody measures; the rest of the port is there."""
    async with (
        nodes.cluster([{}], flags={"debug-web-enabled": "false"}) as [node],
        aiohttp.ClientSession() as session,
    ):
        base = f"http://127.0.0.1:{node.metrics}"
        async with session.get(f"{base}/debug/web/") as response:
            assert response.status == 404
        async with session.post(f"{base}/debug/measure?image=registry.test/web/app1:1") as response:
            assert response.status == 403
        async with session.get(f"{base}/debug/images") as response:
            assert json.loads(await response.text())["total"] == 0


async def test_a_name_that_is_not_the_nodes_shows_nothing(pair: list[Node]) -> None:
    """A page that made its own name lead here reads nothing but the metrics."""
    other, own = {"Host": "other.example"}, {"Host": socket.gethostname()}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{pair[0].metrics}") as session:
        for path, headers, status in (
            ("/debug/web/", other, 403),
            ("/debug/state", other, 403),
            ("/metrics", other, 200),
            ("/debug/state", own, 200),
        ):
            async with session.get(path, headers=headers) as response:
                assert (path, response.status) == (path, status)
