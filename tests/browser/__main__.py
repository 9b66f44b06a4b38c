"""Takes the pictures of the status page that the documentation shows:
`python -m tests.browser [FOLDER]`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from structlog.testing import capture_logs

from tests.browser.chromium import PHONE, chromium, look
from tests.browser.stage import Stage

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"

PICTURES = (
    ("status-page-light.png", (1080, 850), "light"),
    ("status-page-dark.png", (1080, 850), "dark"),
    ("status-page-phone.png", PHONE, "light"),
)


async def take(folder: Path) -> None:
    """Write the pictures into a folder."""
    stage = Stage()
    with capture_logs():
        stage.live_through()
        stage.worry()
        stage.measured()
        stage.share()
        with stage.pulling():
            async with stage.open() as url, chromium() as browser:
                for name, size, scheme in PICTURES:
                    async with look(browser, url, size=size, scheme=scheme) as seen:
                        await seen.page.get_by_text("live", exact=True).wait_for()
                        await seen.page.screenshot(path=folder / name)
                async with look(browser, url) as seen:
                    await seen.page.locator("#in-flight").screenshot(
                        path=folder / "status-page-in-flight.png"
                    )


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
