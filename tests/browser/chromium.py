"""A headless Chromium, and what it was asked for and complained of while a page was open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT  # type: ignore[import-untyped]
from playwright.async_api import Browser, Page, async_playwright

EXECUTABLE = "/usr/bin/chromium"

DESKTOP, PHONE = (1280, 900), (390, 844)
"""Widths and heights of screens."""


@dataclass(slots=True)
class Look:
    """A page that is looked at, with the addresses it asked for, and what it said on its console or
    broke with.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def faults(self, within: str = "html") -> list[str]:
        """Return what axe-core finds of serious and critical faults, as `rule: element`."""
        await self.page.evaluate(AXE_SCRIPT)
        found: Mapping[str, Any] = await self.page.evaluate(
            "(within) => axe.run(within, { resultTypes: ['violations'] })", within
        )
        return [
            f"{fault['id']}: {node['html'][:160]} {node.get('failureSummary', '')}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    async def overflow(self) -> int:
        """Return by how many pixels the page is wider than the screen."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a browser while the block lasts."""
    async with async_playwright() as playwright:
        # a sandbox of its own cannot be made as root, nor in a container
        browser = await playwright.chromium.launch(
            executable_path=EXECUTABLE, args=["--no-sandbox"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def look(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: str = "light",
    has_script: bool = True,
    scale: float = 1.0,
) -> AsyncIterator[Look]:
    """Open a page in a fresh profile while the block lasts."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=has_script,
        device_scale_factor=scale,
        bypass_csp=False,
    )
    try:
        page = await context.new_page()
        seen = Look(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on(
            "console", lambda message: seen.complaints.append(f"{message.type}: {message.text}")
        )
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        await page.goto(url, wait_until="load")
        yield seen
    finally:
        await context.close()
